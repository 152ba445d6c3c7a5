//! A virtual machine as a port: the sockets that QEMU's `-netdev stream` and `-netdev dgram` speak (QEMU 7.2 or
//! newer).
//!
//! ```text
//! we listen at PATH       -netdev stream,id=n0,server=off,addr.type=unix,addr.path=PATH
//! we are bound to PATH    -netdev dgram,id=n0,local.type=unix,local.path=REMOTE,remote.type=unix,remote.path=PATH
//! ```
//!
//! Frames are finished and cut for it: these devices carry no offloads. One guest has the port at a time; when it
//! has ended, the next one may come. Without a guest the port is down, and a guest that reads too slowly loses
//! frames once a megabyte waits for it. The socket's file is made for its owner alone, in a directory that is
//! there, and goes with the port. Who may write to it is the guest: nothing else is asked.
//!
//! A stream that announces a frame that can't be is at its end, and so is the port.

mod backlog;
mod datagrams;
mod file;
mod ready;
mod receive;
mod stream;

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::net::SocketType;

use self::backlog::Room;
use self::datagrams::Datagrams;
pub use self::file::QemuError;
use self::file::{SocketFile, failed};
use self::ready::Ready;
use self::stream::Stream;
use super::{Capabilities, Frame, FrameIo, ReadError, WriteError};
use crate::packet::{DATA_MAX, Pool};
use crate::wire::stream::{FRAME_MAX, PREFIX_LEN};
use crate::wire::virtio::Offload;

const _: () = assert!(DATA_MAX >= FRAME_MAX);

/// Bytes that a handle keeps back before it hands them to the system, though its batch goes on.
const STAGED: usize = 1 << 17;

/// A socket to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QemuSocket {
    /// A stream, which a guest connects to.
    Stream {
        /// Where we listen.
        path: PathBuf,
    },
    /// Datagrams, a frame each.
    Dgram {
        /// Where we receive.
        path: PathBuf,
        /// Where the guest receives; without, where the last frame came from.
        remote: Option<PathBuf>,
    },
}

/// A port for one guest: one handle of it.
#[derive(Debug)]
pub struct QemuPort {
    shared: Arc<Shared>,
    /// Written and not yet flushed, so that a batch takes a lock and a system call once.
    staged: Vec<u8>,
    /// Whether this handle reads: one does.
    reads: bool,
    /// Of the handle that was opened.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
struct Shared {
    room: Room,
    ready: Ready,
    link: Link,
}

#[derive(Debug)]
enum Link {
    Stream(Box<Stream>),
    Datagrams(Box<Datagrams>),
}

impl Link {
    fn is_there(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.is_there(),
            Self::Datagrams(datagrams) => datagrams.is_there(),
        }
    }
}

impl QemuPort {
    /// Makes the socket; a guest may come at once.
    ///
    /// # Errors
    /// See [`QemuError`].
    pub fn open(socket: &QemuSocket) -> Result<Self, QemuError> {
        let (QemuSocket::Stream { path } | QemuSocket::Dgram { path, .. }) = socket;
        let ready = Ready::new().map_err(failed(path, "making a descriptor to wait on"))?;
        let waiting = failed(path, "waiting for its guest");
        let (file, link) = match socket {
            QemuSocket::Stream { path } => {
                let (file, listener) = SocketFile::bind(path, SocketType::STREAM)?;
                (file, Link::Stream(Stream::new(listener, &ready).map_err(waiting)?.into()))
            }
            QemuSocket::Dgram { path, remote } => {
                let remote = remote.as_deref().map(file::address).transpose()?;
                let (file, socket) = SocketFile::bind(path, SocketType::DGRAM)?;
                (file, Link::Datagrams(Datagrams::new(socket, remote, &ready).map_err(waiting)?.into()))
            }
        };
        let shared = Arc::new(Shared { room: Room::default(), ready, link });
        Ok(Self::of(shared, true, Some(file)))
    }

    /// Another handle, which reads as this one does: for another switch after this one. This one must outlive it,
    /// since the file goes with it. The guest keeps its connection.
    #[must_use]
    pub fn share(&self) -> Self {
        Self::of(Arc::clone(&self.shared), true, None)
    }

    fn of(shared: Arc<Shared>, reads: bool, file: Option<SocketFile>) -> Self {
        Self { shared, staged: Vec::new(), reads, _file: file }
    }
}

impl FrameIo for QemuPort {
    fn read(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<u64, ReadError> {
        let Shared { room, ready, link } = &*self.shared;
        match link {
            Link::Stream(stream) => stream.read(pool, into, max, room, ready).map(|()| 0),
            Link::Datagrams(datagrams) => datagrams.read(pool, into, max, room, ready),
        }
    }

    fn write(&mut self, frame: &[IoSlice<'_>], offload: Offload) -> Result<(), WriteError> {
        super::tap::assert_finished(offload);
        let Shared { room, link, .. } = &*self.shared;
        if self.staged.is_empty() && !link.is_there() {
            return Err(WriteError::Down);
        }
        let len = frame.iter().map(|piece| piece.len()).sum();
        if len > FRAME_MAX {
            return Err(WriteError::Refused(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        if !room.claim(PREFIX_LEN + len) {
            return Err(WriteError::Full);
        }
        backlog::append(&mut self.staged, frame, len);
        if self.staged.len() >= STAGED {
            self.flush();
        }
        Ok(())
    }

    fn flush(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let Shared { room, ready, link } = &*self.shared;
        match link {
            Link::Stream(stream) => stream.send(&self.staged, room, ready),
            Link::Datagrams(datagrams) => datagrams.send(&self.staged, room, ready),
        }
        self.staged.clear();
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.shared.ready.pollable())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn split(self: Box<Self>, workers: usize) -> io::Result<Vec<Box<dyn FrameIo>>> {
        let shared = Arc::clone(&self.shared);
        let others = (1..workers).map(|_| Box::new(Self::of(Arc::clone(&shared), false, None)) as _);
        Ok(std::iter::once(self as _).chain(others).collect())
    }
}

impl Drop for QemuPort {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Takes a lock. Nothing panics while it holds one of ours.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
