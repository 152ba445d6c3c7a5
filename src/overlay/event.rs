//! What the data plane has to tell, each as a line for people, too.

use std::fmt;
use std::time::Duration;

use super::plan::Refused;
use super::view::NetworkId;
use crate::api::PublishedPort;
use crate::crypto::identity::NodeId;

/// Something has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayEvent {
    /// Data gets to a node, for the first time or again.
    PathOk {
        /// The node.
        node: NodeId,
        /// Its name.
        name: String,
        /// The round-trip time.
        rtt: Option<Duration>,
    },
    /// A node is alive by gossip, and data does not get there.
    PathBlocked {
        /// The node.
        node: NodeId,
        /// Its name.
        name: String,
        /// This node's name.
        from: String,
        /// The UDP port that data goes to.
        port: u16,
    },
    /// The largest packet that gets to a node has been found, or is another one.
    PathMtu {
        /// The node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Bytes of the IP packet.
        mtu: u16,
    },
    /// An endpoint's interface has another MTU, by what the paths to its network's peers carry.
    EndpointMtu {
        /// Its name.
        endpoint: String,
        /// Its network.
        network: NetworkId,
        /// Bytes of its largest packet before.
        was: u32,
        /// Bytes of its largest packet now.
        mtu: u32,
    },
    /// An endpoint's device has gone, and the endpoint with it.
    EndpointGone {
        /// Its name.
        endpoint: String,
        /// Its network.
        network: NetworkId,
        /// What was met.
        reason: String,
    },
    /// A port of this host at which an endpoint of before is published can't be had; it is tried again each second.
    NotPublished {
        /// The endpoint's name.
        endpoint: String,
        /// Its network.
        network: NetworkId,
        /// The port.
        port: PublishedPort,
        /// Why not.
        reason: String,
    },
    /// It can be had now.
    Published {
        /// The endpoint's name.
        endpoint: String,
        /// Its network.
        network: NetworkId,
        /// The port.
        port: PublishedPort,
    },
    /// A network's gateway on this node has ended by itself; another has been started.
    GatewayEnded(NetworkId),
    /// A network that this node has endpoints in carries nothing.
    NetworkRefused(Refused),
    /// A network carries frames that was refused before.
    NetworkCarried(NetworkId),
    /// The switch has refused something; the rest goes on, and it is tried again with the next change.
    SwitchRefused {
        /// What was to be done.
        what: String,
        /// Why not.
        reason: String,
    },
    /// A socket failed to receive; it is tried again each second.
    UnderlayFailed(String),
    /// The system does not cut runs of datagrams, which costs speed only.
    SegmentationRefused,
    /// The workers have ended by themselves; others are started.
    WorkersEnded(String),
    /// The data plane is at work again, or at another address.
    Moved(std::net::SocketAddr),
}

impl fmt::Display for OverlayEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PathOk { name, rtt: None, .. } => write!(f, "data path to {name}: ok"),
            Self::PathOk { name, rtt: Some(rtt), .. } => {
                write!(f, "data path to {name}: ok, round trip {:.3} ms", rtt.as_secs_f64() * 1e3)
            }
            Self::PathBlocked { name, from, port, .. } => {
                write!(f, "{name}: control OK, data path blocked (UDP {port} from {from} to {name})")
            }
            Self::PathMtu { name, mtu, .. } => write!(f, "data path to {name} carries packets of {mtu} bytes"),
            Self::EndpointMtu { endpoint, network, was, mtu } => {
                write!(f, "endpoint {endpoint} of network {network}: MTU {mtu}, was {was}, as the paths to its peers are")
            }
            Self::EndpointGone { endpoint, network, reason } => {
                write!(f, "endpoint {endpoint} of network {network} is gone: {reason}")
            }
            Self::NotPublished { endpoint, network, port, reason } => {
                write!(
                    f,
                    "endpoint {endpoint} of network {network} is not reached at port {port}, which is tried again: {reason}"
                )
            }
            Self::Published { endpoint, network, port } => {
                write!(f, "endpoint {endpoint} of network {network} is reached at port {port} again")
            }
            Self::GatewayEnded(network) => {
                write!(f, "the gateway of network {network} has ended and is started anew")
            }
            Self::NetworkRefused(refused) => refused.fmt(f),
            Self::NetworkCarried(network) => write!(f, "network {network} carries frames again"),
            Self::SwitchRefused { what, reason } => write!(f, "can't {what}: {reason}"),
            Self::UnderlayFailed(reason) => write!(f, "receiving data failed: {reason}"),
            Self::SegmentationRefused => f.write_str(
                "the underlay's device or kernel does not cut UDP runs: datagrams are sent one by one, which is slower",
            ),
            Self::WorkersEnded(reason) => write!(f, "the data plane has ended and is started anew: {reason}"),
            Self::Moved(address) => write!(f, "data plane at {address}"),
        }
    }
}
