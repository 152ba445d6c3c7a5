//! Role, certificate and tokens: brings what this node holds in line with what managers have written.
//!
//! | written | held | what is done |
//! |---|---|---|
//! | manager | worker's certificate | asks a manager for a certificate, and what only managers have |
//! | worker | manager's certificate | makes itself a worker's, has the other revoked, forgets what only managers have |
//! | – | a certificate two thirds through its life | asks for another; a manager signs its own |
//! | a token's digest | another secret | a manager asks the others for it, and admits nobody by that token meanwhile |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ring::rand::SystemRandom;
use tracing::{debug, info, warn};

use super::cluster::{Cluster, WriteError};
use super::credentials::{Authority, secrets_of};
use super::links::{Answer, AuthorityBytes, LinkError, Request};
use super::records::{MemberRecord, RevokedSerial, TokenState};
use crate::crypto::ca::{Ca, Certificate, IssueError, Root};
use crate::crypto::identity::{PrivateKey, Role};
use crate::crypto::peer::{Peer, PeerError};
use crate::state::StateError;

/// How often it is looked, if nothing happens.
const CHECK: Duration = Duration::from_secs(60);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Why something is not as it should be yet.
#[derive(Debug, thiserror::Error)]
enum RightsError {
    #[error("no other manager is there to ask")]
    NoManager,
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("what it sent makes no sense")]
    Nonsense,
    #[error("the certificate: {0}")]
    Certificate(#[from] PeerError),
    #[error("the certificate: {0}")]
    Issue(#[from] IssueError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Until the cluster ends.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    let mut last = String::new();
    loop {
        let pause = match look_after(&cluster).await {
            Ok(()) => {
                last.clear();
                CHECK
            }
            Err(error) => {
                if let RightsError::Link(error) = &error
                    && error.is_removed()
                {
                    cluster.note_removed();
                }
                let error = error.to_string();
                if error != last {
                    warn!("role, certificate and tokens are not up to date yet: {error}");
                    last = error;
                }
                RETRY
            }
        };
        tokio::select! {
            () = cluster.rights_changed.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn look_after(cluster: &Arc<Cluster>) -> Result<(), RightsError> {
    let wanted = cluster.gossip.list::<MemberRecord>().into_iter();
    let wanted =
        wanted.filter(|(_, key, _)| *key == cluster.id.to_string()).map(|(_, _, member)| member.role);
    let wanted = wanted.map(Role::from).next();
    let (held, certificate) = {
        let member = cluster.member();
        let Some(member) = member.as_ref() else { return Ok(()) };
        let now = SystemTime::now();
        (member.role(), member.root.verify(&member.certificate, now, &Default::default()))
    };
    // One that has expired is asked for, too: a manager makes its own.
    let due = certificate.map_or(true, |certificate| SystemTime::now() >= certificate.renew_at());
    match (held, wanted.unwrap_or(held)) {
        (Role::Worker, Role::Manager) => ask_for_certificate(cluster).await?,
        (Role::Manager, Role::Worker) => step_down(cluster).await?,
        (Role::Worker, Role::Worker) if due => ask_for_certificate(cluster).await?,
        (Role::Manager, Role::Manager) if due => renew_own(cluster, Role::Manager)?,
        _ => {}
    }
    cluster.forget_removals().await?;
    update_tokens(cluster).await
}

/// Asks managers, live ones first, for a certificate of the role that is written.
async fn ask_for_certificate(cluster: &Arc<Cluster>) -> Result<(), RightsError> {
    let request = {
        let member = cluster.member();
        let Some(member) = member.as_ref() else { return Ok(()) };
        Request::Certificate(member.key.request().to_vec())
    };
    let mut failure = RightsError::NoManager;
    for (node, place, _) in cluster.other_managers() {
        match cluster.links.ask(Some(node), place, &request).await {
            Ok((_, Answer::Certificate(certificate, authority))) => {
                return adopt(cluster, &certificate, authority);
            }
            Ok(_) => failure = RightsError::Nonsense,
            Err(error) => {
                debug!("no certificate of {node} at {place}: {error}");
                failure = error.into();
            }
        }
    }
    Err(failure)
}

fn adopt(
    cluster: &Arc<Cluster>,
    certificate: &[u8],
    authority: Option<AuthorityBytes>,
) -> Result<(), RightsError> {
    let mut member = cluster.member();
    let Some(member) = member.as_mut() else { return Ok(()) };
    let certificate = Certificate::from(certificate.to_vec());
    let peer = member.root.verify(&certificate, SystemTime::now(), &Default::default())?;
    let authority = authority.map(|parts| authority_of(&parts, &member.root)).transpose()?;
    if peer.node != cluster.id || (peer.role == Role::Manager) != authority.is_some() {
        return Err(RightsError::Nonsense);
    }
    (member.certificate, member.authority) = (certificate, authority);
    changed(cluster, member.role(), member.store(&cluster.state))
}

/// What a manager gave, if it is of our CA.
fn authority_of(parts: &AuthorityBytes, root: &Root) -> Result<Authority, RightsError> {
    let key = PrivateKey::from_der(&parts.ca_key.0).map_err(|_| RightsError::Nonsense)?;
    let ca = Ca::new(root.clone(), key).map_err(|_| RightsError::Nonsense)?;
    let secrets = secrets_of(&parts.secrets.0).ok_or(RightsError::Nonsense)?;
    Ok(Authority { ca, secrets })
}

/// A manager that is to be a worker.
async fn step_down(cluster: &Arc<Cluster>) -> Result<(), RightsError> {
    let held = {
        let member = cluster.member();
        let Some(member) = member.as_ref() else { return Ok(()) };
        member.root.verify(&member.certificate, SystemTime::now(), &Default::default())
    };
    // While this node may still write for all.
    if let Ok(held) = held {
        revoke(cluster, &held).await?;
    }
    renew_own(cluster, Role::Worker)
}

/// Writes that a certificate is good no more.
pub(super) async fn revoke(cluster: &Arc<Cluster>, held: &Peer) -> Result<(), WriteError> {
    let until = held.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let until_ms = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
    cluster.write(&held.serial.to_string(), &RevokedSerial { until_ms }).await
}

/// A manager signs for itself.
fn renew_own(cluster: &Arc<Cluster>, role: Role) -> Result<(), RightsError> {
    let mut member = cluster.member();
    let Some(member) = member.as_mut() else { return Ok(()) };
    let Some(authority) = &member.authority else { return Ok(()) };
    let request = member.key.request();
    member.certificate =
        authority.ca.issue(&request, cluster.id, role, SystemTime::now(), &SystemRandom::new())?;
    if role == Role::Worker {
        member.authority = None;
    }
    changed(cluster, role, member.store(&cluster.state))
}

fn changed(cluster: &Arc<Cluster>, role: Role, stored: Result<(), StateError>) -> Result<(), RightsError> {
    stored?;
    info!("this node has a new certificate, as a {role}");
    let before = cluster.role.send_replace(role);
    if before != role {
        // Its own words change with it; not from in here, where the member is locked.
        cluster.role_changed();
    }
    Ok(())
}

/// A manager whose join tokens are not those in force asks the others for them.
async fn update_tokens(cluster: &Arc<Cluster>) -> Result<(), RightsError> {
    if !tokens_differ(cluster) {
        return Ok(());
    }
    let mut failure = RightsError::NoManager;
    for (node, place, _) in cluster.other_managers() {
        match cluster.links.ask(Some(node), place, &Request::Authority).await {
            Ok((_, Answer::Authority(parts))) => {
                take_secrets(cluster, &parts)?;
                if !tokens_differ(cluster) {
                    info!("the join tokens are those of {node} now");
                    return Ok(());
                }
            }
            Ok(_) => failure = RightsError::Nonsense,
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

/// Takes of another manager's secrets those that are in force.
fn take_secrets(cluster: &Arc<Cluster>, parts: &AuthorityBytes) -> Result<(), RightsError> {
    let theirs = secrets_of(&parts.secrets.0).ok_or(RightsError::Nonsense)?;
    let mut member = cluster.member();
    let Some(authority) = member.as_mut().and_then(|member| member.authority.as_mut()) else { return Ok(()) };
    let pick = |role: Role| {
        let in_force =
            cluster.token_state(role).is_some_and(|state| theirs.secret(role).has_digest(&state.digest));
        if in_force { theirs.secret(role).clone() } else { authority.secrets.secret(role).clone() }
    };
    let secrets = crate::crypto::token::JoinSecrets::new(pick(Role::Worker), pick(Role::Manager));
    authority.secrets = secrets;
    Ok(authority.store_secrets(&cluster.state)?)
}

/// Whether this is a manager that does not have the tokens in force.
pub(super) fn tokens_differ(cluster: &Cluster) -> bool {
    let member = cluster.member();
    let Some(authority) = member.as_ref().and_then(|member| member.authority.as_ref()) else { return false };
    Role::ALL.into_iter().any(|role| {
        let state = cluster.token_state(role);
        state.is_some_and(|state| !authority.secrets.secret(role).has_digest(&state.digest))
    })
}

impl Cluster {
    /// Which join token of a role is in force, if that is known.
    pub(super) fn token_state(&self, role: Role) -> Option<TokenState> {
        let records = self.gossip.list::<TokenState>().into_iter();
        records.filter(|(_, key, _)| key == role.name()).map(|(_, _, state)| state).next()
    }

    /// Writes which join tokens are in force: those of this manager.
    pub(super) async fn write_tokens(&self, roles: &[Role]) -> Result<(), WriteError> {
        for &role in roles {
            let digest = {
                let member = self.member();
                let authority = member.as_ref().and_then(|member| member.authority.as_ref());
                let Some(authority) = authority else { return Ok(()) };
                authority.secrets.secret(role).digest()
            };
            self.write(role.name(), &TokenState { digest }).await?;
        }
        Ok(())
    }
}
