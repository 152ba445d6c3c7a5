//! Who reaches whom in a lab, by names too, and the world; how much goes through, and whether its nodes are one cluster.
//!
//! Every ordered pair of endpoints is pinged over IPv4 and IPv6. Within a network everybody must answer; from
//! another network nobody may, though the question really goes out into the asker's own network (see
//! [`super::Endpoint::configure`]).

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::build::{ENDPOINT_LINK, Lab};
use super::cluster::ClusterError;
use super::member::{Member, deadline, two};
use super::membership::Membership;
use super::names::{Names, NamesError};
use super::page::Page;
use super::ping::{Patience, PingError, Target, ask};
use super::plan::{Plan, UnderlayKind};
use super::service::{Service, ServiceError};
use super::throughput::{Flow, FlowError, measure};
use super::way_out::WayOut;
use crate::namespace::netlink::{Netlink, NetlinkError};

/// How long the TCP sender sends on a plain network.
const FLOW_DURATION: Duration = Duration::from_secs(1);
/// The same on an encrypted network: long enough to show that full packets get through, and how fast.
const SEALED_FLOW_DURATION: Duration = Duration::from_millis(300);
/// Time between two rounds of questions.
const ROUND: Duration = Duration::from_millis(150);
/// Rounds of questions, at least: those who must not answer get this many chances.
const ROUNDS_MIN: u32 = 4;
/// Rounds of questions while an answer is missing, on a link without faults: 15 s. Nodes that have only just heard of
/// each other repeat a comparison of records, or an agreement on keys, after seconds.
const ROUNDS_MAX: u32 = 100;
/// Entries of the machine's tables of neighbours that a check may fill: all namespaces share one for IPv4 and
/// one for IPv6, of 1024 by default (`gc_thresh3`, arp(7)), and only the host's root can enlarge them.
const NEIGHBOURS_MAX: usize = 800;
/// The same for waves after the first, for which the nodes have had that time already.
const ROUNDS_MAX_LATER: u32 = 20;
/// Rounds of questions, at least, where not everybody can ask at once and it would take long.
const ROUNDS_MIN_IN_WAVES: u32 = 2;
/// The same on a link with faults, which lose what is repeated after seconds too, and besides an ARP and its answer, a
/// question and its answer.
const ROUNDS_MAX_FAULTY: u32 = 200;

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
    /// What the endpoints are told of each other's names, if the lab is a cluster.
    pub names: Option<Names>,
    /// A page fetched by name, if the lab is a cluster with two endpoints in one plain network.
    pub page: Option<Page>,
    /// The same within an encrypted network.
    pub sealed_page: Option<Page>,
    /// How the endpoints reach the world outside, if the lab is a cluster.
    pub way_out: Option<WayOut>,
    /// Who answers for the service of all endpoints, if the lab is a cluster.
    pub service: Option<Service>,
    /// The stream, if there are two endpoints in one plain network.
    pub stream: Option<Stream>,
    /// The same within an encrypted network, shorter.
    pub sealed_stream: Option<Stream>,
    /// What the nodes say of each other, if the lab is a cluster.
    pub membership: Option<Membership>,
}

impl Findings {
    /// All streams that were sent.
    pub fn streams(&self) -> impl Iterator<Item = &Stream> {
        self.stream.iter().chain(&self.sealed_stream)
    }

    /// All pages that were fetched by name.
    pub fn pages(&self) -> impl Iterator<Item = &Page> {
        self.page.iter().chain(&self.sealed_page)
    }

    /// The verdict.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.pairs.iter().all(Pair::is_right)
            && self.names.as_ref().is_none_or(Names::is_right)
            && self.pages().all(|page| page.outcome.is_ok())
            && self.way_out.as_ref().is_none_or(WayOut::is_right)
            && self.service.as_ref().is_none_or(Service::is_right)
            && self.streams().all(|stream| stream.outcome.is_ok())
            && self.membership.as_ref().is_none_or(|membership| membership.faults.is_empty())
    }
}

/// Asks everybody, fetches pages, sends the streams, then looks at the cluster. Takes a few seconds; some ten with [`super::plan::ENDPOINTS_MAX`]
/// endpoints.
///
/// # Errors
/// If the questions can't be asked; what the answers are is never an error.
pub fn check(lab: &Lab) -> Result<Findings, CheckError> {
    let start = Instant::now();
    let members = Member::all(lab);
    let pairs = ask_all(&members, lab.plan())?;
    let plan = lab.plan();
    let names = Names::of(&members, deadline(plan))?;
    let is_sealed = |member: &Member| plan.networks[member.plan.network].encrypted;
    let fetch = |ends| Page::fetch(&members, ends, deadline(plan));
    // Without names there is nobody to be asked for.
    let is_named = |member: &Member| member.resolver.is_some();
    let page = two(&members, |member| is_named(member) && !is_sealed(member)).map(fetch);
    let sealed_page = two(&members, |member| is_named(member) && is_sealed(member)).map(fetch);
    let way_out = WayOut::of(&members, plan, deadline(plan));
    let service = Service::of(&members, lab, deadline(plan))?;
    let stream = send_stream(&members, FLOW_DURATION, |member| !is_sealed(member));
    let sealed_stream = send_stream(&members, SEALED_FLOW_DURATION, is_sealed);
    // Last, since nodes compare their records once a second: by now they have.
    let membership = Membership::of(lab, start)?;
    Ok(Findings { pairs, names, page, sealed_page, way_out, service, stream, sealed_stream, membership })
}

/// Why a lab could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No questions can be asked.
    #[error(transparent)]
    Ping(#[from] PingError),
    /// No names can be asked for.
    #[error(transparent)]
    Names(#[from] NamesError),
    /// The service has no tasks.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// Neighbours can't be forgotten between two waves of questions.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A daemon doesn't answer.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
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

/// Everybody at once, or in waves where the tables of neighbours can't hold them all.
fn ask_all(members: &[Member], plan: &Plan) -> Result<Vec<Pair>, CheckError> {
    let patience = patience(plan);
    let askers: Vec<usize> = (0..members.len()).collect();
    let wave = wave_len(members);
    if wave >= askers.len() {
        return Ok(ask_wave(members, &askers, patience)?);
    }
    let mut patience = Patience { rounds_min: patience.rounds_min.min(ROUNDS_MIN_IN_WAVES), ..patience };
    let mut views =
        members.iter().map(|member| Netlink::open(&member.netns)).collect::<Result<Vec<_>, _>>()?;
    let mut pairs = Vec::new();
    for askers in askers.chunks(wave) {
        pairs.extend(ask_wave(members, askers, patience)?);
        if plan.is_perfect() {
            patience.rounds_max = patience.rounds_max.min(ROUNDS_MAX_LATER);
        }
        views.iter_mut().try_for_each(|view| view.flush_neighbours(ENDPOINT_LINK))?;
    }
    Ok(pairs)
}

/// How many may ask at once: each fills an entry for everybody else, and one at each that answers.
fn wave_len(members: &[Member]) -> usize {
    let joined =
        |member: &Member| members.iter().filter(|other| other.plan.network == member.plan.network).count();
    let largest = members.iter().map(joined).max().unwrap_or(0);
    (NEIGHBOURS_MAX / (members.len() + largest).max(1)).max(1)
}

/// One thread for each asker and family.
fn ask_wave(members: &[Member], askers: &[usize], patience: Patience) -> Result<Vec<Pair>, PingError> {
    let answers = thread::scope(|scope| {
        let ask_from = |from: usize, ipv6: bool| {
            let targets: Vec<Target> = targets(members, from, ipv6);
            scope.spawn(move || ask(&members[from].netns, number(from), &targets, patience))
        };
        let threads: Vec<_> =
            askers.iter().map(|&from| (ask_from(from, false), ask_from(from, true))).collect();
        let joined = threads.into_iter().map(|(v4, v6)| {
            let v4 = v4.join().expect("asking does not panic");
            let v6 = v6.join().expect("asking does not panic");
            Ok((v4?, v6?))
        });
        joined.collect::<Result<Vec<(Vec<_>, Vec<_>)>, PingError>>()
    })?;
    let pairs = askers.iter().zip(answers).flat_map(|(&from, (v4, v6))| {
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

fn send_stream(members: &[Member], duration: Duration, wanted: impl Fn(&Member) -> bool) -> Option<Stream> {
    let (from, to) = two(members, wanted)?;
    let (sender, receiver) = (&members[from], &members[to]);
    let outcome = measure(&sender.netns, &receiver.netns, receiver.plan.v4.into(), duration);
    Some(Stream { from, to, outcome })
}
