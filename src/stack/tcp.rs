//! TCP, as tokio has it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::StackError;
use super::drive::Held;

/// Connections that wait to be accepted, or are being made, at one port.
const BACKLOG: usize = 8;

/// A connection. Dropped, it is closed once what was written has been sent.
#[derive(Debug)]
pub struct TcpStream {
    held: Arc<Held>,
    handle: SocketHandle,
    peer: SocketAddr,
}

/// A port that is listened at.
#[derive(Debug)]
pub struct TcpListener {
    held: Arc<Held>,
    port: u16,
    /// Each takes one connection.
    waiting: Vec<SocketHandle>,
}

impl TcpStream {
    pub(super) async fn connect(held: Arc<Held>, to: SocketAddr) -> io::Result<Self> {
        let handle = held.engine().connect(to)?;
        held.nudge();
        // From here on, it is let go of also if nobody waits for it any more.
        let mut stream = Self { held, handle, peer: to };
        poll_fn(|cx| stream.poll_connected(cx)).await?;
        Ok(stream)
    }

    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut engine = self.held.engine();
        if engine.is_closed() {
            return Poll::Ready(Err(StackError::Closed.into()));
        }
        let socket = engine.tcp(self.handle);
        match socket.state() {
            State::SynSent | State::SynReceived => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// The other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.held.engine().release(self.handle, Instant::now());
        self.held.nudge();
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut engine = self.held.engine();
        let socket = engine.tcp(self.handle);
        match socket.recv_slice(buf.initialize_unfilled()) {
            Ok(0) if buf.remaining() > 0 => {
                socket.register_recv_waker(cx.waker());
                return Poll::Pending;
            }
            Ok(len) => buf.advance(len),
            Err(RecvError::Finished) => return Poll::Ready(Ok(())),
            Err(RecvError::InvalidState) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
        drop(engine);
        // The window has grown.
        self.held.nudge();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut engine = self.held.engine();
        let socket = engine.tcp(self.handle);
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(len) => {
                drop(engine);
                self.held.nudge();
                Poll::Ready(Ok(len))
            }
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// What is written is sent without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held.engine().tcp(self.handle).close();
        self.held.nudge();
        Poll::Ready(Ok(()))
    }
}

impl TcpListener {
    pub(super) fn new(held: Arc<Held>, port: u16) -> Result<Self, StackError> {
        let mut listener = Self { held: Arc::clone(&held), port, waiting: Vec::with_capacity(BACKLOG) };
        let mut engine = held.engine();
        if engine.listens(port) {
            return Err(StackError::Port(port));
        }
        for _ in 0..BACKLOG {
            // Those before go with the listener.
            listener.waiting.push(engine.listen(port)?);
        }
        Ok(listener)
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// If the switch has closed the port, or the stack has no room for another connection after this one; then it
    /// may be asked again.
    pub async fn accept(&mut self) -> io::Result<TcpStream> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let held = Arc::clone(&self.held);
        let mut engine = held.engine();
        if engine.is_closed() {
            return Poll::Ready(Err(StackError::Closed.into()));
        }
        for place in 0..self.waiting.len() {
            let socket = engine.tcp(self.waiting[place]);
            match socket.state() {
                State::Listen | State::SynReceived => {
                    socket.register_recv_waker(cx.waker());
                    socket.register_send_waker(cx.waker());
                }
                // Reset before anybody had accepted it.
                State::Closed => engine.listen_again(self.waiting[place], self.port)?,
                _ => {
                    let peer = socket.remote_endpoint().map(SocketAddr::from);
                    let Some(peer) = peer else { continue };
                    let next = engine.listen(self.port)?;
                    let handle = std::mem::replace(&mut self.waiting[place], next);
                    return Poll::Ready(Ok(TcpStream { held: Arc::clone(&self.held), handle, peer }));
                }
            }
        }
        Poll::Pending
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let mut engine = self.held.engine();
        for handle in self.waiting.drain(..) {
            // Those that nobody has accepted are reset.
            engine.tcp(handle).abort();
            engine.release(handle, Instant::now());
        }
        drop(engine);
        self.held.nudge();
    }
}
