//! A visit to a sandbox from outside: joins its namespaces and runs one command there, with the terminal.
//!
//! Source: setns(2), nsenter(1) for the order (the user namespace first, for it gives the rights to the others).

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, getpid, kill_process, pidfd_open,
    set_parent_process_death_signal, waitpid,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::init::{Ended, show_own_links};
use super::sandbox::unshare;

/// A kind of namespace to join, in the order of joining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Users and capabilities.
    User,
    /// Processes.
    Pid,
    /// Mounts.
    Mnt,
    /// Network.
    Net,
    /// Host name.
    Uts,
}

impl Kind {
    /// Its file in `/proc/PID/ns`.
    #[must_use]
    pub fn file_name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Pid => "pid",
            Self::Mnt => "mnt",
            Self::Net => "net",
            Self::Uts => "uts",
        }
    }

    fn flag(self) -> LinkNameSpaceType {
        match self {
            Self::User => LinkNameSpaceType::User,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Mnt => LinkNameSpaceType::Mount,
            Self::Net => LinkNameSpaceType::Network,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
        }
    }

    /// Opens this process's own.
    ///
    /// # Errors
    /// If `/proc` is not there.
    pub fn own(self) -> io::Result<OwnedFd> {
        File::open(format!("/proc/self/ns/{}", self.file_name())).map(Into::into)
    }
}

/// Why a command could not be run in the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// A namespace can't be joined.
    #[error("can't join the {} namespace: {source}", kind.file_name())]
    Join {
        /// Its kind.
        kind: Kind,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The command can't be started.
    #[error("{}: {source}", program.display())]
    Start {
        /// The command.
        program: OsString,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call that nothing should forbid.
    #[error("can't wait for the command: {0}")]
    Wait(#[from] io::Error),
}

/// Joins namespaces. This process must have one thread; it stays where it is but for its children in a PID
/// namespace.
///
/// # Errors
/// If one can't be joined. The process may have joined some and is best ended.
pub fn join(mut namespaces: Vec<(Kind, OwnedFd)>) -> Result<(), VisitError> {
    let folder = env::current_dir();
    namespaces.sort_by_key(|(kind, _)| *kind);
    for (kind, namespace) in &namespaces {
        let source = match join_one(*kind, namespace.as_fd()) {
            Ok(()) => continue,
            Err(source) => source,
        };
        return Err(VisitError::Join { kind: *kind, source });
    }
    // Joining a mount namespace changes the folder to its root; the files are the same, so go back where possible.
    let _gone = folder.and_then(env::set_current_dir);
    Ok(())
}

fn join_one(kind: Kind, namespace: BorrowedFd<'_>) -> io::Result<()> {
    // Root's labs have no user namespace of their own, and one can't join the one that one is in.
    if kind == Kind::User && is_same(namespace, kind.own()?.as_fd())? {
        return Ok(());
    }
    move_into_link_name_space(namespace, Some(kind.flag())).map_err(Into::into)
}

fn is_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Gives this process a host name of its own, a `/sys` of its network namespace, and `resolv_conf` in place of
/// `/etc/resolv.conf`, if both are there. For people's convenience (prompts, `ls /sys/class/net`, `ping NAME`): what is
/// refused is left as it is.
pub fn dress_up(host: &str, resolv_conf: &Path) {
    if unshare(UnshareFlags::NEWUTS).is_ok() {
        let _refused = rustix::system::sethostname(host.as_bytes());
    }
    if unshare(UnshareFlags::NEWNS).is_ok() {
        show_own_links();
        let _refused = mount_bind(resolv_conf, "/etc/resolv.conf");
    }
}

/// Runs a command in the foreground and waits for it: terminal, job control and exit status are as if it had been
/// started directly. It ends (SIGKILL) with this process, and with the sandbox.
///
/// # Errors
/// If it can't be started.
pub fn run(mut command: Command) -> Result<Ended, VisitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    end_with_us(&mut command)?;
    runtime.block_on(async {
        // Handlers first: a Ctrl-C is for the command, and this process stays to tell how it ended. Handlers, not
        // ignoring, because what is ignored stays so in the command.
        let mut deaths = signal(SignalKind::child())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let _interrupt = signal(SignalKind::interrupt())?;
        let _quit = signal(SignalKind::quit())?;
        let program = command.get_program().to_owned();
        let child = command.spawn().map_err(|source| VisitError::Start { program, source })?;
        let child = Pid::from_child(&child);
        loop {
            if let Some(ended) = look(child)? {
                return Ok(ended);
            }
            let passed_on = tokio::select! {
                _ = deaths.recv() => continue,
                _ = terminate.recv() => Signal::TERM,
                _ = hangup.recv() => Signal::HUP,
            };
            pass_on(child, passed_on)?;
        }
    })
}

/// How the command ended, if it has; stops with it, so that the shell that waits for us sees it stopped.
fn look(child: Pid) -> io::Result<Option<Ended>> {
    loop {
        let status: WaitStatus = match waitpid(Some(child), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            Ok(Some((_, status))) => status,
            Ok(None) => return Ok(None),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if !status.stopped() {
            return Ok(Some(status.into()));
        }
        kill_process(getpid(), Signal::STOP)?;
        // We have been continued.
        pass_on(child, Signal::CONT)?;
    }
}

fn pass_on(child: Pid, signal: Signal) -> io::Result<()> {
    match kill_process(child, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[expect(unsafe_code, reason = "the death signal can only be set after fork")]
fn end_with_us(command: &mut Command) -> io::Result<()> {
    // Not by getppid as elsewhere: a parent outside of the PID namespace has no number in it.
    let parent = pidfd_open(getpid(), PidfdFlags::empty())?;
    let prepare = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut polled = [PollFd::from_borrowed_fd(parent.as_fd(), PollFlags::IN)];
        let gone = poll(&mut polled, Some(&Timespec::default()))? > 0;
        if gone { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; these are bare system calls that
    // allocate nothing, and the capture is only read.
    unsafe { command.pre_exec(prepare) };
    Ok(())
}

/// The user's shell, or `/bin/sh`.
#[must_use]
pub fn shell() -> OsString {
    let named = env::var_os("SHELL").filter(|shell| fs::metadata(shell).is_ok());
    named.unwrap_or_else(|| "/bin/sh".into())
}
