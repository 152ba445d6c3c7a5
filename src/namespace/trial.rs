//! Whether a sandbox can be had here, found out without entering one.
//!
//! Entering may fail half-way, with the process already in an empty network namespace; who has something else to
//! do then asks first. The question is put by a child process, which tries and ends.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, waitpid};

use super::sandbox::{SandboxError, enter_with_children, thread_count};

/// Bytes of the child's answer that are read; each is one line.
const ANSWER_MAX: u64 = 4096;

/// Why there will be no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// A sandbox is refused; the text is that of [`SandboxError`].
    #[error("{0}")]
    Refused(String),
    /// More threads than one: the sandbox would be refused, and nobody may fork.
    #[error(transparent)]
    Threads(SandboxError),
    /// The child could not be made or asked.
    #[error("can't try a sandbox: {0}")]
    System(#[from] io::Error),
}

/// Tries to enter a sandbox as [`super::init::confine`] does, in a child. Nothing changes for this process, which
/// must have one thread, and nothing is left.
///
/// # Errors
/// What forbids it, in one line.
pub fn can_confine() -> Result<(), TrialError> {
    let threads = thread_count();
    if threads > 1 {
        return Err(TrialError::Threads(SandboxError::Threads { threads }));
    }
    let (answer, told) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
    let child = fork_and_try(&told)?;
    drop(told);
    let mut text = String::new();
    let read = File::from(answer).take(ANSWER_MAX).read_to_string(&mut text);
    let status = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty())).map_err(io::Error::from)?;
    read?;
    let exited_well = status.is_some_and(|(_, status)| status.exit_status() == Some(0));
    match (exited_well, text.is_empty()) {
        (true, true) => Ok(()),
        (false, true) => Err(io::Error::other("the child that tried it was killed").into()),
        (_, false) => Err(TrialError::Refused(text)),
    }
}

/// Starts the child, which writes why it was refused, or nothing.
#[expect(unsafe_code, reason = "a namespace can be tried without exec only after a bare fork")]
fn fork_and_try(told: &OwnedFd) -> Result<Pid, io::Error> {
    // SAFETY: this process has one thread, as has been checked, so the child's memory is consistent: no lock is held
    // by a thread that is not there.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = match enter_with_children() {
                Ok(_) => 0,
                Err(error) => {
                    // Unheard, the refusal is still told by the exit code.
                    let _gone = told.try_clone().map(File::from).and_then(|mut file| write!(file, "{error}"));
                    1
                }
            };
            // SAFETY: ends the process without running anything that the parent will run at its own end.
            unsafe { libc::_exit(code) }
        }
        child => Pid::from_raw(child).ok_or_else(|| Errno::CHILD.into()),
    }
}
