//! IP prefixes, as in `10.0.0.0/8` and `fd00:9::/64` (RFC 4632 §3.1, RFC 4291 §2.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// All addresses of one IP version that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// The same of IPv4 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

/// A text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Neither address nor length.
    #[error("want an IP address and a length, as in 10.0.0.0/8")]
    Malformed,
    /// The other IP version.
    #[error("IPv6 is not supported here: want an IPv4 prefix, as in 10.0.0.0/8")]
    Ipv6,
    /// A length that no prefix has.
    #[error("/{given} is longer than an address: want at most /{most}")]
    Length {
        /// What was given.
        given: u32,
        /// Bits of an address.
        most: u8,
    },
    /// The address of a host.
    #[error("bits are set behind its first {length}: do you mean {prefix}?", length = .0.length, prefix = .0)]
    HostBits(IpPrefix),
}

impl IpPrefix {
    /// Of so many bits of an address; `None` if others of it are set, or it has fewer.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let prefix = Self::around(address, length)?;
        (prefix.address == address).then_some(prefix)
    }

    /// The prefix of that length that an address is in; `None` if the address has fewer bits.
    #[must_use]
    pub fn around(address: IpAddr, length: u8) -> Option<Self> {
        let behind = u32::from(width(address).checked_sub(length)?);
        let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
        Some(Self { address: like(address, bits(address) & mask)?, length })
    }

    /// Its first address.
    #[must_use]
    pub fn first(self) -> IpAddr {
        self.address
    }

    /// Its last address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        let behind = u32::from(width(self.address) - self.length);
        let host = 1_u128.checked_shl(behind).unwrap_or(0).wrapping_sub(1);
        like(self.address, bits(self.address) | host).expect("no bit is set that the address does not have")
    }

    /// The address that is so many behind the first; `None` if it is in it no more.
    #[must_use]
    pub fn nth(self, offset: u128) -> Option<IpAddr> {
        let address = like(self.address, bits(self.address).checked_add(offset)?)?;
        self.contains(address).then_some(address)
    }

    /// Bits that its addresses share: 0 to 32, or to 128.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4() && Self::around(address, self.length) == Some(self)
    }

    /// Whether all of another is in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.address)
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl Ipv4Prefix {
    /// Of so many bits of an address; `None` if others of it are set, or it has fewer.
    #[must_use]
    pub fn new(address: Ipv4Addr, length: u8) -> Option<Self> {
        IpPrefix::new(address.into(), length).map(|_| Self { address, length })
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
        IpPrefix::from(self).overlaps(other.into())
    }
}

impl From<Ipv4Prefix> for IpPrefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self { address: prefix.address.into(), length: prefix.length }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of these bits, of the same version as `model`.
fn like(model: IpAddr, bits: u128) -> Option<IpAddr> {
    match model {
        IpAddr::V4(_) => Some(Ipv4Addr::from_bits(u32::try_from(bits).ok()?).into()),
        IpAddr::V6(_) => Some(Ipv6Addr::from_bits(bits).into()),
    }
}

impl FromStr for IpPrefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Malformed)?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let digits = length.bytes().all(|byte| byte.is_ascii_digit());
        let given: u32 = length.parse().ok().filter(|_| digits).ok_or(PrefixError::Malformed)?;
        let prefix = u8::try_from(given).ok().and_then(|length| Self::around(address, length));
        let prefix = prefix.ok_or_else(|| PrefixError::Length { given, most: width(address) })?;
        if prefix.address == address { Ok(prefix) } else { Err(PrefixError::HostBits(prefix)) }
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let of_ipv6 = text.split_once('/').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
        if of_ipv6 {
            return Err(PrefixError::Ipv6);
        }
        match text.parse()? {
            IpPrefix { address: IpAddr::V4(address), length } => Ok(Self { address, length }),
            IpPrefix { address: IpAddr::V6(_), .. } => Err(PrefixError::Ipv6),
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpPrefix::from(*self).fmt(f)
    }
}

impl Serialize for IpPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for IpPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
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

    fn prefix(text: &str) -> IpPrefix {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_come_as_they_went() {
        for text in
            ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.128/25", "192.0.2.1/32", "::/0", "fd00:9::/64", "::1/128"]
        {
            assert_eq!(prefix(text).to_string(), text);
            assert_eq!(IpPrefix::new(prefix(text).first(), prefix(text).length()), Some(prefix(text)));
            let v4 = text.parse::<Ipv4Prefix>().map(IpPrefix::from);
            assert_eq!(v4, if prefix(text).is_ipv4() { Ok(prefix(text)) } else { Err(PrefixError::Ipv6) });
        }
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::new(10, 0, 0, 1), 8), None);
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 33), None);
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<IpPrefix>().unwrap_err();
        for text in
            ["", "/", "10.0.0.0", "10.0.0.0/", "10.0/8", "x/8", "10.0.0.0/+8", "10.0.0.0/8/8", "fd00::"]
        {
            assert_eq!(refused(text), PrefixError::Malformed, "{text:?}");
            assert_eq!(text.parse::<Ipv4Prefix>(), Err(PrefixError::Malformed), "{text:?}");
        }
        assert_eq!(refused("10.0.0.0/33"), PrefixError::Length { given: 33, most: 32 });
        assert_eq!(refused("10.0.0.0/300"), PrefixError::Length { given: 300, most: 32 });
        assert_eq!(refused("fd00::/129"), PrefixError::Length { given: 129, most: 128 });
        assert_eq!(refused("10.1.2.3/8"), PrefixError::HostBits(prefix("10.0.0.0/8")));
        assert!(refused("10.1.2.3/8").to_string().ends_with("do you mean 10.0.0.0/8?"));
        assert!(refused("fd00::1/64").to_string().ends_with("do you mean fd00::/64?"));
    }

    #[test]
    fn overlap_is_mutual() {
        for (one, two, overlap) in [
            ("10.0.0.0/8", "10.20.0.0/16", true),
            ("10.0.0.0/16", "10.1.0.0/16", false),
            ("0.0.0.0/0", "192.0.2.1/32", true),
            ("192.0.2.0/25", "192.0.2.128/25", false),
            ("::/0", "0.0.0.0/0", false),
            ("fd00::/8", "fd00:9::/64", true),
        ] {
            assert_eq!(prefix(one).overlaps(prefix(two)), overlap, "{one} {two}");
            assert_eq!(prefix(two).overlaps(prefix(one)), overlap, "{two} {one}");
        }
    }

    #[test]
    fn ends_are_the_first_and_the_last_address() {
        for (text, last) in [
            ("10.0.9.0/24", "10.0.9.255"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0", "255.255.255.255"),
            ("fd00::/126", "fd00::3"),
            ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let last: IpAddr = last.parse().unwrap();
            assert_eq!(prefix(text).last(), last);
            assert!(prefix(text).contains(last));
        }
        let small = prefix("10.0.9.252/30");
        assert_eq!(small.nth(3), Some(small.last()));
        assert_eq!([small.nth(4), prefix("255.255.255.252/30").nth(4)], [None, None]);
    }
}
