//! Where packets from inside may go.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::api::IpPrefix;

/// What no packet from inside may reach, as prefixes: addresses that mean this very host, that mean many, or none,
/// and those that a host trusts because they are on its link.
///
/// Link-local addresses are among them for the sake of 169.254.169.254, where clouds hand a machine its secrets
/// (RFC 3927 §2.7 has routers not forward them in any case). IPv4 addresses in IPv6 clothes lead to all of these
/// (RFC 4291 §2.5.5).
const NEVER: [(IpAddr, u8); 9] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4),
    // Unspecified, loopback, and the older of the two ways to write an IPv4 address.
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 96),
    (IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0)), 96),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// Where packets from inside may go: everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    denied: Vec<IpPrefix>,
    /// UDP ports where this host's word counts: see [`Self::world`].
    denied_udp: Vec<u16>,
}

impl Policy {
    /// Everywhere but there. Nothing is denied by itself: this is for tests, on a host's own loopback device.
    #[must_use]
    pub fn only_without(denied: Vec<IpPrefix>) -> Self {
        Self { denied, denied_udp: Vec::new() }
    }

    /// The world, without other networks' subnets, and without what inside may never reach: this host's loopback
    /// addresses, link-local ones, groups, and addresses that are none.
    ///
    /// `data_ports` are the UDP ports of VXLAN: a plain network believes whoever sends from a member's address
    /// (RFC 7348 §7), and what is carried is sent from this host's. So nothing is carried to them, on any host.
    #[must_use]
    pub fn world(others: impl IntoIterator<Item = IpPrefix>, data_ports: Vec<u16>) -> Self {
        let never = NEVER.iter().filter_map(|&(address, length)| IpPrefix::new(address, length));
        Self { denied: never.chain(others).collect(), denied_udp: data_ports }
    }

    /// Whether packets may go to an address.
    #[must_use]
    pub fn allows(&self, destination: IpAddr) -> bool {
        !self.denied.iter().any(|denied| denied.contains(destination))
    }

    /// Whether datagrams may go to a UDP port of an address.
    #[must_use]
    pub fn allows_udp(&self, destination: IpAddr, port: u16) -> bool {
        self.allows(destination) && !self.denied_udp.contains(&port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_has_neither_this_host_nor_other_networks() {
        let world =
            Policy::world(["10.0.9.0/24".parse().unwrap(), "fd00:9::/64".parse().unwrap()], vec![4789]);
        for denied in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "224.0.0.251",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "10.0.9.7",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:192.0.2.1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:9::7",
        ] {
            let denied: IpAddr = denied.parse().unwrap();
            assert!(!world.allows(denied) && !world.allows_udp(denied, 53), "{denied}");
        }
        for allowed in
            ["10.0.8.7", "10.0.10.7", "192.168.0.1", "1.1.1.1", "2001:db8::1", "fd00:8::7", "64:ff9b::1"]
        {
            let allowed: IpAddr = allowed.parse().unwrap();
            assert!(world.allows(allowed) && world.allows_udp(allowed, 53), "{allowed}");
            assert!(!world.allows_udp(allowed, 4789), "{allowed}");
        }
        assert_eq!(world.denied.len(), NEVER.len() + 2, "each of them is a prefix");
    }
}
