//! Packets of every shape that the fast path treats, as values.

use etherparse::{
    IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, TcpOptionElement, UdpHeader,
};
use proptest::collection::vec;
use proptest::prelude::*;
use vswitchd_switch::wire::MacAddr;
use vswitchd_switch::wire::checksum::Sum;
use vswitchd_switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Stations behind the sending and the receiving switch.
pub(crate) const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
pub(crate) const RECEIVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

const SOURCE4: [u8; 4] = [198, 51, 100, 1];
const DESTINATION4: [u8; 4] = [198, 51, 100, 2];
const SOURCE6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DESTINATION6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const SERVICE: u16 = 5_201;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// Payload bytes of a segment at most: with the longest headers, it still fits an overlay's MTU of 1,450.
pub(crate) const SIZE_MAX: u16 = 1_300;

/// A TCP segment or UDP datagram, with all that stands before it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// 802.1Q or 802.1ad tags, with their type.
    pub(crate) tags: Vec<[u8; 4]>,
    pub(crate) network: Network,
    pub(crate) source_port: u16,
    pub(crate) transport: Protocol,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) enum Network {
    V4 {
        tos: u8,
        id: u16,
        dont_fragment: bool,
        more_fragments: bool,
        ttl: u8,
        options: Vec<u8>,
    },
    /// Extension headers by their number, hop-by-hop options first; each has a length in units of 8 bytes beyond the
    /// first.
    V6 {
        class: u8,
        label: u32,
        hop_limit: u8,
        extensions: Vec<(u8, u8)>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Protocol {
    Tcp {
        sequence: u32,
        acknowledgement: u32,
        flags: u8,
        window: u16,
        options: Vec<u8>,
    },
    /// `summed`: whether it has a checksum.
    Udp {
        summed: bool,
    },
}

impl Packet {
    /// The whole frame, checksums complete.
    pub(crate) fn frame(&self) -> Vec<u8> {
        [self.ethernet(), self.ip(), self.transport_header(), self.payload.clone()].concat()
    }

    /// The frame as a TAP gives it, to be cut to `size` bytes of payload.
    pub(crate) fn super_frame(&self, size: u16) -> (Vec<u8>, Offload) {
        let (frame, offload) = self.unfinished();
        let kind = match (&self.transport, self.is_v6()) {
            (Protocol::Udp { .. }, _) => GsoKind::Udp,
            (Protocol::Tcp { .. }, false) => GsoKind::Tcp4,
            (Protocol::Tcp { .. }, true) => GsoKind::Tcp6,
        };
        let header_len = u16::try_from(frame.len() - self.payload.len()).expect("headers are short");
        let ecn = matches!(self.transport, Protocol::Tcp { flags, .. } if flags & CWR != 0);
        (frame, Offload { gso: Some(Gso { kind, size, header_len, ecn }), ..offload })
    }

    /// The frame as a TAP gives it that leaves checksums to others.
    pub(crate) fn unfinished(&self) -> (Vec<u8>, Offload) {
        let mut frame = self.frame();
        let start = self.ethernet().len() + self.ip().len();
        let offset = if self.protocol() == IpNumber::UDP.0 { 6 } else { 16 };
        let len = u16::try_from(frame.len() - start).expect("within an IP packet");
        let pseudo = if self.is_v6() {
            Sum::default().pseudo_v6(SOURCE6, DESTINATION6, self.protocol(), len.into())
        } else {
            Sum::default().pseudo_v4(SOURCE4, DESTINATION4, self.protocol(), len)
        };
        frame[start + offset..start + offset + 2].copy_from_slice(&pseudo.fold());
        let start = u16::try_from(start).expect("headers are short");
        let checksum = Checksum::Partial { start, offset: u16::try_from(offset).expect("as above") };
        (frame, Offload { checksum, gso: None })
    }

    /// What a kernel makes of it for a device without segmentation offload.
    pub(crate) fn segments(&self, size: u16) -> Vec<Self> {
        let count = self.payload.len().div_ceil(size.into());
        let parts = self.payload.chunks(size.into()).enumerate();
        parts.map(|(index, part)| self.segment(index, count, index * usize::from(size), part)).collect()
    }

    fn segment(&self, index: usize, count: usize, offset: usize, part: &[u8]) -> Self {
        let mut segment = Self { payload: part.to_vec(), ..self.clone() };
        if let Network::V4 { id, .. } = &mut segment.network {
            *id = id.wrapping_add(u16::try_from(index).expect("few segments"));
        }
        if let Protocol::Tcp { sequence, flags, .. } = &mut segment.transport {
            *sequence = sequence.wrapping_add(u32::try_from(offset).expect("within an IP packet"));
            *flags &= if index == 0 { 0xff } else { !CWR };
            *flags &= if index + 1 == count { 0xff } else { !(FIN | PSH) };
        }
        segment
    }

    pub(crate) fn is_v6(&self) -> bool {
        matches!(self.network, Network::V6 { .. })
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Protocol::Tcp { .. } => IpNumber::TCP.0,
            Protocol::Udp { .. } => IpNumber::UDP.0,
        }
    }

    fn ethernet(&self) -> Vec<u8> {
        let kind: [u8; 2] = if self.is_v6() { [0x86, 0xdd] } else { [0x08, 0x00] };
        [&RECEIVER.0[..], &SENDER.0, &self.tags.concat(), &kind].concat()
    }

    fn ip(&self) -> Vec<u8> {
        let behind = self.transport_header().len() + self.payload.len();
        match &self.network {
            Network::V4 { tos, id, dont_fragment, more_fragments, ttl, options } => {
                let mut ip = Ipv4Header {
                    dscp: IpDscp::try_new(tos >> 2).expect("six bits"),
                    ecn: IpEcn::try_new(tos & 3).expect("two bits"),
                    identification: *id,
                    dont_fragment: *dont_fragment,
                    more_fragments: *more_fragments,
                    time_to_live: *ttl,
                    protocol: IpNumber(self.protocol()),
                    source: SOURCE4,
                    destination: DESTINATION4,
                    options: options.as_slice().try_into().expect("whole words, at most ten"),
                    ..Ipv4Header::default()
                };
                ip.set_payload_len(behind).expect("within an IP packet");
                ip.header_checksum = ip.calc_header_checksum();
                ip.to_bytes().to_vec()
            }
            Network::V6 { class, label, hop_limit, extensions } => {
                let headers = extension_headers(extensions, self.protocol());
                let first = extensions.first().map_or_else(|| self.protocol(), |&(kind, _)| kind);
                let ip = Ipv6Header {
                    traffic_class: *class,
                    flow_label: Ipv6FlowLabel::try_new(*label).expect("twenty bits"),
                    payload_length: u16::try_from(headers.len() + behind).expect("within an IP packet"),
                    next_header: IpNumber(first),
                    hop_limit: *hop_limit,
                    source: SOURCE6,
                    destination: DESTINATION6,
                };
                [&ip.to_bytes()[..], &headers].concat()
            }
        }
    }

    fn transport_header(&self) -> Vec<u8> {
        match &self.transport {
            Protocol::Tcp { sequence, acknowledgement, flags, window, options } => {
                let mut tcp = TcpHeader::new(self.source_port, SERVICE, *sequence, *window);
                tcp.acknowledgment_number = *acknowledgement;
                tcp.set_options_raw(options).expect("at most 40 bytes");
                (tcp.fin, tcp.syn, tcp.rst, tcp.psh) =
                    (flags & FIN != 0, flags & 2 != 0, flags & 4 != 0, flags & PSH != 0);
                (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) =
                    (flags & ACK != 0, flags & 0x20 != 0, flags & 0x40 != 0, flags & CWR != 0);
                tcp.checksum = if self.is_v6() {
                    tcp.calc_checksum_ipv6_raw(SOURCE6, DESTINATION6, &self.payload)
                } else {
                    tcp.calc_checksum_ipv4_raw(SOURCE4, DESTINATION4, &self.payload)
                }
                .expect("within an IP packet");
                tcp.to_bytes().to_vec()
            }
            Protocol::Udp { summed } => {
                let udp = if self.is_v6() {
                    let addresses = (SOURCE6, DESTINATION6);
                    let ip =
                        Ipv6Header { source: addresses.0, destination: addresses.1, ..Ipv6Header::default() };
                    UdpHeader::with_ipv6_checksum(self.source_port, SERVICE, &ip, &self.payload)
                } else {
                    let ip =
                        Ipv4Header { source: SOURCE4, destination: DESTINATION4, ..Ipv4Header::default() };
                    UdpHeader::with_ipv4_checksum(self.source_port, SERVICE, &ip, &self.payload)
                };
                let udp = udp.expect("within an IP packet");
                let checksum = if *summed { udp.checksum } else { 0 };
                UdpHeader { checksum, ..udp }.to_bytes().to_vec()
            }
        }
    }
}

/// Each names the next; the last one the transport.
fn extension_headers(extensions: &[(u8, u8)], protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, &(kind, more)) in extensions.iter().enumerate() {
        let next = extensions.get(index + 1).map_or(protocol, |&(next, _)| next);
        let mut header = vec![0; 8 + 8 * usize::from(more)];
        (header[0], header[1]) = (next, more);
        // A routing header of an unused type with no segments left, or options that are but padding (PadN).
        (header[2], header[3]) = if kind == ROUTING { (254, 0) } else { (1, 4 + 8 * more) };
        bytes.extend(header);
    }
    bytes
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Any packet with such payload; TCP with any flags, mostly usual ones.
pub(crate) fn packets(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Packet> {
    let source_port = 40_000..40_008u16;
    (vec(tag(), 0..=2), network(), source_port, protocol(), payload).prop_map(
        |(tags, network, source_port, transport, payload)| Packet {
            tags,
            network,
            source_port,
            transport,
            payload,
        },
    )
}

fn tag() -> impl Strategy<Value = [u8; 4]> {
    (prop_oneof![Just([0x81, 0x00]), Just([0x88, 0xa8])], any::<[u8; 2]>())
        .prop_map(|([a, b], [c, d])| [a, b, c, d])
}

fn network() -> impl Strategy<Value = Network> {
    let options = prop_oneof![
        3 => Just(Vec::new()),
        // Record route (RFC 791) with room for three addresses, and an end of options; or nothing done at length.
        1 => Just([&[7, 15, 4][..], &[0; 13]].concat()),
        1 => (1..=10usize).prop_map(|words| vec![1; words * 4]),
    ];
    let v4 = (any::<u8>(), any::<u16>(), any::<bool>(), 1..=255u8, options).prop_map(
        |(tos, id, dont_fragment, ttl, options)| Network::V4 {
            tos,
            id,
            dont_fragment,
            more_fragments: false,
            ttl,
            options,
        },
    );
    let kinds = prop::sample::subsequence(vec![HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS], 0..=3);
    let extensions =
        (kinds, 0..2u8).prop_map(|(kinds, more)| kinds.into_iter().map(|kind| (kind, more)).collect());
    let v6 = (any::<u8>(), 0..1u32 << 20, 1..=255u8, extensions).prop_map(
        |(class, label, hop_limit, extensions)| Network::V6 { class, label, hop_limit, extensions },
    );
    prop_oneof![v4, v6]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let flags = prop_oneof![
        4 => Just(ACK),
        3 => Just(ACK | PSH),
        2 => any::<u8>(),
    ];
    let tcp = (any::<u32>(), any::<u32>(), flags, any::<u16>(), tcp_options()).prop_map(
        |(sequence, acknowledgement, flags, window, options)| Protocol::Tcp {
            sequence,
            acknowledgement,
            flags,
            window,
            options,
        },
    );
    prop_oneof![tcp, Just(Protocol::Udp { summed: true })]
}

/// Timestamps (RFC 7323), selective acknowledgements (RFC 2018), both, or none.
fn tcp_options() -> impl Strategy<Value = Vec<u8>> {
    let timestamp = (any::<u32>(), any::<u32>())
        .prop_map(|(value, echo)| [TcpOptionElement::Timestamp(value, echo)].to_vec());
    let sack =
        (any::<u32>(), any::<u32>(), any::<u32>(), 0..3usize).prop_map(|(left, width, other, more)| {
            let first = (left, left.wrapping_add(width));
            let mut others = [None; 3];
            others[..more].fill(Some((other, first.0)));
            [TcpOptionElement::SelectiveAcknowledgement(first, others)].to_vec()
        });
    let some = prop::option::of(timestamp);
    (some, prop::option::of(sack)).prop_map(|(timestamp, sack)| {
        let elements = [timestamp.unwrap_or_default(), sack.unwrap_or_default()].concat();
        let mut header = TcpHeader::default();
        header.set_options(&elements).expect("10 and at most 26 bytes");
        header.options.as_slice().to_vec()
    })
}
