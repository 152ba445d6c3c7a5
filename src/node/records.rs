//! What nodes tell each other by gossip, as tables.
//!
//! | table | key | written by |
//! |---|---|---|
//! | [`NodeRecord`] | `self` | each node, of itself |
//! | [`Presence`] | network id | each node, of itself |
//! | [`EndpointRecord`] | endpoint id | each node, of itself |
//! | [`SharesRecord`] | network id | each node, of itself |
//! | [`MemberRecord`] | node id | managers: who belongs to the cluster, alive or not |
//! | [`Removed`] | node id | managers: who does no more |
//! | [`RevokedSerial`] | serial number | managers: certificates with rights that their node has lost |
//! | [`ClusterSettings`] | `cluster` | managers |
//! | [`NetworkRecord`] | network id | managers |
//! | [`TokenState`] | role | managers: which join token is in force |

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::api::{NetworkOptions, Subnet};
use crate::crypto::identity::{NodeId, Role};
use crate::gossip::{self, Record, TableId};
use crate::ipam::Share;

/// The key of what there is one of.
pub(crate) const SELF: &str = "self";
/// The key of the cluster's settings.
pub(crate) const CLUSTER: &str = "cluster";

/// A role, as records have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RecordRole {
    Worker,
    Manager,
}

impl From<Role> for RecordRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Worker => Self::Worker,
            Role::Manager => Self::Manager,
        }
    }
}

impl From<RecordRole> for Role {
    fn from(role: RecordRole) -> Self {
        match role {
            RecordRole::Worker => Self::Worker,
            RecordRole::Manager => Self::Manager,
        }
    }
}

/// A live node, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeRecord {
    /// What people call it.
    pub(crate) name: String,
    /// Its program's version.
    pub(crate) version: String,
    /// The role of its certificate.
    pub(crate) role: RecordRole,
    /// Where it lets nodes in, if it is a manager.
    pub(crate) join: Option<SocketAddr>,
    /// Where its data goes to.
    pub(crate) data: SocketAddr,
}

impl Record for NodeRecord {
    const TABLE: TableId = TableId::owned(1);
}

/// A node has ports in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Presence {
    /// The network's VNI, as the node has it.
    pub(crate) vni: u32,
}

impl Record for Presence {
    const TABLE: TableId = TableId::owned(2);
}

/// An endpoint: who it is to its network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointRecord {
    /// The id of the network that it is in.
    pub(crate) network: String,
    /// Its name there.
    pub(crate) name: String,
    /// Its addresses, at most one of each IP version.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where its frames go to.
    pub(crate) mac: [u8; 6],
    /// Its other names.
    pub(crate) aliases: Vec<String>,
}

impl Record for EndpointRecord {
    const TABLE: TableId = TableId::owned(3);
}

/// How many addresses of a network a node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SharesRecord {
    /// Of each subnet, in the order of the network's record; later ones that it holds nothing of may be missing.
    pub(crate) shares: Vec<Share>,
}

impl Record for SharesRecord {
    const TABLE: TableId = TableId::owned(4);
}

/// A node that belongs to the cluster, alive or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    /// The name it joined with.
    pub(crate) name: String,
    /// The role that it is to have.
    pub(crate) role: RecordRole,
    /// When it joined, in milliseconds since 1970.
    pub(crate) joined_ms: u64,
}

impl Record for MemberRecord {
    const TABLE: TableId = TableId::cluster(1);
}

/// A node that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    /// When its last certificate will have expired, in milliseconds since 1970.
    pub(crate) until_ms: u64,
    /// Which expulsion of the key ring shuts it out ([`crate::crypto::keyring::KeyRing::expels`]). Two of one number
    /// were on two sides of a partition.
    pub(crate) expels: u32,
}

impl Record for Removed {
    const TABLE: TableId = TableId::cluster(2);
}

/// What holds for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterSettings {
    /// UDP port of the data path, where a node has none of its own.
    pub(crate) data_path_port: u16,
    /// Prefixes that networks get their subnets from: address, length.
    pub(crate) pools: Vec<(std::net::Ipv4Addr, u8)>,
    /// Length of such a subnet's prefix.
    pub(crate) pool_mask: u8,
}

impl Record for ClusterSettings {
    const TABLE: TableId = TableId::cluster(3);
}

/// A network. Its parts are the API's: what is asked for and shown is what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// Its name.
    pub(crate) name: String,
    /// Its VXLAN network identifier.
    pub(crate) vni: u32,
    /// Its subnets: at least one of IPv4.
    pub(crate) subnets: Vec<Subnet>,
    /// The rest of what it was made with.
    pub(crate) options: NetworkOptions,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// Who made it: in the beginning that node holds all its addresses.
    pub(crate) maker: gossip::NodeId,
}

impl Record for NetworkRecord {
    const TABLE: TableId = TableId::cluster(4);
}

/// Which secret of a role's join token is in force: managers with another admit nobody by it, and ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenState {
    /// [`crate::crypto::token::Secret::digest`].
    pub(crate) digest: [u8; 32],
}

impl Record for TokenState {
    const TABLE: TableId = TableId::cluster(5);
}

/// A certificate that was replaced by one with less rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RevokedSerial {
    /// When it will have expired, in milliseconds since 1970.
    pub(crate) until_ms: u64,
}

impl Record for RevokedSerial {
    const TABLE: TableId = TableId::cluster(6);
}

/// What people call a table.
pub(crate) fn table_name(table: TableId) -> &'static str {
    [
        (NodeRecord::TABLE, "node"),
        (Presence::TABLE, "presence"),
        (EndpointRecord::TABLE, "endpoint"),
        (SharesRecord::TABLE, "addresses"),
        (MemberRecord::TABLE, "member"),
        (Removed::TABLE, "removed"),
        (ClusterSettings::TABLE, "settings"),
        (NetworkRecord::TABLE, "network"),
        (TokenState::TABLE, "token"),
        (RevokedSerial::TABLE, "revoked"),
    ]
    .into_iter()
    .find(|&(known, _)| known == table)
    .map_or("unknown", |(_, name)| name)
}

/// A node's id as gossip has it.
pub(crate) fn gossip_id(node: NodeId) -> gossip::NodeId {
    gossip::NodeId(*node.as_bytes())
}

/// And back.
pub(crate) fn node_id(node: gossip::NodeId) -> NodeId {
    NodeId::from_bytes(node.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gossip::codec;

    #[test]
    fn a_network_is_in_the_corpus() {
        let bytes = include_bytes!("../../fuzz/corpus/record/network");
        let network: NetworkRecord = codec::decode(bytes).unwrap();
        let subnets = network.subnets.iter().map(|subnet| subnet.subnet.to_string());
        assert_eq!(subnets.collect::<Vec<_>>(), ["10.0.9.0/24", "fd00:9::/64"]);
        assert_eq!((network.options.mtu, network.options.encrypted, network.vni), (Some(1400), true, 42));
        assert_eq!(network.options.foreign, [[192, 0, 2, 9].into()].into());
        assert_eq!(codec::encode(&network), bytes);
    }
}
