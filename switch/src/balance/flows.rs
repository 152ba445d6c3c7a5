//! The flow table: which task has which flow.
//!
//! One for all workers, because the two directions of a flow come to different ones: a client's packets by the queue of its
//! device, a task's by the socket that the kernel chose for their outer ports.
//!
//! - **A packet takes no lock and allocates nothing.** A flow is a slot of atomic words, read under a sequence number (a
//!   seqlock as in Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012). Only a flow that
//!   begins, or is forgotten, takes the lock of its bucket.
//! - **One entry serves both directions.** Neither changes ports or the client's address, so these make the key; the virtual
//!   address tells flows of a key apart on their way there, the task's on their way back. So no two flows of a bucket
//!   may have both key and task in common: a newcomer gets another task.
//! - **Bounded.** A bucket has [`WAYS`] slots. A newcomer to a full one takes the place of the one that has been silent
//!   longest among those that matter least ([`Standing`]); but not of a connection that both sides have confirmed. If all are
//!   such, a client that has more than half of them loses its longest silent one to another client; else the newcomer is
//!   refused. So who floods displaces only its like, and who hoards can't keep others out.

mod slot;

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use slot::Bucket;
pub(super) use slot::{Flow, Found, Key, Side, WAYS};

use super::service::IdleLimits;
use super::standing::Standing;
use crate::wire::MacAddr;

/// Flows of a switch: 9 MiB, taken with the first service.
pub const FLOWS_MAX: usize = 65_536;
/// Buckets looked at in one turn after a change; others follow in the next, after the frames that have come meanwhile.
const SWEEP_MAX: usize = 512;
/// Clock of the table: fine enough for limits in seconds, and a word's 32 bits last 13 years.
const TICKS_PER_SECOND: u32 = 10;

/// What has become of flows, since the table was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// Flows there are now.
    pub flows: u64,
    /// Flows that have begun.
    pub opened: u64,
    /// Flows that had to make room for others.
    pub evicted: u64,
    /// Flows that found no room.
    pub refused: u64,
    /// Flows that were reset because their task had gone.
    pub reset: u64,
    /// Flows that were forgotten because they had been silent for too long, or had ended.
    pub expired: u64,
}

/// A flow that may be new: all but its task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Newcomer {
    pub(super) key: Key,
    pub(super) vip: IpAddr,
    pub(super) vip_mac: MacAddr,
    pub(super) client_mac: MacAddr,
    /// Of the service that its task is from.
    pub(super) epoch: u32,
    pub(super) now: Instant,
}

/// Why a flow has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    /// No task can have it.
    NoTask,
    /// There is no room for it.
    Full,
}

/// The table.
#[derive(Debug)]
pub struct Flows {
    buckets: Box<[Bucket]>,
    hasher: foldhash::quality::RandomState,
    /// When the clock was first read.
    start: OnceLock<Instant>,
    len: AtomicUsize,
    opened: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    reset: AtomicU64,
    expired: AtomicU64,
    /// Buckets that are still to be looked at after a change of services.
    asked: AtomicUsize,
}

impl Flows {
    /// A table of at least so many flows.
    #[must_use]
    pub fn new(flows: usize) -> Self {
        let buckets = flows.div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: std::iter::repeat_with(Bucket::default).take(buckets).collect(),
            hasher: foldhash::quality::RandomState::default(),
            start: OnceLock::new(),
            len: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            reset: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            asked: AtomicUsize::new(0),
        }
    }

    /// What has become of flows so far.
    #[must_use]
    pub fn counts(&self) -> FlowCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FlowCounts {
            flows: self.len.load(Ordering::Relaxed) as u64,
            opened: count(&self.opened),
            evicted: count(&self.evicted),
            refused: count(&self.refused),
            reset: count(&self.reset),
            expired: count(&self.expired),
        }
    }

    /// Asks for a look at every flow, because tasks have gone.
    pub(crate) fn ask_for_sweep(&self) {
        self.asked.store(self.buckets.len(), Ordering::Release);
    }

    /// How many buckets to look at now, [`SWEEP_MAX`] at most; others may be left to be asked for.
    pub(crate) fn take_asked(&self) -> usize {
        // Asked each turn, so a look comes first.
        if !self.is_asked() {
            return 0;
        }
        let less = |asked: usize| Some(asked.saturating_sub(SWEEP_MAX));
        let before = self.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        before.unwrap_or_default().min(SWEEP_MAX)
    }

    /// Whether others are left.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire) > 0
    }

    /// Counts one that is forgotten because it had been silent for too long.
    pub(super) fn count_expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one that has lost its task.
    pub(super) fn count_reset(&self) {
        self.reset.fetch_add(1, Ordering::Relaxed);
    }

    /// How many buckets there are.
    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The flow with that key, seen from one side.
    pub(super) fn find(&self, key: &Key, side: Side) -> Option<Found<'_>> {
        let (bucket, tag) = self.place(key);
        // Not by adapters, through each of which what is found would be moved.
        for way in bucket.ways(tag) {
            if let Some(found) = bucket.read(way)
                && found.is(key, side)
            {
                return Some(found);
            }
        }
        None
    }

    /// The flow from a client, if it is there and not `stale`; else a new one, to the first of `candidates` that none of
    /// the key's other flows has.
    ///
    /// # Errors
    /// There is none, or no room.
    pub(super) fn open(
        &self,
        newcomer: &Newcomer,
        mut candidates: impl Iterator<Item = (MacAddr, IpAddr)>,
        stale: impl Fn(&Found<'_>) -> bool,
    ) -> Result<Found<'_>, Unopened> {
        let &Newcomer { ref key, vip, vip_mac, client_mac, epoch, now } = newcomer;
        let (bucket, tag) = self.place(key);
        let _writer = bucket.lock();
        let mut before = None;
        for way in bucket.ways(tag) {
            // Nobody else writes now, so what is there can be read.
            let Some(found) = bucket.read(way).filter(|found| found.is(key, Side::Client(vip))) else {
                continue;
            };
            if !stale(&found) {
                return Ok(found);
            }
            before = Some(way);
        }
        let others =
            || bucket.ways(tag).filter(|&way| Some(way) != before).filter_map(|way| bucket.read(way));
        let is_free = |task: IpAddr| !others().any(|other| other.is(key, Side::Task(task)));
        let (task_mac, task) = candidates.find(|&(_, task)| is_free(task)).ok_or(Unopened::NoTask)?;
        let flow = Flow { key: *key, vip, task, client_mac, vip_mac, task_mac };
        let way = match before.or_else(|| bucket.ways(0).next()) {
            Some(way) => way,
            None => self.evict(bucket, client_mac).ok_or_else(|| {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Unopened::Full
            })?,
        };
        if before.is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        let slot = &bucket.slots[way];
        let version = slot.write(&flow, epoch, self.tick(now));
        bucket.tags[way].store(tag, Ordering::Release);
        Ok(Found { flow, slot, version })
    }

    /// Gives each flow of a bucket to `keep`, and forgets those that it says no to.
    pub(super) fn sweep(&self, bucket: usize, mut keep: impl FnMut(&Found<'_>) -> bool) {
        let bucket = &self.buckets[bucket];
        if bucket.tags.iter().all(|tag| tag.load(Ordering::Relaxed) == 0) {
            return;
        }
        let _writer = bucket.lock();
        for way in 0..WAYS {
            if bucket.tags[way].load(Ordering::Relaxed) != 0
                && bucket.read(way).is_some_and(|found| !keep(&found))
            {
                bucket.tags[way].store(0, Ordering::Release);
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Notes that the flow has carried something.
    pub(super) fn touch(&self, found: &Found<'_>, now: Instant) {
        let tick = self.tick(now);
        // Seldom written, so that workers don't take the line away from each other for each packet.
        if found.slot.seen.load(Ordering::Relaxed) != tick {
            found.slot.seen.store(tick, Ordering::Relaxed);
        }
    }

    /// How long the flow has been silent.
    pub(super) fn idle(&self, found: &Found<'_>, now: Instant) -> Duration {
        let ticks = self.tick(now).saturating_sub(found.slot.seen.load(Ordering::Relaxed));
        Duration::from_millis(u64::from(ticks) * u64::from(1_000 / TICKS_PER_SECOND))
    }

    /// Whether the flow has been silent for too long.
    pub(super) fn is_expired(&self, found: &Found<'_>, limits: &IdleLimits, now: Instant) -> bool {
        let standing = Standing::of(found.flow.key.protocol, found.marks());
        self.idle(found, now) >= standing.idle_limit(limits)
    }

    /// Makes room for a client's; gives where. The writer's lock is held.
    fn evict(&self, bucket: &Bucket, client_mac: MacAddr) -> Option<usize> {
        let rank = |way: usize| {
            let found = bucket.read(way)?;
            let standing = Standing::of(found.flow.key.protocol, found.marks());
            let rank = (standing, found.slot.seen.load(Ordering::Relaxed), way);
            standing.is_evictable().then_some(rank)
        };
        let least = (0..WAYS).filter_map(rank).min().map(|(_, _, way)| way);
        let way = least.or_else(|| bucket.hoarded(client_mac))?;
        bucket.tags[way].store(0, Ordering::Release);
        self.len.fetch_sub(1, Ordering::Relaxed);
        self.evicted.fetch_add(1, Ordering::Relaxed);
        Some(way)
    }

    fn place(&self, key: &Key) -> (&Bucket, u16) {
        let [a, b, c, d, e, f, g, h] = self.hasher.hash_one(key).to_le_bytes();
        let index = u32::from_le_bytes([a, b, c, d]) as usize & (self.buckets.len() - 1);
        let tag = u16::from_le_bytes([e, f]) ^ u16::from_le_bytes([g, h]);
        (&self.buckets[index], tag.max(1))
    }

    fn tick(&self, now: Instant) -> u32 {
        let start = *self.start.get_or_init(|| now);
        let passed = now.saturating_duration_since(start);
        // Not by milliseconds at once, whose 128 bits divide slowly.
        let part = u64::from(passed.subsec_millis() * TICKS_PER_SECOND / 1_000);
        let ticks = passed.as_secs().saturating_mul(u64::from(TICKS_PER_SECOND)).saturating_add(part);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
