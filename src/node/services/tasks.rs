//! The tasks of a service as they are shown, and why there are none.

use std::num::NonZeroU16;

use super::super::cluster::Cluster;
use super::super::records::{ServiceRecord, TaskPhase, TaskRecord};
use super::facts::{Facts, Ineligible, eligible};
use super::joined::{self, is_joined};
use super::lookup::find_service;
use super::seats::{HeldPort, Seats, seats};
use crate::api::{Name, Refusal, ServiceTaskView, UnboundPort};
use crate::crypto::identity::NodeId;
use crate::service::Mode;

impl Cluster {
    /// The tasks of a service on all nodes; and for each slot that has none, and each port that a node can't have, why. Of one
    /// that has been removed, by its id, those that have not ended yet.
    pub(in crate::node) fn service_tasks(&self, wanted: &Name) -> Result<Vec<ServiceTaskView>, Refusal> {
        let facts = self.service_facts();
        match find_service(&self.service_views(), wanted) {
            Ok(service) => {
                let mut views = task_views(&facts, &service.id);
                if is_joined(&service.spec) {
                    let live = facts.nodes.iter().map(|node| node.node).collect();
                    let of = (service.id.as_str(), service.spec.name.as_str(), service.generation);
                    views.extend(joined::views(&self.joined(&live), of, |node| node_name(&facts, node)));
                }
                views.extend(service.unbound.iter().map(|port| not_listening(port, service.generation)));
                Ok(views)
            }
            Err(refusal) => {
                let left = left(&facts, wanted.as_str());
                if left.is_empty() { Err(refusal) } else { Ok(left) }
            }
        }
    }
}

/// A port that a node can't have is no task, but belongs beside them.
fn not_listening(port: &UnboundPort, generation: u64) -> ServiceTaskView {
    ServiceTaskView {
        id: String::new(),
        name: port.service.clone(),
        service: port.service.clone(),
        slot: None,
        node: Some(port.node.clone()),
        generation,
        wanted: true,
        state: "not listening".into(),
        reason: port.reason.clone(),
        last: false,
        since_ms: Some(port.since_ms),
    }
}

fn left(facts: &Facts, id: &str) -> Vec<ServiceTaskView> {
    let tasks = facts.tasks.iter().filter(|(.., task)| task.service == id);
    tasks.map(|task| view(facts, id, task)).collect()
}

fn task_views(facts: &Facts, id: &str) -> Vec<ServiceTaskView> {
    let Some(service) = facts.services.iter().find(|(known, _)| known == id) else { return Vec::new() };
    let tasks = facts.tasks.iter().filter(|(.., task)| task.service == id);
    let mut views: Vec<ServiceTaskView> =
        tasks.map(|task| view(facts, service.1.spec.name.as_str(), task)).collect();
    if !service.1.spec.command.is_empty() {
        views.extend(missing(facts, service));
    }
    views.sort_by(|one, other| (one.slot, &one.node, &one.id).cmp(&(other.slot, &other.node, &other.id)));
    views
}

fn view(facts: &Facts, service: &str, (node, id, task): &(NodeId, String, TaskRecord)) -> ServiceTaskView {
    let ended = [TaskPhase::Draining, TaskPhase::Complete, TaskPhase::Failed, TaskPhase::Rejected];
    ServiceTaskView {
        id: id.clone(),
        name: ServiceTaskView::name_of(service, task.slot),
        service: service.into(),
        slot: task.slot,
        node: Some(node_name(facts, *node)),
        generation: task.generation,
        wanted: !ended.contains(&task.state),
        state: state(task.state).into(),
        reason: task.reason.clone(),
        last: task.last,
        since_ms: Some(task.since_ms),
    }
}

fn state(phase: TaskPhase) -> &'static str {
    match phase {
        TaskPhase::Waiting => "waiting",
        TaskPhase::Starting => "starting",
        TaskPhase::Running => "running",
        TaskPhase::Draining => "draining",
        TaskPhase::Complete => "complete",
        TaskPhase::Failed => "failed",
        TaskPhase::Rejected => "rejected",
    }
}

/// For each slot of which nobody has said anything, or that nobody may run, why.
fn missing(facts: &Facts, service: &(String, ServiceRecord)) -> Vec<ServiceTaskView> {
    let (id, record) = service;
    let Some(seats) = seats(facts).remove(id.as_str()) else { return Vec::new() };
    let places: Vec<(Option<u16>, Option<NodeId>)> = match record.spec.mode {
        // Of one that could run it but for a port of its host, too.
        Mode::Global => {
            let nodes = seats.nodes.iter().chain(seats.held.keys());
            let nodes: Vec<_> = nodes.map(|&node| (None, Some(node))).collect();
            if nodes.is_empty() { vec![(None, None)] } else { nodes }
        }
        Mode::Replicated(slots) => (0..slots).map(Some).zip(seats.owners.iter().copied()).collect(),
    };
    let known = |slot: Option<u16>, owner: Option<NodeId>| {
        facts.tasks.iter().any(|(node, _, task)| {
            let is_it = task.service == *id && task.slot == slot && task.state != TaskPhase::Rejected;
            is_it && (slot.is_some() || Some(*node) == owner)
        })
    };
    let pending = |(slot, owner): (Option<u16>, Option<NodeId>)| {
        let held = owner.and_then(|owner| seats.held.get(&owner));
        let reason = match (owner, held) {
            (Some(owner), Some(held)) => format!("{} has {}", node_name(facts, owner), taken(held)),
            (Some(owner), None) => format!("{} has not started it yet", node_name(facts, owner)),
            (None, _) => nobody(facts, service, &seats),
        };
        (!known(slot, owner)).then(|| ServiceTaskView {
            id: String::new(),
            name: ServiceTaskView::name_of(record.spec.name.as_str(), slot),
            service: record.spec.name.to_string(),
            slot,
            node: owner.map(|owner| node_name(facts, owner)),
            generation: record.generation,
            wanted: true,
            state: "pending".into(),
            reason,
            last: false,
            since_ms: None,
        })
    };
    places.into_iter().filter_map(pending).collect()
}

fn taken(HeldPort { port, holder }: &HeldPort) -> String {
    let published = port.published.map_or(0, NonZeroU16::get);
    format!("port {published}/{} published by service {holder}", port.protocol)
}

/// Why no node runs it, by reasons with how many have each.
fn nobody(facts: &Facts, service: &(String, ServiceRecord), seats: &Seats) -> String {
    let mut reasons: Vec<(String, usize)> = Vec::new();
    for node in &facts.nodes {
        let reason = match eligible(facts, service, node) {
            Ok(()) => match seats.held.get(&node.node) {
                Some(held) => format!("have {}", taken(held)),
                None if seats.owners.contains(&Some(node.node)) => {
                    "run another task of it, which has its ports of the host".to_owned()
                }
                None => continue,
            },
            Err(Ineligible::NotAllowed) => "run no tasks (see `vswitchd daemon --allow-tasks`)".to_owned(),
            Err(Ineligible::Constraint(unmet)) => format!("don't meet {unmet}"),
            Err(Ineligible::Rejected(reason)) => format!("have rejected it ({reason})"),
        };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => reasons.push((reason, 1)),
        }
    }
    let all = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}"));
    format!(
        "no node may run it: of {} that are there {}",
        facts.nodes.len(),
        all.collect::<Vec<_>>().join(", ")
    )
}

fn node_name(facts: &Facts, node: NodeId) -> String {
    let found = facts.nodes.iter().find(|known| known.node == node);
    found.map_or_else(|| node.to_string(), |known| known.name.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::facts::ServiceNode;
    use super::*;
    use crate::crypto::identity::Role;
    use crate::service::spec::tests::full;
    use crate::service::{ServiceSpec, SpecParts};

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    /// Two workers that run tasks, a manager that does and a worker that does not.
    fn facts(mode: Mode) -> Facts {
        let live = |number: u8| ServiceNode {
            node: node(number),
            id: node(number).to_string(),
            name: format!("node-{number}"),
            role: if number == 2 { Role::Manager } else { Role::Worker },
            labels: BTreeMap::new(),
            tasks: number < 3,
        };
        let spec = ServiceSpec::new(SpecParts { mode, ..full() }).unwrap();
        let record = ServiceRecord {
            spec,
            generation: 2,
            created_ms: 0,
            updated_ms: 0,
            vips: Vec::new(),
            ports: Vec::new(),
        };
        Facts {
            own: node(0),
            settled: true,
            nodes: (0..4).map(live).collect(),
            services: vec![("s".into(), record)],
            tasks: Vec::new(),
        }
    }

    fn task(slot: Option<u16>, state: TaskPhase, reason: &str) -> TaskRecord {
        TaskRecord {
            service: "s".into(),
            slot,
            generation: 2,
            state,
            reason: reason.into(),
            last: state == TaskPhase::Failed,
            since_ms: 7,
            endpoints: Vec::new(),
        }
    }

    fn shown(facts: &Facts) -> Vec<String> {
        let row = |view: ServiceTaskView| {
            let node = view.node.unwrap_or_else(|| "-".into());
            format!("{:?} {node} {} {}", view.slot, view.state, view.reason)
        };
        task_views(facts, "s").into_iter().map(row).collect()
    }

    #[test]
    fn every_slot_is_shown_with_its_task_or_who_is_waited_for() {
        let mut facts = facts(Mode::Replicated(2));
        facts.tasks.push((node(1), "t1".into(), task(Some(0), TaskPhase::Running, "")));
        let rows = shown(&facts);
        assert_eq!((rows.len(), rows[0].as_str()), (2, "Some(0) node-1 running "));
        assert!(
            rows[1].starts_with("Some(1) node-") && rows[1].ends_with("has not started it yet"),
            "{rows:?}"
        );
    }

    #[test]
    fn tasks_outlive_their_service_for_a_while() {
        let mut facts = facts(Mode::Replicated(2));
        facts.tasks.push((node(1), "t1".into(), task(Some(0), TaskPhase::Draining, "")));
        facts.services.clear();
        assert_eq!((task_views(&facts, "s"), left(&facts, "t")), (Vec::new(), Vec::new()));
        let left = left(&facts, "s");
        assert_eq!((left.len(), left[0].service.as_str(), left[0].state.as_str()), (1, "s", "draining"));
    }

    #[test]
    fn why_nobody_runs_it_is_told() {
        let mut facts = facts(Mode::Replicated(1));
        facts.tasks.push((node(0), "t0".into(), task(Some(0), TaskPhase::Rejected, "no such program")));
        facts.nodes.retain(|known| known.node != node(1));
        let rows = shown(&facts);
        let reason = "of 3 that are there 1 have rejected it (no such program), 1 don't meet node.role==worker, 1 run no tasks \
                      (see `vswitchd daemon --allow-tasks`)";
        assert_eq!(rows[0], format!("Some(0) - pending no node may run it: {reason}"));
        assert_eq!(rows[1], "Some(0) node-0 rejected no such program");
    }

    #[test]
    fn global_services_have_a_row_for_each_node() {
        let mut facts = facts(Mode::Global);
        facts.tasks.push((node(0), "t0".into(), task(None, TaskPhase::Running, "")));
        assert_eq!(
            shown(&facts),
            ["None node-0 running ", "None node-1 pending node-1 has not started it yet"]
        );
    }
}
