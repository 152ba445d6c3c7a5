//! What a lab is to be: names, addresses and networks, computed and not yet made.
//!
//! Addresses say where they belong: `10.M.N.K` is endpoint `K` of node `N` in network `M`; `fd00:M::N:K` likewise;
//! `198.18.0.N` (RFC 2544's range for benchmarks) or `2001:db8::N` (RFC 3849's for documentation) is node `N`, and
//! `198.18.255.254` or `2001:db8::ffff` the host that is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde::Serialize;
use serde::ser::SerializeStruct;
use vswitchd_switch::io::mem::Faults;
use vswitchd_switch::tunnel::Protection;
use vswitchd_switch::wire::{MacAddr, Vni};

/// Nodes of a lab: the last byte of an address must do, and each is a process with its threads.
pub const NODES: RangeInclusive<u16> = 1..=64;
/// Endpoints of a node: `a` to `p`.
pub const ENDPOINTS: RangeInclusive<u16> = 0..=16;
/// Networks of a lab.
pub const NETWORKS: RangeInclusive<u16> = 1..=16;
/// Endpoints of a lab: the check pings every ordered pair.
pub const ENDPOINTS_MAX: usize = 128;
/// Bytes of the underlay's largest packet.
pub const UNDERLAY_MTU: u32 = 1500;
/// VNI of the first network; the others follow.
pub const FIRST_VNI: u16 = 42;
/// Prefix lengths of the underlay, IPv4 and IPv6.
pub const UNDERLAY_PREFIX: (u8, u8) = (15, 64);
/// The name of [`Plan::outside`].
pub const OUTSIDE: &str = "outside";
/// Prefix lengths of a network, IPv4 and IPv6.
pub const NETWORK_PREFIX: (u8, u8) = (16, 64);

/// What joins the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnderlayKind {
    /// A kernel bridge and a veth pair for each node.
    Veth,
    /// A TAP in each node and a simulated link between them, with faults.
    Wire,
}

impl std::fmt::Display for UnderlayKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Veth => "veth",
            Self::Wire => "wire",
        })
    }
}

/// The size of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Nodes, within [`NODES`].
    pub nodes: u16,
    /// Endpoints of each node, within [`ENDPOINTS`].
    pub endpoints: u16,
    /// Networks, within [`NETWORKS`]; a node's endpoints are spread over them in turn.
    pub networks: u16,
    /// What joins the nodes.
    pub underlay: UnderlayKind,
    /// Whether the nodes talk over IPv6. Endpoints have addresses of both families in any case.
    pub ipv6: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 3, endpoints: 2, networks: 2, underlay: UnderlayKind::Veth, ipv6: false }
    }
}

/// Why a shape can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A number is out of its range.
    #[error("{what} must be {} to {}, not {given}", range.0, range.1)]
    Range {
        /// What is counted.
        what: &'static str,
        /// The least and the most.
        range: (u16, u16),
        /// What was asked for.
        given: u16,
    },
    /// More than [`ENDPOINTS_MAX`] endpoints together.
    #[error("{given} endpoints are too many: nodes times endpoints must be at most {ENDPOINTS_MAX}")]
    Endpoints {
        /// What was asked for.
        given: usize,
    },
}

/// A lab that is not yet made. Its parts may be changed before it is built, for tests that need odd ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What joins the nodes.
    pub underlay: UnderlayKind,
    /// Bytes of the underlay's largest packet.
    pub underlay_mtu: u32,
    /// Nodes, in order.
    pub nodes: Vec<NodePlan>,
    /// The host of the underlay that is no node and runs no daemon: for the networks, the world outside.
    pub outside: NodePlan,
    /// Networks, in order.
    pub networks: Vec<NetworkPlan>,
    /// What the underlay does to packets, if it is a wire.
    pub wire: WirePlan,
    /// Whether the nodes' daemons are left alone: they are in no cluster, until somebody makes one of them.
    pub bare: bool,
}

/// The faults of a simulated underlay; perfect by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WirePlan {
    /// What is done to packets.
    pub faults: Faults,
    /// Seed of the dice: the same seed throws the same.
    pub seed: u64,
}

impl Serialize for WirePlan {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("WirePlan", 6)?;
        fields.serialize_field("loss", &self.faults.loss)?;
        fields.serialize_field("duplicate", &self.faults.duplicate)?;
        fields.serialize_field("reorder", &self.faults.reorder)?;
        fields.serialize_field("delay_ms", &(self.faults.delay.as_secs_f64() * 1e3))?;
        fields.serialize_field("jitter_ms", &(self.faults.jitter.as_secs_f64() * 1e3))?;
        fields.serialize_field("seed", &self.seed)?;
        fields.end()
    }
}

/// A network that endpoints are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkPlan {
    /// `net1`, `net2`, …
    pub name: String,
    /// Its identifier on the wire.
    #[serde(serialize_with = "as_text")]
    pub vni: Vni,
    /// Whether its data is sealed between nodes; in [`Plan::new`] the last of several networks is.
    pub encrypted: bool,
}

/// A node: a host that runs a switch, or [`Plan::outside`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePlan {
    /// `node1`, `node2`, …, or [`OUTSIDE`].
    pub name: String,
    /// Its address in the underlay.
    pub address: IpAddr,
    /// MAC address of its interface in the underlay.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// Its endpoints, in order.
    pub endpoints: Vec<EndpointPlan>,
}

/// An endpoint: what would be a container or a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointPlan {
    /// `n1a`, `n1b`, `n2a`, …
    pub name: String,
    /// Index of its network in [`Plan::networks`].
    pub network: usize,
    /// MAC address of its `eth0`.
    #[serde(serialize_with = "as_text")]
    pub mac: MacAddr,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

fn as_text<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Plan {
    /// Computes names and addresses.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn new(shape: Shape) -> Result<Self, PlanError> {
        in_range("the number of nodes", shape.nodes, &NODES)?;
        in_range("the number of endpoints of a node", shape.endpoints, &ENDPOINTS)?;
        in_range("the number of networks", shape.networks, &NETWORKS)?;
        let given = usize::from(shape.nodes) * usize::from(shape.endpoints);
        if given > ENDPOINTS_MAX {
            return Err(PlanError::Endpoints { given });
        }
        Ok(Self {
            underlay: shape.underlay,
            underlay_mtu: UNDERLAY_MTU,
            nodes: (1..=shape.nodes).map(|number| node(number, shape)).collect(),
            outside: outside(shape),
            networks: (1..=shape.networks).map(|number| network(number, shape)).collect(),
            wire: WirePlan::default(),
            bare: false,
        })
    }

    /// The same of nodes alone: no endpoints, no networks, no cluster.
    ///
    /// # Errors
    /// If a number is out of its range.
    pub fn bare(shape: Shape) -> Result<Self, PlanError> {
        let plan = Self::new(Shape { endpoints: 0, ..shape })?;
        Ok(Self { networks: Vec::new(), bare: true, ..plan })
    }

    /// Every endpoint in order, with the index of its node.
    pub fn endpoints(&self) -> impl Iterator<Item = (usize, &EndpointPlan)> {
        self.nodes.iter().enumerate().flat_map(|(index, node)| node.endpoints.iter().map(move |e| (index, e)))
    }

    /// The name of the endpoint of that index.
    pub(super) fn endpoint_name(&self, index: usize) -> &str {
        self.endpoints().nth(index).map_or("?", |(_, endpoint)| endpoint.name.as_str())
    }

    /// Whether the network of the endpoint of that index is encrypted.
    pub(super) fn is_encrypted(&self, index: usize) -> bool {
        self.endpoints().nth(index).is_some_and(|(_, endpoint)| self.networks[endpoint.network].encrypted)
    }

    /// Every host of the underlay: the nodes in order, then the one outside.
    pub fn hosts(&self) -> impl Iterator<Item = &NodePlan> {
        self.nodes.iter().chain([&self.outside])
    }

    /// Bytes of the largest IP packet of each endpoint of a network, where a whole underlay packet gets through.
    ///
    /// # Panics
    /// If there is no network or no node of that index.
    #[must_use]
    pub fn mtu(&self, network: usize) -> u32 {
        let network = &self.networks[network];
        let protection = if network.encrypted { Protection::Sealed } else { Protection::Plain };
        protection.mtu(self.nodes[0].address, self.underlay_mtu)
    }

    /// Whether the underlay neither loses, delays, reorders nor doubles.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.underlay == UnderlayKind::Veth || self.wire.faults == Faults::default()
    }

    /// Whether the nodes talk over IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.nodes.first().is_some_and(|node| node.address.is_ipv6())
    }
}

impl NodePlan {
    /// The networks that this node has endpoints in, each once, in order.
    #[must_use]
    pub fn networks(&self) -> Vec<usize> {
        let mut networks: Vec<usize> = self.endpoints.iter().map(|endpoint| endpoint.network).collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }
}

fn in_range(what: &'static str, given: u16, range: &RangeInclusive<u16>) -> Result<(), PlanError> {
    let ok = range.contains(&given);
    ok.then_some(()).ok_or_else(|| PlanError::Range { what, range: (*range.start(), *range.end()), given })
}

fn network(number: u16, shape: Shape) -> NetworkPlan {
    let vni = Vni::new(u32::from(FIRST_VNI + number - 1)).expect("a few more than the first VNI");
    let encrypted = shape.networks > 1 && number == shape.networks;
    NetworkPlan { name: format!("net{number}"), vni, encrypted }
}

fn node(number: u16, shape: Shape) -> NodePlan {
    let [_, low] = number.to_be_bytes();
    let address = if shape.ipv6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number))
    } else {
        IpAddr::V4(Ipv4Addr::new(198, 18, 0, low))
    };
    let endpoints = (0..shape.endpoints).map(|index| endpoint(number, index, index % shape.networks));
    NodePlan {
        name: format!("node{number}"),
        address,
        // Locally administered (IEEE 802 §8.4); the second byte tells the underlay's from the endpoints'.
        mac: MacAddr([0x02, 0, 0, 0, 0, low]),
        endpoints: endpoints.collect(),
    }
}

fn outside(shape: Shape) -> NodePlan {
    let address = if shape.ipv6 {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xffff))
    } else {
        IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254))
    };
    // The third byte tells it from the nodes.
    NodePlan { name: OUTSIDE.into(), address, mac: MacAddr([0x02, 0, 1, 0, 0, 0]), endpoints: Vec::new() }
}

fn endpoint(node: u16, index: u16, network: u16) -> EndpointPlan {
    let [_, n] = node.to_be_bytes();
    let [_, k] = (index + 1).to_be_bytes();
    let [_, m] = (network + 1).to_be_bytes();
    EndpointPlan {
        name: format!("n{node}{}", char::from(b'a' + k - 1)),
        network: usize::from(network),
        mac: MacAddr([0x02, 1, 0, m, n, k]),
        v4: Ipv4Addr::new(10, m, n, k),
        v6: Ipv6Addr::new(0xfd00, network + 1, 0, 0, 0, 0, node, index + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_default_is_three_nodes_with_one_endpoint_in_each_of_two_networks() {
        let plan = Plan::new(Shape::default()).unwrap();
        let names: Vec<_> = plan.endpoints().map(|(node, e)| (node, e.name.as_str(), e.network)).collect();
        assert_eq!(
            names,
            [(0, "n1a", 0), (0, "n1b", 1), (1, "n2a", 0), (1, "n2b", 1), (2, "n3a", 0), (2, "n3b", 1)]
        );
        assert_eq!(plan.nodes[2].address, IpAddr::from([198, 18, 0, 3]));
        assert_eq!(plan.nodes[1].endpoints[1].v4, Ipv4Addr::new(10, 2, 2, 2));
        assert_eq!(plan.nodes[1].endpoints[1].v6, "fd00:2::2:2".parse::<Ipv6Addr>().unwrap());
        let vnis: Vec<_> = plan.networks.iter().map(|network| network.vni.id()).collect();
        assert_eq!(vnis, [42, 43]);
    }

    #[test]
    fn the_last_of_several_networks_is_sealed_and_has_smaller_packets() {
        for (networks, ipv6, mtus) in
            [(1, false, vec![1450]), (2, false, vec![1450, 1420]), (3, true, vec![1430, 1430, 1400])]
        {
            let plan = Plan::new(Shape { networks, ipv6, ..Shape::default() }).unwrap();
            let planned: Vec<_> = (0..plan.networks.len()).map(|network| plan.mtu(network)).collect();
            assert_eq!(planned, mtus);
            let sealed: Vec<_> = plan.networks.iter().map(|network| network.encrypted).collect();
            assert_eq!(sealed.iter().filter(|&&sealed| sealed).count(), usize::from(networks > 1));
            assert!(networks == 1 || sealed[usize::from(networks) - 1]);
        }
    }

    #[test]
    fn endpoints_go_round_the_networks() {
        let plan = Plan::new(Shape { nodes: 1, endpoints: 5, networks: 2, ..Shape::default() }).unwrap();
        let networks: Vec<_> = plan.endpoints().map(|(_, e)| e.network).collect();
        assert_eq!(networks, [0, 1, 0, 1, 0]);
        assert_eq!(plan.nodes[0].networks(), [0, 1]);
    }

    #[test]
    fn nothing_is_given_twice_in_the_largest_labs() {
        for (nodes, endpoints) in [(64, 2), (8, 16)] {
            for ipv6 in [false, true] {
                let shape = Shape { nodes, endpoints, networks: 16, ipv6, ..Shape::default() };
                let plan = Plan::new(shape).unwrap();
                let mut seen = HashSet::new();
                for node in plan.hosts() {
                    assert_eq!(node.address.is_ipv6(), ipv6);
                    for text in [node.name.clone(), node.address.to_string(), node.mac.to_string()] {
                        assert!(seen.insert(text));
                    }
                }
                for (_, e) in plan.endpoints() {
                    for text in [e.name.clone(), e.v4.to_string(), e.v6.to_string(), e.mac.to_string()] {
                        assert!(seen.insert(text));
                    }
                    assert!(!e.mac.is_multicast());
                }
            }
        }
    }

    #[test]
    fn a_bare_lab_has_nodes_alone() {
        let plan = Plan::bare(Shape { nodes: 4, ..Shape::default() }).unwrap();
        assert_eq!((plan.nodes.len(), plan.endpoints().count(), plan.networks.len()), (4, 0, 0));
        assert!(plan.bare && !Plan::new(Shape::default()).unwrap().bare);
        assert!(Plan::bare(Shape { nodes: 65, ..Shape::default() }).is_err());
    }

    #[test]
    fn every_number_has_its_range() {
        for shape in [
            Shape { nodes: 0, ..Shape::default() },
            Shape { nodes: 65, ..Shape::default() },
            Shape { endpoints: 17, ..Shape::default() },
            Shape { networks: 0, ..Shape::default() },
            Shape { networks: 17, ..Shape::default() },
            Shape { nodes: 64, endpoints: 3, ..Shape::default() },
        ] {
            assert!(Plan::new(shape).is_err(), "{shape:?}");
        }
        assert!(Plan::new(Shape { endpoints: 0, ..Shape::default() }).is_ok(), "bare nodes are for tests");
    }
}
