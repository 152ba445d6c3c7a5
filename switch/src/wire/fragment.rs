//! Fragments of IP packets: RFC 791 §3.2, RFC 8200 §4.5. What [`super::flow::Transport::find`] leaves aside.

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice};

use super::ethernet::{self, EtherType};
use super::flow::{IpVersion, walk_v6};

/// A part of an IP packet.
///
/// `ip_start < start <= end <= frame.len()`, and the fixed IP header lies between `ip_start` and `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// IPv4 or IPv6.
    pub ip: IpVersion,
    /// Offset of the IP header from the frame's first byte.
    pub ip_start: usize,
    /// What the packet carries, in IPv6 behind the fragment header.
    pub protocol: u8,
    /// The packet's identification, of 16 bits in IPv4; unique for its addresses, in IPv4 for its protocol too.
    pub id: u32,
    /// Whether it is the packet's beginning.
    pub is_first: bool,
    /// Offset of what it carries from the frame's first byte.
    pub start: usize,
    /// End of the fragment in the frame.
    pub end: usize,
}

impl Fragment {
    /// The fragment that a frame carries; `None` if it carries something else, or a malformed one.
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
        if !ip.is_fragmenting_payload() || total_len < header_len || total_len > packet.len() {
            return None;
        }
        Some(Self {
            ip: IpVersion::V4,
            ip_start,
            protocol: ip.protocol().0,
            id: ip.identification().into(),
            is_first: ip.fragments_offset().value() == 0,
            start: ip_start + header_len,
            end: ip_start + total_len,
        })
    }

    fn find_v6(packet: &[u8], ip_start: usize) -> Option<Self> {
        let (protocol, start, end) = walk_v6(packet)?;
        if protocol != IpNumber::IPV6_FRAGMENTATION_HEADER {
            return None;
        }
        let fragment = Ipv6FragmentHeaderSlice::from_slice(&packet[start..end]).ok()?;
        Some(Self {
            ip: IpVersion::V6,
            ip_start,
            protocol: fragment.next_header().0,
            id: fragment.identification(),
            is_first: fragment.fragment_offset().value() == 0,
            start: ip_start + start + fragment.slice().len(),
            end: ip_start + end,
        })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{IpFragOffset, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, PacketBuilder};

    use super::*;
    use crate::wire::ethernet::Header;
    use crate::wire::flow::Transport;

    fn v4(offset: u16, more: bool) -> Vec<u8> {
        let mut ip = Ipv4Header::new(12, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        (ip.identification, ip.more_fragments, ip.dont_fragment) = (0xabcd, more, false);
        ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
        [&[0; 12][..], &[8, 0], &ip.to_bytes(), &[7; 12], &[0; 14]].concat()
    }

    fn v6(offset: u16, more: bool) -> Vec<u8> {
        let ip = Ipv6Header { payload_length: 20, next_header: IpNumber(44), ..Ipv6Header::default() };
        let offset = IpFragOffset::try_new(offset).unwrap();
        let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, 0x1234_5678);
        [&[0; 12][..], &[0x86, 0xdd], &ip.to_bytes(), &fragment.to_bytes(), &[7; 12]].concat()
    }

    fn find(frame: &[u8]) -> Option<Fragment> {
        let header = Header::parse(frame).unwrap();
        let fragment = Fragment::find(frame, &header);
        assert!(fragment.is_none() || Transport::find(frame, &header).is_none(), "one or the other");
        fragment
    }

    #[test]
    fn what_they_say_of_themselves() {
        for (offset, more) in [(0, true), (5, true), (5, false)] {
            let is_first = offset == 0;
            let (ip_start, protocol) = (14, 17);
            let four =
                Fragment { ip: IpVersion::V4, ip_start, protocol, id: 0xabcd, is_first, start: 34, end: 46 };
            assert_eq!(find(&v4(offset, more)), Some(four));
            let id = 0x1234_5678;
            let six = Fragment { ip: IpVersion::V6, ip_start, protocol, id, is_first, start: 62, end: 74 };
            assert_eq!(find(&v6(offset, more)), Some(six));
        }
    }

    #[test]
    fn whole_packets_are_none() {
        assert_eq!(find(&v4(0, false)), None);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([0; 6], [0; 6])
            .ipv6([1; 16], [2; 16], 9)
            .udp(1, 2)
            .write(&mut frame, &[])
            .unwrap();
        assert_eq!(find(&frame), None);
    }

    #[test]
    fn truncated_ones_are_none() {
        for (frame, len) in [(v4(0, true), 46), (v6(0, true), 74)] {
            for cut in 14..len {
                assert_eq!(find(&frame[..cut]), None, "{cut} bytes");
            }
        }
    }
}
