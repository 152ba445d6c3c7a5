//! Frames between stations: number `n` has the MAC address 02:00:00:00:00:n, 10.0.0.n and fd00::n.

use std::net::IpAddr;

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::icmpv6::DestUnreachableCode;
use etherparse::{
    EtherType, Ethernet2Header, IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type,
    IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header,
    TcpHeader, UdpHeader,
};
use vswitchd_switch::wire::MacAddr;
use vswitchd_switch::wire::checksum::Sum;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) use Family::{V4, V6};

pub(crate) const FAMILIES: [Family; 2] = [V4, V6];

/// Neither routers nor balancers of a link count it down.
pub(crate) const TTL: u8 = 57;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) fn mac(station: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, station])
}

pub(crate) fn ip(family: Family, station: u8) -> IpAddr {
    match family {
        V4 => IpAddr::from([10, 0, 0, station]),
        V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, station.into()]),
    }
}

/// A packet's source and destination.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way(pub(crate) Family, pub(crate) u8, pub(crate) u8);

/// The numbers of a TCP segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
}

impl Way {
    pub(crate) fn tcp(self, [source, destination]: [u16; 2], numbers: Numbers, payload: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(source, destination, numbers.sequence, 0);
        tcp.acknowledgment_number = numbers.acknowledgment;
        let flag = |flag| numbers.flags & flag != 0;
        (tcp.fin, tcp.syn, tcp.rst) = (flag(FIN), flag(SYN), flag(RST));
        (tcp.psh, tcp.ack) = (flag(PSH), flag(ACK));
        tcp.checksum = match self.octets() {
            Octets::V4(from, to) => tcp.calc_checksum_ipv4_raw(from, to, payload),
            Octets::V6(from, to) => tcp.calc_checksum_ipv6_raw(from, to, payload),
        }
        .unwrap();
        self.packet(IpNumber::TCP, &[&tcp.to_bytes(), payload].concat())
    }

    pub(crate) fn udp(self, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        self.packet(IpNumber::UDP, &self.udp_message(ports, payload))
    }

    /// Without a checksum.
    pub(crate) fn bare_udp(self, ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let mut message = self.udp_message(ports, payload);
        message[6..8].fill(0);
        self.packet(IpNumber::UDP, &message)
    }

    fn udp_message(self, [source, destination]: [u16; 2], payload: &[u8]) -> Vec<u8> {
        let udp = match self.octets() {
            Octets::V4(from, to) => {
                let ip = Ipv4Header::new(0, TTL, IpNumber::UDP, from, to).unwrap();
                UdpHeader::with_ipv4_checksum(source, destination, &ip, payload)
            }
            Octets::V6(from, to) => {
                let ip = Ipv6Header { source: from, destination: to, ..Ipv6Header::default() };
                UdpHeader::with_ipv6_checksum(source, destination, &ip, payload)
            }
        };
        [&udp.unwrap().to_bytes(), payload].concat()
    }

    pub(crate) fn echo(self, reply: bool, id: u16) -> Vec<u8> {
        let echo = IcmpEchoHeader { id, seq: 3 };
        let (v4, v6) = if reply {
            (Icmpv4Type::EchoReply(echo), Icmpv6Type::EchoReply(echo))
        } else {
            (Icmpv4Type::EchoRequest(echo), Icmpv6Type::EchoRequest(echo))
        };
        self.icmp(v4, v6, b"echo")
    }

    /// "Port unreachable" about a frame's packet.
    pub(crate) fn no_port(self, about: &[u8]) -> Vec<u8> {
        let v4 = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
        self.icmp(v4, Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port), &about[14..])
    }

    /// "Host unreachable" about a frame's packet.
    pub(crate) fn no_host(self, about: &[u8]) -> Vec<u8> {
        let v4 = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        self.icmp(v4, Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Address), &about[14..])
    }

    /// "Too big" about a frame's packet.
    pub(crate) fn too_big(self, mtu: u16, about: &[u8]) -> Vec<u8> {
        let v4 = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
        self.icmp(Icmpv4Type::DestinationUnreachable(v4), Icmpv6Type::PacketTooBig { mtu: mtu.into() }, about)
    }

    fn icmp(self, v4: Icmpv4Type, v6: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
        match self.octets() {
            Octets::V4(..) => {
                let icmp = Icmpv4Header::with_checksum(v4, payload);
                self.packet(IpNumber::ICMP, &[&icmp.to_bytes(), payload].concat())
            }
            Octets::V6(from, to) => {
                let icmp = Icmpv6Header::with_checksum(v6, from, to, payload).unwrap();
                self.packet(IpNumber::IPV6_ICMP, &[&icmp.to_bytes(), payload].concat())
            }
        }
    }

    /// A UDP datagram in two fragments.
    pub(crate) fn udp_fragments(self, ports: [u16; 2], id: u16, payload: &[u8]) -> [Vec<u8>; 2] {
        let message = self.udp_message(ports, payload);
        let at = 24;
        [(&message[..at], 0, true), (&message[at..], at, false)]
            .map(|(part, offset, more)| self.fragment(IpNumber::UDP, id, offset, more, part))
    }

    fn fragment(self, protocol: IpNumber, id: u16, offset: usize, more: bool, part: &[u8]) -> Vec<u8> {
        let offset = IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap();
        match self.octets() {
            Octets::V4(from, to) => {
                let mut ip =
                    Ipv4Header::new(u16::try_from(part.len()).unwrap(), TTL, protocol, from, to).unwrap();
                (ip.identification, ip.fragment_offset, ip.more_fragments) = (id, offset, more);
                ip.dont_fragment = false;
                ip.header_checksum = ip.calc_header_checksum();
                [&self.link(), &ip.to_bytes()[..], part].concat()
            }
            Octets::V6(..) => {
                let fragment = Ipv6FragmentHeader::new(protocol, offset, more, id.into());
                let whole = [&fragment.to_bytes(), part].concat();
                self.packet(IpNumber::IPV6_FRAGMENTATION_HEADER, &whole)
            }
        }
    }

    /// Any IP packet.
    pub(crate) fn packet(self, protocol: IpNumber, message: &[u8]) -> Vec<u8> {
        let len = u16::try_from(message.len()).unwrap();
        match self.octets() {
            Octets::V4(from, to) => {
                let mut ip = Ipv4Header::new(len, TTL, protocol, from, to).unwrap();
                ip.header_checksum = ip.calc_header_checksum();
                [&self.link(), &ip.to_bytes()[..], message].concat()
            }
            Octets::V6(source, destination) => {
                let ip = Ipv6Header {
                    traffic_class: 0,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: len,
                    next_header: protocol,
                    hop_limit: TTL,
                    source,
                    destination,
                };
                [&self.link(), &ip.to_bytes()[..], message].concat()
            }
        }
    }

    fn link(self) -> [u8; 14] {
        let Self(family, from, to) = self;
        let ether_type = if family == V4 { EtherType::IPV4 } else { EtherType::IPV6 };
        Ethernet2Header { source: mac(from).0, destination: mac(to).0, ether_type }.to_bytes()
    }

    fn octets(self) -> Octets {
        let Self(family, from, to) = self;
        match (ip(family, from), ip(family, to)) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Octets::V4(from.octets(), to.octets()),
            (IpAddr::V6(from), IpAddr::V6(to)) => Octets::V6(from.octets(), to.octets()),
            _ => unreachable!("both are of one family"),
        }
    }

    /// Where the transport header starts.
    pub(crate) fn start(self) -> usize {
        if self.0 == V4 { 34 } else { 54 }
    }

    /// Takes a TCP or UDP frame's checksum back to the pseudo-header's sum, as a sender does who leaves it to others.
    pub(crate) fn unfinish(self, frame: &mut [u8], offset: usize) {
        let start = self.start();
        let protocol = if offset == 16 { 6 } else { 17 };
        let len = u16::try_from(frame.len() - start).unwrap();
        let sum = match self.octets() {
            Octets::V4(from, to) => Sum::default().pseudo_v4(from, to, protocol, len),
            Octets::V6(from, to) => Sum::default().pseudo_v6(from, to, protocol, len.into()),
        };
        frame[start + offset..start + offset + 2].copy_from_slice(&sum.fold());
    }
}

/// The frame with another TTL or hop limit.
pub(crate) fn with_hops(mut frame: Vec<u8>, hops: u8) -> Vec<u8> {
    match Ipv4HeaderSlice::from_slice(&frame[14..]) {
        Ok(ip) => {
            let mut ip = ip.to_header();
            ip.time_to_live = hops;
            ip.header_checksum = ip.calc_header_checksum();
            frame[14..34].copy_from_slice(&ip.to_bytes());
        }
        Err(_) => frame[21] = hops,
    }
    frame
}

enum Octets {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}
