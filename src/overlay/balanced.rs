//! Services in a network that is carried: from what gossip says of them to what the switch balances.
//!
//! - A service is one station there, at all of its virtual addresses. Its MAC address follows from the first as an
//!   endpoint's does; clients hear it from the switch of their own host, so no two nodes have to agree on it.
//! - Its tasks are the endpoints that say they answer for it, as they are announced: those of other nodes go with their
//!   nodes. What one endpoint says wrongly costs nobody else anything: of two with one address the first has it.
//! - Virtual addresses are nobody else's, and what is not in a subnet of the network is no task's.
//! - Of more than [`TASKS_MAX`] tasks the live ones count first, then those with the smaller MAC addresses, on every
//!   node the same; the others get nothing, and have their connections reset.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::plan::Announcement;
use super::view::{Backend, BackendState, NetworkId, ServiceView};
use crate::api::Subnet;
use crate::gateway::{Addresses, mac_of};
use crate::switch::balance::{ServiceSpec, TASKS_MAX, Task, TaskState};
use crate::switch::wire::MacAddr;

/// A service that the switch balances in one network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balanced {
    /// The service's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What the switch is told.
    pub spec: ServiceSpec,
    /// Whether it has more tasks than the switch takes.
    pub crowded: bool,
}

/// The services of a network that have virtual addresses, by MAC address, without tasks.
pub(super) fn services(
    all: &[ServiceView],
    network: &NetworkId,
    gateway: Option<&Addresses>,
) -> BTreeMap<MacAddr, Balanced> {
    let mut services = BTreeMap::new();
    for service in all.iter().filter(|service| service.network == *network) {
        let is_free = |address: &&IpAddr| !gateway.is_some_and(|gateway| gateway.is_at(**address));
        let addresses: Vec<IpAddr> = service.vips.iter().filter(is_free).copied().collect();
        let is_taken = |mac: &MacAddr| {
            services.contains_key(mac) || gateway.is_some_and(|gateway| gateway.mac() == *mac)
        };
        let Some(mac) = macs(&addresses).find(|mac| !is_taken(mac)) else { continue };
        let spec = ServiceSpec { mac, addresses, tasks: Vec::new(), idle: service.idle };
        let (id, name) = (service.id.clone(), service.name.clone());
        services.insert(mac, Balanced { id, name, spec, crowded: false });
    }
    services
}

/// The MAC addresses that a service at these addresses may have, the usual one first. Two may have that in common, since
/// it says only the end of an IPv6 address: the others differ in their first byte, and are as local (IEEE 802, clause
/// 8.4.4.2).
fn macs(addresses: &[IpAddr]) -> impl Iterator<Item = MacAddr> + use<> {
    let first = addresses.iter().find(|address| address.is_ipv4()).or_else(|| addresses.first()).copied();
    let usual = first.map(mac_of);
    (0..=u8::MAX / 4).filter_map(move |number| {
        let MacAddr([first, rest @ ..]) = usual?;
        let [a, b, c, d, e] = rest;
        Some(MacAddr([first.wrapping_add(4 * number), a, b, c, d, e]))
    })
}

/// Gives the services of a network their tasks: those of its announced endpoints that have a part in one. What endpoints
/// say of virtual addresses is not announced.
pub(super) fn fill(
    services: &mut BTreeMap<MacAddr, Balanced>,
    announced: &mut BTreeMap<MacAddr, Announcement>,
    subnets: &[Subnet],
    backends: Vec<(MacAddr, &Backend)>,
) {
    let owned: BTreeSet<IpAddr> =
        services.values().flat_map(|service| &service.spec.addresses).copied().collect();
    announced.values_mut().for_each(|own| own.addresses.retain(|address| !owned.contains(address)));
    let of: HashMap<String, MacAddr> =
        services.iter().map(|(&mac, service)| (service.id.clone(), mac)).collect();
    let backends: BTreeMap<MacAddr, &Backend> = backends.into_iter().collect();
    let mut taken = BTreeSet::new();
    for (mac, backend) in backends {
        let service = of.get(&backend.service).and_then(|of| services.get_mut(of));
        let (Some(service), Some(own)) = (service, announced.get(&mac)) else { continue };
        let is_there = |address: &IpAddr| subnets.iter().any(|subnet| subnet.subnet.contains(*address));
        let addresses = own.addresses.iter().copied().filter(is_there);
        let addresses: Vec<IpAddr> = addresses.filter(|&address| taken.insert(address)).collect();
        service.spec.tasks.extend(task(mac, &addresses, backend.state));
    }
    services.values_mut().for_each(trim);
}

/// None without an address.
fn task(mac: MacAddr, addresses: &[IpAddr], state: BackendState) -> Option<Task> {
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None::<Ipv4Addr>,
    };
    let v6 = |address: &IpAddr| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None::<Ipv6Addr>,
    };
    let (ipv4, ipv6) = (addresses.iter().find_map(v4), addresses.iter().find_map(v6));
    let state = match state {
        BackendState::Live => TaskState::Live,
        BackendState::Draining => TaskState::Draining,
    };
    (ipv4.is_some() || ipv6.is_some()).then_some(Task { mac, ipv4, ipv6, state })
}

/// Leaves as many tasks as the switch takes, in the order of their MAC addresses.
fn trim(service: &mut Balanced) {
    let tasks = &mut service.spec.tasks;
    service.crowded = tasks.len() > TASKS_MAX;
    if service.crowded {
        tasks.sort_by_key(|task| (task.state == TaskState::Draining, task.mac));
        tasks.truncate(TASKS_MAX);
    }
    tasks.sort_by_key(|task| task.mac);
}

#[cfg(test)]
mod tests {
    use super::super::plan::At;
    use super::*;
    use crate::switch::balance::IdleLimits;

    const VIP: [u8; 4] = [10, 0, 9, 100];

    fn view(id: &str, network: &str, vips: &[&str]) -> ServiceView {
        ServiceView {
            id: id.into(),
            name: format!("name-{id}"),
            network: NetworkId(network.into()),
            aliases: Vec::new(),
            vips: vips.iter().map(|vip| vip.parse().unwrap()).collect(),
            idle: IdleLimits::default(),
        }
    }

    fn subnets() -> Vec<Subnet> {
        let subnet = |text: &str, gateway: &str| Subnet {
            subnet: text.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            ip_range: None,
            reserved: BTreeMap::new(),
        };
        vec![subnet("10.0.9.0/24", "10.0.9.1"), subnet("fd00:9::/64", "fd00:9::1")]
    }

    fn mac(number: u16) -> MacAddr {
        let [a, b] = number.to_be_bytes();
        MacAddr([2, 0, 0, 0, a, b])
    }

    fn announcement(addresses: &[&str]) -> Announcement {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Announcement { at: At::Here("x".into()), addresses }
    }

    fn backend(service: &str, state: BackendState) -> Backend {
        Backend { service: service.into(), state }
    }

    #[test]
    fn services_are_those_of_the_network_with_addresses() {
        let gateway = Addresses::new(&["10.0.9.1".parse().unwrap()]).unwrap();
        let all = [
            view("a", "n", &["fd00:9::5", "10.0.9.100"]),
            view("b", "other", &["10.0.9.101"]),
            view("c", "n", &[]),
            view("d", "n", &["10.0.9.1"]),
        ];
        let services = services(&all, &NetworkId("n".into()), Some(&gateway));
        let [a] = services.values().collect::<Vec<_>>()[..] else { panic!("{services:?}") };
        assert_eq!((a.id.as_str(), a.spec.mac), ("a", mac_of(VIP.into())), "as its IPv4 address has it");
        assert_eq!(a.spec.addresses, all[0].vips);
    }

    #[test]
    fn two_that_would_have_one_mac_address_have_two() {
        let all = [view("a", "n", &["fd00:1::5"]), view("b", "n", &["fd00:2::5"])];
        let services = services(&all, &NetworkId("n".into()), None);
        let macs: Vec<_> = services.keys().map(ToString::to_string).collect();
        assert_eq!(macs, ["02:42:00:00:00:05", "06:42:00:00:00:05"]);
        assert!(services.iter().all(|(mac, service)| service.spec.mac == *mac));
    }

    #[test]
    fn tasks_are_announced_endpoints_with_addresses_of_their_own() {
        let mut services = services(&[view("a", "n", &["10.0.9.100"])], &NetworkId("n".into()), None);
        let mut announced = BTreeMap::from([
            (mac(1), announcement(&["10.0.9.2", "fd00:9::2"])),
            (mac(2), announcement(&["10.0.9.3"])),
            (mac(3), announcement(&["10.0.9.2"])),
            (mac(4), announcement(&["10.0.9.100"])),
            (mac(5), announcement(&["192.0.2.9", "fd00:9::3"])),
            (mac(6), announcement(&["10.0.9.7"])),
        ]);
        let [live, draining] = [BackendState::Live, BackendState::Draining].map(|state| backend("a", state));
        let other = backend("b", BackendState::Live);
        let mut backends: Vec<_> = [5, 4, 3, 1, 9].map(|number| (mac(number), &live)).into();
        backends.extend([(mac(2), &draining), (mac(6), &other)]);
        fill(&mut services, &mut announced, &subnets(), backends);
        let task = |number, ipv4: Option<&str>, ipv6: Option<&str>, state| Task {
            mac: mac(number),
            ipv4: ipv4.map(|text| text.parse().unwrap()),
            ipv6: ipv6.map(|text| text.parse().unwrap()),
            state,
        };
        let wanted = [
            task(1, Some("10.0.9.2"), Some("fd00:9::2"), TaskState::Live),
            task(2, Some("10.0.9.3"), None, TaskState::Draining),
            task(5, None, Some("fd00:9::3"), TaskState::Live),
        ];
        let service = services.values().next().unwrap();
        assert_eq!((service.spec.tasks.as_slice(), service.crowded), (&wanted[..], false));
        assert!(announced[&mac(4)].addresses.is_empty(), "it is the service's");
        assert_eq!(announced[&mac(3)].addresses.len(), 1, "that two say it is their own matter");
    }

    #[test]
    fn of_too_many_tasks_the_live_ones_count_first() {
        let mut services = services(&[view("a", "n", &["10.0.9.100"])], &NetworkId("n".into()), None);
        let count = u16::try_from(TASKS_MAX).unwrap() + 2;
        let mut announced = BTreeMap::new();
        for number in 0..count {
            announced.insert(mac(number), announcement(&[&format!("fd00:9::{number:x}")]));
        }
        let [live, draining] = [BackendState::Live, BackendState::Draining].map(|state| backend("a", state));
        let of = |number: u16| if number < 5 { &draining } else { &live };
        fill(
            &mut services,
            &mut announced,
            &subnets(),
            (0..count).map(|number| (mac(number), of(number))).collect(),
        );
        let service = services.values().next().unwrap();
        let macs: Vec<MacAddr> = service.spec.tasks.iter().map(|task| task.mac).collect();
        let wanted: Vec<MacAddr> = (0..3).chain(5..count).map(mac).collect();
        assert!(service.crowded && macs == wanted && macs.len() == TASKS_MAX);
    }
}
