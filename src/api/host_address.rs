//! An interface's address together with what its subnet is, as in `10.0.9.2/24`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text;

/// An address, and how many bits of it all hosts of its link share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostAddress {
    address: IpAddr,
    length: u8,
}

/// A text that is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want an IP address and the length of its subnet's prefix, as in 10.0.9.2/24")]
pub struct HostAddressError;

impl HostAddress {
    /// An address in a subnet with a prefix of so many bits; `None` if it has fewer.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        (length <= most).then_some(Self { address, length })
    }

    /// The address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Bits of its subnet's prefix.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }
}

impl FromStr for HostAddress {
    type Err = HostAddressError;

    fn from_str(text: &str) -> Result<Self, HostAddressError> {
        let (address, length) = text.split_once('/').ok_or(HostAddressError)?;
        let address = address.parse().map_err(|_| HostAddressError)?;
        let digits = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits).ok_or(HostAddressError)?;
        Self::new(address, length).ok_or(HostAddressError)
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Serialize for HostAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for HostAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_as_they_went() {
        for text in ["10.0.9.2/24", "10.0.9.2/32", "fd00:9::2/64", "::/0"] {
            assert_eq!(text.parse::<HostAddress>().unwrap().to_string(), text);
        }
        for text in
            ["", "10.0.9.2", "10.0.9.2/", "10.0.9.2/33", "10.0.9.2/+8", "fd00::/129", "x/8", "10.0.9.2/8/8"]
        {
            assert_eq!(text.parse::<HostAddress>(), Err(HostAddressError), "{text:?}");
        }
    }
}
