//! Endpoints that answer for services whose tasks others make, such as virtual machines: as they are shown.

use std::collections::{BTreeMap, BTreeSet};

use super::super::cluster::Cluster;
use super::super::records::EndpointRecord;
use crate::api::ServiceTaskView;
use crate::crypto::identity::NodeId;
use crate::overlay::BackendState;
use crate::service::ServiceSpec;

/// By the service's id; of each by its node and name, since one that is in several networks is one; with one of its ids, and
/// whether it takes new connections.
pub(super) type Joined = BTreeMap<String, BTreeMap<(NodeId, String), (String, BackendState)>>;

/// Those of live nodes.
pub(super) fn joined(
    endpoints: impl IntoIterator<Item = (NodeId, String, EndpointRecord)>,
    live: &BTreeSet<NodeId>,
) -> Joined {
    let mut all = Joined::new();
    for (node, id, record) in endpoints.into_iter().filter(|(node, ..)| live.contains(node)) {
        let Some(backend) = record.backend else { continue };
        let there = all.entry(backend.service).or_default().entry((node, record.name));
        let there = there.or_insert_with(|| (id, backend.state));
        if backend.state == BackendState::Live {
            there.1 = BackendState::Live;
        }
    }
    all
}

/// Whether others make the tasks of a service: each of them that is there is wanted.
pub(super) fn is_joined(spec: &ServiceSpec) -> bool {
    spec.command.is_empty()
}

/// A line for each that answers for a service of that id, name and generation; `name` gives the nodes' names.
pub(super) fn views(
    joined: &Joined,
    (id, service, generation): (&str, &str, u64),
    name: impl Fn(NodeId) -> String,
) -> Vec<ServiceTaskView> {
    let view = |((node, endpoint), (id, state)): (&(NodeId, String), &(String, BackendState))| {
        let takes = *state == BackendState::Live;
        ServiceTaskView {
            id: id.clone(),
            name: format!("{service}.{endpoint}"),
            service: service.into(),
            slot: None,
            node: Some(name(*node)),
            generation,
            wanted: takes,
            state: if takes { "running" } else { "draining" }.into(),
            reason: String::new(),
            last: false,
            since_ms: None,
        }
    };
    joined.get(id).into_iter().flatten().map(view).collect()
}

impl Cluster {
    /// Of those of these nodes.
    pub(super) fn joined(&self, live: &BTreeSet<NodeId>) -> Joined {
        joined(self.endpoint_records(), live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::Backend;

    #[test]
    fn whoever_answers_has_a_line_once() {
        let node = |number| NodeId::from_bytes([number; 16]);
        let endpoint = |on, id: &str, name: &str, state: Option<BackendState>| {
            let record = EndpointRecord {
                network: "n".into(),
                name: name.into(),
                addresses: Vec::new(),
                mac: [2; 6],
                aliases: Vec::new(),
                backend: state.map(|state| Backend { service: "s".into(), state }),
            };
            (node(on), id.to_owned(), record)
        };
        let (live, draining) = (Some(BackendState::Live), Some(BackendState::Draining));
        let endpoints = [
            endpoint(1, "e1", "m1", draining),
            endpoint(1, "e2", "m1", live),
            endpoint(2, "e3", "m1", draining),
            endpoint(2, "e4", "m2", None),
            endpoint(3, "e5", "m3", live),
        ];
        let all = joined(endpoints, &[node(1), node(2)].into());
        let shown = |id| {
            let line = |view: ServiceTaskView| {
                format!("{} {} {} {}", view.name, view.node.unwrap(), view.state, view.wanted)
            };
            let name = |node: NodeId| format!("node{}", node.as_bytes()[0]);
            views(&all, (id, "machines", 1), name).into_iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(shown("s"), ["machines.m1 node1 running true", "machines.m1 node2 draining false"]);
        assert!(shown("t").is_empty());
    }
}
