//! Encrypted networks: what passes, what the wire shows, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use vswitchd::crypto::envelope::{self, HEADER_LEN, TAG_LEN};
use vswitchd::crypto::open::Opener;
use vswitchd::crypto::seal::Sealer;
use vswitchd::switch::io::mem::Faults;
use vswitchd::switch::vtep::VtepId;
use vswitchd::switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};
use vswitchd::switch::wire::{MacAddr, vxlan};

use crate::sorted;
use crate::world::{World, address, frame, key, mac, session, vni};

const SEALED: u32 = 1;
const PLAIN: u32 = 2;

/// So many hosts, each with a station in the sealed network (port 0) and one in the plain one (port 1).
fn world(hosts: usize, seed: u64) -> World {
    World::with_sealed(&vec![&[SEALED, PLAIN][..]; hosts], &[SEALED], Faults::default(), seed)
}

/// What a host calls another one.
fn peer(world: &World, host: usize, other: usize) -> VtepId {
    let tables = world.hosts[host].switch.tables();
    tables.topology.peers.exact(address(other)).expect("they know each other")
}

/// A datagram of one host for another, sealed by its own key as the host itself would.
fn sealed_by(world: &World, from: usize, to: usize, packet: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; HEADER_LEN][..], packet, &[0; TAG_LEN]].concat();
    let tables = world.hosts[from].switch.tables();
    let vtep = tables.topology.peers.peer(peer(world, from, to)).expect("as above");
    vtep.sealer.as_ref().expect("each has a key for each").seal(&mut datagram).expect("a new key");
    datagram
}

#[test]
fn frames_pass_and_the_wire_shows_nothing_of_them() {
    let mut world = world(2, 21);
    let hello = frame(MacAddr::BROADCAST, mac(0, 0), 0x0123_4567_89ab_cdef);
    let answer = frame(mac(0, 0), mac(1, 0), 0x0123_4567_89ab_cdef);
    world.send(0, 0, &hello);
    world.send(1, 0, &answer);
    world.send(0, 0, &hello);
    let want = [(1, 0, hello.clone()), (0, 0, answer.clone()), (1, 0, hello.clone())];
    assert_eq!(world.take_delivered(), want);
    assert_eq!(world.sent.len(), 3);
    for (_, _, datagram) in &world.sent {
        assert_eq!(datagram.len(), hello.len() + vxlan::HEADER_LEN + envelope::OVERHEAD);
        assert!(vxlan::parse(datagram).is_err(), "no other VXLAN receiver takes it for a frame");
        let clear = [&vxlan::emit(vni(SEALED))[..], &hello, &answer].concat();
        let shown =
            clear.windows(4).find(|part| datagram[HEADER_LEN..].windows(4).any(|window| window == *part));
        assert_eq!(shown, None);
    }
    assert_ne!(world.sent[0].2[HEADER_LEN..], world.sent[2].2[HEADER_LEN..], "one frame, twice");
    assert_eq!(world.drops(0).len() + world.drops(1).len(), 0);
}

#[test]
fn a_clear_frame_neither_leaves_nor_enters() {
    let mut world = world(2, 22);
    let inner = frame(MacAddr::BROADCAST, mac(1, 0), 1);
    world.receive(0, address(1), &[&vxlan::emit(vni(SEALED))[..], &inner].concat());
    assert_eq!(world.take_delivered(), []);
    assert_eq!(world.drops(0), [("clear-refused", 1)]);
    assert_eq!(world.hosts[0].switch.report().fdb_entries, 0, "nothing was learnt of it");

    let to = peer(&world, 0, 1);
    world.hosts[0].switch.set_sealer(to, None).expect("a peer");
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 2));
    world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 3));
    assert_eq!((world.take_delivered(), world.datagrams), (vec![], 0));
    assert_eq!(world.drops(0), [("no-session", 2), ("clear-refused", 1)]);
}

#[test]
fn a_sealed_frame_does_not_enter_a_plain_network() {
    let mut world = world(2, 23);
    let inner = frame(MacAddr::BROADCAST, mac(1, 1), 1);
    let packet = [&vxlan::emit(vni(PLAIN))[..], &inner].concat();
    let datagram = sealed_by(&world, 1, 0, &packet);
    world.receive(0, address(1), &datagram);
    assert_eq!((world.take_delivered(), world.drops(0)), (vec![], vec![("sealed-refused", 1)]));
    world.receive(0, address(1), &packet);
    assert_eq!(world.take_delivered(), [(0, 1, inner)]);
}

#[test]
fn replays_flipped_bits_and_truncations_are_refused_and_counted() {
    let mut world = world(2, 24);
    let hello = frame(MacAddr::BROADCAST, mac(1, 0), 1);
    world.wire.partition(0, 1);
    world.send(1, 0, &hello);
    let (_, _, whole) = world.sent.pop().expect("the wire lost it, but it was sent");

    for len in 1..whole.len() {
        world.receive(0, address(1), &whole[..len]);
    }
    let (short, cut) = (envelope::OVERHEAD as u64 - 1, (whole.len() - envelope::OVERHEAD) as u64);
    assert_eq!(world.drops(0), [("sealed-truncated", short), ("forged", cut)]);

    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 0x80 >> (bit % 8);
        world.receive(0, address(1), &flipped);
    }
    // A flipped kind is no VXLAN header either, a flipped session nobody's; the rest is for the tag to find.
    let flipped = (whole.len() as u64 - 4) * 8;
    let want =
        [("vxlan-flags", 8), ("sealed-truncated", short), ("unknown-session", 24), ("forged", cut + flipped)];
    assert_eq!(world.drops(0), want);
    assert_eq!(world.take_delivered(), []);
    assert_eq!(world.hosts[0].switch.report().fdb_entries, 0, "nothing was learnt of them");

    // Whoever it comes through: the key says whose it is.
    world.receive(0, "198.51.100.1:4789".parse().expect("an address"), &whole);
    assert_eq!(world.take_delivered(), [(0, 0, hello)]);
    for _ in 0..3 {
        world.receive(0, address(1), &whole);
    }
    assert_eq!(world.take_delivered(), []);
    assert!(world.drops(0).contains(&("replayed", 3)), "{:?}", world.drops(0));
}

#[test]
fn a_peer_is_held_to_its_networks_and_to_the_format() {
    let mut world = World::with_sealed(&[&[1, 3], &[1], &[3]], &[1, 3], Faults::default(), 25);
    let inner = frame(MacAddr::BROADCAST, mac(1, 0), 1);
    for packet in [
        &[&vxlan::emit(vni(3))[..], &inner].concat()[..],
        &[&vxlan::emit(vni(9))[..], &inner].concat(),
        &vxlan::emit(vni(1))[..7],
        &[],
        &[0; 8],
        &[&vxlan::emit(vni(1))[..], &inner[..13]].concat(),
        // Sealed twice.
        &sealed_by(&world, 1, 0, &[&vxlan::emit(vni(1))[..], &inner].concat()),
    ] {
        let datagram = sealed_by(&world, 1, 0, packet);
        world.receive(0, address(1), &datagram);
    }
    assert_eq!(world.take_delivered(), []);
    let want = [
        ("frame-truncated", 1),
        ("vxlan-truncated", 2),
        ("vxlan-flags", 2),
        ("unknown-vni", 1),
        ("peer-not-in-vni", 1),
    ];
    assert_eq!(world.drops(0), want);
}

#[test]
fn flooding_seals_a_copy_for_each_peer() {
    let mut world = World::with_sealed(&[&[1, 1], &[1], &[1], &[1]], &[1], Faults::default(), 26);
    let hello = frame(MacAddr::BROADCAST, mac(0, 0), 7);
    let without = peer(&world, 0, 2);
    world.send(0, 0, &hello);
    let everybody =
        [(0, 1, hello.clone()), (1, 0, hello.clone()), (2, 0, hello.clone()), (3, 0, hello.clone())];
    assert_eq!(sorted(world.take_delivered()), everybody);
    assert_eq!(world.datagrams, 3);
    let network = world.hosts[0].switch.report().networks[0].1;
    assert_eq!((network.sent_frames, network.sent_bytes), (4, 4 * hello.len() as u64));

    // One that can't have it does not keep it from the others.
    world.hosts[0].switch.set_sealer(without, None).expect("a peer");
    world.send(0, 0, &hello);
    let delivered = sorted(world.take_delivered());
    assert_eq!(delivered, [everybody[0].clone(), everybody[1].clone(), everybody[3].clone()]);
    assert_eq!(world.drops(0), [("no-session", 1)]);
}

#[test]
fn a_renewed_key_loses_nothing_that_is_on_its_way() {
    let faults = Faults { delay: Duration::from_millis(10), ..Faults::default() };
    let mut world = World::with_sealed(&[&[1], &[1]], &[1], faults, 27);
    let (sender, receiver) = (peer(&world, 1, 0), peer(&world, 0, 1));
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 1));

    let opener = Opener::new(&key(0, 1, 1), session(0, 1));
    world.hosts[1].switch.add_opener(sender, Arc::new(opener)).expect("room for the next");
    let sealer = Sealer::new(&key(0, 1, 1), session(0, 1));
    world.hosts[0].switch.set_sealer(receiver, Some(Arc::new(sealer))).expect("a peer");
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 2));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.take_delivered().len(), 2);

    assert!(world.hosts[1].switch.remove_opener(session(0, 0)));
    assert!(!world.hosts[1].switch.remove_opener(session(0, 0)), "it is gone");
    let (_, _, old) = world.sent[0].clone();
    world.receive(1, address(0), &old);
    assert_eq!(world.drops(1), [("unknown-session", 1)]);
    world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 3));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.take_delivered().len(), 1);
}

#[test]
fn a_used_up_key_sends_nothing_more_and_keeps_no_buffer() {
    let mut world = World::with_sealed(&[&[1], &[1]], &[1], Faults::default(), 29);
    world.send(1, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 0));
    let to = peer(&world, 0, 1);
    let sealer = Sealer::limited(&key(0, 1, 0), session(0, 0), 12);
    world.hosts[0].switch.set_sealer(to, Some(Arc::new(sealer))).expect("a peer");
    world.take_delivered();
    world.sent.clear();
    for n in 0..2 {
        world.send(0, 0, &frame(mac(1, 0), mac(0, 0), n));
    }
    // Of a run that the key does not last for, nothing goes out; what is left of it serves ten others.
    let (bytes, offload) = super_frame(&[0x5a; 20_000], 1_000);
    for _ in 0..100 {
        world.send_offload(0, 0, &bytes, offload);
        world.send(0, 0, &frame(mac(1, 0), mac(0, 0), 3));
        world.send(0, 0, &frame(MacAddr::BROADCAST, mac(0, 0), 4));
    }
    assert_eq!(world.drops(0), [("key-used-up", 100 + 190)]);
    assert_eq!(world.take_delivered().len(), 12);
    assert!(
        world.sent.len() == 12 && world.sent.iter().all(|(_, _, datagram)| envelope::is_sealed(datagram))
    );
}

/// A TCP super-frame with an unfinished checksum, as a TAP gives it.
fn super_frame(payload: &[u8], size: u16) -> (Vec<u8>, Offload) {
    let builder = PacketBuilder::ethernet2(mac(0, 0).0, mac(1, 0).0)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40_000, 5_201, 1, 512)
        .ack(1);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).expect("a vector takes it");
    let gso = Gso { kind: GsoKind::Tcp4, size, header_len: 54, ecn: false };
    (bytes, Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: Some(gso) })
}

#[test]
fn super_frames_arrive_as_they_do_in_clear() {
    let payload: Vec<u8> = (0..=250).cycle().take(60_000).collect();
    for (size, known) in [(1_368, true), (1_368, false), (536, false), (88, true)] {
        let outcome = [&[][..], &[SEALED]].map(|sealed| {
            let mut world = World::with_sealed(&[&[SEALED][..]; 3], sealed, Faults::default(), 28);
            if known {
                world.send(1, 0, &frame(MacAddr::BROADCAST, mac(1, 0), 0));
                world.take_delivered();
            }
            let (bytes, offload) = super_frame(&payload, size);
            world.sent.clear();
            world.send_offload(0, 0, &bytes, offload);
            assert!((0..3).all(|host| world.drops(host).is_empty()));
            let shows = |datagram: &[u8]| datagram.windows(8).any(|window| window == &payload[..8]);
            let shown = world.sent.iter().any(|(_, _, datagram)| shows(datagram));
            assert_eq!(shown, sealed.is_empty(), "a payload is seen in clear only");
            (world.take_delivered(), world.datagrams)
        });
        assert_eq!(outcome[0], outcome[1], "segments of {size}, destination known: {known}");
        let segments = payload.len().div_ceil(size.into());
        assert_eq!(outcome[0].0.len(), if known { segments } else { 2 * segments });
    }
}
