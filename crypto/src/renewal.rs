//! When the data keys of a pair of nodes are renewed, and in which order, so that no datagram is lost.
//!
//! One [`Renewal`] for each peer. It holds session numbers, not keys: the caller has a [`crate::seal::Sealer`] and
//! [`crate::open::Opener`] for each, and does what [`Renewal::poll`] says. Time is that of any clock that does not
//! jump, as a duration since whenever.
//!
//! Make before break, over a connection to the peer (TCP 7946):
//!
//! ```text
//!   asks                                   answers
//!    |--- renew: my number for what I receive -->|  installs its new opener, and then
//!    |<-- done: my number for what I receive ----|  answers; still seals with the old key
//!    installs its new opener and sealer          |
//!    |--- confirm ------------------------------>|  seals with the new key
//!    |=== first datagram under the new key =====>|  (or then, if it comes first)
//! ```
//!
//! So nobody seals with a key before the other end can open it. What can be opened stays so at least until something
//! newer is heard, or the peer says that it has gone over, and then until it has not been heard for [`GRACE`]:
//! datagrams on their way, and an end that stays with an old key because the connection broke, lose nothing, however
//! long both are silent.
//!
//! Both ends may ask. For keys to have one order at both, the end with the smaller node id does not answer while it
//! waits for an answer itself, and the other gives its own question up ([`Renewal::may_answer`]); the other
//! also waits [`YIELD`] longer, so that this is seldom.

use std::collections::VecDeque;
use std::time::Duration;

use crate::envelope::SessionId;
use crate::seal::SEALS_RENEW;

/// How long a key is used: as long as a group key ([`crate::keyring::ROTATION`]).
pub const LIFE: Duration = crate::keyring::ROTATION;
/// How much longer the end with the larger node id waits for the other to ask.
pub const YIELD: Duration = Duration::from_secs(60);
/// How long an opener is kept after a newer one was heard, or after it was last heard itself if that is later: longer
/// than a datagram is on its way.
pub const GRACE: Duration = Duration::from_secs(30);
/// How long after a failure to ask again: from the first, doubled up to the second.
pub const RETRY: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];
/// How long to wait for an answer.
pub const ANSWER: Duration = Duration::from_secs(10);
/// Openers of one peer, old and new. Were keys renewed oftener than every four seconds, there would be more; so then
/// the next renewal waits until one has been idle for [`GRACE`].
pub const OPENERS_MAX: usize = 8;

/// What the caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the peer for new keys; then [`Renewal::handle_agreed`] or [`Renewal::handle_failed`].
    Ask,
    /// Seal with the key of this session from here on, and forget the one before.
    Seal(SessionId),
    /// Forget the opener of this session.
    Forget(SessionId),
}

/// Which end of an agreement we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We asked and have the answer: the peer has its opener.
    Asked,
    /// We answer: the peer has not its opener yet.
    Answered,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    session: SessionId,
    heard: bool,
    /// When a newer one was heard, or it was last heard if that is later; `None` until a newer one is.
    idle_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Not before this.
    At(Duration),
    /// Asked; no answer until this is a failure.
    Until(Duration),
}

/// A peer's data keys, as numbers.
#[derive(Debug)]
pub struct Renewal {
    first: bool,
    life: Duration,
    /// What we seal with.
    sealing: Option<SessionId>,
    /// What we may seal with once the peer has its opener: its number for it, and ours for what it then sends.
    waiting: Option<(SessionId, SessionId)>,
    /// Newest last.
    openers: VecDeque<Kept>,
    asking: Asking,
    retry: Duration,
    actions: VecDeque<Action>,
}

impl Renewal {
    /// For a peer with which there are no keys yet: some are due at once, if we are the end that asks first, which
    /// is the one with the smaller node id, or else after [`YIELD`].
    #[must_use]
    pub fn new(first: bool, now: Duration) -> Self {
        let wait = if first { Duration::ZERO } else { YIELD };
        Self {
            first,
            life: LIFE + wait,
            sealing: None,
            waiting: None,
            openers: VecDeque::new(),
            asking: Asking::At(now + wait),
            retry: RETRY[0],
            actions: VecDeque::new(),
        }
    }

    /// Keys are due now: the peer has come back, an operator wants it, or a network needs it.
    pub fn handle_due(&mut self, now: Duration) {
        if let Asking::At(at) = &mut self.asking {
            *at = now.min(*at);
        }
    }

    /// Whether to answer a peer that asks; if not, refuse: we are just asking it, and it will answer us, or there have
    /// been too many renewals of late.
    #[must_use]
    pub fn may_answer(&self) -> bool {
        let asking = self.first && matches!(self.asking, Asking::Until(_));
        !asking && !self.full()
    }

    /// Whether another opener has to wait for one that is about to go.
    fn full(&self) -> bool {
        self.openers.len() >= OPENERS_MAX && self.openers.iter().any(|kept| kept.idle_since.is_some())
    }

    /// There are keys; `send` is the peer's number, `receive` ours, whose opener the caller has installed. On
    /// [`Side::Answered`] this comes before the answer is sent.
    ///
    /// False if it is the answer to a question that we have given up: then the caller forgets the opener again, and
    /// does not confirm.
    #[must_use]
    pub fn handle_agreed(&mut self, send: SessionId, receive: SessionId, side: Side, now: Duration) -> bool {
        if side == Side::Asked && !matches!(self.asking, Asking::Until(_)) {
            return false;
        }
        self.openers.push_back(Kept { session: receive, heard: false, idle_since: None });
        if self.openers.len() > OPENERS_MAX {
            self.forget_most_idle();
        }
        self.asking = Asking::At(now + self.life);
        self.retry = RETRY[0];
        match side {
            Side::Asked => self.seal_with(send),
            Side::Answered => self.waiting = Some((send, receive)),
        }
        true
    }

    /// The peer has confirmed that it opens what we seal with this session, and seals with the keys itself.
    pub fn handle_confirmed(&mut self, send: SessionId, now: Duration) {
        if let Some((_, receive)) = self.waiting.filter(|&(waiting, _)| waiting == send) {
            self.handle_heard(receive, now);
        }
    }

    /// Something was opened with this session. Call it as often as there is something to tell: at least every few
    /// seconds for each session in use, and soon for one that was not in use before.
    pub fn handle_heard(&mut self, receive: SessionId, now: Duration) {
        let Some(place) = self.openers.iter().position(|kept| kept.session == receive) else { return };
        let kept = &mut self.openers[place];
        kept.idle_since = kept.idle_since.map(|since| since.max(now));
        if !std::mem::replace(&mut kept.heard, true) {
            for older in self.openers.range_mut(..place) {
                older.idle_since.get_or_insert(now);
            }
        }
        // Who seals with the new keys has both.
        if let Some((send, _)) = self.waiting.filter(|&(_, waiting)| waiting == receive) {
            self.seal_with(send);
        }
    }

    /// So many datagrams have been sealed with the current key ([`crate::seal::Sealer::used`]).
    pub fn handle_used(&mut self, used: u64, now: Duration) {
        if used >= SEALS_RENEW {
            self.handle_due(now);
        }
    }

    /// There was no agreement: no connection, no answer, or a refusal. What is in use stays so.
    pub fn handle_failed(&mut self, now: Duration) {
        if let Asking::Until(_) = self.asking {
            self.asking = Asking::At(now + self.retry);
            self.retry = (self.retry * 2).min(RETRY[1]);
        }
    }

    /// Time has passed, perhaps to [`Self::next_deadline`].
    pub fn handle_time(&mut self, now: Duration) {
        let actions = &mut self.actions;
        self.openers.retain(|kept| {
            let keep = kept.idle_since.is_none_or(|since| now < since + GRACE);
            if !keep {
                actions.push_back(Action::Forget(kept.session));
            }
            keep
        });
        match self.asking {
            Asking::Until(until) if now >= until => self.handle_failed(now),
            Asking::At(at) if now >= at && !self.full() => {
                self.asking = Asking::Until(now + ANSWER);
                self.actions.push_back(Action::Ask);
            }
            Asking::At(_) | Asking::Until(_) => {}
        }
    }

    /// What to do next, if anything.
    pub fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_time`].
    #[must_use]
    pub fn next_deadline(&self) -> Duration {
        let idle = self.openers.iter().filter_map(|kept| kept.idle_since).map(|since| since + GRACE).min();
        match (self.asking, idle) {
            (Asking::At(_), Some(idle)) if self.full() => idle,
            (Asking::At(asking) | Asking::Until(asking), idle) => {
                idle.map_or(asking, |idle| idle.min(asking))
            }
        }
    }

    /// What we seal with: the peer's number for it.
    #[must_use]
    pub fn sealing(&self) -> Option<SessionId> {
        self.sealing
    }

    fn seal_with(&mut self, send: SessionId) {
        self.waiting = None;
        self.sealing = Some(send);
        self.actions.push_back(Action::Seal(send));
    }

    fn forget_most_idle(&mut self) {
        let idle =
            self.openers.iter().enumerate().filter_map(|(place, kept)| Some((kept.idle_since?, place)));
        // If none is, nothing was heard since the oldest.
        let place = idle.min().map_or(0, |(_, place)| place);
        self.actions.extend(self.openers.remove(place).map(|kept| Action::Forget(kept.session)));
    }
}

#[cfg(test)]
mod tests;
