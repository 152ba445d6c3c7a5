//! Which nodes run the tasks of which services, in the eyes of all: every node computes the same from the same records.
//!
//! A port of a host is one task's at a time. So a service that publishes ports with `mode=host` has at most one task on each
//! node; and a node is out for it where another service has a port of it: by a task that is there, or if that is to come, by
//! being the older one. Whoever is there already stays: its slot moves only if its node may not run it any more. So two such
//! services come to rest, whichever was first on a node, and nobody is sent away for one that comes later. A slot for which
//! there is no node waits for one.
//!
//! Slots of all other services are placed by [`assign`] alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::records::{ServiceRecord, TaskPhase, TaskRecord};
use super::facts::{Facts, is_final, rejects, suits};
use crate::crypto::identity::NodeId;
use crate::service::placement::{assign, fill_apart};
use crate::service::{Mode, Port, PortMode};

/// A task of which somebody tells: by which node, its id, and what it is.
type Task = (NodeId, String, TaskRecord);

/// Where one service runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seats {
    /// The nodes that may run it, in their order.
    pub(crate) nodes: Vec<NodeId>,
    /// Those that could, and have said that they can't.
    pub(crate) rejecting: BTreeSet<NodeId>,
    /// Those that could if a port of theirs were not another service's.
    pub(super) held: BTreeMap<NodeId, HeldPort>,
    /// By slot, whose it is, or nobody's; empty in a global service.
    pub(crate) owners: Vec<Option<NodeId>>,
}

/// A port of a host that another service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldPort {
    /// As it is wanted.
    pub(super) port: Port,
    /// The name of that service.
    pub(super) holder: String,
}

/// Of all services that have tasks of their own, by their ids.
pub(crate) fn seats(facts: &Facts) -> BTreeMap<&str, Seats> {
    let mut tasks = HashMap::<&str, Vec<&Task>>::new();
    for task in &facts.tasks {
        tasks.entry(&task.2.service).or_default().push(task);
    }
    let with_tasks = facts.services.iter().filter(|(_, record)| !record.spec.command.is_empty());
    let mut services: Vec<&(String, ServiceRecord)> = with_tasks.collect();
    services.sort_by_key(|(id, record)| (record.created_ms, id));
    let tasks_of = |id: &str| tasks.get(id).map(Vec::as_slice).unwrap_or_default();
    let mut doors = Doors::default();
    for service in services.iter().filter(|(_, record)| host_ports(record).next().is_some()) {
        tasks_of(&service.0)
            .iter()
            .filter(|task| has_doors(task))
            .for_each(|task| doors.note(task.0, service));
    }
    let mut all = BTreeMap::new();
    for service in services {
        let seats = one(facts, service, tasks_of(&service.0), &doors);
        if host_ports(&service.1).next().is_some() {
            let owners = seats.owners.iter().flatten();
            let globals = seats.nodes.iter().filter(|_| service.1.spec.mode == Mode::Global);
            owners.chain(globals).for_each(|&node| doors.note(node, service));
        }
        all.insert(service.0.as_str(), seats);
    }
    all
}

fn one(facts: &Facts, service: &(String, ServiceRecord), tasks: &[&Task], doors: &Doors<'_>) -> Seats {
    let (id, record) = service;
    let suitable = facts.nodes.iter().filter(|node| suits(record, node).is_ok());
    let mut nodes: BTreeSet<NodeId> = suitable.map(|node| node.node).collect();
    let rejecting = tasks.iter().filter(|(.., task)| rejects(task, record));
    let rejecting: BTreeSet<NodeId> = rejecting.map(|(node, ..)| *node).collect();
    let rejecting = &nodes & &rejecting;
    nodes.retain(|node| !rejecting.contains(node));
    let there: BTreeSet<NodeId> =
        tasks.iter().filter(|task| has_doors(task)).map(|(node, ..)| *node).collect();
    let away = nodes.iter().filter(|node| !there.contains(node));
    let held: BTreeMap<NodeId, HeldPort> =
        away.filter_map(|&node| Some((node, doors.held(node, service)?))).collect();
    nodes.retain(|node| !held.contains_key(node));
    let owners = match record.spec.mode {
        Mode::Global => Vec::new(),
        Mode::Replicated(slots) if host_ports(record).next().is_some() => {
            apart(service, slots, &nodes, tasks)
        }
        Mode::Replicated(slots) => {
            let nodes: Vec<NodeId> = nodes.iter().copied().collect();
            let mut owners: Vec<Option<NodeId>> = assign(id, slots, &nodes).into_iter().map(Some).collect();
            owners.resize(slots.into(), None);
            owners
        }
    };
    Seats { nodes: nodes.into_iter().collect(), rejecting, held, owners }
}

/// At most one slot on each node: those that have a task stay with it, if it has not only just begun somewhere else, too.
fn apart(
    (id, record): &(String, ServiceRecord),
    slots: u16,
    nodes: &BTreeSet<NodeId>,
    tasks: &[&Task],
) -> Vec<Option<NodeId>> {
    let mut owners = vec![None; slots.into()];
    // What has done its work needs no node any more.
    for (node, _, task) in tasks.iter().filter(|(.., task)| is_final(task, record)) {
        if let Some(owner) = task.slot.and_then(|slot| owners.get_mut(usize::from(slot))) {
            *owner = Some(*node);
        }
    }
    let mut there: Vec<(Reverse<u8>, u16, NodeId)> = tasks
        .iter()
        .filter(|(node, ..)| nodes.contains(node))
        .filter_map(|(node, _, task)| Some((Reverse(hold(task)?), task.slot?, *node)))
        .collect();
    there.sort_unstable();
    let mut free = nodes.clone();
    for (_, slot, node) in there {
        match owners.get_mut(usize::from(slot)) {
            Some(owner @ None) if free.remove(&node) => *owner = Some(node),
            _ => {}
        }
    }
    fill_apart(id, &mut owners, &free);
    owners
}

/// How firmly a task has its slot: one that runs more than one that is to be started again.
fn hold(task: &TaskRecord) -> Option<u8> {
    match task.state {
        TaskPhase::Running => Some(3),
        TaskPhase::Starting => Some(2),
        TaskPhase::Waiting | TaskPhase::Failed | TaskPhase::Complete => Some(1),
        // It goes for another one, unless that is gone, too.
        TaskPhase::Draining => Some(0),
        TaskPhase::Rejected => None,
    }
}

/// Whether a task is there, with the ports that it publishes.
fn has_doors((.., task): &Task) -> bool {
    matches!(task.state, TaskPhase::Starting | TaskPhase::Running | TaskPhase::Draining)
}

fn host_ports(record: &ServiceRecord) -> impl Iterator<Item = &Port> {
    record.ports.iter().filter(|port| port.mode == PortMode::Host)
}

/// Who has ports of which host, by the port's number.
#[derive(Debug, Default)]
struct Doors<'f>(HashMap<(NodeId, u16), BTreeMap<&'f str, &'f ServiceRecord>>);

impl<'f> Doors<'f> {
    fn note(&mut self, node: NodeId, (id, record): &'f (String, ServiceRecord)) {
        for published in host_ports(record).filter_map(|port| port.published) {
            self.0.entry((node, published.get())).or_default().insert(id, record);
        }
    }

    /// The first port of a service that another one has there.
    fn held(&self, node: NodeId, (id, record): &(String, ServiceRecord)) -> Option<HeldPort> {
        host_ports(record).find_map(|port| {
            let there = self.0.get(&(node, port.published?.get()))?;
            let has = |(other, record): &(&&str, &&ServiceRecord)| {
                **other != id && host_ports(record).any(|other| port.clashes(other))
            };
            let (_, holder) = there.iter().find(has)?;
            Some(HeldPort { port: *port, holder: holder.spec.name.to_string() })
        })
    }
}

#[cfg(test)]
mod tests;
