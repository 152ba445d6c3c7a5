//! This node's endpoints: what they are named, and how they outlive the daemon.
//!
//! They are kept in [`FILE`] of the state directory before anything is promised, and attached again at the next start.
//! One whose TAP or namespace is gone by then is dropped: a TAP that was there before must not be made by us, and a
//! process id must not stand for another process.

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::view::NetworkId;
use crate::state::{StateDir, StateError};
use crate::switch::io::netns::{NetnsError, NetnsRef, NetnsRefError};
use crate::switch::io::tap::TapError;
use crate::switch::tables::PORTS_MAX;
use crate::switch::tunnel::Protection;

/// The file.
pub const FILE: &str = "endpoints.json";
/// Endpoints of a node: a switch has no more ports.
pub const ENDPOINTS_MAX: usize = PORTS_MAX;
/// Characters of an endpoint's name: a DNS label's (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 63;

/// An endpoint to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Its name, unique on this node: 1 to [`NAME_MAX`] letters, digits, `-`, `_` or `.`.
    pub name: String,
    /// The network that it is in.
    pub network: NetworkId,
    /// Its TAP, which is made if it is not there.
    pub tap: String,
    /// The namespace that the TAP is in, by name, path or process id; this process's without.
    pub netns: Option<String>,
}

/// Why an endpoint was not attached. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Not a name.
    #[error("an endpoint's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.', not {0:?}")]
    Name(String),
    /// The name is in use.
    #[error("this node has an endpoint {0} already: `detach` it first, or choose another name")]
    Taken(String),
    /// No such network.
    #[error("there is no network {0}")]
    NoNetwork(NetworkId),
    /// [`ENDPOINTS_MAX`] are there.
    #[error("a node has at most {ENDPOINTS_MAX} endpoints")]
    TooMany,
    /// Not a namespace.
    #[error(transparent)]
    NetnsRef(#[from] NetnsRefError),
    /// A namespace that is not there, or not ours to open.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// It can't be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something that an endpoint stood on before the restart is not there any more.
    #[error("{0} is gone")]
    Gone(String),
}

impl AttachError {
    /// Whether what the endpoint stood on is gone for good, so that it need not be tried again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone(_) => true,
            Self::Netns(error) | Self::Tap(TapError::Netns(error)) => {
                matches!(error, NetnsError::Missing(_) | NetnsError::NotANamespace(_))
            }
            _ => false,
        }
    }
}

impl EndpointSpec {
    pub(super) fn check(&self) -> Result<(), AttachError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.chars().all(fits) {
            return Err(AttachError::Name(self.name.clone()));
        }
        self.netns_ref().map(drop).map_err(AttachError::from)
    }

    fn netns_ref(&self) -> Result<Option<NetnsRef>, NetnsRefError> {
        self.netns.as_deref().map(str::parse).transpose()
    }
}

/// An endpoint as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) spec: EndpointSpec,
    /// Whether its network is sealed: that bounds the TAP's MTU before the network's record is known again.
    pub(super) encrypted: bool,
    /// Whether the TAP was made for it.
    pub(super) made: bool,
    /// Device and inode of a namespace that a process id stands for.
    pub(super) process_netns: Option<(u64, u64)>,
}

impl Kept {
    pub(super) fn new(spec: EndpointSpec, protection: Protection, made: bool) -> Result<Self, AttachError> {
        let encrypted = protection == Protection::Sealed;
        let process_netns = identity(&spec)?;
        Ok(Self { spec, encrypted, made, process_netns })
    }

    pub(super) fn protection(&self) -> Protection {
        if self.encrypted { Protection::Sealed } else { Protection::Plain }
    }

    /// Whether it may be attached again after a restart, as far as can be told before.
    pub(super) fn check(&self) -> Result<(), AttachError> {
        if identity(&self.spec)? == self.process_netns {
            return Ok(());
        }
        let process = self.spec.netns.as_deref().unwrap_or_default();
        Err(AttachError::Gone(format!("process {process}, whose namespace it was in,")))
    }

    /// Whether its TAP is the one that it had; a new one stands in for one that we had made only.
    pub(super) fn check_made(&self, made: bool) -> Result<(), AttachError> {
        if made && !self.made {
            return Err(AttachError::Gone(format!("TAP {}, which was there before,", self.spec.tap)));
        }
        Ok(())
    }
}

/// What tells the namespace of one process from that of another with its id.
fn identity(spec: &EndpointSpec) -> Result<Option<(u64, u64)>, AttachError> {
    match spec.netns_ref()? {
        Some(netns @ NetnsRef::Pid(_)) => {
            let fd = netns.open()?;
            let stat = fstat(&fd).map_err(|errno| NetnsError::Open { netns, source: errno.into() })?;
            Ok(Some((stat.st_dev, stat.st_ino)))
        }
        _ => Ok(None),
    }
}

/// The endpoints of this node's earlier life.
pub(super) fn load(state: &StateDir) -> Result<Vec<Kept>, StateError> {
    Ok(state.load::<Vec<Kept>>(FILE)?.unwrap_or_default())
}

/// Keeps the endpoints that there are.
pub(super) fn store<'e>(
    state: &StateDir,
    endpoints: impl IntoIterator<Item = &'e Kept>,
) -> Result<(), StateError> {
    state.store(FILE, &endpoints.into_iter().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, netns: Option<&str>) -> EndpointSpec {
        EndpointSpec {
            name: name.into(),
            network: NetworkId("n".into()),
            tap: "tap0".into(),
            netns: netns.map(Into::into),
        }
    }

    #[test]
    fn names_and_namespaces_are_checked() {
        assert!(spec("web-1.a_b", Some("red")).check().is_ok());
        for name in ["", "a b", "a/b", "\u{1b}[2J", &"x".repeat(64)] {
            assert!(matches!(spec(name, None).check(), Err(AttachError::Name(_))), "{name:?}");
        }
        assert!(matches!(spec("a", Some("")).check(), Err(AttachError::NetnsRef(_))));
    }

    #[test]
    fn a_process_id_stands_for_one_process_only() {
        let own = std::process::id().to_string();
        let kept = Kept::new(spec("a", Some(&own)), Protection::Plain, true).unwrap();
        assert!(kept.process_netns.is_some() && kept.check().is_ok());
        let other = Kept { process_netns: kept.process_netns.map(|(dev, ino)| (dev, ino + 1)), ..kept };
        assert!(other.check().unwrap_err().is_gone());
        let nobody = Kept { spec: spec("a", Some("4194305")), ..other };
        assert!(nobody.check().unwrap_err().is_gone());
    }

    #[test]
    fn a_tap_that_was_there_is_not_made() {
        let kept = |made| Kept::new(spec("a", None), Protection::Sealed, made).unwrap();
        assert!(kept(true).check_made(true).is_ok() && kept(false).check_made(false).is_ok());
        assert!(kept(true).check_made(false).is_ok(), "somebody has made it since");
        assert!(kept(false).check_made(true).unwrap_err().is_gone());
    }
}
