//! Packets from outside that are longer than what the network carries, cut into fragments (RFC 791 §3.2, RFC 8200
//! §4.5).
//!
//! The host has put datagrams together that were cut outside; each is a packet of ours, which we may cut again.

use crate::switch::wire::checksum::Sum;
use crate::switch::wire::ethernet;

const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const FRAGMENT_HEADER_LEN: usize = 8;
/// Fragments begin at multiples of it.
const UNIT: usize = 8;
/// In front of a fragment's offset: there are more.
const MORE_V4: u16 = 0x2000;
const MORE_V6: u16 = 1;
/// The protocol number of IPv6's fragment header (IANA).
const FRAGMENT: u8 = 44;

/// Offsets from the first byte of the IP header.
mod field {
    use std::ops::Range;

    pub(super) const V4_TOTAL_LEN: Range<usize> = 2..4;
    pub(super) const V4_ID: Range<usize> = 4..6;
    pub(super) const V4_FRAGMENT: Range<usize> = 6..8;
    pub(super) const V4_CHECKSUM: Range<usize> = 10..12;
    pub(super) const V6_PAYLOAD_LEN: Range<usize> = 4..6;
    pub(super) const V6_NEXT_HEADER: usize = 6;
}

/// A frame, as it is if its packet has at most `mtu` bytes, or else in fragments that are known by `id`.
///
/// The packet has neither options nor extension headers; an `mtu` that leaves no room for anything is taken for
/// the least that does.
pub(super) fn fragments(frame: Vec<u8>, mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let packet = frame.len() - ethernet::HEADER_LEN;
    if packet <= mtu {
        return vec![frame];
    }
    let is_ipv4 = frame[ethernet::HEADER_LEN] >> 4 == 4;
    let (header_len, added) = if is_ipv4 { (V4_LEN, 0) } else { (V6_LEN, FRAGMENT_HEADER_LEN) };
    let (headers, payload) = frame.split_at(ethernet::HEADER_LEN + header_len);
    let size = (mtu.saturating_sub(header_len + added) / UNIT * UNIT).max(UNIT);
    let last = payload.len().div_ceil(size) - 1;
    let fragment = |(index, part): (usize, &[u8])| {
        // Below 2^16, as the packet's length is.
        let offset = u16::try_from(index * size).ok()?;
        let mut frame = headers.to_vec();
        let ip = &mut frame[ethernet::HEADER_LEN..];
        let len = u16::try_from(part.len() + if is_ipv4 { V4_LEN } else { FRAGMENT_HEADER_LEN }).ok()?;
        if is_ipv4 {
            let more = if index < last { MORE_V4 } else { 0 };
            let [.., high, low] = id.to_be_bytes();
            ip[field::V4_TOTAL_LEN].copy_from_slice(&len.to_be_bytes());
            ip[field::V4_ID].copy_from_slice(&[high, low]);
            ip[field::V4_FRAGMENT].copy_from_slice(&((offset / 8) | more).to_be_bytes());
            ip[field::V4_CHECKSUM].fill(0);
            let checksum = Sum::default().bytes(ip).finish();
            ip[field::V4_CHECKSUM].copy_from_slice(&checksum);
        } else {
            let more = if index < last { MORE_V6 } else { 0 };
            let next = std::mem::replace(&mut ip[field::V6_NEXT_HEADER], FRAGMENT);
            ip[field::V6_PAYLOAD_LEN].copy_from_slice(&len.to_be_bytes());
            frame.extend([next, 0]);
            frame.extend((offset | more).to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        frame.extend(part);
        Some(frame)
    };
    payload.chunks(size).enumerate().filter_map(fragment).collect()
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, PacketBuilder};

    use super::*;

    fn frame(is_ipv4: bool, len: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..=255).cycle().take(len).collect();
        let step = PacketBuilder::ethernet2([2; 6], [3; 6]);
        let step = if is_ipv4 {
            step.ipv4([192, 0, 2, 1], [10, 0, 9, 7], 64)
        } else {
            step.ipv6([1; 16], [2; 16], 64)
        };
        let mut frame = Vec::new();
        step.udp(53, 4_000).write(&mut frame, &payload).unwrap();
        frame
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        for is_ipv4 in [true, false] {
            let whole = frame(is_ipv4, 1_000);
            let mtu = whole.len() - ethernet::HEADER_LEN;
            assert_eq!(fragments(whole.clone(), mtu, 7), std::slice::from_ref(&whole));
            assert_eq!(fragments(whole, mtu - 1, 7).len(), 2);
        }
    }

    #[test]
    fn ipv4_fragments_make_the_packet_again() {
        for (len, mtu) in [(1_473, 1_500), (9_000, 1_450), (65_507, 576), (100, 30)] {
            let whole = frame(true, len);
            let parts = fragments(whole.clone(), mtu, 0x0007_1234);
            let mut joined: Vec<u8> = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                assert!(part.len() <= 14 + mtu.max(28));
                let header = Ipv4HeaderSlice::from_slice(&part[14..]).unwrap().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(usize::from(header.total_len), part.len() - 14);
                assert_eq!((header.identification, header.dont_fragment), (0x1234, false));
                assert_eq!(usize::from(header.fragment_offset.byte_offset()), joined.len());
                assert_eq!(header.more_fragments, index + 1 < parts.len());
                joined.extend(&part[34..]);
            }
            assert_eq!(joined, whole[34..], "{len} bytes by {mtu}");
        }
    }

    #[test]
    fn ipv6_fragments_make_the_packet_again() {
        for (len, mtu) in [(1_453, 1_500), (9_000, 1_430), (65_507, 1_280)] {
            let whole = frame(false, len);
            let parts = fragments(whole.clone(), mtu, 0x0007_1234);
            let mut joined: Vec<u8> = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                assert!(part.len() <= 14 + mtu);
                let header = Ipv6HeaderSlice::from_slice(&part[14..]).unwrap();
                assert_eq!(usize::from(header.payload_length()), part.len() - 54);
                assert_eq!(header.next_header().0, FRAGMENT);
                let fragment = Ipv6FragmentHeaderSlice::from_slice(&part[54..]).unwrap().to_header();
                assert_eq!((fragment.next_header.0, fragment.identification), (17, 0x0007_1234));
                assert_eq!(usize::from(fragment.fragment_offset.byte_offset()), joined.len());
                assert_eq!(fragment.more_fragments, index + 1 < parts.len());
                joined.extend(&part[62..]);
            }
            assert_eq!(joined, whole[54..], "{len} bytes by {mtu}");
        }
    }
}
