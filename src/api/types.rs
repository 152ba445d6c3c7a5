//! What goes over the socket.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::ClusterUpdate;

/// A secret in words: wiped when dropped, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub Zeroizing<String>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// What [`super::Call::Init`] is told; what is not given is as this host has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// Address that other nodes reach this one at, or an interface that has one.
    #[serde(default)]
    pub advertise_addr: Option<String>,
    /// Where nodes that want to join are let in.
    #[serde(default)]
    pub listen_addr: Option<SocketAddr>,
    /// The node's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Address of its data, or an interface that has one; that of [`Self::advertise_addr`] if not given.
    #[serde(default)]
    pub data_path_addr: Option<String>,
    /// UDP and TCP port of gossip; 7946 if not given.
    #[serde(default)]
    pub gossip_port: Option<u16>,
    /// What the cluster begins with.
    #[serde(default)]
    pub settings: ClusterUpdate,
}

/// What came of [`super::Call::Init`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initialized {
    /// The node's id.
    pub node: String,
    /// What makes workers of other nodes.
    pub worker: TokenAnswer,
}

/// What [`super::Call::Join`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The join token.
    pub token: SecretText,
    /// Managers to ask, in this order: `HOST[:PORT]`.
    pub managers: Vec<String>,
    /// Address that other nodes reach this one at, or an interface that has one.
    #[serde(default)]
    pub advertise_addr: Option<String>,
    /// Where nodes that want to join are let in, if this one becomes a manager.
    #[serde(default)]
    pub listen_addr: Option<SocketAddr>,
    /// The node's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Address of its data, or an interface that has one; that of [`Self::advertise_addr`] if not given.
    #[serde(default)]
    pub data_path_addr: Option<String>,
    /// UDP and TCP port of gossip; 7946 if not given.
    #[serde(default)]
    pub gossip_port: Option<u16>,
    /// UDP port of this node's data, where the cluster's is taken.
    #[serde(default)]
    pub data_path_port: Option<u16>,
}

/// What came of [`super::Call::Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The node's id.
    pub node: String,
    /// Its role: `worker` or `manager`.
    pub role: String,
}

/// What [`super::Call::Leave`] is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Also if this node is a manager.
    #[serde(default)]
    pub force: bool,
}

/// What [`super::Call::Token`] and [`super::Call::RotateToken`] give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// The role that it makes nodes of.
    pub role: String,
    /// The token.
    pub token: SecretText,
    /// Where it can be shown, this manager first.
    pub managers: Vec<SocketAddr>,
}

/// The answer to [`super::Call::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was started.
    pub up_s: u64,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The socket that it listens at.
    pub socket: PathBuf,
    /// The cluster that its node is in, if it is in one.
    pub cluster: Option<ClusterStatus>,
}

/// A node's place in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub id: String,
    /// The node's id.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Its role: `worker` or `manager`.
    pub role: String,
    /// The address that others are told.
    pub address: IpAddr,
    /// Managers that it knows, itself first if it is one.
    pub managers: Vec<SocketAddr>,
    /// Seconds since 1970 when its certificate ends; none if it is not valid now.
    pub certificate_until: Option<u64>,
    /// Whether managers have removed this node, as far as it has been told.
    #[serde(default)]
    pub removed: bool,
    /// Connections to its TCP ports that were refused (a stranger's or a removed node's certificate, a token that is not
    /// in force), or that broke or took too long, since the daemon was started.
    #[serde(default)]
    pub refused_connections: u64,
    /// How gossip is, if it runs.
    #[serde(default)]
    pub gossip: Option<GossipStatus>,
    /// The shared keys, if it has them.
    #[serde(default)]
    pub keys: Option<KeysStatus>,
    /// How the data plane is, if it runs.
    #[serde(default)]
    pub data: Option<DataStatus>,
}

/// How a node's gossip is. Counters begin with the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipStatus {
    /// Where others reach it.
    pub address: SocketAddr,
    /// Other nodes that are heard.
    pub alive: u64,
    /// Other nodes that are known.
    pub known: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the system did not take.
    pub unsent: u64,
    /// Datagrams received.
    pub received: u64,
    /// Of these, not sealed by a member.
    pub unopened: u64,
    /// Of these, a member's, but refused.
    pub rejected: u64,
    /// Times that records could not be kept on disk.
    pub unsaved: u64,
    /// Times that gossip was begun again after a fault.
    pub restarts: u64,
}

/// The keys that all nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysStatus {
    /// The current key's number.
    pub epoch: u32,
    /// For how many seconds it has been the current one.
    pub age_s: u64,
}

/// How a node's data plane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataStatus {
    /// Where its data goes in and out.
    pub address: SocketAddr,
    /// Its endpoints.
    #[serde(default)]
    pub endpoints: usize,
    /// What was dropped and why, without reasons that never were.
    pub drops: BTreeMap<String, u64>,
    /// The gateways of the networks that it has endpoints in.
    #[serde(default)]
    pub gateways: Vec<GatewayStatus>,
}

/// What a network's gateway on this node has done since it was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// The network's name.
    pub network: String,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// Questions that the network's names have answered.
    pub answered: u64,
    /// Questions that were answered with what resolvers had said before.
    pub cached: u64,
    /// Questions that resolvers were asked.
    pub forwarded: u64,
    /// Of these, those that none has answered.
    pub unanswered: u64,
    /// Questions that got an error at once.
    pub refused: u64,
    /// Messages of DHCP that were answered.
    pub leased: u64,
    /// Frames that got lost on their way back.
    pub dropped: u64,
    /// Connections and clients' flows of datagrams that came to published ports.
    #[serde(default)]
    pub carried_in: u64,
    /// Those that the endpoint has refused or not answered, and what there was no room for.
    #[serde(default)]
    pub refused_in: u64,
}
