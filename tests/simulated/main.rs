//! Three switches on links with chosen faults. Every run of a test is the same: time is virtual, the seed is printed.

mod probes;
mod sealed;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use vswitchd::switch::fdb::{Forward, Place};
use vswitchd::switch::io::mem::Faults;
use vswitchd::switch::wire::{MacAddr, vxlan};
use world::{Delivered, World, address, frame, mac, vni};

/// Three hosts, each with a station in network 1 (port 0) and one in network 2 (port 1), with the same addresses.
const TWO_NETWORKS: &[&[u32]] = &[&[1, 2], &[1, 2], &[1, 2]];

fn number(frame: &[u8]) -> u64 {
    u64::from_be_bytes(frame[14..22].try_into().expect("eight bytes"))
}

pub(crate) fn sorted(mut delivered: Vec<Delivered>) -> Vec<Delivered> {
    delivered.sort();
    delivered
}

#[test]
fn a_broadcast_reaches_all_and_only_members_once() {
    let mut world = World::new(&[&[1, 1, 2], &[1, 2], &[1], &[2]], Faults::default(), 1);
    let hello = frame(MacAddr::BROADCAST, mac(0, 0), 7);
    world.send(0, 0, &hello);
    let want = [(0, 1), (1, 0), (2, 0)].map(|(host, port)| (host, port, hello.clone()));
    assert_eq!(sorted(world.take_delivered()), want);
}

#[test]
fn after_one_exchange_unicast_takes_one_datagram() {
    let mut world = World::new(TWO_NETWORKS, Faults::default(), 2);
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 1));
    assert_eq!(world.datagrams, 2, "unknown destination: one for each peer");
    world.send(1, 0, &frame(mac(0, 0), mac(1, 0), 2));
    assert_eq!(world.datagrams, 3, "the answer's destination has been learnt");
    world.take_delivered();
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 3));
    assert_eq!(world.datagrams, 4);
    assert_eq!(world.take_delivered(), [(1, 0, frame(mac(1, 0), mac(0, 0), 3))]);
}

#[test]
fn networks_with_equal_addresses_never_mix() {
    let mut world = World::new(TWO_NETWORKS, Faults::default(), 3);
    let stations: Vec<_> = (0..3).flat_map(|host| [(host, 0), (host, 1)]).collect();
    for (n, &(host, port)) in (0u64..).zip(&stations) {
        world.send(host, port, &frame(MacAddr::BROADCAST, mac(host, 0), n));
    }
    world.take_delivered();
    for (n, &(host, port)) in (100u64..).zip(&stations) {
        world.send(host, port, &frame(mac((host + 1) % 3, 0), mac(host, 0), n));
        let want = ((host + 1) % 3, port, frame(mac((host + 1) % 3, 0), mac(host, 0), n));
        assert_eq!(world.take_delivered(), [want]);
    }
}

#[test]
fn what_arrives_over_a_bad_link_is_what_was_sent() {
    let faults = Faults {
        loss: 0.2,
        duplicate: 0.1,
        reorder: 0.2,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(3),
    };
    let seed = 4;
    let mut world = World::new(TWO_NETWORKS, faults, seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut sent = BTreeMap::new();
    for n in 0..4_000u64 {
        let (from, to, port) = (rng.usize(..3), rng.usize(..3), rng.usize(..2));
        if from == to {
            continue;
        }
        let bytes = frame(mac(to, 0), mac(from, 0), n);
        sent.insert(n, (from, to, port, bytes.clone()));
        world.send(from, port, &bytes);
        world.pass(Duration::from_millis(rng.u64(..4)));
    }
    world.pass(Duration::from_secs(1));
    let mut arrived = BTreeMap::<u64, usize>::new();
    for (host, port, bytes) in world.take_delivered() {
        let (from, to, in_port, original) = &sent[&number(&bytes)];
        assert_eq!(&bytes, original);
        assert_eq!(port, *in_port, "another network");
        assert_ne!(host, *from, "back to its sender");
        // A frame flooded before its destination was learnt reaches others too, as on any switch.
        if host == *to {
            *arrived.entry(number(&bytes)).or_default() += 1;
        }
    }
    let share = arrived.len() as f64 / sent.len() as f64;
    assert!((0.75..0.9).contains(&share), "{share} arrived of 0.8 + what duplicates saved");
    assert!(arrived.values().any(|&copies| copies == 2), "duplicates pass: a switch is no transport");
}

#[test]
fn order_within_a_flow_is_kept_where_the_link_keeps_it() {
    let faults = Faults { delay: Duration::from_millis(5), loss: 0.1, ..Faults::default() };
    let mut world = World::new(TWO_NETWORKS, faults, 5);
    for n in 0..500 {
        world.send(0, 0, &frame(mac(1, 0), mac(0, 0), n));
        world.pass(Duration::from_micros(100));
    }
    world.pass(Duration::from_secs(1));
    let at_receiver = |delivered: &&Delivered| delivered.0 == 1;
    let numbers: Vec<_> =
        world.take_delivered().iter().filter(at_receiver).map(|(_, _, bytes)| number(bytes)).collect();
    assert!(numbers.len() > 400);
    assert!(numbers.is_sorted());
}

#[test]
fn a_partition_cuts_only_what_it_separates_and_heals() {
    let mut world = World::new(&[&[1], &[1], &[1]], Faults::default(), 6);
    for host in 0..3 {
        world.send(host, 0, &frame(MacAddr::BROADCAST, mac(host, 0), 0));
    }
    world.wire.partition(0, 2);
    world.take_delivered();
    world.send(0, 0, &frame(mac(2, 0), mac(0, 0), 1));
    assert_eq!(world.take_delivered(), []);
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 2));
    world.send(1, 0, &frame(mac(2, 0), mac(1, 0), 3));
    let hosts: Vec<_> = world.take_delivered().iter().map(|&(host, ..)| host).collect();
    assert_eq!(hosts, [1, 2], "the others are not concerned");
    world.wire.heal(0, 2);
    world.send(0, 0, &frame(mac(2, 0), mac(0, 0), 4));
    assert_eq!(world.take_delivered(), [(2, 0, frame(mac(2, 0), mac(0, 0), 4))]);
}

#[test]
fn a_station_that_moves_is_found_at_its_new_host() {
    let mut world = World::new(&[&[1], &[1], &[1]], Faults::default(), 7);
    let (roamer, home) = (MacAddr([2, 9, 9, 9, 9, 9]), mac(0, 0));
    world.send(1, 0, &frame(MacAddr::BROADCAST, roamer, 0));
    world.send(0, 0, &frame(roamer, home, 1));
    world.take_delivered();
    world.send(2, 0, &frame(MacAddr::BROADCAST, roamer, 2));
    world.take_delivered();
    for from in [0, 1] {
        world.send(from, 0, &frame(roamer, mac(from, 0), 3));
        assert_eq!(world.take_delivered(), [(2, 0, frame(roamer, mac(from, 0), 3))], "from host {from}");
    }
}

#[test]
fn one_address_at_two_hosts_is_held_and_counted() {
    let mut world = World::new(&[&[1], &[1], &[1]], Faults::default(), 8);
    let twin = MacAddr([2, 9, 9, 9, 9, 9]);
    for n in 0..40 {
        world.send(1 + usize::from(n % 2 == 0), 0, &frame(MacAddr::BROADCAST, twin, n));
    }
    // Whichever switch holds the address first keeps it from changing at the others.
    let drops: Vec<_> = (0..3).flat_map(|host| world.drops(host)).collect();
    let dropped: u64 =
        drops.iter().filter(|(label, _)| *label == "mac-move-limit").map(|&(_, count)| count).sum();
    let held: u64 = world.hosts.iter().map(|host| host.switch.report().learning.held).sum();
    assert!(dropped > 10 && held > 0, "{drops:?}, {held} held");
    let moved = world.hosts.iter().map(|host| host.switch.report().learning.moved).max();
    assert_eq!(moved, Some(10), "and no more");
}

#[test]
fn a_quiet_station_is_forgotten_and_found_again_by_flooding() {
    let mut world = World::new(&[&[1], &[1], &[1]], Faults::default(), 9);
    world.send(1, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 0));
    assert_eq!(world.hosts[0].switch.report().fdb_entries, 1);
    world.pass(Duration::from_secs(301));
    assert_eq!(world.hosts[0].switch.report().fdb_entries, 0);
    world.take_delivered();
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 1));
    let hosts: BTreeSet<_> = world.take_delivered().iter().map(|&(host, ..)| host).collect();
    assert_eq!(hosts, BTreeSet::from([1, 2]));
}

#[test]
fn a_full_table_floods_and_loses_nothing() {
    let mut world = World::new(&[&[1], &[1]], Faults::default(), 10);
    for n in 0..100u8 {
        world.send(0, 0, &frame(MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 1, n]), 0));
    }
    let report = world.hosts[1].switch.report();
    assert_eq!((report.fdb_entries, report.learning.full), (64, 36));
    world.take_delivered();
    let unlearnt = MacAddr([2, 0, 0, 0, 1, 99]);
    world.send(1, 0, &frame(unlearnt, mac(1, 0), 1));
    assert_eq!(world.take_delivered(), [(0, 0, frame(unlearnt, mac(1, 0), 1))]);
}

#[test]
fn a_storm_is_limited_and_unicast_is_not() {
    let mut world = World::new(&[&[1], &[1]], Faults::default(), 11);
    world.send(1, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 0));
    world.take_delivered();
    for n in 0..5_000 {
        world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), n));
    }
    assert_eq!(world.take_delivered().len(), 2_000);
    assert_eq!(world.drops(0), [("storm-limit", 3_000)]);
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 1));
    assert_eq!(world.take_delivered().len(), 1);
    world.pass(Duration::from_secs(1));
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 2));
    assert_eq!(world.take_delivered().len(), 1, "the allowance comes back");
}

#[test]
fn hostile_datagrams_are_counted_and_go_nowhere() {
    let mut world = World::new(&[&[1, 2], &[1], &[3]], Faults::default(), 12);
    let inner = frame(MacAddr::BROADCAST, mac(1, 0), 1);
    let datagram = |header: [u8; 8], inner: &[u8]| [&header[..], inner].concat();
    let good = vxlan::emit(vni(1));
    let stranger = "198.51.100.1:4789".parse().expect("an address");
    world.receive(0, stranger, &datagram(good, &inner));
    world.receive(0, address(0), &datagram(good, &inner));
    world.receive(0, address(1), &good[..7]);
    world.receive(0, address(1), &[]);
    world.receive(0, address(1), &datagram([0, 0, 0, 0, 0, 0, 1, 0], &inner));
    world.receive(0, address(1), &datagram([8, 0, 0, 0, 0, 0, 1, 1], &inner));
    world.receive(0, address(1), &datagram(vxlan::emit(vni(9)), &inner));
    world.receive(0, address(1), &datagram(vxlan::emit(vni(2)), &inner));
    world.receive(0, address(1), &datagram(good, &inner[..13]));
    world.receive(0, address(1), &datagram(good, &frame(mac(0, 0), MacAddr::BROADCAST, 1)));
    assert_eq!(world.take_delivered(), []);
    let want = [
        ("frame-truncated", 1),
        ("source-invalid", 1),
        ("unknown-peer", 1),
        ("own-datagram", 1),
        ("vxlan-truncated", 2),
        ("vxlan-flags", 2),
        ("unknown-vni", 1),
        ("peer-not-in-vni", 1),
    ];
    assert_eq!(world.drops(0), want);
    assert_eq!(world.hosts[0].switch.report().fdb_entries, 0, "nothing was learnt of them");
    world.receive(0, address(1), &datagram(good, &inner));
    assert_eq!(world.take_delivered().len(), 1, "the same frame from the peer that may send it");
}

#[test]
fn our_own_outer_packets_are_not_carried_again() {
    let mut world = World::new(&[&[1], &[1]], Faults::default(), 15);
    let outer = |from: u8, to: u8, port: u16| {
        let packet = etherparse::PacketBuilder::ethernet2(mac(0, 0).0, mac(1, 0).0);
        let mut bytes = Vec::new();
        let packet = packet.ipv4([192, 0, 2, from], [192, 0, 2, to], 64).udp(50_000, port);
        packet.write(&mut bytes, &vxlan::emit(vni(1))).expect("a vector takes all");
        bytes
    };
    world.send(0, 0, &outer(1, 2, vxlan::PORT));
    assert_eq!(world.drops(0), [("self-encapsulation", 1)]);
    world.send(0, 0, &outer(7, 2, vxlan::PORT));
    world.send(0, 0, &outer(1, 2, 53));
    assert_eq!(world.take_delivered().len(), 2, "somebody else's tunnel, and another service of ours, pass");
}

#[test]
fn a_frame_from_a_tunnel_never_goes_back_into_one() {
    let mut world = World::new(&[&[1], &[1], &[1]], Faults::default(), 13);
    world.send(2, 0, &frame(MacAddr::BROADCAST, mac(2, 0), 0));
    world.take_delivered();
    let before = world.datagrams;
    let stray = [&vxlan::emit(vni(1))[..], &frame(mac(2, 0), mac(1, 0), 1)].concat();
    world.receive(0, address(1), &stray);
    assert_eq!((world.take_delivered(), world.datagrams), (vec![], before));
    assert_eq!(world.drops(0), [("split-horizon", 1)]);
}

#[test]
fn questions_for_announced_endpoints_stay_at_home() {
    let mut world = World::new(&[&[1], &[1]], Faults::default(), 14);
    let peer = world.hosts[0].switch.add_peer(vni(1), address(1)).expect("it is known");
    let (known, asker) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 1));
    let host = &world.hosts[0].switch;
    host.announce(vni(1), mac(1, 0), &[IpAddr::V4(known)], Place::Vtep(peer)).expect("room");
    assert_eq!(host.tables().fdb.lookup(vni(1), mac(1, 0)), Forward::Remote(peer));
    let question = |target: Ipv4Addr| {
        let mut bytes = frame(MacAddr::BROADCAST, mac(0, 0), 0);
        bytes[12..14].copy_from_slice(&[0x08, 0x06]);
        let arp = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &mac(0, 0).0, &asker.octets(), &[0; 6], &target.octets()]
            .concat();
        bytes[14..14 + arp.len()].copy_from_slice(&arp);
        bytes
    };
    world.send(0, 0, &question(known));
    let delivered = world.take_delivered();
    let [(0, 0, answer)] = &delivered[..] else { panic!("one answer, to the asker: {delivered:?}") };
    assert_eq!((&answer[..6], &answer[6..12]), (&mac(0, 0).0[..], &mac(1, 0).0[..]));
    assert_eq!((answer[21], &answer[22..28], &answer[28..32]), (2, &mac(1, 0).0[..], &known.octets()[..]));
    assert_eq!(world.datagrams, 0);
    world.send(0, 0, &question(Ipv4Addr::new(10, 0, 0, 3)));
    assert_eq!(world.datagrams, 1, "an unknown one is asked around");
    world.take_delivered();
    let spoof = [&vxlan::emit(vni(1))[..], &frame(mac(0, 0), mac(1, 0), 1)].concat();
    world.receive(0, address(1), &spoof);
    assert_eq!(world.take_delivered().len(), 1, "the announced endpoint itself is at that peer");
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 1));
    assert_eq!(world.drops(0), [("source-elsewhere", 1)]);
}
