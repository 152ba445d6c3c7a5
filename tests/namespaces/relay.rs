//! A relay between two TAPs: it carries frames both ways, super-frames as they are, and changes them on the way.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use vswitchd::switch::io::tap::Tap;
use vswitchd::switch::io::{Frame, FrameIo};
use vswitchd::switch::packet::Pool;
use vswitchd::switch::wire::checksum::Sum;
use vswitchd::switch::wire::ethernet::{EtherType, Header};
use vswitchd::switch::wire::virtio::Checksum;

const BATCH: usize = 32;

/// Runs until it is stopped or dropped.
pub(crate) struct Relay {
    /// Hangs up to stop the thread.
    running: OwnedFd,
    thread: JoinHandle<Result<()>>,
}

impl Relay {
    /// Starts it. `change` is given each frame and the index of the TAP that it came from, and says whether to
    /// carry it.
    pub(crate) fn start(
        taps: [Tap; 2],
        change: impl FnMut(usize, &mut Frame) -> bool + Send + 'static,
    ) -> Result<Self> {
        let (stop, running) = pipe_with(PipeFlags::CLOEXEC)?;
        let relay = thread::Builder::new().name("relay".into());
        Ok(Self { running, thread: relay.spawn(move || carry(taps, &stop, change))? })
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        drop(self.running);
        self.thread.join().expect("the relay returns its errors").context("the relay")
    }
}

fn carry(
    mut taps: [Tap; 2],
    stop: &OwnedFd,
    mut change: impl FnMut(usize, &mut Frame) -> bool,
) -> Result<()> {
    let (mut pool, mut frames) = (Pool::new(BATCH), Vec::new());
    loop {
        let [a, b] = &taps;
        let mut polled = [
            PollFd::from_borrowed_fd(a.pollable().expect("it has not been split"), PollFlags::IN),
            PollFd::from_borrowed_fd(b.pollable().expect("it has not been split"), PollFlags::IN),
            PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::empty()),
        ];
        poll(&mut polled, None)?;
        if !polled[2].revents().is_empty() {
            return Ok(());
        }
        for (from, to) in [(0, 1), (1, 0)] {
            taps[from].read(&mut pool, &mut frames, BATCH)?;
            for mut frame in frames.drain(..) {
                if change(from, &mut frame) {
                    // A full queue loses packets, as any router does.
                    let _lost = taps[to].write(&[IoSlice::new(frame.buf.data())], frame.offload);
                }
                pool.put(frame.buf);
            }
        }
    }
}

/// Bytes before a frame's type, where a tag goes.
const ADDRESSES_LEN: usize = 12;

/// Puts an 802.1Q tag into a frame, which any takes.
pub(crate) fn tag(frame: &mut Frame, vlan: u8) -> bool {
    let bytes = frame.buf.data();
    let tagged = [&bytes[..ADDRESSES_LEN], &[0x81, 0, 0, vlan], &bytes[ADDRESSES_LEN..]].concat();
    frame.buf.fill(&tagged);
    shift(frame, |at| at + 4);
    true
}

/// Takes its tag out of a frame; gives whether it has that one.
pub(crate) fn untag(frame: &mut Frame, vlan: u8) -> bool {
    let bytes = frame.buf.data();
    let tagged = bytes[ADDRESSES_LEN..].starts_with(&[0x81, 0, 0, vlan]);
    if tagged {
        let plain = [&bytes[..ADDRESSES_LEN], &bytes[ADDRESSES_LEN + 4..]].concat();
        frame.buf.fill(&plain);
        shift(frame, |at| at - 4);
    }
    tagged
}

/// Moves the places that a virtio-net header names.
fn shift(frame: &mut Frame, to: impl Fn(u16) -> u16) {
    if let Checksum::Partial { start, .. } = &mut frame.offload.checksum {
        *start = to(*start);
    }
    if let Some(gso) = &mut frame.offload.gso {
        gso.header_len = to(gso.header_len);
    }
}

/// Says "congestion experienced" in a packet whose sender understands it (RFC 3168 §5); gives whether it is one.
pub(crate) fn mark(frame: &mut Frame) -> bool {
    let range = frame.buf.range();
    let frame = frame.buf.slice_mut(range);
    let Ok(header) = Header::parse(frame) else { return false };
    let ip = &mut frame[header.payload..];
    match header.ether_type {
        EtherType::IPV4 if matches!(ip[1] & 3, 1 | 2) => {
            let header_len = usize::from(ip[0] & 15) * 4;
            ip[1] |= 3;
            ip[10..12].fill(0);
            let checksum = Sum::default().bytes(&ip[..header_len]).finish();
            ip[10..12].copy_from_slice(&checksum);
            true
        }
        EtherType::IPV6 if matches!(ip[1] >> 4 & 3, 1 | 2) => {
            ip[1] |= 0x30;
            true
        }
        _ => false,
    }
}
