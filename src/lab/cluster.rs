//! Makes one cluster of a lab's nodes, as people do: a daemon on each; `init` on the first, `join` with its token on
//! the others; `network create` on the first; `attach` of every endpoint's TAP on its own node.
//!
//! All of it goes through the daemons' API, so no token is ever an argument of a process.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::num::NonZeroU16;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::build::{ENDPOINT_LINK, Endpoint, Lab, LabError, READY_PATIENCE};
use super::member::persist;
use super::page::PAGE_PORT;
use super::plan::{EndpointPlan, NETWORK_PREFIX, NetworkPlan, NodePlan, Plan};
use crate::api::client::{AskError, ask};
use crate::api::{
    AttachRequest, Attached, Call, EndpointDevice, InitRequest, Initialized, IpPrefix, JoinRequest, Joined,
    Liveness, Name, NetworkCreate, NetworkCreated, NetworkOptions, NetworkView, PeerView, ServiceCreated,
    ServiceView, SubnetRequest,
};
use crate::config::Key;
use crate::namespace::netns::name_host;
use crate::service::{Port, PortMode, Protocol, ServiceNetwork, ServiceSpec, SpecParts};

/// The socket of a node's daemon, in the node's directory.
const API_SOCKET: &str = "api.sock";
/// The directory of a daemon's state, in the node's directory.
const STATE_DIR: &str = "state";
/// The socket that a daemon tells when it is ready, in the node's directory.
const NOTICE_SOCKET: &str = "ready.sock";
/// Names the configuration file. This and the variables of single keys are whoever builds the lab's, not its nodes'.
const CONFIG_VARIABLE: &str = "VSWITCHD_CONFIG";
/// The configuration file of a node: it has none, and this machine's is not for it.
pub const NO_CONFIG: &str = "/dev/null";
/// The service that all endpoints answer for.
pub const SERVICE: &str = "web";
/// Nodes that are talked to at a time: they share this machine's cores.
const AT_ONCE: usize = 8;
/// How long nodes may take to hear each other, and a network until every node knows of it: loss delays it, and no loss at all a lab survives.
const SPREAD_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what a node knows.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why no cluster came of the nodes.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A node's directory or a socket in it can't be made.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A daemon did not do it.
    #[error("{node}: {what}: {source}")]
    Ask {
        /// The node.
        node: String,
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: Box<AskError>,
    },
    /// A node does not hear of all that there is.
    #[error("{node} knows {known} of {all} {what} after {} s", SPREAD_PATIENCE.as_secs())]
    Unheard {
        /// The node.
        node: String,
        /// Other nodes or networks.
        what: &'static str,
        /// How many it knows.
        known: usize,
        /// How many there are.
        all: usize,
    },
}

/// Where a node's daemon is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonPlace {
    /// The socket that it listens at.
    pub socket: PathBuf,
    /// The directory of its state.
    pub state_dir: PathBuf,
}

impl Lab {
    /// Runs `program daemon …` in every node, and unless the plan is bare makes one cluster of them with the planned
    /// networks and attaches every endpoint with its addresses. The host outside gets a page, and a resolver, which they
    /// all ask.
    ///
    /// State and sockets are below `directory`, which must be there, be ours and have a short path: a socket's has at
    /// most 107 bytes (unix(7)). Whoever has made the directory removes it.
    ///
    /// # Errors
    /// If a daemon can't be started, ends or is late, refuses something, or an endpoint can't be set up. What was
    /// started goes on.
    pub fn start(&mut self, program: impl Into<OsString>, directory: &Path) -> Result<(), LabError> {
        let program = program.into();
        self.outside.start()?;
        for index in 0..self.nodes.len() {
            self.start_daemon(index, &program, directory)?;
        }
        for node in &mut self.nodes {
            if let (Some(program), Some(notices)) = (&mut node.program, &node.notices) {
                program.wait_notice(notices, READY_PATIENCE)?;
            }
        }
        if self.plan.bare {
            return Ok(());
        }
        let desks: Vec<Desk<'_>> = self.desks().collect();
        form(&self.plan, &desks)?;
        let attached = furnish(&self.plan, &desks)?;
        drop(desks);
        let endpoints = self.nodes.iter_mut().flat_map(|node| &mut node.endpoints);
        for (endpoint, attached) in endpoints.zip(attached.into_iter().flatten()) {
            endpoint.resolver = attached.resolver;
        }
        self.endpoints().try_for_each(Endpoint::set_routes)
    }

    fn start_daemon(&mut self, index: usize, program: &OsString, directory: &Path) -> Result<(), LabError> {
        let node = &self.nodes[index];
        let own = directory.join(&node.plan.name);
        let failed = |path: &Path, source| ClusterError::Directory { path: path.into(), source };
        DirBuilder::new().mode(0o700).create(&own).map_err(|error| failed(&own, error))?;
        let notice_path = own.join(NOTICE_SOCKET);
        let notices = UnixDatagram::bind(&notice_path).map_err(|error| failed(&notice_path, error))?;
        let inherited = node.endpoints.iter().map(|endpoint| endpoint.netns.shared_fd()).collect();
        let mut command = node.netns.command_with(program, inherited);
        let (socket, state_dir) = (own.join(API_SOCKET), own.join(STATE_DIR));
        command.args(["daemon", "--state-dir"]).arg(&state_dir).arg("--socket").arg(&socket);
        command.arg("--dns").arg(self.outside.resolver().to_string());
        // Who runs a lab may run programs in it anyway.
        command.arg("--allow-tasks");
        for name in Key::ALL.map(Key::variable).into_iter().chain([CONFIG_VARIABLE]) {
            command.env_remove(name);
        }
        name_host(&mut command, &node.plan.name);
        command.args(["--config", NO_CONFIG]).env("NOTIFY_SOCKET", &notice_path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.run_program(index, command)?;
        let node = &mut self.nodes[index];
        (node.daemon, node.notices) = (Some(DaemonPlace { socket, state_dir }), Some(notices));
        Ok(())
    }

    /// Whom to ask on each node, if the lab is a cluster.
    pub(super) fn desks(&self) -> impl Iterator<Item = Desk<'_>> {
        self.nodes.iter().filter_map(|node| {
            Some(Desk {
                plan: &node.plan,
                socket: &node.daemon.as_ref()?.socket,
                // Names of namespaces are the command line's matter, descriptors the lab's.
                netns: node.endpoints.iter().map(|endpoint| endpoint.netns.inherited_path()).collect(),
            })
        })
    }
}

/// A node's daemon, to be asked.
#[derive(Debug)]
pub(super) struct Desk<'l> {
    pub(super) plan: &'l NodePlan,
    socket: &'l Path,
    /// Where the daemon finds each endpoint's namespace.
    netns: Vec<String>,
}

impl Desk<'_> {
    /// Its answer; `what` names the question in errors.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        what: &'static str,
        call: &Call,
    ) -> Result<T, ClusterError> {
        let failed =
            |source| ClusterError::Ask { node: self.plan.name.clone(), what, source: Box::new(source) };
        ask(self.socket, call).map_err(failed)
    }

    /// Waits until the node hears all the `others`.
    fn wait_others(&self, others: usize) -> Result<(), ClusterError> {
        self.wait("other nodes", others, || {
            let peers: Vec<PeerView> = self.ask("status --peers", &Call::Peers)?;
            Ok(peers.iter().filter(|peer| peer.liveness == Liveness::Alive).count())
        })
    }

    /// Waits until the node knows all `networks`, besides the routing mesh's.
    fn wait_networks(&self, networks: usize) -> Result<(), ClusterError> {
        let known = || {
            let known = self.ask::<Vec<NetworkView>>("network ls", &Call::Networks)?;
            Ok(known.iter().filter(|network| !network.options.ingress).count())
        };
        self.wait("networks", networks, known)
    }

    /// Waits until the node knows the service.
    fn wait_service(&self) -> Result<(), ClusterError> {
        let known = || Ok(self.ask::<Vec<ServiceView>>("service ls", &Call::Services)?.len());
        self.wait("services", 1, known)
    }

    fn wait(
        &self,
        what: &'static str,
        all: usize,
        known: impl Fn() -> Result<usize, ClusterError>,
    ) -> Result<(), ClusterError> {
        let deadline = now() + SPREAD_PATIENCE;
        loop {
            let known = known()?;
            if known >= all {
                return Ok(());
            }
            if now() >= deadline {
                return Err(ClusterError::Unheard { node: self.plan.name.clone(), what, known, all });
            }
            pause();
        }
    }

    /// Where packets are lost, other nodes may be out of reach for longer than the daemon waits for them: then it is asked
    /// again.
    fn ask_patiently<T: DeserializeOwned>(
        &self,
        plan: &Plan,
        what: &'static str,
        call: &Call,
    ) -> Result<T, ClusterError> {
        let patient_until = if plan.is_perfect() { now() } else { now() + SPREAD_PATIENCE };
        persist(patient_until, || self.ask(what, call))
    }

    /// In the order of its endpoints.
    fn attach_all(&self, plan: &Plan) -> Result<Vec<Attached>, ClusterError> {
        let attach = |(endpoint, netns): (&EndpointPlan, &String)| {
            let request = AttachRequest {
                network: named(&plan.networks[endpoint.network].name),
                name: named(&endpoint.name),
                device: EndpointDevice::tap(ENDPOINT_LINK, Some(netns.clone())),
                ip: vec![endpoint.v4.into(), endpoint.v6.into()],
                mac: Some(endpoint.mac),
                aliases: Vec::new(),
                published: Vec::new(),
                service: Some(named(SERVICE)),
            };
            self.ask_patiently(plan, "attach", &Call::Attach(request))
        };
        self.plan.endpoints.iter().zip(&self.netns).map(attach).collect()
    }
}

/// A plan's names are letters and digits.
fn named(text: &str) -> Name {
    text.parse().expect("a plan's names are short and plain")
}

/// Makes a cluster of the first node and lets the others in.
fn form(plan: &Plan, desks: &[Desk<'_>]) -> Result<(), ClusterError> {
    let Some((first, others)) = desks.split_first() else { return Ok(()) };
    let advertised = |desk: &Desk<'_>| Some(desk.plan.address.to_string());
    let init = InitRequest {
        advertise_addr: advertised(first),
        name: Some(first.plan.name.clone()),
        ..InitRequest::default()
    };
    let made: Initialized = first.ask("init", &Call::Init(init))?;
    each(others, |desk| {
        let request = JoinRequest {
            token: made.worker.token.clone(),
            managers: made.worker.managers.iter().map(ToString::to_string).collect(),
            advertise_addr: advertised(desk),
            listen_addr: None,
            name: Some(desk.plan.name.clone()),
            data_path_addr: None,
            gossip_port: None,
            data_path_port: None,
        };
        desk.ask_patiently::<Joined>(plan, "join", &Call::Join(request))
    })
    .map(drop)
}

/// Makes the networks, and gives every endpoint its place in one; these are given node by node.
fn furnish(plan: &Plan, desks: &[Desk<'_>]) -> Result<Vec<Vec<Attached>>, ClusterError> {
    let Some(first) = desks.first() else { return Ok(Vec::new()) };
    // Whoever is heard is told of networks and endpoints at once, others when records are next compared.
    each(desks, |desk| desk.wait_others(desks.len() - 1))?;
    for (index, network) in plan.networks.iter().enumerate() {
        let request = NetworkCreate {
            name: named(&network.name),
            subnets: subnets(plan, index),
            ipv6: false,
            vni: Some(network.vni.id()),
            options: NetworkOptions { encrypted: network.encrypted, ..NetworkOptions::default() },
        };
        first.ask::<NetworkCreated>("network create", &Call::CreateNetwork(request))?;
    }
    if !plan.networks.is_empty() {
        first.ask::<ServiceCreated>("service create", &Call::CreateService(Box::new(service(plan))))?;
    }
    each(desks, |desk| {
        desk.wait_networks(plan.networks.len())?;
        desk.wait_service()?;
        desk.attach_all(plan)
    })
}

/// The one that every endpoint answers for, in its own network; at a port of every node, too.
fn service(plan: &Plan) -> ServiceSpec {
    let network =
        |network: &NetworkPlan| ServiceNetwork { network: named(&network.name), aliases: Vec::new() };
    let port = Port {
        address: None,
        published: NonZeroU16::new(PAGE_PORT),
        target: NonZeroU16::new(PAGE_PORT).expect("it is 80"),
        protocol: Protocol::Tcp,
        mode: PortMode::Ingress,
        proxy: None,
    };
    let parts = SpecParts {
        networks: plan.networks.iter().map(network).collect(),
        ports: vec![port],
        ..SpecParts::new(named(SERVICE))
    };
    ServiceSpec::new(parts).expect("a plan has few networks, each once")
}

/// Those that the endpoints of a network are in, if it has any.
fn subnets(plan: &Plan, network: usize) -> Vec<SubnetRequest> {
    let one = plan.endpoints().map(|(_, endpoint)| endpoint).find(|endpoint| endpoint.network == network);
    let around = |endpoint: &EndpointPlan| {
        let v4 = IpPrefix::around(endpoint.v4.into(), NETWORK_PREFIX.0);
        [v4, IpPrefix::around(endpoint.v6.into(), NETWORK_PREFIX.1)]
    };
    let bare = |subnet| SubnetRequest { subnet, gateway: None, ip_range: None, reserved: Default::default() };
    one.map(around).into_iter().flatten().flatten().map(bare).collect()
}

/// Does it for each node, [`AT_ONCE`] at a time; the first failure ends it.
pub(super) fn each<T: Send>(
    desks: &[Desk<'_>],
    work: impl Fn(&Desk<'_>) -> Result<T, ClusterError> + Sync,
) -> Result<Vec<T>, ClusterError> {
    let mut done = Vec::with_capacity(desks.len());
    for some in desks.chunks(AT_ONCE) {
        let work = &work;
        let outcomes: Result<Vec<T>, ClusterError> = thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|desk| scope.spawn(move || work(desk))).collect();
            threads.into_iter().map(|thread| thread.join().expect("asking does not panic")).collect()
        });
        done.extend(outcomes?);
    }
    Ok(done)
}

/// Between two looks.
#[expect(clippy::disallowed_methods, reason = "a daemon is asked, it tells nothing by itself")]
pub(super) fn pause() {
    thread::sleep(LOOK_EVERY);
}

pub(super) fn now() -> Instant {
    Instant::now()
}
