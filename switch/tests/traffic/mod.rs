//! Traffic for a [`Datapath`] in memory: what its benches time and its allocation test counts.
//!
//! A [`Bed`] is a switch with a plain network, a sealed one, and a plain one with a service: a port and a peer in each, that
//! know each other's addresses. A [`Scenario`] is a batch as a device would give it, and what it has to come to.

use std::net::SocketAddr;
use std::time::Instant;

use std::sync::Arc;

use etherparse::PacketBuilder;
use vswitchd_crypto::envelope::{HEADER_LEN, SessionId, TAG_LEN};
use vswitchd_crypto::key::Key;
use vswitchd_crypto::open::Opener;
use vswitchd_crypto::seal::Sealer;
use vswitchd_switch::balance::{IdleLimits, ServiceSpec, Task, TaskState};
use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::fdb::{Forward, Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::outbox::Outbox;
use vswitchd_switch::packet::Pool;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::checksum::Sum;
use vswitchd_switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};
use vswitchd_switch::wire::{MacAddr, Vni, vxlan};

/// The network of frames that cross in clear.
const NETWORK: u32 = 42;
/// That of those that don't.
const SEALED_NETWORK: u32 = 43;
/// That of those for the service, and from its task, which is behind the peer.
const SERVED_NETWORK: u32 = 44;
/// The service's.
const VIRTUAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 100]);
const PEER: ([u8; 4], u16) = ([192, 0, 2, 2], 4789);
const BROADCAST: MacAddr = MacAddr::BROADCAST;
/// Behind the port.
pub(crate) const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Behind the peer.
pub(crate) const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// The IP MTU of the overlay over an underlay of 1,500 bytes.
const MTU: u16 = 1450;
/// UDP payload of a full datagram.
const DATAGRAM: u16 = MTU - 28;
/// The same of a sealed network.
const SEALED_MTU: u16 = 1420;
/// TCP payload of a full segment without options.
pub(crate) const SEGMENT: u16 = MTU - 40;
/// The same of a sealed network.
const SEALED_SEGMENT: u16 = SEALED_MTU - 40;
/// Full segments of the longest super-frame: 64 KiB less headers.
pub(crate) const SUPER_SEGMENTS: u16 = 45;
/// Full datagrams that a UDP payload of 64 KiB holds, and so what `UDP_GRO` joins, sealed or not.
const RUN_SEGMENTS: u16 = 44;
/// Where TCP begins, behind Ethernet and IPv4.
const TCP_START: u16 = 34;

/// Who talks to whom: MAC and IP addresses.
type Way = [(MacAddr, [u8; 4]); 2];

const CLIENT: (MacAddr, [u8; 4]) = (HERE, [198, 51, 100, 1]);
const SERVICE: (MacAddr, [u8; 4]) = (VIRTUAL, [198, 51, 100, 100]);
const TASK: (MacAddr, [u8; 4]) = (THERE, [198, 51, 100, 3]);
/// Behind the peer, too, but no task.
const OTHER: (MacAddr, [u8; 4]) = (THERE, [198, 51, 100, 2]);

/// Two stations, whose IP addresses only have to differ.
fn way(from: MacAddr, to: MacAddr) -> Way {
    [(from, [198, 51, 100, 1]), (to, [198, 51, 100, 2])]
}

/// Which network a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Net {
    Plain,
    Sealed,
    Served,
}

/// A batch, and what it has to come to.
pub(crate) struct Scenario {
    /// For the reader of results.
    pub(crate) name: &'static str,
    /// Frames that one batch counts as.
    pub(crate) frames: u32,
    net: Net,
    batch: Batch,
    deliveries: usize,
    transmits: usize,
}

enum Batch {
    /// Frames of the port.
    Egress(Vec<(Vec<u8>, Offload)>),
    /// Runs from the peer, with the bytes of each datagram.
    Ingress(Vec<(Vec<u8>, usize)>),
}

/// Every scenario.
pub(crate) fn scenarios() -> Vec<Scenario> {
    let small_out = udp(HERE, THERE);
    let small_in = datagram(&udp(THERE, HERE));
    let singles = vec![(small_in.clone(), small_in.len()); 32];
    let joined = vec![(small_in.repeat(32), small_in.len())];
    let flows = (0..32).flat_map(|flow| datagram(&udp_of(way(THERE, HERE), flow, &[0x5a; 64])));
    let flows: Vec<u8> = flows.collect();
    let mixed = vec![(flows, small_in.len())];
    let flooded = udp(HERE, BROADCAST);
    let sealed_small = joined.clone();
    vec![
        egress("small frame", vec![(small_out, Offload::default()); 32], 32),
        egress("flooded frame", vec![(flooded, Offload::default()); 32], 32),
        // 45 segments and their headers are more than one message takes.
        egress("super-frame", vec![super_frame(SEGMENT); 8], 16),
        egress("small frame for a service", vec![(for_service(), Offload::default()); 32], 32).served(),
        egress("beginning of a connection to a service, and its end", beginnings(), 32).served(),
        egress("super-frame for a service", vec![super_frame_of([CLIENT, SERVICE], SEGMENT); 8], 16).served(),
        ingress("small frame, a datagram each", 32, singles, 1),
        ingress("small frame, joined datagrams", 32, joined, 1),
        ingress("small frame, a flow each", 32, mixed, 32),
        ingress("acknowledgment", 32, acknowledgments(way(THERE, HERE), 0), 32),
        ingress("acknowledgment of a service", 32, acknowledgments([TASK, CLIENT], 0), 32).served(),
        ingress("acknowledgment, its network has a service", 32, acknowledgments([OTHER, CLIENT], 1), 32)
            .served(),
        ingress("UDP datagram, one flow", RUN_SEGMENTS.into(), vec![udp_run()], 1),
        ingress("TCP segment, one flow", RUN_SEGMENTS.into(), vec![tcp_run(way(THERE, HERE), 1, SEGMENT)], 1),
        ingress(
            "TCP segment of a service",
            RUN_SEGMENTS.into(),
            vec![tcp_run([TASK, CLIENT], 1, SEGMENT)],
            1,
        )
        .served(),
        ingress(
            "TCP segment, 8 flows in turn",
            RUN_SEGMENTS.into(),
            vec![tcp_run(way(THERE, HERE), 8, SEGMENT)],
            8,
        ),
        egress("sealed small frame", vec![(udp(HERE, THERE), Offload::default()); 32], 32).sealed(),
        egress("sealed flooded frame", vec![(udp(HERE, BROADCAST), Offload::default()); 32], 32).sealed(),
        egress("sealed super-frame", vec![super_frame(SEALED_SEGMENT); 8], 16).sealed(),
        ingress("sealed small frame, joined datagrams", 32, sealed_small, 1).sealed(),
        ingress(
            "sealed TCP segment, one flow",
            RUN_SEGMENTS.into(),
            vec![tcp_run(way(THERE, HERE), 1, SEALED_SEGMENT)],
            1,
        )
        .sealed(),
    ]
}

fn egress(name: &'static str, frames: Vec<(Vec<u8>, Offload)>, transmits: usize) -> Scenario {
    let count = u32::try_from(frames.len()).expect("a batch is short");
    let (batch, net) = (Batch::Egress(frames), Net::Plain);
    Scenario { name, frames: count, net, batch, deliveries: 0, transmits }
}

fn ingress(name: &'static str, frames: u32, runs: Vec<(Vec<u8>, usize)>, deliveries: usize) -> Scenario {
    let (batch, net) = (Batch::Ingress(runs), Net::Plain);
    Scenario { name, frames, net, batch, deliveries, transmits: 0 }
}

impl Scenario {
    /// The same in the sealed network. Runs get room to be sealed in when they are loaded: each time anew, or
    /// they would be replays.
    fn sealed(mut self) -> Self {
        self.net = Net::Sealed;
        if let Batch::Ingress(runs) = &mut self.batch {
            for (run, segment) in runs {
                let room = |datagram: &[u8]| {
                    let frame = &datagram[vxlan::HEADER_LEN..];
                    [&[0; HEADER_LEN][..], &vxlan::emit(sealed_vni()), frame, &[0; TAG_LEN]].concat()
                };
                *run = run.chunks(*segment).flat_map(room).collect();
                *segment += HEADER_LEN + TAG_LEN;
            }
        }
        self
    }

    /// The same in the network with a service.
    fn served(mut self) -> Self {
        self.net = Net::Served;
        if let Batch::Ingress(runs) = &mut self.batch {
            for (run, segment) in runs {
                let header = vxlan::emit(served_vni());
                run.chunks_mut(*segment)
                    .for_each(|datagram| datagram[..header.len()].copy_from_slice(&header));
            }
        }
        self
    }

    /// The path it takes.
    pub(crate) fn path(&self) -> &'static str {
        match self.batch {
            Batch::Egress(_) => "egress",
            Batch::Ingress(_) => "ingress",
        }
    }
}

/// A switch with three networks.
pub(crate) struct Bed {
    path: Datapath,
    port: PortId,
    sealed_port: PortId,
    served_port: PortId,
    /// Whose frames have been loaded.
    at: PortId,
    /// The peer's end of what it sends.
    sealer: Sealer,
    pool: Pool,
    out: Outbox,
    frames: Vec<Frame>,
    received: Vec<Received>,
    now: Instant,
}

impl Bed {
    /// A bed whose switch has learnt both addresses.
    pub(crate) fn new(now: Instant) -> Self {
        let vni = vni();
        let switch = Switch::new(SocketAddr::from(([192, 0, 2, 1], 4789)), Limits::default());
        let storm = StormLimit { frames_per_second: 0, burst: u32::MAX };
        let capabilities = Capabilities { checksum: true, tso: true, uso: true };
        let spec =
            |vni, mtu: u16| PortSpec { name: String::new(), vni, mtu: mtu.into(), capabilities, storm };
        let port = switch.add_port(spec(vni, MTU)).expect("the first port");
        let peer = switch.add_peer(vni, PEER.into()).expect("the first peer");
        let (sealed_port, sealer) = Self::seal(&switch, spec(sealed_vni(), SEALED_MTU));
        let served_port = Self::serve(&switch, spec(served_vni(), MTU));
        let (path, pool) = (Datapath::new(switch), Pool::new(64));
        let (out, frames, received) = (Outbox::default(), Vec::new(), Vec::new());
        let mut bed =
            Self { path, port, sealed_port, served_port, at: port, sealer, pool, out, frames, received, now };
        bed.run(&egress("", vec![(opening(), Offload::default())], 1).served());
        scenarios().iter().for_each(|scenario| bed.run(scenario));
        let tables = bed.path.switch().tables();
        for (vni, port) in [(vni, port), (sealed_vni(), sealed_port)] {
            assert_eq!(tables.fdb.lookup(vni, HERE), Forward::Local(port));
            assert_eq!(tables.fdb.lookup(vni, THERE), Forward::Remote(peer));
        }
        bed
    }

    /// Makes a sealed network with a port and the peer; gives the peer's end.
    fn seal(switch: &Switch, spec: PortSpec) -> (PortId, Sealer) {
        let vni = spec.vni;
        switch.seal_network(vni).expect("nobody is in it");
        let port = switch.add_port(spec).expect("room for a port");
        let peer = switch.add_peer(vni, PEER.into()).expect("it is known");
        let ours = Sealer::new(&Key::new(&[1; 32]), session());
        switch.set_sealer(peer, Some(Arc::new(ours))).expect("a peer");
        let theirs = Key::new(&[2; 32]);
        switch.add_opener(peer, Arc::new(Opener::new(&theirs, session()))).expect("the first");
        (port, Sealer::new(&theirs, session()))
    }

    /// Makes a network with a port, the peer, and a service whose task is behind that.
    fn serve(switch: &Switch, spec: PortSpec) -> PortId {
        let vni = spec.vni;
        let port = switch.add_port(spec).expect("room for a port");
        let peer = switch.add_peer(vni, PEER.into()).expect("it is known");
        let task = Task { mac: TASK.0, ipv4: Some(TASK.1.into()), ipv6: None, state: TaskState::Live };
        switch.announce(vni, HERE, &[], Place::Port(port)).expect("room for a station");
        switch.announce(vni, THERE, &[], Place::Vtep(peer)).expect("room for a station");
        let (addresses, idle) = (vec![SERVICE.1.into()], IdleLimits::default());
        let service = ServiceSpec { mac: VIRTUAL, addresses, tasks: vec![task], idle };
        switch.set_service(vni, service).expect("a good service");
        port
    }

    fn run(&mut self, scenario: &Scenario) {
        self.load(scenario);
        self.process();
    }

    /// Puts a scenario's batch where the driver would put it.
    pub(crate) fn load(&mut self, scenario: &Scenario) {
        let mut buf = |bytes: &[u8]| {
            let mut buf = self.pool.take().expect("the pool holds a batch");
            buf.fill(bytes);
            buf
        };
        match &scenario.batch {
            Batch::Egress(frames) => {
                let frames = frames.iter().map(|&(ref frame, offload)| Frame { buf: buf(frame), offload });
                self.frames.extend(frames);
            }
            Batch::Ingress(runs) => {
                let (from, sealer) = (PEER.into(), &self.sealer);
                let runs = runs.iter().map(|(run, segment)| {
                    let (mut buf, segment) = (buf(run), *segment);
                    if scenario.net == Net::Sealed {
                        let datagrams = buf.slice_mut(buf.range()).chunks_mut(segment);
                        datagrams.for_each(|datagram| sealer.seal(datagram).expect("far below the limit"));
                    }
                    Received { buf, from, segment }
                });
                self.received.extend(runs);
            }
        }
        self.at = match scenario.net {
            Net::Plain => self.port,
            Net::Sealed => self.sealed_port,
            Net::Served => self.served_port,
        };
    }

    /// Processes what was loaded, up to the buffers' return; gives the deliveries and transmits that it came to.
    pub(crate) fn process(&mut self) -> (usize, usize) {
        let Self { path, at, pool, out, frames, received, now, .. } = self;
        if !frames.is_empty() {
            path.egress(*at, frames, pool, out, *now);
        }
        if !received.is_empty() {
            path.ingress(received, pool, out, *now);
        }
        let outcome = (out.deliveries.len(), out.transmits.len());
        out.recycle(pool);
        outcome
    }

    /// Runs a scenario once.
    ///
    /// # Panics
    /// If it comes to anything else than it should.
    pub(crate) fn check(&mut self, scenario: &Scenario) {
        self.load(scenario);
        let outcome = self.process();
        assert_eq!(outcome, (scenario.deliveries, scenario.transmits), "{}", scenario.name);
    }
}

/// The network's identifier.
pub(crate) fn vni() -> Vni {
    Vni::new(NETWORK).expect("24 bits")
}

/// The sealed network's identifier.
fn sealed_vni() -> Vni {
    Vni::new(SEALED_NETWORK).expect("24 bits")
}

/// The identifier of the network with a service.
fn served_vni() -> Vni {
    Vni::new(SERVED_NETWORK).expect("24 bits")
}

/// What both ends call the other's key.
fn session() -> SessionId {
    SessionId::new(7).expect("24 bits")
}

/// A UDP frame with 64 bytes of payload.
pub(crate) fn udp(from: MacAddr, to: MacAddr) -> Vec<u8> {
    udp_of(way(from, to), 0, &[0x5a; 64])
}

/// The same for the service.
fn for_service() -> Vec<u8> {
    udp_of([CLIENT, SERVICE], 0, &[0x5a; 64])
}

/// What the client has sent before the task sends it a run of TCP.
fn opening() -> Vec<u8> {
    tcp_between([CLIENT, SERVICE], [5_201, 40_000], 1, &[])
}

/// SYN and reset of connection after connection to the service: in the next batch each begins anew.
fn beginnings() -> Vec<(Vec<u8>, Offload)> {
    let one = |flow: u16, is_reset: bool| {
        let [from, to] = [CLIENT, SERVICE];
        let builder =
            PacketBuilder::ethernet2(from.0.0, to.0.0).ipv4(from.1, to.1, 64).tcp(50_000 + flow, 80, 1, 512);
        let mut frame = Vec::new();
        let builder = if is_reset { builder.rst() } else { builder.syn() };
        builder.write(&mut frame, &[]).expect("a vector takes it");
        (frame, Offload::default())
    };
    (0..16).flat_map(|flow| [one(flow, false), one(flow, true)]).collect()
}

/// A UDP frame of flow `flow`.
fn udp_of([from, to]: Way, flow: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0.0, to.0.0).ipv4(from.1, to.1, 64).udp(40_000 + flow, 5_300);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes it");
    frame
}

/// A TCP frame of flow `flow` whose payload begins at `sequence`.
fn tcp(way: Way, flow: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    tcp_between(way, [40_000 + flow, 5_201], sequence, payload)
}

fn tcp_between([from, to]: Way, ports: [u16; 2], sequence: u32, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.0.0, to.0.0)
        .ipv4(from.1, to.1, 64)
        .tcp(ports[0], ports[1], sequence, 512)
        .ack(1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).expect("a vector takes it");
    frame
}

/// The longest super-frame to be cut so, as a TAP gives it.
pub(crate) fn super_frame(segment: u16) -> (Vec<u8>, Offload) {
    super_frame_of(way(HERE, THERE), segment)
}

fn super_frame_of(way: Way, segment: u16) -> (Vec<u8>, Offload) {
    let payload: Vec<u8> =
        (0..=250).cycle().take(usize::from(segment) * usize::from(SUPER_SEGMENTS)).collect();
    let mut frame = tcp(way, 0, 1, &payload);
    let len = u16::try_from(payload.len() + 20).expect("within an IP packet");
    let pseudo = Sum::default().pseudo_v4(way[0].1, way[1].1, 6, len);
    let field = usize::from(TCP_START) + 16;
    frame[field..field + 2].copy_from_slice(&pseudo.fold());
    let gso = Gso { kind: GsoKind::Tcp4, size: segment, header_len: TCP_START + 20, ecn: false };
    (frame, Offload { checksum: Checksum::Partial { start: TCP_START, offset: 16 }, gso: Some(gso) })
}

/// As many full segments as a run holds, of `flows` flows in turn, with the bytes of each datagram.
fn tcp_run(way: Way, flows: u16, segment: u16) -> (Vec<u8>, usize) {
    let payload = vec![0x5a; segment.into()];
    let segments = (0..RUN_SEGMENTS).map(|index| {
        let sequence = u32::from(index / flows) * u32::from(segment);
        datagram(&tcp(way, index % flows, sequence, &payload))
    });
    let run: Vec<u8> = segments.flatten().collect();
    let segment = run.len() / usize::from(RUN_SEGMENTS);
    (run, segment)
}

/// What a receiver sends back, each different: nothing joins them.
fn acknowledgments(way: Way, flow: u16) -> Vec<(Vec<u8>, usize)> {
    let one = |index| datagram(&tcp(way, flow, index, &[]));
    let run: Vec<u8> = (0..32).flat_map(one).collect();
    let segment = run.len() / 32;
    vec![(run, segment)]
}

/// As many full datagrams of one flow as a run holds, with the bytes of each.
fn udp_run() -> (Vec<u8>, usize) {
    let one = datagram(&udp_of(way(THERE, HERE), 0, &[0x5a; DATAGRAM as usize]));
    (one.repeat(RUN_SEGMENTS.into()), one.len())
}

fn datagram(frame: &[u8]) -> Vec<u8> {
    [&vxlan::emit(vni())[..], frame].concat()
}
