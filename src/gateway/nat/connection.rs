//! One TCP connection between inside and outside: smoltcp ends it here, and the host's own TCP goes on from here.
//!
//! Two connections with bytes between them (RFC 1122 has no name for it; a relay, as SOCKS servers are). Nothing
//! is held but what the windows of both allow: a side that does not read has its window shut, or its socket full,
//! and then the other is not read either. Each side's end of sending is passed on when all before it has been
//! (half-close, RFC 9293 §3.6.1), and so is a reset, either way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::connections::Key;
use super::link::Link;
use crate::gateway::frame::Back;
use crate::gateway::streams::add_way_back;
use crate::switch::wire::virtio::Offload;

/// Bytes that wait for the side that is slower, each way: two super-frames, so that one is filled while one is
/// under way.
pub(super) const BUFFER_LEN: usize = 128 << 10;
/// How long an established connection may be quiet (RFC 5382 REQ-5: no less than 2 hours and 4 minutes).
pub(super) const ESTABLISHED_IDLE: Duration = Duration::from_secs(7_440);
/// The same of one that is being opened or closed, or whose inside end acknowledges nothing (REQ-5: no less than 4
/// minutes).
pub(super) const TRANSITORY_IDLE: Duration = Duration::from_secs(240);

/// How long inside may take to answer a client of outside's: some time more than a program needs that is busy, and
/// less than clients wait.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It is to be looked at then.
    Until(Instant),
    /// It has ended.
    Over,
}

/// An open connection.
pub(super) struct Connection {
    outer: TcpStream,
    readable: bool,
    writable: bool,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// From outside's address, to inside's.
    back: Back,
    /// Whether inside has taken part in it.
    answered: bool,
    ends: Ended,
    heard: Heard,
    /// When smoltcp's time began.
    start: Instant,
}

/// What has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    /// Inside has said that it sends no more.
    inside: bool,
    /// All that it has sent, and this, have been passed on.
    inside_passed: bool,
    /// Outside sends no more, and inside is told behind all that it has sent.
    outside: bool,
    /// It failed.
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// Anything of either side.
    any: Instant,
    /// Inside, or else when something was first sent to it that it has not acknowledged.
    inside: Instant,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("outer", &self.outer)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// One whose outer side is connected to `outside`, and whose inner one awaits the SYN that asked for it.
    /// `back` is from outside's address.
    pub(super) fn outward(
        outer: TcpStream,
        outside: SocketAddr,
        back: Back,
        mtu: usize,
        (seed, now): (u64, Instant),
    ) -> Option<Self> {
        let (interface, mut socket) = inner(outside.ip(), back, mtu, seed)?;
        socket.listen((outside.ip(), outside.port())).ok()?;
        Some(Self::new(outer, interface, socket, back, now))
    }

    /// One whose outer side is a client's, whom inside sees as `key.outside`, and whose inner one asks inside for it.
    /// The outer side is given back where that can't be.
    pub(super) fn inward(
        outer: TcpStream,
        key: &Key,
        back: Back,
        mtu: usize,
        (seed, now): (u64, Instant),
    ) -> Result<Self, TcpStream> {
        let client = key.outside.ip();
        let Some((mut interface, mut socket)) = inner(client, back, mtu, seed) else { return Err(outer) };
        let (to, from) = ((key.inside.ip(), key.inside.port()), (client, key.outside.port()));
        if socket.connect(interface.context(), to, from).is_err() {
            return Err(outer);
        }
        Ok(Self { answered: false, ..Self::new(outer, interface, socket, back, now) })
    }

    fn new(
        outer: TcpStream,
        interface: Interface,
        socket: Socket<'static>,
        back: Back,
        now: Instant,
    ) -> Self {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self {
            outer,
            readable: true,
            writable: true,
            interface,
            sockets,
            socket,
            back,
            answered: true,
            ends: Ended::default(),
            heard: Heard { any: now, inside: now },
            start: now,
        }
    }

    /// Whether inside has taken it, if outside has asked for it.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Has outside be reset when this is dropped.
    pub(super) fn reset_on_drop(&self) {
        reset_on_close(&self.outer);
    }

    /// Takes a packet from inside, whose checksums have been looked at.
    pub(super) fn take(
        &mut self,
        packet: &[u8],
        mtu: usize,
        sent: &mut Vec<(Vec<u8>, Offload)>,
        now: Instant,
    ) -> Life {
        self.heard = Heard { any: now, inside: now };
        self.go_on(Link { received: Some(packet), sent, back: self.back, mtu }, now)
    }

    /// Does what the outer side, as it is said to be, or time asks for.
    pub(super) fn wake(
        &mut self,
        (readable, writable): (bool, bool),
        mtu: usize,
        sent: &mut Vec<(Vec<u8>, Offload)>,
        now: Instant,
    ) -> Life {
        self.readable |= readable;
        self.writable |= writable;
        self.go_on(Link { received: None, sent, back: self.back, mtu }, now)
    }

    /// Ends it for both sides, with a reset.
    pub(super) fn reset(&mut self, mtu: usize, sent: &mut Vec<(Vec<u8>, Offload)>, now: Instant) {
        self.fail();
        let mut link = Link { received: None, sent, back: self.back, mtu };
        let at = self.time(now);
        self.interface.poll(at, &mut link, &mut self.sockets);
    }

    /// Inside has moved to another MAC address.
    pub(super) fn set_back(&mut self, back: Back) {
        self.back = back;
    }

    fn go_on(&mut self, mut link: Link<'_>, now: Instant) -> Life {
        let at = self.time(now);
        self.interface.poll(at, &mut link, &mut self.sockets);
        let waits = [State::Closed, State::Listen, State::SynSent, State::SynReceived];
        self.answered |= !waits.contains(&self.sockets.get::<Socket<'_>>(self.socket).state());
        // Each round moves bytes, and both sides take as many as they have room for.
        while self.move_out(now) | self.move_in(now) {
            self.interface.poll(at, &mut link, &mut self.sockets);
        }
        self.interface.poll(at, &mut link, &mut self.sockets);
        if self.is_over() {
            return Life::Over;
        }
        let polled = self.interface.poll_delay(at, &self.sockets);
        let delay = polled.map_or(Duration::MAX, Duration::from);
        let due = now.checked_add(delay).unwrap_or_else(|| self.expiry());
        Life::Until(due.min(self.expiry()))
    }

    /// When it has been quiet for too long.
    pub(super) fn expiry(&self) -> Instant {
        let socket = self.sockets.get::<Socket<'_>>(self.socket);
        let closed = self.ends.inside_passed && self.ends.outside;
        if !self.answered {
            self.heard.inside + ANSWER_PATIENCE
        } else if socket.send_queue() > 0 || socket.state() == State::SynReceived {
            self.heard.inside + TRANSITORY_IDLE
        } else if closed {
            self.heard.any + TRANSITORY_IDLE
        } else {
            self.heard.any + ESTABLISHED_IDLE
        }
    }

    /// Moves what inside has sent to the outer socket, and then its end. Gives whether anything moved.
    fn move_out(&mut self, now: Instant) -> bool {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        let said_end = [State::CloseWait, State::LastAck, State::Closing, State::TimeWait];
        self.ends.inside |= said_end.contains(&socket.state());
        let mut moved = false;
        while self.writable && !self.ends.failed && socket.can_recv() {
            let outer = &mut self.outer;
            let written = socket.recv(|bytes| match outer.write(bytes) {
                Ok(len) => (len, Ok(len)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(_)) => (moved, self.heard.any) = (true, now),
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Ok(Err(_)) | Err(_) => {
                    self.fail();
                    return true;
                }
            }
        }
        if self.ends.inside && !self.ends.inside_passed && !self.ends.failed && socket.recv_queue() == 0 {
            self.ends.inside_passed = true;
            if self.outer.shutdown(Shutdown::Write).is_err() {
                self.fail();
            }
            return true;
        }
        moved
    }

    /// Moves what outside has sent to inside's window, and then its end. Gives whether anything moved.
    fn move_in(&mut self, now: Instant) -> bool {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        let mut moved = false;
        while self.readable && !self.ends.outside && !self.ends.failed && socket.can_send() {
            if socket.send_queue() == 0 {
                self.heard.inside = now;
            }
            let outer = &mut self.outer;
            let read = socket.send(|room| match outer.read(room) {
                Ok(len) => (len, Ok(len)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    (moved, self.ends.outside) = (true, true);
                    socket.close();
                }
                Ok(Ok(_)) => (moved, self.heard.any) = (true, now),
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Ok(Err(_)) | Err(_) => {
                    self.fail();
                    return true;
                }
            }
        }
        moved
    }

    /// Inside is told with a reset, and so is outside when the connection is dropped.
    fn fail(&mut self) {
        self.ends.failed = true;
        self.sockets.get_mut::<Socket<'_>>(self.socket).abort();
        reset_on_close(&self.outer);
    }

    fn is_over(&mut self) -> bool {
        let state = self.sockets.get::<Socket<'_>>(self.socket).state();
        if self.ends.failed || self.ends.inside_passed && self.ends.outside {
            // What is left of TCP's closing needs no bytes of ours: a FIN that comes again is answered with a
            // reset.
            return self.ends.failed || matches!(state, State::TimeWait | State::Closed);
        }
        // Inside has reset it, or has never wanted it; or its last bytes wait for the outer socket.
        let waits = self.ends.inside && self.ends.outside;
        let over = matches!(state, State::Closed | State::Listen) && !waits;
        if over {
            reset_on_close(&self.outer);
        }
        over
    }

    fn time(&self, now: Instant) -> time::Instant {
        let since = now.saturating_duration_since(self.start).as_micros();
        time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

/// A socket that is at an outside address, on an interface of its own.
fn inner(own: IpAddr, back: Back, mtu: usize, seed: u64) -> Option<(Interface, Socket<'static>)> {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut link = Link { received: None, sent: &mut Vec::new(), back, mtu };
    let mut interface = Interface::new(config, &mut link, time::Instant::ZERO);
    let mut full = false;
    let cidr = IpCidr::new(own.into(), if own.is_ipv4() { 32 } else { 128 });
    interface.update_ip_addrs(|addresses| full = addresses.push(cidr).is_err());
    add_way_back(&mut interface, back.ends);
    let buffer = || SocketBuffer::new(vec![0; BUFFER_LEN]);
    let mut socket = Socket::new(buffer(), buffer());
    // Outside has decided already what goes in one segment.
    socket.set_nagle_enabled(false);
    (!full).then_some((interface, socket))
}

/// What is not sent is thrown away, and the other end is reset (RFC 9293 §3.10.4, socket(7) on `SO_LINGER`).
pub(super) fn reset_on_close(outer: &TcpStream) {
    // Where that fails it is closed in order.
    let _closed: Result<(), io::Error> =
        sockopt::set_socket_linger(outer, Some(Duration::ZERO)).map_err(io::Error::from);
}
