//! What other members are answered.

use std::sync::Arc;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use rustls::pki_types::CertificateSigningRequestDer;
use tracing::{debug, info, warn};

use super::cluster::Cluster;
use super::credentials::{Authority, secret_bytes};
use super::links::{Answer, AuthorityBytes, Conversation, LinkError, Request, SecretBytes};
use super::records::{MemberRecord, gossip_id};
use super::rights;
use crate::crypto::identity::Role;
use crate::crypto::keyring::KeyRing;
use crate::crypto::peer::Peer;

/// Answers one conversation.
pub(super) async fn answer(cluster: Arc<Cluster>, mut conversation: Conversation) -> Result<(), LinkError> {
    let request: Request = conversation.receive().await?;
    let peer = *conversation.peer();
    let answer = match request {
        Request::Gossip(bytes) => match cluster.gossip.deliver_bulk(gossip_id(peer.node), &bytes) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Refused(error.to_string()),
        },
        Request::TakeRing(bytes) => take_ring(&cluster, &peer, &bytes),
        Request::Ring if *cluster.role.borrow() == Role::Manager => {
            Answer::Ring(SecretBytes(cluster.keys.ring().encode()))
        }
        Request::Ring => Answer::Refused("this node is a worker: ask a manager".into()),
        Request::Certificate(request) => certificate(&cluster, &peer, request).await,
        Request::Authority => authority(&cluster, &peer),
        Request::Addresses(requests) => cluster.answer_addresses(peer.node, &requests),
        Request::TaskLog(question) => cluster.answer_log(&peer, &question).await,
        Request::Carry => {
            conversation.send(&Answer::Done).await?;
            cluster.mesh.serve(peer.node, conversation.into_stream());
            return Ok(());
        }
        Request::Session(number) => {
            cluster.answer_session(&mut conversation, number).await?;
            return conversation.close().await;
        }
    };
    conversation.send(&answer).await?;
    conversation.close().await
}

fn take_ring(cluster: &Cluster, peer: &Peer, bytes: &SecretBytes) -> Answer {
    let Ok(ring) = KeyRing::decode(&bytes.0) else {
        return Answer::Refused("what was sent is no key ring".into());
    };
    match cluster.keys.merge(ring, peer.role) {
        Ok(changed) => {
            if changed {
                cluster.data_changed.notify_one();
                debug!("{} handed on the shared keys: epoch {}", peer.node, cluster.keys.ring().epoch());
            }
            Answer::Done
        }
        Err(error) => {
            warn!("can't take the key ring of {}: {error}", peer.node);
            Answer::Refused(error.to_string())
        }
    }
}

/// A certificate of the role that is written for a node.
async fn certificate(cluster: &Arc<Cluster>, peer: &Peer, request: Vec<u8>) -> Answer {
    let written = cluster.members().into_iter().find(|&(node, _)| node == peer.node);
    let Some((_, MemberRecord { role, .. })) = written else {
        return Answer::Refused("this manager has not heard yet that you are a member: ask again".into());
    };
    let role = Role::from(role);
    if peer.role == Role::Manager
        && role == Role::Worker
        && let Err(error) = rights::revoke(cluster, peer).await
    {
        return Answer::Refused(error.to_string());
    }
    let member = cluster.member();
    let Some(authority) = member.as_ref().and_then(|member| member.authority.as_ref()) else {
        return Answer::Refused("this node is a worker: ask a manager".into());
    };
    let request = CertificateSigningRequestDer::from(request);
    match authority.ca.renew(peer, role, &request, SystemTime::now(), &SystemRandom::new()) {
        Ok(certificate) => {
            info!("signed a certificate for {} as a {role}", peer.node);
            let parts = (role == Role::Manager).then(|| parts(authority));
            Answer::Certificate(certificate.to_vec(), parts)
        }
        Err(error) => Answer::Refused(error.to_string()),
    }
}

/// What managers share with each other.
fn authority(cluster: &Cluster, peer: &Peer) -> Answer {
    let member = cluster.member();
    match member.as_ref().and_then(|member| member.authority.as_ref()) {
        Some(authority) if peer.role == Role::Manager => Answer::Authority(parts(authority)),
        Some(_) => Answer::Refused("that is for managers".into()),
        None => Answer::Refused("this node is a worker: ask a manager".into()),
    }
}

fn parts(authority: &Authority) -> AuthorityBytes {
    AuthorityBytes {
        ca_key: SecretBytes(authority.ca.key().to_der()),
        secrets: SecretBytes(secret_bytes(&authority.secrets)),
    }
}
