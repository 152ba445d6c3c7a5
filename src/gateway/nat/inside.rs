//! The inside: packets that have come from there, and frames that go there.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TcpSlice, TransportSlice};

use super::counters::{Count, Counters};
use super::fragments::fragments;
use crate::gateway::frame::{Back, Ends, reset_of};
use crate::switch::storm::{StormBucket, StormLimit};
use crate::switch::wire::flow::{IpVersion, Transport};
use crate::switch::wire::virtio::Offload;

/// Refusals a second, of a network (RFC 1812 §4.3.2.8 has routers limit them); so many at once that a client that
/// opens hundreds of connections to a closed port is told of each.
const REFUSALS: StormLimit = StormLimit { frames_per_second: 1_000, burst: 1_000 };
/// Frames that wait to go inside; more are lost, as on any link. Half of what the port's queue holds.
pub(super) const WAITING_MAX: usize = 512;
/// As long as fewer wait there is room for a datagram, which makes at most 125 frames: 64 KiB by [`super::carry::MTU_MIN`].
const ROOMY_MAX: usize = WAITING_MAX / 2;

/// A packet from inside, for elsewhere; its checksums have been looked at.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Outward<'a> {
    /// From the IP header on, without padding.
    pub(super) packet: &'a [u8],
    /// From the transport header on.
    pub(super) transport: &'a [u8],
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// TTL or hop limit, as it has come.
    pub(super) hops: u8,
    /// From the gateway to the sender.
    pub(super) back: Back,
}

/// Why something goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No way there.
    Network,
    /// Nobody there.
    Host,
    /// Nobody listens there.
    Port,
    /// Nobody may go there, or nobody more.
    Prohibited,
    /// The hop limit has come to its end.
    Hops,
}

/// What goes inside, until it is sent.
#[derive(Debug)]
pub(super) struct Inside {
    /// Each with what is left to do to it.
    pub(super) frames: Vec<(Vec<u8>, Offload)>,
    pub(super) counters: Arc<Counters>,
    refusals: StormBucket,
    /// Bytes of the largest packet that the network carries.
    mtu: usize,
    /// Of the next packet that is cut.
    id: u32,
}

impl<'a> Outward<'a> {
    /// The packet that was found in a frame.
    pub(in crate::gateway) fn new(frame: &'a [u8], found: Transport, back: Back) -> Self {
        /// RFC 791 §3.1, RFC 8200 §3
        const HOPS_AT: [usize; 2] = [8, 7];
        let [v4, v6] = HOPS_AT;
        let hops_at = if found.ip == IpVersion::V4 { v4 } else { v6 };
        Self {
            packet: &frame[found.ip_start..found.end],
            transport: &frame[found.start..found.end],
            protocol: found.protocol,
            source: found.source(frame),
            destination: found.destination(frame),
            hops: frame[found.ip_start + hops_at],
            back,
        }
    }

    /// Whether it is for an address of the gateway's.
    pub(super) fn is_for_gateway(&self) -> bool {
        self.back.own() == self.destination
    }
}

impl Refusal {
    /// Type and code: RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3.
    fn icmp(self, ends: Ends) -> (u8, u8) {
        match (ends, self) {
            (Ends::V4(..), Self::Network) => (3, 0),
            (Ends::V4(..), Self::Host) => (3, 1),
            (Ends::V4(..), Self::Port) => (3, 3),
            (Ends::V4(..), Self::Prohibited) => (3, 13),
            (Ends::V4(..), Self::Hops) => (11, 0),
            (Ends::V6(..), Self::Network) => (1, 0),
            (Ends::V6(..), Self::Host) => (1, 3),
            (Ends::V6(..), Self::Port) => (1, 4),
            (Ends::V6(..), Self::Prohibited) => (1, 1),
            (Ends::V6(..), Self::Hops) => (3, 0),
        }
    }
}

impl Inside {
    pub(super) fn new(mtu: usize, counters: Arc<Counters>, id: u32) -> Self {
        Self { frames: Vec::new(), counters, refusals: StormBucket::new(REFUSALS), mtu, id }
    }

    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Says why a packet (its beginning, from the IP header on) goes no further, and counts it.
    pub(super) fn refuse(&mut self, back: Back, packet: &[u8], why: Refusal, count: Count, now: Instant) {
        self.counters.add(count);
        if self.may_say(now) {
            let (kind, code) = why.icmp(back.ends);
            self.error(back, packet, kind, code);
        }
    }

    /// As a host that nobody listens at (RFC 9293 §3.10.7.1).
    pub(super) fn reset(&mut self, outward: &Outward<'_>, segment: &TcpSlice<'_>, now: Instant) {
        let back = outward.back.of(outward.destination);
        if segment.rst() || !self.may_say(now) {
            return;
        }
        if let Some(frame) = back.and_then(|back| back.segment(reset_of(segment))) {
            self.push(frame, Offload::default());
        }
    }

    /// The same to `outside`'s packet's sender, for a packet that was kept, and counts it.
    pub(super) fn reset_kept(
        &mut self,
        back: Back,
        outside: IpAddr,
        packet: &[u8],
        count: Count,
        now: Instant,
    ) {
        self.counters.add(count);
        let Ok(SlicedPacket { transport: Some(TransportSlice::Tcp(segment)), .. }) =
            SlicedPacket::from_ip(packet)
        else {
            return;
        };
        if !self.may_say(now) {
            return;
        }
        if let Some(frame) = back.of(outside).and_then(|back| back.segment(reset_of(&segment))) {
            self.push(frame, Offload::default());
        }
    }

    /// What somebody on the way has said of a packet (its beginning, from the IP header on).
    pub(super) fn undelivered(&mut self, back: Back, packet: &[u8], kind: u8, code: u8, now: Instant) {
        if self.may_say(now) {
            self.counters.add(Count::Undelivered);
            self.error(back, packet, kind, code);
        }
    }

    /// A datagram from outside.
    pub(super) fn datagram(&mut self, back: Back, from: SocketAddr, to_port: u16, payload: &[u8]) {
        let back = back.of(from.ip());
        if let Some(frame) = back.and_then(|back| back.datagram(from.port(), to_port, payload)) {
            self.push_cut(frame);
        }
    }

    /// An echo reply from outside: identifier, sequence number, data.
    pub(super) fn echo(&mut self, back: Back, from: IpAddr, reply: &[u8]) {
        if let Some(frame) = back.of(from).and_then(|back| back.echo(reply)) {
            self.push_cut(frame);
        }
    }

    /// Whether there is room for whatever a datagram becomes.
    pub(super) fn has_room(&self) -> bool {
        self.frames.len() < ROOMY_MAX
    }

    pub(super) fn push(&mut self, frame: Vec<u8>, offload: Offload) {
        if self.frames.len() < WAITING_MAX {
            self.frames.push((frame, offload));
        } else {
            self.counters.add(Count::Lost);
        }
    }

    /// In fragments, if it is longer than what the network carries.
    fn push_cut(&mut self, frame: Vec<u8>) {
        self.id = self.id.wrapping_add(1);
        for frame in fragments(frame, self.mtu, self.id) {
            self.push(frame, Offload::default());
        }
    }

    fn may_say(&mut self, now: Instant) -> bool {
        let may = self.refusals.allow(1, now);
        if !may {
            self.counters.add(Count::Unsaid);
        }
        may
    }

    fn error(&mut self, back: Back, packet: &[u8], type_u8: u8, code_u8: u8) {
        let quoted = &packet[..packet.len().min(back.quote_max())];
        let bytes5to8 = [0; 4];
        let (step, mut frame) = (back.packet(), Vec::new());
        let written = match back.ends {
            Ends::V4(..) => {
                step.icmpv4(Icmpv4Type::Unknown { type_u8, code_u8, bytes5to8 }).write(&mut frame, quoted)
            }
            Ends::V6(..) => {
                step.icmpv6(Icmpv6Type::Unknown { type_u8, code_u8, bytes5to8 }).write(&mut frame, quoted)
            }
        };
        if written.is_ok() {
            self.push(frame, Offload::default());
        }
    }
}
