//! What follows at once from what is kept and what gossip says: who is refused, where managers are, what this node says of
//! itself, and which of the other tasks has something to look at.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;
use tracing::{error, info, warn};

use super::address;
use super::cluster::Cluster;
use super::credentials::{MANAGERS_MAX, ManagerPlace};
use super::records::{
    ClusterSettings, EndpointRecord, MemberRecord, NetworkRecord, NodeRecord, Presence, Removed,
    RevokedSerial, SELF, ServiceRecord, SharesRecord, TaskRecord, TokenState, gossip_id, node_id,
};
use crate::crypto::ca::Serial;
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::peer::Revoked;
use crate::gossip::engine::Event;
use crate::gossip::{Record, TableId};

/// How often it is looked whether this host's address has changed.
const ADDRESS_CHECK: Duration = Duration::from_secs(3);

/// Does what follows from records at once.
pub(super) async fn follow(cluster: Arc<Cluster>, mut events: broadcast::Receiver<Event>) {
    let mut check = tokio::time::interval(ADDRESS_CHECK);
    check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = check.tick() => {
                cluster.follow_address();
                continue;
            }
        };
        match event {
            Ok(Event::Changed(changed)) => cluster.note_change(changed.table),
            Ok(Event::Up(peer)) => {
                cluster.mesh_changed.notify_one();
                info!("{} is up at {}", node_id(peer.node), peer.addr);
                cluster.host.services_changed.notify_one();
                cluster.ring_changed.notify_one();
                cluster.rights_changed.notify_one();
                cluster.data_changed.notify_one();
                cluster.addresses_changed.notify_one();
            }
            Ok(Event::KnowsUs(_)) => cluster.data_changed.notify_one(),
            Ok(Event::Down { node, left }) => {
                cluster.mesh_changed.notify_one();
                cluster.host.services_changed.notify_one();
                cluster.data_changed.notify_one();
                info!("{} {}", node_id(node), if left { "has left" } else { "is down" });
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {
                TABLES.iter().for_each(|&table| cluster.note_change(table))
            }
            // Gossip lives as long as the cluster, which we hold.
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// Whose changes matter here.
const TABLES: [TableId; 10] = [
    Removed::TABLE,
    MemberRecord::TABLE,
    NodeRecord::TABLE,
    ClusterSettings::TABLE,
    EndpointRecord::TABLE,
    NetworkRecord::TABLE,
    ServiceRecord::TABLE,
    SharesRecord::TABLE,
    TaskRecord::TABLE,
    TokenState::TABLE,
];

/// Whose changes the mesh follows.
const MESH: [TableId; 5] =
    [ServiceRecord::TABLE, EndpointRecord::TABLE, TaskRecord::TABLE, NetworkRecord::TABLE, Removed::TABLE];

impl Cluster {
    fn note_change(&self, table: TableId) {
        if [ServiceRecord::TABLE, TaskRecord::TABLE, NodeRecord::TABLE, MemberRecord::TABLE].contains(&table)
        {
            self.host.services_changed.notify_one();
        }
        if MESH.contains(&table) {
            self.mesh_changed.notify_one();
        }
        if table == Removed::TABLE || table == RevokedSerial::TABLE {
            self.note_revocations();
            self.addresses_changed.notify_one();
        } else if table == NodeRecord::TABLE || table == MemberRecord::TABLE {
            self.note_managers();
            self.rights_changed.notify_one();
            self.data_changed.notify_one();
            self.addresses_changed.notify_one();
        } else if table == ClusterSettings::TABLE {
            self.say_who();
            self.data_changed.notify_one();
        } else if table == NetworkRecord::TABLE {
            self.data_changed.notify_one();
            self.addresses_changed.notify_one();
        } else if table == ServiceRecord::TABLE {
            self.note_services();
            self.addresses_changed.notify_one();
            self.data_changed.notify_one();
        } else if table == Presence::TABLE || table == EndpointRecord::TABLE {
            self.data_changed.notify_one();
        } else if table == SharesRecord::TABLE {
            self.note_shares();
        } else if table == TokenState::TABLE {
            self.rights_changed.notify_one();
        }
    }

    /// This node has another role than before.
    pub(super) fn role_changed(self: &Arc<Self>) {
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            cluster.say_who();
            cluster.note_managers();
        });
    }

    /// Says who we are, if it is not what we have said.
    pub(super) fn say_who(&self) {
        let data = self.overlay().map_or_else(|| self.data_address(), |overlay| overlay.local());
        let record = {
            let member = self.member();
            let Some(member) = member.as_ref() else { return };
            let settings = &member.settings;
            NodeRecord {
                name: settings.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                role: member.role().into(),
                join: member
                    .authority
                    .as_ref()
                    .map(|_| SocketAddr::new(settings.advertise, settings.listen.port())),
                data,
                tasks: self.host.tasks,
            }
        };
        let said = self.nodes().into_iter().find(|&(node, _)| node == self.id);
        if said.is_none_or(|(_, said)| said != record)
            && let Err(error) = self.gossip.set(SELF, &record)
        {
            warn!("can't say who this node is: {error}");
        }
    }

    /// Refuses from now on whom managers have removed.
    pub(super) fn note_revocations(&self) {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let nodes = self.gossip.list::<Removed>().into_iter();
        let nodes: Vec<(NodeId, SystemTime)> =
            nodes.filter_map(|(_, key, removed)| Some((key.parse().ok()?, at(removed.until_ms)))).collect();
        let serials = self.gossip.list::<RevokedSerial>().into_iter();
        let serials: Vec<(Serial, SystemTime)> =
            serials.filter_map(|(_, key, revoked)| Some((serial(&key)?, at(revoked.until_ms)))).collect();
        let mut revoked = Revoked::default();
        let gone: Vec<NodeId> = nodes.iter().map(|&(node, _)| node).collect();
        if revoked.merge(nodes, serials).is_err() {
            error!("too many nodes have been removed to refuse them all: make a new cluster");
        }
        self.revoked.store(Arc::new(revoked));
        let known: BTreeSet<NodeId> = self.peers().into_iter().map(|(node, _)| node).collect();
        for node in gone {
            if node == self.id {
                self.note_removed();
            } else if known.contains(&node) {
                info!("{node} was removed from the cluster");
                self.gossip.forget(gossip_id(node));
            }
        }
    }

    /// Remembers where managers are, for the next start.
    pub(super) fn note_managers(&self) {
        let wanted: BTreeSet<NodeId> = self
            .members()
            .into_iter()
            .filter(|(_, member)| Role::from(member.role) == Role::Manager)
            .map(|(node, _)| node)
            .collect();
        let places: Vec<(NodeId, SocketAddr)> =
            self.peers().into_iter().map(|(node, peer)| (node, peer.addr)).collect();
        let live = self.nodes().into_iter().filter_map(|(node, record)| {
            let gossip = places.iter().find(|(known, _)| *known == node)?.1;
            Some(ManagerPlace { node: node.to_string(), join: record.join?, gossip })
        });
        let live: Vec<ManagerPlace> = live.collect();
        let mut member = self.member();
        let Some(member) = member.as_mut() else { return };
        let before = member.settings.managers.clone();
        let managers = &mut member.settings.managers;
        managers.retain(|manager| {
            let is_manager = manager.id().is_some_and(|node| wanted.contains(&node));
            // Nothing is known yet in a node that has just joined.
            (wanted.is_empty() || is_manager) && live.iter().all(|live| live.node != manager.node)
        });
        managers.extend(live);
        managers.sort_by(|one, other| one.node.cmp(&other.node));
        managers.truncate(MANAGERS_MAX);
        if *managers != before
            && let Err(error) = member.store_settings(&self.state)
        {
            warn!("can't keep where the managers are: {error}");
        }
    }

    /// Follows this host's address, unless it was given by its number.
    fn follow_address(&self) {
        let follow = self.member().as_ref().and_then(|member| member.settings.follow.clone());
        let Some(follow) = follow else { return };
        // Without an address there is nothing to tell anybody, nor anybody to tell.
        let Ok(interfaces) = address::interfaces() else { return };
        let Ok(address) = address::choose("--advertise-addr", Some(&follow), &interfaces) else { return };
        self.move_to(address);
    }

    fn move_to(&self, address: IpAddr) {
        let place = {
            let mut member = self.member();
            let Some(member) = member.as_mut().filter(|member| member.settings.advertise != address) else {
                return;
            };
            info!("this host's address is {address} now, no longer {}", member.settings.advertise);
            member.settings.advertise = address;
            if let Err(error) = member.store_settings(&self.state) {
                warn!("can't keep this host's address: {error}");
            }
            member.gossip()
        };
        self.gossip.readdress(place);
        self.say_who();
        self.data_changed.notify_one();
    }
}

/// A certificate's number, as it is written in records.
fn serial(text: &str) -> Option<Serial> {
    let number = u128::from_str_radix(text, 16).ok()?;
    Some(Serial::from_bytes(number.to_be_bytes()))
}
