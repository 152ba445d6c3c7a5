//! `vswitchd lab`.

mod inside;
mod others;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use super::{Format, failed};
use crate::lab::control::{LabName, server};
use crate::lab::{Plan, Shape, UnderlayKind, WirePlan};
use crate::namespace::init::{self, Ended, Stage};
use crate::namespace::names::PRIVATE_DIR;
use crate::namespace::obstacle::check_tun;
use crate::switch::io::mem::Faults;

/// The exit code of what SIGKILL has ended.
const KILLED: u8 = 128 + 9;

/// Build a network laboratory on this machine, check it, take it down
///
/// Nodes, each running a daemon in a network namespace of its own, are joined by an underlay and form a cluster
/// (init, join); each has endpoints, namespaces with a TAP device eth0, attached to networks, the last of which is
/// encrypted if there are several. Every pair of endpoints is pinged (within a network they must answer, across
/// networks they may not), names are resolved, pages are fetched by name across nodes and from a host outside of the
/// overlay, TCP streams are measured, and every node is asked about the cluster. It needs no root, only access to
/// /dev/net/tun and user namespaces, and leaves nothing behind, whatever ends it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<LabCommand>,
    #[command(flatten)]
    build: Build,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    Exec(Exec),
    Ls(Ls),
    Down(Down),
}

#[derive(Debug, clap::Args)]
struct Build {
    /// Nodes, 1 to 64
    #[arg(long, value_name = "N", default_value_t = Shape::default().nodes)]
    nodes: u16,

    /// Endpoints of each node, 1 to 16
    #[arg(long, value_name = "K", default_value_t = Shape::default().endpoints,
          value_parser = clap::value_parser!(u16).range(1..=16))]
    endpoints: u16,

    /// Networks, 1 to 16, the last of several encrypted; each node's endpoints are spread over them in turn
    #[arg(long, value_name = "M", default_value_t = Shape::default().networks)]
    networks: u16,

    /// Run the daemons only: no cluster, networks or endpoints, for you to make your own
    #[arg(long, conflicts_with_all = ["endpoints", "networks"])]
    bare: bool,

    /// What joins the nodes
    #[arg(long, value_enum, default_value_t = Underlay::Veth)]
    underlay: Underlay,

    /// Wire: share of packets lost, 0 to 1
    #[arg(long, value_name = "SHARE")]
    loss: Option<f64>,

    /// Wire: how long every packet takes, in milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    delay: Option<Duration>,

    /// Wire: how much longer it takes at most, in milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    jitter: Option<Duration>,

    /// Wire: share of packets overtaken by later ones, 0 to 1
    #[arg(long, value_name = "SHARE")]
    reorder: Option<f64>,

    /// Wire: share of packets that arrive twice, 0 to 1
    #[arg(long, value_name = "SHARE")]
    duplicate: Option<f64>,

    /// Wire: seed of the dice; the same seed throws the same
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Let the nodes talk over IPv6
    #[arg(long)]
    ipv6: bool,

    /// How to print what was built and found
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Stay up after the check until Ctrl-C or `vswitchd lab down`
    #[arg(long)]
    keep: bool,

    /// The lab's name, for several at once [default: lab, lab2, ...]
    #[arg(long)]
    name: Option<LabName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Underlay {
    /// A kernel bridge with veth pairs
    Veth,
    /// A simulated link that loses, delays, reorders and duplicates as it is told
    Wire,
}

/// Run a command in a node or an endpoint of a lab, or outside of its networks
///
/// Without a command it is a shell. Terminal and job control work, and the exit status is the command's. In the
/// lab you appear as root, whoever you are; files are this machine's, but for /run and /etc/resolv.conf: an endpoint
/// asks its gateway for names. VSWITCHD_SOCKET names the
/// node's daemon, so that vswitchd's other commands ask it. The command ends with the lab.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXEC_EXAMPLES)]
struct Exec {
    /// Node, endpoint or `outside`, as `vswitchd lab ls` lists them
    #[arg(value_name = "NODE|ENDPOINT")]
    target: String,

    /// Command and its arguments [default: your shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,

    /// Which lab, if several are running
    #[arg(long)]
    name: Option<LabName>,
}

/// List your running labs with their nodes and endpoints
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd lab ls
  vswitchd lab ls --format json")]
struct Ls {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// End a lab and wait until it is gone
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd lab down
  vswitchd lab down --name lossy
  vswitchd lab down --all")]
struct Down {
    /// Which lab, if several are running
    #[arg(long, conflicts_with = "all")]
    name: Option<LabName>,

    /// All of yours
    #[arg(long)]
    all: bool,
}

const EXAMPLES: &str = "\
Examples:
  Three nodes, two endpoints each, two networks:
    vswitchd lab

  A larger one, over IPv6:
    vswitchd lab --nodes 8 --endpoints 4 --networks 4 --ipv6

  A bad link:
    vswitchd lab --underlay wire --loss 0.05 --delay 20 --jitter 5 --seed 1

  One to play with, and from another terminal:
    vswitchd lab --keep
    vswitchd lab exec n1a -- ping n2a
    vswitchd lab exec n1a -- curl http://outside.test/
    vswitchd lab exec node2 -- vswitchd node ls
    vswitchd lab exec node2
    vswitchd lab down

  Three hosts with nothing but a daemon, for a cluster that you make yourself:
    vswitchd lab --keep --bare
    vswitchd lab exec node1 -- vswitchd init

Exit status: 0 all as it must be, 1 not so or not built, 2 wrong usage, 130 interrupted before the verdict.";

const EXEC_EXAMPLES: &str = "\
Examples:
  A shell in the first endpoint of node 1:
    vswitchd lab exec n1a

  The cluster as node 2 sees it, and as node 3 does (lab ls lists the sockets):
    vswitchd lab exec node2 -- vswitchd status --peers
    vswitchd lab exec node2 -- vswitchd status --peers -H /run/vswitchd-lab/node3/api.sock

  The underlay as node 2 sees it:
    vswitchd lab exec node2 -- tcpdump -ni eth0 udp port 4789

  One program in each pane:
    vswitchd lab exec n1a -- tmux

Exit status: the command's, or 128 and its signal's number; 127 if it can't be started.";

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            None => self.build.run(),
            Some(LabCommand::Exec(exec)) => others::exec(exec),
            Some(LabCommand::Ls(ls)) => others::ls(ls.format),
            Some(LabCommand::Down(down)) => others::down(down.name, down.all),
        }
    }
}

impl Build {
    /// Goes through the stages of [`init`]: this is called in three processes.
    fn run(self) -> ExitCode {
        let plan = match self.plan() {
            Ok(plan) => plan,
            Err(usage) => {
                eprintln!("vswitchd: {usage} (see vswitchd lab --help)");
                return ExitCode::from(2);
            }
        };
        match init::stage() {
            Ok(Stage::Outside) => self.outside(),
            Ok(Stage::Init(init)) => ended(init.run()),
            Ok(Stage::Inside(listener)) => inside::run(plan, listener.into(), self.format, self.keep),
            Err(error) => failed(&error),
        }
    }

    fn outside(&self) -> ExitCode {
        if let Err(obstacle) = check_tun() {
            return failed(&obstacle);
        }
        match server::listen(self.name.as_ref()) {
            Ok((_, listener)) => {
                let outcome = init::confine(listener.into());
                if matches!(outcome, Ok(Ended { code: KILLED, .. })) {
                    eprintln!("vswitchd: the lab was killed");
                }
                ended(outcome)
            }
            Err(error) => failed(&error),
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let underlay = match self.underlay {
            Underlay::Veth => UnderlayKind::Veth,
            Underlay::Wire => UnderlayKind::Wire,
        };
        if underlay == UnderlayKind::Veth
            && let Some(option) = self.wire_option()
        {
            return Err(format!("{option} is for --underlay wire"));
        }
        let (nodes, endpoints, networks, ipv6) = (self.nodes, self.endpoints, self.networks, self.ipv6);
        let shape = Shape { nodes, endpoints, networks, underlay, ipv6 };
        let plan = if self.bare { Plan::bare(shape) } else { Plan::new(shape) };
        let mut plan = plan.map_err(|error| error.to_string())?;
        let faults = Faults {
            loss: self.loss.unwrap_or_default(),
            duplicate: self.duplicate.unwrap_or_default(),
            reorder: self.reorder.unwrap_or_default(),
            delay: self.delay.unwrap_or_default(),
            jitter: self.jitter.unwrap_or_default(),
        };
        let faults = faults.check().map_err(|error| error.to_string())?;
        plan.wire = WirePlan { faults, seed: self.seed.unwrap_or_default() };
        Ok(plan)
    }

    /// The first option given that only a wire has.
    fn wire_option(&self) -> Option<&'static str> {
        let given = [
            ("--loss", self.loss.is_some()),
            ("--delay", self.delay.is_some()),
            ("--jitter", self.jitter.is_some()),
            ("--reorder", self.reorder.is_some()),
            ("--duplicate", self.duplicate.is_some()),
            ("--seed", self.seed.is_some()),
        ];
        given.into_iter().find_map(|(option, given)| given.then_some(option))
    }
}

/// The resolv.conf(5) of a place of the lab, in the lab.
fn resolv_conf(place: &str) -> PathBuf {
    Path::new(PRIVATE_DIR).join(format!("{place}.resolv.conf"))
}

fn ended(outcome: Result<Ended, init::InitError>) -> ExitCode {
    match outcome {
        Ok(ended) => ended.into(),
        Err(error) => failed(&error),
    }
}

/// Milliseconds, with a fraction or none; up to a minute.
fn milliseconds(text: &str) -> Result<Duration, String> {
    let ms: f64 = text.parse().map_err(|_| "not a number of milliseconds")?;
    let ok = (0.0..=60_000.0).contains(&ms);
    ok.then(|| Duration::from_secs_f64(ms / 1e3)).ok_or_else(|| "must be from 0 to 60000 milliseconds".into())
}
