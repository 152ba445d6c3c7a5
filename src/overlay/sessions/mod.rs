//! Keys for the data of each peer with which a sealed network is shared: agreed on, installed in the switch, renewed.
//!
//! [`Sessions`] drives a [`Renewal`](crate::crypto::renewal::Renewal) for each of those peers. Numbers and keys are
//! exchanged in conversations that are somebody else's matter: as the one that asks through [`Agree`], as the one that
//! is asked through [`Sessions::answer`]. One conversation, of which each end sees its half:
//!
//! ```text
//!   asks                                     answers
//!    Agree::ask(peer, receive) ---------------> Sessions::answer(peer, send) gives `receive`
//!                                               Answering::install(keys): the opener is in the switch
//!    <------ Agreement { send, keys } --------- and only then the answer goes out
//!    opener and sealer are in the switch
//!    Confirm::confirm() ----------------------> Answered::confirmed(): the sealer is in the switch
//! ```
//!
//! Keys live in the sealers and openers made of them, which go with the peer; they are wiped as far as
//! [`crate::crypto::key`] says. Nothing of them is ever printed. A peer that starts anew or moves is asked for new
//! keys at once; what it had before goes as any old key does, when newer ones have been heard for a while.

mod driver;
mod number;
mod peer;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;

pub use self::driver::{ASKS_MAX, Answered, Answering, HEARD, SECOND_ASKS, SessionPeer, Sessions};
pub use self::peer::SessionReport;
use crate::crypto::envelope::SessionId;
use crate::crypto::exporter::SessionKeys;
use crate::crypto::identity::NodeId;
use crate::switch::tables::TableError;

/// What a conversation comes to.
pub type Agreeing<T> = Pin<Box<dyn Future<Output = Result<T, AgreeError>> + Send>>;

/// Connections to other members, for agreeing on keys.
pub trait Agree: Send + Sync {
    /// Tells a peer our number for what we are going to receive, and gets its number for what we are going to send.
    ///
    /// It may be dropped at any moment, and is after [`crate::crypto::renewal::ANSWER`].
    fn ask(&self, peer: NodeId, receive: SessionId) -> Agreeing<Agreement>;
}

/// What a peer has agreed to.
pub struct Agreement {
    /// The peer's number.
    pub send: SessionId,
    /// Keys of both directions, for the two numbers.
    pub keys: SessionKeys,
    /// The way to tell the peer that we have them.
    pub confirm: Box<dyn Confirm>,
}

impl std::fmt::Debug for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agreement").field("send", &self.send).finish_non_exhaustive()
    }
}

/// The rest of a conversation.
pub trait Confirm: Send {
    /// Tells the peer that we open what it seals with the new key.
    fn confirm(self: Box<Self>) -> Agreeing<()>;
}

/// Why there was no agreement. What was in use stays so, and the peer is asked again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgreeError {
    /// There is no connection, or it broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// The peer answered that it will not.
    #[error("refused: {0}")]
    Refused(String),
    /// The peer did not answer in time.
    #[error("no answer in time")]
    Timeout,
    /// The connection gives no keys.
    #[error("no keys: {0}")]
    Keys(String),
}

/// Why a peer that asks is refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// No sealed network is shared with it, as far as is known here.
    #[error("no sealed network is shared")]
    NotShared,
    /// We are just asking it, or there have been too many renewals of late; it may try again.
    #[error("not now")]
    NotNow,
    /// Every number is taken, or the switch takes no more keys.
    #[error("no room for a session")]
    NoRoom,
    /// The switch does not take the key.
    #[error(transparent)]
    Table(#[from] TableError),
}
