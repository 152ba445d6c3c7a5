//! From what gossip says to what the switch should have: a pure function.
//!
//! - With a network comes its gateway, at the same addresses on every node, and goes with it.
//! - A network is in the switch while this node has ports in it, and not before or after (lazy).
//! - A peer of a network is a live node that says it has ports there, under the same id and VNI.
//! - So is a foreign end point that a plain network's record names, unless a node is at that address.
//! - Endpoints are announced with their MAC addresses and addresses: this node's at their ports, others' at their nodes.
//! - A service with virtual addresses is balanced by this node's switch, in every network that is carried and that it is
//!   in: among the endpoints there that say they answer for it. Its addresses are no endpoint's.
//! - Of two nodes that say they are at one address, the one with the later life is: the other has been there before.
//! - Two records may have one VNI, if both sides of a partition made one. Everybody then carries the older, or of two
//!   that are equally old the one with the smaller id. The other one is carried by nobody: frames of two networks never
//!   meet, and one that is to be sealed is never taken for one that is not.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::balanced::{self, Balanced};
use super::gateways;
use super::view::{Backend, NetworkId, NetworkView, NodeView, View};
use crate::crypto::identity::NodeId;
use crate::gateway::Addresses;
use crate::switch::tunnel::Protection;
use crate::switch::wire::{MacAddr, Vni};

/// What the switch should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The networks that are carried.
    pub networks: BTreeMap<Vni, Carried>,
    /// Where the peers are that [`Self::networks`] name.
    pub nodes: BTreeMap<NodeId, SocketAddr>,
    /// Peers with which keys are needed: those in a network that is sealed.
    pub sessions: BTreeSet<NodeId>,
    /// Networks that are not carried though this node has ports in them.
    pub refused: BTreeMap<NetworkId, Refused>,
}

/// A network in the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Which one.
    pub id: NetworkId,
    /// How its frames cross the underlay.
    pub protection: Protection,
    /// The nodes that its frames go to.
    pub peers: BTreeSet<NodeId>,
    /// Where its frames go to besides, to whom no node is.
    pub foreign: BTreeSet<SocketAddr>,
    /// This node's endpoints in it, by id.
    pub ports: BTreeSet<String>,
    /// Where its gateway is, which this node has as every other.
    pub gateway: Option<Addresses>,
    /// Endpoints whose place and addresses are known, so that nobody has to ask or to learn.
    pub announced: BTreeMap<MacAddr, Announcement>,
    /// Its services that have virtual addresses, by the MAC address of these.
    pub services: BTreeMap<MacAddr, Balanced>,
}

/// An endpoint that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Where it is.
    pub at: At,
    /// Its addresses: who asks for them is answered here.
    pub addresses: Vec<IpAddr>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// Here, by its id: one of [`Carried::ports`].
    Here(String),
    /// At one of [`Carried::peers`].
    There(NodeId),
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The network that it is in.
    pub network: NetworkId,
    /// Its MAC address, if that is known.
    pub mac: Option<MacAddr>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its part in a service, if it has one.
    pub backend: Option<Backend>,
}

/// Why a network with ports of this node is not carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no record: it was removed, or is not known here yet.
    #[error("network {0} is not known: it has been removed, or not been heard of yet")]
    Unknown(NetworkId),
    /// An older one has its VNI.
    #[error(
        "network {loser} carries nothing: {winner} has VNI {vni} too and is older; remove one and make it again"
    )]
    VniTaken {
        /// The VNI of both.
        vni: Vni,
        /// Name of the one that is carried.
        winner: String,
        /// Name of the one that is not.
        loser: String,
    },
}

/// Who says that it answers for a service, of each network.
type Backends<'v> = BTreeMap<Vni, Vec<(MacAddr, &'v Backend)>>;

/// What the switch should have, given this node's endpoints by id.
#[must_use]
pub fn plan(view: &View, endpoints: &BTreeMap<String, LocalEndpoint>) -> Plan {
    let winners = winners(&view.networks);
    let (mut plan, mut backends) = (Plan::default(), Backends::new());
    for (endpoint, local) in endpoints {
        let id = &local.network;
        let record = view.networks.iter().find(|network| network.id == *id);
        match record.map(|record| (record, winners[&record.vni])) {
            None => {
                plan.refused.insert(id.clone(), Refused::Unknown(id.clone()));
            }
            Some((record, winner)) if winner.id != *id => {
                let (winner, loser) = (winner.name.clone(), record.name.clone());
                plan.refused.insert(id.clone(), Refused::VniTaken { vni: record.vni, winner, loser });
            }
            Some((record, _)) => {
                let carried = plan.networks.entry(record.vni).or_insert_with(|| carried(record, view));
                carried.ports.insert(endpoint.clone());
                if let Some(mac) = local.mac
                    && carried.announce(mac, At::Here(endpoint.clone()), &local.addresses)
                {
                    let backend = local.backend.iter().map(|backend| (mac, backend));
                    backends.entry(record.vni).or_default().extend(backend);
                }
            }
        }
    }
    for node in nodes(&view.nodes).into_values() {
        plan.add_node(node, &mut backends);
    }
    for (vni, carried) in &mut plan.networks {
        let backends = backends.remove(vni).unwrap_or_default();
        balanced::fill(&mut carried.services, &mut carried.announced, &winners[vni].subnets, backends);
    }
    plan
}

impl Plan {
    /// A node is a peer in those of the networks in which it has ports, and its endpoints there are announced.
    fn add_node<'v>(&mut self, node: &'v NodeView, backends: &mut Backends<'v>) {
        for (id, vni) in &node.present {
            let Some(carried) = self.networks.get_mut(vni).filter(|carried| carried.id == *id) else {
                continue;
            };
            carried.peers.insert(node.node);
            self.nodes.insert(node.node, node.data);
            if carried.protection == Protection::Sealed {
                self.sessions.insert(node.node);
            }
            for endpoint in node.endpoints.iter().filter(|endpoint| endpoint.network == *id) {
                if carried.announce(endpoint.mac, At::There(node.node), &endpoint.addresses) {
                    let backend = endpoint.backend.iter().map(|backend| (endpoint.mac, backend));
                    backends.entry(*vni).or_default().extend(backend);
                }
            }
        }
    }
}

impl Carried {
    /// Of two that say they have one MAC address, ours counts, or the node's that comes first. What is no device's is
    /// nobody's, and what is the gateway's or a service's is no endpoint's. Gives whether it counts.
    fn announce(&mut self, mac: MacAddr, at: At, addresses: &[IpAddr]) -> bool {
        let gateway = self.gateway.as_ref();
        let is_taken =
            gateway.is_some_and(|gateway| gateway.mac() == mac) || self.services.contains_key(&mac);
        if mac.is_multicast() || mac.is_zero() || is_taken {
            return false;
        }
        let Entry::Vacant(free) = self.announced.entry(mac) else { return false };
        let is_free = |address: &&IpAddr| !gateway.is_some_and(|gateway| gateway.is_at(**address));
        let addresses = addresses.iter().filter(is_free).copied().collect();
        free.insert(Announcement { at, addresses });
        true
    }

    /// Whether anybody is in it, here or at a peer.
    pub(super) fn has_members(&self) -> bool {
        let nobody = self.ports.is_empty() && self.peers.is_empty() && self.foreign.is_empty();
        !nobody || self.gateway.is_some()
    }
}

fn carried(record: &NetworkView, view: &View) -> Carried {
    // What a node has is a node's, and what is sealed is sealed for nodes.
    let is_foreign = |at: &&SocketAddr| {
        record.protection == Protection::Plain && view.nodes.iter().all(|node| node.data.ip() != at.ip())
    };
    let gateway = gateways::addresses(record);
    Carried {
        id: record.id.clone(),
        protection: record.protection,
        peers: BTreeSet::new(),
        foreign: record.foreign.iter().filter(is_foreign).copied().collect(),
        ports: BTreeSet::new(),
        announced: BTreeMap::new(),
        services: balanced::services(&view.services, &record.id, gateway.as_ref()),
        gateway,
    }
}

/// The node at each address.
fn nodes(nodes: &[NodeView]) -> BTreeMap<SocketAddr, &NodeView> {
    let mut there = BTreeMap::<SocketAddr, &NodeView>::new();
    for node in nodes {
        let latest = there.entry(node.data).or_insert(node);
        if (node.life, node.node) > (latest.life, latest.node) {
            *latest = node;
        }
    }
    there
}

/// The record that each VNI is carried for: all nodes that know the same records choose the same.
fn winners(networks: &[NetworkView]) -> BTreeMap<Vni, &NetworkView> {
    let age = |network: &NetworkView| (network.created_ms, network.id.clone());
    let mut winners = BTreeMap::<Vni, &NetworkView>::new();
    for network in networks {
        let winner = winners.entry(network.vni).or_insert(network);
        if age(network) < age(winner) {
            *winner = network;
        }
    }
    winners
}

#[cfg(test)]
mod tests {
    use super::super::view::{BackendState, RemoteEndpoint, ServiceView};
    use super::*;
    use crate::api::Subnet;
    use crate::switch::balance::{IdleLimits, Task, TaskState};

    fn network(id: &str, vni: u32, created_ms: u64, protection: Protection) -> NetworkView {
        let (id, name) = (NetworkId(id.into()), format!("net-{id}"));
        let subnet = Subnet {
            subnet: "10.0.9.0/24".parse().unwrap(),
            gateway: [10, 0, 9, 1].into(),
            ip_range: None,
            reserved: Default::default(),
        };
        NetworkView {
            id,
            name,
            vni: Vni::new(vni).unwrap(),
            protection,
            underlay_mtu: None,
            subnets: vec![subnet],
            internal: false,
            foreign: BTreeSet::new(),
            created_ms,
        }
    }

    fn node(number: u8, life: u64, present: &[(&str, u32)]) -> NodeView {
        NodeView {
            node: NodeId::from_bytes([number; 16]),
            name: format!("node-{number}"),
            life,
            data: SocketAddr::from(([192, 0, 2, number], 4_789)),
            present: present
                .iter()
                .map(|&(id, vni)| (NetworkId(id.into()), Vni::new(vni).unwrap()))
                .collect(),
            endpoints: Vec::new(),
        }
    }

    fn endpoints(all: &[(&str, &str)]) -> BTreeMap<String, LocalEndpoint> {
        let local = |id: &str| LocalEndpoint {
            network: NetworkId(id.into()),
            mac: None,
            addresses: Vec::new(),
            backend: None,
        };
        all.iter().map(|&(name, id)| (name.into(), local(id))).collect()
    }

    fn ids(nodes: &[u8]) -> BTreeSet<NodeId> {
        nodes.iter().map(|&number| NodeId::from_bytes([number; 16])).collect()
    }

    #[test]
    fn a_network_is_here_from_the_first_port_to_the_last() {
        let view = View {
            nodes: vec![node(2, 1, &[("a", 1), ("b", 2)]), node(3, 1, &[("b", 2)]), node(4, 1, &[])],
            networks: vec![network("a", 1, 5, Protection::Plain), network("b", 2, 6, Protection::Sealed)],
            services: Vec::new(),
        };
        assert_eq!(plan(&view, &endpoints(&[])), Plan::default());
        let plain = plan(&view, &endpoints(&[("x", "a")]));
        assert_eq!(plain.networks.len(), 1);
        assert_eq!((plain.nodes.len(), plain.sessions.len()), (1, 0));
        let both = plan(&view, &endpoints(&[("x", "a"), ("y", "b"), ("z", "b")]));
        let [a, b] = [1, 2].map(|vni| &both.networks[&Vni::new(vni).unwrap()]);
        assert_eq!((&a.peers, a.protection), (&ids(&[2]), Protection::Plain));
        assert_eq!((&b.peers, b.protection), (&ids(&[2, 3]), Protection::Sealed));
        assert_eq!(b.ports, ["y".to_owned(), "z".to_owned()].into());
        assert_eq!(both.sessions, ids(&[2, 3]));
        let gateway = a.gateway.as_ref().unwrap();
        assert!(gateway.is_at([10, 0, 9, 1].into()) && gateway.all().len() == 1);
    }

    #[test]
    fn of_two_networks_with_one_vni_the_older_is_carried_and_the_other_reported() {
        let records = [
            network("b", 7, 5, Protection::Plain),
            network("a", 7, 6, Protection::Sealed),
            network("c", 7, 5, Protection::Sealed),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let networks = order.map(|at| records[at].clone()).into();
            // A peer that has not heard of the older one, and one that says another VNI.
            let nodes =
                vec![node(2, 1, &[("a", 7)]), node(3, 1, &[("b", 7), ("a", 7)]), node(4, 1, &[("b", 8)])];
            let made = plan(
                &View { nodes, networks, services: Vec::new() },
                &endpoints(&[("x", "a"), ("y", "b"), ("z", "c")]),
            );
            let carried = &made.networks[&Vni::new(7).unwrap()];
            assert_eq!((carried.id.0.as_str(), carried.protection), ("b", Protection::Plain));
            assert_eq!((&carried.peers, &carried.ports), (&ids(&[3]), &["y".to_owned()].into()));
            assert_eq!((made.networks.len(), made.sessions.len()), (1, 0));
            let refused: Vec<_> = made.refused.values().map(ToString::to_string).collect();
            assert_eq!(refused.len(), 2);
            assert!(refused[0].contains("net-a") && refused[0].contains("net-b has VNI 7"), "{refused:?}");
        }
    }

    #[test]
    fn foreign_end_points_are_in_plain_networks_and_where_no_node_is() {
        let at = |last: u8| SocketAddr::from(([192, 0, 2, last], 4_789));
        let with = |id, vni, protection| NetworkView {
            foreign: [at(2), at(9)].into(),
            ..network(id, vni, 5, protection)
        };
        let networks = vec![with("a", 1, Protection::Plain), with("b", 2, Protection::Sealed)];
        let foreign = |nodes| {
            let made = plan(
                &View { nodes, networks: networks.clone(), services: Vec::new() },
                &endpoints(&[("x", "a"), ("y", "b")]),
            );
            [1, 2].map(|vni| made.networks[&Vni::new(vni).unwrap()].foreign.clone())
        };
        assert_eq!(foreign(vec![]), [[at(2), at(9)].into(), [].into()]);
        // Whichever networks it has, and whatever its port.
        let node = NodeView { data: SocketAddr::from(([192, 0, 2, 2], 4_790)), ..node(2, 1, &[]) };
        assert_eq!(foreign(vec![node]), [[at(9)].into(), [].into()]);
    }

    #[test]
    fn a_network_without_a_record_is_reported() {
        let made = plan(&View::default(), &endpoints(&[("x", "gone")]));
        let id = NetworkId("gone".into());
        assert_eq!(made.refused[&id], Refused::Unknown(id.clone()));
        assert!(made.networks.is_empty());
    }

    #[test]
    fn an_address_is_the_newcomers() {
        let networks = vec![network("a", 1, 5, Protection::Plain)];
        let newcomer = NodeView { data: node(2, 1, &[]).data, ..node(3, 9, &[("a", 1)]) };
        let nodes = vec![newcomer.clone(), node(2, 8, &[("a", 1)])];
        let made = plan(&View { nodes, networks, services: Vec::new() }, &endpoints(&[("x", "a")]));
        assert_eq!(made.nodes, [(newcomer.node, newcomer.data)].into());
    }

    #[test]
    fn services_have_the_tasks_of_this_node_and_of_live_peers() {
        let mac = |last| MacAddr([2, 0x42, 10, 0, 9, last]);
        let backend = |service: &str, state| Some(Backend { service: service.into(), state });
        let remote = |last, backend| RemoteEndpoint {
            id: format!("id-{last}"),
            name: format!("e{last}"),
            aliases: Vec::new(),
            network: NetworkId("a".into()),
            mac: mac(last),
            addresses: vec![[10, 0, 9, last].into()],
            backend,
        };
        let mut near = node(2, 1, &[("a", 1)]);
        near.endpoints = vec![
            remote(2, backend("web", BackendState::Draining)),
            remote(3, backend("other", BackendState::Live)),
            remote(4, None),
            // Ours, by its MAC address; and somebody at the service's.
            remote(5, backend("db", BackendState::Live)),
            remote(100, backend("web", BackendState::Live)),
            RemoteEndpoint { addresses: vec![[10, 0, 9, 100].into()], ..remote(7, None) },
        ];
        let mut absent = node(3, 1, &[]);
        absent.endpoints = vec![remote(6, backend("web", BackendState::Live))];
        let service = |id: &str, network: &str, last: Option<u8>| ServiceView {
            id: id.into(),
            name: format!("name-{id}"),
            network: NetworkId(network.into()),
            aliases: Vec::new(),
            vips: last.map(|last| [10, 0, 9, last].into()).into_iter().collect(),
            idle: IdleLimits::default(),
        };
        let services = vec![
            service("web", "a", Some(100)),
            service("db", "a", Some(101)),
            service("rr", "a", None),
            service("web", "b", Some(100)),
        ];
        let networks = vec![network("a", 1, 5, Protection::Plain), network("b", 2, 6, Protection::Plain)];
        let view = View { nodes: vec![near, absent], networks, services };
        let own = LocalEndpoint {
            network: NetworkId("a".into()),
            mac: Some(mac(5)),
            addresses: vec![[10, 0, 9, 1].into(), [10, 0, 9, 9].into()],
            backend: backend("web", BackendState::Live),
        };
        let made = plan(&view, &[("x".into(), own)].into());
        let [(_, carried)] = made.networks.iter().collect::<Vec<_>>()[..] else { panic!("{made:?}") };
        let tasks = |service: &Balanced| -> Vec<_> {
            let task = |task: &Task| (task.mac.0[5], task.ipv4.map(|own| own.octets()[3]), task.state);
            service.spec.tasks.iter().map(task).collect()
        };
        let services: Vec<_> = carried.services.iter().map(|(mac, of)| (mac.0[5], tasks(of))).collect();
        // The gateway has the first address of ours.
        let web = vec![(2, Some(2), TaskState::Draining), (5, Some(9), TaskState::Live)];
        assert_eq!(services, [(100, web), (101, vec![])]);
        let announced: Vec<u8> = carried.announced.keys().map(|mac| mac.0[5]).collect();
        assert_eq!(announced, [2, 3, 4, 5, 7], "what is at the service's MAC address is not");
        assert!(carried.announced[&mac(7)].addresses.is_empty(), "nor what is at its address");
    }

    #[test]
    fn endpoints_are_announced_where_they_are() {
        let mac = |last| MacAddr([2, 0x42, 10, 0, 0, last]);
        let remote = |network: &str, last| RemoteEndpoint {
            id: format!("id-{last}"),
            name: format!("e{last}"),
            aliases: Vec::new(),
            network: NetworkId(network.into()),
            mac: mac(last),
            addresses: vec![[10, 0, 0, last].into()],
            backend: None,
        };
        let mut near = node(2, 1, &[("a", 1)]);
        // In a network that is not carried here, ours by its MAC address, and no device's.
        near.endpoints = vec![remote("a", 2), remote("b", 3), remote("a", 1)];
        near.endpoints.push(RemoteEndpoint { mac: MacAddr::BROADCAST, ..remote("a", 4) });
        let mut far = node(3, 1, &[("a", 1)]);
        far.endpoints = vec![remote("a", 2), remote("a", 5)];
        // It says that it has no port there, so nothing can be sent to it.
        let mut absent = node(4, 1, &[]);
        absent.endpoints = vec![remote("a", 6)];
        let view = View {
            nodes: vec![far, near, absent],
            networks: vec![network("a", 1, 5, Protection::Plain), network("b", 2, 6, Protection::Plain)],
            services: Vec::new(),
        };
        let own = LocalEndpoint {
            network: NetworkId("a".into()),
            mac: Some(mac(1)),
            addresses: vec![[10, 0, 0, 1].into()],
            backend: None,
        };
        let made = plan(&view, &[("x".into(), own)].into());
        let announced = &made.networks[&Vni::new(1).unwrap()].announced;
        let there = |number: u8| At::There(NodeId::from_bytes([number; 16]));
        let wanted = [(1, At::Here("x".into())), (2, there(2)), (5, there(3))];
        let wanted = wanted
            .map(|(last, at)| (mac(last), Announcement { at, addresses: vec![[10, 0, 0, last].into()] }));
        assert_eq!(*announced, wanted.into());
    }
}
