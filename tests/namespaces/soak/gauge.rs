//! What a switch takes of the system, and what it drops.

use std::fs;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::underlay::Underlay;
use vswitchd::lab::{Endpoint, Lab, Node};
use vswitchd::namespace::netlink::Netlink;

use super::UNSTEADY;
use crate::fixture::{counted, counters, program};

/// Resident memory of a switch, some four times what it comes to: a worker's 192 buffers of 64 KiB are 12 MiB, and the
/// program itself is some more.
const RESIDENT_MAX_KIB: u64 = 64 << 10;
/// How much more of it may be in use in the second half than in the first: a burst may touch a buffer for the first
/// time late, and what is lost for ever in ten minutes is more.
const GROWTH_MAX_KIB: u64 = 4 << 10;

/// Drops that this traffic causes. A switch that has come anew floods what others know the place of.
const EXPECTED: [&str; 1] = ["split-horizon"];
/// Of the switch whose links go down and up, too.
const EXPECTED_OF_UNSTEADY: [&str; 2] = ["port-down", "underlay-refused"];

/// One switch's.
pub(super) struct Gauge {
    node: usize,
    descriptors: usize,
    /// The most of the first half, and of the second.
    resident_kib: [u64; 2],
}

impl Gauge {
    pub(super) fn new(lab: &Lab, node: usize) -> Result<Self> {
        let mut gauge = Self { node, descriptors: 0, resident_kib: [0; 2] };
        gauge.descriptors = gauge.count_descriptors(lab)?;
        Ok(gauge)
    }

    fn proc(&self, lab: &Lab, what: &str) -> Result<String> {
        Ok(format!("/proc/{}/{what}", program(lab, self.node)?.pid().as_raw_nonzero()))
    }

    fn count_descriptors(&self, lab: &Lab) -> Result<usize> {
        Ok(fs::read_dir(self.proc(lab, "fd")?)?.count())
    }

    /// Checks memory and drops; `late` in the second half.
    pub(super) fn look(&mut self, lab: &Lab, late: bool) -> Result<()> {
        let status = fs::read_to_string(self.proc(lab, "status")?)?;
        let resident =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        let resident: u64 = resident.context("VmRSS")?.parse()?;
        ensure!(resident <= RESIDENT_MAX_KIB, "node {} has {resident} KiB of memory", self.node);
        let most = &mut self.resident_kib[usize::from(late)];
        *most = resident.max(*most);
        let counted = counters(program(lab, self.node)?)?;
        let drops = counted["drops"].as_object().context("drops")?;
        let expected = |reason: &str| {
            EXPECTED.contains(&reason) || self.node == UNSTEADY && EXPECTED_OF_UNSTEADY.contains(&reason)
        };
        let unexpected = drops.keys().find(|reason| !expected(reason));
        ensure!(unexpected.is_none(), "node {} drops {drops:?}", self.node);
        Ok(())
    }

    /// The last look: nothing has grown.
    pub(super) fn finish(&mut self, lab: &Lab) -> Result<()> {
        self.look(lab, true)?;
        let [early, late] = self.resident_kib;
        eprintln!("node {}: {early} KiB of memory in the first half, {late} in the second", self.node);
        ensure!(late <= early + GROWTH_MAX_KIB, "the memory of node {} grows", self.node);
        let descriptors = self.count_descriptors(lab)?;
        ensure!(
            descriptors == self.descriptors,
            "node {}: {descriptors} descriptors, not {}",
            self.node,
            self.descriptors
        );
        Ok(())
    }
}

/// Packets that the queues of devices and sockets had no room for, and that are not the switches' to count: of the
/// steady switches' TAPs and of the underlay.
pub(super) fn overflowed(lab: &Lab) -> Result<u64> {
    let Underlay::Veth(underlay) = lab.underlay() else { unreachable!("no wire was planned") };
    let nodes = || lab.nodes().iter().map(Node::netns);
    let steady = lab.nodes()[..UNSTEADY].iter().flat_map(Node::endpoints).map(Endpoint::netns);
    let mut packets = 0;
    for netns in nodes().chain(steady).chain([underlay]) {
        let links = Netlink::open(netns)?.links()?;
        packets += links.iter().map(|link| link.statistics.tx_dropped).sum::<u64>();
    }
    for netns in nodes() {
        packets += counted(netns, "snmp", "RcvbufErrors")?;
    }
    Ok(packets)
}

/// Descriptors that this process has open.
pub(super) fn own_descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
