//! Drivers: the only place of the data plane that meets the system.
//!
//! [`FrameIo`] is a port, [`DatagramIo`] the underlay; both move batches and never block. A TAP is [`tap`], UDP is
//! [`udp`], a virtual machine is at a socket of [`qemu`], a program in this process at a [`channel`], and [`mem`]
//! is a link whose faults are chosen. [`error_queue`] is for those who send datagrams for others, and [`asked`] for those
//! who answer them at all addresses of a host.

pub mod asked;
pub mod channel;
pub mod error_queue;
pub mod mem;
pub mod netns;
pub mod qemu;
pub mod tap;
#[cfg(feature = "compat-tun-tap")]
pub mod tun_tap;
pub mod udp;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::outbox::Outbox;
use crate::packet::{PacketBuf, Pool};
use crate::wire::virtio::Offload;

/// A frame that a port has given.
#[derive(Debug)]
pub struct Frame {
    /// Its bytes: `buf.data()` from the destination MAC on.
    pub buf: PacketBuf,
    /// State of its checksum, and whether it is a super-frame.
    pub offload: Offload,
}

/// What a port takes of [`Offload`]; what it doesn't take is done for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Takes frames whose checksum is partial.
    pub checksum: bool,
    /// Takes TCP super-frames, both IP versions.
    pub tso: bool,
    /// Takes UDP super-frames.
    pub uso: bool,
}

/// A port's device.
pub trait FrameIo: Send + std::fmt::Debug {
    /// Appends frames to `into`: at most `max`, and no more than there are now and than `pool` has buffers for.
    ///
    /// Gives how many frames were left out because their offload header makes no sense, or no buffer holds them.
    ///
    /// # Errors
    /// Only where the device as a whole fails; what was appended before stays.
    fn read(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<u64, ReadError>;

    /// Hands one frame over, in 1 to [`crate::outbox::PARTS_MAX`] pieces; [`Self::flush`] ends a batch.
    ///
    /// # Errors
    /// The frame is lost in every case; only [`WriteError::Gone`] says something of the next.
    fn write(&mut self, frame: &[IoSlice<'_>], offload: Offload) -> Result<(), WriteError>;

    /// Ends a batch of writes.
    fn flush(&mut self) {}

    /// Readable while [`Self::read`] has something to give; `None` for a handle that only writes.
    fn pollable(&self) -> Option<BorrowedFd<'_>>;

    /// Fixed for the device's life.
    fn capabilities(&self) -> Capabilities;

    /// Makes as many handles of it as there are workers, at least one. All write to the device; together they read
    /// every frame of it once: each its own queue, or the first all and the others nothing.
    ///
    /// # Errors
    /// No descriptors are left; the device is closed.
    fn split(self: Box<Self>, workers: usize) -> io::Result<Vec<Box<dyn FrameIo>>>;
}

/// Why a device gives no more.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The device is no more, with its namespace (EBADFD) or its other end. It never comes back.
    #[error("the device has vanished")]
    Gone,
    /// Anything else; the device is given up too.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a frame was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The device is no more. It never comes back.
    #[error("the device has vanished")]
    Gone,
    /// Its queue is full.
    #[error("the queue is full")]
    Full,
    /// It is down (EIO of a TAP).
    #[error("the device is down")]
    Down,
    /// It refused this frame.
    #[error("the device refused the frame: {0}")]
    Refused(io::Error),
}

/// Datagrams received together: one, or a run of equal ones joined by `UDP_GRO`.
#[derive(Debug)]
pub struct Received {
    /// `buf.data()` holds the datagrams back to back.
    pub buf: PacketBuf,
    /// Who sent them.
    pub from: SocketAddr,
    /// Bytes of each but the last, which may be shorter; never 0, also for an empty datagram.
    pub segment: usize,
}

/// The underlay: unconnected UDP.
pub trait DatagramIo: Send + std::fmt::Debug {
    /// Appends datagrams to `into`: at most `max` runs, and no more than there are now and than `pool` has buffers
    /// for.
    ///
    /// # Errors
    /// Only where the socket as a whole fails; what was appended before stays.
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Received>, max: usize) -> io::Result<()>;

    /// Sends every entry of [`Outbox::transmits`], in order for each `entropy`, and appends to `failed` the index
    /// of those that could not be sent.
    fn send(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>);

    /// Whether the system has refused to cut runs since this was last asked: they go out datagram by datagram now.
    fn took_to_single(&mut self) -> bool {
        false
    }

    /// Readable while [`Self::receive`] has something to give. Several, for several address families.
    fn pollable(&self) -> Vec<BorrowedFd<'_>>;
}

/// Why a datagram, or a run, was not sent. It is lost in every case.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The send buffer is full.
    #[error("the socket's send buffer is full")]
    Full,
    /// The path's MTU is smaller (EMSGSIZE).
    #[error("larger than the path's MTU")]
    TooBig,
    /// No route, no permission, no such family.
    #[error(transparent)]
    Refused(io::Error),
}
