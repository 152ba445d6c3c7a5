//! One descriptor that is readable while any of several has something to do: an epoll within the worker's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

/// Readable while a watched descriptor is ready, or after [`Self::wake`].
#[derive(Debug)]
pub(super) struct Ready {
    epoll: OwnedFd,
    wake: OwnedFd,
    woken: AtomicBool,
}

impl Ready {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let ready = Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, wake, woken: AtomicBool::new(false) };
        ready.watch(&ready.wake, EventFlags::IN)?;
        Ok(ready)
    }

    pub(super) fn pollable(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    pub(super) fn watch(&self, source: impl AsFd, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(0), flags)?)
    }

    /// Waits for something else of a descriptor.
    pub(super) fn rewatch(&self, source: impl AsFd, flags: EventFlags) {
        // It is watched, so that this can't fail: nothing is allocated for it.
        let _ = epoll::modify(&self.epoll, source, EventData::new_u64(0), flags);
    }

    pub(super) fn forget(&self, source: impl AsFd) {
        // As above; and closing it would do.
        let _ = epoll::delete(&self.epoll, source);
    }

    /// Makes it readable until [`Self::calm`].
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::Relaxed) {
            // It fails only when it is at its maximum, and readable is all that it has to be.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    /// Takes [`Self::wake`] back.
    pub(super) fn calm(&self) {
        if self.woken.swap(false, Ordering::Relaxed) {
            // It is readable, so that this can't fail.
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }
}
