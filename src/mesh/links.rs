//! Links to other nodes. Each carries one connection at a time, so that none waits behind another, and then the next: so not every
//! connection pays for a handshake.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{self, timeout};
use tracing::debug;

use super::frame::{Head, Kind};
use super::party::{Link, move_here};
use super::plan::Plan;
use super::words::{receive, send};
use crate::crypto::identity::NodeId;

/// How long a link without a connection is kept.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// Links without a connection that are kept to one node.
const IDLE_MAX: usize = 256;
/// Of so many sockets one is never held by a link without a connection: what clients leave is for others.
const SOCKETS_PER_OTHER: usize = 3;
/// Handshakes with one node at a time: others wait for these, or for a link that is not needed any more. The other end takes 64
/// of one address.
const HANDSHAKES_MAX: usize = 16;
/// How long a node may take to shake hands, or a task to answer; and how long a node is not called that has said nothing for so
/// long.
pub(super) const ATTEMPT: Duration = Duration::from_secs(3);

/// A connection to another node that is being made.
pub(crate) type Dialing = Pin<Box<dyn Future<Output = Result<Link, String>> + Send>>;

/// Makes connections to other nodes, in the runtime that polls them.
pub(crate) trait Dial: fmt::Debug + Send + Sync {
    /// Calls a node, which then waits for what this one says.
    fn dial(&self, node: NodeId, to: SocketAddr) -> Dialing;
}

/// What there is with each node.
#[derive(Debug)]
pub(super) struct Peers {
    dial: Arc<dyn Dial>,
    /// One for each socket that there may be.
    sockets: Arc<Semaphore>,
    /// Where fewer sockets are free no link is kept that nobody uses.
    reserve: usize,
    known: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

/// What there is with one.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    /// Whether it was alive when it was looked at last.
    alive: AtomicBool,
    /// Whether all that there is with it has to end.
    gone: watch::Sender<bool>,
    /// The one that was used last is behind all others.
    idle: Mutex<VecDeque<Idle>>,
    released: Notify,
    handshakes: Semaphore,
    calls: watch::Sender<Calls>,
}

/// What has come of calls to a node.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    /// When it has answered one last.
    answered: Option<time::Instant>,
    /// Until when it is not called, since it says nothing.
    silent_until: Option<time::Instant>,
}

impl Calls {
    fn is_silent(&self) -> bool {
        self.silent_until.is_some_and(|until| time::Instant::now() < until)
    }
}

struct Idle {
    link: Link,
    since: Instant,
    permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle").field("since", &self.since).finish_non_exhaustive()
    }
}

/// A link that is in use.
pub(super) struct Used {
    pub(super) link: Link,
    permit: OwnedSemaphorePermit,
}

/// Why there is no connection to a task.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotOpened {
    /// Its node can't be reached.
    #[error("{0}")]
    Unreachable(String),
    /// Its node has said nothing when it was called, now or a moment ago.
    #[error("its node says nothing")]
    Silent,
    /// It does not take the connection, or its node does not.
    #[error("refused")]
    Refused,
}

impl Peers {
    pub(super) fn new(dial: Arc<dyn Dial>, sockets: Arc<Semaphore>) -> Self {
        let reserve = sockets.available_permits() / SOCKETS_PER_OTHER;
        Self { dial, sockets, reserve, known: Mutex::default() }
    }

    /// What there is with a node.
    pub(super) fn get(&self, node: NodeId) -> Arc<Peer> {
        let peer = || {
            Arc::new(Peer {
                node,
                alive: AtomicBool::new(false),
                gone: watch::Sender::new(false),
                idle: Mutex::default(),
                released: Notify::new(),
                handshakes: Semaphore::new(HANDSHAKES_MAX),
                calls: watch::Sender::default(),
            })
        };
        Arc::clone(self.known().entry(node).or_insert_with(peer))
    }

    /// Ends what there is with nodes that are dead, or were removed.
    pub(super) fn follow(&self, plan: &Plan) {
        self.known().retain(|node, peer| {
            let alive = plan.peers.contains_key(node);
            // One that calls may be known to us a moment later.
            let was = peer.alive.swap(alive, Ordering::Relaxed);
            let stays = (alive || !was) && !plan.revoked.contains(node);
            if !stays {
                peer.gone.send_replace(true);
                peer.idle().clear();
            }
            stays
        });
    }

    /// Ends all.
    pub(super) fn end(&self) {
        let nodes: BTreeSet<NodeId> = self.known().keys().copied().collect();
        self.follow(&Plan::new(BTreeMap::new(), BTreeMap::new(), nodes));
    }

    /// Closes links that have not been needed for [`IDLE`], or whose sockets others need.
    pub(super) fn tidy(&self, now: Instant) {
        let peers: Vec<Arc<Peer>> = self.known().values().cloned().collect();
        for peer in peers {
            peer.idle().retain(|idle| now.saturating_duration_since(idle.since) < IDLE);
        }
        self.make_room();
    }

    /// Closes links that nobody uses, the oldest first, as long as there are any and sockets are few.
    pub(super) fn make_room(&self) {
        while self.sockets.available_permits() < self.reserve {
            let known = self.known();
            let oldest = |peer: &Arc<Peer>| Some((peer.idle().front()?.since, Arc::clone(peer)));
            let peer = known.values().filter_map(oldest).min_by_key(|&(since, _)| since);
            drop(known);
            let Some((_, peer)) = peer else { return };
            drop(peer.idle().pop_front());
        }
    }

    /// Allows a socket, for which links make room that nobody uses.
    pub(super) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.make_room();
        Arc::clone(&self.sockets).try_acquire_owned().ok()
    }

    /// Keeps a link for the next connection, if there is room.
    pub(super) fn release(&self, peer: &Peer, used: Used) {
        peer.release(used);
        self.make_room();
    }

    /// Opens a connection to a task of another node.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub(super) async fn open(&self, peer: &Peer, to: SocketAddr, head: &Head) -> Result<Used, NotOpened> {
        loop {
            let (mut used, is_new) = self.link(peer, to).await?;
            let answer = async {
                send(&mut used.link, Kind::Open, &head.emit()).await?;
                receive(&mut used.link).await
            };
            match timeout(ATTEMPT, answer).await {
                Ok(Ok((Kind::Opened, _))) => return Ok(used),
                Ok(Ok((Kind::Refused, _))) => {
                    self.release(peer, used);
                    return Err(NotOpened::Refused);
                }
                Ok(Ok(_)) => return Err(NotOpened::Unreachable("it answers something else".into())),
                // The other end has closed it meanwhile.
                Ok(Err(error)) if !is_new => debug!("a link to {}: {error}", peer.node),
                Ok(Err(error)) => return Err(NotOpened::Unreachable(error.to_string())),
                Err(_) => return Err(NotOpened::Unreachable("no answer".into())),
            }
        }
    }

    /// A link that is not in use; and whether it was made now. All who wait for one of a node that says nothing go on at once.
    async fn link(&self, peer: &Peer, to: SocketAddr) -> Result<(Used, bool), NotOpened> {
        let unreachable = |why: &dyn fmt::Display| NotOpened::Unreachable(why.to_string());
        let mut calls = peer.calls.subscribe();
        let _handshake = loop {
            if let Some(mut used) = peer.take() {
                move_here(&mut used.link).map_err(|error| unreachable(&error))?;
                return Ok((used, false));
            }
            tokio::select! {
                biased;
                _ = calls.wait_for(Calls::is_silent) => return Err(NotOpened::Silent),
                handshake = peer.handshakes.acquire() => break handshake,
                () = peer.released.notified() => {}
            }
        };
        let begun = time::Instant::now();
        match timeout(ATTEMPT, self.dial(peer, to)).await {
            Ok(Ok((link, permit))) => {
                peer.has_answered();
                Ok((Used { link, permit }, true))
            }
            Ok(Err(error)) => Err(NotOpened::Unreachable(error)),
            Err(_) => {
                peer.has_not_answered(begun);
                Err(NotOpened::Silent)
            }
        }
    }

    /// Makes a link to a node.
    pub(super) async fn dial(
        &self,
        peer: &Peer,
        to: SocketAddr,
    ) -> Result<(Link, OwnedSemaphorePermit), String> {
        let permit = self.permit().ok_or("this daemon has as many sockets as it may hold")?;
        Ok((self.dial.dial(peer.node, to).await?, permit))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Peer>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Returns when all that there is with it has to end.
    pub(super) async fn gone(&self) {
        let mut gone = self.gone.subscribe();
        // The sender is here, so it does not fail.
        let _gone = gone.wait_for(|&gone| gone).await.is_ok();
    }

    fn has_answered(&self) {
        self.calls.send_replace(Calls { answered: Some(time::Instant::now()), silent_until: None });
    }

    /// It has let a call pass that began then. One that has answered another since is slow, and not silent.
    fn has_not_answered(&self, begun: time::Instant) {
        self.calls.send_if_modified(|calls| {
            let silent = calls.answered.is_none_or(|at| at < begun);
            if silent {
                calls.silent_until = Some(time::Instant::now() + ATTEMPT);
            }
            silent
        });
    }

    fn release(&self, used: Used) {
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX && !*self.gone.borrow() {
            idle.push_back(Idle { link: used.link, since: Instant::now(), permit: used.permit });
            drop(idle);
            self.released.notify_one();
        }
    }

    /// The one that was used last, so that those which are not needed get old.
    fn take(&self) -> Option<Used> {
        self.idle().pop_back().map(|Idle { link, permit, .. }| Used { link, permit })
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicUsize;
    use std::time::SystemTime;

    use ring::rand::SystemRandom;
    use rustls::time_provider::DefaultTimeProvider;
    use rustls::{ClientConfig, ServerConfig};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinSet;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::crypto::ca::Ca;
    use crate::crypto::identity::{ClusterId, PrivateKey, Role};
    use crate::crypto::tls::{self, Credentials};

    const NODE: NodeId = NodeId::from_bytes([2; 16]);

    /// Nobody answers; counts the calls.
    #[derive(Debug, Default)]
    struct Silence(AtomicUsize);

    impl Dial for Silence {
        fn dial(&self, _: NodeId, _: SocketAddr) -> Dialing {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(std::future::pending())
        }
    }

    /// Answers each call, and no more.
    #[derive(Debug)]
    struct Somebody {
        here: Arc<ClientConfig>,
        there: Arc<ServerConfig>,
    }

    impl Somebody {
        fn new() -> Self {
            let (random, now) = (SystemRandom::new(), SystemTime::now());
            let ca = Ca::make(ClusterId::random(&random).unwrap(), now, &random).unwrap();
            let key = PrivateKey::generate(&random).unwrap();
            let certificate = ca.issue(&key.request(), NODE, Role::Manager, now, &random).unwrap();
            let own = Credentials { root: ca.root(), certificate: &certificate, key: &key };
            let here = tls::join_client(ca.root().digest(), Arc::new(DefaultTimeProvider)).unwrap();
            let there = tls::join_server(&own, Arc::new(DefaultTimeProvider)).unwrap();
            Self { here: here.into(), there: there.into() }
        }
    }

    impl Dial for Somebody {
        fn dial(&self, _: NodeId, _: SocketAddr) -> Dialing {
            let (here, there) =
                (TlsConnector::from(Arc::clone(&self.here)), TlsAcceptor::from(Arc::clone(&self.there)));
            Box::pin(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
                let (other, _) = listener.accept().await.unwrap();
                let here = here.connect(tls::server_name(None), stream);
                let (here, there) = tokio::join!(here, there.accept(other));
                there.unwrap();
                Ok(here.unwrap().into())
            })
        }
    }

    #[tokio::test]
    async fn links_that_nobody_uses_make_room_for_others() {
        let sockets = Arc::new(Semaphore::new(12));
        let peers = Peers::new(Arc::new(Somebody::new()), Arc::clone(&sockets));
        let to = SocketAddr::from(([192, 0, 2, 1], 7_946));
        let [one, other] = [2, 3].map(|byte| peers.get(NodeId::from_bytes([byte; 16])));
        let mut used = Vec::new();
        for peer in [&one, &other] {
            for _ in 0..6 {
                let (link, permit) = peers.dial(peer, to).await.unwrap();
                used.push(Used { link, permit });
            }
            if Arc::ptr_eq(peer, &one) {
                used.drain(..).for_each(|used| peers.release(peer, used));
                assert_eq!(one.idle().len(), 6, "while there is room they are kept");
            }
        }
        peers.tidy(Instant::now());
        assert_eq!((one.idle().len(), sockets.available_permits()), (2, 4), "a third is left to others");
        let _others = Arc::clone(&sockets).try_acquire_many_owned(3).unwrap();
        used.drain(..3).for_each(|used| peers.release(&other, used));
        assert_eq!((one.idle().len(), other.idle().len(), sockets.available_permits()), (0, 2, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_in_vain_for_a_node_that_has_said_nothing() {
        let silence = Arc::new(Silence::default());
        let dial: Arc<dyn Dial> = Arc::clone(&silence) as _;
        let peers = Arc::new(Peers::new(dial, Arc::new(Semaphore::new(1_024))));
        let to = SocketAddr::from(([192, 0, 2, 1], 7_946));
        let open = || {
            let peers = Arc::clone(&peers);
            let head = Head { client: to, target: 80, endpoint: "e".into() };
            async move { peers.open(&peers.get(NODE), to, &head).await.err() }
        };
        let begun = time::Instant::now();
        for round in 1..=2 {
            let mut clients = JoinSet::new();
            (0..10 * HANDSHAKES_MAX).for_each(|_| drop(clients.spawn(open())));
            assert!(clients.join_all().await.into_iter().all(|end| end == Some(NotOpened::Silent)));
            assert_eq!(open().await, Some(NotOpened::Silent), "at once");
            assert_eq!(begun.elapsed().as_secs(), (2 * round - 1) * ATTEMPT.as_secs());
            let calls = silence.0.load(Ordering::Relaxed);
            assert_eq!(u64::try_from(calls).ok(), Some(round * HANDSHAKES_MAX as u64));
            // Then it is called again.
            time::sleep(ATTEMPT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_answers_others_is_slow_and_not_silent() {
        let peers = Peers::new(Arc::new(Silence::default()), Arc::new(Semaphore::new(1)));
        let peer = peers.get(NODE);
        let begun = time::Instant::now();
        time::sleep(ATTEMPT / 2).await;
        peer.has_answered();
        peer.has_not_answered(begun);
        assert!(!peer.calls.borrow().is_silent());
        peer.has_not_answered(time::Instant::now() + ATTEMPT);
        assert!(peer.calls.borrow().is_silent());
        peer.has_answered();
        assert!(!peer.calls.borrow().is_silent());
    }
}
