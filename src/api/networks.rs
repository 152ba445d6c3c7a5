//! Networks, and what is attached to them.

use serde::{Deserialize, Serialize};

use super::Name;

/// What [`super::Call::CreateNetwork`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: Name,
    /// Whether its data is sealed between nodes.
    #[serde(default)]
    pub encrypted: bool,
    /// Its VNI, 0 to 16777215; the first free one from 4096 on if not given.
    #[serde(default)]
    pub vni: Option<u32>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreated {
    /// The network's id.
    pub id: String,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its id: 25 digits of base 36.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its VNI.
    pub vni: u32,
    /// Whether its data is sealed between nodes.
    pub encrypted: bool,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
}

/// What [`super::Call::Attach`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The network, by name or id.
    pub network: Name,
    /// What the new endpoint is called.
    pub name: Name,
    /// The TAP device; it is made if it does not exist.
    pub tap: String,
    /// The namespace that it is in: a name, an absolute path or a process id. None: the daemon's own.
    #[serde(default)]
    pub netns: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The network's id.
    pub network: String,
}

/// What came of [`super::Call::RotateKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRotated {
    /// The key ring's epoch from now on.
    pub epoch: u32,
}
