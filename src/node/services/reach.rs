//! Where clients reach services, in each of their networks, and by which names.
//!
//! Two sides of a partition may have made a service of one name each, or given one address to two. Then the older holds
//! it as in [`super::conflict`], so that all nodes that know both do the same. The other goes on by its id as its name, at
//! its own addresses: who is connected to it stays so. One that has no address left is reached at its tasks'.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::records::ServiceRecord;
use crate::overlay::{NetworkId, ServiceView};

/// Every service, once for each of its networks.
pub(in crate::node) fn in_networks(mut services: Vec<(String, ServiceRecord)>) -> Vec<ServiceView> {
    services.sort_by(|(id, one), (other_id, other)| (one.created_ms, id).cmp(&(other.created_ms, other_id)));
    let (mut names, mut taken) = (BTreeSet::new(), BTreeSet::new());
    let mut views = Vec::new();
    for (id, record) in services {
        let holds_name = names.insert(record.spec.name.to_string());
        for network in &record.spec.networks {
            let wanted = network.network.as_str();
            let vip = record.vips.iter().find(|vip| vip.network == wanted);
            let addresses = vip.into_iter().flat_map(|vip| &vip.addresses).copied();
            let vips: Vec<IpAddr> =
                addresses.filter(|&address| taken.insert((wanted.to_owned(), address))).collect();
            let aliases = network.aliases.iter().filter(|_| holds_name);
            views.push(ServiceView {
                id: id.clone(),
                name: if holds_name { record.spec.name.to_string() } else { id.clone() },
                network: NetworkId(wanted.into()),
                aliases: aliases.map(ToString::to_string).collect(),
                vips,
                idle: record.spec.idle_limits(),
            });
        }
    }
    views
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::records::Vip;
    use crate::service::{Mode, ServiceNetwork, ServiceSpec, SpecParts};

    fn record(name: &str, created_ms: u64, networks: &[(&str, &[&str])]) -> ServiceRecord {
        let network = |&(network, _): &(&str, &[&str])| ServiceNetwork {
            network: network.parse().unwrap(),
            aliases: vec!["www".parse().unwrap()],
        };
        let vip = |&(network, addresses): &(&str, &[&str])| Vip {
            network: network.into(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        };
        let parts = SpecParts {
            mode: Mode::Global,
            networks: networks.iter().map(network).collect(),
            idle_timeout_ms: 5_000,
            ..SpecParts::new(name.parse().unwrap())
        };
        let vips = networks.iter().filter(|(_, addresses)| !addresses.is_empty()).map(vip).collect();
        let spec = ServiceSpec::new(parts).unwrap();
        ServiceRecord { spec, generation: 1, created_ms, updated_ms: created_ms, vips, ports: Vec::new() }
    }

    fn told(views: &[ServiceView]) -> Vec<String> {
        let one = |view: &ServiceView| {
            let vips: Vec<String> = view.vips.iter().map(ToString::to_string).collect();
            format!(
                "{} {} in {}: {} {}",
                view.id,
                view.name,
                view.network,
                vips.join(","),
                view.aliases.join(",")
            )
        };
        views.iter().map(one).collect()
    }

    #[test]
    fn a_service_is_in_each_of_its_networks() {
        let networks = [("n1", &["10.0.9.5", "fd00:9::5"][..]), ("n2", &[])];
        let views = in_networks(vec![("a".into(), record("web", 1, &networks))]);
        assert_eq!(told(&views), ["a web in n1: 10.0.9.5,fd00:9::5 www", "a web in n2:  www"]);
        assert_eq!(views[0].idle.tcp.as_secs(), 5);
    }

    #[test]
    fn the_older_has_the_name_and_the_address_on_every_node() {
        let all = [
            ("b".to_owned(), record("web", 1, &[("n1", &["10.0.9.5", "fd00:9::5"])])),
            ("a".to_owned(), record("web", 2, &[("n1", &["10.0.9.5", "fd00:9::6"])])),
            ("c".to_owned(), record("db", 2, &[("n1", &["10.0.9.5"]), ("n2", &["10.0.9.5"])])),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let views = in_networks(order.map(|at: usize| all[at].clone()).into());
            assert_eq!(
                told(&views),
                [
                    "b web in n1: 10.0.9.5,fd00:9::5 www",
                    "a a in n1: fd00:9::6 ",
                    "c db in n1:  www",
                    "c db in n2: 10.0.9.5 www"
                ]
            );
        }
    }
}
