//! A manager's door: lets in whoever shows a join token's secret, over TLS on TCP 2377.
//!
//! Strangers may knock, so everything is bounded ([`accept`]), also how much they say. A secret has 128 bits and is
//! compared in constant time, so guesses need no limit of their own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::time_provider::DefaultTimeProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use super::cluster::{Cluster, now_ms};
use super::credentials::secret_bytes;
use super::place::node_name;
use super::records::MemberRecord;
use super::wire::{self, Admission, Answer, AuthorityParts, Hex, Request};
use super::{accept, rights};
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::tls;
use crate::crypto::token::Secret;

/// Lets nodes in as long as this node is a manager, until it is dropped. `listener` is a socket that is open already.
pub(super) async fn keep(cluster: Arc<Cluster>, mut listener: Option<TcpListener>) {
    const PURPOSE: &str = "nodes that want to join";
    let mut role = cluster.role.subscribe();
    loop {
        // The cluster holds the other end.
        if role.wait_for(|role| *role == Role::Manager).await.is_err() {
            return;
        }
        let serving = async {
            let Some(address) = cluster.member().as_ref().map(|member| member.settings.listen) else {
                return;
            };
            let listener = match listener.take() {
                Some(listener) => listener,
                None => accept::listen(address, PURPOSE).await,
            };
            accept::serve(&listener, PURPOSE, &cluster.refused, |stream, from| {
                converse(stream, from, Arc::clone(&cluster))
            })
            .await;
        };
        let mut role = role.clone();
        tokio::select! {
            () = serving => {}
            _ = role.wait_for(|role| *role == Role::Worker) => {}
        }
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, cluster: Arc<Cluster>) -> io::Result<()> {
    let config = {
        let member = cluster.member();
        let member = member.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // Made anew for each: certificates are renewed meanwhile, and nodes seldom join.
        tls::join_server(&member.credentials(), Arc::new(DefaultTimeProvider)).map_err(io::Error::other)?
    };
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await?;
    let request: Request = wire::receive(&mut stream).await?;
    let answer = match admit(&request, from, &cluster) {
        Ok((record, node, admission)) => match cluster.write(&node.to_string(), &record).await {
            Ok(()) => Answer::Admitted(admission),
            Err(error) => {
                warn!("{from} could not join: {error}");
                Answer::Refused(error.to_string())
            }
        },
        Err(answer) => answer,
    };
    wire::send(&mut stream, &answer).await?;
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await?;
    match answer {
        Answer::Admitted(_) => Ok(()),
        Answer::WrongToken | Answer::Refused(_) => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Settles whether, and as what, a node comes in: what is written of it, and what it is given.
fn admit(
    request: &Request,
    from: SocketAddr,
    cluster: &Cluster,
) -> Result<(MemberRecord, NodeId, Admission), Answer> {
    let name = node_name(&request.name).map_err(|error| Answer::Refused(error.to_string()))?;
    if rights::tokens_differ(cluster) {
        return Err(Answer::Refused(
            "a token has been rotated elsewhere and this manager has yet to learn of it: try again, or ask another"
                .into(),
        ));
    }
    let member = cluster.member();
    let Some((member, authority)) =
        member.as_ref().and_then(|member| Some((member, member.authority.as_ref()?)))
    else {
        return Err(Answer::Refused("this node is no manager any more: ask another".into()));
    };
    let secret = request.secret.0.as_slice().try_into().ok();
    let Some(Ok(role)) = secret.map(|secret| authority.secrets.admit(&Secret::new(secret))) else {
        warn!("{from} wanted to join with a token that is not, or no longer, valid");
        return Err(Answer::WrongToken);
    };
    let random = SystemRandom::new();
    let signing = CertificateSigningRequestDer::from(request.request.0.to_vec());
    let issued = NodeId::random(&random).map_err(|error| error.to_string()).and_then(|node| {
        let certificate = authority.ca.issue(&signing, node, role, SystemTime::now(), &random);
        certificate.map(|certificate| (node, certificate)).map_err(|error| error.to_string())
    });
    let (node, certificate) = issued.map_err(|reason| {
        warn!("{from} could not join: {reason}");
        Answer::Refused(reason)
    })?;
    info!(name, version = %request.version.escape_debug(), "{from} joins as {role} {node}");
    let parts = || AuthorityParts {
        ca_key: Hex::new(&authority.ca.key().to_der()),
        secrets: Hex::new(&secret_bytes(&authority.secrets)),
    };
    let admission = Admission {
        certificate: Hex::new(&certificate),
        managers: member.managers(),
        ring: Hex::new(&cluster.keys.ring().encode()),
        authority: (role == Role::Manager).then(parts),
    };
    Ok((MemberRecord::new(name.into(), role, now_ms()), node, admission))
}
