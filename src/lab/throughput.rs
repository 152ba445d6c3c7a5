//! One TCP stream between two namespaces, every byte checked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::namespace::netns::{NetNs, NetnsError};

/// The pattern's period: prime, so that lost, repeated or shifted pieces of any usual size don't fit.
const PERIOD: usize = 65_521;
/// Bytes of one write and one read.
const BLOCK: usize = 64 * 1024;
/// How long connecting, or a standstill, may last.
const PATIENCE: Duration = Duration::from_secs(5);

/// What went through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Bytes that arrived as they were sent.
    pub bytes: u64,
    /// From the connection's start until the last byte's arrival.
    pub took: Duration,
}

/// Why nothing, or not everything, went through.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// An endpoint's namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The connection could not be made or broke.
    #[error("TCP: {what}: {source}")]
    Tcp {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A byte arrived that was not sent so.
    #[error("TCP: byte {offset} arrived as {found:#04x}, not {expected:#04x}")]
    Corrupt {
        /// Its place in the stream.
        offset: u64,
        /// What was sent.
        expected: u8,
        /// What arrived.
        found: u8,
    },
    /// Fewer bytes arrived than were sent, though the connection was closed in order.
    #[error("TCP: {arrived} of {sent} bytes arrived")]
    Short {
        /// Bytes sent.
        sent: u64,
        /// Bytes arrived.
        arrived: u64,
    },
}

fn tcp(what: &'static str) -> impl Fn(io::Error) -> FlowError {
    move |source| FlowError::Tcp { what, source }
}

/// Sends from one namespace to `address` in another for `duration`, and waits until all has arrived.
///
/// # Errors
/// See [`FlowError`].
pub fn measure(from: &NetNs, to: &NetNs, address: IpAddr, duration: Duration) -> Result<Flow, FlowError> {
    let listener = to.run(|| TcpListener::bind((address, 0)))?.map_err(tcp("listen"))?;
    let target = listener.local_addr().map_err(tcp("listen"))?;
    let stream = from.run(|| connect(target))?.map_err(tcp("connect"))?;
    // It is connected, so one waits to be accepted.
    let (accepted, _) = listener.accept().map_err(tcp("accept"))?;
    accepted.set_read_timeout(Some(PATIENCE)).map_err(tcp("accept"))?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, duration));
        let flow = receive(accepted);
        let sent = sender.join().expect("the sender does not panic");
        let flow = flow?;
        match sent.map_err(tcp("send"))? {
            sent if sent == flow.bytes => Ok(flow),
            sent => Err(FlowError::Short { sent, arrived: flow.bytes }),
        }
    })
}

pub(super) fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

pub(super) fn pattern() -> Vec<u8> {
    // Twice the period and more, so that a block may start anywhere in it.
    (0..PERIOD + BLOCK).map(|at| byte_at(at % PERIOD)).collect()
}

fn byte_at(at: usize) -> u8 {
    let [low, high, ..] = at.to_le_bytes();
    low ^ high.wrapping_mul(167)
}

fn send(mut stream: TcpStream, duration: Duration) -> io::Result<u64> {
    let pattern = pattern();
    let mut at = 0;
    let mut sent = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        let written = stream.write(&pattern[at..at + BLOCK])?;
        sent += written as u64;
        at = (at + written) % PERIOD;
    }
    Ok(sent)
}

fn receive(mut stream: TcpStream) -> Result<Flow, FlowError> {
    let pattern = pattern();
    let mut block = vec![0; BLOCK];
    let (mut at, mut bytes) = (0, 0);
    let start = Instant::now();
    loop {
        let read = stream.read(&mut block).map_err(tcp("receive"))?;
        if read == 0 {
            return Ok(Flow { bytes, took: start.elapsed() });
        }
        check(&block[..read], &pattern[at..at + read], bytes)?;
        bytes += read as u64;
        at = (at + read) % PERIOD;
    }
}

fn check(arrived: &[u8], sent: &[u8], before: u64) -> Result<(), FlowError> {
    if arrived == sent {
        return Ok(());
    }
    let differing = arrived.iter().zip(sent).enumerate().find(|(_, (found, expected))| found != expected);
    differing.map_or(Ok(()), |(index, (&found, &expected))| {
        Err(FlowError::Corrupt { offset: before + index as u64, expected, found })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_named() {
        let error = check(&[1, 2, 9], &[1, 2, 3], 100).unwrap_err();
        assert!(matches!(error, FlowError::Corrupt { offset: 102, expected: 3, found: 9 }), "{error}");
        assert!(check(&[1, 2, 3], &[1, 2, 3], 0).is_ok());
    }

    #[test]
    fn no_block_of_the_pattern_is_like_its_neighbour() {
        let pattern = pattern();
        for shift in [1, 2, 256, 1448, 4096, 32_768] {
            assert_ne!(pattern[..1024], pattern[shift..shift + 1024], "shift {shift}");
        }
    }
}
