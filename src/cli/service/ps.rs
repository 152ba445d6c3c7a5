//! `vswitchd service ps`.

use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::api::client::AskError;
use crate::api::{Call, Name, ServiceTaskView, every_key_is_met};
use crate::cli::printable::printable;
use crate::cli::remote::{Daemon, Remote};
use crate::cli::status::span;
use crate::cli::table::Table;
use crate::cli::template::{Field, ListFormat, Listed, field};
use crate::cli::{ID_SHORT, failed, say};

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_millis(500);

/// List the tasks of services, on all nodes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service ps web
  vswitchd service ps --watch web api
  vswitchd service ps --filter desired-state=running --filter node=web-1 web
  vswitchd service ps --format '{{.Name}} on {{.Node}}: {{.CurrentState}}' web

A slot that has no task has a line, too: ERROR says why. So has each port that a node should listen on and can't have. Conditions with the same key are alternatives, and every key must \
be met. desired-state= is running or shutdown, node= and name= are a part of it, id= is the beginning of it.

Templates know .ID .Name .Node .DesiredState .CurrentState .Error as Docker's, and .Service .Generation; 'table ' before one \
lines them up under a head. In JSON, name counts slots from 1, as everywhere, and slot from 0.

Exit status: 0 listed, 1 a service was not found, or is not there any more, 2 wrong usage or configuration, 130 interrupted.")]
pub(super) struct Ps {
    /// Which
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    /// Only those that meet this: desired-state=, node=, name= or id=
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<Term>,

    /// How to print them: text, json (one document a line for each task), or a template
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: ListFormat<ServiceTaskView>,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids
    #[arg(long)]
    no_trunc: bool,

    /// Print them again whenever they have changed, until interrupted or no service is left
    #[arg(long)]
    watch: bool,
}

/// A condition on a task.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Desired(bool),
    Node(String),
    Name(String),
    Id(String),
}

impl FromStr for Term {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("desired-state", "running")) => Ok(Self::Desired(true)),
            Some(("desired-state", "shutdown")) => Ok(Self::Desired(false)),
            Some(("desired-state", _)) => Err("desired-state: want running or shutdown".into()),
            Some(("node", part)) => Ok(Self::Node(part.into())),
            Some(("name", part)) => Ok(Self::Name(part.into())),
            Some(("id", beginning)) => Ok(Self::Id(beginning.into())),
            _ => Err("want desired-state=, node=, name= or id=".into()),
        }
    }
}

impl Term {
    fn holds(&self, task: &ServiceTaskView) -> bool {
        match self {
            Self::Desired(wanted) => task.wanted == *wanted,
            Self::Node(part) => task.node.as_ref().is_some_and(|node| node.contains(part.as_str())),
            Self::Name(part) => task.name.contains(part.as_str()),
            Self::Id(beginning) => task.id.starts_with(beginning.as_str()),
        }
    }
}

/// Whether a task meets every key.
fn admits(terms: &[Term], task: &ServiceTaskView) -> bool {
    every_key_is_met(terms, std::mem::discriminant, |term| term.holds(task))
}

impl Ps {
    pub(super) fn run(self) -> ExitCode {
        let daemon = match self.remote.clone().find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        let (mut services, mut before) = (self.services.clone(), None);
        let mut outcome = ExitCode::SUCCESS;
        loop {
            let tasks = match self.look(&daemon, &mut services, &mut outcome) {
                Ok(tasks) => tasks,
                Err(error) => return failed(&error),
            };
            if services.is_empty() {
                return outcome;
            }
            if before.as_ref() != Some(&tasks)
                && let Err(error) = say(&self.shown(&tasks))
            {
                return failed(&error);
            }
            if !self.watch {
                return outcome;
            }
            before = Some(tasks);
            #[expect(clippy::disallowed_methods, reason = "between two looks, as the user asked for")]
            thread::sleep(LOOK);
        }
    }

    /// The tasks of all services that are there. One that isn't is said once, is not looked at again, and makes the outcome a
    /// failure.
    fn look(
        &self,
        daemon: &Daemon,
        services: &mut Vec<Name>,
        outcome: &mut ExitCode,
    ) -> Result<Vec<ServiceTaskView>, AskError> {
        let (mut all, mut there) = (Vec::new(), Vec::new());
        for service in services.drain(..) {
            match daemon.ask::<Vec<ServiceTaskView>>(&Call::ServiceTasks(service.clone())) {
                Ok(tasks) => {
                    all.extend(tasks.into_iter().filter(|task| admits(&self.filter, task)));
                    there.push(service);
                }
                Err(error @ AskError::Refused(_)) => *outcome = failed(&error),
                // The next would come no further.
                Err(error) => return Err(error),
            }
        }
        *services = there;
        Ok(all)
    }

    fn shown(&self, tasks: &[ServiceTaskView]) -> String {
        let shortened = !self.no_trunc;
        if self.quiet {
            ids(tasks, shortened)
        } else {
            self.format.show(tasks, (false, shortened), |task| id(task, shortened), table)
        }
    }
}

/// Those with a task; a slot without one has no id.
fn ids(tasks: &[ServiceTaskView], shortened: bool) -> String {
    let ids = tasks.iter().filter(|task| !task.id.is_empty());
    ids.map(|task| format!("{}\n", printable(&id(task, shortened)))).collect()
}

fn table(tasks: &[ServiceTaskView], shortened: bool) -> String {
    let mut table = Table::new(["ID", "NAME", "NODE", "DESIRED STATE", "CURRENT STATE", "ERROR"]);
    tasks.iter().for_each(|task| table.row(row(task, shortened)));
    table.to_string()
}

fn row(task: &ServiceTaskView, shortened: bool) -> [String; 6] {
    [
        id(task, shortened),
        task.name.clone(),
        task.node.clone().unwrap_or_default(),
        desired(task).into(),
        current(task, now()),
        task.reason.clone(),
    ]
}

fn id(task: &ServiceTaskView, shortened: bool) -> String {
    task.id.chars().take(if shortened { ID_SHORT } else { usize::MAX }).collect()
}

fn desired(task: &ServiceTaskView) -> &'static str {
    if task.wanted { "Running" } else { "Shutdown" }
}

/// What it does, and for how long.
fn current(task: &ServiceTaskView, now: Duration) -> String {
    let mut state: String = task.state.clone();
    if let Some(first) = state.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    match task.since_ms {
        Some(since) => format!("{state} {} ago", span(now.saturating_sub(Duration::from_millis(since)))),
        None => state,
    }
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Listed for ServiceTaskView {
    const FIELDS: &'static [Field<Self>] = &[
        field(".ID", "ID", id),
        field(".Name", "NAME", |task, _| task.name.clone()),
        field(".Node", "NODE", |task, _| task.node.clone().unwrap_or_default()),
        field(".DesiredState", "DESIRED STATE", |task, _| desired(task).into()),
        field(".CurrentState", "CURRENT STATE", |task, _| current(task, now())),
        field(".Error", "ERROR", |task, _| task.reason.clone()),
        field(".Service", "SERVICE", |task, _| task.service.clone()),
        field(".Generation", "GENERATION", |task, _| task.generation.to_string()),
    ];
    const HAS_LABELS: bool = false;

    fn label(&self, _: &str) -> Option<&str> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(slot: Option<u16>, state: &str, wanted: bool) -> ServiceTaskView {
        ServiceTaskView {
            id: "0123456789abcdefghijklmno".into(),
            name: ServiceTaskView::name_of("web", slot),
            service: "web".into(),
            slot,
            node: Some("node-1".into()),
            generation: 1,
            wanted,
            state: state.into(),
            reason: "exit code 3\u{1b}".into(),
            last: false,
            since_ms: Some(2_000),
        }
    }

    #[test]
    fn a_row_says_how_it_is() {
        let failed = task(Some(0), "failed", false);
        assert_eq!(row(&failed, true)[..4], ["0123456789ab", "web.1", "node-1", "Shutdown"]);
        assert_eq!(current(&failed, Duration::from_secs(62)), "Failed 1 min 0 s ago");
        let pending =
            ServiceTaskView { since_ms: None, node: None, id: String::new(), ..task(None, "pending", true) };
        assert_eq!(row(&pending, true)[..5], ["", "web", "", "Running", "Pending"]);
        assert_eq!(ids(&[failed, pending], false), "0123456789abcdefghijklmno\n");
    }

    #[test]
    fn templates_know_tasks() {
        let tasks = [task(Some(0), "failed", false), task(None, "running", true)];
        let rendered = |template: &str| match template.parse::<ListFormat<ServiceTaskView>>().unwrap() {
            ListFormat::Template(template) => template.render(&tasks, true),
            other => panic!("{other:?} is no template"),
        };
        assert_eq!(
            rendered("{{.ID}} {{.Name}} {{.Node}} {{.DesiredState}} {{.Error}}"),
            "0123456789ab web.1 node-1 Shutdown exit code 3\\u{1b}\n0123456789ab web node-1 Running exit code 3\\u{1b}\n"
        );
        assert!(rendered("{{.CurrentState}}").starts_with("Failed "));
        assert_eq!(
            rendered("table {{.Service}}\\t{{.Generation}}"),
            "SERVICE  GENERATION\nweb      1\nweb      1\n"
        );
        for (template, expected) in
            [("{{.Ports}}", ".Error .Service .Generation"), ("{{.Label \"a\"}}", "no such field")]
        {
            let refused = template.parse::<ListFormat<ServiceTaskView>>().unwrap_err();
            assert!(refused.contains(expected) && !refused.contains("KEY"), "{refused}");
        }
    }

    #[test]
    fn every_key_must_be_met_and_values_of_one_are_alternatives() {
        let task = task(Some(2), "running", true);
        let met = |terms: &[&str]| {
            admits(&terms.iter().map(|term| term.parse().unwrap()).collect::<Vec<_>>(), &task)
        };
        assert!(met(&[]) && met(&["desired-state=running", "node=1", "name=web.3", "id=01"]));
        assert!(
            met(&["node=2", "node=1"]) && !met(&["node=2"]) && !met(&["desired-state=shutdown", "node=1"])
        );
        for text in ["", "node", "desired-state=up", "colour=red"] {
            assert!(text.parse::<Term>().is_err(), "{text}");
        }
    }
}
