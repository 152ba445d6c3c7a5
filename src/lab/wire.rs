//! The underlay as a simulated link: a TAP in every host, and a thread that carries their frames with chosen
//! faults.
//!
//! The thread is a perfect switch, for it knows every host's MAC address; loss and delay are [`Wire`]'s.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use vswitchd_switch::io::mem::{Wire, WireCounts};
use vswitchd_switch::io::tap::{Offloads, Tap, TapConfig, TapError};
use vswitchd_switch::io::{FrameIo, ReadError};
use vswitchd_switch::packet::Pool;
use vswitchd_switch::wire::MacAddr;
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::virtio::Offload;

use super::plan::Plan;
use super::underlay::UPLINK;
use crate::namespace::netns::{NetNs, NetnsError};

/// Frames on their way at most: 100 ms at 2 Gbit/s in packets of 1500 bytes.
const FLYING_MAX: usize = 16 * 1024;
/// Frames taken from one node before the next has its turn.
const BATCH: usize = 64;

/// Why there is no such link.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A node can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// No thread, or no pipe to stop it.
    #[error("can't start the simulated link: {0}")]
    Thread(io::Error),
}

type Link = Wire<usize, Vec<u8>>;

/// A running link between hosts, which are numbered from 0 in the order of [`Plan::hosts`]; stops when dropped.
#[derive(Debug)]
pub struct WireUnderlay {
    link: Arc<Mutex<Link>>,
    /// Hangs up to stop the thread.
    running: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl WireUnderlay {
    pub(super) fn new(plan: &Plan, hosts: &[&NetNs]) -> Result<Self, WireError> {
        let open = |(host, netns): (&super::NodePlan, &&NetNs)| -> Result<Tap, WireError> {
            let mut config = TapConfig::new(UPLINK);
            config.mac = Some(host.mac);
            config.mtu = Some(plan.underlay_mtu);
            // Faults are for single packets, so super-frames are not to be had.
            config.offloads = Offloads::NONE;
            Ok(netns.run(|| Tap::open(&config))??)
        };
        let taps = plan.hosts().zip(hosts).map(open).collect::<Result<Vec<_>, _>>()?;
        let (stop, running) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| WireError::Thread(errno.into()))?;
        let link = Arc::new(Mutex::new(Wire::new(plan.wire.faults, plan.wire.seed, FLYING_MAX)));
        let carrier = Carrier {
            taps,
            by_mac: plan.hosts().enumerate().map(|(index, host)| (host.mac, index)).collect(),
            link: Arc::clone(&link),
            pool: Pool::new(BATCH),
        };
        let thread = thread::Builder::new().name("lab-wire".into()).spawn(move || carrier.run(&stop));
        let thread = Some(thread.map_err(WireError::Thread)?);
        Ok(Self { link, running: Some(running), thread })
    }

    /// Cuts two nodes off from each other; what is on its way still arrives.
    pub fn partition(&self, a: usize, b: usize) {
        lock(&self.link).partition(a, b);
    }

    /// Joins them again.
    pub fn heal(&self, a: usize, b: usize) {
        lock(&self.link).heal(a, b);
    }

    /// What has become of the frames so far.
    #[must_use]
    pub fn counts(&self) -> WireCounts {
        lock(&self.link).counts()
    }
}

impl Drop for WireUnderlay {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; the nodes are about to go in any case.
            let _panicked = thread.join();
        }
    }
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread owns.
struct Carrier {
    taps: Vec<Tap>,
    by_mac: HashMap<MacAddr, usize>,
    link: Arc<Mutex<Link>>,
    pool: Pool,
}

impl Carrier {
    fn run(mut self, stop: &OwnedFd) {
        loop {
            let deadline = lock(&self.link).next_deadline();
            let (ready, stopped) = match self.wait(stop, deadline) {
                Ok(outcome) => outcome,
                Err(Errno::INTR) => continue,
                // Neither memory nor descriptors: the link is as good as cut, which the check then says.
                Err(_) => return,
            };
            if stopped {
                return;
            }
            for node in ready {
                self.take(node);
            }
            self.deliver();
        }
    }

    /// Waits for frames, the deadline or the end; gives the nodes that have frames, and whether it is the end.
    fn wait(&self, stop: &OwnedFd, deadline: Option<Instant>) -> Result<(Vec<usize>, bool), Errno> {
        let mut polled: Vec<PollFd<'_>> = self
            .taps
            .iter()
            .map(|tap| tap.pollable().expect("it has not been split"))
            .map(|queue| PollFd::from_borrowed_fd(queue, PollFlags::IN))
            .collect();
        polled.push(PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::empty()));
        let timeout = deadline.map(|at| {
            let wait = at.saturating_duration_since(Instant::now());
            Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() }
        });
        poll(&mut polled, timeout.as_ref())?;
        let stopped = polled.pop().is_some_and(|last| !last.revents().is_empty());
        let ready = polled.iter().enumerate().filter(|(_, polled)| !polled.revents().is_empty());
        Ok((ready.map(|(node, _)| node).collect(), stopped))
    }

    /// Puts a batch of a node's frames on the link.
    fn take(&mut self, from: usize) {
        let mut frames = Vec::with_capacity(BATCH);
        match self.taps[from].read(&mut self.pool, &mut frames, BATCH) {
            Ok(_) | Err(ReadError::Io(_)) => {}
            // Its namespace is held by the lab, so it goes only if somebody deletes it: that node is cut off.
            Err(ReadError::Gone) => {}
        }
        let mut link = lock(&self.link);
        let now = Instant::now();
        for frame in frames {
            let bytes = frame.buf.data();
            match Header::parse(bytes).ok().and_then(|header| self.by_mac.get(&header.destination)) {
                Some(&to) if to != from => link.send(from, to, bytes.to_vec(), now),
                Some(_) => {}
                None => {
                    for to in (0..self.taps.len()).filter(|&to| to != from) {
                        link.send(from, to, bytes.to_vec(), now);
                    }
                }
            }
            self.pool.put(frame.buf);
        }
    }

    fn deliver(&mut self) {
        let mut link = lock(&self.link);
        let now = Instant::now();
        while let Some((_, to, frame)) = link.poll(now) {
            // A full queue loses packets, as any link does.
            let _lost = self.taps[to].write(&[IoSlice::new(&frame)], Offload::default());
        }
        drop(link);
        self.taps.iter_mut().for_each(FrameIo::flush);
    }
}
