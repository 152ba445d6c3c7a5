//! What the engine says to its driver and to the rest of the program: events, refusals, things to be sent.

use std::sync::Arc;

use crate::codec::DecodeError;
use crate::id::{NodeId, Peer, TableId};
use crate::message::{BulkTransmit, Transmit};

/// Something that the rest of the program may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is alive; again for the same one when it has restarted or moved.
    Up(Peer),
    /// A node is dead or, if `left`, has gone by its own wish.
    Down {
        /// Which.
        node: NodeId,
        /// Whether it said so itself.
        left: bool,
    },
    /// A node that has come up knows the records that are ours.
    KnowsUs(NodeId),
    /// A visible record has another value, or is gone.
    Changed(Changed),
}

/// A change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Of which table.
    pub table: TableId,
    /// Whose; `None` for a cluster record.
    pub owner: Option<NodeId>,
    /// Its key.
    pub key: String,
    /// Its value; `None` when deleted, or when its owner is gone.
    pub value: Option<Arc<[u8]>>,
}

/// Why a datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Sealed by ourselves.
    #[error("our own datagram")]
    Own,
    /// The second copy of one that has been handled.
    #[error("second copy")]
    Duplicate,
    /// A type byte that isn't ours.
    #[error("unknown kind {0}")]
    Kind(u8),
    /// No message.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// foca can't read it.
    #[error("malformed SWIM message")]
    Swim,
    /// It speaks for another node than the one that sealed it.
    #[error("speaks for another node")]
    Impostor,
    /// Of a node that has left, or that isn't known yet.
    #[error("not a member")]
    Stranger,
}

/// What is to be done after an input.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sealed and sent.
    pub transmits: Vec<Transmit>,
    /// To be sent over the reliable way.
    pub bulks: Vec<BulkTransmit>,
    /// To be told.
    pub events: Vec<Event>,
}
