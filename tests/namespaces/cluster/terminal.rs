//! A shell in a task, at a terminal as a user has it.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use vswitchd::namespace::room::Terminal;

use super::host::Host;
use super::tasks::with_tasks;
use crate::fixture::{PATIENCE, VSWITCHD};

/// A command of the program at a terminal.
struct Typist {
    client: Child,
    outer: File,
    inner: OwnedFd,
    /// What has been shown and not been asked for yet.
    shown: String,
}

impl Typist {
    fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let Terminal { outer, inner } = Terminal::open()?;
        resize(&outer, 24, 80)?;
        let stdio = || -> Result<Stdio> { Ok(inner.try_clone()?.into()) };
        let mut command = Command::new(VSWITCHD);
        command.args(arguments).env("VSWITCHD_SOCKET", &host.socket);
        let client = command.stdin(stdio()?).stdout(stdio()?).stderr(stdio()?).spawn()?;
        Ok(Self { client, outer: outer.into(), inner, shown: String::new() })
    }

    fn type_in(&mut self, keys: &str) -> Result<()> {
        Ok(self.outer.write_all(keys.as_bytes())?)
    }

    /// Waits until that is shown, and forgets it and what was before it.
    fn see(&mut self, part: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown.find(part) {
                self.shown.drain(..at + part.len());
                return Ok(());
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

    /// Types a command and waits for what comes of it, which it must not itself hold.
    fn ask(&mut self, line: &str, answer: &str) -> Result<()> {
        self.type_in(&format!("{line}\n"))?;
        self.see(answer).with_context(|| line.to_owned())
    }

    fn end(mut self) -> Result<Option<i32>> {
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

fn resize(outer: &OwnedFd, rows: u16, columns: u16) -> Result<()> {
    Ok(tcsetwinsize(outer, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}

pub(super) fn shell() -> Result<()> {
    with_tasks("terminal", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        let run = ["run", "-it", "--name", "shell", "--network", "none", "--env", "PS1=$ ", "--", "sh"];
        let mut typist = Typist::start(host, &run)?;
        typist.see("$ ")?;
        typist.ask("echo $((40 + 2))", "42\r\n")?;
        typist.ask("test -t 0 && test -t 2 && echo ter'min'al", "terminal\r\n")?;
        typist.ask("stty size", "24 80\r\n")?;
        let outer = typist.outer.try_clone()?.into();
        resize(&outer, 30, 100)?;
        kill_process(Pid::from_child(&typist.client), Signal::WINCH)?;
        typist.ask("while ! stty size | grep '^30'; do :; done", "30 100\r\n")?;
        jobs(&mut typist)?;
        typist.ask("exit 5", "\r\n")?;
        ensure!(typist.end()? == Some(5));
        Ok(())
    })
}

/// A job that says when it is in the foreground, and what it reads there.
const JOB: &str = "sh -c \"echo re'ad'y; while read word; do echo got \\$word; done\"";

/// Ctrl-C and Ctrl-Z are for the job in the foreground.
fn jobs(typist: &mut Typist) -> Result<()> {
    typist.ask(JOB, "ready\r\n")?;
    typist.type_in("\x03")?;
    typist.see("$ ")?;
    typist.ask("echo code $?", "code 130\r\n")?;
    typist.ask(JOB, "ready\r\n")?;
    typist.type_in("\x1a")?;
    typist.see("Stopped")?;
    typist.ask("jobs", "while read word")?;
    typist.type_in("fg\n")?;
    typist.ask("plum", "got plum\r\n")?;
    typist.type_in("\x03")?;
    typist.see("$ ")?;
    typist.ask("echo again $?", "again 130\r\n")
}

pub(super) fn detached() -> Result<()> {
    with_tasks("detached", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        let run = ["run", "-it", "--name", "shell", "--network", "none", "--env", "PS1=$ ", "--", "sh"];
        let mut typist = Typist::start(host, &run)?;
        typist.see("$ ")?;
        typist.ask("here=$((20 + 3))", "$ ")?;
        typist.type_in("\x10\x11")?;
        ensure!(typist.end()? == Some(0));
        ensure!(host.say(&["ps", "-q"])?.lines().count() == 1, "it runs on");
        // The daemon is not needed for what goes on, only to say where.
        let mut typist = Typist::start(host, &["attach", "--detach-keys", "ctrl-x", "shell"])?;
        typist.ask("echo still $here", "still 23\r\n")?;
        typist.type_in("\x18")?;
        ensure!(typist.end()? == Some(0));
        let mut typist = Typist::start(host, &["attach", "shell"])?;
        let mut other = Typist::start(host, &["exec", "-it", "shell", "sh"])?;
        other.ask("test -t 0 && hostname | wc -c", "13\r\n")?;
        other.type_in("exit 3\n")?;
        ensure!(other.end()? == Some(3));
        typist.type_in("exit 4\n")?;
        ensure!(typist.end()? == Some(4));
        ensure!(host.say(&["wait", "shell"])? == "4\n" && host.say(&["rm", "shell"])? == "shell\n");
        Ok(())
    })
}
