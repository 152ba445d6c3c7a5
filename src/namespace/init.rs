//! A family of processes in one sandbox, which ends as a whole whichever of its heads is killed.
//!
//! ```text
//! outer ── unshares user, network, mount and PID namespaces; waits
//!   └─ init ── process 1 of the PID namespace: reaps orphans, waits
//!        └─ inside ── the real work; its commands are its children
//! ```
//!
//! The three are the same program with the same arguments; [`stage`] tells which one this is. If the outer
//! process is killed, init gets SIGKILL (`PR_SET_PDEATHSIG`); if init ends, the kernel kills all that is in its
//! PID namespace (pid_namespaces(7)); if the inside ends, so does init, with its code. Init is a process of its
//! own so that its reaping never takes the exit status of a command from the thread that waits for it.
//!
//! SIGINT, SIGTERM and SIGHUP are passed inwards. A terminal's Ctrl-C reaches all three, so the inside may get
//! it more than once. To init they are passed once it has said that it listens: process 1 does not get signals that
//! it has no handler for.

use std::env;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, set_parent_process_death_signal,
    wait,
};
use tokio::signal::unix::{Signal as Listener, SignalKind, signal};

use super::sandbox::{SandboxError, enter_with_children};

/// The environment variable that tells the stages apart; never passed on to commands.
pub(super) const STAGE: &str = "VSWITCHD_SANDBOX_STAGE";

/// The stage of a room's process 1.
pub(super) const HOST: &str = "host";

/// This program's file, even if it has been replaced since it was started.
pub const THIS_PROGRAM: &str = "/proc/self/exe";

/// Which of the three processes this one is.
#[derive(Debug)]
pub enum Stage {
    /// Not in a sandbox: call [`confine`].
    Outside,
    /// Process 1: call [`Init::run`].
    Init(Init),
    /// In the sandbox, with the descriptor that was given to [`confine`].
    Inside(OwnedFd),
}

/// Why the family could not be started, or is no more.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// No sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The stage's variable was set by hand, or its descriptors are not there.
    #[error("{STAGE} is set, but not by vswitchd: unset it")]
    Stage,
    /// A system call that nothing should forbid.
    #[error("can't {what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes an [`InitError::System`].
pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> InitError {
    move |source| InitError::System { what, source: source.into() }
}

/// Finds out from the environment and the place in the PID namespace.
///
/// # Errors
/// [`InitError::Stage`] if they contradict each other.
pub fn stage() -> Result<Stage, InitError> {
    let Some((name, descriptors)) = stage_variable()? else {
        return Ok(Stage::Outside);
    };
    match (&*name, descriptors.as_slice()) {
        ("init", &[lifeline, kept]) if lifeline != kept && getpid() == Pid::INIT => {
            Ok(Stage::Init(Init { lifeline: inherited(lifeline)?, kept: inherited(kept)? }))
        }
        ("inside", &[kept]) if getppid() == Some(Pid::INIT) => Ok(Stage::Inside(inherited(kept)?)),
        _ => Err(InitError::Stage),
    }
}

/// Whether this is process 1 of a [`Room`](super::room::Room).
///
/// # Errors
/// As [`stage`].
pub fn host() -> Result<Option<Host>, InitError> {
    match stage_variable()? {
        None => Ok(None),
        Some((name, descriptors)) => match (&*name, descriptors.as_slice()) {
            (HOST, &[lifeline]) if getpid() == Pid::INIT => Ok(Some(Host { lifeline: inherited(lifeline)? })),
            _ => Err(InitError::Stage),
        },
    }
}

/// What the variable says: a name, and the numbers of descriptors.
fn stage_variable() -> Result<Option<(String, Vec<RawFd>)>, InitError> {
    let Some(value) = env::var_os(STAGE) else { return Ok(None) };
    let value = value.into_string().map_err(|_| InitError::Stage)?;
    let mut fields = value.split(':');
    let name = fields.next().unwrap_or_default().to_owned();
    let descriptors = fields.map(str::parse).collect::<Result<_, _>>().map_err(|_| InitError::Stage)?;
    Ok(Some((name, descriptors)))
}

#[expect(unsafe_code, reason = "a descriptor inherited over exec is known by its number only")]
fn inherited(fd: RawFd) -> Result<OwnedFd, InitError> {
    if fd <= 2 {
        return Err(InitError::Stage);
    }
    // SAFETY: the borrow ends with this function; fcntl answers EBADF if nothing is open there.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = fcntl_getfd(borrowed).map_err(|_| InitError::Stage)?;
    // The previous stage opened it for us, without close-on-exec; whatever this process opened itself has it.
    if flags.contains(FdFlags::CLOEXEC) {
        return Err(InitError::Stage);
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| InitError::Stage)?;
    // SAFETY: it is open, was left open over exec for this stage, and the stage is asked for once, in `main`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes this process into a sandbox, starts init in it, and waits for it; `kept` is handed to the inside.
///
/// # Errors
/// What forbids the sandbox. Nothing is left in any case.
pub fn confine(kept: OwnedFd) -> Result<Ended, InitError> {
    enter_with_children()?;
    let (lifeline, mut held) = UnixStream::pair().map_err(system("make a pair of sockets"))?;
    let lifeline = OwnedFd::from(lifeline);
    let start = || {
        let child = next_stage("init", &[&lifeline, &kept])?;
        // The inside must be the last to hold these: they close when it ends.
        drop((lifeline, kept));
        Ok(child)
    };
    // Waits until init has said that it listens, or has ended; after that there is nothing to wait for.
    supervise(start, || held.read(&mut [0]).map(drop))
}

/// Process 1 of the sandbox.
#[derive(Debug)]
pub struct Init {
    /// Hangs up when the outer process ends, which is told through it when signals are heard.
    lifeline: OwnedFd,
    kept: OwnedFd,
}

impl Init {
    /// Starts the inside and waits until it ends.
    ///
    /// # Errors
    /// If the inside can't be started.
    pub fn run(self) -> Result<Ended, InitError> {
        if !end_with_parent(&self.lifeline)? {
            return Ok(Ended { code: 1, signal: None });
        }
        show_own_processes();
        let start = || {
            UnixStream::from(self.lifeline).write_all(&[0]).map_err(system("tell the parent"))?;
            let child = next_stage("inside", &[&self.kept])?;
            drop(self.kept);
            Ok(child)
        };
        supervise(start, || Ok(()))
    }
}

/// Process 1 of a room, in which its parent starts commands.
#[derive(Debug)]
pub struct Host {
    /// Hangs up when the parent ends, which is told through it when the room is ready.
    lifeline: OwnedFd,
}

impl Host {
    /// Makes `/proc` and `/sys` show what is in the room, and reaps orphans until the room is closed or its parent ends.
    ///
    /// # Errors
    /// If that can't be waited for.
    pub fn run(self) -> Result<Ended, InitError> {
        if !end_with_parent(&self.lifeline)? {
            return Ok(Ended { code: 1, signal: None });
        }
        show_own_processes();
        show_own_links();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.map_err(system("wait for signals"))?.block_on(async {
            let mut deaths = signal(SignalKind::child()).map_err(system("wait for signals"))?;
            UnixStream::from(self.lifeline).write_all(&[0]).map_err(system("tell the parent"))?;
            loop {
                reap_all().map_err(system("wait for orphans"))?;
                deaths.recv().await;
            }
        })
    }
}

/// Has this process killed when its parent ends; gives whether there is still one.
fn end_with_parent(lifeline: &OwnedFd) -> Result<bool, InitError> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(system("ask for the parent's end"))?;
    let mut polled = [PollFd::new(lifeline, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec::default())).map_err(system("look for the parent"))?;
    // The parent may have ended before its end could be asked for.
    Ok(!polled[0].revents().contains(PollFlags::HUP))
}

/// Mounts a `/sys` of this network namespace. Where it is refused the host's stays, which lists the host's links.
pub(super) fn show_own_links() {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _refused = mount("sysfs", "/sys", "sysfs", flags, None);
}

/// Mounts a `/proc` of this PID namespace, for `ps` and tmux. Where it is refused (in a container some of the
/// host's `/proc` is covered, and the kernel then allows no fresh one) the host's stays, which serves us as
/// well.
fn show_own_processes() {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _refused = mount("proc", "/proc", "proc", flags, None);
}

/// Starts this program again with the same arguments; `descriptors` stay open in it.
pub(super) fn next_stage(name: &str, descriptors: &[&OwnedFd]) -> Result<Pid, InitError> {
    let mut value = name.to_owned();
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::empty()).map_err(system("pass a descriptor on"))?;
        value.push_str(&format!(":{}", descriptor.as_raw_fd()));
    }
    let mut arguments = env::args_os();
    let mut command = Command::new(THIS_PROGRAM);
    if let Some(own_name) = arguments.next() {
        command.arg0(own_name);
    }
    let child = command.args(arguments).env(STAGE, value).spawn().map_err(system("start vswitchd again"))?;
    Ok(Pid::from_child(&child))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, or 128 and the signal's number.
    pub code: u8,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

impl From<WaitStatus> for Ended {
    fn from(status: WaitStatus) -> Self {
        let signal = status.terminating_signal();
        let code = signal.map_or_else(|| status.exit_status().unwrap_or(1), |signal| 128 + signal);
        Self { code: u8::try_from(code).unwrap_or(1), signal }
    }
}

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        Self::from(ended.code)
    }
}

/// Starts a child and waits for it, reaping every other process that this one inherits, and passes signals on, from
/// before it is started; `listens` waits until it takes them.
fn supervise(
    start: impl FnOnce() -> Result<Pid, InitError>,
    listens: impl FnMut() -> io::Result<()>,
) -> Result<Ended, InitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(system("wait for signals"))?.block_on(async {
        let mut signals = Signals::new().map_err(system("wait for signals"))?;
        let child = start()?;
        signals.watch(child, listens).await.map_err(system("wait for signals"))
    })
}

/// The signals that matter here.
struct Signals {
    deaths: Listener,
    interrupt: Listener,
    terminate: Listener,
    hangup: Listener,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            deaths: signal(SignalKind::child())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn watch(&mut self, child: Pid, mut listens: impl FnMut() -> io::Result<()>) -> io::Result<Ended> {
        loop {
            // A child may have ended before its signal was waited for, so look first.
            if let Some(ended) = reap(child)? {
                return Ok(ended);
            }
            let passed_on = tokio::select! {
                _ = self.deaths.recv() => continue,
                _ = self.interrupt.recv() => Signal::INT,
                _ = self.terminate.recv() => Signal::TERM,
                _ = self.hangup.recv() => Signal::HUP,
            };
            listens()?;
            match kill_process(child, passed_on) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Collects every child that has ended.
fn reap_all() -> io::Result<()> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Collects every child that has ended; gives how `child` did.
fn reap(child: Pid) -> io::Result<Option<Ended>> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => return Ok(Some(status.into())),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}
