//! The key ring of this node: kept before it is used, and what seals and opens gossip by it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ring::rand::SystemRandom;
use tokio::sync::Notify;

use crate::crypto::envelope::TAG_LEN;
use crate::crypto::group::{GroupOpener, GroupSealer, HEADER_LEN, OVERHEAD, OpenError};
use crate::crypto::identity::{NoRandomness, NodeId, Role};
use crate::crypto::keyring::{KeyRing, Merged, NotAManager, RotateError};
use crate::crypto::tls::Revocations;
use crate::gossip::{Opened, SealError, Sealing};
use crate::state::{StateDir, StateError};

use super::records::gossip_id;

const FILE: &str = "key-ring";

/// Why the ring is as it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// It could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// There is no randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// No other ring can be made of it.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// It came from a worker.
    #[error(transparent)]
    NotAManager(#[from] NotAManager),
}

/// The ring and its two ends.
pub(super) struct Keys {
    state: Arc<StateDir>,
    node: NodeId,
    revoked: Revocations,
    inner: Mutex<Inner>,
    /// Somebody seals with keys that we should have.
    outdated: Notify,
}

struct Inner {
    ring: KeyRing,
    sealer: GroupSealer,
    opener: GroupOpener,
}

/// Keeps a ring, as `init` and `join` do before anything runs.
pub(super) fn store(state: &StateDir, ring: &KeyRing) -> Result<(), StateError> {
    state.write(FILE, &ring.encode())
}

/// Removes it.
pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
    state.remove(FILE)
}

impl Keys {
    /// With the ring that was kept.
    pub(super) fn load(state: Arc<StateDir>, node: NodeId, revoked: Revocations) -> Result<Self, KeysError> {
        let bytes = state.read(FILE)?.ok_or_else(|| state.corrupt(FILE, "it is missing".into()))?;
        let ring = KeyRing::decode(&bytes).map_err(|error| state.corrupt(FILE, error.to_string()))?;
        let sealer = GroupSealer::new(node, &ring, &SystemRandom::new())?;
        let opener = GroupOpener::new(node, ring.clone());
        let inner = Mutex::new(Inner { ring, sealer, opener });
        Ok(Self { state, node, revoked, inner, outdated: Notify::new() })
    }

    /// The ring.
    pub(super) fn ring(&self) -> KeyRing {
        self.inner().ring.clone()
    }

    /// Settles it with another's. Gives whether it changed.
    pub(super) fn merge(&self, other: KeyRing, from: Role) -> Result<bool, KeysError> {
        self.change(|ring| Ok(ring.merge(other, from)? == Merged::Taken))
    }

    /// Goes on to the next key.
    pub(super) fn rotate(&self, now: SystemTime) -> Result<(), KeysError> {
        self.change(|ring| ring.rotate(now, &SystemRandom::new()).map(|()| true).map_err(Into::into))
            .map(drop)
    }

    /// Goes on with keys that nobody has had.
    pub(super) fn expel(&self, now: SystemTime) -> Result<(), KeysError> {
        self.change(|ring| ring.expel(now, &SystemRandom::new()).map(|()| true).map_err(Into::into)).map(drop)
    }

    /// Forgets keys that have had their time.
    pub(super) fn age(&self, now: SystemTime) -> Result<bool, KeysError> {
        self.change(|ring| Ok(ring.handle(now)))
    }

    /// Returns when there may be a newer ring to ask for.
    pub(super) async fn outdated(&self) {
        self.outdated.notified().await;
    }

    /// On disk first: a ring that is in use is never lost.
    fn change(
        &self,
        change: impl FnOnce(&mut KeyRing) -> Result<bool, KeysError>,
    ) -> Result<bool, KeysError> {
        let mut inner = self.inner();
        let mut ring = inner.ring.clone();
        if !change(&mut ring)? {
            return Ok(false);
        }
        store(&self.state, &ring)?;
        inner.sealer.update(&ring, &SystemRandom::new())?;
        inner.opener.update(ring.clone());
        inner.ring = ring;
        Ok(true)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("node", &self.node)
            .field("epoch", &self.ring().epoch())
            .finish_non_exhaustive()
    }
}

impl Sealing for Keys {
    fn seal(&self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut datagram = Vec::with_capacity(OVERHEAD + 1 + bytes.len());
        datagram.resize(HEADER_LEN, 0);
        datagram.push(kind);
        datagram.extend_from_slice(bytes);
        datagram.resize(datagram.len() + TAG_LEN, 0);
        self.inner().sealer.seal(&mut datagram).map_err(|_| SealError)?;
        Ok(datagram)
    }

    fn open(&self, datagram: &[u8]) -> Result<Opened, SealError> {
        let mut datagram = datagram.to_vec();
        let opened = self.inner().opener.open(&mut datagram).map_err(|error| {
            if let OpenError::UnknownEpoch { newer: true } = error {
                self.outdated.notify_one();
            }
            SealError
        })?;
        if self.revoked.load().has_node(opened.sender) {
            return Err(SealError);
        }
        let (&kind, bytes) = datagram[opened.plaintext].split_first().ok_or(SealError)?;
        Ok(Opened { sender: gossip_id(opened.sender), kind, bytes: bytes.to_vec() })
    }
}
