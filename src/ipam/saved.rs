//! A pool on disk: what can't be found out again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::pool::{Ledger, Pool};
use super::range::RangeSet;
use super::space::Space;
use crate::gossip::NodeId;
use crate::gossip::codec::{self, DecodeError};

/// What is kept, by gossip's codec, which has a version byte.
#[derive(Serialize, Deserialize)]
struct Saved {
    node: NodeId,
    /// What it is a pool of: the bytes are of no use for another.
    subnet: String,
    held: RangeSet,
    leases: BTreeMap<String, u128>,
    cursor: u128,
    ledger: Ledger,
    settled: BTreeSet<NodeId>,
    version: u64,
}

/// Why bytes are no pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not what was written.
    #[error("addresses that can't be read: {0}")]
    Bytes(#[from] DecodeError),
    /// Another node's, or of another subnet.
    #[error("another node's addresses, or another subnet's")]
    Foreign,
    /// A lease of an address that the node doesn't hold, two of one, or addresses outside of the subnet.
    #[error("addresses that contradict each other")]
    Contradiction,
}

impl Pool {
    /// What has to be on disk before anything that came of a change is shown.
    #[must_use]
    pub fn save(&self) -> Vec<u8> {
        codec::encode(&Saved {
            node: self.me,
            subnet: self.space.to_string(),
            held: self.held.clone(),
            leases: self.leases.clone(),
            cursor: self.cursor,
            ledger: self.ledger.clone(),
            settled: self.settled.clone(),
            version: self.version,
        })
    }

    /// The pool that was saved.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(me: NodeId, space: Space, bytes: &[u8]) -> Result<Self, LoadError> {
        let saved: Saved = codec::decode(bytes)?;
        if saved.node != me || saved.subnet != space.to_string() {
            return Err(LoadError::Foreign);
        }
        let mut outside = saved.held.clone();
        outside.remove(space.bounds());
        let holders: BTreeMap<u128, String> =
            saved.leases.iter().map(|(holder, &number)| (number, holder.clone())).collect();
        let held = holders.keys().all(|&number| saved.held.contains(number));
        if !outside.is_empty() || !held || holders.len() != saved.leases.len() {
            return Err(LoadError::Contradiction);
        }
        let mut pool = Self::join(me, space);
        pool.held = saved.held;
        pool.leases = saved.leases;
        pool.holders = holders;
        pool.cursor = saved.cursor;
        pool.ledger = saved.ledger;
        pool.settled = saved.settled;
        pool.version = saved.version;
        pool.refresh_free();
        Ok(pool)
    }
}
