//! What two nodes compare instead of their tables: sums over ranges of hashed keys.
//!
//! Every record is an [`Item`]: the hash of its key and the stamp of its value. A [`Range`] says how many items a stretch
//! of the hash space holds and what their sum is. Where sums differ, the one with few items lists them, the one with
//! many splits the stretch in eight; so a difference of a few keys among ten thousand is found in a few small
//! datagrams, and no message grows with the table (range-based set reconciliation, after A. Meyer, 2022).
//!
//! Hashes are FNV-1a finished by splitmix64's mixer. They find differences that chance made; a member that forges
//! collisions can only hide its own mischief from itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, TableId};

/// Most items that one list names, so that it fits a datagram: each is at most 35 bytes encoded.
pub(crate) const LIST_LIMIT: usize = 28;

/// Parts that a stretch is split in.
const FAN_OUT: u64 = 8;

/// A record for comparison: equal items are equal records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Item {
    /// Of the key, with the owner of an owned record.
    pub(crate) hash: u64,
    /// Of the value; ordered among cluster records, a mere mark among owned ones.
    pub(crate) time: u64,
    /// Who wrote it.
    pub(crate) writer: NodeId,
}

impl Item {
    fn mark(&self) -> u64 {
        mix(self.hash ^ mix(self.time ^ mix(hash(&[&self.writer.0]))))
    }
}

/// What a stretch of a table's hash space holds, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) table: TableId,
    pub(crate) low: u64,
    pub(crate) high: u64,
    pub(crate) count: u32,
    pub(crate) sum: u64,
}

/// The items of all tables, by table and hash.
#[derive(Debug, Default)]
pub(crate) struct Index {
    items: BTreeMap<(TableId, u64), Item>,
}

/// What to answer to somebody else's range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// We hold the same there.
    None,
    /// We hold so few that we can say which.
    List(Vec<Item>),
    /// We hold many: look closer.
    Split(Vec<Range>),
}

impl Index {
    pub(crate) fn insert(&mut self, table: TableId, item: Item) {
        self.items.insert((table, item.hash), item);
    }

    pub(crate) fn remove(&mut self, table: TableId, hash: u64) {
        self.items.remove(&(table, hash));
    }

    pub(crate) fn within(&self, table: TableId, low: u64, high: u64) -> impl Iterator<Item = &Item> {
        // A range from the wire may be upside down, which a BTreeMap panics at.
        self.items.range((table, low.min(high))..=(table, high)).map(|(_, item)| item)
    }

    /// One range for each table that holds anything.
    pub(crate) fn whole(&self) -> Vec<Range> {
        let mut ranges: Vec<Range> = Vec::new();
        for ((table, _), item) in &self.items {
            match ranges.last_mut() {
                Some(range) if range.table == *table => add(range, item),
                _ => {
                    ranges.push(empty(*table, 0, u64::MAX));
                    add(ranges.last_mut().expect("just pushed"), item);
                }
            }
        }
        ranges
    }

    fn range(&self, table: TableId, low: u64, high: u64) -> Range {
        let mut range = empty(table, low, high);
        self.within(table, low, high).for_each(|item| add(&mut range, item));
        range
    }

    /// Compares `theirs` with what is held here.
    pub(crate) fn compare(&self, theirs: &Range) -> Difference {
        let mine = self.range(theirs.table, theirs.low, theirs.high);
        if (mine.count, mine.sum) == (theirs.count, theirs.sum) {
            return Difference::None;
        }
        if mine.count as usize <= LIST_LIMIT || theirs.low >= theirs.high {
            let items = self.within(theirs.table, theirs.low, theirs.high);
            return Difference::List(items.copied().take(LIST_LIMIT).collect());
        }
        let width = (theirs.high - theirs.low) / FAN_OUT;
        let parts = (0..FAN_OUT).map(|part| {
            let low = theirs.low.saturating_add(part * (width + 1));
            (low, low.saturating_add(width).min(theirs.high))
        });
        let parts = parts.filter(|(low, high)| low <= high);
        Difference::Split(parts.map(|(low, high)| self.range(theirs.table, low, high)).collect())
    }
}

fn empty(table: TableId, low: u64, high: u64) -> Range {
    Range { table, low, high, count: 0, sum: 0 }
}

fn add(range: &mut Range, item: &Item) {
    range.count = range.count.saturating_add(1);
    range.sum = range.sum.wrapping_add(item.mark());
}

/// 64 bits of `parts`, each closed by a byte so that they don't run into each other.
pub(crate) fn hash(parts: &[&[u8]]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    mix(state)
}

/// splitmix64's finalizer: every bit of the result hangs on every bit of `value`.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TABLE: TableId = TableId::cluster(1);

    fn index(keys: &BTreeSet<u16>) -> Index {
        let mut index = Index::default();
        for key in keys {
            let item = Item { hash: hash(&[&key.to_be_bytes()]), time: 1, writer: NodeId([0; 16]) };
            index.insert(TABLE, item);
        }
        index
    }

    /// Every hash in which two indexes differ, found by messages alone, and how many these were.
    fn differing(a: &Index, b: &Index) -> (BTreeSet<u64>, usize) {
        let mut found = BTreeSet::new();
        let mut messages = 0;
        let mut open: Vec<(Range, bool)> = a.whole().into_iter().map(|range| (range, false)).collect();
        if open.is_empty() {
            open.push((empty(TABLE, 0, u64::MAX), false));
        }
        while let Some((range, by_b)) = open.pop() {
            messages += 1;
            let (here, there) = if by_b { (a, b) } else { (b, a) };
            match here.compare(&range) {
                Difference::None => {}
                Difference::Split(parts) => open.extend(parts.into_iter().map(|part| (part, !by_b))),
                Difference::List(items) => {
                    let listed: BTreeSet<u64> = items.iter().map(|item| item.hash).collect();
                    let held: BTreeSet<u64> =
                        there.within(TABLE, range.low, range.high).map(|item| item.hash).collect();
                    found.extend(listed.symmetric_difference(&held));
                }
            }
        }
        (found, messages)
    }

    proptest! {
        #[test]
        fn exactly_the_differing_keys_are_found(
            a in prop::collection::btree_set(any::<u16>(), 0..300),
            b in prop::collection::btree_set(any::<u16>(), 0..300),
        ) {
            let wanted: BTreeSet<u64> = a.symmetric_difference(&b).map(|k| hash(&[&k.to_be_bytes()])).collect();
            prop_assert_eq!(differing(&index(&a), &index(&b)).0, wanted);
        }
    }

    #[test]
    fn one_key_among_ten_thousand_takes_few_messages() {
        let a: BTreeSet<u16> = (0..10_000).collect();
        let mut b = a.clone();
        b.remove(&77);
        let (found, messages) = differing(&index(&a), &index(&b));
        assert_eq!(found, BTreeSet::from([hash(&[&77_u16.to_be_bytes()])]));
        assert!(messages < 40, "{messages}");
    }

    #[test]
    fn a_range_upside_down_is_survived() {
        let upside_down = Range { table: TABLE, low: 9, high: 1, count: 3, sum: 3 };
        assert_eq!(index(&(0..99).collect()).compare(&upside_down), Difference::List(Vec::new()));
    }
}
