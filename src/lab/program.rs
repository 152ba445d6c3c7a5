//! A program that runs in a node: started, waited for until it is ready, stopped.
//!
//! A switch reports on standard output, one JSON object a line, each with an `event`: `ready` once it forwards,
//! others before and after. A daemon tells the socket that it is given when it is ready (sd_notify(3)). Both stop on
//! SIGTERM. What it says on standard error is kept, for the message that
//! tells why it ended.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, ChildStderr, ChildStdout, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

/// Bytes of one line of a program's output; longer ones are cut into several, which then are no JSON.
const LINE_MAX: u64 = 64 * 1024;
/// Events that wait to be taken; a program that says more waits.
const EVENTS_MAX: usize = 1024;
/// Lines of standard error that are kept, the last ones.
const LAST_WORDS_MAX: usize = 8;
/// Bytes of a notice; of a longer one the rest is lost.
const NOTICE_MAX: usize = 256;
/// How long a program may take to stop before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// A running program.
#[derive(Debug)]
pub struct Program {
    node: String,
    child: Child,
    pidfd: OwnedFd,
    events: Receiver<Value>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

/// Why a program does not do what it was started for. It has been killed if it had not ended.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started, waited for or stopped.
    #[error("{node}: can't {what} the program: {source}")]
    System {
        /// The node.
        node: String,
        /// What was to be done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It ended before it was ready.
    #[error("{node}: the program ended ({status}){}", words(last_words))]
    Ended {
        /// The node.
        node: String,
        /// How.
        status: ExitStatus,
        /// Its last lines on standard error.
        last_words: Vec<String>,
    },
    /// It was not ready in time.
    #[error("{node}: the program is not ready after {} s{}", after.as_secs(), words(last_words))]
    Late {
        /// The node.
        node: String,
        /// How long it was given.
        after: Duration,
        /// Its last lines on standard error.
        last_words: Vec<String>,
    },
}

fn words(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" / ")) }
}

impl Program {
    /// Takes over a child that was started with both outputs piped; `node` names it in errors.
    ///
    /// # Errors
    /// If it can't be watched; it has been killed then.
    ///
    /// # Panics
    /// If an output is not piped.
    pub fn new(node: &str, mut child: Child) -> Result<Self, ProgramError> {
        let system = |what, source| ProgramError::System { node: node.into(), what, source };
        let pidfd = match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(errno) => {
                // Its death signal would end it later anyway.
                let _ended = child.kill();
                return Err(system("watch", errno.into()));
            }
        };
        let (sender, events) = sync_channel(EVENTS_MAX);
        let last_words = Arc::new(Mutex::new(VecDeque::new()));
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let kept = Arc::clone(&last_words);
        let read = thread::Builder::new().name(format!("{node}-out")).spawn(move || hear(stdout, &sender));
        read.map_err(|source| system("listen to", source))?;
        let read = thread::Builder::new().name(format!("{node}-err")).spawn(move || note(stderr, &kept));
        read.map_err(|source| system("listen to", source))?;
        Ok(Self { node: node.into(), child, pidfd, events, last_words })
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// A descriptor that becomes readable when it ends (pidfd_open(2)).
    ///
    /// # Errors
    /// If no descriptor is to be had.
    pub fn end_fd(&self) -> io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// The next event, waited for until `deadline`; `None` if there was none, or the program has closed its
    /// output.
    pub fn next_event(&self, deadline: Instant) -> Option<Value> {
        self.events.recv_timeout(deadline.saturating_duration_since(now())).ok()
    }

    /// Waits for the event `ready` and gives those before it.
    ///
    /// # Errors
    /// If it ends first, or takes longer than `patience`.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Vec<Value>, ProgramError> {
        let deadline = now() + patience;
        let mut before = Vec::new();
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(now())) {
                Ok(event) if event["event"] == "ready" => return Ok(before),
                Ok(event) => before.push(event),
                Err(RecvTimeoutError::Timeout) => return Err(self.late(patience)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.too_soon()),
            }
        }
    }

    /// Waits until the program says `READY=1` to the socket that its `NOTIFY_SOCKET` names (sd_notify(3)).
    ///
    /// # Errors
    /// If it ends first, or takes longer than `patience`.
    pub fn wait_notice(&mut self, notices: &UnixDatagram, patience: Duration) -> Result<(), ProgramError> {
        let deadline = now() + patience;
        loop {
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Err(self.late(patience));
            }
            let (said, ended) = self.hear_notice(notices, left)?;
            match said.as_deref() {
                Some(b"READY=1") => return Ok(()),
                None if ended => return Err(self.too_soon()),
                // Not what is waited for.
                _ => {}
            }
        }
    }

    /// Waits for a notice or the end, at most for `left`; gives the notice, and whether the program has ended.
    fn hear_notice(
        &self,
        notices: &UnixDatagram,
        left: Duration,
    ) -> Result<(Option<Vec<u8>>, bool), ProgramError> {
        let failed = |source| self.system("wait for", source);
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let mut polled = [
            PollFd::new(notices, PollFlags::IN),
            PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN),
        ];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((None, false)),
            Err(errno) => return Err(failed(errno.into())),
        }
        let [said, ended] = polled.map(|polled| !polled.revents().is_empty());
        if !said {
            return Ok((None, ended));
        }
        let mut notice = [0; NOTICE_MAX];
        let len = notices.recv(&mut notice).map_err(failed)?;
        Ok((Some(notice[..len].to_vec()), ended))
    }

    fn late(&self, after: Duration) -> ProgramError {
        ProgramError::Late { node: self.node.clone(), after, last_words: self.last_words() }
    }

    /// That it ended before it was ready; ends it if only its output has.
    fn too_soon(&mut self) -> ProgramError {
        match self.stop() {
            Ok(status) => {
                ProgramError::Ended { node: self.node.clone(), status, last_words: self.last_words() }
            }
            Err(error) => error,
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ProgramError> {
        self.child.try_wait().map_err(|source| self.system("wait for", source))
    }

    /// Its last lines on standard error.
    #[must_use]
    pub fn last_words(&self) -> Vec<String> {
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Stops it with SIGTERM, or after a few seconds with SIGKILL, and waits until it has ended.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn stop(&mut self) -> Result<ExitStatus, ProgramError> {
        self.request_stop()?;
        let timeout = Timespec { tv_sec: STOP_PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        let mut polled = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
        let in_time =
            poll(&mut polled, Some(&timeout)).map_err(|errno| self.system("wait for", errno.into()))?;
        if in_time == 0 {
            self.child.kill().map_err(|source| self.system("kill", source))?;
        }
        self.child.wait().map_err(|source| self.system("wait for", source))
    }

    /// Asks it to stop, without waiting.
    pub(super) fn request_stop(&mut self) -> Result<(), ProgramError> {
        if self.ended()?.is_none() {
            kill_process(self.pid(), Signal::TERM).map_err(|errno| self.system("stop", errno.into()))?;
        }
        Ok(())
    }

    fn system(&self, what: &'static str, source: io::Error) -> ProgramError {
        ProgramError::System { node: self.node.clone(), what, source }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nobody is left to tell; the death signal ends it in any case.
        let _failed = self.stop();
    }
}

/// Hands every line that is JSON on; ends with the program's output, or when nobody listens any more.
fn hear(stdout: ChildStdout, events: &SyncSender<Value>) {
    for_lines(stdout, |line| match serde_json::from_str(line) {
        Ok(event) => events.send(event).is_ok(),
        Err(_) => true,
    });
}

fn note(stderr: ChildStderr, last_words: &Mutex<VecDeque<String>>) {
    for_lines(stderr, |line| {
        let mut lines = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_WORDS_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
        true
    });
}

fn for_lines(from: impl Read, mut take: impl FnMut(&str) -> bool) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    // A pipe that can't be read is one that has ended.
    while matches!(from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line), Ok(read) if read > 0) {
        if !take(String::from_utf8_lossy(&line).trim_end()) {
            // The program is not to block on a full pipe.
            let _drained = io::copy(&mut from, &mut io::sink());
            return;
        }
        line.clear();
    }
}

fn now() -> Instant {
    Instant::now()
}
