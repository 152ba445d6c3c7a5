//! A joined frame while it grows.

use super::segment::{PSH, Segment};
use crate::outbox::{Outbox, PARTS_MAX, Part, RUN_DATAGRAMS_MAX};
use crate::tables::PortId;
use crate::wire::checksum::Sum;
use crate::wire::flow::IpVersion;
use crate::wire::flow::field::{ipv4, ipv6, tcp, udp};
use crate::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// The longest IP packet.
const IP_BYTES_MAX: usize = 65_535;

// A kernel refuses a UDP super-frame of more segments than its `UDP_MAX_SEGMENTS`.
const _: () = assert!(PARTS_MAX <= RUN_DATAGRAMS_MAX);

/// A delivery that may still grow.
#[derive(Debug)]
pub(super) struct Open {
    /// Index in the outbox.
    delivery: usize,
    first: Segment,
    /// Payload so far.
    payload_len: usize,
    /// `None` in UDP.
    next_sequence: Option<u32>,
    next_id: u16,
    /// The last segment has PSH.
    push: bool,
    parts: Vec<Part>,
}

impl Open {
    /// For a segment whose delivery comes next; `parts` is empty.
    pub(super) fn new(out: &Outbox, first: Segment, parts: Vec<Part>) -> Self {
        let bytes = first.bytes(out);
        Self {
            delivery: out.deliveries.len(),
            payload_len: first.payload_len,
            next_sequence: after(first.sequence, first.payload_len),
            next_id: if first.transport.ip == IpVersion::V4 { first.id(bytes).wrapping_add(1) } else { 0 },
            push: false,
            first,
            parts,
        }
    }

    pub(super) fn port(&self) -> PortId {
        self.first.port
    }

    /// `bytes` are the segment's, here and below.
    pub(super) fn is_flow_of(&self, segment: &Segment, bytes: &[u8], out: &Outbox) -> bool {
        self.first.is_same_flow(segment, bytes, out)
    }

    /// Whether a plain segment of the same flow is the next one.
    pub(super) fn takes(&self, segment: &Segment, bytes: &[u8], out: &Outbox) -> bool {
        let ip_len = self.first.payload - self.first.transport.ip_start + self.payload_len;
        self.parts.len() + 1 < PARTS_MAX
            && segment.payload_len <= self.first.payload_len
            && ip_len + segment.payload_len <= IP_BYTES_MAX
            && segment.sequence == self.next_sequence
            && self.takes_id(segment, bytes, out)
            && self.first.has_same_headers(segment, bytes, out)
    }

    fn takes_id(&self, segment: &Segment, bytes: &[u8], out: &Outbox) -> bool {
        if segment.transport.ip == IpVersion::V6 {
            return true;
        }
        let id = segment.id(bytes);
        id == self.next_id || segment.is_atomic(bytes) && id == self.first.id(self.first.bytes(out))
    }

    /// Adds a segment, which may have PSH; gives whether it is the last.
    pub(super) fn append(&mut self, segment: &Segment, push: bool) -> bool {
        let payload = segment.start + segment.payload;
        self.parts.push(Part { packet: segment.packet, range: payload..payload + segment.payload_len });
        self.payload_len += segment.payload_len;
        self.next_sequence = after(self.next_sequence, segment.payload_len);
        self.next_id = self.next_id.wrapping_add(1);
        self.push = push;
        self.push || segment.payload_len < self.first.payload_len
    }

    /// Makes the delivery what has been joined; gives the emptied list back.
    pub(super) fn end(mut self, out: &mut Outbox) -> Vec<Part> {
        if !self.parts.is_empty() {
            out.deliveries[self.delivery].offload = self.patch(out);
            let first = out.parts.len();
            out.parts.append(&mut self.parts);
            out.deliveries[self.delivery].more = first..out.parts.len();
        }
        self.parts
    }

    /// Makes the first segment's header the whole frame's, and gives what is left to do.
    fn patch(&self, out: &mut Outbox) -> Offload {
        let Segment { packet, start, payload, payload_len: size, .. } = self.first;
        let mut transport = self.first.transport;
        transport.end = payload + self.payload_len;
        let bytes = out.packets[packet].slice_mut(start..start + payload);
        let ip = &mut bytes[transport.ip_start..transport.start];
        patch_ip(ip, transport.ip, transport.end - transport.ip_start);
        let pseudo = transport.pseudo_header(bytes, transport.len()).fold();
        let head = &mut bytes[transport.start..];
        let (kind, checksum) = match (self.first.is_tcp(), transport.ip) {
            (true, IpVersion::V4) => (GsoKind::Tcp4, tcp::CHECKSUM),
            (true, IpVersion::V6) => (GsoKind::Tcp6, tcp::CHECKSUM),
            (false, _) => (GsoKind::Udp, udp::CHECKSUM),
        };
        if kind == GsoKind::Udp {
            head[udp::LENGTH].copy_from_slice(&transport.len().to_be_bytes());
        } else if self.push {
            head[tcp::FLAGS] |= PSH;
        }
        let (start, offset) = (short(transport.start), short(checksum.start));
        head[checksum].copy_from_slice(&pseudo);
        let gso = Gso { kind, size: short(size), header_len: short(payload), ecn: false };
        Offload { checksum: Checksum::Partial { start, offset }, gso: Some(gso) }
    }
}

/// Writes the length of the whole packet, and the checksum where there is one.
fn patch_ip(ip: &mut [u8], version: IpVersion, len: usize) {
    match version {
        IpVersion::V4 => {
            ip[ipv4::TOTAL_LEN].copy_from_slice(&short(len).to_be_bytes());
            ip[ipv4::CHECKSUM].fill(0);
            let checksum = Sum::default().bytes(ip).finish();
            ip[ipv4::CHECKSUM].copy_from_slice(&checksum);
        }
        IpVersion::V6 => {
            let behind = short(len - ipv6::HEADER_LEN).to_be_bytes();
            ip[ipv6::PAYLOAD_LEN].copy_from_slice(&behind);
        }
    }
}

/// Where the next segment begins.
fn after(sequence: Option<u32>, payload_len: usize) -> Option<u32> {
    sequence.map(|sequence| sequence.wrapping_add(u32::from(short(payload_len))))
}

/// A length within an IP packet.
fn short(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("within an IP packet of at most IP_BYTES_MAX")
}
