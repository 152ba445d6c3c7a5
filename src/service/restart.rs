//! What becomes of a task that has ended: whether, when and how often another one takes its place.

use std::time::Duration;

use super::spec::{RestartCondition, RestartPolicy};

/// The longest pause between two tasks of a slot.
pub const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Who has run for so long has not failed to start, if the policy has no window.
const STEADY: Duration = Duration::from_secs(60);
/// Who has not run for so long has hardly been there, whatever the policy has for a window...
const HASTY: Duration = Duration::from_secs(1);
/// ...and is followed after this at least: to make a task and to tell all of it has its price.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// What becomes of a slot whose task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another task, after this time.
    Again(Duration),
    /// None: the policy says so.
    Never,
    /// None: there were as many as may be.
    Exhausted,
}

/// The tasks of a slot that have ended one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Series {
    ended: u32,
}

impl RestartPolicy {
    /// Whether another task follows one that has ended, well or not.
    #[must_use]
    pub fn repeats(&self, well: bool) -> bool {
        match self.condition {
            RestartCondition::None => false,
            RestartCondition::OnFailure => !well,
            RestartCondition::Any => true,
        }
    }
}

impl Series {
    /// How many of it have ended.
    #[must_use]
    pub fn ended(self) -> u32 {
        self.ended
    }

    /// Another one has ended: well or not, and after running for so long. The pause doubles with each, up to
    /// [`PAUSE_MAX`]; one that has run for as long as the policy's window begins a new series.
    pub fn note_end(&mut self, policy: &RestartPolicy, well: bool, ran: Duration) -> Next {
        let (window, hasty) = (Duration::from_millis(policy.window_ms), ran < HASTY);
        if ran >= if window.is_zero() { STEADY } else { window.max(HASTY) } {
            self.ended = 0;
        }
        let before = self.ended;
        self.ended = before.saturating_add(1);
        if !policy.repeats(well) {
            return Next::Never;
        }
        if policy.max_attempts.is_some_and(|most| before >= most) {
            return Next::Exhausted;
        }
        let delay =
            Duration::from_millis(policy.delay_ms).max(if hasty { PAUSE_MIN } else { Duration::ZERO });
        let doubled = delay.saturating_mul(2_u32.saturating_pow(before.min(31)));
        Next::Again(doubled.min(PAUSE_MAX.max(delay)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(condition: RestartCondition, max_attempts: Option<u32>, window_ms: u64) -> RestartPolicy {
        RestartPolicy { condition, delay_ms: 5_000, max_attempts, window_ms }
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let any = policy(RestartCondition::Any, None, 0);
        let mut series = Series::default();
        let pauses: Vec<u64> = (0..8)
            .map(|_| match series.note_end(&any, false, SECOND) {
                Next::Again(pause) => pause.as_secs(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(series.note_end(&any, true, STEADY), Next::Again(5 * SECOND), "it has run for long");
        let slow = RestartPolicy { delay_ms: 1_000_000, ..any };
        assert_eq!(
            series.note_end(&slow, true, SECOND),
            Next::Again(1_000 * SECOND),
            "as long as was asked for"
        );
        let hasty = RestartPolicy { delay_ms: 0, ..any };
        assert_eq!(Series::default().note_end(&hasty, true, SECOND), Next::Again(Duration::ZERO));
        let mut series = Series::default();
        for pause in [100, 200, 400] {
            let hasty = RestartPolicy { window_ms: 1, ..hasty };
            let next = series.note_end(&hasty, true, Duration::from_millis(20));
            assert_eq!(next, Next::Again(Duration::from_millis(pause)), "no window is that short");
        }
    }

    #[test]
    fn the_condition_and_the_number_of_attempts_are_asked() {
        let mut series = Series::default();
        assert_eq!(series.note_end(&policy(RestartCondition::None, None, 0), false, SECOND), Next::Never);
        let failure = policy(RestartCondition::OnFailure, Some(2), 10_000);
        let mut series = Series::default();
        assert_eq!(series.note_end(&failure, true, SECOND), Next::Never);
        let mut series = Series::default();
        let next: Vec<bool> =
            (0..3).map(|_| matches!(series.note_end(&failure, false, SECOND), Next::Again(_))).collect();
        assert_eq!((next, series.ended()), (vec![true, true, false], 3));
        assert_eq!(series.note_end(&failure, false, SECOND), Next::Exhausted);
        assert!(matches!(series.note_end(&failure, false, 10 * SECOND), Next::Again(_)), "another window");
    }
}
