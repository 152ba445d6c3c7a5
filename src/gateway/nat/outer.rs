//! The side of a connection that is not inside: a socket of this host's TCP, or an end of a pipe to somebody in this
//! process who has the client.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use socket2::TcpKeepalive;

use crate::gateway::pipe::Pipe;

/// How the other end of a quiet connection is asked whether it is still there (RFC 9293 §3.8.4): after ten minutes, then each
/// minute, and five times in vain. So one that has vanished is noticed within 15 minutes, about as soon as if it had been
/// sent something (tcp(7), `tcp_retries2`). A task's own probes don't tell: they are answered here.
pub(crate) const KEEP_ALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(600))
    .with_interval(Duration::from_secs(60))
    .with_retries(5);

/// Has what is not sent be thrown away when a socket is closed, and the other end be reset (RFC 9293 §3.10.4, socket(7) on
/// `SO_LINGER`).
pub(crate) fn reset_on_close(socket: impl AsFd) {
    // Where that fails it is closed in order.
    let _closed = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// It does not block.
#[derive(Debug)]
pub enum Outer {
    /// The client, or who is asked.
    Socket(TcpStream),
    /// The client, and what counts it as long as it is connected.
    Counted(TcpStream, Arc<dyn fmt::Debug + Send + Sync>),
    /// Somebody who has the client.
    Pipe(Pipe),
}

impl Outer {
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Socket(stream) | Self::Counted(stream, _) => stream.shutdown(Shutdown::Write),
            Self::Pipe(pipe) => pipe.stream.shutdown(Shutdown::Write),
        }
    }

    /// Both sides decide for themselves when to send.
    pub(super) fn send_at_once(&self) {
        if let Self::Socket(stream) | Self::Counted(stream, _) = self {
            // Where that can't be said, they are slower.
            let _slower = stream.set_nodelay(true);
        }
    }

    /// See [`reset_on_close`].
    pub(super) fn reset_on_close(&self) {
        match self {
            Self::Socket(stream) | Self::Counted(stream, _) => reset_on_close(stream),
            Self::Pipe(pipe) => pipe.fate.reset(),
        }
    }

    /// Whether somebody who has the client has given up.
    pub(super) fn is_left(&self) -> bool {
        matches!(self, Self::Pipe(pipe) if pipe.fate.is_reset())
    }
}

impl Read for Outer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) | Self::Counted(stream, _) => stream.read(buffer),
            Self::Pipe(pipe) => pipe.stream.read(buffer).and_then(|len| pipe.fate.read(len)),
        }
    }
}

impl Write for Outer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Socket(stream) | Self::Counted(stream, _) => stream.write(bytes),
            Self::Pipe(pipe) => pipe.stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Outer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(stream) | Self::Counted(stream, _) => stream.as_fd(),
            Self::Pipe(pipe) => pipe.stream.as_fd(),
        }
    }
}
