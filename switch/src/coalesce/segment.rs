//! A TCP segment or UDP datagram that may be joined, and how two of them compare.

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
    /// Bytes follow the IP packet.
    padded: bool,
}

impl Segment {
    /// `None` for what is no TCP or UDP packet with a whole header.
    pub(super) fn find(out: &Outbox, port: PortId, frame: &Stowed) -> Option<Self> {
        let transport = frame.transport?;
        let bytes = out.packets[frame.packet].slice(frame.range.clone());
        let head = bytes.get(transport.start..transport.end)?;
        let (header_len, least) = match transport.protocol {
            TCP => (usize::from(head.get(tcp::DATA_OFFSET)? >> 4) * 4, tcp::HEADER_MIN),
            UDP => (udp::HEADER_LEN, udp::HEADER_LEN),
            _ => return None,
        };
        if header_len < least || header_len > head.len() {
            return None;
        }
        let payload = transport.start + header_len;
        let payload_len = transport.end - payload;
        let (packet, start) = (frame.packet, frame.range.start);
        let padded = transport.end < bytes.len();
        Some(Self { port, packet, start, transport, payload, payload_len, padded })
    }

    /// The frame, without padding.
    pub(super) fn bytes<'a>(&self, out: &'a Outbox) -> &'a [u8] {
        out.packets[self.packet].slice(self.start..self.start + self.transport.end)
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.transport.protocol == TCP
    }

    /// The transport header.
    fn head<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.start..self.payload]
    }

    /// The IP header, with its options or extension headers.
    fn ip<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.transport.ip_start..self.transport.start]
    }

    /// `None` in UDP, which has none.
    pub(super) fn sequence(&self, bytes: &[u8]) -> Option<u32> {
        self.is_tcp().then(|| {
            let mut sequence = [0; 4];
            sequence.copy_from_slice(&self.head(bytes)[tcp::SEQUENCE]);
            u32::from_be_bytes(sequence)
        })
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
        pseudo.bytes(&bytes[self.transport.start..]).verifies()
    }

    fn ip_verifies(&self, bytes: &[u8]) -> bool {
        let ip = self.ip(bytes);
        self.transport.ip == IpVersion::V6
            || ip[ipv4::CHECKSUM] != [0xff; 2] && Sum::default().bytes(ip).verifies()
    }

    /// Whether the two are of the same conversation, whatever else differs: one that can't be joined must not be overtaken
    /// by later ones.
    pub(super) fn is_same_flow(&self, other: &Self, out: &Outbox) -> bool {
        let ends = |segment: &Self| (segment.port, segment.transport.ip, segment.transport.protocol);
        if ends(self) != ends(other) {
            return false;
        }
        let (ours, theirs) = (self.bytes(out), other.bytes(out));
        let addresses = match self.transport.ip {
            IpVersion::V4 => ipv4::ADDRESSES,
            IpVersion::V6 => ipv6::ADDRESSES,
        };
        let ports = ..udp::DESTINATION_PORT.end;
        self.head(ours)[ports] == other.head(theirs)[ports]
            && self.ip(ours)[addresses.clone()] == other.ip(theirs)[addresses]
    }

    /// Whether the headers differ only where those of two neighbouring segments do. They are known to be of the same
    /// flow.
    pub(super) fn has_same_headers(&self, other: &Self, out: &Outbox) -> bool {
        let (ours, theirs) = (self.bytes(out), other.bytes(out));
        let place = |segment: &Self| (segment.transport.ip_start, segment.transport.start);
        place(self) == place(other)
            && ours[..self.transport.ip_start] == theirs[..self.transport.ip_start]
            && self.has_same_ip(self.ip(ours), other.ip(theirs))
            && (!self.is_tcp() || has_same_tcp(self.head(ours), other.head(theirs)))
    }

    fn has_same_ip(&self, ours: &[u8], theirs: &[u8]) -> bool {
        match self.transport.ip {
            IpVersion::V4 => {
                let fixed = ipv4::ID.end..ipv4::CHECKSUM.start;
                ours[..ipv4::TOTAL_LEN.start] == theirs[..ipv4::TOTAL_LEN.start]
                    && ours[fixed.clone()] == theirs[fixed]
                    && ours[ipv4::ADDRESSES.end..] == theirs[ipv4::ADDRESSES.end..]
            }
            IpVersion::V6 => {
                ours[..ipv6::PAYLOAD_LEN.start] == theirs[..ipv6::PAYLOAD_LEN.start]
                    && ours[ipv6::PAYLOAD_LEN.end..] == theirs[ipv6::PAYLOAD_LEN.end..]
            }
        }
    }
}

/// Acknowledgement, header length, window, urgent pointer and options.
fn has_same_tcp(ours: &[u8], theirs: &[u8]) -> bool {
    let (acknowledgement, window) =
        (tcp::SEQUENCE.end..=tcp::DATA_OFFSET, tcp::FLAGS + 1..tcp::CHECKSUM.start);
    ours.len() == theirs.len()
        && ours[acknowledgement.clone()] == theirs[acknowledgement]
        && ours[window.clone()] == theirs[window]
        && ours[tcp::CHECKSUM.end..] == theirs[tcp::CHECKSUM.end..]
}
