//! What each of many may have of what there is, so that none of them leaves the others without.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::gateway::origin;

/// Who counts as one client: see [`origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin(IpAddr);

/// Counts who has how much.
#[derive(Debug)]
pub(super) struct Shares<K>(Arc<Counts<K>>);

#[derive(Debug)]
struct Counts<K> {
    of_one: usize,
    of_all: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    /// Of each owner. None is 0, so there are at most `of_all`.
    own: HashMap<K, usize>,
}

/// One, which its owner has until this is dropped.
#[derive(Debug)]
pub(super) struct Share<K: Eq + Hash> {
    counts: Arc<Counts<K>>,
    owner: K,
}

impl Origin {
    pub(super) fn of(client: IpAddr) -> Self {
        Self(origin::of(client))
    }
}

impl<K: Copy + Eq + Hash> Shares<K> {
    /// So many for one, and for all together.
    pub(super) fn new(of_one: usize, of_all: usize) -> Self {
        let taken = Mutex::new(Taken { all: 0, own: HashMap::new() });
        Self(Arc::new(Counts { of_one, of_all, taken }))
    }

    /// One more for that owner. `None`: it has as many as it may have, or all together have.
    pub(super) fn take(&self, owner: K) -> Option<Share<K>> {
        let counts = &self.0;
        let mut taken = counts.taken();
        let own = taken.own.get(&owner).copied().unwrap_or(0);
        if own >= counts.of_one || taken.all >= counts.of_all {
            return None;
        }
        taken.own.insert(owner, own + 1);
        taken.all += 1;
        Some(Share { counts: Arc::clone(counts), owner })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.counts.taken();
        taken.all -= 1;
        let own = taken.own.get_mut(&self.owner).expect("it counts this one");
        *own -= 1;
        if *own == 0 {
            taken.own.remove(&self.owner);
        }
    }
}

impl<K> Counts<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_share_nor_all_together_more_than_there_is() {
        let shares = Shares::new(2, 3);
        let mut first = vec![shares.take('a').unwrap(), shares.take('a').unwrap()];
        assert!(shares.take('a').is_none());
        let other = shares.take('b').unwrap();
        assert!(shares.take('b').is_none() && shares.take('c').is_none(), "three of three");
        first.pop();
        let third = shares.take('c').unwrap();
        assert!(shares.take('a').is_none());
        drop((first, other, third));
        let taken = shares.0.taken();
        assert!(taken.all == 0 && taken.own.is_empty(), "{taken:?}");
    }
}
