//! Flows: what forwarding looks at behind the Ethernet header.

use super::ethernet;

/// The transport header's place in an IP packet.
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
    /// `None` for anything else: not IP, a fragment, truncated, or wrong lengths.
    #[must_use]
    pub fn find(frame: &[u8], header: &ethernet::Header) -> Option<Self> {
        let _ = (frame, header);
        unimplemented!()
    }
}

/// A hash of the inner flow: addresses, protocol and ports of IP; MAC addresses and type of others.
///
/// Equal for every frame of a flow, fragments of one packet included. Feeds the outer source port (RFC 7348 §4.1).
#[must_use]
pub fn entropy(frame: &[u8], header: &ethernet::Header, transport: Option<&Transport>) -> u32 {
    let _ = (frame, header, transport);
    unimplemented!()
}
