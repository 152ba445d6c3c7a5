//! ICMP errors about a frame's packet (RFC 792, RFC 4443), in the name of the packet's destination: what a switch has to
//! tell hosts that take their network for one link.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6FlowLabel,
    Ipv6Header, Ipv6HeaderSlice, icmpv4, icmpv6,
};

use crate::wire::ethernet::{self, EtherType};
use crate::wire::flow::field::ipv6;

/// How long such a message may be, all of it: RFC 1812 §4.3.2.3, RFC 4443 §2.4(c).
const MESSAGE_MAX_V4: usize = 576;
const MESSAGE_MAX_V6: usize = 1_280;

const IPV4_LEN: usize = Ipv4Header::MIN_LEN;
const ICMP_LEN: usize = 8;
const HOPS: u8 = 64;

/// What to tell, for each IP version.
pub(crate) struct Kinds {
    pub(crate) v4: Icmpv4Type,
    pub(crate) v6: Icmpv6Type,
}

/// Writes the frame that tells the sender of `frame` to the start of `out`, and gives its length.
///
/// `None` where nobody may be told (RFC 1122 §3.2.2, RFC 4443 §2.4): the packet is an ICMP error itself or a later fragment,
/// or from or to no single host.
///
/// # Panics
/// If `out` has no room for the frame's Ethernet header, tags included, and 1,280 bytes.
pub(crate) fn error(frame: &[u8], header: &ethernet::Header, kinds: Kinds, out: &mut [u8]) -> Option<usize> {
    if header.source.is_multicast() || header.destination.is_multicast() {
        return None;
    }
    let (link, packet) = frame.split_at_checked(header.payload)?;
    let (link_out, packet_out) = out.split_at_mut(header.payload);
    let len = match header.ether_type {
        EtherType::IPV4 => error_v4(packet, kinds.v4, packet_out)?,
        EtherType::IPV6 => error_v6(packet, kinds.v6, packet_out)?,
        _ => return None,
    };
    link_out.copy_from_slice(link);
    link_out[..6].copy_from_slice(&header.source.0);
    link_out[6..12].copy_from_slice(&header.destination.0);
    Some(header.payload + len)
}

fn error_v4(packet: &[u8], kind: Icmpv4Type, out: &mut [u8]) -> Option<usize> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let query = |kind: &u8| [icmpv4::TYPE_ECHO_REQUEST, icmpv4::TYPE_ECHO_REPLY].contains(kind);
    let may = ip.fragments_offset().value() == 0
        && (ip.protocol() != IpNumber::ICMP || packet.get(ip.slice().len()).is_some_and(query));
    let host = |a: Ipv4Addr| !(a.is_unspecified() || a.is_multicast() || a.is_broadcast());
    if !may || !host(from) || !host(to) {
        return None;
    }
    let original = &packet[..packet.len().min(MESSAGE_MAX_V4 - IPV4_LEN - ICMP_LEN)];
    let icmp = Icmpv4Header::with_checksum(kind, original).to_bytes();
    let len = u16::try_from(icmp.len() + original.len()).expect("under MESSAGE_MAX_V4");
    let mut reply =
        Ipv4Header::new(len, HOPS, IpNumber::ICMP, to.octets(), from.octets()).expect("a length that fits");
    reply.header_checksum = reply.calc_header_checksum();
    Some(write([&reply.to_bytes(), &icmp, original], out))
}

fn error_v6(packet: &[u8], kind: Icmpv6Type, out: &mut [u8]) -> Option<usize> {
    let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let informs = |kind: &u8| *kind >= icmpv6::TYPE_ECHO_REQUEST;
    let may = ip.next_header() != IpNumber::IPV6_ICMP || packet.get(ipv6::HEADER_LEN).is_some_and(informs);
    let host = |a: Ipv6Addr| !(a.is_unspecified() || a.is_multicast());
    if !may || !host(from) || !host(to) {
        return None;
    }
    let original = &packet[..packet.len().min(MESSAGE_MAX_V6 - ipv6::HEADER_LEN - ICMP_LEN)];
    let (source, destination) = (to.octets(), from.octets());
    let icmp = Icmpv6Header::with_checksum(kind, source, destination, original);
    let icmp = icmp.expect("under MESSAGE_MAX_V6").to_bytes();
    let reply = Ipv6Header {
        traffic_class: 0,
        flow_label: Ipv6FlowLabel::ZERO,
        payload_length: u16::try_from(icmp.len() + original.len()).expect("under MESSAGE_MAX_V6"),
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: HOPS,
        source,
        destination,
    };
    Some(write([&reply.to_bytes(), &icmp, original], out))
}

/// Writes bytes one behind the other; gives how many.
pub(crate) fn write<const N: usize>(parts: [&[u8]; N], out: &mut [u8]) -> usize {
    parts.iter().fold(0, |at, part| {
        out[at..at + part.len()].copy_from_slice(part);
        at + part.len()
    })
}
