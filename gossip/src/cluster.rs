//! Cluster records: what managers say for all, and every node holds.
//!
//! Each is a register in which the last writer wins. The order of writes is that of their [`Stamp`]s: a hybrid logical
//! clock (Kulkarni et al. 2014), milliseconds with a counter that moves past every stamp seen, then the writer. Records
//! are signed by their writer, so everybody may pass on everybody's: a record whose publisher is gone is republished by
//! any node that has it, and none of them can change it. Deletes are tombstones, dropped [`TOMBSTONE_AGE`] after their
//! stamp; one who was away longer than that may bring a deleted record back.
//!
//! Merging is commutative, associative and idempotent: the larger (stamp, signature) stays.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::contacts::CONTACT_LIMIT;
use crate::digest::{Item, hash};
use crate::id::{NodeId, TableId};
use crate::owned::{KEY_LIMIT, Name, SetError, VALUE_LIMIT, check};
use crate::swim_codec::MEMBER_LIMIT;

/// Cluster records kept, tombstones included.
pub const RECORD_LIMIT: usize = 65_536;
/// Bytes of cluster records kept, tombstones included: keys, values, signatures, and 40 for each, which is no less than
/// they take in a snapshot. With all contacts that stays below [`codec::SIZE_LIMIT`], so a snapshot that was written can be
/// read back.
pub const BYTES_LIMIT: usize = 12 << 20;
/// Age at which a tombstone is dropped.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How far ahead of our clock a stamp may be. A writer whose clock is further ahead is not heard, lest its records be
/// unchangeable until then.
pub const CLOCK_AHEAD: Duration = Duration::from_secs(600);
/// Longest signature, in bytes.
pub const SIGNATURE_LIMIT: usize = 1024;

/// The largest record.
const RECORD_MAX: usize = KEY_LIMIT + VALUE_LIMIT + SIGNATURE_LIMIT + RECORD_OVERHEAD;
/// What surrounds a record's key, value and signature in a snapshot, and more: 38 bytes at most.
const RECORD_OVERHEAD: usize = 40;
/// Encoded contact: 16 bytes of node id, at most 20 of its address.
const CONTACT_MAX: usize = 36;
/// More members than [`MEMBER_LIMIT`] may be under way when it is reached.
const CONTACTS_MAX: usize = 2 * if CONTACT_LIMIT > MEMBER_LIMIT { CONTACT_LIMIT } else { MEMBER_LIMIT };
const _: () = assert!(BYTES_LIMIT + CONTACTS_MAX * CONTACT_MAX + 64 < codec::SIZE_LIMIT);

const COUNTER_BITS: u32 = 16;
const DOMAIN: &[u8] = b"vswitchd cluster record 1";

/// When, and by whom, a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since 1970 times 65,536, plus a counter.
    pub time: u64,
    /// The manager that signed it.
    pub writer: NodeId,
}

impl Stamp {
    fn wall_ms(self) -> u64 {
        self.time >> COUNTER_BITS
    }
}

/// What a manager signs with.
pub trait Signer: Send + Sync {
    /// A signature of `bytes` by this node, at most [`SIGNATURE_LIMIT`] long. `None`: it may not write.
    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>>;
}

/// Who may write cluster records.
pub trait Verifier: Send + Sync {
    /// Whether `signature` of `bytes` is by `writer`, and `writer` is (or was) a manager.
    fn verify(&self, writer: NodeId, bytes: &[u8], signature: &[u8]) -> bool;
}

/// A signed register.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) table: TableId,
    pub(crate) key: String,
    pub(crate) stamp: Stamp,
    /// `None`: deleted.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) signature: Vec<u8>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, key, stamp, value, .. } = self;
        let bytes = value.as_ref().map(Vec::len);
        write!(f, "Record({table:?} {key:?} {} {:?} {bytes:?})", stamp.time, stamp.writer)
    }
}

impl Record {
    fn signed_bytes(&self) -> Vec<u8> {
        codec::encode(&(DOMAIN, self.table, &self.key, self.stamp, &self.value))
    }

    pub(crate) fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Vec::len) + self.signature.len() + RECORD_OVERHEAD
    }

    fn rank(&self) -> (Stamp, &[u8]) {
        (self.stamp, &self.signature)
    }

    pub(crate) fn item(&self) -> Item {
        Item { hash: key_hash(self.table, &self.key), time: self.stamp.time, writer: self.stamp.writer }
    }
}

pub(crate) fn key_hash(table: TableId, key: &str) -> u64 {
    hash(&[&[table.byte()], key.as_bytes()])
}

/// What became of a record that somebody sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// It is the latest; it wasn't known.
    New,
    /// We have it, or a later one.
    Known,
    /// Of a tombstone's age, or too far in the future.
    Untimely,
    /// It would exceed [`RECORD_LIMIT`] or [`BYTES_LIMIT`].
    NoRoom,
    /// Not by a manager, or out of limits.
    Refused,
}

/// All cluster records.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    records: BTreeMap<Name, Record>,
    bytes: usize,
    clock: u64,
}

impl Registers {
    /// Writes a record of our own; `writer` signs.
    pub(crate) fn write(
        &mut self,
        name: Name,
        value: Option<Vec<u8>>,
        writer: (NodeId, &dyn Signer),
        wall_ms: u64,
    ) -> Result<Record, SetError> {
        check(name.0, true, &name.1, value.as_deref().unwrap_or_default())?;
        let time = (self.clock + 1).max(wall_ms << COUNTER_BITS);
        let stamp = Stamp { time, writer: writer.0 };
        let (table, key) = name.clone();
        let mut record = Record { table, key, stamp, value, signature: Vec::new() };
        record.signature = writer.1.sign(&record.signed_bytes()).ok_or(SetError::NotAllowed)?;
        if !self.has_room_for(&name, &record) {
            return Err(SetError::Full);
        }
        self.clock = time;
        self.put(name, record.clone());
        Ok(record)
    }

    /// Takes in a record from anywhere.
    pub(crate) fn merge(&mut self, record: Record, verifier: &dyn Verifier, wall_ms: u64) -> Merged {
        let name = (record.table, record.key.clone());
        if self.records.get(&name).is_some_and(|known| known.rank() >= record.rank()) {
            return Merged::Known;
        }
        if expired(&record, wall_ms) || record.stamp.wall_ms() > wall_ms.saturating_add(millis(CLOCK_AHEAD)) {
            return Merged::Untimely;
        }
        self.keep(name, record, verifier)
    }

    /// Takes in a record that was kept in an earlier life. It was timely then, wherever our clock stands now.
    pub(crate) fn restore(&mut self, record: Record, verifier: &dyn Verifier) -> Merged {
        self.keep((record.table, record.key.clone()), record, verifier)
    }

    fn keep(&mut self, name: Name, record: Record, verifier: &dyn Verifier) -> Merged {
        let fits = check(name.0, true, &name.1, record.value.as_deref().unwrap_or_default()).is_ok()
            && record.signature.len() <= SIGNATURE_LIMIT;
        if !fits || !verifier.verify(record.stamp.writer, &record.signed_bytes(), &record.signature) {
            return Merged::Refused;
        }
        if !self.has_room_for(&name, &record) {
            return Merged::NoRoom;
        }
        self.clock = self.clock.max(record.stamp.time);
        self.put(name, record);
        Merged::New
    }

    /// Whether any record would fit.
    pub(crate) fn has_room(&self) -> bool {
        self.records.len() < RECORD_LIMIT && self.bytes + RECORD_MAX <= BYTES_LIMIT
    }

    fn has_room_for(&self, name: &Name, record: &Record) -> bool {
        let before = self.records.get(name).map(Record::size);
        let fits = self.bytes - before.unwrap_or(0) + record.size() <= BYTES_LIMIT;
        fits && (before.is_some() || self.records.len() < RECORD_LIMIT)
    }

    fn put(&mut self, name: Name, record: Record) {
        self.bytes += record.size();
        if let Some(before) = self.records.insert(name, record) {
            self.bytes -= before.size();
        }
    }

    /// Drops tombstones of age; these are returned.
    pub(crate) fn expire(&mut self, wall_ms: u64) -> Vec<Record> {
        let old = self.records.extract_if(.., |_, record| expired(record, wall_ms));
        let old: Vec<Record> = old.map(|(_, record)| record).collect();
        self.bytes -= old.iter().map(Record::size).sum::<usize>();
        old
    }

    pub(crate) fn record(&self, table: TableId, key: &str) -> Option<&Record> {
        self.records.get(&(table, key.to_owned()))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.values()
    }
}

fn expired(record: &Record, wall_ms: u64) -> bool {
    record.value.is_none() && record.stamp.wall_ms().saturating_add(millis(TOMBSTONE_AGE)) < wall_ms
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Snapshot;
    use proptest::prelude::*;

    const TABLE: TableId = TableId::cluster(0);
    const NOW: u64 = 1_800_000_000_000;

    /// "Signs" with the sum of the bytes; only nodes under 9 are managers.
    struct Sums;

    fn sum(bytes: &[u8]) -> Vec<u8> {
        hash(&[bytes]).to_be_bytes().to_vec()
    }

    impl Signer for Sums {
        fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
            Some(sum(bytes))
        }
    }

    impl Verifier for Sums {
        fn verify(&self, writer: NodeId, bytes: &[u8], signature: &[u8]) -> bool {
            writer.0[0] < 9 && signature == sum(bytes)
        }
    }

    fn write(registers: &mut Registers, key: &str, value: Option<u8>, writer: u8, wall_ms: u64) -> Record {
        let name = (TABLE, key.to_owned());
        registers.write(name, value.map(|v| vec![v]), (NodeId([writer; 16]), &Sums), wall_ms).unwrap()
    }

    fn merged(records: &[Record]) -> Registers {
        let mut registers = Registers::default();
        for record in records {
            registers.merge(record.clone(), &Sums, NOW + 1000);
        }
        registers
    }

    proptest! {
        /// Any order, any repetition, any grouping: the same result.
        #[test]
        fn merging_is_commutative_associative_and_idempotent(
            writes in prop::collection::vec((0_u8..4, prop::option::of(any::<u8>()), 0_u8..5, 0_u64..40), 1..40),
            order in any::<prop::sample::Index>(),
            split in any::<prop::sample::Index>(),
        ) {
            // Each write by a fresh clock: many stamps are equal but for the writer.
            let records: Vec<Record> = writes.into_iter().map(|(key, value, writer, at)| {
                write(&mut Registers::default(), &format!("k{key}"), value, writer, NOW + at)
            }).collect();
            let at_once = merged(&records);
            let mut other = records.clone();
            other.rotate_left(order.index(records.len()));
            other.reverse();
            other.extend_from_slice(&records[..split.index(records.len())]);
            prop_assert_eq!(&merged(&other).records, &at_once.records);
            let (left, right) = records.split_at(split.index(records.len()));
            let mut grouped = merged(right);
            for record in merged(left).records.into_values() {
                grouped.merge(record, &Sums, NOW + 1000);
            }
            prop_assert_eq!(&grouped.records, &at_once.records);
        }
    }

    #[test]
    fn the_clock_moves_past_what_it_has_seen() {
        let mut ahead = Registers::default();
        let first = write(&mut ahead, "a", Some(1), 1, NOW + 60_000);
        let mut behind = Registers::default();
        assert_eq!(behind.merge(first.clone(), &Sums, NOW), Merged::New);
        let second = write(&mut behind, "a", Some(2), 2, NOW);
        assert!(second.stamp > first.stamp);
        assert_eq!(ahead.merge(second, &Sums, NOW), Merged::New);
    }

    #[test]
    fn forged_foreign_and_untimely_records_are_refused() {
        let good = write(&mut Registers::default(), "a", Some(1), 1, NOW);
        let mut registers = Registers::default();
        let forged = Record { value: Some(vec![2]), ..good.clone() };
        assert_eq!(registers.merge(forged, &Sums, NOW), Merged::Refused);
        let worker = write(&mut Registers::default(), "a", Some(1), 9, NOW);
        assert_eq!(registers.merge(worker, &Sums, NOW), Merged::Refused);
        let future = write(&mut Registers::default(), "a", Some(1), 1, NOW + millis(CLOCK_AHEAD) + 1);
        assert_eq!(registers.merge(future, &Sums, NOW), Merged::Untimely);
        assert_eq!(registers.records().count(), 0);
        assert_eq!(registers.merge(good.clone(), &Sums, NOW), Merged::New);
        assert_eq!(registers.merge(good, &Sums, NOW), Merged::Known);
    }

    #[test]
    fn what_was_kept_is_restored_though_the_clock_was_set_back() {
        let mut registers = Registers::default();
        let record = write(&mut registers, "a", Some(1), 1, NOW);
        let mut restarted = Registers::default();
        assert_eq!(restarted.merge(record.clone(), &Sums, 0), Merged::Untimely);
        assert_eq!(restarted.restore(record.clone(), &Sums), Merged::New);
        assert!(write(&mut restarted, "a", Some(2), 1, 0).stamp > record.stamp);
        let forged = Record { value: Some(vec![9]), ..record };
        assert_eq!(Registers::default().restore(forged, &Sums), Merged::Refused);
    }

    /// Signs at the greatest length.
    struct Longest;

    impl Signer for Longest {
        fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
            Some(vec![255; SIGNATURE_LIMIT])
        }
    }

    impl Verifier for Longest {
        fn verify(&self, _: NodeId, _: &[u8], _: &[u8]) -> bool {
            true
        }
    }

    /// Writes records of that size until one is refused.
    fn fill(value: usize, signer: &dyn Signer) -> Registers {
        let mut registers = Registers::default();
        let writer = (NodeId([255; 16]), signer);
        for n in 0..=RECORD_LIMIT {
            let name = (TableId::cluster(127), format!("{n:05}"));
            let written =
                registers.write(name, Some(vec![255; value]), writer, u64::MAX >> COUNTER_BITS >> 1);
            if let Err(error) = written {
                assert_eq!(error, SetError::Full);
                assert!(!registers.has_room());
                return registers;
            }
        }
        panic!("there is no limit");
    }

    fn contacts() -> Vec<(NodeId, std::net::SocketAddr)> {
        let addr = std::net::SocketAddr::from(([0xffff; 8], u16::MAX));
        (0..CONTACTS_MAX).map(|_| (NodeId([255; 16]), addr)).collect()
    }

    #[test]
    fn a_snapshot_of_all_that_fits_can_be_read_back() {
        for registers in [fill(0, &Sums), fill(100, &Sums), fill(VALUE_LIMIT, &Longest)] {
            let records: Vec<Record> = registers.records().cloned().collect();
            let bytes = codec::encode(&Snapshot { records, contacts: contacts() });
            let read: Snapshot = codec::decode(&bytes).unwrap();
            assert!(read.records.iter().eq(registers.records()));
            let encoded: usize = registers.records().map(|record| codec::encode(record).len()).sum();
            assert!(encoded <= registers.bytes, "{encoded} {}", registers.bytes);
        }
    }

    #[test]
    fn a_full_node_takes_no_more_but_what_makes_it_smaller() {
        let mut full = fill(VALUE_LIMIT, &Longest);
        let mut other = Registers::default();
        let later = 2 + (u64::MAX >> COUNTER_BITS >> 1);
        let mut written = |key: &str, value| {
            let name = (TableId::cluster(127), key.to_owned());
            other.write(name, value, (NodeId([1; 16]), &Longest), later).unwrap()
        };
        let new = written("new", Some(vec![1; VALUE_LIMIT]));
        let (bytes, count) = (full.bytes, full.records.len());
        assert_eq!(full.merge(new.clone(), &Longest, later), Merged::NoRoom);
        assert_eq!((full.bytes, full.records.len()), (bytes, count));
        assert_eq!(full.merge(written("00000", None), &Longest, later), Merged::New);
        assert_eq!(full.bytes, bytes - VALUE_LIMIT);
        assert_eq!(full.merge(new, &Longest, later), Merged::New);
        let expired = full.expire(later + 1 + millis(TOMBSTONE_AGE));
        assert_eq!(full.bytes, full.records().map(Record::size).sum::<usize>());
        assert_eq!(expired.len(), 1);
    }

    #[test]
    fn tombstones_win_then_vanish() {
        let mut registers = Registers::default();
        let record = write(&mut registers, "a", Some(1), 1, NOW);
        let tombstone = write(&mut registers, "a", None, 1, NOW + 5);
        assert_eq!(registers.merge(record, &Sums, NOW + 9), Merged::Known);
        let later = NOW + 6 + millis(TOMBSTONE_AGE);
        assert_eq!(registers.expire(later - 1), []);
        assert_eq!(registers.expire(later), std::slice::from_ref(&tombstone));
        assert_eq!(registers.merge(tombstone, &Sums, later), Merged::Untimely);
    }
}
