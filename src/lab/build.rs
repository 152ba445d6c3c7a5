//! A plan made real.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::keeper::Keeper;
use super::plan::{EndpointPlan, NETWORK_PREFIX, NodePlan, Plan};
use super::program::{Program, ProgramError};
use super::underlay::{Underlay, UnderlayError};
use crate::namespace::netlink::{Netlink, NetlinkError};
use crate::namespace::netns::{NetNs, NetnsError};

/// The interface of an endpoint.
pub const ENDPOINT_LINK: &str = "eth0";
/// How long a node's program may take until it is ready.
pub const READY_PATIENCE: Duration = Duration::from_secs(10);

/// A lab that is there; taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    // Dropped in this order: programs first, the thread that keeps them last.
    nodes: Vec<Node>,
    underlay: Underlay,
    keeper: Keeper,
}

/// A node: a namespace with [`super::underlay::UPLINK`], and a program if one was started.
#[derive(Debug)]
pub struct Node {
    plan: NodePlan,
    netns: NetNs,
    endpoints: Vec<Endpoint>,
    program: Option<Program>,
}

/// An endpoint: a namespace; its [`ENDPOINT_LINK`] is made by the node's program.
#[derive(Clone, Debug)]
pub struct Endpoint {
    plan: EndpointPlan,
    netns: NetNs,
}

/// Why a lab could not be built, started or used.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No underlay.
    #[error("underlay: {0}")]
    Underlay(#[from] UnderlayError),
    /// An endpoint could not be set up.
    #[error("{endpoint}: {source}")]
    Endpoint {
        /// Its name.
        endpoint: String,
        /// The kernel's answer.
        source: NetlinkError,
    },
    /// A node's program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// No thread.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
}

impl Lab {
    /// Makes the namespaces and the underlay. Nodes are bare and endpoints empty until [`Self::start`].
    ///
    /// # Errors
    /// As the kernel refuses; what was made is gone again.
    pub fn build(plan: Plan) -> Result<Self, LabError> {
        let keeper = Keeper::new().map_err(LabError::Thread)?;
        let nodes = plan.nodes.iter().map(Node::build).collect::<Result<Vec<_>, _>>()?;
        let netns: Vec<&NetNs> = nodes.iter().map(|node| &node.netns).collect();
        let underlay = Underlay::new(&plan, &netns)?;
        Ok(Self { plan, nodes, underlay, keeper })
    }

    /// Runs `program switch …` in every node, waits until all are ready, and gives every endpoint its addresses.
    ///
    /// # Errors
    /// If a program can't be started, ends or is late, or an endpoint can't be set up. What was started goes on.
    pub fn start(&mut self, program: impl Into<OsString>) -> Result<(), LabError> {
        self.start_nodes(0..self.nodes.len(), program, &[])
    }

    /// As [`Self::start`], but only some nodes, and with more arguments to their programs. The others stay bare.
    ///
    /// # Errors
    /// As [`Self::start`].
    ///
    /// # Panics
    /// If there are no such nodes.
    pub fn start_nodes(
        &mut self,
        nodes: Range<usize>,
        program: impl Into<OsString>,
        arguments: &[&str],
    ) -> Result<(), LabError> {
        let program = program.into();
        for index in nodes.clone() {
            let mut command = self.switch_command(index, &program);
            command.args(arguments);
            let name = &self.nodes[index].plan.name;
            let child = self.keeper.spawn(command).map_err(|source| ProgramError::System {
                node: name.clone(),
                what: "start",
                source,
            })?;
            let program = Program::new(name, child)?;
            self.nodes[index].program = Some(program);
        }
        for node in &mut self.nodes[nodes] {
            if let Some(program) = &mut node.program {
                program.wait_ready(READY_PATIENCE)?;
            }
            node.endpoints.iter().try_for_each(Endpoint::configure)?;
        }
        Ok(())
    }

    /// The command line of a node's switch: `switch --format json --local … --peer … --vni 42:eth0@…`.
    fn switch_command(&self, index: usize, program: &OsString) -> Command {
        let node = &self.nodes[index];
        let inherited = node.endpoints.iter().map(|endpoint| endpoint.netns.shared_fd()).collect();
        let mut command = node.netns.command_with(program, inherited);
        // For lists of processes, where the program's path may be a name of no use.
        CommandExt::arg0(&mut command, "vswitchd");
        command.args(["switch", "--format", "json", "--local"]).arg(node.plan.address.to_string());
        // The nodes share this machine's cores; two show what several do.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (cores / self.nodes.len().max(1)).max(2).min(cores);
        command.args(["--workers", &workers.to_string()]);
        for (_, peer) in self.plan.nodes.iter().enumerate().filter(|&(other, _)| other != index) {
            command.arg("--peer").arg(peer.address.to_string());
        }
        for network in node.plan.networks() {
            let members = node.endpoints.iter().filter(|endpoint| endpoint.plan.network == network);
            let ports: Vec<String> = members
                .map(|endpoint| format!("{ENDPOINT_LINK}@{}", endpoint.netns.inherited_path()))
                .collect();
            command.arg("--vni").arg(format!("{}:{}", self.plan.networks[network].vni, ports.join(",")));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: a terminal's Ctrl-C is for the lab, which stops its programs itself.
        CommandExt::process_group(&mut command, 0);
        command
    }

    /// Starts any command from a thread that lives as long as the lab: it ends with the lab at the latest.
    /// Make it with [`NetNs::command`] of a node or an endpoint.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn spawn(&self, command: Command) -> io::Result<Child> {
        self.keeper.spawn(command)
    }

    /// What it was built from.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its nodes, to stop or kill their programs.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Every endpoint, in order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.nodes.iter().flat_map(|node| &node.endpoints)
    }

    /// What joins the nodes.
    #[must_use]
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The namespace of the node or endpoint of that name.
    #[must_use]
    pub fn netns(&self, name: &str) -> Option<&NetNs> {
        let node = self.nodes.iter().find(|node| node.plan.name == name).map(|node| &node.netns);
        node.or_else(|| {
            self.endpoints().find(|endpoint| endpoint.plan.name == name).map(|endpoint| &endpoint.netns)
        })
    }

    /// Stops every program; all are asked before the first is waited for.
    ///
    /// # Errors
    /// The first failure; the others are stopped all the same.
    pub fn stop(&mut self) -> Result<(), LabError> {
        let mut programs: Vec<Program> =
            self.nodes.iter_mut().filter_map(|node| node.program.take()).collect();
        let asked: Vec<_> = programs.iter_mut().map(Program::request_stop).collect();
        let stopped: Vec<_> = programs.iter_mut().map(|program| program.stop().map(|_| ())).collect();
        asked.into_iter().chain(stopped).collect::<Result<(), _>>().map_err(Into::into)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Nobody is left to tell; the death signals end them in any case.
        let _failed = self.stop();
    }
}

impl Node {
    fn build(plan: &NodePlan) -> Result<Self, LabError> {
        let endpoint = |plan: &EndpointPlan| Ok(Endpoint { plan: plan.clone(), netns: NetNs::create()? });
        let endpoints = plan.endpoints.iter().map(endpoint).collect::<Result<_, NetnsError>>()?;
        Ok(Self { plan: plan.clone(), netns: NetNs::create()?, endpoints, program: None })
    }

    /// Its part of the plan.
    #[must_use]
    pub fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Its endpoints, in order.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Its program, if one was started.
    #[must_use]
    pub fn program(&self) -> Option<&Program> {
        self.program.as_ref()
    }

    /// Its program, to wait for it or to stop it.
    pub fn program_mut(&mut self) -> Option<&mut Program> {
        self.program.as_mut()
    }
}

impl Endpoint {
    /// Its part of the plan.
    #[must_use]
    pub fn plan(&self) -> &EndpointPlan {
        &self.plan
    }

    /// Its namespace.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// Gives [`ENDPOINT_LINK`], which must be there, the planned addresses and brings it up.
    ///
    /// All networks' ranges are routed on-link, so that asking for a stranger's address really sends a question
    /// into this endpoint's network: that nobody answers then means something.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub fn configure(&self) -> Result<(), LabError> {
        let named = |source| LabError::Endpoint { endpoint: self.plan.name.clone(), source };
        self.set_addresses().map_err(named)
    }

    fn set_addresses(&self) -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open(&self.netns)?;
        netlink.set_up("lo")?;
        netlink.set_mac(ENDPOINT_LINK, self.plan.mac)?;
        netlink.set_up(ENDPOINT_LINK)?;
        netlink.add_address(ENDPOINT_LINK, self.plan.v4.into(), NETWORK_PREFIX.0)?;
        netlink.add_address(ENDPOINT_LINK, self.plan.v6.into(), NETWORK_PREFIX.1)?;
        netlink.add_route((IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8), None, ENDPOINT_LINK)?;
        netlink.add_route((IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 16), None, ENDPOINT_LINK)
    }
}
