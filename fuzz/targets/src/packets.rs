//! What looks behind the Ethernet header, or writes there.

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use vswitchd_switch::neighbour as neighbours;
use vswitchd_switch::offload as offloads;
use vswitchd_switch::segment::{SEGMENTS_MAX, Segmenter};
use vswitchd_switch::wire::ethernet::{Header, MacAddr};
use vswitchd_switch::wire::flow::{self as flows, Transport};
use vswitchd_switch::wire::virtio::{self, Checksum, Offload};

use crate::oracle;

/// What is found lies within the frame, and a flow's hash depends on headers only.
pub fn flow(data: &[u8]) {
    let Ok(header) = Header::parse(data) else {
        return;
    };
    let transport = Transport::find(data, &header);
    let entropy = flows::entropy(data, &header, transport.as_ref());
    let Some(transport) = transport else {
        return;
    };
    assert_eq!(transport.ip_start, header.payload);
    assert!(transport.ip_start + 20 <= transport.start);
    assert!(transport.start <= transport.end && transport.end <= data.len());
    if transport.end > transport.start + 8 {
        let mut other = data.to_vec();
        other[transport.end - 1] ^= 0xff;
        assert_eq!(
            flows::entropy(&other, &header, Some(&transport)),
            entropy,
            "payload is no part of a flow"
        );
    }
}

/// The first two bytes are an MTU, the rest a frame: what is recognised can be finished, cut and prepared.
pub fn offload(data: &[u8]) {
    let Some((mtu, frame)) = data.split_first_chunk() else {
        return;
    };
    let Ok(header) = Header::parse(frame) else {
        return;
    };
    let mtu = usize::from(u16::from_le_bytes(*mtu));
    let transport = Transport::find(frame, &header);
    let found = offloads::recognise(frame, transport.as_ref(), mtu);
    let Some(transport) = transport else {
        assert_eq!(found, Offload::default());
        return;
    };
    if let Checksum::Partial { start, offset } = found.checksum {
        assert!(!oracle::transport_verifies(frame, &transport));
        let mut finished = frame.to_vec();
        offloads::finish_checksum(&mut finished, start, offset)
            .expect("a recognised field lies within the frame");
        assert!(oracle::transport_verifies(&finished, &transport));
    }
    let Some(gso) = found.gso else {
        assert_ne!(found.checksum, Checksum::Verified);
        return;
    };
    let count = (frame.len() - usize::from(gso.header_len)).div_ceil(usize::from(gso.size));
    if count > SEGMENTS_MAX {
        return;
    }
    let cut = well_formed(frame, found, &header).expect("a recognised super-frame can be cut");
    assert!(cut.iter().all(|segment| segment.len() - header.payload <= mtu));
    let mut prepared = frame.to_vec();
    let offload = offloads::prepare_gso(&mut prepared, &transport, found);
    assert!(matches!(offload.checksum, Checksum::Partial { .. }));
    assert_eq!(Offload::parse(&offload.emit(), prepared.len()), Ok(offload));
    assert_eq!(
        well_formed(&prepared, offload, &header),
        Some(cut),
        "prepared or not, the segments are the same"
    );
}

/// A virtio-net header and a frame: whatever is cut is well-formed, and together has the payload of the whole.
pub fn segment(data: &[u8]) {
    let (header, frame) = data.split_at(data.len().min(virtio::HEADER_LEN));
    let Ok(offload) = Offload::parse(header, frame.len()) else {
        return;
    };
    let Ok(header) = Header::parse(frame) else {
        return;
    };
    let _ = well_formed(frame, offload, &header);
}

/// Cuts a frame and checks every segment; `None` if it is refused.
fn well_formed(frame: &[u8], offload: Offload, header: &Header) -> Option<Vec<Vec<u8>>> {
    let segmenter = Segmenter::new(frame, offload, header).ok()?;
    let whole = Transport::find(frame, header).expect("only a packet with a transport is cut");
    let size = usize::from(offload.gso.expect("only a super-frame is cut").size);
    let (count, header_len) = (segmenter.len(), segmenter.header_len());
    assert!((1..=SEGMENTS_MAX).contains(&count));
    let mut payload: Vec<u8> = Vec::new();
    let mut segments = Vec::new();
    for index in 0..count {
        let mut out = vec![0xaa; segmenter.segment_len(index)];
        assert_eq!(segmenter.write(index, &mut out), out.len());
        let part = &out[header_len..];
        assert!(if index + 1 == count { (1..=size).contains(&part.len()) } else { part.len() == size });
        payload.extend(part);
        check_segment(&out, header, &whole);
        segments.push(out);
    }
    assert_eq!(payload, frame[header_len..]);
    Some(segments)
}

fn check_segment(segment: &[u8], whole_header: &Header, whole: &Transport) {
    let header = Header::parse(segment).expect("a segment has an Ethernet header");
    assert_eq!(header, *whole_header);
    let transport = Transport::find(segment, &header).expect("a segment is a packet with a transport");
    assert_eq!(transport, Transport { end: segment.len(), ..*whole });
    assert!(oracle::ip_verifies(segment, &transport));
    assert!(oracle::transport_verifies(segment, &transport));
    if IpNumber(transport.protocol) == IpNumber::UDP {
        let length = u16::from_be_bytes([segment[transport.start + 4], segment[transport.start + 5]]);
        assert_eq!(usize::from(length), transport.end - transport.start);
    }
}

/// An answer to what is taken for a question parses, verifies, and goes back to who asked.
pub fn neighbour(data: &[u8]) {
    const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    let Ok(header) = Header::parse(data) else {
        return;
    };
    let Some(question) = neighbours::question(data, &header) else {
        return;
    };
    assert_eq!(question.asker, header.source);
    let mut out = [0xaa; neighbours::ANSWER_MAX];
    let len = question.answer(OWNER, &mut out);
    let answer = SlicedPacket::from_ethernet(&out[..len]).expect("an answer parses");
    let answer_header = Header::parse(&out[..len]).expect("an answer has an Ethernet header");
    assert_eq!(answer_header.source, OWNER);
    match answer.net.expect("an answer is ARP or IPv6") {
        NetSlice::Arp(arp) => {
            assert_eq!(answer_header.destination, question.asker);
            assert_eq!(arp.target_hw_addr(), header.source.0);
            assert!(question.target.is_ipv4());
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(std::net::IpAddr::V6(ip.header().source_addr()), question.target);
            let Some(TransportSlice::Icmpv6(message)) = answer.transport else {
                panic!("an advertisement is ICMPv6");
            };
            assert!(message.is_checksum_valid(ip.header().source(), ip.header().destination()));
            let all_nodes = ip.header().destination_addr().is_multicast();
            assert_eq!(all_nodes, answer_header.destination.is_multicast());
            assert!(all_nodes || answer_header.destination == question.asker);
        }
        NetSlice::Ipv4(_) => panic!("no question is asked in IPv4"),
    }
}
