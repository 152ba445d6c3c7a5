//! Who counts as one client, where each may have a part of what there is.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell clients apart: whoever has one address has all with the same (RFC 4291 §2.5.4, RFC 7421).
const SUBNET: u128 = !(u64::MAX as u128);

/// What a client's address counts as: an IPv4 address as itself, also in IPv6 clothes (RFC 4291 §2.5.5.2); an IPv6
/// address as the first of its subnet of 64 bits.
pub(crate) fn of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & SUBNET).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_of_ipv6_is_one_client() {
        let of = |text: &str| of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }
}
