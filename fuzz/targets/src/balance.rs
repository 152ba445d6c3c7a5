//! Services: a switch that has one, whose client and tasks say anything.
//!
//! The input is a series of steps: a byte that says what, one for its details, two of length (big-endian), and as many
//! bytes. They are frames of the client, of a task of this host and of the peer, whole or written into a good packet for
//! the service, and changes of the tasks and of the time.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use vswitchd_switch::balance::{IdleLimits, ServiceSpec, Task, TaskState};
use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::outbox::Outbox;
use vswitchd_switch::packet::Pool;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::flow::{TCP, Transport, UDP};
use vswitchd_switch::wire::virtio::Offload;
use vswitchd_switch::wire::{MacAddr, Vni, vxlan};

use crate::oracle;

/// Steps of one input.
const STEPS_MAX: usize = 64;
const BUFFERS: usize = 64;
const SERVICE: u8 = 100;
/// Behind the peer.
const FAR: u8 = 3;

/// Any steps: every buffer comes back, what stays whole in its checksums stays so, and nothing but the sweep of flows
/// whose tasks are gone is ever said unasked.
pub fn balance(data: &[u8]) {
    let mut bench = Bench::new();
    let mut rest = data;
    for _ in 0..STEPS_MAX {
        let Some((&[what, detail, high, low], behind)) = rest.split_first_chunk() else { break };
        let len = usize::from(u16::from_be_bytes([high, low])).min(behind.len()).min(2_000);
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        bench.step(what, detail, bytes);
    }
    let flows = bench.switch.report().flows;
    assert!(flows.flows <= flows.opened, "{flows:?}");
    // Without tasks, and after a day, nothing is left.
    bench.serve(0);
    bench.turn();
    assert_eq!(bench.switch.report().flows.flows, 0);
}

struct Bench {
    switch: Switch,
    path: Datapath,
    /// Of the client, and of the task here.
    ports: [PortId; 2],
    pool: Pool,
    out: Outbox,
    now: Instant,
}

fn vni() -> Vni {
    Vni::new(42).expect("24 bits")
}

fn mac(station: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, station])
}

fn four(station: u8) -> [u8; 4] {
    [10, 0, 0, station]
}

fn six(station: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, station]
}

impl Bench {
    fn new() -> Self {
        let [local, peer] = [1, 2].map(|last| SocketAddr::from(([192, 0, 2, last], vxlan::PORT)));
        let switch = Switch::new(local, Limits::default());
        let all = Capabilities { checksum: true, tso: true, uso: true };
        let ports = [all, Capabilities::default()].map(|capabilities| {
            let storm = StormLimit::default();
            let spec = PortSpec { name: String::new(), vni: vni(), mtu: 1_450, capabilities, storm };
            switch.add_port(spec).expect("room for a port")
        });
        let far = switch.add_peer(vni(), peer).expect("room for a peer");
        let places = [Place::Port(ports[0]), Place::Port(ports[1]), Place::Vtep(far)];
        for (station, place) in (1..).zip(places) {
            switch.announce(vni(), mac(station), &[], place).expect("room for a station");
        }
        let path = Datapath::new(switch.clone());
        let bench = Self {
            switch,
            path,
            ports,
            pool: Pool::new(BUFFERS),
            out: Outbox::default(),
            now: Instant::now(),
        };
        bench.serve(0b1110);
        bench
    }

    /// The stations whose bits are set are tasks; draining, if the bit four above is.
    fn serve(&self, bits: u8) {
        let tasks = (1..=FAR).filter(|station| bits & 1 << station != 0).map(|station| Task {
            mac: mac(station),
            ipv4: Some(four(station).into()),
            ipv6: Some(six(station).into()),
            state: if bits & 16 << station == 0 { TaskState::Live } else { TaskState::Draining },
        });
        let spec = ServiceSpec {
            mac: mac(SERVICE),
            addresses: vec![IpAddr::from(four(SERVICE)), IpAddr::from(six(SERVICE))],
            tasks: tasks.collect(),
            idle: IdleLimits::default(),
        };
        self.switch.set_service(vni(), spec).expect("a good service");
    }

    fn step(&mut self, what: u8, detail: u8, bytes: &[u8]) {
        let sender = detail % FAR + 1;
        match what % 5 {
            0 => self.say(sender, bytes),
            1 | 2 => {
                let mut frame = packet(sender, detail, what & 0x80 != 0);
                // Pairs of place and byte.
                for pair in bytes.chunks_exact(2) {
                    let at = usize::from(pair[0]) % frame.len();
                    frame[at] = pair[1];
                }
                self.say(sender, &frame);
            }
            3 => {
                self.serve(detail);
                self.turn();
            }
            _ => {
                self.now += Duration::from_secs(u64::from(detail) * 60);
                self.turn();
            }
        }
    }

    /// A station's frame.
    fn say(&mut self, sender: u8, bytes: &[u8]) {
        let mut buf = self.pool.take().expect("all are there between two batches");
        if sender == FAR {
            buf.fill(&[&vxlan::emit(vni())[..], bytes].concat());
            let (segment, from) =
                (bytes.len() + vxlan::HEADER_LEN, SocketAddr::from(([192, 0, 2, 2], vxlan::PORT)));
            let mut batch = vec![Received { buf, from, segment }];
            self.path.ingress(&mut batch, &mut self.pool, &mut self.out, self.now);
            assert!(self.out.transmits.is_empty(), "split horizon");
        } else {
            buf.fill(bytes);
            let port = self.ports[usize::from(sender) - 1];
            let mut batch = vec![Frame { buf, offload: Offload::default() }];
            self.path.egress(port, &mut batch, &mut self.pool, &mut self.out, self.now);
        }
        self.check(Some(bytes));
    }

    fn turn(&mut self) {
        loop {
            self.path.poll_resets(&mut self.pool, &mut self.out, self.now);
            self.check(None);
            if self.path.next_deadline().is_none_or(|due| due > self.now) {
                break;
            }
        }
    }

    /// Looks at all that has come of a frame, or of the switch's own turn.
    fn check(&mut self, said: Option<&[u8]>) {
        let was_whole = said.is_none_or(|said| verifies(said) == Some(true));
        let delivered =
            self.out.deliveries.iter().map(|delivery| self.out.frame(delivery).collect::<Vec<_>>().concat());
        let sent = self.out.transmits.iter().flat_map(|transmit| self.out.datagrams(transmit));
        let sent = sent.map(|datagram| datagram.concat().split_off(vxlan::HEADER_LEN));
        for frame in delivered.chain(sent) {
            let header = Header::parse(&frame).expect("a whole Ethernet header");
            assert_ne!(header.destination, mac(SERVICE), "nobody is given what is for the service");
            assert!(!was_whole || verifies(&frame) != Some(false), "{said:02x?} has become {frame:02x?}");
        }
        self.out.recycle(&mut self.pool);
        let all: Vec<_> = std::iter::from_fn(|| self.pool.take()).collect();
        assert_eq!(all.len(), BUFFERS, "every buffer came back");
        all.into_iter().for_each(|buf| self.pool.put(buf));
    }
}

/// A packet of a station to the service, or of a task to the client.
fn packet(sender: u8, detail: u8, is_six: bool) -> Vec<u8> {
    let to = if sender == 1 || detail & 0x80 != 0 { SERVICE } else { 1 };
    let link = PacketBuilder::ethernet2(mac(sender).0, mac(to).0);
    let ip = if is_six { link.ipv6(six(sender), six(to), 9) } else { link.ipv4(four(sender), four(to), 9) };
    let ports = if to == SERVICE { [4_000, 80] } else { [80, 4_000] };
    let mut frame = Vec::new();
    let written = match detail >> 2 & 7 {
        0 => ip.udp(ports[0], ports[1]).write(&mut frame, b"payload"),
        1 => ip.tcp(ports[0], ports[1], 1, 9).syn().write(&mut frame, b""),
        2 => ip.tcp(ports[0], ports[1], 2, 9).ack(7).write(&mut frame, b"payload"),
        3 => ip.tcp(ports[0], ports[1], 2, 9).fin().ack(7).write(&mut frame, b""),
        4 => ip.tcp(ports[0], ports[1], 2, 9).rst().write(&mut frame, b""),
        5 if is_six => ip.icmpv6_echo_request(7, 1).write(&mut frame, b"echo"),
        5 => ip.icmpv4_echo_request(7, 1).write(&mut frame, b"echo"),
        6 if is_six => ip.icmpv6_echo_reply(7, 1).write(&mut frame, b"echo"),
        6 => ip.icmpv4_echo_reply(7, 1).write(&mut frame, b"echo"),
        _ => {
            // An error about what the receiver has sent.
            let about = packet(if to == SERVICE { 1 } else { to }, 0, is_six);
            let unreachable = 3_u8;
            return if is_six { about } else { ip_error(sender, to, unreachable, &about[14..]) };
        }
    };
    written.expect("a vector takes it");
    frame
}

fn ip_error(from: u8, to: u8, kind: u8, about: &[u8]) -> Vec<u8> {
    let kind = etherparse::Icmpv4Type::Unknown { type_u8: kind, code_u8: 3, bytes5to8: [0; 4] };
    let builder = PacketBuilder::ethernet2(mac(from).0, mac(to).0).ipv4(four(from), four(to), 9).icmpv4(kind);
    let mut frame = Vec::new();
    builder.write(&mut frame, about).expect("a vector takes it");
    frame
}

/// Whether a whole TCP or UDP packet has right checksums; `None` for what is none.
fn verifies(frame: &[u8]) -> Option<bool> {
    let header = Header::parse(frame).ok()?;
    let transport = Transport::find(frame, &header)?;
    let min = match transport.protocol {
        TCP => 20,
        UDP => 8,
        _ => return None,
    };
    let is_whole = transport.end - transport.start >= min;
    is_whole.then(|| oracle::ip_verifies(frame, &transport) && oracle::transport_verifies(frame, &transport))
}
