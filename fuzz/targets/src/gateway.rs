//! What endpoints send to their network's gateway.

use std::net::IpAddr;
use std::time::Instant;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use hickory_proto::op::{Message, MessageType};
use vswitchd::gateway::Addresses;
use vswitchd::gateway::station::{Action, Station};
use vswitchd::names::{self, Host, NamedPort, Outcome, Protocol, Through, Zone};
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::flow::Transport;

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

/// A frame: what comes back goes to its sender (or to all), and has right checksums.
pub fn gateway(data: &[u8]) {
    let at = Addresses::new(&[[10, 0, 9, 1].into(), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])]);
    let at = at.expect("there are addresses");
    let zone = zone(false);
    let now = Instant::now();
    let mut station = Station::new(at.clone(), 1, now);
    let frames = match station.handle(data, &zone, now) {
        Action::Nothing | Action::Carry(_) | Action::Fragment => Vec::new(),
        Action::Send(frame) => vec![frame],
        Action::Ask(question) => station.answer(&question, None, now),
        Action::Several { frames, .. } => frames,
    };
    frames.iter().for_each(|frame| check(&at, data, frame));
}

fn check(at: &Addresses, data: &[u8], frame: &[u8]) {
    assert!(frame[..6] == data[6..12] || frame[..6] == [0x33, 0x33, 0, 0, 0, 1]);
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
