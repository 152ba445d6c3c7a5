//! Gateways and names, for the kernel's own stack and real clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan};
use vswitchd::namespace::netlink::Netlink;

use crate::Test;
use crate::fixture::{event, program, shape, start, tool, udp};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("gateway::each_node_answers_its_own_endpoints", each_node_answers),
        ("gateway::real_clients_ask_it", real_clients),
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

/// A query for the IPv4 addresses of a name of one label, by hand (RFC 1035 §4).
fn query(name: &str) -> Vec<u8> {
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
