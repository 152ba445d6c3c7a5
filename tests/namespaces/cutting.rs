//! Super-frames are cut as the kernel itself cuts them, byte for byte.
//!
//! The oracle is a bridge with two TAPs: what is written into the one, super-frames and unfinished checksums, has to
//! leave by the other, which takes neither; so the kernel must cut it in software.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow, ensure};
use vswitchd::lab::{Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};
use vswitchd::switch::segment::Segmenter;
use vswitchd::switch::wire::ethernet::Header;
use vswitchd::switch::wire::virtio::Offload;

use crate::Test;
use crate::fixture::{counters, program, seeded, set, shape, start, tcp, with_offloads};
use crate::relay::{Relay, mark};
use crate::station::{frames_until, next_frames, station};
use crate::superframe::{Route, SOURCE, Shape};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("cutting::the_segmenter_cuts_as_the_kernel_does", segmenter),
        ("cutting::super_frames_of_a_real_tcp_too", of_a_real_tcp),
        ("cutting::a_switch_cuts_as_the_kernel_does", through_switches),
    ]
}

/// Super-frames of each test; each comes to up to 128 segments.
const ROUNDS: usize = 1_500;
/// IP packets on the oracle's links: jumbo frames and less.
const ORACLE_MTU: u32 = 9_000;

/// The kernel, made to cut.
struct Oracle {
    into: Tap,
    out: Tap,
}

impl Oracle {
    fn new() -> Result<Self> {
        let netns = NetNs::create()?;
        let mut netlink = Netlink::open(&netns)?;
        netlink.add_bridge("br0", ORACLE_MTU)?;
        let open = |name: &str, offloads| -> Result<Tap> {
            let config = TapConfig { offloads, mtu: Some(ORACLE_MTU), ..TapConfig::new(name) };
            Ok(netns.run(|| Tap::open(&config))??)
        };
        let (into, out) = (open("into", Offloads::ALL)?, open("out", Offloads::NONE)?);
        for port in ["into", "out"] {
            netlink.attach(port, "br0")?;
        }
        netlink.set_up("br0")?;
        ensure!(into.capabilities().tso && into.capabilities().checksum, "the kernel has no TSO for TAPs");
        Ok(Self { into, out })
    }

    /// What the kernel makes of a super-frame; nothing if it refuses it.
    fn cut(&mut self, frame: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>> {
        // What is written is through the bridge before the write returns; an ordinary frame behind it marks the end.
        let marker = [&frame[..12], &[0x88, 0xb5], &[0; 46]].concat();
        let written = self.into.write(&[IoSlice::new(frame)], offload);
        self.into.write(&[IoSlice::new(&marker)], Offload::default())?;
        let cut = frames_until(&mut self.out, &frame[6..12], &marker)?;
        ensure!(written.is_ok() || cut.is_empty(), "refused ({written:?}) and yet let through");
        Ok(cut)
    }
}

/// What our segmenter makes of it.
fn our_cut(frame: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>> {
    let header = Header::parse(frame)?;
    let cut = Segmenter::new(frame, offload, &header).map_err(|reason| anyhow!("{}", reason.label()))?;
    let segment = |index| {
        let mut out = vec![0xaa; cut.segment_len(index)];
        cut.write(index, &mut out);
        out
    };
    Ok((0..cut.len()).map(segment).collect())
}

/// `headers_len` is how much of a frame is worth being shown.
fn same(kernels: &[Vec<u8>], ours: &[Vec<u8>], headers_len: usize) -> Result<()> {
    ensure!(kernels.len() == ours.len(), "{} frames, the kernel's {}", ours.len(), kernels.len());
    for (index, (kernels, ours)) in kernels.iter().zip(ours).enumerate() {
        let headers = |frame: &[u8]| {
            let bytes = frame[..headers_len.min(frame.len())].iter();
            format!("{} bytes {}", frame.len(), bytes.map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        ensure!(
            kernels == ours,
            "segment {index}:\nours     {}\nkernel's {}",
            headers(ours),
            headers(kernels)
        );
    }
    Ok(())
}

fn segmenter() -> Result<()> {
    let (mut rng, mut oracle) = (seeded(), Oracle::new()?);
    let uso = oracle.into.capabilities().uso;
    for _ in 0..ROUNDS {
        let shape = Shape::random(&mut rng, ORACLE_MTU as usize);
        if shape.udp && !uso {
            continue;
        }
        let frame = shape.build(&Route::nowhere());
        let kernels = oracle.cut(&frame.bytes, frame.offload)?;
        let ours = our_cut(&frame.bytes, frame.offload).with_context(|| format!("{:?}", frame.shape))?;
        ensure!(ours.len() == frame.segments(), "{} segments of {:?}", ours.len(), frame.shape);
        same(&kernels, &ours, frame.payload).with_context(|| format!("{:?}", frame.shape))?;
    }
    Ok(())
}

/// A host with a TAP of the test's.
fn host(v4: Ipv4Addr, v6: Ipv6Addr) -> Result<(NetNs, Tap)> {
    let netns = NetNs::create()?;
    let tap = netns.run(|| Tap::open(&TapConfig::new("eth0")))??;
    let mut netlink = Netlink::open(&netns)?;
    netlink.set_up("lo")?;
    netlink.add_address("eth0", v4.into(), 24)?;
    netlink.add_address("eth0", v6.into(), 64)?;
    set(&netns, "ipv4/tcp_ecn", "1")?;
    Ok((netns, tap))
}

/// What a kernel's TCP makes by itself: timestamps, PSH and FIN where they come, CWR after marks.
fn of_a_real_tcp() -> Result<()> {
    const MARKED: u32 = 16;
    const CAPTURED_MAX: usize = 1_000;
    let [v4, far_v4] = [1, 2].map(|host| Ipv4Addr::new(10, 77, 0, host));
    let [v6, far_v6] = [1, 2].map(|host| Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host));
    let ((here, near), (there, far)) = (host(v4, v6)?, host(far_v4, far_v6)?);
    let (capture, captured) = sync_channel(CAPTURED_MAX);
    let mut rng = seeded();
    let relay = Relay::start([near, far], move |from, frame| {
        if from == 0 && frame.offload.gso.is_some() {
            // Enough is enough.
            let _full = capture.try_send((frame.buf.data().to_vec(), frame.offload));
        }
        // What can't be marked is carried all the same.
        let _marked = rng.u32(..MARKED) == 0 && mark(frame);
        true
    })?;
    for address in [IpAddr::V4(far_v4), far_v6.into()] {
        tcp(&here, &there, address, 16 << 20)?;
    }
    relay.stop()?;
    let (mut oracle, mut with_cwr) = (Oracle::new()?, 0);
    let captured: Vec<(Vec<u8>, Offload)> = captured.into_iter().collect();
    for (frame, offload) in &captured {
        let (kernels, ours) = (oracle.cut(frame, *offload)?, our_cut(frame, *offload)?);
        same(&kernels, &ours, 100).with_context(|| format!("{offload:?}"))?;
        with_cwr += usize::from(offload.gso.is_some_and(|gso| gso.ecn));
    }
    ensure!(captured.len() > 100 && with_cwr > 0, "{} super-frames, {with_cwr} with CWR", captured.len());
    Ok(())
}

/// A station's super-frames, as they leave another host whose switch and TAP take none.
fn through_switches() -> Result<()> {
    if !with_offloads() {
        return Ok(());
    }
    let (mut rng, mut oracle) = (seeded(), Oracle::new()?);
    let mut lab = Lab::build(Plan::new(shape(2, 1, 1, false))?)?;
    start(&mut lab, 0..1, &[])?;
    start(&mut lab, 1..2, &["--no-offload"])?;
    let mut from = station(&lab.nodes()[0].endpoints()[0], Offloads::ALL)?;
    let mut to = station(&lab.nodes()[1].endpoints()[0], Offloads::NONE)?;
    // The far station says something first, so that nothing is flooded (and limited).
    let route = Route::nowhere();
    let hello = [&SOURCE[..], &route.mac, &[0x88, 0xb5], &[0; 46]].concat();
    to.write(&[IoSlice::new(&hello)], Offload::default())?;
    next_frames(&mut from, &route.mac, 1).context("the far station's word")?;
    for _ in 0..ROUNDS {
        let shape = Shape::random(&mut rng, 1_450);
        if shape.udp && !from.capabilities().uso {
            continue;
        }
        let frame = shape.build(&route);
        // The kernel cuts longer ones itself: see `Protection::super_frame_max`.
        if frame.bytes.len() >= 62_000 {
            continue;
        }
        let kernels = oracle.cut(&frame.bytes, frame.offload)?;
        from.write(&[IoSlice::new(&frame.bytes)], frame.offload)?;
        let ours =
            next_frames(&mut to, &SOURCE, kernels.len()).with_context(|| format!("{:?}", frame.shape))?;
        same(&kernels, &ours, frame.payload).with_context(|| format!("{:?}", frame.shape))?;
    }
    // The bridge has not cut them before the switch saw them.
    let port = &counters(program(&lab, 0)?)?["ports"][0];
    ensure!(port["rx_frames"].as_u64() < Some(2 * ROUNDS as u64), "too many for super-frames: {port}");
    for node in [0, 1] {
        let drops = &counters(program(&lab, node)?)?["drops"];
        ensure!(drops.as_object().is_some_and(serde_json::Map::is_empty), "node {node} drops {drops}");
    }
    Ok(())
}
