//! What joins the nodes and the host outside: a kernel bridge with veth pairs, or a simulated link between TAPs.

use super::plan::{NodePlan, Plan, UNDERLAY_PREFIX, UnderlayKind};
use super::wire::{WireError, WireUnderlay};
use crate::namespace::netlink::{Netlink, NetlinkError, VethEnd};
use crate::namespace::netns::{NetNs, NetnsError};

/// The interface of a node, or of the host outside, towards the others.
pub const UPLINK: &str = "eth0";
/// The bridge in the underlay's own namespace, whose ports have the hosts' names.
pub const BRIDGE: &str = "br0";

/// Hosts up to which they learn each other's MAC addresses by ARP. All namespaces of a machine share one table
/// of 1024 neighbours (`gc_thresh3`, arp(7)), and each talks to each; permanent entries don't count, so more
/// hosts get those.
const LEARNING_HOSTS_MAX: usize = 16;

/// The underlay; ends when dropped.
#[derive(Debug)]
pub enum Underlay {
    /// A bridge, in the namespace given.
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
    /// Joins the hosts as planned; `hosts` in the order of [`Plan::hosts`].
    pub(super) fn new(plan: &Plan, hosts: &[&NetNs]) -> Result<Self, UnderlayError> {
        let underlay = match plan.underlay {
            UnderlayKind::Veth => Self::Veth(veth(plan, hosts)?),
            UnderlayKind::Wire => Self::Wire(WireUnderlay::new(plan, hosts)?),
        };
        for (own, netns) in plan.hosts().zip(hosts) {
            address(plan, own, netns)?;
        }
        Ok(underlay)
    }
}

/// Joins the hosts with a bridge in a namespace of its own, which is given.
fn veth(plan: &Plan, hosts: &[&NetNs]) -> Result<NetNs, UnderlayError> {
    let netns = NetNs::create()?;
    let mut netlink = Netlink::open(&netns)?;
    netlink.add_bridge(BRIDGE, plan.underlay_mtu)?;
    netlink.set_up(BRIDGE)?;
    for (host, host_netns) in plan.hosts().zip(hosts) {
        let here = VethEnd { name: &host.name, mac: None, mtu: plan.underlay_mtu };
        let there = VethEnd { name: UPLINK, mac: Some(host.mac), mtu: plan.underlay_mtu };
        netlink.add_veth(here, there, Some(host_netns))?;
        netlink.attach(&host.name, BRIDGE)?;
        netlink.set_up(&host.name)?;
    }
    Ok(netns)
}

fn address(plan: &Plan, own: &NodePlan, netns: &NetNs) -> Result<(), NetlinkError> {
    let prefix_len = if own.address.is_ipv4() { UNDERLAY_PREFIX.0 } else { UNDERLAY_PREFIX.1 };
    let mut netlink = Netlink::open(netns)?;
    netlink.set_up("lo")?;
    netlink.add_address(UPLINK, own.address, prefix_len)?;
    netlink.set_up(UPLINK)?;
    if plan.hosts().count() > LEARNING_HOSTS_MAX {
        for other in plan.hosts().filter(|other| other.mac != own.mac) {
            netlink.add_neighbour(UPLINK, other.address, other.mac)?;
        }
    }
    Ok(())
}
