//! TAP devices: offloads, the cost of a frame, and a stream through two of them with nothing between.
//!
//! ```text
//!  namespace A                                namespace B
//!  sender ── tap0 ══ this program: read, write ══ tap0 ── receiver
//! ```
//!
//! The kernel gives us the frames of real senders, and what it does with those that we hand over goes up to the
//! receiver's socket, for it does that on the writer's time.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cpu::{self, Tally};
use super::frames::SMALL_PAYLOAD;
use super::halt::{Halt, beside};
use super::{BenchError, system};
use crate::lab::throughput;
use crate::namespace::netlink::Netlink;
use crate::namespace::netns::NetNs;
use crate::switch::io::tap::{Offloads, Tap, TapConfig};
use crate::switch::io::{Frame, FrameIo, WriteError};
use crate::switch::packet::Pool;
use crate::switch::wire::MacAddr;

const DEVICE: &str = "tap0";
/// As an overlay over 1500 bytes has it.
const MTU: u32 = 1450;
/// Frames read before any is written, as the switch does.
const BATCH: usize = 64;
/// Datagrams sent between two looks at the clock.
const BURST: usize = 64;

/// What TAPs can do here.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TapFigures {
    /// What the kernel has agreed to: `checksum+tso+ecn+uso`, or fewer, or `none`.
    pub offloads: String,
    /// Whether UDP super-frames are among them.
    pub uso: bool,
    /// CPU nanoseconds for reading a frame with a 64-byte datagram.
    pub read_small_ns: f64,
    /// The same for writing it, up to the receiver's socket.
    pub write_small_ns: f64,
    /// Gbit that one core reads in a second, in super-frames of a TCP stream.
    pub read_bulk_gbit_s: f64,
    /// The same for writing them, up to the receiver's socket.
    pub write_bulk_gbit_s: f64,
    /// Mean bytes of such a frame.
    pub bulk_frame_bytes: f64,
    /// What a TCP stream came to, read and written by one thread, by the clock.
    pub stream_gbit_s: f64,
}

/// Measures twice for `each`. Needs a sandbox.
///
/// # Errors
/// If there are no namespaces or no TAPs, or nothing goes through them.
pub fn measure(each: Duration) -> Result<TapFigures, BenchError> {
    let (near, far) = (End::new(1, 2)?, End::new(2, 1)?);
    let (near_netns, far_netns, target) = (near.netns, far.netns, far.address);
    let offloads = near.tap.offloads();
    let mut pump = Pump::new(near.tap, far.tap);

    let receiver = bind(&far_netns, target)?;
    let to = receiver.local_addr().map_err(system("bind a receiver"))?;
    let sender = bind(&near_netns, End::address(1))?;
    let ((), small) = beside(|halt| pump.run(&halt), || send_for(&sender, to, each))?;
    let stream = || Ok(throughput::measure(&near_netns, &far_netns, target, each)?);
    let (flow, bulk) = beside(|halt| pump.run(&halt), stream)?;

    figures(offloads, small, bulk, cpu::gbit_s(flow.bytes, flow.took))
        .ok_or(BenchError::Nothing("two TAPs joined"))
}

fn figures(offloads: Offloads, small: Pumped, bulk: Pumped, stream_gbit_s: f64) -> Option<TapFigures> {
    Some(TapFigures {
        offloads: offloads.to_string(),
        uso: offloads.uso,
        read_small_ns: small.read.ns_each()?,
        write_small_ns: small.written.ns_each()?,
        read_bulk_gbit_s: bulk.read.gbit_s()?,
        write_bulk_gbit_s: bulk.written.gbit_s()?,
        bulk_frame_bytes: bulk.read.bytes as f64 / bulk.read.items as f64,
        stream_gbit_s,
    })
}

/// A namespace with a TAP.
struct End {
    netns: NetNs,
    tap: Tap,
    address: IpAddr,
}

impl End {
    /// Number `own` of a network in which number `other` is known, so that nobody needs to ask.
    fn new(own: u8, other: u8) -> Result<Self, BenchError> {
        let netns = NetNs::create()?;
        let mut config = TapConfig::new(DEVICE);
        config.mac = Some(mac(own));
        config.mtu = Some(MTU);
        let tap = netns.run(|| Tap::open(&config))??;
        let mut netlink = Netlink::open(&netns)?;
        netlink.add_address(DEVICE, Self::address(own), 24)?;
        netlink.add_neighbour(DEVICE, Self::address(other), mac(other))?;
        Ok(Self { netns, tap, address: Self::address(own) })
    }

    /// Of RFC 2544's range for benchmarks.
    fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(198, 18, 1, number).into()
    }
}

fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, number])
}

fn bind(netns: &NetNs, address: IpAddr) -> Result<UdpSocket, BenchError> {
    netns.run(|| UdpSocket::bind((address, 0)))?.map_err(system("bind a UDP socket"))
}

/// Sends small datagrams; what the TAP's queue does not hold the kernel drops without a word.
fn send_for(socket: &UdpSocket, to: SocketAddr, duration: Duration) -> Result<(), BenchError> {
    let payload = [0x5a; SMALL_PAYLOAD];
    let start = Instant::now();
    while start.elapsed() < duration {
        for _ in 0..BURST {
            socket.send_to(&payload, to).map_err(system("send a datagram"))?;
        }
    }
    Ok(())
}

/// Carries frames between two TAPs, and counts those from the first to the second.
struct Pump {
    near: Tap,
    far: Tap,
    pool: Pool,
    frames: Vec<Frame>,
}

/// What a pump has done.
#[derive(Clone, Copy, Debug, Default)]
struct Pumped {
    read: Tally,
    written: Tally,
}

impl Pump {
    fn new(near: Tap, far: Tap) -> Self {
        Self { near, far, pool: Pool::new(BATCH), frames: Vec::with_capacity(BATCH) }
    }

    fn run(&mut self, halt: &Halt) -> Result<Pumped, BenchError> {
        let Self { near, far, pool, frames } = self;
        let (mut there, mut back) = (Pumped::default(), Pumped::default());
        loop {
            let devices: Vec<_> = near.pollable().into_iter().chain(far.pollable()).collect();
            let go_on = halt.wait(&devices).map_err(system("wait for frames"))?;
            there.carry(near, far, pool, frames)?;
            back.carry(far, near, pool, frames)?;
            if !go_on {
                return Ok(there);
            }
        }
    }
}

impl Pumped {
    /// Carries a batch, of no frame if there is none.
    fn carry(
        &mut self,
        from: &mut Tap,
        to: &mut Tap,
        pool: &mut Pool,
        frames: &mut Vec<Frame>,
    ) -> Result<(), BenchError> {
        let start = cpu::spent();
        from.read(pool, frames, BATCH)?;
        let read = cpu::spent();
        let (mut written, mut bytes) = (0, 0);
        for frame in frames.iter() {
            match to.write(&[IoSlice::new(frame.buf.data())], frame.offload) {
                Ok(()) => written += 1,
                Err(gone @ WriteError::Gone) => return Err(gone.into()),
                // Lost, as on any link that is full; who sends a stream sends it again.
                Err(_) => continue,
            }
            bytes += frame.buf.data().len();
        }
        to.flush();
        if !frames.is_empty() {
            let all = frames.iter().map(|frame| frame.buf.data().len()).sum();
            self.read.add(frames.len(), all, read.saturating_sub(start));
            self.written.add(written, bytes, cpu::spent().saturating_sub(read));
        }
        frames.drain(..).for_each(|frame| pool.put(frame.buf));
        Ok(())
    }
}
