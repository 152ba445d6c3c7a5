//! What a running member is asked to do and to show: gathers the facts, lets [`super::requests`] decide, and acts.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::Node;
use super::cluster::Cluster;
use super::life::internal;
use super::records::{ClusterSettings, MemberRecord, NodeRecord};
use super::requests::{
    Member, PeerFacts, Said, find_node, list_nodes, list_peers, may_demote, may_remove, must_be_manager,
    relabel,
};
use crate::api::{
    self, Call, ClusterUpdate, Code, DataStatus, Digest, GatewayStatus, GossipStatus, Ipv4Prefix,
    KeysRotated, KeysStatus, Liveness, Name, NodeFilter, NodeUpdate, NodeView, PeerView, Quality, Refusal,
    RoleChange,
};
use crate::crypto::identity::{NodeId, Role};
use crate::gossip::{Comparison, PeerStatus};
use crate::overlay::{GatewayView, PathView};

impl Node {
    /// Answers what only a member can.
    ///
    /// # Errors
    /// As each call has them; and if this node is in no cluster.
    pub async fn answer(&self, call: Call) -> Result<Value, Refusal> {
        let cluster = self.cluster_now()?;
        match call {
            Call::Cluster => Ok(json!(cluster.shown_settings())),
            Call::UpdateCluster(update) => {
                cluster.update_settings(&update).await.map(|settings| json!(settings))
            }
            Call::RotateKeys => cluster.change_keys().map(|rotated| json!(rotated)),
            Call::Nodes(filter) => Ok(json!(cluster.list(&filter))),
            Call::Node(name) => cluster.node_view(&name).map(|node| json!(node)),
            Call::RemoveNode { node, force } => cluster.remove_node(&node, force).await.map(|()| Value::Null),
            Call::UpdateNode(name, update) => cluster.update_node(&name, &update).await.map(|()| Value::Null),
            Call::Promote(name) => {
                cluster.change_role(&name, Role::Manager).await.map(|change| json!(change))
            }
            Call::Demote(name) => cluster.change_role(&name, Role::Worker).await.map(|change| json!(change)),
            Call::Peers => Ok(json!(cluster.peer_views())),
            Call::Networks => Ok(json!(cluster.network_views())),
            Call::CreateNetwork(request) => cluster.create_network(&request).await.map(|made| json!(made)),
            Call::PruneNetworks(filter) => cluster.prune_networks(&filter).await.map(|pruned| json!(pruned)),
            Call::Network(name) => cluster.network_detail(&name).map(|network| json!(network)),
            Call::RemoveNetwork(name) => cluster.remove_network(&name).await.map(|()| Value::Null),
            Call::Services => Ok(json!(cluster.service_views())),
            Call::CreateService(spec) => cluster.create_service(*spec).await.map(|made| json!(made)),
            Call::Service(name) => cluster.service_view(&name).map(|service| json!(service)),
            Call::ServiceTasks(name) => cluster.service_tasks(&name).map(|tasks| json!(tasks)),
            Call::ServiceLogs(name, request) => {
                cluster.service_logs(&name, &request).await.map(|logs| json!(logs))
            }
            Call::UpdateService(name, update) => {
                cluster.update_service(&name, &update).await.map(|()| Value::Null)
            }
            Call::RemoveService(name) => cluster.remove_service(&name).await.map(|()| Value::Null),
            Call::Connect(network, request) => {
                cluster.connect(&network, request).await.map(|attached| json!(attached))
            }
            Call::Disconnect(network, request) => {
                cluster.disconnect(&network, &request).map(|()| Value::Null)
            }
            Call::Expose(network, request) => {
                cluster.expose(&network, request).await.map(|attached| json!(attached))
            }
            Call::Unexpose(network) => cluster.unexpose(&network).map(|()| Value::Null),
            Call::Attach(request) => cluster.attach(request).await.map(|attached| json!(attached)),
            Call::Detach(name) => cluster.detach(&name).map(|()| Value::Null),
            Call::Status
            | Call::Init(_)
            | Call::Join(_)
            | Call::Leave(_)
            | Call::Token(_)
            | Call::RotateToken(_)
            | Call::Tasks
            | Call::CreateTask(_)
            | Call::Task(_)
            | Call::StartTask(_)
            | Call::StopTask(..)
            | Call::KillTask(..)
            | Call::RemoveTask { .. } => Err(internal("a call that is answered elsewhere")),
        }
    }
}

impl Cluster {
    pub(super) fn manages(&self) -> Result<(), Refusal> {
        let doors = self.member().as_ref().map(super::credentials::Member::doors).unwrap_or_default();
        must_be_manager(*self.role.borrow(), &doors)
    }

    fn member_list(&self) -> Vec<Member> {
        let nodes = self.nodes();
        let said = |id: NodeId| {
            let (_, NodeRecord { version, join, data, tasks, .. }) =
                nodes.iter().find(|&&(node, _)| node == id)?;
            Some(Said { version: version.clone(), door: *join, data: *data, tasks: *tasks })
        };
        let member = |(id, record): (NodeId, MemberRecord)| Member {
            id,
            name: record.name,
            role: record.role.into(),
            joined_ms: record.joined_ms,
            labels: record.labels,
            said: said(id),
        };
        self.members().into_iter().map(member).collect()
    }

    fn peer_facts(&self) -> Vec<PeerFacts> {
        let now = Instant::now();
        let paths = self.overlay().map(|overlay| overlay.paths()).unwrap_or_default();
        let path = |id: NodeId| paths.iter().find(|path| path.node == id).cloned();
        self.peers().into_iter().map(|(id, peer)| peer_facts(id, &peer, path(id), now)).collect()
    }

    /// The nodes, without ports of services that they could not have: of these a node can say very many.
    pub(super) fn list_briefly(&self, filter: &NodeFilter) -> Vec<NodeView> {
        let own = (self.id, self.gossip.me().addr);
        list_nodes(&self.member_list(), &self.peer_facts(), own, filter)
    }

    fn list(&self, filter: &NodeFilter) -> Vec<NodeView> {
        let mut nodes = self.list_briefly(filter);
        for (id, _, port) in self.unbound_ports() {
            let id = id.to_string();
            nodes.iter_mut().filter(|node| node.id == id).for_each(|node| node.unbound.push(port.clone()));
        }
        nodes
    }

    fn node_view(&self, wanted: &Name) -> Result<NodeView, Refusal> {
        let members = self.member_list();
        let id = find_node(&members, self.id, wanted)?.id.to_string();
        let all = self.list(&NodeFilter::default());
        // A member is listed without any filter.
        all.into_iter().find(|node| node.id == id).ok_or_else(|| internal("a member that is not listed"))
    }

    fn peer_views(&self) -> Vec<PeerView> {
        let data = self.nodes().into_iter().find(|&(node, _)| node == self.id).map(|(_, record)| record.data);
        list_peers(&self.member_list(), &self.peer_facts(), data)
    }

    async fn remove_node(self: &Arc<Self>, wanted: &Name, force: bool) -> Result<(), Refusal> {
        self.manages()?;
        let node = self.node_view(wanted)?;
        may_remove(&node, force)?;
        let id = node.id.parse().map_err(internal)?;
        self.remove(id, &node.name).await.map_err(internal)
    }

    async fn update_node(&self, wanted: &Name, update: &NodeUpdate) -> Result<(), Refusal> {
        self.manages()?;
        let node = self.node_view(wanted)?;
        let labels = relabel(&node, update)?;
        self.set_labels(node.id.parse().map_err(internal)?, labels).await.map_err(internal)
    }

    async fn change_role(&self, wanted: &Name, role: Role) -> Result<RoleChange, Refusal> {
        self.manages()?;
        let node = self.node_view(wanted)?;
        let changed = node.role != role;
        if changed && role == Role::Worker {
            may_demote(&node, &self.list_briefly(&NodeFilter::default()))?;
        }
        if changed {
            self.set_role(node.id.parse().map_err(internal)?, role).await.map_err(internal)?;
        }
        Ok(RoleChange { changed })
    }

    fn change_keys(self: &Arc<Self>) -> Result<KeysRotated, Refusal> {
        self.manages()?;
        self.rotate_keys().map_err(internal)?;
        Ok(KeysRotated { epoch: self.keys.ring().epoch().0 })
    }

    fn shown_settings(&self) -> api::ClusterSettings {
        shown_settings(&self.settings())
    }

    async fn update_settings(&self, update: &ClusterUpdate) -> Result<api::ClusterSettings, Refusal> {
        self.manages()?;
        let settings = self.shown_settings().updated(update);
        let settings = settings.map_err(|error| Refusal::new(Code::BadRequest, error.to_string()))?;
        self.set_settings(&kept_settings(&settings)).await.map_err(internal)?;
        Ok(settings)
    }

    /// How the data plane is, if it runs.
    pub(super) fn data_status(&self) -> Option<DataStatus> {
        let overlay = self.overlay()?;
        let drops = overlay.report().map(|report| report.drops).unwrap_or_default();
        let drops = drops.into_iter().map(|(reason, count)| (reason.label().to_owned(), count)).collect();
        let gateways = overlay.gateways().into_iter().map(shown_gateway).collect();
        Some(DataStatus { address: overlay.local(), endpoints: overlay.endpoints().len(), drops, gateways })
    }

    /// How gossip is.
    pub(super) fn gossip_status(&self) -> GossipStatus {
        let peers = self.gossip.peers();
        let counters = self.gossip.counters();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        GossipStatus {
            address: self.gossip.me().addr,
            alive: count(peers.iter().filter(|peer| peer.alive).count()),
            known: count(peers.len()),
            sent: counters.sent,
            unsent: counters.unsent,
            received: counters.received + counters.unopened + counters.rejected,
            unopened: counters.unopened,
            rejected: counters.rejected,
            unsaved: counters.unsaved,
            restarts: counters.restarts,
        }
    }

    /// How old the shared keys are.
    pub(super) fn keys_status(&self) -> KeysStatus {
        let ring = self.keys.ring();
        let age = SystemTime::now().duration_since(ring.since()).unwrap_or_default();
        KeysStatus { epoch: ring.epoch().0, age_s: age.as_secs() }
    }
}

fn shown_gateway(view: GatewayView) -> GatewayStatus {
    let GatewayView { network, addresses, counts } = view;
    GatewayStatus {
        network,
        addresses,
        answered: counts.answered,
        cached: counts.cached,
        forwarded: counts.forwarded,
        unanswered: counts.unanswered,
        refused: counts.refused,
        leased: counts.leased,
        dropped: counts.dropped,
        carried_in: counts.carried_in,
        refused_in: counts.refused_in,
    }
}

fn peer_facts(id: NodeId, peer: &PeerStatus, data: Option<PathView>, now: Instant) -> PeerFacts {
    let ago = |then: Instant| now.saturating_duration_since(then);
    let micros = |rtt: Duration| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
    PeerFacts {
        id,
        liveness: match (peer.alive, peer.left) {
            (true, _) => Liveness::Alive,
            (false, true) => Liveness::Left,
            (false, false) => Liveness::Dead,
        },
        since: ago(peer.since),
        address: peer.addr,
        heard: peer.heard.map(ago),
        digest: match &peer.comparison {
            Comparison::Unknown => Digest::NotCompared,
            Comparison::Equal { at } => Digest::Equal { compared_s: ago(*at).as_secs() },
            Comparison::Differing { at, keys } => Digest::Differing {
                since_s: ago(*at).as_secs(),
                keys: keys.iter().map(|(table, key)| record_name(*table, key.as_deref())).collect(),
            },
        },
        control: Quality {
            rtt_us: peer.rtt.map(micros),
            lost: peer.loss.lost.into(),
            asked: peer.loss.asked.into(),
        },
        data,
    }
}

/// What people call a record: `network/ID`.
fn record_name(table: crate::gossip::TableId, key: Option<&str>) -> String {
    format!("{}/{}", super::records::table_name(table), key.unwrap_or("?"))
}

fn shown_settings(kept: &ClusterSettings) -> api::ClusterSettings {
    let pools = kept.pools.iter().filter_map(|&(address, length)| Ipv4Prefix::new(address, length));
    api::ClusterSettings {
        data_path_port: kept.data_path_port,
        default_addr_pools: pools.collect(),
        default_addr_pool_mask_length: kept.pool_mask,
    }
}

/// As records have them.
pub(super) fn kept_settings(shown: &api::ClusterSettings) -> ClusterSettings {
    let pools = shown.default_addr_pools.iter().map(|pool| (pool.address(), pool.length()));
    ClusterSettings {
        data_path_port: shown.data_path_port,
        pools: pools.collect(),
        pool_mask: shown.default_addr_pool_mask_length,
    }
}
