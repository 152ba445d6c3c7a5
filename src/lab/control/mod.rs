//! How other terminals find a lab and get into it.
//!
//! A lab listens at an abstract UNIX socket of the host's network namespace, `vswitchd-lab/UID/NAME` (unix(7)):
//! it needs no file, and is gone with the lab whatever ends that. Both sides ask the kernel who the other is,
//! and talk only to their own user. A conversation is one [`Request`] and one [`Reply`], as
//! [`messages`](crate::namespace::messages) lays them out; namespaces are handed over as descriptors.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

use super::cluster::DaemonPlace;
use super::plan::Plan;
use crate::namespace::visit::Kind;

/// Before the user's number and the lab's name in a socket's name.
pub const SOCKET_PREFIX: &str = "vswitchd-lab/";
/// Characters of a lab's name.
pub const NAME_MAX: usize = 32;

/// What is asked of a lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// What it consists of.
    List,
    /// The namespaces of a node, of the host outside or of an endpoint.
    Enter {
        /// Its name.
        target: String,
    },
    /// To end; answered by the end of the connection.
    Down,
}

/// What a lab answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub enum Reply {
    /// To [`Request::List`].
    Lab(Listing),
    /// To [`Request::Enter`]: the kinds of the descriptors that come with it, in order.
    Entrance {
        /// Kinds.
        kinds: Vec<Kind>,
        /// The daemon of that node, or of the endpoint's.
        daemon: Option<DaemonPlace>,
    },
    /// To [`Request::Down`].
    Ending,
    /// To anything that can't be done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a lab consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// Its name.
    pub name: String,
    /// Its nodes.
    pub nodes: Vec<NodeListing>,
    /// The host that is none; labs of earlier builds have none.
    #[serde(default)]
    pub outside: Option<NodeListing>,
}

/// A node of a [`Listing`], or the host outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeListing {
    /// Its name.
    pub name: String,
    /// Its address in the underlay.
    pub address: String,
    /// Its daemon, if it runs one. The paths are those of the lab, not of the host.
    pub daemon: Option<DaemonPlace>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointListing>,
}

/// An endpoint of a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointListing {
    /// Its name.
    pub name: String,
    /// Its network.
    pub network: String,
    /// The network's identifier.
    pub vni: u32,
    /// Its IPv4 address.
    pub ipv4: String,
    /// Its IPv6 address.
    pub ipv6: String,
}

impl Listing {
    /// Of a plan, whose daemons are not known.
    #[must_use]
    pub fn new(name: &str, plan: &Plan) -> Self {
        let node = |node: &super::NodePlan| NodeListing {
            name: node.name.clone(),
            address: node.address.to_string(),
            daemon: None,
            endpoints: node
                .endpoints
                .iter()
                .map(|endpoint| EndpointListing {
                    name: endpoint.name.clone(),
                    network: plan.networks[endpoint.network].name.clone(),
                    vni: plan.networks[endpoint.network].vni.id(),
                    ipv4: endpoint.v4.to_string(),
                    ipv6: endpoint.v6.to_string(),
                })
                .collect(),
        };
        let nodes = plan.nodes.iter().map(node).collect();
        Self { name: name.into(), nodes, outside: Some(node(&plan.outside)) }
    }
}

/// A name that a lab can have: 1 to [`NAME_MAX`] letters, digits, `-`, `_` or `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabName(String);

/// Why a text is no [`LabName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lab's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.'")]
pub struct LabNameError;

impl std::str::FromStr for LabName {
    type Err = LabNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let ok = (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits);
        if ok { Ok(Self(text.into())) } else { Err(LabNameError) }
    }
}

impl LabName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for LabName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
