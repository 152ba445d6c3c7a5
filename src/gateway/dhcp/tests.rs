use dhcproto::{Decodable, Decoder};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use hickory_proto::rr::Name;

use super::*;
use crate::api::IpPrefix;
use crate::names::Zone;

const CLIENT_MAC: MacAddr = MacAddr([0x02, 0x42, 10, 0, 7, 20]);
const SERVER_ID: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 20);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 99);

/// A gateway in two subnets of IPv4 and one of IPv6.
fn at() -> Addresses {
    let own = |address: &str, length| {
        let address: IpAddr = address.parse().unwrap();
        Own { address, subnet: IpPrefix::around(address, length) }
    };
    Addresses::of(vec![own("10.0.9.1", 24), own("fd00:9::1", 64), own("10.0.7.1", 26)]).unwrap()
}

fn tables(internal: bool) -> Tables {
    let lease = Lease { address: ADDRESS, name: "web".into(), mtu: 1_420 };
    Tables { zone: Zone::new("front", internal), leases: [(CLIENT_MAC, lease)].into(), mtu: 1_450 }
}

fn request(kind: MessageType, own: Ipv4Addr, options: &[DhcpOption]) -> Message {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(0x1234_5678, own, none, none, none, &CLIENT_MAC.0);
    message.set_opts(options.iter().cloned().chain([DhcpOption::MessageType(kind)]).collect());
    message
}

/// The frame's destination, that of the packet in it, and the message, after a look at the rest of the way.
fn answered(tables: &Tables, request: &Message) -> Option<(MacAddr, Ipv4Addr, Message)> {
    let frame = answer(tables, &at(), CLIENT_MAC, &request.to_vec().unwrap())?;
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        panic!("no datagram")
    };
    assert_eq!((udp.source_port(), udp.destination_port()), (67, 68));
    assert_eq!((ip.header().source_addr(), &frame[6..12]), (SERVER_ID, &at().mac().0[..]));
    assert!(udp.payload().len() >= MESSAGE_MIN && frame.len() <= 14 + PACKET_MAX);
    let message = Message::decode(&mut Decoder::new(udp.payload())).unwrap();
    assert_eq!((message.opcode(), message.xid()), (Opcode::BootReply, 0x1234_5678));
    assert_eq!((message.chaddr(), message.siaddr()), (&CLIENT_MAC.0[..], Ipv4Addr::UNSPECIFIED));
    Some((MacAddr(frame[..6].try_into().unwrap()), ip.header().destination_addr(), message))
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

#[test]
fn a_client_is_offered_its_address_and_gets_it() {
    let (tables, none) = (tables(false), Ipv4Addr::UNSPECIFIED);
    let id = DhcpOption::ClientIdentifier(vec![1, 2, 3]);
    let (mac, to, offer) =
        answered(&tables, &request(MessageType::Discover, none, std::slice::from_ref(&id))).unwrap();
    assert_eq!((mac, to, kind(&offer)), (CLIENT_MAC, ADDRESS, MessageType::Offer));
    let chosen = [DhcpOption::RequestedIpAddress(ADDRESS), DhcpOption::ServerIdentifier(SERVER_ID)];
    let (.., ack) = answered(&tables, &request(MessageType::Request, none, &chosen)).unwrap();
    assert_eq!(kind(&ack), MessageType::Ack);
    for message in [&offer, &ack] {
        assert_eq!(message.yiaddr(), ADDRESS);
        let told = |code| message.opts().get(code).cloned();
        let route = |net: &str, via: &str| (net.parse().unwrap(), via.parse().unwrap());
        for option in [
            DhcpOption::SubnetMask([255, 255, 255, 192].into()),
            DhcpOption::Router(vec![SERVER_ID]),
            DhcpOption::DomainNameServer(vec![SERVER_ID]),
            DhcpOption::Hostname("web".into()),
            DhcpOption::DomainName("front".into()),
            DhcpOption::DomainSearch(vec![Name::from_ascii("front.").unwrap()]),
            DhcpOption::InterfaceMtu(1_420),
            DhcpOption::AddressLeaseTime(3_600),
            DhcpOption::ServerIdentifier(SERVER_ID),
            DhcpOption::ClasslessStaticRoute(vec![
                route("10.0.9.0/24", "0.0.0.0"),
                route("0.0.0.0/0", "10.0.7.1"),
            ]),
        ] {
            assert_eq!(told(OptionCode::from(&option)), Some(option));
        }
    }
    assert_eq!(offer.opts().get(OptionCode::ClientIdentifier), Some(&id));
}

#[test]
fn any_other_address_is_refused_and_other_servers_are_left_alone() {
    let (tables, none) = (tables(false), Ipv4Addr::UNSPECIFIED);
    let asked = DhcpOption::RequestedIpAddress;
    let server = DhcpOption::ServerIdentifier;
    let ack = Some(MessageType::Ack);
    let nak = Some(MessageType::Nak);
    for (own, options, expected) in [
        (none, vec![asked(ADDRESS), server([10, 0, 9, 1].into())], ack),
        (none, vec![asked(OTHER), server(SERVER_ID)], nak),
        (none, vec![asked(ADDRESS), server(OTHER)], None),
        // Begun again, kept on, and what is neither.
        (none, vec![asked(ADDRESS)], ack),
        (none, vec![asked(OTHER)], nak),
        (ADDRESS, vec![], ack),
        (OTHER, vec![], nak),
        (none, vec![server(SERVER_ID)], None),
        (none, vec![], None),
    ] {
        let reply = answered(&tables, &request(MessageType::Request, own, &options));
        assert_eq!(reply.as_ref().map(|(.., message)| kind(message)), expected, "{own} {options:?}");
        if let Some((mac, to, message)) = reply {
            let way = match kind(&message) {
                MessageType::Nak => (MacAddr::BROADCAST, Ipv4Addr::BROADCAST),
                _ => (CLIENT_MAC, ADDRESS),
            };
            assert_eq!((mac, to), way);
            let none = message.opts().get(OptionCode::AddressLeaseTime).is_none();
            assert_eq!(none, kind(&message) == MessageType::Nak);
        }
    }
    for kind in [MessageType::Release, MessageType::Decline, MessageType::Offer, MessageType::Unknown(99)] {
        assert!(answered(&tables, &request(kind, ADDRESS, &[asked(ADDRESS)])).is_none(), "{kind:?}");
    }
}

#[test]
fn who_can_not_be_reached_alone_is_reached_with_all() {
    let mut discover = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[]);
    discover.set_flags(Flags::default().set_broadcast());
    let (mac, to, offer) = answered(&tables(false), &discover).unwrap();
    assert_eq!((mac, to, offer.flags().broadcast()), (MacAddr::BROADCAST, Ipv4Addr::BROADCAST, true));
}

#[test]
fn who_has_its_address_may_ask_for_the_rest() {
    let (_, to, ack) = answered(&tables(false), &request(MessageType::Inform, ADDRESS, &[])).unwrap();
    assert_eq!((to, kind(&ack), ack.yiaddr()), (ADDRESS, MessageType::Ack, Ipv4Addr::UNSPECIFIED));
    assert!(ack.opts().get(OptionCode::AddressLeaseTime).is_none());
    assert!(ack.opts().get(OptionCode::InterfaceMtu).is_some());
    for other in [OTHER, Ipv4Addr::UNSPECIFIED] {
        assert!(answered(&tables(false), &request(MessageType::Inform, other, &[])).is_none());
    }
}

#[test]
fn an_internal_network_has_no_way_out() {
    let discover = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[]);
    let (.., offer) = answered(&tables(true), &discover).unwrap();
    assert!(offer.opts().get(OptionCode::Router).is_none());
    let on_link = ("10.0.9.0/24".parse().unwrap(), Ipv4Addr::UNSPECIFIED);
    let routes = Some(DhcpOption::ClasslessStaticRoute(vec![on_link]));
    assert_eq!(offer.opts().get(OptionCode::ClasslessStaticRoute).cloned(), routes);
    assert!(offer.opts().get(OptionCode::DomainNameServer).is_some());
}

#[test]
fn strangers_relays_and_forgers_hear_nothing() {
    let discover = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[]);
    assert!(answered(&Tables::from(Zone::new("front", false)), &discover).is_none());
    let bytes = discover.to_vec().unwrap();
    assert!(answer(&tables(false), &at(), MacAddr([2, 0, 0, 0, 0, 9]), &bytes).is_none());
    let mut relayed = discover.clone();
    relayed.set_giaddr([10, 0, 7, 2]);
    assert!(answered(&tables(false), &relayed).is_none());
    let mut reply = discover.clone();
    reply.set_opcode(Opcode::BootReply);
    assert!(answered(&tables(false), &reply).is_none());
    let to_all = request(MessageType::Request, Ipv4Addr::BROADCAST, &[]);
    assert!(answered(&tables(false), &to_all).is_none());
    let nowhere = Addresses::new(&[SERVER_ID.into()]).unwrap();
    assert!(answer(&tables(false), &nowhere, CLIENT_MAC, &bytes).is_none(), "a gateway without subnets");
}

#[test]
fn what_does_not_fit_is_left_out_from_behind() {
    let subnets = (0..16_u8).map(|n| {
        let address = IpAddr::from([10, 0, n, 1]);
        Own { address, subnet: IpPrefix::around(address, 24) }
    });
    let at = Addresses::of(subnets.collect()).unwrap();
    let mut tables = tables(false);
    tables.zone = Zone::new(&"n".repeat(63), false);
    tables.leases.get_mut(&CLIENT_MAC).unwrap().name = "w".repeat(63);
    let answer = |options: &[DhcpOption]| {
        let discover = request(MessageType::Discover, Ipv4Addr::UNSPECIFIED, options).to_vec().unwrap();
        let frame = answer(&tables, &at, CLIENT_MAC, &discover).unwrap();
        let routes = Message::decode(&mut Decoder::new(&frame[42..])).unwrap();
        (frame.len() - 14, routes.opts().get(OptionCode::ClasslessStaticRoute).is_some())
    };
    let (len, routes) = answer(&[DhcpOption::ClientIdentifier(vec![7; CLIENT_ID_MAX])]);
    assert!(len <= 576 && !routes, "{len}");
    let (len, routes) = answer(&[DhcpOption::MaxMessageSize(1_400)]);
    assert!(len > 576 && len <= 1_400 && routes, "{len}");
}

#[test]
fn what_is_cut_off_or_changed_never_panics() {
    let options = [DhcpOption::RequestedIpAddress(ADDRESS), DhcpOption::ClientIdentifier(vec![1; 7])];
    let whole = request(MessageType::Request, Ipv4Addr::UNSPECIFIED, &options).to_vec().unwrap();
    for len in 0..whole.len() {
        let _ = answer(&tables(false), &at(), CLIENT_MAC, &whole[..len]);
    }
    for at_byte in 0..whole.len() {
        for value in [0, 1, 17, 0x7f, 0xff] {
            let mut changed = whole.clone();
            changed[at_byte] = value;
            let _ = answer(&tables(false), &at(), CLIENT_MAC, &changed);
        }
    }
}
