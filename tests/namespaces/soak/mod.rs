//! Everything at once for ten minutes: mixed traffic, switches and links that go and come, and at no time more memory,
//! descriptors or losses than there should be.
//!
//! Run it with `cargo test --release --test namespaces -- --ignored soak`; `VSWITCHD_SOAK_SECONDS` says how long.

mod course;
mod gauge;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use vswitchd::lab::underlay::UPLINK;
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::switch::io::tap::Offloads;
use vswitchd::switch::wire::MacAddr;

use self::course::{Course, Job, Loss};
use self::gauge::{Gauge, overflowed, own_descriptors};
use self::traffic::Host;
use crate::Test;
use crate::fixture::{PATIENCE, reaches, seeded, shape, start, tcp, udp};
use crate::kernel_vxlan::{device, give_addresses, plan};
use crate::station::station;

/// Not among the others: see the head of this file.
pub(crate) fn tests() -> Vec<Test> {
    vec![("soak", soak)]
}

const SECONDS: u64 = 600;
/// Less does not have two halves to compare.
const SECONDS_MIN: u64 = 20;
/// Between two looks at the switches, each after something was taken down and brought up again.
const INTERVAL: Duration = Duration::from_secs(2);
/// Addresses are soon forgotten, so that as many come as go.
const ARGUMENTS: [&str; 4] = ["--table-size", "4096", "--ageing", "5"];

/// Nodes 0 and 1 run all the time, the switch of node 2 comes and goes, node 3 is the kernel's vxlan device.
const UNSTEADY: usize = 2;
const FOREIGN: usize = 3;
const FOREIGN_LINK: &str = "vx0";

fn soak() -> Result<()> {
    let seconds = match std::env::var("VSWITCHD_SOAK_SECONDS") {
        Ok(seconds) => seconds.parse().context("VSWITCHD_SOAK_SECONDS")?,
        Err(_) => SECONDS,
    };
    ensure!(seconds >= SECONDS_MIN, "VSWITCHD_SOAK_SECONDS must be at least {SECONDS_MIN}");
    let descriptors = own_descriptors()?;
    run(Duration::from_secs(seconds))?;
    let deadline = Instant::now() + PATIENCE;
    // The threads that listen to a program end with its output, a moment after the program.
    while own_descriptors()? != descriptors {
        ensure!(Instant::now() < deadline, "{} descriptors, {descriptors} before", own_descriptors()?);
        std::thread::yield_now();
    }
    Ok(())
}

fn run(duration: Duration) -> Result<()> {
    let mut rng = seeded();
    let (mut lab, foreign) = build()?;
    let endpoints: Vec<Endpoint> = lab.endpoints().cloned().collect();
    let mut gauges = [Gauge::new(&lab, 0)?, Gauge::new(&lab, 1)?];
    let jobs = jobs(&endpoints, &foreign, &mut rng)?;
    let course = Course::new(duration);
    let mut disturbances = 0;
    let tallies = course.run(jobs, || {
        while course.pause(INTERVAL) {
            disturb(&mut lab, &mut rng)?;
            disturbances += 1;
            let late = course.start.elapsed() * 2 > duration;
            gauges.iter_mut().try_for_each(|gauge| gauge.look(&lab, late))?;
            Gauge::new(&lab, UNSTEADY)?.look(&lab, late)?;
        }
        Ok(())
    })?;
    let overflowed = overflowed(&lab)?;
    eprintln!("{disturbances} disturbances; kernels' queues have lost {overflowed} packets");
    ensure!(disturbances > 0, "nothing was disturbed");
    for (name, loss, tally) in tallies {
        eprintln!("{name}: {} times, lost {}", tally.done, tally.lost);
        tally.check(loss, overflowed).context(name)?;
    }
    gauges.iter_mut().try_for_each(|gauge| gauge.finish(&lab))
}

fn build() -> Result<(Lab, Host)> {
    let (plan, foreign) = plan(shape(4, 2, 2, false))?;
    let mut lab = Lab::build(plan)?;
    start(&mut lab, 0..FOREIGN, &ARGUMENTS)?;
    let netns = lab.nodes()[FOREIGN].netns().clone();
    let mut netlink = Netlink::open(&netns)?;
    netlink.add_vxlan(FOREIGN_LINK, &device(&lab, FOREIGN, None))?;
    for node in &lab.nodes()[..FOREIGN] {
        netlink.append_fdb(FOREIGN_LINK, MacAddr([0; 6]), node.plan().address)?;
    }
    give_addresses(&mut netlink, FOREIGN_LINK, &foreign)?;
    Ok((lab, Host { netns, link: FOREIGN_LINK, v4: foreign.v4, v6: foreign.v6 }))
}

/// The endpoints are `a` and `b` of each node, in network 1 and 2.
fn jobs<'a>(endpoints: &'a [Endpoint], foreign: &Host, rng: &mut Rng) -> Result<Vec<Job<'a>>> {
    let host = |endpoint: &Endpoint| {
        let (v4, v6) = (IpAddr::from(endpoint.plan().v4), endpoint.plan().v6.into());
        Host { netns: endpoint.netns().clone(), link: ENDPOINT_LINK, v4, v6 }
    };
    let [a, b] = [&endpoints[0], &endpoints[2]];
    let hosts = [host(a), host(b), foreign.clone()];
    let [here, there, kernel] = &hosts;
    let stations = [station(&endpoints[1], Offloads::ALL)?, station(&endpoints[3], Offloads::NONE)?];
    let [near, far] = stations;
    Ok(vec![
        traffic::streams("TCP there", here, there, rng.fork()),
        traffic::streams("TCP back", there, here, rng.fork()),
        traffic::streams("TCP to the kernel", here, kernel, rng.fork()),
        traffic::streams("TCP from the kernel", kernel, there, rng.fork()),
        traffic::small_datagrams("small datagrams", [here, there], Loss::Counted, rng.fork()),
        // The one forgets its neighbours, and loses what it has for one that has not answered yet.
        traffic::small_datagrams("small datagrams with the kernel", [kernel, here], Loss::Any, rng.fork()),
        traffic::large_datagrams("large datagrams", [a, b], rng.fork()),
        traffic::pings(&hosts, rng.fork()),
        traffic::forgetting(kernel),
        traffic::strangers(near, far, rng.fork()),
    ])
}

/// Takes something of the unsteady node down and brings it up again; then it is to work as before.
fn disturb(lab: &mut Lab, rng: &mut Rng) -> Result<()> {
    let node = &mut lab.nodes_mut()[UNSTEADY];
    let what = ["its endpoint's link", "its uplink", "its switch"][rng.usize(..3)];
    match what {
        "its switch" => {
            let stopped = node.program_mut().context("it runs a program")?.stop()?;
            ensure!(stopped.success(), "its switch ended with {stopped}");
            start(lab, UNSTEADY..UNSTEADY + 1, &ARGUMENTS)?;
        }
        _ => {
            let (netns, link) = match what {
                "its uplink" => (node.netns(), UPLINK),
                _ => (node.endpoints()[0].netns(), ENDPOINT_LINK),
            };
            let mut netlink = Netlink::open(netns)?;
            netlink.set_down(link)?;
            netlink.set_up(link)?;
        }
    }
    works(lab).with_context(|| format!("after {what} was down"))
}

fn works(lab: &Lab) -> Result<()> {
    let [from, to] = [0, UNSTEADY].map(|node| &lab.nodes()[node].endpoints()[0]);
    let receiver = udp(to.netns(), to.plan().v4.into(), 0)?;
    let target = SocketAddr::new(to.plan().v4.into(), receiver.local_addr()?.port());
    let sender = udp(from.netns(), from.plan().v4.into(), 0)?;
    let deadline = Instant::now() + PATIENCE;
    while !reaches(&sender, target, &receiver)? {
        ensure!(Instant::now() < deadline, "nothing arrives");
    }
    tcp(from.netns(), to.netns(), to.plan().v4.into(), 1 << 20)?;
    tcp(to.netns(), from.netns(), from.plan().v4.into(), 1 << 20)?;
    Ok(())
}
