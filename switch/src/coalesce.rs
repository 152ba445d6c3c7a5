//! Joining neighbouring TCP segments or UDP datagrams of a flow into super-frames: what one write to a TAP then
//! carries.
//!
//! The receiving half of segmentation offload, for a batch of datagrams at a time: nothing waits for a neighbour.
//! Payloads are not copied: a joined frame is the first segment with a patched header, and the payloads of the others
//! as further parts. Cutting it again with the same size gives the same segments, so nothing is joined that cutting
//! would change. The rules are those of Linux's GRO (net/ipv4/tcp_offload.c, and udp_offload.c as with
//! `rx-udp-gro-forwarding`). Not joined are:
//!
//! - in TCP, other flags than ACK and PSH, different acknowledgements, windows or options (timestamps among them);
//! - in UDP, a checksum of zero, which is none, and a length that is not the packet's;
//! - in IP, an identification that does not count up (or stay, where the packet is atomic and it means nothing:
//!   RFC 6864 §4), different TTL, traffic class, flow label, options or extension headers;
//! - in all, different tags, padding, an empty payload, a wrong checksum of either header.
//!
//! A segment with PSH, or shorter than the first, is the last of its frame. In this module, a UDP datagram is a
//! segment too.
//!
//! Order within a flow is kept: a segment that can't be joined ends the flow's open frame, which stands before it. A
//! fragment names no ports, so it ends every open frame of its port.

mod open;
mod segment;

use crate::deliver::Stowed;
use crate::io::Capabilities;
use crate::outbox::{Delivery, Outbox, Part};
use crate::tables::PortId;
use crate::wire::flow::{TCP, Transport, UDP};
use crate::wire::virtio::{Checksum, Offload};
use open::Open;
use segment::Segment;

/// Frames open at once. A batch is a few runs, most of one flow each; with more flows they are ended in turn.
const OPEN_MAX: usize = 8;

/// Joined, or as it was: somebody has verified its checksum.
const VERIFIED: Offload = Offload { checksum: Checksum::Verified, gso: None };

/// The frames that are open in a batch.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    open: Vec<Open>,
    /// Which is ended next to make room for another.
    turn: usize,
    /// Emptied lists, kept for their memory.
    spare: Vec<Vec<Part>>,
}

/// Whether a frame for a port of such capabilities is the coalescer's: what a device takes joined, and what may
/// belong to the same flow without showing it.
pub(crate) fn is_for(capabilities: Capabilities, transport: Option<&Transport>) -> bool {
    match transport.map(|transport| transport.protocol) {
        Some(TCP) => capabilities.tso,
        Some(UDP) => capabilities.uso,
        Some(_) => false,
        None => capabilities.tso || capabilities.uso,
    }
}

impl Coalescer {
    /// Gives a frame to a port whose frame it [is for](is_for): as part of an open one, or by itself.
    pub(crate) fn deliver(&mut self, out: &mut Outbox, port: PortId, frame: &Stowed) {
        let bytes = out.packets[frame.packet].slice(frame.range.clone());
        let Some(segment) = Segment::find(bytes, port, frame) else {
            if frame.transport.is_none() {
                self.close_all(port, out);
            }
            return push(out, port, frame, frame.offload);
        };
        let flow = self.open.iter().position(|open| open.is_flow_of(&segment, bytes, out));
        // A super-frame, or an unfinished segment, is its sender's business.
        let joinable =
            frame.offload == Offload::default() && segment.is_plain(bytes) && segment.verifies(bytes);
        let last = segment.has_push(bytes);
        if let Some(index) = flow {
            if joinable && self.open[index].takes(&segment, bytes, out) {
                if self.open[index].append(&segment, last) {
                    self.close(index, out);
                }
                return;
            }
            self.close(index, out);
        }
        if !joinable || last {
            return push(out, port, frame, if joinable { VERIFIED } else { frame.offload });
        }
        self.open(segment, out);
        push(out, port, frame, VERIFIED);
    }

    /// Opens a frame whose delivery comes next.
    fn open(&mut self, first: Segment, out: &mut Outbox) {
        let open = Open::new(out, first, self.spare.pop().unwrap_or_default());
        if self.open.len() < OPEN_MAX {
            return self.open.push(open);
        }
        let ended = std::mem::replace(&mut self.open[self.turn], open);
        self.spare.push(ended.end(out));
        self.turn = (self.turn + 1) % OPEN_MAX;
    }

    /// Ends every open frame; to be called at the end of a batch.
    pub(crate) fn finish(&mut self, out: &mut Outbox) {
        while !self.open.is_empty() {
            self.close(self.open.len() - 1, out);
        }
    }

    fn close_all(&mut self, port: PortId, out: &mut Outbox) {
        for index in (0..self.open.len()).rev() {
            if self.open[index].port() == port {
                self.close(index, out);
            }
        }
    }

    /// Ends one; another takes its place in the list.
    fn close(&mut self, index: usize, out: &mut Outbox) {
        let parts = self.open.swap_remove(index).end(out);
        self.spare.push(parts);
    }
}

fn push(out: &mut Outbox, port: PortId, frame: &Stowed, offload: Offload) {
    let (packet, range) = (frame.packet, frame.range.clone());
    out.deliveries.push(Delivery { port, packet, range, more: 0..0, offload });
}

#[cfg(test)]
mod tests;
