//! One client's connection: to the first of the service's tasks that takes it.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::frame::Head;
use super::links::{ATTEMPT, NotOpened};
use super::party::Client;
use super::plan::{At, Place, Published};
use super::proxy;
use super::pump::{Left, pump};
use super::run::Shared;
use super::shares::{Origin, Share};
use crate::gateway::nat::outer::reset_on_close;
use crate::gateway::nat::{Answered, Outer};

/// How long it may take until a task has taken a connection, whichever it is. Each task has [`ATTEMPT`] only; but of very many new
/// clients at a time each has to wait for its turn to shake hands with the task's node.
const ESTABLISH: Duration = Duration::from_secs(60);

/// A task that has taken so long has not refused, but said nothing. Whom nobody has taken waits so long before all are asked again.
const SILENT: Duration = Duration::from_secs(2);

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) client: SocketAddr,
    /// Which port it has come to.
    pub(super) at: At,
    /// Allows its socket.
    pub(super) permit: OwnedSemaphorePermit,
    /// Of what its client may have.
    pub(super) share: Share<Origin>,
}

/// Carries a connection until it ends, or is in the hands of a gateway of this node.
pub(super) async fn carry(shared: Arc<Shared>, arrival: Arrival) {
    let Arrival { mut stream, client, at, permit: _permit, share } = arrival;
    let share = Arc::new(share);
    // It has a socket, and a task here needs another.
    shared.peers.make_room();
    let deadline = Instant::now() + ESTABLISH;
    let mut silent = true;
    // A task that says nothing has more connections waiting than it accepts, as a rule: the client would try again, too. So would
    // it if a node says nothing.
    while std::mem::take(&mut silent) {
        let round = Instant::now();
        let published = shared.plan.load().ports.get(&at).cloned();
        let Some(published) = published else { break };
        for place in published.order(client, &shared.chance) {
            let begun = Instant::now();
            // Nobody waits any more, or nobody would.
            if begun >= deadline || !matches!(stream.take_error(), Ok(None)) {
                return reset_on_close(&stream);
            }
            let offer =
                Offer { shared: &shared, published: &published, place: &place, client, share: &share };
            let carried = if place.node == shared.own {
                offer.here(stream).await
            } else {
                offer.elsewhere(stream, deadline).await
            };
            match carried {
                Ok(()) | Err(Declined::Over) => return,
                Err(Declined::Refused(back)) => {
                    stream = back;
                    silent |= begun.elapsed() >= SILENT;
                }
                Err(Declined::Silent(back)) => (stream, silent) = (back, true),
            }
        }
        // Who was silent a moment ago has not been asked.
        if silent && round.elapsed() < SILENT {
            sleep(SILENT).await;
        }
    }
    reset_on_close(&stream);
}

/// A connection that one task may take.
struct Offer<'a> {
    shared: &'a Shared,
    published: &'a Published,
    place: &'a Place,
    client: SocketAddr,
    share: &'a Arc<Share<Origin>>,
}

/// A connection that a task has not taken.
enum Declined {
    /// The next one may have it.
    Refused(TcpStream),
    /// The same, and this one again: its node says nothing.
    Silent(TcpStream),
    /// It has ended.
    Over,
}

impl Offer<'_> {
    /// To a task of this node: from when it has taken it, its gateway has the connection.
    async fn here(&self, stream: TcpStream) -> Result<(), Declined> {
        let entrances = self.shared.entrances.load_full();
        let Some(reached) = entrances.get(&self.place.endpoint) else {
            return Err(Declined::Refused(stream));
        };
        let (ahead, target) = (self.ahead(&stream), self.published.target);
        let outer = Outer::Counted(stream, self.share.clone());
        let answer = reached.entrance.hand(outer, self.client, target, ahead, ATTEMPT);
        match answer.await {
            Ok(Answered::Taken) => Ok(()),
            Ok(Answered::Refused(Outer::Counted(stream, _) | Outer::Socket(stream))) => {
                Err(Declined::Refused(stream))
            }
            // The gateway has ended, and the connection with it.
            Ok(Answered::Refused(Outer::Pipe(_))) | Err(_) => Err(Declined::Over),
        }
    }

    /// To a task of another node, until the connection ends.
    async fn elsewhere(&self, stream: TcpStream, deadline: Instant) -> Result<(), Declined> {
        let Place { node, endpoint } = self.place;
        let to = self.shared.plan.load().peers.get(node).copied();
        let Some(to) = to else { return Err(Declined::Refused(stream)) };
        let peers = &self.shared.peers;
        let peer = peers.get(*node);
        let head =
            Head { client: self.client, target: self.published.target, endpoint: endpoint.to_string() };
        let opened = tokio::select! {
            opened = timeout_at(deadline, peers.open(&peer, to, &head)) => opened,
            () = peer.gone() => return Err(Declined::Refused(stream)),
        };
        let mut used = match opened {
            Ok(Ok(used)) => used,
            Ok(Err(why)) => {
                debug!("{} is not carried to endpoint {endpoint} of {node}: {why}", self.client);
                let silent = why == NotOpened::Silent;
                return Err(if silent { Declined::Silent(stream) } else { Declined::Refused(stream) });
            }
            Err(_) => return Err(Declined::Refused(stream)),
        };
        let ahead = self.ahead(&stream);
        let Ok(mut party) = Client::new(stream) else { return Err(Declined::Over) };
        let left = tokio::select! {
            left = pump(&mut used.link, &mut party, &ahead) => left,
            () = peer.gone() => Left::Nothing,
        };
        drop(party);
        if left == Left::Link {
            peers.release(&peer, used);
        }
        Ok(())
    }

    /// What the task is sent before anything of the client's.
    fn ahead(&self, stream: &TcpStream) -> Vec<u8> {
        match stream.local_addr() {
            Ok(asked) if self.published.proxy => proxy::header(self.client, asked),
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::io::{ErrorKind, Read};
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::crypto::identity::NodeId;
    use crate::mesh::links::{Dial, Dialing};
    use crate::mesh::plan::Plan;
    use crate::overlay::Entrances;
    use crate::service::Protocol;

    const OWN: NodeId = NodeId::from_bytes([1; 16]);
    const MUTE: NodeId = NodeId::from_bytes([2; 16]);
    const OTHER: NodeId = NodeId::from_bytes([3; 16]);

    /// One node says nothing, and another refuses; counts how often each is called.
    #[derive(Debug, Default)]
    struct Calls(Mutex<BTreeMap<NodeId, usize>>);

    impl Dial for Calls {
        fn dial(&self, node: NodeId, _: SocketAddr) -> Dialing {
            *self.0.lock().unwrap().entry(node).or_default() += 1;
            if node == MUTE { Box::pin(std::future::pending()) } else { Box::pin(async { Err("no".into()) }) }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_of_a_node_that_says_nothing_asks_the_others_and_then_all_again() {
        let (calls, sockets) = (Arc::new(Calls::default()), Arc::new(Semaphore::new(64)));
        let dial: Arc<dyn Dial> = Arc::clone(&calls) as _;
        let shared = Arc::new(Shared::new(OWN, dial, Arc::clone(&sockets), Entrances::default()));
        let at = At { address: None, published: 80, protocol: Protocol::Tcp };
        let nodes = [MUTE, OTHER];
        let places = nodes.map(|node| Place::new(node, "e").unwrap()).into();
        let published =
            Published { service: "s".into(), target: 80, proxy: false, places, draining: Arc::default() };
        let peers = nodes.map(|node| (node, SocketAddr::from(([192, 0, 2, 1], 7_946)))).into();
        shared.plan.store(Arc::new(Plan::new([(at, published)].into(), peers, BTreeSet::new())));

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, client) = listener.accept().unwrap();
        let share = shared.clients.take(Origin::of(client.ip())).unwrap();
        let permit = sockets.try_acquire_owned().unwrap();
        let begun = Instant::now();
        carry(shared, Arrival { stream, client, at, permit, share }).await;
        assert!((ESTABLISH..ESTABLISH + 2 * ATTEMPT).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!(far.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let calls = calls.0.lock().unwrap();
        let [silent, other] = nodes.map(|node| calls[&node]);
        assert!((5..10).contains(&silent) && (15..40).contains(&other), "{silent}, {other}");
    }
}
