//! Two networks over the daemons: one sealed, one plain, with an endpoint of each on every node.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::lab::{ENDPOINT_LINK, Endpoint};

use super::daemons::{Daemons, wait_until};
use crate::fixture::{PATIENCE, udp};

/// UDP port of data.
pub(super) const DATA_PORT: u16 = 4789;
/// The networks' names, in the order of each node's endpoints.
pub(super) const NETWORKS: [&str; 2] = ["redcurrant", "whitecurrant"];
/// Index of the sealed one,
pub(super) const SEALED: usize = 0;
/// and of the plain one.
pub(super) const PLAIN: usize = 1;
/// Their VNIs.
pub(super) const VNIS: [u32; 2] = [5001, 5002];
/// What every datagram of a [`stream`] says: where it can be read on the underlay it is not sealed.
pub(super) const TEXT: &[u8] = b"elderflowers in the clear";
/// Bytes of such a datagram.
pub(super) const SIZE: usize = 600;
/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(1);

/// Makes the networks and gives the first so many nodes endpoints in both; waits until data gets everywhere.
pub(super) fn attach_all(daemons: &Daemons, nodes: usize) -> Result<()> {
    let vnis = VNIS.map(|vni| vni.to_string());
    daemons.hosts[0].say(&[
        "network",
        "create",
        "--opt",
        "encrypted",
        "--vni",
        &vnis[SEALED],
        NETWORKS[SEALED],
    ])?;
    daemons.hosts[0].say(&["network", "create", "--vni", &vnis[PLAIN], NETWORKS[PLAIN]])?;
    for node in 0..nodes {
        wait_until("the networks are known", || Ok(daemons.hosts[node].networks()? == NETWORKS))?;
        for (index, network) in NETWORKS.iter().enumerate() {
            attach(daemons, node, index, network)?;
        }
    }
    let all: Vec<usize> = (0..nodes).collect();
    wait_until_carried(daemons, &all).map(drop)
}

/// Attaches a node's endpoint of that index to a network, and gives it the addresses that the lab has for it.
pub(super) fn attach(daemons: &Daemons, node: usize, index: usize, network: &str) -> Result<()> {
    plug(daemons, node, index, network)?;
    Ok(endpoint(daemons, node, index).configure()?)
}

/// The same, with the addresses that it is given; gives what came of it.
pub(super) fn plug(daemons: &Daemons, node: usize, index: usize, network: &str) -> Result<Value> {
    let endpoint = endpoint(daemons, node, index);
    let netns = format!("/proc/{}/fd/{}", std::process::id(), endpoint.netns().as_fd().as_raw_fd());
    let name = &endpoint.plan().name;
    let place = ["--network", network, "--name", name, "--tap", ENDPOINT_LINK, "--netns", &netns];
    let attached = daemons.hosts[node].json(&[&["attach"], &place[..]].concat())?.pop();
    attached.context("attach says something")
}

/// Waits until data gets from each of these nodes to each.
pub(super) fn wait_until_carried(daemons: &Daemons, nodes: &[usize]) -> Result<Duration> {
    wait_until("data gets everywhere", || {
        for &node in nodes {
            let peers = daemons.hosts[node].peers()?;
            let carried = peers.iter().filter(|peer| peer["data"]["state"] == "ok").count();
            if carried + 1 < nodes.len() {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// A node's endpoint in a network.
pub(super) fn endpoint(daemons: &Daemons, node: usize, network: usize) -> &Endpoint {
    &daemons.lab.nodes()[node].endpoints()[network]
}

/// A socket at a node's endpoint.
pub(super) fn socket(daemons: &Daemons, node: usize, network: usize) -> Result<UdpSocket> {
    let endpoint = endpoint(daemons, node, network);
    udp(endpoint.netns(), endpoint.plan().v4.into(), 0)
}

/// Sends numbered datagrams from one socket to another for as long as `meanwhile` takes. Gives how many: all have
/// arrived, if late.
pub(super) fn stream(
    from: &UdpSocket,
    at: &UdpSocket,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let target = at.local_addr()?;
    // Zero until it is known.
    let total = &AtomicU64::new(0);
    thread::scope(|scope| {
        let (running, stop) = std::sync::mpsc::channel::<()>();
        let sender = scope.spawn(move || {
            let sent = send_until(from, target, &stop);
            // Even after a failure, so that the receiver ends.
            total.store(*sent.as_ref().unwrap_or(&1), Ordering::Release);
            sent
        });
        let receiver = scope.spawn(|| receive_all(at, total));
        let outcome = meanwhile();
        drop(running);
        let sent = sender.join().expect("the sender returns its errors").context("sending");
        let received = receiver.join().expect("the receiver returns its errors").context("receiving");
        outcome?;
        received?;
        sent
    })
}

fn send_until(from: &UdpSocket, target: SocketAddr, stop: &std::sync::mpsc::Receiver<()>) -> Result<u64> {
    let mut sent = 0;
    while stop.recv_timeout(PACE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
        from.send_to(&numbered(sent), target)?;
        sent += 1;
    }
    Ok(sent)
}

/// A datagram of a stream.
fn numbered(number: u64) -> Vec<u8> {
    let mut datagram = [&number.to_be_bytes(), TEXT].concat();
    datagram.resize(SIZE, 0xa5);
    datagram
}

/// Receives until all are there; fails when none has come for long and some are missing.
fn receive_all(at: &UdpSocket, total: &AtomicU64) -> Result<()> {
    at.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (mut buf, mut seen, mut deadline) = ([0; SIZE + 1], HashSet::new(), Instant::now() + PATIENCE);
    loop {
        let total = total.load(Ordering::Acquire);
        if total > 0 && seen.len() as u64 == total {
            return Ok(());
        }
        if let Ok(len) = at.recv(&mut buf) {
            let number = u64::from_be_bytes(buf[..8].try_into()?);
            ensure!(buf[..len] == numbered(number), "datagram {number} was changed");
            ensure!(seen.insert(number), "datagram {number} came twice");
            deadline = Instant::now() + PATIENCE.div_f32(4.0);
        }
        if Instant::now() > deadline {
            let missing: Vec<u64> = (0..total).filter(|number| !seen.contains(number)).collect();
            ensure!(missing.is_empty(), "{} of {total} datagrams are missing: {missing:?}", missing.len());
            anyhow::bail!("nothing came any more, after {} datagrams", seen.len());
        }
    }
}
