//! What a daemon's data plane is told at its start.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::gateways::Entrances;
use crate::crypto::identity::NodeId;
use crate::gateway::nat::descriptors;
use crate::standalone::workers;
use crate::switch::fdb::Limits;
use crate::switch::io::tap::Offloads;
use crate::switch::storm::StormLimit;

/// A data plane to be started.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// This node.
    pub own: NodeId,
    /// Its name, for what is told of paths.
    pub name: String,
    /// Where its data socket is to be; with port 0 the system chooses, see [`super::Overlay::local`].
    pub local: SocketAddr,
    /// Whether other nodes are at the same IP address, with other ports. Datagrams then all leave from the data port,
    /// which tells the nodes apart where no key does, and flows are not spread by their source ports. On loopback
    /// that is so in any case.
    pub shares_address: bool,
    /// Threads that move frames, at most [`crate::switch::switch::WORKERS_MAX`].
    pub workers: NonZeroUsize,
    /// Bounds of the forwarding table.
    pub limits: Limits,
    /// Storm limit of each port.
    pub storm: StormLimit,
    /// What TAPs may leave undone.
    pub offloads: Offloads,
    /// Between two probes of a path.
    pub probe_interval: Duration,
    /// Who is asked for names that no network has, in this order; none: this host's own resolvers.
    pub dns: Vec<SocketAddr>,
    /// Sockets that may be held for others, in this process.
    pub sockets: Arc<Semaphore>,
    /// Is told which endpoints answer for services.
    pub entrances: Entrances,
}

impl OverlayConfig {
    /// With a worker for each core, and the usual limits.
    #[must_use]
    pub fn new(own: NodeId, name: impl Into<String>, local: SocketAddr) -> Self {
        Self {
            own,
            name: name.into(),
            local,
            shares_address: false,
            workers: workers(None),
            limits: Limits::default(),
            storm: StormLimit::default(),
            offloads: Offloads::ALL,
            probe_interval: Duration::from_secs(1),
            dns: Vec::new(),
            sockets: descriptors(),
            entrances: Entrances::default(),
        }
    }
}
