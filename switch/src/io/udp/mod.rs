//! The underlay on UDP sockets: batches, runs joined and cut by the kernel, many source ports.
//!
//! One socket receives, at the address that peers know, or one for each worker, over which the kernel spreads flows
//! (`SO_REUSEPORT`). A flow's outer source port should depend on the flow, so that
//! routers and network cards spread flows over links and cores (RFC 7348 §4.1). A UDP socket sends from one port
//! only, so several sockets send, each from another port of the dynamic range, and a flow always takes the same one.
//! More than a handful gain nothing: they need only be more than the links or queues they are spread over.
//!
//! Datagrams are never fragmented: one that is larger than the path's MTU is [`SendError::TooBig`].
//! Sources: RFC 7348, RFC 6935; udp(7), ip(7), ipv6(7).

mod control;
mod receive;
mod send;
mod socket;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::Socket;

use self::receive::Receiver;
pub(super) use self::receive::stored_address;
use self::send::Sender;
pub use self::socket::{BindError, RECEIVE_BUFFER_BYTES, SOURCE_PORTS, path_mtu};
use super::{DatagramIo, Received, SendError};
use crate::outbox::Outbox;
use crate::packet::Pool;
use crate::wire::vxlan;

/// Source ports if nothing else is said: enough for a bond of four links, or as many receive queues.
pub const SOURCES_DEFAULT: usize = 8;
/// The most source ports; each is a socket with its buffers.
pub const SOURCES_MAX: usize = 256;

/// An underlay to be bound.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// An address of this host, or an unspecified one.
    pub local: IpAddr,
    /// Where peers send to; 0 lets the system choose, see [`Udp::local_addr`].
    pub port: u16,
    /// How many source ports to spread flows over, at most [`SOURCES_MAX`]. With 0, datagrams leave from `port`, which
    /// tells peers on a shared address who sent them where no key does.
    pub source_ports: usize,
    /// Which ports of [`SOURCE_PORTS`] are tried; should differ from start to start.
    pub seed: u64,
    /// Whether to send runs as one message; the kernel may still refuse.
    pub segmentation: bool,
}

impl UdpConfig {
    /// The usual port and number of source ports.
    #[must_use]
    pub fn new(local: IpAddr, seed: u64) -> Self {
        Self { local, port: vxlan::PORT, source_ports: SOURCES_DEFAULT, seed, segmentation: true }
    }
}

/// The underlay of one address, for one worker.
#[derive(Debug)]
pub struct Udp {
    local: SocketAddr,
    socket: Socket,
    receiver: Receiver,
    senders: Vec<Sender>,
    /// How many of them still sent runs whole when last asked.
    joined: usize,
}

impl Udp {
    /// Binds the receiving socket and the sending ones, in the calling thread's namespace.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(config: &UdpConfig) -> Result<Self, BindError> {
        let mut only = Self::bind_all(config, 1)?;
        Ok(only.pop().expect("as many as asked"))
    }

    /// Binds a receiving socket for each worker, at least one, all at one address, and the sending ones, which all
    /// share: a flow's source port is the same whatever worker has it.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_all(config: &UdpConfig, workers: usize) -> Result<Vec<Self>, BindError> {
        if config.source_ports > SOURCES_MAX {
            return Err(BindError::SourceCount(config.source_ports));
        }
        let address = SocketAddr::new(config.local, config.port);
        let receivers = socket::receivers(address, workers)?;
        let local = address_of(&receivers[0]).map_err(|source| BindError::Io { address, source })?;
        let mut random = fastrand::Rng::with_seed(config.seed);
        let transmitter = |_| socket::transmitter(config.local, &mut random).map(Arc::new);
        let transmitters = if config.source_ports == 0 {
            vec![Arc::new(
                socket::sending(&receivers[0]).map_err(|source| BindError::Io { address, source })?,
            )]
        } else {
            (0..config.source_ports).map(transmitter).collect::<Result<_, BindError>>()?
        };
        let of_worker = |socket| {
            let sender = |socket| Sender::new(Arc::clone(socket), config.segmentation);
            let senders = transmitters.iter().map(sender).collect();
            let joined = if config.segmentation { transmitters.len() } else { 0 };
            Self { local, socket, receiver: Receiver::new(), senders, joined }
        };
        Ok(receivers.into_iter().map(of_worker).collect())
    }

    /// Where peers send to.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The ports that this sends from.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn source_ports(&self) -> io::Result<Vec<u16>> {
        self.senders.iter().map(|sender| Ok(address_of(sender.socket())?.port())).collect()
    }

    /// Bytes granted to the receive buffer, the kernel's own overhead included.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn receive_buffer(&self) -> io::Result<usize> {
        self.socket.recv_buffer_size()
    }

    /// Whether runs still go out as one message: asked for, and not refused by the kernel so far.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.senders.iter().all(Sender::segments)
    }

    /// Datagrams given to no one since the start, because a buffer would not hold them; there should be none.
    #[must_use]
    pub fn discarded(&self) -> u64 {
        self.receiver.discarded
    }

    /// Bytes of the largest IP packet to `peer`, as far as the kernel knows: the route's MTU, or what ICMP has
    /// lowered it to. Sends nothing.
    ///
    /// # Errors
    /// If there is no route, or `peer` is of the other IP version.
    pub fn path_mtu(&self, peer: IpAddr) -> io::Result<u32> {
        path_mtu(self.local.ip(), peer)
    }
}

fn address_of(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

impl DatagramIo for Udp {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Received>, max: usize) -> io::Result<()> {
        self.receiver.receive(self.socket.as_fd(), pool, into, max)
    }

    fn send(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>) {
        let count = self.senders.len();
        for (index, transmit) in out.transmits.iter().enumerate() {
            self.senders[transmit.entropy as usize % count].enqueue(index, transmit);
        }
        self.senders.iter_mut().for_each(|sender| sender.flush(out, failed));
    }

    fn took_to_single(&mut self) -> bool {
        let joined = self.senders.iter().filter(|sender| sender.segments()).count();
        std::mem::replace(&mut self.joined, joined) > joined
    }

    fn pollable(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.socket.as_fd()]
    }
}
