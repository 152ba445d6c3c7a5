//! VXLAN end points that are no nodes, and are in a network all the same.

use std::net::{IpAddr, Ipv4Addr};

use super::super::requests::conflict;
use super::conflict::within;
use super::create::{Around, bad};
use crate::api::{FOREIGN_MAX, IpPrefix, NetworkOptions, Refusal, Subnet};

/// Whether a network with these subnets may have the end points that are asked for.
///
/// # Errors
/// If one can't be an end point, or is something else, which is named.
pub(super) fn check(
    options: &NetworkOptions,
    subnets: &[Subnet],
    around: &Around<'_>,
) -> Result<(), Refusal> {
    let foreign = &options.foreign;
    if options.encrypted && !foreign.is_empty() {
        return Err(bad("foreign end points have no keys: their network can't be encrypted"));
    }
    if foreign.len() > FOREIGN_MAX {
        return Err(bad(format!(
            "{} foreign end points are too many: want at most {FOREIGN_MAX}",
            foreign.len()
        )));
    }
    foreign.iter().try_for_each(|&address| check_one(address, subnets, around))
}

fn check_one(address: IpAddr, subnets: &[Subnet], around: &Around<'_>) -> Result<(), Refusal> {
    if !is_host(address) {
        return Err(bad(format!("foreign={address}: want the address of one host in the underlay")));
    }
    if address.is_ipv4() != around.local.is_ipv4() {
        let version = if around.local.is_ipv4() { "IPv4" } else { "IPv6" };
        return Err(bad(format!("foreign={address}: the cluster's data goes over {version}")));
    }
    if let Some((name, _)) = around.nodes.iter().find(|(_, at)| *at == address) {
        return Err(conflict(format!("foreign={address} is node {name}: nodes are members by themselves")));
    }
    let alone = IpPrefix::around(address, if address.is_ipv4() { 32 } else { 128 });
    let taken = alone.and_then(|alone| within(around.networks, alone).first().copied());
    if let Some((network, subnet)) = taken {
        let holder = format!("{subnet} of network {} ({})", network.name, network.id);
        return Err(conflict(format!("foreign={address} is in {holder}: want its address in the underlay")));
    }
    match subnets.iter().find(|own| own.subnet.contains(address)) {
        Some(own) => Err(bad(format!(
            "foreign={address} is in this network's own {}: want its address in the underlay",
            own.subnet
        ))),
        None => Ok(()),
    }
}

/// Whether a datagram to it goes to one host, by way of a route and not of a link that would have to be named.
fn is_host(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
        || address != address.to_canonical()
        || link_local)
}

#[cfg(test)]
mod tests {
    use super::super::create::tests::network;
    use super::*;

    fn said(foreign: &[&str], encrypted: bool, local: &str) -> String {
        let foreign = foreign.iter().map(|text| text.parse().unwrap()).collect();
        let options = NetworkOptions { foreign, encrypted, ..NetworkOptions::default() };
        let networks = [network("id1", "front", 1, &["10.0.0.0/24"])];
        let own = network("", "", 2, &["10.0.1.0/24"]).subnets;
        let around = Around {
            networks: &networks,
            pools: &[],
            mask_length: 24,
            routes: &[],
            nodes: &[("quince".into(), "192.0.2.1".parse().unwrap())],
            local: local.parse().unwrap(),
            random: [0; 5],
        };
        check(&options, &own, &around).err().map(|refusal| refusal.message).unwrap_or_default()
    }

    #[test]
    fn only_other_hosts_of_the_underlay_are_end_points() {
        let v4 = |foreign: &[&str]| said(foreign, false, "192.0.2.1");
        assert_eq!(v4(&["192.0.2.9", "198.51.100.7"]), "");
        assert_eq!(said(&["2001:db8::9"], false, "2001:db8::1"), "");
        for address in ["0.0.0.0", "127.0.0.1", "224.0.0.9", "255.255.255.255", "::ffff:192.0.2.9", "fe80::9"]
        {
            let expected = format!("foreign={address}: want the address of one host in the underlay");
            assert_eq!(v4(&["192.0.2.9", address]), expected);
        }
        for (address, expected) in [
            ("192.0.2.1", "is node quince: nodes"),
            ("2001:db8::9", "goes over IPv4"),
            ("10.0.0.9", "is in 10.0.0.0/24 of network front (id1): want"),
            ("10.0.1.9", "is in this network's own 10.0.1.0/24: want"),
        ] {
            assert!(v4(&[address]).contains(expected), "{address}: {}", v4(&[address]));
        }
    }

    #[test]
    fn nothing_is_sealed_for_them_and_they_are_few() {
        assert!(said(&["192.0.2.9"], true, "192.0.2.1").contains("no keys"));
        assert_eq!(said(&[], true, "192.0.2.1"), "");
        let many: Vec<String> = (0..=FOREIGN_MAX).map(|last| format!("198.51.100.{last}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(said(&many, false, "192.0.2.1"), "65 foreign end points are too many: want at most 64");
        assert_eq!(said(&many[1..], false, "192.0.2.1"), "");
    }
}
