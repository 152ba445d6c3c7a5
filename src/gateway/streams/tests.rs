use std::net::Ipv4Addr;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};

use super::super::addresses::Addresses;
use super::super::station::{Action, Question, Station};
use super::super::tables::Tables;
use super::*;
use crate::names::{Host, Zone};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 9, 7);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn query(name: &str, id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let len = |message: &Vec<u8>| u16::try_from(message.len()).unwrap().to_be_bytes();
    messages.iter().flat_map(|message| [&len(message)[..], message].concat()).collect()
}

/// A gateway with 1,000 addresses behind `many`, and a client of it with one connection.
struct Pair {
    station: Station,
    at: Addresses,
    tables: Tables,
    questions: Vec<Question>,
    start: Instant,
    now: Instant,
    client: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    packets: Packets,
    read: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let at = Addresses::new(&[OWN.into()]).unwrap();
        let mut zone = Zone::new("front", false);
        let addresses = (0..1_000_u32).map(|n| Ipv4Addr::from(0x0a00_1000 + n).into()).collect();
        zone.add(&Host { name: "many".into(), addresses, ..Host::default() }).unwrap();
        let start = Instant::now();
        let mut packets = Packets::default();
        let time = time::Instant::ZERO;
        let mut client = Interface::new(Config::new(HardwareAddress::Ip), &mut packets, time);
        client.update_ip_addrs(|list| list.push(IpCidr::new(CLIENT.into(), 32)).unwrap());
        add_way_back(&mut client, Ends::V4(CLIENT, OWN));
        let buffer = || SocketBuffer::new(vec![0; 4_096]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.connect(client.context(), (OWN, DNS), 4_000).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let tables = Tables::from(zone);
        let (station, questions, read) = (Station::new(at.clone(), 1, start), Vec::new(), Vec::new());
        Self { station, at, tables, questions, start, now: start, client, sockets, socket, packets, read }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// Lets both ends talk for so long.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            let action = self.station.tick(&self.tables, self.now);
            self.take(action);
            let since = i64::try_from(self.now.duration_since(self.start).as_micros()).unwrap();
            self.client.poll(time::Instant::from_micros(since), &mut self.packets, &mut self.sockets);
            let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
            while socket.can_recv() {
                self.read.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
            }
            for packet in std::mem::take(&mut self.packets.sent) {
                let frame = [&self.at.mac().0[..], &MAC, &[8, 0], &packet].concat();
                let action = self.station.handle(&frame, &self.tables, self.now);
                self.take(action);
            }
        }
    }

    fn take(&mut self, action: Action) {
        match action {
            Action::Nothing => {}
            Action::Send(frame) => self.back(vec![frame]),
            Action::Ask(question) => self.questions.push(question),
            Action::Several { frames, questions } => {
                self.back(frames);
                self.questions.extend(questions);
            }
        }
    }

    fn back(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            assert_eq!((&frame[..6], &frame[6..12]), (&MAC[..], &self.at.mac().0[..]));
            self.packets.received.push_back(frame[14..].to_vec());
        }
    }

    fn replies(&self) -> Vec<Message> {
        let (mut rest, mut replies) = (&self.read[..], Vec::new());
        while let Some((&len, behind)) = rest.split_first_chunk::<2>() {
            let (message, behind) = behind.split_at(usize::from(u16::from_be_bytes(len)));
            replies.push(Message::from_vec(message).unwrap());
            rest = behind;
        }
        replies
    }
}

const A_WHILE: Duration = Duration::from_secs(1);

#[test]
fn queries_of_a_connection_are_answered_whole_and_it_is_closed() {
    let mut pair = Pair::new();
    pair.run(A_WHILE);
    let asked = framed(&[query("many.", 1), query("example.org.", 2), query("many.front.", 3)]);
    // In pieces, as TCP may bring them.
    for piece in asked.chunks(7) {
        assert_eq!(pair.socket().send_slice(piece), Ok(piece.len()));
        pair.run(Duration::from_millis(50));
    }
    pair.run(A_WHILE);
    let [question] = &std::mem::take(&mut pair.questions)[..] else { panic!("one is to be asked elsewhere") };
    assert_eq!((question.through(), &question.query), (Through::Tcp, &query("example.org.", 2)));
    pair.socket().close();
    pair.run(A_WHILE);
    let frames = pair.station.answer(question, None, pair.now);
    pair.back(frames);
    pair.run(A_WHILE);
    let said: Vec<_> = pair.replies().iter().map(|reply| (reply.metadata.id, reply.answers.len())).collect();
    assert_eq!(said, [(1, 1_000), (3, 1_000), (2, 0)]);
    assert_eq!(pair.replies()[2].metadata.response_code, ResponseCode::ServFail);
    assert_eq!(pair.station.next_deadline(), None, "the connection is gone");
    assert_eq!(pair.station.answer(question, None, pair.now), Vec::<Vec<u8>>::new(), "late");
}

#[test]
fn a_quiet_connection_is_ended() {
    let mut pair = Pair::new();
    pair.run(A_WHILE);
    assert!(pair.socket().may_send() && pair.station.next_deadline().is_some());
    pair.run(IDLE - A_WHILE - A_WHILE);
    assert!(pair.socket().may_send(), "not before its time");
    pair.run(A_WHILE + A_WHILE);
    assert_eq!((pair.socket().state(), pair.station.next_deadline()), (State::Closed, None));
}

#[test]
fn a_query_that_is_too_long_ends_it() {
    let mut pair = Pair::new();
    pair.run(A_WHILE);
    assert_eq!(pair.socket().send_slice(&[0xff; 100]), Ok(100));
    pair.run(A_WHILE);
    assert_eq!((pair.socket().state(), pair.station.next_deadline()), (State::Closed, None));
}

#[test]
fn questions_elsewhere_and_connections_have_limits() {
    let mut pair = Pair::new();
    pair.run(A_WHILE);
    let many: Vec<_> = (0..20).map(|id| query("example.org.", id)).collect();
    let bytes = framed(&many);
    assert_eq!(pair.socket().send_slice(&bytes), Ok(bytes.len()));
    pair.run(A_WHILE);
    assert_eq!((pair.questions.len(), pair.replies().len()), (ASKED_MAX, many.len() - ASKED_MAX));

    let syn = |port: u16| {
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2(MAC, pair.at.mac().0)
            .ipv4(CLIENT.octets(), OWN.octets(), 64)
            .tcp(port, DNS, 1, 8_192)
            .syn();
        builder.write(&mut frame, &[]).unwrap();
        frame
    };
    let frames: Vec<_> = (5_000..5_100).map(syn).collect();
    let opened = frames
        .iter()
        .filter(|frame| matches!(pair.station.handle(frame, &pair.tables, pair.now), Action::Several { .. }));
    assert_eq!(opened.count(), STREAMS_MAX - 1);
}
