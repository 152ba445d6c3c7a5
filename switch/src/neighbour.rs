//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861), answered for announced endpoints.
//!
//! [`question`] finds out what a frame asks for; whether anybody knows the answer is the caller's to look up;
//! [`Question::answer`] writes it, so that neither crosses the wire. What is no such question, or is doubtful in
//! any way, is forwarded like any frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv6::{NdpOptionSlice, NeighborAdvertisementHeader, NeighborSolicitationPayloadSlice};
use etherparse::{
    ArpEthIpv4Packet, ArpHardwareId, ArpOperation, ArpPacketSlice, Ethernet2Header, Icmpv6Slice, IpNumber,
    Ipv6FlowLabel, Ipv6Header,
};

use crate::wire::checksum::Sum;
use crate::wire::ethernet::{self, EtherType, MacAddr};
use crate::wire::flow::field::ipv6;
use crate::wire::flow::{IpVersion, Transport};

/// Bytes of the longest answer: Ethernet, IPv6, and an advertisement with a link-layer address.
pub const ANSWER_MAX: usize = ethernet::HEADER_LEN + ipv6::HEADER_LEN + ADVERTISEMENT_LEN;

const ADVERTISEMENT_LEN: usize = advertisement::LEN as usize;

/// Bytes of an ARP answer; shorter than Ethernet's minimum, which devices that need it pad to.
const ARP_LEN: usize = ethernet::HEADER_LEN + ArpEthIpv4Packet::LEN;

const _: () = assert!(ARP_LEN <= ANSWER_MAX);

/// RFC 4861 §4.3
const TYPE_SOLICITATION: u8 = 135;
/// RFC 4861 §4.4
const TYPE_ADVERTISEMENT: u8 = 136;
/// RFC 4861 §4.6.1: the type of a target link-layer address option.
const OPTION_TARGET: u8 = 2;
/// RFC 4861 §11.2: proves that no router has forwarded the packet.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// RFC 2464 §7
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Offsets in a neighbour advertisement with one option, RFC 4861 §4.4.
mod advertisement {
    use std::ops::Range;

    pub(super) const TYPE: usize = 0;
    pub(super) const CHECKSUM: Range<usize> = 2..4;
    pub(super) const FLAGS: Range<usize> = 4..8;
    pub(super) const TARGET: Range<usize> = 8..24;
    pub(super) const OPTION_TYPE: usize = 24;
    /// In units of eight bytes.
    pub(super) const OPTION_LEN: usize = 25;
    pub(super) const OPTION_MAC: Range<usize> = 26..32;
    pub(super) const LEN: u16 = 32;
}

/// A well-formed question for a neighbour's MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The address asked for.
    pub target: IpAddr,
    /// Who asks. Where this is the target's own MAC address, the asker is probing for a duplicate of itself
    /// (RFC 5227 §2.1.1, RFC 4862 §5.4) and must not be answered: it would give its address up.
    pub asker: MacAddr,
    reply_to: ReplyTo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReplyTo {
    Arp {
        target: Ipv4Addr,
        asker: Ipv4Addr,
    },
    /// `asker` is `None` while it has no address yet.
    Neighbour {
        target: Ipv6Addr,
        asker: Option<Ipv6Addr>,
    },
}

/// The question that a frame asks of the whole network, if it does.
///
/// `None` for everything else, and for
/// - a tagged frame: announced entries are of the untagged network, the tagged ones may use the same addresses;
/// - a question sent to one station: it is a test whether that station is alive, which nobody else may answer;
/// - gratuitous ARP (RFC 5944 §4.6), which tells rather than asks;
/// - an asker who is not the frame's sender: a proxy's doing, or an attempt at poisoning;
/// - a solicitation that RFC 4861 §7.1.1 has receivers discard, or that is fragmented (RFC 6980).
#[must_use]
pub fn question(frame: &[u8], header: &ethernet::Header) -> Option<Question> {
    if header.destination.is_multicast() { parse(frame, header) } else { None }
}

/// As [`question`], but what is asked of one station, which [`question`] leaves to it: whether it is still there (RFC 1122
/// §2.3.2.1, RFC 4861 §7.3.3). Only who speaks for that station may answer.
#[must_use]
pub fn poll(frame: &[u8], header: &ethernet::Header) -> Option<Question> {
    if header.destination.is_multicast() { None } else { parse(frame, header) }
}

fn parse(frame: &[u8], header: &ethernet::Header) -> Option<Question> {
    if header.payload != ethernet::HEADER_LEN || header.source.is_multicast() {
        return None;
    }
    match header.ether_type {
        EtherType::ARP => arp_question(frame, header),
        EtherType::IPV6 => solicitation(frame, header),
        _ => None,
    }
}

fn arp_question(frame: &[u8], header: &ethernet::Header) -> Option<Question> {
    let arp = ArpPacketSlice::from_slice(frame.get(header.payload..)?).ok()?;
    if arp.hw_addr_type() != ArpHardwareId::ETHERNET
        || arp.proto_addr_type().0 != EtherType::IPV4.0
        || arp.operation() != ArpOperation::REQUEST
        || arp.sender_hw_addr() != header.source.0
    {
        return None;
    }
    let asker = Ipv4Addr::from(<[u8; 4]>::try_from(arp.sender_protocol_addr()).ok()?);
    let target = Ipv4Addr::from(<[u8; 4]>::try_from(arp.target_protocol_addr()).ok()?);
    if asker == target {
        return None;
    }
    let reply_to = ReplyTo::Arp { target, asker };
    Some(Question { target: target.into(), asker: header.source, reply_to })
}

fn solicitation(frame: &[u8], header: &ethernet::Header) -> Option<Question> {
    let found = Transport::find(frame, header)?;
    if found.ip != IpVersion::V6 || IpNumber(found.protocol) != IpNumber::IPV6_ICMP {
        return None;
    }
    let ip = &frame[found.ip_start..found.start];
    let message = Icmpv6Slice::from_slice(&frame[found.start..found.end]).ok()?;
    if message.type_u8() != TYPE_SOLICITATION || message.code_u8() != 0 || ip[ipv6::HOP_LIMIT] != HOP_LIMIT {
        return None;
    }
    let [source, destination] = [ipv6::SOURCE, ipv6::DESTINATION].map(|at| address(&ip[at..]));
    if !message.is_checksum_valid(source.octets(), destination.octets()) {
        return None;
    }
    let solicited = NeighborSolicitationPayloadSlice::from_slice(message.payload()).ok()?;
    let target = solicited.target_address();
    let link_layer = source_option(&solicited)?;
    let asker = (!source.is_unspecified()).then_some(source);
    let valid = match asker {
        Some(asker) => {
            link_layer.is_none_or(|mac| mac == header.source) && !asker.is_multicast() && asker != target
        }
        None => link_layer.is_none() && is_solicited_node(destination),
    };
    if !valid || target.is_multicast() || target.is_unspecified() {
        return None;
    }
    let reply_to = ReplyTo::Neighbour { target, asker };
    Some(Question { target: target.into(), asker: header.source, reply_to })
}

/// The source link-layer address option, if there is one; the outer `None` if the options are malformed.
fn source_option(solicited: &NeighborSolicitationPayloadSlice<'_>) -> Option<Option<MacAddr>> {
    let mut found = None;
    for option in solicited.options_iterator() {
        if let NdpOptionSlice::SourceLinkLayerAddress(option) = option.ok()? {
            found = Some(MacAddr(option.link_layer_address().try_into().ok()?));
        }
    }
    Some(found)
}

/// RFC 4291 §2.7.1: ff02::1:ff00:0/104.
fn is_solicited_node(address: Ipv6Addr) -> bool {
    address.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff]
}

/// The address at the start of `bytes`, in a header whose length has been checked.
fn address(bytes: &[u8]) -> Ipv6Addr {
    let octets = bytes.first_chunk::<16>().expect("the IPv6 header is whole");
    Ipv6Addr::from(*octets)
}

impl Question {
    /// Writes the frame that answers with `mac` to the start of `out`, and gives its length, at most
    /// [`ANSWER_MAX`].
    ///
    /// It looks as if the target had sent it, with `mac` as its source. It is not padded to Ethernet's minimum. An
    /// advertisement has the router flag clear: don't answer for a router.
    ///
    /// # Panics
    /// If `out` is shorter than [`ANSWER_MAX`].
    pub fn answer(&self, mac: MacAddr, out: &mut [u8]) -> usize {
        let out = out.first_chunk_mut().expect("room for ANSWER_MAX bytes");
        match self.reply_to {
            ReplyTo::Arp { target, asker } => self.arp_reply(mac, target, asker, out),
            ReplyTo::Neighbour { target, asker } => self.advertise(mac, target, asker, out),
        }
    }

    fn arp_reply(
        &self,
        mac: MacAddr,
        target: Ipv4Addr,
        asker: Ipv4Addr,
        out: &mut [u8; ANSWER_MAX],
    ) -> usize {
        let arp = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: mac.0,
            sender_ipv4: target.octets(),
            target_mac: self.asker.0,
            target_ipv4: asker.octets(),
        };
        let (ethernet, rest) = out.split_at_mut(ethernet::HEADER_LEN);
        ethernet.copy_from_slice(&ethernet_header(self.asker, mac, EtherType::ARP));
        rest[..ArpEthIpv4Packet::LEN].copy_from_slice(&arp.to_bytes());
        ARP_LEN
    }

    /// RFC 4861 §7.2.4: to the asker, or to all nodes if it has no address yet.
    fn advertise(
        &self,
        mac: MacAddr,
        target: Ipv6Addr,
        asker: Option<Ipv6Addr>,
        out: &mut [u8; ANSWER_MAX],
    ) -> usize {
        let destination = asker.unwrap_or(ALL_NODES);
        let destination_mac = if asker.is_some() { self.asker } else { ALL_NODES_MAC };
        let ip = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: advertisement::LEN,
            next_header: IpNumber::IPV6_ICMP,
            hop_limit: HOP_LIMIT,
            source: target.octets(),
            destination: destination.octets(),
        };
        let (ethernet, rest) = out.split_at_mut(ethernet::HEADER_LEN);
        let (ip_bytes, message) = rest.split_at_mut(ipv6::HEADER_LEN);
        ethernet.copy_from_slice(&ethernet_header(destination_mac, mac, EtherType::IPV6));
        ip_bytes.copy_from_slice(&ip.to_bytes());
        message.copy_from_slice(&advertisement(mac, target, destination, asker.is_some()));
        ANSWER_MAX
    }
}

fn advertisement(
    mac: MacAddr,
    target: Ipv6Addr,
    destination: Ipv6Addr,
    solicited: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    let flags = NeighborAdvertisementHeader { router: false, solicited, r#override: true };
    let mut message = [0; ADVERTISEMENT_LEN];
    message[advertisement::TYPE] = TYPE_ADVERTISEMENT;
    message[advertisement::FLAGS].copy_from_slice(&flags.to_bytes());
    message[advertisement::TARGET].copy_from_slice(&target.octets());
    message[advertisement::OPTION_TYPE] = OPTION_TARGET;
    message[advertisement::OPTION_LEN] = 1;
    message[advertisement::OPTION_MAC].copy_from_slice(&mac.0);
    let checksum = Sum::default()
        .pseudo_v6(
            target.octets(),
            destination.octets(),
            IpNumber::IPV6_ICMP.0,
            u32::from(advertisement::LEN),
        )
        .bytes(&message)
        .finish();
    message[advertisement::CHECKSUM].copy_from_slice(&checksum);
    message
}

fn ethernet_header(
    destination: MacAddr,
    source: MacAddr,
    ether_type: EtherType,
) -> [u8; ethernet::HEADER_LEN] {
    let header = Ethernet2Header {
        destination: destination.0,
        source: source.0,
        ether_type: etherparse::EtherType(ether_type.0),
    };
    header.to_bytes()
}

#[cfg(test)]
mod tests;
