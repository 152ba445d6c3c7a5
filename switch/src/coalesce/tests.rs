use etherparse::{PacketBuilder, TcpOptionElement};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::packet::Pool;
use crate::segment::Segmenter;
use crate::wire::ethernet::Header;

/// A segment to be made.
#[derive(Clone, Debug)]
struct Make {
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
        let tcp = match (self.v6, self.vlan) {
            (false, None) => ethernet.ip(self.v4()),
            (false, Some(vid)) => ethernet.single_vlan(vid.try_into().unwrap()).ip(self.v4()),
            (true, None) => ethernet.ipv6([1; 16], [2; 16], self.ttl),
            (true, Some(vid)) => {
                ethernet.single_vlan(vid.try_into().unwrap()).ipv6([1; 16], [2; 16], self.ttl)
            }
        };
        let mut tcp = tcp.tcp(self.flow, 80, self.sequence, self.window).ack(self.acknowledgement);
        tcp = if self.push { tcp.psh() } else { tcp };
        tcp = if self.fin { tcp.fin() } else { tcp };
        if let Some(at) = self.timestamp {
            tcp = tcp.options(&[TcpOptionElement::Timestamp(at, 3)]).unwrap();
        }
        let payload: Vec<u8> =
            (0..self.payload).map(|at| at.to_le_bytes()[0] ^ self.sequence.to_le_bytes()[0]).collect();
        let mut bytes = Vec::new();
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
        for dont_fragment in [true, false] {
            let first = Make { v6, vlan, dont_fragment, ..Make::default() };
            let second = first.next();
            let third = Make { push: true, payload: 30, ..second.next() };
            let frames = [first.frame(), second.frame(), third.frame()];
            let delivered = coalesced(&frames);
            let [(joined, offload)] = &delivered[..] else { panic!("{} frames", delivered.len()) };
            assert_eq!(offload.gso.map(|gso| gso.size), Some(100));
            assert!(matches!(offload.checksum, Checksum::Partial { .. }));
            assert_eq!(cut(joined, *offload), frames);
        }
    }
}

#[test]
fn a_lone_segment_is_left_as_it_is_and_vouched_for() {
    let frame = Make::default().frame();
    assert_eq!(
        coalesced(std::slice::from_ref(&frame)),
        [(frame, Offload { checksum: Checksum::Verified, gso: None })]
    );
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
    ] {
        let frames = [first.frame(), second.frame()];
        let delivered = coalesced(&frames);
        assert_eq!(
            delivered.iter().map(|(frame, _)| frame).collect::<Vec<_>>(),
            frames.iter().collect::<Vec<_>>(),
            "{second:?}"
        );
    }
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
    let (first, second) = (Make::default(), Make::default().next());
    for at in [14 + 8, 14 + 10, 14 + 20 + 14, 14 + 20 + 32, 14 + 20 + 32 + 99] {
        let mut damaged = second.frame();
        damaged[at] ^= 0x10;
        let delivered = coalesced(&[first.frame(), damaged.clone()]);
        assert_eq!(delivered[1], (damaged, Offload::default()), "byte {at}");
    }
}

#[test]
fn padding_is_kept_and_not_joined_over() {
    let mut padded = Make::default().frame();
    padded.extend([0; 6]);
    let next = Make::default().next().frame();
    let delivered = coalesced(&[padded.clone(), next.clone()]);
    assert_eq!(delivered.iter().map(|(frame, _)| frame.clone()).collect::<Vec<_>>(), [padded, next]);
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
}

#[test]
fn a_frame_grows_to_the_limits_of_pieces_and_of_ip() {
    let run = |payload, count| {
        let first = Make { payload, ..Make::default() };
        let segments = std::iter::successors(Some(first), |segment| Some(segment.next())).take(count);
        sizes(&coalesced(&segments.map(|segment| segment.frame()).collect::<Vec<_>>()))
    };
    assert_eq!(run(100, 130), [64, 64, 2]);
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
    let flows: Vec<Make> = (1..=8).map(|flow| Make { flow, ..Make::default() }).collect();
    let rounds = [flows.clone(), flows.iter().map(Make::next).collect()].concat();
    let frames: Vec<_> = rounds.iter().map(Make::frame).collect();
    assert_eq!(sizes(&coalesced(&frames)), [2; 8]);
}

/// Segments of a few flows, mostly neighbours, some odd.
fn traffic() -> impl Strategy<Value = Vec<Make>> {
    let step = (1..12u16, 0..24u8, 1..300usize);
    (vec(step, 1..60), any::<bool>(), any::<bool>()).prop_map(|(steps, v6, dont_fragment)| {
        let mut next: Vec<Make> =
            (0..12).map(|flow| Make { flow, v6, dont_fragment, ..Make::default() }).collect();
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
