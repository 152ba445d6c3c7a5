//! An underlay in memory, for workers in one process.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::wire::{Faults, Wire, WireCounts};
use crate::io::{DatagramIo, Received, SendError};
use crate::outbox::{Outbox, RUN_BYTES_MAX};
use crate::packet::Pool;

/// Datagrams on their way in one network.
const WIRE_MAX: usize = 16_384;
/// Datagrams that have arrived at one address and not been received, about what a socket's buffer holds.
const INBOX_MAX: usize = 1_024;

/// Addresses joined by a [`Wire`]. Clones are the same network.
#[derive(Clone, Debug)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

/// One address of a [`Network`], as a worker's underlay.
#[derive(Debug)]
pub struct Underlay {
    network: Network,
    address: SocketAddr,
    timer: Arc<OwnedFd>,
}

#[derive(Debug)]
struct State {
    wire: Wire<SocketAddr, Vec<u8>>,
    members: HashMap<SocketAddr, Member>,
    refused: u64,
}

#[derive(Debug)]
struct Member {
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Goes off when something may have arrived.
    timer: Arc<OwnedFd>,
}

impl Network {
    /// A network without members.
    #[must_use]
    pub fn new(faults: Faults, seed: u64) -> Self {
        let state = State { wire: Wire::new(faults, seed, WIRE_MAX), members: HashMap::new(), refused: 0 };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Takes an address in this network; it is free again when the underlay is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`], or no descriptor is left for its timer.
    pub fn attach(&self, address: SocketAddr) -> io::Result<Underlay> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let timer = Arc::new(timer);
        let mut state = self.state();
        if state.members.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        state.members.insert(address, Member { inbox: VecDeque::new(), timer: Arc::clone(&timer) });
        Ok(Underlay { network: self.clone(), address, timer })
    }

    /// Cuts the link between two addresses, both ways.
    pub fn partition(&self, a: SocketAddr, b: SocketAddr) {
        self.state().wire.partition(a, b);
    }

    /// Joins them again.
    pub fn heal(&self, a: SocketAddr, b: SocketAddr) {
        self.state().wire.heal(a, b);
    }

    /// Datagrams that had crossed the link and were lost for want of a member, or of room at one.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.state().refused
    }

    /// What has become of the datagrams so far.
    #[must_use]
    pub fn counts(&self) -> WireCounts {
        self.state().wire.counts()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts what has arrived into inboxes, and sets everybody's timer for what comes next.
    fn settle(&mut self, now: Instant) {
        while let Some((from, to, datagram)) = self.wire.poll(now) {
            // As in any network, datagrams for nobody, or for somebody who doesn't keep up, are lost.
            if let Some(member) = self.members.get_mut(&to).filter(|member| member.inbox.len() < INBOX_MAX) {
                member.inbox.push_back((from, datagram));
            } else {
                self.refused += 1;
            }
        }
        let next = self.wire.next_deadline().map(|due| due.saturating_duration_since(now));
        for member in self.members.values() {
            member.set_timer(if member.inbox.is_empty() { next } else { Some(Duration::ZERO) });
        }
    }
}

impl Member {
    /// Makes the timer readable after `wait`; never if there is nothing to wait for.
    fn set_timer(&self, wait: Option<Duration>) {
        // A time of zero would disarm it.
        let wait = wait.map_or(Duration::ZERO, |wait| wait.max(Duration::from_nanos(1)));
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .expect("a timer of ours, a valid time");
    }
}

impl DatagramIo for Underlay {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Received>, max: usize) -> io::Result<()> {
        let mut state = self.network.state();
        let now = clock();
        state.settle(now);
        let member = state.members.get_mut(&self.address).expect("a member until it is dropped");
        for _ in 0..max {
            if member.inbox.is_empty() {
                break;
            }
            let Some(mut buf) = pool.take() else { break };
            let (from, datagram) = member.inbox.pop_front().expect("it is not empty");
            buf.fill(&datagram);
            into.push(Received { buf, from, segment: datagram.len().max(1) });
        }
        state.settle(now);
        Ok(())
    }

    fn send(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>) {
        let mut state = self.network.state();
        let now = clock();
        for (index, transmit) in out.transmits.iter().enumerate() {
            if transmit.segment > RUN_BYTES_MAX {
                failed.push((index, SendError::TooBig));
                continue;
            }
            for datagram in out.datagrams(transmit) {
                state.wire.send(self.address, transmit.to, datagram.concat(), now);
            }
        }
        state.settle(now);
    }

    fn pollable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.timer.as_fd()]
    }
}

impl Drop for Underlay {
    fn drop(&mut self) {
        self.network.state().members.remove(&self.address);
    }
}

#[expect(clippy::disallowed_methods, reason = "an underlay is a driver: its wire runs in real time")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::outbox::{Payload, Transmit};
    use crate::vtep::VtepId;
    use crate::wire::Vni;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 4789))
    }

    fn outbox(to: SocketAddr, datagrams: &[u8], segment: usize) -> Outbox {
        let mut buf = Pool::new(1).take().unwrap();
        buf.fill(datagrams);
        let (range, vni) = (buf.range(), Vni::new(0).unwrap());
        let transmit = Transmit {
            peer: VtepId(0),
            to,
            payload: Payload::Frames(vni),
            overhead: 0,
            entropy: 0,
            packet: 0,
            range,
            segment,
            heads: None,
        };
        Outbox { packets: vec![buf], transmits: vec![transmit], ..Outbox::default() }
    }

    fn received(underlay: &mut Underlay) -> Vec<Vec<u8>> {
        let (mut pool, mut into) = (Pool::new(8), Vec::new());
        let timer = underlay.pollable()[0].try_clone_to_owned().unwrap();
        let mut all = Vec::new();
        while all.is_empty() {
            poll(&mut [PollFd::new(&timer, PollFlags::IN)], None).unwrap();
            underlay.receive(&mut pool, &mut into, 8).unwrap();
            all.extend(into.drain(..).map(|received| received.buf.data().to_vec()));
        }
        all
    }

    #[test]
    fn a_run_arrives_as_its_datagrams_after_the_delay() {
        let network = Network::new(Faults { delay: Duration::from_millis(2), ..Faults::default() }, 1);
        let (mut a, mut b) = (network.attach(address(1)).unwrap(), network.attach(address(2)).unwrap());
        a.send(&outbox(address(2), b"onetwofour", 3), &mut Vec::new());
        assert_eq!(received(&mut b), [&b"one"[..], b"two", b"fou", b"r"]);
        assert_eq!(network.counts().delivered, 4);
    }

    #[test]
    fn what_no_datagram_can_hold_fails_and_what_nobody_takes_is_counted() {
        let network = Network::new(Faults::default(), 1);
        let mut a = network.attach(address(1)).unwrap();
        let mut failed = Vec::new();
        a.send(&outbox(address(9), &[0; RUN_BYTES_MAX + 1], RUN_BYTES_MAX + 1), &mut failed);
        assert!(matches!(failed[..], [(0, SendError::TooBig)]));
        a.send(&outbox(address(9), b"lost", 4), &mut failed);
        assert_eq!((failed.len(), network.refused()), (1, 1));
    }

    #[test]
    fn an_address_is_taken_once_and_freed_with_its_underlay() {
        let network = Network::new(Faults::default(), 1);
        let first = network.attach(address(1)).unwrap();
        assert_eq!(network.attach(address(1)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(network.attach(address(1)).is_ok());
    }
}
