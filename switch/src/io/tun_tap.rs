//! TAP devices through the tun-tap crate: one queue, plain frames, no settings.
//!
//! For those who want the crate that everybody knows; [`super::tap`] does the same and more without it. The crate can't
//! ask for a virtio-net header, so every frame costs a system call and a checksum.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use rustix::io::retry_on_intr;
use tun_tap::{Iface, Mode};

use super::tap::TapError;
use super::{Capabilities, Frame, FrameIo, ReadError, WriteError};
use crate::packet::Pool;
use crate::wire::virtio::Offload;

/// A TAP of the calling thread's namespace; it goes when dropped, unless it was persistent before.
#[derive(Debug)]
pub struct TunTap {
    name: String,
    queue: OwnedFd,
    /// Whether this handle reads: one does.
    reads: bool,
}

impl TunTap {
    /// Makes the device, or attaches to the one of that name. It is not set up.
    ///
    /// # Errors
    /// As [`super::tap::Tap::open`], but the crate does not tell a missing driver from a missing right.
    pub fn open(name: &str) -> Result<Self, TapError> {
        super::tap::check_name(name)?;
        let failed = |action| move |source| TapError::Io { name: name.to_owned(), action, source };
        let iface = Iface::without_packet_info(name, Mode::Tap).map_err(failed("opening through tun-tap"))?;
        iface.set_non_blocking().map_err(failed("O_NONBLOCK"))?;
        // SAFETY: `into_raw_fd` gives the only owner of an open file away.
        let queue = unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) };
        Ok(Self { name: name.to_owned(), queue, reads: true })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FrameIo for TunTap {
    fn read(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<u64, ReadError> {
        for _ in 0..max {
            let Some(mut buf) = pool.take() else { break };
            match retry_on_intr(|| rustix::io::read(&self.queue, &mut *buf.room())) {
                Ok(len) => {
                    buf.set_len(len);
                    into.push(Frame { buf, offload: Offload::default() });
                }
                Err(errno) => {
                    pool.put(buf);
                    return super::tap::read_ended(errno, 0);
                }
            }
        }
        Ok(0)
    }

    fn write(&mut self, frame: &[IoSlice<'_>], offload: Offload) -> Result<(), WriteError> {
        super::tap::assert_finished(offload);
        retry_on_intr(|| rustix::io::writev(&self.queue, frame)).map(drop).map_err(super::tap::write_refused)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.queue.as_fd())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn split(self: Box<Self>, workers: usize) -> io::Result<Vec<Box<dyn FrameIo>>> {
        let mut handles: Vec<Box<dyn FrameIo>> = Vec::with_capacity(workers);
        for _ in 1..workers {
            let queue = self.queue.try_clone()?;
            handles.push(Box::new(Self { name: self.name.clone(), queue, reads: false }));
        }
        handles.insert(0, self);
        Ok(handles)
    }
}
