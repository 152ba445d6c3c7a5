//! The state machine of one path: what goes out, what comes back, and what follows from it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mtu::Search;
use super::rtt::Rtt;
use super::{PathChange, PathReport, PathState, ProbeConfig};
use crate::vtep::VtepId;
use crate::wire::probe::{HEADER_LEN, Operation, Probe};

/// Echoes that are remembered: a minute of them, over which loss is counted.
pub const WINDOW: usize = 64;

/// Probes in a row that must go unanswered before anything is concluded from it, on a path that loses none else.
const PATIENCE: usize = 3;
/// How many more, times the share of probes lost otherwise: with half of them lost (30 % each way) it takes 11,
/// which chance alone brings about in one of 2,000 cases.
const PATIENCE_LOSSY: usize = 16;

/// To a silent peer echoes are so many times rarer: it may be one that has no use for them.
const SILENT_RARER: u32 = 5;

/// What became of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Answered,
    Lost,
    /// Lost while the path was down: says nothing of what it loses when it is up.
    Outage,
}

#[derive(Clone, Copy, Debug)]
struct Echo {
    sequence: u32,
    sent: Instant,
    fate: Fate,
}

/// The path to one peer: in go the time and replies, out come requests and changes.
#[derive(Debug)]
pub struct Path {
    interval: Duration,
    random: fastrand::Rng,
    /// What stamps count from.
    epoch: Instant,
    /// Added to stamps, so that who has not seen a request can't make up its reply.
    secret: u64,
    sequence: u32,
    /// The last ones, at most [`WINDOW`].
    echoes: VecDeque<Echo>,
    echo_due: Instant,
    rtt: Option<Rtt>,
    state: PathState,
    since: Instant,
    told: PathState,
    search: Search,
}

impl Path {
    /// A path of which nothing is known. The first echo leaves within one interval, at random, so that those of
    /// many peers don't leave together.
    #[must_use]
    pub fn new(config: ProbeConfig, now: Instant) -> Self {
        let mut random = fastrand::Rng::with_seed(config.seed);
        Self {
            interval: config.interval,
            epoch: now,
            secret: random.u64(..),
            sequence: random.u32(..),
            echoes: VecDeque::with_capacity(WINDOW),
            echo_due: now + config.interval.mul_f64(random.f64()),
            random,
            rtt: None,
            state: PathState::Unknown,
            since: now,
            told: PathState::Unknown,
            search: Search::new(now),
        }
    }

    /// Takes what has waited too long for lost. To be called when [`Self::next_deadline`] has come, before
    /// [`Self::poll_transmit`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let timeout = Rtt::timeout(self.rtt);
        for echo in &mut self.echoes {
            if echo.fate == Fate::Waiting && echo.sent + timeout <= now {
                echo.fate = Fate::Lost;
            }
        }
        let run = self.lost_run();
        match self.state {
            PathState::Unknown if run >= PATIENCE => self.enter(PathState::Silent, now),
            PathState::Up if run >= self.patience() => {
                self.search.suspend();
                self.enter(PathState::Down, now);
            }
            PathState::Up => self.search.handle_timeout(timeout, self.patience(), now),
            _ => {}
        }
    }

    /// The next request to be sent now. `around` is what its datagram has besides it: IP, UDP, and an envelope
    /// where it is sealed. To be sent with zeros up to its length; what is not sent will count as lost.
    pub fn poll_transmit(&mut self, around: u16, now: Instant) -> Option<Probe> {
        if now >= self.echo_due {
            return Some(self.echo(now));
        }
        if self.state != PathState::Up {
            return None;
        }
        let size = self.search.poll_size(now)?;
        let sequence = self.next_sequence();
        // The smallest size searched is far above all that goes around.
        let length = size.saturating_sub(around).max(SHORTEST);
        self.search.handle_sent(sequence, size, length, now);
        Some(self.request(sequence, length, now))
    }

    /// Takes a reply. Gives whether there was such a request, not yet answered.
    pub fn handle_reply(&mut self, reply: &Probe, now: Instant) -> bool {
        let expected =
            |path: &Self, sent, length| path.request(reply.sequence, length, sent).reply() == *reply;
        if let Some((sent, length)) = self.search.sent(reply.sequence) {
            let known = expected(self, sent, length);
            if known {
                self.search.handle_reply(now);
            }
            return known;
        }
        let place = self.echoes.iter().rposition(|echo| echo.sequence == reply.sequence);
        let Some(place) = place.filter(|&place| expected(self, self.echoes[place].sent, SHORTEST)) else {
            return false;
        };
        let Echo { sent, fate, .. } = self.echoes[place];
        if fate == Fate::Answered {
            return false;
        }
        // A late one is an answer too: it says what the round-trip time has become.
        self.rtt = Some(Rtt::after(self.rtt, now.saturating_duration_since(sent)));
        if self.state != PathState::Up {
            self.come_up(now);
        }
        self.echoes[place].fate = Fate::Answered;
        true
    }

    /// The system did not send that request: it is larger than the path takes, as far as is known here.
    pub fn handle_too_big(&mut self, sequence: u32, now: Instant) {
        self.search.handle_too_big(sequence, now);
    }

    /// What has changed since it was last asked. Repeat until `None`.
    pub fn poll_change(&mut self) -> Option<PathChange> {
        if self.told != self.state {
            self.told = self.state;
            let rtt = self.rtt.map(|rtt| rtt.smoothed).unwrap_or_default();
            return match self.state {
                PathState::Up => Some(PathChange::Up { rtt }),
                PathState::Down => Some(PathChange::Down),
                PathState::Silent => Some(PathChange::Silent),
                // Nothing goes back there.
                PathState::Unknown => None,
            };
        }
        self.search.poll_change().map(PathChange::Mtu)
    }

    /// When there is something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let timeout = Rtt::timeout(self.rtt);
        let waiting = self.echoes.iter().find(|echo| echo.fate == Fate::Waiting);
        let waiting = waiting.map(|echo| echo.sent + timeout);
        let search = (self.state == PathState::Up).then(|| self.search.next_deadline(timeout));
        waiting.into_iter().chain(search).fold(self.echo_due, Instant::min)
    }

    /// What is known, of that peer.
    #[must_use]
    pub fn report(&self, peer: VtepId, address: std::net::SocketAddr) -> PathReport {
        let [answered, lost, outage] =
            [Fate::Answered, Fate::Lost, Fate::Outage].map(|fate| self.count(fate));
        PathReport {
            peer,
            address,
            state: self.state,
            since: self.since,
            rtt: self.rtt.map(|rtt| rtt.smoothed),
            rtt_variation: self.rtt.map(|rtt| rtt.variation),
            lost: lost + outage,
            asked: answered + lost + outage,
            mtu: self.mtu(),
        }
    }

    /// Bytes of the largest IP packet that gets there, once it is known.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.search.found()
    }

    fn come_up(&mut self, now: Instant) {
        let known = self.echoes.iter_mut().rev().filter(|echo| echo.fate != Fate::Waiting);
        known.take_while(|echo| echo.fate == Fate::Lost).for_each(|echo| echo.fate = Fate::Outage);
        self.enter(PathState::Up, now);
        self.search.resume(now);
        self.echo_due = self.echo_due.min(now + self.interval);
    }

    fn enter(&mut self, state: PathState, now: Instant) {
        (self.state, self.since) = (state, now);
    }

    fn echo(&mut self, now: Instant) -> Probe {
        let sequence = self.next_sequence();
        if self.echoes.len() == WINDOW {
            self.echoes.pop_front();
        }
        self.echoes.push_back(Echo { sequence, sent: now, fate: Fate::Waiting });
        let rarer = if self.state == PathState::Silent { SILENT_RARER } else { 1 };
        self.echo_due = now + (self.interval * rarer).mul_f64(0.9 + 0.2 * self.random.f64());
        self.request(sequence, SHORTEST, now)
    }

    fn request(&self, sequence: u32, length: u16, now: Instant) -> Probe {
        Probe { operation: Operation::Request, length, sequence, stamp: self.stamp(now) }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn stamp(&self, sent: Instant) -> u64 {
        let nanoseconds = sent.saturating_duration_since(self.epoch).as_nanos();
        // 584 years of nanoseconds fit.
        self.secret.wrapping_add(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// Echoes lost since the last that was answered.
    fn lost_run(&self) -> usize {
        let known = self.echoes.iter().rev().filter(|echo| echo.fate != Fate::Waiting);
        known.take_while(|echo| echo.fate == Fate::Lost).count()
    }

    fn count(&self, fate: Fate) -> usize {
        self.echoes.iter().filter(|echo| echo.fate == fate).count()
    }

    /// How many in a row must be lost to mean something, given what is lost anyway.
    fn patience(&self) -> usize {
        let lost = self.count(Fate::Lost) - self.lost_run();
        PATIENCE + PATIENCE_LOSSY * lost / (lost + self.count(Fate::Answered)).max(1)
    }
}

/// [`HEADER_LEN`] in the type of a length.
const SHORTEST: u16 = 16;
const _: () = assert!(SHORTEST as usize == HEADER_LEN);
