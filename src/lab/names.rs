//! Names in a lab: what the gateways' resolvers say of its endpoints.
//!
//! Every endpoint asks for all others of its network, A and AAAA records; and of each other network for one endpoint, whose
//! name must not resolve.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::pause;
use super::member::{Member, each, median_and_most};
use super::plan::Plan;
use crate::names::{question, told};
use crate::namespace::netns::NetnsError;
use crate::switch::wire::flow::IpVersion;

/// RFC 1035 §4.2.
const PORT: u16 = 53;
/// Bytes of a reply over UDP without EDNS (RFC 1035 §4.2.1).
const REPLY_MAX: usize = 512;
/// How long an answer may be waited for: gateways say after half of it that nobody outside answers them.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same of a gateway that has not answered all the time.
const LAST_PATIENCE: Duration = Duration::from_millis(10);

/// What one endpoint was told of another's name.
#[derive(Debug)]
pub struct Lookup {
    /// Index of the asker among the plan's endpoints.
    pub from: usize,
    /// Index of the one whose name it is.
    pub to: usize,
    /// Which addresses were asked for.
    pub version: IpVersion,
    /// The address that must be told; none may be told of an endpoint of another network.
    pub expected: Option<IpAddr>,
    /// Addresses, and how long that took.
    pub outcome: Result<(Vec<IpAddr>, Duration), NamesError>,
}

/// What was told of all.
#[derive(Debug)]
pub struct Names {
    /// In the order of askers.
    pub lookups: Vec<Lookup>,
}

/// Why nothing was told.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    /// The asker's namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No socket.
    #[error("can't ask a gateway: {0}")]
    Socket(io::Error),
    /// The gateway can't be asked, or does not answer.
    #[error("asking the gateway for {name}: {source}")]
    Ask {
        /// For whom.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Lookup {
    /// Whether it is as it must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.outcome.as_ref().is_ok_and(|(told, _)| told.iter().eq(&self.expected))
    }

    fn fault(&self, plan: &Plan) -> Option<String> {
        let (from, to) = (plan.endpoint_name(self.from), plan.endpoint_name(self.to));
        let kind = match self.version {
            IpVersion::V4 => "A",
            IpVersion::V6 => "AAAA",
        };
        match (&self.outcome, self.expected) {
            _ if self.is_right() => None,
            (Err(error), _) => Some(format!("{from} can't ask for {to} ({kind}): {error}")),
            (Ok(_), None) => Some(format!("{from} resolves {to} ({kind}), which is in another network")),
            (Ok((told, _)), Some(right)) => {
                let told: Vec<String> = told.iter().map(ToString::to_string).collect();
                let told = if told.is_empty() { "nothing".into() } else { told.join(", ") };
                Some(format!("{from} resolves {to} ({kind}) to {told}, not {right}"))
            }
        }
    }
}

impl Names {
    /// Asks; what is not right is asked again until `deadline`. `None` if there is nobody to ask.
    pub(super) fn of(members: &[Member], deadline: Instant) -> Result<Option<Self>, NamesError> {
        let asked = each(members, |from| ask_from(members, from, deadline));
        let lookups: Vec<Lookup> =
            asked.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        Ok((!lookups.is_empty()).then_some(Self { lookups }))
    }

    fn counts(&self) -> [usize; 4] {
        let of = |own: bool| self.lookups.iter().filter(move |lookup| lookup.expected.is_some() == own);
        let right = |own: bool| of(own).filter(|lookup| lookup.is_right()).count();
        [right(true), of(true).count(), right(false), of(false).count()]
    }

    fn times(&self) -> Option<(Duration, Duration)> {
        let right = self.lookups.iter().filter(|lookup| lookup.expected.is_some() && lookup.is_right());
        median_and_most(right.filter_map(|lookup| lookup.outcome.as_ref().ok().map(|&(_, took)| took)))
    }

    /// Whether all are as they must be.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.lookups.iter().all(Lookup::is_right)
    }

    /// In a line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let [right, all, hidden, foreign] = self.counts();
        let times = self.times().map(|(median, _)| format!(", median {:.2} ms", median.as_secs_f64() * 1e3));
        let foreign = match (foreign - hidden, foreign) {
            (_, 0) => String::new(),
            (0, _) => format!("; none of {foreign} of other networks does"),
            (leaks, _) => format!("; {leaks} of {foreign} of other networks are not as they must be"),
        };
        format!("Names: {right} of {all} resolve{}{foreign}", times.unwrap_or_default())
    }

    /// For programs. Times are in microseconds, of those that resolve.
    #[must_use]
    pub fn document(&self) -> Value {
        let [right, all, hidden, foreign] = self.counts();
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let times = self.times();
        json!({
            "asked": all, "resolved": right, "foreign_asked": foreign, "foreign_unknown": hidden,
            "median_us": times.map(|(median, _)| micros(median)), "most_us": times.map(|(_, most)| micros(most)),
            "ok": self.is_right(),
        })
    }

    /// What is wrong, a line each.
    pub fn faults(&self, plan: &Plan) -> impl Iterator<Item = String> {
        self.lookups.iter().filter_map(|lookup| lookup.fault(plan))
    }
}

/// For whom a member asks: whose name, which addresses, and what must be told.
fn questions(members: &[Member], from: usize) -> Vec<(usize, IpVersion, Option<IpAddr>)> {
    let own = &members[from];
    let beside = members.iter().enumerate().filter(|&(to, member)| to != from && member.is_beside(own));
    let both = |(to, member): (usize, &Member)| {
        let (v4, v6) = (IpAddr::V4(member.plan.v4), IpAddr::V6(member.plan.v6));
        [(to, IpVersion::V4, Some(v4)), (to, IpVersion::V6, Some(v6))]
    };
    let networks: BTreeSet<usize> = members.iter().map(|member| member.plan.network).collect();
    let foreign = networks.into_iter().filter(|&network| network != own.plan.network).filter_map(|network| {
        let all: Vec<usize> = (0..members.len()).filter(|&to| members[to].plan.network == network).collect();
        // Not everybody for the same one.
        Some((*all.get(from % all.len())?, IpVersion::V4, None))
    });
    beside.flat_map(both).chain(foreign).collect()
}

fn ask_from(members: &[Member], from: usize, deadline: Instant) -> Result<Vec<Lookup>, NamesError> {
    let Some(mut asker) = Asker::new(&members[from])? else { return Ok(Vec::new()) };
    let lookups = questions(members, from).into_iter().map(|(to, version, expected)| {
        let name = &members[to].plan.name;
        loop {
            let asked = Instant::now();
            let outcome = asker.ask(name, version).map(|told| (told, asked.elapsed()));
            let lookup = Lookup { from, to, version, expected, outcome };
            if lookup.is_right() || Instant::now() >= deadline {
                // The rest is not waited for.
                asker.patience = if lookup.outcome.is_err() { LAST_PATIENCE } else { PATIENCE };
                return lookup;
            }
            pause();
        }
    });
    Ok(lookups.collect())
}

/// Asks the gateway of a member's network.
#[derive(Debug)]
pub(super) struct Asker {
    socket: UdpSocket,
    last: u16,
    patience: Duration,
}

impl Asker {
    /// `None` if the member's node is in no cluster.
    pub(super) fn new(member: &Member) -> Result<Option<Self>, NamesError> {
        let Some(server) = member.resolver else { return Ok(None) };
        let own = match server {
            IpAddr::V4(_) => IpAddr::V4(member.plan.v4),
            IpAddr::V6(_) => IpAddr::V6(member.plan.v6),
        };
        let open = || {
            let socket = UdpSocket::bind((own, 0))?;
            socket.connect((server, PORT))?;
            Ok(socket)
        };
        let socket = member.netns.run(open)?.map_err(NamesError::Socket)?;
        Ok(Some(Self { socket, last: 0, patience: PATIENCE }))
    }

    /// What it says of a name: none if it knows none.
    pub(super) fn ask(&mut self, name: &str, version: IpVersion) -> Result<Vec<IpAddr>, NamesError> {
        self.exchange(name, version).map_err(|source| NamesError::Ask { name: name.into(), source })
    }

    fn exchange(&mut self, name: &str, version: IpVersion) -> io::Result<Vec<IpAddr>> {
        self.last = self.last.wrapping_add(1);
        let query = question(self.last, name, version).ok_or(io::ErrorKind::InvalidInput)?;
        self.socket.send(&query)?;
        let (deadline, mut reply) = (Instant::now() + self.patience, [0; REPLY_MAX]);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut reply) {
                // Or it is the late answer to an earlier question.
                Ok(len) => {
                    if let Some(addresses) = told(&query, &reply[..len]) {
                        return Ok(addresses);
                    }
                }
                Err(error) if is_early(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether nothing has come yet.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
