//! TCP connections of a network, each with one of the host's own.
//!
//! Of one from inside the outer one is made first: inside's SYN is answered when outside has answered ours, and if it refuses, inside
//! is refused the same way. So a port that is closed outside is closed for inside too, and what waits for an
//! answer costs a socket and one packet (compare RFC 5382 REQ-10). Of one from outside the outer one is there already:
//! the client is reset if the endpoint refuses.

mod flow;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use etherparse::TcpSlice;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use self::flow::{Flow, Stage, refuse};
use super::connection::{BUFFER_LEN, Connection, Life, TRANSITORY_IDLE, Terms};
use super::counters::{Count, Kind};
use super::host::{Interest, Ready, Token};
use super::inside::{Outward, Refusal};
use super::inward::{Arrival, Newcomer, Owner, Waiter};
use super::outer::{KEEP_ALIVE, Outer};
use super::table::{self, Limits, Table};
use super::turn::Turn;

/// Connections: with full buffers, 512 MiB for a network, and half of that for an endpoint.
pub(super) const LIMITS: Limits = Limits { network: 2_048, inside: 1_024 };
/// Connections of a network from outside that get full buffers, and what the others have. So 2,048 take at most 512 MiB,
/// and all others there may be at most 448 MiB.
const ROOMY: usize = 2_048;
const NARROW_LEN: usize = 16 << 10;
/// The shortest time after which a connection is looked at again for time's sake: what there was to do at once has
/// been done.
const TICK: Duration = Duration::from_millis(1);

/// Both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) inside: SocketAddr,
    pub(super) outside: SocketAddr,
}

impl Key {
    /// Those of a packet of TCP or UDP, which both begin with their ports (RFC 9293 §3.1, RFC 768).
    pub(super) fn of(outward: &Outward<'_>) -> Option<Self> {
        let &[s0, s1, d0, d1] = outward.transport.first_chunk()?;
        let inside = SocketAddr::new(outward.source, u16::from_be_bytes([s0, s1]));
        let outside = SocketAddr::new(outward.destination, u16::from_be_bytes([d0, d1]));
        Some(Self { inside, outside })
    }
}

impl table::Key for Key {
    fn inside(&self) -> SocketAddr {
        self.inside
    }
}

/// All of a network that come from one side.
#[derive(Debug)]
pub(super) struct Connections {
    kind: Kind,
    flows: Table<Key, Flow>,
    tokens: HashMap<Token, Key>,
}

impl Connections {
    pub(super) fn new(kind: Kind, limits: Limits) -> Self {
        Self { kind, flows: Table::new(limits), tokens: HashMap::new() }
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.flows.has(key)
    }

    /// Carries a connection from outside to an endpoint. Its outer side is given back with who waits if there is no room
    /// for it.
    pub(super) fn carry_in(
        &mut self,
        newcomer: Newcomer,
        arrival: &Arrival<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), (Outer, Option<Waiter>)> {
        let Newcomer { outer, ahead, patience, waiter } = newcomer;
        let ends = arrival.ends(turn.policy, turn.rng, |key| self.flows.has(key));
        let (Some((key, back)), Ok(permit)) = (ends, turn.host.permit()) else { return Err((outer, waiter)) };
        if self.flows.check(key.inside.ip()).is_err() {
            return Err((outer, waiter));
        }
        outer.send_at_once();
        let Ok(token) = turn.host.watch(&outer, Interest::Changes) else { return Err((outer, waiter)) };
        let (mtu, chance) = (turn.inside.mtu(), (turn.rng.u64(..), turn.now));
        let buffer_len = if self.flows.len() < ROOMY { BUFFER_LEN } else { NARROW_LEN };
        let terms = Terms { ahead, patience, returned: waiter.is_some(), buffer_len };
        let mut connection = match Connection::inward((outer, terms), &key, back, mtu, chance) {
            Ok(connection) => connection,
            Err(outer) => {
                turn.host.unwatch(&outer);
                return Err((outer, waiter));
            }
        };
        let life = connection.wake(None, mtu, &mut turn.inside.frames, turn.now);
        let stage = Stage::Open(Box::new(connection));
        let owner = Some(arrival.owner.clone());
        let flow = Flow { _permit: permit, token, owner, waiter, back, stage };
        // Checked before.
        let _none = self.flows.insert(key, flow, turn.now + TRANSITORY_IDLE);
        self.tokens.insert(token, key);
        turn.inside.counters.opened(self.kind);
        turn.inside.counters.add(Count::Inward);
        self.settle(&key, life, turn);
        Ok(())
    }

    /// Answers a segment that belongs to none of these, and may not begin one.
    pub(super) fn deny(&self, outward: &Outward<'_>, turn: &mut Turn<'_>) {
        match TcpSlice::from_slice(outward.transport) {
            Ok(segment) => turn.inside.reset(outward, &segment, turn.now),
            Err(_) => turn.inside.counters.add(Count::Malformed),
        }
    }

    /// Resets all that owners have brought who are gone.
    pub(super) fn end(&mut self, is_gone: &dyn Fn(&Owner) -> bool, turn: &mut Turn<'_>) {
        let own = self.flows.iter().filter(|(_, flow)| flow.owner.as_ref().is_some_and(is_gone));
        for key in own.map(|(&key, _)| key).collect::<Vec<_>>() {
            if let Some(flow) = self.flows.get_mut(&key) {
                flow.reset(turn);
            }
            self.settle(&key, Life::Over, turn);
        }
    }

    /// Has the outer sides be reset when this is dropped.
    pub(super) fn reset_on_drop(&self) {
        self.flows.iter().for_each(|(_, flow)| flow.reset_on_drop());
    }

    /// Carries a segment.
    pub(super) fn handle(&mut self, outward: &Outward<'_>, turn: &mut Turn<'_>) {
        let Ok(segment) = TcpSlice::from_slice(outward.transport) else {
            return turn.inside.counters.add(Count::Malformed);
        };
        let inside = SocketAddr::new(outward.source, segment.source_port());
        let outside = SocketAddr::new(outward.destination, segment.destination_port());
        let key = Key { inside, outside };
        if let Some(flow) = self.flows.get_mut(&key) {
            let life = flow.take(outward, &segment, turn);
            return self.settle(&key, life, turn);
        }
        if segment.rst() {
            return;
        }
        if !segment.syn() || segment.ack() {
            return turn.inside.reset(outward, &segment, turn.now);
        }
        // It is kept until outside has answered. Data in it (RFC 7413) makes it no longer than others.
        if outward.packet.len() > turn.inside.mtu() {
            return turn.inside.counters.add(Count::Malformed);
        }
        if !turn.policy.allows(outside.ip()) {
            return turn.refuse(outward, Refusal::Prohibited, Count::Denied);
        }
        if let Err(error) = self.open(key, outward, turn) {
            refuse(&error, outward.back, (outside.ip(), outward.packet), turn);
        }
    }

    /// Begins to make the outer connection.
    fn open(&mut self, key: Key, outward: &Outward<'_>, turn: &mut Turn<'_>) -> io::Result<()> {
        self.flows.check(key.inside.ip()).map_err(|table::Full| io::Error::from(Errno::MFILE))?;
        let permit = turn.host.permit()?;
        let outer =
            Socket::new(Domain::for_address(key.outside), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        // Inside and outside decide for themselves when to send.
        outer.set_tcp_nodelay(true)?;
        outer.set_tcp_keepalive(&KEEP_ALIVE)?;
        match outer.connect(&key.outside.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            // Made at once, as to an address of this host, or not yet: it is writable when it is.
            _ => {}
        }
        let token = turn.host.watch(&outer, Interest::Changes)?;
        let stage = Stage::Opening { outer: outer.into(), syn: outward.packet.to_vec() };
        let flow = Flow { _permit: permit, token, owner: None, waiter: None, back: outward.back, stage };
        // Checked before.
        let _none = self.flows.insert(key, flow, turn.now + TRANSITORY_IDLE);
        self.tokens.insert(token, key);
        turn.inside.counters.opened(self.kind);
        turn.inside.counters.add(Count::TcpFlows);
        Ok(())
    }

    /// Goes on with the connection of a socket. Whether it is one of these.
    pub(super) fn ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> bool {
        let Some(&key) = self.tokens.get(&ready.token) else { return false };
        let Some(flow) = self.flows.get_mut(&key) else { return true };
        let life = flow.ready(key, ready, turn);
        self.settle(&key, life, turn);
        true
    }

    /// Does what time asks for, and ends what has been quiet for too long.
    pub(super) fn wake(&mut self, turn: &mut Turn<'_>) {
        while let Some(key) = self.flows.due(turn.now) {
            let Some(flow) = self.flows.get_mut(&key) else { return };
            let life = flow.wake(turn);
            self.settle(&key, life, turn);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.flows.next()
    }

    fn settle(&mut self, key: &Key, life: Life, turn: &mut Turn<'_>) {
        match life {
            // Not at once again: others have their turn too.
            Life::Until(at) => self.flows.wake(key, at.max(turn.now + TICK)),
            Life::Over => {
                if let Some(flow) = self.flows.remove(key) {
                    self.tokens.remove(&flow.token);
                    turn.inside.counters.closed(self.kind);
                    if flow.is_unanswered() {
                        turn.inside.counters.add(Count::InwardRefused);
                        flow.give_back(turn.host);
                    }
                }
            }
        }
    }
}
