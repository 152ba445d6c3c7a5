//! What joins the nodes: a kernel bridge with veth pairs, or a simulated link between TAPs.

use std::net::IpAddr;

use super::plan::{Plan, UNDERLAY_PREFIX};
use crate::namespace::netlink::{Netlink, NetlinkError, VethEnd};
use crate::namespace::netns::{NetNs, NetnsError};

/// The interface of a node towards the others.
pub const UPLINK: &str = "eth0";
/// The bridge in the underlay's own namespace.
pub const BRIDGE: &str = "br0";

/// The underlay; ends when dropped.
#[derive(Debug)]
pub struct Underlay {
    /// The namespace with the bridge, of the kind veth.
    netns: Option<NetNs>,
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
}

impl Underlay {
    /// Joins the nodes with a bridge; `nodes` in the plan's order.
    pub(super) fn veth(plan: &Plan, nodes: &[&NetNs]) -> Result<Self, UnderlayError> {
        let netns = NetNs::create()?;
        let mut netlink = Netlink::open(&netns)?;
        netlink.add_bridge(BRIDGE, plan.underlay_mtu)?;
        netlink.set_up(BRIDGE)?;
        for (node, node_netns) in plan.nodes.iter().zip(nodes) {
            let here = VethEnd {
                name: &node.name,
                mac: None,
                mtu: plan.underlay_mtu,
            };
            let there = VethEnd {
                name: UPLINK,
                mac: Some(node.mac),
                mtu: plan.underlay_mtu,
            };
            netlink.add_veth(here, there, Some(node_netns))?;
            netlink.attach(&node.name, BRIDGE)?;
            netlink.set_up(&node.name)?;
            address(node_netns, node.address)?;
        }
        Ok(Self { netns: Some(netns) })
    }

    /// The namespace of the bridge [`BRIDGE`], whose ports have the nodes' names; none if the underlay is a wire.
    #[must_use]
    pub fn bridge_netns(&self) -> Option<&NetNs> {
        self.netns.as_ref()
    }
}

fn address(netns: &NetNs, address: IpAddr) -> Result<(), NetlinkError> {
    let prefix_len = if address.is_ipv4() {
        UNDERLAY_PREFIX.0
    } else {
        UNDERLAY_PREFIX.1
    };
    let mut netlink = Netlink::open(netns)?;
    netlink.set_up("lo")?;
    netlink.add_address(UPLINK, address, prefix_len)?;
    netlink.set_up(UPLINK)
}
