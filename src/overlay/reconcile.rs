//! From what the switch has to what it should have, in steps that keep to what a network's type promises.
//!
//! 1. What is not to stay as it is goes first: ports and peers of networks that are another now, peers that have moved or
//!    whose address is another node's now.
//! 2. A network is sealed before it gets its first member.
//! 3. What is announced is withdrawn first and announced last: the place has to be there. With the place its announcements
//!    go, so those of one that comes back are made anew.
//! 4. A service goes before what is announced, and is set after it: its addresses may have been an endpoint's, or become
//!    one's. All is published together, so the flows of a task that is withdrawn are reset as soon as it is. A network
//!    that is without members for a moment loses its services; they are set anew.
//! 5. Peers come before others go, so that one that only changes networks keeps its keys and counters. Foreign ones go
//!    first and come last: a node that comes to where one was, or goes from there, is another peer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::balanced::Balanced;
use super::plan::{Announcement, At, Carried, Plan};
use crate::crypto::identity::NodeId;
use crate::gateway::Addresses;
use crate::switch::tunnel::Protection;
use crate::switch::wire::{MacAddr, Vni};

/// One call of the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Have a network's frames sealed from its first member on.
    Seal(Vni),
    /// Give an endpoint a port.
    Plug(String, Vni),
    /// Take an endpoint's port away.
    Unplug(String),
    /// Give a network's gateway its port, and announce it there.
    OpenGateway(Vni, Addresses),
    /// Take the port of a network's gateway away.
    CloseGateway(Vni),
    /// Add a node to a network's peers.
    AddPeer(Vni, NodeId, SocketAddr),
    /// Take a node out of a network's peers.
    RemovePeer(Vni, NodeId, SocketAddr),
    /// Add a foreign end point to a network's peers.
    AddForeign(Vni, SocketAddr),
    /// Take one out of them.
    RemoveForeign(Vni, SocketAddr),
    /// Forget a network that is left empty.
    Forget(Vni),
    /// Say where an endpoint is and which addresses it has.
    Announce(Vni, MacAddr, Announcement),
    /// Take that back.
    Withdraw(Vni, MacAddr),
    /// Have a service balanced, or in another way.
    SetService(Vni, Balanced),
    /// Have it balanced no more.
    RemoveService(Vni, MacAddr),
}

/// What the switch has: what has been done of plans before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// Networks with their members.
    pub networks: BTreeMap<Vni, Carried>,
    /// Where the peers among those members are.
    pub nodes: BTreeMap<NodeId, SocketAddr>,
}

/// The steps from the one to the other, few where little has changed.
#[must_use]
pub fn steps(have: &Have, want: &Plan) -> Vec<Step> {
    let displaced = displaced(have, want);
    let mut steps = Vec::new();
    for (&vni, carried) in &have.networks {
        let wanted = want.networks.get(&vni).filter(|wanted| is_same(carried, wanted));
        teardown(vni, carried, wanted, have, &displaced, &mut steps);
    }
    for (&vni, wanted) in &want.networks {
        let carried = have.networks.get(&vni).filter(|carried| is_same(carried, wanted));
        build(vni, carried, wanted, want, &displaced, &mut steps);
    }
    for (&vni, carried) in &have.networks {
        let Some(wanted) = want.networks.get(&vni).filter(|wanted| is_same(carried, wanted)) else {
            continue;
        };
        let gone = carried.peers.difference(&wanted.peers).filter(|node| !displaced.contains(node));
        steps.extend(gone.filter_map(|&node| Some(Step::RemovePeer(vni, node, *have.nodes.get(&node)?))));
    }
    for (&vni, wanted) in &want.networks {
        let carried = have.networks.get(&vni).filter(|carried| is_same(carried, wanted));
        let new =
            wanted.foreign.iter().filter(|at| carried.is_none_or(|carried| !carried.foreign.contains(at)));
        steps.extend(new.map(|&at| Step::AddForeign(vni, at)));
    }
    steps
}

fn is_same(carried: &Carried, wanted: &Carried) -> bool {
    (&carried.id, carried.protection) == (&wanted.id, wanted.protection)
}

/// Peers that have moved, or whose address another node has now.
fn displaced(have: &Have, want: &Plan) -> BTreeSet<NodeId> {
    let taken: BTreeMap<SocketAddr, NodeId> = want.nodes.iter().map(|(&node, &at)| (at, node)).collect();
    let is_displaced = |&(node, at): &(&NodeId, &SocketAddr)| {
        want.nodes.get(node).is_some_and(|to| to != at) || taken.get(at).is_some_and(|other| other != node)
    };
    have.nodes.iter().filter(is_displaced).map(|(&node, _)| node).collect()
}

/// What can't stay while the rest is built; all of a network that is not `wanted` as it is.
fn teardown(
    vni: Vni,
    carried: &Carried,
    wanted: Option<&Carried>,
    have: &Have,
    displaced: &BTreeSet<NodeId>,
    steps: &mut Vec<Step>,
) {
    let stays = |mac: &MacAddr, had: &Balanced| {
        let service = wanted.and_then(|wanted| wanted.services.get(mac));
        service.is_some_and(|service| service.spec.addresses == had.spec.addresses)
    };
    let gone = carried.services.iter().filter(|(mac, had)| !stays(mac, had));
    steps.extend(gone.map(|(&mac, _)| Step::RemoveService(vni, mac)));
    let announced = |mac: &MacAddr| wanted.is_some_and(|wanted| wanted.announced.contains_key(mac));
    let gone = carried.announced.keys().filter(|mac| !announced(mac));
    steps.extend(gone.map(|&mac| Step::Withdraw(vni, mac)));
    if carried.gateway.is_some() && wanted.is_none_or(|wanted| wanted.gateway != carried.gateway) {
        steps.push(Step::CloseGateway(vni));
    }
    let stays = |port: &String| wanted.is_some_and(|wanted| wanted.ports.contains(port));
    steps.extend(carried.ports.iter().filter(|port| !stays(port)).cloned().map(Step::Unplug));
    let foreign = |at: &SocketAddr| wanted.is_some_and(|wanted| wanted.foreign.contains(at));
    let gone = carried.foreign.iter().filter(|at| !foreign(at));
    steps.extend(gone.map(|&at| Step::RemoveForeign(vni, at)));
    let goes = |node: &NodeId| wanted.is_none() || displaced.contains(node);
    let peers = carried.peers.iter().filter(|node| goes(node));
    steps.extend(peers.filter_map(|&node| Some(Step::RemovePeer(vni, node, *have.nodes.get(&node)?))));
    if wanted.is_none() {
        steps.push(Step::Forget(vni));
    }
}

fn build(
    vni: Vni,
    carried: Option<&Carried>,
    wanted: &Carried,
    want: &Plan,
    displaced: &BTreeSet<NodeId>,
    steps: &mut Vec<Step>,
) {
    if carried.is_none() && wanted.protection == Protection::Sealed {
        steps.push(Step::Seal(vni));
    }
    let gateway = wanted.gateway.as_ref();
    let gateway = gateway.filter(|at| carried.is_none_or(|carried| carried.gateway.as_ref() != Some(*at)));
    steps.extend(gateway.map(|at| Step::OpenGateway(vni, at.clone())));
    let none = BTreeSet::new();
    let there = carried.map_or(&none, |carried| &carried.peers);
    let new = wanted.peers.iter().filter(|node| !there.contains(node) || displaced.contains(node));
    steps.extend(new.filter_map(|&node| Some(Step::AddPeer(vni, node, *want.nodes.get(&node)?))));
    let plugged = |port: &String| carried.is_some_and(|carried| carried.ports.contains(port));
    let ports = wanted.ports.iter().filter(|port| !plugged(port));
    steps.extend(ports.map(|port| Step::Plug(port.clone(), vni)));
    let is_new = |at: &At| match at {
        At::Here(port) => !plugged(port),
        At::There(node) => !there.contains(node) || displaced.contains(node),
    };
    let known = |mac: &MacAddr| carried.and_then(|carried| carried.announced.get(mac));
    let news = wanted.announced.iter().filter(|(mac, own)| known(mac) != Some(own) || is_new(&own.at));
    steps.extend(news.map(|(&mac, own)| Step::Announce(vni, mac, own.clone())));
    let had = carried.filter(|carried| stays_in_use(carried, wanted, displaced));
    let set = |mac: &MacAddr| had.and_then(|had| had.services.get(mac));
    let news = wanted.services.iter().filter(|(mac, service)| set(mac) != Some(service));
    steps.extend(news.map(|(_, service)| Step::SetService(vni, service.clone())));
}

/// Whether a network has members all the time.
fn stays_in_use(carried: &Carried, wanted: &Carried, displaced: &BTreeSet<NodeId>) -> bool {
    carried.ports.intersection(&wanted.ports).next().is_some()
        || carried.foreign.intersection(&wanted.foreign).next().is_some()
        || carried.peers.iter().any(|node| !displaced.contains(node))
        || carried.gateway.as_ref().is_some_and(|gateway| wanted.gateway.as_ref() == Some(gateway))
}

impl Have {
    /// Notes that a step has been done.
    ///
    /// A network that is begun with [`Step::Plug`], [`Step::OpenGateway`] or [`Step::AddPeer`] gets its id and protection from `want`.
    pub fn note(&mut self, step: &Step, want: &Plan) {
        match step {
            Step::Seal(vni) => self.begin(*vni, want),
            Step::Plug(port, vni) => {
                self.begin(*vni, want);
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.ports.insert(port.clone());
                });
            }
            Step::OpenGateway(vni, at) => {
                self.begin(*vni, want);
                self.networks.entry(*vni).and_modify(|carried| carried.gateway = Some(at.clone()));
            }
            Step::CloseGateway(vni) => {
                self.networks.entry(*vni).and_modify(|carried| carried.gateway = None);
            }
            Step::Unplug(port) => self.networks.values_mut().for_each(|carried| {
                carried.ports.remove(port);
                carried.announced.retain(|_, own| own.at != At::Here(port.clone()));
            }),
            Step::AddPeer(vni, node, address) => {
                self.begin(*vni, want);
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.peers.insert(*node);
                });
                self.nodes.insert(*node, *address);
            }
            Step::RemovePeer(vni, node, _) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.peers.remove(node);
                    carried.announced.retain(|_, own| own.at != At::There(*node));
                });
                if !self.networks.values().any(|carried| carried.peers.contains(node)) {
                    self.nodes.remove(node);
                }
            }
            Step::AddForeign(vni, at) => {
                self.begin(*vni, want);
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.foreign.insert(*at);
                });
            }
            Step::RemoveForeign(vni, at) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.foreign.remove(at);
                });
            }
            Step::Forget(vni) => {
                self.networks.remove(vni);
            }
            Step::Announce(vni, mac, own) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.announced.insert(*mac, own.clone());
                });
            }
            Step::Withdraw(vni, mac) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.announced.remove(mac);
                });
            }
            Step::SetService(vni, service) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.services.insert(service.spec.mac, service.clone());
                });
            }
            Step::RemoveService(vni, mac) => {
                self.networks.entry(*vni).and_modify(|carried| {
                    carried.services.remove(mac);
                });
            }
        }
        if matches!(
            step,
            Step::Unplug(_) | Step::CloseGateway(_) | Step::RemovePeer(..) | Step::RemoveForeign(..)
        ) {
            let empty = self.networks.values_mut().filter(|carried| !carried.has_members());
            empty.for_each(|carried| carried.services.clear());
        }
    }

    fn begin(&mut self, vni: Vni, want: &Plan) {
        let Some(wanted) = want.networks.get(&vni) else { return };
        self.networks.entry(vni).or_insert_with(|| Carried {
            id: wanted.id.clone(),
            protection: wanted.protection,
            peers: BTreeSet::new(),
            foreign: BTreeSet::new(),
            ports: BTreeSet::new(),
            announced: BTreeMap::new(),
            services: BTreeMap::new(),
            gateway: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use fastrand::Rng;

    use super::*;
    use crate::overlay::view::NetworkId;
    use crate::switch::balance::{IdleLimits, ServiceSpec};

    fn vni(id: u32) -> Vni {
        Vni::new(id).unwrap()
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    /// Any plan over few networks, nodes, addresses and ports, so that all meet.
    fn any(random: &mut Rng) -> Plan {
        let mut plan = Plan::default();
        let mut addresses: Vec<u16> = (1..=5).collect();
        random.shuffle(&mut addresses);
        let mut ports: Vec<_> = ["a", "b", "c", "d"].map(String::from).into();
        for id in 1..=3 {
            if random.u8(..4) == 0 || ports.is_empty() {
                continue;
            }
            let taken = random.usize(1..=ports.len());
            let protection = if random.bool() { Protection::Sealed } else { Protection::Plain };
            let peers: BTreeSet<_> = (1..=4).filter(|_| random.bool()).map(node).collect();
            let id_of = NetworkId(["x", "y"][random.usize(..2)].into());
            let ports: BTreeSet<String> = ports.drain(..taken).collect();
            let mut announced = BTreeMap::new();
            for last in 0..6 {
                let here = ports.iter().cloned().map(At::Here);
                let places: Vec<At> = here.chain(peers.iter().copied().map(At::There)).collect();
                let at = random.choice(places).filter(|_| random.bool());
                let addresses = vec![[10, 0, 0, random.u8(..2)].into()];
                announced
                    .extend(at.map(|at| (MacAddr([2, 0, 0, 0, 0, last]), Announcement { at, addresses })));
            }
            let services = any_services(random, &mut announced);
            let foreign = BTreeSet::new();
            let gateway = Addresses::new(&[[10, 0, 9, random.u8(1..=2)].into()]).filter(|_| random.bool());
            plan.networks.insert(
                vni(id),
                Carried { id: id_of, protection, peers, foreign, ports, announced, services, gateway },
            );
        }
        let named: BTreeSet<_> = plan.networks.values().flat_map(|carried| carried.peers.clone()).collect();
        let mut addresses = addresses.into_iter().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        plan.nodes = named.into_iter().zip(&mut addresses).collect();
        for carried in plan.networks.values_mut().filter(|of| of.protection == Protection::Plain) {
            carried.foreign = addresses.clone().filter(|_| random.bool()).collect();
        }
        plan
    }

    /// Services with MAC and IP addresses that endpoints may have at other times.
    fn any_services(
        random: &mut Rng,
        announced: &mut BTreeMap<MacAddr, Announcement>,
    ) -> BTreeMap<MacAddr, Balanced> {
        let mut services = BTreeMap::new();
        let mut addresses: Vec<IpAddr> = (0..4).map(|last| [10, 0, 0, last].into()).collect();
        random.shuffle(&mut addresses);
        for last in 4..8 {
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            let own: Vec<IpAddr> = addresses.drain(..random.usize(1..=2).min(addresses.len())).collect();
            if own.is_empty() || random.bool() {
                continue;
            }
            announced.remove(&mac);
            announced.values_mut().for_each(|other| other.addresses.retain(|address| !own.contains(address)));
            let idle = IdleLimits { tcp: Duration::from_secs(random.u64(..2)), ..IdleLimits::default() };
            let spec = ServiceSpec { mac, addresses: own, tasks: Vec::new(), idle };
            services.insert(mac, Balanced { id: last.to_string(), name: "web".into(), spec, crowded: false });
        }
        services
    }

    /// A switch that minds what a real one does: members by address, protection from the first member on.
    #[derive(Default)]
    struct Model {
        sealed: BTreeSet<Vni>,
        peers: BTreeMap<(Vni, SocketAddr), NodeId>,
        foreign: BTreeSet<(Vni, SocketAddr)>,
        ports: BTreeMap<String, Vni>,
        announced: BTreeMap<(Vni, MacAddr), Announcement>,
        gateways: BTreeMap<Vni, Addresses>,
        services: BTreeMap<(Vni, MacAddr), Balanced>,
    }

    impl Model {
        fn has_members(&self, vni: Vni) -> bool {
            self.ports.values().any(|&at| at == vni)
                || self.gateways.contains_key(&vni)
                || self.peers.keys().chain(&self.foreign).any(|&(at, _)| at == vni)
        }

        fn apply(&mut self, step: &Step, want: &Plan) {
            match step {
                Step::Seal(vni) => {
                    assert!(!self.has_members(*vni), "sealed before it has members");
                    self.sealed.insert(*vni);
                }
                Step::Plug(port, vni) => {
                    self.check(*vni, want);
                    assert_eq!(self.ports.insert(port.clone(), *vni), None);
                }
                Step::Unplug(port) => {
                    let vni = self.ports.remove(port).unwrap();
                    self.announced.retain(|(at, _), own| *at != vni || own.at != At::Here(port.clone()));
                }
                Step::OpenGateway(vni, at) => {
                    self.check(*vni, want);
                    assert_eq!(self.gateways.insert(*vni, at.clone()), None);
                }
                Step::CloseGateway(vni) => assert!(self.gateways.remove(vni).is_some()),
                Step::AddPeer(vni, node, at) => {
                    self.check(*vni, want);
                    let taken = self.peers.iter().any(|(&(_, there), other)| there == *at && other != node);
                    assert!(!taken, "two nodes at one address");
                    let elsewhere =
                        self.peers.iter().any(|(&(_, there), other)| there != *at && other == node);
                    assert!(!elsewhere, "one node at two addresses");
                    assert!(
                        self.foreign.iter().all(|(_, there)| there != at),
                        "a node where a foreign one is"
                    );
                    assert_eq!(self.peers.insert((*vni, *at), *node), None);
                }
                Step::RemovePeer(vni, node, at) => {
                    assert_eq!(self.peers.remove(&(*vni, *at)), Some(*node));
                    self.announced.retain(|(at, _), own| at != vni || own.at != At::There(*node));
                }
                Step::AddForeign(vni, at) => {
                    self.check(*vni, want);
                    assert!(self.peers.keys().all(|(_, there)| there != at), "a foreign one where a node is");
                    assert!(self.foreign.insert((*vni, *at)));
                }
                Step::RemoveForeign(vni, at) => assert!(self.foreign.remove(&(*vni, *at))),
                Step::Announce(vni, mac, own) => {
                    let is_there = match &own.at {
                        At::Here(port) => self.ports.get(port) == Some(vni),
                        At::There(node) => self.peers.iter().any(|((at, _), peer)| at == vni && peer == node),
                    };
                    assert!(is_there, "announced where nobody is");
                    let is_service = |(at, of): &(Vni, MacAddr), service: &Balanced| {
                        let shared = own.addresses.iter().any(|own| service.spec.addresses.contains(own));
                        at == vni && (of == mac || shared)
                    };
                    let taken = self.services.iter().any(|(key, service)| is_service(key, service));
                    assert!(!taken, "announced at a service's address");
                    self.announced.insert((*vni, *mac), own.clone());
                }
                Step::Withdraw(vni, mac) => assert!(self.announced.remove(&(*vni, *mac)).is_some()),
                Step::Forget(vni) => {
                    assert!(!self.has_members(*vni));
                    self.sealed.remove(vni);
                }
                Step::SetService(vni, service) => {
                    assert!(self.has_members(*vni), "a service where nobody is");
                    let ServiceSpec { mac, addresses, .. } = &service.spec;
                    assert!(!self.announced.contains_key(&(*vni, *mac)), "an endpoint's MAC address");
                    let shared = |own: &[IpAddr]| own.iter().any(|own| addresses.contains(own));
                    let endpoints = self.announced.iter().filter(|((at, _), _)| at == vni);
                    assert!(
                        endpoints.clone().all(|(_, own)| !shared(&own.addresses)),
                        "an endpoint's address"
                    );
                    let mut others =
                        self.services.iter().filter(|((at, of), _)| (at, of != mac) == (vni, true));
                    assert!(others.all(|(_, other)| !shared(&other.spec.addresses)), "another's address");
                    self.services.insert((*vni, *mac), service.clone());
                }
                Step::RemoveService(vni, mac) => assert!(self.services.remove(&(*vni, *mac)).is_some()),
            }
            let empty: Vec<_> =
                self.services.keys().filter(|(vni, _)| !self.has_members(*vni)).copied().collect();
            empty.iter().for_each(|key| drop(self.services.remove(key)));
        }

        fn check(&self, vni: Vni, want: &Plan) {
            let sealed = want.networks[&vni].protection == Protection::Sealed;
            assert_eq!(self.sealed.contains(&vni), sealed, "a member of a network of another kind");
        }
    }

    #[test]
    fn any_plan_is_reached_from_any_other() {
        let mut random = Rng::with_seed(7);
        for _ in 0..300 {
            let (mut have, mut model) = (Have::default(), Model::default());
            for _ in 0..10 {
                let want = any(&mut random);
                for step in steps(&have, &want) {
                    model.apply(&step, &want);
                    have.note(&step, &want);
                }
                assert_eq!((&have.networks, &have.nodes), (&want.networks, &want.nodes));
                assert_eq!(steps(&have, &want), [], "there is nothing left to do");
                let members = want.networks.values().map(|carried| carried.peers.len()).sum::<usize>();
                assert_eq!(model.peers.len(), members);
                let foreign =
                    want.networks.iter().flat_map(|(&vni, of)| of.foreign.iter().map(move |&at| (vni, at)));
                assert_eq!(model.foreign, foreign.collect());
                let announced = want.networks.iter().flat_map(|(&vni, carried)| {
                    carried.announced.iter().map(move |(&mac, own)| ((vni, mac), own.clone()))
                });
                assert_eq!(model.announced, announced.collect());
                let services = want.networks.iter().flat_map(|(&vni, carried)| {
                    carried.services.iter().map(move |(&mac, service)| ((vni, mac), service.clone()))
                });
                assert_eq!(model.services, services.collect());
                let gateways =
                    want.networks.iter().filter_map(|(&vni, carried)| Some((vni, carried.gateway.clone()?)));
                assert_eq!(model.gateways, gateways.collect());
            }
        }
    }

    #[test]
    fn a_peer_that_changes_networks_never_leaves_the_switch() {
        let carried = |peers: &[u8], port: &str| Carried {
            id: NetworkId("x".into()),
            protection: Protection::Sealed,
            peers: peers.iter().copied().map(node).collect(),
            foreign: BTreeSet::new(),
            ports: [port.to_owned()].into(),
            announced: BTreeMap::new(),
            services: BTreeMap::new(),
            gateway: None,
        };
        let at = SocketAddr::from(([192, 0, 2, 1], 4_789));
        let before = [(vni(1), carried(&[1], "a")), (vni(2), carried(&[], "b"))];
        let after = [(vni(1), carried(&[], "a")), (vni(2), carried(&[1], "b"))];
        let have = Have { networks: before.into(), nodes: [(node(1), at)].into() };
        let want = Plan { networks: after.into(), nodes: [(node(1), at)].into(), ..Plan::default() };
        let wanted = [Step::AddPeer(vni(2), node(1), at), Step::RemovePeer(vni(1), node(1), at)];
        assert_eq!(steps(&have, &want), wanted);
    }
}
