//! Several switches on a simulated underlay, driven by hand: virtual time, one seed, no thread, no socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vswitchd::crypto::envelope::SessionId;
use vswitchd::crypto::key::Key;
use vswitchd::crypto::open::Opener;
use vswitchd::crypto::seal::Sealer;
use vswitchd::switch::datapath::Datapath;
use vswitchd::switch::fdb::Limits;
use vswitchd::switch::io::mem::{Faults, Wire};
use vswitchd::switch::io::{Capabilities, Frame, Received, SendError};
use vswitchd::switch::outbox::Outbox;
use vswitchd::switch::packet::Pool;
use vswitchd::switch::probe::{PathChange, ProbeConfig};
use vswitchd::switch::storm::StormLimit;
use vswitchd::switch::switch::Switch;
use vswitchd::switch::tables::{PortId, PortSpec};
use vswitchd::switch::wire::virtio::Offload;
use vswitchd::switch::wire::{MacAddr, Vni, vxlan};

pub(crate) const WIRE_QUEUE: usize = 100_000;

/// A frame that a port was given: which host, which of its ports, its bytes.
pub(crate) type Delivered = (usize, usize, Vec<u8>);

pub(crate) struct World {
    pub(crate) hosts: Vec<Host>,
    pub(crate) wire: Wire<usize, Vec<u8>>,
    pub(crate) now: Instant,
    pub(crate) delivered: Vec<Delivered>,
    /// Datagrams put on the wire.
    pub(crate) datagrams: usize,
    /// Those since it was last looked at: from whom, for whom.
    pub(crate) sent: Vec<(usize, usize, Vec<u8>)>,
    /// What the wire carries, in bytes of UDP payload; it swallows larger datagrams.
    pub(crate) carries: usize,
    /// What a host's own link carries; it refuses to send larger datagrams.
    pub(crate) link: usize,
    /// How paths have changed: at which host, to which.
    pub(crate) changes: Vec<(usize, usize, PathChange)>,
}

pub(crate) struct Host {
    pub(crate) switch: Switch,
    pub(crate) ports: Vec<PortId>,
    datapath: Datapath,
    pool: Pool,
    out: Outbox,
}

pub(crate) fn vni(id: u32) -> Vni {
    Vni::new(id).expect("a small number")
}

/// The station at a port of a host; the same in every network, on purpose.
pub(crate) fn mac(host: usize, port: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, u8::try_from(host).expect("few"), u8::try_from(port).expect("few")])
}

pub(crate) fn address(host: usize) -> SocketAddr {
    let last = u8::try_from(host).expect("few hosts") + 1;
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)), vxlan::PORT)
}

/// The key of one direction, of some generation.
pub(crate) fn key(from: usize, to: usize, generation: u8) -> Key {
    let info = [from, to].map(|host| u8::try_from(host).expect("few hosts"));
    Key::derive(b"no secret at all", &[&info, &[generation]])
}

/// What each host calls the key of what comes `from` another.
pub(crate) fn session(from: usize, generation: u8) -> SessionId {
    SessionId::new(u32::try_from(from).expect("few hosts") << 8 | u32::from(generation)).expect("24 bits")
}

/// A frame whose payload is its number, padded to Ethernet's least.
pub(crate) fn frame(to: MacAddr, from: MacAddr, number: u64) -> Vec<u8> {
    let mut bytes = [&to.0[..], &from.0[..], &[0x88, 0xb5], &number.to_be_bytes()].concat();
    bytes.resize(60, 0x5a);
    bytes
}

impl World {
    /// Hosts that all know each other; each has a port in every network named for it.
    pub(crate) fn new(networks: &[&[u32]], faults: Faults, seed: u64) -> Self {
        Self::with_sealed(networks, &[], faults, seed)
    }

    /// As [`Self::new`], with some networks sealed.
    pub(crate) fn with_sealed(networks: &[&[u32]], sealed: &[u32], faults: Faults, seed: u64) -> Self {
        println!("seed {seed}");
        let hosts = (0..networks.len()).map(|host| Host::new(host, networks, sealed)).collect();
        let wire = Wire::new(faults, seed, WIRE_QUEUE);
        let now = Instant::now();
        Self {
            hosts,
            wire,
            now,
            delivered: Vec::new(),
            datagrams: 0,
            sent: Vec::new(),
            carries: usize::MAX,
            link: usize::MAX,
            changes: Vec::new(),
        }
    }

    /// A station sends a frame; the wire then runs dry unless it delays.
    pub(crate) fn send(&mut self, host: usize, port: usize, bytes: &[u8]) {
        self.send_offload(host, port, bytes, Offload::default());
    }

    pub(crate) fn send_offload(&mut self, host: usize, port: usize, bytes: &[u8], offload: Offload) {
        let at = &mut self.hosts[host];
        let mut buf = at.pool.take().expect("a buffer: the outbox is emptied after each frame");
        buf.fill(bytes);
        let mut batch = vec![Frame { buf, offload }];
        at.datapath.egress(at.ports[port], &mut batch, &mut at.pool, &mut at.out, self.now);
        self.carry_out(host);
        self.settle();
    }

    /// A datagram arrives that no switch of ours has sent.
    pub(crate) fn receive(&mut self, host: usize, from: SocketAddr, datagram: &[u8]) {
        let at = &mut self.hosts[host];
        let mut buf = at.pool.take().expect("a buffer: the outbox is emptied after each batch");
        buf.fill(datagram);
        let mut batch = vec![Received { buf, from, segment: datagram.len().max(1) }];
        at.datapath.ingress(&mut batch, &mut at.pool, &mut at.out, self.now);
        self.carry_out(host);
    }

    /// Lets time pass, delivering what falls due, and ageing every second.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let second = self.now + Duration::from_secs(1);
            let probes = self.hosts.iter().filter_map(|host| host.datapath.next_deadline());
            let next = probes.chain(self.wire.next_deadline()).min();
            let next = next.map_or(second, |due| due.clamp(self.now, second));
            self.now = next.min(end);
            self.settle();
            self.probe();
            if self.now == second {
                self.hosts.iter().for_each(|host| host.switch.age(self.now));
            }
        }
    }

    /// Has a host probe the paths to the others.
    pub(crate) fn set_probing(&mut self, host: usize, seed: u64) {
        self.hosts[host].switch.set_probing(Some(ProbeConfig::new(seed)));
        self.probe();
    }

    fn probe(&mut self) {
        for host in 0..self.hosts.len() {
            let at = &mut self.hosts[host];
            at.datapath.handle_timeout(self.now);
            at.datapath.poll_probes(&mut at.pool, &mut at.out, self.now);
            self.carry_out(host);
            while let Some(event) = self.hosts[host].switch.poll_path_event() {
                let to = (0..).find(|&host| address(host) == event.address).expect("a host's address");
                self.changes.push((host, to, event.change));
            }
        }
    }

    pub(crate) fn take_delivered(&mut self) -> Vec<Delivered> {
        std::mem::take(&mut self.delivered)
    }

    pub(crate) fn drops(&self, host: usize) -> Vec<(&'static str, u64)> {
        self.hosts[host].switch.drops().occurred().map(|(reason, count)| (reason.label(), count)).collect()
    }

    fn settle(&mut self) {
        while let Some((from, to, datagram)) = self.wire.poll(self.now) {
            self.receive(to, address(from), &datagram);
        }
    }

    fn carry_out(&mut self, host: usize) {
        let at = &mut self.hosts[host];
        for transmit in &at.out.transmits {
            let to = (0..).find(|&host| address(host) == transmit.to).expect("a host's address");
            for datagram in at.out.datagrams(transmit).map(|pieces| pieces.concat()) {
                if datagram.len() > self.link {
                    at.datapath.handle_unsent(transmit, &SendError::TooBig, self.now);
                    continue;
                }
                self.datagrams += 1;
                if datagram.len() > self.carries {
                    continue;
                }
                self.sent.push((host, to, datagram.clone()));
                self.wire.send(host, to, datagram, self.now);
            }
        }
        for delivery in &at.out.deliveries {
            let port = at.ports.iter().position(|&id| id == delivery.port).expect("one of the host's ports");
            self.delivered.push((host, port, at.out.frame(delivery).collect::<Vec<_>>().concat()));
        }
        at.out.recycle(&mut at.pool);
    }
}

impl Host {
    fn new(host: usize, networks: &[&[u32]], sealed: &[u32]) -> Self {
        let limits = Limits { entries_max: 64, ..Limits::default() };
        let switch = Switch::new(address(host), limits);
        sealed.iter().for_each(|&id| switch.seal_network(vni(id)).expect("nobody is in it"));
        let ports = networks[host]
            .iter()
            .enumerate()
            .map(|(port, &id)| {
                let spec = PortSpec {
                    name: format!("{host}.{port}"),
                    vni: vni(id),
                    mtu: 1_450,
                    capabilities: Capabilities::default(),
                    storm: StormLimit::default(),
                };
                switch.add_port(spec).expect("room for a port")
            })
            .collect();
        for &id in networks[host] {
            for peer in (0..networks.len()).filter(|&peer| peer != host && networks[peer].contains(&id)) {
                switch.add_peer(vni(id), address(peer)).expect("room for a peer");
            }
        }
        for (id, peer) in switch.tables().topology.peers.sorted() {
            let other = (0..networks.len()).find(|&other| address(other) == peer.address).expect("a host");
            let sealer = Sealer::new(&key(host, other, 0), session(host, 0));
            let opener = Opener::new(&key(other, host, 0), session(other, 0));
            switch.set_sealer(id, Some(Arc::new(sealer))).expect("a peer");
            switch.add_opener(id, Arc::new(opener)).expect("room for a session");
        }
        let datapath = Datapath::new(switch.clone());
        Self { switch, ports, datapath, pool: Pool::new(16), out: Outbox::default() }
    }
}
