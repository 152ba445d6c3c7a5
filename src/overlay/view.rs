//! What the control plane tells the data plane: who is there, which networks there are, who has ports in them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::api::Subnet;
use crate::crypto::identity::NodeId;
use crate::switch::balance::IdleLimits;
use crate::switch::tunnel::Protection;
use crate::switch::wire::{MacAddr, Vni};

/// A network, by the id that its record has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NetworkId(pub String);

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A network's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkView {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// What its frames carry on the underlay.
    pub vni: Vni,
    /// How they cross it.
    pub protection: Protection,
    /// Bytes of the underlay's packets that it may count on, if it says so.
    pub underlay_mtu: Option<u16>,
    /// Its subnets, each with its gateway's address.
    pub subnets: Vec<Subnet>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Where others are that are in it without being nodes; none of them has keys.
    pub foreign: BTreeSet<SocketAddr>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// Another node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Who it is.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Which of its lives this is: another number after each start of its daemon.
    pub life: u64,
    /// Where its data socket is.
    pub data: SocketAddr,
    /// The networks that it has ports in, each with the VNI that it takes that network to have.
    pub present: BTreeSet<(NetworkId, Vni)>,
    /// The endpoints that it says it has.
    pub endpoints: Vec<RemoteEndpoint>,
}

/// An endpoint of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteEndpoint {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The network that it is in.
    pub network: NetworkId,
    /// Where its frames go to.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its part in a service, if it has one.
    pub backend: Option<Backend>,
}

/// An endpoint's part in a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The id of the service that it answers for.
    pub service: String,
    /// What it gets.
    pub state: BackendState,
}

/// What an endpoint gets of its service's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// New ones, and those it has.
    Live,
    /// Only those it has.
    Draining,
}

/// A service, in one of its networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The network.
    pub network: NetworkId,
    /// Its other names there.
    pub aliases: Vec<String>,
    /// Its virtual addresses there, at most one of each IP version; none if its names stand for its endpoints.
    pub vips: Vec<IpAddr>,
    /// How long what goes through these may be silent.
    pub idle: IdleLimits,
}

/// Everything that gossip says and the data plane follows from. What is missing in it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The other nodes that are alive and know this one's endpoints: others would drop what they get.
    pub nodes: Vec<NodeView>,
    /// Every network of the cluster.
    pub networks: Vec<NetworkView>,
    /// Every service of the cluster, once for each of its networks.
    pub services: Vec<ServiceView>,
}
