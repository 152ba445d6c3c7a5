//! IPv4 prefixes, as in `10.0.0.0/8` (RFC 4632 §3.1).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// Bits of an address.
const BITS: u8 = 32;

/// All addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither address nor length.
    #[error("want an IPv4 address and a length, as in 10.0.0.0/8")]
    Malformed,
    /// The other IP version.
    #[error("IPv6 is not supported here: want an IPv4 prefix, as in 10.0.0.0/8")]
    Ipv6,
    /// A length that no prefix has.
    #[error("/{0} is longer than an IPv4 address: want at most /32")]
    Length(u32),
    /// The address of a host.
    #[error("bits are set behind its first {length}: do you mean {prefix}?", length = .0.length, prefix = .0)]
    HostBits(Ipv4Prefix),
}

impl Ipv4Prefix {
    /// Of so many bits of an address; `None` if others of it are set, or it has fewer.
    #[must_use]
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        let prefix = Self::around(address, length)?;
        (prefix.address == address).then_some(prefix)
    }

    fn around(address: Ipv4Addr, length: u8) -> Option<Self> {
        let behind = u32::from(BITS.checked_sub(length)?);
        let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
        Some(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask), length })
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Bits that its addresses share, 0 to 32.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        let length = self.length.min(other.length);
        Self::around(self.address, length) == Self::around(other.address, length)
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Malformed)?;
        if address.parse::<std::net::Ipv6Addr>().is_ok() {
            return Err(PrefixError::Ipv6);
        }
        let address: Ipv4Addr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let digits = length.bytes().all(|byte| byte.is_ascii_digit());
        let length: u32 = length.parse().ok().filter(|_| digits).ok_or(PrefixError::Malformed)?;
        let prefix = u8::try_from(length).ok().and_then(|length| Self::around(address, length));
        let prefix = prefix.ok_or(PrefixError::Length(length))?;
        if prefix.address == address { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for Ipv4Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Ipv4Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Ipv4Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_come_as_they_went() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.128/25", "192.0.2.1/32"] {
            assert_eq!(prefix(text).to_string(), text);
            assert_eq!(Ipv4Prefix::new(prefix(text).address(), prefix(text).length()), Some(prefix(text)));
        }
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 1), 8), None);
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 33), None);
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<Ipv4Prefix>().unwrap_err();
        for text in ["", "/", "10.0.0.0", "10.0.0.0/", "10.0/8", "x/8", "10.0.0.0/+8", "10.0.0.0/8/8"] {
            assert_eq!(refused(text), PrefixError::Malformed, "{text:?}");
        }
        assert_eq!(refused("fd00::/8"), PrefixError::Ipv6);
        assert_eq!(refused("10.0.0.0/33"), PrefixError::Length(33));
        assert_eq!(refused("10.0.0.0/300"), PrefixError::Length(300));
        assert_eq!(refused("10.1.2.3/8"), PrefixError::HostBits(prefix("10.0.0.0/8")));
        assert!(refused("10.1.2.3/8").to_string().ends_with("do you mean 10.0.0.0/8?"));
    }

    #[test]
    fn overlap_is_mutual() {
        for (one, two, overlap) in [
            ("10.0.0.0/8", "10.20.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "192.0.2.1/32", true),
            ("192.0.2.0/25", "192.0.2.128/25", false),
        ] {
            assert_eq!(prefix(one).overlaps(prefix(two)), overlap, "{one} {two}");
            assert_eq!(prefix(two).overlaps(prefix(one)), overlap, "{two} {one}");
        }
    }
}
