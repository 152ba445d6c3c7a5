//! Super-frames are cut as the kernel itself cuts them, byte for byte.
//!
//! The oracle is a bridge with two TAPs: what is written into the one, super-frames and unfinished checksums, has to
//! leave by the other, which takes neither; so the kernel must cut it in software.

use std::fmt::Write;
use std::io::IoSlice;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::{Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};
use vswitchd::switch::segment::Segmenter;
use vswitchd::switch::wire::ethernet::Header;
use vswitchd::switch::wire::virtio::Offload;

use crate::Test;
use crate::fixture::{counters, program, seeded, shape, start, with_offloads};
use crate::station::{frames_until, next_frames, station};
use crate::superframe::{Route, SOURCE, Shape, SuperFrame};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("cutting::the_segmenter_cuts_as_the_kernel_does", segmenter),
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
    fn cut(&mut self, frame: &SuperFrame) -> Result<Vec<Vec<u8>>> {
        // What is written is through the bridge before the write returns; an ordinary frame behind it marks the end.
        let marker = [&frame.bytes[..6], &SOURCE, &[0x88, 0xb5], &[0; 46]].concat();
        let written = self.into.write(&[IoSlice::new(&frame.bytes)], frame.offload);
        self.into.write(&[IoSlice::new(&marker)], Offload::default())?;
        let cut = frames_until(&mut self.out, &SOURCE, &marker)?;
        ensure!(written.is_ok() || cut.is_empty(), "refused ({written:?}) and yet let through");
        Ok(cut)
    }
}

fn same(kernels: &[Vec<u8>], ours: &[Vec<u8>], frame: &SuperFrame) -> Result<()> {
    ensure!(
        kernels.len() == frame.segments(),
        "the kernel made {} frames of {:?}",
        kernels.len(),
        frame.shape
    );
    ensure!(
        kernels.len() == ours.len(),
        "{} frames, the kernel's {}: {:?}",
        ours.len(),
        kernels.len(),
        frame.shape
    );
    for (index, (kernels, ours)) in kernels.iter().zip(ours).enumerate() {
        let headers = |frame: &[u8], payload: usize| {
            frame[..payload.min(frame.len())].iter().fold(String::new(), |mut text, byte| {
                let _written = write!(text, "{byte:02x}");
                text
            })
        };
        ensure!(
            kernels == ours,
            "segment {index} of {:?}:\nours     {} bytes {}\nkernel's {} bytes {}",
            frame.shape,
            ours.len(),
            headers(ours, frame.payload),
            kernels.len(),
            headers(kernels, frame.payload),
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
        let header = Header::parse(&frame.bytes)?;
        let cut = Segmenter::new(&frame.bytes, frame.offload, &header);
        let cut = cut.map_err(|reason| anyhow::anyhow!("{}: {:?}", reason.label(), frame.shape))?;
        let ours = (0..cut.len()).map(|index| {
            let mut out = vec![0xaa; cut.segment_len(index)];
            cut.write(index, &mut out);
            out
        });
        same(&oracle.cut(&frame)?, &ours.collect::<Vec<_>>(), &frame)?;
    }
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
        let kernels = oracle.cut(&frame)?;
        from.write(&[IoSlice::new(&frame.bytes)], frame.offload)?;
        let ours =
            next_frames(&mut to, &SOURCE, kernels.len()).with_context(|| format!("{:?}", frame.shape))?;
        same(&kernels, &ours, &frame)?;
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
