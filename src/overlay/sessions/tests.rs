//! Real switches on an underlay in memory, real keys, and a connection in memory whose ends die and refuse.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::*;
use crate::crypto::envelope::is_sealed;
use crate::crypto::key::Key;
use crate::crypto::renewal::{GRACE, OPENERS_MAX};
use crate::switch::fdb::Limits;
use crate::switch::io::channel::{ChannelEnd, channel};
use crate::switch::io::mem::{Faults, Network};
use crate::switch::io::{Capabilities, DatagramIo, FrameIo, Received, SendError};
use crate::switch::outbox::Outbox;
use crate::switch::packet::Pool;
use crate::switch::storm::StormLimit;
use crate::switch::switch::Switch;
use crate::switch::tables::PortSpec;
use crate::switch::vtep::VtepId;
use crate::switch::wire::Vni;
use crate::switch::worker::{WorkerConfig, Workers};

/// Real time, for frames: long enough for anything that happens at all.
const PATIENCE: Duration = Duration::from_secs(20);
const QUEUE: usize = 512;
const MARK: &[u8] = b"nobody may read this";

fn vni() -> Vni {
    Vni::new(42).unwrap()
}

fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node; 16])
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node], 4_789))
}

fn mac(node: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, node]
}

/// An underlay that looks at what is sent: all of it is to be sealed.
#[derive(Debug)]
struct Watched<T> {
    inner: T,
    clear: Arc<AtomicU64>,
}

impl<T: DatagramIo> DatagramIo for Watched<T> {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Received>, max: usize) -> io::Result<()> {
        self.inner.receive(pool, into, max)
    }

    fn send(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>) {
        for datagram in out.transmits.iter().flat_map(|transmit| out.datagrams(transmit)) {
            let bytes = datagram.concat();
            if !is_sealed(&bytes) || bytes.windows(MARK.len()).any(|part| part == MARK) {
                self.clear.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.inner.send(out, failed);
    }

    fn pollable(&self) -> Vec<BorrowedFd<'_>> {
        self.inner.pollable()
    }
}

/// Connections: who is reached there, and what goes wrong, in parts of 16.
#[derive(Default)]
struct Links {
    nodes: Mutex<BTreeMap<NodeId, Sessions>>,
    conversations: AtomicU64,
    agreed: AtomicU64,
    trouble: AtomicU64,
}

/// One node's end of them.
struct Link {
    own: NodeId,
    links: Arc<Links>,
    random: Mutex<Rng>,
}

struct Word {
    answered: Answered,
    delay: Duration,
    lost: bool,
}

impl Confirm for Word {
    fn confirm(self: Box<Self>) -> Agreeing<()> {
        Box::pin(async move {
            sleep(self.delay).await;
            if self.lost {
                return Err(AgreeError::Connection("it broke".into()));
            }
            self.answered.confirmed();
            Ok(())
        })
    }
}

/// In place of an exporter: what both ends have, and nobody else.
fn key(conversation: u64, sender: NodeId, session: SessionId) -> Key {
    let info = [&conversation.to_be_bytes()[..], sender.as_bytes(), &session.id().to_be_bytes()];
    Key::derive(b"no secret at all", &info)
}

fn keys(conversation: u64, own: NodeId, peer: NodeId, send: SessionId, receive: SessionId) -> SessionKeys {
    SessionKeys { send: key(conversation, own, send), receive: key(conversation, peer, receive) }
}

impl Agree for Link {
    fn ask(&self, peer: NodeId, receive: SessionId) -> Agreeing<Agreement> {
        let (own, links) = (self.own, Arc::clone(&self.links));
        let mut random = self.random.lock().unwrap().fork();
        Box::pin(async move {
            let trouble = links.trouble.load(Ordering::Relaxed);
            let hit = |random: &mut Rng| random.u64(..16) < trouble;
            let wait = |random: &mut Rng| Duration::from_millis(random.u64(..80));
            sleep(wait(&mut random)).await;
            if hit(&mut random) {
                return Err(AgreeError::Connection("refused".into()));
            }
            let there = links.nodes.lock().unwrap().get(&peer).cloned();
            let there = there.ok_or_else(|| AgreeError::Connection("nobody is there".into()))?;
            let answering =
                there.answer(own, receive).map_err(|error| AgreeError::Refused(error.to_string()))?;
            let conversation = links.conversations.fetch_add(1, Ordering::Relaxed);
            let send = answering.receive();
            let answered = answering
                .install(keys(conversation, peer, own, receive, send))
                .map_err(|error| AgreeError::Refused(error.to_string()))?;
            if hit(&mut random) {
                // The other end dies when it has the keys, and never says so.
                std::future::pending::<()>().await;
            }
            sleep(wait(&mut random)).await;
            links.agreed.fetch_add(1, Ordering::Relaxed);
            let (delay, lost) = (wait(&mut random), hit(&mut random));
            let confirm = Box::new(Word { answered, delay, lost });
            Ok(Agreement { send, keys: keys(conversation, own, peer, send, receive), confirm })
        })
    }
}

struct Node {
    number: u8,
    switch: Switch,
    sessions: Sessions,
    end: ChannelEnd,
    driver: AbortHandle,
    _workers: Workers,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Gossip says who is there, and in which of their lives.
    fn hear_of(&self, lives: &BTreeMap<u8, u64>) {
        let tables = self.switch.tables();
        let others = lives.iter().filter(|&(&other, _)| other != self.number);
        let peer = |(&other, &life): (&u8, &u64)| {
            let at = tables.topology.peers.exact(address(other)).unwrap();
            SessionPeer { node: id(other), at, life }
        };
        self.sessions.set_peers(&others.map(peer).collect::<Vec<_>>());
    }
}

struct World {
    nodes: Vec<Node>,
    links: Arc<Links>,
    network: Network,
    clear: Arc<AtomicU64>,
    sent: u64,
}

impl World {
    fn new(count: u8, seed: u64) -> Self {
        let faults = Faults {
            delay: Duration::from_micros(300),
            jitter: Duration::from_millis(1),
            ..Faults::default()
        };
        let (links, network, clear) = (Arc::default(), Network::new(faults, seed), Arc::default());
        let mut world = Self { nodes: Vec::new(), links, network, clear, sent: 0 };
        (1..=count).for_each(|number| world.start(number, count, 1));
        world
    }

    /// Begins a life of a node, which knows that the others are there.
    fn start(&mut self, number: u8, count: u8, life: u64) {
        let switch = Switch::new(address(number), Limits::default());
        switch.seal_network(vni()).unwrap();
        let (port, end) = channel(QUEUE).unwrap();
        let spec = PortSpec {
            name: "station".into(),
            vni: vni(),
            mtu: 1_420,
            capabilities: Capabilities::default(),
            storm: StormLimit { frames_per_second: u32::MAX, burst: u32::MAX },
        };
        let devices = vec![(switch.add_port(spec).unwrap(), Box::new(port) as Box<dyn FrameIo>)];
        let inner = self.network.attach(address(number)).unwrap();
        let underlay = Box::new(Watched { inner, clear: Arc::clone(&self.clear) });
        let workers =
            Workers::spawn(switch.clone(), vec![underlay], devices, WorkerConfig::default(), |_| {}).unwrap();
        let random = Mutex::new(Rng::with_seed(u64::from(number) * 100 + life));
        let link = Link { own: id(number), links: Arc::clone(&self.links), random };
        let sessions = Sessions::new(id(number), switch.clone(), Arc::new(link), u64::from(number) + life);
        let peers: Vec<_> = (1..=count)
            .filter(|&other| other != number)
            .map(|other| {
                let at = switch.add_peer(vni(), address(other)).unwrap();
                SessionPeer { node: id(other), at, life: 1 }
            })
            .collect();
        sessions.set_peers(&peers);
        self.links.nodes.lock().unwrap().insert(id(number), sessions.clone());
        let driving = sessions.clone();
        let driver = tokio::spawn(async move { driving.run().await }).abort_handle();
        self.nodes.push(Node { number, switch, sessions, end, driver, _workers: workers });
    }

    /// Ends a node as `kill -9` does.
    fn kill(&mut self, number: u8) {
        self.links.nodes.lock().unwrap().remove(&id(number));
        self.nodes.retain(|node| node.number != number);
    }

    fn node(&self, number: u8) -> &Node {
        self.nodes.iter().find(|node| node.number == number).unwrap()
    }

    /// Each node sends so many numbered frames to each other one; gives what must arrive where.
    fn send(&mut self, count: u64) -> BTreeMap<u8, BTreeSet<u64>> {
        let mut expected = BTreeMap::<u8, BTreeSet<u64>>::new();
        let numbers: Vec<u8> = self.nodes.iter().map(|node| node.number).collect();
        for _ in 0..count {
            for (&from, &to) in numbers.iter().flat_map(|from| numbers.iter().map(move |to| (from, to))) {
                if from != to {
                    self.sent += 1;
                    let head = [&mac(to)[..], &mac(from), &[0x88, 0xb5]].concat();
                    let frame = [&head[..], &self.sent.to_be_bytes(), MARK, &[0; 32]].concat();
                    self.node(from).end.send(&frame).unwrap();
                    expected.entry(to).or_default().insert(self.sent);
                }
            }
        }
        expected
    }

    /// Waits for frames, of which none may be missing. Others may come: what is not known yet is flooded.
    fn expect(&self, expected: BTreeMap<u8, BTreeSet<u64>>) {
        for (number, mut missing) in expected {
            let node = self.node(number);
            while !missing.is_empty() {
                let frame = node.end.receive_timeout(PATIENCE).unwrap_or_else(|error| {
                    let drops: Vec<_> =
                        self.nodes.iter().map(|node| (node.number, node.switch.report().drops)).collect();
                    panic!("node {number} misses {missing:?}: {error}; {drops:?}; {:?}", self.reports())
                });
                missing.remove(&u64::from_be_bytes(frame[14..22].try_into().unwrap()));
                node.end.recycle(frame);
            }
        }
    }

    fn reports(&self) -> Vec<(u8, BTreeMap<NodeId, SessionReport>)> {
        self.nodes.iter().map(|node| (node.number, node.sessions.report())).collect()
    }

    fn all_seal(&self) -> bool {
        let others = self.nodes.len() - 1;
        let seals = |node: &Node| node.sessions.report().values().filter(|report| report.seals).count();
        self.nodes.iter().all(|node| seals(node) == others)
    }

    async fn settle(&self) {
        for _ in 0..600 {
            if self.all_seal() {
                return;
            }
            sleep(Duration::from_millis(200)).await;
        }
        panic!("two minutes, and not everybody has keys: {:?}", self.reports());
    }
}

fn merge(expected: &mut BTreeMap<u8, BTreeSet<u64>>, more: BTreeMap<u8, BTreeSet<u64>>) {
    more.into_iter().for_each(|(to, numbers)| expected.entry(to).or_default().extend(numbers));
}

/// Rotates under traffic, and gives how often keys were agreed on.
async fn rotate(world: &mut World, rounds: u64, trouble: u64) -> u64 {
    world.settle().await;
    let warm = world.send(2);
    world.expect(warm);
    world.links.trouble.store(trouble, Ordering::Relaxed);
    let before = world.links.agreed.load(Ordering::Relaxed);
    let mut random = Rng::with_seed(rounds);
    for round in 0..rounds {
        let mut expected = world.send(6);
        // Sometimes both ends at once, sometimes either.
        match random.u8(..3) {
            0 => world.nodes.iter().for_each(|node| node.sessions.rotate_now()),
            _ => world.nodes[random.usize(..world.nodes.len())].sessions.rotate_now(),
        }
        sleep(Duration::from_millis(random.u64(..160))).await;
        merge(&mut expected, world.send(6));
        // Openers of half a minute are kept, so that oftener than that renewals would only wait.
        sleep(Duration::from_millis(3_500 + random.u64(..2_000))).await;
        merge(&mut expected, world.send(2));
        world.expect(expected);
        for report in world.nodes.iter().flat_map(|node| node.sessions.report().into_values()) {
            assert!(report.openers <= OPENERS_MAX, "round {round}: {report:?}");
        }
    }
    assert_eq!(world.clear.load(Ordering::Relaxed), 0, "all was sealed");
    world.links.agreed.load(Ordering::Relaxed) - before
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_rotations_lose_nothing_and_show_nothing() {
    let mut world = World::new(2, 1);
    let agreed = rotate(&mut world, 300, 0).await;
    assert!(agreed >= 280, "{agreed} of 300 rotations");
}

#[tokio::test(start_paused = true)]
async fn connections_that_break_refuse_and_die_lose_nothing() {
    let mut world = World::new(3, 2);
    let agreed = rotate(&mut world, 120, 3).await;
    assert!(agreed >= 100, "{agreed} agreements among three");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_starts_anew_is_reached_and_its_old_keys_go() {
    let mut world = World::new(3, 3);
    world.settle().await;
    let before = world.send(2);
    world.expect(before);
    let mut lives = BTreeMap::from([(1, 1), (2, 1), (3, 1)]);
    for (number, life) in [(3, 2), (1, 2), (3, 3), (1, 3)] {
        world.kill(number);
        sleep(Duration::from_secs(3)).await;
        world.start(number, 3, life);
        lives.insert(number, life);
        world.nodes.iter().for_each(|node| node.hear_of(&lives));
        sleep(Duration::from_secs(5)).await;
        // Keys of the old life are there for a while; what is sealed is so with new ones.
        for _ in 0..20 {
            let sent = world.send(1);
            world.expect(sent);
            sleep(Duration::from_secs(2)).await;
        }
        let left: Vec<_> = world
            .nodes
            .iter()
            .flat_map(|node| node.sessions.report().into_values().map(|report| report.openers))
            .collect();
        assert_eq!(left, [1; 6], "after {GRACE:?} and more only the newest open");
    }
    assert_eq!(world.clear.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_takes_its_keys_along_and_is_refused() {
    let world = World::new(2, 4);
    world.settle().await;
    let node = world.node(1);
    node.sessions.set_peers(&[]);
    assert!(node.sessions.report().is_empty());
    let peers = node.switch.tables();
    let (_, vtep) = peers.topology.peers.sorted()[0];
    assert!(vtep.sealer.is_none());
    let refused = node.sessions.answer(id(2), SessionId::new(1).unwrap()).unwrap_err();
    assert_eq!(refused, AnswerError::NotShared);
    // It comes back, and is asked at once.
    let at = peers.topology.peers.exact(address(2)).unwrap();
    node.sessions.set_peers(&[SessionPeer { node: id(2), at, life: 1 }]);
    sleep(Duration::from_secs(1)).await;
    assert!(node.sessions.report()[&id(2)].seals);
}

#[tokio::test(start_paused = true)]
async fn another_switch_goes_on_with_the_same_keys() {
    let world = World::new(2, 5);
    world.settle().await;
    let node = world.node(1);
    let agreed = world.links.agreed.load(Ordering::Relaxed);
    let switch = Switch::new(SocketAddr::from(([192, 0, 2, 1], 5_000)), Limits::default());
    switch.seal_network(vni()).unwrap();
    let at = switch.add_peer(vni(), address(2)).unwrap();
    node.sessions.move_to(switch.clone());
    node.sessions.set_peers(&[SessionPeer { node: id(2), at, life: 1 }]);
    let tables = switch.tables();
    assert!(tables.topology.peers.peer(at).unwrap().sealer.is_some());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.links.agreed.load(Ordering::Relaxed), agreed, "no new keys were needed");
    // A place that the switch does not know is tried again.
    node.sessions.set_peers(&[SessionPeer { node: id(2), at: VtepId(99), life: 1 }]);
    node.sessions.set_peers(&[SessionPeer { node: id(2), at, life: 1 }]);
    assert!(switch.tables().topology.peers.peer(at).unwrap().sealer.is_some());
}
