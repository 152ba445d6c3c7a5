//! Names of things: nodes, one life of a node, tables; and the time that everything here is told.

use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Who a node is, for ever: what its certificate names, as 16 bytes. The caller says how it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 16]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A node as the others see it: where it is, and which of its lives this is.
///
/// Of two peers of one node, the one with the larger `(life, renewal)` counts, so a restart supersedes what was before,
/// and a new address is a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Peer {
    /// Who.
    pub node: NodeId,
    /// Where its gossip socket is reached.
    pub addr: SocketAddr,
    /// Grows with every start of the node's process: milliseconds since 1970 at the start will do. If it doesn't, since
    /// the clock was set back, the others say what they know, and the node moves its life past that by itself.
    pub life: u64,
    /// Grows within a life, with every change of address.
    pub renewal: u32,
}

impl Peer {
    /// Which of two of a node is the later.
    pub(crate) fn age(&self) -> (u64, u32) {
        (self.life, self.renewal)
    }
}

/// A table of records. Whose records these are follows from the number: below 128 each node's own, from 128 on the
/// cluster's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId(u8);

impl TableId {
    const CLUSTER: u8 = 128;

    /// Table `number` of owned records.
    ///
    /// # Panics
    /// At compile time when used in a constant, if `number` is over 127.
    pub const fn owned(number: u8) -> Self {
        assert!(number < Self::CLUSTER, "owned tables are 0 to 127");
        Self(number)
    }

    /// Table `number` of cluster records.
    ///
    /// # Panics
    /// At compile time when used in a constant, if `number` is over 127.
    pub const fn cluster(number: u8) -> Self {
        assert!(number < Self::CLUSTER, "cluster tables are 0 to 127");
        Self(number + Self::CLUSTER)
    }

    /// Whether its records belong to the cluster and not to a node.
    pub const fn is_cluster(self) -> bool {
        self.0 >= Self::CLUSTER
    }

    pub(crate) const fn byte(self) -> u8 {
        self.0
    }
}

/// The time of an event, as its driver or a simulation tells it.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For intervals.
    pub at: Instant,
    /// For stamps: milliseconds since 1970, UTC. May jump.
    pub wall_ms: u64,
}
