//! A whole node without its socket: datagrams, times and changes in; datagrams, deadlines and events out.
//!
//! The driver ([`crate::Gossip`]) and the simulation both do the same: hand over what arrived or is due, then
//! [`Engine::drain`] what is to be done about it. Other files hold how records are carried and compared (`exchange.rs`),
//! how messages leave (`sending.rs`), what can be asked (`reading.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::cluster::{Merged, Record, Registers, Signer, Verifier};
use crate::codec::{self, DecodeError};
use crate::contacts::Contacts;
use crate::digest::{Index, hash};
use crate::id::{NodeId, Now, Peer, TableId};
use crate::message::{KIND_MESSAGE, KIND_SWIM, Message, Transmit};
use crate::neighbour::Neighbour;
use crate::owned::{self, Log, SetError};
use crate::path::ANSWER_WITHIN;
use crate::swim::{News, Refused, Say, Swim};
use crate::swim_codec::MEMBER_LIMIT;

pub use crate::report::{Changed, Event, Output, Rejected};

/// How often a node compares its tables with another's, on average.
pub const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// Second copies are dropped that come within this time of the first.
const DUPLICATE_WITHIN: Duration = Duration::from_millis(150);
/// Datagrams remembered for that.
const DUPLICATE_LIMIT: usize = 4096;
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// Messages taken from one bulk transfer.
const MESSAGES_PER_BULK: usize = 100_000;

/// What a node starts with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who we are, in which life, and where others reach us.
    pub me: Peer,
    /// Addresses of anybody in the cluster.
    pub seeds: Vec<SocketAddr>,
    /// Chance: any number that isn't the same everywhere.
    pub random: u64,
}

/// What a node keeps on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) records: Vec<Record>,
    pub(crate) contacts: Vec<(NodeId, SocketAddr)>,
}

/// The state machine of a node.
pub struct Engine {
    pub(crate) swim: Swim,
    pub(crate) contacts: Contacts,
    pub(crate) log: Log,
    pub(crate) registers: Registers,
    pub(crate) index: Index,
    /// Keys by their hashes, of all that is in the index.
    pub(crate) keys: BTreeMap<(TableId, u64), String>,
    pub(crate) neighbours: BTreeMap<NodeId, Neighbour>,
    pub(crate) out: Output,
    pub(crate) authority: Authority,
    /// Somebody may lack some of our own records that were never sent to it.
    pub(crate) unsent: bool,
    /// No earlier is a record of ours to be sent again.
    pub(crate) next_retry: Option<Instant>,
    pub(crate) delayed: VecDeque<(Instant, Transmit)>,
    recent: VecDeque<(Instant, u64)>,
    rng: SmallRng,
    /// Number of the last [`Message::Ping`].
    pub(crate) question: u32,
    next_question: Instant,
    next_compare: Instant,
    next_expiry: Instant,
    pub(crate) dirty: bool,
    /// Cluster records of others.
    pub(crate) refused: u64,
    /// No records that we lack are wanted until then, unless there is room again.
    pub(crate) full_until: Option<Instant>,
    gone: bool,
}

/// Who signs here, and how signatures are checked.
#[derive(Clone)]
pub struct Authority {
    /// Ours.
    pub signer: Arc<dyn Signer>,
    /// Everybody's.
    pub verifier: Arc<dyn Verifier>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let neighbours = self.neighbours.len();
        f.debug_struct("Engine")
            .field("me", &self.me())
            .field("neighbours", &neighbours)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// A node that knows nobody yet. `saved` is what [`Self::snapshot`] gave in an earlier life.
    ///
    /// # Errors
    /// If `saved` is not a snapshot.
    pub fn new(
        settings: Settings,
        authority: Authority,
        saved: Option<&[u8]>,
        now: Now,
    ) -> Result<Self, DecodeError> {
        let saved: Snapshot = saved.map_or_else(|| Ok(Snapshot::default()), codec::decode)?;
        let Settings { me, seeds, random } = settings;
        let seeds: Vec<SocketAddr> = seeds.into_iter().filter(|seed| *seed != me.addr).collect();
        let mut rng = SmallRng::seed_from_u64(random ^ 1);
        let mut engine = Self {
            swim: Swim::new(me, random),
            contacts: Contacts::new(&seeds, saved.contacts, now.at),
            log: Log::new(me.life),
            registers: Registers::default(),
            index: Index::default(),
            keys: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            out: Output::default(),
            authority,
            unsent: false,
            next_retry: None,
            delayed: VecDeque::new(),
            recent: VecDeque::new(),
            question: rng.random(),
            next_question: now.at + ANSWER_WITHIN.mul_f64(rng.random_range(0.0..1.0)),
            rng,
            next_compare: now.at,
            next_expiry: now.at + EXPIRE_EVERY,
            dirty: false,
            refused: 0,
            full_until: None,
            gone: false,
        };
        for record in saved.records {
            let verifier = engine.authority.verifier.as_ref();
            if engine.registers.restore(record.clone(), verifier) == Merged::New {
                engine.show_register(&record);
            } else {
                engine.refused += 1;
            }
        }
        Ok(engine)
    }

    /// We, as the others see us.
    pub fn me(&self) -> Peer {
        self.swim.me()
    }

    /// Whether the snapshot has changed since this was last asked.
    pub fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// Cluster records and contacts, for the next life.
    pub fn snapshot(&self) -> Vec<u8> {
        let records = self.registers.records().cloned().collect();
        codec::encode(&Snapshot { records, contacts: self.contacts.known() })
    }

    /// A datagram that `sender` has sealed, opened: its type byte and content. `from` is where it came from.
    ///
    /// # Errors
    /// [`Rejected`] says why it had no effect, or not all of it.
    pub fn handle_datagram(
        &mut self,
        now: Now,
        (sender, from): (NodeId, SocketAddr),
        kind: u8,
        bytes: &[u8],
    ) -> Result<(), Rejected> {
        if sender == self.me().node {
            return Err(Rejected::Own);
        }
        if self.gone {
            return Err(Rejected::Stranger);
        }
        self.swim.hear(now.at, sender);
        if self.is_duplicate(now.at, sender, bytes) {
            return Err(Rejected::Duplicate);
        }
        let result = match kind {
            KIND_SWIM => self.swim.handle(now.at, sender, bytes).map_err(|refused| match refused {
                Refused::Malformed => Rejected::Swim,
                Refused::Impostor => Rejected::Impostor,
                Refused::Left => Rejected::Stranger,
            }),
            KIND_MESSAGE => self.handle_message(now, sender, from, codec::decode(bytes)?),
            other => Err(Rejected::Kind(other)),
        };
        self.absorb(now.at);
        result
    }

    /// What `sender` sent in bulk, over a connection that proves who it is.
    ///
    /// # Errors
    /// As [`Self::handle_datagram`]; what preceded the fault has had its effect.
    pub fn handle_bulk(&mut self, now: Now, sender: NodeId, bytes: &[u8]) -> Result<(), Rejected> {
        if sender == self.me().node {
            return Err(Rejected::Own);
        }
        let messages: Vec<Message> = codec::decode(bytes)?;
        let Some(from) = self.neighbours.get(&sender).map(|neighbour| neighbour.peer.addr) else {
            return Err(Rejected::Stranger);
        };
        self.swim.hear(now.at, sender);
        for message in messages.into_iter().take(MESSAGES_PER_BULK) {
            self.handle_message(now, sender, from, message)?;
        }
        self.absorb(now.at);
        Ok(())
    }

    fn handle_message(
        &mut self,
        now: Now,
        sender: NodeId,
        from: SocketAddr,
        message: Message,
    ) -> Result<(), Rejected> {
        let speaks_for = |peer: &Peer| if peer.node == sender { Ok(()) } else { Err(Rejected::Impostor) };
        match message {
            Message::Hello { me, answer } => {
                speaks_for(&me)?;
                self.handle_hello(now.at, me, answer);
            }
            Message::Past { yours, known } => {
                if yours == self.me().life && self.swim.supersede(now.at, known) {
                    let hello = Message::Hello { me: self.me(), answer: false };
                    self.say_twice(now.at, from, &hello);
                }
            }
            Message::Ask { you, incarnation } => {
                let (me, incarnation) = self.swim.answer(now.at, you, incarnation);
                self.say_twice(now.at, from, &Message::Here { me, incarnation });
            }
            Message::Here { me, incarnation } => {
                speaks_for(&me)?;
                self.swim.answered(now.at, me, incarnation);
            }
            Message::Leave { me } => {
                speaks_for(&me)?;
                self.swim.handle_leave(now.at, me);
            }
            Message::Ping { number } => self.answer_ping(from, number),
            Message::Pong { number } => self.take_pong(now.at, sender, number),
            exchanged => self.handle_exchange(now, sender, exchanged)?,
        }
        Ok(())
    }

    /// Becomes acquainted with who says hello, unless that life of it is over: a node that was started with a clock set
    /// back is told so, and returns in a life past the one known here.
    fn handle_hello(&mut self, now: Instant, peer: Peer, answer: bool) {
        let known = self.neighbours.get(&peer.node).map(|neighbour| (neighbour.peer.life, neighbour.left));
        let over = |(life, left): &(u64, bool)| *life > peer.life || (*left && *life == peer.life);
        if let Some((known, _)) = known.filter(over) {
            self.say_twice(now, peer.addr, &Message::Past { yours: peer.life, known });
            return;
        }
        self.swim.introduce(now, peer);
        if !answer {
            let hello = Message::Hello { me: self.me(), answer: true };
            self.say_twice(now, peer.addr, &hello);
        }
    }

    /// Everything due at `now`.
    pub fn handle_timeout(&mut self, now: Now) {
        while self.delayed.front().is_some_and(|(at, _)| *at <= now.at) {
            self.out.transmits.extend(self.delayed.pop_front().map(|(_, transmit)| transmit));
        }
        if self.gone {
            return;
        }
        self.swim.handle_timeout(now.at);
        let hello = Message::Hello { me: self.me(), answer: false };
        for addr in self.contacts.due(now.at, &mut self.rng) {
            self.say_twice(now.at, addr, &hello);
        }
        if self.next_compare <= now.at {
            self.next_compare = now.at + COMPARE_EVERY.mul_f64(self.rng.random_range(0.75..1.25));
            self.compare_with_next(now.at);
        }
        if self.next_question <= now.at {
            self.next_question = self.ask_next(now.at);
        }
        if self.next_expiry <= now.at {
            self.next_expiry = now.at + EXPIRE_EVERY;
            self.expire(now);
        }
        self.absorb(now.at);
    }

    /// When [`Self::handle_timeout`] is next due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let delayed = self.delayed.front().map(|(at, _)| *at);
        if self.gone {
            return delayed;
        }
        let deadlines = [delayed, self.next_retry, self.swim.next_deadline()].into_iter().flatten();
        let regular = [self.next_compare, self.next_question, self.next_expiry];
        deadlines.chain(regular).chain([self.contacts.next_deadline()]).min()
    }

    /// What is to be done; to be asked for after every call that takes `&mut self`.
    pub fn drain(&mut self, now: Now) -> Output {
        if !self.gone {
            self.absorb(now.at);
            self.push_own(now.at);
        }
        std::mem::take(&mut self.out)
    }

    /// Sets a record of our own, or deletes it with `None`.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn set_owned(&mut self, table: TableId, key: &str, value: Option<Vec<u8>>) -> Result<(), SetError> {
        let name = (table, key.to_owned());
        let shared: Option<Arc<[u8]>> = value.clone().map(Into::into);
        if self.log.set(table, key, value)? {
            self.unsent = true;
            let me = self.me().node;
            let version = self.log.version();
            let item = owned::item(me, self.log.life, &name, version);
            self.show(name, Some(me), item, shared);
        }
        Ok(())
    }

    /// Writes a cluster record, or deletes it with `None`, and tells everybody.
    ///
    /// # Errors
    /// [`SetError`]; nothing has changed then.
    pub fn set_cluster(
        &mut self,
        now: Now,
        table: TableId,
        key: &str,
        value: Option<Vec<u8>>,
    ) -> Result<(), SetError> {
        let signer = Arc::clone(&self.authority.signer);
        let writer = (self.me().node, signer.as_ref());
        let record = self.registers.write((table, key.to_owned()), value, writer, now.wall_ms)?;
        self.show_register(&record);
        self.dirty = true;
        self.spread(now.at, &record);
        Ok(())
    }

    /// Leaves the cluster; afterwards only what [`Self::drain`] and [`Self::handle_timeout`] give is still to be sent.
    pub fn leave(&mut self, now: Now) {
        let members = self.swim.leave(now.at);
        let leave = Message::Leave { me: self.me() };
        members.iter().for_each(|peer| self.say_twice(now.at, peer.addr, &leave));
        self.absorb(now.at);
        self.gone = true;
    }

    /// We are reached at `addr` from now on; everybody is told.
    pub fn readdress(&mut self, now: Now, addr: SocketAddr) {
        self.swim.readdress(now.at, addr);
        self.absorb(now.at);
    }

    /// Greets `addr`, for ever if need be.
    pub fn add_seed(&mut self, now: Now, addr: SocketAddr) {
        self.contacts.add_seed(addr, now.at);
    }

    /// Dials `node` no more, drops what it said, and believes nobody that it is alive. Its own datagrams are the
    /// sealing's business: one that is still let in comes back with its next life.
    pub fn forget(&mut self, now: Now, node: NodeId) {
        if let Some(peer) = self.neighbours.get(&node).map(|neighbour| neighbour.peer) {
            self.swim.handle_leave(now.at, peer);
            self.absorb(now.at);
        }
        self.contacts.forget(node);
        self.neighbours.remove(&node);
        self.dirty = true;
    }

    /// Carries out what the machine of liveness has found.
    fn absorb(&mut self, now: Instant) {
        let says: Vec<Say> = self.swim.says().collect();
        for say in says {
            match say {
                Say::Swim(to, bytes) => {
                    self.transmit_twice(now, Transmit { to: to.addr, kind: KIND_SWIM, bytes })
                }
                Say::Ask(you, incarnation) => {
                    self.say_twice(now, you.addr, &Message::Ask { you, incarnation })
                }
            }
        }
        let news: Vec<News> = self.swim.news().collect();
        for news in news {
            match news {
                News::Up(peer) => self.note_up(now, peer),
                News::Down { peer, left } => self.note_down(now, peer, left),
            }
        }
        if self.me().life != self.log.life {
            self.begin_life();
        }
    }

    fn note_up(&mut self, now: Instant, peer: Peer) {
        self.dirty |= self.contacts.up(peer, now);
        self.make_room();
        let neighbour = self.neighbours.entry(peer.node).or_insert_with(|| Neighbour::new(peer, now));
        let returned = neighbour.up(peer, now);
        if returned && self.neighbours.values().filter(|neighbour| neighbour.alive).take(2).count() == 1 {
            // We were alone: what the others know is news.
            self.next_compare = now;
        }
        self.unsent = true;
        self.out.events.push(Event::Up(peer));
        if peer.life > self.neighbours[&peer.node].mirror.life {
            self.end_life_of(peer.node, peer.life, !returned);
        } else if returned {
            self.reveal(peer.node);
        }
    }

    fn note_down(&mut self, now: Instant, peer: Peer, left: bool) {
        self.contacts.down(peer.node, left, now);
        self.dirty |= left;
        if self.neighbours.get_mut(&peer.node).is_some_and(|neighbour| neighbour.down(left, now)) {
            self.hide(peer.node);
            self.out.events.push(Event::Down { node: peer.node, left });
        }
    }

    /// The longest dead makes room for a newcomer.
    fn make_room(&mut self) {
        if self.neighbours.len() >= MEMBER_LIMIT {
            let dead = self.neighbours.values().filter(|neighbour| !neighbour.alive);
            if let Some(node) = dead.min_by_key(|neighbour| neighbour.since).map(|dead| dead.peer.node) {
                self.neighbours.remove(&node);
            }
        }
    }

    fn is_duplicate(&mut self, now: Instant, sender: NodeId, bytes: &[u8]) -> bool {
        while self.recent.front().is_some_and(|(at, _)| *at + DUPLICATE_WITHIN < now) {
            self.recent.pop_front();
        }
        let mark = hash(&[&sender.0, bytes]);
        if self.recent.iter().any(|(_, recent)| *recent == mark) {
            return true;
        }
        if self.recent.len() < DUPLICATE_LIMIT {
            self.recent.push_back((now, mark));
        }
        false
    }
}
