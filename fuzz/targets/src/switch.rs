//! A whole switch: two ports, one that takes everything unfinished and one that takes nothing, and one peer; a known
//! station at each (`02:00:00:00:00:01`, `…:02` and `…:03`, which has 10.0.0.3 and fd00::3).

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::outbox::{Outbox, RUN_BYTES_MAX};
use vswitchd_switch::packet::{DATA_MAX, Pool};
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::ethernet::{EtherType, Header};
use vswitchd_switch::wire::virtio::{Checksum, HEADER_LEN, Offload};
use vswitchd_switch::wire::{MacAddr, Vni, vxlan};

const BUFFERS: usize = 64;

struct Bench {
    switch: Switch,
    datapath: Datapath,
    rich: PortId,
    poor: PortId,
    peer: SocketAddr,
    pool: Pool,
    out: Outbox,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (local, peer) =
            (SocketAddr::from(([192, 0, 2, 1], 4789)), SocketAddr::from(([192, 0, 2, 2], 4789)));
        let switch = Switch::new(local, Limits::default());
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
        let datapath = Datapath::new(switch.clone());
        let (pool, out) = (Pool::new(BUFFERS), Outbox::default());
        Self { switch, datapath, rich, poor, peer, pool, out, now: Instant::now() }
    }

    /// What must hold of every outcome, whatever came in.
    fn check(&mut self) {
        for transmit in &self.out.transmits {
            assert_eq!(transmit.to, self.peer);
            assert!(transmit.segment > 0 && transmit.range.len() <= RUN_BYTES_MAX, "{transmit:?}");
            for datagram in self.out.datagrams(transmit).chunks(transmit.segment) {
                assert_eq!(vxlan::parse(datagram), Ok(vni()));
                Header::parse(&datagram[vxlan::HEADER_LEN..]).expect("a whole Ethernet header");
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
    let mut bench = Bench::new();
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
    let Some((size, run)) = data.split_first_chunk::<2>() else { return };
    if run.len() > DATA_MAX {
        return;
    }
    let segment = match usize::from(u16::from_be_bytes(*size)) {
        0 => run.len().max(1),
        segment => segment,
    };
    let mut bench = Bench::new();
    for from in [bench.peer, SocketAddr::from(([198, 51, 100, 1], 4789))] {
        let mut buf = bench.pool.take().expect("all are there between two batches");
        buf.fill(run);
        let mut batch = vec![Received { buf, from, segment }];
        bench.datapath.ingress(&mut batch, &mut bench.pool, &mut bench.out, bench.now);
        assert!(bench.out.transmits.is_empty(), "split horizon");
        assert!(from == bench.peer || bench.out.deliveries.is_empty(), "a stranger's frame went somewhere");
        came_in(&bench.out, run, segment);
        bench.check();
    }
    let dropped: u64 = bench.switch.drops().occurred().map(|(_, count)| count).sum();
    assert!(dropped > 0 || run.is_empty(), "the stranger's datagrams are counted");
}
