//! End to end: one TCP stream through two switches in two namespaces, as `vswitchd lab` builds them, and who used the
//! processors meanwhile.

use std::time::Duration;

use serde::Serialize;

use super::BenchError;
use super::cpu::gbit_s;
use super::processors::Usage;
use crate::lab::{Lab, Plan, Shape, throughput};
use crate::namespace::init::THIS_PROGRAM;

/// What two switches carry. Cores are means over the time that the stream took; `None` where the kernel does not say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StreamFigures {
    /// What the TCP stream came to, by the clock.
    pub gbit_s: f64,
    /// CPU seconds, user and system, that both switches together took for 10^9 bytes.
    pub cpu_s_per_gb: Option<f64>,
    /// Cores that both switches together kept busy.
    pub cores_switches: Option<f64>,
    /// Cores that both ends of the stream kept busy, most of it in the kernel's TCP.
    pub cores_ends: Option<f64>,
    /// Cores that had nothing to do.
    pub cores_idle: Option<f64>,
    /// Cores that other programs, or other guests of this machine's host, kept busy.
    pub cores_others: Option<f64>,
}

/// Measures for `each`. Needs a sandbox, and that this program knows the command `switch`.
///
/// # Errors
/// If the switches can't be built or started, or the stream breaks.
pub fn measure(each: Duration) -> Result<StreamFigures, BenchError> {
    let shape = Shape { nodes: 2, endpoints: 1, networks: 1, ..Shape::default() };
    let mut lab = Lab::build(Plan::new(shape)?)?;
    lab.start_switches(THIS_PROGRAM)?;
    let ends: Vec<_> = lab.endpoints().cloned().collect();
    let [from, to] = &ends[..] else { return Err(BenchError::Nothing("two switches")) };
    let before = Usage::now();
    let flow = throughput::measure(from.netns(), to.netns(), to.plan().v4.into(), each)?;
    let after = Usage::now();
    lab.stop()?;
    // The children's time is ours once they have been waited for. Nothing but the stream kept them busy.
    let (used, waited) = (after.since(before), Usage::now());
    let switches = waited.children.zip(before.children).map(|(end, start)| end.saturating_sub(start));
    let cores = |cpu: Duration| cpu.as_secs_f64() / flow.took.as_secs_f64();
    let others = || Some(used.busy?.saturating_sub(used.own?).saturating_sub(switches?));
    Ok(StreamFigures {
        gbit_s: gbit_s(flow.bytes, flow.took),
        cpu_s_per_gb: switches.map(|cpu| cpu.as_secs_f64() * 1e9 / flow.bytes as f64),
        cores_switches: switches.map(cores),
        cores_ends: used.own.map(cores),
        cores_idle: used.idle.map(cores),
        cores_others: others().map(cores),
    })
}
