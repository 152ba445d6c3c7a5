//! A port whose other end is a program in this process: frames as byte strings, both ways.
//!
//! By default the end takes no offloads, so the switch finishes checksums and cuts super-frames for it; it may send
//! either. Both queues are bounded. Dropping either side closes the other once it has taken what was sent before.
//! Nothing is allocated for a frame once the queues have been full, if the end gives back what it has received.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};

use super::{Capabilities, Frame, FrameIo, ReadError, WriteError};
use crate::packet::{DATA_MAX, Pool};
use crate::wire::virtio::{Checksum, GsoKind, Offload};

/// Makes a port and its other end; either queue holds `capacity` frames.
///
/// # Errors
/// No descriptor is left for the wake-up of either side.
pub fn channel(capacity: usize) -> io::Result<(ChannelPort, ChannelEnd)> {
    channel_with(capacity, Capabilities::default())
}

/// As [`channel`], with an end that takes some unfinished frames: see [`ChannelEnd::receive_offload`].
///
/// # Errors
/// As [`channel`].
pub fn channel_with(capacity: usize, takes: Capabilities) -> io::Result<(ChannelPort, ChannelEnd)> {
    let shared = Arc::new(Shared {
        state: Mutex::default(),
        arrived: Condvar::new(),
        waiting: AtomicUsize::new(0),
        closed: AtomicBool::new(false),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        wake_end: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        capacity,
    });
    let open = Arc::new(Open(Arc::clone(&shared)));
    Ok((ChannelPort::new(open, takes, true), ChannelEnd { shared }))
}

/// The switch's side, or one worker's handle of it.
#[derive(Debug)]
pub struct ChannelPort {
    open: Arc<Open>,
    takes: Capabilities,
    /// Whether this handle reads: one does.
    reads: bool,
    /// Written and not yet flushed, so that a batch takes the lock once.
    staged: Vec<(Vec<u8>, Offload)>,
    /// Emptied buffers for the next writes.
    spare: Vec<Vec<u8>>,
    /// Taken from the queue and not yet copied, or copied and not yet given back: neither needs the lock.
    taken: Vec<(Vec<u8>, Offload)>,
}

/// Held by every handle of the switch's side: the last one closes it.
#[derive(Debug)]
struct Open(Arc<Shared>);

/// The program's side.
#[derive(Debug)]
pub struct ChannelEnd {
    shared: Arc<Shared>,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelSendError {
    /// The switch has not yet taken the frames before.
    #[error("the queue to the switch is full")]
    Full,
    /// More than [`DATA_MAX`] bytes.
    #[error("the frame is longer than any the switch can carry")]
    TooLong,
    /// The switch has closed the port.
    #[error("the port is closed")]
    Closed,
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelReceiveError {
    /// None has come in time.
    #[error("no frame has come")]
    Empty,
    /// The switch has closed the port, and all it had sent has been received.
    #[error("the port is closed")]
    Closed,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when `from_switch` gets frames or the port closes.
    arrived: Condvar,
    /// Length of `from_switch`, known to the port without the lock.
    waiting: AtomicUsize,
    /// [`State::closed`], known to the port without the lock.
    closed: AtomicBool,
    /// Readable while `to_switch` may hold frames, or the end is gone.
    wake: OwnedFd,
    /// Readable while `from_switch` may hold frames, or the port is closed, if the end has asked for it.
    wake_end: OwnedFd,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    to_switch: VecDeque<(Vec<u8>, Offload)>,
    from_switch: VecDeque<(Vec<u8>, Offload)>,
    /// Emptied buffers for the next frames to the switch: no more than its queue has held.
    spare: Vec<Vec<u8>>,
    /// Emptied buffers that the end has given back, at most `capacity`.
    returned: Vec<Vec<u8>>,
    closed: bool,
    /// Whether somebody polls [`Shared::wake_end`]: otherwise nobody need write to it.
    polled: bool,
    /// Whether the end's next wait is over before it has begun.
    interrupted: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.closed.store(true, Ordering::Relaxed);
        self.arrived.notify_all();
        self.wake_switch();
        wake(&self.wake_end);
    }

    fn wake_switch(&self) {
        wake(&self.wake);
    }
}

fn wake(eventfd: &OwnedFd) {
    // It fails only when it is at its maximum, and readable is all that it has to be.
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

impl State {
    fn spare(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Whether the switch takes one more frame.
    fn check(&self, len: usize, capacity: usize) -> Result<(), ChannelSendError> {
        match () {
            () if len > DATA_MAX => Err(ChannelSendError::TooLong),
            () if self.closed => Err(ChannelSendError::Closed),
            () if self.to_switch.len() >= capacity => Err(ChannelSendError::Full),
            () => Ok(()),
        }
    }
}

impl ChannelEnd {
    /// Hands a frame to the switch, from the destination MAC on.
    ///
    /// # Errors
    /// See [`ChannelSendError`]; the frame has not been taken.
    pub fn send(&self, frame: &[u8]) -> Result<(), ChannelSendError> {
        self.send_offload(frame, Offload::default())
    }

    /// Hands over a frame that is a super-frame, or whose checksum is unfinished, as `offload` says.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_offload(&self, frame: &[u8], offload: Offload) -> Result<(), ChannelSendError> {
        let mut state = self.shared.state();
        state.check(frame.len(), self.shared.capacity)?;
        let mut bytes = state.spare();
        bytes.extend_from_slice(frame);
        let first = state.to_switch.is_empty();
        state.to_switch.push_back((bytes, offload));
        drop(state);
        if first {
            self.shared.wake_switch();
        }
        Ok(())
    }

    /// As [`Self::send_offload`] of each, at once and without copying them. Gives how many have not been taken: there is
    /// no room for them, they are too long, or the port is closed.
    pub fn send_all(&self, frames: impl Iterator<Item = (Vec<u8>, Offload)>) -> usize {
        let mut state = self.shared.state();
        let first = state.to_switch.is_empty();
        let mut refused = 0;
        for (frame, offload) in frames {
            if state.check(frame.len(), self.shared.capacity).is_err() {
                refused += 1;
                continue;
            }
            // Its memory takes the place of a spare one's: there are no more than the queue has held.
            drop(state.spare());
            state.to_switch.push_back((frame, offload));
        }
        let wakes = first && !state.to_switch.is_empty();
        drop(state);
        if wakes {
            self.shared.wake_switch();
        }
        refused
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`ChannelReceiveError::Closed`].
    pub fn receive(&self) -> Result<Vec<u8>, ChannelReceiveError> {
        self.receive_offload().map(|(frame, _)| frame)
    }

    /// As [`Self::receive`], with what is left to do to the frame; needed only with [`channel_with`].
    ///
    /// # Errors
    /// As [`Self::receive`].
    pub fn receive_offload(&self) -> Result<(Vec<u8>, Offload), ChannelReceiveError> {
        let mut state = self.shared.state();
        loop {
            match self.take(&mut state) {
                Err(ChannelReceiveError::Empty) => {
                    state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives a received frame's memory back for the next one. It may also be kept.
    pub fn recycle(&self, mut frame: Vec<u8>) {
        frame.clear();
        let mut state = self.shared.state();
        if state.returned.len() < self.shared.capacity {
            state.returned.push(frame);
        }
    }

    /// Waits for the next frame, but not longer than that.
    ///
    /// # Errors
    /// See [`ChannelReceiveError`].
    pub fn receive_timeout(&self, patience: Duration) -> Result<Vec<u8>, ChannelReceiveError> {
        let arrived = &self.shared.arrived;
        let still = |state: &mut State| state.from_switch.is_empty() && !state.closed && !state.interrupted;
        let waited = arrived.wait_timeout_while(self.shared.state(), patience, still);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.interrupted = false;
        self.take(&mut state).map(|(frame, _)| frame)
    }

    /// Ends a wait of [`Self::receive_timeout`] early, on another thread, or the next one that begins.
    pub fn interrupt(&self) {
        self.shared.state().interrupted = true;
        self.shared.arrived.notify_all();
    }

    /// The next frame, if it is there.
    ///
    /// # Errors
    /// See [`ChannelReceiveError`].
    pub fn try_receive(&self) -> Result<Vec<u8>, ChannelReceiveError> {
        self.try_receive_offload().map(|(frame, _)| frame)
    }

    /// As [`Self::try_receive`], with what is left to do to the frame.
    ///
    /// # Errors
    /// As [`Self::try_receive`].
    pub fn try_receive_offload(&self) -> Result<(Vec<u8>, Offload), ChannelReceiveError> {
        let mut state = self.shared.state();
        let taken = self.take(&mut state);
        if state.polled && taken == Err(ChannelReceiveError::Empty) {
            // Under the lock, so that the next frame makes it readable again. EAGAIN, the only error of an eventfd of
            // ours, is as good.
            let _ = rustix::io::read(&self.shared.wake_end, &mut [0; 8]);
        }
        taken
    }

    /// Readable while there may be a frame, or the port is closed, for one who waits for other things too. It stays so
    /// until [`Self::try_receive_offload`] or [`Self::try_receive`] has found nothing.
    #[must_use]
    pub fn pollable(&self) -> BorrowedFd<'_> {
        let mut state = self.shared.state();
        if !state.polled {
            state.polled = true;
            // What has come before wakes too.
            wake(&self.shared.wake_end);
        }
        self.shared.wake_end.as_fd()
    }

    fn take(&self, state: &mut State) -> Result<(Vec<u8>, Offload), ChannelReceiveError> {
        let Some(frame) = state.from_switch.pop_front() else {
            return Err(if state.closed { ChannelReceiveError::Closed } else { ChannelReceiveError::Empty });
        };
        self.shared.waiting.store(state.from_switch.len(), Ordering::Relaxed);
        Ok(frame)
    }
}

impl Drop for ChannelEnd {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Drop for ChannelPort {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl FrameIo for ChannelPort {
    fn read(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> Result<u64, ReadError> {
        // Before the queue is looked at, so that a frame sent meanwhile makes it readable again. EAGAIN, the only error
        // of an eventfd of ours, is as good: it was not readable.
        let _ = rustix::io::read(&self.open.0.wake, &mut [0; 8]);
        let mut state = self.open.0.state();
        let before = into.len();
        state.spare.extend(self.taken.drain(..).map(|(bytes, _)| bytes));
        while into.len() - before < max && !state.to_switch.is_empty() {
            let Some(buf) = pool.take() else { break };
            let (bytes, offload) = state.to_switch.pop_front().expect("it is not empty");
            into.push(Frame { buf, offload });
            self.taken.push((bytes, offload));
        }
        let more = !state.to_switch.is_empty();
        let gone = state.closed && !more;
        drop(state);
        for (frame, (bytes, _)) in into[before..].iter_mut().zip(&mut self.taken) {
            frame.buf.fill(bytes);
            bytes.clear();
        }
        if gone && into.len() == before {
            return Err(ReadError::Gone);
        }
        if more || gone {
            self.open.0.wake_switch();
        }
        Ok(0)
    }

    fn write(&mut self, frame: &[IoSlice<'_>], offload: Offload) -> Result<(), WriteError> {
        debug_assert!(self.takes(offload), "the switch finishes what a port does not take");
        if self.open.0.closed.load(Ordering::Relaxed) {
            return Err(WriteError::Gone);
        }
        if self.staged.len() + self.open.0.waiting.load(Ordering::Relaxed) >= self.open.0.capacity {
            return Err(WriteError::Full);
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        frame.iter().for_each(|piece| bytes.extend_from_slice(piece));
        self.staged.push((bytes, offload));
        Ok(())
    }

    fn flush(&mut self) {
        if !self.staged.is_empty() {
            let mut state = self.open.0.state();
            let wakes = state.polled && state.from_switch.is_empty();
            state.from_switch.extend(self.staged.drain(..));
            self.spare.append(&mut state.returned);
            self.spare.truncate(self.open.0.capacity);
            self.open.0.waiting.store(state.from_switch.len(), Ordering::Relaxed);
            drop(state);
            self.open.0.arrived.notify_all();
            if wakes {
                wake(&self.open.0.wake_end);
            }
        }
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.reads.then(|| self.open.0.wake.as_fd())
    }

    fn capabilities(&self) -> Capabilities {
        self.takes
    }

    fn split(self: Box<Self>, workers: usize) -> io::Result<Vec<Box<dyn FrameIo>>> {
        let (open, takes) = (Arc::clone(&self.open), self.takes);
        let others = (1..workers).map(|_| Box::new(Self::new(Arc::clone(&open), takes, false)) as _);
        Ok(std::iter::once(self as _).chain(others).collect())
    }
}

impl ChannelPort {
    /// Another handle of the switch's side, which reads as this one does: for another switch after this one. The end
    /// finds the port closed when the last has gone.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::new(Arc::clone(&self.open), self.takes, true)
    }

    fn new(open: Arc<Open>, takes: Capabilities, reads: bool) -> Self {
        Self { open, takes, reads, staged: Vec::new(), spare: Vec::new(), taken: Vec::new() }
    }

    fn takes(&self, offload: Offload) -> bool {
        let checksum = self.takes.checksum || !matches!(offload.checksum, Checksum::Partial { .. });
        checksum
            && offload.gso.is_none_or(|gso| match gso.kind {
                GsoKind::Tcp4 | GsoKind::Tcp6 => self.takes.tso,
                GsoKind::Udp => self.takes.uso,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(port: &mut ChannelPort, pool: &mut Pool) -> Result<Vec<Vec<u8>>, ReadError> {
        let mut frames = Vec::new();
        port.read(pool, &mut frames, 32)?;
        let bytes = frames.iter().map(|frame| frame.buf.data().to_vec()).collect();
        frames.into_iter().for_each(|frame| pool.put(frame.buf));
        Ok(bytes)
    }

    #[test]
    fn frames_go_both_ways_in_order() {
        let (mut port, end) = channel(4).unwrap();
        let mut pool = Pool::new(4);
        for n in 0..3u8 {
            end.send(&[n; 60]).unwrap();
            port.write(&[IoSlice::new(&[n; 61])], Offload::default()).unwrap();
        }
        assert_eq!(read(&mut port, &mut pool).unwrap(), [0, 1, 2].map(|n| vec![n; 60]));
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Empty), "not before the batch's end");
        port.flush();
        for n in 0..3 {
            assert_eq!(end.receive(), Ok(vec![n; 61]));
        }
        assert_eq!(end.receive_timeout(Duration::ZERO), Err(ChannelReceiveError::Empty));
    }

    #[test]
    fn many_are_handed_over_as_they_are() {
        let (mut port, end) = channel(4).unwrap();
        let mut pool = Pool::new(8);
        let frames = |first: u8, count: u8| {
            (first..first + count).map(|n| (vec![n; 60], Offload::default())).collect::<Vec<_>>().into_iter()
        };
        assert_eq!(end.send_all(frames(0, 3)), 0);
        end.send(&[3; 60]).unwrap();
        assert_eq!(end.send_all(frames(4, 2)), 2, "there is no room");
        assert_eq!(read(&mut port, &mut pool).unwrap(), [0, 1, 2, 3].map(|n| vec![n; 60]));
        let long = (vec![0; DATA_MAX + 1], Offload::default());
        assert_eq!(end.send_all(std::iter::once(long).chain(frames(6, 1))), 1);
        assert_eq!(read(&mut port, &mut pool).unwrap(), [[6; 60]]);
        assert_eq!(end.send_all(std::iter::empty()), 0);
        drop(port);
        assert_eq!(end.send_all(frames(7, 2)), 2);
    }

    #[test]
    fn a_wait_is_interrupted_once() {
        let (_port, end) = channel(4).unwrap();
        end.interrupt();
        assert_eq!(end.receive_timeout(Duration::MAX), Err(ChannelReceiveError::Empty));
        assert_eq!(end.receive_timeout(Duration::ZERO), Err(ChannelReceiveError::Empty));
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(end.receive_timeout(Duration::MAX), Err(ChannelReceiveError::Empty)));
            end.interrupt();
        });
    }

    #[test]
    fn both_queues_are_bounded() {
        let (mut port, end) = channel(2).unwrap();
        for _ in 0..2 {
            end.send(&[0; 60]).unwrap();
            port.write(&[IoSlice::new(&[0; 60])], Offload::default()).unwrap();
        }
        assert_eq!(end.send(&[0; 60]), Err(ChannelSendError::Full));
        port.flush();
        assert!(matches!(port.write(&[IoSlice::new(&[0; 60])], Offload::default()), Err(WriteError::Full)));
        end.receive().unwrap();
        port.write(&[IoSlice::new(&[0; 60])], Offload::default()).unwrap();
        assert_eq!(end.send(&vec![0; DATA_MAX + 1]), Err(ChannelSendError::TooLong));
    }

    #[test]
    fn the_pollable_is_readable_while_there_is_something_to_read() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let readable = |port: &ChannelPort| {
            let mut fds = [PollFd::from_borrowed_fd(port.pollable().unwrap(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        let (mut port, end) = channel(4).unwrap();
        let mut pool = Pool::new(1);
        assert!(!readable(&port));
        end.send(&[1; 60]).unwrap();
        end.send(&[2; 60]).unwrap();
        for _ in 0..2 {
            assert!(readable(&port));
            let mut frames = Vec::new();
            port.read(&mut pool, &mut frames, 32).unwrap();
            pool.put(frames.remove(0).buf);
        }
        assert!(!readable(&port));
        drop(end);
        assert!(readable(&port));
        assert!(matches!(port.write(&[IoSlice::new(&[0; 60])], Offload::default()), Err(WriteError::Gone)));
    }

    #[test]
    fn the_end_can_be_polled_too() {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let readable = |end: &ChannelEnd| {
            let mut fds = [PollFd::from_borrowed_fd(end.pollable(), PollFlags::IN)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
        };
        let (mut port, end) = channel(4).unwrap();
        let write = |port: &mut ChannelPort, n: u8| {
            port.write(&[IoSlice::new(&[n; 60])], Offload::default()).unwrap();
            port.flush();
        };
        write(&mut port, 1);
        assert!(readable(&end), "for what has come before it was asked");
        assert_eq!(end.try_receive(), Ok(vec![1; 60]));
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Empty));
        assert!(!readable(&end));
        for n in [2, 3] {
            write(&mut port, n);
        }
        for n in [2, 3] {
            assert!(readable(&end));
            assert_eq!(end.try_receive_offload(), Ok((vec![n; 60], Offload::default())));
        }
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Empty));
        drop(port);
        assert!(readable(&end));
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Closed));
        assert!(readable(&end), "it stays closed");
    }

    #[test]
    fn buffers_given_back_are_used_again() {
        let (mut port, end) = channel(1).unwrap();
        port.write(&[IoSlice::new(&[1; 60])], Offload::default()).unwrap();
        port.flush();
        let frame = end.receive().unwrap();
        let memory = frame.as_ptr();
        end.recycle(frame);
        port.write(&[IoSlice::new(&[2; 60])], Offload::default()).unwrap();
        port.flush();
        end.recycle(end.receive().unwrap());
        port.write(&[IoSlice::new(&[3; 60])], Offload::default()).unwrap();
        port.flush();
        let frame = end.receive().unwrap();
        assert_eq!((frame.as_ptr(), &frame[..]), (memory, &[3; 60][..]));
    }

    #[test]
    fn an_end_that_takes_offloads_is_told_of_them() {
        let takes = Capabilities { checksum: true, ..Capabilities::default() };
        let (mut port, end) = channel_with(1, takes).unwrap();
        let offload = Offload { checksum: Checksum::Partial { start: 34, offset: 16 }, gso: None };
        port.write(&[IoSlice::new(&[1; 60])], offload).unwrap();
        port.flush();
        assert_eq!(end.receive_offload(), Ok((vec![1; 60], offload)));
        assert_eq!(port.capabilities(), takes);
    }

    #[test]
    fn a_pool_run_dry_leaves_frames_in_the_queue() {
        let (mut port, end) = channel(4).unwrap();
        let mut pool = Pool::new(1);
        end.send(&[1; 60]).unwrap();
        end.send(&[2; 60]).unwrap();
        let mut frames = Vec::new();
        port.read(&mut pool, &mut frames, 32).unwrap();
        assert_eq!(frames.len(), 1);
        pool.put(frames.remove(0).buf);
        assert_eq!(read(&mut port, &mut pool).unwrap(), [vec![2; 60]]);
    }

    #[test]
    fn one_handle_reads_all_write_and_the_last_one_closes() {
        let (port, end) = channel(4).unwrap();
        let mut handles = Box::new(port).split(3).unwrap();
        let reads: Vec<_> = handles.iter().map(|handle| handle.pollable().is_some()).collect();
        assert_eq!(reads, [true, false, false]);
        for handle in &mut handles {
            handle.write(&[IoSlice::new(&[1; 60])], Offload::default()).unwrap();
            handle.flush();
        }
        drop(handles.remove(0));
        assert_eq!((0..3).filter(|_| end.try_receive().is_ok()).count(), 3);
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Empty), "two handles are left");
        handles.clear();
        assert_eq!(end.try_receive(), Err(ChannelReceiveError::Closed));
    }

    #[test]
    fn a_dropped_end_is_gone_after_its_last_frame() {
        let (mut port, end) = channel(4).unwrap();
        let mut pool = Pool::new(4);
        end.send(&[1; 60]).unwrap();
        drop(end);
        assert_eq!(read(&mut port, &mut pool).unwrap(), [vec![1; 60]]);
        assert!(matches!(read(&mut port, &mut pool), Err(ReadError::Gone)));
    }

    #[test]
    fn a_dropped_port_ends_a_waiting_receiver() {
        let (mut port, end) = channel(4).unwrap();
        port.write(&[IoSlice::new(&[1; 60])], Offload::default()).unwrap();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(|| (end.receive(), end.receive()));
            drop(port);
            let (first, second) = receiver.join().unwrap();
            assert_eq!((first, second), (Ok(vec![1; 60]), Err(ChannelReceiveError::Closed)));
        });
        assert_eq!(end.send(&[0; 60]), Err(ChannelSendError::Closed));
    }
}
