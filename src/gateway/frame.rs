//! Frames that answer frames: who asked, and what is sent back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::{DestUnreachableCode, NeighborAdvertisementHeader};
use etherparse::{
    ArpEthIpv4Packet, ArpOperation, Ethernet2Header, Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder,
    PacketBuilderStep, TcpHeader, TcpSlice, icmpv6,
};

use crate::switch::wire::{EtherType, MacAddr, ethernet};

/// Hops that an answer may take; all but the first are outside of the network.
const HOPS: u8 = 64;
/// RFC 4861 §11.2: proves that no router has forwarded the packet.
pub(super) const HOPS_ND: u8 = 255;
/// RFC 4861 §4.6.1: type of a target link-layer address, length in units of eight bytes.
const OPTION_TARGET: [u8; 2] = [2, 1];
/// RFC 2464 §7, RFC 4291 §2.7.1
pub(super) const ALL_NODES: (MacAddr, Ipv6Addr) =
    (MacAddr([0x33, 0x33, 0, 0, 0, 1]), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));

/// Two ends of an answer: from us, to who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Back {
    pub(super) own_mac: MacAddr,
    pub(super) mac: MacAddr,
    pub(super) ends: Ends,
}

/// Our address and the other's, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Why a packet got no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreachable {
    /// Nothing listens at that port of ours.
    Port,
    /// We know no way to the destination.
    Route,
}

impl Ends {
    /// These two. `None` if they are not of one family.
    pub(super) fn of(own: IpAddr, other: IpAddr) -> Option<Self> {
        match (own, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => Some(Self::V4(own, other)),
            (IpAddr::V6(own), IpAddr::V6(other)) => Some(Self::V6(own, other)),
            _ => None,
        }
    }
}

impl Back {
    /// Our address.
    pub(super) fn own(&self) -> IpAddr {
        match self.ends {
            Ends::V4(own, _) => own.into(),
            Ends::V6(own, _) => own.into(),
        }
    }

    /// The same, from another address. `None` if it is not of that family.
    pub(super) fn of(&self, own: IpAddr) -> Option<Self> {
        let ends = match (own, self.ends) {
            (IpAddr::V4(own), Ends::V4(_, other)) => Ends::V4(own, other),
            (IpAddr::V6(own), Ends::V6(_, other)) => Ends::V6(own, other),
            _ => return None,
        };
        Some(Self { ends, ..*self })
    }

    /// A whole IP packet of that family.
    pub(super) fn frame(&self, packet: &[u8]) -> Vec<u8> {
        [&self.header()[..], packet].concat()
    }

    /// What is in front of an IP packet of that family.
    pub(super) fn header(&self) -> [u8; ethernet::HEADER_LEN] {
        let ether_type = match self.ends {
            Ends::V4(..) => EtherType::IPV4,
            Ends::V6(..) => EtherType::IPV6,
        };
        let mut header = [0; ethernet::HEADER_LEN];
        header[..6].copy_from_slice(&self.mac.0);
        header[6..12].copy_from_slice(&self.own_mac.0);
        header[12..].copy_from_slice(&ether_type.0.to_be_bytes());
        header
    }

    /// A datagram. `None` if it is too long for one.
    pub(super) fn datagram(&self, from: u16, to: u16, payload: &[u8]) -> Option<Vec<u8>> {
        let builder = self.ip(HOPS).udp(from, to);
        let mut frame = Vec::with_capacity(builder.size(payload.len()));
        builder.write(&mut frame, payload).ok().map(|()| frame)
    }

    /// An echo reply, with the bytes of the request behind its first four: identifier, sequence number, data.
    pub(super) fn echo(&self, request: &[u8]) -> Option<Vec<u8>> {
        let (&[id0, id1, sequence0, sequence1], data) = request.split_first_chunk()?;
        let (id, sequence) = (u16::from_be_bytes([id0, id1]), u16::from_be_bytes([sequence0, sequence1]));
        let step = self.ip(HOPS);
        let mut frame = Vec::new();
        let written = match self.ends {
            Ends::V4(..) => step.icmpv4_echo_reply(id, sequence).write(&mut frame, data),
            Ends::V6(..) => step.icmpv6_echo_reply(id, sequence).write(&mut frame, data),
        };
        written.ok().map(|()| frame)
    }

    /// RFC 792, RFC 4443 §3.1: `packet` (from its IP header on, cut to what the message may hold) got no further.
    pub(super) fn unreachable(&self, why: Unreachable, packet: &[u8]) -> Option<Vec<u8>> {
        let step = self.ip(HOPS);
        let mut frame = Vec::new();
        let written = match self.ends {
            Ends::V4(..) => {
                let why = match why {
                    Unreachable::Port => DestUnreachableHeader::Port,
                    Unreachable::Route => DestUnreachableHeader::Network,
                };
                step.icmpv4(Icmpv4Type::DestinationUnreachable(why)).write(&mut frame, packet)
            }
            Ends::V6(..) => {
                let why = match why {
                    Unreachable::Port => DestUnreachableCode::Port,
                    Unreachable::Route => DestUnreachableCode::NoRoute,
                };
                step.icmpv6(Icmpv6Type::DestinationUnreachable(why)).write(&mut frame, packet)
            }
        };
        written.ok().map(|()| frame)
    }

    /// Bytes of a packet that [`Self::unreachable`] may quote: RFC 1812 §4.3.2.3 (576 in all), RFC 4443 §3.1 (1280).
    pub(super) fn quote_max(&self) -> usize {
        match self.ends {
            Ends::V4(..) => 576 - 20 - 8,
            Ends::V6(..) => 1_280 - 40 - 8,
        }
    }

    /// A segment without payload.
    pub(super) fn segment(&self, header: TcpHeader) -> Option<Vec<u8>> {
        let mut frame = Vec::new();
        self.ip(HOPS).tcp_header(header).write(&mut frame, &[]).ok().map(|()| frame)
    }

    /// A packet of whatever follows, with the usual hops.
    pub(super) fn packet(&self) -> PacketBuilderStep<IpHeaders> {
        self.ip(HOPS)
    }

    /// RFC 4861 §4.2: an advertisement of this router, behind its type, code and checksum.
    pub(super) fn router(&self, head: [u8; 4], rest: &[u8]) -> Option<Vec<u8>> {
        let message =
            Icmpv6Type::Unknown { type_u8: icmpv6::TYPE_ROUTER_ADVERTISEMENT, code_u8: 0, bytes5to8: head };
        let mut frame = Vec::new();
        self.ip(HOPS_ND).icmpv6(message).write(&mut frame, rest).ok().map(|()| frame)
    }

    fn ip(&self, hops: u8) -> PacketBuilderStep<IpHeaders> {
        let ethernet = PacketBuilder::ethernet2(self.own_mac.0, self.mac.0);
        match self.ends {
            Ends::V4(own, other) => ethernet.ipv4(own.octets(), other.octets(), hops),
            Ends::V6(own, other) => ethernet.ipv6(own.octets(), other.octets(), hops),
        }
    }
}

/// The answer of who does not listen, to a segment that is no reset itself: RFC 9293 §3.10.7.1.
pub(super) fn reset_of(segment: &TcpSlice<'_>) -> TcpHeader {
    let mut reset = TcpHeader::new(segment.destination_port(), segment.source_port(), 0, 0);
    reset.rst = true;
    if segment.ack() {
        reset.sequence_number = segment.acknowledgment_number();
    } else {
        // Both count as a byte each; what was received is below 2^16.
        let flags = u32::from(segment.syn()) + u32::from(segment.fin());
        let len = u32::try_from(segment.payload().len()).unwrap_or(u32::MAX);
        reset.ack = true;
        reset.acknowledgment_number = segment.sequence_number().wrapping_add(len).wrapping_add(flags);
    }
    reset
}

/// RFC 826: `own` is at `own_mac`, to who asked.
pub(super) fn arp_reply(own_mac: MacAddr, own: Ipv4Addr, mac: MacAddr, asker: Ipv4Addr) -> Vec<u8> {
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REPLY,
        sender_mac: own_mac.0,
        sender_ipv4: own.octets(),
        target_mac: mac.0,
        target_ipv4: asker.octets(),
    };
    let ether_type = etherparse::EtherType(EtherType::ARP.0);
    let ethernet = Ethernet2Header { destination: mac.0, source: own_mac.0, ether_type };
    [&ethernet.to_bytes()[..], &arp.to_bytes()].concat()
}

/// RFC 4861 §4.4: `own`, a router, is at `own_mac`. To all if the asker has no address yet (§7.2.4).
pub(super) fn advertisement(
    own_mac: MacAddr,
    own: Ipv6Addr,
    mac: MacAddr,
    asker: Option<Ipv6Addr>,
) -> Option<Vec<u8>> {
    let (to_mac, to) = asker.map_or(ALL_NODES, |asker| (mac, asker));
    let header = NeighborAdvertisementHeader { router: true, solicited: asker.is_some(), r#override: true };
    let payload = [&own.octets()[..], &OPTION_TARGET, &own_mac.0].concat();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(own_mac.0, to_mac.0)
        .ipv6(own.octets(), to.octets(), HOPS_ND)
        .icmpv6(Icmpv6Type::NeighborAdvertisement(header))
        .write(&mut frame, &payload)
        .ok()
        .map(|()| frame)
}
