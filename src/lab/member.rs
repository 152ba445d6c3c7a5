//! The endpoints of a lab, as those see them who check it.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::build::Lab;
use super::plan::{EndpointPlan, Plan};
use crate::namespace::netns::NetNs;

/// Endpoints that do something at a time, where it is told how long it took: they share this machine's cores.
const AT_ONCE: usize = 4;
/// How long something may be repeated until it is as it must be: nodes tell each other at once, and compare their records
/// about once a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same on a link that loses, delays or reorders.
const PATIENCE_FAULTY: Duration = Duration::from_secs(30);

/// An endpoint.
#[derive(Debug)]
pub(super) struct Member {
    /// Index of its node.
    pub(super) node: usize,
    pub(super) plan: EndpointPlan,
    pub(super) netns: NetNs,
    /// Whom it asks for names, if its node is one of a cluster.
    pub(super) resolver: Option<IpAddr>,
}

impl Member {
    /// All of a lab, in the plan's order.
    pub(super) fn all(lab: &Lab) -> Vec<Self> {
        let nodes = lab.nodes().iter().enumerate();
        let endpoints =
            nodes.flat_map(|(node, part)| part.endpoints().iter().map(move |endpoint| (node, endpoint)));
        let member = |(node, endpoint): (usize, &super::Endpoint)| Self {
            node,
            plan: endpoint.plan().clone(),
            netns: endpoint.netns().clone(),
            resolver: endpoint.resolver,
        };
        endpoints.map(member).collect()
    }

    /// Whether both are in one network.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.plan.network == other.plan.network
    }
}

/// Two of one network, of those that are wanted: on different nodes if there are such.
pub(super) fn two(members: &[Member], wanted: impl Fn(&Member) -> bool) -> Option<(usize, usize)> {
    let ends: Vec<usize> = (0..members.len()).filter(|&member| wanted(&members[member])).collect();
    let pairs = || ends.iter().flat_map(|&a| ends.iter().map(move |&b| (a, b))).filter(|(a, b)| a < b);
    let joined = |&(a, b): &(usize, usize)| members[a].is_beside(&members[b]);
    let apart = |&(a, b): &(usize, usize)| members[a].node != members[b].node;
    pairs().find(|pair| joined(pair) && apart(pair)).or_else(|| pairs().find(joined))
}

/// Does it for the member of every index, [`AT_ONCE`] at a time; gives what came of it in order.
pub(super) fn each<T: Send>(members: &[Member], work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let all: Vec<usize> = (0..members.len()).collect();
    let work = &work;
    let some = |some: &[usize]| -> Vec<T> {
        thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|&member| scope.spawn(move || work(member))).collect();
            threads.into_iter().map(|thread| thread.join().expect("its work does not panic")).collect()
        })
    };
    all.chunks(AT_ONCE).flat_map(some).collect()
}

/// Until when something that is not as it must be is tried again, if that begins now.
pub(super) fn deadline(plan: &Plan) -> Instant {
    Instant::now() + if plan.is_perfect() { PATIENCE } else { PATIENCE_FAULTY }
}

/// Tries it until it succeeds or there is no more time; at least once.
pub(super) fn persist<T, E>(deadline: Instant, attempt: impl Fn() -> Result<T, E>) -> Result<T, E> {
    loop {
        let outcome = attempt();
        if outcome.is_ok() || Instant::now() >= deadline {
            return outcome;
        }
        super::cluster::pause();
    }
}

/// The middle one of the times that something took, and the longest; `None` if there are none.
pub(super) fn median_and_most(times: impl Iterator<Item = Duration>) -> Option<(Duration, Duration)> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    Some((*times.get(times.len() / 2)?, *times.last()?))
}
