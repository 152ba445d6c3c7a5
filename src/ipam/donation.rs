//! Giving addresses to a node that has none.
//!
//! ```text
//!   asker                                      donor
//!     Want { need, taken: 6 }  ─────────────►  gift 6 has arrived: forget it
//!                                              takes a range out of what it holds: gift 7, outstanding; saves
//!                              ◄─────────────  Reply { taken: 6, gift 7 }
//!   holds it; taken: 7; saves
//! ```
//!
//! Gifts of one node to another are numbered from 1 and there is one at a time on its way. A `Want` says which
//! was the last to arrive, so it is the acknowledgement, too: if the last one got lost, it is given again. A
//! reply is of use only to the state that asked for it. So each gift is held by exactly one of the two, whatever
//! is lost, late or doubled, and whoever crashes at whatever point.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::pool::{PEERS_MAX, Pool, RANGES_MAX, Share};
use super::range::Range;
use crate::gossip::NodeId;

/// What a node is short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Need {
    /// Any addresses, the more the better.
    Any,
    /// This one.
    Exactly(IpAddr),
}

/// Asks a node for addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// What for.
    pub need: Need,
    /// The number of the last gift that has come from the node that is asked.
    pub taken: u64,
}

/// What the other says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// As in the [`Want`].
    pub taken: u64,
    /// What there is for it.
    pub gift: Result<Gift, Unwilling>,
}

/// Addresses that change hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gift {
    /// Which gift of this node to that one it is.
    pub number: u64,
    /// The addresses.
    pub range: Range,
}

/// Why there is no gift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unwilling {
    /// It has none to give, and this is what it has.
    Nothing(Share),
    /// An endpoint of this name has that address.
    Leased(String),
    /// It remembers gifts that the asker has forgotten.
    Forgotten,
    /// It has forgotten gifts itself, or it takes the asker for removed.
    Unfit,
}

/// Why a gift was not taken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GiftError {
    /// It answers a question that is long settled.
    #[error("a late answer")]
    Late,
    /// Its giver is no member any more.
    #[error("its giver was removed")]
    Gone,
    /// Not of this subnet, numbered wrongly, or of what this node holds itself.
    #[error("a gift that can't be")]
    Nonsense,
}

impl Pool {
    /// The question that gets `need` from `node`.
    #[must_use]
    pub fn want(&self, node: NodeId, need: Need) -> Want {
        Want { need, taken: self.ledger.taken.get(&node).copied().unwrap_or(0) }
    }

    /// Answers another node's question. The pool must be saved before the answer is sent.
    pub fn handle_want(&mut self, from: NodeId, want: &Want) -> Reply {
        Reply { taken: want.taken, gift: self.give(from, want) }
    }

    fn give(&mut self, to: NodeId, want: &Want) -> Result<Gift, Unwilling> {
        if to == self.me || self.ledger.gone.contains(&to) || self.is_set_back() {
            return Err(Unwilling::Unfit);
        }
        let given = self.ledger.given.get(&to).copied().unwrap_or_default();
        if want.taken > given.last {
            self.ledger.set_back = true;
            return Err(Unwilling::Unfit);
        }
        if want.taken < given.last {
            let again = given.outstanding.filter(|_| want.taken + 1 == given.last);
            return again.map(|range| Gift { number: given.last, range }).ok_or(Unwilling::Forgotten);
        }
        if given.outstanding.is_some() {
            self.ledger.given.entry(to).or_default().outstanding = None;
            self.version += 1;
        }
        let range = self.spare(want.need)?;
        if self.ledger.given.len() >= PEERS_MAX && !self.ledger.given.contains_key(&to) {
            return Err(Unwilling::Nothing(self.share()));
        }
        self.held.remove(range);
        self.free.remove(range);
        self.version += 1;
        let given = self.ledger.given.entry(to).or_default();
        given.last += 1;
        given.outstanding = Some(range);
        Ok(Gift { number: given.last, range })
    }

    /// What can be given away for such a need.
    fn spare(&self, need: Need) -> Result<Range, Unwilling> {
        let nothing = || Unwilling::Nothing(self.share());
        if self.held.runs() >= RANGES_MAX {
            return Err(nothing());
        }
        match need {
            Need::Any => {
                let runs = self.free.within(self.space.dynamic());
                runs.max_by_key(|run| run.count()).map(Range::upper_half).ok_or_else(nothing)
            }
            Need::Exactly(address) => {
                let number = self.space.number(address).ok_or_else(nothing)?;
                match self.holders.get(&number) {
                    Some(holder) => Err(Unwilling::Leased(holder.clone())),
                    None if self.free.contains(number) => Ok(Range::one(number)),
                    None => Err(nothing()),
                }
            }
        }
    }

    /// Takes what a node has given. The pool must be saved before any of it is used.
    ///
    /// # Errors
    /// See [`GiftError`].
    pub fn take(&mut self, from: NodeId, taken: u64, gift: Gift) -> Result<(), GiftError> {
        if self.ledger.gone.contains(&from) {
            return Err(GiftError::Gone);
        }
        let last = self.ledger.taken.get(&from).copied().unwrap_or(0);
        if taken != last {
            return Err(GiftError::Late);
        }
        let bounds = self.space.bounds();
        let fits = gift.range.intersection(bounds) == Some(gift.range) && !self.held.touches(gift.range);
        let room = self.ledger.taken.len() < PEERS_MAX || self.ledger.taken.contains_key(&from);
        if last.checked_add(1) != Some(gift.number) || !fits || !room {
            return Err(GiftError::Nonsense);
        }
        self.ledger.taken.insert(from, gift.number);
        self.hold(gift.range);
        Ok(())
    }

    /// A node remembers gifts that this one has forgotten; of no meaning if it answers a question that is long
    /// settled.
    pub(super) fn note_forgotten(&mut self, from: NodeId, taken: u64) {
        if self.ledger.taken.get(&from).copied().unwrap_or(0) == taken {
            self.ledger.set_back = true;
        }
    }
}
