//! Networks, and what is attached to them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{EndpointDevice, HostAddress, IpPrefix, Name, PublishedView, text};
use crate::switch::wire::MacAddr;

/// Subnets of a network: a few of each IP version.
pub const SUBNETS_MAX: usize = 16;
/// Reserved addresses of a network, in all its subnets.
pub const RESERVED_MAX: usize = 128;
/// Labels of a network.
pub const LABELS_MAX: usize = 64;
/// Bytes of a label's key.
pub const LABEL_KEY_MAX: usize = 128;
/// Bytes of a label's value.
pub const LABEL_VALUE_MAX: usize = 256;
/// Foreign end points of a network: each gets a copy of what is flooded, from every node.
pub const FOREIGN_MAX: usize = 64;

/// What [`super::Call::CreateNetwork`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    /// Its name.
    pub name: Name,
    /// Its subnets, at most [`SUBNETS_MAX`]. Without one of IPv4 it gets a block of the cluster's pools.
    #[serde(default)]
    pub subnets: Vec<SubnetRequest>,
    /// Whether it is to have IPv6: without a subnet of it, it gets a random one of its own (RFC 4193 §3.2).
    #[serde(default)]
    pub ipv6: bool,
    /// Its VNI, 0 to 16777215; the first free one from 4096 on if not given.
    #[serde(default)]
    pub vni: Option<u32>,
    /// The rest.
    #[serde(default)]
    pub options: NetworkOptions,
}

/// A subnet that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubnetRequest {
    /// Its addresses.
    pub subnet: IpPrefix,
    /// The gateway's address; its first that is not reserved if not given.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// Where endpoints get addresses from that ask for none in particular; all of it if not given.
    #[serde(default)]
    pub ip_range: Option<IpPrefix>,
    /// Addresses that endpoints don't get, each with a name for people.
    #[serde(default)]
    pub reserved: BTreeMap<Name, IpAddr>,
}

/// A subnet that a network has. Also what gossip carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Its addresses.
    pub subnet: IpPrefix,
    /// The gateway's, on every node.
    pub gateway: IpAddr,
    /// Where endpoints get addresses from that ask for none in particular; none: all of it.
    pub ip_range: Option<IpPrefix>,
    /// Addresses that endpoints don't get, each with a name for people.
    pub reserved: BTreeMap<Name, IpAddr>,
}

/// What kind of network it is. Also what gossip carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkOptions {
    /// Whether its data is sealed between nodes.
    pub encrypted: bool,
    /// Bytes of the underlay's packets that it may count on, as in Docker: interfaces in it get what is left behind
    /// the headers. None: as the underlay has it.
    pub mtu: Option<u16>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether single programs may be attached, as Docker has it: kept and shown.
    pub attachable: bool,
    /// Whether it is the one of the routing mesh.
    pub ingress: bool,
    /// Keys and values, at most [`LABELS_MAX`] of at most [`LABEL_KEY_MAX`] and [`LABEL_VALUE_MAX`] bytes.
    pub labels: BTreeMap<String, String>,
    /// VXLAN end points that are no nodes of the cluster and in the network as if they were, at most [`FOREIGN_MAX`]:
    /// their addresses in the underlay, at the cluster's data port. Never of one that is [`Self::encrypted`].
    pub foreign: BTreeSet<IpAddr>,
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
    /// Its subnets, in the order that they were asked for.
    pub subnets: Vec<Subnet>,
    /// The rest of what it was made with.
    pub options: NetworkOptions,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
    /// Nodes that have endpoints in it, as far as they are heard.
    pub nodes: usize,
    /// What it shares with older networks, made where nobody knew of them.
    pub conflicts: Vec<NetworkConflict>,
}

/// A network by name and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// What a network shares with an older one: both were made at once, on two managers or on two sides of a partition.
///
/// Of two the older one holds what both want, or if they are equally old the one with the smaller id: so all nodes that
/// know both say the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum NetworkConflict {
    /// The name, which means the other one. This one is named by its id, and works as any.
    Name {
        /// The older network.
        holder: NetworkRef,
    },
    /// The VNI: this network carries nothing.
    Vni {
        /// The older network.
        holder: NetworkRef,
    },
    /// Addresses: both work, but nobody can be in both and tell their addresses apart.
    Subnet {
        /// This network's.
        own: IpPrefix,
        /// The older one's.
        other: IpPrefix,
        /// The older network.
        holder: NetworkRef,
    },
}

/// What [`super::Call::Network`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    /// As it is listed.
    pub network: NetworkView,
    /// The nodes that have endpoints in it, as far as they are heard, by name.
    pub peers: Vec<NetworkPeer>,
    /// The endpoints that the node has that is asked, by name.
    pub endpoints: Vec<NetworkEndpoint>,
    /// The endpoints of all nodes, as far as they are heard, by name.
    pub members: Vec<NetworkMember>,
    /// How its addresses are used, in the order of its subnets.
    pub addresses: Vec<SubnetUse>,
}

/// An endpoint of any node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMember {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The name of its node.
    pub node: String,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<HostAddress>,
}

/// How the addresses of a subnet are used: those that endpoints get which ask for none in particular. 2^64 - 1 stands for
/// that many or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetUse {
    /// The subnet.
    pub subnet: IpPrefix,
    /// How many there are.
    pub capacity: u64,
    /// What the nodes hold that have been heard of, by name.
    pub nodes: Vec<NodeUse>,
}

/// What a node holds of a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUse {
    /// The node's name.
    pub node: String,
    /// Whether it is the one that is asked.
    pub own: bool,
    /// Addresses that only this node gives to endpoints: `free` and `used` together.
    pub owned: u64,
    /// Those that no endpoint has.
    pub free: u64,
    /// Those that one has.
    pub used: u64,
}

/// A node with endpoints in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPeer {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where its data goes to.
    pub address: Option<IpAddr>,
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEndpoint {
    /// Its id.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// Its MAC address.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<HostAddress>,
    /// What its frames go in and out by.
    #[serde(flatten)]
    pub device: EndpointDevice,
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// Whether its frames are carried.
    pub carried: bool,
    /// Where it is reached from outside.
    #[serde(default)]
    pub published: Vec<PublishedView>,
}

/// What [`super::Call::PruneNetworks`] gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Names of the networks that are removed.
    pub removed: Vec<String>,
}

impl fmt::Display for NetworkConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |holder: &NetworkRef| format!("{} ({})", holder.name, holder.id);
        match self {
            Self::Name { holder } => write!(f, "name means {}", holder.id),
            Self::Vni { holder } => write!(f, "VNI is that of {}: carries nothing", of(holder)),
            Self::Subnet { own, other, holder } => write!(f, "{own} overlaps {other} of {}", of(holder)),
        }
    }
}

/// What came of [`super::Call::RotateKeys`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysRotated {
    /// The key ring's epoch from now on.
    pub epoch: u32,
}
