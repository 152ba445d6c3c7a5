//! What managers decide: who stays, in which role, with which keys and settings.
//!
//! Decisions are cluster records, kept before they are answered and told to all at once; each node acts on them itself
//! ([`super::rights`], [`Cluster::note_revocations`]).

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::cluster::{Cluster, WriteError, now_ms};
use super::keys::KeysError;
use super::records::{CLUSTER, ClusterSettings, MemberRecord, NetworkRecord, Removed};
use super::rotation;
use crate::crypto::ca::{CERTIFICATE_LIFE, CLOCK_LEEWAY};
use crate::crypto::identity::{NodeId, Role};

/// Why something was not decided; nothing has changed then, but for what a variant says.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManageError {
    #[error("this node is a worker: ask on a manager")]
    Worker,
    #[error("no such node")]
    NoNode,
    #[error("it is this node itself: `vswitchd leave`")]
    Own,
    #[error("it is not down: stop it or let it leave first, or remove it with --force")]
    Alive,
    #[error("it is a manager: `vswitchd node demote` it first, or remove it with --force")]
    Manager,
    #[error("it is the last manager: `vswitchd node promote` another first")]
    Last,
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The node is refused, and may still read gossip.
    #[error("the node is removed, but the shared keys could not be changed: {0}")]
    Keys(#[from] KeysError),
}

impl Cluster {
    fn must_manage(&self) -> Result<(), ManageError> {
        if *self.role.borrow() == Role::Manager { Ok(()) } else { Err(ManageError::Worker) }
    }

    fn member_record(&self, node: NodeId) -> Result<MemberRecord, ManageError> {
        let found = self.members().into_iter().find(|&(known, _)| known == node);
        found.map(|(_, record)| record).ok_or(ManageError::NoNode)
    }

    /// Removes a node: its certificate is refused from here on, and the shared keys become others.
    pub(crate) async fn remove(self: &Arc<Self>, node: NodeId, force: bool) -> Result<(), ManageError> {
        self.must_manage()?;
        let record = self.member_record(node)?;
        if node == self.id {
            return Err(ManageError::Own);
        }
        if !force && Role::from(record.role) == Role::Manager {
            return Err(ManageError::Manager);
        }
        if !force && self.peers().iter().any(|(known, peer)| *known == node && peer.alive) {
            return Err(ManageError::Alive);
        }
        let lasts = CERTIFICATE_LIFE + CLOCK_LEEWAY;
        let until_ms = now_ms() + u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        self.write(&node.to_string(), &Removed { until_ms }).await?;
        self.note_revocations();
        self.delete::<MemberRecord>(&node.to_string()).await?;
        self.keys.expel(SystemTime::now())?;
        rotation::hand_on(self);
        info!("removed {node} ({}): shared keys of epoch {}", record.name, self.keys.ring().epoch());
        Ok(())
    }

    /// Gives a node another role; it takes it up by itself. Gives whether it had another.
    pub(crate) async fn set_role(&self, node: NodeId, role: Role) -> Result<bool, ManageError> {
        self.must_manage()?;
        let record = self.member_record(node)?;
        if Role::from(record.role) == role {
            return Ok(false);
        }
        let managers =
            self.members().into_iter().filter(|(_, member)| Role::from(member.role) == Role::Manager);
        if role == Role::Worker && managers.count() < 2 {
            return Err(ManageError::Last);
        }
        self.write(&node.to_string(), &MemberRecord { role: role.into(), ..record }).await?;
        self.rights_changed.notify_one();
        info!("{node} is to be a {role}");
        Ok(true)
    }

    /// Goes on to the next shared key at once, and every node to new data keys with it.
    pub(crate) fn rotate_keys(self: &Arc<Self>) -> Result<(), ManageError> {
        self.must_manage()?;
        self.keys.rotate(SystemTime::now())?;
        info!("rotated the shared keys: epoch {}", self.keys.ring().epoch());
        rotation::hand_on(self);
        Ok(())
    }

    /// Sets what holds for all.
    pub(crate) async fn set_settings(&self, settings: &ClusterSettings) -> Result<(), ManageError> {
        self.must_manage()?;
        self.write(CLUSTER, settings).await?;
        self.say_who();
        Ok(())
    }

    /// Every network, with its id.
    pub(crate) fn networks(&self) -> Vec<(String, NetworkRecord)> {
        self.gossip.list::<NetworkRecord>().into_iter().map(|(_, id, network)| (id, network)).collect()
    }

    /// Makes or changes a network.
    pub(crate) async fn set_network(&self, id: &str, network: &NetworkRecord) -> Result<(), ManageError> {
        self.must_manage()?;
        Ok(self.write(id, network).await?)
    }

    /// Deletes one.
    pub(crate) async fn delete_network(&self, id: &str) -> Result<(), ManageError> {
        self.must_manage()?;
        Ok(self.delete::<NetworkRecord>(id).await?)
    }

    /// A manager forgets removals that nobody can gain by any more.
    pub(super) async fn forget_removals(&self) {
        if *self.role.borrow() != Role::Manager {
            return;
        }
        for (_, key, removed) in self.gossip.list::<Removed>() {
            if removed.until_ms < now_ms()
                && let Err(error) = self.delete::<Removed>(&key).await
            {
                warn!("can't forget that {key} was removed: {error}");
            }
        }
    }
}
