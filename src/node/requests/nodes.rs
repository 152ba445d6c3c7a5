//! The members of the cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::{PeerFacts, conflict, find};
use crate::api::{Code, Liveness, Name, NodeFilter, NodeStatus, NodeUpdate, NodeView, Refusal};
use crate::crypto::identity::{NodeId, Role};
use crate::service::spec::check_labels;

/// What stands for the node that is asked.
const SELF: &str = "self";

/// A member as managers have written it down, and what it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Who.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The role that it is to have.
    pub role: Role,
    /// Milliseconds since 1970 when it was let in.
    pub joined_ms: u64,
    /// What managers have written on it.
    pub labels: BTreeMap<String, String>,
    /// Its own record, if it has published one that is still there.
    pub said: Option<Said>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its version.
    pub version: String,
    /// Where it lets nodes in, if it is a manager.
    pub door: Option<SocketAddr>,
    /// Where data for it goes.
    pub data: SocketAddr,
    /// Whether it runs tasks of services.
    pub tasks: bool,
}

/// The members that are wanted, by name and then by id. `own` is the node that is asked, which is always there;
/// `address` is where its gossip goes.
#[must_use]
pub(crate) fn list_nodes(
    members: &[Member],
    peers: &[PeerFacts],
    (own, address): (NodeId, SocketAddr),
    filter: &NodeFilter,
) -> Vec<NodeView> {
    let view = |member: &Member| {
        let peer = peers.iter().find(|peer| peer.id == member.id);
        let own = member.id == own;
        let ready = own || peer.is_some_and(|peer| peer.liveness == Liveness::Alive);
        NodeView {
            id: member.id.to_string(),
            name: member.name.clone(),
            own,
            role: member.role,
            status: if ready { NodeStatus::Ready } else { NodeStatus::Down },
            joined_ms: member.joined_ms,
            address: if own { Some(address) } else { peer.map(|peer| peer.address) },
            door: member.said.as_ref().and_then(|said| said.door),
            data: member.said.as_ref().map(|said| said.data),
            version: member.said.as_ref().map(|said| said.version.clone()),
            tasks: member.said.as_ref().is_some_and(|said| said.tasks),
            labels: member.labels.clone(),
            unbound: Vec::new(),
        }
    };
    let mut nodes: Vec<_> = members.iter().map(view).filter(|node| filter.admits(node)).collect();
    nodes.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    nodes
}

/// The member that `wanted` names: `self`, an id, a name, or the beginning of an id.
///
/// # Errors
/// If it names none, or several.
pub(crate) fn find_node<'a>(
    members: &'a [Member],
    own: NodeId,
    wanted: &Name,
) -> Result<&'a Member, Refusal> {
    let own = members.iter().find(|member| member.id == own && wanted.as_str() == SELF);
    own.map_or_else(|| find("node", wanted, members, |member| (member.id.to_string(), &member.name)), Ok)
}

/// What only managers can do.
///
/// # Errors
/// If `own` is a worker: `managers` are where to ask.
pub(crate) fn must_be_manager(own: Role, managers: &[SocketAddr]) -> Result<(), Refusal> {
    if own == Role::Manager {
        return Ok(());
    }
    let managers: Vec<_> = managers.iter().map(ToString::to_string).collect();
    Err(conflict(format!("this node is a worker: ask on a manager ({})", managers.join(", "))))
}

/// What is written on a node after a change.
///
/// # Errors
/// If a label is to be taken off that it has not, or can't be one.
pub(crate) fn relabel(node: &NodeView, update: &NodeUpdate) -> Result<BTreeMap<String, String>, Refusal> {
    let mut labels = node.labels.clone();
    for key in &update.label_rm {
        let gone = labels.remove(key);
        gone.ok_or_else(|| conflict(format!("node {} has no label {key}", node.name)))?;
    }
    labels.extend(update.label_add.iter().cloned());
    check_labels(&labels).map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
    Ok(labels)
}

/// Whether a node may be removed from its cluster.
///
/// # Errors
/// If it is the node that is asked, a manager, or there and not to be removed by force.
pub(crate) fn may_remove(node: &NodeView, force: bool) -> Result<(), Refusal> {
    let name = &node.name;
    match (node.own, node.role, node.status) {
        (true, ..) => Err(conflict("this is the node that is asked: it leaves by `vswitchd leave`")),
        (_, Role::Manager, _) if !force => {
            let remedy = format!("`vswitchd node demote {name}` first, or remove it with --force");
            Err(conflict(format!("node {name} is a manager: {remedy}")))
        }
        (.., NodeStatus::Ready) if !force => {
            let remedy = "`vswitchd leave` on it first, or remove it with --force";
            Err(conflict(format!("node {name} is not down: {remedy}")))
        }
        _ => Ok(()),
    }
}

/// Whether a manager may be made a worker.
///
/// # Errors
/// If no other manager would remain that is there.
pub(crate) fn may_demote(node: &NodeView, nodes: &[NodeView]) -> Result<(), Refusal> {
    let remains = |other: &NodeView| {
        other.id != node.id && other.role == Role::Manager && other.status == NodeStatus::Ready
    };
    if nodes.iter().any(remains) {
        return Ok(());
    }
    Err(conflict(format!(
        "no manager would be there but {}: nobody could let nodes in; promote another node first",
        node.name
    )))
}

#[cfg(test)]
mod tests {
    use super::super::peers::tests::peer;
    use super::*;

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn address(number: u8) -> SocketAddr {
        ([192, 0, 2, number], 7946).into()
    }

    fn member(number: u8, name: &str, role: Role) -> Member {
        let said = Said {
            version: "0.1.0".into(),
            door: None,
            data: ([192, 0, 2, number], 4789).into(),
            tasks: true,
        };
        let labels = [("zone".to_owned(), "a".to_owned())].into();
        Member { id: id(number), name: name.into(), role, joined_ms: 1, labels, said: Some(said) }
    }

    fn cluster() -> Vec<NodeView> {
        let mut members = [
            member(1, "c", Role::Manager),
            member(2, "b", Role::Worker),
            member(3, "a", Role::Manager),
            member(4, "d", Role::Worker),
        ];
        members[3].said = None;
        let peers = [peer(2, Liveness::Alive), peer(3, Liveness::Dead), peer(9, Liveness::Alive)];
        list_nodes(&members, &peers, (id(1), address(1)), &NodeFilter::default())
    }

    #[test]
    fn members_are_listed_and_nobody_else() {
        let nodes = cluster();
        let shown = |node: &NodeView| (node.name.clone(), node.own, node.status, node.address);
        assert_eq!(
            nodes.iter().map(shown).collect::<Vec<_>>(),
            [
                ("a".into(), false, NodeStatus::Down, Some(address(3))),
                ("b".into(), false, NodeStatus::Ready, Some(address(2))),
                ("c".into(), true, NodeStatus::Ready, Some(address(1))),
                ("d".into(), false, NodeStatus::Down, None),
            ]
        );
        assert_eq!((nodes[3].version.clone(), nodes[3].data), (None, None));
    }

    #[test]
    fn the_filter_is_applied() {
        let filter = NodeFilter(vec!["role=worker".parse().unwrap()]);
        let members = [member(1, "a", Role::Manager), member(2, "b", Role::Worker)];
        let nodes = list_nodes(&members, &[], (id(1), address(1)), &filter);
        assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn self_is_whoever_is_asked() {
        let members = [member(1, "one", Role::Worker), member(2, "self", Role::Worker)];
        let found = |own, wanted: &str| find_node(&members, id(own), &wanted.parse().unwrap()).unwrap().id;
        assert_eq!([found(1, "self"), found(1, "one"), found(2, "self")], [id(1), id(1), id(2)]);
        assert_eq!(found(1, &id(2).to_string()[..20]), id(2));
    }

    #[test]
    fn labels_are_taken_off_and_put_on() {
        let node = &cluster()[0];
        let update = |rm: &[&str], add: &[(&str, &str)]| {
            relabel(
                node,
                &NodeUpdate {
                    label_rm: rm.iter().map(|&key| key.into()).collect(),
                    label_add: add.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
                },
            )
        };
        let shown = |labels: BTreeMap<String, String>| {
            labels.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        };
        assert_eq!(update(&[], &[("disk", "ssd"), ("zone", "b")]).map(shown), Ok("disk=ssd,zone=b".into()));
        assert_eq!(update(&["zone"], &[("a", "")]).map(shown), Ok("a=".into()));
        assert_eq!(update(&["disk"], &[]).unwrap_err().message, "node a has no label disk");
        assert_eq!(update(&[], &[("", "x")]).unwrap_err().code, Code::BadRequest);
    }

    #[test]
    fn removing_asks_for_force_where_it_hurts() {
        let [a, b, c, d] = <[NodeView; 4]>::try_from(cluster()).unwrap();
        let refused = |node: &NodeView, force| may_remove(node, force).err().map(|refusal| refusal.message);
        assert!(refused(&c, true).unwrap().contains("vswitchd leave"));
        assert!(refused(&a, false).unwrap().contains("node demote a"));
        assert!(refused(&b, false).unwrap().contains("not down"));
        assert_eq!([refused(&d, false), refused(&a, true), refused(&b, true)], [None, None, None]);
    }

    #[test]
    fn the_last_manager_stays_one() {
        let mut nodes = cluster();
        assert!(may_demote(&nodes[2], &nodes).is_err(), "the other one is down");
        assert!(may_demote(&nodes[0], &nodes).is_ok());
        nodes[0].status = NodeStatus::Ready;
        assert!(may_demote(&nodes[2], &nodes).is_ok());
        assert!(must_be_manager(Role::Manager, &[]).is_ok());
        let refusal = must_be_manager(Role::Worker, &[address(1)]).unwrap_err();
        assert!(refusal.message.ends_with("(192.0.2.1:7946)"), "{refusal}");
    }
}
