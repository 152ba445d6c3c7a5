//! `vswitchd daemon` as a process: started in a namespace, heard, killed or stopped.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use vswitchd::lab::Lab;
use vswitchd::namespace::netns::NetNs;

use super::daemons::wait_until;
use crate::fixture::{PATIENCE, VSWITCHD};

/// Lines of a log that are kept; a test that gets more has gone wrong.
const LINES_MAX: usize = 20_000;

/// A daemon that answers at its socket; killed when dropped.
pub(super) struct Process {
    child: Child,
    log: Arc<Log>,
}

/// What it has said on standard error.
#[derive(Default)]
struct Log {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    ended: bool,
}

impl Process {
    /// Starts it and waits until it answers. `starter` is the words of a program that becomes it, or none.
    pub(super) fn start(lab: &Lab, netns: &NetNs, starter: &[&str], arguments: &[&str]) -> Result<Self> {
        let mut words = starter.iter().copied().chain([VSWITCHD, "daemon"]);
        let mut command = netns.command(words.next().context("a program")?);
        command.args(words).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
        for name in [
            "VSWITCHD_CONFIG",
            "VSWITCHD_LOG_LEVEL",
            "VSWITCHD_SOCKET_GROUP",
            "VSWITCHD_DNS",
            "NOTIFY_SOCKET",
        ] {
            command.env_remove(name);
        }
        let mut child = lab.spawn({
            command.stderr(Stdio::piped());
            command
        })?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let log = Arc::new(Log::default());
        let kept = Arc::clone(&log);
        let started = Self { child, log };
        thread::Builder::new().name("daemon-log".into()).spawn(move || note(stderr, &kept))?;
        started.hear("API at").context("starting a daemon")?;
        Ok(started)
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.log.said.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// The first line with that in it, waited for.
    pub(super) fn hear(&self, part: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.log.said.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = said.lines.iter().find(|line| line.contains(part)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!said.ended && !left.is_zero(), "never said {part:?}: {:?}", said.lines);
            said = self.log.more.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// SIGKILL, which it can't notice.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as systemd does; gives what it has logged.
    pub(super) fn stop(mut self) -> Result<Vec<String>> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        wait_until("a daemon stops on SIGTERM", || Ok(self.child.try_wait()?.is_some()))?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {:?}", self.lines());
        Ok(self.lines())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended in a test that passed; else the test has already failed.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn note(stderr: ChildStderr, log: &Log) {
    // A pipe that can't be read is one that has ended.
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut said = log.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.lines.len() < LINES_MAX {
            said.lines.push(line);
        }
        log.more.notify_all();
    }
    log.said.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
    log.more.notify_all();
}
