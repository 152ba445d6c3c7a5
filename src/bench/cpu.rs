//! CPU time of the calling thread, what it was spent on, and other arithmetic of time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread so far, user and system (`CLOCK_THREAD_CPUTIME_ID`, clock_gettime(2)).
pub(super) fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Things done, and the CPU time that they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames or datagrams.
    pub items: u64,
    /// Their bytes.
    pub bytes: u64,
    /// CPU time of the thread that handled them.
    pub cpu: Duration,
}

impl Tally {
    /// Adds a batch.
    pub(super) fn add(&mut self, items: usize, bytes: usize, cpu: Duration) {
        self.items += items as u64;
        self.bytes += bytes as u64;
        self.cpu += cpu;
    }

    /// Nanoseconds of a core for each; `None` if there were none.
    #[must_use]
    pub fn ns_each(&self) -> Option<f64> {
        (self.items > 0).then(|| self.cpu.as_secs_f64() * 1e9 / self.items as f64)
    }

    /// Gbit that one core handles in a second; `None` if there was nothing, or it took no time that can be told.
    #[must_use]
    pub fn gbit_s(&self) -> Option<f64> {
        (self.bytes > 0 && !self.cpu.is_zero()).then(|| gbit_s(self.bytes, self.cpu))
    }
}

/// Gbit/s: 10^9 bits a second.
pub(super) fn gbit_s(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e9 / time.as_secs_f64()
}

/// The middle one of some samples, at least one.
pub(super) fn median(mut samples: Vec<Duration>) -> Duration {
    let middle = samples.len() / 2;
    *samples.select_nth_unstable(middle).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_has_no_cost_and_something_its_share() {
        let mut tally = Tally::default();
        assert_eq!((tally.ns_each(), tally.gbit_s()), (None, None));
        tally.add(4, 1_000, Duration::from_micros(2));
        assert_eq!((tally.ns_each(), tally.gbit_s()), (Some(500.0), Some(4.0)));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let ms = |list: &[u64]| list.iter().map(|&ms| Duration::from_millis(ms)).collect();
        assert_eq!(median(ms(&[9, 1, 5])), Duration::from_millis(5));
        assert_eq!(median(ms(&[7])), Duration::from_millis(7));
    }
}
