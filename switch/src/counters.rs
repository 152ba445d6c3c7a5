//! Counters of ports, peers and networks.
//!
//! Each worker adds to a shard of its own, so that no two cores write one cache line and no addition has to lock it;
//! anybody reads the sum. A reader may see a frame counted before its bytes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Frames and bytes in both directions, seen from the switch.
///
/// A super-frame counts as one frame. Bytes are those of inner frames, from the destination MAC on.
#[derive(Debug)]
pub struct Traffic {
    shards: Box<[Shard]>,
}

/// One worker's part of a [`Traffic`], on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Shard {
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
    /// All zero, for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { shards: std::iter::repeat_with(Shard::default).take(workers).collect() }
    }

    /// The part that a worker adds to; no other may.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    pub fn by(&self, worker: usize) -> &Shard {
        &self.shards[worker]
    }

    /// The values now.
    #[must_use]
    pub fn count(&self) -> TrafficCount {
        let sum = |counter: fn(&Shard) -> &AtomicU64| {
            self.shards.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
        };
        TrafficCount {
            received_frames: sum(|shard| &shard.received_frames),
            received_bytes: sum(|shard| &shard.received_bytes),
            sent_frames: sum(|shard| &shard.sent_frames),
            sent_bytes: sum(|shard| &shard.sent_bytes),
            dropped: sum(|shard| &shard.dropped),
        }
    }
}

impl Shard {
    /// Counts what came from there.
    pub fn received(&self, frames: usize, bytes: usize) {
        add(&self.received_frames, frames as u64);
        add(&self.received_bytes, bytes as u64);
    }

    /// Counts what went there.
    pub fn sent(&self, frames: usize, bytes: usize) {
        add(&self.sent_frames, frames as u64);
        add(&self.sent_bytes, bytes as u64);
    }

    /// Counts what died.
    pub fn dropped(&self, frames: u64) {
        add(&self.dropped, frames);
    }
}

/// Adds where nobody else does: a load and a store, without the locked cycle of `fetch_add`.
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}
