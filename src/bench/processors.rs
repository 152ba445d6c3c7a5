//! CPU time of this process, of its children, and of the whole machine, as `/proc` counts it (proc(5)).
//!
//! What the kernel does in interrupts may be counted as that of the process that it interrupts, or as nobody's. Here
//! it is never others', so theirs is rather too low than too high.

use std::fs;
use std::time::Duration;

/// Places in `/proc/PID/stat` behind the program's name: user and system time, fields 14 and 15.
const OWN: [usize; 2] = [11, 12];
/// The same of the children that were waited for, fields 16 and 17.
const CHILDREN: [usize; 2] = [13, 14];
/// Columns of `/proc/stat`: user, nice, system, steal.
const BUSY: [usize; 4] = [0, 1, 2, 7];
/// Columns of `/proc/stat`: idle, iowait.
const IDLE: [usize; 2] = [3, 4];

/// CPU times at a moment, or between two; `None` where `/proc` does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// This process's.
    pub(super) own: Option<Duration>,
    /// Its children's that have been waited for.
    pub(super) children: Option<Duration>,
    /// All processes', of all processors.
    pub(super) busy: Option<Duration>,
    /// What was nobody's.
    pub(super) idle: Option<Duration>,
}

impl Usage {
    /// Since the machine's start, and the process's.
    pub(super) fn now() -> Self {
        let process = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let machine = fs::read_to_string("/proc/stat").unwrap_or_default();
        let process = |places: &[usize]| ticks(behind_name(&process)?, places);
        let machine = |places: &[usize]| ticks(machine.strip_prefix("cpu ")?.lines().next()?, places);
        Self {
            own: process(&OWN).map(time),
            children: process(&CHILDREN).map(time),
            busy: machine(&BUSY).map(time),
            idle: machine(&IDLE).map(time),
        }
    }

    /// What has come to it since an earlier moment.
    pub(super) fn since(self, earlier: Self) -> Self {
        let less = |now: Option<Duration>, then| now.zip(then).map(|(now, then)| now.saturating_sub(then));
        Self {
            own: less(self.own, earlier.own),
            children: less(self.children, earlier.children),
            busy: less(self.busy, earlier.busy),
            idle: less(self.idle, earlier.idle),
        }
    }
}

fn time(ticks: u64) -> Duration {
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The fields behind a process's name, which may hold anything, parentheses and spaces included.
fn behind_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, behind)| behind)
}

fn ticks(fields: &str, places: &[usize]) -> Option<u64> {
    let fields: Vec<&str> = fields.split_whitespace().collect();
    places.iter().map(|&place| fields.get(place)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let fields = behind_name("7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 500 600 70 8 20 0 1 0").unwrap();
        assert_eq!((ticks(fields, &OWN), ticks(fields, &CHILDREN)), (Some(1_100), Some(78)));
        assert_eq!(ticks("S 1", &OWN), None);
        assert_eq!(behind_name(""), None);
    }

    #[test]
    fn time_only_grows() {
        let (earlier, later) = (Usage::now(), Usage::now());
        assert!(later.since(earlier).own.is_some() && later.since(earlier).children.is_some());
        assert!(later.busy >= earlier.busy && later.idle >= earlier.idle, "{earlier:?} {later:?}");
    }
}
