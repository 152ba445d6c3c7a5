//! A switch, seen by whoever controls it: ports, peers, announcements, counters.
//!
//! A [`Switch`] is a handle; clones are the same switch. It does nothing by itself: [`crate::worker::Workers`] move frames
//! for it, or a [`crate::datapath::Datapath`] driven by hand:
//!
//! ```
//! use std::time::Instant;
//! use vswitchd_switch::datapath::Datapath;
//! use vswitchd_switch::fdb::Limits;
//! use vswitchd_switch::io::{Capabilities, Frame};
//! use vswitchd_switch::outbox::Outbox;
//! use vswitchd_switch::packet::Pool;
//! use vswitchd_switch::storm::StormLimit;
//! use vswitchd_switch::switch::Switch;
//! use vswitchd_switch::tables::PortSpec;
//! use vswitchd_switch::wire::virtio::Offload;
//! use vswitchd_switch::wire::{Vni, vxlan};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vni = Vni::new(42).ok_or("24 bits")?;
//! let switch = Switch::new("192.0.2.1:4789".parse()?, Limits::default());
//! let port = switch.add_port(PortSpec {
//!     name: "tap0".into(),
//!     vni,
//!     mtu: 1450,
//!     capabilities: Capabilities::default(),
//!     storm: StormLimit::default(),
//! })?;
//! switch.add_peer(vni, "192.0.2.2:4789".parse()?)?;
//!
//! // A broadcast from the port goes to the peer, behind a VXLAN header.
//! let (mut pool, mut out) = (Pool::new(8), Outbox::default());
//! let mut buf = pool.take().ok_or("a new pool has buffers")?;
//! let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], b"hello"].concat();
//! buf.fill(&frame);
//! let mut batch = vec![Frame { buf, offload: Offload::default() }];
//! Datapath::new(switch).egress(port, &mut batch, &mut pool, &mut out, Instant::now());
//!
//! let datagram = out.datagrams(&out.transmits[0]).next().ok_or("a datagram")?.concat();
//! assert_eq!(vxlan::parse(&datagram), Ok(vni));
//! assert_eq!(datagram[vxlan::HEADER_LEN..], frame);
//! # Ok(())
//! # }
//! ```

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use vswitchd_crypto::envelope::SessionId;
use vswitchd_crypto::open::Opener;
use vswitchd_crypto::seal::Sealer;

use crate::balance::{FlowCounts, Flows, ServiceError, ServiceSpec};
use crate::counters::TrafficCount;
use crate::drops::{DropReason, Drops};
use crate::fdb::{Limits, Place};
use crate::probe::paths::Paths;
use crate::probe::{PathEvent, PathReport, ProbeConfig};
use crate::tables::{Learning, Master, News, Port, PortId, PortSpec, TableError, Tables};
use crate::vtep::VtepId;
use crate::wire::probe::Probe;
use crate::wire::{MacAddr, Vni};

/// A switch.
#[derive(Clone, Debug)]
pub struct Switch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tables: ArcSwap<Tables>,
    master: Mutex<Master>,
    drops: Drops,
    workers: usize,
    claimed: AtomicBool,
    paths: Mutex<Option<Paths>>,
    /// Whether [`Self::paths`] are there: looked at each turn, without the lock.
    probing: AtomicBool,
    /// Whether they may have something to tell.
    path_news: AtomicBool,
    /// Whether there has been a service: looked at each turn, without the tables.
    balancing: AtomicBool,
    /// Wakes the first worker, while there are workers.
    waker: Mutex<Option<Arc<dyn Wake>>>,
}

/// What wakes a switch's first worker.
pub(crate) trait Wake: Send + Sync + std::fmt::Debug {
    /// It looks at once what there is to do.
    fn wake(&self);
}

/// Workers of one switch: more cores than that serve other purposes, and each has buffers and sockets of its own.
pub const WORKERS_MAX: usize = 32;

/// The right to move a switch's frames, had by one crew of workers at a time.
#[derive(Debug)]
pub(crate) struct Claim(Switch);

impl Drop for Claim {
    fn drop(&mut self) {
        *self.0.waker() = None;
        self.0.shared.claimed.store(false, Ordering::Release);
    }
}

/// Every counter at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Ports in the order of their making.
    pub ports: Vec<PortReport>,
    /// Peers in the order of their making.
    pub peers: Vec<(SocketAddr, TrafficCount)>,
    /// Paths to the peers, in the same order, of a switch that probes.
    pub paths: Vec<PathReport>,
    /// Networks in the order of VNIs.
    pub networks: Vec<(Vni, TrafficCount)>,
    /// Reasons that frames have died of, with their counts.
    pub drops: Vec<(DropReason, u64)>,
    /// What became of source addresses.
    pub learning: Learning,
    /// Entries of the forwarding table.
    pub fdb_entries: usize,
    /// Flows of services; none if there has never been a service.
    pub flows: FlowCounts,
}

/// A port's part of a [`Report`].
#[derive(Clone, Debug)]
pub struct PortReport {
    /// The port.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Its network.
    pub vni: Vni,
    /// Its counters.
    pub traffic: TrafficCount,
}

impl PortReport {
    fn new(id: PortId, port: &Port) -> Self {
        let spec = &port.spec;
        Self { id, name: spec.name.clone(), vni: spec.vni, traffic: port.traffic.count() }
    }
}

impl Switch {
    /// An empty switch whose datagrams come from `local`, for one worker.
    #[must_use]
    pub fn new(local: SocketAddr, limits: Limits) -> Self {
        Self::for_workers(local, limits, 1)
    }

    /// An empty switch for so many workers: at least one, at most [`WORKERS_MAX`]; other numbers are brought in between.
    #[must_use]
    pub fn for_workers(local: SocketAddr, limits: Limits, workers: usize) -> Self {
        let workers = workers.clamp(1, WORKERS_MAX);
        let mut master = Master::new(local, limits, workers);
        let tables = ArcSwap::from_pointee(master.tables());
        let [claimed, probing, path_news, balancing] = [const { AtomicBool::new(false) }; 4];
        let (master, drops, paths) = (Mutex::new(master), Drops::default(), Mutex::new(None));
        let waker = Mutex::new(None);
        Self {
            shared: Arc::new(Shared {
                tables,
                master,
                drops,
                workers,
                claimed,
                paths,
                probing,
                path_news,
                balancing,
                waker,
            }),
        }
    }

    /// How many workers it has been made for.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers
    }

    pub(crate) fn claim(&self) -> Option<Claim> {
        let taken = self.shared.claimed.swap(true, Ordering::Acquire);
        (!taken).then(|| Claim(self.clone()))
    }

    /// Makes as many changes as the caller likes and publishes them together, once: frames see all of them or none,
    /// and tables are copied once. The methods below each are one such change, with its errors.
    ///
    /// What has been changed when `changes` returns stays, whatever it returns. Meanwhile nothing is learnt, so what
    /// to change should be known before; and the switch's own methods must not be called, which would wait for ever.
    pub fn apply<T>(&self, changes: impl FnOnce(&mut Master) -> T) -> T {
        let mut master = self.master();
        let result = changes(&mut master);
        let tables = Arc::new(master.tables());
        let flows = tables.topology.flows.clone();
        self.shared.tables.store(tables);
        if let Some(flows) = flows {
            self.shared.balancing.store(true, Ordering::Release);
            if master.take_lost_tasks() {
                flows.ask_for_sweep();
                self.waker().as_ref().inspect(|worker| worker.wake());
            }
        }
        result
    }

    /// Adds a port. Its device goes to [`crate::worker::Workers::attach`].
    ///
    /// # Errors
    /// Too many ports or networks.
    pub fn add_port(&self, spec: PortSpec) -> Result<PortId, TableError> {
        self.apply(|master| master.add_port(spec))
    }

    /// Removes a port and what was learnt there; gives its last counters.
    pub fn remove_port(&self, id: PortId) -> Option<PortReport> {
        self.apply(|master| master.remove_port(id)).map(|port| PortReport::new(id, &port))
    }

    /// Adds a peer to a network.
    ///
    /// # Errors
    /// Too many peers or networks; an address that can't be a peer's.
    pub fn add_peer(&self, vni: Vni, address: SocketAddr) -> Result<VtepId, TableError> {
        self.apply(|master| master.add_peer(vni, address))
    }

    /// Takes a peer out of a network. Out of its last network it is forgotten, with its sealer and openers: what it
    /// still sends is that of a stranger. If it comes back, it has another id, and needs new keys.
    pub fn remove_peer(&self, vni: Vni, id: VtepId) {
        self.apply(|master| master.remove_peer(vni, id));
    }

    /// Has a network's frames sealed on the underlay, and nothing in clear taken for it: to be called before it
    /// has members. It stays so when they have left, until [`Self::forget_network`].
    ///
    /// Its peers get nothing until they have a sealer ([`Self::set_sealer`]), and what they send is opened by
    /// the openers that they have ([`Self::add_opener`]). A key is renewed in this order: the receiver adds an
    /// opener, the sender sets the sealer, and when what was on its way has arrived the receiver removes the
    /// opener of the old key.
    ///
    /// # Errors
    /// Too many networks, or a plain one with members.
    pub fn seal_network(&self, vni: Vni) -> Result<(), TableError> {
        self.apply(|master| master.seal_network(vni))
    }

    /// Forgets a network without members, and that it was sealed.
    ///
    /// # Errors
    /// It has members.
    pub fn forget_network(&self, vni: Vni) -> Result<(), TableError> {
        self.apply(|master| master.forget_network(vni))
    }

    /// Sets what is sealed with for a peer, in all of its sealed networks; `None` ends that.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_sealer(&self, peer: VtepId, sealer: Option<Arc<Sealer>>) -> Result<(), TableError> {
        self.apply(|master| master.set_sealer(peer, sealer))
    }

    /// Adds a key that opens what a peer seals, beside those that it has.
    ///
    /// # Errors
    /// There is no such peer, it has too many, or the session's number is in use.
    pub fn add_opener(&self, peer: VtepId, opener: Arc<Opener>) -> Result<(), TableError> {
        self.apply(|master| master.add_opener(peer, opener))
    }

    /// Removes a key by its session's number. Gives whether there was one.
    pub fn remove_opener(&self, session: SessionId) -> bool {
        self.apply(|master| master.remove_opener(session))
    }

    /// Sessions whose openers have opened something since the last call, in the order of their numbers: for
    /// [`vswitchd_crypto::renewal::Renewal::handle_heard`], so to be called every second or so, by one caller. It
    /// looks at each session; a datagram costs no more than a look at a flag.
    #[must_use]
    pub fn sessions_heard(&self) -> Vec<SessionId> {
        self.tables().topology.peers.take_heard()
    }

    /// Datagrams that the peer's sealer has sealed, for [`vswitchd_crypto::renewal::Renewal::handle_used`]; 0 if there
    /// is no such peer, or it has no sealer.
    #[must_use]
    pub fn sealer_used(&self, peer: VtepId) -> u64 {
        let tables = self.tables();
        let sealer = tables.topology.peers.peer(peer).and_then(|vtep| vtep.sealer.as_ref());
        sealer.map_or(0, |sealer| sealer.used())
    }

    /// Enters an endpoint that is known without having been heard: its address never ages, can't be taken by a frame
    /// from elsewhere, and questions for `addresses` are answered here (ARP, IPv6 neighbour discovery).
    ///
    /// # Errors
    /// A table is full, or there is no such port or peer.
    pub fn announce(
        &self,
        vni: Vni,
        mac: MacAddr,
        addresses: &[IpAddr],
        at: Place,
    ) -> Result<(), TableError> {
        self.apply(|master| master.announce(vni, mac, addresses, at))
    }

    /// Takes back an announcement. Gives whether there was one.
    pub fn withdraw(&self, vni: Vni, mac: MacAddr) -> bool {
        self.apply(|master| master.withdraw(vni, mac))
    }

    /// Sets a service of a network, known by its MAC address: a new one, or instead of what it was. Its clients are given a
    /// task each by their own switch, and questions for its addresses are answered here, as for announced ones.
    ///
    /// New tasks get new flows from now on, draining ones keep those that they have; those of tasks that are gone are reset
    /// by the first worker, at once. It goes with its network, when that loses its last member.
    ///
    /// # Errors
    /// What contradicts itself or what there is, or a full table.
    pub fn set_service(&self, vni: Vni, spec: ServiceSpec) -> Result<(), ServiceError> {
        self.apply(|master| master.set_service(vni, spec))
    }

    /// Removes a service; its flows are reset. Gives whether there was one.
    pub fn remove_service(&self, vni: Vni, mac: MacAddr) -> bool {
        self.apply(|master| master.remove_service(vni, mac))
    }

    /// Whether there has been a service.
    pub(crate) fn is_balancing(&self) -> bool {
        self.shared.balancing.load(Ordering::Acquire)
    }

    /// Who is to be woken when there is something for the first worker to do.
    pub(crate) fn wake_by(&self, waker: Arc<dyn Wake>) {
        *self.waker() = Some(waker);
    }

    /// Has the path to each peer probed from now on, or ends that and forgets what is known. Off at first: peers
    /// may be of another kind. Probes of others are answered in any case.
    pub fn set_probing(&self, config: Option<ProbeConfig>) {
        let mut paths = self.paths();
        *paths = config.map(Paths::new);
        self.shared.probing.store(paths.is_some(), Ordering::Relaxed);
    }

    /// The next change of a path; `None` when all have been told. A driver asks for it each turn.
    pub fn poll_path_event(&self) -> Option<PathEvent> {
        if !self.shared.path_news.load(Ordering::Relaxed) {
            return None;
        }
        let mut paths = self.paths();
        let event = paths.as_mut().and_then(Paths::poll_event);
        // Whoever has news sets it while it holds the lock.
        self.shared.path_news.store(event.is_some(), Ordering::Relaxed);
        event
    }

    pub(crate) fn is_probing(&self) -> bool {
        self.shared.probing.load(Ordering::Relaxed)
    }

    /// Lets something be done to the paths, if they are probed.
    pub(crate) fn with_paths<T>(&self, act: impl FnOnce(&mut Paths) -> T) -> Option<T> {
        let mut paths = self.paths();
        let paths = paths.as_mut()?;
        let result = act(paths);
        if paths.has_news() {
            self.shared.path_news.store(true, Ordering::Relaxed);
        }
        Some(result)
    }

    /// Takes a reply to a probe. Gives whether it was asked for.
    pub(crate) fn handle_probe_reply(&self, peer: VtepId, reply: &Probe, now: Instant) -> bool {
        self.with_paths(|paths| paths.handle_reply(peer, reply, now)).unwrap_or(false)
    }

    /// The tables as they are now.
    #[must_use]
    pub fn tables(&self) -> Guard<Arc<Tables>> {
        self.shared.tables.load()
    }

    /// The counts of what died.
    #[must_use]
    pub fn drops(&self) -> &Drops {
        &self.shared.drops
    }

    /// Counts frames to or from a port that went no further: by reason, port and network.
    pub(crate) fn count_dropped(
        &self,
        worker: usize,
        tables: &Tables,
        port: Option<&Port>,
        reason: DropReason,
        frames: u64,
    ) {
        self.drops().add(reason, frames);
        let Some(port) = port else { return };
        port.traffic.by(worker).dropped(frames);
        if let Some(network) = tables.topology.networks.get(&port.spec.vni) {
            network.traffic.by(worker).dropped(frames);
        }
    }

    /// Takes in what a path has heard. Gives when to call again (with nothing new) so that it takes effect, if that
    /// had to wait because a large table was published just before.
    pub fn learn(&self, news: &[News], now: Instant) -> Option<Instant> {
        let mut master = self.master();
        master.learn(news, now);
        self.publish(&mut master, now)
    }

    /// Forgets what is too old; to be called about once a second.
    pub fn age(&self, now: Instant) {
        let mut master = self.master();
        master.age(now);
        // Too early to publish means that it was published a moment ago: the next second will do.
        let _due = self.publish(&mut master, now);
    }

    /// Every counter.
    #[must_use]
    pub fn report(&self) -> Report {
        let tables = self.tables();
        let topology = &tables.topology;
        let mut ports: Vec<_> = topology.ports.iter().map(|(&id, port)| PortReport::new(id, port)).collect();
        ports.sort_unstable_by_key(|port| port.id);
        let peers = topology.peers.sorted().into_iter().map(|(_, peer)| (peer.address, peer.traffic.count()));
        let mut networks: Vec<_> =
            topology.networks.iter().map(|(&vni, network)| (vni, network.traffic.count())).collect();
        networks.sort_unstable_by_key(|&(vni, _)| vni);
        let paths = self.paths().as_ref().map(Paths::report).unwrap_or_default();
        Report {
            ports,
            peers: peers.collect(),
            paths,
            networks,
            drops: self.drops().occurred().collect(),
            learning: self.master().learning(),
            fdb_entries: tables.fdb.len(),
            flows: topology.flows.as_deref().map(Flows::counts).unwrap_or_default(),
        }
    }

    fn publish(&self, master: &mut Master, now: Instant) -> Option<Instant> {
        match master.publish(now) {
            Ok(true) => {
                self.shared.tables.store(Arc::new(master.tables()));
                None
            }
            Ok(false) => None,
            Err(due) => Some(due),
        }
    }

    fn paths(&self) -> MutexGuard<'_, Option<Paths>> {
        // No path is left half changed where it could panic.
        self.shared.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waker(&self) -> MutexGuard<'_, Option<Arc<dyn Wake>>> {
        // Nothing is left half changed where it could panic.
        self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn master(&self) -> MutexGuard<'_, Master> {
        // Every change of the master is complete or not begun where it could panic.
        self.shared.master.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
