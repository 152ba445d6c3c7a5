//! One TCP connection between inside and outside: smoltcp ends it here, and the host's own TCP goes on from here.
//!
//! Two connections with bytes between them (RFC 1122 has no name for it; a relay, as SOCKS servers are). Nothing
//! is held but what the windows of both allow: a side that does not read has its window shut, or its socket full,
//! and then the other is not read either. Each side's end of sending is passed on when all before it has been
//! (half-close, RFC 9293 §3.6.1), and so is a reset, either way.

mod making;

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time;

use super::host::Ready;
use super::link::Link;
use super::outer::Outer;
use crate::gateway::frame::Back;
use crate::switch::wire::virtio::Offload;

pub(super) use self::making::Terms;

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
    outer: Outer,
    /// What inside gets before anything of the outer side's.
    ahead: Vec<u8>,
    /// How long inside may take to answer.
    patience: Duration,
    /// Whether the outer side is left as it is until inside has answered.
    returned: bool,
    readable: bool,
    writable: bool,
    /// Whether the outer side is said to have failed.
    broken: bool,
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    /// From outside's address, to inside's.
    back: Back,
    /// Whether inside has taken part in it.
    answered: bool,
    /// Whether it was asked a second time: see [`Self::ask_again`].
    asked_again: bool,
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
    /// Whether inside has taken it, if outside has asked for it.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Has outside be reset when this is dropped.
    pub(super) fn reset_on_drop(&self) {
        self.outer.reset_on_close();
    }

    /// Whether outside has gone, and nothing can be read any more that says so: before inside has answered nothing is
    /// read, and after the end nothing comes.
    fn is_left(&self) -> bool {
        (self.broken || self.outer.is_left()) && (!self.answered || self.ends.outside)
    }

    /// The outer side of one that inside has not taken.
    pub(super) fn into_outer(self) -> Outer {
        self.outer
    }

    fn reset_outer(&self) {
        if self.answered || !self.returned {
            self.outer.reset_on_close();
        }
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

    /// Does what the outer side, if it is said to be ready, or time asks for.
    pub(super) fn wake(
        &mut self,
        outer: Option<Ready>,
        mtu: usize,
        sent: &mut Vec<(Vec<u8>, Offload)>,
        now: Instant,
    ) -> Life {
        if let Some(ready) = outer {
            self.readable |= ready.read;
            self.writable |= ready.write;
            self.broken |= ready.error;
        }
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
        let (is_received, before) = (link.received.is_some(), link.sent.len());
        self.interface.poll(at, &mut link, &mut self.sockets);
        if is_received && link.sent.len() > before {
            self.ask_again();
        }
        let waits = [State::Closed, State::Listen, State::SynSent, State::SynReceived];
        self.answered |= !waits.contains(&self.sockets.get::<Socket<'_>>(self.socket).state());
        // Each round moves bytes, and both sides take as many as they have room for.
        while self.move_out(now) | self.move_in(now) {
            self.interface.poll(at, &mut link, &mut self.sockets);
        }
        if self.is_left() {
            self.fail();
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

    /// Asks inside anew at once, if it has answered for a connection of the same ports that it remembers (TIME-WAIT), and
    /// by the reset that it was sent for that has forgotten now (RFC 9293 §3.5.2). Left to itself TCP would ask a second
    /// later, and clients are quick to use a port again.
    fn ask_again(&mut self) {
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        let ends = socket.remote_endpoint().zip(socket.local_endpoint());
        let Some((to, from)) = ends.filter(|_| socket.state() == State::SynSent && !self.asked_again) else {
            return;
        };
        self.asked_again = true;
        socket.abort();
        if socket.connect(self.interface.context(), to, from).is_err() {
            self.fail();
        }
    }

    /// When it has been quiet for too long.
    pub(super) fn expiry(&self) -> Instant {
        let socket = self.sockets.get::<Socket<'_>>(self.socket);
        let closed = self.ends.inside_passed && self.ends.outside;
        if !self.answered {
            // Whatever inside says instead of an answer.
            self.start + self.patience
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
            if self.outer.shutdown().is_err() {
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
        if !self.ahead.is_empty() && socket.can_send() {
            let sent = socket.send_slice(&self.ahead).unwrap_or_default();
            self.ahead.drain(..sent);
            moved = sent > 0;
        }
        while self.readable
            && self.ahead.is_empty()
            && !self.ends.outside
            && !self.ends.failed
            && socket.can_send()
        {
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
        self.reset_outer();
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
            self.reset_outer();
        }
        over
    }

    fn time(&self, now: Instant) -> time::Instant {
        let since = now.saturating_duration_since(self.start).as_micros();
        time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }
}
