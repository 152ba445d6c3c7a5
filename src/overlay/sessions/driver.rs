//! All peers' keys, the conversations about them, and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info};

use super::number::{Number, Numbers};
use super::peer::{Peer, SessionReport};
use super::{Agree, AgreeError, Agreement, AnswerError, Confirm};
use crate::crypto::envelope::SessionId;
use crate::crypto::exporter::SessionKeys;
use crate::crypto::identity::NodeId;
use crate::crypto::renewal::{ANSWER, Renewal, Side};
use crate::switch::switch::Switch;
use crate::switch::vtep::VtepId;

/// How often the switch is asked which keys have opened something: much oftener than
/// [`crate::crypto::renewal::GRACE`], since an old key is forgotten that long after it was heard.
pub const HEARD: Duration = Duration::from_secs(2);
/// How long the end with the larger node id waits for the other to ask, when a peer is new or has come back.
pub const SECOND_ASKS: Duration = Duration::from_secs(2);
/// Peers asked at a time; each costs a TLS handshake. Others wait for their turn.
pub const ASKS_MAX: usize = 32;

/// A peer with which keys are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionPeer {
    /// Who it is.
    pub node: NodeId,
    /// Its place in the switch.
    pub at: VtepId,
    /// Which of its lives this is.
    pub life: u64,
}

/// The keys of all peers. Clones are the same.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    own: NodeId,
    agree: Arc<dyn Agree>,
    numbers: Numbers,
    turns: Semaphore,
    epoch: Instant,
    inner: Mutex<Inner>,
    /// Deadlines may have come nearer.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    switch: Switch,
    peers: BTreeMap<NodeId, Peer>,
    heard_at: Duration,
    questions: u64,
}

/// A peer to be asked.
struct Question {
    peer: NodeId,
    number: u64,
    receive: Number,
}

/// A peer's question that has a number for its answer. Dropping this takes that back.
#[derive(Debug)]
pub struct Answering {
    sessions: Sessions,
    peer: NodeId,
    send: SessionId,
    receive: Number,
}

/// A peer's question that is answered.
#[derive(Debug)]
pub struct Answered {
    sessions: Sessions,
    peer: NodeId,
    send: SessionId,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions").field("own", &self.shared.own).finish_non_exhaustive()
    }
}

impl Sessions {
    /// For a node's switch, with nobody to have keys with yet. `seed` differs from start to start.
    #[must_use]
    pub fn new(own: NodeId, switch: Switch, agree: Arc<dyn Agree>, seed: u64) -> Self {
        let inner = Inner { switch, peers: BTreeMap::new(), heard_at: Duration::ZERO, questions: 0 };
        let shared = Shared {
            own,
            agree,
            numbers: Numbers::new(seed),
            turns: Semaphore::new(ASKS_MAX),
            epoch: Instant::now(),
            inner: Mutex::new(inner),
            changed: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets the peers with which keys are needed; others' are forgotten, here and in the switch.
    ///
    /// A new peer, or one that has begun another life, is asked for keys at once, by the end with the smaller node id
    /// that is, and by the other if it has not been within [`SECOND_ASKS`].
    pub fn set_peers(&self, peers: &[SessionPeer]) {
        let now = self.now();
        let mut inner = self.inner();
        let Inner { switch, peers: known, .. } = &mut *inner;
        let wanted: BTreeSet<NodeId> = peers.iter().map(|peer| peer.node).collect();
        let gone: Vec<NodeId> = known.keys().copied().filter(|node| !wanted.contains(node)).collect();
        gone.iter().filter_map(|node| known.remove(node)).for_each(|peer| peer.leave(switch));
        for &SessionPeer { node, at, life } in peers {
            let first = self.shared.own < node;
            let due = if first { now } else { now + SECOND_ASKS };
            let peer = known.entry(node).or_insert_with(|| {
                let mut renewal = Renewal::new(first, now);
                renewal.handle_due(due);
                Peer::new(life, renewal)
            });
            if peer.life != life {
                peer.life = life;
                peer.renewal.handle_due(due);
            }
            if let Err(error) = peer.place(switch, at) {
                info!("the switch does not take the keys of node {node} yet: {error}");
            }
        }
        drop(inner);
        self.shared.changed.notify_one();
    }

    /// Goes on with another switch, with the same keys; [`Self::set_peers`] says where the peers are in it.
    pub fn move_to(&self, switch: Switch) {
        let mut inner = self.inner();
        inner.switch = switch;
        inner.peers.values_mut().for_each(Peer::displace);
    }

    /// Renews the keys of every peer now.
    pub fn rotate_now(&self) {
        let now = self.now();
        self.inner().peers.values_mut().for_each(|peer| peer.renewal.handle_due(now));
        self.shared.changed.notify_one();
    }

    /// What is known of the keys of each peer.
    #[must_use]
    pub fn report(&self) -> BTreeMap<NodeId, SessionReport> {
        self.inner().peers.iter().map(|(&node, peer)| (node, peer.report())).collect()
    }

    /// A peer asks for keys and says its number: what it calls what we are going to send.
    ///
    /// # Errors
    /// It is to be refused.
    pub fn answer(&self, peer: NodeId, send: SessionId) -> Result<Answering, AnswerError> {
        let inner = self.inner();
        let known = inner.peers.get(&peer).ok_or(AnswerError::NotShared)?;
        if !known.renewal.may_answer() {
            return Err(AnswerError::NotNow);
        }
        let receive = self.shared.numbers.take().ok_or(AnswerError::NoRoom)?;
        Ok(Answering { sessions: self.clone(), peer, send, receive })
    }

    /// Asks and renews for as long as it is polled. Once at a time.
    pub async fn run(&self) {
        let mut conversations = JoinSet::new();
        loop {
            let (questions, next) = self.turn();
            for question in questions {
                conversations.spawn(self.clone().converse(question));
            }
            tokio::select! {
                () = sleep_until(self.shared.epoch + next) => {}
                () = self.shared.changed.notified() => {}
                Some(_ended) = conversations.join_next() => {}
            }
        }
    }

    /// Lets time pass; gives whom to ask now, and when to come again.
    fn turn(&self) -> (Vec<Question>, Duration) {
        let now = self.now();
        let mut inner = self.inner();
        let Inner { switch, peers, heard_at, questions } = &mut *inner;
        if now >= *heard_at {
            *heard_at = now + HEARD;
            let heard = switch.sessions_heard();
            peers.values_mut().for_each(|peer| peer.handle_heard(&heard, now));
        }
        let (mut asks, mut next) = (Vec::new(), *heard_at);
        for (&node, peer) in peers.iter_mut() {
            if peer.handle_time(switch, now) {
                match self.shared.numbers.take() {
                    Some(receive) => {
                        *questions += 1;
                        peer.question = Some(*questions);
                        asks.push(Question { peer: node, number: *questions, receive });
                    }
                    None => peer.renewal.handle_failed(now),
                }
            }
            next = next.min(peer.renewal.next_deadline());
        }
        (asks, next)
    }

    /// Asks a peer, and confirms what it answers.
    async fn converse(self, question: Question) {
        let Question { peer, number, receive } = question;
        let ask = async {
            let _turn = self.shared.turns.acquire().await.ok();
            self.shared.agree.ask(peer, receive.id()).await
        };
        let outcome = timeout(ANSWER, ask).await.unwrap_or(Err(AgreeError::Timeout));
        let Some(confirm) = self.settle(peer, number, receive, outcome) else { return };
        match timeout(ANSWER, confirm.confirm()).await.unwrap_or(Err(AgreeError::Timeout)) {
            Ok(()) => {}
            // The first datagram under the new key tells the peer the same.
            Err(error) => debug!("node {peer} was not told that its keys are in use: {error}"),
        }
    }

    /// A question has its answer, or none; gives what is to be confirmed.
    fn settle(
        &self,
        peer: NodeId,
        number: u64,
        receive: Number,
        outcome: Result<Agreement, AgreeError>,
    ) -> Option<Box<dyn Confirm>> {
        let now = self.now();
        let mut inner = self.inner();
        let Inner { switch, peers, .. } = &mut *inner;
        let known = peers.get_mut(&peer).filter(|known| known.question == Some(number))?;
        known.question = None;
        let installed = outcome.map_err(|error| error.to_string()).and_then(|agreement| {
            let Agreement { send, keys, confirm } = agreement;
            let used = known.install(switch, receive, send, keys, Side::Asked, now);
            used.map(|used| used.then_some(confirm)).map_err(|error| error.to_string())
        });
        let confirm = installed.unwrap_or_else(|error| {
            debug!("no new keys with node {peer}: {error}");
            known.renewal.handle_failed(now);
            None
        });
        drop(inner);
        self.shared.changed.notify_one();
        confirm
    }

    fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A peer's keys are complete or not there wherever it could panic.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    /// The number to answer with: what we call what the peer is going to send.
    #[must_use]
    pub fn receive(&self) -> SessionId {
        self.receive.id()
    }

    /// Puts the keys in place, so that what the peer seals is opened; it may be answered after this, not before.
    ///
    /// # Errors
    /// It is to be refused after all.
    pub fn install(self, keys: SessionKeys) -> Result<Answered, AnswerError> {
        let Self { sessions, peer, send, receive } = self;
        let now = sessions.now();
        let mut inner = sessions.inner();
        let Inner { switch, peers, .. } = &mut *inner;
        let known = peers.get_mut(&peer).ok_or(AnswerError::NotShared)?;
        // It may have been asked meanwhile.
        if !known.renewal.may_answer() {
            return Err(AnswerError::NotNow);
        }
        known.install(switch, receive, send, keys, Side::Answered, now)?;
        drop(inner);
        sessions.shared.changed.notify_one();
        Ok(Answered { sessions, peer, send })
    }
}

impl Answered {
    /// The peer has said that it opens what we seal with the new key.
    pub fn confirmed(self) {
        let now = self.sessions.now();
        let mut inner = self.sessions.inner();
        let Inner { switch, peers, .. } = &mut *inner;
        if let Some(known) = peers.get_mut(&self.peer) {
            known.renewal.handle_confirmed(self.send, now);
            if known.act(switch) {
                // Confirming never asks; if it came to that, the question's time runs out and it is asked again.
                debug!("a question to node {} is put off", self.peer);
            }
        }
        drop(inner);
        self.sessions.shared.changed.notify_one();
    }
}
