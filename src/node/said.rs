//! What this node says of itself: its own records of a kind are brought from what it has said to what is so.

use std::collections::BTreeMap;

use tracing::warn;

use super::cluster::Cluster;
use super::records::node_id;
use crate::gossip::{Record, SetError};

impl Cluster {
    /// This node's own records of a kind, by their keys.
    pub(super) fn said<R: Record>(&self) -> BTreeMap<String, R> {
        let all = self.gossip.list::<R>().into_iter();
        let own = all.filter(|(owner, ..)| owner.map(node_id) == Some(self.id));
        own.map(|(_, key, record)| (key, record)).collect()
    }

    /// Has the others hear these records and no others of this kind; `what` says in the log what they are about if that fails.
    pub(super) fn say<R: Record + PartialEq>(&self, wanted: &BTreeMap<String, R>, what: &str) {
        let said = self.said::<R>();
        let tell = || -> Result<(), SetError> {
            // First what is gone: without room for more it would never be taken back.
            let gone = said.keys().filter(|key| !wanted.contains_key(*key));
            gone.into_iter().try_for_each(|key| self.gossip.delete::<R>(key))?;
            let new = wanted.iter().filter(|(key, record)| said.get(*key) != Some(record));
            new.into_iter().try_for_each(|(key, record)| self.gossip.set(key, record))
        };
        if let Err(error) = tell() {
            warn!("can't say {what}: {error}");
        }
    }
}
