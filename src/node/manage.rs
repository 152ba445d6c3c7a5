//! What managers decide: who stays, in which role, with which keys and settings.
//!
//! Decisions are cluster records, kept before they are answered and told to all at once; each node acts on them itself
//! ([`super::rights`], [`Cluster::note_revocations`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tracing::info;

use super::cluster::{Cluster, WriteError, now_ms};
use super::keys::KeysError;
use super::records::{
    CLUSTER, ClusterSettings, MemberRecord, NetworkRecord, Removed, RevokedSerial, ServiceRecord,
};
use super::rotation;
use crate::crypto::ca::{CERTIFICATE_LIFE, CLOCK_LEEWAY};
use crate::crypto::identity::{NodeId, Role};

/// Why something was not decided; nothing has changed then, but for what a variant says.
#[derive(Debug, thiserror::Error)]
pub(super) enum ManageError {
    #[error("it has been removed meanwhile")]
    Gone,
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The node is refused, and may still read gossip.
    #[error("the node is removed, but the shared keys could not be changed: {0}")]
    Keys(#[from] KeysError),
}

impl Cluster {
    /// Removes a node: its certificate is refused from here on, and the shared keys become others.
    pub(super) async fn remove(self: &Arc<Self>, node: NodeId, name: &str) -> Result<(), ManageError> {
        let lasts = CERTIFICATE_LIFE + CLOCK_LEEWAY;
        let until_ms = now_ms() + u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let expels = self.keys.ring().expels().saturating_add(1);
        self.write(&node.to_string(), &Removed { until_ms, expels }).await?;
        self.note_revocations();
        self.delete::<MemberRecord>(&node.to_string()).await?;
        self.keys.expel(SystemTime::now())?;
        rotation::hand_on(self);
        info!("removed {node} ({name}): shared keys of epoch {}", self.keys.ring().epoch());
        Ok(())
    }

    /// Gives a node another role; it takes it up by itself.
    pub(super) async fn set_role(&self, node: NodeId, role: Role) -> Result<(), ManageError> {
        let record = self.members().into_iter().find(|&(known, _)| known == node);
        let (_, record) = record.ok_or(ManageError::Gone)?;
        self.write(&node.to_string(), &MemberRecord { role: role.into(), ..record }).await?;
        self.rights_changed.notify_one();
        info!("{node} is to be a {role}");
        Ok(())
    }

    /// Writes other labels on a node.
    pub(super) async fn set_labels(
        &self,
        node: NodeId,
        labels: BTreeMap<String, String>,
    ) -> Result<(), ManageError> {
        let record = self.members().into_iter().find(|&(known, _)| known == node);
        let (_, record) = record.ok_or(ManageError::Gone)?;
        Ok(self.write(&node.to_string(), &MemberRecord { labels, ..record }).await?)
    }

    /// Goes on to the next shared key at once, and every node to new data keys with it.
    pub(super) fn rotate_keys(self: &Arc<Self>) -> Result<(), ManageError> {
        self.keys.rotate(SystemTime::now())?;
        info!("rotated the shared keys: epoch {}", self.keys.ring().epoch());
        rotation::hand_on(self);
        Ok(())
    }

    /// Sets what holds for all.
    pub(super) async fn set_settings(&self, settings: &ClusterSettings) -> Result<(), ManageError> {
        self.write(CLUSTER, settings).await?;
        self.say_who();
        Ok(())
    }

    /// Every network, with its id.
    pub(super) fn networks(&self) -> Vec<(String, NetworkRecord)> {
        self.gossip.list::<NetworkRecord>().into_iter().map(|(_, id, network)| (id, network)).collect()
    }

    /// Makes or changes a network.
    pub(super) async fn set_network(&self, id: &str, network: &NetworkRecord) -> Result<(), ManageError> {
        Ok(self.write(id, network).await?)
    }

    /// Deletes one.
    pub(super) async fn delete_network(&self, id: &str) -> Result<(), ManageError> {
        Ok(self.delete::<NetworkRecord>(id).await?)
    }

    /// Every service, with its id.
    pub(super) fn services(&self) -> Vec<(String, ServiceRecord)> {
        self.gossip.list::<ServiceRecord>().into_iter().map(|(_, id, service)| (id, service)).collect()
    }

    /// A manager forgets removals that nobody can gain by any more.
    pub(super) async fn forget_removals(&self) -> Result<(), WriteError> {
        if *self.role.borrow() != Role::Manager {
            return Ok(());
        }
        let now = now_ms();
        for (_, key, _) in
            self.gossip.list::<Removed>().into_iter().filter(|(_, _, node)| node.until_ms < now)
        {
            self.delete::<Removed>(&key).await?;
        }
        let serials = self.gossip.list::<RevokedSerial>().into_iter();
        for (_, key, _) in serials.filter(|(_, _, serial)| serial.until_ms < now) {
            self.delete::<RevokedSerial>(&key).await?;
        }
        Ok(())
    }
}
