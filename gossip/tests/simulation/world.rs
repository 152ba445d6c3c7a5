//! Many engines on a simulated network and clock. Nothing in here asks for the time or for chance: the same seed gives
//! the same run, to the byte.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vswitchd_gossip::cluster::{Signer, Verifier};
use vswitchd_gossip::engine::{Authority, Engine, Event, Settings};
use vswitchd_gossip::{NodeId, Now, Peer, TableId};

pub(crate) const ENDPOINTS: TableId = TableId::owned(1);
pub(crate) const NETWORKS: TableId = TableId::cluster(1);

/// 1 January 2027.
const EPOCH_MS: u64 = 1_798_761_600_000;
/// IPv4, UDP and what vswitchd's group sealing adds.
const OVERHEAD_BYTES: u64 = 20 + 8 + 54;

/// Every node may write: what is simulated is the network, not the signatures.
struct Trusting;

impl Signer for Trusting {
    fn sign(&self, _: &[u8]) -> Option<Vec<u8>> {
        Some(vec![7; 64])
    }
}

impl Verifier for Trusting {
    fn verify(&self, _: NodeId, _: &[u8], signature: &[u8]) -> bool {
        signature == [7; 64]
    }
}

enum Arrival {
    Datagram { sender: usize, kind: u8, bytes: Vec<u8> },
    Bulk { sender: usize, bytes: Vec<u8> },
    Wake,
}

/// A node, or the place of one that is down.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) engine: Option<Engine>,
    pub(crate) life: u64,
    /// Second byte of its address: another after it has moved.
    pub(crate) site: u8,
    saved: Option<Vec<u8>>,
    /// Nodes of different islands don't reach each other, unless they have a bit in common.
    pub(crate) island: u8,
    wake_at: Option<u64>,
    bytes: u64,
    /// Nodes that came to know this one's records.
    pub(crate) known: Vec<NodeId>,
    /// Deaths announced here.
    pub(crate) deaths: Vec<(Duration, NodeId)>,
}

pub(crate) struct World {
    base: Instant,
    micros: u64,
    rng: fastrand::Rng,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    arrivals: BTreeMap<u64, (usize, Arrival)>,
    count: u64,
    pub(crate) places: Vec<Place>,
    pub(crate) loss: f64,
    /// One way, in microseconds.
    pub(crate) latency: Range<u64>,
    /// Datagrams to where nobody is, by address.
    pub(crate) astray: BTreeMap<SocketAddr, u64>,
    measured_from: u64,
    pub(crate) largest: usize,
}

pub(crate) fn node(index: usize) -> NodeId {
    let mut id = [0x5a; 16];
    id[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(id)
}

pub(crate) fn addr(index: usize, site: u8) -> SocketAddr {
    let [.., high, low] = (index as u64 + 1).to_be_bytes();
    SocketAddr::from(([10, site, high, low], 7946))
}

fn index(addr: SocketAddr) -> Option<(usize, u8)> {
    let SocketAddr::V4(addr) = addr else { return None };
    let [_, site, high, low] = addr.ip().octets();
    Some(((usize::from(high) * 256 + usize::from(low)).checked_sub(1)?, site))
}

impl World {
    pub(crate) fn new(nodes: usize, seed: u64) -> Self {
        Self {
            #[expect(
                clippy::disallowed_methods,
                reason = "the origin of simulated time; only differences matter"
            )]
            base: Instant::now(),
            micros: 0,
            rng: fastrand::Rng::with_seed(seed),
            queue: BinaryHeap::new(),
            arrivals: BTreeMap::new(),
            count: 0,
            places: (0..nodes).map(|_| Place::default()).collect(),
            loss: 0.0,
            // As on a LAN.
            latency: 200..800,
            astray: BTreeMap::new(),
            measured_from: 0,
            largest: 0,
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    fn now(&self) -> Now {
        Now { at: self.base + self.elapsed(), wall_ms: EPOCH_MS + self.micros / 1000 }
    }

    pub(crate) fn random(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }

    /// Starts (or restarts) a node; all know the address of the first two.
    pub(crate) fn start(&mut self, at: usize) {
        let now = self.now();
        let place = &mut self.places[at];
        place.life += 1;
        let me = Peer { node: node(at), addr: addr(at, place.site), life: place.life, renewal: 0 };
        let seeds = vec![addr(0, 0), addr(1, 0)];
        let settings = Settings { me, seeds, random: self.rng.u64(..) };
        let authority = Authority { signer: Arc::new(Trusting), verifier: Arc::new(Trusting) };
        let engine = Engine::new(settings, authority, place.saved.as_deref(), now).unwrap();
        place.engine = Some(engine);
        self.act(at, |engine, _| engine.set_owned(ENDPOINTS, "node", Some(at.to_be_bytes().into())).unwrap());
    }

    /// `kill -9`; what was on disk stays.
    pub(crate) fn kill(&mut self, at: usize) {
        let place = &mut self.places[at];
        place.saved = place.engine.take().map(|engine| engine.snapshot());
        place.wake_at = None;
    }

    /// The address of a live node changes; nobody is at the old one.
    pub(crate) fn relocate(&mut self, at: usize, site: u8) {
        self.places[at].site = site;
        self.act(at, |engine, now| engine.readdress(now, addr(at, site)));
    }

    /// Does something at a live node.
    pub(crate) fn act<R>(&mut self, at: usize, call: impl FnOnce(&mut Engine, Now) -> R) -> R {
        let now = self.now();
        let engine = self.places[at].engine.as_mut().expect("the node is up");
        let result = call(engine, now);
        self.settle(at);
        result
    }

    pub(crate) fn live(&self) -> impl Iterator<Item = (usize, &Engine)> {
        self.places.iter().enumerate().filter_map(|(at, place)| Some((at, place.engine.as_ref()?)))
    }

    /// Whether all live nodes see exactly each other and know the same.
    pub(crate) fn converged(&self) -> bool {
        let count = self.live().count();
        let mut digests = self.live().map(|(_, engine)| engine.digest());
        let first = digests.next();
        self.live().all(|(_, engine)| engine.peers().iter().filter(|peer| peer.alive).count() + 1 == count)
            && digests.all(|digest| Some(digest) == first)
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.micros + u64::try_from(time.as_micros()).unwrap();
        while self.queue.peek().is_some_and(|Reverse((at, _))| *at <= until) {
            let Some(Reverse((at, id))) = self.queue.pop() else { break };
            self.micros = at;
            if let Some((to, arrival)) = self.arrivals.remove(&id) {
                self.arrive(to, arrival);
            }
        }
        self.micros = until;
    }

    /// Runs until `wanted`, which is looked at every `step`; the time it took.
    pub(crate) fn run_until(
        &mut self,
        step: Duration,
        at_most: Duration,
        wanted: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let started = self.elapsed();
        while !wanted(self) {
            if self.elapsed() - started >= at_most {
                return None;
            }
            self.run_for(step);
        }
        Some(self.elapsed() - started)
    }

    /// Bytes on the wire per node and second since this was last asked: on average, and of the busiest.
    pub(crate) fn traffic(&mut self) -> (u64, u64) {
        let seconds = ((self.micros - self.measured_from) / 1_000_000).max(1);
        self.measured_from = self.micros;
        let sent: Vec<u64> = self.places.iter_mut().map(|place| std::mem::take(&mut place.bytes)).collect();
        (sent.iter().sum::<u64>() / seconds / sent.len() as u64, sent.iter().max().unwrap() / seconds)
    }

    fn arrive(&mut self, to: usize, arrival: Arrival) {
        let now = self.now();
        let from = match arrival {
            Arrival::Datagram { sender, .. } => addr(sender, self.places[sender].site),
            Arrival::Bulk { .. } | Arrival::Wake => addr(to, 0),
        };
        let place = &mut self.places[to];
        let Some(engine) = place.engine.as_mut() else { return };
        match arrival {
            Arrival::Datagram { sender, kind, bytes } => {
                engine.handle_datagram(now, (node(sender), from), kind, &bytes).ok();
            }
            Arrival::Bulk { sender, bytes } => {
                engine.handle_bulk(now, node(sender), &bytes).ok();
            }
            Arrival::Wake => {
                // Of several alarms that were set, only the last one set counts.
                if place.wake_at != Some(self.micros) {
                    return;
                }
                place.wake_at = None;
                engine.handle_timeout(now);
            }
        }
        self.settle(to);
    }

    /// Sends what a node wants sent, notes what it says, sets its alarm.
    fn settle(&mut self, at: usize) {
        let now = self.now();
        let place = &mut self.places[at];
        let Some(engine) = place.engine.as_mut() else { return };
        let output = engine.drain(now);
        let deadline = engine.next_deadline();
        for event in output.events {
            match event {
                Event::Down { node, .. } => place.deaths.push((Duration::from_micros(self.micros), node)),
                Event::KnowsUs(node) => place.known.push(node),
                Event::Changed(_) | Event::Up(_) => {}
            }
        }
        for transmit in output.transmits {
            self.places[at].bytes += transmit.bytes.len() as u64 + OVERHEAD_BYTES;
            self.largest = self.largest.max(transmit.bytes.len());
            if self.rng.f64() >= self.loss {
                let (kind, bytes) = (transmit.kind, transmit.bytes);
                self.send(at, transmit.to, Arrival::Datagram { sender: at, kind, bytes });
            }
        }
        for bulk in output.bulks {
            self.places[at].bytes += bulk.bytes.len() as u64 + OVERHEAD_BYTES;
            self.send(at, bulk.to, Arrival::Bulk { sender: at, bytes: bulk.bytes });
        }
        if let Some(deadline) = deadline {
            // Rounded up, lest a deadline between two microseconds wake for ever.
            let micros = (deadline.saturating_duration_since(self.base).as_nanos().div_ceil(1000)) as u64;
            let micros = micros.max(self.micros);
            if self.places[at].wake_at.is_none_or(|before| micros < before) {
                self.places[at].wake_at = Some(micros);
                self.schedule(micros, at, Arrival::Wake);
            }
        }
    }

    fn send(&mut self, from: usize, to: SocketAddr, arrival: Arrival) {
        let Some((at, site)) = index(to) else { return };
        let Some(place) = self.places.get(at).filter(|place| place.site == site && place.engine.is_some())
        else {
            *self.astray.entry(to).or_default() += 1;
            return;
        };
        let (here, there) = (self.places[from].island, place.island);
        if here == there || here & there != 0 {
            let latency = self.rng.u64(self.latency.clone());
            self.schedule(self.micros + latency, at, arrival);
        }
    }

    fn schedule(&mut self, at: u64, to: usize, arrival: Arrival) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count)));
        self.arrivals.insert(self.count, (to, arrival));
    }
}
