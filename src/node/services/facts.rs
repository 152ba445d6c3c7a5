//! What a node's own part in services follows from, and what it says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::cluster::Cluster;
use super::super::records::{ServiceRecord, TaskPhase, TaskRecord, node_id};
use crate::api::{NodeFilter, NodeStatus};
use crate::crypto::identity::{NodeId, Role};
use crate::gossip::Comparison;
use crate::service::NodeFacts;

/// How long a node that has just started waits for what others know, before it starts tasks that they may have: nobody is
/// taken for dead sooner.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether this node has a part in services.
#[derive(Debug)]
pub(crate) enum Membership {
    /// It is in no cluster.
    None,
    /// It will have: it is a member that does not run yet.
    Starting,
    /// It has.
    Member(Facts),
}

/// What it follows from.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// This node.
    pub(crate) own: NodeId,
    /// Whether it knows what others know, or nobody can be asked.
    pub(crate) settled: bool,
    /// The live nodes.
    pub(crate) nodes: Vec<ServiceNode>,
    /// The services with their ids.
    pub(crate) services: Vec<(String, ServiceRecord)>,
    /// The tasks of live nodes, with their ids.
    pub(crate) tasks: Vec<(NodeId, String, TaskRecord)>,
}

/// A live node.
#[derive(Clone, Debug)]
pub(crate) struct ServiceNode {
    pub(crate) node: NodeId,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it runs tasks of services.
    pub(crate) tasks: bool,
}

#[cfg(test)]
impl ServiceNode {
    /// A worker that runs tasks, called `node-NUMBER`.
    pub(crate) fn worker(node: NodeId, number: impl std::fmt::Display) -> Self {
        let (id, name) = (node.to_string(), format!("node-{number}"));
        Self { node, id, name, role: Role::Worker, labels: BTreeMap::new(), tasks: true }
    }
}

/// Why a node runs no task of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ineligible {
    /// Its operator does not let it.
    NotAllowed,
    /// A constraint that it does not meet.
    Constraint(String),
    /// It has tried, and can't.
    Rejected(String),
}

/// Whether a node may run tasks of a service, as far as the two go.
///
/// # Errors
/// Why not.
pub(super) fn suits(service: &ServiceRecord, node: &ServiceNode) -> Result<(), Ineligible> {
    if !node.tasks {
        return Err(Ineligible::NotAllowed);
    }
    let about = NodeFacts { id: &node.id, name: &node.name, role: node.role, labels: &node.labels };
    let unmet = service.spec.constraints.iter().find(|constraint| !constraint.holds(&about));
    unmet.map_or(Ok(()), |unmet| Err(Ineligible::Constraint(unmet.to_string())))
}

/// Whether a task of a service says that its node can't run the service as it is now.
pub(super) fn rejects(task: &TaskRecord, service: &ServiceRecord) -> bool {
    task.state == TaskPhase::Rejected && task.generation == service.generation
}

/// Whether a task of a service has done its work as the service is now: no other one takes its place.
pub(crate) fn is_final(task: &TaskRecord, service: &ServiceRecord) -> bool {
    task.generation == service.generation && task.state.is_final(&service.spec.restart)
}

/// Whether a node may run tasks of a service.
///
/// # Errors
/// Why not.
pub(super) fn eligible(
    facts: &Facts,
    (id, service): &(String, ServiceRecord),
    node: &ServiceNode,
) -> Result<(), Ineligible> {
    suits(service, node)?;
    let mut tasks = facts.tasks.iter();
    let rejected =
        tasks.find(|(by, _, task)| *by == node.node && task.service == *id && rejects(task, service));
    rejected.map_or(Ok(()), |(.., task)| Err(Ineligible::Rejected(task.reason.clone())))
}

impl Cluster {
    pub(in crate::node) fn service_facts(&self) -> Facts {
        let nodes = self.list_briefly(&NodeFilter::default()).into_iter();
        let node = |view: crate::api::NodeView| {
            let node = view.id.parse().ok()?;
            Some(ServiceNode {
                node,
                id: view.id,
                name: view.name,
                role: view.role,
                labels: view.labels,
                tasks: view.tasks,
            })
        };
        let nodes: Vec<ServiceNode> =
            nodes.filter(|node| node.status == NodeStatus::Ready).filter_map(node).collect();
        let live: BTreeSet<NodeId> = nodes.iter().map(|node| node.node).collect();
        let tasks = self.task_records().into_iter().filter(|(node, ..)| live.contains(node));
        Facts {
            own: self.id,
            settled: self.knows_others(),
            services: self.services(),
            tasks: tasks.collect(),
            nodes,
        }
    }

    /// Every task of a service, as far as its node is heard: its node, its id, and what it is.
    pub(in crate::node) fn task_records(&self) -> Vec<(NodeId, String, TaskRecord)> {
        let records = self.gossip.list::<TaskRecord>().into_iter();
        records.filter_map(|(owner, id, record)| Some((node_id(owner?), id, record))).collect()
    }

    fn knows_others(&self) -> bool {
        let peers = self.peers();
        let compared = |(_, peer): &(NodeId, crate::gossip::PeerStatus)| {
            peer.alive && matches!(peer.comparison, Comparison::Equal { .. })
        };
        let alone = self.members().iter().all(|&(node, _)| node == self.id);
        alone || peers.iter().any(compared) || self.started.elapsed() >= SETTLE_PATIENCE
    }

    /// Tells the others which tasks of services this node has.
    pub(in crate::node) fn say_tasks(&self, wanted: &BTreeMap<String, TaskRecord>) {
        self.note_backends(wanted);
        self.say(wanted, "which tasks of services this node has");
    }
}
