//! A shell in a task, at a terminal as a user has it.

use std::process::Command;

use anyhow::{Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::daemons::with_daemons;
use super::host::Host;
use crate::fixture::VSWITCHD;
use crate::typist::{Typist, resize};

/// A command of the program, at a terminal.
fn at(host: &Host, arguments: &[&str]) -> Result<Typist> {
    let mut command = Command::new(VSWITCHD);
    command.args(arguments).env("VSWITCHD_SOCKET", &host.socket);
    Typist::start(command)
}

pub(super) fn shell() -> Result<()> {
    with_daemons("terminal", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        let run = ["run", "-it", "--name", "shell", "--network", "none", "--env", "PS1=$ ", "--", "sh"];
        let mut typist = at(host, &run)?;
        typist.see("$ ")?;
        typist.ask("echo $((40 + 2))", "42\r\n")?;
        typist.ask("test -t 0 && test -t 2 && echo ter'min'al", "terminal\r\n")?;
        typist.ask("stty size", "24 80\r\n")?;
        resize(&typist.outer, 30, 100)?;
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
    typist.ask("echo again $?", "again 130\r\n").map(drop)
}

pub(super) fn detached() -> Result<()> {
    with_daemons("detached", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        let run = ["run", "-it", "--name", "shell", "--network", "none", "--env", "PS1=$ ", "--", "sh"];
        let mut typist = at(host, &run)?;
        typist.see("$ ")?;
        typist.ask("here=$((20 + 3))", "$ ")?;
        typist.type_in("\x10\x11")?;
        ensure!(typist.end()? == Some(0));
        ensure!(host.say(&["ps", "-q"])?.lines().count() == 1, "it runs on");
        // The daemon is not needed for what goes on, only to say where.
        let mut typist = at(host, &["attach", "--detach-keys", "ctrl-x", "shell"])?;
        typist.ask("echo still $here", "still 23\r\n")?;
        typist.type_in("\x18")?;
        ensure!(typist.end()? == Some(0));
        let mut typist = at(host, &["attach", "shell"])?;
        let mut other = at(host, &["exec", "-it", "shell", "sh"])?;
        other.ask("test -t 0 && hostname | wc -c", "13\r\n")?;
        other.type_in("exit 3\n")?;
        ensure!(other.end()? == Some(3));
        typist.type_in("exit 4\n")?;
        ensure!(typist.end()? == Some(4));
        ensure!(host.say(&["wait", "shell"])? == "4\n" && host.say(&["rm", "shell"])? == "shell\n");
        Ok(())
    })
}
