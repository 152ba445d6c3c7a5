//! What follows from a path's MTU for the packets that want to take it.
//!
//! Hosts in a network take it for one link, so nobody but its switches can tell them that the way to one of them is
//! narrower than their interface. As Linux's tunnels do, the message seems to come from the packet's destination, which
//! every sender believes: [`too_big`] is what path MTU discovery listens for (RFC 1191, RFC 8201). TCP connections are
//! spared the first loss by [`clamp_mss`].

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::icmpv4::{self, DestUnreachableHeader};
use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6FlowLabel,
    Ipv6Header, Ipv6HeaderSlice, icmpv6,
};

use crate::storm::StormLimit;
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, EtherType};
use crate::wire::flow::field::{ipv6, tcp};
use crate::wire::flow::{IpVersion, TCP, Transport};
use crate::wire::virtio::Checksum;

/// Messages about one path: errors are to be limited (RFC 4443 §2.4(f)), and a sender needs one in ten minutes.
pub(crate) const MESSAGES: StormLimit = StormLimit { frames_per_second: 1_000, burst: 50 };

/// RFC 791 §3.2, RFC 8200 §5: what every link carries. Nobody is told less.
const LEAST_V4: usize = 68;
const LEAST_V6: usize = 1_280;
/// How long such a message may be, all of it: RFC 1812 §4.3.2.3, RFC 4443 §2.4(c).
const MESSAGE_MAX_V4: usize = 576;
const MESSAGE_MAX_V6: usize = 1_280;

const IPV4_LEN: usize = Ipv4Header::MIN_LEN;
const ICMP_LEN: usize = 8;
const HOPS: u8 = 64;

const SYN: u8 = 0x02;
/// RFC 9293 §3.2: kinds of options, the first two of one byte; and the length of the third.
const OPTION_END: u8 = 0;
const OPTION_NOTHING: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_LEN: usize = 4;
/// No useful connection has smaller segments: what IPv4's smallest link leaves, less the largest headers.
const MSS_MIN: usize = 48;

/// Lowers the maximum segment size that a TCP SYN offers, to what packets of up to `packet_max` bytes carry (RFC 6691
/// §2: without options). It is never raised, and left alone where there is none, or the segment is malformed.
pub(crate) fn clamp_mss(frame: &mut [u8], transport: &Transport, checksum: Checksum, packet_max: usize) {
    let headers = tcp::HEADER_MIN + if transport.ip == IpVersion::V4 { IPV4_LEN } else { ipv6::HEADER_LEN };
    let most = packet_max.saturating_sub(headers);
    if transport.protocol != TCP || !(MSS_MIN..usize::from(u16::MAX)).contains(&most) {
        return;
    }
    let segment = &mut frame[transport.start..transport.end];
    if segment.len() < tcp::HEADER_MIN || segment[tcp::FLAGS] & SYN == 0 {
        return;
    }
    let Some(at) = mss_option(segment) else { return };
    let offered = u16::from_be_bytes([segment[at], segment[at + 1]]);
    let Some(most) = u16::try_from(most).ok().filter(|&most| most < offered) else { return };
    segment[at..at + 2].copy_from_slice(&most.to_be_bytes());
    // A checksum that is not finished does not cover options yet.
    if !matches!(checksum, Checksum::Partial { .. }) {
        let field = [segment[tcp::CHECKSUM.start], segment[tcp::CHECKSUM.start + 1]];
        let [was, is] = if at % 2 == 0 { [offered, most] } else { [offered.swap_bytes(), most.swap_bytes()] };
        // RFC 1624 §3, equation 3.
        let sum = Sum::default().word(!u16::from_be_bytes(field)).word(!was).word(is);
        segment[tcp::CHECKSUM].copy_from_slice(&sum.finish());
    }
}

/// Where in a TCP segment the value of its maximum segment size option is.
fn mss_option(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment[tcp::DATA_OFFSET] >> 4) * 4;
    let options = segment.get(..end)?;
    let mut at = tcp::HEADER_MIN;
    loop {
        match *options.get(at)? {
            OPTION_END => return None,
            OPTION_NOTHING => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if kind == OPTION_MSS {
                    return (len == OPTION_MSS_LEN && at + len <= end).then_some(at + 2);
                }
                if len < 2 {
                    return None;
                }
                at += len;
            }
        }
    }
}

/// Writes the frame that tells the sender of `frame` what fits where frames may have up to `frame_max` bytes, to the start
/// of `out`, and gives its length.
///
/// `None` where nobody may be told (RFC 1122 §3.2.2, RFC 4443 §2.4): the packet may be fragmented on its way, it is an
/// ICMP error itself, or from or to no single host; or where what fits is less than every link must carry.
///
/// # Panics
/// If `out` has no room for the frame's Ethernet header, tags included, and 1,280 bytes.
pub(crate) fn too_big(
    frame: &[u8],
    header: &ethernet::Header,
    frame_max: usize,
    out: &mut [u8],
) -> Option<usize> {
    if header.source.is_multicast() || header.destination.is_multicast() {
        return None;
    }
    let (link, packet) = frame.split_at_checked(header.payload)?;
    let mtu = frame_max.saturating_sub(header.payload);
    let (link_out, packet_out) = out.split_at_mut(header.payload);
    let len = match header.ether_type {
        EtherType::IPV4 => needed(packet, mtu, packet_out)?,
        EtherType::IPV6 => packet_too_big(packet, mtu, packet_out)?,
        _ => return None,
    };
    link_out.copy_from_slice(link);
    link_out[..6].copy_from_slice(&header.source.0);
    link_out[6..12].copy_from_slice(&header.destination.0);
    Some(header.payload + len)
}

/// "Fragmentation needed and DF set" (RFC 792, RFC 1191 §4).
fn needed(packet: &[u8], mtu: usize, out: &mut [u8]) -> Option<usize> {
    let ip = Ipv4HeaderSlice::from_slice(packet).ok()?;
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let query = |kind: &u8| [icmpv4::TYPE_ECHO_REQUEST, icmpv4::TYPE_ECHO_REPLY].contains(kind);
    let may = ip.dont_fragment()
        && ip.fragments_offset().value() == 0
        && (ip.protocol() != IpNumber::ICMP || packet.get(ip.slice().len()).is_some_and(query));
    let host = |a: Ipv4Addr| !(a.is_unspecified() || a.is_multicast() || a.is_broadcast());
    let next_hop_mtu = u16::try_from(mtu).ok().filter(|_| mtu >= LEAST_V4)?;
    if !may || !host(from) || !host(to) {
        return None;
    }
    let original = &packet[..packet.len().min(MESSAGE_MAX_V4 - IPV4_LEN - ICMP_LEN)];
    let kind =
        Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu });
    let icmp = Icmpv4Header::with_checksum(kind, original).to_bytes();
    let len = u16::try_from(icmp.len() + original.len()).expect("under MESSAGE_MAX_V4");
    let mut reply =
        Ipv4Header::new(len, HOPS, IpNumber::ICMP, to.octets(), from.octets()).expect("a length that fits");
    reply.header_checksum = reply.calc_header_checksum();
    Some(write([&reply.to_bytes(), &icmp, original], out))
}

/// RFC 4443 §3.2.
fn packet_too_big(packet: &[u8], mtu: usize, out: &mut [u8]) -> Option<usize> {
    let ip = Ipv6HeaderSlice::from_slice(packet).ok()?;
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let informs = |kind: &u8| *kind >= icmpv6::TYPE_ECHO_REQUEST;
    let may = ip.next_header() != IpNumber::IPV6_ICMP || packet.get(ipv6::HEADER_LEN).is_some_and(informs);
    let host = |a: Ipv6Addr| !(a.is_unspecified() || a.is_multicast());
    let told = u32::try_from(mtu).ok().filter(|_| mtu >= LEAST_V6)?;
    if !may || !host(from) || !host(to) {
        return None;
    }
    let original = &packet[..packet.len().min(MESSAGE_MAX_V6 - ipv6::HEADER_LEN - ICMP_LEN)];
    let (source, destination) = (to.octets(), from.octets());
    let kind = Icmpv6Type::PacketTooBig { mtu: told };
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

fn write(parts: [&[u8]; 3], out: &mut [u8]) -> usize {
    parts.iter().fold(0, |at, part| {
        out[at..at + part.len()].copy_from_slice(part);
        at + part.len()
    })
}

#[cfg(test)]
mod tests;
