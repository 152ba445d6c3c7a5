//! Who is alive: foca (SWIM, Das et al. 2002) finds and spreads suspicions, this decides.
//!
//! What foca does: probes a random member every [`PROBE_PERIOD`], directly and through others, tells the rest. What it
//! leaves to us is made stricter here, since at 30 % loss SWIM's own rule buries the living:
//!
//! - **Nobody dies on another's word.** A claim that a member is suspected or dead, whoever makes it, opens a suspicion
//!   here: the member is asked directly, again and again. Only if *we* then hear nothing from it for [`SUSPICION`] is it
//!   dead for us. So a node that was cut off, and buried everybody meanwhile, harms none when it returns.
//! - **Whoever speaks is alive.** Any authenticated datagram of any kind ends a suspicion, and makes foca forget that
//!   the sender was dead: the two find back to each other without a new identity.
//! - **Everything is said twice**, [`REPEAT_AFTER`] apart; the receiver drops the second of what came twice (the engine
//!   does both).
//!
//! A leaving node tells every member itself ([`Swim::leave`]); that is believed at once, because the sender is sealed in.
//! No socket, clock or chance in here: bytes and times in, bytes and deadlines out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foca::{
    Codec as _, Foca, Identity, Member, Message, NoCustomBroadcast, Notification, PeriodicParams, State,
    Timer,
};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use crate::id::{NodeId, Peer};
use crate::message::CONTENT_LIMIT;
use crate::swim_codec::{Claim, MEMBER_LIMIT, SwimCodec, View};

/// How often a member is probed. With [`SUSPICION`] it gives a detection in about two seconds at any size.
pub const PROBE_PERIOD: Duration = Duration::from_millis(300);
const PROBE_RTT: Duration = Duration::from_millis(100);
/// Silence that it takes to be dead, while being asked.
pub const SUSPICION: Duration = Duration::from_secs(1);
/// The same, when somebody else has already waited that long.
const CONFIRMATION: Duration = Duration::from_millis(500);
/// How often the suspected is asked. Each question and each answer goes twice, so at 30 % loss twelve questions stay
/// unanswered once in 10^9 suspicions.
const ASK_EVERY: Duration = Duration::from_millis(80);
/// How long after a datagram its second copy goes: apart enough to escape a short burst of losses.
pub const REPEAT_AFTER: Duration = Duration::from_millis(30);
/// How long the dead are remembered, so that old news of their being alive is not believed.
const REMEMBER_DEAD: Duration = Duration::from_secs(300);
/// Senders whose last datagram's time is kept. Who has the keys can invent senders; beyond it only members' stay.
const HEARD_LIMIT: usize = 2 * MEMBER_LIMIT;
/// Farthest that a life moves on anybody's word: 139 years of milliseconds, more than a clock is wrong by.
const LIFE_STEP: u64 = 1 << 42;
/// Shortest time between two lives that others cause.
const SUPERSEDE_EVERY: Duration = Duration::from_secs(1);
/// Times that each piece of news is passed on: enough for a thousand members (4 log10 n), at 30 % loss.
const TRANSMISSIONS: u8 = 15;

impl Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.saturating_add(1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.age() > adversary.age()
    }
}

/// What changed among the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Alive, and wasn't before. A second one for the same node: at another address or in another life.
    Up(Peer),
    /// Dead, or gone by its own wish.
    Down { peer: Peer, left: bool },
}

/// Why a SWIM datagram had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Malformed,
    /// It speaks for another node than the one that sealed it, or for us.
    Impostor,
    /// Of a node that has left.
    Left,
}

/// To be sent to a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Say {
    Swim(Peer, Vec<u8>),
    /// Are you there? You are suspected at that incarnation.
    Ask(Peer, u16),
}

#[derive(Debug)]
struct Suspicion {
    peer: Peer,
    incarnation: u16,
    since: Instant,
    until: Instant,
    next_question: Instant,
}

/// Collects what foca wants, in the order it says so.
#[derive(Default)]
struct Wishes {
    sends: Vec<(Peer, Vec<u8>)>,
    timers: Vec<(Timer<Peer>, Duration)>,
    news: Vec<Change>,
}

enum Change {
    Up(Peer),
    Down(Peer),
    Rename(Peer, Peer),
}

impl foca::Runtime<Peer> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::MemberUp(peer) => self.news.push(Change::Up(*peer)),
            Notification::MemberDown(peer) => self.news.push(Change::Down(*peer)),
            Notification::Rename(before, after) => self.news.push(Change::Rename(*before, *after)),
            // About ourselves; our own view follows from the members'.
            _ => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Peer>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// The state machine of liveness.
pub(crate) struct Swim {
    foca: Foca<Peer, SwimCodec, SmallRng, NoCustomBroadcast>,
    codec: SwimCodec,
    view: Arc<Mutex<View>>,
    timers: BTreeMap<(Instant, u64), Timer<Peer>>,
    timer_count: u64,
    heard: HashMap<NodeId, Instant>,
    suspicions: BTreeMap<NodeId, Suspicion>,
    superseded: Option<Instant>,
    says: Vec<Say>,
    news: Vec<News>,
}

impl std::fmt::Debug for Swim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swim").field("me", self.foca.identity()).finish_non_exhaustive()
    }
}

impl Swim {
    pub(crate) fn new(me: Peer, seed: u64) -> Self {
        let view = Arc::new(Mutex::new(View::new(me)));
        let codec = SwimCodec::new(Arc::clone(&view));
        let foca = Foca::new(me, config(), SmallRng::seed_from_u64(seed), codec.clone());
        Self {
            foca,
            codec,
            view,
            timers: BTreeMap::new(),
            timer_count: 0,
            heard: HashMap::new(),
            suspicions: BTreeMap::new(),
            superseded: None,
            says: Vec::new(),
            news: Vec::new(),
        }
    }

    pub(crate) fn me(&self) -> Peer {
        *self.foca.identity()
    }

    /// Live members, without ourselves.
    pub(crate) fn members(&self) -> Vec<Peer> {
        let mut members: Vec<Peer> = self.view().active.iter().copied().collect();
        members.sort_unstable_by_key(|peer| peer.node);
        members
    }

    pub(crate) fn says(&mut self) -> std::vec::Drain<'_, Say> {
        self.says.drain(..)
    }

    pub(crate) fn news(&mut self) -> std::vec::Drain<'_, News> {
        self.news.drain(..)
    }

    /// When something was last heard from `node`.
    pub(crate) fn last_heard(&self, node: NodeId) -> Option<Instant> {
        self.heard.get(&node).copied()
    }

    /// An authenticated datagram of `node` arrived: it lives.
    pub(crate) fn hear(&mut self, now: Instant, node: NodeId) {
        if self.heard.len() >= HEARD_LIMIT && !self.heard.contains_key(&node) {
            let active: HashSet<NodeId> = self.view().active.iter().map(|peer| peer.node).collect();
            self.heard.retain(|node, _| active.contains(node));
        }
        self.heard.insert(node, now);
        self.suspicions.remove(&node);
    }

    /// Bytes of foca's, sealed by `sender`.
    pub(crate) fn handle(&mut self, now: Instant, sender: NodeId, bytes: &[u8]) -> Result<(), Refused> {
        let header = self.codec.decode_header(bytes).map_err(|_| Refused::Malformed)?;
        if header.src.node != sender || sender == self.me().node {
            return Err(Refused::Impostor);
        }
        if self.has_left(&header.src) {
            return Err(Refused::Left);
        }
        if header.message == Message::TurnUndead {
            // We never send it: see the second rule above. Obeyed, it would be a way to make others change identity.
            return Ok(());
        }
        self.revive(now, header.src);
        let result = self.with(now, |foca, wishes| foca.handle_data(bytes, wishes));
        let claims = std::mem::take(&mut self.view().claims);
        claims.into_iter().for_each(|claim| self.weigh(now, claim));
        result.map_err(|_| Refused::Malformed)
    }

    /// `peer` says itself that it is there: becomes acquainted with it.
    pub(crate) fn introduce(&mut self, now: Instant, peer: Peer) {
        if peer.node == self.me().node || self.has_left(&peer) || self.view().active.contains(&peer) {
            return;
        }
        self.revive(now, peer);
        self.with(now, |foca, wishes| foca.announce(peer, wishes)).ok();
    }

    /// Answers a question whether we, as `about`, are there: with who we are and our incarnation, which is now beyond
    /// the suspected one.
    pub(crate) fn answer(&mut self, now: Instant, about: Peer, incarnation: u16) -> (Peer, u16) {
        if about == self.me() && incarnation >= self.view().incarnation {
            let suspected = Member::new(about, incarnation, State::Suspect);
            self.apply(now, suspected);
        }
        (self.me(), self.view().incarnation)
    }

    /// The answer to our question: `peer` is there, at that incarnation.
    pub(crate) fn answered(&mut self, now: Instant, peer: Peer, incarnation: u16) {
        if !self.has_left(&peer) && peer.node != self.me().node {
            self.apply(now, Member::new(peer, incarnation, State::Alive));
        }
    }

    /// Declares ourselves gone; who must be told.
    pub(crate) fn leave(&mut self, now: Instant) -> Vec<Peer> {
        let members = self.members();
        self.with(now, |foca, wishes| foca.leave_cluster(wishes)).ok();
        members
    }

    /// `peer` has said itself that it leaves.
    pub(crate) fn handle_leave(&mut self, now: Instant, peer: Peer) {
        self.view().note_left(&peer);
        self.apply(now, Member::new(peer, 0, State::Down));
    }

    /// We are reached at `addr` from now on.
    pub(crate) fn readdress(&mut self, now: Instant, addr: SocketAddr) {
        let me = self.me();
        let next = Peer { addr, renewal: me.renewal.saturating_add(1), ..me };
        self.become_peer(now, next);
    }

    /// Somebody knows a later one of us than we are, or one that has left: our clock was behind when we started.
    /// Become later than that; by [`LIFE_STEP`] and every [`SUPERSEDE_EVERY`] at most, lest a liar use up all numbers.
    /// Who is right will say so again. Whether we are another now.
    pub(crate) fn supersede(&mut self, now: Instant, life: u64) -> bool {
        let me = self.me();
        if life < me.life || self.superseded.is_some_and(|at| now < at + SUPERSEDE_EVERY) {
            return false;
        }
        self.superseded = Some(now);
        let life = life.saturating_add(1).min(me.life.saturating_add(LIFE_STEP));
        self.become_peer(now, Peer { life, renewal: 0, ..me });
        true
    }

    fn become_peer(&mut self, now: Instant, next: Peer) {
        self.view().me = next;
        self.with(now, |foca, wishes| foca.change_identity(next, wishes)).ok();
        for member in self.members() {
            self.with(now, |foca, wishes| foca.announce(member, wishes)).ok();
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let question =
            self.suspicions.values().map(|suspicion| suspicion.next_question.min(suspicion.until)).min();
        timer.into_iter().chain(question).min()
    }

    /// Everything due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let timer = entry.remove();
            self.with(now, |foca, wishes| foca.handle_timer(timer, wishes)).ok();
        }
        let mut dead = Vec::new();
        for suspicion in self.suspicions.values_mut() {
            if suspicion.until <= now {
                dead.push((suspicion.peer, suspicion.incarnation));
            } else if suspicion.next_question <= now {
                suspicion.next_question = now + ASK_EVERY;
                self.says.push(Say::Ask(suspicion.peer, suspicion.incarnation));
            }
        }
        for (peer, incarnation) in dead {
            self.suspicions.remove(&peer.node);
            self.apply(now, Member::new(peer, incarnation, State::Down));
        }
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_left(&self, peer: &Peer) -> bool {
        self.view().has_left(peer)
    }

    /// Makes foca forget that `peer` is dead, if it thinks so.
    fn revive(&mut self, now: Instant, peer: Peer) {
        if !self.view().active.contains(&peer) {
            self.with(now, |foca, wishes| foca.handle_timer(Timer::RemoveDown(peer), wishes)).ok();
        }
    }

    fn apply(&mut self, now: Instant, member: Member<Peer>) {
        self.with(now, |foca, wishes| foca.apply_many(std::iter::once(member), true, wishes)).ok();
    }

    /// Opens or shortens a suspicion.
    fn weigh(&mut self, now: Instant, claim: Claim) {
        let Claim { peer, incarnation, dead } = claim;
        if peer.node == self.me().node {
            if peer.age() > self.me().age() {
                self.supersede(now, peer.life);
            }
            return;
        }
        if !self.view().active.contains(&peer) {
            return;
        }
        let until = now + if dead { CONFIRMATION } else { SUSPICION };
        let suspicion = self.suspicions.entry(peer.node).or_insert(Suspicion {
            peer,
            incarnation,
            since: now,
            until,
            next_question: now,
        });
        suspicion.incarnation = suspicion.incarnation.max(incarnation);
        suspicion.until = suspicion.until.min(until).max(suspicion.since + CONFIRMATION);
    }

    /// Calls foca and carries out what it wishes.
    fn with(
        &mut self,
        now: Instant,
        call: impl FnOnce(
            &mut Foca<Peer, SwimCodec, SmallRng, NoCustomBroadcast>,
            &mut Wishes,
        ) -> Result<(), foca::Error>,
    ) -> Result<(), foca::Error> {
        let mut wishes = Wishes::default();
        let result = call(&mut self.foca, &mut wishes);
        let me = self.me();
        let known = self.foca.iter_membership_state().len();
        {
            let mut view = self.view();
            view.me = me;
            view.known = known;
        }
        self.says.extend(wishes.sends.into_iter().map(|(to, bytes)| Say::Swim(to, bytes)));
        wishes.news.into_iter().for_each(|change| self.note(change));
        for (timer, after) in wishes.timers {
            if let Timer::ChangeSuspectToDown { member_id: peer, incarnation, .. } = timer {
                // foca's own verdict is not carried out: ours is.
                self.weigh(now, Claim { peer, incarnation, dead: false });
            } else {
                self.timer_count += 1;
                self.timers.insert((now + after, self.timer_count), timer);
            }
        }
        result
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Up(peer) => {
                self.view().active.insert(peer);
                self.news.push(News::Up(peer));
            }
            Change::Down(peer) => {
                self.view().active.remove(&peer);
                self.suspicions.remove(&peer.node);
                let left = self.has_left(&peer);
                self.news.push(News::Down { peer, left });
            }
            Change::Rename(before, after) => {
                self.suspicions.remove(&before.node);
                let was_active = self.view().active.remove(&before);
                if was_active {
                    self.view().active.insert(after);
                    self.news.push(News::Up(after));
                }
            }
        }
    }
}

fn config() -> foca::Config {
    let size = |n: usize| NonZeroUsize::new(n).expect("not zero");
    foca::Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: size(3),
        max_transmissions: NonZeroU8::new(TRANSMISSIONS).expect("not zero"),
        suspect_to_down_after: SUSPICION,
        remove_down_after: Some(REMEMBER_DEAD),
        max_packet_size: size(CONTENT_LIMIT),
        notify_down_members: false,
        periodic_announce: Some(PeriodicParams { frequency: Duration::from_secs(10), num_members: size(1) }),
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: Duration::from_millis(200), num_members: size(3) }),
    }
}

#[cfg(test)]
mod tests;
