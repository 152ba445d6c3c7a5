//! What we know of one other node, and how far it knows our records.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::id::{NodeId, Peer, TableId};
use crate::owned::Mirror;
use crate::path::{Loss, Path};
use crate::swim::Swim;

const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Differing keys that are remembered by name.
const KEYS_SHOWN: usize = 64;

/// How far a node has got our own records.
#[derive(Debug)]
pub(crate) struct Link {
    /// It said so.
    pub(crate) acked: u64,
    /// We sent so.
    pub(crate) sent: u64,
    /// When what isn't acknowledged goes again.
    pub(crate) retry_at: Option<Instant>,
    wait: Duration,
    /// Whether it has said that it had all of them, at any time.
    pub(crate) knows_us: bool,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self { acked: 0, sent: 0, retry_at: None, wait: RETRY_MIN, knows_us: false }
    }

    pub(crate) fn sent(&mut self, version: u64, now: Instant) {
        self.sent = version;
        self.retry_at = Some(now + self.wait);
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    pub(crate) fn acknowledged(&mut self, version: u64, latest: u64) {
        if version < self.acked {
            // It has lost what it had.
            self.sent = version;
        }
        self.acked = version;
        self.sent = self.sent.max(version).min(latest);
        self.wait = RETRY_MIN;
        if version >= latest {
            self.retry_at = None;
            self.knows_us = true;
        }
    }

    /// Whether something is to be sent at `now`, and from where on.
    pub(crate) fn due(&mut self, latest: u64, now: Instant) -> Option<u64> {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.sent = self.acked;
        }
        (self.sent < latest).then_some(self.sent)
    }
}

/// Whether a node knows the same as we do, by the last comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Not compared since it is up.
    Unknown,
    /// Every table was equal.
    Equal {
        /// When.
        at: Instant,
    },
    /// These keys differed, the first few by name; those without are known to the other alone. They are being repaired.
    Differing {
        /// When the first was found.
        at: Instant,
        /// Table and key.
        keys: Vec<(TableId, Option<String>)>,
    },
}

/// A node's condition, as we see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// In which of its lives.
    pub life: u64,
    /// Whether it is alive.
    pub alive: bool,
    /// Whether it has left by its own wish.
    pub left: bool,
    /// Whether it has said that it knows the records that are ours, at any time since this life of it is up: before that it
    /// may know nothing of us.
    pub knows_us: bool,
    /// How long it has been alive, dead or gone.
    pub since: Instant,
    /// When something was last heard from it.
    pub heard: Option<Instant>,
    /// Whether it knows the same as we do.
    pub comparison: Comparison,
    /// Smoothed time of a round trip of gossip datagrams to it; `None` before the first answer of this life of it.
    pub rtt: Option<Duration>,
    /// Round trips that were lost, of the last [`crate::LOSS_WINDOW`]: if each way loses 30 %, 51 %. Frozen while it is dead.
    pub loss: Loss,
}

#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) peer: Peer,
    pub(crate) alive: bool,
    pub(crate) left: bool,
    pub(crate) since: Instant,
    pub(crate) link: Link,
    pub(crate) mirror: Mirror,
    pub(crate) compared: Option<Instant>,
    pub(crate) comparison: Comparison,
    pub(crate) path: Path,
}

impl Neighbour {
    pub(crate) fn new(peer: Peer, now: Instant) -> Self {
        Self {
            peer,
            alive: false,
            left: false,
            since: now,
            link: Link::new(),
            mirror: Mirror::default(),
            compared: None,
            comparison: Comparison::Unknown,
            path: Path::default(),
        }
    }

    /// It is alive. Whether it wasn't before.
    pub(crate) fn up(&mut self, peer: Peer, now: Instant) -> bool {
        let returned = !self.alive;
        if returned || peer.life != self.peer.life {
            self.since = now;
            self.link = Link::new();
            self.path = Path::default();
            (self.compared, self.comparison) = (None, Comparison::Unknown);
        }
        (self.peer, self.alive, self.left) = (peer, true, false);
        returned
    }

    /// It is dead. Whether it wasn't before.
    pub(crate) fn down(&mut self, left: bool, now: Instant) -> bool {
        let was_alive = std::mem::take(&mut self.alive);
        self.left = left;
        self.link.retry_at = None;
        if was_alive {
            self.since = now;
        }
        was_alive
    }

    pub(crate) fn note_difference(&mut self, table: TableId, key: Option<&str>, now: Instant) {
        if !matches!(self.comparison, Comparison::Differing { .. }) {
            self.comparison = Comparison::Differing { at: now, keys: Vec::new() };
        }
        if let Comparison::Differing { keys, .. } = &mut self.comparison {
            let entry = (table, key.map(str::to_owned));
            if keys.len() < KEYS_SHOWN && !keys.contains(&entry) {
                keys.push(entry);
            }
        }
    }

    pub(crate) fn status(&self, swim: &Swim) -> PeerStatus {
        PeerStatus {
            node: self.peer.node,
            addr: self.peer.addr,
            life: self.peer.life,
            alive: self.alive,
            left: self.left,
            knows_us: self.link.knows_us,
            since: self.since,
            heard: swim.last_heard(self.peer.node),
            comparison: self.comparison.clone(),
            rtt: self.path.rtt(),
            loss: self.path.loss(),
        }
    }
}
