//! There and back: TCP, UDP, echoes, super-frames, fragments; who gets what.

use std::collections::BTreeMap;

use etherparse::IpNumber;
use vswitchd_switch::balance::TaskState;
use vswitchd_switch::drops::DropReason;
use vswitchd_switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};

use crate::frames::{ACK, FAMILIES, Numbers, PSH, SYN, V4, V6, Way, ip, mac};
use crate::world::{At, VIP, World, service, task, vni};

const SYN_ONLY: Numbers = Numbers { flags: SYN, sequence: 1_000, acknowledgment: 0 };
const DATA: Numbers = Numbers { flags: ACK | PSH, sequence: 2_000, acknowledgment: 3_000 };

#[test]
fn tcp_goes_to_the_task_and_comes_back_from_the_service() {
    for family in FAMILIES {
        let (mut world, ports) = (World::new(&[3]), [4_000, 80]);
        for (numbers, payload) in [(SYN_ONLY, &b""[..]), (DATA, b"request")] {
            let sent = world.send(1, &Way(family, 1, VIP).tcp(ports, numbers, payload));
            assert_eq!(sent, [(At::Peer, Way(family, 1, 3).tcp(ports, numbers, payload))]);
            let answer = Way(family, 3, 1).tcp([80, 4_000], numbers, b"answer");
            let got = world.receive(&answer);
            assert_eq!(got, [(At::Port(1), Way(family, VIP, 1).tcp([80, 4_000], numbers, b"answer"))]);
        }
        // Another port of the client to the same task, directly: it stays as it is.
        let direct = Way(family, 1, 3).tcp([4_001, 80], SYN_ONLY, b"");
        assert_eq!(world.send(1, &direct), [(At::Peer, direct.clone())]);
        let answer = Way(family, 3, 1).tcp([80, 4_001], DATA, b"");
        assert_eq!(world.receive(&answer), [(At::Port(1), answer.clone())]);
        assert_eq!(world.dropped(), []);
        assert_eq!(world.switch.report().flows.flows, 1);
    }
}

#[test]
fn a_task_of_this_host_answers_through_the_switch_alone() {
    for family in FAMILIES {
        let mut world = World::new(&[2]);
        let sent = world.send(1, &Way(family, 1, VIP).udp([4_000, 53], b"question"));
        assert_eq!(sent, [(At::Port(2), Way(family, 1, 2).udp([4_000, 53], b"question"))]);
        let got = world.send(2, &Way(family, 2, 1).udp([53, 4_000], b"answer"));
        assert_eq!(got, [(At::Port(1), Way(family, VIP, 1).udp([53, 4_000], b"answer"))]);
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let mut world = World::new(&[3]);
    let sent = world.send(1, &Way(V4, 1, VIP).bare_udp([1, 2], b"odd"));
    assert_eq!(sent, [(At::Peer, Way(V4, 1, 3).bare_udp([1, 2], b"odd"))]);
}

#[test]
fn echoes_are_answered_by_a_task() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        let sent = world.send(1, &Way(family, 1, VIP).echo(false, 77));
        assert_eq!(sent, [(At::Peer, Way(family, 1, 3).echo(false, 77))]);
        let got = world.receive(&Way(family, 3, 1).echo(true, 77));
        assert_eq!(got, [(At::Port(1), Way(family, VIP, 1).echo(true, 77))]);
        // The task's own question is none of the service's.
        let own = Way(family, 3, 1).echo(false, 77);
        assert_eq!(world.receive(&own), [(At::Port(1), own.clone())]);
    }
}

/// A super-frame of TCP with an unfinished checksum, and how it is to be cut.
fn super_frame(way: Way, payload: &[u8]) -> (Vec<u8>, Offload) {
    let mut frame = way.tcp([4_000, 80], DATA, payload);
    way.unfinish(&mut frame, 16);
    let kind = if way.0 == V4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 };
    let start = u16::try_from(way.start()).unwrap();
    let gso = Gso { kind, size: 1_000, header_len: start + 20, ecn: false };
    (frame, Offload { checksum: Checksum::Partial { start, offset: 16 }, gso: Some(gso) })
}

#[test]
fn a_super_frame_stays_one() {
    let payload: Vec<u8> = (0..=255).cycle().take(20_000).collect();
    for family in FAMILIES {
        for (station, at) in [(3, At::Peer), (2, At::Port(2))] {
            let mut world = World::new(&[station]);
            let (frame, offload) = super_frame(Way(family, 1, VIP), &payload);
            let sent = world.send_with(1, &frame, offload);
            // To the peer it is one run of datagrams.
            assert!(at != At::Peer || world.entries == 1, "{} entries", world.entries);
            let mut direct = World::new(&[]);
            let (frame, offload) = super_frame(Way(family, 1, station), &payload);
            assert_eq!(sent, direct.send_with(1, &frame, offload), "as if it had been sent to the task");
            assert_eq!(sent.len(), 20);
            assert!(sent.iter().all(|sent| sent.0 == at));
        }
    }
}

#[test]
fn answers_are_joined_as_any_segments() {
    let segment = |way: Way, index: u32| {
        let numbers = Numbers { sequence: index * 1_000, flags: ACK, ..DATA };
        way.tcp([80, 4_000], numbers, &[7; 1_000])
    };
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        world.send(1, &Way(family, 1, VIP).tcp([4_000, 80], SYN_ONLY, b""));
        let run: Vec<_> = (0..10).map(|index| segment(Way(family, 3, 1), index)).collect();
        let got = world.receive_run(&run);
        assert_eq!(world.entries, 1, "one super-frame");
        let segments: Vec<_> = got.iter().map(|(at, frame)| (*at, &frame[way_start(family)..])).collect();
        let want: Vec<_> = (0..10).map(|index| segment(Way(family, VIP, 1), index)).collect();
        // Identifications count up where a super-frame is cut.
        let want: Vec<_> = want.iter().map(|frame| (At::Port(1), &frame[way_start(family)..])).collect();
        assert_eq!(segments, want);
    }
}

#[test]
fn datagrams_are_joined_and_a_kernels_super_frame_is_cut() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        world.send(1, &Way(family, 1, VIP).udp([4_000, 53], b""));
        let run = vec![Way(family, 3, 1).udp([53, 4_000], &[7; 500]); 10];
        let got = world.receive_run(&run);
        assert_eq!((world.entries, got.len()), (1, 10), "one super-frame of ten");
        let want = Way(family, VIP, 1).udp([53, 4_000], &[7; 500]);
        let same = |(_, frame): &(At, Vec<u8>)| frame[way_start(family)..] == want[way_start(family)..];
        assert!(got.iter().all(same));

        // What a kernel's vxlan device did not cut, for one that takes it whole and one that doesn't.
        for client in [1, 2] {
            world.send(client, &Way(family, client, VIP).tcp([4_000, 80], SYN_ONLY, b""));
            let payload: Vec<u8> = (0..=255).cycle().take(5_000).collect();
            let got = world.receive(&Way(family, 3, client).tcp([80, 4_000], DATA, &payload));
            let size = 1_450 - (way_start(family) - 14) - 20;
            assert_eq!((world.entries, got.len()), (if client == 1 { 1 } else { 4 }, 4));
            let parts = payload.chunks(size).zip((DATA.sequence..).step_by(size));
            for ((at, frame), (part, sequence)) in got.iter().zip(parts) {
                let flags = if sequence as usize + size < 7_000 { ACK } else { ACK | PSH };
                let numbers = Numbers { flags, sequence, ..DATA };
                let want = Way(family, VIP, client).tcp([80, 4_000], numbers, part);
                assert_eq!((*at, &frame[..12]), (At::Port(client), &want[..12]));
                assert_eq!(frame[way_start(family)..], want[way_start(family)..]);
            }
        }
    }
}

fn way_start(family: crate::frames::Family) -> usize {
    Way(family, 0, 0).start()
}

#[test]
fn what_a_kernel_left_unfinished_is_finished_for_the_service() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        for client in [1, 2] {
            world.send(client, &Way(family, client, VIP).tcp([4_000, 80], SYN_ONLY, b""));
            let way = Way(family, 3, client);
            let mut answer = way.tcp([80, 4_000], DATA, b"unfinished");
            way.unfinish(&mut answer, 16);
            let want = Way(family, VIP, client).tcp([80, 4_000], DATA, b"unfinished");
            assert_eq!(world.receive(&answer), [(At::Port(client), want)]);
        }
    }
}

#[test]
fn damage_stays_visible() {
    let mut world = World::new(&[3]);
    let mut frame = Way(V4, 1, VIP).tcp([4_000, 80], DATA, b"payload");
    let mut want = Way(V4, 1, 3).tcp([4_000, 80], DATA, b"payload");
    for frame in [&mut frame, &mut want] {
        *frame.last_mut().unwrap() ^= 1;
    }
    assert_eq!(world.send(1, &frame), [(At::Peer, want)]);
}

#[test]
fn fragments_follow_their_first_both_ways() {
    let payload = [5; 100];
    for family in FAMILIES {
        let mut world = World::new(&[3, 4, 5]);
        let there = Way(family, 1, VIP).udp_fragments([4_000, 53], 9, &payload);
        let sent: Vec<_> = there.iter().flat_map(|part| world.send(1, part)).collect();
        let station = sent[0].1[5];
        let want = Way(family, 1, station).udp_fragments([4_000, 53], 9, &payload);
        assert_eq!(sent, want.map(|part| (At::Peer, part)));
        let back = Way(family, station, 1).udp_fragments([53, 4_000], 10, &payload);
        let got: Vec<_> = back.iter().flat_map(|part| world.receive(part)).collect();
        let want = Way(family, VIP, 1).udp_fragments([53, 4_000], 10, &payload);
        assert_eq!(got, want.map(|part| (At::Port(1), part)));
        // A later one alone belongs to nobody.
        let [_, lost] = Way(family, 1, VIP).udp_fragments([4_000, 53], 11, &payload);
        assert_eq!(world.send(1, &lost), []);
        assert_eq!(world.dropped(), [(DropReason::FragmentUnknown, 1)]);
    }
}

#[test]
fn flows_are_spread_evenly_and_stay_where_they_are() {
    // Few enough that none has to make room: a group of eight is full once in 50,000 runs.
    const FLOWS: u16 = 4_000;
    let (mut world, mut shares) = (World::new(&[2, 3, 4, 5]), BTreeMap::new());
    let task_of = |world: &mut World, port: u16, numbers| {
        let sent = world.send(1, &Way(V4, 1, VIP).tcp([port, 80], numbers, b""));
        assert_eq!(sent.len(), 1, "flow {port}");
        sent[0].1[5]
    };
    let first: Vec<u8> = (0..FLOWS).map(|port| task_of(&mut world, port, SYN_ONLY)).collect();
    first.iter().for_each(|&station| *shares.entry(station).or_insert(0_i32) += 1);
    assert_eq!(shares.len(), 4);
    // Four deviations of a binomial distribution: 4 * sqrt(4,000 * 1/4 * 3/4).
    assert!(shares.values().all(|&share| (share - 1_000).abs() <= 110), "{shares:?}");
    world.serve(service(VIP, &[2, 3, 4, 5, 1]));
    for port in 0..FLOWS {
        assert_eq!(task_of(&mut world, port, DATA), first[usize::from(port)], "a new task takes no old flow");
    }
    let counts = world.switch.report().flows;
    assert_eq!((counts.flows, counts.opened, counts.evicted), (FLOWS.into(), FLOWS.into(), 0));
    // A switch that knows nothing of them, as after a restart, finds the same tasks.
    let mut again = World::new(&[2, 3, 4, 5]);
    for port in 0..FLOWS {
        assert_eq!(task_of(&mut again, port, DATA), first[usize::from(port)]);
    }
}

#[test]
fn a_draining_task_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::new(&[3]);
    world.send(1, &Way(V4, 1, VIP).tcp([1, 80], SYN_ONLY, b""));
    let mut spec = service(VIP, &[4]);
    spec.tasks.push(task(3, TaskState::Draining));
    world.serve(spec);
    assert_eq!(world.turn(), []);
    for (port, station) in [(1, 3), (2, 4), (3, 4), (4, 4)] {
        let sent = world.send(1, &Way(V4, 1, VIP).tcp([port, 80], DATA, b""));
        assert_eq!(sent, [(At::Peer, Way(V4, 1, station).tcp([port, 80], DATA, b""))]);
    }
}

#[test]
fn two_services_with_one_task_never_share_a_flow() {
    let mut world = World::new(&[3]);
    world.serve(service(101, &[3, 4]));
    for port in 0..50 {
        world.send(1, &Way(V4, 1, VIP).tcp([port, 80], SYN_ONLY, b""));
        let sent = world.send(1, &Way(V4, 1, 101).tcp([port, 80], SYN_ONLY, b""));
        assert_eq!(
            sent,
            [(At::Peer, Way(V4, 1, 4).tcp([port, 80], SYN_ONLY, b""))],
            "task 3 has that flow already"
        );
        for (station, service) in [(3, VIP), (4, 101)] {
            let got = world.receive(&Way(V4, station, 1).tcp([80, port], DATA, b""));
            assert_eq!(got, [(At::Port(1), Way(V4, service, 1).tcp([80, port], DATA, b""))]);
        }
    }
}

#[test]
fn what_has_no_flow_is_counted() {
    let mut world = World::new(&[3]);
    let tagged = |frame: Vec<u8>| [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
    let mut strange = Way(V4, 1, VIP).udp([1, 2], b"");
    strange[30..34].copy_from_slice(&[10, 0, 0, 77]);
    for frame in [
        tagged(Way(V4, 1, VIP).udp([1, 2], b"")),
        strange,
        Way(V4, 1, VIP).packet(IpNumber::GRE, &[0; 20]),
        Way(V6, 1, VIP).packet(IpNumber::TCP, &[0; 19]),
        Way(V4, 1, VIP).echo(true, 1),
        Way(V4, 1, VIP).no_port(&Way(V4, VIP, 1).udp([1, 2], b"")),
    ] {
        assert_eq!(world.send(1, &frame), []);
    }
    assert_eq!(world.dropped(), [(DropReason::NotBalanced, 6)]);
}

#[test]
fn a_service_is_for_clients_of_this_host() {
    let mut world = World::new(&[3, 2]);
    assert_eq!(world.receive(&Way(V4, 4, VIP).tcp([1, 80], SYN_ONLY, b"")), []);
    assert_eq!(world.dropped(), [(DropReason::NotForPeers, 1)]);
}

#[test]
fn nobody_else_has_a_services_addresses() {
    use vswitchd_switch::balance::ServiceError;
    use vswitchd_switch::fdb::Place;
    use vswitchd_switch::tables::TableError;
    let world = World::new(&[3]);
    let port = world.switch.report().ports[0].id;
    let announce =
        |station, addresses: &[_]| world.switch.announce(vni(), mac(station), addresses, Place::Port(port));
    assert_eq!(announce(VIP, &[]), Err(TableError::OfService(mac(VIP))));
    assert_eq!(announce(7, &[ip(V4, VIP)]), Err(TableError::OfService(mac(VIP))));
    assert!(!world.switch.withdraw(vni(), mac(VIP)));
    let refused = |number, own: u8| {
        let mut spec = service(number, &[]);
        spec.mac = mac(own);
        world.switch.set_service(vni(), spec).unwrap_err()
    };
    assert_eq!(refused(101, 3), ServiceError::MacInUse(mac(3)));
    assert_eq!(refused(4, 101), ServiceError::AddressInUse(ip(V4, 4)));
    assert_eq!(refused(VIP, 101), ServiceError::AddressInUse(ip(V4, VIP)));
    assert!(world.switch.remove_service(vni(), mac(VIP)) && !world.switch.remove_service(vni(), mac(VIP)));
    assert_eq!(announce(7, &[ip(V4, VIP)]), Ok(()));
}
