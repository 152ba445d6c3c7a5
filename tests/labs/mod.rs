//! Labs as their users have them: by commands of the program.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The program: the one that was built, or for another user who can't read that, a copy of it.
pub(crate) fn program() -> OsString {
    env::var_os("CARGO_BIN_EXE_vswitchd").unwrap_or_else(|| env!("CARGO_BIN_EXE_vswitchd").into())
}

pub(crate) fn vswitchd(arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace());
    command
}

pub(crate) fn output(arguments: &str) -> Result<Output> {
    vswitchd(arguments).stdin(Stdio::null()).output().context("starting vswitchd")
}

/// Whether labs can be built here at all.
pub(crate) fn can_run() -> Result<bool> {
    let smallest = output("lab --nodes 1 --endpoints 1 --networks 1")?;
    if smallest.status.success() {
        return Ok(true);
    }
    let reason = String::from_utf8_lossy(&smallest.stderr).into_owned();
    ensure!(env::var_os("CI").is_none_or(|ci| ci != "true"), "with CI=true it must run: {reason}");
    eprintln!("\nLAB TESTS CAN'T RUN HERE: {reason}\n");
    Ok(false)
}

/// A lab that stays up; killed at the end if a test fails.
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) child: Child,
    said: BufReader<ChildStdout>,
}

impl Kept {
    pub(crate) fn new(name: &str, arguments: &str) -> Result<Self> {
        let name = format!("{name}-{}", std::process::id());
        let mut command = vswitchd(&format!("lab --keep --format json --name {name} {arguments}"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        let verdict: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line:?}"))?;
        ensure!(verdict["ok"] == true, "{verdict}");
        Ok(Self { name, child, said })
    }

    /// A command that is to run at a node or an endpoint, where `vswitchd` is this program.
    pub(crate) fn command(&self, place: &str, words: &[&str]) -> Command {
        let mut exec = vswitchd(&format!("lab exec --name {} {place} --", self.name));
        exec.args(words).stdin(Stdio::null());
        exec
    }

    pub(crate) fn exec(&self, place: &str, words: &[&str]) -> Result<Output> {
        self.command(place, words).output().context("starting vswitchd lab exec")
    }

    /// Ends it as its user does.
    pub(crate) fn down(&mut self) -> Result<()> {
        let down = output(&format!("lab down --name {}", self.name))?;
        ensure!(down.status.success(), "{down:?}");
        self.child.wait()?;
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        ensure!(rest.is_empty(), "it had said all: {rest}");
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It has ended in a test that passed; else the test has already failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
