//! What a gateway's thread is told by others, who wake it: which doors and endpoints it is to have, and what is handed
//! over to it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

use super::{Handed, Inlet, Letter};

/// Connections that wait to be taken: more than come while the thread is busy with one batch. One more is given back.
const HANDED_MAX: usize = 1_024;
/// The same of datagrams. One more is lost.
const LETTERS_MAX: usize = 4_096;
/// Bytes of all their payloads, of which each has up to 64 KiB. With those that the thread is busy with they take less than
/// 32 MiB for a network.
const LETTERS_LEN_MAX: usize = 15 << 20;

/// What there is to be.
#[derive(Debug)]
pub(in crate::gateway) struct Listing {
    pub(in crate::gateway) inlets: Vec<Inlet>,
    /// Ids of the endpoints for which something may be handed over.
    pub(in crate::gateway) endpoints: BTreeSet<Arc<str>>,
}

/// What has been posted since it was looked at last.
#[derive(Debug, Default)]
struct Posted {
    /// The list that was written last.
    listing: Option<Listing>,
    handed: Vec<Handed>,
    letters: Vec<Letter>,
    /// Bytes of their payloads.
    letters_len: usize,
    /// Nobody looks at it any more.
    closed: bool,
}

/// Where that is posted.
#[derive(Debug)]
pub(in crate::gateway) struct Board {
    posted: Mutex<Posted>,
    bell: OwnedFd,
}

impl Board {
    pub(in crate::gateway) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { posted: Mutex::default(), bell })
    }

    /// What can be read while there is something to take.
    pub(in crate::gateway) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Writes what there is to be from now on.
    pub(in crate::gateway) fn write(&self, listing: Listing) {
        self.posted().listing = Some(listing);
        self.ring();
    }

    /// Hands a connection over; it is given back at once if there is no room for it, or nobody takes it.
    pub(in crate::gateway) fn hand(&self, handed: Handed) {
        let mut posted = self.posted();
        if posted.closed || posted.handed.len() >= HANDED_MAX {
            drop(posted);
            return handed.refuse();
        }
        posted.handed.push(handed);
        drop(posted);
        self.ring();
    }

    /// Hands a datagram over; whether there is room for it.
    pub(in crate::gateway) fn post(&self, letter: Letter) -> bool {
        let mut posted = self.posted();
        let len = posted.letters_len + letter.payload.len();
        if posted.closed || posted.letters.len() >= LETTERS_MAX || len > LETTERS_LEN_MAX {
            return false;
        }
        posted.letters_len = len;
        posted.letters.push(letter);
        let is_first = posted.letters.len() == 1;
        drop(posted);
        // Who takes the first takes the others with it.
        if is_first {
            self.ring();
        }
        true
    }

    /// The list that was written last, if it is new, and connections that were handed over. See [`Self::letters`], too.
    pub(in crate::gateway) fn take(&self) -> (Option<Listing>, Vec<Handed>) {
        // It is silent already if somebody else has taken it.
        let _silent = read(&self.bell, &mut [0; 8]);
        let mut posted = self.posted();
        (posted.listing.take(), std::mem::take(&mut posted.handed))
    }

    /// Datagrams that were handed over. The bell rings for more once there are none.
    pub(in crate::gateway) fn letters(&self) -> Vec<Letter> {
        let mut posted = self.posted();
        posted.letters_len = 0;
        std::mem::take(&mut posted.letters)
    }

    /// Nobody takes anything any more: what waits is given back.
    pub(in crate::gateway) fn close(&self) {
        let waiting = std::mem::replace(&mut *self.posted(), Posted { closed: true, ..Posted::default() });
        waiting.handed.into_iter().for_each(Handed::refuse);
    }

    #[cfg(test)]
    pub(in crate::gateway) fn is_taken(&self) -> bool {
        self.posted().listing.is_none()
    }

    fn ring(&self) {
        // It fails only where it has been rung 2^64 times and nobody came.
        let _rung = write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn posted(&self) -> MutexGuard<'_, Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
