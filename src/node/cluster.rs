//! What runs while this host is a member: gossip, links, the key ring, and a manager's door.
//!
//! Everything here follows from what is kept and from what gossip says, looked at again whenever either changes and
//! now and then besides: so it makes no difference in which order news come, nor whether one was missed.
//!
//! | task | looks after |
//! |---|---|
//! | [`super::answer`] | what other members ask |
//! | [`super::follow`] | what follows from records at once: who is removed, where managers are, what we say of ourselves |
//! | [`super::rotation`] | the key ring: rotation, handing on, catching up |
//! | [`super::rights`] | role, certificate and tokens: what a manager has to be asked for |
//! | [`super::addresses`] | what removed nodes held of networks' addresses |
//! | [`super::mesh`] | which ports of services are listened at, and who is behind them |
//! | [`super::door`] | nodes that want to join, on a manager |

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tracing::error;

use super::addresses::{Pools, SharesHeard};
use super::credentials::{Member, Shared};
use super::gossip_parts::{LargeTransfers, ManagersSignatures, Memory, OwnSignature};
use super::keys::{Keys, KeysError};
use super::links::Links;
use super::mesh::Dialer;
use super::records::{CLUSTER, ClusterSettings, MemberRecord, NodeRecord, gossip_id, node_id};
use super::{addresses, answer, data, door, follow, mesh, rights, rotation};
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::peer::Revoked;
use crate::crypto::tls::Revocations;
use crate::gateway::nat::descriptors;
use crate::gossip::engine::{Authority, Settings as GossipSettings};
use crate::gossip::{
    Comparison, Gossip, Parts, Peer, PeerStatus, Record, SetError, StartError as GossipError,
};
use crate::mesh::Mesh;
use crate::overlay::{Entrances, Overlay};
use crate::state::{StateDir, StateError};

/// UDP and TCP port of gossip, if nothing else is said.
pub(super) const GOSSIP_PORT: u16 = 7946;
/// UDP port of data, if nothing else is said.
pub(super) const DATA_PORT: u16 = 4789;

const LIFE: &str = "life";
/// How often it is looked whether a node that joins knows what the others know, of which nothing tells.
const SETTLE_CHECK: Duration = Duration::from_millis(10);

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

/// What a member is told by the host that it runs on.
#[derive(Clone, Debug, Default)]
pub(super) struct Host {
    /// Who is asked for names that no network has; none: this host's resolvers.
    pub(super) dns: Vec<SocketAddr>,
    /// Whether its operator lets it run tasks of services.
    pub(super) tasks: bool,
    /// Is told when the part of this node in services may be another.
    pub(super) services_changed: Arc<Notify>,
}

/// A running member.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) state: Arc<StateDir>,
    pub(super) id: NodeId,
    pub(super) shared: Shared,
    pub(super) host: Host,
    /// When it began to run.
    pub(super) started: Instant,
    pub(super) gossip: Gossip,
    pub(super) keys: Arc<Keys>,
    pub(super) links: Links,
    pub(super) revoked: Revocations,
    /// What [`super::rights`] looks at may have changed.
    pub(super) rights_changed: Notify,
    /// What [`super::rotation`] looks at may have changed.
    pub(super) ring_changed: Notify,
    /// What [`super::data`] looks at may have changed.
    pub(super) data_changed: Notify,
    /// The data plane, once it has been started; by whoever holds `starting`.
    pub(super) overlay: Mutex<Option<Arc<Overlay>>>,
    pub(super) starting: tokio::sync::Mutex<()>,
    /// Connections of clients to services.
    pub(super) mesh: Mesh,
    /// What [`super::mesh`] looks at may have changed.
    pub(super) mesh_changed: Notify,
    /// Held by whoever makes a network or a service, or removes a network: so that no two get the same name, number,
    /// addresses or port here, and none is taken away that is just about to be used.
    pub(super) creating: tokio::sync::Mutex<()>,
    /// This node's part of each network's addresses.
    pub(super) addresses: Pools,
    /// What others said of theirs last.
    pub(super) shares_heard: Mutex<SharesHeard>,
    /// Held by whoever asks another node for addresses: gifts come one after the other.
    pub(super) asking: tokio::sync::Mutex<()>,
    /// What [`super::addresses`] looks at may have changed.
    pub(super) addresses_changed: Notify,
    /// Whether endpoints of an earlier life are there again, or known to be gone.
    pub(super) restored: AtomicBool,
    /// The role that this node has at the moment.
    pub(super) role: watch::Sender<Role>,
    /// Others say that this node is no member any more.
    removed: AtomicBool,
    /// Connections that came to nothing, of strangers for the most part.
    pub(super) refused: Arc<AtomicU64>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Cluster {
    /// Runs the member that is kept in `shared`; `door` is a socket for nodes that want to join, if it is open already.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub(super) async fn start(
        state: Arc<StateDir>,
        shared: Shared,
        host: Host,
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
        let addresses = Pools::new(Arc::clone(&state), gossip_id(id));
        let mesh = Mesh::new(id, Arc::new(Dialer(links.clone())), descriptors(), Entrances::default());
        let cluster = Arc::new(Self {
            state,
            id,
            shared,
            host,
            started: Instant::now(),
            gossip,
            keys,
            links,
            revoked,
            rights_changed: Notify::new(),
            ring_changed: Notify::new(),
            data_changed: Notify::new(),
            overlay: Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            mesh,
            mesh_changed: Notify::new(),
            creating: tokio::sync::Mutex::default(),
            addresses,
            shares_heard: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            addresses_changed: Notify::new(),
            restored: AtomicBool::new(false),
            role: watch::Sender::new(role),
            removed: AtomicBool::new(false),
            refused: Arc::default(),
            tasks: Mutex::default(),
        });
        // Before anybody is let in by a record of old.
        cluster.note_revocations();
        cluster.note_services();
        cluster.note_managers();
        cluster.say_who();
        cluster.run(listener, door);
        Ok(cluster)
    }

    /// Writes what a new cluster begins with.
    pub(super) async fn found(&self, settings: &ClusterSettings) -> Result<(), WriteError> {
        let name = self.member().as_ref().map(|member| member.settings.name.clone()).unwrap_or_default();
        let record = MemberRecord::new(name, Role::Manager, now_ms());
        self.write_tokens(&Role::ALL).await?;
        self.write(CLUSTER, settings).await?;
        self.make_ingress().await;
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
            let (links, refused) = (answering.links.clone(), Arc::clone(&answering.refused));
            links
                .serve(&listener, &refused, move |conversation| {
                    answer::answer(Arc::clone(&answering), conversation)
                })
                .await;
        };
        let tasks = [
            tokio::spawn(answering),
            tokio::spawn(follow::follow(this(), events)),
            tokio::spawn(rotation::keep(this())),
            tokio::spawn(rights::keep(this())),
            tokio::spawn(door::keep(this(), door)),
            tokio::spawn(data::keep(this())),
            tokio::spawn(addresses::keep(this())),
            tokio::spawn(mesh::keep(this())),
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
        self.mesh.stop();
        // Its ports and TAPs are free again before anybody else wants them.
        drop(self.overlay.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.gossip.leave().await;
    }

    /// Returns once this node knows what another knows.
    pub(super) async fn settled(&self) {
        let equal = |peer: &PeerStatus| peer.alive && matches!(peer.comparison, Comparison::Equal { .. });
        let mut look = tokio::time::interval(SETTLE_CHECK);
        while !self.gossip.peers().iter().any(equal) {
            look.tick().await;
        }
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

    /// What others said of their addresses last.
    pub(super) fn shares_heard(&self) -> MutexGuard<'_, SharesHeard> {
        self.shares_heard.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Removes what a member has kept here.
pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
    super::gossip_parts::forget(state)?;
    super::keys::forget(state)?;
    data::forget(state)?;
    addresses::forget(state)?;
    state.remove(LIFE)
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(now).unwrap_or(u64::MAX)
}
