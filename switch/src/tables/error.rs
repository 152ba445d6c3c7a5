//! What the tables refuse.

use std::net::{IpAddr, SocketAddr};

use vswitchd_crypto::envelope::SessionId;

use super::{NEIGHBOURS_MAX, NETWORKS_MAX, PEERS_MAX, PORTS_MAX};
use crate::fdb::TableFull;
use crate::vtep::SESSIONS_PER_PEER_MAX;
use crate::wire::{MacAddr, Vni};

/// Why a table takes no more, or has no such thing. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// [`PORTS_MAX`] are there.
    #[error("a switch has at most {PORTS_MAX} ports")]
    TooManyPorts,
    /// [`PEERS_MAX`] are there.
    #[error("a switch has at most {PEERS_MAX} peers")]
    TooManyPeers,
    /// [`NETWORKS_MAX`] are there.
    #[error("a switch has at most {NETWORKS_MAX} networks")]
    TooManyNetworks,
    /// [`NEIGHBOURS_MAX`] are there.
    #[error("a switch knows at most {NEIGHBOURS_MAX} announced addresses")]
    TooManyNeighbours,
    /// The forwarding table is full.
    #[error(transparent)]
    Fdb(#[from] TableFull),
    /// No host's address.
    #[error("{0} can't be a peer's address")]
    NotAHost(IpAddr),
    /// A peer has our own address.
    #[error("{0} is this switch's own address, not a peer's")]
    OwnAddress(SocketAddr),
    /// The peer's address is of the other IP version.
    #[error("{0} can't be reached from {1}: one is IPv4, the other IPv6")]
    OtherFamily(IpAddr, IpAddr),
    /// The network has members, which have sent and received as it is.
    #[error("network {0} has members")]
    NetworkInUse(Vni),
    /// There is no such peer.
    #[error("no such peer")]
    NoSuchPeer,
    /// The session's number is in use; it is ours to choose.
    #[error("session {0} is in use")]
    SessionInUse(SessionId),
    /// [`SESSIONS_PER_PEER_MAX`] are there.
    #[error("a peer has at most {SESSIONS_PER_PEER_MAX} sessions at a time")]
    TooManySessions,
    /// An announced place that is not in the tables.
    #[error("no such port or peer in that network")]
    NoSuchPlace,
    /// The MAC address announced, or one of its addresses, is that of this service.
    #[error("{0} is a service's MAC address, with its addresses")]
    OfService(MacAddr),
}
