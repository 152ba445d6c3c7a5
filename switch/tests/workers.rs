//! Several workers of one switch: over loopback UDP, between ports that are channels of this process.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vswitchd_switch::fdb::Limits;
use vswitchd_switch::io::FrameIo;
use vswitchd_switch::io::channel::{ChannelEnd, ChannelSendError, channel};
use vswitchd_switch::io::udp::{Udp, UdpConfig};
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::Vni;
use vswitchd_switch::worker::{Event, WorkerConfig, Workers};

const WORKERS: usize = 3;
const CAPACITY: usize = 4_096;
const PATIENCE: Duration = Duration::from_secs(10);

struct Host {
    switch: Switch,
    workers: Workers,
    ends: Vec<ChannelEnd>,
    closed: Arc<Mutex<Vec<PortId>>>,
}

/// Two switches, each the other's peer, with some ports.
fn hosts(ports: [usize; 2]) -> [Host; 2] {
    let vni = Vni::new(7).unwrap();
    let addresses = [[127, 0, 0, 1], [127, 0, 0, 2]].map(Ipv4Addr::from);
    let underlays = addresses.map(|address| {
        let config = UdpConfig { port: 0, ..UdpConfig::new(address.into(), u64::from(address.to_bits())) };
        Udp::bind_all(&config, WORKERS).unwrap()
    });
    let bound: Vec<SocketAddr> = underlays.iter().map(|underlays| underlays[0].local_addr()).collect();
    let mut here = 0;
    underlays.map(|underlays| {
        let switch = Switch::for_workers(bound[here], Limits::default(), WORKERS);
        let (mut devices, mut ends) = (Vec::new(), Vec::new());
        for number in 0..ports[here] {
            let (port, end) = channel(CAPACITY).unwrap();
            let spec = PortSpec {
                name: number.to_string(),
                vni,
                mtu: 1_450,
                capabilities: port.capabilities(),
                storm: StormLimit::default(),
            };
            devices.push((switch.add_port(spec).unwrap(), Box::new(port) as Box<dyn FrameIo>));
            ends.push(end);
        }
        switch.add_peer(vni, bound[1 - here]).unwrap();
        here += 1;
        let underlays = underlays.into_iter().map(|underlay| Box::new(underlay) as _).collect();
        let closed: Arc<Mutex<Vec<PortId>>> = Arc::default();
        let noted = Arc::clone(&closed);
        let events = move |event| match event {
            Event::PortClosed { port, .. } => noted.lock().unwrap().push(port.id),
            Event::Path(event) => panic!("nobody probes: {event:?}"),
            Event::UnderlayFailed(error) => panic!("{error}"),
        };
        let workers = Workers::spawn(switch.clone(), underlays, devices, WorkerConfig::default(), events);
        Host { switch, workers: workers.unwrap(), ends, closed }
    })
}

/// A UDP datagram of a flow (its source port), in a frame.
fn frame(to: u8, from: u8, flow: u16, sequence: u32) -> Vec<u8> {
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, from], [2, 0, 0, 0, 0, to])
        .ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
        .udp(flow, 9);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &sequence.to_be_bytes()).unwrap();
    bytes
}

/// The flow and the place in it.
fn parse(frame: &[u8]) -> (u16, u32) {
    let udp = &frame[14 + 20..];
    (u16::from_be_bytes([udp[0], udp[1]]), u32::from_be_bytes(udp[8..12].try_into().unwrap()))
}

fn send(end: &ChannelEnd, frame: &[u8]) {
    while let Err(error) = end.send(frame) {
        assert_eq!(error, ChannelSendError::Full);
        std::thread::yield_now();
    }
}

/// Makes both sides known to each other, so that nothing is flooded afterwards.
fn acquaint(left: &ChannelEnd, right: &ChannelEnd) {
    send(left, &frame(2, 1, 1, 0));
    right.receive_timeout(PATIENCE).unwrap();
    send(right, &frame(1, 2, 1, 0));
    left.receive_timeout(PATIENCE).unwrap();
}

#[test]
fn each_flow_arrives_whole_and_in_order_whatever_worker_has_it() {
    const FLOWS: u16 = 40;
    const ROUNDS: u32 = 200;
    let [left, right] = hosts([1, 1]);
    acquaint(&left.ends[0], &right.ends[0]);
    let before = right.switch.report().ports[0].traffic.sent_frames;
    let mut next = [0; FLOWS as usize];
    for round in 0..ROUNDS {
        for flow in 0..FLOWS {
            send(&left.ends[0], &frame(2, 1, 1_000 + flow, round));
        }
        // A round at a time, so that no queue on the way overflows.
        for _ in 0..FLOWS {
            let (flow, sequence) = parse(&right.ends[0].receive_timeout(PATIENCE).unwrap());
            let expected = &mut next[usize::from(flow - 1_000)];
            assert_eq!(sequence, *expected, "flow {flow}");
            *expected += 1;
        }
    }
    left.workers.stop().unwrap();
    right.workers.stop().unwrap();
    let sent = u64::from(FLOWS) * u64::from(ROUNDS);
    let (here, there) = (left.switch.report(), right.switch.report());
    assert_eq!((&here.drops[..], &there.drops[..]), (&[][..], &[][..]));
    assert_eq!(there.ports[0].traffic.sent_frames - before, sent, "no worker's count is lost");
    assert_eq!(here.peers[0].1.sent_frames, there.peers[0].1.received_frames);
}

#[test]
fn a_port_whose_end_goes_is_closed_once_for_all_workers() {
    let [left, right] = hosts([2, 1]);
    acquaint(&left.ends[0], &right.ends[0]);
    let gone = left.switch.report().ports[0].id;
    let mut ends = left.ends;
    drop(ends.remove(0));
    // What comes for it meanwhile is dropped; what is flooded reaches the other port until the first has gone.
    while left.switch.report().ports.len() == 2 {
        send(&right.ends[0], &frame(9, 2, 2, 0));
        ends[0].receive_timeout(PATIENCE).unwrap();
    }
    left.workers.stop().unwrap();
    assert_eq!(*left.closed.lock().unwrap(), [gone]);
    assert!(right.closed.lock().unwrap().is_empty());
}

#[test]
fn a_switch_has_one_crew_of_the_size_that_it_was_made_for() {
    let [left, _right] = hosts([1, 1]);
    let underlays = |count| {
        let config = UdpConfig { port: 0, ..UdpConfig::new(Ipv4Addr::LOCALHOST.into(), 1) };
        let all = Udp::bind_all(&config, count).unwrap();
        all.into_iter().map(|underlay| Box::new(underlay) as _).collect()
    };
    let spawn = |count| {
        let spawned =
            Workers::spawn(left.switch.clone(), underlays(count), vec![], WorkerConfig::default(), |_| {});
        spawned.map(drop).map_err(|error| error.kind())
    };
    assert_eq!(spawn(WORKERS), Err(std::io::ErrorKind::ResourceBusy));
    assert_eq!(spawn(WORKERS - 1), Err(std::io::ErrorKind::InvalidInput));
    left.workers.stop().unwrap();
    assert_eq!(spawn(WORKERS), Ok(()));
}
