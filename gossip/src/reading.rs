//! What a node knows, for those who ask it.

use std::sync::Arc;

use crate::digest::hash;
use crate::engine::Engine;
use crate::id::{NodeId, TableId};
use crate::neighbour::PeerStatus;

impl Engine {
    /// Every node known, but ourselves.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.neighbours.values().map(|neighbour| neighbour.status(&self.swim)).collect()
    }

    /// Cluster records of others that were refused: forged, by no manager, untimely, or no room for them.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Live records of a table: owner (none for the cluster's), key, value.
    pub fn records(&self, table: TableId) -> Vec<(Option<NodeId>, String, Arc<[u8]>)> {
        if table.is_cluster() {
            let records = self.registers.records().filter(|record| record.table == table);
            return records
                .filter_map(|record| Some((None, record.key.clone(), record.value.as_deref()?.into())))
                .collect();
        }
        let me = self.me().node;
        let mine = self.log.records().filter(|(name, ..)| name.0 == table);
        let mut records: Vec<_> =
            mine.map(|(name, _, value)| (Some(me), name.1.clone(), value.into())).collect();
        for (node, neighbour) in self.neighbours.iter().filter(|(_, neighbour)| neighbour.alive) {
            let theirs = neighbour.mirror.records().filter(|(name, ..)| name.0 == table);
            records.extend(theirs.map(|(name, _, value)| (Some(*node), name.1.clone(), Arc::clone(value))));
        }
        records
    }

    /// A cluster record's value.
    pub fn cluster_value(&self, table: TableId, key: &str) -> Option<&[u8]> {
        self.registers.record(table, key)?.value.as_deref()
    }

    /// The value of a live node's record, our own included.
    pub fn owned_value(&self, owner: NodeId, table: TableId, key: &str) -> Option<&[u8]> {
        if owner == self.me().node {
            return self.log.value(table, key);
        }
        let neighbour = self.neighbours.get(&owner).filter(|neighbour| neighbour.alive)?;
        neighbour.mirror.value(table, key).map(AsRef::as_ref)
    }

    /// One number for all that is visible here: equal on nodes that know the same.
    pub fn digest(&self) -> u64 {
        let ranges = self.index.whole();
        let bytes = ranges.iter().map(|range| [&[range.table.byte()], &range.sum.to_be_bytes()[..]].concat());
        let bytes: Vec<Vec<u8>> = bytes.collect();
        hash(&bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}
