//! Sockets of the underlay: made, set up, bound; and what going wrong there means.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd};

use libc::c_int;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::vxlan;

/// Ports that RFC 7348 §4.1 recommends as outer source ports: the dynamic range of RFC 6335 §6.
pub const SOURCE_PORTS: RangeInclusive<u16> = 49_152..=65_535;
/// Random ports tried for each transmit socket. With half of the range taken, all fail once in 2^32 times.
const BIND_TRIES: usize = 32;
/// Asked for: a tenth of a second at 500 Mbit/s, while the worker is not scheduled. The system may grant less.
pub const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Asked for by each transmit socket: two batches of 64 KiB runs would be 8 MiB; a device drains meanwhile.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Why the underlay could not be bound. Nothing is left open.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// EADDRNOTAVAIL.
    #[error("{0} is no address of this host or namespace: `ip address` shows those that are")]
    NotOurs(IpAddr),
    /// EADDRINUSE.
    #[error(
        "UDP {0} is taken: by the kernel's vxlan device (`ip -d link show type vxlan`), or by another vswitchd or a \
         container engine (`ss -lunp`); stop it, or give another --port or --local"
    )]
    Taken(SocketAddr),
    /// EACCES.
    #[error("UDP {0}: not permitted: ports below 1024 need root or CAP_NET_BIND_SERVICE; give a higher port")]
    NotPermitted(SocketAddr),
    /// EAFNOSUPPORT.
    #[error("{0}: this host does not have its IP version: it is switched off in the kernel")]
    NoFamily(IpAddr),
    /// None of the ports tried in [`SOURCE_PORTS`] was free.
    #[error("{0}: no free UDP port found between 49152 and 65535 to send from")]
    NoSourcePort(IpAddr),
    /// Out of range.
    #[error("{0} source ports are out of range: want at most {max}", max = super::SOURCES_MAX)]
    SourceCount(usize),
    /// Anything else.
    #[error("UDP {address}: {source}")]
    Io {
        /// What was to be bound.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

impl BindError {
    fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EADDRNOTAVAIL) => Self::NotOurs(address.ip()),
            Some(libc::EADDRINUSE) => Self::Taken(address),
            Some(libc::EACCES | libc::EPERM) => Self::NotPermitted(address),
            Some(libc::EAFNOSUPPORT) => Self::NoFamily(address.ip()),
            _ => Self::Io { address, source },
        }
    }
}

/// An unbound socket of one address family, non-blocking, which never fragments.
///
/// With `IP_PMTUDISC_DO` a datagram over the path's MTU is EMSGSIZE here, not fragments there (RFC 7348 §4.3).
fn unbound(ip: IpAddr) -> io::Result<Socket> {
    let domain = if ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if ip.is_ipv4() {
        set_int(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
    } else {
        socket.set_only_v6(true)?;
        set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
    }
    Ok(socket)
}

/// Sockets that receive at one address, between which the kernel spreads flows.
///
/// The first one is bound alone: so it is refused if anybody is there, another instance of ours included, which could
/// join a group without notice. Only then is it opened to the others.
pub(super) fn receivers(address: SocketAddr, count: usize) -> Result<Vec<Socket>, BindError> {
    let failed = |error| BindError::new(address, error);
    let first = receiver(address, false)?;
    // The port may have been the system's choice.
    let bound = first.local_addr().map_err(failed)?.as_socket().unwrap_or(address);
    let mut all = vec![first];
    if count > 1 {
        all[0].set_reuse_port(true).map_err(failed)?;
    }
    for _ in 1..count {
        all.push(receiver(bound, true)?);
    }
    Ok(all)
}

/// A socket that receives. It gives up what the kernel doesn't have: GRO, and zero checksums over IPv6.
fn receiver(address: SocketAddr, shared: bool) -> Result<Socket, BindError> {
    let make = || {
        let socket = unbound(address.ip())?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER_BYTES).is_err() {
            // Without CAP_NET_ADMIN net.core.rmem_max caps what is granted.
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
        }
        if address.is_ipv6() {
            // Linux's vxlan device may send a checksum of zero, which RFC 6935 §5 allows a tunnel.
            tolerate_unsupported(set_int(&socket, libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_RX, 1))?;
        }
        tolerate_unsupported(set_int(&socket, libc::IPPROTO_UDP, libc::UDP_GRO, 1))?;
        socket.set_reuse_port(shared)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    make().map_err(|error| BindError::new(address, error))
}

/// A socket that only sends, bound to a random port of [`SOURCE_PORTS`].
pub(super) fn transmitter(ip: IpAddr, random: &mut fastrand::Rng) -> Result<Socket, BindError> {
    let at = |port| SocketAddr::new(ip, port);
    let socket = unbound(ip).map_err(|error| BindError::new(at(0), error))?;
    let sized = size_to_send(&socket)
        // Nothing is ever read here, so strangers' datagrams must not cost memory; the kernel raises 0 to its least.
        .and_then(|()| sockopt::set_socket_recv_buffer_size(&socket, 0));
    sized.map_err(|errno| BindError::new(at(0), errno.into()))?;
    for _ in 0..BIND_TRIES {
        let address = at(random.u16(SOURCE_PORTS));
        match socket.bind(&address.into()) {
            Ok(()) => return Ok(socket),
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {}
            Err(error) => return Err(BindError::new(address, error)),
        }
    }
    Err(BindError::NoSourcePort(ip))
}

/// A share of a socket that receives, to send from its port.
pub(super) fn sending(socket: &Socket) -> io::Result<Socket> {
    size_to_send(socket)?;
    socket.try_clone()
}

fn size_to_send(socket: &Socket) -> rustix::io::Result<()> {
    sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER_BYTES)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER_BYTES))
}

/// Bytes of the largest IP packet from `local` to `peer`, as far as the kernel knows: the route's MTU, or what ICMP has
/// lowered it to. Sends nothing.
///
/// # Errors
/// If there is no route, `local` is not ours, or `peer` is of the other IP version.
pub fn path_mtu(local: IpAddr, peer: IpAddr) -> io::Result<u32> {
    let socket = unbound(local)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    // Connecting sends nothing; it makes the kernel choose a route. Any port does.
    socket.connect(&SocketAddr::new(peer, vxlan::PORT).into())?;
    let mtu = if local.is_ipv4() {
        int(&socket, libc::IPPROTO_IP, libc::IP_MTU)?
    } else {
        int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU)?
    };
    u32::try_from(mtu).map_err(io::Error::other)
}

/// An option that an old kernel doesn't know costs speed only.
fn tolerate_unsupported(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(()),
        outcome => outcome,
    }
}

pub(super) fn set_int(socket: &Socket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<c_int>()).expect("four");
    // SAFETY: the pointer and the length are those of an int that outlives the call.
    let answer = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), len)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn int(socket: &Socket, level: c_int, option: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut len = libc::socklen_t::try_from(size_of::<c_int>()).expect("four");
    // SAFETY: the kernel writes at most `len` bytes, the size of the int; both outlive the call.
    let answer = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len)
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}
