//! A client that is a task of the service, and its own.

use crate::frames::{ACK, FAMILIES, Numbers, SYN, Way};
use crate::world::{At, VIP, World};

const THERE: [u16; 2] = [4_000, 80];
const BACK: [u16; 2] = [80, 4_000];

#[test]
fn it_hears_from_the_service_and_answers_there() {
    for family in FAMILIES {
        for station in [1, 2] {
            let mut world = World::new(&[station]);
            let (sent, own) = (Way(family, station, VIP), Way(family, VIP, station));
            let syn = Numbers { flags: SYN, sequence: 1, acknowledgment: 0 };
            let (ack, back) = (Numbers { flags: ACK, ..syn }, Numbers { flags: SYN | ACK, ..syn });
            for (ports, numbers) in [(THERE, syn), (BACK, back), (THERE, ack), (BACK, ack)] {
                let got = world.send(station, &sent.tcp(ports, numbers, b"hairpin"));
                assert_eq!(got, [(At::Port(station), own.tcp(ports, numbers, b"hairpin"))]);
            }
            assert_eq!((world.switch.report().flows.flows, world.dropped()), (1, vec![]));
        }
    }
}

#[test]
fn its_errors_and_echoes_come_back_too() {
    for family in FAMILIES {
        let mut world = World::new(&[1]);
        let (there, own) = (Way(family, 1, VIP), Way(family, VIP, 1));
        let got = world.send(1, &there.udp(THERE, b"question"));
        assert_eq!(got, [(At::Port(1), own.udp(THERE, b"question"))]);
        // Nobody listens: the kernel says so to who seems to have asked.
        let got = world.send(1, &there.no_port(&own.udp(THERE, b"question")));
        assert_eq!(got, [(At::Port(1), own.no_port(&there.udp(THERE, b"question")))]);
        assert_eq!(world.send(1, &there.echo(false, 8)), [(At::Port(1), own.echo(false, 8))]);
        assert_eq!(world.send(1, &there.echo(true, 8)), [(At::Port(1), own.echo(true, 8))]);
    }
}

#[test]
fn its_fragments_come_back_too() {
    for family in FAMILIES {
        let mut world = World::new(&[1]);
        let payload = [9; 64];
        for (ports, id) in [(THERE, 1), (BACK, 2)] {
            let parts = Way(family, 1, VIP).udp_fragments(ports, id, &payload);
            let got: Vec<_> = parts.iter().flat_map(|part| world.send(1, part)).collect();
            let want = Way(family, VIP, 1).udp_fragments(ports, id, &payload);
            assert_eq!(got, want.map(|part| (At::Port(1), part)));
        }
    }
}

#[test]
fn a_task_that_is_a_client_of_others_is_their_client_only() {
    for family in FAMILIES {
        let mut world = World::new(&[1, 3]);
        let mut places = std::collections::BTreeSet::new();
        for port in 1_000..1_100 {
            let sent = world.send(1, &Way(family, 1, VIP).udp([port, 80], b""));
            let (at, frame) = &sent[0];
            let want = match at {
                At::Peer => Way(family, 1, 3).udp([port, 80], b""),
                At::Port(_) => Way(family, VIP, 1).udp([port, 80], b""),
            };
            assert_eq!((sent.len(), frame), (1, &want));
            places.insert(*at);
        }
        assert_eq!(Vec::from_iter(places), [At::Port(1), At::Peer]);
    }
}
