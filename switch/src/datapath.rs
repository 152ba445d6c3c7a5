//! The two paths of one worker, without I/O: batches and the time in, an [`Outbox`] out.
//!
//! [`crate::worker`] drives it with devices and a clock; tests drive it by hand.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::balance::path::{SWEEP_BUCKETS, Sweep};
use crate::coalesce::Coalescer;
use crate::deliver::{Answer, restore_answers};
use crate::drops::DropReason;
use crate::io::{Frame, Received, SendError};
use crate::outbox::{Outbox, Payload, Transmit};
use crate::packet::{PacketBuf, Pool};
use crate::probe::carry;
use crate::switch::Switch;
use crate::tables::{News, Port, PortId, Tables};
use crate::{egress, ingress};

/// News taken from one batch; what is left out is heard again with the next frame.
const NEWS_MAX: usize = 1_024;

/// Probes sent in one turn, each from a buffer of its own; more peers' follow in the next.
const PROBES_MAX: usize = 32;
/// Probes are looked at so often at least, because peers come and go, and other workers' replies move deadlines.
const PROBES_TICK: Duration = Duration::from_secs(1);

/// A share of the flows is looked at so often, for those that have been silent for too long.
const SWEEP_TICK: Duration = Duration::from_secs(1);

/// A worker's share of a [`Switch`].
#[derive(Debug)]
pub struct Datapath {
    switch: Switch,
    worker: usize,
    news: Vec<News>,
    made: Vec<PacketBuf>,
    coalescer: Coalescer,
    answers: Vec<Answer>,
    publish_due: Option<Instant>,
    /// Of the first worker, once the switch probes.
    probes_due: Option<Instant>,
    /// Of the first worker, once there has been a service.
    sweep_due: Option<Instant>,
    /// The bucket of flows to be looked at next.
    sweep_next: usize,
}

/// What the paths work with during one batch.
pub(crate) struct Context<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) switch: &'a Switch,
    /// Whose shard of the counters to add to.
    pub(crate) worker: usize,
    pub(crate) pool: &'a mut Pool,
    pub(crate) out: &'a mut Outbox,
    pub(crate) news: &'a mut Vec<News>,
    /// Buffers made while others are borrowed; empty between frames.
    pub(crate) made: &'a mut Vec<PacketBuf>,
    pub(crate) coalescer: &'a mut Coalescer,
    /// What may be answers of services' tasks; empty between batches.
    pub(crate) answers: &'a mut Vec<Answer>,
    pub(crate) now: Instant,
}

impl Datapath {
    /// The paths of a switch with one worker.
    #[must_use]
    pub fn new(switch: Switch) -> Self {
        Self::of_worker(switch, 0)
    }

    /// The paths of one of a switch's workers. Two at work for the same one would miscount.
    ///
    /// # Panics
    /// If the switch has been made for fewer.
    #[must_use]
    pub fn of_worker(switch: Switch, worker: usize) -> Self {
        assert!(worker < switch.workers(), "a switch is made for a number of workers");
        Self {
            switch,
            worker,
            news: Vec::with_capacity(NEWS_MAX),
            made: Vec::new(),
            coalescer: Coalescer::default(),
            answers: Vec::new(),
            publish_due: None,
            probes_due: None,
            sweep_due: None,
            sweep_next: 0,
        }
    }

    /// The switch.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Takes a batch of frames from a port; what they come to is appended to `out`, their buffers go there or to
    /// `pool`.
    pub fn egress(
        &mut self,
        port: PortId,
        frames: &mut Vec<Frame>,
        pool: &mut Pool,
        out: &mut Outbox,
        now: Instant,
    ) {
        let tables = self.switch.tables();
        match tables.topology.ports.get(&port) {
            Some(entry) => {
                let mut cx = self.context(&tables, pool, out, now);
                for frame in frames.drain(..) {
                    egress::egress(&mut cx, port, entry, frame);
                }
            }
            None => {
                self.switch.drops().add(DropReason::PortGone, frames.len() as u64);
                frames.drain(..).for_each(|frame| pool.put(frame.buf));
            }
        }
        self.tell(now);
    }

    /// Takes a batch of datagrams from the underlay, as [`Self::egress`] takes frames.
    pub fn ingress(&mut self, batch: &mut Vec<Received>, pool: &mut Pool, out: &mut Outbox, now: Instant) {
        let tables = self.switch.tables();
        let mut cx = self.context(&tables, pool, out, now);
        for received in batch.drain(..) {
            ingress::ingress(&mut cx, received);
        }
        cx.coalescer.finish(cx.out);
        restore_answers(&mut cx);
        self.tell(now);
    }

    /// Publishes what was learnt, if that had to wait until now.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.publish_due.is_some_and(|due| due <= now) {
            self.publish_due = self.switch.learn(&[], now);
        }
    }

    /// Appends the probes that are due to `out`, of a switch that probes ([`Switch::set_probing`]). Only the first
    /// worker's has any, and it should be asked at least once a second.
    pub fn poll_probes(&mut self, pool: &mut Pool, out: &mut Outbox, now: Instant) {
        if self.worker != 0 || !self.switch.is_probing() {
            self.probes_due = None;
            return;
        }
        if self.probes_due.is_some_and(|due| now < due) {
            return;
        }
        let tables = self.switch.tables();
        let due = self.switch.with_paths(|paths| {
            paths.follow(&tables.topology, now);
            for _ in 0..PROBES_MAX {
                let Some(buf) = pool.take() else { break };
                let Some((tunnel, probe)) = paths.poll_transmit(&tables.topology, now) else {
                    pool.put(buf);
                    return paths.next_deadline();
                };
                if let Err(reason) = carry::request(&tunnel, probe, buf, out) {
                    self.switch.drops().add(reason, 1);
                }
            }
            Some(now)
        });
        // What becomes of those just made may move a deadline.
        let tick = if out.transmits.is_empty() { now + PROBES_TICK } else { now };
        self.probes_due = Some(due.flatten().map_or(tick, |due| due.min(tick)));
    }

    /// Forgets flows of services that have ended or been silent for too long, and appends to `out` what clients are told
    /// whose tasks have gone. Only the first worker does so, and it should be asked at least once a second.
    pub fn poll_resets(&mut self, pool: &mut Pool, out: &mut Outbox, now: Instant) {
        if self.worker != 0 || !self.switch.is_balancing() {
            return;
        }
        // Taken before the tables are, so that what is asked for later is looked at with later ones.
        let Some(asked) = self.switch.tables().topology.flows.as_ref().map(|flows| flows.take_asked()) else {
            return;
        };
        let tick = self.sweep_due.is_none_or(|due| due <= now);
        if asked == 0 && !tick {
            return;
        }
        let tables = self.switch.tables();
        let buckets = asked.max(if tick { SWEEP_BUCKETS } else { 0 });
        let mut sweep = Sweep { tables: &tables, worker: self.worker, pool, out, now };
        self.sweep_next = sweep.run(self.sweep_next, buckets);
        let more = tables.topology.flows.as_ref().is_some_and(|flows| flows.is_asked());
        self.sweep_due = Some(if more { now } else { now + SWEEP_TICK });
    }

    /// Says that a transmit could not be sent: of a probe that is too big for the path as far as the system knows,
    /// that is an answer. Gives whether it was that, and so no loss.
    pub fn handle_unsent(&self, transmit: &Transmit, error: &SendError, now: Instant) -> bool {
        let (&Payload::Request(sequence), SendError::TooBig) = (&transmit.payload, error) else {
            return false;
        };
        self.switch.with_paths(|paths| paths.handle_too_big(transmit.peer, sequence, now));
        true
    }

    /// When [`Self::handle_timeout`], [`Self::poll_probes`] or [`Self::poll_resets`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.publish_due.into_iter().chain(self.probes_due).chain(self.sweep_due).min()
    }

    fn context<'a>(
        &'a mut self,
        tables: &'a Tables,
        pool: &'a mut Pool,
        out: &'a mut Outbox,
        now: Instant,
    ) -> Context<'a> {
        let Self { switch, worker, news, made, coalescer, answers, .. } = self;
        Context { tables, switch, worker: *worker, pool, out, news, made, coalescer, answers, now }
    }

    fn tell(&mut self, now: Instant) {
        if !self.news.is_empty() {
            self.publish_due = self.switch.learn(&self.news, now);
            self.news.clear();
        }
    }
}

impl Context<'_> {
    /// Notes a source address for the master, unless the same has just been noted.
    pub(crate) fn hear(&mut self, news: News) {
        if self.news.len() < NEWS_MAX && self.news.last() != Some(&news) {
            self.news.push(news);
        }
    }

    /// Counts a frame from a port that went no further.
    pub(crate) fn drop_from_port(&self, port: &Port, reason: DropReason) {
        self.switch.count_dropped(self.worker, self.tables, Some(port), reason, 1);
    }

    /// Whether the port may have something flooded that comes to so many frames.
    pub(crate) fn may_flood(&self, port: &Port, frames: usize) -> bool {
        // Nothing panics while it holds the lock.
        port.storm.lock().unwrap_or_else(PoisonError::into_inner).allow(frames, self.now)
    }
}
