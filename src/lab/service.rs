//! The service of a lab: every endpoint answers for it in its own network, and port 80 of every node leads to one.
//!
//! Each endpoint visits it by its name some times, and is to get a page of an endpoint of its own network, which sees the
//! visitor's own address. The host outside visits every node, and is to be seen with its address, too.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::build::Lab;
use super::cluster::SERVICE;
use super::member::{Member, each, median_and_most, persist};
use super::page::{PAGE_PORT, PageError, fetch, get};
use super::plan::Plan;
use super::visitors::{Servers, pages};
use crate::namespace::netns::NetnsError;
use crate::switch::wire::flow::IpVersion;

/// Visits of each endpoint: in the usual lab, with three tasks and as many visitors a network, chance leaves a task without
/// any once in 350,000 times.
const VISITS: usize = 12;

/// Who was visited, and as whom it saw the visitor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The endpoint's name.
    pub task: String,
    /// The visitor's address, as the task saw it.
    pub visitor: IpAddr,
    /// From the question for the name, or the connection, until the last byte.
    pub took: Duration,
}

/// Where a visitor comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor {
    /// An endpoint, by its index in the plan; it asks for the service's name.
    Endpoint(usize),
    /// The host outside; it asks the node of this index in the plan.
    Outside(usize),
}

/// What came of one visit.
#[derive(Debug)]
pub struct Visit {
    /// Whose.
    pub from: Visitor,
    /// The page, or why there is none.
    pub outcome: Result<Seen, PageError>,
}

/// What came of all.
#[derive(Debug)]
pub struct Service {
    /// First those of endpoints, in order.
    pub visits: Vec<Visit>,
    /// Which of them are as they must be.
    right: Vec<bool>,
}

/// Why there are no tasks to visit.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No socket, or no thread.
    #[error("can't serve pages in a lab: {0}")]
    Serve(io::Error),
}

impl Service {
    /// Has everybody visit it; what fails is tried again until `deadline`. `None` if the lab is no cluster.
    pub(super) fn of(members: &[Member], lab: &Lab, deadline: Instant) -> Result<Option<Self>, ServiceError> {
        if members.iter().all(|member| member.resolver.is_none()) {
            return Ok(None);
        }
        let plan = lab.plan();
        let _servers = serve(members)?;
        let inside = |from: usize| {
            let visit = || {
                let page = fetch(&members[from], SERVICE, IpVersion::V4)?;
                seen(&page.body, page.took)
            };
            let one = || Visit { from: Visitor::Endpoint(from), outcome: persist(deadline, visit) };
            (0..VISITS).map(|_| one()).collect::<Vec<_>>()
        };
        let outside = |node: usize| {
            let at = SocketAddr::new(plan.nodes[node].address, PAGE_PORT);
            let visit = || {
                let start = Instant::now();
                let body = get(lab.outside().netns(), at, SERVICE)?;
                seen(&body, start.elapsed())
            };
            Visit { from: Visitor::Outside(node), outcome: persist(deadline, visit) }
        };
        let visits: Vec<Visit> =
            each(members, inside).into_iter().flatten().chain((0..plan.nodes.len()).map(outside)).collect();
        Ok(Some(Self::new(visits, plan)))
    }

    pub(super) fn new(visits: Vec<Visit>, plan: &Plan) -> Self {
        let right = visits.iter().map(|visit| visit.fault(plan).is_none()).collect();
        Self { visits, right }
    }

    /// Whether all are as they must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.right.iter().all(|right| *right)
    }

    /// Those that are right and of such visitors, and how many there are.
    fn of_kind(&self, outside: bool) -> (Vec<&Seen>, usize) {
        let is_meant = |visit: &Visit| matches!(visit.from, Visitor::Outside(_)) == outside;
        let all = self.visits.iter().filter(|visit| is_meant(visit)).count();
        let right = self.visits.iter().zip(&self.right).filter(|(visit, right)| **right && is_meant(visit));
        (right.filter_map(|(visit, _)| visit.outcome.as_ref().ok()).collect(), all)
    }

    /// In two lines, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let ((inside, visits), (outside, nodes)) = (self.of_kind(false), self.of_kind(true));
        let tasks: BTreeSet<&str> = inside.iter().map(|seen| seen.task.as_str()).collect();
        let times = median_and_most(inside.iter().map(|seen| seen.took));
        let times = times.map(|(median, _)| format!(", median {:.1} ms", median.as_secs_f64() * 1e3));
        format!(
            "Service: {} of {visits} visits to http://{SERVICE}/ led to {} tasks, which see their visitors{}\n\
             Ports: {PAGE_PORT} of {} of {nodes} nodes leads to a task from outside, which sees its visitor",
            inside.len(),
            tasks.len(),
            times.unwrap_or_default(),
            outside.len(),
        )
    }

    /// For programs. Times are in microseconds.
    #[must_use]
    pub fn document(&self, plan: &Plan) -> Value {
        let visit = |(visit, ok): (&Visit, &bool)| {
            let (from, node) = match visit.from {
                Visitor::Endpoint(from) => (plan.endpoint_name(from), None),
                Visitor::Outside(node) => (plan.outside.name.as_str(), Some(&plan.nodes[node].name)),
            };
            match &visit.outcome {
                Ok(seen) => json!({
                    "from": from, "node": node, "task": seen.task, "seen": seen.visitor,
                    "took_us": seen.took.as_nanos() as f64 / 1e3, "ok": ok,
                }),
                Err(error) => json!({ "from": from, "node": node, "error": error.to_string(), "ok": false }),
            }
        };
        json!({
            "name": SERVICE,
            "visits": self.visits.iter().zip(&self.right).map(visit).collect::<Vec<_>>(),
            "ok": self.is_right(),
        })
    }

    /// What is wrong, a line each.
    pub fn faults(&self, plan: &Plan) -> impl Iterator<Item = String> {
        self.visits.iter().filter_map(|visit| visit.fault(plan))
    }
}

impl Visit {
    fn fault(&self, plan: &Plan) -> Option<String> {
        let (who, expected, network) = match self.from {
            Visitor::Endpoint(from) => {
                let (_, own) = plan.endpoints().nth(from)?;
                (own.name.clone(), IpAddr::V4(own.v4), Some(own.network))
            }
            Visitor::Outside(node) => {
                let who = format!("{}, by {}", plan.outside.name, plan.nodes[node].name);
                (who, plan.outside.address, None)
            }
        };
        let seen = match &self.outcome {
            Ok(seen) => seen,
            Err(error) => return Some(format!("{who} can't visit http://{SERVICE}/: {error}")),
        };
        let task = plan.endpoints().map(|(_, endpoint)| endpoint).find(|endpoint| endpoint.name == seen.task);
        match task {
            None => Some(format!("{who} gets a page of {}, which is no task of {SERVICE}", seen.task)),
            Some(task) if network.is_some_and(|own| task.network != own) => {
                Some(format!("{who} gets a page of {}, which is in another network", seen.task))
            }
            // Who visits itself hears from the service.
            Some(task) if task.name == who || seen.visitor == expected => None,
            Some(_) => Some(format!("{who} is seen by {} as {}, not {expected}", seen.task, seen.visitor)),
        }
    }
}

/// Pages of all members, each with its name, for as long as this is held.
fn serve(members: &[Member]) -> Result<Servers, ServiceError> {
    let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PAGE_PORT);
    let open = |member: &Member| {
        let listener = member.netns.run(|| TcpListener::bind(at))?.map_err(ServiceError::Serve)?;
        Ok((listener, format!("{} ", member.plan.name)))
    };
    let all = members.iter().map(open).collect::<Result<Vec<_>, ServiceError>>()?;
    let serve = move || async move {
        for (listener, before) in all {
            tokio::spawn(pages(listener, before.into()));
        }
    };
    Servers::start(serve).map_err(ServiceError::Serve)
}

/// What a page says.
fn seen(body: &[u8], took: Duration) -> Result<Seen, PageError> {
    let words = std::str::from_utf8(body).ok().and_then(|text| text.trim_end().split_once(' '));
    let said = words.and_then(|(task, visitor)| Some((task.to_owned(), visitor.parse().ok()?)));
    let (task, visitor) = said.ok_or(PageError::Other(body.len()))?;
    Ok(Seen { task, visitor, took })
}
