//! A datagram for each frame, both ways.
//!
//! One socket receives, from whoever may send to its file. Another one, without a name, is connected to where the
//! guest receives: so sending looks no path up, tells that the guest has ended, and waits for room in its queue,
//! which is as short as ten datagrams (`net.unix.max_dgram_qlen`). A guest whose own socket is connected would
//! take frames from that one name only; QEMU's is not.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketType, connect, sendmmsg};

use super::backlog::{self, Backlog, Room};
use super::file::new_socket;
use super::lock;
use super::ready::Ready;
use super::receive::Receiver;
use crate::io::{Frame, ReadError};
use crate::packet::Pool;
use crate::wire::stream::PREFIX_LEN;

/// Datagrams of one system call.
const BATCH: usize = 32;

#[derive(Debug)]
pub(super) struct Datagrams {
    socket: OwnedFd,
    /// The reading handle's; taken before `outbound` where both are.
    inbound: Mutex<Receiver>,
    outbound: Mutex<Outbound>,
    /// Whether there is a guest, known without a lock.
    there: AtomicBool,
    /// Whether something waits in the backlog, known without a lock.
    blocked: AtomicBool,
}

#[derive(Debug)]
struct Outbound {
    remote: Option<SocketAddrUnix>,
    guest: Option<OwnedFd>,
    backlog: Backlog,
}

/// Nobody receives there any more.
struct Gone;

impl Datagrams {
    pub(super) fn new(socket: OwnedFd, remote: Option<SocketAddrUnix>, ready: &Ready) -> io::Result<Self> {
        ready.watch(&socket, EventFlags::IN)?;
        Ok(Self {
            socket,
            inbound: Mutex::new(Receiver::new(remote.is_none())),
            outbound: Mutex::new(Outbound { remote, guest: None, backlog: Backlog::default() }),
            there: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        })
    }

    /// Whether somebody receives, as far as is known; asked if nobody did so far.
    pub(super) fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed) || self.meet(&mut lock(&self.outbound))
    }

    /// See [`crate::io::FrameIo::read`].
    pub(super) fn read(
        &self,
        pool: &mut Pool,
        into: &mut Vec<Frame>,
        max: usize,
        room: &Room,
        ready: &Ready,
    ) -> Result<u64, ReadError> {
        let receiver = &mut *lock(&self.inbound);
        if self.blocked.load(Ordering::Relaxed) {
            self.resume(room, ready);
        }
        let malformed = receiver.receive(self.socket.as_fd(), pool, into, max)?;
        if let Some(remote) = receiver.take_news() {
            let outbound = &mut *lock(&self.outbound);
            self.part(outbound, room, ready);
            outbound.remote = Some(remote);
        }
        Ok(malformed)
    }

    /// Connects to where the guest receives, if that is known and somebody is there.
    fn meet(&self, outbound: &mut Outbound) -> bool {
        if let (None, Some(remote)) = (&outbound.guest, &outbound.remote) {
            let guest = new_socket(SocketType::DGRAM);
            outbound.guest = guest.ok().filter(|guest| connect(guest, remote).is_ok());
            self.there.store(outbound.guest.is_some(), Ordering::Relaxed);
        }
        outbound.guest.is_some()
    }

    /// Gives the guest up, and what waits for it.
    fn part(&self, outbound: &mut Outbound, room: &Room, ready: &Ready) {
        if let Some(guest) = outbound.guest.take() {
            if self.blocked.swap(false, Ordering::Relaxed) {
                ready.forget(&guest);
            }
            self.there.store(false, Ordering::Relaxed);
        }
        let lost = outbound.backlog.waiting().len();
        outbound.backlog.advance(lost);
        room.release(lost);
    }

    /// Sends whole frames, each behind its length, or lets them wait.
    pub(super) fn send(&self, frames: &[u8], room: &Room, ready: &Ready) {
        let outbound = &mut *lock(&self.outbound);
        let mut sent = if outbound.backlog.is_empty() { outbound.push(frames) } else { Ok(0) };
        if sent.is_err() {
            // Another one may have taken its place, and is not to miss the frames that follow from its first.
            self.part(outbound, room, ready);
            sent = if self.meet(outbound) { outbound.push(frames) } else { Err(Gone) };
        }
        let rest = &frames[sent.unwrap_or(frames.len())..];
        room.release(frames.len() - rest.len());
        outbound.backlog.append(rest);
        if rest.is_empty() || self.blocked.load(Ordering::Relaxed) {
            return;
        }
        let watched = outbound.guest.as_ref().map(|guest| ready.watch(guest, EventFlags::OUT));
        match watched {
            Some(Ok(())) => self.blocked.store(true, Ordering::Relaxed),
            // What can't be waited for is lost.
            _ => self.part(outbound, room, ready),
        }
    }

    /// Sends what waits, as far as there is room now.
    fn resume(&self, room: &Room, ready: &Ready) {
        let outbound = &mut *lock(&self.outbound);
        let Ok(sent) = outbound.push(outbound.backlog.waiting()) else {
            return self.part(outbound, room, ready);
        };
        outbound.backlog.advance(sent);
        room.release(sent);
        if outbound.backlog.is_empty() && self.blocked.swap(false, Ordering::Relaxed) {
            outbound.guest.as_ref().inspect(|guest| ready.forget(guest));
        }
    }
}

impl Outbound {
    /// Sends as many frames as there is room for; gives how many bytes they took up, lengths included.
    fn push(&self, bytes: &[u8]) -> Result<usize, Gone> {
        let guest = self.guest.as_ref().ok_or(Gone)?;
        let mut done = 0;
        while done < bytes.len() {
            match push_batch(guest, &bytes[done..]) {
                Ok(sent) => done += sent,
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => break,
                Err(_) => return Err(Gone),
            }
        }
        Ok(done)
    }
}

/// One `sendmmsg`, which sends one frame at least; gives the bytes that they took up.
fn push_batch(guest: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
    let mut pieces = [IoSlice::new(&[]); BATCH];
    let mut count = 0;
    for (piece, frame) in pieces.iter_mut().zip(backlog::frames(bytes)) {
        *piece = IoSlice::new(frame);
        count += 1;
    }
    let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] = std::array::from_fn(|_| Default::default());
    let mut parts = pieces.iter().zip(&mut controls);
    let mut messages: [MMsgHdr<'_>; BATCH] = std::array::from_fn(|_| {
        let (piece, control) = parts.next().expect("both have as many");
        MMsgHdr::new(std::slice::from_ref(piece), control)
    });
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = match retry_on_intr(|| sendmmsg(guest, &mut messages[..count], flags)) {
        // Longer than this socket's buffer: lost alone.
        Err(Errno::MSGSIZE) => 1,
        outcome => outcome?,
    };
    Ok(pieces[..sent].iter().map(|piece| PREFIX_LEN + piece.len()).sum())
}
