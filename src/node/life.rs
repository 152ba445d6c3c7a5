//! The node: what it is asked to do, one thing after the other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tracing::{info, warn};

use super::address::{self, Interface};
use super::credentials::{Authority, Member, Settings, Shared};
use super::{door, join};
use crate::api::{
    ClusterStatus, Code, InitRequest, Initialized, JoinRequest, Joined, Refusal, SecretText, TokenAnswer,
};
use crate::crypto::ca::Ca;
use crate::crypto::identity::{ClusterId, NodeId, PrivateKey, Role};
use crate::crypto::token::{JoinSecrets, Token};
use crate::namespace::netlink::Netlink;
use crate::state::{StateDir, StateError};

/// How often it is looked whether the certificate has to be renewed, which is due a month before its end.
const RENEWAL_CHECK: Duration = Duration::from_secs(3_600);
/// Characters of a node's name: a DNS label's (RFC 1035 §2.3.4).
const NAME_MAX: usize = 63;
/// Managers that a `join` tries.
const MANAGERS_TRIED_MAX: usize = 16;

/// This host's node, member of a cluster or not.
#[derive(Debug)]
pub struct Node {
    state: StateDir,
    member: Shared,
    /// Held by whoever changes the membership, with what runs for it.
    tasks: Mutex<Tasks>,
}

/// What runs while the node is a member; ends with it.
#[derive(Debug, Default)]
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Node {
    /// The node whose state this is; a member goes on where it was.
    ///
    /// # Errors
    /// If its state can't be read or makes no sense.
    pub async fn start(state: StateDir) -> Result<Arc<Self>, StateError> {
        let member = Member::load(&state)?;
        let node = Arc::new(Self { state, member: Shared::default(), tasks: Mutex::default() });
        match member {
            Some(member) => {
                info!("{} {} of cluster {}", member.role(), member.settings.node, member.root.cluster());
                if let Err(error) =
                    member.root.verify(&member.certificate, SystemTime::now(), &Default::default())
                {
                    warn!("this node's own certificate: {error}");
                }
                *node.member() = Some(member);
                let mut tasks = node.tasks.lock().await;
                node.run(&mut tasks, None);
            }
            None => info!("not in a cluster yet: `vswitchd init` makes one, `vswitchd join` enters one"),
        }
        Ok(node)
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &StateDir {
        &self.state
    }

    /// The cluster that this node is in, if it is in one.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterStatus> {
        self.member().as_ref().map(status_of)
    }

    /// Makes a cluster of this node.
    ///
    /// # Errors
    /// If it is in one, addresses are not to be had, or it can't be kept.
    pub async fn init(self: &Arc<Self>, request: InitRequest) -> Result<Initialized, Refusal> {
        let mut tasks = self.tasks.lock().await;
        self.must_be_free()?;
        let settings = settings(request.name, request.advertise_addr, request.listen_addr)?;
        let listen = settings.listen;
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            conflict(format!("can't listen at {listen}: {error}; choose another --listen-addr"))
        })?;
        let member = found(settings).map_err(internal)?;
        member.store(&self.state).map_err(internal)?;
        let answer = Initialized {
            node: member.settings.node.clone(),
            worker: token_answer(&member, Role::Worker).ok_or_else(|| internal("no tokens"))?,
        };
        info!("made cluster {} as manager {}", member.root.cluster(), answer.node);
        *self.member() = Some(member);
        self.run(&mut tasks, Some(listener));
        Ok(answer)
    }

    /// Enters the cluster that a token is of.
    ///
    /// # Errors
    /// If it is in one, the token is none, or no manager lets it in: each with its reason.
    pub async fn join(self: &Arc<Self>, request: JoinRequest) -> Result<Joined, Refusal> {
        let mut tasks = self.tasks.lock().await;
        self.must_be_free()?;
        let token = Token::parse(request.token.0.trim()).map_err(|error| {
            bad_request(format!("{error}: `vswitchd token worker` on a manager shows it"))
        })?;
        if request.managers.is_empty() || request.managers.len() > MANAGERS_TRIED_MAX {
            return Err(bad_request(format!("name 1 to {MANAGERS_TRIED_MAX} managers")));
        }
        let mut settings = settings(request.name, request.advertise_addr, request.listen_addr)?;
        let key = PrivateKey::generate(&SystemRandom::new()).map_err(internal)?;
        let joined = join::join(&request.managers, &token, &key, &settings.name)
            .await
            .map_err(|error| Refusal::new(Code::NotJoined, error.to_string()))?;
        settings.node = joined.peer.node.to_string();
        settings.managers = joined.managers;
        let (root, certificate, authority) = (joined.root, joined.certificate, joined.authority);
        let member = Member { settings, root, certificate, key, authority };
        member.store(&self.state).map_err(internal)?;
        let answer = Joined { node: member.settings.node.clone(), role: member.role().name().into() };
        info!("joined cluster {} as {} {}", member.root.cluster(), answer.role, answer.node);
        *self.member() = Some(member);
        self.run(&mut tasks, None);
        Ok(answer)
    }

    /// Leaves the cluster, and forgets it.
    ///
    /// # Errors
    /// If it is in none, is a manager and not forced, or can't forget.
    pub async fn leave(&self, force: bool) -> Result<(), Refusal> {
        let mut tasks = self.tasks.lock().await;
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
        Member::forget(&self.state).map_err(internal)?;
        *tasks = Tasks::default();
        *self.member() = None;
        info!("left the cluster");
        Ok(())
    }

    /// The token that makes nodes of a role, after giving it a new secret if wanted.
    ///
    /// # Errors
    /// If this node is no manager, or the new secret can't be kept: then the old one stays.
    pub async fn token(&self, role: Role, rotate: bool) -> Result<TokenAnswer, Refusal> {
        let _changing = self.tasks.lock().await;
        let mut member = self.member();
        let member = member.as_mut().ok_or_else(no_cluster)?;
        let Some(authority) = &mut member.authority else {
            return Err(conflict(format!(
                "this node is a worker: ask on a manager ({})",
                join_list(&member.settings.managers)
            )));
        };
        if rotate {
            let before = authority.secrets.clone();
            authority.secrets.rotate(role, &SystemRandom::new()).map_err(internal)?;
            if let Err(error) = authority.store_secrets(&self.state) {
                authority.secrets = before;
                return Err(internal(error));
            }
            info!("the {role} token has been rotated");
        }
        token_answer(member, role).ok_or_else(no_cluster)
    }

    fn member(&self) -> MutexGuard<'_, Option<Member>> {
        self.member.lock().expect("nothing panics under this lock")
    }

    fn must_be_free(&self) -> Result<(), Refusal> {
        if self.member().is_some() {
            return Err(conflict("this node is in a cluster already: `vswitchd leave` first"));
        }
        Ok(())
    }

    /// Starts what a member does.
    fn run(self: &Arc<Self>, tasks: &mut Tasks, listener: Option<TcpListener>) {
        let address = {
            let member = self.member();
            let Some(member) = member.as_ref().filter(|member| member.authority.is_some()) else { return };
            member.settings.listen
        };
        let door = tokio::spawn(door::keep(listener, address, Arc::clone(&self.member)));
        let node = Arc::downgrade(self);
        let renewal = tokio::spawn(async move {
            while let Some(node) = node.upgrade() {
                node.renew();
                drop(node);
                tokio::time::sleep(RENEWAL_CHECK).await;
            }
        });
        *tasks = Tasks(vec![door.abort_handle(), renewal.abort_handle()]);
    }

    /// A manager renews its own certificate once it is due, or has expired while the host was down.
    fn renew(&self) {
        let mut member = self.member();
        let Some(member) = member.as_mut() else { return };
        let now = SystemTime::now();
        let held = member.root.verify(&member.certificate, now, &Default::default());
        if held.is_ok_and(|held| now < held.renew_at()) {
            return;
        }
        let (Some(authority), Ok(node)) = (&member.authority, member.settings.node.parse::<NodeId>()) else {
            return;
        };
        let issued =
            authority.ca.issue(&member.key.request(), node, Role::Manager, now, &SystemRandom::new());
        match issued {
            Ok(certificate) => {
                member.certificate = certificate;
                match member.store_certificate(&self.state) {
                    Ok(()) => info!("renewed this node's certificate"),
                    Err(error) => warn!("can't keep the renewed certificate: {error}"),
                }
            }
            Err(error) => warn!("can't renew this node's certificate: {error}"),
        }
    }
}

/// A new cluster's first member.
fn found(mut settings: Settings) -> Result<Member, Box<dyn std::error::Error + Send + Sync>> {
    let (random, now) = (SystemRandom::new(), SystemTime::now());
    let ca = Ca::make(ClusterId::random(&random)?, now, &random)?;
    let key = PrivateKey::generate(&random)?;
    let node = NodeId::random(&random)?;
    let certificate = ca.issue(&key.request(), node, Role::Manager, now, &random)?;
    settings.node = node.to_string();
    let root = ca.root().clone();
    let authority = Authority { ca, secrets: JoinSecrets::random(&random)? };
    Ok(Member { settings, root, certificate, key, authority: Some(authority) })
}

/// Name and addresses, as given or as this host has them.
fn settings(
    name: Option<String>,
    advertise: Option<String>,
    listen: Option<SocketAddr>,
) -> Result<Settings, Refusal> {
    let listen = listen.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), join::PORT));
    if listen.port() == 0 {
        return Err(bad_request("--listen-addr needs a port: others are told which"));
    }
    let name = name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fits) {
        return Err(bad_request(format!(
            "a node's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.', not {name:?}: choose one with --name"
        )));
    }
    let interfaces = Netlink::open_here().and_then(|mut netlink| netlink.addresses()).map_err(internal)?;
    let interface = |(name, address): (String, IpAddr)| Interface { name, address };
    let interfaces: Vec<_> = interfaces.into_iter().map(interface).collect();
    let own = (!listen.ip().is_unspecified() && advertise.is_none()).then(|| listen.ip().to_string());
    let advertise = address::choose("--advertise-addr", own.as_deref().or(advertise.as_deref()), &interfaces)
        .map_err(|error| bad_request(error.to_string()))?;
    // Listening at all addresses means those of the family that others are told.
    let listen = match (listen.ip().is_unspecified(), advertise) {
        (true, IpAddr::V6(_)) => SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), listen.port()),
        _ => listen,
    };
    Ok(Settings { node: String::new(), name, advertise, listen, managers: Vec::new() })
}

fn status_of(member: &Member) -> ClusterStatus {
    let until = member.root.verify(&member.certificate, SystemTime::now(), &Default::default());
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    ClusterStatus {
        id: member.root.cluster().to_string(),
        node: member.settings.node.clone(),
        name: member.settings.name.clone(),
        role: member.role().name().into(),
        address: member.settings.advertise,
        managers: member.managers(),
        certificate_until: until.ok().map(|peer| seconds(peer.not_after)),
        gossip: None,
        keys: None,
        data: None,
    }
}

fn token_answer(member: &Member, role: Role) -> Option<TokenAnswer> {
    let authority = member.authority.as_ref()?;
    let token = authority.secrets.token(role, member.root.digest()).reveal();
    Some(TokenAnswer { role: role.name().into(), token: SecretText(token), managers: member.managers() })
}

fn join_list(managers: &[SocketAddr]) -> String {
    managers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn bad_request(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

fn conflict(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::Conflict, message)
}

fn no_cluster() -> Refusal {
    conflict("this node is in no cluster: `vswitchd init` makes one, `vswitchd join` enters one")
}

fn internal(error: impl fmt::Display) -> Refusal {
    let refusal = Refusal::new(Code::Internal, error.to_string());
    warn!("{refusal}");
    refusal
}
