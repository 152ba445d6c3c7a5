//! What of a packet tells which flow it is of.
//!
//! TCP, UDP, echoes, ICMP errors about these, and fragments. Anything else is not balanced.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6HeaderSlice};

use super::flows::Key;
use crate::wire::Vni;
use crate::wire::ethernet::{self, Header};
use crate::wire::flow::field::{icmp, ipv4, ipv6, tcp, udp};
use crate::wire::flow::{IpVersion, TCP, Transport, UDP};
use crate::wire::fragment::Fragment;

/// The protocol by which flows of fragments are known: IPv6's fragment header's (IANA), which no transport has.
pub(super) const FRAGMENT: u8 = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
const ICMP: u8 = IpNumber::ICMP.0;
const ICMPV6: u8 = IpNumber::IPV6_ICMP.0;

/// Whose a packet is, in the direction that it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Of an echo request its identifier; of a reply 0.
    pub(super) source_port: u16,
    /// Of an echo reply its identifier; of a request 0.
    pub(super) destination_port: u16,
}

/// A packet that may be of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) ip: IpVersion,
    pub(super) ip_start: usize,
    /// Where the transport header starts, or what a later fragment carries.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The flow; of an error, that of which the packet would be that it answers to; of a later fragment, that of the
    /// fragments.
    pub(super) tuple: Tuple,
    pub(super) kind: Kind,
    /// That of its fragments, if it is the first of several.
    pub(super) fragments: Option<Tuple>,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp(Segment),
    Udp,
    EchoRequest,
    EchoReply,
    /// An ICMP error, with what it quotes.
    Error(Quoted),
    /// A fragment that is not the first.
    Later,
}

/// What is looked at of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledgment: u32,
    /// What it takes of the sequence: payload, SYN, FIN.
    pub(super) len: u32,
}

/// The packet that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quoted {
    pub(super) ip_start: usize,
    /// Where its transport's checksum is, if that is quoted and covers addresses.
    pub(super) checksum: Option<usize>,
    pub(super) protocol: u8,
}

pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

impl Tuple {
    /// As the packet that answers to one of it.
    fn mirrored(self) -> Self {
        Self {
            protocol: self.protocol,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    /// The flow, if its source is the client.
    pub(super) fn client_key(self, vni: Vni) -> Key {
        let Self { protocol, source, source_port, destination_port, .. } = self;
        Key { vni, protocol, client: source, client_port: source_port, service_port: destination_port }
    }

    /// The flow, if its destination is the client.
    pub(super) fn answer_key(self, vni: Vni) -> Key {
        self.mirrored().client_key(vni)
    }

    /// The flow, if its source is the client and the task, and this is what it says as the task.
    pub(super) fn own_key(self, vni: Vni) -> Key {
        Key { client: self.source, ..self.answer_key(vni) }
    }
}

impl Packet {
    /// What a frame carries; `transport` is what [`Transport::find`] found there.
    ///
    /// `None` for what is not balanced, for malformed and truncated headers, a first fragment that doesn't hold its transport
    /// header (RFC 1858 §3), tagged frames (services are of the untagged network, as announced addresses are), and IPv6
    /// addresses that stand for IPv4's (RFC 4291 §2.5.5.2), which no packet should carry.
    pub(super) fn parse(frame: &[u8], header: &Header, transport: Option<&Transport>) -> Option<Self> {
        if header.payload != ethernet::HEADER_LEN {
            return None;
        }
        match transport {
            Some(&Transport { ip, ip_start, protocol, start, end }) => {
                Self::whole(frame, Fragment { ip, ip_start, protocol, id: 0, is_first: true, start, end })
            }
            None => Self::part(frame, Fragment::find(frame, header)?),
        }
    }

    fn part(frame: &[u8], part: Fragment) -> Option<Self> {
        let Fragment { ip, ip_start, start, end, .. } = part;
        let [source, destination] = addresses(ip, &frame[ip_start..])?;
        // An identification is unique for a protocol in IPv4 only.
        let id = if ip == IpVersion::V4 { u32::from(part.protocol) << 16 | part.id } else { part.id };
        let [a, b, c, d] = id.to_be_bytes();
        let [source_port, destination_port] = [[a, b], [c, d]].map(u16::from_be_bytes);
        let tuple = Tuple { protocol: FRAGMENT, source, destination, source_port, destination_port };
        if part.is_first {
            let whole = Self::whole(frame, part)?;
            return Some(Self { fragments: Some(tuple), ..whole });
        }
        let kind = Kind::Later;
        Some(Self { ip, ip_start, start, end, source, destination, tuple, kind, fragments: None })
    }

    /// A packet, or the beginning of one.
    fn whole(frame: &[u8], part: Fragment) -> Option<Self> {
        let Fragment { ip, ip_start, protocol, start, end, .. } = part;
        let [source, destination] = addresses(ip, &frame[ip_start..])?;
        let message = frame.get(start..end)?;
        let tuple = |ports: [u16; 2]| {
            let [source_port, destination_port] = ports;
            Tuple { protocol, source, destination, source_port, destination_port }
        };
        let (kind, tuple) = match (protocol, ip) {
            (TCP, _) => (Kind::Tcp(Segment::parse(message)?), tuple(ports(message)?)),
            (UDP, _) if message.len() >= udp::HEADER_LEN => (Kind::Udp, tuple(ports(message)?)),
            (ICMP, IpVersion::V4) | (ICMPV6, IpVersion::V6) => {
                let types = icmp::types(ip);
                let head = message.first_chunk::<{ icmp::HEADER_LEN }>()?;
                let (kind, id) = (head[icmp::TYPE], word(head, icmp::ID));
                if kind == types.echo_request {
                    (Kind::EchoRequest, tuple([id, 0]))
                } else if kind == types.echo_reply {
                    (Kind::EchoReply, tuple([0, id]))
                } else if types.errors.contains(&kind) {
                    let (quoted, about) = quoted(message, start, ip)?;
                    (Kind::Error(quoted), about.mirrored())
                } else {
                    return None;
                }
            }
            _ => return None,
        };
        Some(Self { ip, ip_start, start, end, source, destination, tuple, kind, fragments: None })
    }

    /// Where its checksum is, if there is one in this part of it.
    pub(super) fn checksum(&self) -> Option<usize> {
        Some(
            self.start
                + match self.kind {
                    Kind::Tcp(_) => tcp::CHECKSUM.start,
                    Kind::Udp => udp::CHECKSUM.start,
                    Kind::EchoRequest | Kind::EchoReply | Kind::Error(_) => icmp::CHECKSUM.start,
                    Kind::Later => return None,
                },
        )
    }

    /// Whether its checksum covers the addresses.
    pub(super) fn has_pseudo_header(&self) -> bool {
        !(self.ip == IpVersion::V4
            && matches!(self.kind, Kind::EchoRequest | Kind::EchoReply | Kind::Error(_)))
    }

    /// Whether a client begins something new with it, as far as can be seen.
    pub(super) fn is_syn(&self) -> bool {
        matches!(self.kind, Kind::Tcp(segment) if segment.flags & (SYN | ACK | RST) == SYN)
    }
}

impl Segment {
    fn parse(message: &[u8]) -> Option<Self> {
        let header = message.first_chunk::<{ tcp::HEADER_MIN }>()?;
        let flags = header[tcp::FLAGS];
        let payload = message.len().checked_sub(usize::from(header[tcp::DATA_OFFSET] >> 4) * 4)?;
        let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        Some(Self {
            flags,
            sequence: double(header, tcp::SEQUENCE.start),
            acknowledgment: double(header, tcp::ACKNOWLEDGMENT.start),
            len: u32::try_from(payload).ok()?.wrapping_add(ends),
        })
    }
}

/// Both addresses of an IP header whose length has been checked.
fn addresses(ip: IpVersion, header: &[u8]) -> Option<[IpAddr; 2]> {
    match ip {
        IpVersion::V4 => {
            let [source, destination] = [ipv4::SOURCE, ipv4::DESTINATION];
            let at = |at: usize| header[at..].first_chunk::<4>().map(|octets| IpAddr::from(*octets));
            Some([at(source)?, at(destination)?])
        }
        IpVersion::V6 => {
            let at = |at: usize| header[at..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
            let both = [at(ipv6::SOURCE)?, at(ipv6::DESTINATION)?];
            both.iter().all(|address| address.to_canonical() == *address).then_some(both)
        }
    }
}

/// The packet that an ICMP error quotes, which may be cut short behind its ports (RFC 792 has eight bytes there).
fn quoted(message: &[u8], start: usize, ip: IpVersion) -> Option<(Quoted, Tuple)> {
    let quote = message.get(icmp::HEADER_LEN..)?;
    let (protocol, header_len) = match ip {
        IpVersion::V4 => {
            let header = Ipv4HeaderSlice::from_slice(quote).ok()?;
            (header.fragments_offset().value() == 0).then_some((header.protocol().0, header.slice().len()))?
        }
        IpVersion::V6 => {
            let header = Ipv6HeaderSlice::from_slice(quote).ok()?;
            (header.next_header().0, header.slice().len())
        }
    };
    let [source, destination] = addresses(ip, quote)?;
    let behind = &quote[header_len..];
    let types = icmp::types(ip);
    let (ports, checksum) = match (protocol, ip) {
        (TCP, _) => (ports(behind)?, Some(tcp::CHECKSUM)),
        (UDP, _) => (ports(behind)?, Some(udp::CHECKSUM)),
        (ICMP, IpVersion::V4) | (ICMPV6, IpVersion::V6) => {
            let head = behind.first_chunk::<{ icmp::HEADER_LEN }>()?;
            let id = word(head, icmp::ID);
            let checksum = (ip == IpVersion::V6).then_some(icmp::CHECKSUM);
            match head[icmp::TYPE] {
                kind if kind == types.echo_request => ([id, 0], checksum),
                kind if kind == types.echo_reply => ([0, id], checksum),
                _ => return None,
            }
        }
        _ => return None,
    };
    let ip_start = start + icmp::HEADER_LEN;
    let checksum = checksum.filter(|field| field.end <= behind.len());
    let checksum = checksum.map(|field| ip_start + header_len + field.start);
    let [source_port, destination_port] = ports;
    let tuple = Tuple { protocol, source, destination, source_port, destination_port };
    Some((Quoted { ip_start, checksum, protocol }, tuple))
}

/// Source and destination port, which TCP and UDP have at the same place.
fn ports(message: &[u8]) -> Option<[u16; 2]> {
    let ports = message.first_chunk::<4>()?;
    Some([word(ports, 0), word(ports, udp::DESTINATION_PORT.start)])
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn double(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
