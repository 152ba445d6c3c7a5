//! The fast path against the plain one, over a link with faults.
//!
//! Flows cross two switches twice: as super-frames between ports that take everything, with datagrams joined on the
//! way as `UDP_GRO` does; and as the frames that a kernel would have cut, between ports that take nothing, each in a
//! datagram and a batch of its own. What a flow's receiver gets must be the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use vswitchd_switch::io::Capabilities;
use vswitchd_switch::io::mem::{Faults, Wire};
use vswitchd_switch::wire::ethernet::{EtherType, Header};
use vswitchd_switch::wire::flow::Transport;
use vswitchd_switch::wire::virtio::Offload;

use crate::host::{ALL, Host, NONE, Whole, cut};
use crate::packet::{Network, Packet, Protocol, SIZE_MAX, packets};

/// Datagrams of a run that the receiving kernel joins, and runs of a batch, at most.
const RUN_MAX: usize = 64;
const BATCH_MAX: usize = 32;

/// What an endpoint writes at once.
#[derive(Clone, Debug)]
struct Write {
    packet: Packet,
    /// Payload bytes of each segment; `None` for an ordinary frame.
    size: Option<u16>,
    /// Zeros behind the packet of an ordinary frame.
    padding: usize,
    /// An ordinary frame whose checksum is left to others, where they take that.
    unfinished: bool,
}

impl Write {
    fn whole(&self) -> Whole {
        match self.size {
            Some(size) => self.packet.super_frame(size),
            None if self.unfinished => self.packet.unfinished(),
            None => (self.ordinary(), Offload::default()),
        }
    }

    fn cut(&self) -> Vec<Whole> {
        let frames = match self.size {
            Some(size) => self.packet.segments(size).iter().map(Packet::frame).collect(),
            None => vec![self.ordinary()],
        };
        frames.into_iter().map(|frame| (frame, Offload::default())).collect()
    }

    /// What is so once.
    fn make_odd(&mut self, step: &Step) {
        let Packet { network, transport, payload, .. } = &mut self.packet;
        match (step, network, transport) {
            (Step::Flags(flags), _, Protocol::Tcp { flags: now, .. }) => *now = *flags,
            (Step::Empty, ..) => (*payload, self.size) = (Vec::new(), None),
            (Step::Unsummed, _, Protocol::Udp { summed }) => (*summed, self.size) = (false, None),
            (Step::Fragment, Network::V4 { id, more_fragments, .. }, _) => {
                (*id, *more_fragments, self.size) = (id.wrapping_add(0x8000), true, None);
            }
            (Step::Unfinished, ..) => self.unfinished = true,
            (Step::Padded(bytes), ..) => (self.padding, self.size) = (*bytes, None),
            _ => {}
        }
    }

    fn ordinary(&self) -> Vec<u8> {
        [self.packet.frame(), vec![0; self.padding]].concat()
    }
}

/// A change on the way from one write of a flow to the next.
#[derive(Clone, Debug)]
enum Step {
    /// As a sender goes on.
    Usual,
    /// Sent a second time.
    Again,
    /// After the flow's next one.
    Late,
    /// TCP: some bytes, or identifications, are left out.
    Gap(u16),
    /// The identification stays as it was.
    SameId,
    Flags(u8),
    Window(u16),
    Acknowledgement(u32),
    TcpOptions(Vec<u8>),
    /// Type of service or traffic class.
    Tos(u8),
    TimeToLive(u8),
    Tag(u8),
    Empty,
    Unsummed,
    Unfinished,
    Fragment,
    Padded(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => Just(Step::Usual),
        1 => Just(Step::Again),
        1 => Just(Step::Late),
        1 => (1..2_000u16).prop_map(Step::Gap),
        2 => Just(Step::SameId),
        2 => any::<u8>().prop_map(Step::Flags),
        1 => any::<u16>().prop_map(Step::Window),
        1 => any::<u32>().prop_map(Step::Acknowledgement),
        1 => vec(any::<[u8; 4]>(), 0..3).prop_map(|words| Step::TcpOptions(words.concat())),
        1 => any::<u8>().prop_map(Step::Tos),
        1 => any::<u8>().prop_map(Step::TimeToLive),
        1 => any::<u8>().prop_map(Step::Tag),
        1 => Just(Step::Empty),
        1 => Just(Step::Unsummed),
        2 => Just(Step::Unfinished),
        1 => Just(Step::Fragment),
        1 => (1..40usize).prop_map(Step::Padded),
    ]
}

/// How a write is made from the flow's packet: payload, size of segments, what is odd about it.
type Made = (usize, usize, Option<u16>, Step);

fn made() -> impl Strategy<Value = Made> {
    let flow = 0..5usize;
    // Ordinary frames come in few sizes, so that neighbours are often equal.
    let ordinary = (flow.clone(), prop_oneof![4 => Just(300usize), 1 => 1..1_300usize], Just(None), steps());
    let large = (flow, 1..6_000usize, (30..SIZE_MAX).prop_map(Some), steps());
    prop_oneof![3 => ordinary, 1 => large]
}

/// Writes of up to five flows, each with a port of its own.
fn traffic() -> impl Strategy<Value = Vec<Write>> {
    let flows = vec(packets(Just(Vec::new())), 5);
    (flows, vec(made(), 1..60)).prop_map(|(mut flows, made)| {
        for (flow, port) in flows.iter_mut().zip(40_000..) {
            flow.source_port = port;
        }
        let mut late: BTreeMap<usize, Write> = BTreeMap::new();
        let mut writes = Vec::new();
        for (flow, payload, size, step) in made {
            let write = write(&mut flows[flow], payload, size, &step);
            let held = late.remove(&flow);
            match step {
                Step::Late if held.is_none() => {
                    late.insert(flow, write);
                }
                Step::Again => writes.extend([write.clone(), write]),
                _ => writes.push(write),
            }
            writes.extend(held);
        }
        writes.extend(late.into_values());
        writes
    })
}

/// The flow's next write; the flow then stands where its sender does.
fn write(flow: &mut Packet, payload: usize, size: Option<u16>, step: &Step) -> Write {
    alter(flow, step);
    let mut packet = flow.clone();
    let seed = payload ^ usize::from(flow.source_port);
    packet.payload = (0..payload).map(|at| (at ^ seed).to_le_bytes()[0]).collect();
    let mut write = Write { packet, size, padding: 0, unfinished: false };
    write.make_odd(step);
    if write.size.is_none() {
        write.packet.payload.truncate(SIZE_MAX.into());
    }
    // A fragment is put between two that would be joined but for it.
    if !matches!(step, Step::Fragment) {
        advance(flow, &write.packet, write.size);
    }
    write
}

/// What stays so from now on.
fn alter(flow: &mut Packet, step: &Step) {
    if let Step::Tag(value) = step
        && let Some(tag) = flow.tags.first_mut()
    {
        tag[2] = *value;
    }
    match (&mut flow.network, step) {
        (Network::V4 { tos: now, .. } | Network::V6 { class: now, .. }, Step::Tos(value))
        | (Network::V4 { ttl: now, .. } | Network::V6 { hop_limit: now, .. }, Step::TimeToLive(value)) => {
            *now = *value;
        }
        (Network::V4 { id, .. }, Step::Gap(skipped)) => *id = id.wrapping_add(*skipped),
        (Network::V4 { id, .. }, Step::SameId) => *id = id.wrapping_sub(1),
        _ => {}
    }
    let Protocol::Tcp { sequence, acknowledgement, window, options, .. } = &mut flow.transport else {
        return;
    };
    match step {
        Step::Gap(skipped) => *sequence = sequence.wrapping_add(u32::from(*skipped)),
        Step::Window(value) => *window = *value,
        Step::Acknowledgement(value) => *acknowledgement = *value,
        Step::TcpOptions(value) => options.clone_from(value),
        _ => {}
    }
}

fn advance(flow: &mut Packet, packet: &Packet, size: Option<u16>) {
    let segments = size.map_or(1, |size| packet.payload.len().div_ceil(size.into()));
    if let Network::V4 { id, .. } = &mut flow.network {
        *id = id.wrapping_add(u16::try_from(segments).expect("few segments"));
    }
    if let Protocol::Tcp { sequence, .. } = &mut flow.transport {
        *sequence = sequence.wrapping_add(u32::try_from(packet.payload.len()).expect("payloads are short"));
    }
}

fn faults() -> impl Strategy<Value = Faults> {
    let share = || prop_oneof![2 => Just(0.0), 1 => 0.0..0.2f64];
    (share(), share(), share()).prop_map(|(loss, duplicate, reorder)| Faults {
        loss,
        duplicate,
        reorder,
        delay: Duration::from_millis(1),
        jitter: Duration::ZERO,
    })
}

/// What the link makes of datagrams that are sent 20 µs apart.
#[expect(clippy::disallowed_methods, reason = "virtual time has to begin at some moment")]
fn carried(datagrams: Vec<(u32, Vec<u8>)>, faults: Faults, seed: u64) -> Vec<(u32, Vec<u8>)> {
    let (mut wire, mut now) = (Wire::new(faults, seed, 10_000), Instant::now());
    let mut arrived = Vec::new();
    for datagram in datagrams {
        wire.send(1, 2, datagram, now);
        now += Duration::from_micros(20);
        arrived.extend(std::iter::from_fn(|| wire.poll(now)));
    }
    arrived.extend(std::iter::from_fn(|| wire.poll(now + Duration::from_secs(1))));
    arrived.into_iter().map(|(_, _, datagram)| datagram).collect()
}

/// Datagrams as the fast path receives them: neighbours of one flow as a run, several runs as a batch.
fn batches(arrived: &[(u32, Vec<u8>)], mut random: fastrand::Rng) -> Vec<Vec<Vec<Vec<u8>>>> {
    let mut batches: Vec<Vec<Vec<Vec<u8>>>> = vec![Vec::new()];
    let mut last: Option<u32> = None;
    for (entropy, datagram) in arrived {
        if batches.last().is_some_and(|batch| batch.len() == BATCH_MAX) || random.u8(..) < 4 {
            batches.push(Vec::new());
        }
        let batch = batches.last_mut().expect("there is one from the beginning");
        match batch.last_mut() {
            // A shorter one ended its run, a longer one begins another.
            Some(run)
                if last == Some(*entropy)
                    && run.len() < RUN_MAX
                    && run.last().map(Vec::len) == run.first().map(Vec::len)
                    && datagram.len() <= run[0].len()
                    && random.u8(..) >= 8 =>
            {
                run.push(datagram.clone());
            }
            _ => batch.push(vec![datagram.clone()]),
        }
        last = Some(*entropy);
    }
    batches
}

fn fast(arrived: &[(u32, Vec<u8>)], capabilities: Capabilities, random: fastrand::Rng) -> Vec<Vec<u8>> {
    let mut host = Host::receiving(capabilities);
    let batches = batches(arrived, random);
    let delivered = batches.iter().flat_map(|batch| {
        let runs: Vec<&[Vec<u8>]> = batch.iter().map(Vec::as_slice).collect();
        host.ingress(&runs)
    });
    delivered.flat_map(|whole| cut(&whole)).collect()
}

fn plain(arrived: &[(u32, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut host = Host::receiving(NONE);
    let delivered = arrived.iter().flat_map(|(_, datagram)| host.ingress(&[std::slice::from_ref(datagram)]));
    delivered.map(|(frame, _)| frame).collect()
}

/// Each flow's frames in order, by its port, without what means nothing: the identification of an atomic packet
/// (RFC 6864 §4) and the header checksum over it.
fn by_flow(frames: Vec<Vec<u8>>) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for mut frame in frames {
        let header = Header::parse(&frame).expect("a whole Ethernet header");
        let ip = header.payload;
        let transport = Transport::find(&frame, &header).map(|transport| transport.start);
        // Fragments are first ones of IPv4, which have ports too.
        let start = transport.unwrap_or_else(|| ip + usize::from(frame[ip] & 0x0f) * 4);
        let port = u16::from_be_bytes([frame[start], frame[start + 1]]);
        if header.ether_type == EtherType::IPV4 {
            let sum = etherparse::Ipv4Header::from_slice(&frame[ip..]).expect("a whole IPv4 header").0;
            assert_eq!(sum.header_checksum, sum.calc_header_checksum());
            if sum.dont_fragment {
                frame[ip + 4..ip + 6].fill(0);
                frame[ip + 10..ip + 12].fill(0);
            }
        }
        flows.entry(port).or_default().push(frame);
    }
    flows
}

proptest! {
    #[test]
    fn the_fast_path_gives_what_the_plain_one_gives(
        writes in traffic(), faults in faults(), seed in any::<u64>(), (tso, uso) in any::<(bool, bool)>(),
    ) {
        let whole: Vec<_> = writes.iter().map(Write::whole).collect();
        let mut sender = Host::sending(ALL);
        let sent: Vec<_> = whole.chunks(BATCH_MAX).flat_map(|batch| sender.egress(batch)).collect();
        let mut sender = Host::sending(NONE);
        let each = writes.iter().flat_map(Write::cut);
        let sent_plain: Vec<_> = each.flat_map(|frame| sender.egress(&[frame])).collect();
        prop_assert_eq!(&sent, &sent_plain, "the underlay sees no difference");

        let arrived = carried(sent, faults, seed);
        let want = by_flow(plain(&arrived));
        for capabilities in [ALL, Capabilities { checksum: true, tso, uso }] {
            let got = by_flow(fast(&arrived, capabilities, fastrand::Rng::with_seed(seed)));
            prop_assert_eq!(&got, &want, "{:?}", capabilities);
        }
    }
}
