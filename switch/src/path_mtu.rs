//! What follows from a path's MTU for the packets that want to take it.
//!
//! Hosts in a network take it for one link, so nobody but its switches can tell them that the way to one of them is
//! narrower than their interface. As Linux's tunnels do, the message seems to come from the packet's destination, which
//! every sender believes: [`too_big`] is what path MTU discovery listens for (RFC 1191, RFC 8201). TCP connections are
//! spared the first loss by [`clamp_mss`].

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{Icmpv4Type, Icmpv6Type, Ipv4Header, Ipv4HeaderSlice};

use crate::icmp::{self, Kinds};
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

const IPV4_LEN: usize = Ipv4Header::MIN_LEN;

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
/// of `out`, and gives its length: "fragmentation needed and DF set" (RFC 792, RFC 1191 §4), or "packet too big"
/// (RFC 4443 §3.2).
///
/// `None` where nobody may be told ([`icmp::error`]), or the packet may be fragmented on its way; or where what fits is less
/// than every link must carry.
///
/// # Panics
/// If `out` has no room for the frame's Ethernet header, tags included, and 1,280 bytes.
pub(crate) fn too_big(
    frame: &[u8],
    header: &ethernet::Header,
    frame_max: usize,
    out: &mut [u8],
) -> Option<usize> {
    let mtu = frame_max.saturating_sub(header.payload);
    let may = match header.ether_type {
        EtherType::IPV4 => {
            mtu >= LEAST_V4 && Ipv4HeaderSlice::from_slice(frame.get(header.payload..)?).ok()?.dont_fragment()
        }
        _ => mtu >= LEAST_V6,
    };
    let (next_hop_mtu, mtu) = (u16::try_from(mtu).ok()?, u32::try_from(mtu).ok()?);
    let needed = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
    let kinds =
        Kinds { v4: Icmpv4Type::DestinationUnreachable(needed), v6: Icmpv6Type::PacketTooBig { mtu } };
    may.then(|| icmp::error(frame, header, kinds, out)).flatten()
}

#[cfg(test)]
mod tests;
