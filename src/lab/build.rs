//! A plan made real.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use super::cluster::{ClusterError, DaemonPlace};
use super::keeper::Keeper;
use super::outside::{Outside, OutsideError};
use super::plan::{EndpointPlan, NETWORK_PREFIX, NodePlan, Plan};
use super::program::{Program, ProgramError};
use super::underlay::{Underlay, UnderlayError};
use crate::namespace::netlink::{Netlink, NetlinkError};
use crate::namespace::netns::{NetNs, NetnsError};

/// The interface of an endpoint.
pub const ENDPOINT_LINK: &str = "eth0";
/// Which groups may send echo requests (icmp(7)): a lab's programs are of group 0.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
/// How long a node's program may take until it is ready.
pub const READY_PATIENCE: Duration = Duration::from_secs(10);

/// A lab that is there; taken down when dropped.
#[derive(Debug)]
pub struct Lab {
    pub(super) plan: Plan,
    // Dropped in this order: programs first, the thread that keeps them last.
    pub(super) nodes: Vec<Node>,
    pub(super) outside: Outside,
    underlay: Underlay,
    keeper: Keeper,
}

/// A node: a namespace with [`super::underlay::UPLINK`], and a program if one was started.
#[derive(Debug)]
pub struct Node {
    pub(super) plan: NodePlan,
    pub(super) netns: NetNs,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) program: Option<Program>,
    /// Where its daemon is found, if it is one of a cluster.
    pub(super) daemon: Option<DaemonPlace>,
    /// What its daemon tells when it is ready, and when it stops.
    pub(super) notices: Option<UnixDatagram>,
}

/// An endpoint: a namespace; its [`ENDPOINT_LINK`] is made by the node's program.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(super) plan: EndpointPlan,
    pub(super) netns: NetNs,
    /// Whom it asks for names, if it was attached in a cluster.
    pub(super) resolver: Option<IpAddr>,
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
    /// The host outside has no page.
    #[error(transparent)]
    Outside(#[from] OutsideError),
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
    /// No cluster came of the nodes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No thread.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
}

impl Lab {
    /// Makes the namespaces and the underlay. Nodes are bare and endpoints empty until [`Self::start`] or
    /// [`Self::start_switches`].
    ///
    /// # Errors
    /// As the kernel refuses; what was made is gone again.
    pub fn build(plan: Plan) -> Result<Self, LabError> {
        let keeper = Keeper::new().map_err(LabError::Thread)?;
        let nodes = plan.nodes.iter().map(Node::build).collect::<Result<Vec<_>, _>>()?;
        let outside = Outside::build(&plan.outside)?;
        let netns: Vec<&NetNs> = nodes.iter().map(|node| &node.netns).chain([outside.netns()]).collect();
        let underlay = Underlay::new(&plan, &netns)?;
        Ok(Self { plan, nodes, outside, underlay, keeper })
    }

    /// Starts a node's program, whose outputs must be piped; its command is made with [`NetNs::command`].
    pub(super) fn run_program(&mut self, index: usize, mut command: Command) -> Result<(), ProgramError> {
        // For lists of processes, where the program's path may be a name of no use.
        CommandExt::arg0(&mut command, "vswitchd");
        // A group of its own: a terminal's Ctrl-C is for the lab, which stops its programs itself.
        CommandExt::process_group(&mut command, 0);
        let name = &self.nodes[index].plan.name;
        let child = self.keeper.spawn(command).map_err(|source| ProgramError::System {
            node: name.clone(),
            what: "start",
            source,
        })?;
        let program = Program::new(name, child)?;
        self.nodes[index].program = Some(program);
        Ok(())
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

    /// The host that is no node.
    #[must_use]
    pub fn outside(&self) -> &Outside {
        &self.outside
    }

    /// What joins the nodes.
    #[must_use]
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The namespace of the node, of the host outside, or of the endpoint of that name.
    #[must_use]
    pub fn netns(&self, name: &str) -> Option<&NetNs> {
        let node = self.nodes.iter().find(|node| node.plan.name == name).map(|node| &node.netns);
        let outside = (self.plan.outside.name == name).then_some(self.outside.netns());
        node.or(outside).or_else(|| {
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
        let endpoint = |plan: &EndpointPlan| {
            Ok(Endpoint { plan: plan.clone(), netns: NetNs::create()?, resolver: None })
        };
        let endpoints = plan.endpoints.iter().map(endpoint).collect::<Result<_, NetnsError>>()?;
        let netns = NetNs::create()?;
        // As distributions set it for hosts. Without it nobody outside of the overlay can be pinged from a network, which
        // the daemon says then.
        netns.run(|| drop(fs::write(PING_GROUPS, "0 0")))?;
        Ok(Self { plan: plan.clone(), netns, endpoints, program: None, daemon: None, notices: None })
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

    /// Where its daemon is found, if it is one of a cluster.
    #[must_use]
    pub fn daemon(&self) -> Option<&DaemonPlace> {
        self.daemon.as_ref()
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

    /// Whom it asks for names, if it was attached in a cluster.
    #[must_use]
    pub fn resolver(&self) -> Option<IpAddr> {
        self.resolver
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
        self.set_addresses().map_err(named)?;
        self.set_routes()
    }

    fn set_addresses(&self) -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open(&self.netns)?;
        netlink.set_mac(ENDPOINT_LINK, self.plan.mac)?;
        netlink.set_up(ENDPOINT_LINK)?;
        netlink.add_address(ENDPOINT_LINK, self.plan.v4.into(), NETWORK_PREFIX.0)?;
        netlink.add_address(ENDPOINT_LINK, self.plan.v6.into(), NETWORK_PREFIX.1)
    }

    /// The rest of it, where somebody else has given it its addresses.
    pub(super) fn set_routes(&self) -> Result<(), LabError> {
        let named = |source| LabError::Endpoint { endpoint: self.plan.name.clone(), source };
        self.add_routes().map_err(named)
    }

    fn add_routes(&self) -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open(&self.netns)?;
        netlink.set_up("lo")?;
        netlink.add_route((IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0)), 8), None, ENDPOINT_LINK)?;
        netlink.add_route((IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 16), None, ENDPOINT_LINK)
    }
}
