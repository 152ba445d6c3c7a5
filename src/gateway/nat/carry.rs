//! A network's way out, and in: each packet and each socket to whom it belongs.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use etherparse::IpNumber;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use super::connections::{self, Connections};
use super::counters::{Count, Counters, Kind};
use super::datagrams::{self, Datagrams, is_echo_request};
use super::host::{Host, Interest, Ready, Token};
use super::inside::{Inside, Outward, Refusal};
use super::inward::{self, Board, Inward, Listing};
use super::policy::Policy;
use super::table::Limits;
use super::turn::Turn;
use crate::gateway::addresses::{Addresses, is_host};
use crate::gateway::publication::Publication;
use crate::gateway::station::Carried;
use crate::switch::wire::flow::{TCP, UDP};
use crate::switch::wire::virtio::Offload;

/// The least that a network carries: RFC 791 §3.1 has every host take so much, and smoltcp needs room for its
/// headers.
pub(super) const MTU_MIN: usize = 576;

/// What a way out is to be.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Where packets may go. It may be replaced: flows that there are stay.
    pub policy: Arc<ArcSwap<Policy>>,
    /// Sockets that it may have, together with all that share it: [`descriptors`].
    pub sockets: Arc<Semaphore>,
    /// Bytes of the largest packet that the network carries.
    pub mtu: u32,
    /// Whether the network is to have no way out: then only what comes from outside to a published port is carried, and
    /// what answers that.
    pub internal: bool,
}

impl Outside {
    /// One that may go where `policy` says.
    #[must_use]
    pub fn new(policy: Policy, mtu: u32) -> Self {
        Self { policy: Arc::new(ArcSwap::from_pointee(policy)), sockets: descriptors(), mtu, internal: false }
    }
}

/// As many sockets as this process may hold for others: it raises its soft limit of descriptors to the hard one,
/// and keeps a quarter for itself. Otherwise endpoints could leave it without any.
#[must_use]
pub fn descriptors() -> Arc<Semaphore> {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let may = if raised.is_ok() { limit.maximum } else { limit.current };
    let may = may.map_or(Semaphore::MAX_PERMITS, |may| usize::try_from(may).unwrap_or(usize::MAX));
    Arc::new(Semaphore::new((may / 4 * 3).min(Semaphore::MAX_PERMITS)))
}

/// How many flows there may be of each kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowLimits {
    pub(super) tcp: Limits,
    pub(super) udp: Limits,
    pub(super) echo: Limits,
    /// From outside.
    pub(super) tcp_in: Limits,
    pub(super) udp_in: Limits,
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self {
            tcp: connections::LIMITS,
            udp: datagrams::UDP_LIMITS,
            echo: datagrams::ECHO_LIMITS,
            tcp_in: inward::LIMITS,
            udp_in: inward::UDP_LIMITS,
        }
    }
}

/// A network's way out.
#[derive(Debug)]
pub struct Nat {
    policy: Arc<ArcSwap<Policy>>,
    host: Host,
    inside: Inside,
    rng: fastrand::Rng,
    tcp: Connections,
    udp: Datagrams,
    echo: Datagrams,
    inward: Inward,
    board: Arc<Board>,
    bell: Token,
}

impl Nat {
    /// One without flows. `seed` is that of sequence numbers.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new(outside: &Outside, seed: u64) -> io::Result<Self> {
        Self::limited(outside, seed, FlowLimits::default())
    }

    pub(super) fn limited(outside: &Outside, seed: u64, limits: FlowLimits) -> io::Result<Self> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mtu = usize::try_from(outside.mtu).unwrap_or(usize::MAX).clamp(MTU_MIN, usize::from(u16::MAX));
        let mut host = Host::new(Arc::clone(&outside.sockets))?;
        let board = Arc::new(Board::new()?);
        let bell = host.watch(board.bell(), Interest::Reading)?;
        Ok(Self {
            policy: Arc::clone(&outside.policy),
            host,
            inside: Inside::new(mtu, Arc::new(Counters::default()), rng.u32(..)),
            rng,
            tcp: Connections::new(Kind::Tcp, limits.tcp),
            udp: Datagrams::new(Kind::Udp, limits.udp),
            echo: Datagrams::new(Kind::Echo, limits.echo),
            inward: Inward::new(limits.tcp_in, limits.udp_in, Arc::clone(&board)),
            board,
            bell,
        })
    }

    /// Where it reads which doors it is to have.
    pub(in crate::gateway) fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// Takes what comes to these doors, and to no others, from now on; `at` is where the gateway is. Flows of others end.
    pub fn publish(&mut self, at: &Addresses, publications: &[Publication], now: Instant) {
        let inlets = publications.iter().map(|publication| publication.inlet(at)).collect();
        let listing = Listing { inlets, endpoints: BTreeSet::new() };
        let policy = self.policy.load();
        let (mut turn, flows) = self.parts(&policy, now);
        flows.inward.hang(listing, &mut turn);
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.inside.counters)
    }

    /// Takes a packet from inside: that which was found in a frame. Its checksums have been looked at.
    pub fn handle(&mut self, frame: &[u8], carried: Carried, now: Instant) {
        let outward = Outward::new(frame, carried.found, carried.back);
        let policy = self.policy.load();
        let (mut turn, flows) = self.parts(&policy, now);
        if flows.inward.handle(&outward, &mut turn) {
            return;
        }
        if !is_host(outward.destination) && !policy.allows(outward.destination) {
            // Nobody is told of what was for many, or for none (RFC 1122 §3.2.2).
            return turn.inside.counters.add(Count::Denied);
        }
        if outward.hops <= 1 {
            return turn.refuse(&outward, Refusal::Hops, Count::HopLimit);
        }
        match outward.protocol {
            TCP => flows.tcp.handle(&outward, &mut turn),
            UDP => flows.udp.handle(&outward, &mut turn),
            _ if is_echo_request(&outward) => flows.echo.handle(&outward, &mut turn),
            // Answers and errors: to nothing that has come from outside as it was.
            _ if is_icmp(outward.protocol) => turn.inside.counters.add(Count::Protocol),
            _ => turn.refuse(&outward, Refusal::Prohibited, Count::Protocol),
        }
    }

    /// Waits until a socket has something, but not longer than that, and takes it from all that have. Gives
    /// whether what [`Self::watch`] was given is ready.
    ///
    /// # Errors
    /// The system has none.
    pub fn wait(&mut self, watched: Token, patience: Option<Duration>) -> io::Result<(bool, Vec<Ready>)> {
        let mut ready = self.host.wait(patience)?;
        let before = ready.len();
        ready.retain(|ready| ready.token != watched);
        Ok((ready.len() < before, ready))
    }

    /// Has [`Self::wait`] tell when something else can be read.
    ///
    /// # Errors
    /// The system can't watch it.
    pub fn watch(&mut self, other: impl AsFd) -> io::Result<Token> {
        self.host.watch(other, Interest::Reading)
    }

    /// Does what a socket that is ready asks for.
    pub fn ready(&mut self, ready: Ready, now: Instant) {
        let policy = self.policy.load();
        let bell = self.bell;
        let (mut turn, flows) = self.parts(&policy, now);
        if ready.token == bell {
            return flows.inward.take_posted(&mut turn);
        }
        // One that is none of these has been closed since.
        let _known = flows.tcp.ready(ready, &mut turn)
            || flows.udp.ready(ready, &mut turn)
            || flows.echo.ready(ready, &mut turn)
            || flows.inward.ready(ready, &mut turn);
    }

    /// When [`Self::tick`] is to be called, if at all.
    #[must_use]
    pub fn next_tick(&self) -> Option<Instant> {
        [self.tcp.next(), self.udp.next(), self.echo.next(), self.inward.next()].into_iter().flatten().min()
    }

    /// Does what time asks for.
    pub fn tick(&mut self, now: Instant) {
        let policy = self.policy.load();
        let (mut turn, flows) = self.parts(&policy, now);
        flows.tcp.wake(&mut turn);
        flows.udp.expire(&mut turn);
        flows.echo.expire(&mut turn);
        flows.inward.tick(&mut turn);
    }

    /// Frames that are to go inside, in this order, with what is left to do to each.
    pub fn frames(&mut self) -> std::vec::Drain<'_, (Vec<u8>, Offload)> {
        self.inside.frames.drain(..)
    }

    /// Counts a frame that the network had no room for.
    pub fn lost(&self) {
        self.inside.counters.add(Count::Lost);
    }

    /// Counts a fragment.
    pub fn fragment(&self) {
        self.inside.counters.add(Count::Fragment);
    }

    fn parts<'a>(&'a mut self, policy: &'a Policy, now: Instant) -> (Turn<'a>, Flows<'a>) {
        let Self { host, inside, rng, tcp, udp, echo, inward, .. } = self;
        (Turn { now, policy, host, inside, rng }, Flows { tcp, udp, echo, inward })
    }
}

impl Drop for Nat {
    /// Nobody waits for it any more.
    fn drop(&mut self) {
        self.board.close();
    }
}

struct Flows<'a> {
    tcp: &'a mut Connections,
    udp: &'a mut Datagrams,
    echo: &'a mut Datagrams,
    inward: &'a mut Inward,
}

fn is_icmp(protocol: u8) -> bool {
    [IpNumber::ICMP.0, IpNumber::IPV6_ICMP.0].contains(&protocol)
}
