//! The way out of a lab's networks: every endpoint fetches the page of the host outside, by its name.
//!
//! Its gateway asks the resolver outside for the name, and carries the connection from its node's address, which the page
//! tells.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::member::{Member, each, median_and_most, persist};
use super::outside::OUTSIDE_NAME;
use super::page::{Fetched, PageError, fetch};
use super::plan::Plan;
use crate::switch::wire::flow::IpVersion;

/// What came of one endpoint's.
#[derive(Debug)]
pub struct Errand {
    /// Index of the endpoint in the plan.
    pub from: usize,
    /// The address that it is to be seen with: its node's.
    pub expected: IpAddr,
    /// The page, or why there is none.
    pub outcome: Result<Fetched, PageError>,
}

/// What came of all.
#[derive(Debug)]
pub struct WayOut {
    /// The address of the host outside.
    pub outside: IpAddr,
    /// One for each endpoint, in order.
    pub errands: Vec<Errand>,
}

impl Errand {
    /// The address that it was seen with, if the page tells one.
    #[must_use]
    pub fn seen(&self) -> Option<IpAddr> {
        let body = &self.outcome.as_ref().ok()?.body;
        std::str::from_utf8(body).ok()?.trim_end().parse().ok()
    }

    /// Whether it is as it must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.seen() == Some(self.expected)
    }

    fn fault(&self, plan: &Plan) -> Option<String> {
        let from = plan.endpoint_name(self.from);
        match (&self.outcome, self.seen()) {
            _ if self.is_right() => None,
            (Err(error), _) => Some(format!("{from} can't fetch http://{OUTSIDE_NAME}/: {error}")),
            (Ok(_), Some(seen)) => Some(format!("{from} is seen outside as {seen}, not {}", self.expected)),
            (Ok(page), None) => {
                Some(format!("{from} got a page of {} bytes from elsewhere", page.body.len()))
            }
        }
    }

    fn document(&self, plan: &Plan) -> Value {
        let from = plan.endpoint_name(self.from);
        match &self.outcome {
            Ok(page) => json!({
                "endpoint": from, "seen": self.seen(), "seconds": page.took.as_secs_f64(), "ok": self.is_right(),
            }),
            Err(error) => json!({ "endpoint": from, "error": error.to_string(), "ok": false }),
        }
    }
}

impl WayOut {
    /// Sends every member whose node is in a cluster; what fails is tried again until `deadline`. `None` if there is none.
    pub(super) fn of(members: &[Member], plan: &Plan, deadline: Instant) -> Option<Self> {
        let outside = plan.outside.address;
        let version = if outside.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let errand = |from: usize| {
            let member = &members[from];
            member.resolver?;
            let outcome = persist(deadline, || fetch(member, OUTSIDE_NAME, version));
            Some(Errand { from, expected: plan.nodes[member.node].address, outcome })
        };
        let errands: Vec<Errand> = each(members, errand).into_iter().flatten().collect();
        (!errands.is_empty()).then_some(Self { outside, errands })
    }

    /// Whether all are as they must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.errands.iter().all(Errand::is_right)
    }

    fn right(&self) -> impl Iterator<Item = &Errand> {
        self.errands.iter().filter(|errand| errand.is_right())
    }

    fn times(&self) -> Option<(Duration, Duration)> {
        median_and_most(self.right().filter_map(|errand| Some(errand.outcome.as_ref().ok()?.took)))
    }

    /// In a line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let (right, all) = (self.right().count(), self.errands.len());
        let times = self.times().map(|(median, _)| format!(", median {:.1} ms", median.as_secs_f64() * 1e3));
        let times = times.unwrap_or_default();
        format!(
            "Way out: {right} of {all} fetch http://{OUTSIDE_NAME}/, which sees their nodes' addresses{times}"
        )
    }

    /// For programs. Times are in microseconds, of those that are right.
    #[must_use]
    pub fn document(&self, plan: &Plan) -> Value {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let times = self.times();
        json!({
            "outside": self.outside, "name": OUTSIDE_NAME,
            "endpoints": self.errands.iter().map(|errand| errand.document(plan)).collect::<Vec<_>>(),
            "median_us": times.map(|(median, _)| micros(median)), "most_us": times.map(|(_, most)| micros(most)),
            "ok": self.is_right(),
        })
    }

    /// What is wrong, a line each.
    pub fn faults(&self, plan: &Plan) -> impl Iterator<Item = String> {
        self.errands.iter().filter_map(|errand| errand.fault(plan))
    }
}
