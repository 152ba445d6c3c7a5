//! What clients are told whom nobody answers: TCP's reset (RFC 9293 §3.10.7.1), ICMP's unreachables.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader as UnreachableV4;
use etherparse::icmpv6::DestUnreachableCode as UnreachableV6;
use etherparse::{
    EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    TcpHeader, UdpHeader,
};

use super::flows::{Flow, Found};
use super::packet::{ACK, Kind, Packet, RST, Segment};
use super::standing::Marks;
use crate::icmp::{self, Kinds};
use crate::wire::MacAddr;
use crate::wire::ethernet::Header;
use crate::wire::flow::{TCP, UDP};

const HOPS: u8 = 64;

/// Bytes of the longest message of [`flow`]: an ICMPv6 error about an empty datagram.
pub(super) const FLOW_MAX: usize = LINK_LEN + 2 * Ipv6Header::LEN + 8 + UdpHeader::LEN;

/// An end of a flow.
type End = (MacAddr, IpAddr, u16);

/// The numbers of a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// What the other end expects next.
    Expected(u32),
    /// It expects nothing yet: its SYN is acknowledged.
    Acknowledging(u32),
}

impl Reset {
    /// In answer to a segment; `None` for what is a reset itself.
    fn answering(segment: Segment) -> Option<Self> {
        if segment.flags & RST != 0 {
            return None;
        }
        Some(if segment.flags & ACK != 0 {
            Self::Expected(segment.acknowledgment)
        } else {
            Self::Acknowledging(segment.sequence.wrapping_add(segment.len))
        })
    }
}

/// Whether what [`packet`] tells about such a packet is an ICMP message.
pub(super) fn is_message(packet: &Packet) -> bool {
    !matches!(packet.kind, Kind::Tcp(_))
}

/// Writes what the sender of a frame is told if nobody takes it, to the start of `out`; gives its length. `None` if it is told
/// nothing.
///
/// # Panics
/// If `out` has no room for an Ethernet header and 1,280 bytes.
pub(super) fn packet(frame: &[u8], header: &Header, packet: &Packet, out: &mut [u8]) -> Option<usize> {
    match packet.kind {
        Kind::Tcp(segment) => {
            let tuple = packet.tuple;
            let from = (header.destination, tuple.destination, tuple.destination_port);
            let to = (header.source, tuple.source, tuple.source_port);
            Some(reset(from, to, Reset::answering(segment)?, out))
        }
        Kind::Udp => icmp::error(frame, header, NO_PORT, out),
        Kind::EchoRequest => icmp::error(frame, header, NO_HOST, out),
        Kind::EchoReply | Kind::Error(_) | Kind::Later => None,
    }
}

/// The same for the client of a flow that has lost its task, without a packet of its: what it has last sent is unknown but
/// for TCP's numbers. A reset that is off is answered by the client (RFC 5961 §3.2), and that by one that is right.
pub(super) fn flow(found: &Found<'_>, out: &mut [u8]) -> Option<usize> {
    let Flow { key, vip, client_mac, vip_mac, .. } = found.flow;
    let from = (vip_mac, vip, key.service_port);
    let to = (client_mac, key.client, key.client_port);
    match key.protocol {
        TCP if found.marks().contains(Marks::ACKNOWLEDGED) => {
            Some(reset(from, to, Reset::Expected(found.number()), out))
        }
        TCP => Some(reset(from, to, Reset::Acknowledging(found.number()), out)),
        UDP => {
            // As if the client had just sent an empty datagram; programs are told by the ports in it.
            let udp = UdpHeader::without_ipv4_checksum(key.client_port, key.service_port, 0);
            let mut sent = [0; LINK_LEN + Ipv6Header::LEN + UdpHeader::LEN];
            let udp = udp.ok()?.to_bytes();
            let len = datagram(to, from, IpNumber::UDP, &udp, &mut sent);
            icmp::error(&sent[..len], &Header::parse(&sent[..len]).ok()?, NO_PORT, out)
        }
        _ => None,
    }
}

const LINK_LEN: usize = Ethernet2Header::LEN;
const NO_PORT: Kinds = Kinds {
    v4: Icmpv4Type::DestinationUnreachable(UnreachableV4::Port),
    v6: Icmpv6Type::DestinationUnreachable(UnreachableV6::Port),
};
const NO_HOST: Kinds = Kinds {
    v4: Icmpv4Type::DestinationUnreachable(UnreachableV4::Host),
    v6: Icmpv6Type::DestinationUnreachable(UnreachableV6::Address),
};

fn reset(from: End, to: End, reset: Reset, out: &mut [u8]) -> usize {
    let mut tcp = TcpHeader::new(from.2, to.2, 0, 0);
    tcp.rst = true;
    match reset {
        Reset::Expected(number) => tcp.sequence_number = number,
        Reset::Acknowledging(number) => (tcp.ack, tcp.acknowledgment_number) = (true, number),
    }
    let checksum = match (from.1, to.1) {
        (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4_raw(from.octets(), to.octets(), &[]),
        (from, to) => tcp.calc_checksum_ipv6_raw(octets(from), octets(to), &[]),
    };
    tcp.checksum = checksum.expect("it has no payload");
    datagram(from, to, IpNumber::TCP, &tcp.to_bytes(), out)
}

/// Writes a frame that carries these bytes, a few; gives its length.
fn datagram(from: End, to: End, protocol: IpNumber, message: &[u8], out: &mut [u8]) -> usize {
    let len = u16::try_from(message.len()).expect("a header");
    let link = |ether_type| Ethernet2Header { source: from.0.0, destination: to.0.0, ether_type }.to_bytes();
    match (from.1, to.1) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = Ipv4Header::new(len, HOPS, protocol, source.octets(), destination.octets());
            let mut ip = ip.expect("a header fits");
            ip.header_checksum = ip.calc_header_checksum();
            icmp::write([&link(EtherType::IPV4), &ip.to_bytes(), message], out)
        }
        (source, destination) => {
            let ip = Ipv6Header {
                traffic_class: 0,
                flow_label: Ipv6FlowLabel::ZERO,
                payload_length: len,
                next_header: protocol,
                hop_limit: HOPS,
                source: octets(source),
                destination: octets(destination),
            };
            icmp::write([&link(EtherType::IPV6), &ip.to_bytes(), message], out)
        }
    }
}

/// An address as IPv6 has it; both ends of a flow are of one family.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
