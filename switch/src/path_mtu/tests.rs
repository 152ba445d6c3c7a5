use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{LinkSlice, NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const V4: [[u8; 4]; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]];
const V6: [[u8; 16]; 2] = [
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
];

fn udp(six: bool, payload: usize) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(ASKER, OTHER);
    let ip = if six { link.ipv6(V6[0], V6[1], 9) } else { link.ipv4(V4[0], V4[1], 9) };
    let mut bytes = Vec::new();
    ip.udp(1, 2).write(&mut bytes, &vec![7; payload]).unwrap();
    bytes
}

fn syn(six: bool, options: &[TcpOptionElement]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(ASKER, OTHER);
    let ip = if six { link.ipv6(V6[0], V6[1], 9) } else { link.ipv4(V4[0], V4[1], 9) };
    let mut bytes = Vec::new();
    ip.tcp(1, 2, 3, 4).syn().options(options).unwrap().write(&mut bytes, &[]).unwrap();
    bytes
}

fn told(frame: &[u8], frame_max: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; 2_000];
    let len = too_big(frame, &ethernet::Header::parse(frame).unwrap(), frame_max, &mut out)?;
    out.truncate(len);
    Some(out)
}

fn clamped(frame: &[u8], checksum: Checksum, packet_max: usize) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    let found = Transport::find(frame, &ethernet::Header::parse(frame).unwrap()).unwrap();
    clamp_mss(&mut bytes, &found, checksum, packet_max);
    bytes
}

fn mss(frame: &[u8]) -> Option<u16> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("TCP") };
    let checksum = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
        }
        NetSlice::Ipv6(ip) => {
            tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()).unwrap()
        }
        NetSlice::Arp(_) => unreachable!(),
    };
    assert_eq!(tcp.checksum(), checksum);
    tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(mss)) => Some(mss),
        _ => None,
    })
}

#[test]
fn senders_are_told_what_fits_by_who_they_sent_to() {
    for (six, max) in [(false, 576), (true, 1_280)] {
        let frame = udp(six, 1_400);
        let reply = told(&frame, 1_364).unwrap();
        assert_eq!(reply.len(), 14 + max);
        let packet = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = packet.link else { panic!("Ethernet") };
        assert_eq!((link.destination(), link.source()), (ASKER, OTHER));
        let ends: [IpAddr; 2] = match packet.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                assert_eq!(ip.header().header_checksum(), ip.header().to_header().calc_header_checksum());
                [ip.header().source_addr().into(), ip.header().destination_addr().into()]
            }
            NetSlice::Ipv6(ip) => [ip.header().source_addr().into(), ip.header().destination_addr().into()],
            NetSlice::Arp(_) => unreachable!(),
        };
        let (mtu, original) = match packet.transport.unwrap() {
            TransportSlice::Icmpv4(icmp) => {
                assert!(Sum::default().bytes(icmp.slice()).verifies());
                let Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu,
                }) = icmp.icmp_type()
                else {
                    panic!("{icmp:?}")
                };
                assert_eq!(
                    ends,
                    V4.map(|a| IpAddr::from(Ipv4Addr::from(a))).into_iter().rev().collect::<Vec<_>>()[..]
                );
                (u32::from(next_hop_mtu), icmp.payload())
            }
            TransportSlice::Icmpv6(icmp) => {
                assert!(icmp.is_checksum_valid(V6[1], V6[0]));
                let Icmpv6Type::PacketTooBig { mtu } = icmp.icmp_type() else { panic!("{icmp:?}") };
                assert_eq!(
                    ends,
                    V6.map(|a| IpAddr::from(Ipv6Addr::from(a))).into_iter().rev().collect::<Vec<_>>()[..]
                );
                (mtu, icmp.payload())
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((mtu, original), (1_350, &frame[14..14 + original.len()]));
    }
}

#[test]
fn some_senders_are_not_told() {
    let mut fragmentable = udp(false, 1_400);
    fragmentable[14 + 6] = 0;
    assert_eq!(told(&fragmentable, 1_364), None);
    let mut to_many = udp(false, 1_400);
    to_many[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(told(&to_many, 1_364), None);
    let mut group = udp(true, 1_400);
    group[14 + 24] = 0xff;
    assert_eq!(told(&group, 1_364), None);
    assert_eq!((told(&udp(false, 1_400), 14 + 67), told(&udp(true, 1_400), 14 + 1_279)), (None, None));
    for six in [false, true] {
        // An error about an error would go on for ever.
        let error = told(&udp(six, 1_400), 1_364).unwrap();
        assert_eq!(told(&error, 1_364), None);
    }
}

#[test]
fn what_a_connection_offers_is_lowered_to_what_fits() {
    use TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
    for (six, most) in [(false, 1_310), (true, 1_290)] {
        for before in [&[][..], &[Noop], &[WindowScale(7)]] {
            let with = |mss| syn(six, &[before, &[MaximumSegmentSize(mss)]].concat());
            let finished = Checksum::Complete;
            assert_eq!(mss(&clamped(&with(1_410), finished, 1_350)), Some(most), "{six} {before:?}");
            assert_eq!(clamped(&with(most), finished, 1_350), with(most), "it fits");
            assert_eq!(clamped(&with(500), finished, 1_350), with(500), "it is never raised");
            assert_eq!(clamped(&with(1_410), finished, 60), with(1_410), "nothing fits");
            let partial = Checksum::Partial { start: 34, offset: 16 };
            let unfinished = clamped(&with(1_410), partial, 1_350);
            let field = if six { 54 + 16 } else { 34 + 16 };
            assert_eq!(unfinished[field..field + 2], with(1_410)[field..field + 2]);
        }
        assert_eq!(clamped(&syn(six, &[]), Checksum::Complete, 1_350), syn(six, &[]));
    }
    let mut established = syn(false, &[MaximumSegmentSize(1_410)]);
    established[34 + tcp::FLAGS] = 0x10;
    assert_eq!(clamped(&established, Checksum::Complete, 1_350), established);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(mut frame in vec(any::<u8>(), 14..200), kind in 0usize..4, max in 0usize..2_000) {
        let ether_type = [[0x08, 0], [0x86, 0xdd], [0x81, 0], [0, 0]][kind];
        frame[12..14].copy_from_slice(&ether_type);
        if kind < 2 {
            frame.resize(100, 0);
            frame[14] = [0x45, 0x60][kind];
            frame[14 + [9, 6][kind]] = 6;
        }
        let Ok(header) = ethernet::Header::parse(&frame) else { return Ok(()) };
        let mut out = vec![0; 2_000];
        if let Some(len) = too_big(&frame, &header, max, &mut out) {
            prop_assert!(len <= header.payload + 1_280);
        }
        if let Some(found) = Transport::find(&frame, &header) {
            clamp_mss(&mut frame, &found, Checksum::Complete, max);
        }
    }

    #[test]
    fn any_options_are_taken(options in vec(any::<u8>(), 0..40), max in 0usize..2_000) {
        let mut frame = syn(false, &[]);
        frame[34 + tcp::DATA_OFFSET] = u8::try_from(5 + options.len().div_ceil(4)).unwrap() << 4;
        frame.extend(&options);
        let total = u16::try_from(frame.len() - 14).unwrap();
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        let len = clamped(&frame, Checksum::Complete, max).len();
        prop_assert_eq!(len, frame.len());
    }
}
