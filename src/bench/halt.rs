//! Threads that serve devices until they are told that nothing more will come.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::{BenchError, system};

/// Told by a pipe's hang-up, which can't be missed.
#[derive(Debug)]
pub(super) struct Halt(OwnedFd);

impl Halt {
    /// Waits until a device is readable or the end has come; gives whether to go on after this turn.
    pub(super) fn wait(&self, devices: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let device = |&device| PollFd::from_borrowed_fd(device, PollFlags::IN);
        let mut polled: Vec<PollFd<'_>> = devices.iter().map(device).collect();
        polled.push(PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::empty()));
        loop {
            match poll(&mut polled, None) {
                Ok(_) => return Ok(polled.last().is_none_or(|halt| halt.revents().is_empty())),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Runs `served` on a thread of its own while `work` is done here, then halts it and waits for it.
///
/// # Errors
/// Those of `work` first.
pub(super) fn beside<W, S: Send>(
    served: impl FnOnce(Halt) -> Result<S, BenchError> + Send,
    work: impl FnOnce() -> Result<W, BenchError>,
) -> Result<(W, S), BenchError> {
    let (halt, running) = pipe_with(PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("bench".into());
        let thread = builder.spawn_scoped(scope, || served(Halt(halt)));
        let thread = thread.map_err(system("start a thread"))?;
        let worked = work();
        drop(running);
        let served = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((worked?, served?))
    })
}
