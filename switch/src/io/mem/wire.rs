//! The simulated link.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What a link does to what it carries. The default is perfect.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// Share of items lost, 0 to 1; of each copy where an item is duplicated.
    pub loss: f64,
    /// Share of items that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of items held back so that later ones overtake them, 0 to 1.
    pub reorder: f64,
    /// How long every item takes.
    pub delay: Duration,
    /// How much longer it takes at most, evenly spread. Order is kept all the same.
    pub jitter: Duration,
}

/// A share that is none.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{what} must be from 0 to 1, not {given}")]
pub struct FaultsError {
    /// Which share.
    pub what: &'static str,
    /// What was given.
    pub given: f64,
}

/// How long an item that is to be overtaken is held back, at least; else as long as the delay and jitter.
const HOLD_MIN: Duration = Duration::from_millis(2);

/// What has become of the items so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireCounts {
    /// Given to [`Wire::send`].
    pub sent: u64,
    /// Given out by [`Wire::poll`].
    pub delivered: u64,
    /// Copies lost by chance.
    pub lost: u64,
    /// Additional copies made.
    pub duplicated: u64,
    /// Copies held back.
    pub reordered: u64,
    /// Items lost to a partition.
    pub cut: u64,
    /// Copies lost because the link was full.
    pub overflowed: u64,
}

/// A link, or all links between any number of addresses `A`, that carries items `T`.
#[derive(Debug)]
pub struct Wire<A, T> {
    faults: Faults,
    rng: fastrand::Rng,
    capacity: usize,
    queue: BinaryHeap<Reverse<Flying<A, T>>>,
    /// When the last item of each direction falls due, so that the next keeps behind it.
    latest: HashMap<(A, A), Instant>,
    cut: HashSet<(A, A)>,
    numbered: u64,
    counts: WireCounts,
}

#[derive(Debug)]
struct Flying<A, T> {
    due: Instant,
    number: u64,
    from: A,
    to: A,
    item: T,
}

impl Faults {
    /// Checks the shares.
    ///
    /// # Errors
    /// The first that is not from 0 to 1.
    pub fn check(self) -> Result<Self, FaultsError> {
        let shares = [("loss", self.loss), ("duplicate", self.duplicate), ("reorder", self.reorder)];
        match shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            Some((what, given)) => Err(FaultsError { what, given }),
            None => Ok(self),
        }
    }
}

impl<A: Copy + Eq + Hash, T: Clone> Wire<A, T> {
    /// A link that holds at most `capacity` items on their way.
    #[must_use]
    pub fn new(faults: Faults, seed: u64, capacity: usize) -> Self {
        Self {
            faults,
            rng: fastrand::Rng::with_seed(seed),
            capacity,
            queue: BinaryHeap::new(),
            latest: HashMap::new(),
            cut: HashSet::new(),
            numbered: 0,
            counts: WireCounts::default(),
        }
    }

    /// Puts an item on the link.
    pub fn send(&mut self, from: A, to: A, item: T, now: Instant) {
        self.counts.sent += 1;
        if self.cut.contains(&(from, to)) {
            self.counts.cut += 1;
            return;
        }
        if self.chance(self.faults.duplicate) {
            self.counts.duplicated += 1;
            self.launch(from, to, item.clone(), now);
        }
        self.launch(from, to, item, now);
    }

    /// The next item that has arrived by `now`, with its sender and receiver.
    pub fn poll(&mut self, now: Instant) -> Option<(A, A, T)> {
        self.next_deadline().filter(|&due| due <= now)?;
        let Reverse(flying) = self.queue.pop()?;
        self.counts.delivered += 1;
        Some((flying.from, flying.to, flying.item))
    }

    /// When the next item arrives.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse(flying)| flying.due)
    }

    /// Cuts the link between two addresses, both ways. What is on its way still arrives.
    pub fn partition(&mut self, a: A, b: A) {
        self.cut.extend([(a, b), (b, a)]);
    }

    /// Joins them again.
    pub fn heal(&mut self, a: A, b: A) {
        self.cut.remove(&(a, b));
        self.cut.remove(&(b, a));
    }

    /// What has become of the items so far.
    #[must_use]
    pub fn counts(&self) -> WireCounts {
        self.counts
    }

    fn launch(&mut self, from: A, to: A, item: T, now: Instant) {
        if self.chance(self.faults.loss) {
            self.counts.lost += 1;
            return;
        }
        if self.queue.len() >= self.capacity {
            self.counts.overflowed += 1;
            return;
        }
        let Faults { delay, jitter, reorder, .. } = self.faults;
        let usual = now + delay + jitter.mul_f64(self.rng.f64());
        let due = if self.chance(reorder) {
            self.counts.reordered += 1;
            usual + (delay + jitter).max(HOLD_MIN)
        } else {
            let due = self.latest.get(&(from, to)).map_or(usual, |&latest| usual.max(latest));
            self.latest.insert((from, to), due);
            due
        };
        self.numbered += 1;
        self.queue.push(Reverse(Flying { due, number: self.numbered, from, to, item }));
    }

    fn chance(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.f64() < share
    }
}

impl<A, T> PartialEq for Flying<A, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<A, T> Eq for Flying<A, T> {}

impl<A, T> PartialOrd for Flying<A, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<A, T> Ord for Flying<A, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
    fn start() -> Instant {
        Instant::now()
    }

    /// Numbers from 0 to 999, one a millisecond, as they arrive, with the millisecond.
    fn run(faults: Faults, seed: u64) -> (Vec<(u32, u128)>, WireCounts) {
        let mut wire = Wire::new(faults, seed, 100);
        let t0 = start();
        let mut arrived = Vec::new();
        for millisecond in 0..2_000u32 {
            let now = t0 + Duration::from_millis(u64::from(millisecond));
            if millisecond < 1_000 {
                wire.send('a', 'b', millisecond, now);
            }
            while let Some((from, to, item)) = wire.poll(now) {
                assert_eq!((from, to), ('a', 'b'));
                arrived.push((item, (now - t0).as_millis()));
            }
        }
        (arrived, wire.counts())
    }

    #[test]
    fn a_perfect_link_delivers_at_once_and_in_order() {
        let (arrived, counts) = run(Faults::default(), 1);
        assert!(arrived.iter().zip(0..).all(|(&arrived, n)| arrived == (n, u128::from(n))));
        assert_eq!(counts, WireCounts { sent: 1_000, delivered: 1_000, ..WireCounts::default() });
    }

    #[test]
    fn one_seed_is_one_course_of_events() {
        let faults = Faults {
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.1,
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(5),
        };
        assert_eq!(run(faults, 7), run(faults, 7));
        assert_ne!(run(faults, 7), run(faults, 8));
    }

    #[test]
    fn shares_are_what_was_asked_for() {
        let (arrived, counts) = run(Faults { loss: 0.3, duplicate: 0.2, ..Faults::default() }, 2);
        assert!((150..250).contains(&counts.duplicated), "{counts:?}");
        assert!((300..420).contains(&counts.lost), "{counts:?}");
        assert_eq!(arrived.len() as u64, 1_000 + counts.duplicated - counts.lost);
        assert!(arrived.is_sorted(), "order is kept");
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(10));
        let (arrived, _) = run(Faults { delay, jitter, ..Faults::default() }, 3);
        assert_eq!(arrived.len(), 1_000);
        assert!(arrived.is_sorted());
        assert!(arrived.iter().all(|&(n, at)| (20..=31).contains(&(at - u128::from(n)))));
    }

    #[test]
    fn reordered_items_are_overtaken() {
        let (arrived, counts) = run(Faults { reorder: 0.1, ..Faults::default() }, 4);
        let overtaken = arrived.windows(2).filter(|pair| pair[0].0 > pair[1].0).count();
        assert!((50..150).contains(&counts.reordered), "{counts:?}");
        assert!(overtaken > 0, "held back by as long as until the next is sent");
        assert_eq!(arrived.len(), 1_000);
    }

    #[test]
    fn a_full_link_loses_the_newest() {
        let mut wire = Wire::new(Faults { delay: Duration::from_secs(1), ..Faults::default() }, 5, 2);
        let now = start();
        (0..3).for_each(|n| wire.send('a', 'b', n, now));
        let arrived: Vec<_> = std::iter::from_fn(|| wire.poll(now + Duration::from_secs(1))).collect();
        assert_eq!(arrived, [('a', 'b', 0), ('a', 'b', 1)]);
        assert_eq!(wire.counts().overflowed, 1);
    }

    #[test]
    fn a_partition_is_between_two_and_heals() {
        let mut wire = Wire::new(Faults::default(), 6, 10);
        let now = start();
        wire.partition('a', 'b');
        for (from, to) in [('a', 'b'), ('b', 'a'), ('a', 'c')] {
            wire.send(from, to, 0, now);
        }
        assert_eq!(wire.poll(now), Some(('a', 'c', 0)));
        assert_eq!(wire.poll(now), None);
        wire.heal('b', 'a');
        wire.send('a', 'b', 1, now);
        assert_eq!(wire.poll(now), Some(('a', 'b', 1)));
        assert_eq!(wire.counts().cut, 2);
    }

    #[test]
    fn shares_out_of_range_are_refused() {
        assert!(Faults { loss: 1.1, ..Faults::default() }.check().is_err());
        assert!(Faults { reorder: f64::NAN, ..Faults::default() }.check().is_err());
        assert!(Faults { duplicate: 1.0, ..Faults::default() }.check().is_ok());
    }
}
