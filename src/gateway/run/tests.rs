use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UdpSocket;
use tokio::runtime::Handle;

use super::*;
use crate::gateway::nat::Policy;
use crate::names::{Host, Zone};
use crate::switch::fdb::{Limits, Place};
use crate::switch::io::channel::channel;
use crate::switch::io::mem::{Faults, Network};
use crate::switch::packet::Pool;
use crate::switch::switch::Switch;
use crate::switch::wire::MacAddr;
use crate::switch::worker::{WorkerConfig, Workers};

const PATIENCE: Duration = Duration::from_secs(20);
const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

fn zone(names: &[(&str, u8)]) -> Zone {
    let mut zone = Zone::new("front", false);
    for &(name, last) in names {
        let addresses = vec![[10, 0, 9, last].into()];
        zone.add(&Host { name: name.into(), addresses, ..Host::default() }).unwrap();
    }
    zone
}

fn query(name: &str, id: u16) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message
}

fn asking(at: &Addresses, query: &Message) -> Vec<u8> {
    let own = at.v4().unwrap().octets();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT.0, at.mac().0).ipv4([10, 0, 9, 7], own, 64).udp(4_000, 53);
    builder.write(&mut frame, &query.to_vec().unwrap()).unwrap();
    frame
}

fn told(frame: &[u8]) -> Message {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no datagram: {frame:?}") };
    Message::from_vec(udp.payload()).unwrap()
}

/// A switch with a client and a gateway, and the client's end.
struct Net {
    workers: Workers,
    switch: Switch,
    client: ChannelEnd,
    gateway: Gateway,
}

impl Net {
    fn new(zone: Zone, resolvers: Resolvers) -> Self {
        let at = Addresses::new(&[[10, 0, 9, 1].into()]).unwrap();
        let local = "192.0.2.1:4789".parse().unwrap();
        let underlay = Network::new(Faults::default(), 1).attach(local).unwrap();
        let switch = Switch::new(local, Limits::default());
        let vni = Vni::new(42).unwrap();
        let (port, client) = channel(QUEUE).unwrap();
        let spec = PortSpec { name: "client".into(), ..port_spec(vni, 1_450, &port) };
        let mut ports = vec![(switch.add_port(spec).unwrap(), Box::new(port) as Box<dyn FrameIo>)];
        let (gateway, port) = Gateway::open(at.clone(), zone, resolvers, None).unwrap();
        let id = switch.add_port(port_spec(vni, 1_450, &port)).unwrap();
        ports.push((id, Box::new(port)));
        switch.announce(vni, at.mac(), &at.announced(), Place::Port(id)).unwrap();
        let underlays = vec![Box::new(underlay) as _];
        let workers =
            Workers::spawn(switch.clone(), underlays, ports, WorkerConfig::default(), |_| {}).unwrap();
        Self { workers, switch, client, gateway }
    }

    fn ask(&self, query: &Message) -> Message {
        self.client.send(&asking(self.gateway.addresses(), query)).unwrap();
        told(&self.client.receive_timeout(PATIENCE).unwrap())
    }
}

#[tokio::test]
async fn every_question_of_a_burst_is_answered() {
    let questions = 0..u16::try_from(3 * BATCH + 7).unwrap();
    let at = Addresses::new(&[[10, 0, 9, 1].into()]).unwrap();
    let resolvers = Resolvers::these(Handle::current(), Vec::new());
    for outside in [None, Some(Outside::new(Policy::only_without(Vec::new()), 1_450))] {
        let (_gateway, mut port) =
            Gateway::open(at.clone(), zone(&[("web", 2)]), resolvers.clone(), outside.as_ref()).unwrap();
        for id in questions.clone() {
            let frame = asking(&at, &query("web.", id));
            port.write(&[io::IoSlice::new(&frame)], Offload::default()).unwrap();
        }
        // All of them are there before the first is taken.
        port.flush();
        let (mut pool, mut frames, mut ids) = (Pool::new(1), Vec::new(), Vec::new());
        let deadline = Instant::now() + PATIENCE;
        while ids.len() < questions.len() {
            assert!(Instant::now() < deadline, "{} of {questions:?} are answered", ids.len());
            let queue = port.pollable().unwrap();
            poll(&mut [PollFd::new(&queue, PollFlags::IN)], Some(&Timespec { tv_sec: 1, tv_nsec: 0 }))
                .unwrap();
            port.read(&mut pool, &mut frames, 1).unwrap();
            for frame in frames.drain(..) {
                ids.push(told(frame.buf.data()).metadata.id);
                pool.put(frame.buf);
            }
        }
        assert_eq!(ids, questions.clone().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn an_endpoint_asks_and_new_names_are_there_at_once() {
    let resolvers = Resolvers::these(Handle::current(), Vec::new());
    apart(move || {
        let net = Net::new(zone(&[("web", 2)]), resolvers);
        let reply = net.ask(&query("web.", 1));
        assert_eq!((reply.metadata.id, reply.answers[0].data.to_string()), (1, "10.0.9.2".into()));
        assert_eq!(net.ask(&query("db.front.", 2)).metadata.response_code, ResponseCode::ServFail);
        net.gateway.set_tables(zone(&[("db", 3)]));
        assert_eq!(net.ask(&query("db.front.", 3)).answers[0].data.to_string(), "10.0.9.3");
        assert_eq!(net.ask(&query("web.", 4)).metadata.response_code, ResponseCode::ServFail);
        assert_eq!(net.switch.report().drops, []);
        let counts = Counts { answered: 2, forwarded: 2, unanswered: 2, ..Counts::default() };
        assert_eq!(net.gateway.counts(), counts);
        net.workers.stop().unwrap();
        assert_eq!(net.client.receive(), Err(ChannelReceiveError::Closed));
        assert!(net.gateway.join(), "its thread ends with its port");
    })
    .await;
}

/// On a thread of its own, so that questions elsewhere have this one.
async fn apart(test: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(test).await.unwrap();
}

/// A resolver that answers as told, `count` times, and gives the ids it was asked with.
fn resolver(
    socket: UdpSocket,
    count: usize,
    answer: fn(Message) -> Vec<Message>,
) -> tokio::task::JoinHandle<Vec<u16>> {
    tokio::spawn(async move {
        let (mut ids, mut buffer) = (Vec::new(), [0; 1_500]);
        for _ in 0..count {
            let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..len]).unwrap();
            ids.push(asked.metadata.id);
            for reply in answer(asked) {
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        }
        ids
    })
}

fn answered(asked: &Message, address: [u8; 4]) -> Message {
    let mut reply = asked.clone().into_response();
    reply.answers.push(Record::from_rdata(asked.queries[0].name.clone(), 300, RData::A(A(address.into()))));
    reply
}

#[tokio::test]
async fn other_names_are_asked_of_one_server_after_the_other() {
    let sockets = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("[::1]:0").await.unwrap()];
    let servers = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
    let [refusing, helping] = sockets;
    let refusing = resolver(refusing, 2, |asked| {
        let mut refusal = asked.into_response();
        refusal.metadata.response_code = ResponseCode::Refused;
        vec![refusal]
    });
    let helping = resolver(helping, 2, |asked| {
        let mut forged = answered(&asked, [192, 0, 2, 66]);
        forged.metadata.id ^= 1;
        let mut other = answered(&asked, [192, 0, 2, 67]);
        other.queries[0].name = Name::from_ascii("example.net.").unwrap();
        vec![asked.clone(), forged, other, answered(&asked, [192, 0, 2, 1])]
    });
    let resolvers = Resolvers::these(Handle::current(), servers);
    apart(move || {
        let net = Net::new(zone(&[]), resolvers);
        for (name, id) in [("example.org.", 77), ("www.example.org.", 78), ("EXAMPLE.org.", 79)] {
            let reply = net.ask(&query(name, id));
            assert_eq!((reply.metadata.id, reply.answers.len()), (id, 1));
            assert_eq!(reply.answers[0].data.to_string(), "192.0.2.1");
        }
        // The third is the first once more, which is still known.
        let counts = Counts { forwarded: 2, cached: 1, ..Counts::default() };
        assert_eq!(net.gateway.counts(), counts);
        net.workers.stop().unwrap();
    })
    .await;
    let ids = [refusing.await.unwrap(), helping.await.unwrap()].concat();
    assert!(ids.iter().any(|id| ![77, 78].contains(id)), "ids of our own: {ids:?}");
}
