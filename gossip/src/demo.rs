//! Parts that protect nothing and remember nothing: for examples and tests of what stands above gossip.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::{Signer, Verifier};
use crate::engine::{Authority, Settings};
use crate::id::{NodeId, Peer};
use crate::message::BulkTransmit;
use crate::parts::{Bulk, Opened, Parts, SealError, Sealing, Store};

/// Datagrams in the clear, under whatever name the sender gives; signatures that mean nothing; no disk, and no bulk.
#[derive(Clone, Copy, Debug)]
pub struct Unprotected(pub NodeId);

impl Unprotected {
    /// All parts of a node that trusts everybody.
    pub fn parts(node: NodeId) -> Parts {
        let all = Arc::new(Self(node));
        let authority = Authority { signer: all.clone(), verifier: all.clone() };
        Parts { sealing: all.clone(), bulk: all.clone(), store: all, authority }
    }
}

/// Settings of a node's first life.
pub fn settings(node: NodeId, addr: SocketAddr, seeds: &[SocketAddr]) -> Settings {
    let me = Peer { node, addr, life: 1, renewal: 0 };
    Settings { me, seeds: seeds.to_vec(), random: u64::from(node.0[0]) }
}

impl Sealing for Unprotected {
    fn seal(&self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok([&self.0.0[..], &[kind], bytes].concat())
    }

    fn open(&self, datagram: &[u8]) -> Result<Opened, SealError> {
        let (sender, rest) = datagram.split_first_chunk().ok_or(SealError)?;
        let (kind, bytes) = rest.split_first().ok_or(SealError)?;
        Ok(Opened { sender: NodeId(*sender), kind: *kind, bytes: bytes.to_vec() })
    }
}

impl Bulk for Unprotected {
    fn send(&self, _: BulkTransmit) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(std::future::ready(()))
    }
}

impl Store for Unprotected {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn save(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

impl Signer for Unprotected {
    fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

impl Verifier for Unprotected {
    fn verify(&self, _: NodeId, _: &[u8], _: &[u8]) -> bool {
        true
    }
}
