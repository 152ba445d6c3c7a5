//! Keys for data, taken from a TLS connection between two members.
//!
//! Both ends of a TLS 1.3 connection can draw the same further secrets from it (RFC 8446 §7.5, the interface of RFC
//! 5705), which nobody gets who has recorded the connection and steals a certificate's key later: its key exchange
//! was of the moment (forward secrecy). Here the label says what the secret is for, and the context which one of
//! them it is:
//!
//! ```text
//!   0             16            32              36          44
//!  +-------------+-------------+---------------+-----------+
//!  |   sender    |  receiver   |    session    |  renewal  |
//!  +-------------+-------------+---------------+-----------+
//!   node id       node id       the receiver's  of this
//!                               number for it   connection
//! ```
//!
//! Sender and receiver make one key for each direction, which no third node has. The renewal's number makes each
//! key of a long connection another, even if a session number comes up again.

use rustls::Error;
use zeroize::Zeroizing;

use crate::envelope::SessionId;
use crate::identity::{ID_LEN, NodeId};
use crate::key::{KEY_LEN, Key};

/// RFC 5705 §4: labels that begin so need no registration.
const LABEL: &[u8] = b"EXPERIMENTAL vswitchd data 1";
const CONTEXT_LEN: usize = 2 * ID_LEN + 4 + 8;

/// Keys of two directions. Each is for one [`crate::seal::Sealer`] or one [`crate::open::Opener`], ever.
#[derive(Debug)]
pub struct SessionKeys {
    /// For what we send: its session is the peer's number.
    pub send: Key,
    /// For what we receive: its session is our number.
    pub receive: Key,
}

/// The numbers that two ends have agreed on for a pair of keys, as one of them sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The peer's number for what we send.
    pub send: SessionId,
    /// Our number for what we receive.
    pub receive: SessionId,
    /// Which renewal of the connection this is. The end that asks counts them, from 0, and says the number.
    pub renewal: u64,
}

/// Why there are no keys.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ExportError {
    /// The number is not above those used before on the connection: the same keys would come out again, and with
    /// them the same nonces.
    #[error("renewal {0} of the connection has been used before")]
    Used(u64),
    /// The handshake is not done.
    #[error(transparent)]
    Tls(#[from] Error),
}

/// What one connection between two members gives keys from: one for each connection, kept as long as it.
#[derive(Debug)]
pub struct Exporter {
    own: NodeId,
    peer: NodeId,
    next: u64,
}

impl Exporter {
    /// For a connection to this peer, as [`crate::tls::peer`] names it.
    #[must_use]
    pub fn new(own: NodeId, peer: NodeId) -> Self {
        Self { own, peer, next: 0 }
    }

    /// The number that the next renewal asked for by this end should have.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The keys for what has been agreed. `export` is the connection's `export_keying_material`: output, label,
    /// context.
    ///
    /// # Errors
    /// See [`ExportError`]; the number is not used up.
    pub fn session_keys(
        &mut self,
        agreed: Agreed,
        mut export: impl FnMut(&mut [u8], &[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<SessionKeys, ExportError> {
        if agreed.renewal < self.next || agreed.renewal == u64::MAX {
            return Err(ExportError::Used(agreed.renewal));
        }
        let mut key = |sender: NodeId, receiver: NodeId, session: SessionId| {
            let mut bytes = Zeroizing::new([0; KEY_LEN]);
            export(&mut *bytes, LABEL, &context(sender, receiver, session, agreed.renewal))?;
            Ok::<_, Error>(Key::new(&bytes))
        };
        let keys = SessionKeys {
            send: key(self.own, self.peer, agreed.send)?,
            receive: key(self.peer, self.own, agreed.receive)?,
        };
        self.next = agreed.renewal + 1;
        Ok(keys)
    }
}

fn context(sender: NodeId, receiver: NodeId, session: SessionId, renewal: u64) -> [u8; CONTEXT_LEN] {
    let mut context = [0; CONTEXT_LEN];
    context[..16].copy_from_slice(sender.as_bytes());
    context[16..32].copy_from_slice(receiver.as_bytes());
    context[32..36].copy_from_slice(&session.id().to_be_bytes());
    context[36..].copy_from_slice(&renewal.to_be_bytes());
    context
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ring::digest::{SHA256, digest};

    use super::*;

    /// In place of a connection: a hash of what is asked for. The real one is in the tests of `tls`.
    fn export(output: &mut [u8], label: &[u8], context: &[u8]) -> Result<(), Error> {
        output.copy_from_slice(digest(&SHA256, &[label, context].concat()).as_ref());
        Ok(())
    }

    fn agreed(send: u32, receive: u32, renewal: u64) -> Agreed {
        let session = |id| SessionId::new(id).unwrap();
        Agreed { send: session(send), receive: session(receive), renewal }
    }

    fn ids() -> (NodeId, NodeId) {
        (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]))
    }

    #[test]
    fn contexts_differ_in_direction_session_and_renewal() {
        let (a, b) = ids();
        let session = |id| SessionId::new(id).unwrap();
        let mut seen = HashSet::new();
        for (sender, receiver) in [(a, b), (b, a)] {
            for id in 0..3 {
                for renewal in 0..3 {
                    assert!(seen.insert(context(sender, receiver, session(id), renewal)));
                }
            }
        }
    }

    #[test]
    fn no_number_gives_keys_twice() {
        let (own, peer) = ids();
        let mut exporter = Exporter::new(own, peer);
        assert!(exporter.session_keys(agreed(1, 2, 0), export).is_ok());
        assert_eq!(exporter.session_keys(agreed(1, 2, 0), export).err(), Some(ExportError::Used(0)));
        assert!(exporter.session_keys(agreed(1, 2, 7), export).is_ok());
        assert_eq!(exporter.session_keys(agreed(3, 4, 6), export).err(), Some(ExportError::Used(6)));
        assert_eq!(exporter.next(), 8);
        let last = exporter.session_keys(agreed(3, 4, u64::MAX), export);
        assert_eq!(last.err(), Some(ExportError::Used(u64::MAX)));
    }

    #[test]
    fn a_failed_export_uses_nothing_up() {
        let (own, peer) = ids();
        let mut exporter = Exporter::new(own, peer);
        let failed = exporter.session_keys(agreed(1, 2, 0), |_, _, _| Err(Error::HandshakeNotComplete));
        assert_eq!(failed.err(), Some(ExportError::Tls(Error::HandshakeNotComplete)));
        assert!(exporter.session_keys(agreed(1, 2, 0), export).is_ok());
    }
}
