//! Storm control: how many broadcast, multicast and unknown-destination frames a port may have flooded.
//!
//! A token bucket. Such frames cost one datagram for every peer, so one port must not be able to fill the underlay.

use std::time::{Duration, Instant};

/// A port's allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormLimit {
    /// Frames a second in the long run; 0 refuses all.
    pub frames_per_second: u32,
    /// Frames at once after a quiet time.
    pub burst: u32,
}

impl Default for StormLimit {
    /// 2,000 frames a second: far above what ARP, ND, DHCP and mDNS of thousands of hosts need, and under 25 Mbit/s
    /// of full-sized frames for each peer.
    fn default() -> Self {
        Self { frames_per_second: 2_000, burst: 2_000 }
    }
}

/// A bucket in use. Tokens are counted in frame-nanoseconds, so that no fraction is lost between two frames.
#[derive(Clone, Copy, Debug)]
pub struct StormBucket {
    limit: StormLimit,
    tokens: u64,
    filled: Instant,
}

const FRAME: u64 = 1_000_000_000;

impl StormBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(limit: StormLimit, now: Instant) -> Self {
        Self { limit, tokens: u64::from(limit.burst) * FRAME, filled: now }
    }

    /// Whether a frame may be flooded now.
    pub fn allow(&mut self, now: Instant) -> bool {
        let full = u64::from(self.limit.burst) * FRAME;
        let elapsed = now.saturating_duration_since(self.filled).min(Duration::from_secs(3600));
        let nanoseconds = u64::try_from(elapsed.as_nanos()).expect("an hour fits");
        let gained = nanoseconds.saturating_mul(u64::from(self.limit.frames_per_second));
        self.tokens = self.tokens.saturating_add(gained).min(full);
        self.filled = self.filled.max(now);
        if self.tokens < FRAME {
            return false;
        }
        self.tokens -= FRAME;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
        let t0 = Instant::now();
        let mut bucket = StormBucket::new(StormLimit { frames_per_second: 10, burst: 3 }, t0);
        let allowed =
            |bucket: &mut StormBucket, at: Duration| (0..100).filter(|_| bucket.allow(t0 + at)).count();
        assert_eq!(allowed(&mut bucket, Duration::ZERO), 3);
        assert_eq!(allowed(&mut bucket, Duration::from_millis(99)), 0);
        assert_eq!(allowed(&mut bucket, Duration::from_millis(100)), 1);
        assert_eq!(allowed(&mut bucket, Duration::from_secs(60)), 3, "never more than the burst");
        let spread = (0..1000u64).filter(|n| bucket.allow(t0 + Duration::from_millis(60_000 + n))).count();
        assert!((9..=10).contains(&spread), "{spread} in a second at 10 a second");
    }

    #[test]
    fn a_rate_of_nothing_refuses_all_after_the_burst() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
        let t0 = Instant::now();
        let mut bucket = StormBucket::new(StormLimit { frames_per_second: 0, burst: 0 }, t0);
        assert!(!bucket.allow(t0 + Duration::from_secs(100)));
    }
}
