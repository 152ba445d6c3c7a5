//! One host, asked by the program's own commands.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use vswitchd::namespace::netns::NetNs;

use super::process::Process;
use crate::fixture::VSWITCHD;

/// UDP and TCP port of gossip.
pub(super) const GOSSIP_PORT: u16 = 7946;

/// A namespace, and a daemon in it if one was started.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) address: IpAddr,
    pub(super) state: PathBuf,
    /// Its link's name on the bridge.
    pub(super) port: String,
    pub(super) socket: PathBuf,
    pub(super) netns: NetNs,
    pub(super) process: Option<Process>,
    /// What processes before this one have logged.
    pub(super) before: Vec<String>,
}

impl Host {
    /// Its daemon, which runs.
    pub(super) fn process(&self) -> Result<&Process> {
        self.process.as_ref().with_context(|| format!("{} runs", self.name))
    }

    /// Everything that its daemons have logged.
    pub(super) fn log(&self) -> Vec<String> {
        let now = self.process.as_ref().map(Process::lines).unwrap_or_default();
        [self.before.clone(), now].concat()
    }

    /// Runs a command of the program, which asks this host's daemon.
    pub(super) fn ask(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(VSWITCHD);
        command.args(arguments).env("VSWITCHD_SOCKET", &self.socket);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        // Whoever does not want it may have gone.
        let _unread = child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes());
        Ok(child.wait_with_output()?)
    }

    /// What a command says, which must do well.
    pub(super) fn say(&self, arguments: &[&str]) -> Result<String> {
        said(self.ask(arguments, "")?).with_context(|| format!("{}: {arguments:?}", self.name))
    }

    /// What it says as JSON, a document a line.
    pub(super) fn json(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let text = self.say(&[arguments, &["--format", "json"]].concat())?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// Its status, without what it says of its daemon.
    pub(super) fn status(&self) -> Result<Value> {
        let status = self.json(&["status"])?.pop().context("status says something")?;
        Ok(status["cluster"].clone())
    }

    /// Its id in the cluster.
    pub(super) fn id(&self) -> Result<String> {
        let id = self.status()?["node"].as_str().map(Into::into);
        id.with_context(|| format!("{} is in a cluster", self.name))
    }

    /// What it says of each other node.
    pub(super) fn peers(&self) -> Result<Vec<Value>> {
        let status = self.json(&["status", "--peers"])?.pop().context("status says something")?;
        status["peers"].as_array().cloned().context("a list of peers")
    }

    /// One of the counters of its gossip.
    pub(super) fn gossip_counter(&self, name: &str) -> Result<u64> {
        self.status()?["gossip"][name].as_u64().with_context(|| format!("{} counts {name}", self.name))
    }

    /// Where its gossip and its links to members are.
    pub(super) fn gossip(&self) -> SocketAddr {
        SocketAddr::new(self.address, GOSSIP_PORT)
    }

    /// Names of the networks that it knows, in order, but for the one that is there from the beginning.
    pub(super) fn networks(&self) -> Result<Vec<String>> {
        let mut all = self.json(&["network", "ls"])?;
        all.retain(|network| network["options"]["ingress"] == false);
        names(&all)
    }

    pub(super) fn token(&self, role: &str) -> Result<String> {
        Ok(self.say(&["token", role, "-q"])?.trim().to_owned())
    }

    /// Names of the nodes that it sees ready, itself among them.
    pub(super) fn ready(&self) -> Result<Vec<String>> {
        names(&self.json(&["node", "ls", "--filter", "status=ready"])?)
    }

    /// Names of the nodes that it lists, whether ready or not.
    pub(super) fn listed(&self) -> Result<Vec<String>> {
        names(&self.json(&["node", "ls"])?)
    }
}

fn names(documents: &[Value]) -> Result<Vec<String>> {
    let mut names = documents
        .iter()
        .map(|document| document["name"].as_str().map(Into::into).context("it has a name"))
        .collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

/// What a command that did well has said.
pub(super) fn said(output: Output) -> Result<String> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// That a command failed with one line that holds all of these.
pub(super) fn refused(output: &Output, parts: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.lines().count() == 1, "more than a line: {said}");
    failed(output, parts)
}

/// That a command failed and has said all of these.
pub(super) fn failed(output: &Output, parts: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {said}", output.status);
    match parts.iter().find(|&&part| !said.contains(part)) {
        Some(part) => Err(anyhow!("no {part:?} in {said}")),
        None => Ok(()),
    }
}
