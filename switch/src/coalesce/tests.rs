use etherparse::{PacketBuilder, TcpOptionElement};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::packet::Pool;
use crate::segment::Segmenter;
use crate::wire::ethernet::Header;
use crate::wire::flow::field::{ipv4, tcp, udp};
use crate::wire::virtio::GsoKind;

/// A segment to be made.
#[derive(Clone, Debug)]
struct Make {
    udp: bool,
    v6: bool,
    vlan: Option<u16>,
    flow: u16,
    sequence: u32,
    id: u16,
    dont_fragment: bool,
    acknowledgement: u32,
    window: u16,
    ttl: u8,
    timestamp: Option<u32>,
    push: bool,
    fin: bool,
    payload: usize,
}

impl Default for Make {
    fn default() -> Self {
        Self {
            udp: false,
            v6: false,
            vlan: None,
            flow: 1,
            sequence: 1_000,
            id: 7,
            dont_fragment: true,
            acknowledgement: 5,
            window: 512,
            ttl: 64,
            timestamp: Some(99),
            push: false,
            fin: false,
            payload: 100,
        }
    }
}

impl Make {
    fn frame(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (self.v6, self.vlan) {
            (false, None) => ethernet.ip(self.v4()),
            (false, Some(vid)) => ethernet.single_vlan(vid.try_into().unwrap()).ip(self.v4()),
            (true, None) => ethernet.ipv6([1; 16], [2; 16], self.ttl),
            (true, Some(vid)) => {
                ethernet.single_vlan(vid.try_into().unwrap()).ipv6([1; 16], [2; 16], self.ttl)
            }
        };
        let payload: Vec<u8> =
            (0..self.payload).map(|at| at.to_le_bytes()[0] ^ self.sequence.to_le_bytes()[0]).collect();
        let mut bytes = Vec::new();
        if self.udp {
            ip.udp(self.flow, 80).write(&mut bytes, &payload).unwrap();
            return bytes;
        }
        let mut tcp = ip.tcp(self.flow, 80, self.sequence, self.window).ack(self.acknowledgement);
        tcp = if self.push { tcp.psh() } else { tcp };
        tcp = if self.fin { tcp.fin() } else { tcp };
        if let Some(at) = self.timestamp {
            tcp = tcp.options(&[TcpOptionElement::Timestamp(at, 3)]).unwrap();
        }
        tcp.write(&mut bytes, &payload).unwrap();
        bytes
    }

    fn v4(&self) -> etherparse::IpHeaders {
        let mut header =
            etherparse::Ipv4Header::new(0, self.ttl, etherparse::IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2])
                .unwrap();
        header.identification = self.id;
        header.dont_fragment = self.dont_fragment;
        etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    }

    /// The one that follows this.
    fn next(&self) -> Self {
        let sequence = self.sequence.wrapping_add(u32::try_from(self.payload).unwrap());
        Self { sequence, id: self.id.wrapping_add(1), ..self.clone() }
    }
}

/// What a port is given for frames that come in one run, as frames with their offloads.
fn coalesced(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
    let (mut out, mut coalescer) = (Outbox::default(), Coalescer::default());
    let mut pool = Pool::new(frames.len());
    for (packet, frame) in frames.iter().enumerate() {
        let mut buf = pool.take().unwrap();
        buf.fill(frame);
        let range = buf.range();
        out.packets.push(buf);
        let header = Header::parse(frame).unwrap();
        let transport = Transport::find(frame, &header);
        let stowed = Stowed { packet, range, offload: Offload::default(), header, transport, cut: None };
        coalescer.deliver(&mut out, PortId(1), &stowed);
    }
    coalescer.finish(&mut out);
    let frame = |delivery: &Delivery| out.frame(delivery).collect::<Vec<_>>().concat();
    out.deliveries.iter().map(|delivery| (frame(delivery), delivery.offload)).collect()
}

/// A frame as it was before joining: itself, or what cutting it gives.
fn cut(frame: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    if offload.gso.is_none() {
        return vec![frame.to_vec()];
    }
    let header = Header::parse(frame).unwrap();
    let segments = Segmenter::new(frame, offload, &header).unwrap();
    (0..segments.len())
        .map(|index| {
            let mut bytes = vec![0; segments.segment_len(index)];
            segments.write(index, &mut bytes);
            bytes
        })
        .collect()
}

fn sizes(delivered: &[(Vec<u8>, Offload)]) -> Vec<usize> {
    delivered.iter().map(|(frame, offload)| cut(frame, *offload).len()).collect()
}

#[test]
fn neighbours_become_one_super_frame_that_is_cut_to_the_same() {
    for (v6, vlan) in [(false, None), (true, None), (false, Some(7)), (true, Some(7))] {
        for (dont_fragment, udp) in [(true, false), (false, false), (true, true), (false, true)] {
            let first = Make { udp, v6, vlan, dont_fragment, ..Make::default() };
            let second = first.next();
            let third = Make { push: true, payload: 30, ..second.next() };
            let frames = [first.frame(), second.frame(), third.frame()];
            let delivered = coalesced(&frames);
            let [(joined, offload)] = &delivered[..] else { panic!("{} frames", delivered.len()) };
            let kind = match (udp, v6) {
                (true, _) => GsoKind::Udp,
                (false, false) => GsoKind::Tcp4,
                (false, true) => GsoKind::Tcp6,
            };
            assert_eq!(offload.gso.map(|gso| (gso.kind, gso.size)), Some((kind, 100)));
            assert!(matches!(offload.checksum, Checksum::Partial { .. }));
            // As a device's kernel takes it.
            assert_eq!(Offload::parse(&offload.emit(), joined.len()), Ok(*offload));
            assert_eq!(cut(joined, *offload), frames);
        }
    }
}

#[test]
fn a_lone_segment_is_left_as_it_is_and_vouched_for() {
    for udp in [false, true] {
        let frame = Make { udp, ..Make::default() }.frame();
        assert_eq!(
            coalesced(std::slice::from_ref(&frame)),
            [(frame, Offload { checksum: Checksum::Verified, gso: None })]
        );
    }
}

#[test]
fn what_cutting_would_change_is_not_joined() {
    let first = Make { dont_fragment: false, ..Make::default() };
    let next = first.next();
    for second in [
        Make { fin: true, ..next.clone() },
        Make { acknowledgement: 6, ..next.clone() },
        Make { window: 511, ..next.clone() },
        Make { ttl: 63, ..next.clone() },
        Make { timestamp: Some(100), ..next.clone() },
        Make { timestamp: None, ..next.clone() },
        Make { id: 9, ..next.clone() },
        Make { dont_fragment: true, ..next.clone() },
        Make { sequence: next.sequence + 1, ..next.clone() },
        Make { sequence: first.sequence, ..next.clone() },
        Make { payload: 101, ..next.clone() },
        Make { payload: 0, ..next.clone() },
        Make { flow: 2, ..next.clone() },
        Make { vlan: Some(1), ..next.clone() },
        Make { v6: true, ..next.clone() },
        Make { udp: true, ..next.clone() },
    ] {
        are_not_joined(&first, &second);
    }
}

fn are_not_joined(first: &Make, second: &Make) {
    let frames = [first.frame(), second.frame()];
    assert_eq!(only_frames(coalesced(&frames)), frames, "{second:?}");
}

fn only_frames(delivered: Vec<(Vec<u8>, Offload)>) -> Vec<Vec<u8>> {
    delivered.into_iter().map(|(frame, _)| frame).collect()
}

#[test]
fn datagrams_that_differ_in_more_than_their_payload_are_not_joined() {
    let first = Make { udp: true, dont_fragment: false, ..Make::default() };
    let next = first.next();
    for second in [
        Make { ttl: 63, ..next.clone() },
        Make { id: 9, ..next.clone() },
        Make { dont_fragment: true, ..next.clone() },
        Make { payload: 101, ..next.clone() },
        Make { payload: 0, ..next.clone() },
        Make { flow: 2, ..next.clone() },
        Make { vlan: Some(1), ..next.clone() },
        Make { v6: true, ..next.clone() },
        Make { udp: false, ..next.clone() },
    ] {
        are_not_joined(&first, &second);
    }
    let v6 = Make { v6: true, ..first };
    are_not_joined(&v6, &Make { ttl: 63, ..v6.next() });
    for (at, name) in [(14 + 1, "traffic class"), (14 + 3, "flow label")] {
        let mut second = v6.next().frame();
        second[at] ^= 0x10;
        assert_eq!(sizes(&coalesced(&[v6.frame(), second])), [1, 1], "{name}");
    }
}

#[test]
fn a_datagram_without_a_checksum_is_not_joined() {
    for v6 in [false, true] {
        let first = Make { udp: true, v6, ..Make::default() };
        let mut frames = [first.frame(), first.next().frame(), first.next().next().frame()];
        let at = if v6 { 14 + 40 } else { 14 + 20 } + udp::CHECKSUM.start;
        for frame in &mut frames {
            frame[at..at + 2].fill(0);
        }
        let left_alone = frames.clone().map(|frame| (frame, Offload::default()));
        assert_eq!(coalesced(&frames), left_alone);
    }
}

/// Summed right, its field of zeros verifies: only the rule keeps it from being joined.
#[test]
fn a_checksum_that_is_zero_by_chance_is_none() {
    let first = Make { udp: true, ..Make::default() };
    let mut second = first.next().frame();
    let at = 14 + 20 + udp::CHECKSUM.start;
    // Two bytes of payload take up what was the checksum.
    let old = u16::from_be_bytes([second[at], second[at + 1]]);
    let payload = u16::from_be_bytes([second[42], second[43]]);
    let (sum, carry) = payload.overflowing_add(old);
    second[42..44].copy_from_slice(&(sum + u16::from(carry)).to_be_bytes());
    second[at..at + 2].fill(0);
    let transport = Transport::find(&second, &Header::parse(&second).unwrap()).unwrap();
    assert!(transport.pseudo_header(&second, transport.len()).bytes(&second[34..]).verifies());
    assert_eq!(coalesced(&[first.frame(), second.clone()])[1], (second.clone(), Offload::default()));
    // With the other zero it is a checksum like any other.
    second[at..at + 2].fill(0xff);
    assert_eq!(sizes(&coalesced(&[first.frame(), second])), [2]);
}

#[test]
fn the_other_zero_of_a_checksum_would_not_come_back() {
    let (first, mut second) = (Make::default(), Make::default().next().frame());
    let at = 14 + ipv4::CHECKSUM.start;
    let old = u16::from_be_bytes([second[at], second[at + 1]]);
    // The identification takes up what was the checksum, so that the right one is 0 and 0xffff verifies too.
    let id = u16::from_be_bytes([second[18], second[19]]);
    let (sum, carry) = id.overflowing_add(old);
    let id = sum + u16::from(carry);
    second[18..20].copy_from_slice(&id.to_be_bytes());
    let first = Make { id: id.wrapping_sub(1), ..first }.frame();
    for (checksum, want) in [([0, 0], &[2][..]), ([0xff, 0xff], &[1, 1])] {
        second[at..at + 2].copy_from_slice(&checksum);
        assert_eq!(sizes(&coalesced(&[first.clone(), second.clone()])), want);
    }
}

#[test]
fn a_length_that_is_not_the_packets_is_not_joined_and_not_overtaken() {
    let first = Make { udp: true, ..Make::default() };
    let mut odd = first.next().frame();
    odd[14 + 20 + udp::LENGTH.start + 1] -= 1;
    // Right for the whole packet, so that only the rule keeps it from being joined.
    let at = 14 + 20 + udp::CHECKSUM.start;
    let checksum = u16::from_be_bytes([odd[at], odd[at + 1]]) + 1;
    odd[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    let transport = Transport::find(&odd, &Header::parse(&odd).unwrap()).unwrap();
    assert!(transport.pseudo_header(&odd, transport.len()).bytes(&odd[34..]).verifies());
    let frames = [first.frame(), odd, first.next().next().frame()];
    assert_eq!(only_frames(coalesced(&frames)), frames);
}

#[test]
fn what_may_belong_to_a_flow_is_not_overtaken() {
    for udp in [false, true] {
        let first = Make { udp, ..Make::default() };
        let mut fragment = first.next().frame();
        fragment[14 + ipv4::ID.end] = 0x20;
        let mut prioritised = Make { vlan: Some(7), ..first.next() }.frame();
        prioritised[14] |= 0xe0;
        for odd in [fragment, prioritised] {
            let frames = [first.frame(), odd, Make { id: 8, ..first.next() }.frame()];
            assert_eq!(only_frames(coalesced(&frames)), frames);
        }
    }
}

#[test]
fn what_cannot_belong_to_a_flow_lets_it_grow() {
    let first = Make { udp: true, ..Make::default() };
    let mut ping = first.frame();
    ping[14 + ipv4::PROTOCOL] = 1;
    let delivered = coalesced(&[first.frame(), ping.clone(), first.next().frame()]);
    assert_eq!(sizes(&delivered), [2, 1]);
    assert_eq!(delivered[1], (ping, Offload::default()));
}

#[test]
fn urgent_congestion_and_reset_flags_are_not_joined() {
    let first = Make::default();
    for flag in [0x02, 0x04, 0x20, 0x40, 0x80] {
        let mut second = first.next().frame();
        let at = 14 + 20 + tcp::FLAGS;
        second[at] |= flag;
        let sum = 14 + 20 + tcp::CHECKSUM.start;
        second[sum..sum + 2].fill(0);
        let transport = Transport::find(&second, &Header::parse(&second).unwrap()).unwrap();
        let checksum =
            transport.pseudo_header(&second, transport.len()).bytes(&second[transport.start..]).finish();
        second[sum..sum + 2].copy_from_slice(&checksum);
        assert_eq!(sizes(&coalesced(&[first.frame(), second])), [1, 1], "{flag:#x}");
    }
}

#[test]
fn damage_stays_damage() {
    for (udp, header) in [(false, 32), (true, 8)] {
        let first = Make { udp, ..Make::default() };
        let payload = 14 + 20 + header;
        for at in [14 + 8, 14 + 10, 14 + 20 + 6, payload - 1, payload, payload + 99] {
            let mut damaged = first.next().frame();
            damaged[at] ^= 0x10;
            let delivered = coalesced(&[first.frame(), damaged.clone()]);
            assert_eq!(delivered[1], (damaged, Offload::default()), "byte {at}");
        }
    }
}

#[test]
fn padding_is_kept_and_not_joined_over() {
    let mut padded = Make::default().frame();
    padded.extend([0; 6]);
    let next = Make::default().next().frame();
    let delivered = coalesced(&[padded.clone(), next.clone()]);
    assert_eq!(only_frames(delivered), [padded, next]);
}

#[test]
fn a_push_or_a_short_segment_is_the_last_of_its_frame() {
    let first = Make::default();
    for last in [Make { push: true, ..first.next() }, Make { payload: 99, ..first.next() }] {
        let frames = [first.frame(), last.frame(), Make { push: false, ..last.next() }.frame()];
        assert_eq!(sizes(&coalesced(&frames)), [2, 1]);
    }
    let pushed = Make { push: true, ..first.clone() };
    assert_eq!(sizes(&coalesced(&[pushed.frame(), first.next().frame()])), [1, 1]);
    let first = Make { udp: true, ..first };
    let short = Make { payload: 99, ..first.next() };
    assert_eq!(sizes(&coalesced(&[first.frame(), short.frame(), short.next().frame()])), [2, 1]);
}

#[test]
fn a_frame_grows_to_the_limits_of_pieces_and_of_ip() {
    let run_of = |udp, payload, count| {
        let first = Make { udp, payload, ..Make::default() };
        let segments = std::iter::successors(Some(first), |segment| Some(segment.next())).take(count);
        sizes(&coalesced(&segments.map(|segment| segment.frame()).collect::<Vec<_>>()))
    };
    let run = |payload, count| run_of(false, payload, count);
    assert_eq!(run(100, 130), [64, 64, 2]);
    assert_eq!(run_of(true, 1, 130), [64, 64, 2]);
    // 28 bytes of headers leave room for 65,507.
    assert_eq!(run_of(true, 1_489, 44), [43, 1]);
    assert_eq!(run_of(true, 1_488, 44), [44]);
    // 45 of these and 52 bytes of headers are 65,212 bytes; one more would be too much for an IP packet.
    assert_eq!(run(1_448, 45), [45]);
    assert_eq!(run(8_000, 8), [8]);
    assert_eq!(run(32_000, 2), [2]);
}

#[test]
fn identifications_count_up_or_stay_if_they_mean_nothing() {
    for (dont_fragment, ids, want) in [
        (true, [7, 8, 9], &[3][..]),
        (false, [7, 8, 9], &[3]),
        (true, [0, 0, 0], &[3]),
        (false, [7, 7, 7], &[1, 1, 1]),
        (true, [7, 9, 11], &[1, 1, 1]),
        (true, [65_535, 0, 1], &[3]),
    ] {
        let [first, second, third] = ids;
        let first = Make { id: first, dont_fragment, ..Make::default() };
        let second = Make { id: second, ..first.next() };
        let third = Make { id: third, ..second.next() };
        assert_eq!(sizes(&coalesced(&[first.frame(), second.frame(), third.frame()])), want, "{ids:?}");
    }
}

#[test]
fn interleaved_flows_are_each_joined() {
    let flows: Vec<Make> =
        (0..8).map(|flow| Make { udp: flow % 2 == 0, flow: flow / 2, ..Make::default() }).collect();
    let rounds = [flows.clone(), flows.iter().map(Make::next).collect()].concat();
    let frames: Vec<_> = rounds.iter().map(Make::frame).collect();
    assert_eq!(sizes(&coalesced(&frames)), [2; 8]);
}

/// Segments of a few flows, mostly neighbours, some odd.
fn traffic() -> impl Strategy<Value = Vec<Make>> {
    let step = (1..12u16, 0..24u8, 1..300usize);
    (vec(step, 1..60), any::<bool>(), any::<bool>()).prop_map(|(steps, v6, dont_fragment)| {
        let flow = |flow| Make { udp: flow % 2 == 1, flow, v6, dont_fragment, ..Make::default() };
        let mut next: Vec<Make> = (0..12).map(flow).collect();
        let mut traffic = Vec::new();
        for (flow, oddity, payload) in steps {
            let usual = next[usize::from(flow)].clone();
            let now = match oddity {
                0 => Make { push: true, ..usual },
                1 => Make { payload, ..usual },
                2 => Make { sequence: usual.sequence.wrapping_add(1), ..usual },
                3 => Make { window: usual.window ^ 1, ..usual },
                4 => Make { id: usual.id.wrapping_add(5), ..usual },
                5 => Make { payload: 0, ..usual },
                6 => Make { timestamp: usual.timestamp.map(|at| at + 1), ..usual },
                7 => Make { fin: true, ..usual },
                _ => usual,
            };
            next[usize::from(flow)] = Make { push: false, fin: false, ..now.next() };
            traffic.push(now);
        }
        traffic
    })
}

proptest! {
    /// Whatever comes in, each flow's frames, cut again, are the same bytes in the same order.
    #[test]
    fn joining_and_cutting_gives_back_each_flow(traffic in traffic()) {
        let frames: Vec<_> = traffic.iter().map(Make::frame).collect();
        let again: Vec<Vec<u8>> =
            coalesced(&frames).iter().flat_map(|(frame, offload)| cut(frame, *offload)).collect();
        let flow = |frame: &&Vec<u8>, port: u16| {
            let transport = Transport::find(frame, &Header::parse(frame).unwrap()).unwrap();
            frame[transport.start..transport.start + 2] == port.to_be_bytes()
        };
        for port in 0..12 {
            let sent: Vec<_> = frames.iter().filter(|frame| flow(frame, port)).collect();
            let got: Vec<_> = again.iter().filter(|frame| flow(frame, port)).collect();
            prop_assert_eq!(got, sent);
        }
    }
}
