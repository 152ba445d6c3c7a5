//! Owned records: what a node says of itself.
//!
//! Only their node writes them, and only from its own mouth are they believed: each node sends its own to every other,
//! which the seal of the datagram proves, and nobody passes on another's. So no member can forge or revive another's
//! records, and what one member can fill is bounded by [`RECORD_LIMIT`] and [`BYTES_LIMIT`].
//!
//! The owner numbers its changes; [`Delta`] carries those of a stretch of numbers `(from, to]` and is *complete* for it:
//! what the receiver holds with a number in the stretch, and the delta doesn't name, is gone. So deletions travel as
//! tombstones to those that are nearly up to date, and by omission to those that start anew, and old tombstones can be
//! dropped at any time (`floor`). This is Scuttlebutt's reconciliation (van Renesse et al. 2008) with the relaying left
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::{Item, hash, mix};
use crate::id::{NodeId, TableId};

/// Records that one node may own.
pub const RECORD_LIMIT: usize = 8192;
/// Bytes of keys and values that one node may own.
pub const BYTES_LIMIT: usize = 8 << 20;
/// Longest key, in bytes.
pub const KEY_LIMIT: usize = 255;
/// Longest value, in bytes.
pub const VALUE_LIMIT: usize = 64 << 10;
/// Tombstones kept for those that are nearly up to date.
const TOMBSTONE_LIMIT: usize = 1024;

/// Why a record was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// The table is of the other kind.
    #[error("this table has records of another kind")]
    WrongKind,
    /// The key is empty or longer than [`KEY_LIMIT`].
    #[error("a key has 1 to {KEY_LIMIT} bytes")]
    Key,
    /// The value is longer than [`VALUE_LIMIT`].
    #[error("a value has at most {VALUE_LIMIT} bytes")]
    Value,
    /// One of the tables' limits is reached.
    #[error("no room for another record")]
    Full,
    /// This node may not write cluster records.
    #[error("this node may not write the cluster's records")]
    NotAllowed,
}

/// Checks what all records have in common.
pub(crate) fn check(table: TableId, cluster: bool, key: &str, value: &[u8]) -> Result<(), SetError> {
    if table.is_cluster() != cluster {
        return Err(SetError::WrongKind);
    }
    if key.is_empty() || key.len() > KEY_LIMIT {
        return Err(SetError::Key);
    }
    if value.len() > VALUE_LIMIT { Err(SetError::Value) } else { Ok(()) }
}

pub(crate) type Name = (TableId, String);

/// One change of an owner's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) version: u64,
    pub(crate) table: TableId,
    pub(crate) key: String,
    /// `None`: deleted.
    pub(crate) value: Option<Vec<u8>>,
}

impl Entry {
    fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len) + 16
    }
}

/// All changes of an owner's numbered over `from`, up to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delta {
    pub(crate) life: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// The owner's latest number when this was made: what was made earlier is not believed afterwards.
    pub(crate) of: u64,
    pub(crate) entries: Vec<Entry>,
}

/// Our own records.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) life: u64,
    version: u64,
    floor: u64,
    entries: BTreeMap<Name, (u64, Option<Vec<u8>>)>,
    order: BTreeMap<u64, Name>,
    tombstones: usize,
    bytes: usize,
}

impl Log {
    pub(crate) fn new(life: u64) -> Self {
        Self {
            life,
            version: 0,
            floor: 0,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            tombstones: 0,
            bytes: 0,
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Sets (or deletes) a record. Whether anything changed.
    pub(crate) fn set(
        &mut self,
        table: TableId,
        key: &str,
        value: Option<Vec<u8>>,
    ) -> Result<bool, SetError> {
        check(table, false, key, value.as_deref().unwrap_or_default())?;
        let name = (table, key.to_owned());
        let before = self.entries.get(&name);
        if before.map_or_else(|| value.is_none(), |(_, before)| *before == value) {
            return Ok(false);
        }
        let freed = before.map_or(0, |(_, before)| size(&name, before.as_deref()));
        let taken = size(&name, value.as_deref());
        let records = self.entries.len() - self.tombstones;
        let is_new = before.is_none_or(|(_, before)| before.is_none());
        if value.is_some()
            && (self.bytes - freed + taken > BYTES_LIMIT || (is_new && records >= RECORD_LIMIT))
        {
            return Err(SetError::Full);
        }
        self.bytes = self.bytes - freed + taken;
        self.replace(name, value);
        self.drop_tombstones();
        Ok(true)
    }

    fn replace(&mut self, name: Name, value: Option<Vec<u8>>) {
        self.version += 1;
        self.tombstones += usize::from(value.is_none());
        self.order.insert(self.version, name.clone());
        if let Some((version, before)) = self.entries.insert(name, (self.version, value)) {
            self.order.remove(&version);
            self.tombstones -= usize::from(before.is_none());
        }
    }

    fn drop_tombstones(&mut self) {
        if self.tombstones <= TOMBSTONE_LIMIT {
            return;
        }
        let deleted = self.order.iter().filter(|(_, name)| self.entries[*name].1.is_none());
        let oldest: Vec<u64> = deleted.map(|(version, _)| *version).take(TOMBSTONE_LIMIT / 2).collect();
        for version in oldest {
            if let Some(name) = self.order.remove(&version) {
                self.entries.remove(&name);
                self.tombstones -= 1;
                self.floor = version;
            }
        }
    }

    /// Changes after `have`, in parts of about `part` bytes; a receiver that is behind the dropped tombstones gets all.
    pub(crate) fn since(&self, have: u64, part: usize) -> Vec<Delta> {
        let mut from = if have < self.floor || have > self.version { 0 } else { have };
        let mut parts = Vec::new();
        let mut entries = Vec::new();
        let mut room = part;
        for (version, name) in self.order.range(from + 1..) {
            let value = self.entries[name].1.clone();
            let entry = Entry { version: *version, table: name.0, key: name.1.clone(), value };
            if !entries.is_empty() && entry.size() > room {
                let full = std::mem::take(&mut entries);
                parts.push(Delta { life: self.life, from, to: version - 1, of: self.version, entries: full });
                (from, room) = (version - 1, part);
            }
            room = room.saturating_sub(entry.size());
            entries.push(entry);
        }
        if from < self.version || parts.is_empty() {
            parts.push(Delta { life: self.life, from, to: self.version, of: self.version, entries });
        }
        parts
    }

    /// Begins another life with the same records.
    pub(crate) fn renew(&mut self, life: u64) {
        self.life = life;
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&Name, u64, &[u8])> {
        self.entries.iter().filter_map(|(name, (version, value))| Some((name, *version, value.as_deref()?)))
    }

    pub(crate) fn value(&self, table: TableId, key: &str) -> Option<&[u8]> {
        self.entries.get(&(table, key.to_owned()))?.1.as_deref()
    }
}

/// Another node's records, as far as it has told us.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    pub(crate) life: u64,
    pub(crate) have: u64,
    of: u64,
    records: BTreeMap<Name, (u64, Arc<[u8]>)>,
    bytes: usize,
}

/// A change of a mirror: a new value, or none any more.
pub(crate) type Change = (Name, Option<Arc<[u8]>>);

impl Mirror {
    /// Takes in what the owner says. A delta of an older life, or one that leaves a gap, changes nothing; `have` tells
    /// the owner what to send.
    pub(crate) fn apply(&mut self, delta: Delta) -> Vec<Change> {
        let mut changes = Vec::new();
        if delta.life > self.life {
            changes = self.begin(delta.life);
        }
        let late = delta.life < self.life || delta.of < self.of;
        if late || delta.from > self.have || delta.to < delta.from {
            return changes;
        }
        self.of = delta.of;
        let named: BTreeSet<(TableId, &str)> =
            delta.entries.iter().map(|entry| (entry.table, entry.key.as_str())).collect();
        let gone = self.records.iter().filter(|((table, key), (version, _))| {
            *version > delta.from && *version <= delta.to && !named.contains(&(*table, key.as_str()))
        });
        let gone: Vec<Name> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.put(name.clone(), 0, None);
            changes.push((name, None));
        }
        for entry in delta.entries {
            if entry.version <= delta.from || entry.version > delta.to {
                continue;
            }
            if check(entry.table, false, &entry.key, entry.value.as_deref().unwrap_or_default()).is_err() {
                continue;
            }
            let name = (entry.table, entry.key);
            let value: Option<Arc<[u8]>> = entry.value.map(Into::into);
            let known = self.records.get(&name).map(|(_, value)| value);
            let changed = known != value.as_ref();
            if self.put(name.clone(), entry.version, value.clone()) && changed {
                changes.push((name, value));
            }
        }
        self.have = self.have.max(delta.to);
        changes
    }

    /// A new life: nothing of the old one counts.
    pub(crate) fn begin(&mut self, life: u64) -> Vec<Change> {
        (self.life, self.have, self.of, self.bytes) = (life, 0, 0, 0);
        std::mem::take(&mut self.records).into_keys().map(|name| (name, None)).collect()
    }

    /// Whether it was carried out: beyond the limits nothing is taken.
    fn put(&mut self, name: Name, version: u64, value: Option<Arc<[u8]>>) -> bool {
        let freed = self.records.get(&name).map_or(0, |(_, before)| size(&name, Some(before)));
        let Some(value) = value else {
            self.bytes -= freed;
            return self.records.remove(&name).is_some();
        };
        let taken = size(&name, Some(&value));
        let full = freed == 0 && self.records.len() >= RECORD_LIMIT;
        if full || self.bytes - freed + taken > BYTES_LIMIT {
            return false;
        }
        self.bytes = self.bytes - freed + taken;
        self.records.insert(name, (version, value));
        true
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (&Name, u64, &Arc<[u8]>)> {
        self.records.iter().map(|(name, (version, value))| (name, *version, value))
    }

    pub(crate) fn version_of(&self, name: &Name) -> Option<u64> {
        self.records.get(name).map(|(version, _)| *version)
    }

    pub(crate) fn value(&self, table: TableId, key: &str) -> Option<&Arc<[u8]>> {
        self.records.get(&(table, key.to_owned())).map(|(_, value)| value)
    }
}

fn size(name: &Name, value: Option<&[u8]>) -> usize {
    value.map_or(0, |value| name.1.len() + value.len() + 16)
}

/// An owned record for comparison: its owner, life and number name its value.
pub(crate) fn item(owner: NodeId, life: u64, name: &Name, version: u64) -> Item {
    let key = hash(&[&[name.0.byte()], &owner.0, name.1.as_bytes()]);
    Item { hash: key, time: mix(life) ^ version, writer: owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TABLE: TableId = TableId::owned(3);

    fn content(records: impl Iterator<Item = (String, Vec<u8>)>) -> BTreeMap<String, Vec<u8>> {
        records.collect()
    }

    fn of_log(log: &Log) -> BTreeMap<String, Vec<u8>> {
        content(log.records().map(|(name, _, value)| (name.1.clone(), value.to_vec())))
    }

    fn of_mirror(mirror: &Mirror) -> BTreeMap<String, Vec<u8>> {
        content(mirror.records().map(|(name, _, value)| (name.1.clone(), value.to_vec())))
    }

    proptest! {
        /// Whatever is lost, repeated or late on the way, a mirror that is then brought up to date equals the log.
        #[test]
        fn a_mirror_follows_its_log(
            steps in prop::collection::vec((0_u8..6, prop::option::of(0_u8..4), any::<bool>(), 1_usize..60), 1..80),
        ) {
            let mut log = Log::new(7);
            let mut mirror = Mirror::default();
            let mut kept = Vec::new();
            for (key, value, arrives, part) in steps {
                log.set(TABLE, &format!("k{key}"), value.map(|value| vec![value; 9])).unwrap();
                let parts = log.since(mirror.have, part);
                if arrives {
                    parts.iter().for_each(|part| { mirror.apply(part.clone()); });
                }
                if let Some(late) = kept.pop() {
                    mirror.apply(late);
                }
                kept.extend(parts.into_iter().next());
                prop_assert!(mirror.have <= log.version());
            }
            for part in log.since(mirror.have, 40) {
                mirror.apply(part);
            }
            prop_assert_eq!(of_mirror(&mirror), of_log(&log));
        }
    }

    #[test]
    fn dropped_tombstones_reach_those_far_behind_by_omission() {
        let mut log = Log::new(1);
        log.set(TABLE, "stays", Some(vec![1])).unwrap();
        log.set(TABLE, "goes", Some(vec![2])).unwrap();
        let mut mirror = Mirror::default();
        log.since(0, 1000).into_iter().for_each(|part| drop(mirror.apply(part)));
        log.set(TABLE, "goes", None).unwrap();
        for n in 0..2 * TOMBSTONE_LIMIT {
            log.set(TABLE, &format!("{n}"), Some(vec![])).unwrap();
            log.set(TABLE, &format!("{n}"), None).unwrap();
        }
        assert!(log.floor > mirror.have && log.tombstones <= TOMBSTONE_LIMIT);
        log.since(mirror.have, 1000).into_iter().for_each(|part| drop(mirror.apply(part)));
        assert_eq!(of_mirror(&mirror), BTreeMap::from([("stays".to_owned(), vec![1])]));
    }

    #[test]
    fn a_new_life_ends_the_old_one_and_not_the_other_way_round() {
        let mut old = Log::new(1);
        old.set(TABLE, "old", Some(vec![1])).unwrap();
        let mut new = Log::new(2);
        new.set(TABLE, "new", Some(vec![2])).unwrap();
        let mut mirror = Mirror::default();
        mirror.apply(old.since(0, 100).remove(0));
        let changes = mirror.apply(new.since(0, 100).remove(0));
        assert_eq!(changes, [((TABLE, "old".into()), None), ((TABLE, "new".into()), Some(vec![2].into()))]);
        assert_eq!(mirror.apply(old.since(0, 100).remove(0)), []);
    }

    #[test]
    fn limits_hold_at_both_ends() {
        let mut log = Log::new(1);
        assert_eq!(log.set(TABLE, "", None), Err(SetError::Key));
        assert_eq!(log.set(TABLE, &"k".repeat(256), None), Err(SetError::Key));
        assert_eq!(log.set(TABLE, "k", Some(vec![0; VALUE_LIMIT + 1])), Err(SetError::Value));
        assert_eq!(log.set(TableId::cluster(1), "k", None), Err(SetError::WrongKind));
        for n in 0..RECORD_LIMIT {
            log.set(TABLE, &format!("{n}"), Some(vec![1])).unwrap();
        }
        assert_eq!(log.set(TABLE, "one more", Some(vec![1])), Err(SetError::Full));
        let mut mirror = Mirror::default();
        let entries = (0..RECORD_LIMIT as u64 + 5).map(|version| Entry {
            version: version + 1,
            table: TABLE,
            key: format!("{version}"),
            value: Some(vec![]),
        });
        let to = RECORD_LIMIT as u64 + 5;
        mirror.apply(Delta { life: 1, from: 0, to, of: to, entries: entries.collect() });
        assert_eq!(mirror.records().count(), RECORD_LIMIT);
    }
}
