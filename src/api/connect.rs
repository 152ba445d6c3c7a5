//! More networks for a namespace that has an endpoint, and a network for the host itself.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Name;

/// What [`super::Call::Connect`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// An endpoint of this node with a TAP in a namespace: by its id, its name, or the beginning of its id.
    pub endpoint: Name,
    /// The addresses that it is to have in the other network, at most one of each IP version; free ones where none is
    /// given.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// Other names of it there, at most [`super::ALIASES_MAX`].
    #[serde(default)]
    pub aliases: Vec<Name>,
}

/// What [`super::Call::Disconnect`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectRequest {
    /// An endpoint of this node, or another one in its namespace: by its id, its name, or the beginning of its id.
    pub endpoint: Name,
    /// Whether it is well if it isn't there.
    #[serde(default)]
    pub force: bool,
}

/// What [`super::Call::Expose`] is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposeRequest {
    /// What the host is called in the network; the node's name if not given.
    #[serde(default)]
    pub name: Option<Name>,
    /// The addresses that it is to have, at most one of each IP version; free ones where none is given.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// The TAP's name; one that follows from the network's VNI if not given.
    #[serde(default)]
    pub interface: Option<String>,
}
