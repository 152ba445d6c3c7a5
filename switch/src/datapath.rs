//! The two paths of one worker, without I/O: batches and the time in, an [`Outbox`] out.
//!
//! [`crate::worker`] drives it with devices and a clock; tests drive it by hand.

use std::sync::PoisonError;
use std::time::Instant;

use crate::coalesce::Coalescer;
use crate::drops::DropReason;
use crate::io::{Frame, Received};
use crate::outbox::Outbox;
use crate::packet::{PacketBuf, Pool};
use crate::switch::Switch;
use crate::tables::{News, Port, PortId, Tables};
use crate::{egress, ingress};

/// News taken from one batch; what is left out is heard again with the next frame.
const NEWS_MAX: usize = 1_024;

/// A worker's share of a [`Switch`].
#[derive(Debug)]
pub struct Datapath {
    switch: Switch,
    worker: usize,
    news: Vec<News>,
    made: Vec<PacketBuf>,
    coalescer: Coalescer,
    publish_due: Option<Instant>,
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
            publish_due: None,
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
        self.tell(now);
    }

    /// Publishes what was learnt, if that had to wait until now.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.publish_due.is_some_and(|due| due <= now) {
            self.publish_due = self.switch.learn(&[], now);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.publish_due
    }

    fn context<'a>(
        &'a mut self,
        tables: &'a Tables,
        pool: &'a mut Pool,
        out: &'a mut Outbox,
        now: Instant,
    ) -> Context<'a> {
        let Self { switch, worker, news, made, coalescer, .. } = self;
        Context { tables, switch, worker: *worker, pool, out, news, made, coalescer, now }
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
