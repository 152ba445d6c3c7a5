//! From a request to a network.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::requests::conflict;
use super::conflict::within;
use super::foreign;
use super::pool::free_block;
use super::subnet;
use crate::api::{
    Code, IpPrefix, LABEL_KEY_MAX, LABEL_VALUE_MAX, LABELS_MAX, NetworkCreate, NetworkOptions, NetworkView,
    RESERVED_MAX, Refusal, SUBNETS_MAX, Subnet, SubnetRequest,
};
use crate::switch::tunnel::Protection;
use crate::switch::wire::Vni;

/// Where VNIs are taken from if nobody names one: as in Docker, so that people's own are below.
const VNI_FIRST: u32 = 4096;
/// Names with another meaning in Docker's commands.
const NAMES_RESERVED: [&str; 4] = ["bridge", "default", "host", "none"];
/// Bytes that every IPv4 host takes (RFC 791 §3.1).
const IPV4_MIN: u32 = 576;
/// Bytes that every IPv6 link carries (RFC 8200 §5).
const IPV6_MIN: u32 = 1280;

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// All networks of the cluster that are known here.
    pub(super) networks: &'a [NetworkView],
    /// The cluster's address pools.
    pub(super) pools: &'a [IpPrefix],
    /// Bits of the prefix of their blocks.
    pub(super) mask_length: u8,
    /// Where this host sends packets elsewhere, each with the link; default routes are none.
    pub(super) routes: &'a [(IpPrefix, String)],
    /// The cluster's nodes that are known here, with where their data goes to.
    pub(super) nodes: &'a [(String, IpAddr)],
    /// Where this node's does.
    pub(super) local: IpAddr,
    /// A random number, for a subnet of IPv6 that nobody else has (RFC 4193 §3.2.1).
    pub(super) random: [u8; 5],
}

/// What a network gets that was not asked for in so many words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) vni: Vni,
    pub(super) subnets: Vec<Subnet>,
}

/// Whether a network may be made, and what it gets.
///
/// # Errors
/// If the request makes no sense, or something is in the way, which is named.
pub(super) fn settle(request: &NetworkCreate, around: &Around<'_>) -> Result<Settled, Refusal> {
    let name = request.name.as_str();
    if NAMES_RESERVED.contains(&name) {
        return Err(bad(format!("{name} can't be a network's name: Docker has another meaning for it")));
    }
    if let Some(other) = around.networks.iter().find(|network| network.name == name) {
        return Err(conflict(format!("there is a network {name} already ({})", other.id)));
    }
    check_options(&request.options, around.networks)?;
    let vni = settle_vni(request.vni, around.networks)?;
    let subnets = settle_subnets(request, around)?;
    check_mtu(&request.options, &subnets)?;
    foreign::check(&request.options, &subnets, around)?;
    Ok(Settled { vni, subnets })
}

fn check_options(options: &NetworkOptions, networks: &[NetworkView]) -> Result<(), Refusal> {
    if options.ingress && options.attachable {
        return Err(bad("the routing mesh's network can't be attachable"));
    }
    if options.ingress && options.internal {
        return Err(bad("the routing mesh's network can't be internal"));
    }
    if options.ingress
        && let Some(other) = networks.iter().find(|network| network.options.ingress)
    {
        return Err(conflict(format!("{} ({}) is the routing mesh's network already", other.name, other.id)));
    }
    if options.labels.len() > LABELS_MAX {
        return Err(bad(format!("{} labels are too many: want at most {LABELS_MAX}", options.labels.len())));
    }
    for (key, value) in &options.labels {
        if key.is_empty() || key.len() > LABEL_KEY_MAX || value.len() > LABEL_VALUE_MAX {
            let bounds =
                format!("want a key of 1 to {LABEL_KEY_MAX} bytes, and a value of at most {LABEL_VALUE_MAX}");
            return Err(bad(format!("label {key:.20}…: {bounds}")));
        }
    }
    Ok(())
}

/// What is left for packets inside must do for what will be sent there.
fn check_mtu(options: &NetworkOptions, subnets: &[Subnet]) -> Result<(), Refusal> {
    let Some(mtu) = options.mtu else { return Ok(()) };
    let protection = if options.encrypted { Protection::Sealed } else { Protection::Plain };
    let left = protection.mtu(Ipv4Addr::UNSPECIFIED.into(), mtu.into());
    let with_v6 = subnets.iter().any(|subnet| !subnet.subnet.is_ipv4());
    let (version, least) = if with_v6 { ("IPv6", IPV6_MIN) } else { ("IPv4", IPV4_MIN) };
    if left < least {
        return Err(bad(format!("mtu {mtu} leaves {left} bytes inside: {version} needs {least}")));
    }
    Ok(())
}

fn settle_vni(wanted: Option<u32>, networks: &[NetworkView]) -> Result<Vni, Refusal> {
    let Some(id) = wanted else { return choose_vni(networks) };
    let vni = Vni::new(id).ok_or_else(|| bad(format!("VNI {id}: want 0 to {}", Vni::MAX)))?;
    match networks.iter().find(|network| network.vni == id) {
        None => Ok(vni),
        Some(other) => Err(conflict(format!(
            "VNI {id} is that of network {} ({}): choose another",
            other.name, other.id
        ))),
    }
}

/// The first VNI from [`VNI_FIRST`] on that no network has.
fn choose_vni(networks: &[NetworkView]) -> Result<Vni, Refusal> {
    let taken: HashSet<u32> = networks.iter().map(|network| network.vni).collect();
    let free = (VNI_FIRST..=Vni::MAX).find(|id| !taken.contains(id)).and_then(Vni::new);
    free.ok_or_else(|| conflict(format!("all VNIs from {VNI_FIRST} on are taken")))
}

/// The subnets that are asked for, and of IPv4 in any case.
fn settle_subnets(request: &NetworkCreate, around: &Around<'_>) -> Result<Vec<Subnet>, Refusal> {
    let count = request.subnets.len();
    let reserved: usize = request.subnets.iter().map(|subnet| subnet.reserved.len()).sum();
    if count > SUBNETS_MAX || reserved > RESERVED_MAX {
        let bounds = format!("want at most {SUBNETS_MAX} subnets with {RESERVED_MAX} aux addresses");
        return Err(bad(format!("{count} subnets with {reserved} aux addresses: {bounds}")));
    }
    let mut subnets: Vec<Subnet> = Vec::new();
    for wanted in &request.subnets {
        let settled = subnet::settle(wanted).map_err(|error| bad(error.to_string()))?;
        if let Some(other) = subnets.iter().find(|other| other.subnet.overlaps(settled.subnet)) {
            return Err(bad(format!("subnets {} and {} overlap", other.subnet, settled.subnet)));
        }
        check_free(settled.subnet, around)?;
        subnets.push(settled);
    }
    if !subnets.iter().any(|subnet| subnet.subnet.is_ipv4()) {
        subnets.insert(0, from_pools(around, &subnets)?);
    }
    if request.ipv6 && subnets.iter().all(|subnet| subnet.subnet.is_ipv4()) {
        let unique = whole(unique_local(around.random))?;
        check_free(unique.subnet, around)?;
        subnets.push(unique);
    }
    Ok(subnets)
}

/// Whether nobody has addresses of a subnet, as far as is known here.
fn check_free(subnet: IpPrefix, around: &Around<'_>) -> Result<(), Refusal> {
    if let Some((network, other)) = within(around.networks, subnet).first() {
        let holder = format!("network {} ({})", network.name, network.id);
        return Err(conflict(format!("subnet {subnet} overlaps {other} of {holder}: choose another")));
    }
    if let Some((route, link)) = around.routes.iter().find(|(route, _)| route.overlaps(subnet)) {
        return Err(conflict(format!(
            "subnet {subnet} overlaps this host's route {route} on {link}: choose another"
        )));
    }
    Ok(())
}

/// The first free block of the pools.
fn from_pools(around: &Around<'_>, own: &[Subnet]) -> Result<Subnet, Refusal> {
    let subnets = around.networks.iter().flat_map(|network| &network.subnets).chain(own);
    let taken = subnets.map(|subnet| subnet.subnet);
    let taken: Vec<_> = taken.chain(around.routes.iter().map(|&(route, _)| route)).collect();
    let block = free_block(around.pools, around.mask_length, &taken);
    whole(block.ok_or_else(|| exhausted(around))?)
}

/// The numbers, and a route if there is one: it may take a whole pool.
fn exhausted(around: &Around<'_>) -> Refusal {
    let pools = around.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let networks: usize = around.pools.iter().map(|&pool| within(around.networks, pool).len()).sum();
    let routes: Vec<String> = around
        .routes
        .iter()
        .filter(|(route, _)| around.pools.iter().any(|pool| pool.overlaps(*route)))
        .map(|(route, link)| format!("{route} on {link}"))
        .collect();
    let routes = match routes.as_slice() {
        [] => String::new(),
        [first, ..] => format!(" and {} routes of this host ({first})", routes.len()),
    };
    let remedy = "give one with --subnet, or other pools with `vswitchd cluster update --default-addr-pool`";
    conflict(format!(
        "no block of /{} is free in {pools}: {networks} subnets of networks{routes} are in the way; {remedy}",
        around.mask_length
    ))
}

/// A subnet of which nothing but the prefix is known.
fn whole(subnet: IpPrefix) -> Result<Subnet, Refusal> {
    let request = SubnetRequest { subnet, gateway: None, ip_range: None, reserved: Default::default() };
    // Pools are checked when they are set, but those of a record could be anything.
    subnet::settle(&request).map_err(|error| conflict(error.to_string()))
}

/// The first subnet of a site of its own (RFC 4193 §3.1).
fn unique_local(random: [u8; 5]) -> IpPrefix {
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&random);
    let address = IpAddr::V6(Ipv6Addr::from(octets));
    IpPrefix::new(address, 64).expect("nothing is set behind the first 48 bits")
}

pub(super) fn bad(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A network of the year 1970.
    pub(in crate::node::networks) fn network(
        id: &str,
        name: &str,
        vni: u32,
        subnets: &[&str],
    ) -> NetworkView {
        let subnet = |text: &&str| whole(text.parse().unwrap()).unwrap();
        NetworkView {
            id: id.into(),
            name: name.into(),
            vni,
            subnets: subnets.iter().map(subnet).collect(),
            options: NetworkOptions::default(),
            created_ms: 0,
            nodes: 0,
            conflicts: Vec::new(),
        }
    }

    fn create(name: &str, subnets: &[&str]) -> NetworkCreate {
        let subnet = |text: &&str| SubnetRequest {
            subnet: text.parse().unwrap(),
            gateway: None,
            ip_range: None,
            reserved: Default::default(),
        };
        NetworkCreate {
            name: name.parse().unwrap(),
            subnets: subnets.iter().map(subnet).collect(),
            ipv6: false,
            vni: None,
            options: NetworkOptions::default(),
        }
    }

    fn settled_with(
        request: &NetworkCreate,
        networks: &[NetworkView],
        pools: &[&str],
        routes: &[&str],
    ) -> Result<Settled, Refusal> {
        let pools: Vec<IpPrefix> = pools.iter().map(|pool| pool.parse().unwrap()).collect();
        let routes: Vec<_> = routes.iter().map(|route| (route.parse().unwrap(), "eth0".to_owned())).collect();
        let around = Around {
            networks,
            pools: &pools,
            mask_length: 24,
            routes: &routes,
            nodes: &[],
            local: [192, 0, 2, 1].into(),
            random: [1, 2, 3, 4, 5],
        };
        settle(request, &around)
    }

    fn settled(request: &NetworkCreate, networks: &[NetworkView]) -> Result<Settled, Refusal> {
        settled_with(request, networks, &["10.0.0.0/8"], &[])
    }

    fn said(outcome: Result<Settled, Refusal>) -> String {
        outcome.unwrap_err().message
    }

    fn shown(outcome: Result<Settled, Refusal>) -> Vec<String> {
        outcome
            .unwrap()
            .subnets
            .iter()
            .map(|subnet| format!("{} {}", subnet.subnet, subnet.gateway))
            .collect()
    }

    #[test]
    fn the_first_free_vni_is_chosen() {
        let chosen = |taken: &[u32]| {
            let networks: Vec<_> =
                taken.iter().map(|&vni| network(&vni.to_string(), &vni.to_string(), vni, &[])).collect();
            settled(&create("new", &[]), &networks).unwrap().vni.id()
        };
        assert_eq!([chosen(&[]), chosen(&[42]), chosen(&[4097])], [4096; 3]);
        assert_eq!([chosen(&[4096]), chosen(&[4098, 4096]), chosen(&[4097, 4096])], [4097, 4097, 4098]);
    }

    #[test]
    fn names_and_vnis_are_taken_once() {
        let networks = [network("id1", "front", 4096, &[])];
        assert_eq!(said(settled(&create("front", &[]), &networks)), "there is a network front already (id1)");
        let with = |vni| settled(&NetworkCreate { vni: Some(vni), ..create("back", &[]) }, &networks);
        assert_eq!(said(with(4096)), "VNI 4096 is that of network front (id1): choose another");
        assert_eq!(with(1 << 24).unwrap_err().code, Code::BadRequest);
        assert_eq!(with(42).unwrap().vni.id(), 42);
        assert_eq!(settled(&create("host", &[]), &networks).unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn subnets_come_from_the_pools_unless_they_are_given() {
        assert_eq!(shown(settled(&create("a", &[]), &[])), ["10.0.0.0/24 10.0.0.1"]);
        let taken = [network("id1", "front", 1, &["10.0.0.0/24"])];
        assert_eq!(shown(settled(&create("a", &[]), &taken)), ["10.0.1.0/24 10.0.1.1"]);
        assert_eq!(
            shown(settled(&create("a", &["192.168.0.0/16", "172.16.0.0/16"]), &taken)),
            ["192.168.0.0/16 192.168.0.1", "172.16.0.0/16 172.16.0.1"]
        );
        assert_eq!(
            shown(settled(&create("a", &["fd00:9::/64"]), &taken)),
            ["10.0.1.0/24 10.0.1.1", "fd00:9::/64 fd00:9::1"],
            "IPv4 is always there"
        );
        let v6 = NetworkCreate { ipv6: true, ..create("a", &[]) };
        assert_eq!(shown(settled(&v6, &[])), ["10.0.0.0/24 10.0.0.1", "fd01:203:405::/64 fd01:203:405::1"]);
        let own = shown(settled_with(&create("a", &[]), &[], &["10.0.0.0/8"], &["10.0.0.0/16", "fd00::/8"]));
        assert_eq!(own, ["10.1.0.0/24 10.1.0.1"], "not where this host has others");
    }

    #[test]
    fn what_overlaps_is_named() {
        let networks = [network("id1", "front", 1, &["10.0.0.0/16", "fd00::/64"])];
        let with =
            |subnets: &[&str]| said(settled_with(&create("a", subnets), &networks, &[], &["192.0.2.0/24"]));
        for (subnets, expected) in [
            (
                &["10.0.9.0/24"][..],
                "subnet 10.0.9.0/24 overlaps 10.0.0.0/16 of network front (id1): choose another",
            ),
            (
                &["10.0.0.0/8"],
                "subnet 10.0.0.0/8 overlaps 10.0.0.0/16 of network front (id1): choose another",
            ),
            (&["fd00::/48"], "subnet fd00::/48 overlaps fd00::/64 of network front (id1): choose another"),
            (
                &["192.0.2.128/25"],
                "subnet 192.0.2.128/25 overlaps this host's route 192.0.2.0/24 on eth0: choose another",
            ),
            (&["172.16.0.0/16", "172.16.9.0/24"], "subnets 172.16.0.0/16 and 172.16.9.0/24 overlap"),
            (&["224.0.0.0/24"], "subnet 224.0.0.0/24: 224.0.0.0/3 has no addresses for hosts"),
        ] {
            assert_eq!(with(subnets), expected);
        }
    }

    #[test]
    fn used_up_pools_say_by_whom() {
        let networks =
            [network("id1", "front", 1, &["10.20.0.0/24"]), network("id2", "back", 2, &["10.20.1.0/25"])];
        assert_eq!(
            said(settled_with(&create("a", &[]), &networks, &["10.20.0.0/23"], &[])),
            "no block of /24 is free in 10.20.0.0/23: 2 subnets of networks are in the way; give one with --subnet, or \
             other pools with `vswitchd cluster update --default-addr-pool`"
        );
        let routed = said(settled_with(&create("a", &[]), &[], &["10.20.0.0/23"], &["10.0.0.0/8"]));
        assert!(
            routed.contains("0 subnets of networks and 1 routes of this host (10.0.0.0/8 on eth0)"),
            "{routed}"
        );
    }

    #[test]
    fn options_are_bounded() {
        let with = |options: NetworkOptions, subnets: &[&str]| {
            settled(&NetworkCreate { options, ..create("a", subnets) }, &[])
        };
        let mtu = |mtu, encrypted| NetworkOptions { mtu: Some(mtu), encrypted, ..NetworkOptions::default() };
        assert!(with(mtu(1200, false), &[]).is_ok() && with(mtu(626, false), &[]).is_ok());
        assert_eq!(said(with(mtu(625, false), &[])), "mtu 625 leaves 575 bytes inside: IPv4 needs 576");
        assert!(said(with(mtu(640, true), &[])).contains("IPv4 needs 576"));
        assert_eq!(
            said(with(mtu(1200, false), &["fd00::/64"])),
            "mtu 1200 leaves 1150 bytes inside: IPv6 needs 1280"
        );
        let labels = |count: usize, key: usize, value: usize| NetworkOptions {
            labels: (0..count).map(|i| (format!("{i:0>key$}"), "x".repeat(value))).collect(),
            ..NetworkOptions::default()
        };
        assert!(with(labels(LABELS_MAX, LABEL_KEY_MAX, LABEL_VALUE_MAX), &[]).is_ok());
        for options in [
            labels(LABELS_MAX + 1, 2, 0),
            labels(1, LABEL_KEY_MAX + 1, 0),
            labels(1, 2, LABEL_VALUE_MAX + 1),
            NetworkOptions { labels: [(String::new(), String::new())].into(), ..NetworkOptions::default() },
        ] {
            assert_eq!(with(options, &[]).unwrap_err().code, Code::BadRequest);
        }
        let many: Vec<String> = (0..=SUBNETS_MAX).map(|i| format!("10.{i}.0.0/16")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(said(settled(&create("a", &many), &[])).contains("17 subnets"));
        assert_eq!(settled(&create("a", &many[1..]), &[]).unwrap().subnets.len(), SUBNETS_MAX);
    }

    #[test]
    fn one_network_is_the_routing_meshs() {
        let ingress = || NetworkOptions { ingress: true, ..NetworkOptions::default() };
        let request = |options| NetworkCreate { options, ..create("a", &[]) };
        let there = NetworkView { options: ingress(), ..network("id1", "ingress", 4096, &[]) };
        assert!(settled(&request(ingress()), &[]).is_ok());
        assert_eq!(
            said(settled(&request(ingress()), &[there])),
            "ingress (id1) is the routing mesh's network already"
        );
        for options in
            [NetworkOptions { attachable: true, ..ingress() }, NetworkOptions { internal: true, ..ingress() }]
        {
            assert_eq!(settled(&request(options), &[]).unwrap_err().code, Code::BadRequest);
        }
    }
}
