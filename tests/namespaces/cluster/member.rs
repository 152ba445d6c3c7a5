//! A member's or a stranger's end of a connection on TCP 7946, made with the crypto crate.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result};
use ring::rand::SystemRandom;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConnection, StreamOwned};
use vswitchd::crypto::ca::{Ca, Certificate, Root};
use vswitchd::crypto::identity::{NodeId, PrivateKey, Role};
use vswitchd::crypto::tls::{self, Credentials, Refusal, Revocations};
use vswitchd::namespace::netns::NetNs;

use crate::fixture::PATIENCE;

/// What somebody shows.
pub(super) struct Papers {
    pub(super) root: Root,
    pub(super) certificate: Certificate,
    pub(super) key: PrivateKey,
}

impl Papers {
    /// Those of a node, copied from its state directory.
    pub(super) fn of(state: &Path) -> Result<Self> {
        let certificate = Certificate::from(fs::read(state.join("node.crt"))?);
        let key = PrivateKey::from_der(&fs::read(state.join("node.key"))?)?;
        Ok(Self { root: root(state)?, certificate, key })
    }

    /// Those that a CA gives to somebody new by its clock.
    pub(super) fn issue(root: &Root, ca: &Ca, role: Role, clock: SystemTime) -> Result<Self> {
        let (random, key) = (SystemRandom::new(), PrivateKey::generate(&SystemRandom::new())?);
        let certificate = ca.issue(&key.request(), NodeId::random(&random)?, role, clock, &random)?;
        Ok(Self { root: root.clone(), certificate, key })
    }

    pub(super) fn credentials(&self) -> Credentials<'_> {
        Credentials { root: &self.root, certificate: &self.certificate, key: &self.key }
    }
}

/// The CA's certificate in a node's state directory.
pub(super) fn root(state: &Path) -> Result<Root> {
    Ok(Root::from_der(&fs::read(state.join("ca.crt"))?)?)
}

/// The CA of a manager, as who has stolen its disk has it.
pub(super) fn authority(state: &Path) -> Result<Ca> {
    Ok(Ca::new(root(state)?, PrivateKey::from_der(&fs::read(state.join("ca.key"))?)?)?)
}

/// What somebody hears who calls a member.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It was let through, and what it said was no request.
    Welcome,
    /// It was not.
    Refused(Refusal),
}

/// Calls a member and says an empty message, which is no request.
pub(super) fn call(from: &NetNs, to: SocketAddr, papers: &Papers) -> Result<Heard> {
    let stream = from.run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let config =
        tls::member_client(&papers.credentials(), Revocations::default(), Arc::new(DefaultTimeProvider))?;
    let mut stream =
        StreamOwned::new(ClientConnection::new(Arc::new(config), tls::server_name(None))?, stream);
    // In TLS 1.3 a client is done before the server has looked at its certificate: the answer is what counts.
    let heard = stream.write_all(&[0; 4]).and_then(|()| stream.read(&mut [0; 1]));
    match heard {
        Ok(0) => Ok(Heard::Welcome),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Heard::Welcome),
        Ok(_) => anyhow::bail!("an answer to no request"),
        Err(error) => {
            let tls_error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
            let refusal = tls_error.and_then(tls::refusal);
            refusal.map(Heard::Refused).with_context(|| format!("the connection failed: {error}"))
        }
    }
}
