//! The switch itself: two in memory, no device, no socket, no system call.
//!
//! What one sends is copied to the other, so each batch is timed on its way out and on its way in. Times are the
//! median batch's, which an interruption does not touch.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use super::cpu::{gbit_s, median};
use super::frames::{small, super_frame};
use crate::switch::datapath::Datapath;
use crate::switch::fdb::{Limits, Place};
use crate::switch::io::{Capabilities, Frame, Received};
use crate::switch::outbox::Outbox;
use crate::switch::packet::Pool;
use crate::switch::storm::StormLimit;
use crate::switch::switch::Switch;
use crate::switch::tables::{PortId, PortSpec};
use crate::switch::wire::virtio::Offload;
use crate::switch::wire::{MacAddr, Vni};

/// Small frames of a batch.
const SMALL_BATCH: usize = 32;
/// Super-frames of a batch; each becomes two runs.
const BULK_BATCH: usize = 8;
/// Buffers of a switch: a batch of super-frames, and its runs.
const BUFFERS: usize = 64;
/// Batches that are timed at most.
const SAMPLES_MAX: usize = 100_000;
const NETWORK: u32 = 42;
const NEAR: (MacAddr, ([u8; 4], u16)) = (MacAddr([2, 0, 0, 0, 0, 1]), ([192, 0, 2, 1], 4789));
const FAR: (MacAddr, ([u8; 4], u16)) = (MacAddr([2, 0, 0, 0, 0, 2]), ([192, 0, 2, 2], 4789));

/// What the switch does in memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryFigures {
    /// Nanoseconds from a small frame to its datagram.
    pub out_small_ns: f64,
    /// Nanoseconds from a small datagram to its frame.
    pub in_small_ns: f64,
    /// Gbit in super-frames that one core cuts, checksums and encapsulates in a second.
    pub out_bulk_gbit_s: f64,
    /// Gbit in runs that one core decapsulates, checks and joins in a second.
    pub in_bulk_gbit_s: f64,
}

/// Measures for about `each`.
///
/// # Errors
/// If frames get lost, in memory.
pub fn measure(each: Duration) -> Result<MemoryFigures, BenchError> {
    let mut bed = Bed::new()?;
    let small = (small(NEAR.0, FAR.0), Offload::default());
    let bulk = super_frame(NEAR.0, FAR.0);
    let (small_out, small_in) = bed.drive(&small, SMALL_BATCH, each / 2)?;
    let (bulk_out, bulk_in) = bed.drive(&bulk, BULK_BATCH, each / 2)?;
    let ns_each = |batch: Duration| batch.as_secs_f64() * 1e9 / SMALL_BATCH as f64;
    let bytes = (bulk.0.len() * BULK_BATCH) as u64;
    Ok(MemoryFigures {
        out_small_ns: ns_each(small_out),
        in_small_ns: ns_each(small_in),
        out_bulk_gbit_s: gbit_s(bytes, bulk_out),
        in_bulk_gbit_s: gbit_s(bytes, bulk_in),
    })
}

/// A switch with one port, one peer, and what its paths work with.
struct Side {
    path: Datapath,
    port: PortId,
    pool: Pool,
    out: Outbox,
    address: SocketAddr,
}

impl Side {
    /// One that knows both addresses, so that nothing is flooded and nothing learnt.
    fn new(own: (MacAddr, ([u8; 4], u16)), other: (MacAddr, ([u8; 4], u16))) -> Result<Self, BenchError> {
        let vni = Vni::new(NETWORK).expect("24 bits");
        let address = SocketAddr::from(own.1);
        let switch = Switch::new(address, Limits::default());
        let port = switch.add_port(PortSpec {
            name: "tap0".into(),
            vni,
            mtu: 1450,
            capabilities: Capabilities { checksum: true, tso: true, uso: true },
            storm: StormLimit::default(),
        })?;
        let peer = switch.add_peer(vni, other.1.into())?;
        switch.announce(vni, own.0, &[], Place::Port(port))?;
        switch.announce(vni, other.0, &[], Place::Vtep(peer))?;
        Ok(Self {
            path: Datapath::new(switch),
            port,
            pool: Pool::new(BUFFERS),
            out: Outbox::default(),
            address,
        })
    }
}

/// Two switches that know each other.
struct Bed {
    near: Side,
    far: Side,
    frames: Vec<Frame>,
    received: Vec<Received>,
}

impl Bed {
    fn new() -> Result<Self, BenchError> {
        let (near, far) = (Side::new(NEAR, FAR)?, Side::new(FAR, NEAR)?);
        Ok(Self { near, far, frames: Vec::new(), received: Vec::new() })
    }

    /// Sends batches of `count` equal frames for `duration`; gives the median times of a batch, out and in.
    fn drive(
        &mut self,
        frame: &(Vec<u8>, Offload),
        count: usize,
        duration: Duration,
    ) -> Result<(Duration, Duration), BenchError> {
        let (mut out, mut r#in) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while out.is_empty() || (start.elapsed() < duration && out.len() < SAMPLES_MAX) {
            out.push(self.send(frame, count, start));
            r#in.push(self.receive(frame.0.len() * count, start)?);
        }
        Ok((median(out), median(r#in)))
    }

    fn send(&mut self, frame: &(Vec<u8>, Offload), count: usize, now: Instant) -> Duration {
        let Side { path, port, pool, out, .. } = &mut self.near;
        self.frames.extend((0..count).map(|_| {
            let mut buf = pool.take().expect("a batch has buffers");
            buf.fill(&frame.0);
            Frame { buf, offload: frame.1 }
        }));
        let start = Instant::now();
        path.egress(*port, &mut self.frames, pool, out, now);
        start.elapsed()
    }

    /// Takes what was sent to the other switch; `bytes` of frames must come out.
    fn receive(&mut self, bytes: usize, now: Instant) -> Result<Duration, BenchError> {
        let Self { near, far, received, .. } = self;
        received.extend(near.out.transmits.iter().map(|transmit| {
            let mut buf = far.pool.take().expect("the runs of a batch have buffers");
            buf.fill(&near.out.datagrams(transmit).flatten().collect::<Vec<_>>().concat());
            Received { buf, from: near.address, segment: transmit.segment }
        }));
        near.out.recycle(&mut near.pool);
        let start = Instant::now();
        far.path.ingress(received, &mut far.pool, &mut far.out, now);
        let spent = start.elapsed();
        let frame_len = |delivery| far.out.frame(delivery).map(<[u8]>::len).sum::<usize>();
        let delivered: usize = far.out.deliveries.iter().map(frame_len).sum();
        let any_port = far.out.deliveries.iter().all(|delivery| delivery.port == far.port);
        far.out.recycle(&mut far.pool);
        // Joined frames may need more headers than the super-frames that they were cut from, never fewer.
        if any_port && delivered >= bytes {
            Ok(spent)
        } else {
            Err(BenchError::Nothing("two switches in memory"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_comes_out_at_the_other_switch() {
        let figures = measure(Duration::from_millis(2)).unwrap();
        let all =
            [figures.out_small_ns, figures.in_small_ns, figures.out_bulk_gbit_s, figures.in_bulk_gbit_s];
        assert!(all.iter().all(|figure| figure.is_finite() && *figure > 0.0), "{figures:?}");
    }
}
