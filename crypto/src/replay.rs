//! The replay window: which counters have been seen.
//!
//! A ring of blocks of bits, none of which is ever shifted (RFC 6479). Datagrams of one session arrive on
//! several threads, so here each block carries its own number: one compare-and-swap of a word notes a counter,
//! or finds that it was noted before, and no other word has to agree with it. A block that has been overwritten
//! by a later one refuses whatever belonged into it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::envelope::Counter;
use crate::seal::SEALS_MAX;

/// A counter that is less than this behind the highest seen is told apart from a replay for sure. Several
/// threads seal and open batches of one session, and one that has to wait for its processor holds its batch back
/// meanwhile: this is 50 ms at 1.3 million datagrams a second, longer than a scheduler with work for many lets a
/// thread wait.
pub const WINDOW: u64 = (BLOCKS as u64 - 1) * BLOCK_BITS;

/// Counters of a block: half of a word; the other half is its number.
const BLOCK_BITS: u64 = 32;
/// Blocks in the ring, unless its owner chooses; 16 KiB for each key that opens.
const BLOCKS: usize = 2_048;

const _: () = assert!(WINDOW >= 8_192);
const _: () = assert!((SEALS_MAX - 1) / BLOCK_BITS <= u32::MAX as u64, "a block's number is 32 bits");

/// Counters seen with one key, in a ring of so many blocks: one block less is told apart for sure.
#[derive(Debug)]
pub struct Window<const RING: usize = BLOCKS>(Box<[AtomicU64]>);

/// The counter has been seen, is too old to tell ([`WINDOW`]), or beyond what a key may be used for
/// ([`SEALS_MAX`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

impl<const RING: usize> Default for Window<RING> {
    /// Nothing has been seen. Zero words are the first block, empty, so that it needs no special case.
    fn default() -> Self {
        Self((0..RING).map(|_| AtomicU64::new(0)).collect())
    }
}

impl<const RING: usize> Window<RING> {
    /// Notes a counter, which must be authentic: a forged one would close the window to what it is ahead of.
    ///
    /// # Errors
    /// [`Refused`]. Of all calls with one counter, on any threads, at most one succeeds.
    pub fn note(&self, counter: Counter) -> Result<(), Refused> {
        if counter.0 >= SEALS_MAX {
            return Err(Refused);
        }
        let (block, bit) = (counter.0 / BLOCK_BITS, 1 << (counter.0 % BLOCK_BITS));
        let slot = usize::try_from(block % RING as u64).expect("below the ring's length");
        let note = |word: u64| match word >> BLOCK_BITS {
            held if held > block => None,
            held if held < block => Some(block << BLOCK_BITS | bit),
            _ if word & bit != 0 => None,
            _ => Some(word | bit),
        };
        // What is decided is all in this one word, so no order with others is needed.
        self.0[slot].fetch_update(Ordering::Relaxed, Ordering::Relaxed, note).map(drop).map_err(|_| Refused)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn note(window: &Window, counter: u64) -> bool {
        window.note(Counter(counter)).is_ok()
    }

    #[test]
    fn each_counter_once_in_any_order() {
        let window = Window::default();
        for counter in (0..WINDOW).rev() {
            assert!(note(&window, counter), "{counter}");
        }
        for counter in 0..WINDOW {
            assert!(!note(&window, counter), "{counter}");
        }
    }

    #[test]
    fn a_jump_closes_what_it_leaves_behind_and_nothing_else() {
        let window = Window::default();
        assert!(note(&window, 5));
        let far = 10 * WINDOW;
        for counter in far..far + WINDOW {
            assert!(note(&window, counter), "{counter}");
        }
        assert!(!note(&window, 5) && !note(&window, 6), "as old as can be");
        assert!(!note(&window, far), "seen, and still in the window");
    }

    #[test]
    fn what_no_key_may_be_used_for_is_refused() {
        let window = Window::default();
        assert!(note(&window, SEALS_MAX - 1));
        for counter in [SEALS_MAX, u64::MAX] {
            assert!(!note(&window, counter), "{counter}");
        }
    }

    #[test]
    fn threads_never_see_one_counter_twice() {
        const COUNTERS: u64 = 3 * WINDOW;
        let window = Window::default();
        let noted = || (0..COUNTERS).filter(|&counter| note(&window, counter)).count() as u64;
        let total: u64 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(noted)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // A thread that falls a window behind the others may find some closed that none of them has noted: they
        // have.
        assert_eq!(total, COUNTERS);
    }

    proptest! {
        /// Against a set that forgets nothing: never twice, and always once within the window.
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec((any::<bool>(), 0..3 * WINDOW), 1..400)) {
            let (window, mut seen, mut highest) = (Window::default(), HashSet::new(), 0);
            for (forward, distance) in steps {
                // Short steps ahead, so that the window moves on in pieces; far ones back, out of it and into it.
                let counter = if forward { highest + distance / 64 } else { highest.saturating_sub(distance) };
                let accepted = note(&window, counter);
                if seen.contains(&counter) {
                    prop_assert!(!accepted, "{counter} twice");
                } else if highest < counter || highest - counter < WINDOW {
                    prop_assert!(accepted, "{counter} with {highest} the highest");
                }
                if accepted {
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
