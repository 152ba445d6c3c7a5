use etherparse::{
    Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, SlicedPacket, TcpHeader, TransportSlice, UdpHeader,
};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [10, 0, 0, 2];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a super-frame is made of.
#[derive(Clone, Debug)]
struct Shape {
    six: bool,
    udp: bool,
    tags: usize,
    /// IPv4 option words, or IPv6 destination options headers of 8 bytes.
    ip_extras: u8,
    tcp_option_words: u8,
    tcp_flags: u8,
    sequence: u32,
    id: u16,
    payload: Vec<u8>,
    size: u16,
}

impl Shape {
    fn plain(six: bool, udp: bool, payload_len: usize, size: u16) -> Self {
        let payload = (0..payload_len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        Self {
            six,
            udp,
            tags: 0,
            ip_extras: 0,
            tcp_option_words: 0,
            tcp_flags: 0x18,
            sequence: 1,
            id: 1,
            payload,
            size,
        }
    }

    fn transport_header(&self) -> Vec<u8> {
        if self.udp {
            let length = u16::try_from(8 + self.payload.len()).unwrap();
            return UdpHeader { source_port: 1000, destination_port: 2000, length, checksum: 0 }
                .to_bytes()
                .to_vec();
        }
        let mut header = TcpHeader::new(1000, 2000, self.sequence, 5000);
        header.set_options_raw(&vec![1; usize::from(self.tcp_option_words) * 4]).unwrap();
        let mut bytes = header.to_bytes().to_vec();
        bytes[13] = self.tcp_flags;
        bytes
    }

    fn ip_headers(&self, behind: usize) -> Vec<u8> {
        let protocol = if self.udp { UDP } else { TCP };
        if !self.six {
            let mut ip =
                Ipv4Header::new(u16::try_from(behind).unwrap(), 64, IpNumber(protocol), A4, B4).unwrap();
            ip.options = vec![1; usize::from(self.ip_extras) * 4].as_slice().try_into().unwrap();
            ip.total_len = u16::try_from(ip.header_len() + behind).unwrap();
            ip.identification = self.id;
            ip.header_checksum = ip.calc_header_checksum();
            return ip.to_bytes().to_vec();
        }
        let extras = usize::from(self.ip_extras);
        let ip = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::try_new(0x1_2345).unwrap(),
            payload_length: u16::try_from(8 * extras + behind).unwrap(),
            next_header: IpNumber(if extras == 0 { protocol } else { 60 }),
            hop_limit: 64,
            source: A6,
            destination: B6,
        };
        let mut bytes = ip.to_bytes().to_vec();
        for left in (0..extras).rev() {
            bytes.extend([if left == 0 { protocol } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        bytes
    }

    /// The super-frame with the pseudo-header's sum in its checksum field, and its offload.
    fn build(&self) -> (Vec<u8>, Offload) {
        let transport = self.transport_header();
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        for vlan in 0..self.tags {
            frame.extend([0x81, 0, 0, u8::try_from(7 + vlan).unwrap()]);
        }
        frame.extend(if self.six { [0x86, 0xdd] } else { [0x08, 0x00] });
        frame.extend(self.ip_headers(transport.len() + self.payload.len()));
        let start = frame.len();
        frame.extend(&transport);
        frame.extend(&self.payload);
        let offset = if self.udp { 6 } else { 16 };
        let len = u16::try_from(frame.len() - start).unwrap();
        let (protocol, sum) = (if self.udp { UDP } else { TCP }, Sum::default());
        let pseudo = if self.six {
            sum.pseudo_v6(A6, B6, protocol, len.into())
        } else {
            sum.pseudo_v4(A4, B4, protocol, len)
        };
        frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.fold());
        let kind = match (self.udp, self.six) {
            (true, _) => GsoKind::Udp,
            (false, false) => GsoKind::Tcp4,
            (false, true) => GsoKind::Tcp6,
        };
        let checksum = Checksum::Partial {
            start: u16::try_from(start).unwrap(),
            offset: u16::try_from(offset).unwrap(),
        };
        // A header length that lies: it is never to be used.
        (frame, Offload { checksum, gso: Some(Gso { kind, size: self.size, header_len: 7, ecn: false }) })
    }
}

fn segmenter(frame: &[u8], offload: Offload) -> Result<Segmenter<'_>, DropReason> {
    Segmenter::new(frame, offload, &ethernet::Header::parse(frame).unwrap())
}

fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let segmenter = segmenter(frame, offload).unwrap();
    (0..segmenter.len())
        .map(|index| {
            let mut out = vec![0xaa; segmenter.segment_len(index)];
            assert_eq!(segmenter.write(index, &mut out), out.len());
            out
        })
        .collect()
}

/// Checks a segment with etherparse: lengths, both checksums, what must differ. Gives its payload.
fn check(shape: &Shape, segment: &[u8], index: usize, count: usize) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(segment).expect("the segment parses");
    assert_eq!(packet.vlan_ids().len(), shape.tags);
    match packet.net.as_ref().expect("the segment is IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.identification, shape.id.wrapping_add(u16::try_from(index).unwrap()));
            assert_eq!(header.options.len(), usize::from(shape.ip_extras) * 4);
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(usize::from(ip.header().payload_length()), segment.len() - 14 - 4 * shape.tags - 40);
        }
        NetSlice::Arp(_) => panic!("no ARP was sent"),
    }
    match packet.transport.expect("the segment has a transport header") {
        TransportSlice::Tcp(tcp) => {
            let oracle =
                if shape.six { tcp.calc_checksum_ipv6(A6, B6) } else { tcp.calc_checksum_ipv4(A4, B4) };
            assert_eq!(tcp.checksum(), oracle.unwrap());
            let offset = u32::try_from(index * usize::from(shape.size)).unwrap();
            assert_eq!(tcp.sequence_number(), shape.sequence.wrapping_add(offset));
            let last_only = if index + 1 == count { 0xff } else { !0x09 };
            let first_only = if index == 0 { 0xff } else { !0x80 };
            assert_eq!(tcp.slice()[13], shape.tcp_flags & last_only & first_only);
            tcp.payload().to_vec()
        }
        TransportSlice::Udp(udp) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let oracle = if shape.six {
                header.calc_checksum_ipv6_raw(A6, B6, payload)
            } else {
                header.calc_checksum_ipv4_raw(A4, B4, payload)
            };
            assert_eq!(header.checksum, oracle.unwrap());
            assert_eq!(usize::from(header.length), 8 + payload.len());
            payload.to_vec()
        }
        other => panic!("not a kind that was sent: {other:?}"),
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let bits = (any::<bool>(), any::<bool>(), 0usize..=2, 0u8..=10, 0u8..=10, any::<u8>());
    let numbers = (any::<u32>(), any::<u16>(), vec(any::<u8>(), 1..5000), 5u16..3000);
    (bits, numbers).prop_map(|((six, udp, tags, extras, words, tcp_flags), (sequence, id, payload, size))| {
        let ip_extras = if six { extras % 4 } else { extras };
        Shape { six, udp, tags, ip_extras, tcp_option_words: words, tcp_flags, sequence, id, payload, size }
    })
}

proptest! {
    #[test]
    fn arbitrary_damage_never_panics(
        shape in shapes(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        len in any::<prop::sample::Index>(), cut_short in any::<bool>(),
    ) {
        let (mut frame, offload) = shape.build();
        for (at, value) in damage {
            let at = at.index(frame.len().min(100));
            frame[at] = value;
        }
        let len = if cut_short { len.index(frame.len()) } else { frame.len() };
        let Ok(header) = ethernet::Header::parse(&frame[..len]) else { return Ok(()) };
        if let Ok(segmenter) = Segmenter::new(&frame[..len], offload, &header) {
            let mut out = vec![0; len];
            let header_len = segmenter.header_len();
            let total: usize = (0..segmenter.len()).map(|i| segmenter.write(i, &mut out) - header_len).sum();
            prop_assert_eq!(total, len - segmenter.header_len());
        }
    }
}

#[test]
fn the_largest_packet_is_cut() {
    for (udp, headers) in [(false, 40), (true, 28)] {
        let shape = Shape::plain(false, udp, 65_535 - headers, 1400);
        let (frame, offload) = shape.build();
        let segments = cut(&frame, offload);
        let payload: Vec<u8> = segments
            .iter()
            .enumerate()
            .flat_map(|(i, segment)| check(&shape, segment, i, segments.len()))
            .collect();
        assert_eq!(payload, shape.payload);
    }
}

#[test]
fn identification_and_sequence_wrap() {
    let shape = Shape { id: u16::MAX, sequence: u32::MAX - 10, ..Shape::plain(false, false, 300, 100) };
    let (frame, offload) = shape.build();
    for (index, segment) in cut(&frame, offload).iter().enumerate() {
        check(&shape, segment, index, 3);
    }
}

#[test]
fn flags_of_the_first_and_of_the_last_segment() {
    let shape = Shape { tcp_flags: 0xff, ..Shape::plain(true, false, 300, 100) };
    let (frame, offload) = shape.build();
    let flags: Vec<u8> = cut(&frame, offload).iter().map(|segment| segment[14 + 40 + 13]).collect();
    assert_eq!(flags, [0xf6, 0x76, 0x7f]);
}

#[test]
fn a_frame_that_fits_is_one_segment() {
    let shape = Shape::plain(false, false, 100, 1400);
    let (frame, offload) = shape.build();
    let segments = cut(&frame, offload);
    assert_eq!(segments.len(), 1);
    assert_eq!(check(&shape, &segments[0], 0, 1), shape.payload);
}

#[test]
fn a_datagrams_checksum_is_never_zero() {
    // Two bytes of payload run through all values: one of them makes the checksum come out as zero.
    let mut shape = Shape::plain(false, true, 2, 1400);
    let mut ones = 0;
    for value in 0..=u16::MAX {
        shape.payload = value.to_be_bytes().to_vec();
        let (frame, offload) = shape.build();
        let segment = &cut(&frame, offload)[0];
        assert_ne!(segment[40..42], [0, 0]);
        ones += usize::from(segment[40..42] == [0xff, 0xff]);
    }
    assert_eq!(ones, 1);
}

#[test]
fn too_many_segments_are_refused() {
    let (frame, mut offload) = Shape::plain(false, false, SEGMENTS_MAX * 8, 8).build();
    assert_eq!(segmenter(&frame, offload).unwrap().len(), SEGMENTS_MAX);
    offload.gso = offload.gso.map(|gso| Gso { size: 7, ..gso });
    assert_eq!(segmenter(&frame, offload).unwrap_err(), DropReason::OffloadInvalid);
}

#[test]
fn every_truncation_is_refused() {
    for (six, udp) in [(false, false), (false, true), (true, false), (true, true)] {
        let (frame, offload) = Shape { ip_extras: 1, tags: 1, ..Shape::plain(six, udp, 50, 20) }.build();
        let header = ethernet::Header::parse(&frame).unwrap();
        for len in 0..frame.len() {
            let result = Segmenter::new(&frame[..len], offload, &header);
            assert_eq!(result.unwrap_err(), DropReason::OffloadInvalid, "{len} bytes");
        }
        assert!(Segmenter::new(&frame, offload, &header).is_ok());
    }
}

#[test]
fn contradictions_are_refused() {
    let refused = |name: &str, change: fn(&mut Vec<u8>, &mut Offload)| {
        let (mut frame, mut offload) = Shape::plain(false, false, 100, 30).build();
        assert!(segmenter(&frame, offload).is_ok());
        change(&mut frame, &mut offload);
        assert_eq!(segmenter(&frame, offload).unwrap_err(), DropReason::OffloadInvalid, "{name}");
    };
    refused("no super-frame", |_, offload| offload.gso = None);
    refused("size of zero", |_, offload| offload.gso = offload.gso.map(|gso| Gso { size: 0, ..gso }));
    refused("other version", |_, offload| {
        offload.gso = offload.gso.map(|gso| Gso { kind: GsoKind::Tcp6, ..gso })
    });
    refused("other transport", |_, offload| {
        offload.gso = offload.gso.map(|gso| Gso { kind: GsoKind::Udp, ..gso })
    });
    refused("complete checksum", |_, offload| offload.checksum = Checksum::Complete);
    refused("checksum elsewhere", |_, offload| {
        offload.checksum = Checksum::Partial { start: 34, offset: 14 }
    });
    refused("summing from elsewhere", |_, offload| {
        offload.checksum = Checksum::Partial { start: 32, offset: 16 }
    });
    refused("padding", |frame, _| frame.push(0));
    refused("a fragment", |frame, _| frame[20] = 0x20);
    refused("data offset too small", |frame, _| frame[46] = 0x40);
    refused("data offset beyond the packet", |frame, _| {
        frame[46] = 0xf0;
        frame.truncate(34 + 50);
        frame[17] = 70;
    });
    refused("no payload", |frame, _| {
        frame.truncate(54);
        frame[17] = 40;
    });
}

#[test]
fn a_datagrams_length_must_be_the_packets() {
    let (mut frame, offload) = Shape::plain(true, true, 100, 30).build();
    frame[14 + 40 + 5] -= 1;
    assert_eq!(segmenter(&frame, offload).unwrap_err(), DropReason::OffloadInvalid);
}
