//! Joining neighbouring TCP segments of a flow into super-frames: what one write to a TAP then carries.
//!
//! The receiving half of segmentation offload, for a batch of datagrams at a time. Payloads are not copied: a joined
//! frame is the first segment with a patched header, and the payloads of the others as further parts. Cutting it again
//! with the same size gives the same segments, so nothing is joined that cutting would change (the rules are those
//! of Linux's GRO, net/ipv4/tcp_offload.c): other flags than ACK and PSH, different acknowledgements, windows or options
//! (timestamps among them), an IPv4 identification that does not count up (or stay, where the packet is atomic and it
//! means nothing: RFC 6864 §4), different TTL, traffic class or tags, padding, a wrong checksum of either header. A segment with PSH, or shorter than
//! the first, is the last of its frame.
//!
//! Order within a flow is kept: a segment that can't be joined ends the flow's open frame, which stands before it.

use crate::deliver::Stowed;
use crate::outbox::{Delivery, Outbox, PARTS_MAX, Part};
use crate::tables::PortId;
use crate::wire::checksum::Sum;
use crate::wire::flow::field::{ipv4, ipv6, tcp};
use crate::wire::flow::{IpVersion, TCP, Transport};
use crate::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Frames open at once. A batch is a few runs, most of one flow each; with more flows the oldest is written as it is.
const OPEN_MAX: usize = 8;
/// The longest IP packet.
const IP_BYTES_MAX: usize = 65_535;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// The frames that are open in a batch.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    open: Vec<Open>,
    /// Emptied lists, kept for their memory.
    spare: Vec<Vec<Part>>,
}

/// A delivery that may still grow.
#[derive(Debug)]
struct Open {
    /// Index in the outbox.
    delivery: usize,
    first: Segment,
    /// Payload so far.
    payload_len: usize,
    next_sequence: u32,
    next_id: u16,
    /// The last segment has PSH.
    push: bool,
    parts: Vec<Part>,
}

/// A TCP segment in a buffer.
#[derive(Clone, Debug)]
struct Segment {
    port: PortId,
    packet: usize,
    /// The frame's first byte in the buffer.
    start: usize,
    transport: Transport,
    /// Payload's first byte, from the frame's.
    payload: usize,
    payload_len: usize,
    /// Bytes follow the IP packet.
    padded: bool,
}

impl Coalescer {
    /// Gives a frame to a port that takes TCP super-frames: as part of an open one, or by itself.
    pub(crate) fn deliver(&mut self, out: &mut Outbox, port: PortId, frame: &Stowed) {
        let Some(segment) = Segment::find(out, port, frame) else {
            return push(out, port, frame, frame.offload);
        };
        let bytes = segment.bytes(out);
        let flow = self.open.iter().position(|open| open.first.is_same_flow(&segment, out));
        // A super-frame, or an unfinished segment, is its sender's business.
        let joinable =
            frame.offload == Offload::default() && segment.is_plain(bytes) && segment.verifies(bytes);
        if let Some(index) = flow {
            if joinable && self.open[index].takes(&segment, out) {
                if self.open[index].append(&segment, out) {
                    self.close(index, out);
                }
                return;
            }
            self.close(index, out);
        }
        if !joinable || segment.has_push(segment.bytes(out)) {
            let verified = Offload { checksum: Checksum::Verified, gso: None };
            return push(out, port, frame, if joinable { verified } else { frame.offload });
        }
        if self.open.len() == OPEN_MAX {
            self.close(0, out);
        }
        self.open.push(Open::new(out, segment, self.spare.pop().unwrap_or_default()));
        push(out, port, frame, Offload { checksum: Checksum::Verified, gso: None });
    }

    /// Ends every open frame; to be called at the end of a batch.
    pub(crate) fn finish(&mut self, out: &mut Outbox) {
        while !self.open.is_empty() {
            self.close(self.open.len() - 1, out);
        }
    }

    fn close(&mut self, index: usize, out: &mut Outbox) {
        let mut open = self.open.remove(index);
        if !open.parts.is_empty() {
            let delivery = open.delivery;
            let offload = open.patch(out);
            let first = out.parts.len();
            out.parts.append(&mut open.parts);
            out.deliveries[delivery].offload = offload;
            out.deliveries[delivery].more = first..out.parts.len();
        }
        self.spare.push(open.parts);
    }
}

fn push(out: &mut Outbox, port: PortId, frame: &Stowed, offload: Offload) {
    let (packet, range) = (frame.packet, frame.range.clone());
    out.deliveries.push(Delivery { port, packet, range, more: 0..0, offload });
}

impl Segment {
    /// `None` for what is no TCP segment with a whole header.
    fn find(out: &Outbox, port: PortId, frame: &Stowed) -> Option<Self> {
        let transport = frame.transport.filter(|transport| transport.protocol == TCP)?;
        let bytes = out.packets[frame.packet].slice(frame.range.clone());
        let head = bytes.get(transport.start..transport.end)?;
        let header_len = usize::from(head.get(tcp::DATA_OFFSET)? >> 4) * 4;
        if header_len < tcp::HEADER_MIN || header_len > head.len() {
            return None;
        }
        let payload = transport.start + header_len;
        let payload_len = transport.end - payload;
        let (packet, start) = (frame.packet, frame.range.start);
        let padded = transport.end < bytes.len();
        Some(Self { port, packet, start, transport, payload, payload_len, padded })
    }

    fn bytes<'a>(&self, out: &'a Outbox) -> &'a [u8] {
        out.packets[self.packet].slice(self.start..self.start + self.transport.end)
    }

    fn tcp<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.start..self.payload]
    }

    fn ip<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.ip_start..self.transport.start]
    }

    fn sequence(&self, bytes: &[u8]) -> u32 {
        let mut sequence = [0; 4];
        sequence.copy_from_slice(&self.tcp(bytes)[tcp::SEQUENCE]);
        u32::from_be_bytes(sequence)
    }

    fn has_push(&self, bytes: &[u8]) -> bool {
        self.tcp(bytes)[tcp::FLAGS] & PSH != 0
    }

    /// Payload and nothing behind it, and no flags but ACK and PSH.
    fn is_plain(&self, bytes: &[u8]) -> bool {
        self.payload_len > 0 && !self.padded && self.tcp(bytes)[tcp::FLAGS] & !PSH == ACK
    }

    /// Whether both checksums are right: joining computes new ones, which must not make damage look whole.
    fn verifies(&self, bytes: &[u8]) -> bool {
        let ip = self.transport.ip != IpVersion::V4 || Sum::default().bytes(self.ip(bytes)).verifies();
        let pseudo = self.transport.pseudo_header(bytes, self.transport.len());
        ip && pseudo.bytes(&bytes[self.transport.start..]).verifies()
    }

    fn is_same_flow(&self, other: &Self, out: &Outbox) -> bool {
        if (self.port, self.transport.ip, self.transport.start)
            != (other.port, other.transport.ip, other.transport.start)
        {
            return false;
        }
        let (ours, theirs) = (self.bytes(out), other.bytes(out));
        let addresses = match self.transport.ip {
            IpVersion::V4 => ipv4::ADDRESSES,
            IpVersion::V6 => ipv6::ADDRESSES,
        };
        let ports = ..tcp::SEQUENCE.start;
        self.tcp(ours)[ports] == other.tcp(theirs)[ports]
            && self.ip(ours)[addresses.clone()] == other.ip(theirs)[addresses]
            && ours[..self.transport.ip_start] == theirs[..self.transport.ip_start]
    }

    /// Whether the headers differ only where those of two neighbouring segments do. Addresses and ports are known
    /// to be equal.
    fn has_same_headers(&self, other: &Self, out: &Outbox) -> bool {
        let (ours, theirs) = (self.bytes(out), other.bytes(out));
        let (ip, their_ip) = (self.ip(ours), other.ip(theirs));
        let same_ip = match self.transport.ip {
            IpVersion::V4 => {
                let fixed = ipv4::ID.end..ipv4::CHECKSUM.start;
                ip[..ipv4::TOTAL_LEN.start] == their_ip[..ipv4::TOTAL_LEN.start]
                    && ip[fixed.clone()] == their_ip[fixed]
                    && ip[ipv4::ADDRESSES.end..] == their_ip[ipv4::ADDRESSES.end..]
            }
            IpVersion::V6 => {
                ip[..ipv6::PAYLOAD_LEN.start] == their_ip[..ipv6::PAYLOAD_LEN.start]
                    && ip[ipv6::PAYLOAD_LEN.end..] == their_ip[ipv6::PAYLOAD_LEN.end..]
            }
        };
        let (head, their_head) = (self.tcp(ours), other.tcp(theirs));
        let (acknowledgement, window) =
            (tcp::SEQUENCE.end..=tcp::DATA_OFFSET, tcp::FLAGS + 1..tcp::CHECKSUM.start);
        same_ip
            && head.len() == their_head.len()
            && head[acknowledgement.clone()] == their_head[acknowledgement]
            && head[window.clone()] == their_head[window]
            && head[tcp::CHECKSUM.end..] == their_head[tcp::CHECKSUM.end..]
    }

    fn id(&self, bytes: &[u8]) -> u16 {
        let id = &self.ip(bytes)[ipv4::ID];
        u16::from_be_bytes([id[0], id[1]])
    }

    /// Don't Fragment is set, in IPv4: the identification means nothing (RFC 6864 §4.1).
    fn is_atomic(&self, bytes: &[u8]) -> bool {
        self.ip(bytes)[ipv4::ID.end] & 0x40 != 0
    }
}

impl Open {
    /// For a segment whose delivery comes next.
    fn new(out: &Outbox, first: Segment, parts: Vec<Part>) -> Self {
        let bytes = first.bytes(out);
        Self {
            delivery: out.deliveries.len(),
            payload_len: first.payload_len,
            next_sequence: first.sequence(bytes).wrapping_add(length(first.payload_len)),
            next_id: if first.transport.ip == IpVersion::V4 { first.id(bytes).wrapping_add(1) } else { 0 },
            push: false,
            first,
            parts,
        }
    }

    fn takes(&self, segment: &Segment, out: &Outbox) -> bool {
        let bytes = segment.bytes(out);
        let ip_len = self.first.payload - self.first.transport.ip_start + self.payload_len;
        self.parts.len() + 1 < PARTS_MAX
            && segment.payload_len <= self.first.payload_len
            && ip_len + segment.payload_len <= IP_BYTES_MAX
            && segment.sequence(bytes) == self.next_sequence
            && self.takes_id(segment, bytes, out)
            && self.first.has_same_headers(segment, out)
    }

    fn takes_id(&self, segment: &Segment, bytes: &[u8], out: &Outbox) -> bool {
        if segment.transport.ip == IpVersion::V6 {
            return true;
        }
        let id = segment.id(bytes);
        id == self.next_id || segment.is_atomic(bytes) && id == self.first.id(self.first.bytes(out))
    }

    /// Adds a segment; gives whether it is the last.
    fn append(&mut self, segment: &Segment, out: &Outbox) -> bool {
        let payload = segment.start + segment.payload;
        self.parts.push(Part { packet: segment.packet, range: payload..payload + segment.payload_len });
        self.payload_len += segment.payload_len;
        self.next_sequence = self.next_sequence.wrapping_add(length(segment.payload_len));
        self.next_id = self.next_id.wrapping_add(1);
        self.push = segment.has_push(segment.bytes(out));
        self.push || segment.payload_len < self.first.payload_len
    }

    /// Makes the first segment's header the whole frame's, and gives what is left to do.
    fn patch(&self, out: &mut Outbox) -> Offload {
        let Segment { packet, start, payload, payload_len: size, .. } = self.first;
        let mut transport = self.first.transport;
        transport.end = payload + self.payload_len;
        let bytes = out.packets[packet].slice_mut(start..start + payload);
        let (ip, kind) = (&mut bytes[transport.ip_start..transport.start], transport.ip);
        let ip_len = transport.end - transport.ip_start;
        match kind {
            IpVersion::V4 => {
                ip[ipv4::TOTAL_LEN].copy_from_slice(&short(ip_len).to_be_bytes());
                ip[ipv4::CHECKSUM].fill(0);
                let checksum = Sum::default().bytes(ip).finish();
                ip[ipv4::CHECKSUM].copy_from_slice(&checksum);
            }
            IpVersion::V6 => {
                let behind = short(ip_len - ipv6::HEADER_LEN).to_be_bytes();
                ip[ipv6::PAYLOAD_LEN].copy_from_slice(&behind);
            }
        }
        let pseudo = transport.pseudo_header(bytes, transport.len()).fold();
        let head = &mut bytes[transport.start..];
        head[tcp::FLAGS] |= if self.push { PSH } else { 0 };
        head[tcp::CHECKSUM].copy_from_slice(&pseudo);
        let gso = Gso {
            kind: if kind == IpVersion::V4 { GsoKind::Tcp4 } else { GsoKind::Tcp6 },
            size: short(size),
            header_len: short(payload),
            ecn: false,
        };
        let (start, offset) = (short(transport.start), short(tcp::CHECKSUM.start));
        Offload { checksum: Checksum::Partial { start, offset }, gso: Some(gso) }
    }
}

/// A length within an IP packet.
fn short(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("within an IP packet of at most IP_BYTES_MAX")
}

fn length(bytes: usize) -> u32 {
    u32::from(short(bytes))
}

#[cfg(test)]
mod tests;
