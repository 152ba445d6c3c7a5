//! What the hosts do all the time.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use fastrand::Rng;
use vswitchd::lab::Endpoint;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::Tap;
use vswitchd::switch::wire::virtio::Offload;

use super::course::{Job, Loss};
use crate::datagrams;
use crate::fixture::{tcp, tool, udp};
use crate::station::next_frames;

/// Somebody in the network, behind a switch of ours or not.
#[derive(Clone)]
pub(super) struct Host {
    pub(super) netns: NetNs,
    /// The link that has the addresses.
    pub(super) link: &'static str,
    pub(super) v4: IpAddr,
    pub(super) v6: IpAddr,
}

/// Bytes of one transfer, at most.
const TRANSFER_MAX: usize = 32 << 20;
/// Datagrams from one socket to another, each answered before the next is sent.
const QUESTIONS: usize = 20;
/// After which a datagram is taken for lost, as queues may do with it when all of this is going on.
const PATIENCE: Duration = Duration::from_secs(1);
const NO_PAUSE: Duration = Duration::ZERO;

/// Transfers of all lengths, IPv4 and IPv6.
pub(super) fn streams<'a>(name: &'static str, from: &Host, to: &Host, mut rng: Rng) -> Job<'a> {
    let (from, to) = (from.clone(), to.clone());
    let work = move || {
        let address = if rng.bool() { to.v4 } else { to.v6 };
        let bytes = rng.usize(1..=TRANSFER_MAX);
        tcp(&from.netns, &to.netns, address, bytes).map(drop)
    };
    Job { name, pause: NO_PAUSE, loss: Loss::Never, work: Box::new(work) }
}

/// Questions and answers of one datagram each.
pub(super) fn small_datagrams<'a>(
    name: &'static str,
    [from, to]: [&Host; 2],
    loss: Loss,
    mut rng: Rng,
) -> Job<'a> {
    let (from, to) = (from.clone(), to.clone());
    let work = move || {
        let [here, there] = if rng.bool() { [from.v4, to.v4] } else { [from.v6, to.v6] };
        let (client, server) = (udp(&from.netns, here, 0)?, udp(&to.netns, there, 0)?);
        client.set_read_timeout(Some(PATIENCE))?;
        server.set_read_timeout(Some(PATIENCE))?;
        for number in 0..QUESTIONS {
            let question: Vec<u8> = (0..rng.usize(1..=300)).map(|_| rng.u8(..)).collect();
            client.send_to(&question, server.local_addr()?)?;
            let mut buf = [0; 512];
            let (len, asker) = server.recv_from(&mut buf).context("waiting for a question")?;
            ensure!(buf[..len] == question, "question {number} was {question:02x?}, is {:02x?}", &buf[..len]);
            server.send_to(&question, asker)?;
            let len = client.recv(&mut buf).context("waiting for an answer")?;
            ensure!(buf[..len] == question, "answer {number} was {question:02x?}, is {:02x?}", &buf[..len]);
        }
        Ok(())
    };
    Job { name, pause: NO_PAUSE, loss, work: Box::new(work) }
}

/// Datagrams in super-frames.
pub(super) fn large_datagrams<'a>(name: &'static str, ends: [&'a Endpoint; 2], mut rng: Rng) -> Job<'a> {
    let work = move || {
        let [from, to] = if rng.bool() { ends } else { [ends[1], ends[0]] };
        datagrams::exchange(from, to, rng.bool(), PATIENCE).map(drop)
    };
    Job { name, pause: Duration::from_millis(50), loss: Loss::Counted, work: Box::new(work) }
}

/// `ping`, everybody to everybody.
pub(super) fn pings<'a>(hosts: &[Host], mut rng: Rng) -> Job<'a> {
    let hosts = hosts.to_vec();
    let work = move || {
        let [from, to] = [(); 2].map(|()| &hosts[rng.usize(..hosts.len())]);
        let to = if rng.bool() { to.v4 } else { to.v6 };
        if let Some(output) = tool(&from.netns, &format!("ping -q -c 5 -i 0.2 -W 5 {to}"))? {
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
        Ok(())
    };
    Job { name: "ping", pause: Duration::from_millis(100), loss: Loss::Never, work: Box::new(work) }
}

/// A host forgets its neighbours and asks for them again in the midst of all this. What it has to send to one who has
/// not answered yet it may lose: a kernel queues a little for each.
pub(super) fn forgetting<'a>(host: &Host) -> Job<'a> {
    let host = host.clone();
    let work = move || Ok(Netlink::open(&host.netns)?.flush_neighbours(host.link)?);
    Job { name: "forgetting", pause: Duration::from_millis(500), loss: Loss::Never, work: Box::new(work) }
}

/// Stations that nobody knows say something to all, are answered, and never come again.
pub(super) fn strangers<'a>(mut near: Tap, mut far: Tap, mut rng: Rng) -> Job<'a> {
    let work = move || {
        let station = |first, rng: &mut Rng| [first, 0xbb, rng.u8(..), rng.u8(..), rng.u8(..), rng.u8(..)];
        let (here, there) = (station(2, &mut rng), station(6, &mut rng));
        let frame = |to: [u8; 6], from: [u8; 6]| [&to[..], &from, &[0x88, 0xb5], &[0; 46]].concat();
        let (question, answer) = (frame([0xff; 6], here), frame(here, there));
        near.write(&[IoSlice::new(&question)], Offload::default())?;
        let came = next_frames(&mut far, &here, 1).context("a stranger's question")?;
        ensure!(came == [question], "corrupted: {came:02x?}");
        far.write(&[IoSlice::new(&answer)], Offload::default())?;
        let came = next_frames(&mut near, &there, 1).context("the answer to a stranger")?;
        ensure!(came == [answer], "corrupted: {came:02x?}");
        Ok(())
    };
    Job { name: "strangers", pause: Duration::from_millis(5), loss: Loss::Counted, work: Box::new(work) }
}
