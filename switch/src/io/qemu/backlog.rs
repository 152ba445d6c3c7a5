//! Frames on their way to a guest: each behind its length, as [`crate::wire::stream`] has it.
//!
//! What a guest does not take at once waits, up to [`WAITING_MAX`] bytes in all handles together; then frames are
//! lost, and never a worker's time.

use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::wire::stream::{PREFIX_LEN, emit};

/// Bytes that wait at most: about as much as a TAP's queue of 1,000 frames holds.
pub(super) const WAITING_MAX: usize = 1 << 20;

/// How many bytes wait, staged by a worker or in the [`Backlog`]. Told by each handle without a lock.
#[derive(Debug, Default)]
pub(super) struct Room(AtomicUsize);

impl Room {
    /// Claims room for a frame with its length; `false` if there is none.
    pub(super) fn claim(&self, bytes: usize) -> bool {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= WAITING_MAX;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    /// Gives it back, once the bytes have gone.
    pub(super) fn release(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Appends a frame, given in pieces, behind its length.
pub(super) fn append(to: &mut Vec<u8>, frame: &[IoSlice<'_>], len: usize) {
    to.extend_from_slice(&emit(len));
    frame.iter().for_each(|piece| to.extend_from_slice(piece));
}

/// The frames in bytes that begin with a whole one.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_LEN>()?;
        let len = usize::try_from(u32::from_be_bytes(*prefix)).expect("we have written it");
        let (frame, rest) = rest.split_at(len);
        bytes = rest;
        Some(frame)
    })
}

/// What waits, in order. Its memory is kept.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    bytes: Vec<u8>,
    gone: usize,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that waits; of the first frame of a stream, a part may have gone.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// Takes the first bytes out, which have gone.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.gone += bytes;
        if self.gone == self.bytes.len() {
            self.bytes.clear();
            self.gone = 0;
        }
    }

    /// Puts bytes at the end.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        // So that what has gone never takes up more than what waits, and each byte moves once at most for that.
        if self.gone > self.bytes.len() / 2 {
            self.bytes.drain(..self.gone);
            self.gone = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let room = Room::default();
        assert!(room.claim(WAITING_MAX) && !room.claim(1));
        room.release(10);
        assert!(!room.claim(11) && room.claim(10) && !room.claim(1));
    }

    #[test]
    fn what_is_appended_comes_out_in_order() {
        let (mut backlog, mut staged, mut out) = (Backlog::default(), Vec::new(), Vec::new());
        for round in 0..200_u8 {
            staged.clear();
            append(&mut staged, &[IoSlice::new(&[round; 3]), IoSlice::new(&[1; 4])], 7);
            backlog.append(&staged);
            assert!(backlog.gone <= backlog.waiting().len(), "{backlog:?}");
            let some = backlog.waiting().len().min(usize::from(round) % 20);
            out.extend_from_slice(&backlog.waiting()[..some]);
            backlog.advance(some);
        }
        out.extend_from_slice(backlog.waiting());
        backlog.advance(backlog.waiting().len());
        assert!(backlog.is_empty());
        let frames: Vec<_> = frames(&out).collect();
        assert_eq!(frames.len(), 200);
        for (frame, round) in frames.iter().zip(0_u8..) {
            assert_eq!(*frame, [round, round, round, 1, 1, 1, 1]);
        }
    }
}
