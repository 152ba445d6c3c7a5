//! Where a gateway is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::switch::wire::MacAddr;

/// Where a gateway is: at one address of either family, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    mac: MacAddr,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Those IP addresses, the first of each family, and the MAC address that follows from them: [`mac_of`]. `None` if
    /// there is none, or one that no host can have.
    #[must_use]
    pub fn new(addresses: &[IpAddr]) -> Option<Self> {
        if !addresses.iter().all(|&address| is_host(address)) {
            return None;
        }
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(*address),
        });
        Some(Self { mac: mac_of(v4.map(IpAddr::V4).or_else(|| v6.map(IpAddr::V6))?), v4, v6 })
    }

    /// Its MAC address, on every node the same.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.v6
    }
}

/// The MAC address of whoever has `address`: `02:42` and the IPv4 address, as Docker does, or the last four bytes of the
/// IPv6 address. Locally administered, unicast.
#[must_use]
pub fn mac_of(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [a, b, c, d]
        }
    };
    MacAddr([0x02, 0x42, a, b, c, d])
}

/// Whether one host may have this address.
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !address.is_multicast()
                && !address.is_broadcast()
                && !address.is_unspecified()
                && !address.is_loopback()
        }
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified() && !address.is_loopback(),
    }
}
