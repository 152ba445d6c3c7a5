//! What an endpoint sends on a connection that leads out, or in.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};
use vswitchd::api::{Protocol, PublishedPort};
use vswitchd::gateway::Publication;
use vswitchd::gateway::door::Door;
use vswitchd::gateway::nat::{Kind, Nat, Outside, Policy, descriptors};
use vswitchd::gateway::station::{Action, Station};
use vswitchd_switch::offload::finish_checksum;
use vswitchd_switch::wire::MacAddr;
use vswitchd_switch::wire::virtio::{Checksum, Offload};

use crate::gateway::{CLIENT, at, check, tables};

/// Bytes that say what a segment is to be, in front of its payload: lengths of both, sequence and acknowledgement
/// number from where the connection is, flags, window.
const HEAD_LEN: usize = 9;
/// Segments of one input.
const SEGMENTS_MAX: usize = 64;
const PORT: u16 = 4_000;
const FIRST: u32 = 1_000;

pub(crate) fn way_out(policy: Policy) -> Nat {
    Nat::new(&Outside::new(policy, 1_450), 1).expect("there are descriptors")
}

/// A frame as it arrives behind a switch.
pub(crate) fn finished(mut frame: Vec<u8>, offload: Offload) -> Vec<u8> {
    if let Checksum::Partial { start, offset } = offload.checksum {
        finish_checksum(&mut frame, start, offset).expect("it lies within the frame");
    }
    frame
}

/// A connection to a server on the loopback device, and any segments on it: what comes back has right checksums
/// and goes to the sender, and in the end time leaves nothing of it.
pub fn nat(data: &[u8]) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback device is there");
    let to = server.local_addr().expect("it is bound").port();
    let mut inside = Inside::new();
    inside.send(TcpHeader { syn: true, sequence_number: FIRST, ..header(to) }, &[]);
    let Some(theirs) = inside.wait_for_answer() else { return };
    inside.send_all(data, to, theirs);
    inside.forget();
}

/// A connection from a client on the loopback device to the endpoint, which takes it or does not, and any segments on
/// it: the same holds.
pub fn inward(data: &[u8]) {
    let address = Some(Ipv4Addr::LOCALHOST.into());
    let port = PublishedPort { address, published: 0, target: PORT, protocol: Protocol::Tcp };
    let doors = Door::open(&port, &descriptors()).expect("some port is free");
    let mut inside = Inside::new();
    let publications = doors.iter().map(|door| Publication {
        door: Arc::clone(door),
        mac: MacAddr(CLIENT),
        addresses: vec![[10, 0, 9, 7].into()],
        port: PORT,
        ways_out: vec![[10, 0, 9, 1].into()],
    });
    inside.nat.publish(&at(), &publications.collect::<Vec<_>>(), inside.now);
    let mut client = TcpStream::connect(doors[0].at()).expect("it listens");
    client.write_all(b"question").expect("the system has room for it");
    let to = client.local_addr().expect("it is connected").port();
    let theirs = inside.wait_for_answer().expect("the endpoint is asked");
    let (takes_it, data) = data.split_first().map_or((false, data), |(first, rest)| (first & 1 != 0, rest));
    if takes_it {
        let acknowledgment_number = theirs.wrapping_add(1);
        let answer = TcpHeader { syn: true, ack: true, sequence_number: FIRST, ..header(to) };
        inside.send(TcpHeader { acknowledgment_number, ..answer }, &[]);
    }
    inside.send_all(data, to, theirs);
    inside.forget();
}

fn header(to: u16) -> TcpHeader {
    TcpHeader { source_port: PORT, destination_port: to, window_size: 8_192, ..TcpHeader::default() }
}

fn segment(head: &[u8; HEAD_LEN], to: u16, theirs: u32) -> TcpHeader {
    let &[_, s0, s1, a0, a1, flags, more, w0, w1] = head;
    let near = |from: u32, bytes: [u8; 2]| from.wrapping_add_signed(i16::from_be_bytes(bytes).into());
    TcpHeader {
        sequence_number: near(FIRST.wrapping_add(1), [s0, s1]),
        acknowledgment_number: near(theirs.wrapping_add(1), [a0, a1]),
        fin: flags & 1 != 0,
        syn: flags & 2 != 0,
        rst: flags & 4 != 0,
        psh: flags & 8 != 0,
        // Without it hardly anything is looked at.
        ack: flags & 16 == 0,
        urg: flags & 32 != 0,
        ece: flags & 64 != 0,
        cwr: more & 1 != 0,
        window_size: u16::from_be_bytes([w0, w1]),
        urgent_pointer: more.into(),
        ..header(to)
    }
}

struct Inside {
    nat: Nat,
    station: Station,
    watched: vswitchd::gateway::nat::Token,
    _port: std::os::unix::net::UnixDatagram,
    now: Instant,
}

impl Inside {
    fn new() -> Self {
        let mut nat = way_out(Policy::only_without(Vec::new()));
        let port = std::os::unix::net::UnixDatagram::unbound().expect("there are descriptors");
        let watched = nat.watch(&port).expect("it can be watched");
        let now = Instant::now();
        Self { nat, station: Station::new(at(), 1, now).leading_out(), watched, _port: port, now }
    }

    fn send(&mut self, header: TcpHeader, payload: &[u8]) {
        let step = PacketBuilder::ethernet2(CLIENT, at().mac().0).ipv4([10, 0, 9, 7], [127, 0, 0, 1], 64);
        let mut frame = Vec::new();
        step.tcp_header(header).write(&mut frame, payload).expect("it is short");
        let action = self.station.handle(&frame, &tables(), self.now);
        let Action::Carry(carried) = action else { panic!("it is for elsewhere: {action:?}") };
        self.nat.handle(&frame, carried, self.now);
        self.drain();
    }

    /// Segments as the bytes say, to a port, whose first sequence number was `theirs`.
    fn send_all(&mut self, data: &[u8], to: u16, theirs: u32) {
        let mut rest = data;
        for _ in 0..SEGMENTS_MAX {
            let Some((head, behind)) = rest.split_first_chunk::<HEAD_LEN>() else { break };
            let (payload, behind) = behind.split_at(usize::from(head[0]).min(behind.len()));
            rest = behind;
            self.send(segment(head, to, theirs), payload);
            self.work();
        }
    }

    /// Whatever it was, time ends it.
    fn forget(&mut self) {
        self.nat.tick(self.now + Duration::from_secs(8_000));
        self.nat.tick(self.now + Duration::from_secs(16_000));
        let open = Kind::ALL.map(|kind| self.nat.counters().open(kind));
        assert_eq!(open, [0; Kind::ALL.len()]);
    }

    fn drain(&mut self) -> Option<u32> {
        let mut synchronised = None;
        let sent: Vec<_> = self.nat.frames().map(|(frame, offload)| finished(frame, offload)).collect();
        for frame in &sent {
            let asked = [&at().mac().0[..], &CLIENT].concat();
            check(&at(), &asked, frame);
            let packet = SlicedPacket::from_ethernet(frame).expect("our own frames parse");
            if let Some(TransportSlice::Tcp(segment)) = packet.transport {
                synchronised = segment.syn().then(|| segment.sequence_number()).or(synchronised);
            }
        }
        synchronised
    }

    fn work(&mut self) -> Option<u32> {
        let (_, ready) = match self.nat.wait(self.watched, Some(Duration::ZERO)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => (false, Vec::new()),
            outcome => outcome.expect("it waits for nothing"),
        };
        ready.into_iter().for_each(|ready| self.nat.ready(ready, self.now));
        self.drain()
    }

    /// The server's first sequence number; the loopback device takes no time.
    fn wait_for_answer(&mut self) -> Option<u32> {
        (0..1_000).find_map(|_| self.work())
    }
}
