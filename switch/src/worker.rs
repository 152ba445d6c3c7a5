//! The worker: a thread that waits on every device and socket of a switch and moves batches between them.
//!
//! Level-triggered epoll; each readable source gives one batch in turn, so none starves another. The clock is read
//! once a turn. With nothing to do the thread sleeps until the next second's ageing.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};

use crate::datapath::Datapath;
use crate::drops::DropReason;
use crate::io::{DatagramIo, Frame, FrameIo, ReadError, Received, SendError, WriteError};
use crate::outbox::{Outbox, PARTS_MAX};
use crate::packet::Pool;
use crate::switch::{Claim, PortReport, Switch};
use crate::tables::PortId;

/// How a worker works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// Frames, or runs of datagrams, taken from a source before the next one's turn.
    pub batch: usize,
    /// Packet buffers, of 64 KiB of address space each; memory is used only as far as frames fill them.
    pub buffers: usize,
}

impl Default for WorkerConfig {
    /// 32 at a time is where the cost of a turn is no longer seen; a batch of super-frames cut for peers needs twice
    /// as many buffers again.
    fn default() -> Self {
        Self { batch: 32, buffers: 192 }
    }
}

/// What a worker has to tell.
#[derive(Debug)]
pub enum Event {
    /// A port's device has vanished or failed; the port is removed.
    PortClosed {
        /// The port with its last counters.
        port: PortReport,
        /// Why.
        error: ReadError,
    },
    /// The underlay failed to receive; the worker tries again within a second.
    UnderlayFailed(io::Error),
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
enum Command {
    Attach(PortId, Box<dyn FrameIo>),
    Detach(PortId),
    Stop,
}

/// A worker's thread ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A system call on which everything hangs failed.
    #[error("the worker failed: {0}")]
    Io(#[from] io::Error),
    /// A defect of this program.
    #[error("the worker panicked")]
    Panicked,
}

const TICK: Duration = Duration::from_secs(1);
const EVENTS_MAX: usize = 64;

const WAKE: u64 = 0;
const UNDERLAY: u64 = 1;
/// Port ids follow.
const PORTS: u64 = 2;

impl Worker {
    /// Starts a worker; `events` is called on its thread. `devices` are there from its first turn on: datagrams may wait
    /// in the underlay already, for ports that are in the tables.
    ///
    /// A switch has one worker at a time: ports' devices belong to it.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if the switch has one already, [`io::ErrorKind::InvalidInput`] for a batch or pool
    /// of nothing; or the system has no more threads or descriptors.
    pub fn spawn(
        switch: Switch,
        underlay: Box<dyn DatagramIo>,
        devices: Vec<(PortId, Box<dyn FrameIo>)>,
        config: WorkerConfig,
        events: impl FnMut(Event) + Send + 'static,
    ) -> io::Result<Self> {
        if config.batch == 0 || config.buffers == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker needs a batch and buffers"));
        }
        let claim = switch.claim().ok_or(io::ErrorKind::ResourceBusy)?;
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (commands, inbox) = channel();
        for (port, device) in devices {
            commands.send(Command::Attach(port, device)).expect("the inbox is here");
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, &*wake, WAKE)?;
        for socket in underlay.pollable() {
            watch(&epoll, socket, UNDERLAY)?;
        }
        let state = Loop {
            _claim: claim,
            datapath: Datapath::new(switch),
            underlay,
            underlay_failed: false,
            devices: HashMap::default(),
            epoll,
            wake: Arc::clone(&wake),
            inbox,
            events: Box::new(events),
            batch: config.batch,
            pool: Pool::new(config.buffers),
            scratch: Scratch::default(),
        };
        let thread = std::thread::Builder::new().name("vswitchd-worker".into()).spawn(move || state.run())?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Gives a port its device.
    pub fn attach(&self, port: PortId, device: Box<dyn FrameIo>) {
        self.tell(Command::Attach(port, device));
    }

    /// Closes a port's device; the port itself is removed with [`Switch::remove_port`].
    pub fn detach(&self, port: PortId) {
        self.tell(Command::Detach(port));
    }

    /// Ends the worker and closes every device, having sent what was read.
    ///
    /// # Errors
    /// It had ended by itself.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        self.tell(Command::Stop);
        let thread = self.thread.take().expect("the thread is joined once");
        Ok(thread.join().map_err(|_| WorkerError::Panicked)??)
    }

    fn tell(&self, command: Command) {
        // A worker that has ended has nothing to be told; `stop` reports why it ended.
        if self.commands.send(command).is_ok() {
            // An eventfd that is full is readable, which is all that is wanted.
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.tell(Command::Stop);
            // Whoever wants to know how it ended calls `stop`.
            let _ = thread.join();
        }
    }
}

fn watch(epoll: &OwnedFd, source: impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, source, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
}

/// What lives on the worker's thread.
struct Loop {
    _claim: Claim,
    datapath: Datapath,
    underlay: Box<dyn DatagramIo>,
    /// Its sockets are not watched until the next tick, so that a lasting error is no busy loop.
    underlay_failed: bool,
    devices: HashMap<PortId, Box<dyn FrameIo>, foldhash::fast::RandomState>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Command>,
    events: Box<dyn FnMut(Event) + Send>,
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
    fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::with_capacity(EVENTS_MAX);
        if self.obey() {
            return Ok(());
        }
        let mut now = clock();
        let mut tick = now + TICK;
        loop {
            let deadline = self.datapath.next_deadline().map_or(tick, |due| due.min(tick));
            self.wait(&mut ready, deadline.saturating_duration_since(now))?;
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
            if now >= tick {
                self.retry_underlay()?;
                self.datapath.switch().age(now);
                tick = now + TICK;
            }
        }
    }

    fn wait(&self, ready: &mut Vec<epoll::Event>, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match epoll::wait(&self.epoll, spare_capacity(ready), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Does what was commanded; gives whether to stop.
    fn obey(&mut self) -> bool {
        // Only to make it unreadable; what is to be done is in the inbox.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Stop => return true,
                Command::Attach(id, device) => {
                    let watched = watch(&self.epoll, device.pollable(), PORTS + u64::from(id.0));
                    self.devices.insert(id, device);
                    if let Err(error) = watched {
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
        self.flush();
        match outcome {
            Ok(report) if report.malformed > 0 => {
                self.count_dropped(id, DropReason::OffloadInvalid, report.malformed)
            }
            Ok(_) => {}
            Err(error) => self.close(id, error),
        }
    }

    fn ingress(&mut self, now: Instant) {
        let Scratch { received, out, .. } = &mut self.scratch;
        let outcome = self.underlay.receive(&mut self.pool, received, self.batch);
        self.datapath.ingress(received, &mut self.pool, out, now);
        self.flush();
        if let Err(error) = outcome {
            self.underlay_failed = true;
            for socket in self.underlay.pollable() {
                // It is watched, so this can't fail; if it did, the loop would only try again sooner.
                let _ = epoll::delete(&self.epoll, socket);
            }
            (self.events)(Event::UnderlayFailed(error));
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
    fn flush(&mut self) {
        self.transmit();
        self.deliver();
        self.scratch.out.recycle(&mut self.pool);
        while let Some(id) = self.scratch.gone.pop() {
            self.close(id, ReadError::Gone);
        }
    }

    fn transmit(&mut self) {
        let Scratch { out, failed, .. } = &mut self.scratch;
        if out.transmits.is_empty() {
            return;
        }
        self.underlay.send(out, failed);
        failed.sort_unstable_by_key(|&(index, _)| index);
        let switch = self.datapath.switch();
        let tables = switch.tables();
        let mut failed = failed.drain(..).peekable();
        for (index, transmit) in out.transmits.iter().enumerate() {
            let frames = transmit.datagrams();
            let traffic = tables.topology.peers.peer(transmit.peer).map(|peer| &peer.traffic);
            let Some((_, error)) = failed.next_if(|&(lost, _)| lost == index) else {
                traffic.inspect(|traffic| traffic.sent(frames, transmit.inner_bytes()));
                continue;
            };
            let reason = match error {
                SendError::Full => DropReason::UnderlayFull,
                SendError::TooBig => DropReason::TooBig,
                SendError::Refused(_) => DropReason::UnderlayRefused,
            };
            switch.drops().add(reason, frames as u64);
            traffic.inspect(|traffic| traffic.dropped(frames as u64));
            let network = tables.topology.networks.get(&transmit.vni);
            network.inspect(|network| network.traffic.dropped(frames as u64));
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
            let traffic = port.map(|port| &port.traffic);
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
            switch.count_dropped(&tables, port, reason, 1);
        }
        for id in touched.drain(..) {
            if let Some(device) = self.devices.get_mut(&id) {
                device.flush();
            }
        }
    }

    fn close(&mut self, id: PortId, error: ReadError) {
        self.unplug(id);
        if let Some(port) = self.datapath.switch().remove_port(id) {
            (self.events)(Event::PortClosed { port, error });
        }
    }

    fn unplug(&mut self, id: PortId) {
        self.datapath.forget_port(id);
        if let Some(device) = self.devices.remove(&id) {
            // Closing the descriptor would do; it fails only for one that could not be watched.
            let _ = epoll::delete(&self.epoll, device.pollable());
        }
    }

    fn count_dropped(&self, id: PortId, reason: DropReason, frames: u64) {
        let switch = self.datapath.switch();
        let tables = switch.tables();
        switch.count_dropped(&tables, tables.topology.ports.get(&id), reason, frames);
    }
}

#[expect(clippy::disallowed_methods, reason = "the worker is where the clock is read")]
fn clock() -> Instant {
    Instant::now()
}
