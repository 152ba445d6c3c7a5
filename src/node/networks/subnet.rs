//! One subnet of a request, by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::api::settings::unusable;
use crate::api::{IpPrefix, Name, Subnet, SubnetRequest};

/// Why a subnet makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SubnetError {
    #[error("subnet {0}: {1} has no addresses for hosts")]
    Unusable(IpPrefix, IpPrefix),
    #[error("subnet {subnet} is too small: want at most /{most}")]
    Small { subnet: IpPrefix, most: u8 },
    #[error("{what} {address} is not in subnet {subnet}")]
    Outside { what: String, address: String, subnet: IpPrefix },
    #[error("{what} {address} is not a host's: it names all of subnet {subnet}")]
    NoHost { what: String, address: IpAddr, subnet: IpPrefix },
    #[error("{address} of subnet {subnet} is given twice: to {one} and {other}")]
    Twice { address: IpAddr, subnet: IpPrefix, one: String, other: String },
    #[error("no address of subnet {0} is left for the gateway: all are reserved")]
    NoGateway(IpPrefix),
}

/// Bits of a prefix with a gateway and another host.
const fn longest(v4: bool) -> u8 {
    if v4 { 30 } else { 126 }
}

/// What is asked for, with what follows from it.
///
/// # Errors
/// See [`SubnetError`].
pub(super) fn settle(request: &SubnetRequest) -> Result<Subnet, SubnetError> {
    let subnet = request.subnet;
    if let Some(part) = unusable(subnet) {
        return Err(SubnetError::Unusable(subnet, part));
    }
    let most = longest(subnet.is_ipv4());
    if subnet.length() > most {
        return Err(SubnetError::Small { subnet, most });
    }
    if let Some(range) = request.ip_range.filter(|&range| !subnet.covers(range)) {
        let what = "the ip range".into();
        return Err(SubnetError::Outside { what, address: range.to_string(), subnet });
    }
    let given = request.gateway.map(|gateway| ("the gateway".to_owned(), gateway));
    let reserved = request.reserved.iter().map(|(name, &address)| (format!("aux address {name}"), address));
    let mut owners = BTreeMap::new();
    for (what, address) in given.into_iter().chain(reserved) {
        check_host(&what, address, subnet)?;
        if let Some(one) = owners.insert(address, what.clone()) {
            return Err(SubnetError::Twice { address, subnet, one, other: what });
        }
    }
    let gateway = request.gateway.or_else(|| first_free(subnet, &request.reserved));
    Ok(Subnet {
        subnet,
        gateway: gateway.ok_or(SubnetError::NoGateway(subnet))?,
        ip_range: request.ip_range,
        reserved: request.reserved.clone(),
    })
}

/// The first host's address that is not reserved.
fn first_free(subnet: IpPrefix, reserved: &BTreeMap<Name, IpAddr>) -> Option<IpAddr> {
    let taken: BTreeSet<_> = reserved.values().collect();
    let mut hosts = (1_u128..).map_while(|offset| subnet.nth(offset));
    hosts.find(|address| !taken.contains(address)).filter(|&address| is_host(address, subnet))
}

fn check_host(what: &str, address: IpAddr, subnet: IpPrefix) -> Result<(), SubnetError> {
    let what = || what.to_owned();
    if !subnet.contains(address) {
        return Err(SubnetError::Outside { what: what(), address: address.to_string(), subnet });
    }
    if !is_host(address, subnet) {
        return Err(SubnetError::NoHost { what: what(), address, subnet });
    }
    Ok(())
}

/// Whether an address of a subnet stands for one host: not for the subnet or all of it (RFC 1122 §3.2.1.3), nor for any
/// router (RFC 4291 §2.6.1).
fn is_host(address: IpAddr, subnet: IpPrefix) -> bool {
    address != subnet.first() && !(subnet.is_ipv4() && address == subnet.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(subnet: &str, gateway: &str, ip_range: &str, reserved: &[(&str, &str)]) -> SubnetRequest {
        SubnetRequest {
            subnet: subnet.parse().unwrap(),
            gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()),
            ip_range: (!ip_range.is_empty()).then(|| ip_range.parse().unwrap()),
            reserved: reserved
                .iter()
                .map(|(name, address)| (name.parse().unwrap(), address.parse().unwrap()))
                .collect(),
        }
    }

    fn gateway(subnet: &str, reserved: &[(&str, &str)]) -> String {
        settle(&request(subnet, "", "", reserved)).unwrap().gateway.to_string()
    }

    #[test]
    fn the_gateway_is_the_first_host_that_is_not_reserved() {
        assert_eq!(gateway("10.0.9.0/24", &[]), "10.0.9.1");
        assert_eq!(gateway("10.0.9.0/24", &[("a", "10.0.9.1"), ("b", "10.0.9.3")]), "10.0.9.2");
        assert_eq!(gateway("fd00:9::/64", &[("a", "fd00:9::1")]), "fd00:9::2");
        let given = request("10.0.9.0/24", "10.0.9.99", "10.0.9.128/25", &[("a", "10.0.9.98")]);
        let settled = settle(&given).unwrap();
        assert_eq!((Some(settled.gateway), settled.ip_range), (given.gateway, given.ip_range));
        assert_eq!(settled.reserved, given.reserved);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let said = |subnet, gateway, range, reserved: &[(&str, &str)]| {
            settle(&request(subnet, gateway, range, reserved)).unwrap_err().to_string()
        };
        let net = "10.0.9.0/24";
        for (text, expected) in [
            (said(net, "10.0.8.1", "", &[]), "the gateway 10.0.8.1 is not in subnet 10.0.9.0/24"),
            (said(net, "fd00::1", "", &[]), "the gateway fd00::1 is not in subnet 10.0.9.0/24"),
            (said(net, "", "10.0.8.0/25", &[]), "the ip range 10.0.8.0/25 is not in subnet 10.0.9.0/24"),
            (said(net, "", "10.0.8.0/23", &[]), "the ip range 10.0.8.0/23 is not in subnet 10.0.9.0/24"),
            (
                said(net, "", "", &[("a", "10.0.9.255")]),
                "aux address a 10.0.9.255 is not a host's: it names all of subnet 10.0.9.0/24",
            ),
            (
                said(net, "10.0.9.7", "", &[("a", "10.0.9.7")]),
                "10.0.9.7 of subnet 10.0.9.0/24 is given twice: to the gateway and aux address a",
            ),
            (said("10.0.9.0/31", "", "", &[]), "subnet 10.0.9.0/31 is too small: want at most /30"),
            (said("fd00::/127", "", "", &[]), "subnet fd00::/127 is too small: want at most /126"),
            (
                said("224.1.0.0/16", "", "", &[]),
                "subnet 224.1.0.0/16: 224.0.0.0/3 has no addresses for hosts",
            ),
            (said("fe80::/64", "", "", &[]), "subnet fe80::/64: fe80::/10 has no addresses for hosts"),
            (
                said("10.0.9.0/30", "", "", &[("a", "10.0.9.1"), ("b", "10.0.9.2")]),
                "no address of subnet 10.0.9.0/30 is left for the gateway: all are reserved",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }
}
