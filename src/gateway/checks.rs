//! Whether a packet has come as it was sent.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::IpNumber;

use crate::switch::wire::checksum::Sum;
use crate::switch::wire::flow::{TCP, Transport, UDP};

/// Whether the checksums of IPv4's header and of ICMP, TCP or UDP are right. A UDP checksum of zero is none in IPv4
/// (RFC 768), and not allowed in IPv6 (RFC 8200 §8.1).
pub(super) fn verifies(frame: &[u8], found: Transport, source: IpAddr, destination: IpAddr) -> bool {
    let transport = &frame[found.start..found.end];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let Ok(len) = u16::try_from(transport.len()) else { return false };
            let pseudo = match found.protocol {
                TCP | UDP => {
                    Sum::default().pseudo_v4(source.octets(), destination.octets(), found.protocol, len)
                }
                _ => Sum::default(),
            };
            let without = found.protocol == UDP && transport.get(6..8) == Some(&[0; 2]);
            let checked = [TCP, UDP, IpNumber::ICMP.0].contains(&found.protocol) && !without;
            Sum::default().bytes(&frame[found.ip_start..found.start]).verifies()
                && (!checked || pseudo.bytes(transport).verifies())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            verifies_v6(transport, source, destination, found)
                && (found.protocol != UDP || transport.get(6..8) != Some(&[0; 2]))
        }
        _ => false,
    }
}

/// The same, of what IPv6 carries.
pub(super) fn verifies_v6(
    transport: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    found: Transport,
) -> bool {
    let Ok(len) = u32::try_from(transport.len()) else { return false };
    let checked = [TCP, UDP, IpNumber::IPV6_ICMP.0].contains(&found.protocol);
    let pseudo = Sum::default().pseudo_v6(source.octets(), destination.octets(), found.protocol, len);
    !checked || pseudo.bytes(transport).verifies()
}
