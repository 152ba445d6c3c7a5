//! Workers: threads that wait on the devices and sockets of a switch and move batches between them.
//!
//! Each worker has a receiving socket of the underlay, a queue of every device that has several, buffers and scratch
//! memory of its own; they share the tables, which none of them locks on a frame's way. A flow stays on one worker as
//! long as the kernel keeps it on one queue or socket: it spreads datagrams over sockets by their addresses and ports
//! (`SO_REUSEPORT`), and gives a TAP's queue the flows whose other direction was last written there.
//!
//! A device with one queue is read by one worker and written by all. What a thread does is in `turn`.

mod turn;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};

use self::turn::Loop;
use crate::io::{DatagramIo, FrameIo, ReadError};
use crate::probe::PathEvent;
use crate::switch::{PortReport, Switch, Wake};
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
    /// The path to a peer has changed, of a switch that probes ([`Switch::set_probing`]).
    Path(PathEvent),
    /// A socket of the underlay failed to receive; the worker tries again within a second.
    UnderlayFailed(io::Error),
    /// This kernel, device or route does not cut runs of datagrams (`UDP_SEGMENT`): they are sent one by one from now on,
    /// which costs speed only. Told at most once for each source port and worker.
    SegmentationRefused,
}

/// The running workers of a switch. Dropping this stops them.
#[derive(Debug)]
pub struct Workers {
    crew: Arc<Crew>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

#[derive(Debug)]
enum Command {
    Attach(PortId, Box<dyn FrameIo>),
    Detach(PortId),
    Stop,
}

/// A worker's thread ended before it was told to. The others have ended too: a switch does not go on with a part of
/// its flows.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A system call on which everything hangs failed.
    #[error("the worker failed: {0}")]
    Io(#[from] io::Error),
    /// A defect of this program.
    #[error("the worker panicked")]
    Panicked,
}

/// How the workers of a switch are told something, by their owner and by each other.
#[derive(Debug)]
struct Crew(Vec<Inbox>);

#[derive(Debug)]
struct Inbox {
    commands: Sender<Command>,
    wake: OwnedFd,
}

impl Inbox {
    fn new() -> io::Result<(Self, Receiver<Command>)> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (commands, inbox) = channel();
        Ok((Self { commands, wake }, inbox))
    }

    fn tell(&self, command: Command) {
        // A worker that has ended has nothing to be told; `stop` reports why it ended.
        if self.commands.send(command).is_ok() {
            self.wake();
        }
    }

    fn wake(&self) {
        // An eventfd that is full is readable, which is all that is wanted.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

impl Wake for Crew {
    fn wake(&self) {
        self.0.first().inspect(|inbox| inbox.wake());
    }
}

impl Crew {
    fn tell_all(&self, command: impl Fn() -> Command) {
        self.0.iter().for_each(|inbox| inbox.tell(command()));
    }

    fn attach(&self, port: PortId, device: Box<dyn FrameIo>) -> io::Result<()> {
        let handles = device.split(self.0.len())?;
        assert_eq!(handles.len(), self.0.len(), "a device is split into as many handles as asked");
        self.0.iter().zip(handles).for_each(|(inbox, handle)| inbox.tell(Command::Attach(port, handle)));
        Ok(())
    }
}

/// Ends the others when a worker's thread ends, for whatever reason.
struct Leaving(Arc<Crew>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.tell_all(|| Command::Stop);
    }
}

impl Workers {
    /// Starts a worker for each of `underlays`; `events` is called on their threads. `devices` are there from the
    /// first turn on: datagrams may wait in the underlay already, for ports that are in the tables.
    ///
    /// A switch has one crew of workers at a time: ports' devices belong to it.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] if the switch has workers already, [`io::ErrorKind::InvalidInput`] for a number
    /// of underlays that the switch has not been made for, or a batch or pool of nothing; or the system has no more
    /// threads or descriptors.
    pub fn spawn(
        switch: Switch,
        underlays: Vec<Box<dyn DatagramIo>>,
        devices: Vec<(PortId, Box<dyn FrameIo>)>,
        config: WorkerConfig,
        events: impl Fn(Event) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        if config.batch == 0 || config.buffers == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a worker needs a batch and buffers"));
        }
        if underlays.len() != switch.workers() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "want an underlay for each worker"));
        }
        let claim = Arc::new(switch.claim().ok_or(io::ErrorKind::ResourceBusy)?);
        let pairs = underlays.iter().map(|_| Inbox::new()).collect::<io::Result<Vec<_>>>()?;
        let (inboxes, receivers): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let crew = Arc::new(Crew(inboxes));
        switch.wake_by(Arc::<Crew>::clone(&crew));
        for (port, device) in devices {
            crew.attach(port, device)?;
        }
        let events = Arc::new(events);
        // Threads that have been started end with this if a later one can't be.
        let mut workers = Self { crew: Arc::clone(&crew), threads: Vec::new() };
        for (index, (underlay, inbox)) in underlays.into_iter().zip(receivers).enumerate() {
            let (claim, leaving, events) =
                (Arc::clone(&claim), Leaving(Arc::clone(&crew)), Arc::clone(&events));
            let events = Box::new(move |event| events(event));
            let state = Loop::new(switch.clone(), index, underlay, Arc::clone(&crew), inbox, events, config)?;
            let work = move || {
                let (_claim, _leaving) = (claim, leaving);
                state.run()
            };
            workers.threads.push(std::thread::Builder::new().name(format!("worker-{index}")).spawn(work)?);
        }
        Ok(workers)
    }

    /// Gives a port its device.
    ///
    /// # Errors
    /// The device can't be shared by the workers: no descriptors are left. It is closed.
    pub fn attach(&self, port: PortId, device: Box<dyn FrameIo>) -> io::Result<()> {
        self.crew.attach(port, device)
    }

    /// Closes a port's device; the port itself is removed with [`Switch::remove_port`].
    pub fn detach(&self, port: PortId) {
        self.crew.tell_all(|| Command::Detach(port));
    }

    /// Ends the workers and closes every device, having sent what was read.
    ///
    /// # Errors
    /// One had ended by itself.
    pub fn stop(mut self) -> Result<(), WorkerError> {
        self.crew.tell_all(|| Command::Stop);
        let ends: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        for end in ends {
            end.map_err(|_| WorkerError::Panicked)??;
        }
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.crew.tell_all(|| Command::Stop);
        for thread in self.threads.drain(..) {
            // Whoever wants to know how it ended calls `stop`.
            let _ = thread.join();
        }
    }
}
