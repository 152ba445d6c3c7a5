//! The node: what it is asked to do, one thing after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::AbortHandle;
use tracing::{error, info, warn};

use super::cluster::{self, Cluster, Host, StartError};
use super::commands::kept_settings;
use super::credentials::{Authority, Member, Settings, Shared};
use super::place::{self, Place};
use super::records::TaskRecord;
use super::services::Membership;
use super::{join, keys};
use crate::api::{
    self, ClusterStatus, Code, InitRequest, Initialized, JoinRequest, Joined, Refusal, SecretText,
    TokenAnswer,
};
use crate::crypto::ca::Ca;
use crate::crypto::identity::{ClusterId, NodeId, PrivateKey, Role};
use crate::crypto::keyring::KeyRing;
use crate::crypto::token::{JoinSecrets, Token};
use crate::state::{StateDir, StateError};

/// How often a member that can't run, since a port is taken or the like, is tried again.
const START_PAUSE: Duration = Duration::from_secs(1);
/// How long a `join` waits for what the others know.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);
/// Managers that a `join` tries.
const MANAGERS_TRIED_MAX: usize = 16;

/// This host's node, member of a cluster or not.
#[derive(Debug)]
pub struct Node {
    state: Arc<StateDir>,
    member: Shared,
    host: Host,
    /// Held by whoever changes the membership; with what starts the member, if that takes time.
    changing: Mutex<Option<AbortHandle>>,
    cluster: std::sync::Mutex<Option<Arc<Cluster>>>,
}

impl Node {
    /// The node whose state this is; a member goes on where it was. `dns` is asked for names that no network has, or if
    /// there is none, this host's own resolvers; `tasks` is whether it runs tasks of services.
    ///
    /// # Errors
    /// If its state can't be read or makes no sense.
    pub async fn start(state: StateDir, dns: Vec<SocketAddr>, tasks: bool) -> Result<Arc<Self>, StateError> {
        let member = Member::load(&state)?;
        let node = Arc::new(Self {
            state: Arc::new(state),
            member: Shared::default(),
            host: Host { dns, tasks, services_changed: Arc::default() },
            changing: Mutex::default(),
            cluster: std::sync::Mutex::default(),
        });
        match member {
            Some(member) => {
                info!("{} {} of cluster {}", member.role(), member.settings.node, member.root.cluster());
                if let Err(error) =
                    member.root.verify(&member.certificate, SystemTime::now(), &Default::default())
                {
                    warn!("this node's own certificate: {error}");
                }
                *node.member() = Some(member);
                let starting = Arc::downgrade(&node);
                let starting = tokio::spawn(async move {
                    let mut told = false;
                    while let Some(node) = starting.upgrade() {
                        let (state, member) = (Arc::clone(&node.state), Arc::clone(&node.member));
                        match Cluster::start(state, member, node.host.clone(), None).await {
                            Ok(cluster) => {
                                cluster.found_again().await;
                                *node.running() = Some(cluster);
                                node.host.services_changed.notify_one();
                                return;
                            }
                            Err(error) if !std::mem::replace(&mut told, true) => {
                                error!("can't take part in the cluster, trying on: {error}");
                            }
                            Err(_) => {}
                        }
                        drop(node);
                        tokio::time::sleep(START_PAUSE).await;
                    }
                });
                *node.changing.lock().await = Some(starting.abort_handle());
            }
            None => info!("not in a cluster yet: `vswitchd init` makes one, `vswitchd join` enters one"),
        }
        Ok(node)
    }

    /// Says farewell to the others; the node comes back with the next start.
    pub async fn stop(&self) {
        if let Some(starting) = self.changing.lock().await.take() {
            starting.abort();
        }
        let cluster = self.running().take();
        if let Some(cluster) = cluster {
            cluster.stop().await;
        }
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The cluster that this node is in, if it is in one.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterStatus> {
        let cluster = self.running().clone();
        self.member().as_ref().map(|member| status_of(member, cluster.as_deref()))
    }

    /// Makes a cluster of this node.
    ///
    /// # Errors
    /// If it is in one, addresses are not to be had, or it can't be kept.
    pub async fn init(self: &Arc<Self>, request: InitRequest) -> Result<Initialized, Refusal> {
        let _changing = self.changing.lock().await;
        self.must_be_free()?;
        let begin = api::ClusterSettings::default().updated(&request.settings);
        let begin = begin.map_err(|error| bad_request(error.to_string()))?;
        let settings = place::settings(Place {
            name: request.name,
            advertise: request.advertise_addr,
            listen: request.listen_addr,
            gossip_port: request.gossip_port,
            data_address: request.data_path_addr,
            data_port: None,
        })?;
        let listen = settings.listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            conflict(format!("can't listen at {listen}: {error}; choose another --listen-addr"))
        })?;
        let (member, ring) = found(settings).map_err(internal)?;
        let answer = Initialized {
            node: member.settings.node.clone(),
            worker: token_answer(&member, Role::Worker).ok_or_else(|| internal("no tokens"))?,
        };
        let id = member.root.cluster();
        let cluster = self.begin(member, &ring, Some(listener)).await?;
        if let Err(error) = cluster.found(&kept_settings(&begin)).await {
            self.end(&cluster).await.map_err(internal)?;
            return Err(internal(error));
        }
        info!("made cluster {id} as manager {}", answer.node);
        *self.running() = Some(cluster);
        self.host.services_changed.notify_one();
        Ok(answer)
    }

    /// Enters the cluster that a token is of.
    ///
    /// # Errors
    /// If it is in one, the token is none, or no manager lets it in: each with its reason.
    pub async fn join(self: &Arc<Self>, request: JoinRequest) -> Result<Joined, Refusal> {
        let _changing = self.changing.lock().await;
        self.must_be_free()?;
        let token = Token::parse(request.token.0.trim()).map_err(|error| {
            bad_request(format!("{error}: `vswitchd token worker` on a manager shows it"))
        })?;
        if request.managers.is_empty() || request.managers.len() > MANAGERS_TRIED_MAX {
            return Err(bad_request(format!("name 1 to {MANAGERS_TRIED_MAX} managers")));
        }
        let mut settings = place::settings(Place {
            name: request.name,
            advertise: request.advertise_addr,
            listen: request.listen_addr,
            gossip_port: request.gossip_port,
            data_address: request.data_path_addr,
            data_port: request.data_path_port,
        })?;
        let key = PrivateKey::generate(&SystemRandom::new()).map_err(internal)?;
        let joined = join::join(&request.managers, &token, &key, &settings.name)
            .await
            .map_err(|error| Refusal::new(Code::NotJoined, error.to_string()))?;
        settings.node = joined.peer.node.to_string();
        settings.managers = joined.managers;
        let (root, certificate, authority) = (joined.root, joined.certificate, joined.authority);
        let member = Member { id: joined.peer.node, settings, root, certificate, key, authority };
        let answer = Joined { node: member.settings.node.clone(), role: member.role().name().into() };
        let id = member.root.cluster();
        let cluster = self.begin(member, &joined.ring, None).await?;
        // So that the next command knows the others.
        if tokio::time::timeout(SETTLE_PATIENCE, cluster.settled()).await.is_err() {
            warn!("no other node is heard yet: UDP 7946 has to pass in both directions");
        }
        info!("joined cluster {id} as {} {}", answer.role, answer.node);
        *self.running() = Some(cluster);
        self.host.services_changed.notify_one();
        Ok(answer)
    }

    /// Leaves the cluster, and forgets it.
    ///
    /// # Errors
    /// If it is in none, is a manager and not forced, or can't forget.
    pub async fn leave(&self, force: bool) -> Result<(), Refusal> {
        let mut changing = self.changing.lock().await;
        let role = self.member().as_ref().map(Member::role);
        match role {
            None => return Err(no_cluster()),
            Some(Role::Manager) if !force => {
                return Err(conflict(
                    "this node is a manager: the last one takes the cluster's CA and tokens with it. \
                     Leave with --force if another manager remains, or the cluster is not needed any more",
                ));
            }
            Some(_) => {}
        }
        if let Some(starting) = changing.take() {
            starting.abort();
        }
        let cluster = self.running().take();
        match cluster {
            Some(cluster) => self.end(&cluster).await,
            None => self.forget(),
        }
        .map_err(internal)?;
        self.host.services_changed.notify_one();
        info!("left the cluster");
        Ok(())
    }

    /// The token that makes nodes of a role, after giving it a new secret if wanted.
    ///
    /// # Errors
    /// If this node is no manager, or the new secret can't be kept: then the old one stays.
    pub async fn token(&self, role: Role, rotate: bool) -> Result<TokenAnswer, Refusal> {
        let _changing = self.changing.lock().await;
        if rotate {
            let cluster = self.cluster_now()?;
            self.rotate_secret(role)?;
            // Other managers let nobody in by the old one from when they hear of this.
            cluster.write_tokens(&[role]).await.map_err(internal)?;
            info!("the {role} token has been rotated");
        }
        let member = self.member();
        let member = member.as_ref().ok_or_else(no_cluster)?;
        token_answer(member, role).ok_or_else(|| is_worker(member))
    }

    fn rotate_secret(&self, role: Role) -> Result<(), Refusal> {
        let mut member = self.member();
        let member = member.as_mut().ok_or_else(no_cluster)?;
        let Some(authority) = &mut member.authority else { return Err(is_worker(member)) };
        let before = authority.secrets.clone();
        authority.secrets.rotate(role, &SystemRandom::new()).map_err(internal)?;
        authority.store_secrets(&self.state).map_err(|error| {
            authority.secrets = before;
            internal(error)
        })
    }

    fn member(&self) -> MutexGuard<'_, Option<Member>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> MutexGuard<'_, Option<Arc<Cluster>>> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running member.
    pub(super) fn cluster_now(&self) -> Result<Arc<Cluster>, Refusal> {
        if let Some(cluster) = &*self.running() {
            return Ok(Arc::clone(cluster));
        }
        let member = self.member().is_some();
        Err(if member {
            conflict("this node can't take part in its cluster at the moment: its log says why")
        } else {
            no_cluster()
        })
    }

    /// Is told when the part of this node in services may be another. One may wait for it.
    pub(crate) fn services_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.host.services_changed)
    }

    /// What this node's part in services follows from.
    pub(crate) fn service_facts(&self) -> Membership {
        let (cluster, is_member) = (self.running().clone(), self.member().is_some());
        match (cluster, is_member) {
            (Some(cluster), _) => Membership::Member(cluster.service_facts()),
            (None, true) => Membership::Starting,
            (None, false) => Membership::None,
        }
    }

    /// Tells the others what tasks of services this node has.
    pub(crate) fn say_tasks(&self, tasks: &BTreeMap<String, TaskRecord>) {
        let cluster = self.running().clone();
        if let Some(cluster) = cluster {
            cluster.say_tasks(tasks);
        }
    }

    fn must_be_free(&self) -> Result<(), Refusal> {
        if self.member().is_some() {
            return Err(conflict("this node is in a cluster already: `vswitchd leave` first"));
        }
        Ok(())
    }

    /// Keeps a new member and runs it; leaves nothing if it can't run.
    async fn begin(
        &self,
        member: Member,
        ring: &KeyRing,
        door: Option<TcpListener>,
    ) -> Result<Arc<Cluster>, Refusal> {
        let stored = keys::store(&self.state, ring).and_then(|()| member.store(&self.state));
        *self.member() = Some(member);
        let started = match stored {
            Ok(()) => {
                let (state, member) = (Arc::clone(&self.state), Arc::clone(&self.member));
                Cluster::start(state, member, self.host.clone(), door).await
            }
            Err(error) => Err(error.into()),
        };
        started.map_err(|error| {
            if let Err(error) = self.forget() {
                warn!("{error}");
            }
            match error {
                StartError::Listen(..) | StartError::Gossip(_) => {
                    conflict(format!("{error}; choose another --gossip-port"))
                }
                other => internal(other),
            }
        })
    }

    /// Ends a running member, and forgets it.
    async fn end(&self, cluster: &Cluster) -> Result<(), StateError> {
        cluster.stop().await;
        self.forget()
    }

    fn forget(&self) -> Result<(), StateError> {
        Member::forget(&self.state)?;
        cluster::forget(&self.state)?;
        *self.member() = None;
        Ok(())
    }
}

/// A new cluster's first member.
fn found(mut settings: Settings) -> Result<(Member, KeyRing), Box<dyn std::error::Error + Send + Sync>> {
    let (random, now) = (SystemRandom::new(), SystemTime::now());
    let ca = Ca::make(ClusterId::random(&random)?, now, &random)?;
    let key = PrivateKey::generate(&random)?;
    let node = NodeId::random(&random)?;
    let certificate = ca.issue(&key.request(), node, Role::Manager, now, &random)?;
    settings.node = node.to_string();
    let root = ca.root().clone();
    let authority = Some(Authority { ca, secrets: JoinSecrets::random(&random)? });
    let ring = KeyRing::make(now, &random)?;
    Ok((Member { id: node, settings, root, certificate, key, authority }, ring))
}

fn status_of(member: &Member, cluster: Option<&Cluster>) -> ClusterStatus {
    let until = member.root.verify(&member.certificate, SystemTime::now(), &Default::default());
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    ClusterStatus {
        id: member.root.cluster().to_string(),
        node: member.settings.node.clone(),
        name: member.settings.name.clone(),
        role: member.role().name().into(),
        address: member.settings.advertise,
        managers: member.doors(),
        certificate_until: until.ok().map(|peer| seconds(peer.not_after)),
        removed: cluster.is_some_and(Cluster::is_removed),
        refused_connections: cluster.map_or(0, |cluster| cluster.refused.load(Ordering::Relaxed)),
        gossip: cluster.map(Cluster::gossip_status),
        keys: cluster.map(Cluster::keys_status),
        data: cluster.and_then(Cluster::data_status),
    }
}

fn token_answer(member: &Member, role: Role) -> Option<TokenAnswer> {
    let authority = member.authority.as_ref()?;
    let token = authority.secrets.token(role, member.root.digest()).reveal();
    Some(TokenAnswer { role: role.name().into(), token: SecretText(token), managers: member.doors() })
}

fn is_worker(member: &Member) -> Refusal {
    let managers: Vec<_> = member.doors().iter().map(ToString::to_string).collect();
    conflict(format!("this node is a worker: ask on a manager ({})", managers.join(", ")))
}

pub(super) fn bad_request(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

pub(super) fn conflict(message: impl fmt::Display) -> Refusal {
    Refusal::new(Code::Conflict, message.to_string())
}

fn no_cluster() -> Refusal {
    conflict("this node is in no cluster: `vswitchd init` makes one, `vswitchd join` enters one")
}

pub(super) fn internal(error: impl fmt::Display) -> Refusal {
    let refusal = Refusal::new(Code::Internal, error.to_string());
    warn!("{refusal}");
    refusal
}
