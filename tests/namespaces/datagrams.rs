//! UDP in super-frames (USO), both ways: contents and boundaries of every datagram.
//!
//! A socket that is given many datagrams at once (`UDP_SEGMENT`) makes super-frames; one that takes many at once
//! (`UDP_GRO`) may be given one whole. Both are the underlay's own driver here, on an endpoint's address.

use std::io::{self, IoSlice};
use std::iter;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan, Shape, UnderlayKind, WirePlan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::mem::Faults;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};
use vswitchd::switch::io::udp::{Udp, UdpConfig};
use vswitchd::switch::io::{DatagramIo, FrameIo, Received};
use vswitchd::switch::outbox::{Outbox, Payload, Transmit};
use vswitchd::switch::packet::{HEADROOM, Pool};
use vswitchd::switch::vtep::VtepId;
use vswitchd::switch::wire::Vni;

use crate::Test;
use crate::fixture::{
    PATIENCE, SILENCE, counters, lab, lab_of, offload_arguments, program, reaches, seeded, shape, udp,
    with_offloads,
};
use crate::station::{next_frames, station};
use crate::superframe::{self, Route};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("datagrams::sent_together_over_an_ipv4_underlay", || between_hosts(1_500, false)),
        ("datagrams::sent_together_over_an_ipv6_underlay", || between_hosts(1_500, true)),
        ("datagrams::sent_together_over_a_jumbo_underlay", || between_hosts(9_000, false)),
        ("datagrams::sent_together_between_two_ports_of_one_switch", one_switch),
        ("datagrams::sent_together_behind_options_and_extension_headers", extensions),
        ("datagrams::stay_in_order_on_a_link_that_loses_and_doubles", order),
    ]
}

/// The driver, as any program's socket: `netns` and `address` are the endpoint's.
fn bind(netns: &NetNs, address: IpAddr) -> Result<Udp> {
    let config = UdpConfig { port: 0, source_ports: 1, ..UdpConfig::new(address, fastrand::u64(..)) };
    Ok(netns.run(|| Udp::bind(&config))??)
}

/// Datagrams of `size` bytes and one of `last`, all different.
fn run(size: usize, count: usize, last: usize) -> Vec<u8> {
    (0..size * (count - 1) + last).map(|at| ((at * 7 + at / 251) % 256).to_le_bytes()[0]).collect()
}

/// Hands datagrams to the kernel as one message.
fn send(from: &mut Udp, to: SocketAddr, bytes: &[u8], segment: usize) -> Result<()> {
    let (mut out, mut pool, mut failed) = (Outbox::default(), Pool::new(1), Vec::new());
    let mut buf = pool.take().context("an empty pool has a buffer")?;
    buf.fill(bytes);
    let range = HEADROOM..HEADROOM + bytes.len();
    out.packets.push(buf);
    out.transmits.push(Transmit {
        peer: VtepId(0),
        to,
        payload: Payload::Frames(Vni::new(0).context("24 bits")?),
        overhead: 0,
        entropy: 0,
        packet: 0,
        range,
        segment,
        heads: None,
    });
    from.send(&out, &mut failed);
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// Takes `count` datagrams, which may come in runs; gives also the most that came in one.
fn take_joined(at: &mut Udp, count: usize, patience: Duration) -> Result<(Vec<Vec<u8>>, usize)> {
    let (mut pool, mut received, mut datagrams, mut most) = (Pool::new(64), Vec::new(), Vec::new(), 0);
    let deadline = Instant::now() + patience;
    while datagrams.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let came = format!("{} of {count} datagrams came", datagrams.len());
            return Err(io::Error::from(io::ErrorKind::TimedOut)).context(came);
        }
        let ready = at.pollable();
        let mut polled: Vec<_> =
            ready.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        poll(&mut polled, Some(&Timespec::try_from(left)?))?;
        at.receive(&mut pool, &mut received, 64)?;
        for Received { buf, segment, .. } in received.drain(..) {
            let run = buf.data().chunks(segment).map(<[u8]>::to_vec);
            most = most.max(run.len());
            datagrams.extend(run);
            pool.put(buf);
        }
    }
    Ok((datagrams, most))
}

fn take(at: &UdpSocket, count: usize) -> Result<Vec<Vec<u8>>> {
    let mut buf = vec![0; 65_536];
    let take = |index| {
        let len = at.recv(&mut buf).with_context(|| format!("waiting for datagram {index} of {count}"))?;
        Ok(buf[..len].to_vec())
    };
    (0..count).map(take).collect()
}

fn same(came: &[Vec<u8>], sent: &[u8], segment: usize) -> Result<()> {
    let sent: Vec<&[u8]> = sent.chunks(segment).collect();
    let lens = |datagrams: &[&[u8]]| datagrams.iter().map(|datagram| datagram.len()).collect::<Vec<_>>();
    let came: Vec<&[u8]> = came.iter().map(Vec::as_slice).collect();
    ensure!(lens(&came) == lens(&sent), "{:?} came of {:?}", lens(&came), lens(&sent));
    ensure!(came == sent, "corrupted");
    Ok(())
}

/// Sends runs of all kinds of sizes, up to what fits, from one endpoint to another, to a socket that takes one
/// datagram at a time and to one that takes runs; gives how many datagrams, and the most that came in one run.
pub(crate) fn exchange(
    from: &Endpoint,
    to: &Endpoint,
    ipv6: bool,
    patience: Duration,
) -> Result<(usize, usize)> {
    let mtu = usize::try_from(Netlink::open(from.netns())?.link(ENDPOINT_LINK)?.mtu)?;
    let address = |endpoint: &Endpoint| -> IpAddr {
        if ipv6 { endpoint.plan().v6.into() } else { endpoint.plan().v4.into() }
    };
    let mut sender = bind(from.netns(), address(from))?;
    let mut joined = bind(to.netns(), address(to))?;
    let single = udp(to.netns(), address(to), 0)?;
    single.set_read_timeout(Some(patience))?;
    let largest = mtu - if ipv6 { 48 } else { 28 };
    let (mut sent, mut most) = (0, 0);
    for size in [1, 2, 63, 500, 1_000, largest - 1, largest] {
        // A socket's receive buffer must hold them all.
        let full = (65_507 / size).min(40);
        for (count, last) in [(2, size), (3, 1), (full, size), (full, size.div_ceil(2)), (full, 1)] {
            let bytes = run(size, count, last);
            let context = || format!("{count} datagrams of {size} and {last} bytes, IPv6 {ipv6}");
            send(&mut sender, single.local_addr()?, &bytes, size).with_context(context)?;
            same(&take(&single, count).with_context(context)?, &bytes, size).with_context(context)?;
            send(&mut sender, joined.local_addr(), &bytes, size).with_context(context)?;
            let (came, longest) = take_joined(&mut joined, count, patience).with_context(context)?;
            same(&came, &bytes, size).with_context(|| format!("{}, joined", context()))?;
            (sent, most) = (sent + 2 * count, most.max(longest));
        }
    }
    Ok((sent, most))
}

/// Whether this kernel's TAPs have USO (Linux 6.2), and the switches are to use it.
fn has_uso(lab: &Lab) -> Result<bool> {
    let tap = lab.nodes()[0].netns().run(|| Tap::open(&TapConfig::new("probe")))??;
    Ok(tap.capabilities().uso && offload_arguments().is_empty())
}

fn between_hosts(underlay_mtu: u32, ipv6_underlay: bool) -> Result<()> {
    let lab = lab_of(Plan { underlay_mtu, ..Plan::new(shape(2, 1, 1, ipv6_underlay))? }, &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    let (mut sent, uso) = (0, has_uso(&lab)?);
    for ipv6 in [false, true] {
        for (from, to) in [(a, b), (b, a)] {
            let (count, most) = exchange(from, to, ipv6, PATIENCE)?;
            ensure!(!uso || most > 30, "at most {most} datagrams were joined for the receiver");
            sent += if from.plan().v4 == a.plan().v4 { count } else { 0 };
        }
    }
    let counted = counters(program(&lab, 0)?)?;
    ensure!(counted["drops"].as_object().is_some_and(serde_json::Map::is_empty), "{counted}");
    let rows = [&counted["ports"][0]["rx_frames"], &counted["peers"][0]["tx_frames"]];
    let [from_port, to_peer] = rows.map(|frames| frames.as_u64().unwrap_or(0));
    ensure!(to_peer >= sent as u64, "{counted}");
    if uso {
        ensure!(from_port < to_peer / 4, "the TAP gave no super-frames: {counted}");
    }
    Ok(())
}

fn one_switch() -> Result<()> {
    let lab = lab(shape(1, 2, 1, false), &[])?;
    let [a, b] = [0, 1].map(|index| &lab.nodes()[0].endpoints()[index]);
    for ipv6 in [false, true] {
        for (from, to) in [(a, b), (b, a)] {
            let (_, most) = exchange(from, to, ipv6, PATIENCE)?;
            // From TAP to TAP a super-frame goes as it is, up to a socket that takes it whole.
            ensure!(!has_uso(&lab)? || most > 30, "at most {most} datagrams came together");
        }
    }
    Ok(())
}

/// A station's hand-made super-frames with IPv4 options and IPv6 extension headers, to a kernel's socket.
fn extensions() -> Result<()> {
    const ROUNDS: usize = 300;
    let lab = lab(shape(2, 1, 1, false), &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    if !with_offloads() || !has_uso(&lab)? {
        return Ok(());
    }
    let (mut rng, mut from) = (seeded(), station(a, Offloads::ALL)?);
    let sockets = [udp(b.netns(), b.plan().v4.into(), 0)?, udp(b.netns(), b.plan().v6.into(), 0)?];
    for socket in &sockets {
        // What comes at once must fit: 128 datagrams of a page each, with the kernel's own overhead.
        socket2::SockRef::from(socket).set_recv_buffer_size(512 << 10)?;
    }
    // The receiver says something first, so that nothing is flooded (and limited).
    sockets[0].send_to(b"here", (a.plan().v4, 9))?;
    next_frames(&mut from, &b.plan().mac.0, 1).context("the receiver's word")?;
    for _ in 0..ROUNDS {
        let mut shapes = iter::repeat_with(|| superframe::Shape::random(&mut rng, 1_450));
        let shape = shapes.find(superframe::Shape::is_untagged_udp).context("repeats for ever")?;
        let socket = &sockets[usize::from(shape.six)];
        let route = Route {
            mac: b.plan().mac.0,
            v4: [a.plan().v4.octets(), b.plan().v4.octets()],
            v6: [a.plan().v6.octets(), b.plan().v6.octets()],
            destination_port: socket.local_addr()?.port(),
        };
        let frame = shape.build(&route);
        let context = || format!("{:?}", frame.shape);
        from.write(&[IoSlice::new(&frame.bytes)], frame.offload).with_context(context)?;
        let came = take(socket, frame.segments()).with_context(context)?;
        same(&came, &frame.bytes[frame.payload..], frame.shape.size).with_context(context)?;
    }
    Ok(())
}

/// A link with faults changes what arrives, and the switches nothing beyond that.
fn order() -> Result<()> {
    const RUNS: u32 = 400;
    const SIZE: usize = 200;
    let faults =
        Faults { loss: 0.05, duplicate: 0.05, jitter: Duration::from_micros(300), ..Faults::default() };
    let plan = Plan::new(Shape { underlay: UnderlayKind::Wire, ..shape(2, 1, 1, false) })?;
    let seed = seeded().u64(..);
    let lab = lab_of(Plan { wire: WirePlan { faults, seed }, ..plan }, &[])?;
    let [a, b] = [0, 1].map(|node| &lab.nodes()[node].endpoints()[0]);
    let mut sender = bind(a.netns(), a.plan().v4.into())?;
    let receiver = udp(b.netns(), b.plan().v4.into(), 0)?;
    let target = receiver.local_addr()?;
    let deadline = Instant::now() + PATIENCE;
    while !reaches(&udp(a.netns(), a.plan().v4.into(), 0)?, target, &receiver)? {
        ensure!(Instant::now() < deadline, "nothing arrives");
    }
    receiver.set_read_timeout(Some(PATIENCE))?;
    let (mut numbers, mut buf) = (vec![0], [0; SIZE + 1]);
    // Gives whether anything came in time.
    let mut hear = |numbers: &mut Vec<u32>| -> Result<bool> {
        let Ok(len) = receiver.recv(&mut buf) else { return Ok(false) };
        // What was sent to see whether anything arrives is shorter.
        if len >= SIZE {
            ensure!(buf[4..len] == [0x5a; SIZE - 4], "corrupted: {len} bytes");
            numbers.push(u32::from_be_bytes(*buf.first_chunk().context("four bytes")?));
        }
        Ok(true)
    };
    let datagram = |number: u32| [&number.to_be_bytes()[..], &[0x5a; SIZE - 4]].concat();
    for run in 0..RUNS {
        let bytes: Vec<u8> = (1..=20).flat_map(|number| datagram(run * 20 + number)).collect();
        send(&mut sender, target, &bytes, SIZE)?;
        // Ten in a row are not lost in an age.
        while numbers.last().is_some_and(|&last| last <= run * 20 + 10) {
            ensure!(hear(&mut numbers)?, "nothing of run {run} arrives");
        }
    }
    receiver.set_read_timeout(Some(SILENCE))?;
    while hear(&mut numbers)? {}
    ensure!(numbers.is_sorted(), "out of order");
    ensure!(numbers.chunk_by(|a, b| a == b).all(|equal| equal.len() <= 2), "doubled twice");
    let distinct = numbers.chunk_by(|a, b| a == b).count();
    let sent = usize::try_from(RUNS * 20)?;
    ensure!(distinct < sent && distinct > sent / 2, "{distinct} of {sent} arrived");
    ensure!(numbers.len() > distinct, "the link doubled none");
    Ok(())
}
