//! Who reaches whom in a lab, and how much goes through.
//!
//! Every ordered pair of endpoints is pinged over IPv4 and IPv6. Within a network everybody must answer; from another network
//! nobody may, though the question really goes out into the asker's own network (see [`super::Endpoint::configure`]).

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::build::Lab;
use super::ping::{Patience, PingError, Target, ask};
use super::plan::{EndpointPlan, Plan, UnderlayKind};
use super::throughput::{Flow, FlowError, measure};
use crate::namespace::netns::NetNs;

/// How long the TCP sender sends.
const FLOW_DURATION: Duration = Duration::from_secs(1);
/// Time between two rounds of questions.
const ROUND: Duration = Duration::from_millis(150);
/// Rounds of questions, at least: those who must not answer get this many chances.
const ROUNDS_MIN: u32 = 4;
/// Rounds of questions while an answer is missing, on a link without faults.
const ROUNDS_MAX: u32 = 20;
/// The same on a link with faults: it takes an ARP and its answer, a question and its answer to get through.
const ROUNDS_MAX_FAULTY: u32 = 60;

/// What came of one ordered pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Index of the asker among the plan's endpoints.
    pub from: usize,
    /// Index of the asked.
    pub to: usize,
    /// Whether they are in one network, so that an answer must come; otherwise none may.
    pub expected: bool,
    /// Shortest round trip over IPv4, if an answer came.
    pub v4: Option<Duration>,
    /// Shortest round trip over IPv6, if an answer came.
    pub v6: Option<Duration>,
}

impl Pair {
    /// Whether it is as it must be, over both families.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.v4.is_some() == self.expected && self.v6.is_some() == self.expected
    }
}

/// The stream between two endpoints.
#[derive(Debug)]
pub struct Stream {
    /// Index of the sender among the plan's endpoints.
    pub from: usize,
    /// Index of the receiver.
    pub to: usize,
    /// What went through.
    pub outcome: Result<Flow, FlowError>,
}

/// What was found out.
#[derive(Debug)]
pub struct Findings {
    /// Every ordered pair, in order of askers and then of asked.
    pub pairs: Vec<Pair>,
    /// The stream, if there are two endpoints in one network.
    pub stream: Option<Stream>,
}

impl Findings {
    /// The verdict.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.pairs.iter().all(Pair::is_right)
            && self.stream.as_ref().is_none_or(|stream| stream.outcome.is_ok())
    }
}

/// Asks everybody, then sends the stream. Takes a few seconds.
///
/// # Errors
/// If the questions can't be asked; what the answers are is never an error.
pub fn check(lab: &Lab) -> Result<Findings, PingError> {
    let members: Vec<Member> = lab
        .nodes()
        .iter()
        .enumerate()
        .flat_map(|(node, part)| part.endpoints().iter().map(move |endpoint| (node, endpoint)))
        .map(|(node, endpoint)| Member {
            node,
            plan: endpoint.plan().clone(),
            netns: endpoint.netns().clone(),
        })
        .collect();
    let pairs = ask_all(&members, patience(lab.plan()))?;
    let stream = stream_ends(&members).map(|(from, to)| {
        let (sender, receiver) = (&members[from], &members[to]);
        let outcome = measure(&sender.netns, &receiver.netns, receiver.plan.v4.into(), FLOW_DURATION);
        Stream { from, to, outcome }
    });
    Ok(Findings { pairs, stream })
}

struct Member {
    node: usize,
    plan: EndpointPlan,
    netns: NetNs,
}

fn patience(plan: &Plan) -> Patience {
    let perfect = Patience { round: ROUND, rounds_min: ROUNDS_MIN, rounds_max: ROUNDS_MAX };
    if plan.underlay == UnderlayKind::Veth {
        return perfect;
    }
    let faults = plan.wire.faults;
    // An ARP, its answer, a question, its answer: a stranger's would come no sooner.
    let four_ways = (faults.delay + faults.jitter).saturating_mul(4);
    let rounds = u32::try_from(four_ways.as_millis() / ROUND.as_millis()).unwrap_or(u32::MAX);
    let rounds_min = rounds.saturating_add(ROUNDS_MIN);
    Patience { rounds_min, rounds_max: rounds_min.saturating_add(ROUNDS_MAX_FAULTY), ..perfect }
}

/// One thread for each asker and family.
fn ask_all(members: &[Member], patience: Patience) -> Result<Vec<Pair>, PingError> {
    let answers = thread::scope(|scope| {
        let ask_from = |from: usize, ipv6: bool| {
            let targets: Vec<Target> = targets(members, from, ipv6);
            scope.spawn(move || ask(&members[from].netns, number(from), &targets, patience))
        };
        let threads: Vec<_> =
            (0..members.len()).map(|from| (ask_from(from, false), ask_from(from, true))).collect();
        let join = |(v4, v6): (thread::ScopedJoinHandle<'_, _>, thread::ScopedJoinHandle<'_, _>)| {
            let joined: (Result<_, PingError>, Result<_, PingError>) =
                (v4.join().expect("asking does not panic"), v6.join().expect("asking does not panic"));
            Ok((joined.0?, joined.1?))
        };
        threads.into_iter().map(join).collect::<Result<Vec<(Vec<_>, Vec<_>)>, PingError>>()
    })?;
    let pairs = answers.into_iter().enumerate().flat_map(|(from, (v4, v6))| {
        let others = (0..members.len()).filter(move |&to| to != from);
        others.zip(v4.into_iter().zip(v6)).map(move |(to, (v4, v6))| {
            let expected = members[from].plan.network == members[to].plan.network;
            Pair { from, to, expected, v4, v6 }
        })
    });
    Ok(pairs.collect())
}

fn targets(members: &[Member], from: usize, ipv6: bool) -> Vec<Target> {
    let others = members.iter().enumerate().filter(|&(to, _)| to != from);
    let target = |(to, member): (usize, &Member)| Target {
        number: number(to),
        address: if ipv6 { IpAddr::V6(member.plan.v6) } else { IpAddr::V4(member.plan.v4) },
        expected: member.plan.network == members[from].plan.network,
    };
    others.map(target).collect()
}

fn number(index: usize) -> u16 {
    u16::try_from(index).expect("a lab has far fewer endpoints")
}

/// Two endpoints of one network, on different nodes if there are such.
fn stream_ends(members: &[Member]) -> Option<(usize, usize)> {
    let pairs = || (0..members.len()).flat_map(|a| (a + 1..members.len()).map(move |b| (a, b)));
    let joined = |&(a, b): &(usize, usize)| members[a].plan.network == members[b].plan.network;
    let apart = |&(a, b): &(usize, usize)| members[a].node != members[b].node;
    pairs().find(|pair| joined(pair) && apart(pair)).or_else(|| pairs().find(joined))
}
