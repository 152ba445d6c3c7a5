use etherparse::{
    IpFragOffset, IpHeaders, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::wire::ethernet::Header;

const A: [u8; 6] = [0x02, 0x42, 10, 0, 0, 1];
const B: [u8; 6] = [0x02, 0x42, 10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn ethernet(ether_type: u16, packet: &[u8]) -> Vec<u8> {
    let mut frame = [B, A].concat();
    frame.extend(ether_type.to_be_bytes());
    frame.extend(packet);
    frame
}

fn find(frame: &[u8]) -> Option<Transport> {
    Transport::find(frame, &Header::parse(frame).unwrap())
}

fn entropy_of(frame: &[u8]) -> u32 {
    entropy(frame, &Header::parse(frame).unwrap(), find(frame).as_ref())
}

fn udp4(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(A, B)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(source_port, destination_port)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// IPv6 with the given next header and payload, which may start with extension headers.
fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: payload.len().try_into().unwrap(),
        next_header: IpNumber(next_header),
        hop_limit: 64,
        source: A6,
        destination: B6,
    };
    ethernet(0x86dd, &[&header.to_bytes()[..], payload].concat())
}

/// An extension header of `8 * units` bytes.
fn extension(next_header: u8, units: u8) -> Vec<u8> {
    let mut bytes = vec![0; 8 * usize::from(units)];
    bytes[0] = next_header;
    bytes[1] = units - 1;
    bytes
}

#[test]
fn every_truncation_of_an_ip_packet_is_no_transport() {
    let four = udp4(1, 2, b"payload");
    let six = v6(0, &[&extension(60, 1)[..], &extension(UDP, 2), &[0; 8]].concat());
    for frame in [&four, &six] {
        assert_eq!(find(frame).map(|transport| transport.end), Some(frame.len()));
        let header = Header::parse(frame).unwrap();
        for len in 0..frame.len() {
            assert_eq!(Transport::find(&frame[..len], &header), None, "{len} bytes");
            let _ = entropy(&frame[..len], &header, None);
        }
    }
}

#[test]
fn padding_is_not_of_the_packet() {
    let mut frame = udp4(1, 2, b"x");
    let len = frame.len();
    frame.resize(60, 0);
    let transport = find(&frame).unwrap();
    assert_eq!(transport, Transport { ip: IpVersion::V4, ip_start: 14, protocol: UDP, start: 34, end: len });
}

#[test]
fn lengths_that_contradict_are_refused() {
    let good = udp4(1, 2, b"payload");
    for (at, value) in [(14, 0x44), (14, 0x65), (14, 0x4f), (17, 19), (17, 0), (16, 1)] {
        let mut frame = good.clone();
        frame[at] = value;
        assert_eq!(find(&frame), None, "byte {at} = {value:#x}");
    }
    let mut jumbogram = v6(0, &[&extension(TCP, 1)[..], &[0; 20]].concat());
    jumbogram[18..20].fill(0);
    assert_eq!(find(&jumbogram), None);
}

#[test]
fn other_types_are_no_ip() {
    let mut frame = udp4(1, 2, b"");
    frame[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(find(&frame), None);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(find(&frame), None);
}

#[test]
fn extension_headers_are_walked_to_a_limit() {
    for count in 0..EXTENSIONS_MAX + 2 {
        let mut payload = Vec::new();
        for left in (0..count).rev() {
            payload.extend(extension(if left == 0 { TCP } else { 60 }, 1));
        }
        payload.extend([0; 20]);
        let frame = v6(if count == 0 { TCP } else { 60 }, &payload);
        let start = find(&frame).map(|transport| (transport.protocol, transport.start));
        let want = (count < EXTENSIONS_MAX).then_some((TCP, 14 + 40 + 8 * count));
        assert_eq!(start, want, "{count} extension headers");
    }
}

#[test]
fn a_routing_header_counts_once_it_is_used_up() {
    let mut routing = extension(TCP, 3);
    let frame = v6(43, &[&routing[..], &[0; 20]].concat());
    assert_eq!(find(&frame).map(|transport| transport.start), Some(14 + 40 + 24));
    routing[3] = 1;
    assert_eq!(find(&v6(43, &[&routing[..], &[0; 20]].concat())), None);
}

#[test]
fn an_authentication_header_is_the_transport() {
    let frame = v6(51, &[0; 44]);
    assert_eq!(find(&frame).map(|transport| transport.protocol), Some(51));
}

fn fragments4() -> Vec<Vec<u8>> {
    let payload = udp4(1000, 2000, &[7; 100]).split_off(34);
    let cuts = [(0, 40), (40, 80), (80, payload.len())];
    cuts.iter()
        .map(|&(from, to)| {
            let len = u16::try_from(to - from).unwrap();
            let mut ip = Ipv4Header::new(len, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            ip.dont_fragment = false;
            ip.identification = 99;
            ip.more_fragments = to != payload.len();
            ip.fragment_offset = IpFragOffset::try_new(u16::try_from(from / 8).unwrap()).unwrap();
            ethernet(0x0800, &[&ip.to_bytes()[..], &payload[from..to]].concat())
        })
        .collect()
}

fn fragments6() -> Vec<Vec<u8>> {
    [(0u16, 1u8), (40, 1), (80, 0)]
        .iter()
        .map(|&(at, more)| {
            let mut fragment = vec![UDP, 0];
            fragment.extend((at | u16::from(more)).to_be_bytes());
            fragment.extend([0, 0, 0, 9]);
            // The first eight bytes differ from fragment to fragment, as ports and payload do.
            fragment.extend(at.to_be_bytes().repeat(20));
            v6(44, &fragment)
        })
        .collect()
}

#[test]
fn fragments_of_a_packet_go_one_way() {
    for fragments in [fragments4(), fragments6()] {
        assert!(fragments.iter().all(|frame| find(frame).is_none()));
        let values: Vec<u32> = fragments.iter().map(|frame| entropy_of(frame)).collect();
        assert!(values.iter().all(|&value| value == values[0]), "{values:x?}");
    }
}

#[test]
fn a_flow_is_its_addresses_and_ports() {
    let one = entropy_of(&udp4(1000, 53, b"one"));
    assert_eq!(one, entropy_of(&udp4(1000, 53, b"another, longer")));
    assert_ne!(one, entropy_of(&udp4(1001, 53, b"one")));
    assert_ne!(one, entropy_of(&udp4(1000, 54, b"one")));
    let mut other_protocol = udp4(1000, 53, b"one");
    other_protocol[14 + field::ipv4::PROTOCOL] = TCP;
    assert_ne!(one, entropy_of(&other_protocol));
    let mut other_mac = udp4(1000, 53, b"one");
    other_mac[5] ^= 1;
    assert_eq!(one, entropy_of(&other_mac));
}

#[test]
fn echo_flows_are_told_apart_by_identifier() {
    let echo = |id, sequence| {
        let mut frame = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B).ipv6(A6, B6, 64);
        builder.icmpv6_echo_request(id, sequence).write(&mut frame, b"ping").unwrap();
        frame
    };
    assert_eq!(entropy_of(&echo(1, 1)), entropy_of(&echo(1, 2)));
    assert_ne!(entropy_of(&echo(1, 1)), entropy_of(&echo(2, 1)));
}

#[test]
fn others_are_told_apart_by_addresses_and_type() {
    let frame = |last, ether_type| {
        let mut frame = ethernet(ether_type, &[1; 28]);
        frame[11] = last;
        frame
    };
    assert_eq!(entropy_of(&frame(1, 0x0806)), entropy_of(&frame(1, 0x0806)));
    assert_ne!(entropy_of(&frame(1, 0x0806)), entropy_of(&frame(2, 0x0806)));
    assert_ne!(entropy_of(&frame(1, 0x0806)), entropy_of(&frame(1, 0x88cc)));
}

#[test]
fn neighbouring_ports_spread_over_few_buckets() {
    // 16 outer ports for 4096 consecutive inner ports: no bucket is far from its share of 256.
    let mut buckets = [0u32; 16];
    for port in 0..4096 {
        buckets[entropy_of(&udp4(40_000 + port, 443, b"")) as usize % 16] += 1;
    }
    assert!(buckets.iter().all(|&count| (180..340).contains(&count)), "{buckets:?}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_keep_the_invariant(
        bytes in vec(any::<u8>(), 0..200), version in 0u8..3, length in 0u8..120,
    ) {
        let mut frame = ethernet(if version == 1 { 0x0800 } else { 0x86dd }, &bytes);
        // Steer towards plausible headers: random ones hardly ever get past the first check.
        if bytes.len() > 8 && version > 0 {
            frame[14] = if version == 1 { 0x45 } else { 0x60 };
            let at = if version == 1 { 16 } else { 18 };
            (frame[at], frame[at + 1]) = (0, length);
            if version == 1 { (frame[20], frame[21]) = (0x40, 0) } else { frame[20] %= 64 }
        }
        let header = Header::parse(&frame).unwrap();
        let transport = Transport::find(&frame, &header);
        if let Some(transport) = &transport {
            prop_assert!(transport.ip_start + 20 <= transport.start && transport.start <= transport.end);
            prop_assert!(transport.end <= frame.len());
        }
        let _ = entropy(&frame, &header, transport.as_ref());
    }

    #[test]
    fn agrees_with_etherparse(
        six in any::<bool>(), options in 0usize..10, payload in vec(any::<u8>(), 0..80), pad in 0usize..20,
    ) {
        let builder = PacketBuilder::ethernet2(A, B);
        let builder = if six {
            builder.ipv6(A6, B6, 64)
        } else {
            let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            ip.options = vec![1; options * 4].as_slice().try_into().unwrap();
            builder.ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        };
        let mut frame = Vec::new();
        builder.tcp(1, 2, 3, 4).write(&mut frame, &payload).unwrap();
        let end = frame.len();
        frame.resize(end + pad, 0);
        let transport = find(&frame).unwrap();
        let oracle = SlicedPacket::from_ethernet(&frame).unwrap();
        let want = match oracle.net.unwrap() {
            NetSlice::Ipv4(ip) => ip.payload().clone(),
            NetSlice::Ipv6(ip) => ip.payload().clone(),
            NetSlice::Arp(_) => unreachable!("no ARP was built"),
        };
        prop_assert_eq!(transport.protocol, want.ip_number.0);
        prop_assert_eq!(&frame[transport.start..transport.end], want.payload);
        prop_assert_eq!(transport.end, end);
    }
}
