use etherparse::{Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Solicited-node address of [`B6`].
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2);
const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];

fn ask(frame: &[u8]) -> Option<Question> {
    question(frame, &ethernet::Header::parse(frame).unwrap())
}

fn arp_request(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: ASKER.0,
        sender_ipv4: sender,
        target_mac: [0; 6],
        target_ipv4: target,
    };
    [&ethernet_header(MacAddr::BROADCAST, ASKER, EtherType::ARP)[..], &arp.to_bytes()].concat()
}

/// A solicitation for [`B6`] with the given options; etherparse makes its checksum.
fn solicitation_from(source: Ipv6Addr, destination: Ipv6Addr, hop_limit: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ASKER.0, [0x33, 0x33, 0xff, 0, 0, 2])
        .ipv6(source.octets(), destination.octets(), hop_limit)
        .icmpv6_raw(TYPE_SOLICITATION, 0, [0; 4])
        .write(&mut frame, body)
        .unwrap();
    frame
}

fn body(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&target.octets()[..], options].concat()
}

fn plain_solicitation() -> Vec<u8> {
    solicitation_from(A6, GROUP, 255, &body(B6, &SOURCE_OPTION))
}

fn answered(question: Question) -> Vec<u8> {
    let mut out = [0xaa; ANSWER_MAX];
    let len = question.answer(OWNER, &mut out);
    out[..len].to_vec()
}

#[test]
fn an_arp_request_is_answered() {
    let question = ask(&arp_request(A4, B4)).unwrap();
    assert_eq!((question.target, question.asker), (IpAddr::from(B4), ASKER));
    let answer = answered(question);
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Arp(arp)) = packet.net else {
        panic!("not ARP");
    };
    assert_eq!(arp.operation(), ArpOperation::REPLY);
    assert_eq!((arp.sender_hw_addr(), arp.sender_protocol_addr()), (&OWNER.0[..], &B4[..]));
    assert_eq!((arp.target_hw_addr(), arp.target_protocol_addr()), (&ASKER.0[..], &A4[..]));
    let header = ethernet::Header::parse(&answer).unwrap();
    assert_eq!((header.destination, header.source), (ASKER, OWNER));
    assert_eq!(answer.len(), 42);
}

#[test]
fn an_arp_probe_is_a_question_and_gratuitous_arp_is_none() {
    assert!(ask(&arp_request([0; 4], B4)).is_some());
    assert_eq!(ask(&arp_request(B4, B4)), None);
}

#[test]
fn other_arp_is_no_question() {
    // Hardware type, protocol, address lengths, operation, sender; then a station's address as destination.
    for (at, value) in [(15, 6), (16, 0x86), (18, 8), (19, 16), (21, 2), (27, 9), (0, 2)] {
        let mut frame = arp_request(A4, B4);
        frame[at] = value;
        frame.resize(120, 0);
        assert_eq!(ask(&frame), None, "byte {at} = {value}");
    }
}

#[test]
fn tagged_frames_are_left_to_their_network() {
    for frame in [arp_request(A4, B4), plain_solicitation()] {
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 5]);
        assert!(ask(&frame).is_some());
        assert_eq!(ask(&tagged), None);
    }
}

/// Checks an advertisement with etherparse; gives its destination and whether it is said to be solicited.
fn check_advertisement(answer: &[u8]) -> (MacAddr, Ipv6Addr, bool) {
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let Some(NetSlice::Ipv6(ip)) = packet.net else {
        panic!("not IPv6");
    };
    let ip = ip.header();
    assert_eq!((ip.source_addr(), ip.hop_limit()), (B6, 255));
    let Some(TransportSlice::Icmpv6(message)) = packet.transport else {
        panic!("not ICMPv6");
    };
    assert!(message.is_checksum_valid(ip.source(), ip.destination()));
    let Icmpv6Type::NeighborAdvertisement(flags) = message.icmp_type() else {
        panic!("not an advertisement");
    };
    assert!(flags.r#override && !flags.router);
    assert_eq!(message.payload()[..16], B6.octets());
    assert_eq!(message.payload()[16..], [2, 1, 2, 0, 0, 0, 0, 2]);
    let header = ethernet::Header::parse(answer).unwrap();
    assert_eq!(header.source, OWNER);
    (header.destination, ip.destination_addr(), flags.solicited)
}

#[test]
fn a_solicitation_is_answered() {
    for options in [&SOURCE_OPTION[..], &[]] {
        let question = ask(&solicitation_from(A6, GROUP, 255, &body(B6, options))).unwrap();
        assert_eq!((question.target, question.asker), (IpAddr::from(B6), ASKER));
        assert_eq!(check_advertisement(&answered(question)), (ASKER, A6, true));
    }
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let question = ask(&solicitation_from(Ipv6Addr::UNSPECIFIED, GROUP, 255, &body(B6, &[]))).unwrap();
    assert_eq!(check_advertisement(&answered(question)), (ALL_NODES_MAC, ALL_NODES, false));
}

#[test]
fn solicitations_that_receivers_discard_are_no_questions() {
    let none = Ipv6Addr::UNSPECIFIED;
    for (name, frame) in [
        ("forwarded", solicitation_from(A6, GROUP, 254, &body(B6, &[]))),
        ("target is a group", solicitation_from(A6, GROUP, 255, &body(GROUP, &[]))),
        ("target is nobody", solicitation_from(A6, GROUP, 255, &body(none, &[]))),
        ("target truncated", solicitation_from(A6, GROUP, 255, &B6.octets()[..15])),
        ("target is the asker", solicitation_from(B6, GROUP, 255, &body(B6, &[]))),
        ("asker is a group", solicitation_from(GROUP, GROUP, 255, &body(B6, &[]))),
        ("empty option", solicitation_from(A6, GROUP, 255, &body(B6, &[1, 0, 0, 0, 0, 0, 0, 0]))),
        ("option too long", solicitation_from(A6, GROUP, 255, &body(B6, &[1, 2, 2, 0, 0, 0, 0, 1]))),
        ("another's address", solicitation_from(A6, GROUP, 255, &body(B6, &[1, 1, 2, 0, 0, 0, 0, 9]))),
        ("no source, but its address", solicitation_from(none, GROUP, 255, &body(B6, &SOURCE_OPTION))),
        ("no source, to all nodes", solicitation_from(none, ALL_NODES, 255, &body(B6, &[]))),
    ] {
        assert_eq!(ask(&frame), None, "{name}");
    }
    for (name, at) in [("type", 54), ("code", 55), ("checksum", 56)] {
        let mut frame = plain_solicitation();
        frame[at] ^= 1;
        assert_eq!(ask(&frame), None, "{name}");
    }
}

#[test]
fn every_truncation_is_no_question() {
    for frame in [arp_request(A4, B4), plain_solicitation()] {
        let header = ethernet::Header::parse(&frame).unwrap();
        for len in 0..frame.len() {
            assert_eq!(question(&frame[..len], &header), None, "{len} bytes");
        }
        let mut padded = frame.clone();
        padded.resize(frame.len() + 20, 0);
        assert_eq!(question(&padded, &header), question(&frame, &header));
    }
}

proptest! {
    #[test]
    fn arbitrary_damage_never_panics(
        six in any::<bool>(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut frame = if six { plain_solicitation() } else { arp_request(A4, B4) };
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(question) = ask(&frame) {
            prop_assert!(SlicedPacket::from_ethernet(&answered(question)).is_ok());
        }
    }
}
