//! DHCP for IPv4 (RFC 2131, options of RFC 2132), from a table: bytes in, bytes out.
//!
//! Nothing is allocated here. Each MAC address has its address already, for as long as its endpoint is there, so
//! there is no state to lose: an offer is a promise that the table keeps, a release changes nothing, and every
//! node that knows the endpoint answers alike. Who is in no table hears nothing, and may have another server.
//!
//! ```text
//! DISCOVER ► OFFER      REQUEST ► ACK, or NAK for any other address      INFORM ► ACK without an address
//! ```
//!
//! Messages that a relay has handed on are not answered: who is to be served is on the link. [`dhcproto`] knows
//! the format.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::Encodable;
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, borrowed};
use ipnet::Ipv4Net;

use super::addresses::{Addresses, Own};
use super::frame::{Back, Ends};
use super::tables::{Lease, Tables};
use crate::switch::wire::MacAddr;

/// UDP port of servers (RFC 2131 §4.1).
pub(super) const SERVER: u16 = 67;
/// UDP port of clients.
const CLIENT: u16 = 68;
/// Seconds that an address is promised for. The endpoint has it for longer; this is how soon its machine notices
/// what else has changed, such as the MTU, at half of that time (RFC 2131 §4.4.5).
const LEASE_S: u32 = 3_600;
/// Bytes of the IP packet that every client takes (RFC 2131 §2).
const PACKET_MAX: usize = 576;
/// Bytes of the headers of IPv4 and UDP around a message.
const HEADERS_LEN: usize = 28;
/// Bytes that some clients want a message to have at least: BOOTP's (RFC 1542 §2.1).
const MESSAGE_MIN: usize = 300;
/// Bytes of an Ethernet address.
const MAC_LEN: u8 = 6;
/// RFC 2132 §9.14 sets no upper bound: an identifier of a type and a hardware address has 7, RFC 4361's up to 135.
const CLIENT_ID_MAX: usize = 135;

/// What a client asks.
#[derive(Debug)]
struct Asked {
    kind: MessageType,
    xid: u32,
    flags: Flags,
    /// The address that it has, if it says so.
    own: Option<Ipv4Addr>,
    /// The address that it wants.
    requested: Option<Ipv4Addr>,
    /// The server that it has chosen.
    server: Option<Ipv4Addr>,
    id: Option<Vec<u8>>,
    /// Bytes of the longest message that it takes.
    message_max: usize,
}

/// Answers a message of the client at `from`. Gives the frame that goes to it, or to all, if anything is to be
/// said.
pub(super) fn answer(tables: &Tables, at: &Addresses, from: MacAddr, message: &[u8]) -> Option<Vec<u8>> {
    let asked = Asked::parse(from, message)?;
    let lease = tables.leases.get(&from)?;
    let own = at.all().iter().find(|own| own.is_beside(lease.address.into()))?;
    let IpAddr::V4(server) = own.address else { return None };
    let kind = asked.decide(at, lease)?;
    let mut reply = Message::new_with_id(
        asked.xid,
        asked.own.filter(|_| kind != MessageType::Nak).unwrap_or(Ipv4Addr::UNSPECIFIED),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        &from.0,
    );
    reply.set_opcode(Opcode::BootReply).set_flags(asked.flags);
    let informs = asked.kind == MessageType::Inform;
    let mut options = vec![DhcpOption::MessageType(kind), DhcpOption::ServerIdentifier(server)];
    // RFC 6842: so that whoever shares a wire knows whom it is for.
    options.extend(asked.id.clone().map(DhcpOption::ClientIdentifier));
    if kind != MessageType::Nak {
        if !informs {
            reply.set_yiaddr(lease.address);
            options.push(DhcpOption::AddressLeaseTime(LEASE_S));
        }
        options.extend(facts(tables, at, own, server, lease));
    }
    let bytes = emit(reply, options, asked.message_max)?;
    back(&asked, kind, at, server, lease, from).datagram(SERVER, CLIENT, &bytes)
}

/// To whom a reply goes: RFC 2131 §4.1.
fn back(
    asked: &Asked,
    kind: MessageType,
    at: &Addresses,
    server: Ipv4Addr,
    lease: &Lease,
    from: MacAddr,
) -> Back {
    let (mac, to) = match asked.own {
        _ if kind == MessageType::Nak => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        Some(own) => (from, own),
        None if asked.flags.broadcast() => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
        None => (from, lease.address),
    };
    Back { own_mac: at.mac(), mac, ends: Ends::V4(server, to) }
}

/// What a client is told besides its address: the most important first.
fn facts(tables: &Tables, at: &Addresses, own: &Own, server: Ipv4Addr, lease: &Lease) -> Vec<DhcpOption> {
    let length = own.subnet.map_or(32, |net| u32::from(net.length()));
    let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
    let mut facts = vec![DhcpOption::SubnetMask(mask.into())];
    if !tables.zone.is_internal() {
        facts.push(DhcpOption::Router(vec![server]));
    }
    facts.push(DhcpOption::DomainNameServer(vec![server]));
    if lease.mtu > 0 {
        facts.push(DhcpOption::InterfaceMtu(lease.mtu));
    }
    facts.push(DhcpOption::Hostname(lease.name.clone()));
    if let Some(domain) = tables.domain() {
        facts.push(DhcpOption::DomainName(tables.zone.network().into()));
        facts.push(DhcpOption::DomainSearch(vec![domain]));
    }
    let routes = routes(tables, at, own, server);
    if !routes.is_empty() {
        facts.push(DhcpOption::ClasslessStaticRoute(routes));
    }
    facts
}

/// RFC 3442: the network's other subnets, which are on the same link, and then the way out, since whoever takes
/// these routes takes no other. None if there is nothing that the mask and the router don't say.
fn routes(tables: &Tables, at: &Addresses, own: &Own, server: Ipv4Addr) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let on_link = |other: &Own| {
        let net = other.subnet.filter(|_| other != own)?;
        let IpAddr::V4(first) = net.first() else { return None };
        Some((Ipv4Net::new(first, net.length()).ok()?, Ipv4Addr::UNSPECIFIED))
    };
    let mut routes: Vec<_> = at.all().iter().filter_map(on_link).collect();
    if !routes.is_empty() && !tables.zone.is_internal() {
        routes.push((Ipv4Net::default(), server));
    }
    routes
}

/// Leaves out what doesn't fit, from behind.
fn emit(mut reply: Message, mut options: Vec<DhcpOption>, message_max: usize) -> Option<Vec<u8>> {
    loop {
        reply.set_opts(options.iter().cloned().collect());
        let mut bytes = reply.to_vec().ok()?;
        if bytes.len() <= message_max {
            bytes.resize(bytes.len().max(MESSAGE_MIN), 0);
            return Some(bytes);
        }
        options.pop()?;
    }
}

impl Asked {
    /// What it asks, if it is a message of a client at that address that no relay has had.
    fn parse(from: MacAddr, message: &[u8]) -> Option<Self> {
        let head = borrowed::Message::new(message).ok()?;
        let direct = head.opcode() == Opcode::BootRequest && head.giaddr().is_unspecified();
        // The address may only be looked at if it is one of Ethernet.
        let ethernet = head.htype() == HType::Eth && head.hlen() == MAC_LEN;
        if !direct || !ethernet || head.chaddr() != from.0 {
            return None;
        }
        let own = Some(head.ciaddr()).filter(|address| !address.is_unspecified());
        let mut asked = Self {
            kind: MessageType::Unknown(0),
            xid: head.xid(),
            flags: head.flags(),
            own,
            requested: None,
            server: None,
            id: None,
            message_max: PACKET_MAX - HEADERS_LEN,
        };
        for option in head.opts() {
            asked.note(option.code(), option.data());
        }
        // Where it has an address it is reached there: an address is no group, and not everybody.
        asked.own.is_none_or(|own| super::addresses::is_host(own.into())).then_some(asked)
    }

    /// Notes an option that matters; one of a wrong length is as none.
    fn note(&mut self, code: OptionCode, data: &[u8]) {
        let address = || Some(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
        match code {
            OptionCode::MessageType => {
                self.kind = data.first().map_or(self.kind, |&kind| kind.into());
            }
            OptionCode::RequestedIpAddress => self.requested = address(),
            OptionCode::ServerIdentifier => self.server = address(),
            OptionCode::ClientIdentifier if data.len() <= CLIENT_ID_MAX => self.id = Some(data.into()),
            OptionCode::MaxMessageSize => {
                let packet = <[u8; 2]>::try_from(data).map_or(0, u16::from_be_bytes);
                self.message_max = usize::from(packet).max(PACKET_MAX) - HEADERS_LEN;
            }
            _ => {}
        }
    }

    /// The kind of the reply, if there is one.
    fn decide(&self, at: &Addresses, lease: &Lease) -> Option<MessageType> {
        match self.kind {
            MessageType::Discover => Some(MessageType::Offer),
            MessageType::Request => {
                // It has chosen another server.
                if self.server.is_some_and(|server| !at.is_at(server.into())) {
                    return None;
                }
                // New, begun again, or to be kept on: RFC 2131 §4.3.2. One that names no address wants nothing.
                let wanted = self.requested.or(self.own)?;
                Some(if wanted == lease.address { MessageType::Ack } else { MessageType::Nak })
            }
            MessageType::Inform => (self.own == Some(lease.address)).then_some(MessageType::Ack),
            // An address that is declined or released stays its endpoint's.
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
