//! What endpoints send to their network's gateway.

use std::net::IpAddr;
use std::time::Instant;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use hickory_proto::op::{Message, MessageType};
use vswitchd::api::IpPrefix;
use vswitchd::gateway::nat::{Kind, Policy};
use vswitchd::gateway::station::{Action, Station};
use vswitchd::gateway::{Addresses, Lease, Own, Tables};
use vswitchd::names::{self, Cache, Host, NamedPort, Outcome, Protocol, Through, Zone};
use vswitchd_switch::wire::MacAddr;
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::flow::Transport;

use crate::nat::{finished, way_out};
use crate::oracle;

/// Bytes of the longest reply over UDP.
const UDP_MAX: usize = 1_232;

fn zone(internal: bool) -> Zone {
    let mut zone = Zone::new("front", internal);
    let port = NamedPort { service: "http".into(), protocol: Protocol::Tcp, port: 80 };
    for (name, last) in [("web", 2), ("db", 3)] {
        let addresses = vec![[10, 0, 9, last].into(), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()])];
        let (aliases, ports) = (vec!["any".into()], vec![port.clone()]);
        zone.add(&Host { name: name.into(), aliases, addresses, ports }).expect("it has room");
    }
    zone
}

/// A query: what comes back is a reply to it of a length that it allows, and is never answered itself.
pub fn names(data: &[u8]) {
    kept(data);
    for (internal, through) in [(false, Through::Udp), (true, Through::Tcp)] {
        let zone = zone(internal);
        let mut rng = fastrand::Rng::with_seed(1);
        match names::answer(&zone, data, through, &mut rng) {
            Outcome::Ignore => {}
            Outcome::Forward => {
                assert!(!internal);
                let failed = names::fail(data).expect("what is forwarded is a query");
                assert!(names::is_reply_to(data, &failed));
                let long = [failed, vec![0; UDP_MAX]].concat();
                assert!(names::fit(data, long, Through::Udp).expect("it is a reply").len() <= UDP_MAX);
            }
            Outcome::Reply(reply) => {
                let parsed = Message::from_vec(&reply).expect("our own messages parse");
                assert_eq!(parsed.metadata.message_type, MessageType::Response);
                assert_eq!(reply[..2], data[..2]);
                assert!(reply.len() <= if through == Through::Udp { UDP_MAX } else { usize::from(u16::MAX) });
                assert_eq!(names::answer(&zone, &reply, through, &mut rng), Outcome::Ignore);
            }
        }
    }
}

/// What was said to a question, by whoever: it is told again as a reply to that question, or not at all.
fn kept(said: &[u8]) {
    // For the addresses of "a.".
    let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\0\0\x01\0\x01"].concat();
    let (mut cache, now) = (Cache::default(), Instant::now());
    cache.keep(&query, said, now);
    if let Some(told) = cache.find(&query, Through::Udp, now) {
        assert!(names::is_reply_to(&query, &told) && told.len() <= UDP_MAX);
    }
}

/// A gateway of both families.
pub(crate) fn at() -> Addresses {
    let own = |address: IpAddr, length| Own { address, subnet: IpPrefix::around(address, length) };
    let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]);
    Addresses::of(vec![own([10, 0, 9, 1].into(), 24), own(v6, 64)]).expect("there are addresses")
}

/// Whoever may have an address.
pub(crate) const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 7];

pub(crate) fn tables() -> Tables {
    let lease = Lease { address: [10, 0, 9, 7].into(), name: "web".into(), mtu: 1_450 };
    Tables { zone: zone(false), leases: [(MacAddr(CLIENT), lease)].into(), mtu: 1_450 }
}

/// A message of DHCP, sent to all: what comes back is a reply to it, for its sender, of a length that it can
/// expect.
pub fn dhcp(data: &[u8]) {
    let mut frame = Vec::new();
    let step = PacketBuilder::ethernet2(CLIENT, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, 67);
    if step.write(&mut frame, data).is_err() {
        return;
    }
    let now = Instant::now();
    let Action::Send(reply) = Station::new(at(), 1, now).handle(&frame, &tables(), now) else { return };
    check(&at(), &frame, &reply);
    let message = &reply[42..];
    // RFC 2131 §2: a reply, of Ethernet, with the request's number and hardware address.
    assert_eq!(message[..3], [2, 1, 6]);
    assert_eq!((&message[4..8], &message[28..34]), (&data[4..8], &CLIENT[..]));
    assert_eq!(message[236..240], [0x63, 0x82, 0x53, 0x63]);
    let given = &message[16..20];
    assert!([[0; 4], [10, 0, 9, 7]].iter().any(|address| given == address), "an address of somebody else");
}

/// A frame: what comes back goes to its sender (or to all), and has right checksums. The gateway leads out and in,
/// but nobody may go anywhere, and nobody comes: [`nat`](crate::nat) has what is carried.
pub fn gateway(data: &[u8]) {
    let (at, tables) = (at(), tables());
    let now = Instant::now();
    let mut station = Station::new(at.clone(), 1, now).leading_out().leading_in();
    let frames = match station.handle(data, &tables, now) {
        Action::Nothing | Action::Fragment => Vec::new(),
        Action::Carry(carried) => {
            let everywhere = ["0.0.0.0/0", "::/0"].map(|prefix| prefix.parse().expect("it is a prefix"));
            let mut nat = way_out(Policy::only_without(everywhere.into()));
            nat.handle(data, carried, now);
            assert_eq!(Kind::ALL.map(|kind| nat.counters().open(kind)), [0; Kind::ALL.len()]);
            nat.frames().map(|(frame, offload)| finished(frame, offload)).collect()
        }
        Action::Send(frame) => vec![frame],
        Action::Ask(question) => station.answer(&question, None, now),
        Action::Several { frames, .. } => frames,
    };
    frames.iter().for_each(|frame| check(&at, data, frame));
}

pub(crate) fn check(at: &Addresses, data: &[u8], frame: &[u8]) {
    let to_all = [[0x33, 0x33, 0, 0, 0, 1], [0xff; 6]];
    assert!(frame[..6] == data[6..12] || to_all.iter().any(|all| frame[..6] == all[..]));
    assert_eq!(frame[6..12], at.mac().0);
    let header = Header::parse(frame).expect("our own frames parse");
    if let Some(found) = Transport::find(frame, &header) {
        assert!(oracle::transport_verifies(frame, &found) || is_icmp(frame));
    }
}

/// The oracle knows the checksums of UDP and TCP.
fn is_icmp(frame: &[u8]) -> bool {
    let packet = SlicedPacket::from_ethernet(frame).expect("our own frames parse");
    assert!(matches!(packet.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))));
    matches!(packet.transport, Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)))
}
