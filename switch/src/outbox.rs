//! What a batch has come to: frames for ports and datagrams for peers.
//!
//! Entries point into shared buffers, so one flooded frame costs one buffer whatever its receivers are.

use std::net::SocketAddr;
use std::ops::Range;

use crate::packet::{PacketBuf, Pool};
use crate::tables::PortId;
use crate::vtep::VtepId;
use crate::wire::Vni;
use crate::wire::virtio::Offload;

/// Bytes of a run of datagrams: the largest UDP payload over IPv4 (65,535 - 20 - 8); the kernel makes one such packet
/// before it cuts.
pub const RUN_BYTES_MAX: usize = 65_507;
/// Datagrams of a run that every kernel takes (`UDP_MAX_SEGMENTS` before Linux 6.9, where it became 128).
pub const RUN_DATAGRAMS_MAX: usize = 64;
/// How many datagrams of so many bytes one message takes.
#[must_use]
pub fn run_datagrams(bytes: usize) -> usize {
    (RUN_BYTES_MAX / bytes.max(1)).min(RUN_DATAGRAMS_MAX)
}

/// Entries of either kind that a batch may come to: a batch of the largest runs, flooded to some thirty receivers. What
/// is more is dropped and counted, so that no batch holds the worker, or memory, for long.
pub const ENTRIES_MAX: usize = 65_536;

/// Pieces of one frame that a port is given: a first segment and payloads of others. One `writev` of that many and a
/// header is far below the system's limit (1024), and 64 segments fill 64 KiB at any MTU from 1,090 up.
pub const PARTS_MAX: usize = 64;

/// Bytes in a shared buffer.
#[derive(Clone, Debug)]
pub struct Part {
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// Where in it.
    pub range: Range<usize>,
}

/// A frame for a port.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Receiver.
    pub port: PortId,
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// The frame in that buffer, or its beginning.
    pub range: Range<usize>,
    /// The rest of a joined frame, in [`Outbox::parts`]: at most [`PARTS_MAX`] - 1; empty for others.
    pub more: Range<usize>,
    /// State of its checksum, and how it is to be cut.
    pub offload: Offload,
}

/// One datagram, or a run of them, for a peer.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Receiver.
    pub peer: VtepId,
    /// Its address.
    pub to: SocketAddr,
    /// Network of the frames.
    pub vni: Vni,
    /// Bytes around each frame: headers and, where it is sealed, a tag.
    pub overhead: usize,
    /// Picks the outer source port; equal within a flow.
    pub entropy: u32,
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// The datagrams in that buffer, back to back.
    pub range: Range<usize>,
    /// Bytes of each datagram but the last, which may be shorter; the range's length for a single one.
    pub segment: usize,
}

/// The outcome of a batch; emptied by [`Self::recycle`], its memory kept.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Buffers that the entries below point into.
    pub packets: Vec<PacketBuf>,
    /// Frames for ports, in order.
    pub deliveries: Vec<Delivery>,
    /// What joined frames consist of besides their first segments.
    pub parts: Vec<Part>,
    /// Datagrams for peers, in order.
    pub transmits: Vec<Transmit>,
}

impl Transmit {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        self.range.len().div_ceil(self.segment)
    }

    /// Bytes of the frames in them.
    #[must_use]
    pub fn inner_bytes(&self) -> usize {
        self.range.len() - self.datagrams() * self.overhead
    }
}

impl Outbox {
    /// Whether another frame may be added, with all of its receivers.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.deliveries.len().max(self.transmits.len()) < ENTRIES_MAX
    }

    /// The pieces of a delivery's frame, in order: one, or up to [`PARTS_MAX`].
    pub fn frame(&self, delivery: &Delivery) -> impl Iterator<Item = &[u8]> {
        let first = self.packets[delivery.packet].slice(delivery.range.clone());
        let more = &self.parts[delivery.more.clone()];
        let more = more.iter().map(|part| self.packets[part.packet].slice(part.range.clone()));
        std::iter::once(first).chain(more)
    }

    /// The datagrams of a transmit, back to back.
    #[must_use]
    pub fn datagrams(&self, transmit: &Transmit) -> &[u8] {
        self.packets[transmit.packet].slice(transmit.range.clone())
    }

    /// Gives every buffer back and forgets the entries.
    pub fn recycle(&mut self, pool: &mut Pool) {
        self.deliveries.clear();
        self.transmits.clear();
        self.parts.clear();
        self.packets.drain(..).for_each(|buf| pool.put(buf));
    }
}
