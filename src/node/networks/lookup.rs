//! Which network is meant, and what may be done with it.

use super::super::requests::{conflict, find};
use crate::api::{Name, NetworkConflict, NetworkDetail, NetworkMember, NetworkPeer, NetworkView, Refusal};

/// Users that a refusal names at most.
const NAMED_MAX: usize = 4;

/// The network that `wanted` names: an id, a name, or the beginning of an id. A name that several have means the oldest.
///
/// # Errors
/// If it names none, or several.
pub(in crate::node) fn find_network<'a>(
    networks: &'a [NetworkView],
    wanted: &Name,
) -> Result<&'a NetworkView, Refusal> {
    let gives_way = |network: &NetworkView| {
        network.name == wanted.as_str()
            && network.conflicts.iter().any(|conflict| matches!(conflict, NetworkConflict::Name { .. }))
    };
    let meant: Vec<&NetworkView> = networks.iter().filter(|network| !gives_way(network)).collect();
    find("network", wanted, &meant, |network| (network.id.clone(), &network.name)).copied()
}

/// The same of a network that is to be removed: nobody loses one for a name that another has, too.
///
/// # Errors
/// If it names none, or several.
pub(super) fn find_one<'a>(networks: &'a [NetworkView], wanted: &Name) -> Result<&'a NetworkView, Refusal> {
    find("network", wanted, networks, |network| (network.id.clone(), &network.name))
}

/// Whether an endpoint may be attached to it.
///
/// # Errors
/// If it is the routing mesh's.
pub(in crate::node) fn may_attach(network: &NetworkView) -> Result<(), Refusal> {
    if network.options.ingress {
        return Err(conflict(format!("network {} is the routing mesh's: attach to another", network.name)));
    }
    Ok(())
}

/// Whether it may be removed.
///
/// # Errors
/// If it has endpoints: they and their nodes are named.
pub(super) fn may_remove(network: &NetworkDetail, own: &str) -> Result<(), Refusal> {
    let named = |member: &NetworkMember| format!("{} on {}", member.name, member.node);
    let endpoints = network.members.iter().map(named).collect::<Vec<_>>();
    // Whose endpoints have not been heard of, but that they have some.
    let unnamed =
        |peer: &&NetworkPeer| peer.id != own && network.members.iter().all(|member| member.node != peer.name);
    let others = network.peers.iter().filter(unnamed).map(|peer| peer.name.clone()).collect::<Vec<_>>();
    let known = (!endpoints.is_empty()).then(|| some(&endpoints));
    let there = (!others.is_empty()).then(|| format!("endpoints of nodes {}", some(&others)));
    let users: Vec<String> = known.into_iter().chain(there).collect();
    if users.is_empty() {
        return Ok(());
    }
    let name = &network.network.name;
    Err(conflict(format!(
        "network {name} is in use by {}: `vswitchd stop` tasks there, `detach` others",
        users.join(" and ")
    )))
}

fn some(names: &[String]) -> String {
    let named = names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(NAMED_MAX) {
        None | Some(0) => named,
        Some(more) => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::conflict::mark;
    use super::super::create::tests::network;
    use super::*;
    use crate::api::Code;
    use crate::switch::wire::MacAddr;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_found_by_id_name_and_beginning_of_an_id() {
        let networks = [network("id1", "front", 4096, &[]), network("id2", "id1", 4097, &[])];
        let found = |wanted: &str| find_network(&networks, &name(wanted)).map(|network| network.vni);
        assert_eq!([found("front"), found("id1"), found("id2")], [Ok(4096), Ok(4096), Ok(4097)]);
        assert_eq!(found("side").unwrap_err().code, Code::NotFound);
        assert_eq!(found("id").unwrap_err().code, Code::Conflict);
    }

    #[test]
    fn a_name_that_two_have_means_the_older_but_removes_neither() {
        let mut networks = [
            NetworkView { created_ms: 9, ..network("aa", "front", 4096, &[]) },
            NetworkView { created_ms: 8, ..network("bb", "front", 4097, &[]) },
        ];
        mark(&mut networks);
        let found = |wanted: &str| find_network(&networks, &name(wanted)).unwrap().vni;
        assert_eq!([found("front"), found("aa"), found("a"), found("bb")], [4097, 4096, 4096, 4097]);
        let refused = find_one(&networks, &name("front")).unwrap_err();
        assert_eq!(refused.message, "front is not one network but 2: give its id (aa, bb)");
        assert_eq!(find_one(&networks, &name("aa")).unwrap().vni, 4096);
    }

    #[test]
    fn users_are_named() {
        let member = |&(name, node): &(&str, &str)| NetworkMember {
            id: name.into(),
            name: name.into(),
            aliases: Vec::new(),
            node: format!("node-{node}"),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            addresses: Vec::new(),
        };
        let peer = |id: &str| NetworkPeer { id: id.into(), name: format!("node-{id}"), address: None };
        let detail = |members: &[(&str, &str)], peers: &[&str]| NetworkDetail {
            network: network("id1", "front", 4096, &[]),
            peers: peers.iter().map(|id| peer(id)).collect(),
            endpoints: Vec::new(),
            members: members.iter().map(member).collect(),
            addresses: Vec::new(),
        };
        let said = |detail: &NetworkDetail| may_remove(detail, "0").unwrap_err().message;
        assert_eq!(may_remove(&detail(&[], &[]), "0"), Ok(()));
        assert_eq!(
            said(&detail(&[("web", "0"), ("db", "2")], &["0", "1", "2"])),
            "network front is in use by web on node-0, db on node-2 and endpoints of nodes node-1: `vswitchd stop` tasks \
             there, `detach` others"
        );
        let many = said(&detail(&[], &["1", "2", "3", "4", "5", "6"]));
        assert!(many.contains("nodes node-1, node-2, node-3, node-4 and 2 more:"), "{many}");
        // Its presence is a moment older than what it has.
        assert_eq!(may_remove(&detail(&[], &["0"]), "0"), Ok(()));
    }

    #[test]
    fn nobody_is_attached_to_the_routing_mesh() {
        let mut ingress = network("id1", "ingress", 4096, &[]);
        assert_eq!(may_attach(&ingress), Ok(()));
        ingress.options.ingress = true;
        assert_eq!(may_attach(&ingress).unwrap_err().code, Code::Conflict);
    }
}
