//! Checksums by the letter of RFC 1071, for packets that the switch has found its way through.

use etherparse::IpNumber;
use vswitchd_switch::wire::flow::{IpVersion, Transport};

/// Whether the transport checksum of a TCP or UDP packet is complete and right.
pub(crate) fn transport_verifies(frame: &[u8], transport: &Transport) -> bool {
    let segment = &frame[transport.start..transport.end];
    if IpNumber(transport.protocol) == IpNumber::UDP && segment[6..8] == [0, 0] {
        return false;
    }
    let ip = &frame[transport.ip_start..];
    let addresses = match transport.ip {
        IpVersion::V4 => &ip[12..20],
        IpVersion::V6 => &ip[8..40],
    };
    let length = u16::try_from(segment.len()).expect("an IP packet has 16 bits of length");
    let mut summed = addresses.to_vec();
    summed.extend([0, transport.protocol]);
    summed.extend(length.to_be_bytes());
    summed.extend(segment);
    sum(&summed) == u16::MAX
}

/// Whether an IPv4 header's checksum is right; true of IPv6, which has none.
pub(crate) fn ip_verifies(frame: &[u8], transport: &Transport) -> bool {
    let ip = &frame[transport.ip_start..];
    match transport.ip {
        IpVersion::V4 => sum(&ip[..usize::from(ip[0] & 0x0f) * 4]) == u16::MAX,
        IpVersion::V6 => true,
    }
}

fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}
