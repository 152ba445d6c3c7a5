//! A switch with stations: 1 at a port that takes everything unfinished, 2 at one that takes nothing, 3 to 5 behind a
//! peer; 9 is nowhere. Services have numbers from 100 on.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use vswitchd_switch::balance::{IdleLimits, ServiceSpec, Task, TaskState};
use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::drops::DropReason;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::offload::finish_checksum;
use vswitchd_switch::outbox::Outbox;
use vswitchd_switch::packet::Pool;
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::virtio::{Checksum, Offload};
use vswitchd_switch::wire::{Vni, vxlan};

use crate::frames::{TTL, V4, V6, ip, mac, with_hops};

/// The service of most tests.
pub(crate) const VIP: u8 = 100;

/// Where a frame has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    /// The port of station 1 or 2.
    Port(u8),
    Peer,
}

/// Frames as they would be on a wire, with their places.
pub(crate) type Out = Vec<(At, Vec<u8>)>;

pub(crate) struct World {
    pub(crate) switch: Switch,
    path: Datapath,
    ports: [PortId; 2],
    peer: SocketAddr,
    pool: Pool,
    out: Outbox,
    /// Deliveries and transmits of the last batch, super-frames as one.
    pub(crate) entries: usize,
    pub(crate) now: Instant,
}

pub(crate) fn vni() -> Vni {
    Vni::new(42).unwrap()
}

pub(crate) fn task(station: u8, state: TaskState) -> Task {
    let (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) = (ip(V4, station), ip(V6, station)) else {
        unreachable!("as asked for")
    };
    Task { mac: mac(station), ipv4: Some(ipv4), ipv6: Some(ipv6), state }
}

pub(crate) fn service(number: u8, tasks: &[u8]) -> ServiceSpec {
    ServiceSpec {
        mac: mac(number),
        addresses: vec![ip(V4, number), ip(V6, number)],
        tasks: tasks.iter().map(|&station| task(station, TaskState::Live)).collect(),
        idle: IdleLimits::default(),
    }
}

impl World {
    /// With the service [`VIP`] of these tasks.
    #[expect(clippy::disallowed_methods, reason = "a test has to begin at some moment")]
    pub(crate) fn new(tasks: &[u8]) -> Self {
        let peer = SocketAddr::from(([192, 0, 2, 2], vxlan::PORT));
        let switch = Switch::new(SocketAddr::from(([192, 0, 2, 1], vxlan::PORT)), Limits::default());
        let all = Capabilities { checksum: true, tso: true, uso: true };
        let ports = [all, Capabilities::default()].map(|capabilities| {
            let storm = StormLimit::default();
            let spec = PortSpec { name: String::new(), vni: vni(), mtu: 1_450, capabilities, storm };
            switch.add_port(spec).unwrap()
        });
        let far = switch.add_peer(vni(), peer).unwrap();
        for station in 1..=5 {
            let at = match station {
                1 | 2 => Place::Port(ports[usize::from(station) - 1]),
                _ => Place::Vtep(far),
            };
            let addresses = [ip(V4, station), ip(V6, station)];
            switch.announce(vni(), mac(station), &addresses, at).unwrap();
        }
        let (path, pool, out) = (Datapath::new(switch.clone()), Pool::new(64), Outbox::default());
        let world = Self { switch, path, ports, peer, pool, out, entries: 0, now: Instant::now() };
        world.serve(service(VIP, tasks));
        world
    }

    pub(crate) fn serve(&self, spec: ServiceSpec) {
        self.switch.set_service(vni(), spec).unwrap();
    }

    /// Station 1 or 2 sends.
    pub(crate) fn send(&mut self, from: u8, frame: &[u8]) -> Out {
        self.send_with(from, frame, Offload::default())
    }

    pub(crate) fn send_with(&mut self, from: u8, frame: &[u8], offload: Offload) -> Out {
        let mut buf = self.pool.take().unwrap();
        buf.fill(frame);
        let port = self.ports[usize::from(from) - 1];
        let mut batch = vec![Frame { buf, offload }];
        self.path.egress(port, &mut batch, &mut self.pool, &mut self.out, self.now);
        self.outcome()
    }

    /// A frame comes from the peer.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> Out {
        self.receive_run(&[frame.to_vec()])
    }

    /// Frames of one length come together, joined by the kernel.
    pub(crate) fn receive_run(&mut self, frames: &[Vec<u8>]) -> Out {
        let datagram = |frame: &Vec<u8>| [&vxlan::emit(vni())[..], frame].concat();
        let run: Vec<u8> = frames.iter().flat_map(datagram).collect();
        let mut buf = self.pool.take().unwrap();
        buf.fill(&run);
        let segment = frames[0].len() + vxlan::HEADER_LEN;
        let mut batch = vec![Received { buf, from: self.peer, segment }];
        self.path.ingress(&mut batch, &mut self.pool, &mut self.out, self.now);
        self.outcome()
    }

    /// Time passes, a second at a time; what is sent meanwhile.
    pub(crate) fn wait(&mut self, seconds: u64) -> Out {
        let mut sent = Vec::new();
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            sent.extend(self.turn());
        }
        sent
    }

    /// What the first worker has to say of itself, until it has no more.
    pub(crate) fn turn(&mut self) -> Out {
        let mut sent = Vec::new();
        loop {
            self.path.poll_resets(&mut self.pool, &mut self.out, self.now);
            sent.extend(self.outcome());
            if self.path.next_deadline().is_none_or(|due| due > self.now) {
                return sent;
            }
        }
    }

    pub(crate) fn dropped(&self) -> Vec<(DropReason, u64)> {
        self.switch.drops().occurred().collect()
    }

    fn outcome(&mut self) -> Out {
        self.entries = self.out.deliveries.len() + self.out.transmits.len();
        let mut got = Vec::new();
        for delivery in &self.out.deliveries {
            let frame = self.out.frame(delivery).collect::<Vec<_>>().concat();
            let port = self.ports.iter().position(|&port| port == delivery.port).unwrap();
            let at = At::Port(u8::try_from(port + 1).unwrap());
            assert!(
                at == At::Port(1) || delivery.offload.gso.is_none(),
                "the poor port takes no super-frames"
            );
            got.extend(finished(frame, delivery.offload).into_iter().map(|frame| (at, frame)));
        }
        for transmit in &self.out.transmits {
            assert_eq!(transmit.to, self.peer);
            for datagram in self.out.datagrams(transmit) {
                got.push((At::Peer, datagram.concat().split_off(vxlan::HEADER_LEN)));
            }
        }
        self.out.recycle(&mut self.pool);
        got
    }
}

/// What the switch itself says, as if a station had said it: that has another TTL.
pub(crate) fn said(out: Out) -> Out {
    out.into_iter().map(|(at, frame)| (at, with_hops(frame, TTL))).collect()
}

/// What a kernel makes of a frame for somebody who takes nothing unfinished.
fn finished(mut frame: Vec<u8>, offload: Offload) -> Vec<Vec<u8>> {
    if offload.gso.is_some() {
        let header = Header::parse(&frame).unwrap();
        let segments = Segmenter::new(&frame, offload, &header).unwrap();
        let segment = |index| {
            let mut bytes = vec![0; segments.segment_len(index)];
            segments.write(index, &mut bytes);
            bytes
        };
        return (0..segments.len()).map(segment).collect();
    }
    if let Checksum::Partial { start, offset } = offload.checksum {
        finish_checksum(&mut frame, start, offset).unwrap();
    }
    vec![frame]
}
