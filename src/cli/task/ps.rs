//! `vswitchd ps`.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::{Call, TaskState, TaskView, every_key_is_met};
use crate::cli::printable::{self, printable, shorten};
use crate::cli::remote::Remote;
use crate::cli::status::span;
use crate::cli::table::Table;
use crate::cli::{Format, ID_SHORT, print};

/// Characters of a command that are shown, as in Docker.
const COMMAND_SHORT: usize = 20;

/// List the tasks of this node that run
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd ps
  vswitchd ps -a --filter status=exited
  vswitchd rm $(vswitchd ps -aq --filter status=exited)

Conditions with the same key are alternatives, and every key must be met. status= is created, running, exited or dead, \
exited= an exit code, network= a network's name or the beginning of its id, name= a part of the name, id= the beginning \
of the id. Those with status= or exited= include tasks that don't run.

Exit status: 0 listed, 1 not to be had, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Ps {
    #[command(flatten)]
    remote: Remote,

    /// Also those that don't run
    #[arg(short, long)]
    all: bool,

    /// Only those that meet this: status=, exited=, network=, name= or id=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Term>,

    /// How to print them; JSON has one document a line for each task
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
}

/// A condition on a task.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Status(TaskState),
    Exited(u8),
    Network(String),
    Name(String),
    Id(String),
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        match key {
            "status" => {
                let state = TaskState::ALL.into_iter().find(|state| state.name() == value);
                state
                    .map(Self::Status)
                    .ok_or_else(|| "no such status: want created, running, exited or dead".into())
            }
            "exited" => value.parse().map(Self::Exited).map_err(|_| "exited: want an exit code".into()),
            "network" => Ok(Self::Network(value.into())),
            "name" => Ok(Self::Name(value.into())),
            "id" => Ok(Self::Id(value.into())),
            _ => Err("want status=, exited=, network=, name= or id=".into()),
        }
    }
}

impl Term {
    fn holds(&self, task: &TaskView) -> bool {
        match self {
            Self::Status(state) => task.state == *state,
            Self::Exited(code) => task.exit_code == Some(*code),
            Self::Network(wanted) => task
                .endpoints
                .iter()
                .any(|place| place.network_name == *wanted || place.network.starts_with(wanted.as_str())),
            Self::Name(part) => task.name.as_str().contains(part.as_str()),
            Self::Id(beginning) => task.id.starts_with(beginning.as_str()),
        }
    }
}

/// Whether a task meets every key.
fn admits(terms: &[Term], task: &TaskView) -> bool {
    every_key_is_met(terms, std::mem::discriminant, |term| term.holds(task))
}

impl Ps {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let tasks: Vec<TaskView> = match self.remote.ask(&Call::Tasks) {
            Ok(tasks) => tasks,
            Err(code) => return code,
        };
        let all =
            self.all || self.filter.iter().any(|term| matches!(term, Term::Status(_) | Term::Exited(_)));
        let wanted =
            |task: &&TaskView| (all || task.state == TaskState::Running) && admits(&self.filter, task);
        let tasks: Vec<&TaskView> = tasks.iter().filter(wanted).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = |task: &TaskView| -> String {
            task.id.chars().take(if self.no_trunc { usize::MAX } else { ID_SHORT }).collect()
        };
        print(&match (self.quiet, self.format) {
            (true, _) => tasks.iter().map(|task| format!("{}\n", printable(&id(task)))).collect(),
            (false, Format::Json) => tasks.iter().map(printable::json).collect(),
            (false, Format::Text) => {
                let mut table =
                    Table::new(["TASK ID", "COMMAND", "CREATED", "STATUS", "PORTS", "NETWORKS", "NAME"]);
                for task in tasks {
                    table.row(row(task, id(task), self.no_trunc, now));
                }
                table.to_string()
            }
        })
    }
}

fn row(task: &TaskView, id: String, whole: bool, now: Duration) -> [String; 7] {
    let command = printable(&task.program.command.join(" "));
    let ports: Vec<String> = task.published.iter().map(ToString::to_string).collect();
    let networks: Vec<&str> = task.endpoints.iter().map(|place| place.network_name.as_str()).collect();
    [
        id,
        format!("\"{}\"", if whole { command } else { shorten(&command, COMMAND_SHORT) }),
        format!("{} ago", ago(task.created_ms, now)),
        status(task, now),
        ports.join(", "),
        networks.join(","),
        task.name.to_string(),
    ]
}

fn ago(ms: u64, now: Duration) -> String {
    span(now.saturating_sub(Duration::from_millis(ms)))
}

fn status(task: &TaskView, now: Duration) -> String {
    let since = |ms: Option<u64>| ms.map_or_else(|| "?".into(), |ms| ago(ms, now));
    let code = task.exit_code.map_or_else(|| "?".into(), |code| code.to_string());
    match task.state {
        TaskState::Created => "Created".into(),
        TaskState::Running => format!("Up {}", since(task.started_ms)),
        TaskState::Exited => format!("Exited ({code}) {} ago", since(task.ended_ms)),
        TaskState::Dead => format!("Dead, seen {} ago", since(task.ended_ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Protocol, PublishedView, TaskEndpoint, TaskProgram};

    fn task(name: &str, state: TaskState, exit_code: Option<u8>) -> TaskView {
        let program = TaskProgram {
            command: vec!["sleep".into(), "\u{1b}[2J a long time".into()],
            workdir: None,
            env: Vec::new(),
            user: None,
            hostname: None,
            tty: false,
            stdin: false,
        };
        let place = TaskEndpoint {
            network: "0123".into(),
            network_name: "front".into(),
            endpoint: Some("4567".into()),
            interface: "eth0".into(),
            addresses: vec!["10.0.9.7/24".parse().unwrap()],
        };
        let (at, error) = (vec!["0.0.0.0:8080".parse().unwrap()], None);
        let port = PublishedView { target: 80, protocol: Protocol::Tcp, published: 8080, at, error };
        TaskView {
            id: "0123456789abcdefghijklmno".into(),
            name: name.parse().unwrap(),
            program,
            endpoints: vec![place],
            published: vec![port],
            remove: false,
            service: None,
            created_ms: 1_000,
            state,
            started_ms: Some(2_000),
            ended_ms: exit_code.map(|_| 60_000),
            exit_code,
            error: None,
            pid: None,
            directory: "/x".into(),
        }
    }

    #[test]
    fn every_key_must_be_met_and_values_of_one_are_alternatives() {
        let ended = task("amber-wren", TaskState::Exited, Some(3));
        let met = |terms: &[&str]| {
            admits(&terms.iter().map(|term| term.parse().unwrap()).collect::<Vec<_>>(), &ended)
        };
        assert!(met(&[]) && met(&["status=exited", "exited=3", "network=front", "name=wren", "id=012"]));
        assert!(met(&["status=running", "status=exited"]) && met(&["network=01"]));
        assert!(!met(&["status=running"]) && !met(&["status=exited", "exited=1"]) && !met(&["network=fro"]));
        for text in ["colour=red", "status=up", "exited=x", ""] {
            assert!(text.parse::<Term>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_row_says_how_it_is() {
        let now = Duration::from_secs(62);
        let shown = |task: &TaskView| row(task, "0123".into(), false, now);
        let up = shown(&task("a", TaskState::Running, None));
        assert_eq!(
            up[1..4],
            ["\"sleep \\u{1b}[2J a l…\"".to_owned(), "1 min 1 s ago".into(), "Up 1 min 0 s".into()]
        );
        assert_eq!(up[4..], ["0.0.0.0:8080->80/tcp", "front", "a"]);
        assert_eq!(shown(&task("a", TaskState::Exited, Some(3)))[3], "Exited (3) 2 s ago");
        assert_eq!(shown(&task("a", TaskState::Dead, None))[3], "Dead, seen ? ago");
    }
}
