//! What a worker's thread does.
//!
//! Level-triggered epoll; each readable source gives one batch in turn, so none starves another. The clock is read
//! once a turn. With nothing to do the thread sleeps: the first worker until the next second's ageing, the others for
//! as long as nothing comes.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use super::{Command, Crew, Event, WorkerConfig};
use crate::datapath::Datapath;
use crate::drops::DropReason;
use crate::io::{DatagramIo, Frame, FrameIo, ReadError, Received, SendError, WriteError};
use crate::outbox::{Outbox, PARTS_MAX, Payload, Transmit};
use crate::packet::Pool;
use crate::switch::Switch;
use crate::tables::{PortId, Tables};

const TICK: Duration = Duration::from_secs(1);
const EVENTS_MAX: usize = 64;

const WAKE: u64 = 0;
const UNDERLAY: u64 = 1;
/// Port ids follow.
const PORTS: u64 = 2;

fn watch(epoll: &OwnedFd, source: impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
}

/// What lives on the worker's thread.
pub(super) struct Loop {
    /// Its place in the crew.
    index: usize,
    crew: Arc<Crew>,
    datapath: Datapath,
    underlay: Box<dyn DatagramIo>,
    /// Its sockets are not watched until the next tick, so that a lasting error is no busy loop.
    underlay_failed: bool,
    devices: HashMap<PortId, Box<dyn FrameIo>, foldhash::fast::RandomState>,
    epoll: OwnedFd,
    inbox: Receiver<Command>,
    events: Box<dyn Fn(Event) + Send>,
    batch: usize,
    pool: Pool,
    scratch: Scratch,
}

/// Memory kept from turn to turn.
#[derive(Default)]
struct Scratch {
    frames: Vec<Frame>,
    received: Vec<Received>,
    out: Outbox,
    failed: Vec<(usize, SendError)>,
    touched: Vec<PortId>,
    gone: Vec<PortId>,
}

impl Loop {
    pub(super) fn new(
        switch: Switch,
        index: usize,
        underlay: Box<dyn DatagramIo>,
        crew: Arc<Crew>,
        inbox: Receiver<Command>,
        events: Box<dyn Fn(Event) + Send>,
        config: WorkerConfig,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &crew.0[index].wake, WAKE)?;
        for socket in underlay.pollable() {
            watch(&epoll, socket, UNDERLAY)?;
        }
        Ok(Self {
            index,
            crew,
            datapath: Datapath::of_worker(switch, index),
            underlay,
            underlay_failed: false,
            devices: HashMap::default(),
            epoll,
            inbox,
            events,
            batch: config.batch,
            pool: Pool::new(config.buffers),
            scratch: Scratch::default(),
        })
    }

    pub(super) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        if self.obey() {
            return Ok(());
        }
        let mut now = clock();
        let mut tick = now + TICK;
        self.probe(now);
        loop {
            let ticks = self.index == 0 || self.underlay_failed;
            let deadline = self.datapath.next_deadline().into_iter().chain(ticks.then_some(tick)).min();
            self.wait(&mut ready, deadline.map(|due| due.saturating_duration_since(now)))?;
            now = clock();
            for event in ready.drain(..) {
                match event.data.u64() {
                    WAKE => {
                        if self.obey() {
                            return Ok(());
                        }
                    }
                    UNDERLAY => self.ingress(now),
                    token => self.egress(PortId(u32::try_from(token - PORTS).expect("a port's token")), now),
                }
            }
            self.datapath.handle_timeout(now);
            self.probe(now);
            self.sweep(now);
            if now >= tick {
                self.retry_underlay()?;
                if self.index == 0 {
                    self.datapath.switch().age(now);
                }
                tick = now + TICK;
            }
        }
    }

    fn wait(&self, ready: &mut Vec<epoll::Event>, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what was commanded; gives whether to stop.
    fn obey(&mut self) -> bool {
        // Only to make it unreadable; what is to be done is in the inbox.
        let _ = rustix::io::read(&self.crew.0[self.index].wake, &mut [0; 8]);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Stop => return true,
                Command::Attach(id, device) => {
                    let token = PORTS + u64::from(id.0);
                    let watched = device.pollable().map(|queue| watch(&self.epoll, queue, token));
                    self.devices.insert(id, device);
                    if let Some(Err(error)) = watched {
                        self.close(id, ReadError::Io(error));
                    }
                }
                Command::Detach(id) => self.unplug(id),
            }
        }
        false
    }

    fn egress(&mut self, id: PortId, now: Instant) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let Scratch { frames, out, .. } = &mut self.scratch;
        let outcome = device.read(&mut self.pool, frames, self.batch);
        self.datapath.egress(id, frames, &mut self.pool, out, now);
        self.flush(now);
        match outcome {
            Ok(0) => {}
            Ok(malformed) => self.count_dropped(id, DropReason::OffloadInvalid, malformed),
            Err(error) => self.close(id, error),
        }
    }

    fn ingress(&mut self, now: Instant) {
        let Scratch { received, out, .. } = &mut self.scratch;
        let outcome = self.underlay.receive(&mut self.pool, received, self.batch);
        self.datapath.ingress(received, &mut self.pool, out, now);
        self.flush(now);
        if let Err(error) = outcome {
            self.underlay_failed = true;
            for socket in self.underlay.pollable() {
                // It is watched, so this can't fail; if it did, the loop would only try again sooner.
                let _ = epoll::delete(&self.epoll, socket);
            }
            (self.events)(Event::UnderlayFailed(error));
        }
    }

    /// Sends the probes that are due, and tells what has become of the paths.
    fn probe(&mut self, now: Instant) {
        self.datapath.poll_probes(&mut self.pool, &mut self.scratch.out, now);
        // One that could not be sealed has a buffer, too.
        if !self.scratch.out.packets.is_empty() {
            self.flush(now);
        }
        while let Some(event) = self.datapath.switch().poll_path_event() {
            (self.events)(Event::Path(event));
        }
    }

    /// Ends flows of services, and tells clients whose task has gone.
    fn sweep(&mut self, now: Instant) {
        self.datapath.poll_resets(&mut self.pool, &mut self.scratch.out, now);
        if !self.scratch.out.packets.is_empty() {
            self.flush(now);
        }
    }

    fn retry_underlay(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.underlay_failed) {
            for socket in self.underlay.pollable() {
                watch(&self.epoll, socket, UNDERLAY)?;
            }
        }
        Ok(())
    }

    /// Sends and writes what the outbox holds, and counts what became of it.
    fn flush(&mut self, now: Instant) {
        self.transmit(now);
        self.deliver();
        self.scratch.out.recycle(&mut self.pool);
        while let Some(id) = self.scratch.gone.pop() {
            self.close(id, ReadError::Gone);
        }
    }

    fn transmit(&mut self, now: Instant) {
        let Self { index: worker, datapath, underlay, scratch, events, .. } = self;
        let Scratch { out, failed, .. } = scratch;
        if out.transmits.is_empty() {
            return;
        }
        underlay.send(out, failed);
        if underlay.took_to_single() {
            events(Event::SegmentationRefused);
        }
        failed.sort_unstable_by_key(|&(index, _)| index);
        let switch = datapath.switch();
        let tables = switch.tables();
        let mut failed = failed.drain(..).peekable();
        for (index, transmit) in out.transmits.iter().enumerate() {
            let frames = transmit.datagrams();
            let Some((_, error)) = failed.next_if(|&(lost, _)| lost == index) else {
                count_sent(&tables, *worker, transmit);
                continue;
            };
            if datapath.handle_unsent(transmit, &error, now) {
                continue;
            }
            let reason = match error {
                SendError::Full => DropReason::UnderlayFull,
                SendError::TooBig => DropReason::TooBig,
                SendError::Refused(_) => DropReason::UnderlayRefused,
            };
            switch.drops().add(reason, frames as u64);
            let peer = tables.topology.peers.peer(transmit.peer);
            peer.inspect(|peer| peer.traffic.by(*worker).dropped(frames as u64));
            if let Payload::Frames(vni) = transmit.payload {
                let network = tables.topology.networks.get(&vni);
                network.inspect(|network| network.traffic.by(*worker).dropped(frames as u64));
            }
        }
    }

    fn deliver(&mut self) {
        let Scratch { out, touched, gone, .. } = &mut self.scratch;
        let switch = self.datapath.switch();
        let tables = switch.tables();
        for delivery in &out.deliveries {
            let id = delivery.port;
            let mut pieces = [IoSlice::new(&[]); PARTS_MAX];
            let mut count = 0;
            for (place, piece) in pieces.iter_mut().zip(out.frame(delivery)) {
                *place = IoSlice::new(piece);
                count += 1;
            }
            let frame = &pieces[..count];
            let outcome = self.devices.get_mut(&id).map(|device| device.write(frame, delivery.offload));
            let port = tables.topology.ports.get(&id);
            let traffic = port.map(|port| port.traffic.by(self.index));
            let reason = match outcome {
                Some(Ok(())) => {
                    let bytes = frame.iter().map(|piece| piece.len()).sum();
                    traffic.inspect(|traffic| traffic.sent(1, bytes));
                    if touched.last() != Some(&id) {
                        touched.push(id);
                    }
                    continue;
                }
                Some(Err(WriteError::Gone)) => {
                    gone.push(id);
                    DropReason::PortGone
                }
                Some(Err(WriteError::Full)) => DropReason::PortFull,
                Some(Err(WriteError::Down)) => DropReason::PortDown,
                Some(Err(WriteError::Refused(_))) => DropReason::PortRefused,
                // Its device has not come yet, or has just gone.
                None => DropReason::PortGone,
            };
            switch.count_dropped(self.index, &tables, port, reason, 1);
        }
        for id in touched.drain(..) {
            if let Some(device) = self.devices.get_mut(&id) {
                device.flush();
            }
        }
    }

    fn close(&mut self, id: PortId, error: ReadError) {
        self.unplug(id);
        // Each worker finds out by itself, but for those that only write; the first one tells.
        if let Some(port) = self.datapath.switch().remove_port(id) {
            self.crew.tell_all(|| Command::Detach(id));
            (self.events)(Event::PortClosed { port, error });
        }
    }

    fn unplug(&mut self, id: PortId) {
        if let Some(queue) = self.devices.remove(&id).as_ref().and_then(|device| device.pollable()) {
            // Closing the descriptor would do; it fails only for one that could not be watched.
            let _ = epoll::delete(&self.epoll, queue);
        }
    }

    fn count_dropped(&self, id: PortId, reason: DropReason, frames: u64) {
        let switch = self.datapath.switch();
        let tables = switch.tables();
        switch.count_dropped(self.index, &tables, tables.topology.ports.get(&id), reason, frames);
    }
}

/// A peer's traffic is frames; probes are none.
fn count_sent(tables: &Tables, worker: usize, transmit: &Transmit) {
    if let (Payload::Frames(_), Some(peer)) = (transmit.payload, tables.topology.peers.peer(transmit.peer)) {
        peer.traffic.by(worker).sent(transmit.datagrams(), transmit.inner_bytes());
    }
}

#[expect(clippy::disallowed_methods, reason = "the worker is where the clock is read")]
fn clock() -> Instant {
    Instant::now()
}
