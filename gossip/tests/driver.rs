//! The driver on loopback sockets: large records, a task that panics, a farewell.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use vswitchd_gossip::demo::{Unprotected, settings};
use vswitchd_gossip::{Bulk, BulkTransmit, Gossip, NodeId, Opened, SealError, Sealing, TableId};

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
