//! End to end: one TCP stream through two switches in two namespaces, as `vswitchd lab` builds them.

use std::fs;
use std::time::Duration;

use serde::Serialize;

use super::cpu::gbit_s;
use super::{BenchError, system};
use crate::lab::{Lab, Plan, Shape, throughput};
use crate::namespace::init::THIS_PROGRAM;

/// Places in `/proc/PID/stat` (proc(5)) behind the program's name: CPU time of the children that were waited for, user
/// and system, fields 16 and 17.
const CHILDREN_TIMES: [usize; 2] = [13, 14];

/// What two switches carry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamFigures {
    /// What the TCP stream came to, by the clock.
    pub gbit_s: f64,
    /// CPU seconds, user and system, that both switches together took for 10^9 bytes. `None` if the kernel does not
    /// say.
    pub cpu_s_per_gb: Option<f64>,
    /// Cores that both together kept busy.
    pub cores_busy: Option<f64>,
}

/// Measures for `each`. Needs a sandbox, and that this program knows the command `switch`.
///
/// # Errors
/// If the switches can't be built or started, or the stream breaks.
pub fn measure(each: Duration) -> Result<StreamFigures, BenchError> {
    let shape = Shape { nodes: 2, endpoints: 1, networks: 1, ..Shape::default() };
    let mut lab = Lab::build(Plan::new(shape)?)?;
    lab.start(THIS_PROGRAM)?;
    let ends: Vec<_> = lab.endpoints().cloned().collect();
    let [from, to] = &ends[..] else { return Err(BenchError::Nothing("two switches")) };
    let flow = throughput::measure(from.netns(), to.netns(), to.plan().v4.into(), each)?;
    let before = children_cpu().map_err(system("read the CPU time"))?;
    lab.stop()?;
    // The children's time is ours once they have been waited for. Nothing but the stream kept them busy.
    let after = children_cpu().map_err(system("read the CPU time"))?;
    let cpu = before.zip(after).map(|(before, after)| after.saturating_sub(before).as_secs_f64());
    Ok(StreamFigures {
        gbit_s: gbit_s(flow.bytes, flow.took),
        cpu_s_per_gb: cpu.map(|cpu| cpu * 1e9 / flow.bytes as f64),
        cores_busy: cpu.map(|cpu| cpu / flow.took.as_secs_f64()),
    })
}

/// CPU time of all children waited for so far.
fn children_cpu() -> std::io::Result<Option<Duration>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    Ok(children_ticks(&stat)
        .map(|ticks| Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)))
}

fn children_ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, parentheses and spaces included.
    let (_, behind) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind.split_whitespace().collect();
    CHILDREN_TIMES.iter().map(|&place| fields.get(place)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_childrens_time_is_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 500 600 70 8 20 0 1 0";
        assert_eq!(children_ticks(stat), Some(78));
        assert_eq!(children_ticks("7 (a) S 1"), None);
        assert_eq!(children_ticks(""), None);
        assert!(children_cpu().unwrap().is_some());
    }
}
