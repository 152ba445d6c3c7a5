//! The packet that an error from outside is about, as inside has sent it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};

use super::counters::Kind;
use crate::switch::wire::checksum::Sum;

/// Where an ICMP message has its checksum and an echo's identifier.
const CHECKSUM: std::ops::Range<usize> = 2..4;
const ID: std::ops::Range<usize> = 4..6;
/// What is left of hops: nobody looks.
const HOPS: u8 = 1;

/// The beginning of a packet from `inside` to `outside`. `beginning` is what the host has kept of it: behind a UDP
/// header, or an echo request from its ICMP header on, with the host's identifier.
///
/// UDP's checksum is left out, since not all that it was made of is known; that is one of nothing, not a wrong one.
pub(super) fn quote(inside: SocketAddr, outside: SocketAddr, kind: Kind, beginning: &[u8]) -> Vec<u8> {
    let transport = if kind == Kind::Udp {
        let len = UdpHeader::LEN + beginning.len();
        let header = UdpHeader {
            source_port: inside.port(),
            destination_port: outside.port(),
            length: u16::try_from(len).unwrap_or(u16::MAX),
            checksum: 0,
        };
        [&header.to_bytes()[..], beginning].concat()
    } else {
        renamed(beginning, inside.port())
    };
    let protocol = match (kind, inside.is_ipv4()) {
        (Kind::Udp, _) => IpNumber::UDP,
        (_, true) => IpNumber::ICMP,
        (_, false) => IpNumber::IPV6_ICMP,
    };
    let len = u16::try_from(transport.len()).unwrap_or(u16::MAX);
    let mut packet = Vec::new();
    match (inside.ip(), outside.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // As long as its own length field can say; what is quoted is far below.
            let Ok(header) = Ipv4Header::new(len, HOPS, protocol, source.octets(), destination.octets())
            else {
                return packet;
            };
            packet.extend(header.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = Ipv6Header {
                payload_length: len,
                next_header: protocol,
                hop_limit: HOPS,
                source: source.octets(),
                destination: destination.octets(),
                ..Ipv6Header::default()
            };
            packet.extend(header.to_bytes());
        }
        _ => return packet,
    }
    packet.extend(transport);
    packet
}

/// An echo request with that identifier; its checksum changes as that does (RFC 1624 §3).
fn renamed(message: &[u8], id: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    let (Some(&[c0, c1]), Some(&[i0, i1])) = (message.get(CHECKSUM), message.get(ID)) else { return message };
    let not = |a: u8, b: u8| !u16::from_be_bytes([a, b]);
    let checksum = Sum::default().word(not(c0, c1)).word(not(i0, i1)).word(id).finish();
    message[CHECKSUM].copy_from_slice(&checksum);
    message[ID].copy_from_slice(&id.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn a_datagram_has_its_inside_ends_again() {
        for (inside, outside) in [("10.0.9.7:4000", "192.0.2.1:53"), ("[fd00::7]:4000", "[2001:db8::1]:53")] {
            let quoted = quote(inside.parse().unwrap(), outside.parse().unwrap(), Kind::Udp, b"query");
            let packet = SlicedPacket::from_ip(&quoted).unwrap();
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no datagram") };
            assert_eq!(
                (udp.source_port(), udp.destination_port(), udp.payload()),
                (4_000, 53, &b"query"[..])
            );
        }
    }

    #[test]
    fn an_echo_request_has_its_identifier_again() {
        let written = |id: u16| {
            let mut packet = Vec::new();
            let builder = PacketBuilder::ipv4([10, 0, 9, 7], [192, 0, 2, 1], 64).icmpv4_echo_request(id, 3);
            builder.write(&mut packet, b"ping").unwrap();
            packet.split_off(20)
        };
        for (host, inside) in [(1, 2), (0xffff, 0), (0, 0xffff), (0x1234, 0xfedc)] {
            assert_eq!(renamed(&written(host), inside), written(inside));
        }
        assert_eq!(renamed(&[8, 0, 1], 7), [8, 0, 1], "too short for one");
    }
}
