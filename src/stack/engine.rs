//! The stack without I/O: frames and the time in, frames and the next deadline out. Sockets wake who waits for
//! them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dns, tcp, udp};
use smoltcp::time;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, IpEndpoint};

use super::device::Frames;
use super::{StackConfig, StackError};
use crate::switch::packet::DATA_MAX;

/// Sockets of a stack, those that are being closed included: smoltcp looks at all of them for every packet.
pub const SOCKETS_MAX: usize = 256;
/// Questions for names at a time.
pub(super) const QUESTIONS_MAX: usize = SOCKETS_MAX;
/// Bytes that a connection has on the way, in either direction: as many as TCP can say without a scale. smoltcp rounds a scaled
/// window down each time, and so takes back some bytes that it has offered (RFC 9293 §3.8.6.2.1 says not to). It then takes
/// neither these nor an acknowledgment behind them, and both ends wait for a minute.
const TCP_BUFFER: usize = 65_535;
/// Datagrams, and their bytes, that wait in either direction.
const UDP_QUEUE: (usize, usize) = (64, 64 << 10);
/// For how long the other end may leave what was sent unanswered.
const ANSWERED_WITHIN: time::Duration = time::Duration::from_secs(60);
/// How long a connection that nobody holds any more may take to end.
const LINGER: Duration = Duration::from_secs(60);
/// RFC 6335 §6
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

pub(super) struct Engine {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: Frames,
    questions: SocketHandle,
    /// How many are open.
    pub(super) asking: usize,
    /// Connections that nobody holds any more, and since when.
    orphans: Vec<(SocketHandle, Instant)>,
    rng: fastrand::Rng,
    /// When smoltcp's time began.
    start: Instant,
    /// The switch has closed the port.
    closed: bool,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("orphans", &self.orphans).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn new(config: &StackConfig, seed: u64, now: Instant) -> Result<Self, StackError> {
        let mtu = usize::try_from(config.mtu).ok().filter(|mtu| (1_280..=DATA_MAX - 14).contains(mtu));
        let mut device = Frames::new(mtu.ok_or(StackError::Mtu(config.mtu))?);
        let hardware = HardwareAddress::Ethernet(EthernetAddress(config.mac.0));
        if config.mac.is_multicast() || config.mac.is_zero() {
            return Err(StackError::Mac(config.mac));
        }
        let mut own = Config::new(hardware);
        let mut rng = fastrand::Rng::with_seed(seed);
        own.random_seed = rng.u64(..);
        let mut interface = Interface::new(own, &mut device, time::Instant::ZERO);
        let addresses = config.addresses.iter().map(|own| IpCidr::new(own.address().into(), own.length()));
        let mut fits = true;
        interface.update_ip_addrs(|all| fits = addresses.map(|own| all.push(own)).all(|added| added.is_ok()));
        for gateway in &config.gateways {
            let routes = interface.routes_mut();
            fits &= match *gateway {
                IpAddr::V4(gateway) => routes.add_default_ipv4_route(gateway).is_ok(),
                IpAddr::V6(gateway) => routes.add_default_ipv6_route(gateway).is_ok(),
            };
        }
        if !fits || config.addresses.is_empty() {
            return Err(StackError::Addresses);
        }
        let servers: Vec<_> = config.resolver.into_iter().map(Into::into).collect();
        let mut sockets = SocketSet::new(Vec::new());
        let questions = sockets.add(dns::Socket::new(&servers, Vec::new()));
        let (orphans, start) = (Vec::new(), now);
        Ok(Self { interface, sockets, device, questions, asking: 0, orphans, rng, start, closed: false })
    }

    fn time(&self, now: Instant) -> time::Instant {
        let since = now.saturating_duration_since(self.start).as_micros();
        time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX))
    }

    pub(super) fn handle(&mut self, frame: Vec<u8>) {
        self.device.received.push_back(frame);
    }

    /// Does what has come, was asked for or is due; gives what is to be sent.
    pub(super) fn poll(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let at = self.time(now);
        for &(handle, since) in &self.orphans {
            if now.saturating_duration_since(since) >= LINGER {
                self.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
            }
        }
        self.interface.poll(at, &mut self.device, &mut self.sockets);
        let sockets = &mut self.sockets;
        self.orphans.retain(|&(handle, _)| {
            let over = sockets.get::<tcp::Socket<'_>>(handle).state() == tcp::State::Closed;
            if over {
                sockets.remove(handle);
            }
            !over
        });
        std::mem::take(&mut self.device.sent)
    }

    /// How long nothing is due, if nothing comes; none: for ever.
    pub(super) fn patience(&mut self, now: Instant) -> Option<Duration> {
        let at = self.time(now);
        let due = self.interface.poll_delay(at, &self.sockets).map(Duration::from);
        let orphans = self.orphans.iter().map(|(_, since)| (*since + LINGER).saturating_duration_since(now));
        orphans.chain(due).min()
    }

    /// The port is no more: neither are connections, and none is made.
    pub(super) fn close(&mut self) {
        self.closed = true;
        for (_, socket) in self.sockets.iter_mut() {
            match socket {
                smoltcp::socket::Socket::Tcp(socket) => socket.abort(),
                smoltcp::socket::Socket::Udp(socket) => socket.close(),
                // Without anybody to ask, they fail.
                smoltcp::socket::Socket::Dns(socket) => socket.update_servers(&[]),
            }
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether connections are still being closed.
    pub(super) fn lingers(&self) -> bool {
        !self.orphans.is_empty() && !self.closed
    }

    /// Addresses of ours of this family.
    pub(super) fn has(&self, v4: bool) -> bool {
        self.interface.ip_addrs().iter().any(|own| IpAddr::from(own.address()).is_ipv4() == v4)
    }

    /// Bytes of the longest datagram to an address of that family, that is one packet and may wait.
    pub(super) fn longest_datagram(&self, v4: bool) -> usize {
        let headers = if v4 { 20 + 8 } else { 40 + 8 };
        (self.device.mtu() - headers).min(UDP_QUEUE.1)
    }

    /// Whether somebody listens at a port.
    pub(super) fn listens(&self, port: u16) -> bool {
        let is_it = |socket: &tcp::Socket<'_>| socket.is_listening() && socket.listen_endpoint().port == port;
        self.sockets
            .iter()
            .any(|(_, socket)| matches!(socket, smoltcp::socket::Socket::Tcp(socket) if is_it(socket)))
    }

    fn add<T: smoltcp::socket::AnySocket<'static>>(&mut self, socket: T) -> Result<SocketHandle, StackError> {
        if self.closed {
            return Err(StackError::Closed);
        }
        // The one for questions aside.
        if self.sockets.iter().count() > SOCKETS_MAX {
            return Err(StackError::TooMany);
        }
        Ok(self.sockets.add(socket))
    }

    fn new_tcp(&mut self) -> Result<SocketHandle, StackError> {
        let buffer = || tcp::SocketBuffer::new(vec![0; TCP_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_timeout(Some(ANSWERED_WITHIN));
        // Whoever writes a little at a time wants it sent.
        socket.set_nagle_enabled(false);
        self.add(socket)
    }

    pub(super) fn listen(&mut self, port: u16) -> Result<SocketHandle, StackError> {
        let handle = self.new_tcp()?;
        self.listen_again(handle, port).map(|()| handle)
    }

    pub(super) fn listen_again(&mut self, handle: SocketHandle, port: u16) -> Result<(), StackError> {
        let listened = self.tcp(handle).listen(port);
        listened.map_err(|_| {
            self.sockets.remove(handle);
            StackError::Port(port)
        })
    }

    /// Begins a connection.
    pub(super) fn connect(&mut self, to: SocketAddr) -> Result<SocketHandle, StackError> {
        // smoltcp would send it from an address of its own making.
        if !self.has(to.is_ipv4()) {
            return Err(StackError::NoWay(to.ip()));
        }
        let handle = self.new_tcp()?;
        let port = self.free_port();
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let begun = port
            .is_some_and(|port| socket.connect(self.interface.context(), IpEndpoint::from(to), port).is_ok());
        if begun {
            return Ok(handle);
        }
        self.sockets.remove(handle);
        Err(port.map_or(StackError::TooMany, |_| StackError::NoWay(to.ip())))
    }

    pub(super) fn bind(&mut self, port: u16) -> Result<SocketHandle, StackError> {
        let port = if port == 0 { self.free_port().ok_or(StackError::TooMany)? } else { port };
        let taken = self.sockets.iter().any(|(_, socket)| {
            matches!(socket, smoltcp::socket::Socket::Udp(socket) if socket.endpoint().port == port)
        });
        if taken {
            return Err(StackError::Port(port));
        }
        let queue =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_QUEUE.0], vec![0; UDP_QUEUE.1]);
        let mut socket = udp::Socket::new(queue(), queue());
        socket.bind(port).map_err(|_| StackError::Port(port))?;
        self.add(socket)
    }

    /// A local port that no socket has.
    fn free_port(&mut self) -> Option<u16> {
        let used = |port: u16| {
            self.sockets.iter().any(|(_, socket)| match socket {
                smoltcp::socket::Socket::Tcp(socket) => {
                    socket.local_endpoint().is_some_and(|own| own.port == port)
                        || socket.listen_endpoint().port == port
                }
                smoltcp::socket::Socket::Udp(socket) => socket.endpoint().port == port,
                smoltcp::socket::Socket::Dns(_) => false,
            })
        };
        // Far more ports than sockets: the first is nearly always free.
        std::iter::repeat_with(|| self.rng.u16(EPHEMERAL)).take(SOCKETS_MAX).find(|&port| !used(port))
    }

    pub(super) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(super) fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(super) fn questions(&mut self) -> &mut dns::Socket<'static> {
        self.sockets.get_mut(self.questions)
    }

    /// Asks for a name's addresses of a family.
    pub(super) fn ask(&mut self, name: &str, v4: bool) -> Result<dns::QueryHandle, StackError> {
        if self.closed {
            return Err(StackError::Closed);
        }
        if self.asking >= QUESTIONS_MAX {
            return Err(StackError::TooMany);
        }
        let of = if v4 { smoltcp::wire::DnsQueryType::A } else { smoltcp::wire::DnsQueryType::Aaaa };
        let socket = self.sockets.get_mut::<dns::Socket<'_>>(self.questions);
        let asked = socket.start_query(self.interface.context(), name, of);
        let query = asked.map_err(|_| StackError::Name(name.into()))?;
        self.asking += 1;
        Ok(query)
    }

    /// Lets go of a connection: what was written is still sent.
    pub(super) fn release(&mut self, handle: SocketHandle, now: Instant) {
        self.tcp(handle).close();
        self.orphans.push((handle, now));
    }

    /// Forgets a socket that has nothing to say any more.
    pub(super) fn forget(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
    }
}
