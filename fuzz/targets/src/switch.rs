//! A whole switch: two ports, one that takes everything unfinished and one that takes nothing, and one peer; a known
//! station at each (`02:00:00:00:00:01`, `…:02` and `…:03`, which has 10.0.0.3 and fd00::3).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use vswitchd_crypto::envelope::{HEADER_LEN as SEAL_HEADER_LEN, OVERHEAD, SessionId, TAG_LEN, is_sealed};
use vswitchd_crypto::key::Key;
use vswitchd_crypto::open::Opener;
use vswitchd_crypto::seal::Sealer;
use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::drops::DropReason;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::outbox::{Outbox, Payload, RUN_BYTES_MAX};
use vswitchd_switch::packet::{DATA_MAX, Pool};
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::tunnel::Protection;
use vswitchd_switch::wire::ethernet::{EtherType, Header};
use vswitchd_switch::wire::probe::{HEADER_LEN as PROBE_LEN, Operation, Probe};
use vswitchd_switch::wire::virtio::{Checksum, HEADER_LEN, Offload};
use vswitchd_switch::wire::{MacAddr, Vni, vxlan};

const BUFFERS: usize = 64;

struct Bench {
    switch: Switch,
    protection: Protection,
    datapath: Datapath,
    rich: PortId,
    poor: PortId,
    peer: SocketAddr,
    pool: Pool,
    out: Outbox,
    now: Instant,
}

impl Bench {
    fn new(protection: Protection) -> Self {
        let (local, peer) =
            (SocketAddr::from(([192, 0, 2, 1], 4789)), SocketAddr::from(([192, 0, 2, 2], 4789)));
        let switch = Switch::new(local, Limits::default());
        if protection == Protection::Sealed {
            switch.seal_network(vni()).expect("nobody is in it");
        }
        let port = |capabilities| {
            let spec = PortSpec {
                name: String::new(),
                vni: vni(),
                mtu: 1_450,
                capabilities,
                storm: StormLimit::default(),
            };
            switch.add_port(spec).expect("room for a port")
        };
        let rich = port(Capabilities { checksum: true, tso: true, uso: true });
        let poor = port(Capabilities::default());
        let far = switch.add_peer(vni(), peer).expect("room for a peer");
        let known = |last, addresses: &[IpAddr], at| {
            switch
                .announce(vni(), MacAddr([2, 0, 0, 0, 0, last]), addresses, at)
                .expect("room for a station");
        };
        known(1, &[], Place::Port(rich));
        known(2, &[], Place::Port(poor));
        known(3, &[[10, 0, 0, 3].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 3].into()], Place::Vtep(far));
        switch.add_opener(far, Arc::new(Opener::new(&key(), session()))).expect("the first");
        if protection == Protection::Sealed {
            switch.set_sealer(far, Some(Arc::new(Sealer::new(&key(), session())))).expect("a peer");
        }
        let datapath = Datapath::new(switch.clone());
        let (pool, out) = (Pool::new(BUFFERS), Outbox::default());
        Self { switch, protection, datapath, rich, poor, peer, pool, out, now: Instant::now() }
    }

    /// A run of datagrams comes in; gives how many frames it came to.
    fn receive(&mut self, from: SocketAddr, run: &[u8], segment: usize) -> usize {
        let mut buf = self.pool.take().expect("all are there between two batches");
        buf.fill(run);
        let mut batch = vec![Received { buf, from, segment }];
        self.datapath.ingress(&mut batch, &mut self.pool, &mut self.out, self.now);
        // Nothing goes back but echoes, to the peer, no longer than the datagrams that came.
        for transmit in &self.out.transmits {
            assert_eq!(transmit.payload, Payload::Reply, "split horizon");
            let longest = segment.min(run.len());
            assert!(transmit.bytes() <= longest, "{} bytes for {longest}", transmit.bytes());
        }
        if self.protection == Protection::Plain {
            came_in(&self.out, run, segment);
        }
        let deliveries = self.out.deliveries.len();
        self.check();
        deliveries
    }

    fn dropped(&self) -> u64 {
        self.switch.drops().occurred().map(|(_, count)| count).sum()
    }

    /// What must hold of every outcome, whatever came in.
    fn check(&mut self) {
        for transmit in &self.out.transmits {
            assert_eq!(transmit.to, self.peer);
            assert!(transmit.segment > 0 && transmit.bytes() <= RUN_BYTES_MAX, "{transmit:?}");
            for datagram in self.out.datagrams(transmit) {
                let datagram = datagram.concat();
                match (transmit.payload, self.protection) {
                    (Payload::Frames(_), _) => {
                        assert_eq!(vxlan::parse(&datagram), Ok(vni()));
                        Header::parse(&datagram[vxlan::HEADER_LEN..]).expect("a whole Ethernet header");
                    }
                    (_, Protection::Plain) => {
                        let reply = Probe::parse(&datagram).expect("a whole probe");
                        assert_eq!(reply.operation, Operation::Reply);
                    }
                    (_, Protection::Sealed) => {
                        assert!(is_sealed(&datagram), "an echo in clear for a peer with a session");
                        assert_eq!(datagram.len(), OVERHEAD + PROBE_LEN);
                    }
                }
            }
        }
        for delivery in &self.out.deliveries {
            let frame = self.out.frame(delivery).collect::<Vec<_>>().concat();
            Header::parse(&frame).expect("a whole Ethernet header");
            if delivery.port == self.poor {
                assert_eq!(delivery.offload.gso, None, "the poor port takes no super-frames");
                assert!(
                    !matches!(delivery.offload.checksum, Checksum::Partial { .. }),
                    "nor unfinished checksums"
                );
            } else {
                let header = delivery.offload.emit();
                let parsed = Offload::parse(&header, frame.len()).expect("what the kernel would take");
                assert_eq!(parsed.gso.map(|gso| gso.size), delivery.offload.gso.map(|gso| gso.size));
                if !delivery.more.is_empty() {
                    let header = Header::parse(&frame).expect("as above");
                    Segmenter::new(&frame, delivery.offload, &header).expect("what was joined can be cut");
                }
            }
        }
        self.out.recycle(&mut self.pool);
        let all: Vec<_> = std::iter::from_fn(|| self.pool.take()).collect();
        assert_eq!(all.len(), BUFFERS, "every buffer came back");
        all.into_iter().for_each(|buf| self.pool.put(buf));
    }
}

/// What the peer seals with.
fn key() -> Key {
    Key::new(&[7; 32])
}

fn session() -> SessionId {
    SessionId::new(7).expect("a small number")
}

fn vni() -> Vni {
    Vni::new(42).expect("a small number")
}

/// A frame from a guest that is not trusted: a virtio-net header and the frame; both ports in turn.
pub fn egress(data: &[u8]) {
    let Some((header, frame)) = data.split_at_checked(HEADER_LEN) else { return };
    let Ok(offload) = Offload::parse(header, frame.len()) else { return };
    if frame.len() > DATA_MAX {
        return;
    }
    let mut bench = Bench::new(Protection::Plain);
    for port in [bench.rich, bench.poor, bench.rich] {
        let mut buf = bench.pool.take().expect("all are there between two batches");
        buf.fill(frame);
        let mut batch = vec![Frame { buf, offload }];
        bench.datapath.egress(port, &mut batch, &mut bench.pool, &mut bench.out, bench.now);
        bench.check();
    }
}

/// What was joined, cut again, is what came in, but for an IPv4 identification that means nothing (RFC 6864 §4).
fn came_in(out: &Outbox, run: &[u8], segment: usize) {
    let frames = || run.chunks(segment).filter_map(|datagram| datagram.get(vxlan::HEADER_LEN..));
    for delivery in out.deliveries.iter().filter(|delivery| !delivery.more.is_empty()) {
        let joined = out.frame(delivery).collect::<Vec<_>>().concat();
        let header = Header::parse(&joined).expect("a whole Ethernet header");
        let segments =
            Segmenter::new(&joined, delivery.offload, &header).expect("what was joined can be cut");
        assert_eq!(segments.len(), 1 + delivery.more.len(), "one for each that was joined");
        for index in 0..segments.len() {
            let mut bytes = vec![0; segments.segment_len(index)];
            segments.write(index, &mut bytes);
            let same = |frame: &[u8]| without_meaningless(frame) == without_meaningless(&bytes);
            assert!(frames().any(same), "segment {index} is none of those that came in");
        }
    }
}

/// The frame with zeros for the identification of an atomic IPv4 packet, and for the checksum over it.
fn without_meaningless(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let header = Header::parse(&frame).ok().filter(|header| header.ether_type == EtherType::IPV4);
    if let Some(ip) = header.and_then(|header| frame.get_mut(header.payload..header.payload + 20))
        && ip[6] & 0x40 != 0
    {
        ip[4..6].fill(0);
        ip[10..12].fill(0);
    }
    frame
}

/// Datagrams from a peer: two bytes of length (big-endian) for the size of each, then all of them back to back.
pub fn ingress(data: &[u8]) {
    let Some((segment, run)) = run_of(data) else { return };
    let mut bench = Bench::new(Protection::Plain);
    for from in [bench.peer, STRANGER] {
        let deliveries = bench.receive(from, run, segment);
        assert!(from == bench.peer || deliveries == 0, "a stranger's frame went somewhere");
    }
    assert!(bench.dropped() > 0 || run.is_empty(), "the stranger's datagrams are counted");
}

/// The same for a sealed network: nothing of it opens as it is; sealed by the peer it passes once, whoever hands
/// it over.
pub fn sealed(data: &[u8]) {
    let Some((segment, run)) = run_of(data) else { return };
    let count = run.chunks(segment).count() as u64;
    let mut bench = Bench::new(Protection::Sealed);
    for from in [bench.peer, STRANGER] {
        assert_eq!(bench.receive(from, run, segment), 0, "what nobody has sealed went somewhere");
    }
    assert_eq!(bench.dropped(), 2 * count.max(1), "each is counted once");

    let sealer = Sealer::new(&key(), session());
    let seal = |packet: &[u8]| {
        let mut datagram = [&[0; SEAL_HEADER_LEN][..], packet, &[0; TAG_LEN]].concat();
        sealer.seal(&mut datagram).expect("a new key");
        datagram
    };
    let run: Vec<u8> = run.chunks(segment).flat_map(seal).collect();
    if run.is_empty() || run.len() > DATA_MAX {
        return;
    }
    let segment = segment.saturating_add(SEAL_HEADER_LEN + TAG_LEN);
    bench.receive(STRANGER, &run, segment);
    let forged = bench.switch.drops().count(DropReason::Forged);
    assert_eq!(bench.receive(bench.peer, &run, segment), 0, "a replay went somewhere");
    let drops = bench.switch.drops();
    assert_eq!(drops.count(DropReason::Replayed), count);
    assert_eq!(drops.count(DropReason::Forged), forged, "what the peer has sealed opens");
}

const STRANGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 4789);

/// The size of each datagram, at least 1, and all of them.
fn run_of(data: &[u8]) -> Option<(usize, &[u8])> {
    let (size, run) = data.split_first_chunk::<2>()?;
    let segment = match usize::from(u16::from_be_bytes(*size)) {
        0 => run.len().max(1),
        segment => segment,
    };
    (run.len() <= DATA_MAX).then_some((segment, run))
}
