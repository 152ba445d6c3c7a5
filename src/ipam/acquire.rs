//! One endpoint's way to an address: its own node first, then the others, those with the most free addresses
//! before the rest. It ends at once with an address or with the reason and the numbers: nobody is waited for who
//! is known to be dead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::donation::{Need, Reply, Unwilling, Want};
use super::lease::Outcome;
use super::pool::{Pool, Share};
use super::refusal::Refusal;
use crate::gossip::NodeId;

/// Most gifts for one address. One is enough, unless other endpoints of this node are quicker to take what it
/// brought.
pub const GIFTS_MAX: u32 = 16;

/// Another node, as far as is known from what it said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    /// What it has.
    pub share: Share,
    /// Whether it can be asked.
    pub alive: bool,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It has an address.
    Leased(IpAddr),
    /// Ask this node. Then [`Acquire::handle_reply`] or [`Acquire::handle_silence`], and the next step.
    Ask(NodeId, Want),
    /// It gets none.
    Refused(Refusal),
}

/// The search for one endpoint's address.
#[derive(Clone, Debug)]
pub struct Acquire {
    holder: String,
    wanted: Option<IpAddr>,
    /// Who has nothing for us, and what it has instead.
    asked: BTreeMap<NodeId, Option<Share>>,
    silent: BTreeSet<NodeId>,
    gifts: u32,
    refused: Option<Refusal>,
}

impl Acquire {
    /// For the endpoint `holder`, which wants this address or any.
    pub fn new(holder: impl Into<String>, wanted: Option<IpAddr>) -> Self {
        Self {
            holder: holder.into(),
            wanted,
            asked: BTreeMap::new(),
            silent: BTreeSet::new(),
            gifts: 0,
            refused: None,
        }
    }

    /// Leases from `pool`, or says whom to ask. `others` are the network's other nodes, dead ones too.
    pub fn step(&mut self, pool: &mut Pool, others: &BTreeMap<NodeId, Other>) -> Step {
        let need = match pool.lease(&self.holder, self.wanted) {
            Outcome::Leased(address) => return Step::Leased(address),
            Outcome::Refused(refusal) => return Step::Refused(refusal),
            Outcome::Ask(need) => need,
        };
        if let Some(refusal) = self.refused.take() {
            return Step::Refused(refusal);
        }
        if pool.held().runs() >= super::pool::RANGES_MAX || self.gifts >= GIFTS_MAX {
            return Step::Refused(Refusal::Limit);
        }
        let untried = others.iter().filter(|(node, other)| {
            other.alive
                && **node != pool.me
                && !self.asked.contains_key(node)
                && !self.silent.contains(node)
                && !pool.ledger.gone.contains(node)
        });
        match untried.max_by_key(|(node, other)| (other.share.free, std::cmp::Reverse(**node))) {
            Some((&node, _)) => Step::Ask(node, pool.want(node, need)),
            None => Step::Refused(self.exhausted(pool, others, need)),
        }
    }

    /// A node has answered. The pool must be saved before the next step's outcome is used.
    pub fn handle_reply(&mut self, pool: &mut Pool, from: NodeId, reply: &Reply) {
        let had = match &reply.gift {
            Ok(gift) => match pool.take(from, reply.taken, *gift) {
                Ok(()) => {
                    self.gifts += 1;
                    return;
                }
                Err(_) => None,
            },
            Err(Unwilling::Nothing(share)) => Some(*share),
            Err(Unwilling::Leased(holder)) => {
                if let Some(address) = self.wanted {
                    self.refused = Some(Refusal::Taken { address, holder: holder.clone(), node: from });
                }
                None
            }
            Err(Unwilling::Forgotten) => {
                pool.note_forgotten(from, reply.taken);
                None
            }
            Err(Unwilling::Unfit) => None,
        };
        self.asked.insert(from, had);
    }

    /// A node can't be asked, or doesn't answer.
    pub fn handle_silence(&mut self, node: NodeId) {
        self.silent.insert(node);
    }

    fn exhausted(&self, pool: &Pool, others: &BTreeMap<NodeId, Other>, need: Need) -> Refusal {
        let others = others.iter().filter(|(node, _)| **node != pool.me);
        let shares: Vec<(bool, Share)> = others
            .map(|(node, other)| match self.asked.get(node) {
                Some(said) => (true, said.unwrap_or(other.share)),
                None => (false, other.share),
            })
            .collect();
        let missing = shares.iter().filter(|(asked, _)| !asked);
        if let Need::Exactly(address) = need {
            return Refusal::Unheld { address, nodes: missing.count() };
        }
        let used = shares.iter().fold(pool.share().used, |sum, (_, share)| sum.saturating_add(share.used));
        let (subnet, capacity) = (pool.space().to_string(), pool.space().capacity());
        let with_free: Vec<u128> = missing.map(|(_, share)| share.free).filter(|&free| free > 0).collect();
        if with_free.is_empty() {
            let virtuals = pool.space().kept_count();
            return Refusal::Full { subnet, used, capacity, virtuals };
        }
        let free = with_free.iter().fold(0_u128, |sum, free| sum.saturating_add(*free));
        Refusal::OutOfReach { subnet, used, capacity, nodes: with_free.len(), free }
    }
}
