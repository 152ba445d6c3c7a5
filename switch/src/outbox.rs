//! What a batch has come to: frames for ports and datagrams for peers.
//!
//! Entries point into shared buffers, so one flooded frame costs one buffer whatever its receivers are.

use std::net::SocketAddr;
use std::ops::Range;

use crate::packet::{DATA_MAX, HEADROOM, PacketBuf, Pool};
use crate::tables::PortId;
use crate::vtep::VtepId;
use crate::wire::Vni;
use crate::wire::virtio::Offload;

/// Bytes of a run of datagrams: the largest UDP payload over IPv4 (65,535 - 20 - 8); the kernel makes one such packet
/// before it cuts.
pub const RUN_BYTES_MAX: usize = 65_507;
/// Datagrams of a run that every kernel takes (`UDP_MAX_SEGMENTS` before Linux 6.9, where it became 128).
pub const RUN_DATAGRAMS_MAX: usize = 64;
/// How many datagrams of so many bytes one message takes.
#[must_use]
pub fn run_datagrams(bytes: usize) -> usize {
    (RUN_BYTES_MAX / bytes.max(1)).min(RUN_DATAGRAMS_MAX)
}

/// Entries of either kind that a batch may come to: a batch of the largest runs, flooded to some thirty receivers. What
/// is more is dropped and counted, so that no batch holds the worker, or memory, for long.
pub const ENTRIES_MAX: usize = 65_536;

/// Pieces of one frame that a port is given: a first segment and payloads of others. One `writev` of that many and a
/// header is far below the system's limit (1024), and 64 segments fill 64 KiB at any MTU from 1,090 up.
pub const PARTS_MAX: usize = 64;

/// Bytes in a shared buffer.
#[derive(Clone, Debug)]
pub struct Part {
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// Where in it.
    pub range: Range<usize>,
}

/// A frame for a port.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Receiver.
    pub port: PortId,
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// The frame in that buffer, or its beginning.
    pub range: Range<usize>,
    /// The rest of a joined frame, in [`Outbox::parts`]: at most [`PARTS_MAX`] - 1; empty for others.
    pub more: Range<usize>,
    /// State of its checksum, and how it is to be cut.
    pub offload: Offload,
}

/// What datagrams for a peer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Frames of a network, one each.
    Frames(Vni),
    /// A request for an echo of ours, by its number ([`crate::probe`]).
    Request(u32),
    /// The reply to one of the peer's.
    Reply,
}

/// One datagram, or a run of them, for a peer.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// Receiver.
    pub peer: VtepId,
    /// Its address.
    pub to: SocketAddr,
    /// What they hold.
    pub payload: Payload,
    /// Bytes around each frame: headers and, where it is sealed, a tag.
    pub overhead: usize,
    /// Picks the outer source port; equal within a flow.
    pub entropy: u32,
    /// Index of the buffer in [`Outbox::packets`].
    pub packet: usize,
    /// The datagrams in that buffer, back to back; only what stands behind their headers if there are [`Self::heads`].
    pub range: Range<usize>,
    /// Bytes of each datagram but the last, which may be shorter; all for a single one.
    pub segment: usize,
    /// Where the datagrams' headers are, if not in front of them: a super-frame's payload is sent from where it is.
    pub heads: Option<Heads>,
}

/// The headers of a run's datagrams, back to back.
#[derive(Clone, Debug)]
pub struct Heads {
    /// Index of the buffer in [`Outbox::heads`].
    pub packet: usize,
    /// Where in it.
    pub range: Range<usize>,
    /// Bytes of each.
    pub each: usize,
}

/// The outcome of a batch; emptied by [`Self::recycle`], its memory kept.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Buffers that the entries below point into.
    pub packets: Vec<PacketBuf>,
    /// Buffers of headers only.
    pub heads: Vec<PacketBuf>,
    /// Frames for ports, in order.
    pub deliveries: Vec<Delivery>,
    /// What joined frames consist of besides their first segments.
    pub parts: Vec<Part>,
    /// Datagrams for peers, in order.
    pub transmits: Vec<Transmit>,
}

impl Transmit {
    /// How many datagrams it is.
    #[must_use]
    pub fn datagrams(&self) -> usize {
        match &self.heads {
            Some(heads) => heads.range.len() / heads.each,
            None => self.range.len().div_ceil(self.segment),
        }
    }

    /// Bytes of all of it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.range.len() + self.heads.as_ref().map_or(0, |heads| heads.range.len())
    }

    /// Bytes of the frames in them.
    #[must_use]
    pub fn inner_bytes(&self) -> usize {
        self.bytes() - self.datagrams() * self.overhead
    }
}

impl Outbox {
    /// Whether another frame may be added, with all of its receivers.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.deliveries.len().max(self.transmits.len()) < ENTRIES_MAX
    }

    /// The pieces of a delivery's frame, in order: one, or up to [`PARTS_MAX`].
    pub fn frame(&self, delivery: &Delivery) -> impl Iterator<Item = &[u8]> {
        let first = self.packets[delivery.packet].slice(delivery.range.clone());
        let more = &self.parts[delivery.more.clone()];
        let more = more.iter().map(|part| self.packets[part.packet].slice(part.range.clone()));
        std::iter::once(first).chain(more)
    }

    /// The datagrams of a transmit in order, each in one or two pieces: the second is empty, or what its headers, the
    /// first, stand before.
    pub fn datagrams(&self, transmit: &Transmit) -> impl Iterator<Item = [&[u8]; 2]> {
        let bytes = self.packets[transmit.packet].slice(transmit.range.clone());
        let (heads, each) = match &transmit.heads {
            Some(heads) => (self.heads[heads.packet].slice(heads.range.clone()), heads.each),
            None => (&[][..], 0),
        };
        let size = (transmit.segment - each).max(1);
        (0..transmit.datagrams()).map(move |index| {
            let piece = &bytes[index * size..bytes.len().min((index + 1) * size)];
            match heads.get(index * each..(index + 1) * each) {
                Some(head) if each > 0 => [head, piece],
                _ => [piece, &[]],
            }
        })
    }

    /// Room for the headers of a run, at most [`crate::packet::DATA_MAX`] bytes, in as few buffers as hold them; `None`
    /// if the pool has none left.
    pub(crate) fn room_for_heads<'a>(
        buffers: &'a mut Vec<PacketBuf>,
        pool: &mut Pool,
        len: usize,
    ) -> Option<(usize, Range<usize>, &'a mut [u8])> {
        let filled = buffers.last().map_or(0, |last| last.data().len());
        let filled = if buffers.is_empty() || filled + len > DATA_MAX {
            buffers.push(pool.take()?);
            0
        } else {
            filled
        };
        let packet = buffers.len() - 1;
        let buf = &mut buffers[packet];
        buf.set_len(filled + len);
        let range = HEADROOM + filled..HEADROOM + filled + len;
        Some((packet, range.clone(), buf.slice_mut(range)))
    }

    /// Gives every buffer back and forgets the entries.
    pub fn recycle(&mut self, pool: &mut Pool) {
        self.deliveries.clear();
        self.transmits.clear();
        self.parts.clear();
        self.packets.drain(..).chain(self.heads.drain(..)).for_each(|buf| pool.put(buf));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Vni;

    #[test]
    fn datagrams_are_the_same_whether_their_headers_stand_before_them_or_elsewhere() {
        let mut pool = Pool::new(3);
        let mut fill = |bytes: &[u8]| {
            let mut buf = pool.take().unwrap();
            buf.fill(bytes);
            buf
        };
        let mut out =
            Outbox { packets: vec![fill(b"..abcdefg"), fill(b"H1abcH2defH3g")], ..Outbox::default() };
        out.heads.push(fill(b"H1H2H3"));
        let transmit = |packet, range: Range<usize>, heads| Transmit {
            peer: VtepId(0),
            to: SocketAddr::from(([192, 0, 2, 1], 4789)),
            payload: Payload::Frames(Vni::new(1).unwrap()),
            overhead: 1,
            entropy: 0,
            packet,
            range: HEADROOM + range.start..HEADROOM + range.end,
            segment: 5,
            heads,
        };
        let heads = Heads { packet: 0, range: HEADROOM..HEADROOM + 6, each: 2 };
        for transmit in [transmit(0, 2..9, Some(heads)), transmit(1, 0..13, None)] {
            let datagrams: Vec<_> = out.datagrams(&transmit).map(|pieces| pieces.concat()).collect();
            assert_eq!(datagrams, [&b"H1abc"[..], b"H2def", b"H3g"]);
            assert_eq!((transmit.datagrams(), transmit.bytes(), transmit.inner_bytes()), (3, 13, 10));
        }
    }

    #[test]
    fn headers_share_buffers_until_one_is_full() {
        let (mut pool, mut buffers) = (Pool::new(2), Vec::new());
        let mut place = |len| {
            Outbox::room_for_heads(&mut buffers, &mut pool, len).map(|(packet, range, _)| (packet, range))
        };
        assert_eq!(place(10), Some((0, HEADROOM..HEADROOM + 10)));
        assert_eq!(place(DATA_MAX - 10), Some((0, HEADROOM + 10..HEADROOM + DATA_MAX)));
        assert_eq!(place(1), Some((1, HEADROOM..HEADROOM + 1)));
        assert_eq!(place(DATA_MAX), None, "the pool is empty");
    }
}
