//! ICMP errors about balanced flows, and questions for a service's neighbours.

use etherparse::{ArpEthIpv4Packet, ArpOperation};

use crate::frames::{FAMILIES, Numbers, SYN, V4, V6, Way, ip, mac};
use crate::world::{At, VIP, World, said};

const PORTS: [u16; 2] = [4_000, 53];
const BACK: [u16; 2] = [53, 4_000];

#[test]
fn an_error_of_the_task_comes_from_the_service_about_what_was_sent_there() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        let question = |to| Way(family, 1, to).udp(PORTS, b"question");
        world.send(1, &question(VIP));
        let got = world.receive(&Way(family, 3, 1).no_port(&question(3)));
        assert_eq!(got, [(At::Port(1), Way(family, VIP, 1).no_port(&question(VIP)))]);
        // About another flow, it stays as it is.
        let other = Way(family, 1, 3).udp([4_001, 53], b"question");
        let error = Way(family, 3, 1).no_port(&other);
        assert_eq!(world.receive(&error), [(At::Port(1), error.clone())]);
    }
}

#[test]
fn an_error_of_a_router_keeps_its_sender() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        let syn = Numbers { flags: SYN, ..Numbers::default() };
        let packet = |to| Way(family, 1, to).tcp([1, 80], syn, &[1; 100]);
        world.send(1, &packet(VIP));
        let got = world.receive(&Way(family, 4, 1).too_big(1_300, &packet(3)[14..]));
        assert_eq!(got, [(At::Port(1), Way(family, 4, 1).too_big(1_300, &packet(VIP)[14..]))]);
    }
}

#[test]
fn an_error_of_the_client_reaches_the_task() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        world.send(1, &Way(family, 1, VIP).udp(PORTS, b"question"));
        let answer = |from| Way(family, from, 1).udp(BACK, b"answer");
        assert_eq!(world.receive(&answer(3)), [(At::Port(1), answer(VIP))]);
        let sent = world.send(1, &Way(family, 1, VIP).no_port(&answer(VIP)));
        assert_eq!(sent, [(At::Peer, Way(family, 1, 3).no_port(&answer(3)))]);
    }
}

#[test]
fn an_error_about_an_echo_is_the_services_too() {
    for family in FAMILIES {
        let mut world = World::new(&[3]);
        let echo = |to| Way(family, 1, to).echo(false, 5);
        world.send(1, &echo(VIP));
        let got = world.receive(&Way(family, 3, 1).no_host(&echo(3)));
        assert_eq!(got, [(At::Port(1), Way(family, VIP, 1).no_host(&echo(VIP)))]);
    }
}

#[test]
fn a_quote_cut_behind_its_ports_is_enough() {
    let mut world = World::new(&[3]);
    let tcp = |to| Way(V4, 1, to).tcp([1, 80], Numbers { flags: SYN, ..Numbers::default() }, &[1; 100]);
    world.send(1, &tcp(VIP));
    // 20 bytes of IPv4 and eight: RFC 792.
    let got = world.receive(&Way(V4, 3, 1).too_big(1_300, &tcp(3)[14..42]));
    assert_eq!(got, [(At::Port(1), Way(V4, VIP, 1).too_big(1_300, &tcp(VIP)[14..42]))]);
}

#[test]
fn what_is_too_big_for_the_path_is_said_in_the_services_name() {
    for family in FAMILIES {
        let payload = vec![1; 65_507];
        let packet = |to| Way(family, 1, to).udp(PORTS, &payload);
        // What is said where there is no service, of the MTU too.
        let direct = said(World::new(&[]).send(1, &packet(3)));
        let [(_, message)] = &direct[..] else { panic!("{} frames", direct.len()) };
        let start = Way(family, 3, 1).start();
        let mtu = u16::from_be_bytes([message[start + 6], message[start + 7]]);
        let quoted = message.len() - start - 8;
        let want = |from| Way(family, from, 1).too_big(mtu, &packet(from)[14..][..quoted]);
        assert_eq!(message, &want(3));
        assert_eq!(said(World::new(&[3]).send(1, &packet(VIP))), [(At::Port(1), want(VIP))]);
    }
}

fn arp(operation: ArpOperation, from: u8, to: u8, target_mac: [u8; 6]) -> Vec<u8> {
    let octets = |station| [10, 0, 0, station];
    let arp = ArpEthIpv4Packet {
        operation,
        sender_mac: mac(from).0,
        sender_ipv4: octets(from),
        target_mac,
        target_ipv4: octets(to),
    };
    [&mac(from).0[..], &[8, 6], &arp.to_bytes()].concat()
}

#[test]
fn the_switch_answers_for_a_services_addresses_whoever_asks_and_however() {
    let mut world = World::new(&[3]);
    let answer = [&mac(1).0[..], &arp(ArpOperation::REPLY, VIP, 1, mac(1).0)].concat();
    for to in [[0xff; 6], mac(VIP).0] {
        let question = [&to[..], &arp(ArpOperation::REQUEST, 1, VIP, [0; 6])].concat();
        assert_eq!(world.send(1, &question), [(At::Port(1), answer.clone())], "asked of {to:?}");
    }
    // Another address of the same MAC address it has not.
    let question = [&mac(VIP).0[..], &arp(ArpOperation::REQUEST, 1, 3, [0; 6])].concat();
    assert_eq!(world.send(1, &question), []);
    // What a kernel asks of a neighbour that it has not heard of for a while.
    let solicitation = solicitation(1, VIP);
    let got = world.send(1, &solicitation);
    assert_eq!(got.len(), 1);
    let (at, advertisement) = &got[0];
    assert_eq!((*at, &advertisement[..12]), (At::Port(1), &[mac(1).0, mac(VIP).0].concat()[..]));
    assert_eq!(advertisement[54], 136, "a neighbour advertisement");
}

/// A neighbour solicitation to the neighbour itself.
fn solicitation(from: u8, to: u8) -> Vec<u8> {
    use etherparse::{Icmpv6Header, Icmpv6Type, IpNumber};
    let (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) = (ip(V6, from), ip(V6, to)) else {
        unreachable!("as asked for")
    };
    let body = [&target.octets()[..], &[1, 1], &mac(from).0].concat();
    let kind = Icmpv6Type::Unknown { type_u8: 135, code_u8: 0, bytes5to8: [0; 4] };
    let icmp = Icmpv6Header::with_checksum(kind, source.octets(), target.octets(), &body).unwrap();
    let mut frame = Way(V6, from, to).packet(IpNumber::IPV6_ICMP, &[&icmp.to_bytes(), &body[..]].concat());
    frame[14 + 7] = 255;
    frame
}
