//! Which slots may be replaced now, when a service has changed: batch after batch, with nobody who leads.
//!
//! Slots in their order are cut into batches of [`Rollout::parallelism`]. A slot may be replaced when all slots of earlier
//! batches have run the new generation for [`Rollout::delay`]. Each node judges its own slots by what it has heard of the
//! others; what it has not heard yet only delays it, since a slot that runs a generation does not go back to an older
//! one. So there are never more than `parallelism` slots under replacement, whatever is late, and a generation that
//! does not come to run stops the rollout at its first batch. (Only where two halves of a cluster have each changed the
//! service and meet again, nodes that have heard of it and others may for a moment replace slots at the same time.)
//!
//! A slot that runs nothing has nothing to be replaced: it starts the new generation at once.

use std::time::Duration;

/// How a service's tasks are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Slots that are replaced at a time; 0: all.
    pub parallelism: u16,
    /// From when a batch runs until the next one begins.
    pub delay: Duration,
}

/// What has been heard of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whether it runs the new generation.
    pub new: bool,
    /// For how long that has been known here: clocks of other nodes are not asked.
    pub known_for: Duration,
}

/// Whether a slot may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// At once.
    Now,
    /// After this time, if nothing else happens.
    In(Duration),
    /// Not before this slot, the first of several, runs the new generation.
    Behind(usize),
}

impl Rollout {
    /// Whether the slot at place `slot` may be replaced; `slots` is what runs in each, in their order.
    #[must_use]
    pub fn may_replace(&self, slot: usize, slots: &[Option<Progress>]) -> Verdict {
        let earlier = match usize::from(self.parallelism) {
            0 => 0,
            batch => slot / batch * batch,
        };
        let earlier = &slots[..earlier.min(slots.len())];
        let new = |progress: &Option<Progress>| progress.filter(|progress| progress.new);
        if let Some(first) = earlier.iter().position(|progress| new(progress).is_none()) {
            return Verdict::Behind(first);
        }
        let waits =
            earlier.iter().filter_map(new).map(|progress| self.delay.saturating_sub(progress.known_for));
        match waits.max() {
            None | Some(Duration::ZERO) => Verdict::Now,
            Some(wait) => Verdict::In(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress(generation: u64, seconds: u64) -> Option<Progress> {
        Some(Progress { new: generation == 2, known_for: Duration::from_secs(seconds) })
    }

    fn verdict(parallelism: u16, slot: usize, slots: &[Option<Progress>]) -> Verdict {
        Rollout { parallelism, delay: Duration::from_secs(10) }.may_replace(slot, slots)
    }

    #[test]
    fn batches_follow_each_other_with_a_pause() {
        let slots = [progress(2, 30), progress(2, 4), progress(1, 99), progress(1, 99), progress(1, 99)];
        assert_eq!([0, 1].map(|slot| verdict(2, slot, &slots)), [Verdict::Now; 2]);
        assert_eq!([2, 3].map(|slot| verdict(2, slot, &slots)), [Verdict::In(Duration::from_secs(6)); 2]);
        assert_eq!(verdict(2, 4, &slots), Verdict::Behind(2));
        assert_eq!(verdict(1, 1, &slots), Verdict::Now, "the first has run for long enough");
    }

    #[test]
    fn what_does_not_run_is_waited_for() {
        assert_eq!(verdict(1, 1, &[None, progress(1, 99)]), Verdict::Behind(0));
        assert_eq!(verdict(1, 2, &[progress(2, 10), None, progress(1, 0)]), Verdict::Behind(1));
        assert_eq!(
            verdict(1, 1, &[progress(3, 10), progress(1, 0)]),
            Verdict::Behind(0),
            "another is not the new one"
        );
        assert_eq!(
            verdict(1, 9, &[progress(2, 10)]),
            Verdict::Now,
            "slots that nobody has heard of are no slots"
        );
    }

    #[test]
    fn without_a_limit_all_are_replaced_at_once() {
        assert_eq!(verdict(0, 700, &[progress(1, 0); 1000]), Verdict::Now);
    }

    /// A slot of the model.
    #[derive(Clone, Copy)]
    struct Slot {
        runs: Option<u64>,
        /// When it came to run that.
        since: u64,
        /// When it will run the new one, while it is being replaced.
        ready: Option<u64>,
    }

    proptest! {
        /// Slots act one by one, in any order, each on what it heard some time ago; tasks take their time to start.
        #[test]
        fn no_more_than_wanted_are_replaced_at_a_time(
            seed: u64, count in 1_usize..20, parallelism in 0_u16..6, delay in 0_u64..20,
        ) {
            const LATE_MAX: u64 = 15;
            const START_MAX: u64 = 10;
            let mut rng = fastrand::Rng::with_seed(seed);
            let rollout = Rollout { parallelism, delay: Duration::from_secs(delay) };
            let mut slots = vec![Slot { runs: Some(1), since: 0, ready: None }; count];
            let mut history = vec![slots.clone()];
            let mut begun = vec![None; count];
            let mut ran = vec![None; count];
            let longest = (START_MAX + LATE_MAX + delay + 2) * (count as u64 + 1);
            for now in 1..=longest {
                for (slot, state) in slots.iter_mut().enumerate() {
                    if state.ready.is_some_and(|ready| ready <= now) {
                        *state = Slot { runs: Some(2), since: now, ready: None };
                        ran[slot] = Some(now);
                    }
                }
                for slot in 0..count {
                    if slots[slot].runs != Some(1) {
                        continue;
                    }
                    // What it knows of each other is of another moment.
                    let heard = (0..count).map(|other| {
                        let then = now.saturating_sub(1 + rng.u64(0..LATE_MAX));
                        let state = history[usize::try_from(then).unwrap()][other];
                        let known_for = Duration::from_secs(then.saturating_sub(state.since));
                        state.runs.map(|generation| Progress { new: generation == 2, known_for })
                    });
                    if rollout.may_replace(slot, &heard.collect::<Vec<_>>()) == Verdict::Now {
                        slots[slot] = Slot { runs: None, since: now, ready: Some(now + rng.u64(1..=START_MAX)) };
                        begun[slot] = Some(now);
                    }
                }
                let replaced = slots.iter().filter(|slot| slot.ready.is_some()).count();
                prop_assert!(parallelism == 0 || replaced <= usize::from(parallelism), "{replaced} at {now}");
                history.push(slots.clone());
            }
            prop_assert!(slots.iter().all(|slot| slot.runs == Some(2)), "it has come to an end");
            let batch = if parallelism == 0 { count } else { parallelism.into() };
            for (slot, begun) in begun.into_iter().enumerate().skip(batch) {
                let before = ran[..slot / batch * batch].iter().copied().flatten().max();
                prop_assert!(begun >= before.map(|before| before + delay), "slot {slot} was too early");
            }
        }
    }
}
