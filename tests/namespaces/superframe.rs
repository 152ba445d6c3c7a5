//! Super-frames as a guest may write them, with every header that is copied, counted up or summed when they are cut.

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};
use fastrand::Rng;
use vswitchd::switch::wire::checksum::Sum;
use vswitchd::switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Whose frames they are.
pub(crate) const SOURCE: [u8; 6] = [2, 0xaa, 0, 0, 0, 1];

/// Segments of one, at most: the kernel takes no more of UDP (`UDP_MAX_SEGMENTS`), and a TAP's queue holds 1,000 frames.
const SEGMENTS_MAX: usize = 128;
const FRAME_MAX: usize = 65_535;

const V4: [[u8; 4]; 2] = [[10, 99, 0, 1], [10, 99, 0, 2]];
const V6: [[u8; 16]; 2] = [
    [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
];

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) mac: [u8; 6],
    pub(crate) v4: [[u8; 4]; 2],
    pub(crate) v6: [[u8; 16]; 2],
    pub(crate) destination_port: u16,
}

impl Route {
    /// To a station that isn't there but for the bytes.
    pub(crate) fn nowhere() -> Self {
        Self { mac: [2, 0xaa, 0, 0, 0, 2], v4: V4, v6: V6, destination_port: 5_201 }
    }
}

/// A super-frame, and what it was made of.
pub(crate) struct SuperFrame {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
    /// Where the payload starts.
    pub(crate) payload: usize,
    pub(crate) shape: Shape,
}

/// What a super-frame is made of; printed where one is cut wrong.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) six: bool,
    pub(crate) udp: bool,
    /// 802.1Q and 802.1ad tags, and the type that follows.
    tags: Vec<u8>,
    ip_options: Vec<u8>,
    extensions: Vec<Extension>,
    tcp_options: Vec<u8>,
    tcp_flags: u16,
    /// TOS or traffic class, ECN included.
    class: u8,
    dont_fragment: bool,
    id: u16,
    sequence: u32,
    pub(crate) payload_len: usize,
    pub(crate) size: usize,
    ecn: bool,
    /// What the virtio-net header says of all headers' length, too little or nothing included.
    hint: Hint,
}

#[derive(Clone, Copy, Debug)]
enum Hint {
    None,
    Short,
    Right,
}

impl Shape {
    /// One whose segments have at most `ip_max` bytes from the IP header on, and tags.
    pub(crate) fn random(rng: &mut Rng, ip_max: usize) -> Self {
        let (six, udp) = (rng.bool(), rng.bool());
        let mut shape = Self {
            six,
            udp,
            tags: tags(rng, six),
            ip_options: if six { Vec::new() } else { ip_options(rng) },
            extensions: if six { extensions(rng) } else { Vec::new() },
            tcp_options: if udp { Vec::new() } else { tcp_options(rng) },
            tcp_flags: rng.u16(..0x200),
            class: rng.u8(..),
            dont_fragment: rng.bool(),
            id: rng.u16(..),
            sequence: rng.u32(..),
            payload_len: 0,
            size: 0,
            ecn: !udp && rng.bool(),
            hint: [Hint::None, Hint::Short, Hint::Right][rng.usize(..3)],
        };
        let headers = shape.ip_header_len() + shape.transport_header_len();
        let room = ip_max - headers - (shape.tags.len() - 2);
        shape.size = match rng.u8(..3) {
            0 => room,
            1 => rng.usize(1..=room),
            _ => rng.usize(1..=64),
        };
        let most = (FRAME_MAX - 12 - shape.tags.len() - headers).min(SEGMENTS_MAX * shape.size);
        // Two segments at least: the kernel drops a super-frame that is no longer than its own size.
        let payload_len = rng.usize(shape.size + 1..=most);
        // Now and then the last segment is as long as the others.
        let even = payload_len.next_multiple_of(shape.size);
        shape.payload_len = if rng.u8(..4) == 0 && even <= most { even } else { payload_len };
        shape
    }

    /// Whether a socket can be given it.
    pub(crate) fn is_untagged_udp(&self) -> bool {
        self.udp && self.tags.len() == 2
    }

    fn ip_header_len(&self) -> usize {
        if self.six { 40 + self.extensions_len() } else { 20 + self.ip_options.len() }
    }

    fn extensions_len(&self) -> usize {
        self.extensions.iter().map(|extension| extension.len()).sum()
    }

    fn transport_header_len(&self) -> usize {
        if self.udp { 8 } else { 20 + self.tcp_options.len() }
    }

    fn transport_header(&self, route: &Route) -> Vec<u8> {
        if self.udp {
            let length = short(8 + self.payload_len);
            let (source_port, destination_port) = (40_000, route.destination_port);
            return UdpHeader { source_port, destination_port, length, checksum: 0 }.to_bytes().to_vec();
        }
        let mut header = TcpHeader::new(40_000, route.destination_port, self.sequence, 5_000);
        header.set_options_raw(&self.tcp_options).expect("up to 40 bytes, a multiple of four");
        (header.acknowledgment_number, header.urgent_pointer) = (self.sequence ^ 0x5555_5555, self.id);
        let mut bytes = header.to_bytes().to_vec();
        let [high, low] = self.tcp_flags.to_be_bytes();
        (bytes[12], bytes[13]) = (bytes[12] | high, low);
        bytes
    }

    fn ip_headers(&self, route: &Route, behind: usize) -> Vec<u8> {
        let protocol = protocol(self.udp);
        if self.six {
            // Each names the kind of the next one.
            let (mut extensions, mut next) = (Vec::new(), protocol);
            for extension in self.extensions.iter().rev() {
                extensions = [extension.bytes(next), extensions].concat();
                next = extension.kind;
            }
            let ip = Ipv6Header {
                traffic_class: self.class,
                flow_label: Ipv6FlowLabel::try_new(self.sequence & 0xf_ffff).expect("20 bits"),
                payload_length: short(self.extensions_len() + behind),
                next_header: IpNumber(next),
                hop_limit: 63,
                source: route.v6[0],
                destination: route.v6[1],
            };
            return [&ip.to_bytes()[..], &extensions].concat();
        }
        let [source, destination] = route.v4;
        let mut ip = Ipv4Header::new(0, 63, IpNumber(protocol), source, destination).expect("no payload yet");
        ip.options = self.ip_options.as_slice().try_into().expect("up to 40 bytes, a multiple of four");
        ip.total_len = short(ip.header_len() + behind);
        ip.identification = self.id;
        ip.dont_fragment = self.dont_fragment;
        ip.fragment_offset = IpFragOffset::ZERO;
        let mut bytes = ip.to_bytes().to_vec();
        bytes[1] = self.class;
        bytes[10..12].fill(0);
        let checksum = Sum::default().bytes(&bytes).finish();
        bytes[10..12].copy_from_slice(&checksum);
        bytes
    }

    /// The frame, its checksum field holding the pseudo-header's sum, and its offload.
    pub(crate) fn build(self, route: &Route) -> SuperFrame {
        let transport = self.transport_header(route);
        let mut bytes = [&route.mac[..], &SOURCE, &self.tags].concat();
        bytes.extend(self.ip_headers(route, transport.len() + self.payload_len));
        let start = bytes.len();
        bytes.extend(&transport);
        let payload = bytes.len();
        bytes.extend((0..self.payload_len).map(|at| (at % 251).to_le_bytes()[0]));
        let offset = if self.udp { 6 } else { 16 };
        let (protocol, len) = (protocol(self.udp), short(bytes.len() - start));
        let pseudo = if self.six {
            Sum::default().pseudo_v6(route.v6[0], route.v6[1], protocol, len.into())
        } else {
            Sum::default().pseudo_v4(route.v4[0], route.v4[1], protocol, len)
        };
        bytes[start + offset..start + offset + 2].copy_from_slice(&pseudo.fold());
        let kind = match (self.udp, self.six) {
            (true, _) => GsoKind::Udp,
            (false, false) => GsoKind::Tcp4,
            (false, true) => GsoKind::Tcp6,
        };
        let header_len = match self.hint {
            Hint::None => 0,
            Hint::Short => 20,
            Hint::Right => short(payload),
        };
        let gso = Gso { kind, size: short(self.size), header_len, ecn: self.ecn };
        let checksum = Checksum::Partial { start: short(start), offset: short(offset) };
        SuperFrame { bytes, offload: Offload { checksum, gso: Some(gso) }, payload, shape: self }
    }
}

impl SuperFrame {
    /// How many segments it is to come to.
    pub(crate) fn segments(&self) -> usize {
        self.shape.payload_len.div_ceil(self.shape.size)
    }
}

fn protocol(udp: bool) -> u8 {
    if udp { IpNumber::UDP.0 } else { IpNumber::TCP.0 }
}

fn tags(rng: &mut Rng, six: bool) -> Vec<u8> {
    let ether_type: [u8; 2] = if six { [0x86, 0xdd] } else { [0x08, 0x00] };
    let mut tags = match rng.u8(..4) {
        0 => vec![0x81, 0x00, 0xe0, 0x07],
        1 => vec![0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0x20, 0x07],
        _ => Vec::new(),
    };
    tags.extend(ether_type);
    tags
}

/// IPv4: none, a router alert (RFC 2113), or up to 40 bytes of padding.
fn ip_options(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..4) {
        0 => vec![0x94, 4, 0, 0],
        1 => vec![1; 4 * rng.usize(1..=10)],
        _ => Vec::new(),
    }
}

fn tcp_options(rng: &mut Rng) -> Vec<u8> {
    let stamps: [u8; 8] = rng.u64(..).to_be_bytes();
    match rng.u8(..3) {
        0 => [&[1, 1, 8, 10][..], &stamps].concat(),
        1 => vec![1; 4 * rng.usize(0..=10)],
        _ => Vec::new(),
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;

/// Hop-by-hop options first, the others in the order of RFC 8200 §4.1.
fn extensions(rng: &mut Rng) -> Vec<Extension> {
    let all = [HOP_BY_HOP, DESTINATION_OPTIONS, ROUTING, DESTINATION_OPTIONS];
    let kinds: Vec<u8> = if rng.bool() { all.into_iter().filter(|_| rng.bool()).collect() } else { vec![] };
    kinds.into_iter().map(|kind| Extension { kind, long: rng.bool() }).collect()
}

/// An IPv6 extension header of 8 or 16 bytes.
#[derive(Clone, Copy, Debug)]
struct Extension {
    kind: u8,
    long: bool,
}

impl Extension {
    fn len(self) -> usize {
        if self.long { 16 } else { 8 }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        // A routing header that is used up (type 0, no segments left), or one option: PadN (RFC 8200 §4.2), or where
        // that would be longer than hosts put up with, one to be skipped by who doesn't know it (RFC 4727 §4.3).
        let [a, b] = match self.kind {
            ROUTING => [0, 0],
            _ if self.long => [0x1e, 12],
            _ => [1, 4],
        };
        let mut bytes = vec![next, u8::from(self.long), a, b];
        bytes.resize(self.len(), 0);
        bytes
    }
}

fn short(len: usize) -> u16 {
    u16::try_from(len).expect("within an IP packet")
}
