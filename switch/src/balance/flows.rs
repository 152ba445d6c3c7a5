//! The flow table: which task has which flow.
//!
//! One for all workers, because the two directions of a flow come to different ones: a client's packets by the queue of its
//! device, a task's by the socket that the kernel chose for their outer ports.
//!
//! - **A packet takes no lock and allocates nothing.** A flow is a [`Slot`] of atomic words, read under a sequence number (a
//!   seqlock as in Boehm, "Can seqlocks get along with programming language memory models?", MSPC 2012). Only a flow that
//!   begins, or is forgotten, takes the lock of its bucket.
//! - **One entry serves both directions.** Neither changes ports or the client's address, so these make the key; the virtual
//!   address tells flows of a key apart on their way there, the task's on their way back. So no two flows of a bucket
//!   may have both key and task in common: a newcomer gets another task.
//! - **Bounded.** A bucket has [`WAYS`] slots. A newcomer to a full one takes the place of the one that has been silent
//!   longest among those that matter least ([`Standing`]); but not of a connection that both sides have confirmed. If all are
//!   such, a client that has more than half of them loses its longest silent one to another client; else the newcomer is
//!   refused. So who floods displaces only its like, and who hoards can't keep others out.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::service::IdleLimits;
use super::standing::{Marks, Standing};
use crate::wire::{MacAddr, Vni};

/// Flows of a switch: 9 MiB, taken with the first service.
pub const FLOWS_MAX: usize = 65_536;
/// Slots of a bucket.
pub(super) const WAYS: usize = 8;
/// Words of a slot.
const WORDS: usize = 10;
/// Buckets looked at in one turn after a change; others follow in the next, after the frames that have come meanwhile.
const SWEEP_MAX: usize = 512;
/// How often to look at a slot that is being written before waiting for its writer.
const TRIES: usize = 64;
/// Clock of the table: fine enough for limits in seconds, and a word's 32 bits last 13 years.
const TICKS_PER_SECOND: u32 = 10;

/// What is the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) vni: Vni,
    /// TCP, UDP, ICMP, ICMPv6; [`super::packet::FRAGMENT`].
    pub(super) protocol: u8,
    pub(super) client: IpAddr,
    /// The client's port, or the identifier of its echo requests.
    pub(super) client_port: u16,
    /// The service's and task's port; 0 of echoes.
    pub(super) service_port: u16,
}

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) key: Key,
    /// What the client sends to.
    pub(super) vip: IpAddr,
    /// What gets it.
    pub(super) task: IpAddr,
    pub(super) client_mac: MacAddr,
    pub(super) vip_mac: MacAddr,
    pub(super) task_mac: MacAddr,
}

impl Flow {
    /// Whether the client is the task.
    pub(super) fn is_hairpin(&self) -> bool {
        self.task == self.key.client
    }
}

/// From where a packet looks at a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The client's: by the virtual address.
    Client(IpAddr),
    /// The task's: by its own address.
    Task(IpAddr),
}

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

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    /// Zero is a free slot; others are part of the key's hash, so that most other slots need not be looked at.
    tags: [AtomicU16; WAYS],
    /// Held by who changes a tag or writes a slot.
    writer: Mutex<()>,
    slots: [Slot; WAYS],
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    /// Odd while it is written.
    version: AtomicU32,
    /// Ticks.
    seen: AtomicU32,
    /// What a reset would need: see [`Found::note_number`].
    number: AtomicU32,
    /// Of the service that had the task when this was last asked.
    epoch: AtomicU32,
    /// Version and marks.
    marks: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// A flow, as it was when it was found.
#[derive(Debug)]
pub(super) struct Found<'t> {
    pub(super) flow: Flow,
    slot: &'t Slot,
    version: u32,
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
        bucket.ways(tag).find_map(|way| bucket.read(way).filter(|found| found.is(key, side)))
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
        let ticks = now.saturating_duration_since(start).as_millis() / u128::from(1_000 / TICKS_PER_SECOND);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

impl Bucket {
    fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data of its own, and writers don't panic between two stores.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots with that tag.
    fn ways(&self, tag: u16) -> impl Iterator<Item = usize> {
        (0..WAYS).filter(move |&way| self.tags[way].load(Ordering::Acquire) == tag)
    }

    /// The longest silent flow of a client that has more than half of them; `None` if that is the newcomer's, or nobody.
    fn hoarded(&self, newcomer: MacAddr) -> Option<usize> {
        let clients: [_; WAYS] = std::array::from_fn(|way| self.read(way).map(|found| found.flow.client_mac));
        let share = |mac| clients.iter().filter(|&&client| client == Some(mac)).count();
        let hoarder = clients.into_iter().flatten().find(|&mac| share(mac) > WAYS / 2 && mac != newcomer)?;
        let seen = |&way: &usize| self.slots[way].seen.load(Ordering::Relaxed);
        (0..WAYS).filter(|&way| clients[way] == Some(hoarder)).min_by_key(seen)
    }

    /// What is in a slot; `None` if nobody has ever written there.
    fn read(&self, way: usize) -> Option<Found<'_>> {
        let slot = &self.slots[way];
        for _ in 0..TRIES {
            if let Some(found) = slot.read() {
                return found;
            }
            std::hint::spin_loop();
        }
        // Its writer was interrupted, and holds this.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        slot.read().flatten()
    }
}

impl Slot {
    /// The outer `None` while it is written.
    fn read(&self) -> Option<Option<Found<'_>>> {
        let version = self.version.load(Ordering::Acquire);
        if !version.is_multiple_of(2) {
            return None;
        }
        if version == 0 {
            return Some(None);
        }
        let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let same = self.version.load(Ordering::Relaxed) == version;
        same.then(|| Some(Found { flow: Flow::from_words(&words), slot: self, version }))
    }

    /// Gives the new version. The writer's lock is held.
    fn write(&self, flow: &Flow, epoch: u32, tick: u32) -> u32 {
        let before = self.version.load(Ordering::Relaxed);
        // Never zero again, which is a slot without a flow.
        let version = if before == u32::MAX - 1 { 2 } else { before + 2 };
        self.version.store(version - 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(flow.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.seen.store(tick, Ordering::Relaxed);
        self.number.store(0, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Relaxed);
        self.marks.store(u64::from(version) << 32, Ordering::Relaxed);
        self.version.store(version, Ordering::Release);
        version
    }
}

impl Found<'_> {
    fn is(&self, key: &Key, side: Side) -> bool {
        self.flow.key == *key
            && match side {
                Side::Client(vip) => self.flow.vip == vip,
                Side::Task(task) => self.flow.task == task,
            }
    }

    /// What has been seen of the flow; nothing if it has gone meanwhile.
    pub(super) fn marks(&self) -> Marks {
        let word = self.slot.marks.load(Ordering::Relaxed);
        if word >> 32 == u64::from(self.version) { Marks::from_word(word) } else { Marks::default() }
    }

    /// Adds to what has been seen; nothing if the flow has gone meanwhile.
    pub(super) fn mark(&self, marks: Marks) {
        let mut word = self.slot.marks.load(Ordering::Relaxed);
        while word >> 32 == u64::from(self.version) && !Marks::from_word(word).contains(marks) {
            let new = word | marks.to_word();
            match self.slot.marks.compare_exchange_weak(word, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// Keeps what a reset would need: what the client has last acknowledged, once it has ([`Marks::ACKNOWLEDGED`]); until
    /// then what would acknowledge its SYN. A number of another flow, if this one goes meanwhile, does no harm: a reset
    /// with a wrong one is answered by the right one.
    pub(super) fn note_number(&self, number: u32) {
        if self.slot.number.load(Ordering::Relaxed) != number {
            self.slot.number.store(number, Ordering::Relaxed);
        }
    }

    /// What was last noted.
    pub(super) fn number(&self) -> u32 {
        self.slot.number.load(Ordering::Relaxed)
    }

    /// Whether the task is one, asked once for each version of the service: `has` says so.
    pub(super) fn is_served(&self, epoch: u32, has: impl FnOnce(&Flow) -> bool) -> bool {
        if self.slot.epoch.load(Ordering::Relaxed) == epoch {
            return true;
        }
        let served = has(&self.flow);
        if served {
            self.slot.epoch.store(epoch, Ordering::Relaxed);
        }
        served
    }
}

impl Flow {
    fn to_words(self) -> [u64; WORDS] {
        let Self { key, vip, task, client_mac, vip_mac, task_mac } = self;
        let [client, vip, task] = [key.client, vip, task].map(halves);
        let ports = u64::from(key.client_port) << 16 | u64::from(key.service_port);
        let head = u64::from(key.vni.id()) << 40 | u64::from(key.protocol) << 32 | ports;
        let [client_mac, vip_mac, task_mac] = [client_mac, vip_mac, task_mac].map(mac_word);
        [head, client[0], client[1], vip[0], vip[1], task[0], task[1], client_mac, vip_mac, task_mac]
    }

    fn from_words(words: &[u64; WORDS]) -> Self {
        let &[head, c0, c1, v0, v1, t0, t1, client_mac, vip_mac, task_mac] = words;
        let [a, b, c, protocol, client_high, client_low, service_high, service_low] = head.to_be_bytes();
        let vni = Vni::new(u32::from_be_bytes([0, a, b, c])).expect("24 bits");
        let key = Key {
            vni,
            protocol,
            client: address([c0, c1]),
            client_port: u16::from_be_bytes([client_high, client_low]),
            service_port: u16::from_be_bytes([service_high, service_low]),
        };
        Self {
            key,
            vip: address([v0, v1]),
            task: address([t0, t1]),
            client_mac: mac_of_word(client_mac),
            vip_mac: mac_of_word(vip_mac),
            task_mac: mac_of_word(task_mac),
        }
    }
}

/// IPv4 as IPv6 has it mapped, which no packet of IPv6 that is balanced carries.
fn halves(address: IpAddr) -> [u64; 2] {
    let address = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

fn address([high, low]: [u64; 2]) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).to_canonical()
}

fn mac_word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn mac_of_word(word: u64) -> MacAddr {
    let [_, _, a, b, c, d, e, f] = word.to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests;
