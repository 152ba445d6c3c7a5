//! TCP connections of a network, each with one of the host's own.
//!
//! Of one from inside the outer one is made first: inside's SYN is answered when outside has answered ours, and if it refuses, inside
//! is refused the same way. So a port that is closed outside is closed for inside too, and what waits for an
//! answer costs a socket and one packet (compare RFC 5382 REQ-10). Of one from outside the outer one is there already:
//! the client is reset if the endpoint refuses.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use etherparse::TcpSlice;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::{Connection, Life, TRANSITORY_IDLE, reset_on_close};
use super::counters::{Count, Kind};
use super::host::{Interest, Permit, Ready, Token};
use super::inside::{Outward, Refusal};
use super::inward::Arrival;
use super::table::{self, Limits, Table};
use super::turn::Turn;
use crate::gateway::frame::Back;

/// Connections: with full buffers, 512 MiB for a network, and half of that for an endpoint.
pub(super) const LIMITS: Limits = Limits { network: 2_048, inside: 1_024 };
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

#[derive(Debug)]
struct Flow {
    _permit: Permit,
    token: Token,
    /// What it came in by, if it came from outside.
    owner: Option<Token>,
    /// From the gateway's address to inside's.
    back: Back,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Outside has not answered yet.
    Opening {
        outer: TcpStream,
        /// The packet that asked for it.
        syn: Vec<u8>,
    },
    Open(Box<Connection>),
    /// Neither any more.
    Over,
}

impl Connections {
    pub(super) fn new(kind: Kind, limits: Limits) -> Self {
        Self { kind, flows: Table::new(limits), tokens: HashMap::new() }
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.flows.has(key)
    }

    /// Carries a connection from outside to an endpoint. It is given back if there is no room for it.
    pub(super) fn carry_in(
        &mut self,
        outer: TcpStream,
        arrival: &Arrival<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<(), TcpStream> {
        let ends = arrival.ends(turn.policy, turn.rng, |key| self.flows.has(key));
        let (Some((key, back)), Ok(permit)) = (ends, turn.host.permit()) else { return Err(outer) };
        if self.flows.check(key.inside.ip()).is_err() {
            return Err(outer);
        }
        // Both sides decide for themselves when to send. Where that can't be said, they are slower.
        let _slower = outer.set_nodelay(true);
        let Ok(token) = turn.host.watch(&outer, Interest::Changes) else { return Err(outer) };
        let (mtu, chance) = (turn.inside.mtu(), (turn.rng.u64(..), turn.now));
        let mut connection = Connection::inward(outer, &key, back, mtu, chance)?;
        let life = connection.wake((true, true), mtu, &mut turn.inside.frames, turn.now);
        let stage = Stage::Open(Box::new(connection));
        let flow = Flow { _permit: permit, token, owner: Some(arrival.owner), back, stage };
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

    /// Resets all that an owner has brought.
    pub(super) fn end(&mut self, owner: Token, turn: &mut Turn<'_>) {
        let own = self.flows.iter().filter(|(_, flow)| flow.owner == Some(owner));
        for key in own.map(|(&key, _)| key).collect::<Vec<_>>() {
            if let Some(Flow { stage: Stage::Open(connection), .. }) = self.flows.get_mut(&key) {
                connection.reset(turn.inside.mtu(), &mut turn.inside.frames, turn.now);
            }
            self.settle(&key, Life::Over, turn);
        }
    }

    /// Has the outer sides be reset when this is dropped.
    pub(super) fn reset_on_drop(&self) {
        for (_, flow) in self.flows.iter() {
            match &flow.stage {
                Stage::Open(connection) => connection.reset_on_drop(),
                Stage::Opening { outer, .. } => reset_on_close(outer),
                Stage::Over => {}
            }
        }
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
        match outer.connect(&key.outside.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            // Made at once, as to an address of this host, or not yet: it is writable when it is.
            _ => {}
        }
        let token = turn.host.watch(&outer, Interest::Changes)?;
        let stage = Stage::Opening { outer: outer.into(), syn: outward.packet.to_vec() };
        let flow = Flow { _permit: permit, token, owner: None, back: outward.back, stage };
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
                    }
                }
            }
        }
    }
}

impl Flow {
    fn take(&mut self, outward: &Outward<'_>, segment: &TcpSlice<'_>, turn: &mut Turn<'_>) -> Life {
        self.back = outward.back;
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            Stage::Over => Life::Over,
            Stage::Opening { .. } if segment.rst() => Life::Over,
            Stage::Opening { .. } => Life::Until(now + TRANSITORY_IDLE),
            Stage::Open(connection) => {
                if let Some(back) = self.back.of(outward.destination) {
                    connection.set_back(back);
                }
                connection.take(outward.packet, mtu, &mut turn.inside.frames, now)
            }
        }
    }

    fn ready(&mut self, key: Key, ready: Ready, turn: &mut Turn<'_>) -> Life {
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            // Nobody waits for the endpoint any more.
            Stage::Open(connection) if ready.error && !connection.is_answered() => {
                connection.reset(mtu, &mut turn.inside.frames, now);
                Life::Over
            }
            Stage::Open(connection) => {
                connection.wake((ready.read, ready.write), mtu, &mut turn.inside.frames, now)
            }
            Stage::Opening { outer, syn } => match connected(outer) {
                Ok(false) => Life::Until(now + TRANSITORY_IDLE),
                Ok(true) => self.established(key, turn),
                Err(error) => {
                    refuse(&error, self.back, (key.outside.ip(), syn), turn);
                    Life::Over
                }
            },
            Stage::Over => Life::Over,
        }
    }

    /// Whether it came from outside, and the endpoint has not taken it.
    fn is_unanswered(&self) -> bool {
        matches!(&self.stage, Stage::Open(connection) if !connection.is_answered())
    }

    /// Outside has answered: inside is answered.
    fn established(&mut self, key: Key, turn: &mut Turn<'_>) -> Life {
        let Stage::Opening { outer, syn } = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Life::Over;
        };
        let (mtu, chance) = (turn.inside.mtu(), (turn.rng.u64(..), turn.now));
        let back = self.back.of(key.outside.ip());
        let made = back.and_then(|back| Connection::outward(outer, key.outside, back, mtu, chance));
        let Some(mut connection) = made else { return Life::Over };
        let life = connection.take(&syn, mtu, &mut turn.inside.frames, turn.now);
        self.stage = Stage::Open(Box::new(connection));
        life
    }

    fn wake(&mut self, turn: &mut Turn<'_>) -> Life {
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            Stage::Open(connection) if connection.expiry() > now => {
                connection.wake((false, false), mtu, &mut turn.inside.frames, now)
            }
            Stage::Open(connection) => {
                turn.inside.counters.add(Count::Expired);
                connection.reset(mtu, &mut turn.inside.frames, now);
                Life::Over
            }
            Stage::Over => Life::Over,
            Stage::Opening { syn, .. } => {
                turn.inside.counters.add(Count::Expired);
                turn.inside.refuse(self.back, syn, Refusal::Host, Count::Unreachable, now);
                Life::Over
            }
        }
    }
}

/// Whether the outer connection is made, or why it is not.
fn connected(outer: &TcpStream) -> io::Result<bool> {
    if let Some(error) = outer.take_error()? {
        return Err(error);
    }
    match outer.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells inside why there is no connection to an address; `syn` is the packet that asked for it.
fn refuse(error: &io::Error, back: Back, (outside, syn): (IpAddr, &[u8]), turn: &mut Turn<'_>) {
    let (why, count) = match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => (Refusal::Network, Count::Unreachable),
        ErrorKind::HostUnreachable | ErrorKind::TimedOut => (Refusal::Host, Count::Unreachable),
        ErrorKind::PermissionDenied => (Refusal::Prohibited, Count::Denied),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
            return turn.inside.reset_kept(back, outside, syn, Count::Unreachable, turn.now);
        }
        // No descriptors, memory or ports.
        _ => return turn.inside.reset_kept(back, outside, syn, Count::Full, turn.now),
    };
    turn.inside.refuse(back, syn, why, count, turn.now);
}
