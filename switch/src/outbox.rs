//! What a batch has come to: frames for ports and datagrams for peers.
//!
//! Entries point into shared buffers, so one flooded frame costs one buffer whatever its receivers are.

use std::net::SocketAddr;
use std::ops::Range;

use crate::packet::{PacketBuf, Pool};
use crate::tables::PortId;
use crate::vtep::VtepId;
use crate::wire::virtio::Offload;

/// A frame for a port.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Receiver.
    pub port: PortId,
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// The frame in that buffer.
    pub range: Range<usize>,
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
    /// Datagrams for peers, in order.
    pub transmits: Vec<Transmit>,
}

impl Outbox {
    /// The frame of a delivery.
    #[must_use]
    pub fn frame(&self, delivery: &Delivery) -> &[u8] {
        self.packets[delivery.packet].slice(delivery.range.clone())
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
        self.packets.drain(..).for_each(|buf| pool.put(buf));
    }
}
