//! A smoothed round-trip time and its variation, RFC 6298 §2.

use std::time::Duration;

/// What a reply is waited for at least: RFC 6298 §2.4. A host that is busy for a moment has not lost the probe.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// And at most. It is also the wait while nothing has been measured: a path of two satellite hops answers in time.
const TIMEOUT_MAX: Duration = Duration::from_secs(3);

/// The estimate, after at least one measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rtt {
    /// SRTT of the RFC.
    pub(super) smoothed: Duration,
    /// RTTVAR of the RFC.
    pub(super) variation: Duration,
}

impl Rtt {
    /// After the first measurement.
    fn first(sample: Duration) -> Self {
        Self { smoothed: sample, variation: sample / 2 }
    }

    /// After one more. Each reply names its request, so there is no measurement to leave out (Karn's algorithm).
    pub(super) fn after(previous: Option<Self>, sample: Duration) -> Self {
        let Some(Self { smoothed, variation }) = previous else { return Self::first(sample) };
        Self {
            variation: variation * 3 / 4 + smoothed.abs_diff(sample) / 4,
            smoothed: smoothed * 7 / 8 + sample / 8,
        }
    }

    /// How long a reply is waited for.
    pub(super) fn timeout(estimate: Option<Self>) -> Duration {
        let wait = estimate.map(|Self { smoothed, variation }| smoothed + variation * 4);
        wait.map_or(TIMEOUT_MAX, |wait| wait.clamp(TIMEOUT_MIN, TIMEOUT_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Computed by hand from the formulas of the RFC.
    #[test]
    fn the_estimate_is_that_of_the_rfc() {
        let first = Rtt::after(None, ms(100));
        assert_eq!(first, Rtt { smoothed: ms(100), variation: ms(50) });
        let second = Rtt::after(Some(first), ms(180));
        let variation = Duration::from_micros(57_500);
        assert_eq!(second, Rtt { smoothed: ms(110), variation });
        let third = Rtt::after(Some(second), ms(30));
        assert_eq!(third.smoothed, ms(100));
        assert_eq!(third.variation, Duration::from_micros(63_125));
    }

    #[test]
    fn a_reply_is_waited_for_between_one_and_three_seconds() {
        assert_eq!(Rtt::timeout(None), ms(3_000), "nothing is known of the path");
        assert_eq!(Rtt::timeout(Some(Rtt::first(ms(1)))), ms(1_000));
        assert_eq!(Rtt::timeout(Some(Rtt::first(ms(600)))), ms(1_800));
        assert_eq!(Rtt::timeout(Some(Rtt::first(ms(9_000)))), ms(3_000));
    }
}
