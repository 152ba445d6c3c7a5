//! UDP and ICMP echo by way of the host's own sockets.
//!
//! Each inside address and port has an unconnected UDP socket of its own, whatever it sends to: the mapping does
//! not depend on the other end (RFC 4787 REQ-1). What comes in is passed on from addresses that something was sent
//! to, and no others (REQ-8, address-dependent filtering). Echo requests are the same with their identifier in the
//! port's place (RFC 5508), through the sockets that Linux has for them (icmp(7), `ping_group_range`): the kernel
//! puts an identifier of its own in, and gives each socket the replies to that. Only what goes out keeps a flow
//! alive (REQ-6), and what has been asked of a resolver alone is forgotten soon.
//!
//! Hop limits are passed on less one, and so are errors with who said them: `traceroute` shows the way.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use etherparse::{IpNumber, UdpSlice};
use rustix::io::Errno;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::counters::{Count, Kind};
use super::host::{Interest, Permit, Ready, Token};
use super::inside::{Outward, Refusal};
use super::quote::quote;
use super::table::{self, Limits, Table};
use super::turn::Turn;
use crate::gateway::frame::Back;
use crate::switch::io::error_queue::{self, Cause};

/// Inside addresses and ports with a socket.
pub(super) const UDP_LIMITS: Limits = Limits { network: 4_096, inside: 1_024 };
/// Inside addresses and identifiers with a socket: each `ping` has one.
pub(super) const ECHO_LIMITS: Limits = Limits { network: 1_024, inside: 128 };
/// How long a flow may be quiet (RFC 4787 REQ-5 recommends it, and asks for two minutes).
pub(super) const UDP_IDLE: Duration = Duration::from_secs(300);
/// The same, if nothing but resolvers were asked (REQ-5 a): longer than any of them is waited for.
pub(super) const DNS_IDLE: Duration = Duration::from_secs(20);
/// The same of echo (RFC 5508 REQ-2).
pub(super) const ECHO_IDLE: Duration = Duration::from_secs(60);
/// Addresses that a flow takes replies from: the last ones that it has sent to.
pub(super) const REMOTES_MAX: usize = 256;
/// Datagrams read from a socket at a time: the others have their turn too.
const BATCH: usize = 64;
/// Bytes of a datagram's beginning that an error is told with: more than any error quotes.
const BEGINNING_LEN: usize = 1_280;
/// Port of DNS (RFC 1035 §4.2).
const DNS: u16 = 53;
/// RFC 792, RFC 4443: type and code of echo requests and replies.
const REQUEST_V4: [u8; 2] = [8, 0];
const REPLY_V4: [u8; 2] = [0, 0];
const REQUEST_V6: [u8; 2] = [128, 0];
const REPLY_V6: [u8; 2] = [129, 0];
/// Where an echo message has its identifier.
const ID: std::ops::Range<usize> = 4..6;

/// An inside address and port, or identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key(SocketAddr);

impl table::Key for Key {
    fn inside(&self) -> SocketAddr {
        self.0
    }
}

/// Flows of UDP, or of echo.
#[derive(Debug)]
pub(super) struct Datagrams {
    kind: Kind,
    flows: Table<Key, Flow>,
    tokens: HashMap<Token, Key>,
    buffer: Vec<u8>,
    /// Whether somebody has been told that this host does not permit it.
    told: bool,
}

#[derive(Debug)]
struct Flow {
    _permit: Permit,
    kind: Kind,
    socket: UdpSocket,
    token: Token,
    /// Where it is: the last packet's.
    back: Back,
    remotes: Remotes,
    /// The hop limit that the socket has.
    hops: u8,
    idle: Duration,
}

/// Addresses that were sent to, the oldest first.
#[derive(Debug, Default)]
struct Remotes(Vec<IpAddr>);

impl Remotes {
    fn add(&mut self, remote: IpAddr) {
        // Nearly always the one of the last time.
        if self.0.last() == Some(&remote) {
            return;
        }
        self.0.retain(|&other| other != remote);
        if self.0.len() == REMOTES_MAX {
            self.0.remove(0);
        }
        self.0.push(remote);
    }

    fn has(&self, remote: IpAddr) -> bool {
        self.0.iter().rev().any(|&other| other == remote)
    }
}

/// What is to be sent, to whom, for whom.
struct Letter<'a> {
    key: Key,
    to: SocketAddr,
    bytes: &'a [u8],
}

impl Datagrams {
    pub(super) fn new(kind: Kind, limits: Limits) -> Self {
        let (flows, tokens) = (Table::new(limits), HashMap::new());
        Self { kind, flows, tokens, buffer: vec![0; usize::from(u16::MAX)], told: false }
    }

    /// Carries a packet of UDP, or an echo request.
    pub(super) fn handle(&mut self, outward: &Outward<'_>, turn: &mut Turn<'_>) {
        let letter = match self.kind {
            Kind::Udp => udp_letter(outward),
            _ => echo_letter(outward),
        };
        let Some(letter) = letter else { return turn.inside.counters.add(Count::Malformed) };
        let is_udp = self.kind == Kind::Udp;
        let allowed = if is_udp {
            turn.policy.allows_udp(letter.to.ip(), letter.to.port())
        } else {
            turn.policy.allows(letter.to.ip())
        };
        if !allowed {
            return turn.refuse(outward, Refusal::Prohibited, Count::Denied);
        }
        if self.flows.get_mut(&letter.key).is_none()
            && let Err(error) = self.open(letter.key, outward, turn)
        {
            return self.not_opened(outward, &error, turn);
        }
        let Some(flow) = self.flows.get_mut(&letter.key) else { return };
        flow.back = outward.back;
        flow.remotes.add(letter.to.ip());
        if is_udp && letter.to.port() != DNS {
            flow.idle = UDP_IDLE;
        }
        let idle = flow.idle;
        let outcome = flow.send(&letter, outward.hops - 1, &mut self.buffer, turn);
        self.flows.wake(&letter.key, turn.now + idle);
        if let Err(error) = outcome {
            refuse_unsent(outward, &error, turn);
        }
    }

    /// Makes a flow's socket.
    fn open(&mut self, key: Key, outward: &Outward<'_>, turn: &mut Turn<'_>) -> Result<(), OpenError> {
        self.flows.check(key.0.ip()).map_err(|table::Full| OpenError::Full)?;
        let permit = turn.host.permit()?;
        let (socket, token) = self.socket(key.0.is_ipv6(), turn)?;
        let idle = if self.kind == Kind::Udp { DNS_IDLE } else { ECHO_IDLE };
        let (kind, back, remotes) = (self.kind, outward.back, Remotes::default());
        let flow = Flow { _permit: permit, kind, socket, token, back, remotes, hops: 0, idle };
        // Checked before.
        self.flows.insert(key, flow, turn.now + idle).map_err(|table::Full| OpenError::Full)?;
        self.tokens.insert(token, key);
        turn.inside.counters.opened(self.kind);
        turn.inside.counters.add(if self.kind == Kind::Udp { Count::UdpFlows } else { Count::EchoFlows });
        Ok(())
    }

    fn socket(&self, is_ipv6: bool, turn: &mut Turn<'_>) -> io::Result<(UdpSocket, Token)> {
        let domain = if is_ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let protocol = match (self.kind, is_ipv6) {
            (Kind::Echo, false) => Protocol::ICMPV4,
            (Kind::Echo, true) => Protocol::ICMPV6,
            _ => Protocol::UDP,
        };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(protocol))?;
        if is_ipv6 && self.kind == Kind::Udp {
            socket.set_only_v6(true)?;
        }
        error_queue::keep(socket.as_fd(), is_ipv6)?;
        let token = turn.host.watch(&socket, Interest::Reading)?;
        Ok((socket.into(), token))
    }

    fn not_opened(&mut self, outward: &Outward<'_>, error: &OpenError, turn: &mut Turn<'_>) {
        match error {
            OpenError::System(error) if error.kind() == ErrorKind::PermissionDenied => {
                if !std::mem::replace(&mut self.told, true) {
                    warn!(
                        "ping does not lead out: this host permits no ICMP sockets to us (net.ipv4.ping_group_range)"
                    );
                }
                turn.refuse(outward, Refusal::Prohibited, Count::Denied);
            }
            OpenError::System(_) | OpenError::Full => {
                turn.refuse(outward, Refusal::Prohibited, Count::Full);
            }
        }
    }

    /// Passes on what has come to a socket. Whether it is one of these.
    pub(super) fn ready(&mut self, ready: Ready, turn: &mut Turn<'_>) -> bool {
        let Some(&key) = self.tokens.get(&ready.token) else { return false };
        let Some(flow) = self.flows.get_mut(&key) else { return true };
        if ready.error {
            flow.pass_errors(key, &mut self.buffer, turn);
        }
        for _ in 0..BATCH {
            match flow.socket.recv_from(&mut self.buffer) {
                Ok((len, from)) => flow.pass(key, from, &mut self.buffer[..len], turn),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // None left; or an error that has been passed on from its queue, and comes once this way too.
                Err(_) => break,
            }
        }
        true
    }

    /// Forgets flows that have been quiet for too long.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        while let Some(key) = self.flows.due(turn.now) {
            if let Some(flow) = self.flows.remove(&key) {
                self.tokens.remove(&flow.token);
                turn.inside.counters.closed(self.kind);
                turn.inside.counters.add(Count::Expired);
            }
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.flows.next()
    }
}

impl Flow {
    fn send(
        &mut self,
        letter: &Letter<'_>,
        hops: u8,
        buffer: &mut [u8],
        turn: &mut Turn<'_>,
    ) -> io::Result<()> {
        if self.hops != hops {
            match letter.to {
                SocketAddr::V4(_) => sockopt::set_ip_ttl(&self.socket, hops.into())?,
                SocketAddr::V6(_) => sockopt::set_ipv6_unicast_hops(&self.socket, Some(hops))?,
            }
            self.hops = hops;
        }
        let sent = self.socket.send_to(letter.bytes, letter.to);
        let is_old = |error: &io::Error| {
            use ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
            let kinds = [ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied];
            kinds.contains(&error.kind()) || error.raw_os_error() == Some(Errno::PROTO.raw_os_error())
        };
        match sent {
            Err(error) if is_old(&error) => {
                // Perhaps of another datagram, to somebody else: such an error is said once, and then is in the
                // queue.
                self.pass_errors(letter.key, buffer, turn);
                self.socket.send_to(letter.bytes, letter.to).map(drop)
            }
            outcome => outcome.map(drop),
        }
    }

    /// Passes a datagram on that has come from outside.
    fn pass(&self, key: Key, from: SocketAddr, bytes: &mut [u8], turn: &mut Turn<'_>) {
        if !self.remotes.has(from.ip()) {
            return turn.inside.counters.add(Count::Unsolicited);
        }
        if self.kind == Kind::Udp {
            return turn.inside.datagram(self.back, from, key.0.port(), bytes);
        }
        let reply = if from.is_ipv4() { REPLY_V4 } else { REPLY_V6 };
        if bytes.len() < ID.end || bytes[..2] != reply {
            return turn.inside.counters.add(Count::Malformed);
        }
        bytes[ID].copy_from_slice(&key.0.port().to_be_bytes());
        turn.inside.echo(self.back, from.ip(), &bytes[ID.start..]);
    }

    /// Passes on what somebody on the way has said of datagrams.
    fn pass_errors(&self, key: Key, buffer: &mut [u8], turn: &mut Turn<'_>) {
        for _ in 0..BATCH {
            let beginning = &mut buffer[..BEGINNING_LEN];
            let Ok(Some(error)) = error_queue::take(self.socket.as_fd(), beginning) else { return };
            let Cause::Icmp { kind: icmp_type, code } = error.cause else { continue };
            if !is_passed_on(error.to.is_ipv4(), icmp_type, code) || !self.remotes.has(error.to.ip()) {
                continue;
            }
            let quoted = quote(key.0, error.to, self.kind, &buffer[..error.len]);
            // Routers have addresses that packets may not be sent to, but inside need not know of these either.
            let said_by = error.by.filter(|&by| turn.policy.allows(by));
            let back = said_by.and_then(|by| self.back.of(by)).unwrap_or(self.back);
            turn.inside.undelivered(back, &quoted, icmp_type, code, turn.now);
        }
    }
}

/// Why there is no flow.
enum OpenError {
    Full,
    System(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

fn udp_letter<'a>(outward: &Outward<'a>) -> Option<Letter<'a>> {
    let datagram = UdpSlice::from_slice(outward.transport).ok()?;
    Some(Letter {
        key: Key(SocketAddr::new(outward.source, datagram.source_port())),
        to: SocketAddr::new(outward.destination, datagram.destination_port()),
        bytes: datagram.payload(),
    })
}

fn echo_letter<'a>(outward: &Outward<'a>) -> Option<Letter<'a>> {
    let id = outward.transport.get(ID)?;
    Some(Letter {
        key: Key(SocketAddr::new(outward.source, u16::from_be_bytes([id[0], id[1]]))),
        to: SocketAddr::new(outward.destination, 0),
        bytes: outward.transport,
    })
}

/// Whether a packet is an echo request.
pub(super) fn is_echo_request(outward: &Outward<'_>) -> bool {
    let request = match IpNumber(outward.protocol) {
        IpNumber::ICMP if outward.source.is_ipv4() => REQUEST_V4,
        IpNumber::IPV6_ICMP if outward.source.is_ipv6() => REQUEST_V6,
        _ => return false,
    };
    outward.transport.starts_with(&request)
}

/// Errors that tell inside something: unreachable, and hops used up. Not that a packet is too big, which the host
/// heeds itself, since it cuts what is sent.
fn is_passed_on(is_ipv4: bool, kind: u8, code: u8) -> bool {
    const FRAGMENTATION_NEEDED: u8 = 4;
    if is_ipv4 { kind == 3 && code != FRAGMENTATION_NEEDED || kind == 11 } else { kind == 1 || kind == 3 }
}

/// Says why a datagram could not be sent.
fn refuse_unsent(outward: &Outward<'_>, error: &io::Error, turn: &mut Turn<'_>) {
    match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => {
            turn.refuse(outward, Refusal::Network, Count::Unreachable);
        }
        ErrorKind::HostUnreachable => turn.refuse(outward, Refusal::Host, Count::Unreachable),
        // A broadcast address of this host's, or a firewall's word.
        ErrorKind::PermissionDenied => turn.refuse(outward, Refusal::Prohibited, Count::Denied),
        _ => turn.inside.counters.add(Count::Lost),
    }
}
