//! A few daemons in namespaces on one underlay, whose links can be cut.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use vswitchd::lab::underlay::{BRIDGE, Underlay};
use vswitchd::lab::{Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use super::host::{Host, said};
use super::process::Process;
use super::tasks::Left;
use crate::fixture::{PATIENCE, shape};

/// What hosts are called: words that nothing else on the wire says.
const NAMES: [&str; 5] = ["quince-host", "medlar-host", "damson-host", "bullace-host", "sorb-host"];
/// Managers and workers of the two halves of four hosts.
pub(super) const HALVES: [[usize; 2]; 2] = [[0, 2], [1, 3]];
/// The bridge of those that are cut off from the others.
const ISLAND: &str = "br1";
/// Between two looks at something that is waited for: commands are processes, and shared cores are few.
const LOOK: Duration = Duration::from_millis(30);
/// Lines of each log that are shown when a test fails.
const LAST_WORDS: usize = 25;

/// Asks until it is so; gives how long it took, and fails after [`PATIENCE`].
#[expect(clippy::disallowed_methods, reason = "between two looks at the condition")]
pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let started = Instant::now();
    while !done().with_context(|| what.to_owned())? {
        ensure!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(LOOK);
    }
    Ok(started.elapsed())
}

/// Runs a test on daemons of its own, of which none may leave anything unseemly in its log; tells what they said last
/// if it fails.
pub(super) fn with_daemons(
    name: &str,
    count: u16,
    test: impl FnOnce(&mut Daemons) -> Result<()>,
) -> Result<()> {
    let mut daemons = Daemons::new(name, count)?;
    let outcome = test(&mut daemons).and_then(|()| daemons.finish());
    outcome.map_err(|error| anyhow!("{error:#}\n{}", daemons.last_words()))
}

/// Hosts on one underlay, each with a daemon if it was started.
pub(super) struct Daemons {
    // Dropped in this order: the daemons first, which would run tasks of services again that have ended.
    pub(super) hosts: Vec<Host>,
    _left: Left,
    pub(super) lab: Lab,
    /// What each daemon is told besides.
    pub(super) arguments: Vec<String>,
    /// The words of a program that each daemon is started by and that becomes it; none if it is started itself.
    pub(super) starter: Vec<&'static str>,
    _scratch: Scratch,
}

impl Daemons {
    /// Hosts without daemons. `name` tells tests apart that run at the same time.
    fn new(name: &str, count: u16) -> Result<Self> {
        let lab = Lab::build(Plan::new(shape(count, 2, 2, false))?)?;
        let scratch = Scratch::new(name)?;
        let host = |(node, name): (&vswitchd::lab::Node, &'static str)| Host {
            name,
            address: node.plan().address,
            state: scratch.0.join(format!("{}.state", node.plan().name)),
            port: node.plan().name.clone(),
            socket: scratch.0.join(format!("{}.sock", node.plan().name)),
            netns: node.netns().clone(),
            process: None,
            before: Vec::new(),
        };
        let hosts: Vec<Host> = lab.nodes().iter().zip(NAMES).map(host).collect();
        ensure!(hosts.len() == usize::from(count), "there are {} names only", NAMES.len());
        let left = Left(hosts.iter().map(|host| host.state.clone()).collect());
        let (arguments, starter) = (Vec::new(), Vec::new());
        let this = Self { hosts, _left: left, lab, arguments, starter, _scratch: scratch };
        let mut links = Netlink::open(this.underlay()?)?;
        links.add_bridge(ISLAND, this.lab.plan().underlay_mtu)?;
        links.set_up(ISLAND)?;
        Ok(this)
    }

    /// The namespace of the bridge, where all traffic can be seen.
    pub(super) fn underlay(&self) -> Result<&NetNs> {
        match self.lab.underlay() {
            Underlay::Veth(netns) => Ok(netns),
            Underlay::Wire(_) => Err(anyhow!("the plan says veth")),
        }
    }

    /// Starts a host's daemon and waits until it answers.
    pub(super) fn start(&mut self, host: usize) -> Result<()> {
        let host = &mut self.hosts[host];
        let mut arguments = vec!["--state-dir", text(&host.state)?, "--socket", text(&host.socket)?];
        arguments.extend(self.arguments.iter().map(String::as_str));
        host.process = Some(Process::start(&self.lab, &host.netns, &self.starter, &arguments)?);
        Ok(())
    }

    /// Kills it, so that it can't say a word.
    pub(super) fn kill(&mut self, host: usize) -> Result<()> {
        let host = &mut self.hosts[host];
        let process = host.process.take().context("it runs")?;
        host.before.extend(process.lines());
        process.kill()
    }

    /// Stops it as systemd does.
    pub(super) fn stop(&mut self, host: usize) -> Result<()> {
        let host = &mut self.hosts[host];
        let process = host.process.take().context("it runs")?;
        host.before.extend(process.stop()?);
        Ok(())
    }

    /// Starts the first so many, makes a cluster of them with the first few as managers, and waits until each knows each.
    pub(super) fn form(&mut self, members: usize, managers: usize) -> Result<()> {
        self.start(0)?;
        self.hosts[0].say(&["init", "--name", self.hosts[0].name])?;
        for host in 1..members {
            self.start(host)?;
            let token = self.hosts[0].token(if host < managers { "manager" } else { "worker" })?;
            self.join(host, &token, 0)?;
        }
        self.wait_until_all_see_all()
    }

    /// The same, and their daemons run tasks of services.
    pub(super) fn form_with_tasks(&mut self, members: usize, managers: usize) -> Result<()> {
        self.arguments.push("--allow-tasks".into());
        self.form(members, managers)
    }

    /// Has a host join at a manager.
    pub(super) fn join(&self, host: usize, token: &str, manager: usize) -> Result<()> {
        said(self.try_join(host, token, manager)?).map(drop)
    }

    /// The same, whatever comes of it.
    pub(super) fn try_join(&self, host: usize, token: &str, manager: usize) -> Result<Output> {
        let (host, manager) = (&self.hosts[host], self.hosts[manager].address.to_string());
        host.ask(&["join", "--name", host.name, "--token", "-", &manager], token)
    }

    /// Waits until each host with a daemon sees each.
    pub(super) fn wait_until_all_see_all(&self) -> Result<()> {
        let all: Vec<usize> =
            (0..self.hosts.len()).filter(|&host| self.hosts[host].process.is_some()).collect();
        self.wait_until_see(&all, &all, true).map(drop)
    }

    /// Waits until each of these hosts sees each of those others, or none of them; gives how long it took.
    pub(super) fn wait_until_see(&self, those: &[usize], others: &[usize], see: bool) -> Result<Duration> {
        let what = format!("{those:?} {} {others:?}", if see { "see" } else { "don't see" });
        wait_until(&what, || {
            for &host in those {
                let ready = self.hosts[host].ready()?;
                let mut others = others.iter().filter(|&&other| other != host);
                if !others.all(|&other| ready.contains(&self.hosts[other].name.to_owned()) == see) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Whether all that run have compared what they know, each with each, and found it equal.
    pub(super) fn agree(&self) -> Result<bool> {
        for host in self.hosts.iter().filter(|host| host.process.is_some()) {
            let peers = host.peers()?;
            if peers.is_empty() || !peers.iter().all(|peer| peer["digest"]["state"] == "equal") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Pulls a host's cable: its link has no carrier.
    pub(super) fn cut(&self, host: usize) -> Result<()> {
        Ok(Netlink::open(self.underlay()?)?.set_down(&self.hosts[host].port)?)
    }

    /// Puts it in again.
    pub(super) fn mend(&self, host: usize) -> Result<()> {
        Ok(Netlink::open(self.underlay()?)?.set_up(&self.hosts[host].port)?)
    }

    /// Puts some hosts on a bridge of their own: every link is up, and no packet crosses.
    pub(super) fn split(&self, island: &[usize]) -> Result<()> {
        self.plug(island, ISLAND)
    }

    /// The same, and waits until neither of these sees any of the others.
    pub(super) fn part(&self, those: &[usize], island: &[usize]) -> Result<()> {
        self.split(island)?;
        self.wait_until_see(those, island, false)?;
        self.wait_until_see(island, those, false).map(drop)
    }

    /// Puts them back.
    pub(super) fn unite(&self, island: &[usize]) -> Result<()> {
        self.plug(island, BRIDGE)
    }

    fn plug(&self, hosts: &[usize], bridge: &str) -> Result<()> {
        let mut links = Netlink::open(self.underlay()?)?;
        hosts.iter().try_for_each(|&host| Ok(links.attach(&self.hosts[host].port, bridge)?))
    }

    /// Stops those that still run, and looks through what all have logged.
    fn finish(&mut self) -> Result<()> {
        for host in 0..self.hosts.len() {
            if self.hosts[host].process.is_some() {
                self.stop(host)?;
            }
        }
        for host in &self.hosts {
            let unseemly =
                host.before.iter().find(|line| line.contains("panicked") || line.contains("VSWTKN-"));
            ensure!(unseemly.is_none(), "{} has logged {unseemly:?}", host.name);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let of_host = |host: &Host| {
            let lines = host.log();
            let last = &lines[lines.len().saturating_sub(LAST_WORDS)..];
            format!("{} has said last:\n    {}", host.name, last.join("\n    "))
        };
        self.hosts.iter().map(of_host).collect::<Vec<_>>().join("\n")
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("scratch paths are UTF-8")
}

/// A directory that goes with the test.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("vswitchd-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Keepers of tasks that end with their namespaces may still write what has become of them. What is left of a failed test
        // is in nobody's way.
        let _left = wait_until("a scratch directory can be removed", || {
            Ok(fs::remove_dir_all(&self.0)
                .map_or_else(|error| error.kind() == ErrorKind::NotFound, |()| true))
        });
    }
}
