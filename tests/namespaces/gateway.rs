//! Gateways and names, for the kernel's own stack and real clients.

use std::fs::Permissions;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use crate::Test;
use crate::fixture::{PATIENCE, event, program, shape, start, tool, udp};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("gateway::each_node_answers_its_own_endpoints", each_node_answers),
        ("gateway::real_clients_ask_it", real_clients),
        ("gateway::a_client_without_address_gets_one_by_dhcp", dhcp),
        ("gateway::a_host_hears_of_its_router_and_mtu", router),
    ]
}

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 254);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0xffff, 1);

/// Two nodes with an endpoint each, and a gateway whose names say on which node it is asked.
fn lab() -> Result<Lab> {
    let mut lab = Lab::build(Plan::new(shape(2, 1, 1, false))?)?;
    let vni = lab.plan().networks[0].vni;
    let gateway = format!("--gateway={vni}:{GATEWAY_V4},{GATEWAY_V6}");
    for node in [0, 1] {
        let here = format!("--host={vni}:here=10.1.0.{}", node + 1);
        let many: Vec<_> = (0..200).map(|n| format!("10.1.7.{n}")).collect();
        let many = format!("--host={vni}:many={}", many.join(","));
        start(&mut lab, node..node + 1, &[&gateway, &here, &many])?;
    }
    Ok(lab)
}

fn endpoint(lab: &Lab, node: usize) -> &Endpoint {
    &lab.nodes()[node].endpoints()[0]
}

/// What udhcpc is to tell of what it is told.
const TOLD: [&str; 9] =
    ["ip", "mask", "router", "dns", "mtu", "hostname", "domain", "search", "staticroutes"];

/// A script for it, which says that, a `name=value` a line.
fn lease_script() -> String {
    let lines = TOLD.map(|name| format!("echo \"{name}=${name}\"\n"));
    format!("#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n{}", lines.concat())
}

/// What busybox's udhcpc is told for an endpoint, a `name=value` a line.
pub(crate) fn lease(netns: &NetNs) -> Result<Option<String>> {
    let script = std::env::temp_dir().join(format!(
        "vswitchd-dhcp-{}-{:?}",
        std::process::id(),
        thread::current().id()
    ));
    std::fs::write(&script, lease_script())?;
    std::fs::set_permissions(&script, Permissions::from_mode(0o700))?;
    let path = script.to_str().context("scratch paths are UTF-8")?;
    let wanted = "-O mtu -O search -O staticroutes";
    let line = format!("busybox udhcpc -f -n -q -i {ENDPOINT_LINK} -s {path} -t 10 -T 1 {wanted}");
    let output = tool(netns, &line);
    std::fs::remove_file(&script)?;
    let Some(output) = output? else { return Ok(None) };
    ensure!(output.status.success(), "{line}: {output:?}");
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// Checks that a lease says each of these, as a line.
pub(crate) fn says(lease: &str, lines: &[String]) -> Result<()> {
    match lines.iter().find(|&wanted| !lease.lines().any(|line| line == wanted)) {
        Some(missing) => bail!("no {missing} in {lease}"),
        None => Ok(()),
    }
}

/// The switch's gateway gives the addresses that it was told, to those that it was told.
fn dhcp() -> Result<()> {
    let mut lab = Lab::build(Plan::new(shape(1, 2, 1, false))?)?;
    let vni = lab.plan().networks[0].vni;
    let [known, unknown] = [0, 1].map(|index| lab.plan().nodes[0].endpoints[index].clone());
    let gateway = format!("--gateway={vni}:{GATEWAY_V4}/16,10.9.0.1/24,{GATEWAY_V6}/64");
    let host = format!("--host={vni}:guest=10.1.7.7,{}", known.mac);
    start(&mut lab, 0..1, &["--mtu=1400", &gateway, &host])?;
    let [known, unknown] = [known, unknown].map(|plan| {
        let mut endpoints = lab.nodes()[0].endpoints().iter();
        endpoints.find(|endpoint| endpoint.plan().name == plan.name).context("it is there")
    });
    let Some(lease) = lease(known?.netns())? else { return Ok(()) };
    let routes = format!("staticroutes=10.9.0.0/24 0.0.0.0 0.0.0.0/0 {GATEWAY_V4}");
    let told = ["ip=10.1.7.7", "mask=16", "mtu=1400", "hostname=guest"].map(String::from);
    let told = [&told[..], &[format!("router={GATEWAY_V4}"), format!("dns={GATEWAY_V4}")]].concat();
    says(&lease, &[&told[..], &[format!("domain={vni}"), format!("search={vni}"), routes]].concat())?;
    let line = format!("busybox udhcpc -f -n -q -i {ENDPOINT_LINK} -s /bin/true -t 2 -T 1");
    let refused = tool(unknown?.netns(), &line)?.context("busybox was there")?;
    ensure!(!refused.status.success(), "somebody unknown got an address: {refused:?}");
    Ok(())
}

/// The kernel takes the gateway as its router, with the MTU that it says.
#[expect(clippy::disallowed_methods, reason = "between two looks at the condition")]
fn router() -> Result<()> {
    let mut lab = Lab::build(Plan::new(shape(1, 1, 1, false))?)?;
    let gateway = format!("--gateway={}:{GATEWAY_V6}/64", lab.plan().networks[0].vni);
    start(&mut lab, 0..1, &["--mtu=1400", &gateway])?;
    let host = endpoint(&lab, 0).netns();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(output) = tool(host, "ip -6 route show default")? else { return Ok(()) };
        let said = String::from_utf8(output.stdout)?;
        // The address that is made of the gateway's MAC address, 02:42:00:00:ff:ff and so on.
        if said.contains("via fe80::42:ffff:fe") && said.contains("pref low") {
            break;
        }
        ensure!(Instant::now() < deadline, "no router is known: {said}");
        thread::sleep(Duration::from_millis(50));
    }
    let mtu =
        host.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{ENDPOINT_LINK}/mtu")))??;
    ensure!(mtu.trim() == "1400", "the router says 1400, and the host has {mtu}");
    let addresses = tool(host, "ip -6 address show scope global")?.context("ip was there")?;
    let made = String::from_utf8(addresses.stdout)?;
    ensure!(made.matches("inet6").count() == 1, "an address was made of the prefix: {made}");
    Ok(())
}

/// A query for the IPv4 addresses of a name of one label, by hand (RFC 1035 §4).
pub(crate) fn query(name: &str) -> Vec<u8> {
    let len = u8::try_from(name.len()).expect("a label is short");
    let header = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], &[len], name.as_bytes(), &[0, 0, 1, 0, 1]].concat()
}

fn ask(lab: &Lab, node: usize, server: IpAddr, name: &str) -> Result<Vec<u8>> {
    let asker = endpoint(lab, node);
    let own = if server.is_ipv4() { asker.plan().v4.into() } else { asker.plan().v6.into() };
    let socket = udp(asker.netns(), own, 0)?;
    socket.send_to(&query(name), SocketAddr::new(server, 53))?;
    let mut reply = vec![0; 1_500];
    let (len, from) = socket.recv_from(&mut reply).with_context(|| format!("node {node}, {server}"))?;
    ensure!(from == SocketAddr::new(server, 53), "an answer from {from}");
    reply.truncate(len);
    Ok(reply)
}

fn each_node_answers() -> Result<()> {
    let mut lab = lab()?;
    for node in [0, 1] {
        for server in [IpAddr::V4(GATEWAY_V4), IpAddr::V6(GATEWAY_V6)] {
            let reply = ask(&lab, node, server, "here")?;
            let address = [10, 1, 0, u8::try_from(node + 1)?];
            ensure!(reply.ends_with(&address), "node {node} by {server}: {reply:?}");
        }
    }
    let cut = ask(&lab, 0, GATEWAY_V4.into(), "many")?;
    ensure!(cut.len() <= 512 && cut[2] & 2 != 0, "not marked as cut: {} bytes, {:#x}", cut.len(), cut[2]);
    // The answers come from this node: the other one is not needed for them.
    lab.nodes_mut()[1].program_mut().context("it runs")?.stop()?;
    ask(&lab, 0, GATEWAY_V4.into(), "here")?;
    // A gateway alone does not keep a switch at work: without its TAP it ends, and says its counters last.
    Netlink::open(endpoint(&lab, 0).netns())?.delete(ENDPOINT_LINK)?;
    event(program(&lab, 0)?, "port-closed")?;
    event(program(&lab, 0)?, "counters")?;
    Ok(())
}

fn real_clients() -> Result<()> {
    let lab = lab()?;
    let asker = endpoint(&lab, 1).netns();
    for line in [
        format!("ping -c 2 -i 0.2 -W 5 -s 1372 -M do {GATEWAY_V4}"),
        format!("ping -c 2 -i 0.2 -W 5 -s 1352 -M do {GATEWAY_V6}"),
    ] {
        let Some(output) = tool(asker, &line)? else { continue };
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("2 received, 0% packet loss"), "{line}: {said}");
    }
    for (line, expected) in [
        (format!("dig +short @{GATEWAY_V4} here.{}", lab.plan().networks[0].vni), "10.1.0.2\n"),
        (format!("dig +short @{GATEWAY_V6} HERE"), "10.1.0.2\n"),
        (format!("dig +short @{GATEWAY_V4} -x 10.1.0.2"), "here."),
        (format!("dig @{GATEWAY_V4} here AAAA"), "status: NOERROR"),
        (format!("dig @{GATEWAY_V4} +ignore many"), "EDNS: version: 0, flags:; udp: 1232"),
        (format!("dig @{GATEWAY_V4} many"), "ANSWER: 200, "),
        (format!("dig +tcp +short @{GATEWAY_V6} here"), "10.1.0.2\n"),
    ] {
        let Some(output) = tool(asker, &line)? else { continue };
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains(expected), "{line}: {said}");
    }
    Ok(())
}
