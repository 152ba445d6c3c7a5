//! A room: namespaces in which a process that stays outside of them, its keeper, runs commands.
//!
//! ```text
//! keeper ── unshares user (if it has to), network, mount and UTS namespaces; its children get a PID namespace
//!   ├─ host ── process 1 there: reaps orphans
//!   └─ commands
//! ```
//!
//! All in it end (SIGKILL, by the kernel) when the host does: when the room is closed or the keeper ends, whatever ends
//! that. Files are those of this machine, but for those that are put over others.

use std::ffi::{CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::mount::mount_bind;
use rustix::process::{Pid, Signal, WaitOptions, ioctl_tiocsctty, kill_process, setsid, waitpid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::thread::UnshareFlags;

use super::init::{HOST, InitError, STAGE, next_stage, system};
use super::sandbox::enter_with_children_and;

/// A room, which is closed when this is dropped.
#[derive(Debug)]
pub struct Room {
    host: Pid,
    closed: bool,
    /// Open as long as the keeper lives.
    lifeline: UnixStream,
}

/// A file that is put over another.
#[derive(Clone, Debug)]
pub struct Cover {
    /// The file.
    pub file: PathBuf,
    /// What it is seen as; it must be there.
    pub over: &'static str,
}

impl Room {
    /// Makes a room with this process as its keeper, which must have one thread and can start none from then on
    /// (unshare(2), `CLONE_NEWPID`). Gives also what could not be covered: those files are the host's.
    ///
    /// In a second process this is to be preceded by [`super::init::host`], which tells whether this is the room's process 1.
    ///
    /// # Errors
    /// What forbids it. This process may be half-way in and is best ended.
    pub fn make(hostname: &str, covers: &[Cover]) -> Result<(Self, Vec<(Cover, io::Error)>), InitError> {
        enter_with_children_and(UnshareFlags::NEWUTS)?;
        rustix::system::sethostname(hostname.as_bytes()).map_err(system("set the host name"))?;
        let cover = |cover: &Cover| {
            let covered = mount_bind(&cover.file, cover.over);
            covered.err().map(|errno| (cover.clone(), errno.into()))
        };
        let uncovered = covers.iter().filter_map(cover).collect();
        let (lifeline, held) = UnixStream::pair().map_err(system("make a pair of sockets"))?;
        let lifeline = OwnedFd::from(lifeline);
        let host = next_stage(HOST, &[&lifeline])?;
        drop(lifeline);
        let room = Self { host, closed: false, lifeline: held };
        (&room.lifeline).read_exact(&mut [0]).map_err(system("wait for the room's first process"))?;
        Ok((room, uncovered))
    }

    /// The process that holds its namespaces, as the keeper numbers it.
    #[must_use]
    pub fn host(&self) -> Pid {
        self.host
    }

    /// A command that will run in it, in a session of its own, whose terminal is `terminal` if there is one. Its environment
    /// is empty.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>, terminal: Option<OwnedFd>) -> Command {
        let mut command = Command::new(program);
        command.env_clear();
        begin_session(&mut command, terminal);
        command
    }

    /// Ends all that is in it and waits until that has happened.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        match kill_process(self.host, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno.into()),
        }
        // The kernel has it wait for all others of its PID namespace (pid_namespaces(7)).
        match retry_on_intr(|| waitpid(Some(self.host), WaitOptions::empty())) {
            Ok(_) | Err(Errno::CHILD) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // The host ends with the keeper in any case.
        let _failed = self.end();
    }
}

#[expect(unsafe_code, reason = "a session can only be begun after fork")]
fn begin_session(command: &mut Command, terminal: Option<OwnedFd>) {
    command.env_remove(STAGE);
    let prepare = move || {
        setsid()?;
        if let Some(terminal) = &terminal {
            ioctl_tiocsctty(terminal.as_fd())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are bare system calls that
    // allocate nothing, and the capture is only read.
    unsafe { command.pre_exec(prepare) };
}

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The side of whoever types and reads.
    pub outer: OwnedFd,
    /// The side of the program.
    pub inner: OwnedFd,
}

impl Terminal {
    /// Opens one (pty(7)).
    ///
    /// # Errors
    /// If none is to be had.
    pub fn open() -> io::Result<Self> {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&outer)?;
        unlockpt(&outer)?;
        let name: CString = ptsname(&outer, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner = rustix::fs::open(name, flags, Mode::empty())?;
        Ok(Self { outer, inner })
    }
}
