//! Linux's own vxlan device as a member of a plain network, and as a stranger to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::lab::underlay::UPLINK;
use vswitchd::namespace::netlink::{Netlink, VxlanDevice};
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::wire::{MacAddr, Vni};

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::refused;
use super::overlay::{DATA_PORT, NETWORKS, PLAIN, VNIS, endpoint, plug};
use super::shown::address;
use crate::fixture::{PATIENCE, SILENCE, tcp, tool, udp, udp_both_ways, udp_sizes};

/// A second plain network, which nobody foreign is in.
const OTHER: usize = 0;
/// Hosts without a daemon, in the order of [`super::daemons`]: one that is in the network,
const MEMBER: usize = 2;
/// and one that is not.
const STRANGER: usize = 3;
/// Their devices,
const LINK: &str = "vx0";
/// what those have for addresses, kept free by the network's record,
const OURS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 200), Ipv4Addr::new(10, 77, 0, 201)];
/// and the network's gateway.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GATEWAY_MAC: MacAddr = MacAddr([2, 0x42, 10, 77, 0, 1]);
/// Bytes of a TCP stream.
const BULK: usize = 8 << 20;
/// Port of what is said to all.
const PORT: u16 = 9_000;

pub(super) fn member() -> Result<()> {
    with_daemons("foreign", 4, |daemons| {
        daemons.form(2, 1)?;
        let foreign = daemons.hosts[MEMBER].address;
        refusals(daemons, foreign)?;
        let inside = make(daemons, foreign)?;
        for (host, address) in [(MEMBER, OURS[0]), (STRANGER, OURS[1])] {
            add_device(daemons, host, address)?;
        }
        let there = &daemons.hosts[MEMBER].netns;
        for (node, own) in inside.iter().enumerate() {
            exchange(daemons, node, *own, there).with_context(|| format!("with node {node}"))?;
        }
        said_to_all(daemons, inside)?;
        kept_out(daemons, inside)?;
        no_gateway(daemons)
    })
}

/// What can't be is refused when the network is made.
fn refusals(daemons: &Daemons, foreign: IpAddr) -> Result<()> {
    let create =
        |options: &[&str]| daemons.hosts[0].ask(&[&["network", "create"], options, &["medlar"]].concat(), "");
    let node = format!("foreign={}", daemons.hosts[1].address);
    refused(&create(&["--opt", &node])?, &["is node medlar-host"])?;
    let foreign = format!("foreign={foreign}");
    refused(&create(&["--opt", "encrypted", "--opt", &foreign])?, &["can't be encrypted"])?;
    refused(&create(&["--opt", "foreign=127.0.0.1"])?, &["one host in the underlay"])
}

/// The network, with an endpoint on each node, whose addresses are given.
fn make(daemons: &Daemons, foreign: IpAddr) -> Result<[IpAddr; 2]> {
    let option = format!("foreign={foreign}");
    let vni = VNIS[PLAIN].to_string();
    let kept = [format!("theirs={}", OURS[0]), format!("nobodys={}", OURS[1])];
    let place = ["--vni", &vni, "--subnet", "10.77.0.0/24", "--opt", &option];
    let aux = ["--aux-address", &kept[0], "--aux-address", &kept[1]];
    let create = [&["network", "create"], &place[..], &aux, &[NETWORKS[PLAIN]]].concat();
    daemons.hosts[0].say(&create)?;
    let shown = daemons.hosts[0].say(&["network", "inspect", NETWORKS[PLAIN]])?;
    let shown: Value = serde_json::from_str(&shown)?;
    ensure!(shown[0]["Foreign"] == serde_json::json!([foreign]), "{shown}");
    let mut inside = [GATEWAY.into(); 2];
    for (node, own) in inside.iter_mut().enumerate() {
        wait_until("the network is known", || Ok(daemons.hosts[node].networks()? == [NETWORKS[PLAIN]]))?;
        let attached = plug(daemons, node, PLAIN, NETWORKS[PLAIN])?;
        *own = address(&attached)?;
    }
    Ok(inside)
}

/// A device that floods to both nodes, as whoever runs it sets it up.
fn add_device(daemons: &Daemons, host: usize, address: Ipv4Addr) -> Result<()> {
    let mut netlink = Netlink::open(&daemons.hosts[host].netns)?;
    let device = VxlanDevice {
        vni: Vni::new(VNIS[PLAIN]).context("24 bits")?,
        local: daemons.hosts[host].address,
        remote: None,
        port: DATA_PORT,
        lower: Some(UPLINK.into()),
        learning: true,
        mac: None,
        mtu: None,
    };
    netlink.add_vxlan(LINK, &device)?;
    for node in &daemons.hosts[..2] {
        netlink.append_fdb(LINK, MacAddr([0; 6]), node.address)?;
    }
    netlink.set_up(LINK)?;
    Ok(netlink.add_address(LINK, address.into(), 24)?)
}

/// Pings, whose answers come once, streams and datagrams of all sizes, both ways; each begins by a question to all.
fn exchange(daemons: &Daemons, node: usize, own: IpAddr, there: &NetNs) -> Result<()> {
    let (here, theirs) = (endpoint(daemons, node, PLAIN).netns(), IpAddr::from(OURS[0]));
    for (from, to) in [(there, own), (here, theirs)] {
        // The largest packet that fits the underlay.
        let line = format!("ping -c 3 -i 0.2 -W 5 -s 1422 -M do {to}");
        let Some(output) = tool(from, &line)? else { break };
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("3 received, 0% packet loss") && !said.contains("DUP"), "{line}: {said}");
    }
    tcp(here, there, theirs, BULK).context("TCP, to the kernel")?;
    tcp(there, here, own, BULK).context("TCP, from the kernel")?;
    udp_both_ways(here, there, own, theirs, 1_422).context("UDP")?;
    // Apart from those: fragments have no ports, and so another way.
    udp_sizes(here, there, own, theirs, 2_000..=4_000).context("fragments, to the kernel")?;
    udp_sizes(there, here, theirs, own, 2_000..=4_000).context("fragments, from the kernel")
}

/// What one says to all is heard by each other once: nobody hands on what came from the underlay.
fn said_to_all(daemons: &Daemons, inside: [IpAddr; 2]) -> Result<()> {
    let places = [
        (endpoint(daemons, 0, PLAIN).netns(), inside[0]),
        (endpoint(daemons, 1, PLAIN).netns(), inside[1]),
        (&daemons.hosts[MEMBER].netns, OURS[0].into()),
    ];
    let socket = |(netns, _): &(&NetNs, IpAddr)| udp(netns, Ipv4Addr::UNSPECIFIED.into(), PORT);
    let sockets = places.iter().map(socket).collect::<Result<Vec<_>>>()?;
    let all = SocketAddr::from(([10, 77, 0, 255], PORT));
    for (socket, (_, own)) in sockets.iter().zip(&places) {
        socket.send_to(own.to_string().as_bytes(), all)?;
    }
    for (socket, (_, own)) in sockets.iter().zip(&places) {
        let (mut heard, mut buf) = (Vec::new(), [0; 64]);
        socket.set_read_timeout(Some(PATIENCE))?;
        while let Ok((_, from)) = socket.recv_from(&mut buf) {
            // A socket also hears its own broadcast, from its own kernel.
            if from.ip() != *own {
                heard.push(from.ip());
            }
            if heard.len() == places.len() - 1 {
                socket.set_read_timeout(Some(SILENCE))?;
            }
        }
        heard.sort();
        let others: Vec<IpAddr> = places.iter().map(|of| of.1).filter(|other| other != own).collect();
        ensure!(heard == others, "{own} heard {heard:?}, and not {others:?}");
    }
    Ok(())
}

/// How many frames a node has dropped for a reason.
fn dropped(daemons: &Daemons, node: usize, reason: &str) -> Result<u64> {
    Ok(daemons.hosts[node].status()?["data"]["drops"][reason].as_u64().unwrap_or(0))
}

/// The same device at an address that is not in the record gets nowhere; nor does the one that is, into other networks.
fn kept_out(daemons: &Daemons, inside: [IpAddr; 2]) -> Result<()> {
    let stranger = &daemons.hosts[STRANGER].netns;
    let before = dropped(daemons, 0, "unknown-peer")?;
    if let Some(output) = tool(stranger, &format!("ping -c 2 -i 0.2 -W 1 {}", inside[0]))? {
        ensure!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        wait_until("strangers are counted", || Ok(dropped(daemons, 0, "unknown-peer")? > before))?;
    }
    let theirs = udp(&daemons.hosts[MEMBER].netns, daemons.hosts[MEMBER].address, 0)?;
    let other = VNIS[OTHER].to_string();
    daemons.hosts[0].say(&["network", "create", "--vni", &other, NETWORKS[OTHER]])?;
    plug(daemons, 0, OTHER, NETWORKS[OTHER])?;
    let inner = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 9], &[0x88, 0xb5], &[0; 46]].concat();
    let [_, a, b, c] = VNIS[OTHER].to_be_bytes();
    let datagram = [&[8, 0, 0, 0, a, b, c, 0][..], &inner].concat();
    theirs.send_to(&datagram, (daemons.hosts[0].address, DATA_PORT))?;
    wait_until("it is in one network only", || Ok(dropped(daemons, 0, "peer-not-in-vni")? == 1)).map(drop)
}

/// Gateways are for their nodes' endpoints: none says where it is, and none answers to who knows.
fn no_gateway(daemons: &Daemons) -> Result<()> {
    let there = &daemons.hosts[MEMBER].netns;
    let ping = |patience: u32| tool(there, &format!("ping -c 2 -i 0.2 -W {patience} {GATEWAY}"));
    // Until ARP gives up.
    let Some(output) = ping(10)? else { return Ok(()) };
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains("Destination Host Unreachable"), "somebody says where the gateway is: {said}");
    let said = |line: &str| -> Result<()> {
        let output = tool(there, line)?.context("iproute2 is there")?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    said(&format!("ip neigh replace {GATEWAY} lladdr {GATEWAY_MAC} dev {LINK} nud permanent"))?;
    let node = daemons.hosts[0].address;
    said(&format!("bridge fdb add {GATEWAY_MAC} dev {LINK} dst {node} self permanent"))?;
    let output = ping(1)?.context("it was there before")?;
    ensure!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    wait_until("that is counted", || Ok(dropped(daemons, 0, "not-for-peers")? == 2)).map(drop)
}
