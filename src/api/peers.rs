//! Other nodes as this one sees them: gossip, records, and the path of data.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Whether a node is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Liveness {
    /// It is.
    Alive,
    /// It is not, and did not say why.
    Dead,
    /// It has said farewell.
    Left,
}

impl Liveness {
    /// The name used in output.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// Whether a node knows the same as this one, by the last comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Digest {
    /// Not compared since it is there.
    NotCompared,
    /// All of it.
    Equal {
        /// Seconds ago.
        compared_s: u64,
    },
    /// Not these; they are being repaired.
    Differing {
        /// Seconds since the first was found.
        since_s: u64,
        /// The first few, `TABLE/KEY`; others chose the keys.
        keys: Vec<String>,
    },
}

/// What becomes of messages to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Round-trip time in microseconds, smoothed; none before the first answer.
    pub rtt_us: Option<u64>,
    /// Messages without an answer, of [`Self::asked`].
    pub lost: u64,
    /// Messages whose fate is known, lately.
    pub asked: u64,
}

/// Whether data gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataState {
    /// It does.
    Ok,
    /// It does not, though gossip does: something on the way drops UDP of the data port.
    Blocked,
    /// Neither does gossip.
    Down,
    /// Not known yet.
    Unknown,
    /// There is no network that both have ports in, so nothing is sent.
    NotShared,
}

impl DataState {
    /// The name used in output.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Blocked => "blocked",
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::NotShared => "not shared",
        }
    }
}

/// The path of data to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPath {
    /// Whether it carries.
    pub state: DataState,
    /// Where it begins, if this node has a place for data.
    pub from: Option<SocketAddr>,
    /// Where it ends, if the other has said so.
    pub to: Option<SocketAddr>,
    /// Probes on it.
    #[serde(flatten)]
    pub quality: Quality,
    /// The largest IP packet that gets there, in bytes, once it has been found.
    pub mtu: Option<u16>,
}

/// Another node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its id.
    pub id: String,
    /// Its name, if it is a member; others chose it.
    pub name: Option<String>,
    /// Whether it is heard.
    pub liveness: Liveness,
    /// For how many seconds.
    pub since_s: u64,
    /// Where its gossip goes.
    pub address: SocketAddr,
    /// Milliseconds since something was heard from it, if ever.
    pub heard_ms: Option<u64>,
    /// Whether it knows the same.
    pub digest: Digest,
    /// Gossip's probes of it.
    pub control: Quality,
    /// The path of data to it.
    pub data: DataPath,
}
