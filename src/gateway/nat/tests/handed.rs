//! What others hand over for an endpoint: datagrams, and connections that they may get back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use smoltcp::socket::tcp::State;
use tokio::sync::oneshot::error::TryRecvError;

use super::guest::{Guest, PATIENCE, World, inside};
use super::{LOOPBACK, told};
use crate::gateway::entrance::Entrance;
use crate::gateway::nat::inward::{ASKED_IDLE, CLIENT_MAX};
use crate::gateway::nat::{Answered, Count, Kind, Outer, Reply, Tag};
use crate::gateway::pipe::Pipe;

const PORT: u16 = 80;

/// Nobody answers.
#[derive(Debug)]
struct Unanswered;

impl Reply for Unanswered {
    fn reply(&self, _: u64, _: &[u8]) -> bool {
        false
    }
}

/// Hands over a client's datagram, of a flow that has the number of the client's port.
fn post(to: &Entrance, client: &str) -> bool {
    post_bytes(to, client.parse().unwrap(), b"question".to_vec())
}

fn post_bytes(to: &Entrance, client: SocketAddr, payload: Vec<u8>) -> bool {
    let tag = Tag { from: [7; 16], flow: client.port().into() };
    to.post(payload, client, PORT, tag, Arc::new(Unanswered))
}

/// A client's connection that somebody else has taken, and the client.
fn taken() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    (stream, client)
}

/// Hands a client's connection over for a port, and gives what has come of it.
fn hand(
    world: &mut World,
    guest: &mut Guest,
    to: &Entrance,
    (outer, client): (Outer, SocketAddr),
    port: u16,
) -> Answered {
    let mut answer = to.hand(outer, client, port, Vec::new(), PATIENCE);
    let mut answered = Err(TryRecvError::Empty);
    world.run(guest, |_| {
        answered = answer.try_recv();
        !matches!(answered, Err(TryRecvError::Empty))
    });
    answered.unwrap()
}

/// Has it refused.
fn refused(answered: Answered) -> TcpStream {
    let Answered::Refused(Outer::Socket(stream)) = answered else { panic!("{answered:?}") };
    stream
}

#[test]
fn a_client_whom_one_endpoint_refuses_may_be_given_to_another() {
    let mut world = World::open();
    let [one, other] = world.entrances(["one", "other"]);
    let (stream, mut client) = taken();
    let address = client.local_addr().unwrap();
    let mut guest = Guest::listen(inside(address.ip()), PORT);
    let answered = hand(&mut world, &mut guest, &one, (Outer::Socket(stream), address), PORT + 1);
    let stream = refused(answered);
    // One that can't be asked for at all goes back the same way.
    let nobody = SocketAddr::new(address.ip(), 0);
    let stream = refused(hand(&mut world, &mut guest, &one, (Outer::Socket(stream), nobody), PORT));
    let answered = hand(&mut world, &mut guest, &other, (Outer::Socket(stream), address), PORT);
    assert!(matches!(answered, Answered::Taken), "{answered:?}");
    assert_eq!((world.count(Count::InwardRefused), world.open_flows(Kind::TcpIn)), (2, 1));
    // What comes by it is told of.
    client.write_all(b"question").unwrap();
    world.run(&mut guest, |guest| guest.received == b"question");
    guest.send(b"answer");
    guest.finish();
    world.run(&mut guest, |guest| guest.socket().state() == State::FinWait2);
    let mut answer = [0; 6];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
}

#[test]
fn a_reset_behind_an_end_is_passed_on() {
    let mut world = World::open();
    let [web] = world.entrances(["web"]);
    let mut guest = Guest::listen(inside(LOOPBACK[0]), PORT);
    let (stream, client) = taken();
    let (pipe, far) = Pipe::pair().unwrap();
    let socket = (Outer::Socket(stream), client.local_addr().unwrap());
    assert!(matches!(hand(&mut world, &mut guest, &web, socket, PORT), Answered::Taken));
    client.shutdown(Shutdown::Write).unwrap();
    world.run(&mut guest, |guest| guest.socket().state() == State::CloseWait);
    super::reset_on_close(&client);
    drop(client);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    let mut guest = Guest::listen(inside(LOOPBACK[0]), PORT);
    let piped = (Outer::Pipe(pipe), SocketAddr::new(LOOPBACK[0], 4_000));
    assert!(matches!(hand(&mut world, &mut guest, &web, piped, PORT), Answered::Taken));
    far.stream.shutdown(Shutdown::Write).unwrap();
    world.run(&mut guest, |guest| guest.socket().state() == State::CloseWait);
    far.fate.reset();
    drop(far);
    world.run(&mut guest, |guest| guest.socket().state() == State::Closed);
    assert_eq!(world.open_flows(Kind::TcpIn), 0);
}

#[test]
fn what_is_handed_over_at_a_time_arrives_whole_and_in_order() {
    const AT_ONCE: u16 = 3_000;
    let mut world = World::open();
    let [web] = world.entrances(["web"]);
    let payload = |n: u16| n.to_be_bytes().to_vec();
    let send = |n: u16| post_bytes(&web, "192.0.2.7:4000".parse().unwrap(), payload(n));
    assert!((0..AT_ONCE).all(send));
    let mut arrived = Vec::new();
    let mut sent = AT_ONCE;
    world.until(|world| {
        arrived.extend(world.frames().iter().map(|frame| told(frame, "192.0.2.7".parse().unwrap()).2));
        // More comes while the first wait.
        if sent < 2 * AT_ONCE && !arrived.is_empty() {
            assert!((sent..sent + 1_000).all(send));
            sent += 1_000;
        }
        arrived.len() == usize::from(2 * AT_ONCE)
    });
    assert!(arrived.into_iter().eq((0..2 * AT_ONCE).map(payload)));
    assert_eq!(world.count(Count::Lost), 0);
    // Long ones become many frames each.
    assert!((0..40).all(|n| post_bytes(&web, "192.0.2.7:4000".parse().unwrap(), vec![n; 60_000])));
    let mut ends = 0;
    world.until(|world| {
        let is_last = |frame: &Vec<u8>| frame[20] & 0x20 == 0;
        ends += world.frames().iter().filter(|frame| is_last(frame)).count();
        ends == 40
    });
    assert_eq!(world.count(Count::Lost), 0);
}

#[test]
fn a_subnet_of_ipv6_has_one_clients_share_of_flows() {
    let mut world = World::open();
    let [web] = world.entrances(["web"]);
    let share = u64::try_from(CLIENT_MAX).unwrap();
    let ask_from_all = |world: &mut World, refused: u64| {
        // Each from an address of its own, and so is one of another subnet.
        assert!((0..=CLIENT_MAX).all(|n| post(&web, &format!("[2001:db8::{n:x}]:4000"))));
        assert!(post(&web, "[2001:db8:0:1::1]:4000"));
        world.until(|world| world.open_flows(Kind::UdpIn) == share + 1);
        assert_eq!((world.frames().len(), world.count(Count::InwardRefused)), (CLIENT_MAX + 1, refused));
    };
    ask_from_all(&mut world, 1);
    // They have it back.
    world.pass(ASKED_IDLE);
    assert_eq!(world.open_flows(Kind::UdpIn), 0);
    ask_from_all(&mut world, 2);
}
