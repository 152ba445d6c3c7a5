//! Hosts with a cluster on them, and lines typed there.

use std::env;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::labs::{self, Kept};
use crate::typist::Typist;

/// How long another host may take to hear of something, where this machine's cores are busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// Programs that are run at hosts.
const TOOLS: [&str; 3] = ["busybox", "ip", "ping"];

/// Whether walkthroughs can be gone here.
pub(crate) fn can_run() -> Result<bool> {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |tool: &&str| env::split_paths(&path).any(|folder| folder.join(tool).exists());
    let Some(missing) = TOOLS.into_iter().find(|tool| !is_there(tool)) else { return labs::can_run() };
    ensure!(env::var_os("CI").is_none_or(|ci| ci != "true"), "with CI=true it must run: no {missing}");
    eprintln!("\nWALKTHROUGHS CAN'T RUN HERE: no {missing}\n");
    Ok(false)
}

/// Tries until it is so: what one host has done is known to the others a moment later. What is tried must bear it.
pub(crate) fn soon<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::yield_now(),
            outcome => return outcome,
        }
    }
}

/// Hosts of a lab, `node1` and so on. Some are a cluster of which the first is the manager, the rest run a daemon that is
/// in none.
pub(crate) struct Site {
    lab: Kept,
}

impl Site {
    /// With `members` of `hosts` in a cluster, made by `vswitchd init` with these flags.
    pub(crate) fn new(name: &str, hosts: usize, members: usize, init: &str) -> Result<Self> {
        let site = Self::bare(name, hosts)?;
        let join = site.init(init)?;
        for host in 2..=members {
            ensure!(site.ok(host, &join)? == "This node joined the cluster as a worker.\n");
        }
        Ok(site)
    }

    /// Without a cluster.
    pub(crate) fn bare(name: &str, hosts: usize) -> Result<Self> {
        Ok(Self { lab: Kept::new(name, &format!("--bare --nodes {hosts}"))? })
    }

    /// Makes the cluster; gives the line for the other hosts.
    pub(crate) fn init(&self, flags: &str) -> Result<String> {
        let made = self.ok(1, &format!("vswitchd init {flags}"))?;
        let line = made.lines().map(str::trim).find(|line| line.starts_with("vswitchd join --token"));
        line.map(Into::into).with_context(|| format!("a line for the others: {made}"))
    }

    /// What comes of a line that is typed at a host.
    pub(crate) fn run(&self, host: usize, line: &str) -> Result<Output> {
        self.lab.exec(&format!("node{host}"), &["sh", "-c", line])
    }

    /// What it prints, if all is well.
    pub(crate) fn ok(&self, host: usize, line: &str) -> Result<String> {
        let output = self.run(host, line)?;
        ensure!(output.status.success(), "node{host}: {line}: {output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// That it ends with this code and says each of these on standard error; gives what it prints.
    pub(crate) fn fails(&self, host: usize, line: &str, code: i32, parts: &[&str]) -> Result<String> {
        let output = self.run(host, line)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "node{host}: {line}: {output:?}");
        for part in parts {
            ensure!(said.contains(part), "node{host}: {line}: no {part:?} in {said:?}");
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The same at a terminal.
    pub(crate) fn sit_down(&self, host: usize, line: &str) -> Result<Typist> {
        Typist::start(self.lab.command(&format!("node{host}"), &["sh", "-c", line]))
    }

    /// `vswitchd network inspect` of a network, by a host.
    pub(crate) fn inspect(&self, host: usize, network: &str) -> Result<Value> {
        let shown = self.ok(host, &format!("vswitchd network inspect {network}"))?;
        let mut list: Vec<Value> = serde_json::from_str(&shown)?;
        list.pop().context("a list with one element")
    }

    /// The IPv4 address of an endpoint of that host, with its prefix length.
    pub(crate) fn address(&self, host: usize, network: &str, name: &str) -> Result<String> {
        let shown = self.inspect(host, network)?;
        let here = shown["Containers"].as_object().with_context(|| format!("{name} is here: {shown}"))?;
        let found = here.values().find(|endpoint| endpoint["Name"] == name);
        let address = found.and_then(|endpoint| endpoint["IPv4Address"].as_str());
        address.map(Into::into).with_context(|| format!("{name}: {shown}"))
    }

    /// Ends the lab.
    pub(crate) fn end(mut self) -> Result<()> {
        self.lab.down()
    }
}

/// What a table for people has below a head, in the line of that name.
pub(crate) fn cell(table: &str, name: &str, head: &str) -> Result<String> {
    let mut lines = table.lines();
    let heads = lines.next().context("a head")?;
    let start = heads.find(head).with_context(|| format!("{head} in {heads:?}"))?;
    let width = heads[start..].find("  ").map_or(usize::MAX, |end| {
        let behind = &heads[start + end..];
        end + behind.len() - behind.trim_start().len()
    });
    let line = lines.find(|line| line.split_whitespace().any(|word| word == name));
    let line = line.with_context(|| format!("{name} in {table}"))?;
    Ok(line.chars().skip(start).take(width).collect::<String>().trim().to_owned())
}

/// The names in a table for people, in order.
pub(crate) fn names(table: &str) -> Result<Vec<String>> {
    let start = table.lines().next().and_then(|heads| heads.find("NAME")).context("a head")?;
    let name = |line: &str| line.chars().skip(start).take_while(|c| !c.is_whitespace()).collect();
    Ok(table.lines().skip(1).map(name).collect())
}

/// An address without the length of its prefix.
pub(crate) fn bare(address: &str) -> &str {
    address.split_once('/').map_or(address, |(bare, _)| bare)
}
