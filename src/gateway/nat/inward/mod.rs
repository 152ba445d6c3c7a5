//! What comes from outside to an endpoint: connections and datagrams that this host has taken for it.
//!
//! ```text
//!          doors (published ports of this host)     station (Action::Carry)
//! client ──────► Arrival ──► tcp (Connections: the host's TCP there, smoltcp here) ──► endpoint
//!        ◄──────────────────  udp (Datagrams: one flow for each client)            ◄──
//! ```
//!
//! An [`Arrival`] is all that a flow needs to know of where it comes from: who the client is, and how the endpoint is
//! reached. Who takes connections elsewhere than at a [`Door`] hands them over in the same way ([`Handed`]), by the
//! [`Board`].
//!
//! The endpoint sees the client's own address and port as long as its answers then come to this gateway: if it has its
//! way out by the gateway, and the client is nobody whom it would look for elsewhere ([`Policy::allows`], as for the way
//! out: loopback and link-local addresses, and subnets of the cluster). Otherwise it sees an address of the gateway, and
//! a port of [`PORTS`]. What comes back is found by both ends, before anything is looked for outside.

mod board;
mod datagrams;
mod inlets;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

use tokio::sync::oneshot;

use self::datagrams::{Datagrams, Return};
use self::inlets::Inlets;
use super::connection::ANSWER_PATIENCE;
use super::connections::{Connections, Key};
use super::counters::{Count, Kind};
use super::host::{Ready, Token};
use super::inside::{Outward, Refusal};
use super::outer::Outer;
use super::policy::Policy;
use super::table::Limits;
use super::turn::Turn;
use crate::gateway::door::Door;
use crate::gateway::entrance::Entrance;
use crate::gateway::frame::Back;
use crate::gateway::station::PORTS;
use crate::switch::wire::flow::{TCP, UDP};

pub(in crate::gateway) use self::board::{Board, Listing};
#[cfg(test)]
pub(super) use self::datagrams::CLIENT_MAX;
pub(super) use self::datagrams::UDP_LIMITS;
pub(crate) use self::datagrams::{ANSWERED_IDLE, ASKED_IDLE};
pub use self::datagrams::{Reply, Tag};

/// Connections from outside, apart from those from inside: less than 1 GiB for a network (see `connections::ROOMY`), and
/// three of four for an endpoint. One more is reset.
pub(super) const LIMITS: Limits = Limits { network: 16_384, inside: 12_288 };
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
    pub(super) owner: &'a Owner,
}

/// What a flow from outside has come by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Owner {
    /// A door.
    Door(Token),
    /// Somebody who has taken it for an endpoint, by its id.
    Endpoint(Arc<str>),
}

/// Whether inside takes a connection.
#[derive(Debug)]
pub enum Answered {
    /// It does: the connection is carried from here on.
    Taken,
    /// It does not, or has not answered in time, or there is no room. Nothing has been read from it.
    Refused(Outer),
}

pub(super) type Waiter = oneshot::Sender<Answered>;

/// A connection's outer side, and what is to be done with it.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) outer: Outer,
    pub(super) ahead: Vec<u8>,
    pub(super) patience: Duration,
    pub(super) waiter: Option<Waiter>,
}

/// A connection that somebody has taken for an endpoint.
#[derive(Debug)]
pub(in crate::gateway) struct Handed {
    pub(in crate::gateway) outer: Outer,
    pub(in crate::gateway) client: SocketAddr,
    pub(in crate::gateway) ways: Vec<Way>,
    /// The endpoint's id.
    pub(in crate::gateway) endpoint: Arc<str>,
    /// What the endpoint is sent before anything else.
    pub(in crate::gateway) ahead: Vec<u8>,
    /// How long the endpoint may take to answer.
    pub(in crate::gateway) patience: Duration,
    pub(in crate::gateway) waiter: Waiter,
}

/// A datagram that somebody has taken for an endpoint.
#[derive(Debug)]
pub(in crate::gateway) struct Letter {
    pub(in crate::gateway) client: SocketAddr,
    pub(in crate::gateway) entrance: Entrance,
    /// The endpoint's port.
    pub(in crate::gateway) port: u16,
    pub(in crate::gateway) payload: Vec<u8>,
    pub(in crate::gateway) tag: Tag,
    pub(in crate::gateway) reply: Arc<dyn Reply>,
}

impl Handed {
    /// Gives it back to who has handed it over.
    fn refuse(self) {
        turn_away(self.outer, Some(self.waiter));
    }
}

/// All of a network.
#[derive(Debug)]
pub(super) struct Inward {
    tcp: Connections,
    udp: Datagrams,
    inlets: Inlets,
    /// Those for which others may hand something over.
    endpoints: BTreeSet<Arc<str>>,
    board: Arc<Board>,
    /// Datagrams from there that are still to be carried, and when.
    letters: vec::IntoIter<Letter>,
    later: Option<Instant>,
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
    /// One that is told by a board what to do.
    pub(super) fn new(tcp: Limits, udp: Limits, board: Arc<Board>) -> Self {
        let (tcp, udp) = (Connections::new(Kind::TcpIn, tcp), Datagrams::new(udp));
        let (inlets, letters) = (Inlets::default(), Vec::new().into_iter());
        Self { tcp, udp, inlets, endpoints: BTreeSet::new(), board, letters, later: None }
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
        self.tcp.ready(ready, turn) || self.inlets.ready(ready.token, (&mut self.tcp, &mut self.udp), turn)
    }

    /// When [`Self::tick`] is to be called, if at all.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.tcp.next(), self.udp.next(), self.inlets.next(), self.later].into_iter().flatten().min()
    }

    /// Does what time asks for.
    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        self.tcp.wake(turn);
        self.udp.expire(turn);
        self.inlets.retry((&mut self.tcp, &mut self.udp), turn);
        if self.later.is_some() {
            self.deliver(turn);
        }
    }

    /// Does what the board says.
    pub(super) fn take_posted(&mut self, turn: &mut Turn<'_>) {
        let (listing, handed) = self.board.take();
        if let Some(listing) = listing {
            self.hang(listing, turn);
        }
        handed.into_iter().for_each(|handed| self.take(handed, turn));
        self.deliver(turn);
    }

    /// Has these doors and endpoints, and no others; flows of those that are gone are ended.
    pub(super) fn hang(&mut self, listing: Listing, turn: &mut Turn<'_>) {
        let gone = self.inlets.set(listing.inlets, turn);
        let left: Vec<_> = self.endpoints.difference(&listing.endpoints).cloned().collect();
        if !gone.is_empty() || !left.is_empty() {
            self.end(
                &|owner| match owner {
                    Owner::Door(door) => gone.contains(door),
                    Owner::Endpoint(endpoint) => left.contains(endpoint),
                },
                turn,
            );
        }
        self.endpoints = listing.endpoints;
    }

    /// Carries what somebody has taken for an endpoint, if that is there.
    fn take(&mut self, handed: Handed, turn: &mut Turn<'_>) {
        if !self.endpoints.contains(&handed.endpoint) {
            return handed.refuse();
        }
        let Handed { outer, client, ways, endpoint, ahead, patience, waiter } = handed;
        let arrival = Arrival { client, ways: &ways, owner: &Owner::Endpoint(endpoint) };
        let newcomer = Newcomer { outer, ahead, patience, waiter: Some(waiter) };
        if let Err((outer, waiter)) = self.tcp.carry_in(newcomer, &arrival, turn) {
            turn_away(outer, waiter);
            turn.inside.counters.add(Count::InwardRefused);
        }
    }

    /// Carries datagrams that others have taken, as long as inside has room for them; the others at once when what waits has
    /// been sent.
    fn deliver(&mut self, turn: &mut Turn<'_>) {
        self.fetch();
        while turn.inside.has_room()
            && let Some(letter) = self.letters.next()
        {
            self.take_letter(letter, turn);
        }
        self.fetch();
        self.later = (self.letters.len() > 0).then_some(turn.now);
    }

    /// Takes datagrams from the board, if all before have been carried: there are never more than it has room for.
    fn fetch(&mut self) {
        if self.letters.len() == 0 {
            self.letters = self.board.letters().into_iter();
        }
    }

    /// Carries a datagram that somebody has taken for an endpoint, if that is there.
    fn take_letter(&mut self, letter: Letter, turn: &mut Turn<'_>) {
        let Letter { client, entrance, port, payload, tag, reply } = letter;
        if !self.endpoints.contains(entrance.id()) {
            return turn.inside.counters.add(Count::InwardRefused);
        }
        let ways = entrance.ways(port);
        let arrival = Arrival { client, ways: &ways, owner: &Owner::Endpoint(Arc::clone(entrance.id())) };
        self.udp.carry_in(&payload, &arrival, Return::Far(tag, reply), turn);
    }

    /// Ends all flows of owners that are gone: connections are reset on both sides.
    fn end(&mut self, is_gone: &dyn Fn(&Owner) -> bool, turn: &mut Turn<'_>) {
        self.tcp.end(is_gone, turn);
        self.udp.end(is_gone, turn);
    }
}

impl Drop for Inward {
    /// Clients see a connection that is cut off, and not an end in order.
    fn drop(&mut self) {
        self.tcp.reset_on_drop();
    }
}

/// A connection that is not carried goes back to who waits, or is reset at once.
fn turn_away(outer: Outer, waiter: Option<Waiter>) {
    let left = match waiter {
        Some(waiter) => waiter.send(Answered::Refused(outer)).err(),
        None => Some(Answered::Refused(outer)),
    };
    if let Some(Answered::Refused(outer)) = left {
        outer.reset_on_close();
    }
}

impl Newcomer {
    /// One that nobody wants back.
    fn at_door(outer: std::net::TcpStream) -> Self {
        let outer = Outer::Socket(outer);
        Self { outer, ahead: Vec::new(), patience: ANSWER_PATIENCE, waiter: None }
    }
}
