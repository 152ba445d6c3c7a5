//! What goes over the underlay, frame by frame, read with a packet socket (packet(7)) in the bridge's namespace.

use std::collections::HashSet;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use socket2::{Domain, Protocol, Socket, Type};
use vswitchd::namespace::netns::NetNs;

/// Every protocol (`linux/if_ether.h`, `ETH_P_ALL`).
const ALL: u16 = 3;
/// The largest frame that a veth pair hands on: a super-frame and its header.
const FRAME_MAX: usize = 66_000;
/// Bytes that are kept; a test that makes more has gone wrong.
const KEPT_MAX: usize = 256 << 20;

/// Runs until it is stopped or dropped.
pub(super) struct Capture {
    /// Hangs up to stop the thread.
    running: OwnedFd,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: JoinHandle<Result<()>>,
}

/// A UDP datagram as it was on the wire.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) payload: Vec<u8>,
}

impl Capture {
    /// Sees every link of the namespace from now on, most frames more than once.
    pub(super) fn start(netns: &NetNs) -> Result<Self> {
        let protocol = Protocol::from(i32::from(ALL.to_be()));
        let socket = netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))??;
        socket.set_nonblocking(true)?;
        let (stop, running) = pipe_with(PipeFlags::CLOEXEC)?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let thread = thread::Builder::new().name("capture".into());
        Ok(Self { running, kept, thread: thread.spawn(move || capture(&socket, &stop, &keep))? })
    }

    /// The frames so far.
    pub(super) fn frames(&self) -> Vec<Vec<u8>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The different datagrams so far that go to a port.
    pub(super) fn datagrams(&self, port: u16) -> Vec<Datagram> {
        let mut seen = HashSet::new();
        let all = self.frames().into_iter().filter_map(|frame| datagram(&frame));
        all.filter(|datagram| datagram.to.port() == port && seen.insert(datagram.clone())).collect()
    }

    /// Ends it and gives all frames.
    pub(super) fn stop(self) -> Result<Vec<Vec<u8>>> {
        let frames = self.frames();
        drop(self.running);
        self.thread.join().expect("the capture returns its errors").context("the capture")?;
        Ok(frames)
    }
}

fn capture(mut socket: &Socket, stop: &OwnedFd, kept: &Mutex<Vec<Vec<u8>>>) -> Result<()> {
    let mut buf = vec![0; FRAME_MAX];
    let mut bytes = 0;
    loop {
        let mut polled = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::empty()),
        ];
        poll(&mut polled, None)?;
        if !polled[1].revents().is_empty() {
            return Ok(());
        }
        loop {
            let len = match socket.read(&mut buf) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // A link that went down says so once.
                Err(error) if error.kind() == ErrorKind::NetworkDown => continue,
                Err(error) => return Err(error.into()),
            };
            bytes += len;
            ensure!(bytes <= KEPT_MAX, "more than {KEPT_MAX} bytes to keep");
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(buf[..len].to_vec());
        }
    }
}

/// The datagram in a frame, if it is one over UDP in a whole IP packet.
fn datagram(frame: &[u8]) -> Option<Datagram> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = packet.transport else { return None };
    let (from, to) = match packet.net? {
        NetSlice::Ipv4(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(_) => return None,
    };
    Some(Datagram {
        from: SocketAddr::new(from, udp.source_port()),
        to: SocketAddr::new(to, udp.destination_port()),
        payload: udp.payload().to_vec(),
    })
}

/// Where `needle` is in these bytes.
pub(super) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
