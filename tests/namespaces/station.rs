//! Stations that speak Ethernet by hand.

use std::io;
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vswitchd::lab::{ENDPOINT_LINK, Endpoint};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};
use vswitchd::switch::packet::Pool;

use crate::fixture::PATIENCE;

/// A station: a TAP of the test's, bridged to the endpoint's `eth0`, whose MTU both have then.
pub(crate) fn station(endpoint: &Endpoint, offloads: Offloads) -> Result<Tap> {
    let mut netlink = Netlink::open(endpoint.netns())?;
    let mtu = netlink.link(ENDPOINT_LINK)?.mtu;
    let tap = TapConfig { offloads, mtu: Some(mtu), ..TapConfig::new("station") };
    let tap = endpoint.netns().run(|| Tap::open(&tap))??;
    netlink.add_bridge("br0", mtu)?;
    for port in ["station", ENDPOINT_LINK] {
        netlink.attach(port, "br0")?;
    }
    netlink.set_up("br0")?;
    Ok(tap)
}

/// Frames taken from a TAP at a time.
const BATCH: usize = 64;

/// Waits for frames with that source, passing over what kernels say by themselves, while `wanted` of those so far.
fn frames_while(tap: &mut Tap, source: &[u8], wanted: impl Fn(&[Vec<u8>]) -> bool) -> Result<Vec<Vec<u8>>> {
    let (mut pool, mut batch, mut frames) = (Pool::new(BATCH), Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while wanted(&frames) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let came = format!("{} frames came within {PATIENCE:?}", frames.len());
            return Err(io::Error::from(io::ErrorKind::TimedOut)).context(came);
        }
        let mut polled =
            [PollFd::from_borrowed_fd(tap.pollable().expect("it has not been split"), PollFlags::IN)];
        poll(&mut polled, Some(&Timespec::try_from(left)?))?;
        // One by one: what comes behind the last is for the next who asks.
        while wanted(&frames) {
            tap.read(&mut pool, &mut batch, 1)?;
            let Some(frame) = batch.pop() else { break };
            let bytes = frame.buf.data();
            if bytes.get(6..12) == Some(source) {
                frames.push(bytes.to_vec());
            }
            pool.put(frame.buf);
        }
    }
    Ok(frames)
}

/// The next frames with that source.
pub(crate) fn next_frames(tap: &mut Tap, source: &[u8], count: usize) -> Result<Vec<Vec<u8>>> {
    frames_while(tap, source, |frames| frames.len() < count)
}

/// The frames with that source before one that is `end`.
pub(crate) fn frames_until(tap: &mut Tap, source: &[u8], end: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = frames_while(tap, source, |frames| frames.last().is_none_or(|last| last != end))?;
    frames.pop();
    Ok(frames)
}
