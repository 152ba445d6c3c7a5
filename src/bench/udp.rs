//! The underlay: datagrams sent and received by the switch's own sockets, singly, in batches, and in runs.
//!
//! Over a veth pair between two namespaces, or the loopback where there is no sandbox. The receiving kernel's work
//! is then done on the sender's time, up to the socket: between hosts it would be the receiver's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cpu::{self, Tally};
use super::frames::SMALL_PAYLOAD;
use super::halt::{Halt, beside};
use super::{BenchError, system};
use crate::namespace::netlink::{Netlink, VethEnd};
use crate::namespace::netns::NetNs;
use crate::switch::io::udp::{RECEIVE_BUFFER_BYTES, Udp, UdpConfig};
use crate::switch::io::{DatagramIo, SendError};
use crate::switch::outbox::{Outbox, Payload, RUN_BYTES_MAX, RUN_DATAGRAMS_MAX, Transmit};
use crate::switch::packet::Pool;
use crate::switch::vtep::VtepId;
use crate::switch::wire::{Vni, vxlan};

const DEVICE: &str = "eth0";
const MTU: u16 = 1500;
/// UDP payload of a small frame in VXLAN: VXLAN, Ethernet, IPv4 and UDP headers before the inner payload.
const SMALL: usize = 8 + 14 + 20 + 8 + SMALL_PAYLOAD;
/// UDP payload of a full packet.
const FULL: usize = MTU as usize - 20 - 8;
/// Datagrams of the longest run.
const RUN: usize =
    if RUN_BYTES_MAX / FULL < RUN_DATAGRAMS_MAX { RUN_BYTES_MAX / FULL } else { RUN_DATAGRAMS_MAX };
/// Messages sent, and received, at once where there are several; the worker's batches are alike.
const BATCH: usize = 32;
/// How long a link may take until it carries; the kernel brings it up in its own time, a second when it is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts to get something through.
const ATTEMPT: Duration = Duration::from_millis(10);
/// Chooses source ports; any does, for the namespaces are ours.
const SEED: u64 = 1;

/// What UDP can do here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UdpFigures {
    /// `veth` or `loopback`.
    pub path: &'static str,
    /// Whether the kernel takes runs of datagrams as one message (`UDP_SEGMENT`).
    pub segmentation: bool,
    /// Mean datagrams that one received message held when runs were sent; 1 where `UDP_GRO` joins none.
    pub datagrams_per_message: f64,
    /// Bytes granted to the receive buffer, without the as many that the kernel adds for itself (socket(7)).
    pub receive_buffer_bytes: usize,
    /// Bytes asked for.
    pub receive_buffer_asked_bytes: usize,
    /// Small datagrams, a system call each.
    pub singles: Datagrams,
    /// Small datagrams, as many to a system call as the switch takes, a message each (`sendmmsg`): what it does with
    /// frames of different sizes.
    pub batches: Datagrams,
    /// Small datagrams, as many joined to one message: what it does with frames of one size that follow each other.
    pub equal: Datagrams,
    /// Full datagrams in runs of 64 KiB.
    pub runs: Runs,
}

/// How small datagrams fared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Datagrams {
    /// CPU nanoseconds for sending one.
    pub send_ns: f64,
    /// CPU nanoseconds for receiving one.
    pub receive_ns: f64,
    /// What arrived, by the clock.
    pub arrived_per_s: f64,
    /// Share of those sent that did not arrive, 0 to 1.
    pub lost: f64,
}

/// How runs fared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Runs {
    /// Gbit that one core sends in a second.
    pub send_gbit_s: f64,
    /// Gbit that one core receives in a second.
    pub receive_gbit_s: f64,
    /// What arrived, by the clock.
    pub arrived_gbit_s: f64,
    /// Share of the datagrams sent that did not arrive, 0 to 1.
    pub lost: f64,
}

/// Measures four times for `each`; `confined` if this process is in a sandbox.
///
/// # Errors
/// If there are no namespaces though there should be, no sockets, or nothing arrives.
pub fn measure(each: Duration, confined: bool) -> Result<UdpFigures, BenchError> {
    let path = if confined { Path::veth()? } else { Path::Loopback };
    let small = |messages| Load { datagrams: 1, messages, bytes: SMALL };
    let full = Load { datagrams: RUN, messages: BATCH, bytes: FULL };
    let (_, singles) = path.drive(small(1), each, false)?;
    let (_, batches) = path.drive(small(BATCH), each, false)?;
    let (_, equal) = path.drive(small(BATCH), each, true)?;
    let (sockets, runs) = path.drive(full, each, true)?;
    let figures = || {
        Some(UdpFigures {
            path: path.name(),
            segmentation: sockets.segmentation,
            datagrams_per_message: runs.received.items as f64 / runs.messages as f64,
            receive_buffer_bytes: sockets.receive_buffer,
            receive_buffer_asked_bytes: RECEIVE_BUFFER_BYTES,
            singles: singles.datagrams()?,
            batches: batches.datagrams()?,
            equal: equal.datagrams()?,
            runs: runs.runs()?,
        })
    };
    figures().ok_or(BenchError::Nothing("UDP"))
}

/// What the datagrams go over.
enum Path {
    Veth { near: NetNs, far: NetNs },
    Loopback,
}

impl Path {
    fn veth() -> Result<Self, BenchError> {
        let (near, far) = (NetNs::create()?, NetNs::create()?);
        let end = VethEnd { name: DEVICE, mac: None, mtu: MTU.into() };
        Netlink::open(&near)?.add_veth(end, end, Some(&far))?;
        for (netns, number) in [(&near, 1), (&far, 2)] {
            let mut netlink = Netlink::open(netns)?;
            netlink.add_address(DEVICE, address(number), 24)?;
            netlink.set_up(DEVICE)?;
        }
        until_it_carries(&near, &far)?;
        Ok(Self::Veth { near, far })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Veth { .. } => "veth",
            Self::Loopback => "loopback",
        }
    }

    /// A sender and a receiver.
    fn bind(&self, segmentation: bool) -> Result<(Udp, Udp), BenchError> {
        let socket = |address: IpAddr| {
            let config =
                UdpConfig { port: 0, source_ports: 1, segmentation, ..UdpConfig::new(address, SEED) };
            move || Udp::bind(&config)
        };
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        Ok(match self {
            Self::Veth { near, far } => (near.run(socket(address(1)))??, far.run(socket(address(2)))??),
            Self::Loopback => (socket(loopback)()?, socket(Ipv4Addr::LOCALHOST.into())()?),
        })
    }

    /// Sends `load` again and again, and counts what arrives. With `segmentation` equal datagrams are joined.
    fn drive(
        &self,
        load: Load,
        each: Duration,
        segmentation: bool,
    ) -> Result<(Sockets, Traffic), BenchError> {
        let (mut sender, mut receiver) = self.bind(segmentation)?;
        let out = load.outbox(receiver.local_addr());
        let start = Instant::now();
        let receive = |halt: Halt| receive(&mut receiver, &halt);
        let (sent, (received, messages)) = beside(receive, || send(&mut sender, &out, each))?;
        let traffic = Traffic { sent, received, messages, took: start.elapsed() };
        let granted = receiver.receive_buffer().map_err(system("ask for the receive buffer"))?;
        Ok((Sockets { segmentation: sender.segments(), receive_buffer: granted / 2 }, traffic))
    }
}

/// Sends until something arrives: a link that is set up drops everything without a word until it carries.
fn until_it_carries(near: &NetNs, far: &NetNs) -> Result<(), BenchError> {
    let bind = |netns: &NetNs, number| netns.run(move || UdpSocket::bind((address(number), 0)));
    let (near, far) = (bind(near, 1)?, bind(far, 2)?);
    let attempt = || {
        let (near, far) = (near?, far?);
        far.set_read_timeout(Some(ATTEMPT))?;
        let (to, start) = (far.local_addr()?, Instant::now());
        while start.elapsed() < PATIENCE {
            near.send_to(&[], to)?;
            match far.recv(&mut [0]) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                outcome => return outcome.map(|_| true),
            }
        }
        Ok(false)
    };
    let carries = attempt().map_err(system("try the link"))?;
    if carries { Ok(()) } else { Err(BenchError::Nothing("UDP over veth")) }
}

/// Of RFC 2544's range for benchmarks.
fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, 0, number).into()
}

/// What one call to the socket is given.
#[derive(Clone, Copy)]
struct Load {
    datagrams: usize,
    messages: usize,
    bytes: usize,
}

impl Load {
    fn outbox(self, to: SocketAddr) -> Outbox {
        let mut pool = Pool::new(1);
        let mut packet = pool.take().expect("a new pool has one");
        packet.fill(&vec![0x5a; self.datagrams * self.bytes]);
        let transmit = Transmit {
            peer: VtepId(0),
            to,
            payload: Payload::Frames(Vni::new(0).expect("24 bits")),
            overhead: vxlan::HEADER_LEN,
            entropy: 0,
            packet: 0,
            range: packet.range(),
            segment: self.bytes,
            heads: None,
        };
        Outbox { transmits: vec![transmit; self.messages], packets: vec![packet], ..Outbox::default() }
    }
}

/// What the sockets turned out to be.
struct Sockets {
    segmentation: bool,
    receive_buffer: usize,
}

/// What went over a path.
struct Traffic {
    sent: Tally,
    received: Tally,
    messages: u64,
    took: Duration,
}

impl Traffic {
    fn lost(&self) -> f64 {
        1.0 - self.received.items as f64 / self.sent.items as f64
    }

    fn datagrams(&self) -> Option<Datagrams> {
        Some(Datagrams {
            send_ns: self.sent.ns_each()?,
            receive_ns: self.received.ns_each()?,
            arrived_per_s: self.received.items as f64 / self.took.as_secs_f64(),
            lost: self.lost(),
        })
    }

    fn runs(&self) -> Option<Runs> {
        Some(Runs {
            send_gbit_s: self.sent.gbit_s()?,
            receive_gbit_s: self.received.gbit_s()?,
            arrived_gbit_s: cpu::gbit_s(self.received.bytes, self.took),
            lost: self.lost(),
        })
    }
}

fn send(socket: &mut Udp, out: &Outbox, duration: Duration) -> Result<Tally, BenchError> {
    let mut tally = Tally::default();
    let mut failed = Vec::new();
    let start = Instant::now();
    while start.elapsed() < duration {
        let before = cpu::spent();
        socket.send(out, &mut failed);
        let spent = cpu::spent().saturating_sub(before);
        let sent = &out.transmits[..out.transmits.len() - failed.len()];
        let datagrams = sent.iter().map(Transmit::datagrams).sum();
        tally.add(datagrams, sent.iter().map(|transmit| transmit.range.len()).sum(), spent);
        for (_, error) in failed.drain(..) {
            match error {
                // Not sent, so not counted.
                SendError::Full => {}
                SendError::Refused(error) => return Err(system("send datagrams")(error)),
                SendError::TooBig => return Err(system("send datagrams")(rustix::io::Errno::MSGSIZE)),
            }
        }
    }
    Ok(tally)
}

/// Gives what was received, and in how many messages.
fn receive(socket: &mut Udp, halt: &Halt) -> Result<(Tally, u64), BenchError> {
    let (mut pool, mut received) = (Pool::new(BATCH), Vec::with_capacity(BATCH));
    let (mut tally, mut messages) = (Tally::default(), 0);
    loop {
        let go_on = halt.wait(&socket.pollable()).map_err(system("wait for datagrams"))?;
        loop {
            let before = cpu::spent();
            socket.receive(&mut pool, &mut received, BATCH).map_err(system("receive datagrams"))?;
            let spent = cpu::spent().saturating_sub(before);
            messages += received.len() as u64;
            let bytes: usize = received.iter().map(|message| message.buf.data().len()).sum();
            let datagrams =
                received.iter().map(|message| message.buf.data().len().div_ceil(message.segment)).sum();
            tally.add(datagrams, bytes, spent);
            let drained = received.len() < BATCH;
            received.drain(..).for_each(|message| pool.put(message.buf));
            if drained {
                break;
            }
        }
        if !go_on {
            return Ok((tally, messages));
        }
    }
}
