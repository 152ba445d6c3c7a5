//! Echo requests between namespaces: who answers whom, and how fast.
//!
//! One raw socket (RFC 792 and RFC 4443 §4.1 echo) in each source's namespace asks all targets in turn, again
//! and again, until everybody who ought to answer has done so or the rounds are used up. Every request carries
//! who asks whom, so that an answer that went astray is not taken for another's.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};
use vswitchd_switch::wire::checksum;

use crate::namespace::netns::{NetNs, NetnsError};

/// Marks the payload as ours.
const MAGIC: [u8; 8] = *b"vswitchd";
/// ICMP header, magic, source, target, time.
const MESSAGE_LEN: usize = 8 + 8 + 2 + 2 + 8;
/// Between two requests of one source, so that a large lab's questions don't arrive as a burst.
const PACE: Duration = Duration::from_millis(1);

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    /// Its number.
    pub(super) number: u16,
    /// Its address.
    pub(super) address: IpAddr,
    /// Whether it ought to answer.
    pub(super) expected: bool,
}

/// How long to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Time between two rounds of questions.
    pub(super) round: Duration,
    /// Rounds in any case: those who must not answer get this many chances to.
    pub(super) rounds_min: u32,
    /// Rounds while somebody who ought to answer has not.
    pub(super) rounds_max: u32,
}

/// Asks `targets` from `netns` as number `source`; gives for each the shortest round trip, if it answered.
pub(super) fn ask(
    netns: &NetNs,
    source: u16,
    targets: &[Target],
    patience: Patience,
) -> Result<Vec<Option<Duration>>, PingError> {
    let Some(first) = targets.first() else { return Ok(Vec::new()) };
    let ipv6 = first.address.is_ipv6();
    let socket = netns.run(|| open(ipv6))?.map_err(PingError::Socket)?;
    let mut asker =
        Asker { socket, ipv6, source, targets, answers: vec![None; targets.len()], start: Instant::now() };
    let mut content_rounds = 0;
    for round in 0..patience.rounds_max {
        // An answer that had to wait for the way to be found tells no round trip: so a whole round more.
        if round >= patience.rounds_min && content_rounds > 1 {
            break;
        }
        let end = Instant::now() + patience.round;
        for target in targets {
            asker.question(target, round)?;
            asker.listen_until(Instant::now() + PACE)?;
        }
        asker.listen_until(end)?;
        content_rounds += u32::from(asker.is_content());
    }
    Ok(asker.answers)
}

/// Why nothing could be asked.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// The endpoint's namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No raw socket.
    #[error("can't open a raw ICMP socket: {0}")]
    Socket(io::Error),
    /// A question was refused.
    #[error("can't send echo requests: {0}")]
    Send(io::Error),
    /// The socket failed.
    #[error("can't receive echo replies: {0}")]
    Receive(io::Error),
}

fn open(ipv6: bool) -> io::Result<Socket> {
    let (domain, protocol) =
        if ipv6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

struct Asker<'a> {
    socket: Socket,
    ipv6: bool,
    source: u16,
    targets: &'a [Target],
    answers: Vec<Option<Duration>>,
    start: Instant,
}

impl Asker<'_> {
    /// Whether everybody who ought to answer has.
    fn is_content(&self) -> bool {
        self.targets.iter().zip(&self.answers).all(|(target, answer)| !target.expected || answer.is_some())
    }

    fn question(&self, target: &Target, round: u32) -> Result<(), PingError> {
        let message = emit(self.ipv6, self.source, target.number, round, self.start.elapsed());
        match self.socket.send_to(&message, &SocketAddr::new(target.address, 0).into()) {
            Ok(_) => Ok(()),
            // Errors of earlier questions (nobody answered ARP) come up here; that is an answer too: none.
            Err(error) if is_unreachable(&error) || is_full(&error) => Ok(()),
            Err(error) => Err(PingError::Send(error)),
        }
    }

    fn listen_until(&mut self, deadline: Instant) -> Result<(), PingError> {
        loop {
            self.drain()?;
            let wait = deadline.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            let timeout =
                Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
            let mut polled = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(PingError::Receive(errno.into())),
            }
        }
    }

    fn drain(&mut self) -> Result<(), PingError> {
        let mut packet = [0; 512];
        loop {
            match self.socket.read(&mut packet) {
                Ok(len) => self.answer(&packet[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted || is_unreachable(&error) => {}
                Err(error) => return Err(PingError::Receive(error)),
            }
        }
    }

    fn answer(&mut self, packet: &[u8]) {
        let Some(reply) = parse(self.ipv6, packet).filter(|reply| reply.source == self.source) else {
            return;
        };
        let Some(index) = self.targets.iter().position(|target| target.number == reply.target) else {
            return;
        };
        let rtt = self.start.elapsed().saturating_sub(reply.asked);
        let best = self.answers[index].map_or(rtt, |before| before.min(rtt));
        self.answers[index] = Some(best);
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), HostUnreachable | NetworkUnreachable | ConnectionRefused)
}

/// Whether the machine's table of neighbours has no room just now; IPv6 says so with EINVAL.
fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(error), Some(Errno::NOBUFS | Errno::INVAL))
}

#[derive(Debug, PartialEq, Eq)]
struct Reply {
    source: u16,
    target: u16,
    /// When it was asked, since the asker's start.
    asked: Duration,
}

/// ```text
///  0      1      2          4            6          8       16       18       20
/// | type | code | checksum | identifier | sequence | magic | source | target | nanoseconds |
/// ```
fn emit(ipv6: bool, source: u16, target: u16, round: u32, at: Duration) -> [u8; MESSAGE_LEN] {
    let mut message = [0; MESSAGE_LEN];
    message[0] = if ipv6 { 128 } else { 8 };
    message[4..6].copy_from_slice(&source.to_be_bytes());
    let [_, _, high, low] = round.to_be_bytes();
    message[6..8].copy_from_slice(&[high, low]);
    message[8..16].copy_from_slice(&MAGIC);
    message[16..18].copy_from_slice(&source.to_be_bytes());
    message[18..20].copy_from_slice(&target.to_be_bytes());
    let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
    message[20..28].copy_from_slice(&nanos.to_be_bytes());
    if !ipv6 {
        // For ICMPv6 the kernel fills it in (RFC 3542 §3.1).
        let sum = checksum::Sum::default().bytes(&message).finish();
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// Reads a reply; `packet` starts with the IP header for IPv4 and without it for IPv6 (raw(7), RFC 3542 §3).
fn parse(ipv6: bool, packet: &[u8]) -> Option<Reply> {
    let header_len = if ipv6 { 0 } else { usize::from(packet.first()? & 0xf) * 4 };
    let message: &[u8; MESSAGE_LEN] = packet.get(header_len..)?.first_chunk()?;
    let is_reply = message[0] == if ipv6 { 129 } else { 0 };
    if !is_reply || message[8..16] != MAGIC {
        return None;
    }
    let nanos = u64::from_be_bytes(*message.last_chunk()?);
    Some(Reply {
        source: u16::from_be_bytes([message[16], message[17]]),
        target: u16::from_be_bytes([message[18], message[19]]),
        asked: Duration::from_nanos(nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(ipv6: bool) -> Vec<u8> {
        let mut packet = if ipv6 { Vec::new() } else { vec![0x45; 20] };
        packet.extend(emit(ipv6, 3, 700, 2, Duration::from_millis(5)));
        let kind = packet.len() - MESSAGE_LEN;
        packet[kind] = if ipv6 { 129 } else { 0 };
        packet
    }

    #[test]
    fn a_reply_says_who_asked_whom_and_when() {
        for ipv6 in [false, true] {
            let expected = Reply { source: 3, target: 700, asked: Duration::from_millis(5) };
            assert_eq!(parse(ipv6, &reply(ipv6)), Some(expected));
        }
    }

    #[test]
    fn requests_strangers_replies_and_truncations_are_none() {
        for ipv6 in [false, true] {
            let whole = reply(ipv6);
            for len in 0..whole.len() {
                assert_eq!(parse(ipv6, &whole[..len]), None, "{len} bytes");
            }
            let mut foreign = whole.clone();
            let at = foreign.len() - MESSAGE_LEN + 8;
            foreign[at] ^= 1;
            assert_eq!(parse(ipv6, &foreign), None);
            assert_eq!(parse(ipv6, &[0xff; 600]), None);
        }
        let mut request = vec![0x45; 20];
        request.extend(emit(false, 1, 2, 0, Duration::ZERO));
        assert_eq!(parse(false, &request), None, "our own question is not an answer");
    }

    #[test]
    fn the_checksum_of_a_whole_request_is_zero() {
        let request = emit(false, 1, 2, 3, Duration::from_secs(1));
        assert_eq!(checksum::Sum::default().bytes(&request).finish(), [0, 0]);
    }
}
