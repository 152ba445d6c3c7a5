//! Storm control: how many broadcast, multicast and unknown-destination frames a port may have flooded.
//!
//! A token bucket. Each frame that such a one is cut into costs a datagram for every peer, so one port must not be able to
//! fill the underlay.

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
    /// `None` before the first use, when it is full.
    filled: Option<Instant>,
}

const FRAME: u64 = 1_000_000_000;

impl StormBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(limit: StormLimit) -> Self {
        Self { limit, tokens: u64::from(limit.burst) * FRAME, filled: None }
    }

    /// Whether something that comes to so many frames on the wire may be flooded now; all of it, or nothing.
    pub fn allow(&mut self, frames: usize, now: Instant) -> bool {
        let full = u64::from(self.limit.burst) * FRAME;
        let filled = self.filled.unwrap_or(now);
        let elapsed = now.saturating_duration_since(filled).min(Duration::from_secs(3600));
        let nanoseconds = u64::try_from(elapsed.as_nanos()).expect("an hour fits");
        let gained = nanoseconds.saturating_mul(u64::from(self.limit.frames_per_second));
        self.tokens = self.tokens.saturating_add(gained).min(full);
        self.filled = Some(filled.max(now));
        let price = FRAME.saturating_mul(frames as u64);
        let enough = self.tokens >= price;
        self.tokens -= if enough { price } else { 0 };
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
        let t0 = Instant::now();
        let mut bucket = StormBucket::new(StormLimit { frames_per_second: 10, burst: 3 });
        let allowed =
            |bucket: &mut StormBucket, at: Duration| (0..100).filter(|_| bucket.allow(1, t0 + at)).count();
        assert_eq!(allowed(&mut bucket, Duration::ZERO), 3);
        assert_eq!(allowed(&mut bucket, Duration::from_millis(99)), 0);
        assert_eq!(allowed(&mut bucket, Duration::from_millis(100)), 1);
        assert_eq!(allowed(&mut bucket, Duration::from_secs(60)), 3, "never more than the burst");
        let spread = (0..1000u64).filter(|n| bucket.allow(1, t0 + Duration::from_millis(60_000 + n))).count();
        assert!((9..=10).contains(&spread), "{spread} in a second at 10 a second");
    }

    #[test]
    fn a_rate_of_nothing_refuses_all_after_the_burst() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
        let t0 = Instant::now();
        let mut bucket = StormBucket::new(StormLimit { frames_per_second: 0, burst: 0 });
        assert!(!bucket.allow(1, t0 + Duration::from_secs(100)));
    }

    #[test]
    fn a_super_frame_costs_what_it_is_cut_into() {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
        let t0 = Instant::now();
        let mut bucket = StormBucket::new(StormLimit { frames_per_second: 10, burst: 10 });
        assert!(!bucket.allow(11, t0), "all or nothing");
        assert!(bucket.allow(8, t0));
        assert!(!bucket.allow(3, t0));
        assert!(bucket.allow(2, t0));
    }
}
