//! Network namespaces held by descriptors, and closures and commands run in them.
//!
//! [`NetNs::run`] takes a thread for the time of the closure, so the caller's own namespace never changes.
//! [`NetNs::command`] enters between fork and exec.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use vswitchd_switch::io::netns::{self as io_netns, within};

use super::init::STAGE;
use super::sandbox::unshare;

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace; lives as long as a clone of this, a process in it, or a socket of it.
#[derive(Clone, Debug)]
pub struct NetNs {
    fd: Arc<OwnedFd>,
}

/// Why a network namespace could not be made or entered. Nothing has changed for the caller.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// `unshare` was refused.
    #[error("can't make a network namespace: {0}")]
    Create(io::Error),
    /// The namespace's file could not be opened.
    #[error("can't open {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It can't be entered.
    #[error(transparent)]
    Enter(#[from] io_netns::NetnsError),
    /// No thread could be started.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
}

impl NetNs {
    /// Makes one, empty but for a loopback that is down.
    ///
    /// # Errors
    /// As the kernel refuses it; needs `CAP_SYS_ADMIN` in this process's user namespace.
    pub fn create() -> Result<Self, NetnsError> {
        thread::scope(|scope| {
            // This thread's namespace stays the caller's: another one moves and opens what it has got.
            let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                unshare(UnshareFlags::NEWNET).map_err(|errno| NetnsError::Create(errno.into()))?;
                Self::current()
            });
            let outcome = thread.map_err(NetnsError::Thread)?.join();
            outcome.unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// The one that a file stands for: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If the file can't be opened. That it is a network namespace is first checked when it is entered.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, NetnsError> {
        let path = path.into();
        match File::open(&path) {
            Ok(file) => Ok(OwnedFd::from(file).into()),
            Err(source) => Err(NetnsError::Open { path, source }),
        }
    }

    /// Runs `work` on a thread of this namespace and waits for it. A panic of `work` goes on in the caller.
    ///
    /// Sockets and devices that it opens stay in this namespace wherever they are used. Start no command in it
    /// that is to outlive it: see [`Self::command`].
    ///
    /// # Errors
    /// If the namespace can't be entered; `work` has not run then.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        Ok(within(self.fd.as_fd(), work)?)
    }

    /// A command that will run in this namespace and **ends (SIGKILL) with the thread that spawns it**, however
    /// that one ends: spawn it from a thread that lives long enough.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        before_exec(&mut command, Some(Arc::clone(&self.fd)), Vec::new());
        command
    }

    /// As [`Self::command`]; the program also inherits `descriptors`, under the numbers that they have here.
    #[must_use]
    pub fn command_with(&self, program: impl AsRef<OsStr>, descriptors: Vec<Arc<OwnedFd>>) -> Command {
        let mut command = Command::new(program);
        before_exec(&mut command, Some(Arc::clone(&self.fd)), descriptors);
        command
    }

    /// A share of the descriptor, for [`Self::command_with`].
    #[must_use]
    pub fn shared_fd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// The path by which a program that inherits [`Self::shared_fd`] finds this namespace.
    #[must_use]
    pub fn inherited_path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd())
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for NetNs {
    fn from(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }
}

/// A command that stays in this process's namespaces and ends (SIGKILL) with the thread that spawns it.
#[must_use]
pub fn command_here(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    before_exec(&mut command, None, Vec::new());
    command
}

/// Gives a command a host name of its own, for it and whatever it starts; else it isn't started.
#[expect(unsafe_code, reason = "a host name of one's own can only be had after fork")]
pub fn name_host(command: &mut Command, name: &str) {
    let name = name.to_owned();
    let prepare = move || {
        unshare(UnshareFlags::NEWUTS)?;
        Ok(rustix::system::sethostname(name.as_bytes())?)
    };
    // SAFETY: as below, two bare system calls that allocate nothing, and what they capture is only read.
    unsafe { command.pre_exec(prepare) };
}

#[expect(
    unsafe_code,
    reason = "namespace, death signal and inherited descriptors can only be set after fork"
)]
fn before_exec(command: &mut Command, netns: Option<Arc<OwnedFd>>, descriptors: Vec<Arc<OwnedFd>>) {
    command.env_remove(STAGE);
    let parent = getpid();
    let prepare = move || {
        if let Some(netns) = &netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        for descriptor in &descriptors {
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone before the signal was asked for; then it will never come.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are bare system calls that
    // allocate nothing, and their captures are only read.
    unsafe { command.pre_exec(prepare) };
}
