//! TAP devices that come, are there already, and go; and what `vswitchd switch` says of it.

use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Signal, kill_process};
use vswitchd::lab::program::{Program, ProgramError};
use vswitchd::lab::{ENDPOINT_LINK, Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::tap::{Tap, TapConfig};

use crate::Test;
use crate::fixture::{
    PATIENCE, VSWITCHD, counters, event, lab, offload_arguments, program, shape, tool, udp_both_ways,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("ports::a_tap_that_vanishes_closes_that_port_only", tap_vanishes),
        ("ports::a_namespace_that_dies_closes_its_port_only", namespace_dies),
        ("ports::a_switch_without_ports_ends_and_says_so", last_port_gone),
        ("ports::what_was_made_is_removed_at_the_end", removed_at_the_end),
        ("ports::refusals_are_one_line_that_says_what_to_do", refusals),
        ("ports::counters_add_up", counters_add_up),
        ("ports::a_tap_that_was_there_is_taken_over_and_left", taken_over),
        ("ports::without_rights_it_says_how_to_get_them", without_rights),
        #[cfg(feature = "compat-tun-tap")]
        ("ports::a_tun_tap_device_is_a_port_too", tun_tap),
    ]
}

/// The other network of the same switches still works.
fn second_network_works(lab: &Lab) -> Result<()> {
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[1]);
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 100)
}

fn tap_vanishes() -> Result<()> {
    let lab = lab(shape(2, 2, 2, false), &[])?;
    second_network_works(&lab)?;
    Netlink::open(lab.nodes()[0].endpoints()[0].netns())?.delete(ENDPOINT_LINK)?;
    let closed = event(program(&lab, 0)?, "port-closed")?;
    ensure!(closed["vni"] == 42, "{closed}");
    ensure!(counters(program(&lab, 0)?)?["ports"].as_array().is_some_and(|ports| ports.len() == 1));
    second_network_works(&lab)
}

fn namespace_dies() -> Result<()> {
    let lab = Lab::build(Plan::new(shape(1, 0, 1, false))?)?;
    // Held by this process only, so that killing it ends the namespace.
    let mut holder = lab.spawn({
        let mut command = NetNs::create()?.command("sleep");
        command.arg("1000");
        command
    })?;
    let mut command = lab.nodes()[0].netns().command(VSWITCHD);
    command.args(["switch", "--format", "json", "--local", "198.18.0.1"]);
    command.args(["--vni", &format!("1:gone@{}", holder.id()), "--vni", "2:stays"]).args(offload_arguments());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::new("node1", lab.spawn(command)?)?;
    program.wait_ready(PATIENCE)?;
    holder.kill()?;
    holder.wait()?;
    let closed = event(&program, "port-closed")?;
    ensure!(closed["vni"] == 1, "{closed}");
    let left = counters(&program)?;
    ensure!(left["ports"].as_array().is_some_and(|ports| ports.len() == 1), "{left}");
    ensure!(program.stop()?.success());
    Ok(())
}

fn last_port_gone() -> Result<()> {
    let lab = Lab::build(Plan::new(shape(1, 0, 1, false))?)?;
    let host = lab.nodes()[0].netns();
    let mut command = host.command(VSWITCHD);
    command.args(["switch", "--format", "json", "--local", "198.18.0.1", "--vni", "1:first,last"]);
    command.args(offload_arguments()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Program::new("node1", lab.spawn(command)?)?;
    program.wait_ready(PATIENCE)?;
    Netlink::open(host)?.delete("first")?;
    event(&program, "port-closed")?;
    ensure!(counters(&program)?["ports"].as_array().is_some_and(|ports| ports.len() == 1));
    Netlink::open(host)?.delete("last")?;
    event(&program, "port-closed")?;
    let deadline = Instant::now() + PATIENCE;
    let Err(ProgramError::Ended { status, .. }) = program.wait_ready(PATIENCE) else {
        bail!("it goes on without ports");
    };
    ensure!(status.code() == Some(1), "{status}");
    while !program.last_words().iter().any(|line| line.contains("last port")) {
        ensure!(Instant::now() < deadline, "{:?}", program.last_words());
        std::thread::yield_now();
    }
    Ok(())
}

fn removed_at_the_end() -> Result<()> {
    let mut lab = lab(shape(2, 1, 1, false), &[])?;
    let endpoint = lab.nodes()[0].endpoints()[0].netns().clone();
    ensure!(Netlink::open(&endpoint)?.link(ENDPOINT_LINK).is_ok());
    lab.stop()?;
    ensure!(Netlink::open(&endpoint)?.link(ENDPOINT_LINK).is_err(), "the TAP outlived its switch");
    Ok(())
}

/// Runs `vswitchd switch` in a bare host; it is expected to end by itself.
fn refused(netns: &NetNs, arguments: &str) -> Result<Output> {
    let mut command: Command = netns.command(VSWITCHD);
    command.arg("switch").args(arguments.split(' '));
    command.output().context("starting vswitchd")
}

fn refusals() -> Result<()> {
    let lab = Lab::build(Plan::new(shape(1, 0, 1, false))?)?;
    let host = lab.nodes()[0].netns();
    // Taken: a TAP that somebody holds open, a link that is no TAP, a UDP port.
    let _tap = host.run(|| Tap::open(&TapConfig::new("taken")))??;
    Netlink::open(host)?.add_bridge("bridge", 1_500)?;
    let _socket = host.run(|| std::net::UdpSocket::bind("198.18.0.1:4790"))??;
    for (arguments, code, words) in [
        ("--vni 1 --tap taken --local 198.18.0.1", 1, "taken"),
        ("--vni 1 --tap bridge --local 198.18.0.1", 1, "bridge"),
        ("--vni 1 --tap a-name-of-sixteen --local 198.18.0.1", 1, "15"),
        ("--vni 1 --tap t0 --local 198.18.0.1 --port 4790", 1, "--port"),
        ("--vni 1 --tap t0 --local 203.0.113.1", 1, "203.0.113.1"),
        ("--vni 1 --tap t0 --local 198.18.0.1 --peer 198.18.0.2 --mtu 1451", 1, "--mtu 1450"),
        ("--vni 1 --tap t0 --local 198.18.0.1 --peer 198.18.0.1", 2, "own address"),
        ("--vni 1 --tap t0 --local 198.18.0.1 --peer 2001:db8::1", 2, "IPv6"),
        ("--vni 1:t0,t0@/proc/self/ns/net --local 198.18.0.1", 1, "given twice"),
        ("--vni 1 --tap t0@nowhere --local 198.18.0.1", 1, "nowhere"),
        ("--vni 1 --tap t0@999999999 --local 198.18.0.1", 1, "999999999"),
        ("--vni 1 --local 198.18.0.1", 2, "--tap"),
        ("--vni 16777216:t0 --local 198.18.0.1", 2, "16777215"),
        ("--vni 1:t0 --local 198.18.0.1 --mac 01:00:00:00:00:00", 2, "multicast"),
    ] {
        let output = refused(host, arguments)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "{arguments}: {:?} {text}", output.status);
        ensure!(text.contains(words), "{arguments}: no {words:?} in {text}");
        ensure!(code == 2 || text.lines().count() == 1, "{arguments}: more than a line: {text}");
    }
    ensure!(Netlink::open(host)?.link("t0").is_err(), "a refused switch left its TAP behind");
    Ok(())
}

fn counters_add_up() -> Result<()> {
    let mut lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 1_000)?;
    let node = program(&lab, 0)?;
    let sum = |row: &serde_json::Value| Some(row["rx_frames"].as_u64()? + row["tx_frames"].as_u64()?);
    let deadline = Instant::now() + PATIENCE;
    // Asked in the middle of a batch, a switch has counted its frames as come and not yet as gone.
    let counted = loop {
        let counted = counters(node)?;
        if sum(&counted["ports"][0]) == sum(&counted["peers"][0]) {
            break counted;
        }
        ensure!(Instant::now() < deadline, "{counted}");
    };
    let (port, network) = (&counted["ports"][0], &counted["vnis"][0]);
    // 144 datagrams each way at least; what came from the port went to the peer, and the other way round.
    ensure!(port["rx_frames"].as_u64() > Some(143) && port["tx_frames"].as_u64() > Some(143), "{counted}");
    ensure!(network["rx_frames"].as_u64() == sum(port), "{counted}");
    kill_process(node.pid(), Signal::INT)?;
    let last = event(node, "counters")?;
    ensure!(last["ports"][0]["rx_frames"].as_u64() >= port["rx_frames"].as_u64(), "{last}");
    lab.stop()?;
    Ok(())
}

fn taken_over() -> Result<()> {
    let lab = Lab::build(Plan::new(shape(2, 0, 1, false))?)?;
    for (kind, node, queues) in
        [("", 0, 1), (" multi_queue", 1, 3), (" multi_queue vnet_hdr", 0, 3), ("", 0, 1)]
    {
        let host = lab.nodes()[node].netns();
        let Some(made) = tool(host, &format!("ip tuntap add dev mine mode tap{kind}"))? else {
            return Ok(());
        };
        ensure!(made.status.success(), "{made:?}");
        let before = Netlink::open(host)?.link("mine")?;
        let mut command = host.command(VSWITCHD);
        let local = lab.nodes()[node].plan().address.to_string();
        command.args(["switch", "--format", "json", "--vni", "1:mine", "--mtu", "1400", "--local", &local]);
        command.args(["--workers", "3"]);
        command.args(offload_arguments());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut program = Program::new("node", lab.spawn(command)?)?;
        let said = program.wait_ready(PATIENCE)?;
        let port = said.iter().find(|event| event["event"] == "port");
        ensure!(port.is_some_and(|port| port["created"] == false && port["queues"] == queues), "{said:?}");
        // One with many queues has some left; nobody else may have them.
        let second = refused(host, &format!("--vni 1:mine --local {local} --port 4790 --workers 2"))?;
        let text = String::from_utf8_lossy(&second.stderr);
        ensure!(second.status.code() == Some(1) && text.contains("another program"), "{kind}: {text}");
        let during = Netlink::open(host)?.link("mine")?;
        ensure!((during.index, during.mac, during.up, during.mtu) == (before.index, before.mac, true, 1_400));
        ensure!(program.stop()?.success());
        ensure!(Netlink::open(host)?.link("mine").is_ok(), "what was taken over must stay");
        Netlink::open(host)?.delete("mine")?;
    }
    Ok(())
}

fn without_rights() -> Result<()> {
    let lab = Lab::build(Plan::new(shape(1, 0, 1, false))?)?;
    let host = lab.nodes()[0].netns();
    let dropped = "setpriv --inh-caps=-all --bounding-set=-all";
    let line = format!("{dropped} {VSWITCHD} switch --vni 1:t0 --local 198.18.0.1");
    let Some(refused) = tool(host, &line)? else { return Ok(()) };
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    for way in ["root", "setcap", "ip tuntap add", "vswitchd lab"] {
        ensure!(text.contains(way), "no {way:?} in {text}");
    }
    Ok(())
}

/// A switch of the library's with one port of either backend.
#[cfg(feature = "compat-tun-tap")]
fn tun_tap() -> Result<()> {
    use vswitchd::switch::fdb::Limits;
    use vswitchd::switch::io::FrameIo;
    use vswitchd::switch::io::mem::{Faults, Network};
    use vswitchd::switch::io::tun_tap::TunTap;
    use vswitchd::switch::storm::StormLimit;
    use vswitchd::switch::switch::Switch;
    use vswitchd::switch::tables::PortSpec;
    use vswitchd::switch::worker::{WorkerConfig, Workers};

    let lab = Lab::build(Plan::new(shape(1, 2, 1, false))?)?;
    let [a, b] = [0, 1].map(|index| &lab.nodes()[0].endpoints()[index]);
    let devices: [Box<dyn FrameIo>; 2] = [
        Box::new(a.netns().run(|| TunTap::open(ENDPOINT_LINK))??),
        Box::new(b.netns().run(|| Tap::open(&TapConfig::new(ENDPOINT_LINK)))??),
    ];
    let local = "192.0.2.1:4789".parse()?;
    let switch = Switch::new(local, Limits::default());
    let underlay = Network::new(Faults::default(), 1).attach(local)?;
    let worker =
        Workers::spawn(switch.clone(), vec![Box::new(underlay)], vec![], WorkerConfig::default(), |event| {
            eprintln!("{event:?}");
        })?;
    for device in devices {
        let spec = PortSpec {
            name: ENDPOINT_LINK.into(),
            vni: lab.plan().networks[0].vni,
            mtu: 1_500,
            capabilities: device.capabilities(),
            storm: StormLimit::default(),
        };
        worker.attach(switch.add_port(spec)?, device)?;
    }
    a.configure()?;
    b.configure()?;
    crate::fixture::tcp(a.netns(), b.netns(), b.plan().v4.into(), 64 << 20).context("from tun-tap")?;
    crate::fixture::tcp(b.netns(), a.netns(), a.plan().v6.into(), 64 << 20).context("to tun-tap")?;
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 1_472)?;
    worker.stop()?;
    Ok(())
}
