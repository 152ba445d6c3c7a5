//! What nodes tell each other by gossip, as tables.
//!
//! | table | key | written by |
//! |---|---|---|
//! | [`NodeRecord`] | `self` | each node, of itself |
//! | [`Presence`] | network id | each node, of itself |
//! | [`EndpointRecord`] | endpoint id | each node, of itself |
//! | [`SharesRecord`] | network id | each node, of itself |
//! | [`TaskRecord`] | task id | each node, of itself |
//! | [`UnboundRecord`] | port | each node, of itself |
//! | [`MemberRecord`] | node id | managers: who belongs to the cluster, alive or not |
//! | [`Removed`] | node id | managers: who does no more |
//! | [`RevokedSerial`] | serial number | managers: certificates with rights that their node has lost |
//! | [`ClusterSettings`] | `cluster` | managers |
//! | [`NetworkRecord`] | network id | managers |
//! | [`ServiceRecord`] | service id | managers |
//! | [`TokenState`] | role | managers: which join token is in force |

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::api::{NetworkOptions, Subnet};
use crate::crypto::identity::{NodeId, Role};
use crate::gossip::{self, Record, TableId};
use crate::ipam::Share;
use crate::overlay::Backend;
use crate::service::{Port, Protocol, RestartPolicy, ServiceSpec};

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
    /// Whether its operator lets it run tasks of services.
    pub(crate) tasks: bool,
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
    /// Its part in a service, if it has one.
    pub(crate) backend: Option<Backend>,
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

/// A task of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TaskRecord {
    /// The id of its service.
    pub(crate) service: String,
    /// Which of the service's slots it is; none in a global service, where its node is the slot.
    pub(crate) slot: Option<u16>,
    /// The generation of the service that it runs.
    pub(crate) generation: u64,
    /// What it does.
    pub(crate) state: TaskPhase,
    /// Why, for people; empty if there is nothing to say.
    pub(crate) reason: String,
    /// Whether it has ended, and its node has no other one of its generation follow.
    pub(crate) last: bool,
    /// Since when, in milliseconds since 1970 by its node's clock.
    pub(crate) since_ms: u64,
    /// The ids of its endpoints, in the order of the service's networks.
    pub(crate) endpoints: Vec<String>,
}

impl TaskPhase {
    /// Whether a task in it has ended, and the policy has no other one follow.
    pub(crate) fn is_final(self, policy: &RestartPolicy) -> bool {
        match self {
            Self::Complete => !policy.repeats(true),
            Self::Failed => !policy.repeats(false),
            _ => false,
        }
    }
}

impl Record for TaskRecord {
    const TABLE: TableId = TableId::owned(5);
}

/// A port of a service that a node should listen on and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnboundRecord {
    /// The id of the service.
    pub(crate) service: String,
    /// The port's number.
    pub(crate) published: u16,
    /// What it is of.
    pub(crate) protocol: Protocol,
    /// The address that it is wanted at; all, if none is given.
    pub(crate) address: Option<IpAddr>,
    /// Why not, for people; empty if the node has not got the address, which is worth a word only if no other has it.
    pub(crate) reason: String,
    /// Since when, in milliseconds since 1970 by its node's clock.
    pub(crate) since_ms: u64,
}

impl Record for UnboundRecord {
    const TABLE: TableId = TableId::owned(6);
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TaskPhase {
    /// Something has to happen first.
    Waiting,
    Starting,
    Running,
    /// It gets no new connections any more.
    Draining,
    /// It has ended as it should.
    Complete,
    Failed,
    /// Its node can't or may not run it.
    Rejected,
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
    /// What managers have written on it.
    pub(crate) labels: BTreeMap<String, String>,
}

impl MemberRecord {
    /// A new member, of which nothing is written yet.
    pub(crate) fn new(name: String, role: Role, joined_ms: u64) -> Self {
        Self { name, role: role.into(), joined_ms, labels: BTreeMap::new() }
    }
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

/// A service. Its parts are the API's: what is asked for and shown is what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    /// What was asked for, with networks by their ids.
    pub(crate) spec: ServiceSpec,
    /// Another one with every change for which tasks are replaced: see [`crate::service::update::next_generation`].
    pub(crate) generation: u64,
    /// When it was made, in milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// When it was changed last.
    pub(crate) updated_ms: u64,
    /// Its virtual addresses.
    pub(crate) vips: Vec<Vip>,
    /// Its published ports, all with a number.
    pub(crate) ports: Vec<Port>,
}

impl Record for ServiceRecord {
    const TABLE: TableId = TableId::cluster(7);
}

/// The virtual addresses of a service in a network. Nobody leases them as long as the service's record has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vip {
    /// The network's id.
    pub(crate) network: String,
    /// One of each IP version that the network has.
    pub(crate) addresses: Vec<IpAddr>,
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
        (TaskRecord::TABLE, "task"),
        (UnboundRecord::TABLE, "unbound"),
        (MemberRecord::TABLE, "member"),
        (Removed::TABLE, "removed"),
        (ClusterSettings::TABLE, "settings"),
        (NetworkRecord::TABLE, "network"),
        (ServiceRecord::TABLE, "service"),
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
    use std::num::NonZeroU16;

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

    #[test]
    fn a_service_and_its_task_are_in_the_corpus() {
        let spec = ServiceSpec::new(crate::service::spec::tests::full()).unwrap();
        let numbered = |port: &Port| Port { published: port.published.or(NonZeroU16::new(30_000)), ..*port };
        let ports = spec.ports.iter().map(numbered).collect();
        let vips = vec![Vip {
            network: "front".into(),
            addresses: vec!["10.0.9.5".parse().unwrap(), "fd00:9::5".parse().unwrap()],
        }];
        let service = ServiceRecord { spec, generation: 2, created_ms: 1, updated_ms: 300, vips, ports };
        let bytes = include_bytes!("../../fuzz/corpus/record/service");
        assert_eq!(codec::decode(bytes).as_ref(), Ok(&service));
        assert_eq!(codec::encode(&service), bytes);
        let task = TaskRecord {
            service: "3v0dvsb7bvsmz5f2zj0jq8s3k".into(),
            slot: Some(2),
            generation: 2,
            state: TaskPhase::Rejected,
            reason: "no such program".into(),
            last: true,
            since_ms: 300,
            endpoints: vec!["0abc".into()],
        };
        let bytes = include_bytes!("../../fuzz/corpus/record/task");
        assert_eq!(codec::decode(bytes).as_ref(), Ok(&task));
        assert_eq!(codec::encode(&task), bytes);
    }
}
