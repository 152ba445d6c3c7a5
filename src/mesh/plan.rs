//! What every node listens on, and who answers: from records alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hash};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::frame::is_endpoint_id;
use crate::api::PublishedPort;
use crate::crypto::identity::NodeId;
use crate::service::{Port, PortMode, Protocol};

/// A port of every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct At {
    /// The address that was asked for; all, of both IP versions, if none was.
    pub(crate) address: Option<IpAddr>,
    pub(crate) published: u16,
    pub(crate) protocol: Protocol,
}

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    /// The service's id.
    pub(crate) service: String,
    /// Its tasks' port.
    pub(crate) target: u16,
    /// Whether tasks are told of clients by the PROXY protocol, too.
    pub(crate) proxy: bool,
    /// Those of its tasks that take new connections, in ascending order.
    pub(crate) places: Arc<[Place]>,
    /// Those that keep what they have, in ascending order.
    pub(crate) draining: Arc<[Place]>,
}

/// A task. Outside of the mesh only [`Place::new`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(super) node: NodeId,
    /// The id of one of its endpoints: [`is_endpoint_id`], so that a head has room for it.
    pub(super) endpoint: Arc<str>,
}

/// All of it, as one node knows it: made by [`Plan::new`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) ports: BTreeMap<At, Published>,
    /// Where the links of the other nodes are that are alive.
    pub(crate) peers: BTreeMap<NodeId, SocketAddr>,
    /// Nodes that were removed.
    pub(crate) revoked: BTreeSet<NodeId>,
    /// Which of a service's ports are published: asked of each datagram, and there may be as many as there are ports.
    leads: HashMap<String, HashSet<(u16, Protocol)>>,
}

impl At {
    /// Where a port is that has a number; none of one in another mode.
    pub(crate) fn of(port: &Port) -> Option<Self> {
        let published = port.published?.get();
        (port.mode == PortMode::Ingress).then_some(Self {
            address: port.address,
            published,
            protocol: port.protocol,
        })
    }

    /// The same for who listens.
    pub(crate) fn door(self, target: u16) -> PublishedPort {
        let Self { address, published, protocol } = self;
        PublishedPort { address, published, target, protocol }
    }
}

impl Place {
    /// A task that has an endpoint of that id; none if no endpoint can have it.
    pub(crate) fn new(node: NodeId, endpoint: &str) -> Option<Self> {
        is_endpoint_id(endpoint).then(|| Self { node, endpoint: endpoint.into() })
    }
}

impl Published {
    /// Whether a task may have more of what it has. It is asked of each datagram.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.places.binary_search(place).is_ok() || self.draining.binary_search(place).is_ok()
    }

    /// The tasks in the order in which a client gets them: by rendezvous hash (Thaler & Ravishankar 1998), whose numbers nobody
    /// outside knows. So of n connections each of k tasks gets n/k, with the deviation of independent choices: hardly ever
    /// more than four times the root of n/k. Without one of them all others have what they had.
    pub(crate) fn order(&self, client: SocketAddr, chance: &impl BuildHasher) -> Vec<Place> {
        let rank = |place: &Place| chance.hash_one(Ranked { client, place });
        let mut places = self.places.to_vec();
        places.sort_by_cached_key(|place| (rank(place), place.clone()));
        places
    }
}

#[derive(Hash)]
struct Ranked<'a> {
    client: SocketAddr,
    place: &'a Place,
}

impl Plan {
    /// From what is published, the links of the nodes that are alive, and the nodes that were removed.
    pub(crate) fn new(
        ports: BTreeMap<At, Published>,
        peers: BTreeMap<NodeId, SocketAddr>,
        revoked: BTreeSet<NodeId>,
    ) -> Self {
        let mut leads: HashMap<String, HashSet<(u16, Protocol)>> = HashMap::new();
        for (at, published) in &ports {
            leads.entry(published.service.clone()).or_default().insert((published.target, at.protocol));
        }
        Self { ports, peers, revoked, leads }
    }

    /// Whether somebody may be carried to a port of an endpoint that answers for a service.
    pub(crate) fn leads_to(&self, service: &str, target: u16, protocol: Protocol) -> bool {
        self.leads.get(service).is_some_and(|ports| ports.contains(&(target, protocol)))
    }
}

/// An endpoint that answers for a service, as far as choosing among those of one task goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) place: Place,
    /// What tells a node's tasks apart: the id of the task, or of an endpoint that is there by itself.
    pub(crate) task: String,
    /// Whether its network leads nowhere.
    pub(crate) internal: bool,
    /// Where its network stands in the service's list; the routing mesh's own is behind all.
    pub(crate) rank: usize,
}

/// One endpoint of each task, in ascending order: that in the first network that leads out, since by it the task answers the
/// world, or else in the first.
pub(crate) fn one_of_each(candidates: impl IntoIterator<Item = Candidate>) -> Arc<[Place]> {
    let mut best: BTreeMap<(NodeId, String), Candidate> = BTreeMap::new();
    for candidate in candidates {
        let key = |one: &Candidate| (one.internal, one.rank, one.place.clone());
        let task = (candidate.place.node, candidate.task.clone());
        match best.get(&task) {
            Some(known) if key(known) <= key(&candidate) => {}
            _ => drop(best.insert(task, candidate)),
        }
    }
    let chosen: BTreeSet<Place> = best.into_values().map(|candidate| candidate.place).collect();
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;

    fn place(number: u8) -> Place {
        Place::new(NodeId::from_bytes([number; 16]), &format!("e{number}")).unwrap()
    }

    fn published(tasks: u8) -> Published {
        let places = (0..tasks).map(place).collect();
        Published { service: "s".into(), target: 80, proxy: false, places, draining: Arc::default() }
    }

    #[test]
    fn connections_are_spread_as_evenly_as_is_said_and_stay_when_others_go() {
        let chance = RandomState::new();
        let (all, fewer) = (published(5), published(4));
        let clients = (0..10_000).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let mut counts = [0_u32; 5];
        for client in clients {
            let order = all.order(client, &chance);
            assert_eq!(order.len(), 5);
            let first = usize::from(order[0].node.as_bytes()[0]);
            counts[first] += 1;
            if first < 4 {
                assert_eq!(fewer.order(client, &chance)[0], order[0], "its task is still there");
            }
        }
        // Six deviations, of independent choices: one failure in a hundred million runs.
        let bound = 6.0 * f64::sqrt(2_000.0 * 0.8);
        assert!(counts.iter().all(|&count| (f64::from(count) - 2_000.0).abs() < bound), "{counts:?}");
    }

    #[test]
    fn a_task_is_reached_by_its_first_network_that_leads_out() {
        let at = |number: u8| Place::new(NodeId::from_bytes([1; 16]), &format!("e{number}")).unwrap();
        let candidate = |number: u8, task: &str, internal, rank| Candidate {
            place: at(number),
            task: task.into(),
            internal,
            rank,
        };
        let chosen = one_of_each([
            candidate(1, "a", true, 0),
            candidate(2, "a", false, 2),
            candidate(3, "a", false, 1),
            candidate(4, "b", true, 1),
            candidate(5, "b", true, 0),
            candidate(6, "c", true, 0),
            candidate(7, "c", false, usize::MAX),
            // What another node calls its task is its own.
            Candidate { place: place(8), ..candidate(8, "a", false, 0) },
        ]);
        assert_eq!(*chosen, [at(3), at(5), at(7), place(8)]);
    }

    #[test]
    fn each_task_may_have_more_whatever_the_order_of_their_names() {
        let candidate = |(number, task): (u8, &str)| Candidate {
            place: place(number),
            task: task.into(),
            internal: false,
            rank: 0,
        };
        let places = one_of_each([(4, "a"), (1, "d"), (3, "b"), (0, "c")].map(candidate));
        let draining = one_of_each([(7, "a"), (6, "b")].map(candidate));
        let published = Published { places, draining, ..published(0) };
        let has: Vec<u8> = (0..10).filter(|&number| published.has(&place(number))).collect();
        assert_eq!(has, [0, 1, 3, 4, 6, 7]);
    }

    #[test]
    fn nobody_is_at_an_endpoint_of_which_no_head_can_tell() {
        let node = NodeId::from_bytes([1; 16]);
        assert!(Place::new(node, &"x".repeat(64)).is_some());
        for id in [String::new(), "x".repeat(65), "x".repeat(255), "a b".into(), "\u{e9}".into()] {
            assert_eq!(Place::new(node, &id), None, "{id}");
        }
    }

    #[test]
    fn only_what_is_published_is_reached() {
        let at = |published, protocol| At { address: None, published, protocol };
        let more = Published { target: 53, ..published(1) };
        let ports = [
            (at(8080, Protocol::Tcp), published(1)),
            (at(8081, Protocol::Tcp), published(1)),
            (at(8080, Protocol::Udp), more),
        ];
        let plan = Plan::new(ports.into(), BTreeMap::new(), BTreeSet::new());
        let leads = |service, target, protocol| plan.leads_to(service, target, protocol);
        assert!(leads("s", 80, Protocol::Tcp) && leads("s", 53, Protocol::Udp));
        for (service, target, protocol) in [
            ("t", 80, Protocol::Tcp),
            ("s", 8080, Protocol::Tcp),
            ("s", 80, Protocol::Udp),
            ("s", 53, Protocol::Tcp),
        ] {
            assert!(!leads(service, target, protocol), "{service} {target} {protocol}");
        }
    }
}
