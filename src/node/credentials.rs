//! What makes this host a member: its identity, the CA's certificate, and on managers the CA and the join tokens'
//! secrets; kept in the state directory.
//!
//! ```text
//!   node.json      settings; it is written last and removed first: with it this is a member, without it not
//!   node.key       the node's key, PKCS #8
//!   node.crt       its certificate, DER
//!   ca.crt         the CA's certificate, DER
//!   ca.key         managers: the CA's key, PKCS #8
//!   join-secrets   managers: the secrets of the worker's and of the manager's token, 16 bytes each
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::crypto::ca::{Ca, Certificate, Root};
use crate::crypto::identity::{NodeId, PrivateKey, Role};
use crate::crypto::tls::Credentials;
use crate::crypto::token::{JoinSecrets, SECRET_LEN, Secret};
use crate::state::{StateDir, StateError};

const SETTINGS: &str = "node.json";
const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";
const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const JOIN_SECRETS: &str = "join-secrets";

/// Managers that a member remembers: more than anybody has.
pub(super) const MANAGERS_MAX: usize = 64;

/// What a member was told when it became one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// Its id, as in its certificate.
    pub(super) node: String,
    /// What people call it.
    pub(super) name: String,
    /// The address that other nodes reach it at.
    pub(super) advertise: IpAddr,
    /// Where it lets nodes in, if it is a manager.
    pub(super) listen: SocketAddr,
    /// UDP and TCP port of gossip.
    pub(super) gossip_port: u16,
    /// The interface that [`Self::advertise`] is followed on, unless it was given as such.
    pub(super) follow: Option<String>,
    /// The address of its data, if another.
    pub(super) data_address: Option<IpAddr>,
    /// The port of its data, if another than the cluster's.
    pub(super) data_port: Option<u16>,
    /// The other managers, as far as this node was told.
    pub(super) managers: Vec<ManagerPlace>,
}

/// Where a manager is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagerPlace {
    /// Its node id.
    pub(super) node: String,
    /// Where it lets nodes in.
    pub(super) join: SocketAddr,
    /// Where its gossip is.
    pub(super) gossip: SocketAddr,
}

impl ManagerPlace {
    pub(super) fn id(&self) -> Option<NodeId> {
        self.node.parse().ok()
    }
}

/// What only managers have.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) ca: Ca,
    pub(super) secrets: JoinSecrets,
}

/// The member that this host is at the moment, for those who serve others. Nobody waits for anything under its lock.
pub(super) type Shared = Arc<Mutex<Option<Member>>>;

/// A member of a cluster.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) settings: Settings,
    pub(super) root: Root,
    pub(super) certificate: Certificate,
    pub(super) key: PrivateKey,
    pub(super) authority: Option<Authority>,
}

impl Member {
    /// The one that was kept, if this host is a member.
    pub(super) fn load(state: &StateDir) -> Result<Option<Self>, StateError> {
        let Some(settings) = state.load::<Settings>(SETTINGS)? else { return Ok(None) };
        let must = |name| state.read(name)?.ok_or_else(|| state.corrupt(name, "it is missing".into()));
        let wrong = |name| move |error: &dyn std::fmt::Display| state.corrupt(name, error.to_string());
        let id = settings.node.parse().map_err(|error| wrong(SETTINGS)(&error))?;
        let root = Root::from_der(&must(CA_CERTIFICATE)?).map_err(|error| wrong(CA_CERTIFICATE)(&error))?;
        let key = PrivateKey::from_der(&must(KEY)?).map_err(|error| wrong(KEY)(&error))?;
        let certificate = Certificate::from(must(CERTIFICATE)?.to_vec());
        let authority = match state.read(CA_KEY)? {
            None => None,
            Some(der) => {
                let ca_key = PrivateKey::from_der(&der).map_err(|error| wrong(CA_KEY)(&error))?;
                let ca = Ca::new(root.clone(), ca_key).map_err(|error| wrong(CA_KEY)(&error))?;
                let secrets = secrets_of(&must(JOIN_SECRETS)?);
                let secrets = secrets.ok_or_else(|| wrong(JOIN_SECRETS)(&"not two secrets"))?;
                Some(Authority { ca, secrets })
            }
        };
        Ok(Some(Self { id, settings, root, certificate, key, authority }))
    }

    /// Keeps it. A crash before the end leaves no member, and what it left is replaced by the next.
    pub(super) fn store(&self, state: &StateDir) -> Result<(), StateError> {
        state.write(KEY, &self.key.to_der())?;
        state.write(CERTIFICATE, &self.certificate)?;
        state.write(CA_CERTIFICATE, self.root.certificate())?;
        match &self.authority {
            Some(authority) => {
                state.write(CA_KEY, &authority.ca.key().to_der())?;
                authority.store_secrets(state)?;
            }
            None => {
                state.remove(CA_KEY)?;
                state.remove(JOIN_SECRETS)?;
            }
        }
        state.store(SETTINGS, &self.settings)
    }

    /// Keeps changed settings.
    pub(super) fn store_settings(&self, state: &StateDir) -> Result<(), StateError> {
        state.store(SETTINGS, &self.settings)
    }

    /// Removes what was kept.
    pub(super) fn forget(state: &StateDir) -> Result<(), StateError> {
        [SETTINGS, CA_KEY, JOIN_SECRETS, KEY, CERTIFICATE, CA_CERTIFICATE]
            .into_iter()
            .try_for_each(|name| state.remove(name))
    }

    /// Its role.
    pub(super) fn role(&self) -> Role {
        if self.authority.is_some() { Role::Manager } else { Role::Worker }
    }

    /// Where managers let nodes in, itself first if it is one.
    pub(super) fn doors(&self) -> Vec<SocketAddr> {
        self.managers().iter().map(|manager| manager.join).collect()
    }

    /// Managers that it knows, itself first if it is one.
    pub(super) fn managers(&self) -> Vec<ManagerPlace> {
        let own = self.authority.is_some().then(|| ManagerPlace {
            node: self.settings.node.clone(),
            join: SocketAddr::new(self.settings.advertise, self.settings.listen.port()),
            gossip: self.gossip(),
        });
        let others = self.settings.managers.iter().filter(|manager| manager.node != self.settings.node);
        own.into_iter().chain(others.cloned()).take(MANAGERS_MAX).collect()
    }

    /// Where its gossip is reached.
    pub(super) fn gossip(&self) -> SocketAddr {
        SocketAddr::new(self.settings.advertise, self.settings.gossip_port)
    }

    /// What TLS configurations are made of.
    pub(super) fn credentials(&self) -> Credentials<'_> {
        Credentials { root: &self.root, certificate: &self.certificate, key: &self.key }
    }
}

impl Authority {
    /// Keeps the secrets, such as after a rotation.
    pub(super) fn store_secrets(&self, state: &StateDir) -> Result<(), StateError> {
        state.write(JOIN_SECRETS, &secret_bytes(&self.secrets))
    }
}

/// Both secrets as one run of bytes.
pub(super) fn secret_bytes(secrets: &JoinSecrets) -> Zeroizing<Vec<u8>> {
    let parts = [Role::Worker, Role::Manager].map(|role| secrets.secret(role).reveal().as_slice());
    Zeroizing::new(parts.concat())
}

/// And back; `None` of any other length.
pub(super) fn secrets_of(bytes: &[u8]) -> Option<JoinSecrets> {
    let (worker, manager) = bytes.split_at_checked(SECRET_LEN)?;
    Some(JoinSecrets::new(Secret::new(worker.try_into().ok()?), Secret::new(manager.try_into().ok()?)))
}
