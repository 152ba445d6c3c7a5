//! A manager's door: lets in whoever shows a join token's secret, over TLS on TCP 2377.
//!
//! Strangers may knock, so everything is bounded: how many at a time, how long each, how much they say. A secret has
//! 128 bits and is compared in constant time, so guesses need no limit of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::rand::SystemRandom;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::credentials::{Shared, secret_bytes};
use super::wire::{self, Admission, Answer, AuthorityParts, Hex, Request};
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::tls;
use crate::crypto::token::Secret;

/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait if descriptors are used up: accepting would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a port that somebody else has is tried again.
const BIND_PAUSE: Duration = Duration::from_secs(1);

/// Opens the door at `address`, as often as it takes, and lets nodes in until it is dropped. `listener` is one that
/// is open already.
pub(super) async fn keep(listener: Option<TcpListener>, address: SocketAddr, member: Shared) {
    let mut listener = listener;
    let mut told = false;
    let listener = loop {
        match listener.take() {
            Some(listener) => break listener,
            None => match TcpListener::bind(address).await {
                Ok(opened) => listener = Some(opened),
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        warn!("can't listen at {address} for nodes that want to join, trying on: {error}");
                    }
                    sleep(BIND_PAUSE).await;
                }
            },
        }
    };
    serve(&listener, &member).await;
}

async fn serve(listener: &TcpListener, member: &Shared) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("can't accept nodes that want to join: {error}");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Their results are logged where they arise; here they only make room.
        while connections.try_join_next().is_some() {}
        let member = Arc::clone(member);
        connections.spawn(async move {
            match timeout(PATIENCE, converse(stream, from, &member)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("{from} did not join: {error}"),
                Err(_) => debug!("{from} did not join: it took longer than {PATIENCE:?}"),
            }
            drop(permit);
        });
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, member: &Shared) -> io::Result<()> {
    let config = {
        let member = member.lock().expect("nothing panics under this lock");
        let member = member.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // Made anew for each: certificates are renewed meanwhile, and nodes seldom join.
        tls::join_server(&member.credentials(), Arc::new(DefaultTimeProvider)).map_err(io::Error::other)?
    };
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let request: Request = wire::receive(&mut stream).await?;
    let answer = admit(&request, from, member);
    wire::send(&mut stream, &answer).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await
}

/// Settles whether, and as what, a node comes in.
fn admit(request: &Request, from: SocketAddr, member: &Shared) -> Answer {
    let member = member.lock().expect("nothing panics under this lock");
    let Some((member, authority)) =
        member.as_ref().and_then(|member| Some((member, member.authority.as_ref()?)))
    else {
        return Answer::Refused("this node is no manager any more: ask another".into());
    };
    let secret = request.secret.0.as_slice().try_into().ok();
    let Some(Ok(role)) = secret.map(|secret| authority.secrets.admit(&Secret::new(secret))) else {
        warn!("{from} wanted to join with a token that is not, or no longer, valid");
        return Answer::WrongToken;
    };
    let random = SystemRandom::new();
    let signing = CertificateSigningRequestDer::from(request.request.0.to_vec());
    let issued = NodeId::random(&random).map_err(|error| error.to_string()).and_then(|node| {
        let certificate = authority.ca.issue(&signing, node, role, SystemTime::now(), &random);
        certificate.map(|certificate| (node, certificate)).map_err(|error| error.to_string())
    });
    let (node, certificate) = match issued {
        Ok(issued) => issued,
        Err(reason) => {
            warn!("{from} could not join: {reason}");
            return Answer::Refused(reason);
        }
    };
    info!(name = %request.name.escape_debug(), version = %request.version.escape_debug(), "{from} joins as {role} {node}");
    let parts = || AuthorityParts {
        ca_key: Hex::new(&authority.ca.key().to_der()),
        secrets: Hex::new(&secret_bytes(&authority.secrets)),
    };
    Answer::Admitted(Admission {
        certificate: Hex::new(&certificate),
        managers: member.managers(),
        authority: (role == Role::Manager).then(parts),
    })
}
