//! Ports of this host that are published: sockets that are bound, for a gateway to take from.
//!
//! Whoever asks for a port opens its doors and is told at once what is wrong; a gateway takes connections and datagrams
//! from them. [`Door::close`] frees the port in that moment, whatever the gateway is busy with.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use socket2::{Domain, Protocol as Ip, Socket, Type};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::nat::outer::KEEP_ALIVE;
use crate::api::{Protocol, PublishedPort};
use crate::switch::io::asked::{self, Arrived, Asked};

/// Connections that wait for the gateway, which takes them at once: more than a burst of clients. The system may have a
/// lower limit (`net.core.somaxconn`).
const BACKLOG: i32 = 1_024;
/// How often a free port of IPv4 is looked for that is one of IPv6, too.
const TRIES: usize = 32;

/// Why a port can't be published.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Somebody has it.
    #[error(
        "port {0} of this host is in use by another program, or by this daemon itself: `ss -lnptu` shows by which"
    )]
    Taken(PublishedPort),
    /// No such address.
    #[error("{0} is no address of this host")]
    Address(IpAddr),
    /// The system's word.
    #[error(
        "this daemon may not listen at port {0} of this host: as root `sysctl net.ipv4.ip_unprivileged_port_start={port}`, \
         or give the daemon CAP_NET_BIND_SERVICE, or choose a port from 1024 on", port = .0.published
    )]
    NotPermitted(PublishedPort),
    /// No descriptors are left for it.
    #[error("port {0} of this host: this daemon has as many sockets as it may hold")]
    Full(PublishedPort),
    /// Anything else.
    #[error("port {port} of this host: {source}")]
    System {
        /// The port.
        port: PublishedPort,
        /// The system's answer.
        source: io::Error,
    },
}

/// A bound socket at one address of this host, or at all of one IP version. Closed when dropped, at the latest.
#[derive(Debug)]
pub struct Door {
    at: SocketAddr,
    socket: Mutex<Option<Bound>>,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Door {
    /// Opens those of a port: of each IP version, unless it has an address; where this host has no IPv6, of IPv4 alone.
    /// `sockets` allows them.
    ///
    /// # Errors
    /// See [`DoorError`]; none is open then.
    pub fn open(port: &PublishedPort, sockets: &Arc<Semaphore>) -> Result<Vec<Arc<Self>>, DoorError> {
        let open = |address, published| Self::open_at(port, SocketAddr::new(address, published), sockets);
        if let Some(address) = port.address {
            return open(address, port.published).map(|door| vec![door]);
        }
        for last in (0..TRIES).rev() {
            let v4 = open(Ipv4Addr::UNSPECIFIED.into(), port.published)?;
            match open(Ipv6Addr::UNSPECIFIED.into(), v4.at.port()) {
                Ok(v6) => return Ok(vec![v4, v6]),
                Err(DoorError::Address(_)) => return Ok(vec![v4]),
                Err(DoorError::Taken(_)) if port.published == 0 && last > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Err(DoorError::Taken(*port))
    }

    fn open_at(
        port: &PublishedPort,
        at: SocketAddr,
        sockets: &Arc<Semaphore>,
    ) -> Result<Arc<Self>, DoorError> {
        let permit = Arc::clone(sockets).try_acquire_owned().map_err(|_| DoorError::Full(*port))?;
        let bound = bind(at, port.protocol).map_err(|source| reason(port, at.ip(), source))?;
        let local = bound.local().map_err(|source| DoorError::System { port: *port, source })?;
        Ok(Arc::new(Self { at: local, socket: Mutex::new(Some(bound)), _permit: permit }))
    }

    /// Where it is.
    #[must_use]
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Frees the port. What has not been taken is refused.
    pub fn close(&self) {
        self.socket().take();
    }

    /// Does something with its socket, unless it is closed.
    pub(crate) fn with<T>(&self, what: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        let socket = self.socket();
        Some(match socket.as_ref()? {
            Bound::Tcp(listener) => what(listener.as_fd()),
            Bound::Udp(datagrams) => what(datagrams.as_fd()),
        })
    }

    /// Whether it takes connections; otherwise it takes datagrams.
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(*self.socket(), Some(Bound::Tcp(_)))
    }

    /// The next connection, which does not block. `None` if it is closed, or takes none.
    pub(crate) fn accept(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let socket = self.socket();
        let Some(Bound::Tcp(listener)) = socket.as_ref() else { return None };
        Some(listener.accept().and_then(|(stream, from)| {
            stream.set_nonblocking(true)?;
            Ok((stream, from))
        }))
    }

    /// The next datagram. `None` if it is closed, or takes none.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Option<io::Result<Arrived>> {
        match self.socket().as_ref()? {
            Bound::Udp(socket) => Some(asked::receive(socket.as_fd(), buffer)),
            Bound::Tcp(_) => None,
        }
    }

    /// Sends a datagram from the address that was asked. `None` as before.
    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr, from: Asked) -> Option<io::Result<()>> {
        match self.socket().as_ref()? {
            Bound::Udp(socket) => Some(asked::send(socket.as_fd(), bytes, to, from)),
            Bound::Tcp(_) => None,
        }
    }

    fn socket(&self) -> MutexGuard<'_, Option<Bound>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bound {
    fn local(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        }
    }
}

/// Whether the system has no room for one more just now.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    let none = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    none.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn reason(port: &PublishedPort, address: IpAddr, source: io::Error) -> DoorError {
    match source.kind() {
        ErrorKind::AddrInUse => DoorError::Taken(*port),
        ErrorKind::AddrNotAvailable => DoorError::Address(address),
        // No address of an IP version that the host does not speak.
        _ if source.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => DoorError::Address(address),
        ErrorKind::PermissionDenied => DoorError::NotPermitted(*port),
        _ => DoorError::System { port: *port, source },
    }
}

fn bind(at: SocketAddr, protocol: Protocol) -> io::Result<Bound> {
    let (kind, ip) = match protocol {
        Protocol::Tcp => (Type::STREAM, Ip::TCP),
        Protocol::Udp => (Type::DGRAM, Ip::UDP),
    };
    let socket = Socket::new(Domain::for_address(at), kind.nonblocking(), Some(ip))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if protocol == Protocol::Udp {
        asked::keep(socket.as_fd(), at.is_ipv6())?;
        socket.bind(&at.into())?;
        return Ok(Bound::Udp(socket.into()));
    }
    // Connections of before that are still being closed do not keep the port.
    socket.set_reuse_address(true)?;
    // What it accepts has this, too.
    socket.set_tcp_keepalive(&KEEP_ALIVE)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(Bound::Tcp(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(4))
    }

    fn port(address: Option<&str>, published: u16, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            address: address.map(|address| address.parse().unwrap()),
            published,
            target: 80,
            protocol,
        }
    }

    #[test]
    fn a_port_is_one_of_both_ip_versions_and_is_free_when_it_is_closed() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let doors = Door::open(&port(None, 0, protocol), &sockets()).unwrap();
            let chosen = doors[0].at().port();
            assert!(chosen > 0 && doors.iter().all(|door| door.at().port() == chosen));
            let same = port(None, chosen, protocol);
            let taken = Door::open(&same, &sockets()).unwrap_err();
            assert!(matches!(taken, DoorError::Taken(port) if port == same), "{taken}");
            doors.iter().for_each(|door| door.close());
            assert_eq!(Door::open(&same, &sockets()).unwrap().len(), doors.len());
            assert!(doors.iter().all(|door| door.with(|_| ()).is_none() && !door.is_tcp()));
        }
    }

    #[test]
    fn what_can_not_be_is_said_by_name() {
        let at = |address| Door::open(&port(Some(address), 0, Protocol::Tcp), &sockets());
        assert!(matches!(at("192.0.2.77"), Err(DoorError::Address(_))));
        let none = Arc::new(Semaphore::new(1));
        let full = Door::open(&port(None, 0, Protocol::Udp), &none).unwrap_err();
        assert!(matches!(full, DoorError::Full(_)), "{full}");
        assert_eq!(none.available_permits(), 1, "nothing is left open");
        let low = port(None, 80, Protocol::Tcp);
        let said = reason(&low, Ipv4Addr::UNSPECIFIED.into(), Errno::ACCESS.into()).to_string();
        assert!(said.contains("80/tcp") && said.contains("ip_unprivileged_port_start=80"), "{said}");
    }
}
