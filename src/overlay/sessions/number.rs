//! Session numbers of this node: random, and each one's own while it is held.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;

use crate::crypto::envelope::SessionId;

/// Numbers held at a time. A thousandth of all there are, so that a random one is free nearly always; it is more than
/// twice what [`crate::switch::tables::PEERS_MAX`] peers have between renewals.
const HELD_MAX: usize = 16_384;
/// Random numbers tried. All of them are taken once in 10^24 times.
const TRIES: usize = 8;

/// Where numbers come from. Clones share what is held.
#[derive(Clone, Debug)]
pub(super) struct Numbers(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    random: Rng,
    held: HashSet<SessionId>,
}

/// A number, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Number {
    id: SessionId,
    of: Numbers,
}

impl Numbers {
    /// Random numbers from a seed that differs from start to start: what was sealed for an earlier life of this node
    /// then rarely finds a key that fails to open it.
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: Rng::with_seed(seed), held: HashSet::new() })))
    }

    /// One that is free; none if too many are held.
    pub(super) fn take(&self) -> Option<Number> {
        let mut state = self.state();
        if state.held.len() >= HELD_MAX {
            return None;
        }
        for _ in 0..TRIES {
            let id = SessionId::new(state.random.u32(..=SessionId::MAX)).expect("no larger than that");
            if state.held.insert(id) {
                return Some(Number { id, of: self.clone() });
            }
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Number {
    pub(super) fn id(&self) -> SessionId {
        self.id
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.of.state().held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_held_once_and_come_back() {
        let numbers = Numbers::new(1);
        let held: Vec<_> = (0..HELD_MAX).filter_map(|_| numbers.take()).collect();
        let ids: HashSet<_> = held.iter().map(Number::id).collect();
        assert_eq!((held.len(), ids.len()), (HELD_MAX, HELD_MAX));
        assert!(numbers.take().is_none(), "full");
        drop(held);
        assert!(numbers.take().is_some() && numbers.state().held.is_empty());
    }
}
