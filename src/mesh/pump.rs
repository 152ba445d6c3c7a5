//! Moves one connection's bytes between a link and the client, or the task: the same at both ends.
//!
//! Nothing waits here but what is left of one frame each way. A side that takes no more stops the other by its own flow
//! control.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::frame::{DATA_MAX, HEADER_LEN, Kind, Nonsense, header, parse_header};

/// How long the other node may take to agree that a connection is cut off, before the link is given up with it.
const DRAIN: Duration = Duration::from_secs(2);
/// How often one side is looked at that can't be read, since the other takes nothing or since it has said that it ends.
const LOOK: Duration = Duration::from_secs(1);

thread_local! {
    /// What is read, until the other side has it: what that does not take is kept by the connection.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; HEADER_LEN + DATA_MAX].into());
}

/// A link to another node.
pub(super) trait Wire {
    type Stream: AsyncRead + AsyncWrite + Unpin;

    /// What goes over it.
    fn stream(&mut self) -> &mut Self::Stream;

    /// Whether the other node has given it up, as far as this host has heard. What was sent before may be unread.
    fn is_broken(&self) -> bool;

    /// Has the other node hear that it is given up, even if it reads nothing, when this is dropped.
    fn give_up(&self);
}

/// A client, or a way to a task. When it is dropped it is reset, unless it has [`Self::finish`]ed.
pub(super) trait Party {
    type Stream: AsyncRead + AsyncWrite + Unpin;

    /// What it says, and is told.
    fn stream(&mut self) -> &mut Self::Stream;

    /// What it means that so many bytes were read: an error if it has been reset.
    fn judge(&self, read: io::Result<usize>) -> io::Result<usize> {
        read
    }

    /// It has ended in order, both ways.
    fn finish(&mut self);

    /// Whether it has been reset, though nothing was read from it since.
    fn is_gone(&self) -> bool;
}

/// What a connection has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// A link that takes the next one.
    Link,
    /// Nothing.
    Nothing,
}

/// Carries a connection from its beginning to its end; `ahead` goes over the link before what the party says.
pub(super) async fn pump(link: &mut impl Wire, party: &mut impl Party, ahead: &[u8]) -> Left {
    let mut pump = Pump::new(&mut *link, &mut *party, ahead);
    let carried = poll_fn(|cx| pump.poll(cx)).await;
    let cut = pump.is_cut();
    let left = match carried {
        Ok(()) => Left::Link,
        Err(Fault::Party) => match timeout(DRAIN, poll_fn(|cx| pump.poll_drain(cx))).await {
            Ok(Ok(())) => Left::Link,
            Ok(Err(_)) | Err(_) => Left::Nothing,
        },
        Err(Fault::Link) => Left::Nothing,
    };
    drop(pump);
    match left {
        Left::Link if !cut => party.finish(),
        Left::Link => {}
        Left::Nothing => link.give_up(),
    }
    left
}

/// What has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Link,
    /// The client, or the task.
    Party,
}

/// What one side has said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Bytes,
    End,
    Reset,
}

struct Pump<'a, L, P> {
    link: &'a mut L,
    party: &'a mut P,
    /// A frame on its way to the link, and how much of it is there.
    out: Vec<u8>,
    out_at: usize,
    /// Whether the link has something that it has not sent.
    unflushed: bool,
    own: Said,
    /// A header on its way in, and bytes of the frame that are still to come.
    head: [u8; HEADER_LEN],
    head_len: usize,
    to_come: usize,
    /// Bytes for the party, and how many of them it has.
    into: Vec<u8>,
    into_at: usize,
    other: Said,
    /// Whether the party has been told that the other side has ended.
    told: bool,
    look: Option<Interval>,
}

impl<'a, L: Wire, P: Party> Pump<'a, L, P> {
    fn new(link: &'a mut L, party: &'a mut P, ahead: &[u8]) -> Self {
        let mut out = Vec::new();
        if !ahead.is_empty() {
            out.extend(header(Kind::Data, ahead.len()));
            out.extend(ahead);
        }
        Self {
            link,
            party,
            out,
            out_at: 0,
            unflushed: false,
            own: Said::Bytes,
            head: [0; HEADER_LEN],
            head_len: 0,
            to_come: 0,
            into: Vec::new(),
            into_at: 0,
            other: Said::Bytes,
            told: false,
            look: None,
        }
    }

    fn is_cut(&self) -> bool {
        self.own == Said::Reset || self.other == Said::Reset
    }

    /// Ready when both sides have ended, or a fault has.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let out = self.poll_out(cx);
            if let Poll::Ready(Err(fault)) = out {
                return Poll::Ready(self.fail(fault));
            }
            let into = self.poll_into(cx);
            if let Poll::Ready(Err(fault)) = into {
                return Poll::Ready(self.fail(fault));
            }
            if self.other == Said::Reset && self.own == Said::Bytes {
                self.say(Kind::Reset, Said::Reset);
                continue;
            }
            let over = self.own != Said::Bytes && (self.other == Said::Reset || self.told);
            if over && self.out.is_empty() && !self.unflushed {
                return Poll::Ready(Ok(()));
            }
            if out.is_pending() && into.is_pending() {
                return self.poll_blocked(cx).map(|blocked| blocked.or_else(|fault| self.fail(fault)));
            }
        }
    }

    /// The party is cut off: the other node is told, and what it still says is passed over until it agrees.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let sent = self.poll_send(cx);
            if let Poll::Ready(Err(fault)) = sent {
                return Poll::Ready(Err(fault));
            }
            if self.other != Said::Bytes {
                return sent;
            }
            (self.into, self.into_at) = (Vec::new(), 0);
            match self.poll_frame(cx) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
    }

    fn fail(&mut self, fault: Fault) -> Result<(), Fault> {
        if fault == Fault::Party {
            self.say(Kind::Reset, Said::Reset);
        }
        Err(fault)
    }

    /// Puts a word behind what is on its way.
    fn say(&mut self, kind: Kind, said: Said) {
        self.own = said;
        self.out.extend(header(kind, 0));
    }

    /// One step from the party to the link; pending where there is none.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if !self.out.is_empty() || self.unflushed {
            return self.poll_send(cx);
        }
        if self.own != Said::Bytes || self.other == Said::Reset {
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|buffer| {
            let mut read = ReadBuf::new(&mut buffer[HEADER_LEN..]);
            let polled = ready!(Pin::new(self.party.stream()).poll_read(cx, &mut read));
            let len = polled.map(|()| read.filled().len());
            let len = self.party.judge(len).map_err(|_| Fault::Party)?;
            if len == 0 {
                self.say(Kind::End, Said::End);
                return Poll::Ready(Ok(()));
            }
            buffer[..HEADER_LEN].copy_from_slice(&header(Kind::Data, len));
            let frame = &buffer[..HEADER_LEN + len];
            let written = match Pin::new(self.link.stream()).poll_write(cx, frame) {
                Poll::Ready(Ok(written)) if written > 0 => written,
                Poll::Ready(_) => return Poll::Ready(Err(Fault::Link)),
                Poll::Pending => 0,
            };
            (self.out, self.out_at) = (frame[written..].to_vec(), 0);
            self.unflushed = true;
            Poll::Ready(Ok(()))
        })
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while self.out_at < self.out.len() {
            let written = Pin::new(self.link.stream()).poll_write(cx, &self.out[self.out_at..]);
            match ready!(written) {
                Ok(len) if len > 0 => (self.out_at, self.unflushed) = (self.out_at + len, true),
                Ok(_) | Err(_) => return Poll::Ready(Err(Fault::Link)),
            }
        }
        (self.out, self.out_at) = (Vec::new(), 0);
        ready!(Pin::new(self.link.stream()).poll_flush(cx)).map_err(|_| Fault::Link)?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// One step from the link to the party; pending where there is none.
    fn poll_into(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while self.into_at < self.into.len() {
            let written = Pin::new(self.party.stream()).poll_write(cx, &self.into[self.into_at..]);
            match ready!(written) {
                Ok(len) if len > 0 => self.into_at += len,
                Ok(_) | Err(_) => return Poll::Ready(Err(Fault::Party)),
            }
        }
        (self.into, self.into_at) = (Vec::new(), 0);
        match self.other {
            Said::Bytes => self.poll_frame(cx),
            Said::End if !self.told => {
                ready!(Pin::new(self.party.stream()).poll_shutdown(cx)).map_err(|_| Fault::Party)?;
                self.told = true;
                Poll::Ready(Ok(()))
            }
            // What comes now would be of no connection; only whether it is cut off may still be said.
            Said::End if self.own == Said::Bytes => self.poll_frame(cx),
            Said::End | Said::Reset => Poll::Pending,
        }
    }

    /// Reads a part of a frame.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.to_come > 0 {
            return SCRATCH.with_borrow_mut(|buffer| {
                let len = ready!(self.poll_read(cx, &mut buffer[..self.to_come]))?;
                self.to_come -= len;
                self.pass_on(&buffer[..len], cx)
            });
        }
        let mut rest = [0; HEADER_LEN];
        let want = HEADER_LEN - self.head_len;
        let len = ready!(self.poll_read(cx, &mut rest[..want]))?;
        self.head[self.head_len..self.head_len + len].copy_from_slice(&rest[..len]);
        self.head_len += len;
        if self.head_len == HEADER_LEN {
            self.head_len = 0;
            self.note().map_err(|_nonsense| Fault::Link)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the party what has come, and keeps what it does not take; nothing of one that is cut off.
    fn pass_on(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.own == Said::Reset {
            return Poll::Ready(Ok(()));
        }
        let written = match Pin::new(self.party.stream()).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) if written > 0 => written,
            Poll::Ready(_) => return Poll::Ready(Err(Fault::Party)),
            Poll::Pending => 0,
        };
        (self.into, self.into_at) = (bytes[written..].to_vec(), 0);
        Poll::Ready(Ok(()))
    }

    /// A header has come.
    fn note(&mut self) -> Result<(), Nonsense> {
        match (parse_header(self.head)?, self.other) {
            ((Kind::Data, len), Said::Bytes) => self.to_come = len,
            ((Kind::End, _), Said::Bytes) => self.other = Said::End,
            ((Kind::Reset, _), Said::Bytes | Said::End) => self.other = Said::Reset,
            _ => return Err(Nonsense::Turn),
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(self.link.stream()).poll_read(cx, &mut read)).map_err(|_| Fault::Link)?;
        match read.filled().len() {
            0 => Poll::Ready(Err(Fault::Link)),
            len => Poll::Ready(Ok(len)),
        }
    }

    /// While one side takes nothing, nothing of the other is read, nor anything of a party that has ended: so that is asked now and
    /// then whether it is there. A link that does not even take that a connection is cut off is given up.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let (into_waits, out_waits) = (!self.into.is_empty(), !self.out.is_empty() || self.unflushed);
        let unread = out_waits || self.own == Said::End;
        if !into_waits && !unread {
            self.look = None;
            return Poll::Pending;
        }
        let look = self.look.get_or_insert_with(|| {
            let mut look = interval_at(Instant::now() + LOOK, LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look
        });
        while look.poll_tick(cx).is_ready() {
            if into_waits && self.link.is_broken() || out_waits && self.own == Said::Reset {
                return Poll::Ready(Err(Fault::Link));
            }
            if unread && self.party.is_gone() {
                return Poll::Ready(Err(Fault::Party));
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
pub(super) mod tests;
