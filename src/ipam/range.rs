//! Sets of addresses as runs: what a node holds of a subnet is few runs, however large the subnet.
//!
//! An address is a number here, of 32 or 128 bits as its family has; [`super::Space`] knows which. Runs have
//! both ends included, so that the last address of all needs no special case.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Addresses from `first` to `last`, both included: at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(u128, u128)", into = "(u128, u128)")]
pub struct Range {
    first: u128,
    last: u128,
}

/// Ranges that are none, or no set of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The end comes before the beginning.
    #[error("a range that ends before it begins")]
    Backwards,
    /// Ranges that touch each other or are in no order.
    #[error("ranges that are not apart and in order")]
    Order,
}

impl Range {
    /// From `first` to `last`.
    ///
    /// # Errors
    /// If `last` comes before `first`.
    pub fn new(first: u128, last: u128) -> Result<Self, RangeError> {
        if first <= last { Ok(Self { first, last }) } else { Err(RangeError::Backwards) }
    }

    /// One address.
    #[must_use]
    pub fn one(address: u128) -> Self {
        Self { first: address, last: address }
    }

    /// Its first address.
    #[must_use]
    pub fn first(self) -> u128 {
        self.first
    }

    /// Its last address.
    #[must_use]
    pub fn last(self) -> u128 {
        self.last
    }

    /// How many addresses it has; the most that there is room for if it has all.
    #[must_use]
    pub fn count(self) -> u128 {
        (self.last - self.first).saturating_add(1)
    }

    /// Whether it has this address.
    #[must_use]
    pub fn contains(self, address: u128) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// What both have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.first.max(other.first), self.last.min(other.last)).ok()
    }

    /// Its upper half: of an odd number of addresses the larger one, so that of one address it is that.
    #[must_use]
    pub fn upper_half(self) -> Self {
        let length = self.last - self.first;
        Self { first: self.first + length / 2 + length % 2, last: self.last }
    }
}

impl TryFrom<(u128, u128)> for Range {
    type Error = RangeError;

    fn try_from((first, last): (u128, u128)) -> Result<Self, RangeError> {
        Self::new(first, last)
    }
}

impl From<Range> for (u128, u128) {
    fn from(range: Range) -> Self {
        (range.first, range.last)
    }
}

/// A set of addresses, as the fewest runs: ordered, with at least one address between two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Range>", into = "Vec<Range>")]
pub struct RangeSet {
    /// By first address, the last one.
    runs: BTreeMap<u128, u128>,
}

impl RangeSet {
    /// The runs, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range> + '_ {
        self.runs.iter().map(|(&first, &last)| Range { first, last })
    }

    /// How many runs there are.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no address in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many addresses there are; the most that there is room for if it has all.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.iter().fold(0, |sum, run| sum.saturating_add(run.count()))
    }

    /// How many of them are in `range`.
    #[must_use]
    pub fn count_within(&self, range: Range) -> u128 {
        self.within(range).fold(0, |sum, run| sum.saturating_add(run.count()))
    }

    /// What of each run is in `range`, in order.
    pub fn within(&self, range: Range) -> impl Iterator<Item = Range> + '_ {
        let before = self.runs.range(..range.first).next_back().map(|(&first, _)| first);
        let runs = self.runs.range(before.unwrap_or(range.first)..=range.last);
        runs.filter_map(move |(&first, &last)| Range { first, last }.intersection(range))
    }

    /// Whether it has this address.
    #[must_use]
    pub fn contains(&self, address: u128) -> bool {
        self.runs.range(..=address).next_back().is_some_and(|(_, &last)| address <= last)
    }

    /// Whether it has any address of `range`.
    #[must_use]
    pub fn touches(&self, range: Range) -> bool {
        self.within(range).next().is_some()
    }

    /// Adds these addresses; some may be in it already.
    pub fn insert(&mut self, range: Range) {
        let Range { mut first, mut last } = range;
        if let Some((&before, &end)) = self.runs.range(..=first).next_back()
            && end.saturating_add(1) >= first
        {
            first = before;
            last = last.max(end);
        }
        // From the run in front of it on, whatever it reaches or touches becomes part of it.
        while let Some((&next, &end)) = self.runs.range(first..=last.saturating_add(1)).next() {
            last = last.max(end);
            self.runs.remove(&next);
        }
        self.runs.insert(first, last);
    }

    /// Takes these addresses out; some may not be in it.
    pub fn remove(&mut self, range: Range) {
        let hit: Vec<Range> = self.within(range).collect();
        for part in hit {
            let Some((&first, &last)) = self.runs.range(..=part.first).next_back() else { continue };
            self.runs.remove(&first);
            if first < part.first {
                self.runs.insert(first, part.first - 1);
            }
            if part.last < last {
                self.runs.insert(part.last + 1, last);
            }
        }
    }

    /// Adds another set's addresses.
    pub fn extend(&mut self, other: &Self) {
        other.iter().for_each(|run| self.insert(run));
    }

    /// Takes another set's addresses out.
    pub fn subtract(&mut self, other: &Self) {
        other.iter().for_each(|run| self.remove(run));
    }
}

impl From<Range> for RangeSet {
    fn from(range: Range) -> Self {
        Self { runs: BTreeMap::from([(range.first, range.last)]) }
    }
}

impl TryFrom<Vec<Range>> for RangeSet {
    type Error = RangeError;

    fn try_from(runs: Vec<Range>) -> Result<Self, RangeError> {
        let apart = runs.windows(2).all(|pair| pair[0].last.saturating_add(1) < pair[1].first);
        if !apart {
            return Err(RangeError::Order);
        }
        Ok(Self { runs: runs.into_iter().map(|run| (run.first, run.last)).collect() })
    }
}

impl From<RangeSet> for Vec<Range> {
    fn from(set: RangeSet) -> Self {
        set.iter().collect()
    }
}
