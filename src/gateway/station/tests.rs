use std::net::Ipv6Addr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

use super::super::addresses::Own;
use super::super::tables::Lease;
use super::*;
use crate::api::IpPrefix;
use crate::names::Host;
use crate::switch::wire::MacAddr;

const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
const OWN: MacAddr = MacAddr([0x02, 0x42, 10, 0, 9, 1]);
const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 7);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7);

fn station() -> Station {
    let own = |address: IpAddr, length| Own { address, subnet: IpPrefix::around(address, length) };
    let at = Addresses::of(vec![own(V4.into(), 24), own(V6.into(), 64)]).unwrap();
    assert_eq!((at.mac(), at.v4(), at.v6()), (OWN, Some(V4), Some(V6)));
    Station::new(at, 1, Instant::now())
}

fn tables(internal: bool) -> Tables {
    let mut zone = Zone::new("front", internal);
    let addresses = vec![[10, 0, 9, 2].into()];
    zone.add(&Host { name: "web".into(), addresses, ..Host::default() }).unwrap();
    let lease = Lease { address: CLIENT_V4, name: "web".into(), mtu: 1_420 };
    Tables { zone, leases: [(CLIENT, lease)].into(), mtu: 1_450 }
}

fn handle(frame: &[u8]) -> Action {
    station().handle(frame, &tables(false), Instant::now())
}

/// What came back, after a look at its ways and checksums.
fn sent(frame: &[u8]) -> Vec<u8> {
    let Action::Send(reply) = handle(frame) else { panic!("nothing came back") };
    assert_eq!((&reply[..6], &reply[6..12]), (&CLIENT.0[..], &OWN.0[..]));
    let header = ethernet::Header::parse(&reply).unwrap();
    if let Some(found) = Transport::find(&reply, &header) {
        let (source, destination) = (found.source(&reply), found.destination(&reply));
        assert!([IpAddr::V4(V4), IpAddr::V6(V6)].contains(&source));
        assert!([IpAddr::V4(CLIENT_V4), IpAddr::V6(CLIENT_V6)].contains(&destination));
        assert!(verifies(&reply, found, source, destination));
    }
    reply
}

fn ipv4(destination: Ipv4Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(CLIENT.0, OWN.0).ipv4(CLIENT_V4.octets(), destination.octets(), 64)
}

fn ipv6(destination: Ipv6Addr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2(CLIENT.0, OWN.0).ipv6(CLIENT_V6.octets(), destination.octets(), 64)
}

fn built<T>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), T>) -> Vec<u8> {
    let mut frame = Vec::new();
    assert!(write(&mut frame).is_ok());
    frame
}

/// A datagram to port 53 or another, to our address of either family.
fn datagram(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let step = if v6 { ipv6(V6) } else { ipv4(V4) };
    built(|frame| step.udp(4_000, port).write(frame, payload))
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

#[test]
fn arp_is_answered_to_all_and_to_one() {
    let ask = |destination: MacAddr, asker: Ipv4Addr, target: Ipv4Addr| {
        let arp = etherparse::ArpEthIpv4Packet {
            operation: ArpOperation::REQUEST,
            sender_mac: CLIENT.0,
            sender_ipv4: asker.octets(),
            target_mac: [0; 6],
            target_ipv4: target.octets(),
        };
        [&destination.0[..], &CLIENT.0, &EtherType::ARP.0.to_be_bytes(), &arp.to_bytes()].concat()
    };
    for (destination, asker) in
        [(MacAddr::BROADCAST, CLIENT_V4), (OWN, CLIENT_V4), (MacAddr::BROADCAST, Ipv4Addr::UNSPECIFIED)]
    {
        let reply = sent(&ask(destination, asker, V4));
        let arp = ArpPacketSlice::from_slice(&reply[14..]).unwrap();
        assert_eq!((arp.operation(), arp.sender_hw_addr()), (ArpOperation::REPLY, &OWN.0[..]));
        assert_eq!((arp.sender_protocol_addr(), arp.target_hw_addr()), (&V4.octets()[..], &CLIENT.0[..]));
        assert_eq!(arp.target_protocol_addr(), asker.octets());
    }
    for other in [
        ask(MacAddr::BROADCAST, CLIENT_V4, CLIENT_V4),
        ask(MacAddr::BROADCAST, V4, V4),
        ask(MacAddr([2, 0, 0, 0, 0, 8]), CLIENT_V4, V4),
    ] {
        assert_eq!(handle(&other), Action::Nothing);
    }
}

/// A solicitation, to the group of our address or to us alone.
fn solicitation(to_all: bool, source: Ipv6Addr, target: Ipv6Addr, hops: u8) -> Vec<u8> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let (mac, destination) = if to_all { (MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), group) } else { (OWN, V6) };
    let step = PacketBuilder::ethernet2(CLIENT.0, mac.0).ipv6(source.octets(), destination.octets(), hops);
    let step = step.icmpv6(etherparse::Icmpv6Type::NeighborSolicitation);
    built(|frame| step.write(frame, &target.octets()))
}

#[test]
fn neighbours_are_told_that_we_are_a_router() {
    for to_all in [true, false] {
        let reply = sent(&solicitation(to_all, CLIENT_V6, V6, 255));
        let (head, target) = (&reply[54..62], &reply[62..78]);
        assert_eq!((head[0], head[1], head[4]), (136, 0, 0xe0), "router, solicited, override");
        assert_eq!((target, &reply[78..]), (&V6.octets()[..], &[&[2, 1][..], &OWN.0].concat()[..]));
        assert_eq!(handle(&solicitation(to_all, CLIENT_V6, CLIENT_V6, 255)), Action::Nothing);
        assert_eq!(handle(&solicitation(to_all, CLIENT_V6, V6, 64)), Action::Nothing, "came over a router");
    }
    let Action::Send(defence) = handle(&solicitation(true, Ipv6Addr::UNSPECIFIED, V6, 255)) else {
        panic!("our address can be taken")
    };
    assert_eq!((&defence[..6], defence[58]), (&[0x33, 0x33, 0, 0, 0, 1][..], 0xa0));
}

/// A solicitation of routers, from an address or none.
fn router_solicitation(source: Ipv6Addr, hops: u8) -> Vec<u8> {
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let step = PacketBuilder::ethernet2(CLIENT.0, [0x33, 0x33, 0, 0, 0, 2]);
    let step = step.ipv6(source.octets(), all_routers.octets(), hops);
    built(|frame| step.icmpv6(etherparse::Icmpv6Type::RouterSolicitation).write(frame, &[]))
}

#[test]
fn routers_are_found_by_asking_and_by_waiting() {
    let (mut station, tables, now) = (station(), tables(false), Instant::now());
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x42, 0x0aff, 0xfe00, 0x0901);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let check = |frame: &[u8], mac: [u8; 6], to: Ipv6Addr| {
        assert_eq!((&frame[..6], &frame[22..38]), (&mac[..], &link_local.octets()[..]));
        assert_eq!((&frame[38..54], frame[21], &frame[54..56]), (&to.octets()[..], 255, &[134, 0][..]));
        let header = ethernet::Header::parse(frame).unwrap();
        let found = Transport::find(frame, &header).unwrap();
        assert!(verifies(frame, found, found.source(frame), found.destination(frame)));
    };
    for (source, to) in [(CLIENT_V6, CLIENT_V6), (Ipv6Addr::UNSPECIFIED, all)] {
        let asked = station.handle(&router_solicitation(source, 255), &tables, now);
        let Action::Send(frame) = asked else { panic!("no router answers") };
        check(&frame, CLIENT.0, to);
    }
    assert_eq!(station.handle(&router_solicitation(CLIENT_V6, 64), &tables, now), Action::Nothing);
    let due = station.next_deadline().unwrap();
    let Action::Several { frames, questions } = station.tick(&tables, due) else { panic!("none is sent") };
    assert_eq!((frames.len(), questions.len()), (1, 0));
    check(&frames[0], [0x33, 0x33, 0, 0, 0, 1], all);
    assert!(station.next_deadline().unwrap() > due);
    // The address that routers are known by is ours.
    let reply = handle(&solicitation(true, CLIENT_V6, link_local, 255));
    assert!(matches!(reply, Action::Send(_)));
}

#[test]
fn clients_without_addresses_get_theirs() {
    let message = |kind: u8| {
        let mut message = vec![0; 240];
        message[..3].copy_from_slice(&[1, 1, 6]);
        message[28..34].copy_from_slice(&CLIENT.0);
        message[236..].copy_from_slice(&[0x63, 0x82, 0x53, 0x63]);
        [&message[..], &[53, 1, kind, 255]].concat()
    };
    let discover = |source: Ipv4Addr, to: Ipv4Addr, mac: MacAddr, port| {
        let step = PacketBuilder::ethernet2(CLIENT.0, mac.0).ipv4(source.octets(), to.octets(), 64);
        built(|frame| step.udp(68, port).write(frame, &message(1)))
    };
    let (none, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let offer = sent(&discover(none, all, MacAddr::BROADCAST, 67));
    assert_eq!((&offer[42..45], &offer[58..62]), (&[2, 1, 6][..], &CLIENT_V4.octets()[..]));
    // One that has an address asks us alone.
    sent(&discover(CLIENT_V4, V4, OWN, 67));
    for other in [
        discover(none, all, MacAddr::BROADCAST, 68),
        discover(none, [10, 0, 9, 255].into(), MacAddr::BROADCAST, 67),
        discover(none, V4, OWN, 67),
    ] {
        assert_eq!(handle(&other), Action::Nothing);
    }
    let mut wrong = discover(none, all, MacAddr::BROADCAST, 67);
    wrong[60] ^= 1;
    assert_eq!(handle(&wrong), Action::Nothing, "a wrong checksum");
}

#[test]
fn echo_comes_back_whole() {
    let data: Vec<u8> = (0..=255).cycle().take(1_400).collect();
    let request = built(|frame| ipv4(V4).icmpv4_echo_request(7, 9).write(frame, &data));
    let reply = sent(&request);
    assert_eq!((reply[34], &reply[38..42], &reply[42..]), (0, &[0, 7, 0, 9][..], &data[..]));
    let request = built(|frame| ipv6(V6).icmpv6_echo_request(7, 9).write(frame, &data));
    let reply = sent(&request);
    assert_eq!((reply[54], &reply[58..62], &reply[62..]), (129, &[0, 7, 0, 9][..], &data[..]));
    for at in [24, 34, 60] {
        let mut wrong = request.clone();
        wrong[at] ^= 1;
        assert_eq!(handle(&wrong), Action::Nothing, "byte {at}");
    }
}

#[test]
fn names_are_answered_in_both_families() {
    for v6 in [false, true] {
        let reply = sent(&datagram(v6, DNS, &query("WEB.front.")));
        let packet = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no datagram") };
        assert_eq!((udp.source_port(), udp.destination_port()), (DNS, 4_000));
        let message = Message::from_vec(udp.payload()).unwrap();
        assert_eq!((message.metadata.id, message.answers.len()), (7, 1));
        assert_eq!(message.answers[0].data.to_string(), "10.0.9.2");
    }
}

#[test]
fn what_others_know_is_asked_and_the_reply_finds_its_way() {
    let query = query("example.org.");
    let Action::Ask(question) = handle(&datagram(false, DNS, &query)) else { panic!("it is not asked") };
    assert_eq!(question.query, query);
    let mut station = station();
    let [frame] = &station.answer(&question, None, Instant::now())[..] else { panic!("nothing went back") };
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no datagram") };
    assert_eq!((udp.destination_port(), udp.payload()[3] & 0xf), (4_000, 2), "SERVFAIL");
    assert_eq!(station.answer(&question, Some(query), Instant::now()).len(), 1);
    let internal = station.handle(&datagram(false, DNS, &question.query), &tables(true), Instant::now());
    assert!(matches!(internal, Action::Send(_)));
}

#[test]
fn nothing_else_is_served_and_nothing_leads_out() {
    let reply = sent(&datagram(false, 123, b"what time is it?"));
    assert_eq!((reply[34], reply[35]), (3, 3));
    assert_eq!(reply[42..], datagram(false, 123, b"what time is it?")[14..], "the packet itself");
    assert_eq!(&sent(&datagram(true, 123, b"what time is it?"))[54..56], [1, 4]);
    let out = built(|frame| ipv4([192, 0, 2, 1].into()).udp(4_000, 53).write(frame, &[7; 1_000]));
    let reply = sent(&out);
    assert_eq!((reply[34], reply[35], reply.len()), (3, 0, 14 + 576));
    assert_eq!(&reply[42..], &out[14..14 + 548], "the packet's beginning");
    let out = built(|frame| ipv6("2001:db8::1".parse().unwrap()).icmpv6_echo_request(1, 1).write(frame, &[]));
    assert_eq!(&sent(&out)[54..56], [1, 0]);
    let why = icmpv4::DestUnreachableHeader::Port;
    let error = etherparse::Icmpv4Type::DestinationUnreachable(why);
    let out = built(|frame| ipv4([192, 0, 2, 1].into()).icmpv4(error).write(frame, &[0; 28]));
    assert_eq!(handle(&out), Action::Nothing, "no error for an error");
}

#[test]
fn who_leads_out_hands_on_what_is_for_elsewhere() {
    let mut station = station().leading_out();
    let mut handle = |frame: &[u8]| station.handle(frame, &tables(false), Instant::now());
    let out = built(|frame| ipv4([192, 0, 2, 1].into()).udp(4_000, 53).write(frame, &[7; 1_000]));
    let Action::Carry(carried) = handle(&out) else { panic!("it goes nowhere") };
    assert_eq!((carried.found.start, carried.back.mac), (34, CLIENT));
    let mut damaged = out.clone();
    damaged[60] ^= 1;
    assert_eq!(handle(&damaged), Action::Nothing);
    let mut fragment = out;
    fragment[20] |= 0x20;
    fragment[24..26].fill(0);
    let checksum = crate::switch::wire::checksum::Sum::default().bytes(&fragment[14..34]).finish();
    fragment[24..26].copy_from_slice(&checksum);
    assert_eq!(handle(&fragment), Action::Fragment);
    assert!(matches!(handle(&datagram(false, DNS, &query("web."))), Action::Send(_)), "our own");
}

#[test]
fn who_leads_in_hands_on_what_may_answer_somebody_outside() {
    let mut station = station().leading_in();
    let mut handle = |frame: &[u8]| station.handle(frame, &tables(false), Instant::now());
    let segment = built(|frame| ipv4(V4).tcp(80, *PORTS.start(), 1_000, 8_192).write(frame, b"page"));
    for answer in [segment, datagram(true, *PORTS.end(), b"answer")] {
        let Action::Carry(carried) = handle(&answer) else { panic!("it goes nowhere") };
        assert_eq!(carried.back.mac, CLIENT);
    }
    // Other ports, and all that is not for us, are as they were.
    let Action::Send(reply) = handle(&datagram(false, PORTS.start() - 1, b"?")) else { panic!("no error") };
    assert_eq!(&reply[34..36], [3, 3]);
    let out = built(|frame| ipv4([192, 0, 2, 1].into()).udp(4_000, *PORTS.start()).write(frame, b"?"));
    let Action::Send(reply) = handle(&out) else { panic!("it leads nowhere") };
    assert_eq!(&reply[34..36], [3, 0]);
    assert!(matches!(handle(&datagram(false, DNS, &query("web."))), Action::Send(_)));
}

#[test]
fn tcp_is_reset_as_the_sender_expects_it() {
    let syn = built(|frame| ipv4(V4).tcp(4_000, 80, 1_000, 8_192).syn().write(frame, &[]));
    let more = built(|frame| ipv6(V6).tcp(4_000, 80, 1_000, 8_192).ack(5_000).write(frame, b"GET"));
    for (segment, sequence, acknowledged) in [(&syn, 0, Some(1_001)), (&more, 5_000, None)] {
        let reply = sent(segment);
        let packet = SlicedPacket::from_ethernet(&reply).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no segment") };
        assert!(tcp.rst() && tcp.sequence_number() == sequence && tcp.destination_port() == 4_000);
        assert_eq!(tcp.ack().then(|| tcp.acknowledgment_number()), acknowledged);
        assert!(matches!(packet.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))));
    }
    let reset = built(|frame| ipv4(V4).tcp(4_000, 53, 1_000, 8_192).rst().write(frame, &[]));
    assert_eq!(handle(&reset), Action::Nothing);
}

#[test]
fn errors_have_a_limit_and_answers_none() {
    let (mut station, tables, now) = (station(), tables(false), Instant::now());
    let refused = datagram(false, 123, b"what time is it?");
    let errors = (0..1_000).filter(|_| station.handle(&refused, &tables, now) != Action::Nothing).count();
    assert_eq!(errors, usize::try_from(ERRORS.burst).unwrap());
    let asked = datagram(false, DNS, &query("web."));
    assert!((0..1_000).all(|_| station.handle(&asked, &tables, now) != Action::Nothing));
}

#[test]
fn what_is_cut_off_changed_or_of_others_never_panics() {
    let frames = [
        datagram(false, DNS, &query("web.")),
        datagram(true, DNS, &query("web.")),
        solicitation(true, CLIENT_V6, V6, 255),
        built(|frame| ipv4(V4).icmpv4_echo_request(7, 9).write(frame, b"data")),
        built(|frame| ipv6(V6).tcp(4_000, 80, 1_000, 8_192).syn().write(frame, &[])),
    ];
    let (mut station, tables, now) = (station(), tables(false), Instant::now());
    for frame in &frames {
        for len in 0..frame.len() {
            assert_eq!(station.handle(&frame[..len], &tables, now), Action::Nothing, "{len} bytes");
        }
        for at in 0..frame.len() {
            for flip in [1, 0x80, 0xff] {
                let mut changed = frame.clone();
                changed[at] ^= flip;
                let _ = station.handle(&changed, &tables, now);
            }
        }
        let mut own = frame.clone();
        own[6..12].copy_from_slice(&OWN.0);
        assert_eq!(station.handle(&own, &tables, now), Action::Nothing);
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(station.handle(&tagged, &tables, now), Action::Nothing);
    }
}
