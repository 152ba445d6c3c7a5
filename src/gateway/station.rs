//! What a gateway answers, as a state machine without I/O: a frame in, and what becomes of it.
//!
//! ARP (RFC 826) and neighbour solicitations (RFC 4861) for its addresses, solicitations of routers, clients of DHCP, echo requests (RFC 792, RFC 4443), DNS over
//! UDP and TCP ([`crate::names`]). Other TCP is reset, and other datagrams are told that the port is unreachable.
//! What is for the world outside is left to [`super::nat`], or told that there is no route. Such errors are
//! bounded, and never answer errors, fragments or what was sent to many (RFC 1122 §3.2.2, RFC 4443 §2.4). Anything
//! doubtful is dropped: wrong checksums, tags, addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Instant;

use etherparse::icmpv6::NeighborSolicitationPayloadSlice;
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacketSlice, IpNumber, IpSlice, TcpSlice, UdpSlice, icmpv4, icmpv6,
};

use super::addresses::{Addresses, is_host};
use super::checks::{verifies, verifies_v6};
use super::counters::{Counters, count};
use super::desk::Desk;
use super::frame::{ALL_NODES, Back, Ends, HOPS_ND, Unreachable, advertisement, arp_reply, reset_of};
use super::router::Beacon;
use super::streams::{Progress, Segment, StreamId, Streams, TICK};
use super::tables::Tables;
use super::{dhcp, router};
use crate::names::{self, Cache, Outcome, Through, Zone};
use crate::switch::storm::{StormBucket, StormLimit};
use crate::switch::wire::MacAddr;
use crate::switch::wire::ethernet::{self, EtherType};
use crate::switch::wire::flow::{IpVersion, TCP, Transport, UDP};

/// DNS (RFC 1035 §4.2).
const DNS: u16 = 53;
/// Unreachables and resets a second, as Linux limits its own (icmp(7), `icmp_msgs_per_sec`), for a whole network.
const ERRORS: StormLimit = StormLimit { frames_per_second: 1_000, burst: 50 };
/// Bytes of an ICMP header; type, code and checksum are the first four.
const ICMP_LEN: usize = 8;
/// Where an IPv6 header has its hop limit (RFC 8200 §3).
const HOP_LIMIT: usize = 7;

/// Ports of the gateway's that flows from outside have which can't be shown as they are; nothing else of it is there
/// (RFC 6335 §6: the dynamic ones).
pub(super) const PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// What becomes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// This frame goes back.
    Send(Vec<u8>),
    /// Others are to be asked, and what they say goes to [`Station::answer`].
    Ask(Question),
    /// It is for the world outside, and the gateway leads there; or for a port of the gateway's that stands for one
    /// outside.
    Carry(Carried),
    /// It is, but a fragment, which has no ports to find its way back by.
    Fragment,
    /// Any number of frames and questions.
    Several {
        /// Frames that go back, in this order.
        frames: Vec<Vec<u8>>,
        /// What others are to be asked.
        questions: Vec<Question>,
    },
}

/// A DNS query that the network's names do not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The query, as it has come.
    pub query: Vec<u8>,
    to: ReplyTo,
}

/// Where in its frame a packet for the world outside is, and to whom errors go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    pub(super) found: Transport,
    pub(super) back: Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyTo {
    Datagram(Back, u16),
    Stream(StreamId),
}

impl Question {
    /// How it has come: with a stream, others should be asked over one, too, since a datagram might not hold the reply.
    #[must_use]
    pub fn through(&self) -> Through {
        match self.to {
            ReplyTo::Datagram(..) => Through::Udp,
            ReplyTo::Stream(_) => Through::Tcp,
        }
    }
}

/// The gateway of a network on one node.
#[derive(Debug)]
pub struct Station {
    at: Addresses,
    errors: StormBucket,
    desk: Desk,
    streams: Streams,
    /// When streams were looked at.
    ticked: Instant,
    /// Advertisements that nobody asks for, if it speaks IPv6.
    beacon: Option<Beacon>,
    leads_out: bool,
    leads_in: bool,
}

/// A packet for us, or for the world: the parts of a frame.
struct Packet<'a> {
    /// From the IP header on, without padding.
    ip: &'a [u8],
    /// From the transport header on.
    transport: &'a [u8],
    protocol: u8,
    back: Back,
}

impl Station {
    /// A gateway at these addresses. `seed` is that of the order of its answers, and of TCP's sequence numbers.
    #[must_use]
    pub fn new(at: Addresses, seed: u64, now: Instant) -> Self {
        let errors = StormBucket::new(ERRORS);
        let rng = fastrand::Rng::with_seed(seed);
        let desk = Desk { cache: Cache::default(), rng, counters: Arc::default() };
        let beacon = at.link_local().map(|_| Beacon::new(now));
        Self {
            at,
            errors,
            desk,
            streams: Streams::new(now),
            ticked: now,
            beacon,
            leads_out: false,
            leads_in: false,
        }
    }

    /// The same, and packets for the world outside are carried there: [`Action::Carry`].
    #[must_use]
    pub fn leading_out(mut self) -> Self {
        self.leads_out = true;
        self
    }

    /// The same, and what may be an answer to something from outside is left to others, too: [`Action::Carry`].
    #[must_use]
    pub fn leading_in(mut self) -> Self {
        self.leads_in = true;
        self
    }

    /// What it has done.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.desk.counters
    }

    /// Takes what others have said to a question, or that they have said nothing. Gives the frames that go back, with
    /// SERVFAIL if there is nothing else to say.
    pub fn answer(&mut self, question: &Question, reply: Option<Vec<u8>>, now: Instant) -> Vec<Vec<u8>> {
        let query = &question.query;
        if let Some(reply) = &reply {
            self.desk.cache.keep(query, reply, now);
        }
        let reply = reply.and_then(|reply| names::fit(query, reply, question.through()));
        let Some(reply) = reply.or_else(|| names::fail(query)) else { return Vec::new() };
        match question.to {
            ReplyTo::Datagram(back, port) => back.datagram(DNS, port, &reply).into_iter().collect(),
            ReplyTo::Stream(id) => self.streams.answer(id, &reply, now),
        }
    }

    /// When [`Self::tick`] is to be called next, if at all.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let streams = (!self.streams.is_empty()).then(|| self.ticked + TICK);
        streams.into_iter().chain(self.beacon.map(|beacon| beacon.due())).min()
    }

    /// Does what time asks for.
    pub fn tick(&mut self, tables: &Tables, now: Instant) -> Action {
        self.ticked = now;
        let mut progress = self.streams.tick(&mut self.desk.open(&tables.zone, now));
        if self.beacon.as_mut().is_some_and(|beacon| beacon.poll(&mut self.desk.rng, now)) {
            let (mac, all) = ALL_NODES;
            progress.frames.extend(self.advertise(tables, mac, all));
        }
        Action::of(progress)
    }

    /// Takes a frame from the network, with checksums finished.
    pub fn handle(&mut self, frame: &[u8], tables: &Tables, now: Instant) -> Action {
        let Ok(header) = ethernet::Header::parse(frame) else { return Action::Nothing };
        let untagged = header.payload == ethernet::HEADER_LEN;
        let from_a_station = !header.source.is_multicast() && header.source != self.at.mac();
        let for_us = header.destination == self.at.mac();
        if !untagged || !from_a_station || !(for_us || header.destination.is_multicast()) {
            return Action::Nothing;
        }
        let answer = match header.ether_type {
            EtherType::ARP => self.arp(frame, &header),
            EtherType::IPV6 if header.destination.is_multicast() => self.solicitation(frame, &header, tables),
            EtherType::IPV4 if header.destination == MacAddr::BROADCAST => {
                self.broadcast(frame, &header, tables)
            }
            EtherType::IPV4 | EtherType::IPV6 if for_us => {
                return self.packet(frame, &header, tables, now);
            }
            _ => None,
        };
        answer.map_or(Action::Nothing, Action::Send)
    }

    fn arp(&self, frame: &[u8], header: &ethernet::Header) -> Option<Vec<u8>> {
        let arp = ArpPacketSlice::from_slice(frame.get(header.payload..)?).ok()?;
        if arp.hw_addr_type() != ArpHardwareId::ETHERNET
            || arp.proto_addr_type().0 != EtherType::IPV4.0
            || arp.operation() != ArpOperation::REQUEST
            || arp.sender_hw_addr() != header.source.0
        {
            return None;
        }
        let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
        let own = address(arp.target_protocol_addr()).filter(|&own| self.at.is_at(own.into()))?;
        let asker = address(arp.sender_protocol_addr())?;
        // Gratuitous ARP tells, and does not ask.
        (asker != own).then(|| arp_reply(self.at.mac(), own, header.source, asker))
    }

    /// A solicitation of a neighbour, or of routers: RFC 4861 §7.1.1, §6.1.1.
    fn solicitation(&self, frame: &[u8], header: &ethernet::Header, tables: &Tables) -> Option<Vec<u8>> {
        let found = Transport::find(frame, header)?;
        if found.ip != IpVersion::V6 || found.protocol != IpNumber::IPV6_ICMP.0 {
            return None;
        }
        let ip = frame.get(found.ip_start..found.end)?;
        let message = frame.get(found.start..found.end)?;
        let (IpAddr::V6(source), IpAddr::V6(destination)) = (found.source(frame), found.destination(frame))
        else {
            return None;
        };
        let (head, payload) = message.split_first_chunk::<ICMP_LEN>()?;
        if *ip.get(HOP_LIMIT)? != HOPS_ND || !verifies_v6(message, source, destination, found) {
            return None;
        }
        match head[..2] {
            [icmpv6::TYPE_NEIGHBOR_SOLICITATION, 0] => self.neighbour(header, payload, source),
            [icmpv6::TYPE_ROUTER_SOLICITATION, 0] if !source.is_multicast() => {
                // To the asker alone (RFC 6085 where it has no address yet), and at once: what RFC 4861 §6.2.6 has a
                // router wait for is the others on its link, of which there are none.
                let (_, all) = ALL_NODES;
                self.advertise(tables, header.source, if source.is_unspecified() { all } else { source })
            }
            _ => None,
        }
    }

    fn advertise(&self, tables: &Tables, mac: MacAddr, to: Ipv6Addr) -> Option<Vec<u8>> {
        let back = Back { own_mac: self.at.mac(), mac, ends: Ends::V6(self.at.link_local()?, to) };
        let (head, rest) = router::message(tables, &self.at);
        back.router(head, &rest)
    }

    fn neighbour(&self, header: &ethernet::Header, payload: &[u8], source: Ipv6Addr) -> Option<Vec<u8>> {
        let own = NeighborSolicitationPayloadSlice::from_slice(payload).ok()?.target_address();
        let asker = (!source.is_unspecified()).then_some(source);
        let asked = self.at.is_at(own.into()) && source != own && !source.is_multicast();
        asked.then(|| advertisement(self.at.mac(), own, header.source, asker)).flatten()
    }

    /// What is for all of the network: clients of DHCP, which may have no address yet.
    fn broadcast(&self, frame: &[u8], header: &ethernet::Header, tables: &Tables) -> Option<Vec<u8>> {
        let found = Transport::find(frame, header)?;
        let (source, destination) = (found.source(frame), found.destination(frame));
        let for_all = destination == IpAddr::V4(Ipv4Addr::BROADCAST) && found.protocol == UDP;
        if !for_all || !verifies(frame, found, source, destination) {
            return None;
        }
        self.dhcp(header, &UdpSlice::from_slice(&frame[found.start..found.end]).ok()?, tables)
    }

    fn dhcp(&self, header: &ethernet::Header, datagram: &UdpSlice<'_>, tables: &Tables) -> Option<Vec<u8>> {
        let asked = datagram.destination_port() == dhcp::SERVER;
        let reply = asked.then(|| dhcp::answer(tables, &self.at, header.source, datagram.payload()));
        reply.flatten().inspect(|_| count(&self.desk.counters.leased))
    }

    fn packet(&mut self, frame: &[u8], header: &ethernet::Header, tables: &Tables, now: Instant) -> Action {
        let Some(found) = Transport::find(frame, header) else {
            let fragment = self.leads_out && is_fragment(&frame[header.payload..]);
            return if fragment { Action::Fragment } else { Action::Nothing };
        };
        let (source, destination) = (found.source(frame), found.destination(frame));
        // Where packets may go outside is for others to say.
        let doubtful = !is_host(source) || !(self.leads_out || is_host(destination));
        if doubtful || !verifies(frame, found, source, destination) {
            return Action::Nothing;
        }
        let ours = self.at.is_at(destination);
        let own = if ours { Some(destination) } else { self.at.towards(source) };
        let Some(ends) = own.and_then(|own| Ends::of(own, source)) else { return Action::Nothing };
        let packet = Packet {
            ip: &frame[found.ip_start..found.end],
            transport: &frame[found.start..found.end],
            protocol: found.protocol,
            back: Back { own_mac: self.at.mac(), mac: header.source, ends },
        };
        if !ours && self.leads_out || ours && self.leads_in && is_answer(&packet) {
            return Action::Carry(Carried { found, back: packet.back });
        }
        if !ours {
            return self.refuse(&packet, Unreachable::Route, now);
        }
        match packet.protocol {
            UDP => self.datagram(header, &packet, tables, now),
            TCP => self.segment(&packet, &tables.zone, now),
            _ => self.icmp(frame, header, &packet, tables).map_or(Action::Nothing, Action::Send),
        }
    }

    fn icmp(
        &self,
        frame: &[u8],
        header: &ethernet::Header,
        packet: &Packet<'_>,
        tables: &Tables,
    ) -> Option<Vec<u8>> {
        let (kind, request) = packet.transport.split_first_chunk::<4>()?;
        let echo = match (packet.back.ends, IpNumber(packet.protocol)) {
            (Ends::V4(..), IpNumber::ICMP) => icmpv4::TYPE_ECHO_REQUEST,
            (Ends::V6(..), IpNumber::IPV6_ICMP) => icmpv6::TYPE_ECHO_REQUEST,
            _ => return None,
        };
        if kind[..2] == [echo, 0] {
            return packet.back.echo(request);
        }
        // A neighbour that tests whether we are still here asks us alone.
        self.solicitation(frame, header, tables)
    }

    fn datagram(
        &mut self,
        header: &ethernet::Header,
        packet: &Packet<'_>,
        tables: &Tables,
        now: Instant,
    ) -> Action {
        let Ok(datagram) = UdpSlice::from_slice(packet.transport) else { return Action::Nothing };
        if datagram.destination_port() == dhcp::SERVER && matches!(packet.back.ends, Ends::V4(..)) {
            return self.dhcp(header, &datagram, tables).map_or(Action::Nothing, Action::Send);
        }
        if datagram.destination_port() != DNS {
            return self.refuse(packet, Unreachable::Port, now);
        }
        let port = datagram.source_port();
        match self.desk.open(&tables.zone, now).answer(datagram.payload(), Through::Udp) {
            Outcome::Ignore => Action::Nothing,
            Outcome::Forward => {
                let to = ReplyTo::Datagram(packet.back, port);
                Action::Ask(Question { query: datagram.payload().to_vec(), to })
            }
            Outcome::Reply(reply) => {
                packet.back.datagram(DNS, port, &reply).map_or(Action::Nothing, Action::Send)
            }
        }
    }

    fn segment(&mut self, packet: &Packet<'_>, zone: &Zone, now: Instant) -> Action {
        let Ok(segment) = TcpSlice::from_slice(packet.transport) else { return Action::Nothing };
        if segment.destination_port() != DNS {
            return self.reset(packet, &segment, now);
        }
        let is_syn = segment.syn() && !segment.ack() && !segment.rst();
        let ours = Segment { packet: packet.ip, back: packet.back, port: segment.source_port(), is_syn };
        match self.streams.handle(ours, &mut self.desk.open(zone, now)) {
            Some(progress) => Action::of(progress),
            None => self.reset(packet, &segment, now),
        }
    }

    /// Nothing listens.
    fn reset(&mut self, packet: &Packet<'_>, segment: &TcpSlice<'_>, now: Instant) -> Action {
        if segment.rst() || !self.errors.allow(1, now) {
            return Action::Nothing;
        }
        packet.back.segment(reset_of(segment)).map_or(Action::Nothing, Action::Send)
    }

    fn refuse(&mut self, packet: &Packet<'_>, why: Unreachable, now: Instant) -> Action {
        if is_error(packet) || !self.errors.allow(1, now) {
            return Action::Nothing;
        }
        let quoted = &packet.ip[..packet.ip.len().min(packet.back.quote_max())];
        packet.back.unreachable(why, quoted).map_or(Action::Nothing, Action::Send)
    }
}

impl Action {
    fn of(progress: Progress) -> Self {
        let Progress { frames, questions } = progress;
        let question = |(id, query)| Question { query, to: ReplyTo::Stream(id) };
        Self::Several { frames, questions: questions.into_iter().map(question).collect() }
    }
}

/// Whether an IP packet is a part of a longer one.
fn is_fragment(packet: &[u8]) -> bool {
    IpSlice::from_slice(packet).is_ok_and(|packet| packet.is_fragmenting_payload())
}

/// Whether a packet is for a port of [`PORTS`].
fn is_answer(packet: &Packet<'_>) -> bool {
    let port = packet.transport.get(2..4).map(|port| u16::from_be_bytes([port[0], port[1]]));
    [TCP, UDP].contains(&packet.protocol) && port.is_some_and(|port| PORTS.contains(&port))
}

/// Whether a packet is, or may be, an ICMP error itself: then nobody is told that it got no further.
fn is_error(packet: &Packet<'_>) -> bool {
    let Some(&kind) = packet.transport.first() else { return true };
    match (packet.back.ends, IpNumber(packet.protocol)) {
        (Ends::V4(..), IpNumber::ICMP) => kind != icmpv4::TYPE_ECHO_REQUEST,
        (Ends::V6(..), IpNumber::IPV6_ICMP) => kind < icmpv6::TYPE_ECHO_REQUEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
