//! What runs while this host is a member: gossip, links, the key ring, and a manager's door.
//!
//! Everything here follows from what is kept and from what gossip says, looked at again whenever either changes and
//! now and then besides: so it makes no difference in which order news come, nor whether one was missed.
//!
//! | task | looks after |
//! |---|---|
//! | `answer` | what other members ask |
//! | `watch` | what follows from records at once: who is removed, where managers are, what we say of ourselves |
//! | [`super::rotation`] | the key ring: rotation, handing on, catching up |
//! | [`super::rights`] | role, certificate and tokens: what a manager has to be asked for |
//! | [`super::door`] | nodes that want to join, on a manager |

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::credentials::{ManagerPlace, Member, Shared};
use super::gossip_parts::{LargeTransfers, ManagersSignatures, Memory, OwnSignature};
use super::keys::{Keys, KeysError};
use super::links::Links;
use super::records::{
    CLUSTER, ClusterSettings, MemberRecord, NetworkRecord, NodeRecord, Presence, Removed, RevokedSerial,
    SELF, TokenState, gossip_id, node_id,
};
use super::{address, answer, data, door, rights, rotation};
use crate::crypto::ca::Serial;
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::peer::Revoked;
use crate::crypto::tls::Revocations;
use crate::gossip::engine::{Authority, Event, Settings as GossipSettings};
use crate::gossip::{Gossip, Parts, Peer, PeerStatus, Record, SetError, StartError as GossipError, TableId};
use crate::overlay::Overlay;
use crate::state::{StateDir, StateError};

/// UDP and TCP port of gossip, if nothing else is said.
pub(super) const GOSSIP_PORT: u16 = 7946;
/// UDP port of data, if nothing else is said.
pub(super) const DATA_PORT: u16 = 4789;

const LIFE: &str = "life";
/// How often it is looked whether this host's address has changed.
const ADDRESS_CHECK: Duration = Duration::from_secs(3);

/// Why a member does not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// It is none.
    #[error("this node is in no cluster")]
    NoMember,
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its key ring.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The port of its links.
    #[error("can't listen at TCP {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// Its gossip.
    #[error("gossip: {0}")]
    Gossip(#[from] GossipError),
    /// There is no randomness.
    #[error("the system has no randomness")]
    Randomness,
}

/// A running member.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) state: Arc<StateDir>,
    pub(super) id: NodeId,
    pub(super) shared: Shared,
    pub(super) gossip: Gossip,
    pub(super) keys: Arc<Keys>,
    pub(super) links: Links,
    revoked: Revocations,
    /// What [`super::rights`] looks at may have changed.
    pub(super) rights_changed: Notify,
    /// What [`super::rotation`] looks at may have changed.
    pub(super) ring_changed: Notify,
    /// What [`super::data`] looks at may have changed.
    pub(super) data_changed: Notify,
    /// The data plane, once it has been started; by whoever holds `starting`.
    pub(super) overlay: Mutex<Option<Arc<Overlay>>>,
    pub(super) starting: tokio::sync::Mutex<()>,
    /// Held by whoever makes a network, so that no two get the same name, number or addresses here.
    pub(super) creating: tokio::sync::Mutex<()>,
    /// The role that this node has at the moment.
    pub(super) role: watch::Sender<Role>,
    /// Others say that this node is no member any more.
    removed: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Cluster {
    /// Runs the member that is kept in `shared`. `door` is a socket for nodes that want to join, if it is open already.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub(super) async fn start(
        state: Arc<StateDir>,
        shared: Shared,
        door: Option<TcpListener>,
    ) -> Result<Arc<Self>, StartError> {
        let (id, root, role, me, listen, seeds) = {
            let member = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let member = member.as_ref().ok_or(StartError::NoMember)?;
            let listen = SocketAddr::new(member.settings.listen.ip(), member.settings.gossip_port);
            let seeds = member.settings.managers.iter().map(|manager| manager.gossip).collect();
            (member.id, member.root.clone(), member.role(), member.gossip(), listen, seeds)
        };
        let revoked: Revocations = Arc::new(ArcSwap::from_pointee(Revoked::default()));
        let keys = Arc::new(Keys::load(Arc::clone(&state), id, Arc::clone(&revoked))?);
        let links = Links::new(Arc::clone(&shared), Arc::clone(&revoked));
        let listener = TcpListener::bind(listen).await.map_err(|error| StartError::Listen(listen, error))?;
        let parts = Parts {
            sealing: Arc::clone(&keys) as _,
            bulk: Arc::new(LargeTransfers(links.clone())),
            store: Arc::new(Memory(Arc::clone(&state))),
            authority: Authority {
                signer: Arc::new(OwnSignature(Arc::clone(&shared))),
                verifier: Arc::new(ManagersSignatures(root)),
            },
        };
        let me = Peer { node: gossip_id(id), addr: me, life: next_life(&state)?, renewal: 0 };
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| StartError::Randomness)?;
        let settings = GossipSettings { me, seeds, random: u64::from_le_bytes(random) };
        let gossip = Gossip::start(listen, settings, parts).await?;
        let cluster = Arc::new(Self {
            state,
            id,
            shared,
            gossip,
            keys,
            links,
            revoked,
            rights_changed: Notify::new(),
            ring_changed: Notify::new(),
            data_changed: Notify::new(),
            overlay: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            creating: tokio::sync::Mutex::default(),
            role: watch::Sender::new(role),
            removed: AtomicBool::new(false),
            tasks: Mutex::default(),
        });
        // Before anybody is let in by a record of old.
        cluster.note_revocations();
        cluster.note_managers();
        cluster.say_who();
        cluster.run(listener, door);
        Ok(cluster)
    }

    /// Writes what a new cluster begins with.
    pub(super) async fn found(&self, settings: &ClusterSettings) -> Result<(), WriteError> {
        let name = self.member().as_ref().map(|member| member.settings.name.clone()).unwrap_or_default();
        let record = MemberRecord { name, role: Role::Manager.into(), joined_ms: now_ms() };
        self.write_tokens(&Role::ALL).await?;
        self.write(CLUSTER, settings).await?;
        self.write(&self.id.to_string(), &record).await
    }

    /// The same if the first attempt was cut short: nobody knows of this node yet, then.
    pub(super) async fn found_again(&self) {
        let alone = self.other_managers().is_empty() && *self.role.borrow() == Role::Manager;
        if alone
            && self.members().is_empty()
            && let Err(error) = self.found(&ClusterSettings::default()).await
        {
            error!("can't write the cluster's first records: {error}");
        }
    }

    fn run(self: &Arc<Self>, listener: TcpListener, door: Option<TcpListener>) {
        let this = || Arc::clone(self);
        let (events, answering) = (self.gossip.events(), this());
        let answering = async move {
            let links = answering.links.clone();
            links
                .serve(&listener, move |conversation| answer::answer(Arc::clone(&answering), conversation))
                .await;
        };
        let tasks = [
            tokio::spawn(answering),
            tokio::spawn(watch_events(this(), events)),
            tokio::spawn(rotation::keep(this())),
            tokio::spawn(rights::keep(this())),
            tokio::spawn(door::keep(this(), door)),
            tokio::spawn(data::keep(this())),
        ];
        tasks.iter().for_each(|task| self.watch_task(task.abort_handle()));
    }

    /// Ends a task with this.
    pub(super) fn watch_task(&self, task: AbortHandle) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Says farewell to the others, and ends.
    pub(super) async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.iter().for_each(AbortHandle::abort);
        // Its ports and TAPs are free again before anybody else wants them.
        drop(self.overlay.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.gossip.leave().await;
    }

    /// The member, which is there as long as this runs but for the moment of its end.
    pub(super) fn member(&self) -> MutexGuard<'_, Option<Member>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether others have said that this node is no member any more.
    pub(super) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// Somebody has said so.
    pub(super) fn note_removed(&self) {
        if !self.removed.swap(true, Ordering::Relaxed) {
            error!("this node was removed from its cluster: `vswitchd leave`, and join again to come back");
        }
    }

    /// The nodes that belong to the cluster, whether alive or not.
    pub(super) fn members(&self) -> Vec<(NodeId, MemberRecord)> {
        let records = self.gossip.list::<MemberRecord>().into_iter();
        records.filter_map(|(_, key, record)| Some((key.parse().ok()?, record))).collect()
    }

    /// What live nodes say of themselves, this one's among them.
    pub(super) fn nodes(&self) -> Vec<(NodeId, NodeRecord)> {
        let records = self.gossip.list::<NodeRecord>().into_iter();
        records.filter_map(|(owner, _, record)| Some((node_id(owner?), record))).collect()
    }

    /// Every other node that gossip knows.
    pub(super) fn peers(&self) -> Vec<(NodeId, PeerStatus)> {
        self.gossip.peers().into_iter().map(|peer| (node_id(peer.node), peer)).collect()
    }

    /// The other managers, live ones first; each with whether it is alive.
    pub(super) fn other_managers(&self) -> Vec<(NodeId, SocketAddr, bool)> {
        let known = self.member().as_ref().map(|member| member.settings.managers.clone()).unwrap_or_default();
        let alive: BTreeSet<NodeId> =
            self.peers().into_iter().filter(|(_, peer)| peer.alive).map(|(node, _)| node).collect();
        let mut managers: Vec<_> = known
            .iter()
            .filter_map(|manager| Some((manager.id()?, manager.gossip)))
            .filter(|&(node, _)| node != self.id && !self.revoked.load().has_node(node))
            .map(|(node, place)| (node, place, alive.contains(&node)))
            .collect();
        managers.sort_by_key(|&(node, _, alive)| (!alive, node));
        managers
    }

    /// The settings that hold for all.
    pub(super) fn settings(&self) -> ClusterSettings {
        let records = self.gossip.list::<ClusterSettings>().into_iter();
        records.map(|(_, _, settings)| settings).next().unwrap_or_default()
    }

    /// Writes a cluster record, and waits until it is kept.
    pub(super) async fn write<R: Record>(&self, key: &str, record: &R) -> Result<(), WriteError> {
        self.gossip.set(key, record)?;
        self.saved().await
    }

    /// Deletes one, and waits until that is kept.
    pub(super) async fn delete<R: Record>(&self, key: &str) -> Result<(), WriteError> {
        self.gossip.delete::<R>(key)?;
        self.saved().await
    }

    async fn saved(&self) -> Result<(), WriteError> {
        Ok(self.gossip.saved().await?)
    }

    /// This node has another role than before.
    pub(super) fn role_changed(self: &Arc<Self>) {
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            cluster.say_who();
            cluster.note_managers();
        });
    }

    /// Says who we are, if it is not what we have said.
    pub(super) fn say_who(&self) {
        let data = self.overlay().map_or_else(|| self.data_address(), |overlay| overlay.local());
        let record = {
            let member = self.member();
            let Some(member) = member.as_ref() else { return };
            let settings = &member.settings;
            NodeRecord {
                name: settings.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                role: member.role().into(),
                join: member
                    .authority
                    .as_ref()
                    .map(|_| SocketAddr::new(settings.advertise, settings.listen.port())),
                data,
            }
        };
        let said = self.nodes().into_iter().find(|&(node, _)| node == self.id);
        if said.is_none_or(|(_, said)| said != record)
            && let Err(error) = self.gossip.set(SELF, &record)
        {
            warn!("can't say who this node is: {error}");
        }
    }

    /// Refuses from now on whom managers have removed.
    pub(super) fn note_revocations(&self) {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let nodes = self.gossip.list::<Removed>().into_iter();
        let nodes: Vec<(NodeId, SystemTime)> =
            nodes.filter_map(|(_, key, removed)| Some((key.parse().ok()?, at(removed.until_ms)))).collect();
        let serials = self.gossip.list::<RevokedSerial>().into_iter();
        let serials: Vec<(Serial, SystemTime)> =
            serials.filter_map(|(_, key, revoked)| Some((serial(&key)?, at(revoked.until_ms)))).collect();
        let mut revoked = Revoked::default();
        let gone: Vec<NodeId> = nodes.iter().map(|&(node, _)| node).collect();
        if revoked.merge(nodes, serials).is_err() {
            error!("too many nodes have been removed to refuse them all: make a new cluster");
        }
        self.revoked.store(Arc::new(revoked));
        let known: BTreeSet<NodeId> = self.peers().into_iter().map(|(node, _)| node).collect();
        for node in gone {
            if node == self.id {
                self.note_removed();
            } else if known.contains(&node) {
                info!("{node} was removed from the cluster");
                self.gossip.forget(gossip_id(node));
            }
        }
    }

    /// Remembers where managers are, for the next start.
    fn note_managers(&self) {
        let wanted: BTreeSet<NodeId> = self
            .members()
            .into_iter()
            .filter(|(_, member)| Role::from(member.role) == Role::Manager)
            .map(|(node, _)| node)
            .collect();
        let places: Vec<(NodeId, SocketAddr)> =
            self.peers().into_iter().map(|(node, peer)| (node, peer.addr)).collect();
        let live = self.nodes().into_iter().filter_map(|(node, record)| {
            let gossip = places.iter().find(|(known, _)| *known == node)?.1;
            Some(ManagerPlace { node: node.to_string(), join: record.join?, gossip })
        });
        let live: Vec<ManagerPlace> = live.collect();
        let mut member = self.member();
        let Some(member) = member.as_mut() else { return };
        let before = member.settings.managers.clone();
        let managers = &mut member.settings.managers;
        managers.retain(|manager| {
            let is_manager = manager.id().is_some_and(|node| wanted.contains(&node));
            // Nothing is known yet in a node that has just joined.
            (wanted.is_empty() || is_manager) && live.iter().all(|live| live.node != manager.node)
        });
        managers.extend(live);
        managers.sort_by(|one, other| one.node.cmp(&other.node));
        managers.truncate(super::credentials::MANAGERS_MAX);
        if *managers != before
            && let Err(error) = member.store_settings(&self.state)
        {
            warn!("can't keep where the managers are: {error}");
        }
    }

    /// Follows this host's address, unless it was given by its number.
    fn follow_address(&self) {
        let follow = self.member().as_ref().and_then(|member| member.settings.follow.clone());
        let Some(follow) = follow else { return };
        let interface = Some(follow.as_str()).filter(|interface| !interface.is_empty());
        // Without an address there is nothing to tell anybody, nor anybody to tell.
        let Ok(interfaces) = address::interfaces() else { return };
        let Ok(address) = address::choose("--advertise-addr", interface, &interfaces) else { return };
        self.move_to(address);
    }

    fn move_to(&self, address: IpAddr) {
        let place = {
            let mut member = self.member();
            let Some(member) = member.as_mut().filter(|member| member.settings.advertise != address) else {
                return;
            };
            info!("this host's address is {address} now, no longer {}", member.settings.advertise);
            member.settings.advertise = address;
            if let Err(error) = member.store_settings(&self.state) {
                warn!("can't keep this host's address: {error}");
            }
            member.gossip()
        };
        self.gossip.readdress(place);
        self.say_who();
    }
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Gossip refused it.
    #[error(transparent)]
    Set(#[from] SetError),
    /// It could not be kept.
    #[error("can't keep it: {0}")]
    Save(#[from] std::io::Error),
}

/// Does what follows from records at once.
async fn watch_events(cluster: Arc<Cluster>, mut events: broadcast::Receiver<Event>) {
    let mut check = tokio::time::interval(ADDRESS_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = check.tick() => {
                cluster.follow_address();
                continue;
            }
        };
        match event {
            Ok(Event::Changed(changed)) => cluster.note_change(changed.table),
            Ok(Event::Up(peer)) => {
                info!("{} is up at {}", node_id(peer.node), peer.addr);
                cluster.ring_changed.notify_one();
                cluster.rights_changed.notify_one();
                cluster.data_changed.notify_one();
            }
            Ok(Event::Down { node, left }) => {
                cluster.data_changed.notify_one();
                info!("{} {}", node_id(node), if left { "has left" } else { "is down" });
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                TABLES.iter().for_each(|&table| cluster.note_change(table))
            }
            // Gossip lives as long as the cluster, which we hold.
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Whose changes matter here.
const TABLES: [TableId; 5] =
    [Removed::TABLE, MemberRecord::TABLE, NodeRecord::TABLE, ClusterSettings::TABLE, TokenState::TABLE];

impl Cluster {
    fn note_change(&self, table: TableId) {
        if table == Removed::TABLE || table == RevokedSerial::TABLE {
            self.note_revocations();
        } else if table == NodeRecord::TABLE || table == MemberRecord::TABLE {
            self.note_managers();
            self.rights_changed.notify_one();
            self.data_changed.notify_one();
        } else if table == ClusterSettings::TABLE {
            self.say_who();
            self.data_changed.notify_one();
        } else if table == NetworkRecord::TABLE || table == Presence::TABLE {
            self.data_changed.notify_one();
        } else if table == TokenState::TABLE {
            self.rights_changed.notify_one();
        }
    }
}

impl Default for ClusterSettings {
    /// Docker's.
    fn default() -> Self {
        Self { data_path_port: DATA_PORT, pools: vec![([10, 0, 0, 0].into(), 8)], pool_mask: 24 }
    }
}

/// A number that is larger than that of any start before, even if the clock has been set back.
fn next_life(state: &StateDir) -> Result<u64, StateError> {
    let last: u64 = state.load(LIFE)?.unwrap_or_default();
    let life = now_ms().max(last.saturating_add(1));
    state.store(LIFE, &life)?;
    Ok(life)
}

/// A certificate's number, as it is written in records.
fn serial(text: &str) -> Option<Serial> {
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(Serial::from_bytes(number.to_be_bytes()))
}

/// Removes what a member has kept here.
pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
    super::gossip_parts::forget(state)?;
    super::keys::forget(state)?;
    data::forget(state)?;
    state.remove(LIFE)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}
