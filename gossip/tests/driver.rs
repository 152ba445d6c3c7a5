//! The driver on loopback sockets: large records, a task that panics, a farewell, a store that is slow or fails.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what can't fail on loopback is a failed test")]

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use vswitchd_gossip::demo::{Unprotected, settings};
use vswitchd_gossip::{Bulk, BulkTransmit, Gossip, NodeId, Opened, SealError, Sealing, Store, TableId};

const TABLE: TableId = TableId::owned(9);
const LOOPBACK: &str = "127.0.0.1:0";

async fn until(gossip: &Gossip, wanted: impl Fn(&Gossip) -> bool) {
    let mut events = gossip.events();
    let wait = async {
        while !wanted(gossip) {
            // Some conditions come without an event: look again after a while, too.
            tokio::time::timeout(Duration::from_millis(100), events.recv()).await.ok();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it comes true within a minute");
}

/// Panics at datagrams that begin with 0xff.
struct Fragile(Unprotected);

impl Sealing for Fragile {
    fn seal(&self, kind: u8, bytes: &[u8]) -> Result<Vec<u8>, SealError> {
        self.0.seal(kind, bytes)
    }

    fn open(&self, datagram: &[u8]) -> Result<Opened, SealError> {
        assert_ne!(datagram.first(), Some(&0xff), "a fault that the test wants");
        self.0.open(datagram)
    }
}

#[tokio::test]
async fn a_driver_that_panics_begins_again_and_is_superseded_by_itself() {
    let listen = LOOPBACK.parse().unwrap();
    let mut parts = Unprotected::parts(NodeId([1; 16]));
    parts.sealing = Arc::new(Fragile(Unprotected(NodeId([1; 16]))));
    let fragile = Gossip::start(listen, settings(NodeId([1; 16]), listen, &[]), parts).await.unwrap();
    let seeds = [fragile.me().addr];
    let other = NodeId([2; 16]);
    let witness =
        Gossip::start(listen, settings(other, listen, &seeds), Unprotected::parts(other)).await.unwrap();
    fragile.set_owned(TABLE, "mine", Some(vec![1, 2, 3])).unwrap();
    until(&witness, |witness| witness.records(TABLE).len() == 1).await;
    let life = fragile.me().life;
    #[expect(clippy::disallowed_methods, reason = "a stranger's socket")]
    let stranger = UdpSocket::bind(LOOPBACK).await.unwrap();
    stranger.send_to(&[0xff; 40], fragile.me().addr).await.unwrap();
    until(&witness, |witness| {
        let peers = witness.peers();
        peers.iter().any(|peer| peer.alive && peer.life > life) && witness.records(TABLE).len() == 1
    })
    .await;
    assert_eq!(fragile.counters().restarts, 1);
    fragile.leave().await;
    until(&witness, |witness| witness.peers().iter().all(|peer| peer.left)).await;
    assert_eq!(witness.records(TABLE), []);
}

/// Hands bulk transfers to the test.
struct ToTest(mpsc::UnboundedSender<BulkTransmit>);

impl Bulk for ToTest {
    fn send(&self, transfer: BulkTransmit) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.0.send(transfer).ok();
        Box::pin(std::future::ready(()))
    }
}

#[tokio::test]
async fn what_fits_no_datagram_goes_in_bulk() {
    let listen = LOOPBACK.parse().unwrap();
    let (sender, mut transfers) = mpsc::unbounded_channel();
    let (first, second) = (NodeId([1; 16]), NodeId([2; 16]));
    let mut parts = Unprotected::parts(first);
    parts.bulk = Arc::new(ToTest(sender));
    let a = Gossip::start(listen, settings(first, listen, &[]), parts).await.unwrap();
    let seeds = [a.me().addr];
    let b =
        Gossip::start(listen, settings(second, listen, &seeds), Unprotected::parts(second)).await.unwrap();
    let large = vec![5; 60_000];
    a.set_owned(TABLE, "large", Some(large.clone())).unwrap();
    let transfer = tokio::time::timeout(Duration::from_secs(60), transfers.recv()).await.unwrap().unwrap();
    assert_eq!((transfer.node, transfer.to), (second, b.me().addr));
    b.deliver_bulk(first, &transfer.bytes).unwrap();
    assert_eq!(b.records(TABLE), [(Some(first), "large".to_owned(), large.into())]);
}

const CLUSTER: TableId = TableId::cluster(9);

/// A store in memory that does with each save what the test tells it to.
struct Told {
    content: Arc<Mutex<Option<Vec<u8>>>>,
    /// A save has begun.
    begun: mpsc::UnboundedSender<()>,
    orders: Mutex<std::sync::mpsc::Receiver<Order>>,
}

#[derive(Clone, Copy)]
enum Order {
    Save,
    Fail,
    Panic,
}

impl Store for Told {
    fn load(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.content.lock().unwrap().clone())
    }

    fn save(&self, bytes: &[u8]) -> io::Result<()> {
        self.begun.send(()).ok();
        // Without a test, all is saved.
        let order = self.orders.lock().unwrap().recv().unwrap_or(Order::Save);
        match order {
            Order::Save => *self.content.lock().unwrap() = Some(bytes.to_vec()),
            Order::Fail => return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full")),
            Order::Panic => panic!("a fault that the test wants"),
        }
        Ok(())
    }
}

/// The test's end of a [`Told`].
struct Teller {
    content: Arc<Mutex<Option<Vec<u8>>>>,
    begun: mpsc::UnboundedReceiver<()>,
    orders: std::sync::mpsc::Sender<Order>,
}

impl Teller {
    fn new() -> (Arc<Told>, Self) {
        let content = Arc::new(Mutex::new(None));
        let (begun_sender, begun) = mpsc::unbounded_channel();
        let (orders, order_receiver) = std::sync::mpsc::channel();
        let told =
            Told { content: Arc::clone(&content), begun: begun_sender, orders: Mutex::new(order_receiver) };
        (Arc::new(told), Self { content, begun, orders })
    }

    async fn begun(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.begun.recv()).await.unwrap().unwrap();
    }

    /// The keys that a node would find that starts now.
    async fn keys(&self) -> Vec<String> {
        let (store, _) = Self::new();
        *store.content.lock().unwrap() = self.content.lock().unwrap().clone();
        let reader = start(store).await;
        reader.records(CLUSTER).into_iter().map(|(_, key, _)| key).collect()
    }
}

async fn start(store: Arc<dyn Store>) -> Arc<Gossip> {
    let listen = LOOPBACK.parse().unwrap();
    let node = NodeId([1; 16]);
    let mut parts = Unprotected::parts(node);
    parts.store = store;
    Arc::new(Gossip::start(listen, settings(node, listen, &[]), parts).await.unwrap())
}

fn wait_saved(gossip: &Arc<Gossip>) -> tokio::task::JoinHandle<io::Result<()>> {
    let gossip = Arc::clone(gossip);
    tokio::spawn(async move { gossip.saved().await })
}

#[tokio::test]
async fn saved_waits_for_a_slow_store_and_for_all_that_was_changed_before() {
    let (store, mut teller) = Teller::new();
    let gossip = start(store).await;
    tokio::time::timeout(Duration::from_secs(60), gossip.saved()).await.unwrap().unwrap();
    gossip.set_cluster(CLUSTER, "a", Some(vec![1])).unwrap();
    let first = wait_saved(&gossip);
    teller.begun().await;
    gossip.set_cluster(CLUSTER, "b", Some(vec![2])).unwrap();
    let second = wait_saved(&gossip);
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && !second.is_finished(), "nothing is saved yet");
    teller.orders.send(Order::Save).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(teller.keys().await, ["a"]);
    teller.begun().await;
    assert!(!second.is_finished(), "the second isn't saved yet");
    teller.orders.send(Order::Save).unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(teller.keys().await, ["a", "b"]);
}

#[tokio::test]
async fn saved_tells_of_a_store_that_fails_and_tries_again() {
    let (store, mut teller) = Teller::new();
    let gossip = start(store).await;
    gossip.set_cluster(CLUSTER, "a", Some(vec![1])).unwrap();
    for order in [Order::Fail, Order::Panic] {
        let saved = wait_saved(&gossip);
        teller.begun().await;
        teller.orders.send(order).unwrap();
        let error = saved.await.unwrap().unwrap_err();
        if let Order::Fail = order {
            assert_eq!(
                (error.kind(), error.to_string()),
                (io::ErrorKind::StorageFull, "the disk is full".into())
            );
        }
    }
    assert!(gossip.counters().unsaved >= 2);
    // It tries again by itself, too.
    teller.begun().await;
    // One for a save that the call below may ask for.
    [Order::Save, Order::Save].into_iter().for_each(|order| teller.orders.send(order).unwrap());
    tokio::time::timeout(Duration::from_secs(60), gossip.saved()).await.unwrap().unwrap();
    assert_eq!(teller.keys().await, ["a"]);
}

#[tokio::test]
async fn a_farewell_saves_first() {
    let (store, mut teller) = Teller::new();
    let gossip = start(store).await;
    gossip.set_cluster(CLUSTER, "a", Some(vec![1])).unwrap();
    let leaving = tokio::spawn(async move { gossip.leave().await });
    teller.begun().await;
    assert!(!leaving.is_finished());
    teller.orders.send(Order::Save).unwrap();
    tokio::time::timeout(Duration::from_secs(60), leaving).await.unwrap().unwrap();
    assert_eq!(teller.keys().await, ["a"]);
}
