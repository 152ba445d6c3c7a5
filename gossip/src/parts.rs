//! What gossip asks of the program around it: sealing, bulk transfers, a store, signatures.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::codec::DecodeError;
use crate::engine::Authority;
use crate::id::NodeId;
use crate::message::BulkTransmit;

/// A datagram that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Who sealed it.
    pub sender: NodeId,
    /// Type byte.
    pub kind: u8,
    /// Content.
    pub bytes: Vec<u8>,
}

/// A datagram that can't be sealed or opened: forged, replayed, under an unknown key. It says no more on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("can't be sealed or opened")]
pub struct SealError;

/// What makes datagrams unreadable and unforgeable.
///
/// [`Self::open`] must refuse what isn't from a member, and what it has opened before: all else here relies on that.
pub trait Sealing: Send + Sync {
    /// The datagram for `bytes` of type `kind`, longer than these by [`crate::SEAL_LIMIT`] at most.
    ///
    /// # Errors
    /// If there is no key.
    fn seal(&self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, SealError>;

    /// What is in a datagram.
    ///
    /// # Errors
    /// If it isn't a member's, or was opened before.
    fn open(&self, datagram: &[u8]) -> Result<Opened, SealError>;
}

/// A reliable, authenticated way to another node, for what datagrams can't carry: TCP with mutual TLS.
pub trait Bulk: Send + Sync {
    /// Carries `transfer.bytes` to `transfer.node`, whose program hands them to [`crate::Gossip::deliver_bulk`]. A failure is
    /// the implementation's to report; what was lost is sent again.
    fn send(&self, transfer: BulkTransmit) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Where a node's memory is kept.
pub trait Store: Send + Sync + 'static {
    /// What was last saved; `None` at the first start.
    ///
    /// # Errors
    /// If it can't be read.
    fn load(&self) -> std::io::Result<Option<Vec<u8>>>;

    /// Saves durably, replacing what was. Called on a thread that may block.
    ///
    /// # Errors
    /// If it can't be written. It is tried again soon, with what is to be saved then.
    fn save(&self, bytes: &[u8]) -> std::io::Result<()>;
}

/// What the driver can't do without.
pub struct Parts {
    /// For datagrams.
    pub sealing: Arc<dyn Sealing>,
    /// For large transfers.
    pub bulk: Arc<dyn Bulk>,
    /// For restarts.
    pub store: Arc<dyn Store>,
    /// For cluster records.
    pub authority: Authority,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// Why gossip didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket.
    #[error("can't open UDP {0}: {1}")]
    Socket(SocketAddr, std::io::Error),
    /// The store.
    #[error("can't load the saved state: {0}")]
    Store(std::io::Error),
    /// What the store holds.
    #[error("the saved state is damaged: {0}")]
    Damaged(DecodeError),
}
