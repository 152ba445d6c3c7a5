//! What networks share that should have it for themselves. See [`NetworkConflict`] for the rule.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::api::{IpPrefix, NetworkConflict, NetworkRef, NetworkView};

/// Of two networks the one with the smaller age holds what both have.
pub(super) fn age(network: &NetworkView) -> (u64, &str) {
    (network.created_ms, &network.id)
}

/// Says of each network what it shares with older ones, in place of what was said of it before.
pub(super) fn mark(networks: &mut [NetworkView]) {
    let mut found: Vec<Vec<NetworkConflict>> = vec![Vec::new(); networks.len()];
    shared(
        networks,
        |network| &network.name,
        |at, holder| {
            found[at].push(NetworkConflict::Name { holder });
        },
    );
    shared(
        networks,
        |network| network.vni,
        |at, holder| {
            found[at].push(NetworkConflict::Vni { holder });
        },
    );
    for ((at, own), (holder, other)) in overlaps(networks) {
        found[at].push(NetworkConflict::Subnet { own, other, holder: reference(&networks[holder]) });
    }
    networks.iter_mut().zip(found).for_each(|(network, found)| network.conflicts = found);
}

fn reference(network: &NetworkView) -> NetworkRef {
    NetworkRef { id: network.id.clone(), name: network.name.clone() }
}

/// Calls `found` for each network that has something of an older one, with the oldest.
fn shared<'a, K: Ord>(
    networks: &'a [NetworkView],
    key: impl Fn(&'a NetworkView) -> K,
    mut found: impl FnMut(usize, NetworkRef),
) {
    let mut holders = BTreeMap::<K, &NetworkView>::new();
    for network in networks {
        let holder = holders.entry(key(network)).or_insert(network);
        if age(network) < age(holder) {
            *holder = network;
        }
    }
    for (at, network) in networks.iter().enumerate() {
        let holder = holders[&key(network)];
        if holder.id != network.id {
            found(at, reference(holder));
        }
    }
}

/// A network by its place, and one of its subnets.
type Place = (usize, IpPrefix);

/// For each subnet that overlaps an older network's, that subnet and the oldest such.
///
/// Prefixes are disjoint, or one is in the other. So if they are sorted by their first address, wide ones first, those
/// that a prefix is in are on a stack.
fn overlaps(networks: &[NetworkView]) -> BTreeMap<Place, Place> {
    let mut all: Vec<Place> = Vec::new();
    for (at, network) in networks.iter().enumerate() {
        all.extend(network.subnets.iter().map(|subnet| (at, subnet.subnet)));
    }
    all.sort_unstable_by_key(|&(at, subnet)| (subnet.first(), subnet.length(), at));
    let mut around: Vec<Place> = Vec::new();
    let mut holders = BTreeMap::<Place, Place>::new();
    for place in all {
        while around.last().is_some_and(|outer| !outer.1.covers(place.1)) {
            around.pop();
        }
        for &outer in &around {
            let (old, young) = if age(&networks[outer.0]) < age(&networks[place.0]) {
                (outer, place)
            } else {
                (place, outer)
            };
            if old.0 != young.0 {
                let holder = holders.entry(young).or_insert(old);
                if age(&networks[old.0]) < age(&networks[holder.0]) {
                    *holder = old;
                }
            }
        }
        around.push(place);
    }
    holders
}

/// The networks that have addresses of `prefix`, each with its subnet that has them, in the order of their addresses.
pub(super) fn within(networks: &[NetworkView], prefix: IpPrefix) -> Vec<(&NetworkView, IpPrefix)> {
    let pairs = networks.iter().flat_map(|network| {
        let subnets = network.subnets.iter().map(|subnet| subnet.subnet);
        subnets.map(move |subnet| (network, subnet))
    });
    let mut pairs: Vec<_> = pairs.filter(|(_, subnet)| subnet.overlaps(prefix)).collect();
    let order = |subnet: IpPrefix| -> (IpAddr, u8) { (subnet.first(), subnet.length()) };
    pairs.sort_by_key(|&(_, subnet)| order(subnet));
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::create::tests::network;
    use super::*;

    fn marked(mut networks: Vec<NetworkView>) -> BTreeMap<String, Vec<String>> {
        mark(&mut networks);
        let said = |network: &NetworkView| network.conflicts.iter().map(ToString::to_string).collect();
        networks.iter().map(|network| (network.id.clone(), said(network))).collect()
    }

    #[test]
    fn networks_that_share_nothing_have_no_conflict() {
        let networks = vec![
            network("a", "front", 1, &["10.0.0.0/24"]),
            network("b", "back", 2, &["10.0.1.0/24", "fd00::/64"]),
        ];
        assert!(marked(networks).values().all(Vec::is_empty));
    }

    #[test]
    fn the_older_holds_what_both_have_on_every_node() {
        let young = NetworkView { created_ms: 9, ..network("a", "front", 1, &["10.0.0.0/24"]) };
        let old = NetworkView { created_ms: 8, ..network("b", "front", 1, &["10.0.0.0/24"]) };
        for networks in [vec![young.clone(), old.clone()], vec![old, young]] {
            let said = marked(networks);
            assert_eq!(said["b"], [""; 0]);
            assert_eq!(
                said["a"],
                [
                    "name means b",
                    "VNI is that of front (b): carries nothing",
                    "10.0.0.0/24 overlaps 10.0.0.0/24 of front (b)"
                ]
            );
        }
    }

    #[test]
    fn of_equally_old_ones_the_smaller_id_holds() {
        let said =
            marked(vec![network("b", "x", 1, &[]), network("c", "x", 2, &[]), network("a", "x", 3, &[])]);
        assert_eq!([said["b"].as_slice(), &said["c"]], [["name means a"], ["name means a"]]);
        assert!(said["a"].is_empty());
    }

    #[test]
    fn overlaps_are_found_whichever_is_the_wider_one() {
        let wide =
            |created_ms| NetworkView { created_ms, ..network("w", "wide", 1, &["10.0.0.0/8", "fd00::/8"]) };
        let old = marked(vec![wide(1), network("n", "narrow", 2, &["10.9.0.0/16"])]);
        // Created at 0.
        assert_eq!(old["w"], ["10.0.0.0/8 overlaps 10.9.0.0/16 of narrow (n)"]);
        let several = vec![
            wide(0),
            NetworkView { created_ms: 3, ..network("m", "middle", 2, &["10.8.0.0/13"]) },
            NetworkView { created_ms: 2, ..network("n", "narrow", 3, &["10.9.0.0/16", "fd01::/64"]) },
            NetworkView { created_ms: 4, ..network("o", "outside", 4, &["11.0.0.0/8"]) },
        ];
        let said = marked(several);
        assert_eq!(said["m"], ["10.8.0.0/13 overlaps 10.0.0.0/8 of wide (w)"], "the oldest is named");
        assert_eq!(
            said["n"],
            ["10.9.0.0/16 overlaps 10.0.0.0/8 of wide (w)", "fd01::/64 overlaps fd00::/8 of wide (w)"]
        );
        assert!(said["w"].is_empty() && said["o"].is_empty());
    }
}
