//! Counters of ports, peers and networks.
//!
//! Anybody adds, anybody reads; a reader may see a frame counted before its bytes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Frames and bytes in both directions, seen from the switch.
///
/// A super-frame counts as one frame. Bytes are those of inner frames, from the destination MAC on.
#[derive(Debug, Default)]
pub struct Traffic {
    received_frames: AtomicU64,
    received_bytes: AtomicU64,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    dropped: AtomicU64,
}

/// The value of a [`Traffic`] at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficCount {
    /// Frames that came from there.
    pub received_frames: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames that went there.
    pub sent_frames: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames from there, or on their way there, that died.
    pub dropped: u64,
}

impl Traffic {
    /// Counts what came from there.
    pub fn received(&self, frames: usize, bytes: usize) {
        self.received_frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what went there.
    pub fn sent(&self, frames: usize, bytes: usize) {
        self.sent_frames.fetch_add(frames as u64, Ordering::Relaxed);
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts what died.
    pub fn dropped(&self, frames: u64) {
        self.dropped.fetch_add(frames, Ordering::Relaxed);
    }

    /// The values now.
    #[must_use]
    pub fn count(&self) -> TrafficCount {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TrafficCount {
            received_frames: read(&self.received_frames),
            received_bytes: read(&self.received_bytes),
            sent_frames: read(&self.sent_frames),
            sent_bytes: read(&self.sent_bytes),
            dropped: read(&self.dropped),
        }
    }
}
