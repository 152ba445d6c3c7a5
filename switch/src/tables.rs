//! What forwarding reads, and the one master copy that it is published from.
//!
//! The two paths read a [`Tables`] snapshot, loaded once for a batch. Changes go to the [`Master`] under its owner's
//! lock; the forwarding table and the rest are published apart, because learning is frequent and the rest is not.

mod announced;
mod error;
mod services;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vswitchd_crypto::envelope::SessionId;
use vswitchd_crypto::open::Opener;
use vswitchd_crypto::seal::Sealer;

use crate::balance::{Flows, Service};
use crate::counters::Traffic;
use crate::fdb::{Fdb, Learnt, Limits, Place};
use crate::io::Capabilities;
use crate::path_mtu;
use crate::probe;
use crate::storm::{StormBucket, StormLimit};
use crate::tunnel::Protection;
use crate::vtep::{PathMtu, SESSIONS_PER_PEER_MAX, Session, Vtep, VtepId, Vteps};
use crate::wire::{MacAddr, Vni};
use announced::Announced;
pub use error::TableError;

/// Ports of one switch; a host with more containers or machines than that has other limits first.
pub const PORTS_MAX: usize = 4_096;
/// Peers of one switch: each costs a copy of every flooded frame.
pub const PEERS_MAX: usize = 4_096;
/// Networks of one switch: as many as 802.1Q has VLANs.
pub const NETWORKS_MAX: usize = 4_096;
/// Announced addresses that neighbour questions are answered for.
pub const NEIGHBOURS_MAX: usize = 65_536;

/// A port of this switch. Never given twice in a switch's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

/// What a port is made with.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// For people.
    pub name: String,
    /// The network that the port is in.
    pub vni: Vni,
    /// Largest IP packet that the port's other end takes, in bytes.
    pub mtu: usize,
    /// What the device takes unfinished.
    pub capabilities: Capabilities,
    /// How much the port may have flooded.
    pub storm: StormLimit,
}

/// A port in the tables.
#[derive(Clone, Debug)]
pub struct Port {
    /// What it was made with.
    pub spec: Arc<PortSpec>,
    /// Counters, shared by every snapshot.
    pub traffic: Arc<Traffic>,
    /// What it may still have flooded, shared by every snapshot and worker; only flooding takes the lock.
    pub(crate) storm: Arc<Mutex<StormBucket>>,
    /// Whether nothing comes there from peers, nor goes to all of them from there.
    pub(crate) here_only: bool,
}

/// A network in the tables: who gets what is flooded.
#[derive(Clone, Debug)]
pub struct Network {
    /// Local members.
    pub ports: Vec<PortId>,
    /// Peers with members: the head-end replication list.
    pub peers: Vec<VtepId>,
    /// How its frames cross the underlay; does not change while it has members.
    pub protection: Protection,
    /// Its services by MAC address.
    pub services: HashMap<MacAddr, Arc<Service>, foldhash::fast::RandomState>,
    /// Counters, shared by every snapshot.
    pub traffic: Arc<Traffic>,
}

impl Network {
    /// Whether anybody is in it, here or at a peer.
    #[must_use]
    pub fn has_members(&self) -> bool {
        !self.ports.is_empty() || !self.peers.is_empty()
    }
}

/// Ports, peers and networks.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Our own end of every tunnel.
    pub local: SocketAddr,
    /// Ports by id.
    pub ports: HashMap<PortId, Port, foldhash::fast::RandomState>,
    /// Peers.
    pub peers: Vteps,
    /// Networks by VNI.
    pub networks: HashMap<Vni, Network, foldhash::fast::RandomState>,
    /// Addresses of announced endpoints, and of services.
    pub neighbours: HashMap<(Vni, IpAddr), MacAddr, foldhash::fast::RandomState>,
    /// Flows that services have balanced, shared by every snapshot and worker; since there was a service.
    pub flows: Option<Arc<Flows>>,
}

/// A snapshot.
#[derive(Clone, Debug)]
pub struct Tables {
    /// Where addresses are.
    pub fdb: Arc<Fdb>,
    /// Who is there.
    pub topology: Arc<Topology>,
}

/// A source address heard somewhere, on its way from a path to the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Network of the frame.
    pub vni: Vni,
    /// Source of the frame.
    pub mac: MacAddr,
    /// Where it came from.
    pub place: Place,
}

/// What became of news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Learning {
    /// New entries.
    pub learnt: u64,
    /// Entries that moved.
    pub moved: u64,
    /// Entries that began to be held for moving too often.
    pub held: u64,
    /// Addresses not learnt because the table was full; their frames are flooded.
    pub full: u64,
    /// Entries that aged out.
    pub aged: u64,
}

/// The master copy, and what is published of it. Every call changes what it says or, on an error, nothing; what
/// has changed is handed out by the next [`Self::tables`], however much that is.
#[derive(Debug)]
pub struct Master {
    fdb: Fdb,
    announced: Announced,
    published: Tables,
    published_at: Option<Instant>,
    /// Something was learnt or forgotten, which may wait.
    dirty: bool,
    /// The control plane has changed the forwarding table, which may not.
    due: bool,
    next_id: u32,
    next_epoch: u32,
    /// Tasks of services have gone, or whole services.
    lost_tasks: bool,
    learning: Learning,
    workers: usize,
}

/// Publishing copies the table; this bounds the share of time that it takes to about a hundredth (30 µs for 10,000
/// entries, measured, against 2.5 ms of waiting).
const PUBLISH_WAIT_PER_ENTRY: Duration = Duration::from_nanos(250);
/// Below so many entries a copy costs no more than a few frames, and learning shows at once.
const PUBLISH_AT_ONCE_ENTRIES: usize = 1_024;

impl Master {
    /// Empty tables for a switch whose datagrams come from `local`, with counters for so many workers.
    #[must_use]
    pub fn new(local: SocketAddr, limits: Limits, workers: usize) -> Self {
        let fdb = Fdb::new(limits);
        let topology = Topology {
            local,
            ports: HashMap::default(),
            peers: Vteps::default(),
            networks: HashMap::default(),
            neighbours: HashMap::default(),
            flows: None,
        };
        let published = Tables { fdb: Arc::new(fdb.clone()), topology: Arc::new(topology) };
        let learning = Learning::default();
        let (announced, published_at) = (Announced::default(), None);
        Self {
            fdb,
            announced,
            published,
            published_at,
            dirty: false,
            due: false,
            next_id: 0,
            next_epoch: 1,
            lost_tasks: false,
            learning,
            workers,
        }
    }

    /// The snapshot to hand out: all that has been changed, and what has been learnt as of [`Self::publish`].
    #[must_use]
    pub fn tables(&mut self) -> Tables {
        if self.due {
            self.publish_fdb();
        }
        self.published.clone()
    }

    /// What learning has come to so far.
    #[must_use]
    pub fn learning(&self) -> Learning {
        self.learning
    }

    /// Takes in what the paths have heard. Follow with [`Self::publish`].
    pub fn learn(&mut self, news: &[News], now: Instant) {
        for item in news {
            if !self.is_member(item.vni, item.place) {
                continue;
            }
            match self.fdb.learn(item.vni, item.mac, item.place, now) {
                Learnt::New => self.learning.learnt += 1,
                Learnt::Moved => self.learning.moved += 1,
                Learnt::Held => self.learning.held += 1,
                Learnt::Full => {
                    self.learning.full += 1;
                    continue;
                }
                Learnt::Refused => continue,
                Learnt::Refreshed => {}
            }
            self.dirty = true;
        }
    }

    /// Forgets what is too old. Follow with [`Self::publish`].
    pub fn age(&mut self, now: Instant) {
        let aged = self.fdb.age(now);
        self.learning.aged += aged as u64;
        self.dirty |= aged > 0;
    }

    /// Publishes a changed forwarding table; `Err` is when it may, if a large one was published just before.
    ///
    /// # Errors
    /// The moment from which on to try again.
    pub fn publish(&mut self, now: Instant) -> Result<bool, Instant> {
        if !self.dirty && !self.due {
            return Ok(false);
        }
        let entries = u32::try_from(self.fdb.len()).unwrap_or(u32::MAX);
        let due = self.published_at.map_or(now, |at| at + PUBLISH_WAIT_PER_ENTRY * entries);
        if self.fdb.len() > PUBLISH_AT_ONCE_ENTRIES && now < due {
            return Err(due);
        }
        self.published_at = Some(now);
        self.publish_fdb();
        Ok(true)
    }

    /// Adds a port, and its network if it is the first.
    ///
    /// # Errors
    /// Too many ports or networks.
    pub fn add_port(&mut self, spec: PortSpec) -> Result<PortId, TableError> {
        if self.published.topology.ports.len() >= PORTS_MAX {
            return Err(TableError::TooManyPorts);
        }
        let id = PortId(self.next_id);
        let vni = spec.vni;
        // A super-frame's checksum is never finished before it is cut.
        let tso = spec.capabilities.tso && spec.capabilities.checksum;
        let uso = spec.capabilities.uso && spec.capabilities.checksum;
        let capabilities = Capabilities { tso, uso, ..spec.capabilities };
        let storm = Arc::new(Mutex::new(StormBucket::new(spec.storm)));
        let traffic = Arc::new(Traffic::new(self.workers));
        let port =
            Port { spec: Arc::new(PortSpec { capabilities, ..spec }), traffic, storm, here_only: false };
        self.network(vni)?.ports.push(id);
        self.next_id += 1;
        self.topology().ports.insert(id, port);
        Ok(id)
    }

    /// Has a network's frames sealed on the underlay, from its first member on, and for as long as it is not
    /// forgotten: also when its last member leaves and another comes. Sealing it twice is no error.
    ///
    /// # Errors
    /// Too many networks, or a plain one with members.
    pub fn seal_network(&mut self, vni: Vni) -> Result<(), TableError> {
        let network = self.network(vni)?;
        match network.protection {
            Protection::Sealed => {}
            Protection::Plain if network.has_members() => return Err(TableError::NetworkInUse(vni)),
            Protection::Plain => network.protection = Protection::Sealed,
        }
        Ok(())
    }

    /// Forgets a network, and that it was sealed.
    ///
    /// # Errors
    /// It has members.
    pub fn forget_network(&mut self, vni: Vni) -> Result<(), TableError> {
        if self.published.topology.networks.get(&vni).is_some_and(Network::has_members) {
            return Err(TableError::NetworkInUse(vni));
        }
        self.forget_services(vni);
        self.topology().networks.remove(&vni);
        Ok(())
    }

    /// Sets what is sealed with for a peer, or that nothing is.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_sealer(&mut self, peer: VtepId, sealer: Option<Arc<Sealer>>) -> Result<(), TableError> {
        if self.topology().peers.set_sealer(peer, sealer) { Ok(()) } else { Err(TableError::NoSuchPeer) }
    }

    /// Adds a key that opens what a peer seals, beside those that it has.
    ///
    /// # Errors
    /// There is no such peer, it has too many, or the session's number is in use.
    pub fn add_opener(&mut self, peer: VtepId, opener: Arc<Opener>) -> Result<(), TableError> {
        let (session, peers) = (opener.session(), &mut self.topology().peers);
        if peers.peer(peer).is_none() {
            return Err(TableError::NoSuchPeer);
        }
        if peers.session(session).is_some() {
            return Err(TableError::SessionInUse(session));
        }
        if peers.sessions_of(peer) >= SESSIONS_PER_PEER_MAX {
            return Err(TableError::TooManySessions);
        }
        peers.insert_session(Session::new(peer, opener));
        Ok(())
    }

    /// Removes a key by the session's number. Gives whether there was one.
    pub fn remove_opener(&mut self, session: SessionId) -> bool {
        self.topology().peers.remove_session(session)
    }

    /// Has what is flooded from a port stay on this node, and nothing of peers come there: for what every node has for
    /// itself, such as a gateway. What it sends to one address goes as always. Gives whether there is such a port.
    pub fn keep_here(&mut self, id: PortId) -> bool {
        self.topology().ports.get_mut(&id).map(|port| port.here_only = true).is_some()
    }

    /// Removes a port and all that was known to be there, and gives it. A plain network with nobody left goes too.
    pub fn remove_port(&mut self, id: PortId) -> Option<Port> {
        let port = self.topology().ports.remove(&id)?;
        self.leave(port.spec.vni, Place::Port(id));
        Some(port)
    }

    /// Adds a peer to a network's replication list. Adding it twice is no error. Another port is another peer.
    ///
    /// # Errors
    /// Too many peers or networks; an address that can't be a peer's.
    pub fn add_peer(&mut self, vni: Vni, address: SocketAddr) -> Result<VtepId, TableError> {
        let own = self.published.topology.local;
        if address == own {
            return Err(TableError::OwnAddress(own));
        }
        let local = own.ip();
        let broadcast = address.ip() == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.ip().is_unspecified() || address.ip().is_multicast() || broadcast {
            return Err(TableError::NotAHost(address.ip()));
        }
        if address.is_ipv4() != local.is_ipv4() {
            return Err(TableError::OtherFamily(address.ip(), local));
        }
        let peers = &self.published.topology.peers;
        let id = match peers.exact(address) {
            Some(id) => id,
            None if peers.len() >= PEERS_MAX => return Err(TableError::TooManyPeers),
            None => VtepId(self.next_id),
        };
        let network = self.network(vni)?;
        if !network.peers.contains(&id) {
            network.peers.push(id);
        }
        if id.0 == self.next_id {
            self.next_id += 1;
            let traffic = Arc::new(Traffic::new(self.workers));
            let bucket = |limit| Arc::new(Mutex::new(StormBucket::new(limit)));
            let vtep = Vtep {
                address,
                traffic,
                sealer: None,
                replies: bucket(probe::REPLIES),
                path_mtu: PathMtu::default(),
                too_big: bucket(path_mtu::MESSAGES),
            };
            self.topology().peers.insert(id, vtep);
        }
        Ok(id)
    }

    /// Takes a peer out of a network's replication list. Out of its last network it is forgotten with its sealer and
    /// openers, and no [`VtepId`] is given again: if it comes back, it comes as another, without keys.
    pub fn remove_peer(&mut self, vni: Vni, id: VtepId) {
        self.leave(vni, Place::Vtep(id));
        if !self.published.topology.networks.values().any(|network| network.peers.contains(&id)) {
            self.topology().peers.remove(id);
        }
    }

    fn topology(&mut self) -> &mut Topology {
        Arc::make_mut(&mut self.published.topology)
    }

    fn is_member(&self, vni: Vni, place: Place) -> bool {
        self.published.topology.networks.get(&vni).is_some_and(|network| match place {
            Place::Port(port) => network.ports.contains(&port),
            Place::Vtep(vtep) => network.peers.contains(&vtep),
            // Set, not announced or heard.
            Place::Service => false,
        })
    }

    fn network(&mut self, vni: Vni) -> Result<&mut Network, TableError> {
        let workers = self.workers;
        let networks = &mut self.topology().networks;
        if networks.len() >= NETWORKS_MAX && !networks.contains_key(&vni) {
            return Err(TableError::TooManyNetworks);
        }
        Ok(networks.entry(vni).or_insert_with(|| Network {
            ports: Vec::new(),
            peers: Vec::new(),
            protection: Protection::default(),
            services: HashMap::default(),
            traffic: Arc::new(Traffic::new(workers)),
        }))
    }

    /// Takes a place out of a network with all that was known to be there. A network with nobody left goes too,
    /// unless it is sealed: who comes next must not find it plain.
    fn leave(&mut self, vni: Vni, place: Place) {
        let gone = self.fdb.forget(vni, place);
        self.due |= !gone.is_empty();
        let topology = Arc::make_mut(&mut self.published.topology);
        for mac in gone {
            self.announced.clear(&mut topology.neighbours, vni, mac);
        }
        if let Some(network) = topology.networks.get_mut(&vni) {
            match place {
                Place::Port(port) => network.ports.retain(|&member| member != port),
                Place::Vtep(vtep) => network.peers.retain(|&member| member != vtep),
                // It is nobody's place to leave from.
                Place::Service => {}
            }
            if !network.has_members() {
                let plain = network.protection == Protection::Plain;
                self.forget_services(vni);
                if plain {
                    self.topology().networks.remove(&vni);
                }
            }
        }
    }

    fn publish_fdb(&mut self) {
        (self.dirty, self.due) = (false, false);
        self.published.fdb = Arc::new(self.fdb.clone());
    }
}

#[cfg(test)]
mod tests;
