//! From a request to a service.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;

use super::super::addresses::capacity;
use super::super::networks::find_network;
use super::super::requests::conflict;
use super::ingress::{ingress, joins_ingress};
use crate::api::{Code, Name, NetworkView, Refusal, ServiceView, Subnet, TASK_NETWORKS_MAX};
use crate::service::{
    EndpointMode, Mode, Port, PortMode, Protocol, ServiceNetwork, ServiceSpec, ServiceUpdate,
};

/// Where ports are taken from if nobody names one: as in Docker.
const AUTOMATIC: RangeInclusive<u16> = 30_000..=32_767;

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around<'a> {
    /// All other services of the cluster that are known here.
    pub(super) services: &'a [ServiceView],
    /// All networks.
    pub(super) networks: &'a [NetworkView],
    /// The ports that the service has already and that nobody named, with the numbers that were chosen.
    pub(super) ports: &'a [Port],
}

/// Whether a new service may have this name.
///
/// # Errors
/// If another has it.
pub(super) fn check_name(name: &Name, services: &[ServiceView]) -> Result<(), Refusal> {
    match services.iter().find(|other| other.spec.name == *name) {
        Some(other) => Err(conflict(format!("there is a service {name} already ({})", other.id))),
        None => Ok(()),
    }
}

/// Whether there may be such a service; it, with networks by their ids, and its ports with their numbers.
///
/// # Errors
/// If something is in the way, which is named.
pub(super) fn settle(spec: &ServiceSpec, around: &Around<'_>) -> Result<(ServiceSpec, Vec<Port>), Refusal> {
    let mut parts = spec.clone().into_parts();
    for network in &mut parts.networks {
        network.network = network_id(&network.network, around.networks)?;
    }
    // Two names may be one network.
    let spec = ServiceSpec::new(parts).map_err(bad)?;
    check_aliases(&spec, around)?;
    check_room(&spec, around.networks)?;
    if spec.needs_ingress() {
        ingress(&spec.name, around.networks)?;
    }
    if joins_ingress(&spec, around.networks) && spec.networks.len() >= TASK_NETWORKS_MAX {
        return Err(Refusal::new(
            Code::BadRequest,
            format!(
                "service {} publishes ports and none of its networks leads out, so its tasks are in the ingress network, \
                 too: it has room for {} of its own",
                spec.name,
                TASK_NETWORKS_MAX - 1
            ),
        ));
    }
    let ports = settle_ports(&spec.ports, around)?;
    Ok((spec, ports))
}

/// Whether nothing else in a network of the service has one of its names there: a name leads to one service.
fn check_aliases(spec: &ServiceSpec, around: &Around<'_>) -> Result<(), Refusal> {
    for own in &spec.networks {
        for other in around.services {
            let Some(there) = other.spec.networks.iter().find(|there| there.network == own.network) else {
                continue;
            };
            let is = |one: &Name, other: &Name| one.as_str().eq_ignore_ascii_case(other.as_str());
            let has = |alias: &&Name| {
                is(alias, &other.spec.name) || there.aliases.iter().any(|other| is(alias, other))
            };
            let own_name = there.aliases.iter().find(|alias| is(alias, &spec.name));
            let Some(name) = own.aliases.iter().find(has).or(own_name) else { continue };
            let known = around.networks.iter().find(|known| known.id == own.network.as_str());
            let network = known.map_or(own.network.as_str(), |known| known.name.as_str());
            return Err(conflict(format!(
                "{name} is a name of service '{}' ({}) in network {network} already",
                other.spec.name, other.id
            )));
        }
    }
    Ok(())
}

/// Whether the subnets of its networks have addresses for all of its tasks, if nobody else had any.
fn check_room(spec: &ServiceSpec, networks: &[NetworkView]) -> Result<(), Refusal> {
    let Mode::Replicated(replicas) = spec.mode else { return Ok(()) };
    let own = spec.networks.iter().filter(|_| !spec.command.is_empty());
    let known = own.filter_map(|own| networks.iter().find(|known| known.id == own.network.as_str()));
    for network in known {
        for v4 in [true, false] {
            let subnets: Vec<&Subnet> =
                network.subnets.iter().filter(|subnet| subnet.subnet.is_ipv4() == v4).collect();
            let room = subnets.iter().try_fold(0_u128, |sum, subnet| {
                Ok::<u128, Refusal>(sum.saturating_add(capacity(subnet).map_err(bad)?))
            })?;
            let virtuals = u128::from(spec.endpoint_mode == EndpointMode::Vip);
            if subnets.is_empty() || u128::from(replicas) <= room.saturating_sub(virtuals) {
                continue;
            }
            let named: Vec<String> = subnets.iter().map(|subnet| subnet.subnet.to_string()).collect();
            return Err(conflict(format!(
                "service {} can't have {replicas} tasks in network {}: besides the gateway's and reserved ones {} has {room} \
                 addresses, and of these {virtuals} is the service's virtual one",
                spec.name,
                network.name,
                named.join(" and ")
            )));
        }
    }
    Ok(())
}

/// The same of changes, in which networks are named by their ids then. A network to leave may be gone.
///
/// # Errors
/// If a network to enter is not there or for something else.
pub(super) fn settle_update(
    update: &ServiceUpdate,
    networks: &[NetworkView],
) -> Result<ServiceUpdate, Refusal> {
    let mut update = update.clone();
    for network in &mut update.network_rm {
        if let Ok(found) = find_network(networks, network) {
            *network = found.id.parse().map_err(bad)?;
        }
    }
    for ServiceNetwork { network, .. } in &mut update.network_add {
        *network = network_id(network, networks)?;
    }
    Ok(update)
}

fn network_id(wanted: &Name, networks: &[NetworkView]) -> Result<Name, Refusal> {
    let network = find_network(networks, wanted)?;
    if network.options.ingress {
        return Err(conflict(format!(
            "a service can't be attached to the ingress network ({}): it is there by publishing ports",
            network.name
        )));
    }
    network.id.parse().map_err(bad)
}

/// Each with a number: that which was asked for, that which it had, or the first that is free.
fn settle_ports(wanted: &[Port], around: &Around<'_>) -> Result<Vec<Port>, Refusal> {
    wanted.iter().try_for_each(|port| check_free(port, around.services))?;
    let others = around.services.iter().flat_map(|service| &service.ports);
    let mut taken: BTreeSet<(Protocol, NonZeroU16)> = others.chain(wanted).filter_map(number).collect();
    let mut settled = Vec::new();
    for port in wanted {
        let had = around.ports.iter().find(|had| Port { published: None, ..**had } == *port);
        let had = had.and_then(|had| had.published).into_iter();
        let mut chosen = had.chain(AUTOMATIC.filter_map(NonZeroU16::new));
        let chosen = || chosen.find(|&published| !taken.contains(&(port.protocol, published)));
        let published = port.published.or_else(chosen).ok_or_else(|| {
            let (first, last) = (AUTOMATIC.start(), AUTOMATIC.end());
            conflict(format!(
                "all ports from {first} to {last} are taken: publish {port} at one of your choice"
            ))
        })?;
        taken.insert((port.protocol, published));
        settled.push(Port { published: Some(published), ..*port });
    }
    Ok(settled)
}

fn number(port: &Port) -> Option<(Protocol, NonZeroU16)> {
    Some((port.protocol, port.published?))
}

/// Whether no other service has a port: one of the mesh is on every node, and those of hosts only where their tasks are.
fn check_free(port: &Port, services: &[ServiceView]) -> Result<(), Refusal> {
    let Some(published) = port.published else { return Ok(()) };
    let clashes = |other: &&Port| other.clashes(port) && [port.mode, other.mode].contains(&PortMode::Ingress);
    let holder = services.iter().find_map(|service| Some((service, service.ports.iter().find(clashes)?)));
    let Some((service, other)) = holder else { return Ok(()) };
    let how = match other.mode {
        PortMode::Ingress => "an ingress port",
        PortMode::Host => "a host-published port",
    };
    Err(conflict(format!(
        "port '{published}' is already in use by service '{}' ({}) as {how}",
        service.spec.name, service.id
    )))
}

fn bad(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::BadRequest, error.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::NetworkOptions;
    use crate::service::SpecParts;

    /// A service of the year 1970, all of whose ports are given.
    pub(in crate::node::services) fn service(id: &str, name: &str, ports: &[Port]) -> ServiceView {
        ServiceView {
            id: id.into(),
            spec: spec(name, &[], ports),
            generation: 1,
            ports: ports.to_vec(),
            networks: Vec::new(),
            wanted: 0,
            running: 0,
            created_ms: 0,
            updated_ms: 0,
            conflicts: Vec::new(),
            unbound: Vec::new(),
        }
    }

    pub(in crate::node::services) fn port(text: &str, mode: PortMode) -> Port {
        Port::parse(text, mode).unwrap().remove(0)
    }

    pub(in crate::node::services) fn spec(name: &str, networks: &[&str], ports: &[Port]) -> ServiceSpec {
        let network = |name: &&str| ServiceNetwork { network: name.parse().unwrap(), aliases: Vec::new() };
        ServiceSpec::new(SpecParts {
            mode: Mode::Global,
            networks: networks.iter().map(network).collect(),
            ports: ports.to_vec(),
            endpoint_mode: EndpointMode::Vip,
            ..SpecParts::new(name.parse().unwrap())
        })
        .unwrap()
    }

    pub(in crate::node::services) fn network(id: &str, name: &str, ingress: bool) -> NetworkView {
        NetworkView {
            id: id.into(),
            name: name.into(),
            vni: 4096,
            subnets: Vec::new(),
            options: NetworkOptions { ingress, ..NetworkOptions::default() },
            created_ms: 0,
            nodes: 0,
            conflicts: Vec::new(),
        }
    }

    fn networks() -> Vec<NetworkView> {
        vec![network("n0", "ingress", true), network("n1", "front", false), network("n2", "back", false)]
    }

    /// The settled spec's networks and the published ports, or why there are none.
    fn settled(spec: &ServiceSpec, services: &[ServiceView], had: &[Port]) -> Result<String, String> {
        settled_in(spec, services, had, &networks())
    }

    fn settled_in(
        spec: &ServiceSpec,
        services: &[ServiceView],
        had: &[Port],
        networks: &[NetworkView],
    ) -> Result<String, String> {
        let (spec, ports) =
            settle(spec, &Around { services, networks, ports: had }).map_err(|refusal| refusal.message)?;
        let networks = spec.networks.iter().map(|network| network.network.to_string());
        let ports = ports.iter().map(|port| format!("{port} {}", port.mode));
        Ok(networks.chain(ports).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn networks_are_named_by_their_ids() {
        assert_eq!(settled(&spec("web", &["back", "n1"], &[]), &[], &[]), Ok("n2, n1".into()));
        for (networks, expected) in [
            (&["side"][..], "there is no network side"),
            (&["front", "n1"], "network n1 is given twice"),
            (&["ingress"], "a service can't be attached to the ingress network (ingress)"),
        ] {
            let refused = settled(&spec("web", networks, &[]), &[], &[]).unwrap_err();
            assert!(refused.contains(expected), "{refused}");
        }
        let update = ServiceUpdate {
            network_rm: vec!["front".parse().unwrap(), "gone".parse().unwrap()],
            network_add: vec![ServiceNetwork { network: "back".parse().unwrap(), aliases: Vec::new() }],
            ..ServiceUpdate::default()
        };
        let update = settle_update(&update, &networks()).unwrap();
        assert_eq!(update.network_rm.iter().map(Name::as_str).collect::<Vec<_>>(), ["n1", "gone"]);
        assert_eq!(update.network_add[0].network.as_str(), "n2");
    }

    #[test]
    fn who_has_a_name_or_a_port_is_named() {
        use PortMode::{Host, Ingress};
        let mesh = service("s1", "web", &[port("8080:80", Ingress)]);
        let host = service("s2", "dns", &[port("53:53/udp", Host)]);
        let services = [mesh, host];
        let refused = |name: &str, text: &str, mode| {
            settled(&spec(name, &[], &[port(text, mode)]), &services, &[]).unwrap_err()
        };
        let taken = check_name(&"web".parse().unwrap(), &services).unwrap_err();
        assert_eq!(taken.message, "there is a service web already (s1)");
        assert_eq!(check_name(&"we".parse().unwrap(), &services), Ok(()));
        for mode in [Ingress, Host] {
            assert_eq!(
                refused("api", "8080:8080", mode),
                "port '8080' is already in use by service 'web' (s1) as an ingress port"
            );
        }
        assert_eq!(
            refused("api", "53:53/udp", Ingress),
            "port '53' is already in use by service 'dns' (s2) as a host-published port"
        );
        for (text, mode) in [("53:53/udp", Host), ("8080:80/udp", Ingress), ("53:53", Ingress)] {
            assert!(settled(&spec("api", &[], &[port(text, mode)]), &services, &[]).is_ok(), "{text} {mode}");
        }
        let one = [service("s3", "one", &[port("198.18.0.1:85:80", Ingress)])];
        let at = |text: &str| settled(&spec("api", &[], &[port(text, Ingress)]), &one, &[]);
        assert_eq!(at("198.18.0.2:85:80"), Ok("198.18.0.2:85:80/tcp ingress".into()));
        assert!(at("85:80").is_err() && at("198.18.0.1:85:81").is_err());
    }

    #[test]
    fn a_name_in_a_network_is_one_services() {
        let with = |name: &str, network: &str, alias: &str| {
            let aliases = vec![alias.parse().unwrap()];
            let networks = vec![ServiceNetwork { network: network.parse().unwrap(), aliases }];
            let parts = SpecParts { networks, ..spec(name, &[], &[]).into_parts() };
            ServiceSpec::new(parts).unwrap()
        };
        let roll = ServiceView { spec: with("roll", "n1", "www"), ..service("s1", "roll", &[]) };
        let said = |spec: &ServiceSpec| settled(spec, std::slice::from_ref(&roll), &[]);
        for (spec, name) in [
            (with("web", "front", "roll"), "roll"),
            (with("web", "n1", "WWW"), "WWW"),
            (with("www", "front", "x"), "www"),
        ] {
            let expected = format!("{name} is a name of service 'roll' (s1) in network front already");
            assert_eq!(said(&spec), Err(expected));
        }
        assert!(said(&with("web", "back", "roll")).is_ok() && said(&with("web", "front", "rolls")).is_ok());
    }

    #[test]
    fn tasks_for_whom_a_subnet_never_has_addresses_are_refused() {
        let subnet = |text: &str| Subnet {
            subnet: text.parse().unwrap(),
            gateway: text.parse::<crate::api::IpPrefix>().unwrap().nth(1).unwrap(),
            ip_range: None,
            reserved: [].into(),
        };
        let small = |subnets: &[&str]| {
            let subnets = subnets.iter().map(|text| subnet(text)).collect();
            [NetworkView { subnets, ..network("n1", "tiny", false) }]
        };
        let of = |replicas, endpoint_mode, command: &[&str], subnets: &[&str]| {
            let parts = SpecParts {
                mode: Mode::Replicated(replicas),
                endpoint_mode,
                command: command.iter().map(|&word| word.to_owned()).collect(),
                ..spec("web", &["tiny"], &[]).into_parts()
            };
            settled_in(&ServiceSpec::new(parts).unwrap(), &[], &[], &small(subnets))
        };
        let (vip, dnsrr, httpd) = (EndpointMode::Vip, EndpointMode::Dnsrr, &["httpd"][..]);
        assert_eq!(
            of(5, vip, httpd, &["10.99.0.0/29"]).unwrap_err(),
            "service web can't have 5 tasks in network tiny: besides the gateway's and reserved ones 10.99.0.0/29 has 5 \
             addresses, and of these 1 is the service's virtual one"
        );
        assert!(of(1, vip, httpd, &["10.99.0.0/30"]).unwrap_err().contains("10.99.0.0/30 has 1 addresses"));
        assert!(
            of(5, vip, httpd, &["10.99.0.0/29", "fd00:9::/120"]).is_err(),
            "each IP version has to have room"
        );
        for fits in [
            of(4, vip, httpd, &["10.99.0.0/29"]),
            of(5, dnsrr, httpd, &["10.99.0.0/29"]),
            of(9, vip, httpd, &["10.99.0.0/29", "10.98.0.0/29"]),
            of(1, vip, &[], &["10.99.0.0/30"]),
        ] {
            assert_eq!(fits, Ok("n1".into()));
        }
    }

    #[test]
    fn ports_that_nobody_named_are_the_first_free_ones_and_stay() {
        use PortMode::{Host, Ingress};
        let taken = service("s1", "web", &[port("30000:80", Ingress), port("30002:80/udp", Host)]);
        let wanted =
            [port("80", Ingress), port("80/udp", Ingress), port("443", Host), port("30001:81", Ingress)];
        let chosen = "30002:80/tcp ingress, 30000:80/udp ingress, 30003:443/tcp host, 30001:81/tcp ingress";
        assert_eq!(settled(&spec("api", &[], &wanted), std::slice::from_ref(&taken), &[]), Ok(chosen.into()));
        let had = [port("31000:80", Ingress), port("30000:443", Host)];
        let kept = settled(&spec("api", &[], &wanted), &[taken], &had).unwrap();
        assert!(kept.starts_with("31000:80/tcp ingress, 30000:80/udp"), "{kept}");
        assert!(kept.contains("30002:443/tcp host"), "somebody else has 30000: {kept}");
        let all: Vec<Port> = AUTOMATIC.map(|number| port(&format!("{number}:80"), Ingress)).collect();
        let holders: Vec<ServiceView> = all
            .chunks(100)
            .enumerate()
            .map(|(at, ports)| service(&at.to_string(), &format!("s{at}"), ports))
            .collect();
        let refused = settled(&spec("api", &[], &[port("80", Ingress)]), &holders, &[]).unwrap_err();
        assert!(refused.contains("all ports from 30000 to 32767 are taken: publish 80/tcp"), "{refused}");
    }

    #[test]
    fn the_mesh_needs_its_network() {
        let without = &networks()[1..];
        let ingress = spec("web", &[], &[port("80", PortMode::Ingress)]);
        let refused = settled_in(&ingress, &[], &[], without).unwrap_err();
        assert!(refused.contains("needs ingress network, but no ingress network is present"), "{refused}");
        let host = spec("web", &["front"], &[port("80", PortMode::Host)]);
        assert_eq!(settled_in(&host, &[], &[], without), Ok("n1, 30000:80/tcp host".into()));
    }
}
