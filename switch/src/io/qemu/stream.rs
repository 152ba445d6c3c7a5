//! A listening socket with one guest's connection at a time.
//!
//! What a guest sends is read in bulk, once a turn, and cut into frames; what is left over is given at the next
//! turn. What it does not take waits in order, so that a frame is never cut short, and goes when the guest has
//! room.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use super::backlog::{Backlog, Room};
use super::lock;
use super::ready::Ready;
use crate::io::{Frame, ReadError};
use crate::packet::Pool;
use crate::wire::stream::{Deframer, TooLong};
use crate::wire::virtio::Offload;

#[derive(Debug)]
pub(super) struct Stream {
    listener: OwnedFd,
    /// The reading handle's; taken before `outbound` where both are.
    inbound: Mutex<Inbound>,
    outbound: Mutex<Outbound>,
    /// Whether there is a guest, known without a lock.
    there: AtomicBool,
    /// Whether something waits in the backlog, known without a lock.
    blocked: AtomicBool,
}

#[derive(Debug, Default)]
struct Inbound {
    guest: Option<Arc<OwnedFd>>,
    frames: Deframer,
}

#[derive(Debug, Default)]
struct Outbound {
    guest: Option<Arc<OwnedFd>>,
    backlog: Backlog,
}

impl Stream {
    pub(super) fn new(listener: OwnedFd, ready: &Ready) -> io::Result<Self> {
        ready.watch(&listener, EventFlags::IN)?;
        Ok(Self {
            listener,
            inbound: Mutex::default(),
            outbound: Mutex::default(),
            there: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    /// See [`crate::io::FrameIo::read`].
    pub(super) fn read(
        &self,
        pool: &mut Pool,
        into: &mut Vec<Frame>,
        max: usize,
        room: &Room,
        ready: &Ready,
    ) -> Result<(), ReadError> {
        let inbound = &mut *lock(&self.inbound);
        ready.calm();
        if self.blocked.load(Ordering::Relaxed) {
            self.resume(room, ready);
        }
        if !inbound.frames.has_frame() {
            self.receive(inbound, room, ready)?;
        }
        let cut = cut(&mut inbound.frames, pool, into, max);
        if inbound.frames.has_frame() {
            // The connection may be empty, and so not tell that there is more.
            ready.wake();
        }
        cut.map_err(|error| ReadError::Io(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    /// Reads once, or lets somebody in where there is nothing to be read.
    fn receive(&self, inbound: &mut Inbound, room: &Room, ready: &Ready) -> Result<(), ReadError> {
        let Inbound { guest, frames } = inbound;
        if let Some(guest) = guest {
            match retry_on_intr(|| recv(&**guest, &mut *frames.room(), RecvFlags::DONTWAIT)) {
                Ok((len, _)) if len > 0 => {
                    frames.filled(len);
                    return Ok(());
                }
                Err(Errno::AGAIN) => {}
                // It has ended, with or without a farewell.
                _ => self.leave(inbound, room, ready),
            }
        }
        match retry_on_intr(|| accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)) {
            // A second guest sees its connection closed at once, rather than being left to wait unheard.
            Ok(_second) if inbound.guest.is_some() => Ok(()),
            Ok(guest) => Ok(self.admit(inbound, guest, ready)?),
            Err(Errno::AGAIN | Errno::CONNABORTED) => Ok(()),
            Err(errno) => Err(ReadError::Io(errno.into())),
        }
    }

    fn admit(&self, inbound: &mut Inbound, guest: OwnedFd, ready: &Ready) -> io::Result<()> {
        ready.watch(&guest, EventFlags::IN)?;
        let guest = Arc::new(guest);
        lock(&self.outbound).guest = Some(Arc::clone(&guest));
        inbound.guest = Some(guest);
        self.there.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn leave(&self, inbound: &mut Inbound, room: &Room, ready: &Ready) {
        let mut outbound = lock(&self.outbound);
        self.there.store(false, Ordering::Relaxed);
        self.blocked.store(false, Ordering::Relaxed);
        inbound.guest.take().inspect(|guest| ready.forget(&**guest));
        inbound.frames.clear();
        outbound.guest = None;
        let lost = outbound.backlog.waiting().len();
        outbound.backlog.advance(lost);
        room.release(lost);
    }

    /// Sends whole frames, each behind its length, or lets them wait.
    pub(super) fn send(&self, frames: &[u8], room: &Room, ready: &Ready) {
        let Outbound { guest, backlog } = &mut *lock(&self.outbound);
        let Some(guest) = guest else { return room.release(frames.len()) };
        let sent = if backlog.is_empty() { push(guest, frames) } else { 0 };
        room.release(sent);
        if sent < frames.len() {
            backlog.append(&frames[sent..]);
            if !self.blocked.swap(true, Ordering::Relaxed) {
                ready.rewatch(&**guest, EventFlags::IN | EventFlags::OUT);
            }
        }
    }

    /// Sends what waits, as far as there is room now.
    fn resume(&self, room: &Room, ready: &Ready) {
        let Outbound { guest, backlog } = &mut *lock(&self.outbound);
        let Some(guest) = guest else { return };
        let sent = push(guest, backlog.waiting());
        backlog.advance(sent);
        room.release(sent);
        if backlog.is_empty() {
            self.blocked.store(false, Ordering::Relaxed);
            ready.rewatch(&**guest, EventFlags::IN);
        }
    }
}

/// Sends as much as there is room for; gives how much. To a guest that has ended all goes, and is lost: that it
/// has ended is found by whoever reads.
fn push(guest: &OwnedFd, bytes: &[u8]) -> usize {
    let mut sent = 0;
    while sent < bytes.len() {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match retry_on_intr(|| send(guest, &bytes[sent..], flags)) {
            Ok(more) => sent += more,
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return sent,
            Err(_) => return bytes.len(),
        }
    }
    sent
}

/// Copies whole frames out, as many as are wanted and have buffers.
fn cut(frames: &mut Deframer, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<(), TooLong> {
    for _ in 0..max {
        let Some(mut buf) = pool.take() else { break };
        match frames.next_frame() {
            Ok(Some(frame)) => {
                buf.fill(frame);
                into.push(Frame { buf, offload: Offload::default() });
            }
            none => {
                pool.put(buf);
                return none.map(drop);
            }
        }
    }
    Ok(())
}
