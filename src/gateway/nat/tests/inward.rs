//! Clients of this host at published ports of the guest's.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use smoltcp::socket::tcp::State;
use tokio::sync::Semaphore;

use super::guest::{CLIENT, GATEWAY, Guest, OWN, PATIENCE, World, inside};
use super::{BULK, LOOPBACK, is_reset, pattern, timer, told};
use crate::api::{IpPrefix, Protocol, PublishedPort};
use crate::gateway::door::Door;
use crate::gateway::frame::{Back, Ends};
use crate::gateway::nat::carry::FlowLimits;
use crate::gateway::nat::connection::ANSWER_PATIENCE;
use crate::gateway::nat::inward::{ANSWERED_IDLE, ASKED_IDLE, CLIENT_MAX};
use crate::gateway::nat::table::Limits;
use crate::gateway::nat::{Count, Kind, Policy};
use crate::gateway::station::PORTS;

const PORT: u16 = 80;

fn doors(address: Option<IpAddr>, protocol: Protocol) -> Vec<Arc<Door>> {
    let port = PublishedPort { address, published: 0, target: PORT, protocol };
    Door::open(&port, &Arc::new(Semaphore::new(8))).unwrap()
}

/// A published port, and where it is.
fn published(world: &mut World, address: IpAddr, protocol: Protocol) -> (Vec<Arc<Door>>, SocketAddr) {
    let doors = doors(Some(address), protocol);
    let at = doors[0].at();
    world.publish(&doors, PORT, true);
    (doors, at)
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client, and the guest that it is connected to.
fn connected(world: &mut World, at: SocketAddr) -> (TcpStream, Guest) {
    let client = connect(at);
    let mut guest = Guest::listen(inside(at.ip()), PORT);
    world.run(&mut guest, |guest| guest.socket().may_send());
    (client, guest)
}

#[test]
fn the_guest_sees_the_client_and_streams_go_both_ways() {
    for address in LOOPBACK {
        let mut world = World::open();
        let (_doors, at) = published(&mut world, address, Protocol::Tcp);
        let (mut client, mut guest) = connected(&mut world, at);
        assert_eq!(guest.peer(), client.local_addr().unwrap());
        let (sent, answer) = (pattern(BULK), pattern(BULK / 2));
        let expected = answer.clone();
        let asked = sent.clone();
        let client = thread::spawn(move || {
            client.write_all(&asked).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all == expected
        });
        // The client has ended, and still hears.
        world.run(&mut guest, |guest| {
            guest.socket().state() == State::CloseWait && guest.received.len() == BULK
        });
        assert!(guest.received == sent);
        guest.send(&answer);
        guest.finish();
        world.run_until(&mut guest, |world, _| world.open_flows(Kind::TcpIn) == 0);
        assert!(client.join().unwrap());
        assert_eq!((world.count(Count::Inward), world.count(Count::InwardRefused)), (1, 0));
    }
}

#[test]
fn the_guest_may_end_first() {
    let mut world = World::open();
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let (mut client, mut guest) = connected(&mut world, at);
    guest.send(b"goodbye");
    guest.finish();
    let said = thread::spawn(move || {
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        client.write_all(b"not yet").unwrap();
        all
    });
    world.run_until(&mut guest, |world, _| world.open_flows(Kind::TcpIn) == 0);
    assert_eq!((said.join().unwrap().as_str(), &guest.received[..]), ("goodbye", &b"not yet"[..]));
}

#[test]
fn resets_pass_both_ways_and_who_is_refused_is_reset() {
    for address in LOOPBACK {
        let mut world = World::open();
        let (_doors, at) = published(&mut world, address, Protocol::Tcp);
        let (mut client, mut guest) = connected(&mut world, at);
        guest.socket().abort();
        world.run_until(&mut guest, |world, _| world.open_flows(Kind::TcpIn) == 0);
        assert!(is_reset(&mut client));
        let (client, mut guest) = connected(&mut world, at);
        super::reset_on_close(&client);
        drop(client);
        world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
        assert_eq!(world.count(Count::InwardRefused), 0);
        // Nobody listens.
        let mut client = connect(at);
        let mut guest = Guest::listen(inside(address), PORT + 1);
        world.run_until(&mut guest, |world, _| world.count(Count::InwardRefused) == 1);
        assert!(is_reset(&mut client));
        assert_eq!((world.count(Count::Inward), world.open_flows(Kind::TcpIn)), (3, 0));
    }
}

#[test]
fn who_is_outside_is_asked_whether_it_is_still_there_when_it_has_been_quiet() {
    /// Of the timers, that of keep-alive.
    const KEEP_ALIVE: u8 = 2;
    let mut world = World::open();
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let (client, _guest) = connected(&mut world, at);
    let (_other, server) = super::connected(&mut world);
    for outside in [client, server] {
        let mut left = Duration::ZERO;
        world.until(|_| {
            let (which, time) = timer(outside.peer_addr().unwrap(), outside.local_addr().unwrap());
            left = time;
            which == KEEP_ALIVE
        });
        assert!(left <= Duration::from_secs(600), "{left:?}");
    }
}

#[test]
fn who_is_not_answered_is_reset_after_a_while_and_who_leaves_is_forgotten() {
    let mut world = World::open();
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let mut client = connect(at);
    world.until(|world| world.open_flows(Kind::TcpIn) == 1);
    world.pass(ANSWER_PATIENCE - Duration::from_secs(1));
    assert_eq!(world.open_flows(Kind::TcpIn), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.open_flows(Kind::TcpIn), world.count(Count::InwardRefused)), (0, 1));
    assert!(is_reset(&mut client));
    let client = connect(at);
    world.until(|world| world.open_flows(Kind::TcpIn) == 1);
    super::reset_on_close(&client);
    drop(client);
    world.until(|world| world.open_flows(Kind::TcpIn) == 0);
}

/// The TCP header of a frame.
fn segment(frame: &[u8]) -> TcpHeader {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => tcp.to_header(),
        other => panic!("{other:?} is not TCP"),
    }
}

/// What the guest says to a segment instead of an answer: that it has heard something else.
fn late(at: SocketAddr, first: &TcpHeader, known: u32) -> Vec<u8> {
    let mut header = TcpHeader::new(first.destination_port, first.source_port, 1, 1_000);
    (header.ack, header.acknowledgment_number) = (true, known);
    let ends = Ends::of(inside(at.ip()), at.ip()).unwrap();
    let (IpAddr::V4(from), IpAddr::V4(to)) = (inside(at.ip()), at.ip()) else { unreachable!("it is IPv4") };
    let mut packet = Vec::new();
    PacketBuilder::ipv4(from.octets(), to.octets(), 64).tcp_header(header).write(&mut packet, &[]).unwrap();
    Back { own_mac: CLIENT, mac: OWN, ends }.frame(&packet)
}

#[test]
fn who_says_anything_but_an_answer_is_waited_for_no_longer() {
    let mut world = World::open();
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let mut client = connect(at);
    let first = segment(&world.next_frame());
    let late = late(at, &first, first.sequence_number.wrapping_add(1_000_000));
    for _ in 0..30 {
        assert_eq!(world.open_flows(Kind::TcpIn), 1);
        world.handle(&late);
        world.pass(ANSWER_PATIENCE / 30);
        world.frames();
    }
    assert_eq!((world.open_flows(Kind::TcpIn), world.count(Count::InwardRefused)), (0, 1));
    assert!(is_reset(&mut client));
}

#[test]
fn who_remembers_a_connection_of_the_same_ports_is_asked_again_at_once() {
    let mut world = World::open();
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let _client = connect(at);
    let first = segment(&world.next_frame());
    assert!(first.syn && !first.ack);
    // What TIME-WAIT says: it acknowledges the other connection's end.
    let known = first.sequence_number.wrapping_add(1_000_000);
    let late = late(at, &first, known);
    world.handle(&late);
    let told: Vec<TcpHeader> = world.frames().iter().map(|frame| segment(frame)).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].rst && told[0].sequence_number == known, "so that it forgets: {told:?}");
    let ports = |header: &TcpHeader| (header.source_port, header.destination_port);
    assert!(told[1].syn && !told[1].ack && ports(&told[1]) == ports(&first), "{told:?}");
    // Once: who never answers otherwise is not asked for ever.
    world.handle(&late);
    let told: Vec<TcpHeader> = world.frames().iter().map(|frame| segment(frame)).collect();
    assert!(told.len() == 1 && told[0].rst, "{told:?}");
}

#[test]
fn who_can_not_be_answered_as_he_is_has_the_gateways_address() {
    let denied = |client: &str| Policy::only_without(vec![client.parse::<IpPrefix>().unwrap()]);
    for (policy, leads_out) in [
        (Policy::only_without(Vec::new()), false),
        (denied("127.0.0.0/8"), true),
        (Policy::world([], Vec::new()), true),
    ] {
        let mut world = World::new(policy, FlowLimits::default());
        let doors = doors(Some(LOOPBACK[0]), Protocol::Tcp);
        world.publish(&doors, PORT, leads_out);
        let (mut client, mut guest) = connected(&mut world, doors[0].at());
        let seen = guest.peer();
        assert!(seen.ip() == GATEWAY[0] && PORTS.contains(&seen.port()), "{seen}");
        client.write_all(b"question").unwrap();
        world.run(&mut guest, |guest| guest.received == b"question");
        guest.send(b"answer");
        world.run(&mut guest, |guest| guest.socket().send_queue() == 0);
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        // What belongs to no flow is refused, as by any host.
        guest.socket().abort();
        world.run_until(&mut guest, |world, _| world.open_flows(Kind::TcpIn) == 0);
        let mut late = Guest::connect(SocketAddr::new(GATEWAY[0], *PORTS.start()), 4_000);
        world.run(&mut late, |late| late.socket().state() == State::Closed);
    }
}

#[test]
fn an_ip_version_that_the_guest_does_not_have_is_no_obstacle() {
    let mut world = World::open();
    let doors = doors(Some(LOOPBACK[1]), Protocol::Tcp);
    world.publish_v4(&doors, PORT);
    let _client = connect(doors[0].at());
    let mut guest = Guest::listen(inside(GATEWAY[0]), PORT);
    world.run(&mut guest, |guest| guest.socket().may_send());
    assert_eq!(guest.peer().ip(), GATEWAY[0]);
}

#[test]
fn what_is_published_no_more_is_reset_and_its_port_is_free() {
    let mut world = World::open();
    let (doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let (mut client, mut guest) = connected(&mut world, at);
    doors.iter().for_each(|door| door.close());
    drop(std::net::TcpListener::bind(at).unwrap());
    assert_eq!(world.open_flows(Kind::TcpIn), 1, "it has not been told yet");
    world.publish(&[], PORT, true);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    assert!(is_reset(&mut client));
    assert_eq!(world.open_flows(Kind::TcpIn), 0);
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let (mut client, _guest) = connected(&mut world, at);
    drop(world);
    assert!(is_reset(&mut client), "with the gateway");
}

#[test]
fn there_is_room_for_so_many_and_others_are_reset() {
    let few = Limits { network: 4, inside: 2 };
    let mut world = World::limited(FlowLimits { tcp_in: few, udp_in: few, ..FlowLimits::default() });
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Tcp);
    let mut clients = [connect(at), connect(at), connect(at)];
    world.until(|world| world.count(Count::InwardRefused) == 1);
    assert!(is_reset(&mut clients[2]));
    assert_eq!(world.open_flows(Kind::TcpIn), 2);
    let (_doors, at) = published(&mut world, LOOPBACK[0], Protocol::Udp);
    let before = world.count(Count::InwardRefused);
    let clients = [client(at), client(at), client(at)];
    for client in &clients {
        client.send_to(b"question", at).unwrap();
    }
    world.until(|world| world.count(Count::InwardRefused) > before);
    assert_eq!(world.open_flows(Kind::UdpIn), 2);
}

fn client(like: SocketAddr) -> UdpSocket {
    let address = if like.is_ipv4() { LOOPBACK[0] } else { LOOPBACK[1] };
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A datagram that came to the guest from that address: its port there, and its payload.
fn arrived(frame: &[u8], at: IpAddr) -> (SocketAddr, Vec<u8>) {
    let (from, to, payload) = told(frame, at);
    assert_eq!(to, PORT);
    (SocketAddr::new(at, from), payload)
}

/// What the guest sends from its port.
fn answer(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ends = Ends::of(inside(to.ip()), to.ip()).unwrap();
    Back { own_mac: CLIENT, mac: OWN, ends }.datagram(PORT, to.port(), payload).unwrap()
}

#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let mut world = World::open();
    let doors = doors(Some("0.0.0.0".parse().unwrap()), Protocol::Udp);
    world.publish(&doors, PORT, true);
    let port = doors[0].at().port();
    let asked = ["127.0.0.1", "127.0.0.9"].map(|to| SocketAddr::new(to.parse().unwrap(), port));
    let client = client(asked[0]);
    let mut seen = Vec::new();
    for to in asked {
        client.send_to(to.to_string().as_bytes(), to).unwrap();
        let (from, payload) = arrived(&world.next_frame(), LOOPBACK[0]);
        assert_eq!(payload, to.to_string().as_bytes());
        seen.push(from);
    }
    assert_eq!(seen[0], client.local_addr().unwrap());
    assert!(seen[1].ip() == seen[0].ip() && seen[1] != seen[0], "they can be told apart: {seen:?}");
    let mut buffer = [0; 64];
    for (to, from) in asked.into_iter().zip(seen).rev() {
        world.handle(&answer(from, b"answer"));
        assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, to));
    }
    assert_eq!((world.open_flows(Kind::UdpIn), world.count(Count::Inward)), (2, 2));
}

#[test]
fn flows_of_datagrams_have_their_time_and_their_share() {
    for address in LOOPBACK {
        let mut world = World::open();
        let (_doors, at) = published(&mut world, address, Protocol::Udp);
        let one = client(at);
        one.send_to(b"question", at).unwrap();
        let (from, _) = arrived(&world.next_frame(), address);
        assert_eq!(from, one.local_addr().unwrap());
        world.pass(ASKED_IDLE);
        assert_eq!((world.open_flows(Kind::UdpIn), world.count(Count::Expired)), (0, 1));
        one.send_to(b"question", at).unwrap();
        world.next_frame();
        world.handle(&answer(from, &[7; 1_000]));
        assert_eq!(one.recv_from(&mut [0; 2_000]).unwrap(), (1_000, at));
        world.pass(ANSWERED_IDLE - Duration::from_secs(1));
        assert_eq!(world.open_flows(Kind::UdpIn), 1);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.open_flows(Kind::UdpIn), 0);
        // Kept, so that each has a port of its own.
        let many: Vec<_> = (0..=CLIENT_MAX).map(|_| client(at)).collect();
        for one in &many {
            one.send_to(b"once", at).unwrap();
            world.until(|world| !world.frames().is_empty() || world.count(Count::InwardRefused) == 1);
        }
        assert_eq!(world.open_flows(Kind::UdpIn), u64::try_from(CLIENT_MAX).unwrap());
        world.publish(&[], PORT, true);
        assert_eq!(world.open_flows(Kind::UdpIn), 0);
    }
}
