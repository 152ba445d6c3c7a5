//! Somebody at a terminal.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use vswitchd::namespace::room::Terminal;

/// How long anything may take until it is shown.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command at a terminal.
pub(crate) struct Typist {
    pub(crate) client: Child,
    pub(crate) outer: File,
    inner: OwnedFd,
    /// What has been shown and not been asked for yet.
    shown: String,
}

impl Typist {
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let Terminal { outer, inner } = Terminal::open()?;
        let outer = outer.into();
        resize(&outer, 24, 80)?;
        let stdio = || -> Result<Stdio> { Ok(inner.try_clone()?.into()) };
        let client = command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).spawn()?;
        Ok(Self { client, outer, inner, shown: String::new() })
    }

    pub(crate) fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.outer.write_all(keys.as_bytes())?)
    }

    /// Waits until that is shown, and forgets it; gives what was before it.
    pub(crate) fn see(&mut self, part: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(part) {
                let before = self.shown[..at].to_owned();
                self.shown.drain(..at + part.len());
                return Ok(before);
            }
            ensure!(Instant::now() < deadline, "never saw {part:?}: {:?}", self.shown);
            let mut polled = [PollFd::new(&self.outer, PollFlags::IN)];
            if poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }))? > 0 {
                let mut buffer = [0; 4096];
                let len = rustix::io::read(&self.outer, &mut buffer)?;
                self.shown += &String::from_utf8_lossy(&buffer[..len]);
            }
        }
    }

    /// Types a command and waits for what comes of it, which it must not itself hold; gives what was before that.
    pub(crate) fn ask(&mut self, line: &str, answer: &str) -> Result<String> {
        self.type_in(&format!("{line}\n"))?;
        self.see(answer).with_context(|| line.to_owned())
    }

    /// The exit code, once it has ended.
    pub(crate) fn end(mut self) -> Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        while self.client.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "it does not end: {:?}", self.shown);
            std::thread::yield_now();
        }
        let restored = tcgetattr(&self.inner)?.local_modes.contains(rustix::termios::LocalModes::ICANON);
        ensure!(restored, "the terminal is as it was");
        Ok(self.client.wait()?.code())
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        // It has ended in a test that passed.
        let _ended = self.client.kill();
        let _ended = self.client.wait();
    }
}

/// Makes the terminal larger or smaller.
pub(crate) fn resize(outer: &File, rows: u16, columns: u16) -> Result<()> {
    Ok(tcsetwinsize(outer, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}
