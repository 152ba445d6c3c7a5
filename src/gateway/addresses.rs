//! Where a gateway is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::IpPrefix;
use crate::switch::wire::MacAddr;

/// One address of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// The address.
    pub address: IpAddr,
    /// The subnet that it is in, where that is known: what is known of no subnet is not handed out in it.
    pub subnet: Option<IpPrefix>,
}

/// Where a gateway is: at one or several addresses of either family, or of both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    mac: MacAddr,
    all: Vec<Own>,
}

impl Own {
    /// Whether an address is in its subnet, as far as that is known.
    #[must_use]
    pub fn is_beside(&self, other: IpAddr) -> bool {
        self.subnet.is_some_and(|subnet| subnet.contains(other))
    }
}

impl Addresses {
    /// Those addresses, in subnets that nobody has said, and the MAC address that follows from the first of
    /// IPv4, or else of IPv6: [`mac_of`]. `None` if there is none, or one that no host can have.
    #[must_use]
    pub fn new(addresses: &[IpAddr]) -> Option<Self> {
        Self::of(addresses.iter().map(|&address| Own { address, subnet: None }).collect())
    }

    /// As [`Self::new`], with their subnets.
    #[must_use]
    pub fn of(all: Vec<Own>) -> Option<Self> {
        if !all.iter().all(|own| is_host(own.address)) {
            return None;
        }
        let first = all.iter().find(|own| own.address.is_ipv4()).or_else(|| all.first())?;
        Some(Self { mac: mac_of(first.address), all })
    }

    /// Its MAC address, on every node the same.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// All of them, but for [`Self::link_local`].
    #[must_use]
    pub fn all(&self) -> &[Own] {
        &self.all
    }

    /// Its first IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.all.iter().find_map(|own| match own.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// Its first IPv6 address, [`Self::link_local`] aside.
    #[must_use]
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.all.iter().find_map(|own| match own.address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        })
    }

    /// The address that it has on the link, if it speaks IPv6: what a router is known by (RFC 4861 §6.1.2), made
    /// of its MAC address (RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.v6()?;
        let [a, b, c, d, e, f] = self.mac.0;
        Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
    }

    /// Whether it is at this address.
    #[must_use]
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.all.iter().any(|own| own.address == address)
            || self.link_local().is_some_and(|own| address == own)
    }

    /// The address by which `other` knows it: the one in its subnet, else the first of its family.
    #[must_use]
    pub fn towards(&self, other: IpAddr) -> Option<IpAddr> {
        let alike = |own: &&Own| own.address.is_ipv4() == other.is_ipv4();
        self.all
            .iter()
            .find(|own| own.is_beside(other))
            .or_else(|| self.all.iter().find(alike))
            .map(|own| own.address)
    }

    /// What the switch should have announced at the gateway's port: IPv4 alone, since the switch does not say of
    /// any address that it is a router's (RFC 4861 §4.4).
    #[must_use]
    pub fn announced(&self) -> Vec<IpAddr> {
        self.all.iter().map(|own| own.address).filter(IpAddr::is_ipv4).collect()
    }
}

/// The MAC address of whoever has `address`: `02:42` and the IPv4 address, as Docker does, or the last four
/// bytes of the IPv6 address. Locally administered, unicast.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn own(address: &str, length: u8) -> Own {
        let address = address.parse().unwrap();
        Own { address, subnet: IpPrefix::around(address, length) }
    }

    #[test]
    fn each_neighbour_knows_it_by_the_address_of_its_own_subnet() {
        let at = [own("10.0.9.1", 24), own("fd00:9::1", 64), own("10.0.7.1", 24), own("fd00:7::1", 64)];
        let at = Addresses::of(at.into()).unwrap();
        assert_eq!(at.mac().to_string(), "02:42:0a:00:09:01");
        for (other, known_by) in [
            ("10.0.7.20", "10.0.7.1"),
            ("10.0.9.20", "10.0.9.1"),
            ("192.0.2.1", "10.0.9.1"),
            ("fd00:7::20", "fd00:7::1"),
            ("fe80::20", "fd00:9::1"),
        ] {
            assert_eq!(at.towards(other.parse().unwrap()), Some(known_by.parse().unwrap()), "{other}");
        }
        let link_local: IpAddr = "fe80::42:aff:fe00:901".parse().unwrap();
        assert_eq!(at.link_local().map(IpAddr::V6), Some(link_local));
        assert!(at.is_at(link_local) && at.is_at([10, 0, 7, 1].into()) && !at.is_at([10, 0, 7, 2].into()));
        assert_eq!(at.announced(), [[10, 0, 9, 1], [10, 0, 7, 1]].map(IpAddr::from));
    }

    #[test]
    fn one_family_is_enough_and_none_is_not() {
        let v4 = Addresses::new(&[[10, 0, 9, 1].into()]).unwrap();
        assert_eq!((v4.link_local(), v4.towards("fd00::2".parse().unwrap())), (None, None));
        let v6 = Addresses::of(vec![own("fd00::a00:901", 64)]).unwrap();
        assert_eq!((v6.mac().to_string().as_str(), v6.announced().len()), ("02:42:0a:00:09:01", 0));
        assert_eq!(Addresses::of(Vec::new()), None);
        assert_eq!(Addresses::of(vec![own("10.0.9.1", 24), own("224.0.0.1", 24)]), None);
    }
}
