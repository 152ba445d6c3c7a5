//! UDP super-frames end to end: what an endpoint writes at once crosses as datagrams, and its peer's kernel takes
//! what was joined for it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::tap::{Tap, TapConfig};
use vswitchd::switch::io::udp::{Udp, UdpConfig};
use vswitchd::switch::io::{DatagramIo, Received};
use vswitchd::switch::outbox::{Outbox, Transmit};
use vswitchd::switch::packet::Pool;
use vswitchd::switch::vtep::VtepId;
use vswitchd::switch::wire::Vni;

use crate::Test;
use crate::fixture::{PATIENCE, counters, lab, program, shape, udp};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("datagrams::a_super_frame_arrives_as_one", whole),
        ("datagrams::a_socket_that_asks_for_nothing_is_given_each", each),
    ]
}

/// Bytes of each datagram, and of the last one.
const SIZE: usize = 1_200;
const LAST: usize = 7;
/// Datagrams of a run: as many of the full size fit a UDP payload of 64 KiB behind the overlay's headers.
const COUNT: usize = 50;

fn pattern() -> Vec<u8> {
    (0..(COUNT - 1) * SIZE + LAST).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

fn socket(netns: &NetNs, local: IpAddr) -> Result<Udp> {
    let config = UdpConfig { port: 0, source_ports: 1, ..UdpConfig::new(local, 1) };
    Ok(netns.run(|| Udp::bind(&config))??)
}

/// Writes [`COUNT`] datagrams at once.
fn send(udp: &mut Udp, to: SocketAddr) -> Result<()> {
    let (mut pool, mut out, mut failed) = (Pool::new(1), Outbox::default(), Vec::new());
    let mut buf = pool.take().context("a buffer")?;
    buf.fill(&pattern());
    let (range, vni) = (buf.range(), Vni::new(1).context("24 bits")?);
    out.packets.push(buf);
    out.transmits.push(Transmit {
        peer: VtepId(1),
        to,
        vni,
        overhead: 0,
        entropy: 0,
        packet: 0,
        range,
        segment: SIZE,
        heads: None,
    });
    udp.send(&out, &mut failed);
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// Receives until as many bytes have come as were sent.
fn receive(udp: &mut Udp, pool: &mut Pool) -> Result<Vec<Received>> {
    let deadline = Instant::now() + PATIENCE;
    let mut received: Vec<Received> = Vec::new();
    while received.iter().map(|run| run.buf.data().len()).sum::<usize>() < pattern().len() {
        ensure!(Instant::now() < deadline, "only {received:?} came within {PATIENCE:?}");
        let ready = udp.pollable();
        let mut waiting: Vec<_> = ready.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        poll(&mut waiting, Some(&Timespec::try_from(Duration::from_secs(1))?))?;
        drop(waiting);
        udp.receive(pool, &mut received, COUNT)?;
    }
    Ok(received)
}

/// Whether the kernel's TAPs have UDP super-frames (Linux 6.2). Where they don't, a run is but what UDP makes of it,
/// which `CI=true` forbids.
fn has_super_frames() -> Result<bool> {
    let uso = NetNs::create()?.run(|| Tap::open(&TapConfig::new("probe")))??.offloads().uso;
    if !uso {
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "with CI=true there must be USO");
        eprintln!("\nA PART OF THIS TEST CAN'T RUN HERE: the kernel's TAPs have no UDP super-frames\n");
    }
    Ok(uso)
}

fn whole() -> Result<()> {
    let uso = has_super_frames()?;
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    let families: [(IpAddr, IpAddr); 2] =
        [(a.plan().v4.into(), b.plan().v4.into()), (a.plan().v6.into(), b.plan().v6.into())];
    for (here, there) in families {
        let (mut client, mut server) = (socket(a.netns(), here)?, socket(b.netns(), there)?);
        let mut pool = Pool::new(2 * COUNT);
        send(&mut client, server.local_addr())?;
        let received = receive(&mut server, &mut pool).with_context(|| format!("to {there}"))?;
        let bytes: Vec<u8> = received.iter().flat_map(|run| run.buf.data()).copied().collect();
        ensure!(bytes == pattern(), "to {there}: other bytes than were sent");
        let runs: Vec<_> = received.iter().map(|run| (run.buf.data().len(), run.segment)).collect();
        ensure!(!uso || runs == [(bytes.len(), SIZE)], "to {there}: came in pieces {runs:?}");
    }
    let drops = &counters(program(&lab, 0)?)?["drops"];
    ensure!(drops.as_object().is_some_and(serde_json::Map::is_empty), "drops on a clean network: {drops}");
    Ok(())
}

fn each() -> Result<()> {
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    let mut client = socket(a.netns(), a.plan().v4.into())?;
    let server = udp(b.netns(), b.plan().v4.into(), 0)?;
    send(&mut client, server.local_addr()?)?;
    let mut buf = vec![0; 65_536];
    for (index, want) in pattern().chunks(SIZE).enumerate() {
        let len = server.recv(&mut buf).with_context(|| format!("waiting for datagram {index}"))?;
        if &buf[..len] != want {
            bail!("datagram {index}: {len} bytes of {}, or others", want.len());
        }
    }
    Ok(())
}
