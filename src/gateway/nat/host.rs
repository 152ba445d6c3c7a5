//! The host's sockets: which of them have something for us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Sockets that are told of at a time: the others next time.
const EVENTS_MAX: usize = 256;

/// A socket, of all that there have ever been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

/// What a socket is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub(crate) token: Token,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) error: bool,
}

/// When a socket is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    /// While it can be read, or has errors.
    Reading,
    /// Once whenever something has come.
    Arrivals,
    /// Once whenever it has become readable or writable.
    Changes,
}

/// Those that are watched. Closing a socket ends it, and so does [`Self::unwatch`] where others have it from then on.
#[derive(Debug)]
pub(crate) struct Host {
    epoll: OwnedFd,
    next: u64,
    /// One for each socket that there may be.
    sockets: Arc<Semaphore>,
}

/// What allows one socket, as long as it is held.
pub(crate) type Permit = OwnedSemaphorePermit;

impl Host {
    pub(crate) fn new(sockets: Arc<Semaphore>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, next: 0, sockets })
    }

    /// Asks for one more socket.
    ///
    /// # Errors
    /// `EMFILE`, if there are as many as there may be.
    pub(crate) fn permit(&self) -> io::Result<Permit> {
        Arc::clone(&self.sockets).try_acquire_owned().map_err(|_| Errno::MFILE.into())
    }

    pub(crate) fn watch(&mut self, socket: impl AsFd, interest: Interest) -> io::Result<Token> {
        let flags = match interest {
            Interest::Reading => EventFlags::IN,
            Interest::Arrivals => EventFlags::IN | EventFlags::ET,
            Interest::Changes => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
        };
        let token = Token(self.next);
        epoll::add(&self.epoll, socket, EventData::new_u64(token.0), flags)?;
        self.next += 1;
        Ok(token)
    }

    /// Watches a socket no more that stays open: others may have it watched here again.
    pub(crate) fn unwatch(&self, socket: impl AsFd) {
        // One that is watched can be left. If it could not, who wants it watched again would be told.
        let _left = epoll::delete(&self.epoll, socket);
    }

    /// Waits until one has something, but not longer than that, and gives those that have.
    pub(crate) fn wait(&self, patience: Option<Duration>) -> io::Result<Vec<Ready>> {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        let mut events = Vec::with_capacity(EVENTS_MAX);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = |event: &Event| {
            let (data, flags) = (event.data, event.flags);
            Ready {
                token: Token(data.u64()),
                read: flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR),
                write: flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
                error: flags.contains(EventFlags::ERR),
            }
        };
        Ok(events.iter().map(ready).collect())
    }
}
