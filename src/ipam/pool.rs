//! What one node holds of one subnet, and what it has to remember so that nothing is ever held twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::range::{Range, RangeSet};
use super::space::Space;
use super::survey::Survey;
use crate::gossip::NodeId;

/// Most runs that a node holds: each costs some forty bytes, on disk and in a [`super::Statement`]. Who has so
/// many gives nothing away that would cut one more.
pub const RANGES_MAX: usize = 4096;
/// Most nodes that a pool deals with: more than a cluster has.
pub const PEERS_MAX: usize = 4096;

/// One node's part of one subnet.
///
/// After each call that takes `&mut self` it must be [saved](Self::save) before anything that came of it is shown.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) me: NodeId,
    pub(super) space: Space,
    /// What this node may hand out or give away, leased or not.
    pub(super) held: RangeSet,
    /// What of it is neither leased nor reserved. Follows from the others, so it is not kept.
    pub(super) free: RangeSet,
    /// Which endpoint has which address.
    pub(super) leases: BTreeMap<String, u128>,
    /// The same the other way round.
    pub(super) holders: BTreeMap<u128, String>,
    /// The address handed out last.
    pub(super) cursor: u128,
    pub(super) ledger: Ledger,
    /// The removal of which nodes this one has seen settled by itself.
    pub(super) settled: BTreeSet<NodeId>,
    /// Counts changes of what it claims.
    pub(super) version: u64,
    pub(super) survey: Option<Survey>,
}

/// What it remembers of others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// What was given to each.
    pub(super) given: BTreeMap<NodeId, Given>,
    /// The number of the last gift from each.
    pub(super) taken: BTreeMap<NodeId, u64>,
    /// Members that have asked what we hold: whoever reclaims later asks them.
    pub(super) surveyors: BTreeSet<NodeId>,
    /// Nodes that were removed: nothing is given to them nor taken from them.
    pub(super) gone: BTreeSet<NodeId>,
    /// Others know of gifts that this node has no memory of: its disk was set back.
    pub(super) set_back: bool,
}

/// Gifts to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Given {
    /// The number of the last one; they count from 1.
    pub(super) last: u64,
    /// That one, until the other says that it has it. It is still claimed here, but not held.
    pub(super) outstanding: Option<Range>,
}

/// What a node tells of its pool to all, so that others know whom to ask and [`super::Refusal`] has numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Addresses that it holds, of those that can be chosen freely: `free` and `used` together.
    pub owned: u128,
    /// Those of them that are not leased.
    pub free: u128,
    /// Those of them that are.
    pub used: u128,
}

impl Pool {
    /// The pool of the node that makes the network: it holds all.
    #[must_use]
    pub fn found(me: NodeId, space: Space) -> Self {
        let mut pool = Self::join(me, space);
        pool.held = pool.space.bounds().into();
        pool.refresh_free();
        pool
    }

    /// The pool of any other node: it holds nothing yet.
    #[must_use]
    pub fn join(me: NodeId, space: Space) -> Self {
        // Next-fit begins with the first address.
        let cursor = space.dynamic().last();
        Self {
            me,
            space,
            held: RangeSet::default(),
            free: RangeSet::default(),
            leases: BTreeMap::new(),
            holders: BTreeMap::new(),
            cursor,
            ledger: Ledger::default(),
            settled: BTreeSet::new(),
            version: 0,
            survey: None,
        }
    }

    /// The subnet.
    #[must_use]
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// What it holds.
    #[must_use]
    pub fn held(&self) -> &RangeSet {
        &self.held
    }

    /// What to tell all of it.
    #[must_use]
    pub fn share(&self) -> Share {
        let dynamic = self.space.dynamic();
        let reserved = self.space.reserved_within(dynamic).filter(|&number| self.held.contains(number));
        let leased = self.holders.range(dynamic.first()..=dynamic.last());
        let used = leased.filter(|(number, _)| self.space.reserved(**number).is_none());
        Share {
            owned: self.held.count_within(dynamic) - reserved.count() as u128,
            free: self.free.count_within(dynamic),
            used: used.count() as u128,
        }
    }

    /// Has these addresses handed out to nobody from now on, as [`Space::keep`]. Leases of them stay; once released they
    /// are not free.
    pub fn keep<'a>(&mut self, kept: impl IntoIterator<Item = (IpAddr, &'a str)>) {
        self.space.keep(kept);
        self.refresh_free();
    }

    /// Whether others remember more of this node's gifts than it does itself: its disk holds an old state, so
    /// what it seems to hold may be another's. It hands out and gives nothing any more; what is leased stays.
    /// The node has to be removed and to join anew.
    #[must_use]
    pub fn is_set_back(&self) -> bool {
        self.ledger.set_back
    }

    /// These nodes were removed from the cluster, for ever: they get nothing, and nothing is taken from them.
    /// True if one of them was not known to be.
    pub fn note_gone(&mut self, gone: &BTreeSet<NodeId>) -> bool {
        let before = self.ledger.gone.len();
        self.ledger.gone.extend(gone.iter().filter(|&&node| node != self.me));
        if self.ledger.gone.len() == before {
            return false;
        }
        // What was on its way to them is nobody's now, whether it arrived or not: left to who reclaims.
        let Ledger { given, gone, .. } = &mut self.ledger;
        for (_, given) in given.iter_mut().filter(|(node, _)| gone.contains(node)) {
            given.outstanding = None;
        }
        self.version += 1;
        self.survey = None;
        true
    }

    /// As [`Self::note_gone`], and forgets those that are not named any more: whoever decides on removals does
    /// so when nothing can come of a node, since its certificate has long expired. All nodes then ask and answer
    /// by the same list, whenever they began to deal with this subnet. True if one was not known to be removed.
    pub fn follow_removals(&mut self, removed: &BTreeSet<NodeId>) -> bool {
        let over: Vec<NodeId> = self.ledger.gone.difference(removed).copied().collect();
        for node in &over {
            let Ledger { given, taken, surveyors, gone, .. } = &mut self.ledger;
            given.remove(node);
            taken.remove(node);
            surveyors.remove(node);
            gone.remove(node);
            self.settled.remove(node);
            self.version += 1;
            self.survey = None;
        }
        self.note_gone(removed)
    }

    /// Holds these from now on.
    pub(super) fn hold(&mut self, range: Range) {
        self.held.insert(range);
        self.free.insert(range);
        let reserved: Vec<u128> = self.space.reserved_within(range).collect();
        reserved.into_iter().for_each(|number| self.free.remove(Range::one(number)));
        self.version += 1;
    }

    /// Finds out anew what is free.
    pub(super) fn refresh_free(&mut self) {
        self.free = self.held.clone();
        for number in self.space.reserved_within(self.space.bounds()) {
            self.free.remove(Range::one(number));
        }
        self.holders.keys().for_each(|&number| self.free.remove(Range::one(number)));
    }
}
