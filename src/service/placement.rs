//! Which node runs which slot of a service, and how a slot changes hands: computed by each node for itself.
//!
//! **Assignment** is rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates",
//! 1998) with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", 2018): slots
//! are taken in their order, and each goes to the node that ranks highest for it among those with room. Of `n` slots
//! on `m` nodes a node has room for ⌊n/m⌋; and `n mod m` nodes, those that are the first to need it, for one more. So
//! of two nodes one never has more than one slot more than the other.
//!
//! With ⌈n/m⌉ for every node, as the paper has it, four slots on three nodes may leave a node without any. Room that
//! depends on `n mod m` moves a few slots when a service is scaled, too. When one of `m` nodes goes, its slots move and
//! others make room for them: in all 1.2 times as many as have to for 3 slots on 3 nodes, 1.6 times for 10 slots on 5
//! nodes and for 100 on 10 (`tests` measures it).
//!
//! **Apart.** A service whose tasks can't be beside each other has at most one slot on a node ([`fill_apart`]), and those that
//! have a node keep it: what there is to be spread is one for each.
//!
//! **Handing over.** Whoever owns a slot starts a task for it. Whoever has one and does not own it goes on until the
//! owner's own record has said for a second that it runs; then it drains and stops. If the slot itself is gone, it stops at once. So a
//! slot moves without a gap, and what both sides of a partition have started is one again after they have met.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest;

use crate::crypto::identity::NodeId;

#[cfg(test)]
mod tests;

/// The owner of each of `slots` slots of a service among `nodes`, which are those that may run its tasks: slot `i`'s is the
/// `i`-th. Nobody owns anything if there are no nodes.
///
/// The order of `nodes` is of no meaning. It takes `slots · nodes` steps and as many logarithmic ones.
#[must_use]
pub fn assign(service: &str, slots: u16, nodes: &[NodeId]) -> Vec<NodeId> {
    let mut loads: BTreeMap<NodeId, (u64, usize)> =
        nodes.iter().map(|&node| (node, (key(service, node), 0))).collect();
    if loads.is_empty() {
        return Vec::new();
    }
    let (most, mut larger) = (usize::from(slots) / loads.len(), usize::from(slots) % loads.len());
    let mut owners = Vec::with_capacity(slots.into());
    for slot in 0..slots {
        let room = |load: usize| load < most || (load == most && larger > 0);
        let with_room = loads.iter_mut().filter(|(_, (_, load))| room(*load));
        let highest = with_room.max_by_key(|(node, (key, _))| (rank(*key, slot), **node));
        let (&owner, (_, load)) = highest.expect("all nodes together have room for all slots");
        if *load == most {
            larger -= 1;
        }
        *load += 1;
        owners.push(owner);
    }
    owners
}

/// Gives each slot that has no owner the node of `free` that ranks highest for it, in the order of slots and each node once: as
/// long as there are some.
///
/// So a node that is not the owner of any is of no influence, and what comes to `free` later moves nothing.
pub fn fill_apart(service: &str, owners: &mut [Option<NodeId>], free: &BTreeSet<NodeId>) {
    let mut free: BTreeMap<NodeId, u64> = free.iter().map(|&node| (node, key(service, node))).collect();
    for (owner, slot) in owners.iter_mut().zip(0..).filter(|(owner, _)| owner.is_none()) {
        let highest = free.iter().max_by_key(|&(&node, &key)| (rank(key, slot), node));
        *owner = highest.map(|(&node, _)| node);
        if let Some(node) = owner {
            free.remove(node);
        }
    }
}

/// What a node and a service are to each other: the first 8 bytes of SHA-256 over the service's id and the node's.
fn key(service: &str, node: NodeId) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(service.as_bytes());
    context.update(node.as_bytes());
    let hash = context.finish();
    let (first, _) = hash.as_ref().split_first_chunk().expect("a digest has 32 bytes");
    u64::from_be_bytes(*first)
}

/// How high a node ranks for a slot: the slot's number of the sequence that its key begins (SplitMix64; Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
fn rank(key: u64, slot: u16) -> u64 {
    let mut z = key.wrapping_add((u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Who is to run a slot, in the eyes of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This node.
    Own,
    /// Another one; and whether its record says that it does.
    Other {
        /// Whether its task runs.
        runs: bool,
    },
    /// Nobody: the slot is gone, or no node may run it.
    Nobody,
}

/// What a node does about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// Starts a task for it.
    Start,
    /// Goes on with the one that it has.
    Keep,
    /// Lets no new connections come to it, and stops it when the others have ended or had their time.
    Drain,
    /// Stops it.
    Stop,
    /// Nothing.
    Nothing,
}

/// What a node is to do about a slot, whether it `has` a task for it or not.
#[must_use]
pub fn duty(owner: Owner, has: bool) -> Duty {
    match (owner, has) {
        (Owner::Own, false) => Duty::Start,
        (Owner::Own, true) | (Owner::Other { runs: false }, true) => Duty::Keep,
        (Owner::Other { runs: true }, true) => Duty::Drain,
        (Owner::Nobody, true) => Duty::Stop,
        (Owner::Other { .. } | Owner::Nobody, false) => Duty::Nothing,
    }
}
