//! Nodes as they are listed, and which of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::terms::every_key_is_met;
use super::{Name, NameError, UnboundPort, text};
use crate::crypto::identity::Role;

/// Terms of a filter: more than anybody types, and few enough for a request's head.
pub const TERMS_MAX: usize = 64;

/// Whether a node is there, as the one that was asked sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStatus {
    /// It is heard.
    Ready,
    /// It is not, or has left.
    Down,
}

impl NodeStatus {
    /// As filters spell it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Down => "down",
        }
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its id: 25 digits of base 36.
    pub id: String,
    /// Its name; others chose it.
    pub name: String,
    /// Whether it is the node that was asked.
    pub own: bool,
    /// Its role.
    #[serde(with = "text")]
    pub role: Role,
    /// Whether it is there.
    pub status: NodeStatus,
    /// Milliseconds since 1970 when it was let in.
    pub joined_ms: u64,
    /// Where its gossip goes, if that is known.
    pub address: Option<SocketAddr>,
    /// Where it lets nodes in, if it is a manager that has said so.
    pub door: Option<SocketAddr>,
    /// Where data for it goes, if it has said so.
    pub data: Option<SocketAddr>,
    /// Its version, if it has said so; others chose it.
    pub version: Option<String>,
    /// Whether its operator lets it run tasks of services, if it has said so.
    pub tasks: bool,
    /// What managers have written on it, for constraints of services.
    pub labels: BTreeMap<String, String>,
    /// Ports of services that it should listen on and does not.
    #[serde(default)]
    pub unbound: Vec<UnboundPort>,
}

/// What [`super::Call::UpdateNode`] is told. What is taken off goes before what is put on comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeUpdate {
    /// Keys of labels to take off.
    pub label_rm: Vec<String>,
    /// Labels to put on, each in place of one with the same key.
    pub label_add: Vec<(String, String)>,
}

/// What came of [`super::Call::Promote`] and [`super::Call::Demote`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange {
    /// Whether it had another role before.
    pub changed: bool,
}

/// One condition on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeTerm {
    /// Its role is this.
    Role(Role),
    /// Its status is this.
    Status(NodeStatus),
    /// Its name has this in it.
    Name(Name),
    /// Its id begins so.
    Id(Name),
}

/// Why a text is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// Not `KEY=VALUE` of these keys.
    #[error("want role=, status=, name= or id=")]
    Key,
    /// No such role.
    #[error("no such role: want worker or manager")]
    Role,
    /// No such status.
    #[error("no such status: want ready or down")]
    Status,
    /// Neither name nor id.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl NodeTerm {
    fn key(&self) -> &'static str {
        match self {
            Self::Role(_) => "role",
            Self::Status(_) => "status",
            Self::Name(_) => "name",
            Self::Id(_) => "id",
        }
    }

    fn holds(&self, node: &NodeView) -> bool {
        match self {
            Self::Role(role) => node.role == *role,
            Self::Status(status) => node.status == *status,
            Self::Name(name) => node.name.contains(name.as_str()),
            Self::Id(id) => node.id.starts_with(id.as_str()),
        }
    }
}

impl FromStr for NodeTerm {
    type Err = TermError;

    fn from_str(text: &str) -> Result<Self, TermError> {
        match text.split_once('=').ok_or(TermError::Key)? {
            ("role", role) => role.parse().map(Self::Role).map_err(|_| TermError::Role),
            ("status", text) => [NodeStatus::Ready, NodeStatus::Down]
                .into_iter()
                .find(|status| status.label().eq_ignore_ascii_case(text))
                .map(Self::Status)
                .ok_or(TermError::Status),
            ("name", name) => Ok(Self::Name(name.parse()?)),
            ("id", id) => Ok(Self::Id(id.parse()?)),
            _ => Err(TermError::Key),
        }
    }
}

impl std::fmt::Display for NodeTerm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = match self {
            Self::Role(role) => role.name(),
            Self::Status(status) => status.label(),
            Self::Name(text) | Self::Id(text) => text.as_str(),
        };
        write!(f, "{}={value}", self.key())
    }
}

/// Which nodes are wanted. As in Docker, terms of one key are alternatives, and each key must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFilter(pub Vec<NodeTerm>);

impl NodeFilter {
    /// Whether a node is.
    #[must_use]
    pub fn admits(&self, node: &NodeView) -> bool {
        every_key_is_met(&self.0, NodeTerm::key, |term| term.holds(node))
    }

    /// As a query (RFC 3986 §3.4).
    pub(super) fn query(&self) -> String {
        self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("&")
    }

    /// And back.
    pub(super) fn from_query(query: &str) -> Result<Self, String> {
        let terms = query.split('&').filter(|term| !term.is_empty());
        if terms.clone().count() > TERMS_MAX {
            return Err(format!("a filter has at most {TERMS_MAX} terms"));
        }
        terms.map(str::parse).collect::<Result<_, _>>().map(Self).map_err(|error| format!("filter: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, id: &str, role: Role, status: NodeStatus) -> NodeView {
        NodeView {
            id: id.into(),
            name: name.into(),
            own: false,
            role,
            status,
            joined_ms: 0,
            address: None,
            door: None,
            data: None,
            version: None,
            tasks: false,
            labels: BTreeMap::new(),
            unbound: Vec::new(),
        }
    }

    fn filtered(terms: &[&str]) -> Vec<&'static str> {
        let filter = NodeFilter(terms.iter().map(|term| term.parse().unwrap()).collect());
        let nodes = [
            ("alpha", "0abc", Role::Manager, NodeStatus::Ready),
            ("beta", "0xyz", Role::Worker, NodeStatus::Down),
            ("alphabet", "1abc", Role::Worker, NodeStatus::Ready),
        ];
        let admitted = nodes
            .into_iter()
            .filter(|&(name, id, role, status)| filter.admits(&node(name, id, role, status)));
        admitted.map(|(name, ..)| name).collect()
    }

    #[test]
    fn terms_of_a_key_are_alternatives_and_all_keys_must_be_met() {
        assert_eq!(filtered(&[]), ["alpha", "beta", "alphabet"]);
        assert_eq!(filtered(&["role=worker"]), ["beta", "alphabet"]);
        assert_eq!(filtered(&["role=worker", "role=manager"]), ["alpha", "beta", "alphabet"]);
        assert_eq!(filtered(&["role=worker", "status=Ready"]), ["alphabet"]);
        assert_eq!(filtered(&["name=bet"]), ["beta", "alphabet"]);
        assert_eq!(filtered(&["id=0", "status=ready"]), ["alpha"]);
        assert_eq!(filtered(&["id=abc"]), [""; 0]);
    }

    #[test]
    fn filters_come_as_they_went() {
        let terms = ["role=worker", "status=down", "name=a", "id=0a"].map(|term| term.parse().unwrap());
        let filter = NodeFilter(terms.into());
        assert_eq!(NodeFilter::from_query(&filter.query()), Ok(filter));
        assert_eq!(NodeFilter::from_query(""), Ok(NodeFilter::default()));
        for bad in ["role", "role=", "role=king", "status=up", "name=", "name=a%20b", "label=x", "id=a/b"] {
            assert!(NodeFilter::from_query(bad).is_err(), "{bad}");
        }
        assert!(NodeFilter::from_query(&"id=a&".repeat(TERMS_MAX)).is_ok());
        assert!(NodeFilter::from_query(&"id=a&".repeat(TERMS_MAX + 1)).is_err());
    }
}
