//! Who is dialled again, for ever: seeds, and every node that was ever known.
//!
//! foca announces once and forgets; two islands that buried each other would stay apart. A contact that is not alive is
//! greeted again with growing intervals, up to [`RETRY_MAX`], until it answers or is [forgotten](Contacts::forget) by
//! order of the operator; at the first sign of a returned node all others are tried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use crate::id::{NodeId, Peer};

/// Contacts kept, the oldest dead ones make room.
pub const CONTACT_LIMIT: usize = 4096;
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest time between two greetings of a contact that doesn't answer.
pub const RETRY_MAX: Duration = Duration::from_secs(30);
/// Greetings at a time, so that hundreds of dead contacts cost little.
const BURST: usize = 16;

#[derive(Debug)]
struct Contact {
    addr: SocketAddr,
    alive: bool,
    wait: Duration,
    next: Instant,
}

/// Seeds and once-known nodes.
#[derive(Debug)]
pub(crate) struct Contacts {
    nodes: BTreeMap<NodeId, Contact>,
    seeds: BTreeMap<SocketAddr, Contact>,
    /// Nobody is due before that: most of the time there is nothing to look for.
    quiet_until: Instant,
}

impl Contacts {
    pub(crate) fn new(seeds: &[SocketAddr], known: Vec<(NodeId, SocketAddr)>, now: Instant) -> Self {
        let contact = |addr| Contact { addr, alive: false, wait: RETRY_MIN, next: now };
        let nodes = known.into_iter().take(CONTACT_LIMIT).map(|(node, addr)| (node, contact(addr)));
        let seeds = seeds.iter().take(CONTACT_LIMIT).map(|addr| (*addr, contact(*addr)));
        Self { nodes: nodes.collect(), seeds: seeds.collect(), quiet_until: now }
    }

    /// `peer` is alive, at that address. Whether it is new here, or elsewhere than before.
    pub(crate) fn up(&mut self, peer: Peer, now: Instant) -> bool {
        let returned = self.nodes.get(&peer.node).is_some_and(|contact| !contact.alive);
        if returned {
            self.hurry(now);
        }
        self.make_room(peer.node);
        let contact = Contact { addr: peer.addr, alive: true, wait: RETRY_MIN, next: now };
        let before = self.nodes.insert(peer.node, contact);
        before.is_none_or(|before| before.addr != peer.addr)
    }

    /// `node` is dead: greet it from now on. One that left by its own wish is let go.
    pub(crate) fn down(&mut self, node: NodeId, left: bool, now: Instant) {
        if left {
            self.nodes.remove(&node);
        } else if let Some(contact) = self.nodes.get_mut(&node) {
            (contact.alive, contact.wait, contact.next) = (false, RETRY_MIN, now + RETRY_MIN);
            self.quiet_until = self.quiet_until.min(now + RETRY_MIN);
        }
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        if let Some(contact) = self.nodes.remove(&node) {
            self.seeds.remove(&contact.addr);
        }
    }

    pub(crate) fn add_seed(&mut self, addr: SocketAddr, now: Instant) {
        if self.seeds.len() < CONTACT_LIMIT {
            self.seeds.insert(addr, Contact { addr, alive: false, wait: RETRY_MIN, next: now });
            self.quiet_until = now;
        }
    }

    /// Every contact, for the next start of this node.
    pub(crate) fn known(&self) -> Vec<(NodeId, SocketAddr)> {
        self.nodes.iter().map(|(node, contact)| (*node, contact.addr)).collect()
    }

    /// When to ask [`Self::due`] again.
    pub(crate) fn next_deadline(&self) -> Instant {
        self.quiet_until
    }

    /// Whom to greet at `now`.
    pub(crate) fn due(&mut self, now: Instant, rng: &mut SmallRng) -> Vec<SocketAddr> {
        if now < self.quiet_until {
            return Vec::new();
        }
        let live: BTreeSet<SocketAddr> =
            self.nodes.values().filter(|contact| contact.alive).map(|contact| contact.addr).collect();
        let mut greeted = Vec::new();
        for contact in self.nodes.values_mut().chain(self.seeds.values_mut()) {
            if contact.alive || contact.next > now {
                continue;
            }
            if greeted.len() == BURST {
                contact.next = now + REST;
                continue;
            }
            // Within a quarter more or less, lest all nodes greet at once.
            contact.next = now + contact.wait.mul_f64(rng.random_range(0.75..1.25));
            contact.wait = (contact.wait * 2).min(RETRY_MAX);
            if !live.contains(&contact.addr) {
                greeted.push(contact.addr);
            }
        }
        let all = self.nodes.values().chain(self.seeds.values());
        let next = all.filter(|contact| !contact.alive).map(|contact| contact.next).min();
        self.quiet_until = next.unwrap_or(now + RETRY_MAX);
        greeted
    }

    fn hurry(&mut self, now: Instant) {
        for contact in self.nodes.values_mut().filter(|contact| !contact.alive) {
            (contact.wait, contact.next) = (RETRY_MIN, contact.next.min(now + RETRY_MIN));
        }
        self.quiet_until = self.quiet_until.min(now + RETRY_MIN);
    }

    fn make_room(&mut self, newcomer: NodeId) {
        if self.nodes.len() >= CONTACT_LIMIT && !self.nodes.contains_key(&newcomer) {
            let longest_dead = self.nodes.iter().filter(|(_, contact)| !contact.alive);
            if let Some(node) = longest_dead.max_by_key(|(_, contact)| contact.wait).map(|(node, _)| *node) {
                self.nodes.remove(&node);
            }
        }
    }
}

/// Between two bursts.
const REST: Duration = Duration::from_millis(100);
