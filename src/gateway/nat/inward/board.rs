//! Which doors a gateway's thread is to have: written by others, who wake it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::Inlet;

/// The list that was written last, until it is taken.
#[derive(Debug)]
pub(in crate::gateway) struct Board {
    list: Mutex<Option<Vec<Inlet>>>,
    bell: OwnedFd,
}

impl Board {
    pub(in crate::gateway) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { list: Mutex::new(None), bell })
    }

    /// What can be read while there is a list to take.
    pub(in crate::gateway) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Writes what there is to be from now on.
    pub(in crate::gateway) fn write(&self, inlets: Vec<Inlet>) {
        *self.list() = Some(inlets);
        // It fails only where it has been rung 2^64 times and nobody came.
        let _rung = write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// The list, if it has not been taken.
    pub(in crate::gateway) fn take(&self) -> Option<Vec<Inlet>> {
        // It is silent already if somebody else has taken the list.
        let _silent = read(&self.bell, &mut [0; 8]);
        self.list().take()
    }

    #[cfg(test)]
    pub(in crate::gateway) fn is_taken(&self) -> bool {
        self.list().is_none()
    }

    fn list(&self) -> MutexGuard<'_, Option<Vec<Inlet>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
