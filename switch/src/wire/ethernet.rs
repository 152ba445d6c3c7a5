//! Ethernet II frames, IEEE 802.3 §3, with any stack of 802.1Q / 802.1ad tags left untouched.
//!
//! ```text
//!  0            6            12           14 (+4 per tag)
//! | destination | source     | EtherType  | payload …
//! ```

use std::fmt;
use std::str::FromStr;

use super::{Cause, Layer, WireError};

/// Bytes of an untagged header.
pub const HEADER_LEN: usize = 14;
/// Bytes of one 802.1Q or 802.1ad tag.
pub const TAG_LEN: usize = 4;
/// Tags looked behind for the payload's type; a frame with more is forwarded, its payload not looked at.
pub const TAGS_MAX: usize = 2;

mod field {
    use std::ops::Range;
    pub(super) const DESTINATION: Range<usize> = 0..6;
    pub(super) const SOURCE: Range<usize> = 6..12;
    pub(super) const ETHER_TYPE: usize = 12;
}

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set; true for broadcast.
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether all bits are clear.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: want six hexadecimal bytes, as in 02:42:0a:00:00:02")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddrError)?;
        }
        if parts.next().is_some() {
            return Err(MacAddrError);
        }
        Ok(Self(bytes))
    }
}

/// The type of what a header is followed by (IEEE registry); values below 0x600 are 802.3 lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// RFC 894.
    pub const IPV4: Self = Self(0x0800);
    /// RFC 826.
    pub const ARP: Self = Self(0x0806);
    /// RFC 2464.
    pub const IPV6: Self = Self(0x86dd);
    /// 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// 802.1ad service tag.
    pub const QINQ: Self = Self(0x88a8);

    fn is_tag(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

/// What forwarding needs of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Receiver.
    pub destination: MacAddr,
    /// Sender.
    pub source: MacAddr,
    /// Type of the payload, behind at most [`TAGS_MAX`] tags.
    pub ether_type: EtherType,
    /// Offset of the payload from the frame's first byte.
    pub payload: usize,
}

impl Header {
    /// Reads the header and looks behind its tags.
    ///
    /// # Errors
    /// [`Cause::Truncated`] if the frame ends within the header or a tag.
    pub fn parse(frame: &[u8]) -> Result<Self, WireError> {
        let truncated = WireError { layer: Layer::Ethernet, cause: Cause::Truncated };
        let head = frame.first_chunk::<HEADER_LEN>().ok_or(truncated)?;
        let mut ether_type =
            EtherType(u16::from_be_bytes([head[field::ETHER_TYPE], head[field::ETHER_TYPE + 1]]));
        let mut payload = HEADER_LEN;
        for _ in 0..TAGS_MAX {
            if !ether_type.is_tag() {
                break;
            }
            let tag = frame.get(payload..payload + TAG_LEN).ok_or(truncated)?;
            ether_type = EtherType(u16::from_be_bytes([tag[2], tag[3]]));
            payload += TAG_LEN;
        }
        let mac = |range: std::ops::Range<usize>| {
            let mut bytes = [0; 6];
            bytes.copy_from_slice(&head[range]);
            MacAddr(bytes)
        };
        Ok(Self { destination: mac(field::DESTINATION), source: mac(field::SOURCE), ether_type, payload })
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, SlicedPacket, VlanId};
    use proptest::prelude::*;

    use super::*;

    const A: MacAddr = MacAddr([0x02, 0x42, 10, 0, 0, 1]);
    const B: MacAddr = MacAddr([0x02, 0x42, 10, 0, 0, 2]);

    fn frame(tags: &[u16], ether_type: u16) -> Vec<u8> {
        let mut frame = [B.0, A.0].concat();
        for (tag, vlan) in tags.iter().zip(1u16..) {
            frame.extend(tag.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(ether_type.to_be_bytes());
        frame
    }

    #[test]
    fn a_plain_header() {
        let header = Header { destination: B, source: A, ether_type: EtherType::IPV4, payload: HEADER_LEN };
        assert_eq!(Header::parse(&frame(&[], 0x0800)), Ok(header));
    }

    #[test]
    fn two_tags_are_looked_behind_and_a_third_is_the_type() {
        for (tags, payload, ether_type) in [
            (&[0x8100][..], 18, EtherType::IPV6),
            (&[0x88a8, 0x8100], 22, EtherType::IPV6),
            (&[0x88a8, 0x8100, 0x8100], 22, EtherType::VLAN),
        ] {
            let header = Header::parse(&frame(tags, 0x86dd)).unwrap();
            assert_eq!((header.payload, header.ether_type), (payload, ether_type));
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let frame = frame(tags, 0x0800);
            for len in 0..frame.len() {
                let error = WireError { layer: Layer::Ethernet, cause: Cause::Truncated };
                assert_eq!(Header::parse(&frame[..len]), Err(error), "{len} bytes of {tags:?}");
            }
            assert_eq!(Header::parse(&frame).map(|header| header.payload), Ok(frame.len()));
        }
    }

    #[test]
    fn addresses_as_text() {
        for text in ["02:42:0a:00:00:01", "02-42-0A-00-00-01"] {
            assert_eq!(text.parse(), Ok(A));
        }
        assert_eq!(A.to_string(), "02:42:0a:00:00:01");
        for text in [
            "",
            "02:42:0a:00:00",
            "02:42:0a:00:00:01:02",
            "2:42:a:0:0:1",
            "02:42:0a:00:00:0g",
            "+2:42:0a:00:00:01",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(MacAddrError), "{text:?}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_multicast());
        assert!(!A.is_multicast() && !A.is_zero() && MacAddr([0; 6]).is_zero());
    }

    proptest! {
        #[test]
        fn text_round_trip(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(MacAddr(bytes).to_string().parse(), Ok(MacAddr(bytes)));
        }

        #[test]
        fn agrees_with_etherparse(tags in 0usize..=2, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let builder = PacketBuilder::ethernet2(A.0, B.0);
            let builder = match tags {
                0 => builder.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
                1 => builder.single_vlan(VlanId::ZERO).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
                _ => builder
                    .double_vlan(VlanId::ZERO, VlanId::try_new(4094).unwrap())
                    .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            }
            .udp(1, 2);
            let mut frame = Vec::new();
            builder.write(&mut frame, &payload).unwrap();
            let header = Header::parse(&frame).unwrap();
            let oracle = SlicedPacket::from_ethernet(&frame).unwrap();
            let behind = oracle.ether_payload().unwrap();
            prop_assert_eq!(header.ether_type.0, behind.ether_type.0);
            prop_assert_eq!(&frame[header.payload..], behind.payload);
            prop_assert_eq!((header.source, header.destination), (A, B));
        }
    }
}
