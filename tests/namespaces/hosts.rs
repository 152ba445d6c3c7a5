//! Our switches among themselves.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::underlay::UPLINK;
use vswitchd::lab::{ENDPOINT_LINK, Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::Offloads;
use vswitchd::switch::wire::virtio::Offload;
use vswitchd::switch::wire::vxlan;

use crate::Test;
use crate::fixture::{
    PATIENCE, SILENCE, counters, lab, lab_of, program, reaches, shape, tcp, udp, udp_both_ways, udp_sizes,
};
use crate::station::{next_frames, station};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("hosts::tcp_and_udp_both_ways_over_an_ipv4_underlay", || both_ways(false, &[])),
        ("hosts::tcp_and_udp_both_ways_over_an_ipv6_underlay", || both_ways(true, &[])),
        ("hosts::the_same_without_offloads", || both_ways(false, &["--no-offload"])),
        ("hosts::between_two_ports_of_one_switch", two_ports_of_one_switch),
        ("hosts::a_jumbo_underlay_gives_jumbo_taps", jumbo),
        ("hosts::vlan_tags_pass", vlan_tags),
        ("hosts::a_broadcast_reaches_all_and_only_members", broadcast),
        ("hosts::networks_with_equal_addresses_stay_apart", equal_addresses),
        ("hosts::an_address_that_moves_to_another_host_is_followed", moving),
        ("hosts::a_full_table_floods", full_table),
        ("hosts::hostile_datagrams_are_counted_and_dropped", hostile),
    ]
}

const BULK: usize = 64 << 20;

/// The first endpoint of two nodes, both families, both directions.
fn both_ways(ipv6_underlay: bool, arguments: &[&str]) -> Result<()> {
    let lab = lab(shape(2, 1, 1, ipv6_underlay), arguments)?;
    let mtu = if ipv6_underlay { 1_430 } else { 1_450 };
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    ensure!(Netlink::open(a.netns())?.link(ENDPOINT_LINK)?.mtu == mtu);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK).context("IPv4, there")?;
    tcp(b.netns(), a.netns(), a.plan().v4.into(), BULK).context("IPv4, back")?;
    tcp(a.netns(), b.netns(), b.plan().v6.into(), BULK).context("IPv6, there")?;
    tcp(b.netns(), a.netns(), a.plan().v6.into(), BULK).context("IPv6, back")?;
    let largest = usize::try_from(mtu)? - 48;
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), largest)
        .context("UDP, IPv4")?;
    udp_both_ways(a.netns(), b.netns(), a.plan().v6.into(), b.plan().v6.into(), largest)
        .context("UDP, IPv6")?;
    // Larger than the MTU: the endpoint's kernel sends fragments, which must all find their way.
    udp_sizes(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 2_000..=9_000)
        .context("fragments")?;
    let drops = &counters(program(&lab, 0)?)?["drops"];
    ensure!(drops.as_object().is_some_and(serde_json::Map::is_empty), "drops on a clean network: {drops}");
    Ok(())
}

fn two_ports_of_one_switch() -> Result<()> {
    let lab = lab(shape(1, 2, 1, false), &[])?;
    let [a, b] = [0, 1].map(|index| &lab.nodes()[0].endpoints()[index]);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK)?;
    tcp(b.netns(), a.netns(), a.plan().v6.into(), BULK)?;
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 1_400)
}

fn jumbo() -> Result<()> {
    let plan = Plan { underlay_mtu: 9_000, ..Plan::new(shape(2, 1, 1, false))? };
    let lab = lab_of(plan, &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    ensure!(Netlink::open(a.netns())?.link(ENDPOINT_LINK)?.mtu == 8_950);
    tcp(a.netns(), b.netns(), b.plan().v4.into(), BULK)?;
    tcp(b.netns(), a.netns(), a.plan().v6.into(), BULK)?;
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 8_922)
}

fn vlan_tags() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| station(&lab.nodes()[node].endpoints()[0], Offloads::NONE));
    let (mut a, mut b) = (a?, b?);
    let (here, there) = ([2, 0xaa, 0, 0, 0, 1], [2, 0xaa, 0, 0, 0, 2]);
    // 802.1Q with a priority, 802.1ad with 802.1Q inside, three tags, and none.
    let tags: [&[u8]; 4] = [
        &[0x81, 0x00, 0xe0, 0x07],
        &[0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x00, 0x07],
        &[0x88, 0xa8, 0, 1, 0x81, 0x00, 0, 2, 0x81, 0x00, 0, 3],
        &[],
    ];
    for tags in tags {
        for size in [46, 500, 1_430] {
            let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let frame = |to: &[u8], from: &[u8]| [to, from, tags, &[0x88, 0xb5], &payload].concat();
            let (out, back) = (frame(&there, &here), frame(&here, &there));
            a.write(&[IoSlice::new(&out)], Offload::default())?;
            ensure!(next_frames(&mut b, &here, 1)? == [&out[..]], "{tags:02x?}, {size} bytes, there");
            b.write(&[IoSlice::new(&back)], Offload::default())?;
            ensure!(next_frames(&mut a, &there, 1)? == [&back[..]], "{tags:02x?}, {size} bytes, back");
        }
    }
    Ok(())
}

fn broadcast() -> Result<()> {
    const PORT: u16 = 9_000;
    let lab = lab(shape(3, 2, 2, false), &[])?;
    let sockets = lab
        .endpoints()
        .map(|endpoint| Ok((endpoint, udp(endpoint.netns(), Ipv4Addr::UNSPECIFIED.into(), PORT)?)))
        .collect::<Result<Vec<_>>>()?;
    for (sender, socket) in &sockets {
        let [_, m, ..] = sender.plan().v4.octets();
        let all = SocketAddr::from(([10, m, 255, 255], PORT));
        socket.send_to(sender.plan().name.as_bytes(), all)?;
    }
    // Everybody has sent once, so everybody hears from the other two members and from nobody else.
    for (receiver, socket) in &sockets {
        let mut want: Vec<_> = sockets
            .iter()
            .filter(|(sender, _)| sender.plan().network == receiver.plan().network)
            .map(|(sender, _)| sender.plan().name.clone())
            .filter(|name| *name != receiver.plan().name)
            .collect();
        let mut buf = [0; 64];
        let mut heard = Vec::new();
        socket.set_read_timeout(Some(PATIENCE))?;
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            // A socket also hears its own broadcast, from its own kernel.
            if from.ip() != IpAddr::V4(receiver.plan().v4) {
                heard.push(String::from_utf8_lossy(&buf[..len]).into_owned());
            }
            if heard.len() >= want.len() {
                socket.set_read_timeout(Some(SILENCE))?;
            }
        }
        heard.sort();
        want.sort();
        ensure!(heard == want, "{} heard {heard:?}, wanted {want:?}", receiver.plan().name);
    }
    Ok(())
}

fn equal_addresses() -> Result<()> {
    const PORT: u16 = 9_001;
    let mut plan = Plan::new(shape(2, 2, 2, false))?;
    for node in &mut plan.nodes {
        let [first, second] = &mut node.endpoints[..] else { unreachable!("two endpoints were asked for") };
        (second.mac, second.v4, second.v6) = (first.mac, first.v4, first.v6);
    }
    let lab = lab_of(plan, &[])?;
    let far = &lab.nodes()[1].endpoints();
    let receivers =
        [&far[0], &far[1]].map(|endpoint| udp(endpoint.netns(), Ipv4Addr::UNSPECIFIED.into(), PORT));
    let receivers = receivers.into_iter().collect::<Result<Vec<_>>>()?;
    for round in 0..20 {
        for (network, near) in lab.nodes()[0].endpoints().iter().enumerate() {
            let word = format!("network {network}, round {round}");
            let socket = udp(near.netns(), near.plan().v4.into(), 0)?;
            socket.send_to(word.as_bytes(), (far[network].plan().v4, PORT))?;
            let mut buf = [0; 64];
            let len = receivers[network].recv(&mut buf)?;
            ensure!(buf[..len] == *word.as_bytes(), "{:?}", String::from_utf8_lossy(&buf[..len]));
        }
    }
    for receiver in &receivers {
        receiver.set_read_timeout(Some(SILENCE))?;
        ensure!(receiver.recv(&mut [0; 64]).is_err(), "a frame of the other network arrived");
    }
    Ok(())
}

fn moving() -> Result<()> {
    const PORT: u16 = 9_002;
    let lab = lab(shape(3, 1, 1, false), &[])?;
    let [home, old, new] = [0, 1, 2].map(|node| &lab.nodes()[node].endpoints()[0]);
    let target = SocketAddr::from((old.plan().v4, PORT));
    let client = udp(home.netns(), home.plan().v4.into(), 0)?;
    let before = udp(old.netns(), Ipv4Addr::UNSPECIFIED.into(), PORT)?;
    ensure!(reaches(&client, target, &before)?, "before the move");

    Netlink::open(old.netns())?.set_down(ENDPOINT_LINK)?;
    let mut netlink = Netlink::open(new.netns())?;
    netlink.set_down(ENDPOINT_LINK)?;
    netlink.set_mac(ENDPOINT_LINK, old.plan().mac)?;
    netlink.set_up(ENDPOINT_LINK)?;
    netlink.add_address(ENDPOINT_LINK, old.plan().v4.into(), 32)?;
    let after = udp(new.netns(), Ipv4Addr::UNSPECIFIED.into(), PORT)?;
    // What a moved machine does: it says something, here to its new neighbour.
    let mover = udp(new.netns(), old.plan().v4.into(), 0)?;
    mover.send_to(b"here", client.local_addr()?)?;
    client.recv(&mut [0; 16]).context("the moved station's word")?;
    ensure!(reaches(&client, target, &after)?, "after the move");
    let table = &counters(program(&lab, 0)?)?["table"];
    ensure!(table["moved"].as_u64() >= Some(1), "{table}");
    Ok(())
}

fn full_table() -> Result<()> {
    let lab = lab(shape(3, 1, 1, false), &["--table-size", "1"])?;
    let [a, b, c] = [0, 1, 2].map(|node| &lab.nodes()[node].endpoints()[0]);
    for (from, to) in [(a, b), (b, c), (c, a)] {
        udp_both_ways(from.netns(), to.netns(), from.plan().v4.into(), to.plan().v4.into(), 64)?;
    }
    let table = &counters(program(&lab, 0)?)?["table"];
    ensure!(table["entries"] == 1 && table["full"].as_u64() > Some(0), "{table}");
    Ok(())
}

fn hostile() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [victim, peer] = [0, 1].map(|node| &lab.nodes()[node]);
    let stranger = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 99));
    Netlink::open(peer.netns())?.add_address(UPLINK, stranger, 32)?;
    let target = SocketAddr::new(victim.plan().address, vxlan::PORT);
    let as_stranger = udp(peer.netns(), stranger, 0)?;
    let as_peer = udp(peer.netns(), peer.plan().address, 0)?;

    let station = &victim.endpoints()[0];
    let (to, from) = (station.plan().mac.0, peer.endpoints()[0].plan().mac.0);
    let inner = [&to[..], &from[..], &[0x88, 0xb5], &[0; 46]].concat();
    let datagram = |flags: u8, vni: u8, last: u8| [&[flags, 0, 0, 0, 0, 0, vni, last][..], &inner].concat();
    let received = |lab: &Lab| -> Result<u64> {
        Ok(Netlink::open(lab.nodes()[0].endpoints()[0].netns())?.link(ENDPOINT_LINK)?.statistics.rx_packets)
    };
    // What the kernels say to each other by themselves would be counted too.
    for endpoint in [station, &peer.endpoints()[0]] {
        endpoint.netns().run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1"))??;
    }
    let quiet = || -> Result<u64> {
        let before = received(&lab)?;
        as_peer.send_to(&datagram(8, 42, 0), target)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = received(&lab)?;
            if now > before {
                return Ok(now);
            }
            ensure!(Instant::now() < deadline, "the peer's good frame was not delivered");
        }
    };
    let before = quiet()?;
    as_stranger.send_to(&datagram(8, 42, 0), target)?;
    as_peer.send_to(&datagram(0, 42, 0), target)?;
    as_peer.send_to(&datagram(8, 42, 1), target)?;
    as_peer.send_to(&datagram(8, 99, 0), target)?;
    as_peer.send_to(&datagram(8, 42, 0)[..5], target)?;
    as_peer.send_to(&[], target)?;
    as_peer.send_to(&datagram(8, 42, 0)[..20], target)?;
    let want = [
        ("unknown-peer", 1),
        ("vxlan-flags", 2),
        ("unknown-vni", 1),
        ("vxlan-truncated", 2),
        ("frame-truncated", 1),
    ];
    let deadline = Instant::now() + PATIENCE;
    let drops = loop {
        let drops = counters(program(&lab, 0)?)?["drops"].clone();
        let done = want.iter().all(|&(reason, count)| drops[reason] == count);
        if done || Instant::now() > deadline {
            break drops;
        }
    };
    for (reason, count) in want {
        ensure!(drops[reason] == count, "{reason}: {drops}");
    }
    ensure!(received(&lab)? == before, "a hostile frame was delivered");
    quiet()?;
    let [a, b] = [station, &peer.endpoints()[0]];
    udp_both_ways(a.netns(), b.netns(), a.plan().v4.into(), b.plan().v4.into(), 64).context("afterwards")
}
