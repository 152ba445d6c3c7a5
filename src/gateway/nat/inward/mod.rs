//! What comes from outside to an endpoint: connections and datagrams that this host has taken for it.
//!
//! ```text
//!          doors (published ports of this host)     station (Action::Carry)
//! client ──────► Arrival ──► tcp (Connections: the host's TCP there, smoltcp here) ──► endpoint
//!        ◄──────────────────  udp (Datagrams: one flow for each client)            ◄──
//! ```
//!
//! An [`Arrival`] is all that a flow needs to know of where it comes from: who the client is, and how the endpoint is
//! reached. Who takes connections elsewhere than at a [`Door`] may hand them over in the same way.
//!
//! The endpoint sees the client's own address and port as long as its answers then come to this gateway: if it has its
//! way out by the gateway, and the client is nobody whom it would look for elsewhere ([`Policy::allows`], as for the way
//! out: loopback and link-local addresses, and subnets of the cluster). Otherwise it sees an address of the gateway, and
//! a port of [`PORTS`]. What comes back is found by both ends, before anything is looked for outside.

mod board;
mod datagrams;
mod doors;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustix::net::sockopt;

use self::datagrams::Datagrams;
use self::doors::Doors;
use super::connections::{Connections, Key};
use super::counters::{Count, Kind};
use super::host::{Ready, Token};
use super::inside::{Outward, Refusal};
use super::policy::Policy;
use super::table::Limits;
use super::turn::Turn;
use crate::gateway::door::Door;
use crate::gateway::frame::Back;
use crate::gateway::station::PORTS;
use crate::switch::wire::flow::{TCP, UDP};

pub(in crate::gateway) use self::board::Board;
pub(super) use self::datagrams::UDP_LIMITS;
#[cfg(test)]
pub(super) use self::datagrams::{ANSWERED_IDLE, ASKED_IDLE, CLIENT_MAX};

/// Connections from outside, apart from those from inside: with full buffers, 512 MiB for a network, and half of that for
/// an endpoint. One more is reset.
pub(super) const LIMITS: Limits = Limits { network: 2_048, inside: 1_024 };
/// How often another port is tried, where the first is taken.
const TRIES: usize = 64;

/// How the gateway reaches an endpoint's port at one of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Way {
    /// From the gateway's address.
    pub(in crate::gateway) back: Back,
    pub(in crate::gateway) to: SocketAddr,
    /// Whether the endpoint has its way out here, so that it may see clients as they are.
    pub(in crate::gateway) leads_out: bool,
}

/// A door, and where it leads.
#[derive(Clone, Debug)]
pub(in crate::gateway) struct Inlet {
    pub(in crate::gateway) door: Arc<Door>,
    /// One for each address of the endpoint.
    pub(in crate::gateway) ways: Vec<Way>,
}

/// Somebody outside who wants an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) client: SocketAddr,
    pub(super) ways: &'a [Way],
    /// What ends its flows when it ends: see [`Inward::end`].
    pub(super) owner: Token,
}

/// All of a network.
#[derive(Debug)]
pub(super) struct Inward {
    tcp: Connections,
    udp: Datagrams,
    doors: Doors,
}

impl Arrival<'_> {
    /// The ends that the endpoint sees, and from the outer of them to it. `None` if it has no address, or no port is
    /// free.
    pub(super) fn ends(
        &self,
        policy: &Policy,
        rng: &mut fastrand::Rng,
        is_taken: impl Fn(&Key) -> bool,
    ) -> Option<(Key, Back)> {
        let same = |way: &&Way| way.to.is_ipv4() == self.client.is_ipv4();
        let way = self.ways.iter().find(same).or_else(|| self.ways.first())?;
        let seen = same(&way) && way.leads_out && policy.allows(self.client.ip());
        let address = if seen { self.client.ip() } else { way.back.own() };
        let back = way.back.of(address)?;
        let first = seen.then_some(self.client.port());
        let others = std::iter::repeat_with(|| rng.u16(PORTS)).take(TRIES);
        let keys = first.into_iter().chain(others);
        let mut keys = keys.map(|port| Key { inside: way.to, outside: SocketAddr::new(address, port) });
        keys.find(|key| !is_taken(key)).map(|key| (key, back))
    }
}

impl Inward {
    pub(super) fn new(tcp: Limits, udp: Limits) -> Self {
        let tcp = Connections::new(Kind::TcpIn, tcp);
        Self { tcp, udp: Datagrams::new(udp), doors: Doors::default() }
    }

    /// Takes a packet from inside, if it belongs to a flow from outside, or is for a port that only these have. Whether
    /// it was.
    pub(super) fn handle(&mut self, outward: &Outward<'_>, turn: &mut Turn<'_>) -> bool {
        let Some(key) = Key::of(outward) else { return false };
        match outward.protocol {
            TCP if self.tcp.has(&key) => self.tcp.handle(outward, turn),
            UDP if self.udp.has(&key) => self.udp.handle(&key, outward, turn),
            // The flow that it was for has ended.
            TCP if outward.is_for_gateway() => self.tcp.deny(outward, turn),
            UDP if outward.is_for_gateway() => turn.refuse(outward, Refusal::Port, Count::Unsolicited),
            _ => return false,
        }
        true
    }

    /// Does what a socket that is ready asks for. Whether it is one of these.
    pub(super) fn ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> bool {
        self.tcp.ready(ready, turn) || self.doors.ready(ready.token, (&mut self.tcp, &mut self.udp), turn)
    }

    /// When [`Self::tick`] is to be called, if at all.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.tcp.next(), self.udp.next(), self.doors.next()].into_iter().flatten().min()
    }

    /// Does what time asks for.
    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        self.tcp.wake(turn);
        self.udp.expire(turn);
        self.doors.retry((&mut self.tcp, &mut self.udp), turn);
    }

    /// Has these doors and no others; flows from those that are gone are ended.
    pub(super) fn hang(&mut self, inlets: Vec<Inlet>, turn: &mut Turn<'_>) {
        for owner in self.doors.hang(inlets, turn) {
            self.end(owner, turn);
        }
    }

    /// Ends all flows of an owner: connections are reset on both sides.
    fn end(&mut self, owner: Token, turn: &mut Turn<'_>) {
        self.tcp.end(owner, turn);
        self.udp.end(owner, turn);
    }
}

impl Drop for Inward {
    /// Clients see a connection that is cut off, and not an end in order.
    fn drop(&mut self) {
        self.tcp.reset_on_drop();
    }
}

/// A connection that is not carried is reset at once.
fn turn_away(outer: &std::net::TcpStream) {
    // Where that fails it is closed in order.
    let _closed = sockopt::set_socket_linger(outer, Some(std::time::Duration::ZERO));
}
