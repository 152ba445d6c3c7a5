//! Sending: `sendmmsg`, runs of equal datagrams in one message each (`UDP_SEGMENT`).

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use socket2::{SockAddr, Socket};

use super::control::Control;
use crate::io::SendError;
use crate::outbox::{Outbox, Transmit};

/// Messages of one system call; each is a run, so even this many are several megabytes.
const BATCH: usize = 64;
/// Datagrams of one run that every kernel takes (`UDP_MAX_SEGMENTS` before Linux 6.9, where it became 128).
pub const RUN_DATAGRAMS_MAX: usize = 64;
/// Bytes of one run: the most that UDP over IPv4 carries, since the kernel makes one such packet before it cuts.
pub const RUN_BYTES_MAX: usize = 65_507;

/// One message: some datagrams of a transmit.
#[derive(Clone, Debug)]
struct Message {
    transmit: usize,
    range: Range<usize>,
    segment: usize,
}

impl Message {
    fn is_run(&self) -> bool {
        self.range.len() > self.segment
    }

    /// Its datagrams, one message each.
    fn singles(self) -> impl Iterator<Item = Self> {
        pieces(self.transmit, self.range, self.segment, 1)
    }
}

/// Cuts a range into messages of at most `datagrams` each.
fn pieces(
    transmit: usize,
    range: Range<usize>,
    segment: usize,
    datagrams: usize,
) -> impl Iterator<Item = Message> {
    let step = segment.max(1) * datagrams;
    range.clone().step_by(step).map(move |start| {
        let range = start..range.end.min(start + step);
        Message { transmit, range, segment }
    })
}

/// A socket that sends from one port, and what waits for it.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    /// Cleared for ever when this kernel or route turns out not to cut runs.
    segmentation: bool,
    queue: Vec<Message>,
    messages: Vec<libc::mmsghdr>,
    pieces: Vec<libc::iovec>,
    addresses: Vec<SockAddr>,
    controls: Vec<Control>,
}

// SAFETY: the arrays hold raw pointers, into each other and into an outbox, that are set anew by every call and not
// followed outside of it.
unsafe impl Send for Sender {}

impl Sender {
    pub(super) fn new(socket: Socket, segmentation: bool) -> Self {
        Self {
            socket,
            segmentation,
            queue: Vec::new(),
            messages: Vec::with_capacity(BATCH),
            pieces: Vec::with_capacity(BATCH),
            addresses: Vec::with_capacity(BATCH),
            controls: Vec::with_capacity(BATCH),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether runs are still sent as one message.
    #[cfg(test)]
    pub(super) fn segments(&self) -> bool {
        self.segmentation
    }

    /// Puts a transmit into the queue that [`Self::flush`] sends.
    pub(super) fn enqueue(&mut self, index: usize, transmit: &Transmit) {
        let segment = transmit.segment.clamp(1, transmit.range.len().max(1));
        let fit = if self.segmentation { RUN_BYTES_MAX / segment } else { 1 };
        let datagrams = fit.clamp(1, RUN_DATAGRAMS_MAX);
        self.queue.extend(pieces(index, transmit.range.clone(), segment, datagrams));
    }

    /// Sends the queue; a message that fails is left behind, those after it are not.
    pub(super) fn flush(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>) {
        let mut done = 0;
        while done < self.queue.len() {
            let batch = done..self.queue.len().min(done + BATCH);
            let error = match self.call(batch, out) {
                Ok(sent) => {
                    done += sent;
                    continue;
                }
                Err(error) => error,
            };
            let message = self.queue[done].clone();
            match self.judge(&message, error, out) {
                Verdict::Retry => {}
                Verdict::Lost(error) => {
                    fail(failed, message.transmit, error);
                    done += 1;
                }
                Verdict::Full => {
                    let rest = self.queue.drain(done..);
                    rest.for_each(|message| fail(failed, message.transmit, SendError::Full));
                }
                Verdict::NotCut => {
                    self.segmentation = false;
                    let rest: Vec<Message> = self.queue.drain(done..).collect();
                    self.queue.extend(rest.into_iter().flat_map(Message::singles));
                    // The first of them has been sent by the test.
                    done += 1;
                }
            }
        }
        self.queue.clear();
    }

    /// What the failure of a message means.
    ///
    /// A refused run may be too large (old kernels say EINVAL), undeliverable, or beyond this kernel, device or route:
    /// sending its first datagram alone tells.
    fn judge(&mut self, message: &Message, error: io::Error, out: &Outbox) -> Verdict {
        let beyond = [libc::EINVAL, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        match error.raw_os_error() {
            Some(libc::EINTR) => Verdict::Retry,
            Some(libc::EAGAIN | libc::ENOBUFS) => Verdict::Full,
            Some(libc::EMSGSIZE) => Verdict::Lost(SendError::TooBig),
            Some(code) if message.is_run() && beyond.contains(&code) => match self.send_first(message, out) {
                Ok(()) => Verdict::NotCut,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS) => Verdict::Full,
                    Some(libc::EMSGSIZE) => Verdict::Lost(SendError::TooBig),
                    _ => Verdict::Lost(SendError::Refused(error)),
                },
            },
            _ => Verdict::Lost(SendError::Refused(error)),
        }
    }

    fn send_first(&self, message: &Message, out: &Outbox) -> io::Result<()> {
        let transmit = &out.transmits[message.transmit];
        let first = message.range.start..message.range.start + message.segment;
        let datagram = out.packets[transmit.packet].slice(first);
        loop {
            match self.socket.send_to(datagram, &transmit.to.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// One `sendmmsg`: how many were sent, at least one; or why the first was not.
    fn call(&mut self, batch: Range<usize>, out: &Outbox) -> io::Result<usize> {
        self.prepare(batch, out);
        let count = libc::c_uint::try_from(self.messages.len()).expect("at most BATCH");
        // SAFETY: `prepare` has just made every pointer one into arrays of this struct, or to bytes of the outbox that
        // is borrowed meanwhile, with their lengths, and none has moved since. Sending only reads them.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), self.messages.as_mut_ptr(), count, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn prepare(&mut self, batch: Range<usize>, out: &Outbox) {
        let queue = &self.queue[batch];
        // SAFETY: all zeros is a valid message header with null pointers.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        self.messages.clear();
        self.messages.resize(queue.len(), empty);
        self.controls.resize(queue.len(), Control::EMPTY);
        self.addresses.clear();
        self.addresses.extend(queue.iter().map(|message| SockAddr::from(out.transmits[message.transmit].to)));
        self.pieces.clear();
        self.pieces.extend(queue.iter().map(|message| {
            let packet = &out.packets[out.transmits[message.transmit].packet];
            let bytes = packet.slice(message.range.clone());
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
        let parts = self.pieces.iter_mut().zip(&self.addresses).zip(&mut self.controls);
        for ((entry, ((piece, address), control)), message) in self.messages.iter_mut().zip(parts).zip(queue)
        {
            let header = &mut entry.msg_hdr;
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            if message.is_run() {
                let segment = u16::try_from(message.segment).expect("a run is within RUN_BYTES_MAX");
                control.set_segment(header, segment);
            }
        }
    }
}

/// What to do after a failure.
enum Verdict {
    Retry,
    Lost(SendError),
    /// This one and all behind it.
    Full,
    /// Runs are not cut here; the first datagram of this one has been sent alone.
    NotCut,
}

/// Notes a failure, once for all messages of a transmit, which follow each other.
fn fail(failed: &mut Vec<(usize, SendError)>, transmit: usize, error: SendError) {
    if failed.last().is_none_or(|(last, _)| *last != transmit) {
        failed.push((transmit, error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_without_gap_and_the_last_may_be_short() {
        let cut: Vec<_> = pieces(3, 10..35, 4, 2).map(|message| message.range).collect();
        assert_eq!(cut, [10..18, 18..26, 26..34, 34..35]);
        assert_eq!(pieces(0, 5..5, 4, 2).count(), 0);
    }
}
