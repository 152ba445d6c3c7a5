//! Flows: what forwarding looks at behind the Ethernet header.
//!
//! IPv4 with options and IPv6 with extension headers, up to the transport header's first byte. Nothing here
//! verifies a checksum or changes a byte.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice};
use foldhash::quality::FixedState;

use super::checksum::Sum;
use super::ethernet::{self, EtherType};

/// TCP's protocol number (IANA).
pub const TCP: u8 = IpNumber::TCP.0;
/// UDP's protocol number (IANA).
pub const UDP: u8 = IpNumber::UDP.0;

/// Extension headers walked through in one packet. RFC 8200 §4.1 names seven in all; more is an attack on the
/// walker.
pub const EXTENSIONS_MAX: usize = 8;

/// Offsets from a header's first byte, of fields that are read or written in place.
pub(crate) mod field {
    use std::ops::Range;

    /// RFC 791 §3.1
    pub(crate) mod ipv4 {
        use super::Range;
        pub(crate) const TOTAL_LEN: Range<usize> = 2..4;
        pub(crate) const ID: Range<usize> = 4..6;
        pub(crate) const PROTOCOL: usize = 9;
        pub(crate) const CHECKSUM: Range<usize> = 10..12;
        pub(crate) const SOURCE: usize = 12;
        pub(crate) const DESTINATION: usize = 16;
        pub(crate) const ADDRESSES: Range<usize> = 12..20;
    }

    /// RFC 8200 §3
    pub(crate) mod ipv6 {
        use super::Range;
        pub(crate) const PAYLOAD_LEN: Range<usize> = 4..6;
        pub(crate) const NEXT_HEADER: usize = 6;
        pub(crate) const HOP_LIMIT: usize = 7;
        pub(crate) const SOURCE: usize = 8;
        pub(crate) const DESTINATION: usize = 24;
        pub(crate) const ADDRESSES: Range<usize> = 8..40;
        pub(crate) const HEADER_LEN: usize = 40;
        /// Segments left of a routing header, RFC 8200 §4.4.
        pub(crate) const ROUTING_LEFT: usize = 3;
    }

    /// RFC 9293 §3.1
    pub(crate) mod tcp {
        use super::Range;
        pub(crate) const SEQUENCE: Range<usize> = 4..8;
        pub(crate) const ACKNOWLEDGMENT: Range<usize> = 8..12;
        pub(crate) const DATA_OFFSET: usize = 12;
        pub(crate) const FLAGS: usize = 13;
        pub(crate) const CHECKSUM: Range<usize> = 16..18;
        pub(crate) const HEADER_MIN: usize = 20;
    }

    /// RFC 792, RFC 4443 §2.1 and §4
    pub(crate) mod icmp {
        use super::super::IpVersion;
        use super::Range;
        pub(crate) const TYPE: usize = 0;
        pub(crate) const CHECKSUM: Range<usize> = 2..4;
        /// Of echo requests and replies.
        pub(crate) const ID: usize = 4;
        /// Behind that an error has the packet that it is about.
        pub(crate) const HEADER_LEN: usize = 8;

        /// Types of messages that are about a flow.
        pub(crate) struct Types {
            pub(crate) echo_request: u8,
            pub(crate) echo_reply: u8,
            pub(crate) errors: &'static [u8],
        }

        pub(crate) fn types(ip: IpVersion) -> Types {
            match ip {
                // Destination unreachable, time exceeded, parameter problem.
                IpVersion::V4 => Types { echo_request: 8, echo_reply: 0, errors: &[3, 11, 12] },
                // The same, and packet too big.
                IpVersion::V6 => Types { echo_request: 128, echo_reply: 129, errors: &[1, 2, 3, 4] },
            }
        }
    }

    /// RFC 768
    pub(crate) mod udp {
        use super::Range;
        /// TCP has it at the same place.
        pub(crate) const DESTINATION_PORT: Range<usize> = 2..4;
        pub(crate) const LENGTH: Range<usize> = 4..6;
        pub(crate) const CHECKSUM: Range<usize> = 6..8;
        pub(crate) const HEADER_LEN: usize = 8;
    }
}

/// The transport header's place in an IP packet.
///
/// Invariant of those that [`Transport::find`] gives: `ip_start < start <= end <= frame.len()`, and the fixed IP
/// header lies between `ip_start` and `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// IPv4 or IPv6.
    pub ip: IpVersion,
    /// Offset of the IP header from the frame's first byte.
    pub ip_start: usize,
    /// 6 TCP, 17 UDP, … (IANA protocol numbers).
    pub protocol: u8,
    /// Offset of the transport header from the frame's first byte.
    pub start: usize,
    /// End of the IP packet in the frame (padding excluded).
    pub end: usize,
}

/// Version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

impl Transport {
    /// Finds the transport header behind IPv4 options or IPv6 extension headers.
    ///
    /// `None` for anything else: not IP, a fragment, truncated, or wrong lengths; more than [`EXTENSIONS_MAX`]
    /// extension headers; a routing header that has segments left, since the checksum's pseudo-header then names
    /// another destination than the packet does (RFC 8200 §8.1). An authentication header (RFC 4302) is not walked
    /// through but is the transport, as in IPv4: it covers what follows, which therefore may not be changed.
    #[must_use]
    pub fn find(frame: &[u8], header: &ethernet::Header) -> Option<Self> {
        let packet = frame.get(header.payload..)?;
        match header.ether_type {
            EtherType::IPV4 => Self::find_v4(packet, header.payload),
            EtherType::IPV6 => Self::find_v6(packet, header.payload),
            _ => None,
        }
    }

    fn find_v4(packet: &[u8], ip_start: usize) -> Option<Self> {
        let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
        let (header_len, total_len) = (ip.slice().len(), usize::from(ip.total_len()));
        if ip.is_fragmenting_payload() || total_len < header_len || total_len > packet.len() {
            return None;
        }
        let (start, end) = (ip_start + header_len, ip_start + total_len);
        Some(Self { ip: IpVersion::V4, ip_start, protocol: ip.protocol().0, start, end })
    }

    fn find_v6(packet: &[u8], ip_start: usize) -> Option<Self> {
        let (protocol, start, end) = walk_v6(packet)?;
        if protocol == IpNumber::IPV6_FRAGMENTATION_HEADER {
            return None;
        }
        let (start, end) = (ip_start + start, ip_start + end);
        Some(Self { ip: IpVersion::V6, ip_start, protocol: protocol.0, start, end })
    }

    /// The sender's address, in the frame that this was found in.
    #[must_use]
    pub fn source(&self, frame: &[u8]) -> IpAddr {
        let ip = &frame[self.ip_start..self.start];
        match self.ip {
            IpVersion::V4 => IpAddr::from(array::<4>(ip, field::ipv4::SOURCE)),
            IpVersion::V6 => IpAddr::from(array::<16>(ip, field::ipv6::SOURCE)),
        }
    }

    /// The receiver's address, in the frame that this was found in.
    #[must_use]
    pub fn destination(&self, frame: &[u8]) -> IpAddr {
        let ip = &frame[self.ip_start..self.start];
        match self.ip {
            IpVersion::V4 => IpAddr::from(array::<4>(ip, field::ipv4::DESTINATION)),
            IpVersion::V6 => IpAddr::from(array::<16>(ip, field::ipv6::DESTINATION)),
        }
    }

    /// The port that a UDP or TCP packet is for; `None` if it ends before.
    #[must_use]
    pub fn destination_port(&self, frame: &[u8]) -> Option<u16> {
        let port = frame.get(self.start..self.end)?.get(field::udp::DESTINATION_PORT)?;
        Some(u16::from_be_bytes([port[0], port[1]]))
    }

    /// The pseudo-header's sum for `len` bytes of transport header and payload, of the frame that this was
    /// found in.
    pub(crate) fn pseudo_header(&self, frame: &[u8], len: u16) -> Sum {
        let ip = &frame[self.ip_start..self.start];
        match self.ip {
            IpVersion::V4 => {
                let (source, destination) = (field::ipv4::SOURCE, field::ipv4::DESTINATION);
                Sum::default().pseudo_v4(array(ip, source), array(ip, destination), self.protocol, len)
            }
            IpVersion::V6 => {
                let (source, destination) = (field::ipv6::SOURCE, field::ipv6::DESTINATION);
                Sum::default().pseudo_v6(
                    array(ip, source),
                    array(ip, destination),
                    self.protocol,
                    u32::from(len),
                )
            }
        }
    }

    /// Bytes of transport header and payload.
    pub(crate) fn len(&self) -> u16 {
        u16::try_from(self.end - self.start).expect("an IP packet's length field has 16 bits")
    }
}

/// Walks through an IPv6 packet's extension headers up to what is none, or a fragment header: gives what that is, where
/// it starts, and where the packet ends.
pub(super) fn walk_v6(packet: &[u8]) -> Option<(IpNumber, usize, usize)> {
    let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let fixed_len = ip.slice().len();
    let mut rest = packet.get(fixed_len..fixed_len + usize::from(ip.payload_length()))?;
    let end = fixed_len + rest.len();
    let mut protocol = ip.next_header();
    for _ in 0..EXTENSIONS_MAX {
        match protocol {
            IpNumber::IPV6_HEADER_HOP_BY_HOP
            | IpNumber::IPV6_ROUTE_HEADER
            | IpNumber::IPV6_DESTINATION_OPTIONS => {}
            _ => return Some((protocol, end - rest.len(), end)),
        }
        let extension = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
        if protocol == IpNumber::IPV6_ROUTE_HEADER && extension.slice()[field::ipv6::ROUTING_LEFT] != 0 {
            return None;
        }
        protocol = extension.next_header();
        rest = &rest[extension.slice().len()..];
    }
    None
}

/// `N` bytes of a header whose length has been checked.
fn array<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

/// A hash of the inner flow: addresses, protocol and ports of IP; MAC addresses and type of others.
///
/// Equal for every frame of a flow. Where [`Transport::find`] gave `None` for an IP packet, only addresses and
/// protocol count, so that all fragments of a packet, the first included, go one way; a flow's unfragmented
/// packets may go another. Echo requests and replies count as flows by their identifier, IPsec ESP by its SPI.
/// Feeds the outer source port (RFC 7348 §4.1). No secret is in it: a sender can choose where its own flows go.
#[must_use]
pub fn entropy(frame: &[u8], header: &ethernet::Header, transport: Option<&Transport>) -> u32 {
    let mut hasher = FixedState::default().build_hasher();
    let packet = frame.get(header.payload..).unwrap_or_default();
    match header.ether_type {
        EtherType::IPV4 if packet.len() >= field::ipv4::ADDRESSES.end => {
            hasher.write(&packet[field::ipv4::ADDRESSES]);
            hasher.write_u8(packet[field::ipv4::PROTOCOL]);
        }
        EtherType::IPV6 if packet.len() >= field::ipv6::ADDRESSES.end => {
            hasher.write(&packet[field::ipv6::ADDRESSES]);
            hasher.write_u8(packet[field::ipv6::NEXT_HEADER]);
        }
        _ => {
            hasher.write(&header.source.0);
            hasher.write(&header.destination.0);
            hasher.write_u16(header.ether_type.0);
        }
    }
    hasher.write_u32(transport.and_then(|transport| ports(frame, transport)).unwrap_or_default());
    let hash = hasher.finish();
    let [a, b, c, d, e, f, g, h] = hash.to_le_bytes();
    u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h])
}

/// What tells the flows between two addresses apart: both ports, an SPI, or an echo identifier.
fn ports(frame: &[u8], transport: &Transport) -> Option<u32> {
    let head = frame.get(transport.start..transport.end)?;
    match (transport.ip, IpNumber(transport.protocol)) {
        (
            _,
            IpNumber::TCP
            | IpNumber::UDP
            | IpNumber::SCTP
            | IpNumber::DCCP
            | IpNumber::UDP_LITE
            | IpNumber::ENCAPSULATING_SECURITY_PAYLOAD,
        ) => head.first_chunk().map(|ports| u32::from_be_bytes(*ports)),
        // RFC 792: echo request 8, echo reply 0; RFC 4443 §4: 128 and 129. Both have the identifier at 4.
        (IpVersion::V4, IpNumber::ICMP) => echo_id(head, [8, 0]),
        (IpVersion::V6, IpNumber::IPV6_ICMP) => echo_id(head, [128, 129]),
        _ => None,
    }
}

fn echo_id(head: &[u8], types: [u8; 2]) -> Option<u32> {
    let head = head.first_chunk::<8>()?;
    types.contains(&head[0]).then(|| u32::from(u16::from_be_bytes([head[4], head[5]])))
}

#[cfg(test)]
mod tests;
