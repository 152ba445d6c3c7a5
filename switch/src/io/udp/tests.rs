//! On loopback, without rights.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::outbox::{Payload, RUN_DATAGRAMS_MAX, Transmit};
use crate::packet::HEADROOM;
use crate::vtep::VtepId;
use crate::wire::Vni;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn bound(local: IpAddr, source_ports: usize, segmentation: bool, seed: u64) -> Udp {
    Udp::bind(&UdpConfig { port: 0, source_ports, segmentation, ..UdpConfig::new(local, seed) }).unwrap()
}

/// `None` where the kernel has IPv6 switched off.
fn bound_v6(seed: u64) -> Option<Udp> {
    match Udp::bind(&UdpConfig { port: 0, ..UdpConfig::new(V6, seed) }) {
        Ok(udp) => Some(udp),
        Err(BindError::NoFamily(_) | BindError::NotOurs(_)) => {
            assert!(std::env::var_os("CI").is_none(), "CI must have IPv6");
            eprintln!("SKIPPED: no IPv6 loopback");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Adds bytes that differ from place to place, to be sent in datagrams of `segment`.
fn add(
    out: &mut Outbox,
    pool: &mut Pool,
    to: SocketAddr,
    entropy: u32,
    len: usize,
    segment: usize,
) -> Vec<u8> {
    let bytes: Vec<u8> = (0..len).map(|at| ((at * 7 + at / 251) % 256).to_le_bytes()[0]).collect();
    let mut buf = pool.take().unwrap();
    buf.fill(&bytes);
    out.packets.push(buf);
    let (packet, range) = (out.packets.len() - 1, HEADROOM..HEADROOM + len);
    let vni = Vni::new(0).unwrap();
    out.transmits.push(Transmit {
        peer: VtepId(0),
        to,
        payload: Payload::Frames(vni),
        overhead: 0,
        entropy,
        packet,
        range,
        segment,
        heads: None,
    });
    bytes
}

fn send(udp: &mut Udp, out: &Outbox) -> Vec<(usize, SendError)> {
    let mut failed = Vec::new();
    udp.send(out, &mut failed);
    failed
}

/// Waits until `count` datagrams have come; gives them one by one, with who sent them.
fn take(udp: &mut Udp, pool: &mut Pool, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut datagrams = Vec::new();
    while datagrams.len() < count {
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = {
            let fds = udp.pollable();
            let mut polled: Vec<_> =
                fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
            poll(&mut polled, Some(&patience)).unwrap()
        };
        assert!(ready > 0, "only {} of {count} datagrams came", datagrams.len());
        let mut received = Vec::new();
        udp.receive(pool, &mut received, 64).unwrap();
        for Received { buf, from, segment } in received {
            datagrams.extend(buf.data().chunks(segment).map(|bytes| (from, bytes.to_vec())));
            pool.put(buf);
        }
    }
    datagrams
}

fn whole_run_arrives(from: &mut Udp, to: &mut Udp, len: usize, segment: usize) {
    let (mut pool, mut out) = (Pool::new(64), Outbox::default());
    let bytes = add(&mut out, &mut pool, to.local_addr(), 5, len, segment);
    assert!(send(from, &out).is_empty());
    let came = take(to, &mut pool, len.div_ceil(segment));
    let lens: Vec<_> = came.iter().map(|(_, datagram)| datagram.len()).collect();
    assert!(lens[..lens.len() - 1].iter().all(|len| *len == segment), "{lens:?}");
    assert_eq!(came.concat_bytes(), bytes);
}

#[test]
fn a_socket_that_can_not_cut_runs_falls_back_for_ever_and_loses_nothing() {
    let (mut from, mut to) = (bound(V4, 1, true, 20), bound(V4, 1, true, 21));
    // The kernel refuses UDP_SEGMENT (EINVAL) on a socket that sends no checksums.
    socket::set_int(from.senders[0].socket(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    whole_run_arrives(&mut from, &mut to, 10_000, 1_000);
    assert!(!from.senders[0].segments());
    assert!(from.took_to_single());
    whole_run_arrives(&mut from, &mut to, 9_999, 1_000);
    assert!(!from.took_to_single(), "told once");
}

#[test]
fn ordinary_datagrams_of_all_sizes_and_peers_arrive_in_order() {
    let mut from = bound(V4, 1, true, 22);
    let (mut a, mut b) = (bound(V4, 1, true, 23), bound(V4, 1, true, 24));
    let (mut pool, mut out) = (Pool::new(256), Outbox::default());
    let mut want = [Vec::new(), Vec::new()];
    for n in 0..150usize {
        // Long stretches of one size and peer, and changes of either.
        let (peer, len) = (usize::from(n % 50 > 40), 100 + n / 30 * 10 + usize::from(n % 7 == 0));
        let to = [a.local_addr(), b.local_addr()][peer];
        want[peer].push(add(&mut out, &mut pool, to, 5, len, len));
    }
    assert!(send(&mut from, &out).is_empty());
    for (udp, want) in [&mut a, &mut b].into_iter().zip(want) {
        let came = take(udp, &mut Pool::new(64), want.len());
        assert_eq!(came.into_iter().map(|(_, datagram)| datagram).collect::<Vec<_>>(), want);
    }
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl ConcatBytes for Vec<(SocketAddr, Vec<u8>)> {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

#[test]
fn a_run_arrives_complete_with_and_without_segmentation() {
    let mut to = bound(V4, 1, true, 1);
    for segmentation in [true, false] {
        let mut from = bound(V4, 2, segmentation, 2);
        for (len, segment) in [(1, 1), (1400, 1400), (60_001, 1450), (6400, 100), (6500, 100), (65_500, 8900)]
        {
            whole_run_arrives(&mut from, &mut to, len, segment);
        }
    }
}

#[test]
fn a_run_over_the_limits_of_one_message_is_split() {
    let (mut from, mut to) = (bound(V4, 1, true, 3), bound(V4, 1, true, 4));
    whole_run_arrives(&mut from, &mut to, RUN_DATAGRAMS_MAX * 3 + 5, 1);
    whole_run_arrives(&mut from, &mut to, crate::packet::DATA_MAX, 1000);
}

#[test]
fn ipv6_runs_arrive() {
    if let (Some(mut from), Some(mut to)) = (bound_v6(5), bound_v6(6)) {
        whole_run_arrives(&mut from, &mut to, 30_000, 1400);
        assert!(from.path_mtu(V6).unwrap() >= 1280);
    }
}

#[test]
fn a_flow_keeps_its_source_port_and_its_order() {
    let (mut from, mut to) = (bound(V4, 4, true, 8), bound(V4, 1, true, 9));
    let (mut pool, mut out) = (Pool::new(256), Outbox::default());
    for index in 0..64 {
        let mut buf = pool.take().unwrap();
        buf.fill(&[index]);
        out.packets.push(buf);
        let (packet, range) = (usize::from(index), HEADROOM..HEADROOM + 1);
        let entropy = u32::from(index % 8);
        let to = to.local_addr();
        let (vni, segment) = (Vni::new(0).unwrap(), 1);
        out.transmits.push(Transmit {
            peer: VtepId(0),
            to,
            payload: Payload::Frames(vni),
            overhead: 0,
            entropy,
            packet,
            range,
            segment,
            heads: None,
        });
    }
    assert!(send(&mut from, &out).is_empty());
    let came = take(&mut to, &mut pool, 64);
    let ports = from.source_ports().unwrap();
    assert!(ports.iter().all(|port| SOURCE_PORTS.contains(port)), "{ports:?}");
    for flow in 0..8 {
        let of_flow: Vec<_> = came.iter().filter(|(_, bytes)| bytes[0] % 8 == flow).collect();
        assert_eq!(of_flow.len(), 8);
        assert!(of_flow.is_sorted_by_key(|(_, bytes)| bytes[0]));
        let expected = ports[usize::from(flow) % 4];
        assert!(of_flow.iter().all(|(sender, _)| *sender == SocketAddr::new(V4, expected)));
    }
}

#[test]
fn without_source_ports_datagrams_leave_from_the_address_that_peers_know() {
    let (mut from, mut to) = (bound(V4, 0, true, 12), bound(V4, 1, true, 13));
    assert_eq!(from.source_ports().unwrap(), [from.local_addr().port()]);
    let (mut pool, mut out) = (Pool::new(64), Outbox::default());
    for entropy in 0..4 {
        add(&mut out, &mut pool, to.local_addr(), entropy, 100, 100);
    }
    assert!(send(&mut from, &out).is_empty());
    let came = take(&mut to, &mut pool, 4);
    assert!(came.iter().all(|(sender, _)| *sender == from.local_addr()));
    out.recycle(&mut pool);
    add(&mut out, &mut pool, from.local_addr(), 0, 100, 100);
    assert!(send(&mut to, &out).is_empty());
    assert_eq!(take(&mut from, &mut pool, 1).len(), 1, "it still receives");
}

#[test]
fn too_big_or_undeliverable_ones_fail_alone() {
    let (mut from, mut to) = (bound(V4, 1, true, 10), bound(V4, 1, true, 11));
    let (mut pool, mut out) = (Pool::new(64), Outbox::default());
    add(&mut out, &mut pool, to.local_addr(), 0, 100, 100);
    add(&mut out, &mut pool, to.local_addr(), 0, 65_530, 65_530);
    add(&mut out, &mut pool, SocketAddr::new(V6, 9), 0, 3000, 1000);
    let last = add(&mut out, &mut pool, to.local_addr(), 0, 5000, 1000);
    let failed = send(&mut from, &out);
    assert!(matches!(failed[..], [(1, SendError::TooBig), (2, SendError::Refused(_))]), "{failed:?}");
    let came = take(&mut to, &mut pool, 6);
    assert_eq!(came[1..].to_vec().concat_bytes(), last);
    assert!(from.senders[0].segments(), "an undeliverable run does not end segmentation");
}

#[test]
fn a_small_pool_or_max_says_that_more_may_wait() {
    let (mut from, mut to) = (bound(V4, 1, true, 12), bound(V4, 1, true, 13));
    let (mut pool, mut out) = (Pool::new(64), Outbox::default());
    for len in [10, 20, 30] {
        add(&mut out, &mut pool, to.local_addr(), 0, len, len);
    }
    assert!(send(&mut from, &out).is_empty());
    let (mut small, mut received) = (Pool::new(2), Vec::new());
    to.receive(&mut small, &mut received, 1).unwrap();
    to.receive(&mut small, &mut received, 9).unwrap();
    assert_eq!(received.len(), 2);
    received.drain(..).for_each(|one| small.put(one.buf));
    to.receive(&mut small, &mut received, 9).unwrap();
    assert_eq!(received[0].buf.data().len(), 30);
    assert_eq!(small.take().map(drop), Some(()), "unused buffers go back");
}

#[test]
fn an_empty_datagram_is_given_to_the_switch_to_be_counted() {
    let (from, mut to) = (bound(V4, 1, true, 14), bound(V4, 1, true, 15));
    from.senders[0].socket().send_to(&[], &to.local_addr().into()).unwrap();
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(to.pollable()[0], PollFlags::IN)], Some(&patience));
    assert_eq!(ready, Ok(1));
    let mut received = Vec::new();
    to.receive(&mut Pool::new(8), &mut received, 8).unwrap();
    assert_eq!(received.len(), 1);
    assert_eq!((received[0].buf.data(), received[0].segment), (&[][..], 1));
    assert_eq!(to.discarded(), 0);
}

#[test]
fn what_can_not_be_bound_is_named() {
    let first = bound(V4, 1, true, 16);
    let again = UdpConfig { port: first.local_addr().port(), ..UdpConfig::new(V4, 17) };
    assert!(matches!(Udp::bind(&again), Err(BindError::Taken(_))));
    // TEST-NET-1 of RFC 5737 is nobody's.
    let foreign = UdpConfig { port: 0, ..UdpConfig::new(Ipv4Addr::new(192, 0, 2, 1).into(), 18) };
    assert!(matches!(Udp::bind(&foreign), Err(BindError::NotOurs(_))));
    let most = UdpConfig { source_ports: SOURCES_MAX + 1, ..foreign };
    assert!(matches!(Udp::bind(&most), Err(BindError::SourceCount(_))));
}

#[test]
fn loopback_tells_its_mtu_and_its_buffer() {
    let udp = bound(V4, 1, true, 19);
    let mtu = udp.path_mtu(V4).unwrap();
    assert!((1500..=65_536).contains(&mtu), "{mtu}");
    assert!(udp.path_mtu(V6).is_err());
    assert!(udp.receive_buffer().unwrap() >= 200_000);
}

#[test]
#[expect(clippy::disallowed_types, reason = "strangers with a port each")]
fn workers_share_an_address_a_flow_stays_with_one_and_nobody_else_gets_in() {
    let config = UdpConfig { port: 0, ..UdpConfig::new(V4, 20) };
    let mut workers = Udp::bind_all(&config, 3).unwrap();
    let address = workers[0].local_addr();
    assert!(workers.iter().all(|udp| udp.local_addr() == address));
    let ports = |udp: &Udp| udp.source_ports().unwrap();
    assert!(
        workers.iter().all(|udp| ports(udp) == ports(&workers[0])),
        "a flow's port is the same from each"
    );
    let again = UdpConfig { port: address.port(), ..config };
    assert!(matches!(Udp::bind(&again), Err(BindError::Taken(_))));
    assert!(matches!(Udp::bind_all(&again, 3), Err(BindError::Taken(_))));

    const FLOWS: usize = 64;
    let senders: Vec<_> = (0..FLOWS).map(|_| std::net::UdpSocket::bind((V4, 0)).unwrap()).collect();
    for round in 0..4u8 {
        senders.iter().for_each(|sender| assert_eq!(sender.send_to(&[round], address).unwrap(), 1));
    }
    let (mut pool, mut heard) = (Pool::new(256), vec![Vec::new(); workers.len()]);
    while heard.iter().map(Vec::len).sum::<usize>() < 4 * FLOWS {
        for (udp, heard) in workers.iter_mut().zip(&mut heard) {
            let mut received = Vec::new();
            udp.receive(&mut pool, &mut received, 64).unwrap();
            for one in received {
                heard.push((one.from, one.buf.data()[0]));
                pool.put(one.buf);
            }
        }
    }
    assert!(heard.iter().all(|heard| !heard.is_empty()), "64 flows reach each of three");
    for sender in &senders {
        let from = sender.local_addr().unwrap();
        let rounds =
            |heard: &Vec<_>| heard.iter().filter(|one: &&(_, _)| one.0 == from).map(|one| one.1).collect();
        let rounds: Vec<Vec<u8>> =
            heard.iter().map(rounds).filter(|rounds: &Vec<u8>| !rounds.is_empty()).collect();
        assert_eq!(rounds, [[0, 1, 2, 3]], "one worker, in order");
    }
}
