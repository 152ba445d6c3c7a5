//! UDP.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp::{RecvError, SendError};
use smoltcp::wire::IpEndpoint;

use super::StackError;
use super::drive::Held;

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    held: Arc<Held>,
    handle: SocketHandle,
}

impl UdpSocket {
    pub(super) fn new(held: Arc<Held>, port: u16) -> Result<Self, StackError> {
        let handle = held.engine().bind(port)?;
        Ok(Self { held, handle })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.held.engine().udp(self.handle).endpoint().port
    }

    /// Sends a datagram, once there is room for it.
    ///
    /// # Errors
    /// If there is no way to that address, the datagram is longer than a packet or what may wait, or the switch
    /// has closed the port.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        poll_fn(|cx| self.poll_send(cx, datagram, to)).await?;
        self.held.nudge();
        Ok(())
    }

    fn poll_send(&self, cx: &mut Context<'_>, datagram: &[u8], to: SocketAddr) -> Poll<io::Result<()>> {
        let mut engine = self.held.engine();
        if engine.is_closed() {
            return Poll::Ready(Err(StackError::Closed.into()));
        }
        // smoltcp would keep one that it can't send, and make it wait for ever.
        if !engine.has(to.is_ipv4()) {
            return Poll::Ready(Err(StackError::NoWay(to.ip()).into()));
        }
        if datagram.len() > engine.longest_datagram(to.is_ipv4()) {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        let socket = engine.udp(self.handle);
        match socket.send_slice(datagram, IpEndpoint::from(to)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(SendError::BufferFull) => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Err(SendError::Unaddressable) => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
        }
    }

    /// Waits for the next datagram; gives its length and who sent it. What is longer than `buf` is lost.
    ///
    /// # Errors
    /// If the switch has closed the port.
    pub async fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| self.poll_receive(cx, buf)).await
    }

    fn poll_receive(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut engine = self.held.engine();
        let closed = engine.is_closed();
        let socket = engine.udp(self.handle);
        loop {
            match socket.recv_slice(buf) {
                Ok((len, from)) => return Poll::Ready(Ok((len, from.endpoint.into()))),
                Err(RecvError::Truncated) => {}
                Err(RecvError::Exhausted) if closed => return Poll::Ready(Err(StackError::Closed.into())),
                Err(RecvError::Exhausted) => {
                    socket.register_recv_waker(cx.waker());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.held.engine().forget(self.handle);
    }
}
