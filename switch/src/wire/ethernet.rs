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
        let mut ether_type = EtherType(u16::from_be_bytes([head[field::ETHER_TYPE], head[field::ETHER_TYPE + 1]]));
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
