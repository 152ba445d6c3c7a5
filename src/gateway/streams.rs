//! DNS over TCP (RFC 7766), for what no datagram holds.
//!
//! smoltcp does TCP; each connection is an interface of its own with one socket, found by the client's address and port,
//! because an interface looks at all of its sockets for every packet. No time, device or chance but what is handed in.
//! A connection takes queries one after the other, and ends when it has been quiet for [`IDLE`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::desk::Open;
use super::frame::{Back, Ends};
use super::packets::Packets;
use crate::names::{Outcome, Through};

/// Connections to one gateway: clients come here only with what was cut, and each costs two buffers.
pub(super) const STREAMS_MAX: usize = 64;
/// How long a connection may be quiet (RFC 7766 §6.2.3: a few seconds).
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// How often connections are looked at for what is due, while there are any: well below the shortest time after which
/// TCP sends again (RFC 6298 §2.4).
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Bytes of the longest query: a name, and some options. Whoever sends more is sent away.
const QUERY_MAX: usize = 1_024;
/// Questions that one connection may have elsewhere at a time; one more is answered at once, with SERVFAIL.
const ASKED_MAX: usize = 8;
const RECEIVE_LEN: usize = 2 * QUERY_MAX;
const SEND_LEN: usize = 16 << 10;
/// DNS (RFC 1035 §4.2).
const DNS: u16 = 53;

/// A client: its address, which of ours it asks, and its port.
pub(super) type Client = (Ends, u16);

/// A connection, of all that there have ever been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamId {
    client: Client,
    serial: u64,
}

/// What comes of a packet, or of time.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) frames: Vec<Vec<u8>>,
    /// Queries that others are to be asked.
    pub(super) questions: Vec<(StreamId, Vec<u8>)>,
}

/// A TCP segment for port 53 of ours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'a> {
    /// From the IP header on.
    pub(super) packet: &'a [u8],
    pub(super) back: Back,
    /// The client's.
    pub(super) port: u16,
    pub(super) is_syn: bool,
}

/// The connections of a gateway.
#[derive(Debug)]
pub(super) struct Streams {
    open: HashMap<Client, Stream>,
    /// When smoltcp's time began.
    start: Instant,
    serial: u64,
}

struct Stream {
    id: StreamId,
    back: Back,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    packets: Packets,
    /// Of a message that has not come as a whole.
    received: Vec<u8>,
    /// Of replies that the socket has not taken yet.
    unsent: Vec<u8>,
    asked: usize,
    heard: Instant,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Streams {
    pub(super) fn new(now: Instant) -> Self {
        Self { open: HashMap::new(), start: now, serial: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// `None`: it belongs to no connection, and makes none; it is to be reset.
    pub(super) fn handle(&mut self, segment: Segment<'_>, desk: &mut Open<'_>) -> Option<Progress> {
        let Segment { packet, back, port, is_syn } = segment;
        let client = (back.ends, port);
        let now = desk.now();
        let at = self.time(now);
        if !self.open.contains_key(&client) {
            if !is_syn || self.open.len() >= STREAMS_MAX {
                return None;
            }
            self.serial += 1;
            let id = StreamId { client, serial: self.serial };
            self.open.insert(client, Stream::new(id, back, desk.seed(), at, now)?);
        }
        let stream = self.open.get_mut(&client)?;
        stream.packets.received.push_back(packet.to_vec());
        stream.heard = now;
        let progress = stream.go_on(desk, at);
        self.close_if_done(client);
        Some(progress)
    }

    /// Takes the reply to a question that was asked elsewhere; its connection may be gone.
    pub(super) fn answer(&mut self, id: StreamId, reply: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let at = self.time(now);
        let Some(stream) = self.open.get_mut(&id.client).filter(|stream| stream.id == id) else {
            return Vec::new();
        };
        stream.asked = stream.asked.saturating_sub(1);
        stream.heard = now;
        stream.say(reply);
        stream.exchange(at);
        let frames = stream.frames();
        self.close_if_done(id.client);
        frames
    }

    /// Does what is due: each [`TICK`] while there are connections.
    pub(super) fn tick(&mut self, desk: &mut Open<'_>) -> Progress {
        let now = desk.now();
        let at = self.time(now);
        let mut all = Progress::default();
        for stream in self.open.values_mut() {
            if now.saturating_duration_since(stream.heard) >= IDLE {
                stream.sockets.get_mut::<Socket<'_>>(stream.socket).abort();
            }
            let mut progress = stream.go_on(desk, at);
            all.frames.append(&mut progress.frames);
            all.questions.append(&mut progress.questions);
        }
        self.open.retain(|_, stream| !stream.is_done());
        all
    }

    fn close_if_done(&mut self, client: Client) {
        if self.open.get(&client).is_some_and(Stream::is_done) {
            self.open.remove(&client);
        }
    }

    fn time(&self, now: Instant) -> time::Instant {
        let since = now.saturating_duration_since(self.start).as_micros();
        time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

impl Stream {
    fn new(id: StreamId, back: Back, seed: u64, at: time::Instant, now: Instant) -> Option<Self> {
        let mut packets = Packets::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut packets, at);
        let (own, bits) = match back.ends {
            Ends::V4(own, _) => (IpAddr::V4(own), 32),
            Ends::V6(own, _) => (IpAddr::V6(own), 128),
        };
        let mut full = false;
        interface.update_ip_addrs(|addresses| full = addresses.push(IpCidr::new(own.into(), bits)).is_err());
        add_way_back(&mut interface, back.ends);
        let buffer = |len| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(RECEIVE_LEN), buffer(SEND_LEN));
        socket.listen((own, DNS)).ok().filter(|()| !full)?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        let (received, unsent) = (Vec::new(), Vec::new());
        Some(Self { id, back, interface, sockets, socket, packets, received, unsent, asked: 0, heard: now })
    }

    /// Lets TCP work, answers what has come, and lets it work again.
    fn go_on(&mut self, desk: &mut Open<'_>, at: time::Instant) -> Progress {
        self.exchange(at);
        let mut questions = Vec::new();
        while let Some(query) = self.next_query() {
            match desk.answer(&query, Through::Tcp) {
                Outcome::Reply(reply) => self.say(&reply),
                Outcome::Forward if self.asked < ASKED_MAX => {
                    self.asked += 1;
                    questions.push((self.id, query));
                }
                Outcome::Forward => desk.refuse(&query).iter().for_each(|reply| self.say(reply)),
                Outcome::Ignore => self.abort(),
            }
        }
        self.exchange(at);
        Progress { frames: self.frames(), questions }
    }

    /// Packets in and out, and bytes between socket and buffers.
    fn exchange(&mut self, at: time::Instant) {
        self.interface.poll(at, &mut self.packets, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        // What is left in the socket shuts the window.
        while self.received.len() < QUERY_MAX + 2 && socket.can_recv() {
            let taken = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
            self.received.extend(taken.unwrap_or_default());
        }
        if socket.can_send() && !self.unsent.is_empty() {
            let sent = socket.send_slice(&self.unsent).unwrap_or_default();
            self.unsent.drain(..sent);
        }
        if socket.state() == State::CloseWait && self.unsent.is_empty() && self.asked == 0 {
            socket.close();
        }
        self.interface.poll(at, &mut self.packets, &mut self.sockets);
    }

    /// The next message that has come as a whole (RFC 1035 §4.2.2: behind its length in two bytes).
    fn next_query(&mut self) -> Option<Vec<u8>> {
        // Replies wait while the client does not take them: it asks too much.
        if self.unsent.len() > SEND_LEN {
            return None;
        }
        let (&len, rest) = self.received.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(len));
        if len > QUERY_MAX {
            self.abort();
            return None;
        }
        let query = rest.get(..len)?.to_vec();
        self.received.drain(..2 + len);
        Some(query)
    }

    fn say(&mut self, reply: &[u8]) {
        match u16::try_from(reply.len()) {
            Ok(len) => {
                self.unsent.extend(len.to_be_bytes());
                self.unsent.extend(reply);
            }
            Err(_) => self.abort(),
        }
    }

    fn abort(&mut self) {
        self.received.clear();
        self.sockets.get_mut::<Socket<'_>>(self.socket).abort();
    }

    fn frames(&mut self) -> Vec<Vec<u8>> {
        let back = self.back;
        self.packets.sent.drain(..).map(|packet| back.frame(&packet)).collect()
    }

    fn is_done(&self) -> bool {
        let socket = self.sockets.get::<Socket<'_>>(self.socket);
        matches!(socket.state(), State::Closed | State::TimeWait | State::Listen)
    }
}

/// Everybody is behind our own side of this interface.
fn add_way_back(interface: &mut Interface, ends: Ends) {
    let routes = interface.routes_mut();
    let added = match ends {
        Ends::V4(own, _) => routes.add_default_ipv4_route(own).map(drop),
        Ends::V6(own, _) => routes.add_default_ipv6_route(own).map(drop),
    };
    added.expect("an interface without routes has room for one");
}

#[cfg(test)]
mod tests;
