//! Which task gets a flow: rendezvous hashing (Thaler & Ravishankar, "Using name-based mappings to increase hit rates",
//! 1998). Each task has a score for each flow, made of both; the highest has the flow.
//!
//! Rendezvous and not Maglev (Eisenbud et al., NSDI 2016), because a choice is made once a flow and not for each packet,
//! as there: the flow table remembers it. So looking at all tasks is cheap, and there is no table to build at each change of
//! each service. What changes is the least possible: only flows of a task that goes move, and only those that a new one wins.
//! And any of a flow's packets finds the task that its first one found, as long as the tasks are the same, even
//! after the flow table has been lost with the process.
//!
//! **Evenness.** A score is a hash, so each of *n* live tasks has a flow with probability 1/n, and of *F* flows a number that is
//! binomial: F/n on average, with a standard deviation under √(F/n). With 10,000 flows and 5 tasks none is further than
//! 8 % from its share (four deviations) but once in 3,000 times.
//!
//! The hash has no secret, for the sake of the restart: who chooses its source port can choose its task. It could speak to
//! that task anyway.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::wire::MacAddr;

/// A task's for a flow. No two tasks have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    weight: u64,
    /// Whose.
    pub(super) mac: MacAddr,
}

/// A task's score for the flow with that hash.
pub(super) fn score(flow: u64, mac: MacAddr) -> Score {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u64(flow);
    hasher.write(&mac.0);
    Score { weight: hasher.finish(), mac }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: u64 = 10_000;

    fn best(flow: u64, tasks: &[u8]) -> u8 {
        let scores = tasks.iter().map(|&task| score(flow, MacAddr([2, 0x42, 10, 0, 9, task])));
        scores.max().map_or(0, |score| score.mac.0[5])
    }

    /// The bound of the module's documentation, for many sets of tasks: no number of them is unlucky.
    #[test]
    fn each_task_has_its_share_but_for_four_deviations() {
        let mut worst: f64 = 0.0;
        for count in [2_u8, 3, 5, 8, 20, 100] {
            for offset in 0..10_u64 {
                let tasks: Vec<u8> = (1..=count).collect();
                let mut shares = [0_u32; 256];
                (0..FLOWS).for_each(|flow| shares[usize::from(best(flow + offset * FLOWS, &tasks))] += 1);
                let (flows, n) = (10_000.0, f64::from(count));
                let deviation = (flows / n * (1.0 - 1.0 / n)).sqrt();
                for &task in &tasks {
                    worst = worst.max((f64::from(shares[usize::from(task)]) - flows / n).abs() / deviation);
                }
            }
        }
        assert!(worst > 1.0, "flows that are spread as by chance, not evener: {worst}");
        assert!(worst < 4.0, "{worst} deviations from an even share");
    }

    #[test]
    fn only_what_must_move_moves() {
        let (all, without): (Vec<u8>, Vec<u8>) = ((1..=5).collect(), (1..=4).collect());
        let mut moved = 0;
        for flow in 0..FLOWS {
            let (before, after) = (best(flow, &all), best(flow, &without));
            assert!(before == after || before == 5, "a flow of task {before}, which stays, has moved");
            moved += u32::from(before != after);
        }
        assert!((1_800..2_200).contains(&moved), "{moved} of 10,000 were the fifth task's");
    }
}
