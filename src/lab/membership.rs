//! Whether a lab's nodes are one cluster: what each says of all, side by side.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::build::Lab;
use super::cluster::{ClusterError, Desk, each, now, pause};
use super::member::deadline;
use crate::api::{Call, Digest, NodeFilter, NodeStatus, NodeView, PeerView};
use crate::crypto::identity::Role;

/// What one node says: `node ls` and `status --peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The node that was asked.
    pub node: String,
    /// All members.
    pub members: Vec<NodeView>,
    /// The others.
    pub peers: Vec<PeerView>,
}

/// What all nodes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Each node's, in the plan's order.
    pub sights: Vec<Sight>,
    /// What keeps them from being one cluster, a line each; empty if they are.
    pub faults: Vec<String>,
}

impl Membership {
    /// Asks every node of a lab until they are one cluster, or that has taken too long; `None` if they aren't to be one.
    /// Comparisons of records count from `since` on.
    ///
    /// # Errors
    /// If a daemon doesn't answer.
    pub(super) fn of(lab: &Lab, since: Instant) -> Result<Option<Self>, ClusterError> {
        let desks: Vec<Desk<'_>> = lab.desks().collect();
        if desks.is_empty() || lab.plan().bare {
            return Ok(None);
        }
        let deadline = deadline(lab.plan());
        loop {
            let sights = each(&desks, look)?;
            let faults = faults(&sights, since.elapsed());
            if faults.is_empty() || now() >= deadline {
                return Ok(Some(Self { sights, faults }));
            }
            pause();
        }
    }

    /// In a line, for people.
    #[must_use]
    pub fn line(&self) -> String {
        let all = self.sights.len();
        if !self.faults.is_empty() {
            return format!("Cluster: its {all} nodes are not at one");
        }
        let members = self.sights.first().map_or(&[][..], |sight| &sight.members[..]);
        let managers = members.iter().filter(|node| node.role == Role::Manager);
        let managers: Vec<&str> = managers.map(|node| node.name.as_str()).collect();
        let managers = managers.join(", ");
        if all == 1 {
            return format!("Cluster: {managers} alone");
        }
        format!(
            "Cluster: managed by {managers}; every node lists the same {all} as ready, their records are equal"
        )
    }

    /// For programs: members as the first node lists them, and whether all agree.
    #[must_use]
    pub fn document(&self) -> Value {
        let members = self.sights.first().map(|sight| &sight.members);
        json!({ "members": members, "ok": self.faults.is_empty() })
    }
}

fn look(desk: &Desk<'_>) -> Result<Sight, ClusterError> {
    Ok(Sight {
        node: desk.plan.name.clone(),
        members: desk.ask("node ls", &Call::Nodes(NodeFilter::default()))?,
        peers: desk.ask("status --peers", &Call::Peers)?,
    })
}

/// What keeps nodes from being one cluster, where their records are to have been compared within `recent`.
fn faults(sights: &[Sight], recent: Duration) -> Vec<String> {
    let Some(first) = sights.first() else { return Vec::new() };
    let identities = |sight: &Sight| {
        let members = sight.members.iter();
        members.map(|node| (node.id.clone(), node.name.clone(), node.role)).collect::<Vec<_>>()
    };
    let mut faults = Vec::new();
    for sight in sights {
        if sight.members.len() != sights.len() {
            faults.push(format!("{} lists {} nodes of {}", sight.node, sight.members.len(), sights.len()));
        } else if identities(sight) != identities(first) {
            faults.push(format!("{} lists other nodes than {}", sight.node, first.node));
        }
        let down = sight.members.iter().filter(|node| node.status == NodeStatus::Down);
        faults.extend(down.map(|node| format!("{} sees {} as down", sight.node, node.name)));
        faults.extend(sight.peers.iter().filter_map(|peer| differing(sight, peer)));
    }
    let alone = unequal(sights, recent);
    if !alone.is_empty() {
        let alone: Vec<&str> = alone.into_iter().collect();
        faults.push(format!("not found to have the same records as {}: {}", first.node, alone.join(", ")));
    }
    faults
}

fn differing(sight: &Sight, peer: &PeerView) -> Option<String> {
    let Digest::Differing { keys, .. } = &peer.digest else { return None };
    let name = peer.name.as_deref().unwrap_or(&peer.id);
    Some(format!("{} and {name} differ in {}", sight.node, keys.join(", ")))
}

/// Nodes that no chain of equal comparisons joins to the first. Each node compares with one other at a time, so a chain
/// is there long before every pair has had its turn.
fn unequal(sights: &[Sight], recent: Duration) -> BTreeSet<&str> {
    // Whole seconds are told: it was less than one more.
    let counts = |peer: &PeerView| matches!(peer.digest, Digest::Equal { compared_s } if Duration::from_secs(compared_s + 1) <= recent);
    let pairs: Vec<(&str, &str)> = sights
        .iter()
        .flat_map(|sight| sight.peers.iter().map(move |peer| (sight, peer)))
        .filter(|(_, peer)| counts(peer))
        .filter_map(|(sight, peer)| Some((sight.node.as_str(), peer.name.as_deref()?)))
        .collect();
    let mut left: BTreeSet<&str> = sights.iter().skip(1).map(|sight| sight.node.as_str()).collect();
    let mut reached: Vec<&str> = sights.iter().take(1).map(|sight| sight.node.as_str()).collect();
    while let Some(from) = reached.pop() {
        for &(a, b) in pairs.iter().filter(|&&(a, b)| a == from || b == from) {
            let to = if a == from { b } else { a };
            if left.remove(to) {
                reached.push(to);
            }
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DataPath, DataState, Liveness, Quality};

    const RECENT: Duration = Duration::from_secs(2);

    fn member(number: usize) -> NodeView {
        NodeView {
            id: format!("id{number}"),
            name: format!("node{number}"),
            own: false,
            role: if number == 1 { Role::Manager } else { Role::Worker },
            status: NodeStatus::Ready,
            joined_ms: 0,
            tasks: false,
            labels: Default::default(),
            unbound: Vec::new(),
            address: None,
            door: (number == 1).then(|| ([198, 18, 0, 1], 2377).into()),
            data: None,
            version: None,
        }
    }

    fn peer(number: usize, digest: Digest) -> PeerView {
        let state = DataState::NotShared;
        PeerView {
            id: format!("id{number}"),
            name: Some(format!("node{number}")),
            liveness: Liveness::Alive,
            since_s: 1,
            address: ([198, 18, 0, 1], 7946).into(),
            heard_ms: Some(1),
            digest,
            control: Quality::default(),
            data: DataPath { state, from: None, to: None, quality: Quality::default(), mtu: None },
        }
    }

    /// Four nodes in a row, each of which has compared with the next only.
    fn row() -> Vec<Sight> {
        let sight = |number| Sight {
            node: format!("node{number}"),
            members: (1..=4).map(member).collect(),
            peers: (1..=4)
                .filter(|&other| other != number)
                .map(|other| {
                    let next = other == number + 1;
                    peer(other, if next { Digest::Equal { compared_s: 1 } } else { Digest::NotCompared })
                })
                .collect(),
        };
        (1..=4).map(sight).collect()
    }

    #[test]
    fn a_chain_of_equal_records_is_one_cluster() {
        assert_eq!(faults(&row(), RECENT), [""; 0]);
        let line = Membership { sights: row(), faults: Vec::new() }.line();
        assert!(
            line.starts_with("Cluster: managed by node1; every node lists the same 4 as ready"),
            "{line}"
        );
        assert_eq!(faults(&[], RECENT), [""; 0]);
    }

    #[test]
    fn whatever_is_not_at_one_is_named() {
        type Edit = fn(&mut Vec<Sight>);
        let edits: [(Edit, &str); 6] = [
            (|all| drop(all[1].members.pop()), "node2 lists 3 nodes of 4"),
            (|all| all[2].members[0].id = "other".into(), "node3 lists other nodes than node1"),
            (|all| all[0].members[3].status = NodeStatus::Down, "node1 sees node4 as down"),
            (
                |all| {
                    all[3].peers[0].digest = Digest::Differing { since_s: 1, keys: vec!["network/x".into()] };
                },
                "node4 and node1 differ in network/x",
            ),
            (
                |all| all[1].peers[1].digest = Digest::NotCompared,
                "not found to have the same records as node1: node3, node4",
            ),
            (
                // That was before.
                |all| all[2].peers[2].digest = Digest::Equal { compared_s: 2 },
                "not found to have the same records as node1: node4",
            ),
        ];
        for (edit, expected) in edits {
            let mut sights = row();
            edit(&mut sights);
            assert_eq!(faults(&sights, RECENT), [expected]);
        }
    }
}
