use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::segment::Segmenter;
use crate::wire::ethernet::Header;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];
const MTU: usize = 1450;

/// A frame with a complete checksum.
fn frame(six: bool, udp: bool, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(A, B);
    let mut address = [0xfd; 16];
    address[15] = 1;
    let builder = if six {
        builder.ipv6([0xfd; 16], address, 64)
    } else {
        builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
    };
    let mut frame = Vec::new();
    if udp {
        builder.udp(1000, 2000).write(&mut frame, payload).unwrap();
    } else {
        builder.tcp(1000, 2000, 7, 500).ack(9).write(&mut frame, payload).unwrap();
    }
    frame
}

fn find(frame: &[u8]) -> Option<Transport> {
    Transport::find(frame, &Header::parse(frame).unwrap())
}

fn recognised(frame: &[u8], mtu: usize) -> Offload {
    recognise(frame, find(frame).as_ref(), mtu)
}

fn field_at(frame: &[u8]) -> usize {
    let transport = find(frame).unwrap();
    transport.start + checksum_offset(frame, &transport).unwrap()
}

/// The same frame as a sender with checksum offload leaves it.
fn unfinished(mut frame: Vec<u8>) -> Vec<u8> {
    let (transport, at) = (find(&frame).unwrap(), field_at(&frame));
    let pseudo = transport.pseudo_header(&frame, transport.len()).fold();
    frame[at..at + 2].copy_from_slice(&pseudo);
    frame
}

fn finish(frame: &mut [u8], offload: Offload) {
    let Checksum::Partial { start, offset } = offload.checksum else {
        panic!("nothing to finish: {offload:?}");
    };
    finish_checksum(frame, start, offset).unwrap();
}

const SHAPES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

proptest! {
    #[test]
    fn an_unfinished_checksum_is_recognised_and_finished(
        shape in 0usize..4, payload in vec(any::<u8>(), 0..1300),
    ) {
        let (six, udp) = SHAPES[shape];
        let complete = frame(six, udp, &payload);
        prop_assert_eq!(recognised(&complete, MTU), Offload::default());
        let mut frame = unfinished(complete.clone());
        // One payload in 65,536 has a checksum that is the pseudo-header's sum: then nothing is unfinished.
        prop_assume!(frame != complete);
        let offload = recognised(&frame, MTU);
        prop_assert_eq!(offload.gso, None);
        finish(&mut frame, offload);
        prop_assert_eq!(frame, complete);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in vec(any::<u8>(), 14..200), start in any::<u16>(), offset in any::<u16>(),
    ) {
        let mut bytes = bytes;
        let _ = recognised(&bytes, 100);
        let before = bytes.clone();
        if finish_checksum(&mut bytes, start % 256, offset % 256).is_err() {
            prop_assert_eq!(bytes, before);
        }
    }

    #[test]
    fn a_wrong_checksum_is_left_alone(
        shape in 0usize..4, payload in vec(any::<u8>(), 0..100), change in 1u16..0xffff,
    ) {
        let (six, udp) = SHAPES[shape];
        let mut frame = frame(six, udp, &payload);
        let at = field_at(&frame);
        let wrong = u16::from_be_bytes([frame[at], frame[at + 1]]) ^ change;
        frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        prop_assume!(frame != unfinished(frame.clone()));
        prop_assert_eq!(recognised(&frame, MTU), Offload::default());
    }
}

#[test]
fn a_complete_checksum_that_looks_unfinished_is_left_alone() {
    for (six, udp) in SHAPES {
        // Two bytes of payload run through all values until the checksum is the pseudo-header's sum.
        let found = (0..=u16::MAX).map(|value| frame(six, udp, &value.to_be_bytes())).find(|frame| {
            let transport = find(frame).unwrap();
            let at = field_at(frame);
            frame[at..at + 2] == transport.pseudo_header(frame, transport.len()).fold()
        });
        let frame = found.expect("one value of the payload gives every checksum");
        assert_eq!(recognised(&frame, MTU), Offload::default());
    }
}

#[test]
fn zero_is_stored_as_ones_for_udp_only() {
    for (udp, want) in [(true, [0xff, 0xff]), (false, [0, 0])] {
        let zero = (0..=u16::MAX).find_map(|value| {
            let mut frame = unfinished(frame(false, udp, &value.to_be_bytes()));
            let at = field_at(&frame);
            let start = u16::try_from(find(&frame).unwrap().start).unwrap();
            let sum = Sum::default().bytes(&frame[usize::from(start)..]).finish();
            (sum == [0, 0]).then(|| {
                finish_checksum(&mut frame, start, u16::try_from(at).unwrap() - start).unwrap();
                [frame[at], frame[at + 1]]
            })
        });
        assert_eq!(zero, Some(want));
    }
}

#[test]
fn a_datagram_without_checksum_is_left_alone() {
    let mut frame = frame(false, true, b"payload");
    frame[40..42].fill(0);
    assert_eq!(recognised(&frame, MTU), Offload::default());
}

#[test]
fn padding_of_zeros_does_no_harm_and_other_padding_is_refused() {
    let mut padded = unfinished(frame(false, false, b"odd"));
    let end = padded.len();
    padded.resize(64, 0);
    let offload = recognised(&padded, MTU);
    finish(&mut padded, offload);
    assert_eq!(padded[..end], frame(false, false, b"odd"));
    let mut padded = unfinished(frame(false, false, b"odd"));
    padded.resize(64, 1);
    assert_eq!(recognised(&padded, MTU), Offload::default());
}

#[test]
fn the_field_must_be_within_the_frame() {
    let mut frame = [0x11; 20];
    for (start, offset) in [(0, 19), (19, 0), (20, 0), (u16::MAX, u16::MAX)] {
        let error = finish_checksum(&mut frame, start, offset).unwrap_err();
        assert_eq!(error.cause, Cause::Bounds);
    }
    assert_eq!(frame, [0x11; 20]);
    assert_eq!(finish_checksum(&mut frame, 0, 18), Ok(()));
}

#[test]
fn an_oversize_packet_is_a_super_frame_whether_its_checksum_is_complete_or_not() {
    let payload: Vec<u8> = (0..9000u32).map(|at| u8::try_from(at % 253).unwrap()).collect();
    for six in [false, true] {
        let complete = frame(six, false, &payload);
        let partial = unfinished(complete.clone());
        let header_len = complete.len() - payload.len();
        for (frame, want_verified) in [(complete, true), (partial.clone(), false)] {
            let offload = recognised(&frame, MTU);
            assert_eq!(offload.checksum == Checksum::Verified, want_verified);
            let gso = offload.gso.expect("the packet is longer than the MTU");
            assert_eq!(gso.kind, if six { GsoKind::Tcp6 } else { GsoKind::Tcp4 });
            assert_eq!(usize::from(gso.header_len), header_len);
            assert_eq!(usize::from(gso.size), MTU - (header_len - 14));
            assert!(!gso.ecn);
            assert_eq!(join(&frame, offload), payload);
            let mut prepared = frame.clone();
            let transport = find(&frame).unwrap();
            let offload = prepare_gso(&mut prepared, &transport, offload);
            assert_eq!((&prepared, offload), (&partial, recognised(&partial, MTU)));
        }
    }
}

/// Cuts, asks etherparse for each segment's checksum and that it fits, and joins the payloads.
fn join(frame: &[u8], offload: Offload) -> Vec<u8> {
    let segmenter = Segmenter::new(frame, offload, &Header::parse(frame).unwrap()).unwrap();
    let mut payload = Vec::new();
    for index in 0..segmenter.len() {
        let mut out = vec![0; segmenter.segment_len(index)];
        segmenter.write(index, &mut out);
        assert!(out.len() <= 14 + MTU);
        let packet = SlicedPacket::from_ethernet(&out).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("a segment is TCP");
        };
        let oracle = match packet.net.unwrap() {
            NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
            NetSlice::Arp(_) => panic!("a segment is IP"),
        };
        assert_eq!(tcp.checksum(), oracle.unwrap());
        payload.extend(tcp.payload());
    }
    payload
}

#[test]
fn the_mtu_itself_is_not_oversize() {
    let frame = frame(false, false, &[1; MTU - 40]);
    assert_eq!(recognised(&frame, MTU), Offload::default());
    assert!(recognised(&frame, MTU - 1).gso.is_some());
}

#[test]
fn damaged_oversize_packets_are_no_super_frames() {
    let mut damaged = frame(false, false, &[1; 9000]);
    damaged[100] ^= 1;
    assert_eq!(recognised(&damaged, MTU), Offload::default());
}

#[test]
fn oversize_datagrams_and_tiny_mtus_are_no_super_frames() {
    let datagram = frame(false, true, &[1; 9000]);
    assert_eq!(recognised(&datagram, MTU), Offload::default());
    let offload = recognised(&unfinished(datagram), MTU);
    assert!(matches!(offload, Offload { checksum: Checksum::Partial { .. }, gso: None }));
    for mtu in [0, 39, 40] {
        assert_eq!(recognised(&frame(false, false, &[1; 100]), mtu), Offload::default());
    }
}

#[test]
fn congestion_window_reduced_sets_ecn() {
    let mut frame = frame(false, false, &[1; 9000]);
    frame[34 + 13] |= 0x80;
    assert!(recognised(&unfinished(frame), MTU).gso.is_some_and(|gso| gso.ecn));
}

#[test]
fn other_offloads_are_not_prepared() {
    let mut bytes = frame(false, false, &[1; 100]);
    let (before, transport) = (bytes.clone(), find(&bytes).unwrap());
    let verified = Offload { checksum: Checksum::Verified, gso: None };
    assert_eq!(prepare_gso(&mut bytes, &transport, verified), verified);
    assert_eq!(bytes, before);
}
