//! Sending: `sendmmsg`, equal datagrams for one peer in one message each (`UDP_SEGMENT`).
//!
//! A run that was cut from a super-frame is one message. Ordinary frames of one size that follow each other to one
//! peer are joined to one as well, whatever flows they are of: they share the socket, and so the source port.

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use socket2::{SockAddr, Socket};

use super::control::Control;
use crate::io::SendError;
use crate::outbox::{Outbox, RUN_BYTES_MAX, RUN_DATAGRAMS_MAX, Transmit};

/// Messages of one system call; each may be a run, so even this many are several megabytes.
const BATCH: usize = 64;
/// Some datagrams of a transmit, few enough for one message.
#[derive(Clone, Debug)]
struct Piece {
    transmit: usize,
    /// Bytes of the transmit, counted from its start: whole datagrams.
    range: Range<usize>,
    segment: usize,
}

impl Piece {
    fn datagrams(&self) -> usize {
        self.range.len().div_ceil(self.segment)
    }

    /// Its datagrams, one piece each.
    fn singles(self) -> impl Iterator<Item = Self> {
        pieces(self.transmit, self.range, self.segment, 1)
    }

    /// Its bytes, where they are.
    fn gather(&self, out: &Outbox, into: &mut Vec<libc::iovec>) {
        let transmit = &out.transmits[self.transmit];
        let mut add = |bytes: &[u8]| {
            into.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
        };
        if transmit.heads.is_none() {
            let start = transmit.range.start;
            let range = start + self.range.start..start + self.range.end;
            return add(out.packets[transmit.packet].slice(range));
        }
        let first = self.range.start / self.segment;
        let own = out.datagrams(transmit).skip(first).take(self.datagrams());
        own.flatten().for_each(add);
    }
}

/// Cuts a range into pieces of at most `datagrams` each.
fn pieces(
    transmit: usize,
    range: Range<usize>,
    segment: usize,
    datagrams: usize,
) -> impl Iterator<Item = Piece> {
    let step = segment.max(1) * datagrams;
    range.clone().step_by(step).map(move |start| {
        let range = start..range.end.min(start + step);
        Piece { transmit, range, segment }
    })
}

/// How many pieces from the first on go in one message: of one size, for one peer, and only the last one short.
fn joinable(queue: &[Piece], out: &Outbox) -> usize {
    let peer = |piece: &Piece| out.transmits[piece.transmit].to;
    let (mut count, mut bytes, mut datagrams) = (0, 0, 0);
    for piece in queue {
        let same = piece.segment == queue[0].segment && peer(piece) == peer(&queue[0]);
        let whole = bytes == datagrams * queue[0].segment;
        (bytes, datagrams) = (bytes + piece.range.len(), datagrams + piece.datagrams());
        let fits = bytes <= RUN_BYTES_MAX && datagrams <= RUN_DATAGRAMS_MAX;
        if count > 0 && !(same && whole && fits) {
            break;
        }
        count += 1;
    }
    count
}

/// A socket that sends from one port, and what waits for it.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Arc<Socket>,
    /// Cleared for ever when this kernel or route turns out not to cut runs.
    segmentation: bool,
    queue: Vec<Piece>,
    /// How many pieces each message has, and how many slices they come to.
    counts: Vec<(usize, usize)>,
    messages: Vec<libc::mmsghdr>,
    slices: Vec<libc::iovec>,
    addresses: Vec<SockAddr>,
    controls: Vec<Control>,
}

// SAFETY: the arrays hold raw pointers, into each other and into an outbox, that are set anew by every call and not
// followed outside of it.
unsafe impl Send for Sender {}

impl Sender {
    pub(super) fn new(socket: Arc<Socket>, segmentation: bool) -> Self {
        Self {
            socket,
            segmentation,
            queue: Vec::new(),
            counts: Vec::with_capacity(BATCH),
            messages: Vec::with_capacity(BATCH),
            slices: Vec::with_capacity(BATCH),
            addresses: Vec::with_capacity(BATCH),
            controls: Vec::with_capacity(BATCH),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether runs are still sent as one message.
    pub(super) fn segments(&self) -> bool {
        self.segmentation
    }

    /// Puts a transmit into the queue that [`Self::flush`] sends.
    pub(super) fn enqueue(&mut self, index: usize, transmit: &Transmit) {
        let segment = transmit.segment.clamp(1, transmit.bytes().max(1));
        let fit = if self.segmentation { RUN_BYTES_MAX / segment } else { 1 };
        let datagrams = fit.clamp(1, RUN_DATAGRAMS_MAX);
        self.queue.extend(pieces(index, 0..transmit.bytes(), segment, datagrams));
    }

    /// Sends the queue; a message that fails is left behind, those after it are not.
    pub(super) fn flush(&mut self, out: &Outbox, failed: &mut Vec<(usize, SendError)>) {
        let mut done = 0;
        while done < self.queue.len() {
            let error = match self.call(done, out) {
                Ok(sent) => {
                    done += sent;
                    continue;
                }
                Err(error) => error,
            };
            let message = done..done + self.counts[0].0;
            match self.judge(&self.queue[message.clone()], &error, out) {
                Verdict::Retry => {}
                Verdict::Lost(code) => {
                    self.queue[message].iter().for_each(|piece| fail(failed, piece.transmit, lost(code)));
                    done += self.counts[0].0;
                }
                Verdict::Full => {
                    self.queue[done..].iter().for_each(|piece| fail(failed, piece.transmit, SendError::Full));
                    done = self.queue.len();
                }
                Verdict::NotCut => {
                    self.segmentation = false;
                    let rest: Vec<Piece> = self.queue.drain(done..).collect();
                    self.queue.extend(rest.into_iter().flat_map(Piece::singles));
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
    fn judge(&self, message: &[Piece], error: &io::Error, out: &Outbox) -> Verdict {
        let beyond = [libc::EINVAL, libc::EIO, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        let is_run = message.len() > 1 || message[0].datagrams() > 1;
        match error.raw_os_error() {
            Some(libc::EINTR) => Verdict::Retry,
            Some(code) if is_run && beyond.contains(&code) => match self.send_first(&message[0], out) {
                Ok(()) => Verdict::NotCut,
                Err(error) => Verdict::of_one(&error),
            },
            _ => Verdict::of_one(error),
        }
    }

    fn send_first(&self, piece: &Piece, out: &Outbox) -> io::Result<()> {
        let transmit = &out.transmits[piece.transmit];
        let mut datagrams = out.datagrams(transmit);
        let datagram = datagrams.nth(piece.range.start / piece.segment).expect("a piece has a datagram");
        loop {
            match self.socket.send_to_vectored(&datagram.map(io::IoSlice::new), &transmit.to.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(drop),
            }
        }
    }

    /// One `sendmmsg` from a place in the queue on: how many pieces were sent, at least one; or why the first message,
    /// of as many pieces as [`Self::counts`] says, was not.
    fn call(&mut self, start: usize, out: &Outbox) -> io::Result<usize> {
        self.prepare(start, out);
        let count = libc::c_uint::try_from(self.messages.len()).expect("at most BATCH");
        // SAFETY: `prepare` has just made every pointer one into arrays of this struct, or to bytes of the outbox that
        // is borrowed meanwhile, with their lengths, and none has moved since. Sending only reads them.
        let sent = unsafe {
            libc::sendmmsg(self.socket.as_raw_fd(), self.messages.as_mut_ptr(), count, libc::MSG_DONTWAIT)
        };
        let sent = usize::try_from(sent).map_err(|_| io::Error::last_os_error())?;
        Ok(self.counts[..sent].iter().map(|(pieces, _)| pieces).sum())
    }

    fn prepare(&mut self, start: usize, out: &Outbox) {
        self.counts.clear();
        self.addresses.clear();
        self.slices.clear();
        let mut end = start;
        while end < self.queue.len() && self.counts.len() < BATCH {
            let rest = &self.queue[end..];
            let count = if self.segmentation { joinable(rest, out) } else { 1 };
            self.addresses.push(SockAddr::from(out.transmits[rest[0].transmit].to));
            let before = self.slices.len();
            rest[..count].iter().for_each(|piece| piece.gather(out, &mut self.slices));
            self.counts.push((count, self.slices.len() - before));
            end += count;
        }
        let queue = &self.queue[start..end];
        // SAFETY: all zeros is a valid message header with null pointers.
        let empty: libc::mmsghdr = unsafe { std::mem::zeroed() };
        self.messages.clear();
        self.messages.resize(self.counts.len(), empty);
        self.controls.resize(self.counts.len(), Control::EMPTY);
        let (mut queue, mut slices) = (queue, &mut self.slices[..]);
        let parts = self.addresses.iter().zip(&mut self.controls).zip(&self.counts);
        for (entry, ((address, control), &(count, slice_count))) in self.messages.iter_mut().zip(parts) {
            let (pieces, behind) = queue.split_at(count);
            let (own, rest) = slices.split_at_mut(slice_count);
            (queue, slices) = (behind, rest);
            let header = &mut entry.msg_hdr;
            header.msg_iov = own.as_mut_ptr();
            header.msg_iovlen = slice_count;
            header.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_namelen = address.len();
            if count > 1 || pieces[0].datagrams() > 1 {
                let segment = u16::try_from(pieces[0].segment).expect("a run is within RUN_BYTES_MAX");
                control.set_segment(header, segment);
            }
        }
    }
}

/// What to do after a failure.
enum Verdict {
    Retry,
    /// All of the message, for this errno.
    Lost(i32),
    /// This one and all behind it.
    Full,
    /// Runs are not cut here; the first datagram of this one has been sent alone.
    NotCut,
}

impl Verdict {
    /// Of a single datagram, or of what fails as a single one would.
    fn of_one(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => Self::Full,
            code => Self::Lost(code.unwrap_or(libc::EIO)),
        }
    }
}

fn lost(code: i32) -> SendError {
    match code {
        libc::EMSGSIZE => SendError::TooBig,
        code => SendError::Refused(io::Error::from_raw_os_error(code)),
    }
}

/// Notes a failure, once for all pieces of a transmit, which follow each other.
fn fail(failed: &mut Vec<(usize, SendError)>, transmit: usize, error: SendError) {
    if failed.last().is_none_or(|(last, _)| *last != transmit) {
        failed.push((transmit, error));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::outbox::Payload;
    use crate::vtep::VtepId;
    use crate::wire::Vni;

    #[test]
    fn equal_datagrams_for_one_peer_are_joined_and_only_the_last_may_be_short() {
        let out = |sizes: &[(u8, usize)]| {
            let transmit = |&(peer, len): &(u8, usize)| Transmit {
                peer: VtepId(0),
                to: SocketAddr::from(([192, 0, 2, peer], 4789)),
                payload: Payload::Frames(Vni::new(0).unwrap()),
                overhead: 0,
                entropy: 0,
                packet: 0,
                range: 0..len,
                segment: len.min(100),
                heads: None,
            };
            Outbox { transmits: sizes.iter().map(transmit).collect(), ..Outbox::default() }
        };
        for (sizes, want) in [
            (&[(1, 60)][..], 1),
            (&[(1, 60), (1, 60), (1, 60)], 3),
            (&[(1, 60), (2, 60)], 1),
            (&[(1, 60), (1, 61)], 1),
            (&[(1, 60), (1, 59)], 1),
            (&[(1, 200), (1, 300), (1, 100)], 3),
            (&[(1, 200), (1, 250), (1, 100)], 2),
            (&[(1, 60); 70], RUN_DATAGRAMS_MAX),
            (&[(1, 6_400), (1, 100)], 1),
        ] {
            let out = out(sizes);
            let queue: Vec<Piece> = (0..sizes.len())
                .map(|transmit| {
                    let Transmit { range, segment, .. } = out.transmits[transmit].clone();
                    Piece { transmit, range, segment }
                })
                .collect();
            assert_eq!(joinable(&queue, &out), want, "{sizes:?}");
        }
    }

    #[test]
    fn a_range_is_cut_without_gap_and_the_last_may_be_short() {
        let cut: Vec<_> = pieces(3, 10..35, 4, 2).map(|message| message.range).collect();
        assert_eq!(cut, [10..18, 18..26, 26..34, 34..35]);
        assert_eq!(pieces(0, 5..5, 4, 2).count(), 0);
    }
}
