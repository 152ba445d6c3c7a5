//! Datagrams of clients: a flow for each client and each address of this host that it asks, which stays with its task as long as
//! both are there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::frame::{Head, parcel};
use super::plan::{At, Place, Published};
use super::post;
use super::run::Shared;
use super::threads::Threads;
use crate::crypto::identity::NodeId;
use crate::gateway::door::Door;
use crate::gateway::nat::{ANSWERED_IDLE, ASKED_IDLE, FlowKey, Limits, Reply, Table, Tag, Token};
use crate::gateway::origin;
use crate::switch::io::asked::{Arrived, Asked};

/// Flows of all ports, and of one client ([`origin`]).
const LIMITS: Limits = Limits { network: 16_384, inside: 1_024 };
/// Datagrams that wait for the link to another node, of at most 64 KiB: 16 MiB. One more is lost.
const QUEUE: usize = 256;

/// Clients that are answered by way of other nodes, by their flows' numbers. These are no secret: one follows the other.
#[derive(Debug, Default)]
pub(super) struct Returns(Mutex<HashMap<u64, Return>>);

#[derive(Debug)]
struct Return {
    /// The task's node: no other answers.
    node: NodeId,
    client: Arc<Client>,
}

/// Who is answered.
#[derive(Debug)]
pub(super) struct Client {
    door: Arc<Door>,
    address: SocketAddr,
    /// The address of this host that it has asked.
    asked: Asked,
    /// When this began.
    start: Instant,
    /// Milliseconds after that when it was answered last, and one more; 0 if it was not.
    answered: AtomicU64,
}

/// What tells clients apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    door: Token,
    address: SocketAddr,
    asked: Asked,
}

#[derive(Debug)]
struct Flow {
    number: u64,
    place: Place,
    client: Arc<Client>,
}

/// A datagram that has come to a port.
pub(super) struct Arrival<'a> {
    pub(super) at: At,
    pub(super) token: Token,
    pub(super) door: &'a Arc<Door>,
    pub(super) arrived: Arrived,
    pub(super) payload: &'a [u8],
}

/// Flows of this node's ports.
#[derive(Debug)]
pub(super) struct Datagrams {
    shared: Arc<Shared>,
    threads: Arc<Threads>,
    flows: Table<Key, Flow>,
    next: u64,
    links: HashMap<NodeId, mpsc::Sender<Vec<u8>>>,
}

impl FlowKey for Key {
    /// Whose flows are counted: the client's, whichever address of its subnet it has chosen.
    fn inside(&self) -> SocketAddr {
        SocketAddr::new(origin::of(self.address.ip()), self.address.port())
    }
}

impl Returns {
    fn map(&self) -> MutexGuard<'_, HashMap<u64, Return>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers the client of a flow, if it is there, with what has come by a link of that node: that of its task.
    pub(super) fn reply(&self, node: NodeId, flow: u64, payload: &[u8]) {
        let client = self.map().get(&flow).filter(|way| way.node == node).map(|way| Arc::clone(&way.client));
        // Full queues, and clients that are gone: as with any datagram, nobody is told.
        let _sent = client.map(|client| client.reply(flow, payload));
    }
}

impl Reply for Client {
    fn reply(&self, _: u64, payload: &[u8]) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.answered.store(now + 1, Ordering::Relaxed);
        matches!(self.door.send(payload, self.address, self.asked), Some(Ok(())))
    }
}

impl Client {
    /// When its flow is forgotten, if it says nothing from then on.
    fn due(&self, asked: Instant) -> Instant {
        match self.answered.load(Ordering::Relaxed) {
            0 => asked + ASKED_IDLE,
            millis => asked.max(self.start + Duration::from_millis(millis - 1)) + ANSWERED_IDLE,
        }
    }
}

impl Datagrams {
    pub(super) fn new(shared: Arc<Shared>, threads: Arc<Threads>) -> Self {
        let next = fastrand::u64(..);
        Self { shared, threads, flows: Table::new(LIMITS), next, links: HashMap::new() }
    }

    /// Carries a datagram to its task; it is lost if there is none, or no room.
    pub(super) fn handle(&mut self, arrival: &Arrival<'_>, now: Instant) {
        let plan = self.shared.plan.load();
        let Some(published) = plan.ports.get(&arrival.at) else { return };
        let Arrived { from, asked, .. } = arrival.arrived;
        let key = Key { door: arrival.token, address: from, asked };
        let stays = self.flows.get_mut(&key).is_some_and(|flow| published.has(&flow.place));
        if !stays && !self.open(key, published, arrival.door, now) {
            return;
        }
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let (number, place, client) = (flow.number, flow.place.clone(), Arc::clone(&flow.client));
        self.flows.wake(&key, client.due(now));
        if place.node != self.shared.own {
            return self.send(&place, number, published.target, arrival);
        }
        let entrances = self.shared.entrances.load();
        let Some(reached) = entrances.get(&place.endpoint) else { return };
        let tag = Tag { from: *self.shared.own.as_bytes(), flow: number };
        // No room is a full queue, of which nobody is told.
        let _posted = reached.entrance.post(arrival.payload.to_vec(), from, published.target, tag, client);
    }

    /// Makes a flow, in place of one whose task is gone. Whether there is a task, and room.
    fn open(&mut self, key: Key, published: &Published, door: &Arc<Door>, now: Instant) -> bool {
        self.forget(&key);
        let Some(place) = published.order(key.address, &self.shared.chance).into_iter().next() else {
            return false;
        };
        let client = Arc::new(Client {
            door: Arc::clone(door),
            address: key.address,
            asked: key.asked,
            start: now,
            answered: AtomicU64::new(0),
        });
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let node = place.node;
        let flow = Flow { number, place, client: Arc::clone(&client) };
        if self.flows.insert(key, flow, now + ASKED_IDLE).is_err() {
            return false;
        }
        if node != self.shared.own {
            self.shared.returns.map().insert(number, Return { node, client });
        }
        true
    }

    /// Puts a datagram into the queue of a link, which is made if there is none.
    fn send(&mut self, place: &Place, number: u64, target: u16, arrival: &Arrival<'_>) {
        let head = Head { client: arrival.arrived.from, target, endpoint: place.endpoint.to_string() };
        let Some(frame) = parcel(number, &head, arrival.payload) else { return };
        let (shared, threads) = (&self.shared, &self.threads);
        let open = || {
            let (sender, queue) = mpsc::channel(QUEUE);
            threads.spawn(post::carry(Arc::clone(shared), place.node, queue));
            sender
        };
        let link = self.links.entry(place.node).or_insert_with(open);
        if let Err(mpsc::error::TrySendError::Closed(frame)) = link.try_send(frame) {
            *link = open();
            // There is room in a new one.
            let _sent = link.try_send(frame);
        }
    }

    /// When [`Self::expire`] is to be called, if at all.
    pub(super) fn next(&self) -> Option<Instant> {
        self.flows.next()
    }

    /// Forgets flows that have been quiet for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some(key) = self.flows.due(now) {
            let Some(flow) = self.flows.get_mut(&key) else { return };
            // Answers pass by elsewhere.
            let answered = flow.client.answered.load(Ordering::Relaxed);
            let due = flow.client.start + Duration::from_millis(answered) + ANSWERED_IDLE;
            if answered > 0 && due > now {
                self.flows.wake(&key, due);
            } else {
                self.forget(&key);
            }
        }
    }

    /// Forgets those of a port that is closed.
    pub(super) fn close(&mut self, door: Token) {
        let keys = self.flows.iter().map(|(&key, _)| key).filter(|key| key.door == door);
        for key in keys.collect::<Vec<_>>() {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(flow) = self.flows.remove(key) {
            self.shared.returns.map().remove(&flow.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

    use tokio::sync::Semaphore;

    use super::*;
    use crate::api::{Protocol, PublishedPort};
    use crate::gateway::nat::{Host, Interest};
    use crate::mesh::run::tests::shared;

    fn door(asked: Asked) -> Arc<Door> {
        let port =
            PublishedPort { address: Some(asked.address), published: 0, target: 53, protocol: Protocol::Udp };
        Door::open(&port, &Arc::new(Semaphore::new(1))).unwrap().remove(0)
    }

    #[test]
    fn a_host_has_no_more_flows_by_having_more_addresses() {
        let asked = Asked { address: IpAddr::from(Ipv4Addr::LOCALHOST), interface: 0 };
        let (shared, door, now) = (shared(8), door(asked), Instant::now());
        let mut host = Host::new(Arc::clone(&shared.sockets)).unwrap();
        let token =
            host.watch(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), Interest::Arrivals).unwrap();
        let mut flows = Datagrams::new(shared, Arc::new(Threads::start().unwrap()));
        let place = Place::new(NodeId::from_bytes([2; 16]), "e").unwrap();
        let (places, draining) = (Arc::from([place]), Arc::default());
        let published = Published { service: "s".into(), target: 53, proxy: false, places, draining };
        let mut opens = |subnet: u16, host: usize| {
            let subnet = Ipv6Addr::new(0x2001, 0xdb8, 0, subnet, 0, 0, 0, 0).to_bits();
            let address = (Ipv6Addr::from_bits(subnet | host as u128), 53).into();
            flows.open(Key { door: token, address, asked }, &published, &door, now)
        };
        assert!((0..LIMITS.inside).all(|host| opens(0, host)));
        assert!(!opens(0, LIMITS.inside), "it has as many as it may have");
        assert!(opens(1, 0));
    }

    #[test]
    fn only_the_node_of_its_task_answers_a_client() {
        let asked = Asked { address: IpAddr::from(Ipv4Addr::LOCALHOST), interface: 0 };
        let door = door(asked);
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let client = Arc::new(Client {
            door: Arc::clone(&door),
            address: socket.local_addr().unwrap(),
            asked,
            start: Instant::now(),
            answered: AtomicU64::new(0),
        });
        let [node, other] = [1, 2].map(|byte| NodeId::from_bytes([byte; 16]));
        let returns = Returns::default();
        returns.map().insert(7, Return { node, client: Arc::clone(&client) });
        returns.reply(other, 7, b"forged");
        returns.reply(node, 8, b"of nobody's");
        assert_eq!(client.answered.load(Ordering::Relaxed), 0, "nor is the flow kept by it");
        returns.reply(node, 7, b"answer");
        // What comes by the loopback comes in order.
        let mut buffer = [0; 16];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"answer"[..], door.at()));
        assert!(client.answered.load(Ordering::Relaxed) > 0);
    }
}
