//! What gossip is given by the node: where it keeps its memory, who signs, and how large transfers go.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use tracing::debug;

use super::credentials::Shared;
use super::links::{Links, Request};
use super::records::node_id;
use crate::crypto::ca::Root;
use crate::crypto::peer::Revoked;
use crate::crypto::signing::sign;
use crate::gossip::cluster::{Signer, Verifier};
use crate::gossip::{self, Bulk, BulkTransmit, Store};
use crate::state::{StateDir, StateError};

const FILE: &str = "gossip";

/// Gossip's memory, in the state directory.
pub(super) struct Memory(pub(super) Arc<StateDir>);

/// Removes it.
pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
    state.remove(FILE)
}

impl Store for Memory {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        let bytes = self.0.read(FILE).map_err(io::Error::other)?;
        Ok(bytes.map(|bytes| bytes.to_vec()))
    }

    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(FILE, bytes).map_err(io::Error::other)
    }
}

/// Signs as the manager that this node is, if it is one.
pub(super) struct OwnSignature(pub(super) Shared);

impl Signer for OwnSignature {
    fn sign(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let member = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let member = member.as_ref().filter(|member| member.authority.is_some())?;
        Some(sign(&member.key, &member.certificate, bytes))
    }
}

/// Believes whoever is or was a manager.
///
/// Removed and demoted managers' records stay: the cluster's networks may be theirs. Nor would refusing their new ones
/// keep them from anything, since they have had the CA's key and can make managers.
pub(super) struct ManagersSignatures(pub(super) Root);

impl Verifier for ManagersSignatures {
    fn verify(&self, writer: gossip::NodeId, bytes: &[u8], signature: &[u8]) -> bool {
        let signed = self.0.verify_signed(bytes, signature, &Revoked::default());
        signed.is_ok_and(|peer| peer.node == node_id(writer))
    }
}

/// Carries what is too big for datagrams.
pub(super) struct LargeTransfers(pub(super) Links);

impl Bulk for LargeTransfers {
    fn send(&self, transfer: BulkTransmit) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let links = self.0.clone();
        Box::pin(async move {
            let BulkTransmit { node, to, bytes } = transfer;
            let node = node_id(node);
            if let Err(error) = links.ask(Some(node), to, &Request::Gossip(bytes)).await {
                debug!("can't send gossip to {node} at {to}, it is sent again: {error}");
            }
        })
    }
}
