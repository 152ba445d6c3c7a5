//! What joins the nodes: a kernel bridge with veth pairs, or a simulated link between TAPs.

use super::plan::{Plan, UNDERLAY_PREFIX, UnderlayKind};
use super::wire::{WireError, WireUnderlay};
use crate::namespace::netlink::{Netlink, NetlinkError, VethEnd};
use crate::namespace::netns::{NetNs, NetnsError};

/// The interface of a node towards the others.
pub const UPLINK: &str = "eth0";
/// The bridge in the underlay's own namespace.
pub const BRIDGE: &str = "br0";

/// Nodes up to which they learn each other's MAC addresses by ARP. All namespaces of a machine share one table
/// of 1024 neighbours (`gc_thresh3`, arp(7)), and each node talks to each; permanent entries don't count, so
/// more nodes get those.
const LEARNING_NODES_MAX: usize = 16;

/// The underlay; ends when dropped.
#[derive(Debug)]
pub enum Underlay {
    /// A bridge, in the namespace given: [`BRIDGE`], whose ports have the nodes' names.
    Veth(NetNs),
    /// A simulated link.
    Wire(WireUnderlay),
}

/// Why there is no underlay.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// No namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused a link or an address.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No simulated link.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Underlay {
    /// Joins the nodes as planned; `nodes` in the plan's order.
    pub(super) fn new(plan: &Plan, nodes: &[&NetNs]) -> Result<Self, UnderlayError> {
        let underlay = match plan.underlay {
            UnderlayKind::Veth => Self::Veth(veth(plan, nodes)?),
            UnderlayKind::Wire => Self::Wire(WireUnderlay::new(plan, nodes)?),
        };
        for (index, netns) in nodes.iter().enumerate() {
            address(plan, index, netns)?;
        }
        Ok(underlay)
    }
}

/// Joins the nodes with a bridge in a namespace of its own, which is given.
fn veth(plan: &Plan, nodes: &[&NetNs]) -> Result<NetNs, UnderlayError> {
    let netns = NetNs::create()?;
    let mut netlink = Netlink::open(&netns)?;
    netlink.add_bridge(BRIDGE, plan.underlay_mtu)?;
    netlink.set_up(BRIDGE)?;
    for (node, node_netns) in plan.nodes.iter().zip(nodes) {
        let here = VethEnd { name: &node.name, mac: None, mtu: plan.underlay_mtu };
        let there = VethEnd { name: UPLINK, mac: Some(node.mac), mtu: plan.underlay_mtu };
        netlink.add_veth(here, there, Some(node_netns))?;
        netlink.attach(&node.name, BRIDGE)?;
        netlink.set_up(&node.name)?;
    }
    Ok(netns)
}

fn address(plan: &Plan, index: usize, netns: &NetNs) -> Result<(), NetlinkError> {
    let own = plan.nodes[index].address;
    let prefix_len = if own.is_ipv4() { UNDERLAY_PREFIX.0 } else { UNDERLAY_PREFIX.1 };
    let mut netlink = Netlink::open(netns)?;
    netlink.set_up("lo")?;
    netlink.add_address(UPLINK, own, prefix_len)?;
    netlink.set_up(UPLINK)?;
    if plan.nodes.len() > LEARNING_NODES_MAX {
        for (_, other) in plan.nodes.iter().enumerate().filter(|&(other, _)| other != index) {
            netlink.add_neighbour(UPLINK, other.address, other.mac)?;
        }
    }
    Ok(())
}
