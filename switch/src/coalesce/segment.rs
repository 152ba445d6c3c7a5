//! A TCP segment or UDP datagram that may be joined, and how two of them compare.
//!
//! What is compared with every open frame is read once, when a segment is found. Headers are compared as arrays of
//! their fixed length, so that bounds are checked once for each.

use crate::deliver::Stowed;
use crate::outbox::Outbox;
use crate::tables::PortId;
use crate::wire::checksum::Sum;
use crate::wire::flow::field::{ipv4, ipv6, tcp, udp};
use crate::wire::flow::{IpVersion, TCP, Transport, UDP};

const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;

/// A TCP segment or UDP datagram in a buffer.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) port: PortId,
    /// Index of the buffer in [`Outbox::packets`].
    pub(super) packet: usize,
    /// The frame's first byte in the buffer.
    pub(super) start: usize,
    pub(super) transport: Transport,
    /// Payload's first byte, from the frame's.
    pub(super) payload: usize,
    pub(super) payload_len: usize,
    /// `None` in UDP, which has none.
    pub(super) sequence: Option<u32>,
    /// Bytes follow the IP packet.
    padded: bool,
    /// Equal within a flow, and seldom otherwise.
    flow: u64,
}

impl Segment {
    /// `None` for what is no TCP or UDP packet with a whole header. `bytes` are the frame's.
    pub(super) fn find(bytes: &[u8], port: PortId, frame: &Stowed) -> Option<Self> {
        let transport = frame.transport?;
        let head = bytes.get(transport.start..transport.end)?;
        let &[ports, sequence] = head.as_chunks::<4>().0.first_chunk()?;
        let (header_len, sequence) = match transport.protocol {
            TCP => (usize::from(head.get(tcp::DATA_OFFSET)? >> 4) * 4, Some(u32::from_be_bytes(sequence))),
            UDP => (udp::HEADER_LEN, None),
            _ => return None,
        };
        let payload_len = head.len().checked_sub(header_len)?;
        if sequence.is_some() && header_len < tcp::HEADER_MIN {
            return None;
        }
        Some(Self {
            port,
            packet: frame.packet,
            start: frame.range.start,
            transport,
            payload: transport.start + header_len,
            payload_len,
            sequence,
            padded: transport.end < bytes.len(),
            flow: flow(ports, &bytes[transport.ip_start..transport.start], transport.ip),
        })
    }

    /// The frame, without padding.
    pub(super) fn bytes<'a>(&self, out: &'a Outbox) -> &'a [u8] {
        out.packets[self.packet].slice(self.start..self.start + self.transport.end)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.sequence.is_some()
    }

    /// The transport header.
    fn head<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.start..self.payload]
    }

    /// The IP header, with its options or extension headers.
    fn ip<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.ip_start..self.transport.start]
    }

    pub(super) fn has_push(&self, bytes: &[u8]) -> bool {
        self.is_tcp() && self.head(bytes)[tcp::FLAGS] & PSH != 0
    }

    /// IPv4's identification.
    pub(super) fn id(&self, bytes: &[u8]) -> u16 {
        let id = &self.ip(bytes)[ipv4::ID];
        u16::from_be_bytes([id[0], id[1]])
    }

    /// Don't Fragment is set, in IPv4: the identification means nothing (RFC 6864 §4.1).
    pub(super) fn is_atomic(&self, bytes: &[u8]) -> bool {
        self.ip(bytes)[ipv4::ID.end] & 0x40 != 0
    }

    /// Payload and nothing behind it, and nothing in the transport header that cutting would not give back.
    pub(super) fn is_plain(&self, bytes: &[u8]) -> bool {
        let head = self.head(bytes);
        let plain = if self.is_tcp() {
            head[tcp::FLAGS] & !PSH == ACK
        } else {
            head[udp::LENGTH] == self.transport.len().to_be_bytes()
        };
        plain && self.payload_len > 0 && !self.padded
    }

    /// Whether both checksums are right: joining computes new ones, which must not make damage look whole. Of the two
    /// zeros of one's complement, only the one that cutting writes counts as right.
    pub(super) fn verifies(&self, bytes: &[u8]) -> bool {
        let (field, zero) = if self.is_tcp() { (tcp::CHECKSUM, [0xff; 2]) } else { (udp::CHECKSUM, [0; 2]) };
        if self.head(bytes)[field] == zero || !self.ip_verifies(bytes) {
            return false;
        }
        let pseudo = self.transport.pseudo_header(bytes, self.transport.len());
        pseudo.bytes(&bytes[self.transport.start..self.transport.end]).verifies()
    }

    fn ip_verifies(&self, bytes: &[u8]) -> bool {
        let ip = self.ip(bytes);
        self.transport.ip == IpVersion::V6
            || ip[ipv4::CHECKSUM] != [0xff; 2] && Sum::default().bytes(ip).verifies()
    }

    /// Whether the two are of the same conversation, whatever else differs: one that can't be joined must not be
    /// overtaken by later ones. `bytes` are the other's.
    pub(super) fn is_same_flow(&self, other: &Self, bytes: &[u8], out: &Outbox) -> bool {
        let ends = |segment: &Self| (segment.port, segment.transport.ip, segment.transport.protocol);
        self.flow == other.flow && ends(self) == ends(other) && {
            // The rest of the flow's number is ports.
            let ours = self.bytes(out);
            addresses(self.ip(ours), self.transport.ip) == addresses(other.ip(bytes), self.transport.ip)
        }
    }

    /// Whether the headers differ only where those of two neighbouring segments do. They are known to be of the same
    /// flow; `bytes` are the other's.
    pub(super) fn has_same_headers(&self, other: &Self, bytes: &[u8], out: &Outbox) -> bool {
        let ours = self.bytes(out);
        let place = |segment: &Self| (segment.transport.ip_start, segment.transport.start);
        let same_ip = match self.transport.ip {
            IpVersion::V4 => has_same_v4,
            IpVersion::V6 => has_same_v6,
        };
        place(self) == place(other)
            && ours[..self.transport.ip_start] == bytes[..self.transport.ip_start]
            && same_ip(self.ip(ours), other.ip(bytes))
            && (!self.is_tcp() || has_same_tcp(self.head(ours), other.head(bytes)))
    }
}

/// Ports, and a mixture of the addresses.
fn flow(ports: [u8; 4], ip: &[u8], version: IpVersion) -> u64 {
    let (words, _) = addresses(ip, version).as_chunks::<4>();
    let mixed = words.iter().fold(0, |mixed, word| mixed ^ u32::from_ne_bytes(*word));
    u64::from(u32::from_ne_bytes(ports)) << 32 | u64::from(mixed)
}

fn addresses(ip: &[u8], version: IpVersion) -> &[u8] {
    match version {
        IpVersion::V4 => &ip[ipv4::ADDRESSES],
        IpVersion::V6 => &ip[ipv6::ADDRESSES],
    }
}

/// All but length, identification, checksum, and the addresses, which are known to be equal.
fn has_same_v4(ours: &[u8], theirs: &[u8]) -> bool {
    has_same(ours, theirs, |ours: &[u8; ipv4::ADDRESSES.end], theirs| {
        let (tos, ttl) = (..ipv4::TOTAL_LEN.start, ipv4::ID.end..ipv4::CHECKSUM.start);
        ours[tos] == theirs[tos] && ours[ttl.clone()] == theirs[ttl]
    })
}

/// All but length, and the addresses.
fn has_same_v6(ours: &[u8], theirs: &[u8]) -> bool {
    has_same(ours, theirs, |ours: &[u8; ipv6::HEADER_LEN], theirs| {
        let (flow_label, hop_limit) = (..ipv6::PAYLOAD_LEN.start, ipv6::PAYLOAD_LEN.end..ipv6::SOURCE);
        ours[flow_label] == theirs[flow_label] && ours[hop_limit.clone()] == theirs[hop_limit]
    })
}

/// Acknowledgement, header length, window, urgent pointer and options.
fn has_same_tcp(ours: &[u8], theirs: &[u8]) -> bool {
    has_same(ours, theirs, |ours: &[u8; tcp::HEADER_MIN], theirs| {
        let (acknowledgement, window) =
            (tcp::SEQUENCE.end..=tcp::DATA_OFFSET, tcp::FLAGS + 1..tcp::CHECKSUM.start);
        let urgent = tcp::CHECKSUM.end..;
        ours[acknowledgement.clone()] == theirs[acknowledgement]
            && ours[window.clone()] == theirs[window]
            && ours[urgent.clone()] == theirs[urgent]
    })
}

/// Whether what follows the fixed header is equal, and the header itself by `fixed`.
fn has_same<const N: usize>(ours: &[u8], theirs: &[u8], fixed: impl Fn(&[u8; N], &[u8; N]) -> bool) -> bool {
    match (ours.split_first_chunk(), theirs.split_first_chunk()) {
        (Some((ours, options)), Some((theirs, others))) => fixed(ours, theirs) && options == others,
        _ => false,
    }
}
