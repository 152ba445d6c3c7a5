//! Probes between whole switches: what they find out, and what they must not be used for.

use std::sync::Arc;
use std::time::Duration;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, PacketBuilder, SlicedPacket, TransportSlice};
use vswitchd::crypto::envelope;
use vswitchd::crypto::seal::Sealer;
use vswitchd::switch::drops::DropReason;
use vswitchd::switch::io::mem::Faults;
use vswitchd::switch::probe::{PathChange, PathReport, PathState};
use vswitchd::switch::wire::MacAddr;
use vswitchd::switch::wire::probe::{self, Operation, Probe};

use crate::world::{World, address, frame, key, mac, session};

const SECOND: Duration = Duration::from_secs(1);
const DELAY: Duration = Duration::from_millis(5);
/// UDP payload of a packet of 1500 bytes.
const ETHERNET: usize = 1_500 - 28;

/// Hosts in one plain network, without keys for each other.
fn plain(hosts: usize, faults: Faults, seed: u64) -> World {
    let mut world = World::new(&vec![&[1][..]; hosts], faults, seed);
    for host in &mut world.hosts {
        let peers: Vec<_> = host.switch.tables().topology.peers.sorted().iter().map(|&(id, _)| id).collect();
        peers.into_iter().for_each(|id| host.switch.set_sealer(id, None).expect("a peer"));
    }
    world.carries = ETHERNET;
    world
}

/// Hosts that have a key for each other.
fn sealed(hosts: usize, faults: Faults, seed: u64) -> World {
    let mut world = World::with_sealed(&vec![&[1][..]; hosts], &[1], faults, seed);
    world.carries = ETHERNET;
    world
}

fn probe_all(world: &mut World) {
    (0..world.hosts.len()).for_each(|host| world.set_probing(host, host as u64));
}

fn paths(world: &World, host: usize) -> Vec<PathReport> {
    world.hosts[host].switch.report().paths
}

/// What changed, without times.
fn told(world: &mut World) -> Vec<(usize, usize, &'static str)> {
    let label = |change| match change {
        PathChange::Up { .. } => "up",
        PathChange::Down => "down",
        PathChange::Silent => "silent",
        PathChange::Mtu(_) => "mtu",
    };
    let mut told: Vec<_> =
        world.changes.drain(..).map(|(host, to, change)| (host, to, label(change))).collect();
    told.sort_unstable();
    told
}

#[test]
fn three_hosts_know_their_paths_in_clear_and_sealed() {
    let faults = Faults { delay: DELAY, ..Faults::default() };
    for mut world in [plain(3, faults, 31), sealed(3, faults, 31)] {
        probe_all(&mut world);
        world.pass(60 * SECOND);
        for host in 0..3 {
            let paths = paths(&world, host);
            assert_eq!(paths.len(), 2);
            for path in paths {
                assert_eq!((path.state, path.rtt), (PathState::Up, Some(2 * DELAY)), "{path:?}");
                assert_eq!((path.lost, path.mtu), (0, Some(1_500)), "{path:?}");
            }
            assert_eq!(world.drops(host), [], "host {host}");
            let report = world.hosts[host].switch.report();
            assert!(
                report.peers.iter().all(|(_, traffic)| *traffic == Default::default()),
                "probes are no traffic"
            );
        }
        assert_eq!(told(&mut world).len(), 12, "each of six paths is up and has an MTU, once");
    }
}

#[test]
fn towards_a_peer_with_a_session_the_wire_shows_no_probe() {
    for (mut world, is_sealed) in
        [(sealed(2, Faults::default(), 32), true), (plain(2, Faults::default(), 32), false)]
    {
        probe_all(&mut world);
        world.pass(5 * SECOND);
        assert!(world.sent.len() > 8);
        for (_, _, datagram) in &world.sent {
            assert_eq!(envelope::is_sealed(datagram), is_sealed);
            assert_eq!(Probe::parse(datagram).is_ok(), !is_sealed);
        }
    }
}

#[test]
fn a_partition_is_told_by_both_sides_and_heals() {
    let mut world = plain(3, Faults { delay: DELAY, ..Faults::default() }, 33);
    probe_all(&mut world);
    world.pass(10 * SECOND);
    told(&mut world);
    world.wire.partition(0, 2);
    world.pass(10 * SECOND);
    assert_eq!(told(&mut world), [(0, 2, "down"), (2, 0, "down")]);
    assert_eq!(
        paths(&world, 0).iter().map(|path| path.state).collect::<Vec<_>>(),
        [PathState::Up, PathState::Down]
    );
    world.pass(3_600 * SECOND);
    assert_eq!(told(&mut world), []);
    world.wire.heal(0, 2);
    world.pass(5 * SECOND);
    assert_eq!(told(&mut world), [(0, 2, "up"), (2, 0, "up")]);
}

#[test]
fn a_lossy_wire_is_measured_and_no_path_is_called_down() {
    for mut world in [plain(2, Faults::default(), 34), sealed(2, Faults::default(), 34)] {
        probe_all(&mut world);
        world.pass(10 * SECOND);
        world.wire = vswitchd::switch::io::mem::Wire::new(
            Faults { loss: 0.1, delay: DELAY, jitter: DELAY, duplicate: 0.05, reorder: 0.05 },
            34,
            crate::world::WIRE_QUEUE,
        );
        world.pass(600 * SECOND);
        for host in 0..2 {
            let path = paths(&world, host)[0];
            // 19 % of round trips.
            assert!((4..=24).contains(&path.lost) && path.state == PathState::Up, "{path:?}");
            assert_eq!(path.mtu, Some(1_500));
            let rtt = path.rtt.expect("measured");
            assert!((2 * DELAY..5 * DELAY).contains(&rtt), "{rtt:?}");
        }
        assert!(told(&mut world).iter().all(|&(_, _, change)| change != "down"));
    }
}

#[test]
fn the_mtu_is_found_whether_a_link_says_so_or_not_and_over_either_protection() {
    for (carries, link, want) in
        [(ETHERNET, usize::MAX, 1_500), (9_000 - 28, 9_000 - 28, 9_000), (1_400 - 28, ETHERNET, 1_400)]
    {
        for mut world in [plain(2, Faults::default(), 35), sealed(2, Faults::default(), 35)] {
            (world.carries, world.link) = (carries, link);
            probe_all(&mut world);
            world.pass(60 * SECOND);
            assert_eq!(paths(&world, 0)[0].mtu, Some(want));
            assert_eq!(world.changes.iter().filter(|(_, _, c)| matches!(c, PathChange::Mtu(_))).count(), 2);
        }
    }
}

#[test]
fn one_that_does_not_probe_answers_and_one_that_is_gone_is_silent() {
    let mut world = plain(2, Faults::default(), 36);
    world.set_probing(0, 36);
    world.pass(15 * SECOND);
    assert_eq!(told(&mut world), [(0, 1, "mtu"), (0, 1, "up")]);
    assert_eq!(paths(&world, 1), []);

    let mut world = plain(2, Faults::default(), 37);
    world.wire.partition(0, 1);
    world.set_probing(0, 37);
    world.pass(60 * SECOND);
    assert_eq!(told(&mut world), [(0, 1, "silent")]);
}

#[test]
fn a_peer_that_comes_is_probed_and_one_that_goes_is_forgotten() {
    let mut world = plain(2, Faults::default(), 38);
    world.set_probing(0, 38);
    world.pass(5 * SECOND);
    let switch = world.hosts[0].switch.clone();
    let network = crate::world::vni(1);
    let id = switch.report().paths[0].peer;
    switch.remove_peer(network, id);
    world.pass(2 * SECOND);
    assert_eq!(switch.report().paths, []);
    let again = switch.add_peer(network, address(1)).expect("room");
    world.pass(5 * SECOND);
    let path = switch.report().paths[0];
    assert_eq!((path.peer, path.state), (again, PathState::Up));
    switch.set_probing(None);
    let sent = world.datagrams;
    world.pass(10 * SECOND);
    assert_eq!((world.datagrams, switch.report().paths.len()), (sent, 0));
}

fn request(length: u16, sequence: u32) -> Vec<u8> {
    let request = Probe { operation: Operation::Request, length, sequence, stamp: 42 };
    let mut bytes = request.emit().to_vec();
    bytes.resize(length.into(), 0);
    bytes
}

#[test]
fn replies_go_to_peers_only_never_grow_and_are_limited() {
    let mut world = plain(2, Faults::default(), 39);
    let stranger = "198.51.100.1:4789".parse().expect("an address");
    world.receive(0, stranger, &request(16, 1));
    world.receive(0, address(0), &request(16, 1));
    assert_eq!((world.sent.len(), world.drops(0)), (0, vec![("unknown-peer", 1), ("own-datagram", 1)]));
    for length in [16, 17, 1_400] {
        world.receive(0, address(1), &request(length, 1));
        let (from, to, reply) = world.sent.pop().expect("an answer");
        assert_eq!((from, to, reply.len()), (0, 1, probe::HEADER_LEN));
        let reply = Probe::parse(&reply).expect("a probe");
        assert_eq!((reply.operation, reply.length, reply.stamp), (Operation::Reply, length, 42));
    }
    world.wire.partition(0, 1);
    for sequence in 0..100 {
        world.receive(0, address(1), &request(16, sequence));
    }
    assert_eq!(world.sent.len(), 17, "20 at once");
    world.pass(SECOND);
    world.receive(0, address(1), &request(16, 1));
    assert_eq!(world.sent.len(), 18, "the allowance comes back");
    let drops = world.drops(0);
    assert!(drops.contains(&("probe-limit", 83)), "{drops:?}");
}

#[test]
fn in_clear_nothing_is_answered_or_believed_of_a_peer_with_a_session() {
    let mut world = sealed(2, Faults::default(), 40);
    world.receive(0, address(1), &request(16, 1));
    let reply = Probe { operation: Operation::Reply, length: 16, sequence: 1, stamp: 42 }.emit();
    world.receive(0, address(1), &reply);
    assert_eq!((world.sent.len(), world.drops(0)), (0, vec![("clear-refused", 2)]));

    let mut world = plain(2, Faults::default(), 41);
    world.receive(0, address(1), &reply);
    world.receive(0, address(1), &reply[..15]);
    world.receive(0, address(1), &[&reply[..], &[0]].concat());
    let mut unknown = request(16, 1);
    unknown[1] = 3;
    world.receive(0, address(1), &unknown);
    world.receive(0, address(1), &request(40, 1)[..39]);
    assert_eq!(world.sent.len(), 0);
    assert_eq!(world.drops(0), [("probe-invalid", 4), ("probe-unasked", 1)]);
}

#[test]
fn a_key_that_is_used_up_is_a_path_that_is_down() {
    let mut world = sealed(2, Faults::default(), 43);
    let peer = world.hosts[0].switch.tables().topology.peers.sorted()[0].0;
    let few = Arc::new(Sealer::limited(&key(0, 1, 0), session(0, 0), 20));
    world.hosts[0].switch.set_sealer(peer, Some(Arc::clone(&few))).expect("a peer");
    world.set_probing(0, 43);
    world.pass(60 * SECOND);
    assert_eq!(told(&mut world), [(0, 1, "down"), (0, 1, "mtu"), (0, 1, "up")]);
    let drops = world.drops(0);
    assert!(matches!(drops[..], [("key-used-up", count)] if count > 30), "{drops:?}");
    assert_eq!(few.used(), 20);
}

#[test]
fn frames_pass_beside_probes() {
    let mut world = sealed(2, Faults::default(), 42);
    probe_all(&mut world);
    for n in 0..200 {
        let hello = frame(MacAddr::BROADCAST, mac(0, 0), n);
        world.send(0, 0, &hello);
        assert_eq!(world.take_delivered(), [(1, 0, hello)]);
        world.pass(SECOND / 10);
    }
    assert_eq!(paths(&world, 0)[0].state, PathState::Up);
}

/// An IPv4 packet of so many bytes that must not be fragmented, from host 0 to host 1.
fn whole(bytes: u16) -> Vec<u8> {
    let packet = PacketBuilder::ethernet2(mac(0, 0).0, mac(1, 0).0).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let mut frame = Vec::new();
    packet.udp(1, 2).write(&mut frame, &vec![7; usize::from(bytes) - 28]).expect("a vector takes all");
    frame
}

#[test]
fn who_sends_what_the_path_does_not_carry_is_told() {
    let faults = Faults { delay: DELAY, ..Faults::default() };
    for (mut world, fits) in [(plain(3, faults, 41), 1_350), (sealed(3, faults, 41), 1_322)] {
        world.carries = 1_400 - 28;
        world.send(1, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 0));
        world.pass(SECOND);
        world.take_delivered();
        // As long as the path is not known, the wire swallows it.
        world.send(0, 0, &whole(fits + 1));
        world.pass(SECOND);
        assert_eq!((world.take_delivered().len(), world.drops(0).len()), (0, 0));
        probe_all(&mut world);
        world.pass(60 * SECOND);
        world.send(0, 0, &whole(fits));
        world.pass(SECOND);
        let arrived = world.take_delivered();
        assert!(matches!(&arrived[..], [(1, 0, bytes)] if *bytes == whole(fits)));

        world.send(0, 0, &whole(fits + 1));
        world.pass(SECOND);
        assert_eq!(world.drops(0), [(DropReason::TooBig.label(), 1)]);
        let told = world.take_delivered();
        let [(0, 0, message)] = &told[..] else { panic!("{told:?}") };
        let packet = SlicedPacket::from_ethernet(message).expect("whole");
        let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else { panic!("{packet:?}") };
        let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: fits };
        assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(needed));

        // What is for many is not: some of them may have got it.
        let mut flooded = whole(fits + 1);
        flooded[..6].copy_from_slice(&MacAddr::BROADCAST.0);
        world.send(0, 0, &flooded);
        world.pass(SECOND);
        assert_eq!(world.take_delivered(), []);
    }
}
