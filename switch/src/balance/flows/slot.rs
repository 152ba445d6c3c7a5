//! Where flows are kept: buckets of slots that are read without a lock.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::balance::standing::Marks;
use crate::wire::{MacAddr, Vni};

/// Slots of a bucket.
pub(in crate::balance) const WAYS: usize = 8;
/// Words of a slot.
const WORDS: usize = 10;
/// How often to look at a slot that is being written before waiting for its writer.
const TRIES: usize = 64;

/// What is the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::balance) struct Key {
    pub(in crate::balance) vni: Vni,
    /// TCP, UDP, ICMP, ICMPv6; [`super::packet::FRAGMENT`].
    pub(in crate::balance) protocol: u8,
    pub(in crate::balance) client: IpAddr,
    /// The client's port, or the identifier of its echo requests.
    pub(in crate::balance) client_port: u16,
    /// The service's and task's port; 0 of echoes.
    pub(in crate::balance) service_port: u16,
}

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::balance) struct Flow {
    pub(in crate::balance) key: Key,
    /// What the client sends to.
    pub(in crate::balance) vip: IpAddr,
    /// What gets it.
    pub(in crate::balance) task: IpAddr,
    pub(in crate::balance) client_mac: MacAddr,
    pub(in crate::balance) vip_mac: MacAddr,
    pub(in crate::balance) task_mac: MacAddr,
}

impl Flow {
    /// Whether the client is the task.
    pub(in crate::balance) fn is_hairpin(&self) -> bool {
        self.task == self.key.client
    }
}

/// From where a packet looks at a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::balance) enum Side {
    /// The client's: by the virtual address.
    Client(IpAddr),
    /// The task's: by its own address.
    Task(IpAddr),
}

#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Bucket {
    /// Zero is a free slot; others are part of the key's hash, so that most other slots need not be looked at.
    pub(super) tags: [AtomicU16; WAYS],
    /// Held by who changes a tag or writes a slot.
    writer: Mutex<()>,
    pub(super) slots: [Slot; WAYS],
}

#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct Slot {
    /// Odd while it is written.
    version: AtomicU32,
    /// Ticks.
    pub(super) seen: AtomicU32,
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
pub(in crate::balance) struct Found<'t> {
    pub(in crate::balance) flow: Flow,
    pub(super) slot: &'t Slot,
    pub(super) version: u32,
}

impl Bucket {
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        // It guards no data of its own, and writers don't panic between two stores.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots with that tag.
    pub(super) fn ways(&self, tag: u16) -> impl Iterator<Item = usize> {
        (0..WAYS).filter(move |&way| self.tags[way].load(Ordering::Acquire) == tag)
    }

    /// The longest silent flow of a client that has more than half of them; `None` if that is the newcomer's, or nobody.
    pub(super) fn hoarded(&self, newcomer: MacAddr) -> Option<usize> {
        let clients: [_; WAYS] = std::array::from_fn(|way| self.read(way).map(|found| found.flow.client_mac));
        let share = |mac| clients.iter().filter(|&&client| client == Some(mac)).count();
        let hoarder = clients.into_iter().flatten().find(|&mac| share(mac) > WAYS / 2 && mac != newcomer)?;
        let seen = |&way: &usize| self.slots[way].seen.load(Ordering::Relaxed);
        (0..WAYS).filter(|&way| clients[way] == Some(hoarder)).min_by_key(seen)
    }

    /// What is in a slot; `None` if nobody has ever written there.
    pub(super) fn read(&self, way: usize) -> Option<Found<'_>> {
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
    pub(super) fn write(&self, flow: &Flow, epoch: u32, tick: u32) -> u32 {
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
    pub(super) fn is(&self, key: &Key, side: Side) -> bool {
        self.flow.key == *key
            && match side {
                Side::Client(vip) => self.flow.vip == vip,
                Side::Task(task) => self.flow.task == task,
            }
    }

    /// What has been seen of the flow; nothing if it has gone meanwhile.
    pub(in crate::balance) fn marks(&self) -> Marks {
        let word = self.slot.marks.load(Ordering::Relaxed);
        if word >> 32 == u64::from(self.version) { Marks::from_word(word) } else { Marks::default() }
    }

    /// Adds to what has been seen; nothing if the flow has gone meanwhile.
    pub(in crate::balance) fn mark(&self, marks: Marks) {
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
    pub(in crate::balance) fn note_number(&self, number: u32) {
        if self.slot.number.load(Ordering::Relaxed) != number {
            self.slot.number.store(number, Ordering::Relaxed);
        }
    }

    /// What was last noted.
    pub(in crate::balance) fn number(&self) -> u32 {
        self.slot.number.load(Ordering::Relaxed)
    }

    /// Whether the task is one, asked once for each version of the service: `has` says so.
    pub(in crate::balance) fn is_served(&self, epoch: u32, has: impl FnOnce(&Flow) -> bool) -> bool {
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
    pub(super) fn to_words(self) -> [u64; WORDS] {
        let Self { key, vip, task, client_mac, vip_mac, task_mac } = self;
        let [client, vip, task] = [key.client, vip, task].map(halves);
        let ports = u64::from(key.client_port) << 16 | u64::from(key.service_port);
        let head = u64::from(key.vni.id()) << 40 | u64::from(key.protocol) << 32 | ports;
        let [client_mac, vip_mac, task_mac] = [client_mac, vip_mac, task_mac].map(mac_word);
        [head, client[0], client[1], vip[0], vip[1], task[0], task[1], client_mac, vip_mac, task_mac]
    }

    pub(super) fn from_words(words: &[u64; WORDS]) -> Self {
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
