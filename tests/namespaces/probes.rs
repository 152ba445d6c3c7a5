//! Probes over real sockets: what they find out of a path, and that a kernel's vxlan device takes no harm.

use std::fs;
use std::net::IpAddr;
use std::process::Output;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vswitchd::lab::program::Program;
use vswitchd::lab::underlay::Underlay;
use vswitchd::lab::{Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use crate::Test;
use crate::fixture::{PATIENCE, counters, lab, lab_of, program, shape, start, tcp, tool, udp_both_ways};
use crate::kernel_vxlan::{device, give_addresses, plan};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("probes::rtt_and_mtu_of_an_ethernet_underlay", || measured(1_500, false)),
        ("probes::rtt_and_mtu_of_a_jumbo_underlay", || measured(9_000, false)),
        ("probes::rtt_and_mtu_of_an_ipv6_underlay", || measured(1_500, true)),
        ("probes::a_narrower_link_in_the_middle_is_found_and_senders_are_told", narrow),
        ("probes::a_firewall_is_told_and_its_end", firewall),
        ("probes::a_pulled_cable_is_told_and_its_end", cable),
        ("probes::a_kernel_vxlan_device_does_not_answer_and_takes_no_harm", kernel),
    ]
}

const BULK: usize = 16 << 20;

/// Waits for a node's switch to say that of a path, passing over what else it says.
fn wait(program: &Program, event: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE * 2;
    let mut others = Vec::new();
    while let Some(said) = program.next_event(deadline) {
        if said["event"] == event && is(&said) {
            return Ok(said);
        }
        others.push(said);
    }
    bail!("no such {event}; instead {others:?}, {:?}", program.last_words())
}

fn wait_state(lab: &Lab, node: usize, state: &str) -> Result<Value> {
    wait(program(lab, node)?, "path", |said| said["state"] == state)
        .with_context(|| format!("node {node}, {state}"))
}

/// What a node's switch knows of the path to its only peer.
fn path(lab: &Lab, node: usize) -> Result<Value> {
    Ok(counters(program(lab, node)?)?["peers"][0]["path"].clone())
}

fn measured(mtu: u32, ipv6: bool) -> Result<()> {
    let plan = Plan { underlay_mtu: mtu, ..Plan::new(shape(2, 1, 1, ipv6))? };
    let mut lab = lab_of(plan, &["--probe"])?;
    for node in [0, 1] {
        let up = wait_state(&lab, node, "up")?;
        ensure!(up["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 3_000.0), "{up}");
        let found = wait(program(&lab, node)?, "path-mtu", |_| true)?;
        ensure!(found["path_mtu"] == mtu, "{found}");
        let path = path(&lab, node)?;
        ensure!(path["state"] == "up" && path["path_mtu"] == mtu && path["rtt_ms"].is_f64(), "{path}");
    }
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK)?;
    let counted = counters(program(&lab, 0)?)?;
    ensure!(counted["drops"].as_object().is_some_and(serde_json::Map::is_empty), "{counted}");
    lab.stop()?;
    Ok(())
}

/// Both hosts' own links take 9000 bytes, and the endpoints' interfaces 8950; the bridge between the hosts drops what is
/// longer than 1400, silently.
fn narrow() -> Result<()> {
    let plan = Plan { underlay_mtu: 9_000, ..Plan::new(shape(2, 1, 1, false))? };
    let mut lab = Lab::build(plan)?;
    // A bridge's port sends nothing larger than its own MTU.
    let Underlay::Veth(bridge) = lab.underlay() else { bail!("a bridge was planned") };
    let mut bridge = Netlink::open(bridge)?;
    ["node1", "node2"].iter().try_for_each(|port| bridge.set_mtu(port, 1_400))?;
    start(&mut lab, 0..2, &["--probe"])?;
    for node in [0, 1] {
        let found = wait(program(&lab, node)?, "path-mtu", |_| true)?;
        ensure!(found["path_mtu"] == 1_400, "{found}");
    }
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    // The first packet teaches the sender, the next one goes.
    for (to, fits) in [(IpAddr::from(b.plan().v4), 1_400 - 50 - 28), (b.plan().v6.into(), 1_400 - 50 - 48)] {
        let ping = |size: usize| {
            let line = format!("ping -n -c 2 -i 0.2 -W 2 -M do -s {size} {to}");
            let said = |output: Output| String::from_utf8_lossy(&output.stdout).into_owned();
            anyhow::Ok(tool(a.netns(), &line)?.map(said))
        };
        let Some(large) = ping(fits + 1)? else { return Ok(()) };
        ensure!(
            large.contains("mtu") && large.contains("1350") && large.contains("100% packet loss"),
            "{large}"
        );
        let small = ping(fits)?.context("it was there")?;
        ensure!(small.contains(" 0% packet loss"), "{small}");
        tcp(a.netns(), b.netns(), to, BULK)?;
    }
    lab.stop()?;
    Ok(())
}

fn firewall() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &["--probe"])?;
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "up").map(drop))?;
    let host = lab.nodes()[1].netns();
    for line in [
        "nft add table inet probes",
        "nft add chain inet probes input { type filter hook input priority 0 ; }",
        "nft add rule inet probes input udp dport 4789 drop",
    ] {
        let Some(output) = tool(host, line)? else { return Ok(()) };
        if !output.status.success() {
            ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{line}: {output:?}");
            eprintln!("\nTHIS TEST CAN'T RUN HERE: {line}: {}\n", String::from_utf8_lossy(&output.stderr));
            return Ok(());
        }
    }
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "down").map(drop))?;
    let path = path(&lab, 0)?;
    ensure!(path["state"] == "down" && path["lost"].as_u64() > Some(2), "{path}");
    let removed = tool(host, "nft delete table inet probes")?.context("it was there")?;
    ensure!(removed.status.success(), "{removed:?}");
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "up").map(drop))
}

fn cable() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &["--probe"])?;
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "up").map(drop))?;
    let Underlay::Veth(bridge) = lab.underlay() else { bail!("a bridge was planned") };
    let mut netlink = Netlink::open(bridge)?;
    netlink.set_down("node2")?;
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "down").map(drop))?;
    netlink.set_up("node2")?;
    [0, 1].iter().try_for_each(|&node| wait_state(&lab, node, "up").map(drop))?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK).map(drop)
}

/// A link's errors and drops of what it received, as the kernel counts them.
fn harm(netns: &NetNs, link: &str) -> Result<(u64, u64)> {
    let table = netns.run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(link)?.strip_prefix(':'));
    let columns: Vec<u64> =
        row.context("no such link")?.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok((columns[2], columns[3]))
}

fn kernel() -> Result<()> {
    let (plan, foreign) = plan(shape(2, 1, 1, false))?;
    let mut lab = Lab::build(plan)?;
    let there = lab.nodes()[1].netns().clone();
    let mut netlink = Netlink::open(&there)?;
    netlink.add_vxlan("vx0", &device(&lab, 1, Some(lab.nodes()[0].plan().address)))?;
    give_addresses(&mut netlink, "vx0", &foreign)?;
    start(&mut lab, 0..1, &["--probe"])?;
    wait_state(&lab, 0, "silent")?;
    let ours = &lab.nodes()[0].endpoints()[0];
    let (here, local): (_, IpAddr) = (ours.netns(), ours.plan().v4.into());
    tcp(here, &there, foreign.v4, BULK).context("to the kernel")?;
    tcp(&there, here, local, BULK).context("from the kernel")?;
    udp_both_ways(here, &there, local, foreign.v4, 1_300)?;
    // Some more of them beside its traffic.
    let asked = path(&lab, 0)?["asked"].as_u64();
    let deadline = Instant::now() + PATIENCE;
    while path(&lab, 0)?["asked"].as_u64() < asked.map(|asked| asked + 2) {
        ensure!(Instant::now() < deadline, "a silent peer is still asked");
        udp_both_ways(here, &there, local, foreign.v4, 100)?;
    }
    let counted = counters(program(&lab, 0)?)?;
    ensure!(counted["peers"][0]["path"]["state"] == "silent", "{counted}");
    ensure!(counted["drops"].as_object().is_some_and(serde_json::Map::is_empty), "{counted}");
    ensure!(harm(&there, "vx0")? == (0, 0), "errors and drops: {:?}", harm(&there, "vx0")?);
    Ok(())
}
