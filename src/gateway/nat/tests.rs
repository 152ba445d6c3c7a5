//! A way out between a guest made of smoltcp and servers on this host's loopback device, which is not denied here.

mod guest;
mod handed;
mod inward;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use etherparse::{IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use smoltcp::socket::tcp::State;

use self::guest::{CLIENT, Guest, OWN, PATIENCE, World, inside};
use super::carry::FlowLimits;
use super::connection::{ESTABLISHED_IDLE, TRANSITORY_IDLE};
use super::datagrams::{DNS_IDLE, UDP_IDLE};
use super::outer::reset_on_close;
use super::table::Limits;
use super::{Count, Kind, Policy};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn packet(to: IpAddr, hops: u8) -> PacketBuilderStep<IpHeaders> {
    let builder = PacketBuilder::ethernet2(CLIENT.0, OWN.0);
    match (inside(to), to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), hops),
        _ => unreachable!("inside has an address of the same family"),
    }
}

fn datagram(from: u16, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    packet(to.ip(), 64).udp(from, to.port()).write(&mut frame, payload).unwrap();
    frame
}

fn server(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 65_535];
    let (len, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..len].to_vec(), from)
}

/// Ports and payload of a datagram that came to the guest from an address.
fn told(frame: &[u8], from: IpAddr) -> (u16, u16, Vec<u8>) {
    assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT.0[..], &OWN.0[..]));
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let ends = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => (IpAddr::from(ip.header().source()), IpAddr::from(ip.header().destination())),
        NetSlice::Ipv6(ip) => (IpAddr::from(ip.header().source()), IpAddr::from(ip.header().destination())),
        NetSlice::Arp(_) => panic!("no packet"),
    };
    assert_eq!(ends, (from, inside(from)));
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no datagram") };
    (udp.source_port(), udp.destination_port(), udp.payload().to_vec())
}

/// Type and code of an ICMP error, and what it quotes.
fn error(frame: &[u8]) -> ([u8; 2], Vec<u8>) {
    let at = if frame[12..14] == [8, 0] { 34 } else { 54 };
    ([frame[at], frame[at + 1]], frame[at + 8..].to_vec())
}

#[test]
fn datagrams_go_out_of_one_socket_and_answers_come_back() {
    for address in LOOPBACK {
        let mut world = World::open();
        let servers = [server(address), server(address)];
        let mut sources = Vec::new();
        for (n, server) in [0u8, 1].into_iter().zip(&servers) {
            let to = server.local_addr().unwrap();
            world.handle(&datagram(4_000, to, &[n; 9]));
            let (payload, from) = received(server);
            assert_eq!(payload, [n; 9]);
            sources.push(from);
            server.send_to(&[n + 10; 1_000], from).unwrap();
            assert_eq!(told(&world.next_frame(), address), (to.port(), 4_000, vec![n + 10; 1_000]));
        }
        assert_eq!(sources[0], sources[1], "the mapping does not depend on the other end");
        world.handle(&datagram(4_001, servers[0].local_addr().unwrap(), b"other"));
        assert_ne!(received(&servers[0]).1, sources[0]);
        assert_eq!((world.open_flows(Kind::Udp), world.count(Count::UdpFlows)), (2, 2));
    }
}

#[test]
fn what_nobody_has_asked_for_is_dropped() {
    let mut world = World::open();
    let asked = server(LOOPBACK[0]);
    world.handle(&datagram(4_000, asked.local_addr().unwrap(), b"question"));
    let (_, from) = received(&asked);
    let stranger = UdpSocket::bind("127.0.0.9:0").unwrap();
    stranger.send_to(b"forged", from).unwrap();
    world.until(|world| world.count(Count::Unsolicited) == 1);
    asked.send_to(b"answer", from).unwrap();
    assert_eq!(told(&world.next_frame(), LOOPBACK[0]).2, b"answer");
}

#[test]
fn long_datagrams_come_in_fragments() {
    for address in LOOPBACK {
        let mut world = World::open();
        let server = server(address);
        world.handle(&datagram(4_000, server.local_addr().unwrap(), b"question"));
        let (_, from) = received(&server);
        server.send_to(&[7; 5_000], from).unwrap();
        let mut total = 0;
        world.until(|world| {
            for frame in world.frames() {
                assert!(frame.len() <= 14 + guest::MTU);
                total += frame.len() - 14 - if address.is_ipv4() { 20 } else { 48 };
            }
            total >= 5_008
        });
        assert_eq!(total, 5_008);
    }
}

#[test]
fn a_closed_port_is_said_by_whose_it_is() {
    for address in LOOPBACK {
        let mut world = World::open();
        let closed = server(address).local_addr().unwrap();
        let sent = datagram(4_000, closed, b"anybody?");
        world.handle(&sent);
        let frame = world.next_frame();
        let wanted = if address.is_ipv4() { [3, 3] } else { [1, 4] };
        let (said, quoted) = error(&frame);
        assert_eq!(said, wanted);
        let (ends, ports) = if address.is_ipv4() { (12..20, 20..24) } else { (8..40, 40..44) };
        assert_eq!((&quoted[ends.clone()], &quoted[ports.clone()]), (&sent[14..][ends], &sent[14..][ports]));
        assert!(quoted.ends_with(b"anybody?"));
        // It does not stand in the way of the next one.
        let open = server(address);
        world.handle(&datagram(4_000, open.local_addr().unwrap(), b"anybody?"));
        assert_eq!(received(&open).0, b"anybody?");
        assert_eq!(world.count(Count::Undelivered), 1);
    }
}

#[test]
fn quiet_flows_are_forgotten() {
    let mut world = World::open();
    let server = server(LOOPBACK[0]);
    let to = server.local_addr().unwrap();
    world.handle(&datagram(4_000, to, b"once"));
    world.handle(&datagram(4_001, "127.0.0.1:53".parse().unwrap(), b"resolver"));
    world.pass(DNS_IDLE - Duration::from_secs(1));
    assert_eq!(world.open_flows(Kind::Udp), 2);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.open_flows(Kind::Udp), world.count(Count::Expired)), (1, 1), "what asked a resolver");
    world.pass(UDP_IDLE - DNS_IDLE - Duration::from_secs(1));
    world.handle(&datagram(4_000, to, b"again"));
    world.pass(UDP_IDLE - Duration::from_secs(1));
    assert_eq!(world.open_flows(Kind::Udp), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.open_flows(Kind::Udp), world.count(Count::Expired)), (0, 2));
}

#[test]
fn the_full_are_told_so() {
    let few = Limits { network: 2, inside: 1 };
    let mut world = World::limited(FlowLimits { tcp: few, udp: few, echo: few, ..FlowLimits::default() });
    let server = server(LOOPBACK[0]);
    let to = server.local_addr().unwrap();
    world.handle(&datagram(4_000, to, b"one"));
    world.handle(&datagram(4_001, to, b"two"));
    assert_eq!(error(&world.next_frame()).0, [3, 13]);
    world.handle(&datagram(4_000, to, b"three"));
    assert_eq!([received(&server).0, received(&server).0], [b"one".to_vec(), b"three".to_vec()]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut syn = Vec::new();
    let mut connect = |world: &mut World, from: u16| {
        syn.clear();
        let port = listener.local_addr().unwrap().port();
        packet(LOOPBACK[0], 64).tcp(from, port, 7, 1_000).syn().write(&mut syn, &[]).unwrap();
        world.handle(&syn);
        let frame = world.next_frame();
        let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(&frame).unwrap().transport else {
            panic!("no segment")
        };
        (tcp.syn(), tcp.rst(), tcp.acknowledgment_number())
    };
    assert_eq!(connect(&mut world, 4_000), (true, false, 8));
    assert_eq!(connect(&mut world, 4_001), (false, true, 8), "refused at once");
    assert_eq!((world.count(Count::Full), world.open_flows(Kind::Tcp)), (2, 1));
}

#[test]
fn where_nobody_may_go_is_said_and_groups_are_not_answered() {
    let mut world = World::new(Policy::world(Vec::new(), vec![4_789]), FlowLimits::default());
    let mut tried = |to: &str, tcp: bool| {
        let to: SocketAddr = to.parse().unwrap();
        let mut frame = datagram(4_000, to, b"let me in");
        if tcp {
            frame.clear();
            packet(to.ip(), 64).tcp(4_000, to.port(), 7, 1_000).syn().write(&mut frame, &[]).unwrap();
        }
        world.handle(&frame);
        world.frames().first().map(|frame| error(frame).0)
    };
    for (to, said) in [
        ("127.0.0.1:80", None),
        ("169.254.169.254:80", Some([3, 13])),
        ("224.0.0.251:80", None),
        ("255.255.255.255:80", None),
        ("0.0.0.0:80", None),
        ("[::1]:80", None),
        ("[fe80::1]:80", Some([1, 1])),
        ("[::ffff:127.0.0.1]:80", Some([1, 1])),
        ("[ff02::1]:80", None),
    ] {
        assert_eq!((tried(to, false), tried(to, true)), (said, said), "{to}");
    }
    assert_eq!(tried("192.0.2.1:4789", false), Some([3, 13]), "nobody speaks VXLAN in this host's name");
    assert_eq!(world.count(Count::Denied), 19);
    assert_eq!(world.open_flows(Kind::Udp) + world.open_flows(Kind::Tcp), 0);
}

#[test]
fn hops_come_to_an_end() {
    for address in LOOPBACK {
        let mut world = World::open();
        let mut frame = Vec::new();
        packet(address, 1).udp(4_000, 9).write(&mut frame, b"traceroute").unwrap();
        world.handle(&frame);
        let (said, quoted) = error(&world.next_frame());
        assert_eq!(said, if address.is_ipv4() { [11, 0] } else { [3, 0] });
        assert_eq!(quoted, frame[14..]);
        assert_eq!((world.count(Count::HopLimit), world.open_flows(Kind::Udp)), (1, 0));
    }
}

#[test]
fn other_protocols_are_refused_and_other_icmp_dropped() {
    let mut world = World::open();
    let mut frame = datagram(4_000, "192.0.2.1:9".parse().unwrap(), b"SCTP, say");
    frame[23] = 132;
    world.handle(&frame);
    assert_eq!(error(&world.next_frame()).0, [3, 13]);
    let mut reply = Vec::new();
    packet(LOOPBACK[0], 64).icmpv4_echo_reply(1, 1).write(&mut reply, b"nobody asked").unwrap();
    world.handle(&reply);
    assert_eq!((world.frames().len(), world.count(Count::Protocol)), (0, 2));
}

/// Bytes that repeat with a period prime to every buffer's size.
fn pattern(len: usize) -> Vec<u8> {
    (0..251).cycle().take(len).collect()
}

const BULK: usize = 3_000_000;

#[test]
fn a_stream_goes_both_ways_and_each_end_is_passed_on() {
    for address in LOOPBACK {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            // Inside has ended, and still hears.
            stream.write_all(&all).unwrap();
            all
        });
        let mut world = World::open();
        let mut guest = Guest::connect(to, 4_000);
        world.run(&mut guest, |guest| guest.socket().may_send());
        let sent = pattern(BULK);
        guest.send(&sent);
        guest.finish();
        world.run(&mut guest, |guest| guest.socket().state() == State::TimeWait);
        assert!(guest.received == sent, "{} of {BULK} bytes", guest.received.len());
        assert!(served.join().unwrap() == sent);
        world.run_until(&mut guest, |world, _| world.open_flows(Kind::Tcp) == 0);
        assert_eq!(world.count(Count::TcpFlows), 1);
    }
}

#[test]
fn outside_may_end_first() {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let mut world = World::open();
    let mut guest = Guest::connect(listener.local_addr().unwrap(), 4_000);
    world.run(&mut guest, |guest| guest.socket().may_send());
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"goodbye").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    world.run(&mut guest, |guest| guest.socket().state() == State::CloseWait);
    assert_eq!(guest.received, b"goodbye");
    guest.send(b"not yet");
    guest.finish();
    world.run_until(&mut guest, |world, guest| {
        guest.socket().state() == State::Closed && world.open_flows(Kind::Tcp) == 0
    });
    let mut last = String::new();
    stream.read_to_string(&mut last).unwrap();
    assert_eq!(last, "not yet");
}

/// A connection that is open at both ends.
fn connected(world: &mut World) -> (Guest, TcpStream) {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let mut guest = Guest::connect(listener.local_addr().unwrap(), 4_000);
    world.run(&mut guest, |guest| guest.socket().may_send());
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (guest, stream)
}

/// Which timer of this host's TCP runs for a connection, and how long it has still to run (proc_pid_net(5)).
fn timer(own: SocketAddr, other: SocketAddr) -> (u8, Duration) {
    let written = |end: SocketAddr| match end {
        SocketAddr::V4(end) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(end.ip().octets()), end.port())
        }
        SocketAddr::V6(_) => panic!("it is in another file"),
    };
    let ends = [written(own), written(other)];
    let all = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut lines = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|line| line[1..3] == ends).expect("it is there");
    let (which, left) = line[5].split_once(':').unwrap();
    let hundredths = u64::from_str_radix(left, 16).unwrap();
    (u8::from_str_radix(which, 16).unwrap(), Duration::from_millis(hundredths * 10))
}

fn is_reset(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[test]
fn a_reset_passes_both_ways() {
    let mut world = World::open();
    let (mut guest, stream) = connected(&mut world);
    reset_on_close(&stream);
    drop(stream);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    let (mut guest, mut stream) = connected(&mut world);
    guest.socket().abort();
    world.run_until(&mut guest, |world, _| world.open_flows(Kind::Tcp) == 0);
    assert!(is_reset(&mut stream));
}

#[test]
fn a_reset_behind_an_end_is_passed_on() {
    let mut world = World::open();
    let (mut guest, stream) = connected(&mut world);
    stream.shutdown(Shutdown::Write).unwrap();
    world.run(&mut guest, |guest| guest.socket().state() == State::CloseWait);
    reset_on_close(&stream);
    drop(stream);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    world.run_until(&mut guest, |world, _| world.open_flows(Kind::Tcp) == 0);
    // Both at once.
    let (mut guest, mut stream) = connected(&mut world);
    stream.write_all(b"last words").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    reset_on_close(&stream);
    drop(stream);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    world.run_until(&mut guest, |world, _| world.open_flows(Kind::Tcp) == 0);
}

#[test]
fn a_connection_that_is_refused_is_reset() {
    for address in LOOPBACK {
        let closed = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
        let mut world = World::open();
        let mut guest = Guest::connect(closed, 4_000);
        world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
        assert_eq!((world.count(Count::Unreachable), world.open_flows(Kind::Tcp)), (1, 0));
    }
}

#[test]
fn a_segment_of_no_connection_is_reset() {
    let mut world = World::open();
    let mut frame = Vec::new();
    packet(LOOPBACK[0], 64).tcp(4_000, 80, 7, 1_000).ack(99).write(&mut frame, b"late").unwrap();
    world.handle(&frame);
    let frame = world.next_frame();
    let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ethernet(&frame).unwrap().transport else {
        panic!("no segment")
    };
    assert!(tcp.rst() && tcp.sequence_number() == 99);
    assert_eq!(world.count(Count::TcpFlows), 0);
}

#[test]
fn quiet_connections_are_ended_on_both_sides() {
    let mut world = World::open();
    let (mut guest, mut stream) = connected(&mut world);
    world.pass(ESTABLISHED_IDLE - Duration::from_secs(1));
    assert_eq!(world.open_flows(Kind::Tcp), 1);
    stream.write_all(b"still here").unwrap();
    world.run(&mut guest, |guest| guest.received == b"still here");
    world.pass(ESTABLISHED_IDLE - Duration::from_secs(1));
    assert_eq!(world.open_flows(Kind::Tcp), 1);
    world.pass(Duration::from_secs(2));
    assert_eq!((world.open_flows(Kind::Tcp), world.count(Count::Expired)), (0, 1));
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    assert!(is_reset(&mut stream));
}

#[test]
fn a_guest_that_has_vanished_is_not_waited_for() {
    let mut world = World::open();
    let (_vanished, mut stream) = connected(&mut world);
    stream.write_all(b"anybody?").unwrap();
    world.until(|world| !world.frames().is_empty());
    // What is sent again finds nobody.
    for _ in 0..TRANSITORY_IDLE.as_secs() {
        world.pass(Duration::from_secs(1));
    }
    world.pass(Duration::from_secs(1));
    assert_eq!((world.open_flows(Kind::Tcp), world.count(Count::Expired)), (0, 1));
    assert!(is_reset(&mut stream));
}

#[test]
fn who_does_not_read_is_not_sent_more() {
    let mut world = World::open();
    let (mut guest, mut stream) = connected(&mut world);
    let sent = pattern(40_000_000);
    guest.send(&sent);
    // Until nothing has moved for a while: the server's socket, ours and the windows are full.
    let (mut left, mut quiet) = (usize::MAX, 0);
    world.run(&mut guest, |guest| {
        quiet = if guest.unsent() == left { quiet + 1 } else { 0 };
        left = guest.unsent();
        quiet > 200
    });
    assert!(left > 0, "40 MB are held somewhere");
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    guest.finish();
    world.run(&mut guest, |guest| matches!(guest.socket().state(), State::TimeWait));
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn garbage_does_no_harm() {
    let everything = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let mut world = World::new(Policy::only_without(everything.into()), FlowLimits::default());
    let mut rng = fastrand::Rng::with_seed(7);
    let mut frames = vec![datagram(4_000, "192.0.2.1:9".parse().unwrap(), &[7; 40])];
    for address in LOOPBACK {
        let mut syn = Vec::new();
        packet(address, 64).tcp(4_000, 80, 7, 1_000).syn().write(&mut syn, &[]).unwrap();
        let mut echo = Vec::new();
        packet(address, 64).icmpv4_echo_request(1, 2).write(&mut echo, b"ping").unwrap();
        frames.extend([syn, echo]);
    }
    for _ in 0..20_000 {
        let mut frame = rng.choice(&frames).unwrap().clone();
        for _ in 0..rng.usize(1..6) {
            let at = rng.usize(14..frame.len());
            frame[at] = rng.u8(..);
        }
        frame.truncate(rng.usize(15..=frame.len()));
        world.try_handle(&frame);
        world.frames();
    }
    assert_eq!(world.open_flows(Kind::Udp) + world.open_flows(Kind::Tcp) + world.open_flows(Kind::Echo), 0);
    assert!(world.count(Count::Denied) > 100, "{}", world.count(Count::Denied));
}
