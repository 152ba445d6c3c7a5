//! Flows of a network: as many as there may be, and when each is to be looked at again.
//!
//! No clock: time is what the caller says. Bounded twice, for the network and for each inside address, so that no
//! endpoint can take what the others need.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// How many entries there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of a network.
    pub(crate) network: usize,
    /// Of one inside address.
    pub(crate) inside: usize,
}

/// What tells entries apart: of an inside address and port.
pub(crate) trait Key: Copy + Ord + Hash {
    fn inside(&self) -> SocketAddr;
}

/// There is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

#[derive(Debug)]
pub(crate) struct Table<K, V> {
    limits: Limits,
    entries: HashMap<K, Entry<V>>,
    /// Entries of each inside address that has any.
    inside: HashMap<IpAddr, usize>,
    /// At most one of each entry: [`Entry::queued`].
    queue: BTreeSet<(Instant, K)>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    /// When it is to be looked at.
    wake: Instant,
    /// Where it stands in the queue: then or before.
    queued: Instant,
}

impl<K: Key, V> Table<K, V> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, entries: HashMap::new(), inside: HashMap::new(), queue: BTreeSet::new() }
    }

    /// Whether there is room for one more of an inside address.
    pub(crate) fn check(&self, inside: IpAddr) -> Result<(), Full> {
        let has = self.inside.get(&inside).copied().unwrap_or_default();
        let room = self.entries.len() < self.limits.network && has < self.limits.inside;
        room.then_some(()).ok_or(Full)
    }

    /// Takes an entry, to be looked at then. One of that key is replaced, and given back.
    pub(crate) fn insert(&mut self, key: K, value: V, wake: Instant) -> Result<Option<V>, Full> {
        let replaced = self.remove(&key);
        self.check(key.inside().ip())?;
        *self.inside.entry(key.inside().ip()).or_default() += 1;
        self.queue.insert((wake, key));
        self.entries.insert(key, Entry { value, wake, queued: wake });
        Ok(replaced)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// All of them, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, entry)| (key, &entry.value))
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.queue.remove(&(entry.queued, *key));
        let inside = key.inside().ip();
        if let Some(has) = self.inside.get_mut(&inside) {
            *has -= 1;
            if *has == 0 {
                self.inside.remove(&inside);
            }
        }
        Some(entry.value)
    }

    /// Has an entry looked at then, and not before.
    pub(crate) fn wake(&mut self, key: &K, at: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.wake = at;
        // Most are put off, with every packet: their place in the queue is corrected when it is their turn.
        if at < entry.queued {
            self.queue.remove(&(entry.queued, *key));
            self.queue.insert((at, *key));
            entry.queued = at;
        }
    }

    /// When there may be something to look at.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// An entry that is to be looked at by now. It is the next one as long as neither [`Self::wake`] has put it
    /// off nor it is gone.
    pub(crate) fn due(&mut self, now: Instant) -> Option<K> {
        loop {
            let &(at, key) = self.queue.first()?;
            if at > now {
                return None;
            }
            let entry = self.entries.get_mut(&key)?;
            if entry.wake <= now {
                return Some(key);
            }
            entry.queued = entry.wake;
            self.queue.pop_first();
            self.queue.insert((entry.queued, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;

    impl Key for SocketAddr {
        fn inside(&self) -> SocketAddr {
            *self
        }
    }

    const LIMITS: Limits = Limits { network: 6, inside: 4 };

    /// A table, and a map of key and wake time whose due ones are found by looking at all.
    struct Both {
        table: Table<SocketAddr, SocketAddr>,
        model: BTreeMap<SocketAddr, u64>,
        start: Instant,
        now: u64,
    }

    impl Both {
        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn insert(&mut self, key: SocketAddr, wake: u64) -> bool {
            let replaced = self.model.remove(&key);
            let inside = self.model.keys().filter(|other| other.ip() == key.ip()).count();
            let room = self.model.len() < LIMITS.network && inside < LIMITS.inside;
            let outcome = self.table.insert(key, key, self.at(wake));
            assert_eq!(outcome, if room { Ok(replaced.map(|_| key)) } else { Err(Full) });
            if room {
                self.model.insert(key, wake);
            }
            room
        }

        fn wake(&mut self, key: SocketAddr, wake: u64) {
            let at = self.at(wake);
            self.table.wake(&key, at);
            if let Some(known) = self.model.get_mut(&key) {
                *known = wake;
            }
        }

        fn pass(&mut self, seconds: u64) {
            self.now += seconds;
            let (now, at) = (self.now, self.at(self.now));
            let mut due = Vec::new();
            while let Some(key) = self.table.due(at) {
                assert_eq!(self.table.remove(&key), Some(key));
                due.push(key);
            }
            due.sort_unstable();
            let expected: Vec<_> =
                self.model.extract_if(.., |_, wake| *wake <= now).map(|(key, _)| key).collect();
            assert_eq!(due, expected);
        }

        fn check(&mut self) {
            let earliest = self.model.values().min().map(|&wake| self.at(wake));
            assert_eq!(self.table.next().is_some(), earliest.is_some());
            assert!(self.table.next() <= earliest);
            assert_eq!(self.table.queue.len(), self.model.len());
            assert_eq!(self.table.inside.values().sum::<usize>(), self.model.len());
            for key in self.model.keys() {
                assert_eq!(self.table.get_mut(key).copied(), Some(*key));
            }
        }
    }

    #[test]
    fn it_is_a_map_with_limits_and_times() {
        let mut full = 0;
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (table, model) = (Table::new(LIMITS), BTreeMap::new());
            let mut both = Both { table, model, start: Instant::now(), now: 0 };
            for _ in 0..200 {
                let key = SocketAddr::from(([10, 0, 9, random.u8(1..=3)], random.u16(1..=5)));
                let wake = both.now + random.u64(0..20);
                match random.u8(0..9) {
                    0..3 => full += u32::from(!both.insert(key, wake)),
                    3..6 => both.wake(key, wake),
                    6 => assert_eq!(both.table.remove(&key).is_some(), both.model.remove(&key).is_some()),
                    _ => both.pass(random.u64(0..10)),
                }
                both.check();
            }
        }
        assert!(full > 1_000, "both limits were met, {full} times");
    }
}
