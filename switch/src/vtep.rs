//! Peers: the VXLAN tunnel end points (RFC 7348 §3) that share a network with this switch.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::counters::Traffic;

/// A peer of this switch. Never given twice in a switch's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VtepId(pub u32);

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct Vtep {
    /// Where its datagrams go; it may send from any port of that address.
    pub address: SocketAddr,
    /// Counters, shared by every snapshot.
    pub traffic: Arc<Traffic>,
}

/// The peers, by id and by address.
#[derive(Clone, Debug, Default)]
pub struct Vteps {
    by_id: HashMap<VtepId, Vtep, foldhash::fast::RandomState>,
    by_address: HashMap<IpAddr, VtepId, foldhash::fast::RandomState>,
}

impl Vteps {
    /// A peer by its id.
    #[must_use]
    pub fn peer(&self, id: VtepId) -> Option<&Vtep> {
        self.by_id.get(&id)
    }

    /// A peer by the address that its datagrams come from.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<VtepId> {
        self.by_address.get(&address).copied()
    }

    /// Peers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether no peer is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Every peer, in the order of ids.
    #[must_use]
    pub fn sorted(&self) -> Vec<(VtepId, &Vtep)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(&id, vtep)| (id, vtep)).collect();
        all.sort_unstable_by_key(|&(id, _)| id);
        all
    }

    pub(crate) fn insert(&mut self, id: VtepId, vtep: Vtep) {
        self.by_address.insert(vtep.address.ip(), id);
        self.by_id.insert(id, vtep);
    }

    pub(crate) fn remove(&mut self, id: VtepId) {
        if let Some(vtep) = self.by_id.remove(&id) {
            self.by_address.remove(&vtep.address.ip());
        }
    }
}
