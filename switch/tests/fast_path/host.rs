//! A switch with one port and one peer, driven by hand.

use std::net::SocketAddr;
use std::time::Instant;

use vswitchd_switch::datapath::Datapath;
use vswitchd_switch::fdb::{Limits, Place};
use vswitchd_switch::io::{Capabilities, Frame, Received};
use vswitchd_switch::outbox::{Delivery, Outbox};
use vswitchd_switch::packet::{PacketBuf, Pool};
use vswitchd_switch::segment::Segmenter;
use vswitchd_switch::storm::StormLimit;
use vswitchd_switch::switch::Switch;
use vswitchd_switch::tables::{PortId, PortSpec};
use vswitchd_switch::wire::ethernet::Header;
use vswitchd_switch::wire::virtio::{Checksum, Offload};
use vswitchd_switch::wire::{MacAddr, Vni, vxlan};

use crate::packet::{RECEIVER, SENDER};

pub(crate) const ALL: Capabilities = Capabilities { checksum: true, tso: true, uso: true };
pub(crate) const NONE: Capabilities = Capabilities { checksum: false, tso: false, uso: false };

/// A frame with what is left to do to it.
pub(crate) type Whole = (Vec<u8>, Offload);

/// A host of two.
pub(crate) struct Host {
    path: Datapath,
    port: PortId,
    peer: SocketAddr,
    pool: Pool,
    out: Outbox,
    now: Instant,
}

impl Host {
    /// The one that [`SENDER`] is at.
    pub(crate) fn sending(capabilities: Capabilities) -> Self {
        Self::new(1, SENDER, RECEIVER, capabilities)
    }

    /// The one that [`RECEIVER`] is at.
    pub(crate) fn receiving(capabilities: Capabilities) -> Self {
        Self::new(2, RECEIVER, SENDER, capabilities)
    }

    #[expect(clippy::disallowed_methods, reason = "a test has to begin at some moment")]
    fn new(number: u8, here: MacAddr, there: MacAddr, capabilities: Capabilities) -> Self {
        let address = |number| SocketAddr::from(([192, 0, 2, number], vxlan::PORT));
        let (local, peer) = (address(number), address(3 - number));
        let switch = Switch::new(local, Limits::default());
        let storm = StormLimit::default();
        let spec = PortSpec { name: "port".into(), vni: vni(), mtu: 1_450, capabilities, storm };
        let port = switch.add_port(spec).expect("the first port");
        let far = switch.add_peer(vni(), peer).expect("the first peer");
        switch.announce(vni(), here, &[], Place::Port(port)).expect("the first station");
        switch.announce(vni(), there, &[], Place::Vtep(far)).expect("the second station");
        let (path, pool, out) = (Datapath::new(switch), Pool::new(1_024), Outbox::default());
        Self { path, port, peer, pool, out, now: Instant::now() }
    }

    /// Takes a batch from the port; gives the datagrams for the peer, with their entropy.
    pub(crate) fn egress(&mut self, batch: &[Whole]) -> Vec<(u32, Vec<u8>)> {
        let mut frames: Vec<Frame> =
            batch.iter().map(|(bytes, offload)| Frame { buf: self.buf(bytes), offload: *offload }).collect();
        self.path.egress(self.port, &mut frames, &mut self.pool, &mut self.out, self.now);
        let mut datagrams = Vec::new();
        for transmit in &self.out.transmits {
            assert_eq!(transmit.to, self.peer);
            let run = self.out.datagrams(transmit);
            datagrams.extend(run.map(|datagram| (transmit.entropy, datagram.concat())));
        }
        self.end_of_batch();
        datagrams
    }

    /// Takes a batch of runs from the peer, each of datagrams that are equally long but for the last; gives what the
    /// port is given.
    pub(crate) fn ingress(&mut self, runs: &[&[Vec<u8>]]) -> Vec<Whole> {
        let from = self.peer;
        let received = |run: &&[Vec<u8>]| (self.buf(&run.concat()), run[0].len());
        let received: Vec<_> = runs.iter().map(received).collect();
        let mut batch: Vec<_> =
            received.into_iter().map(|(buf, segment)| Received { buf, from, segment }).collect();
        self.path.ingress(&mut batch, &mut self.pool, &mut self.out, self.now);
        let whole =
            |delivery: &Delivery| (self.out.frame(delivery).collect::<Vec<_>>().concat(), delivery.offload);
        let delivered = self.out.deliveries.iter().map(whole).collect();
        self.end_of_batch();
        delivered
    }

    fn buf(&mut self, bytes: &[u8]) -> PacketBuf {
        let mut buf = self.pool.take().expect("the pool holds a batch");
        buf.fill(bytes);
        buf
    }

    fn end_of_batch(&mut self) {
        self.out.recycle(&mut self.pool);
        let dropped: Vec<_> = self.path.switch().drops().occurred().collect();
        assert!(dropped.is_empty(), "{dropped:?}");
    }
}

/// What the kernel behind a port makes of a delivery for somebody without offloads.
///
/// # Panics
/// If a kernel would refuse the delivery.
pub(crate) fn cut((frame, offload): &Whole) -> Vec<Vec<u8>> {
    assert_eq!(Offload::parse(&offload.emit(), frame.len()), Ok(*offload), "what a device is told");
    if offload.gso.is_none() {
        assert!(!matches!(offload.checksum, Checksum::Partial { .. }), "everything sent was complete");
        return vec![frame.clone()];
    }
    let header = Header::parse(frame).expect("a whole Ethernet header");
    let segments = Segmenter::new(frame, *offload, &header).expect("a good super-frame");
    assert!(
        (2..=64).contains(&segments.len()),
        "a kernel takes 2 to 64 UDP segments, not {}",
        segments.len()
    );
    let segment = |index| {
        let mut bytes = vec![0; segments.segment_len(index)];
        segments.write(index, &mut bytes);
        bytes
    };
    (0..segments.len()).map(segment).collect()
}

pub(crate) fn vni() -> Vni {
    Vni::new(42).expect("24 bits")
}
