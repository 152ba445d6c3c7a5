//! `vswitchd stop`, `kill`, `rm`, `wait`.

use std::process::ExitCode;

use super::session::{Outcome, Session, SessionError, Wishes};
use super::{runtime, signal};
use crate::api::{Call, KillRequest, Name, StopRequest, TaskView};
use crate::cli::remote::{Daemon, Remote};
use crate::cli::{failed, say};
use crate::task::connection::ConnectionError;

/// End the programs of tasks, by force after a while
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd stop web
  vswitchd stop --time 1 --signal INT web db

Prints each name that has been stopped. The others are stopped all the same if one can't be.

Exit status: 0 all have ended, 1 one has not, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Stop {
    #[command(flatten)]
    remote: Remote,

    /// Seconds until a program is killed
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", default_value_t = 10)]
    time: u32,

    /// What asks it to end
    #[arg(short, long, default_value = "TERM", value_parser = signal::number)]
    signal: u8,

    /// Which
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<Name>,
}

/// Send a signal to the programs of tasks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd kill web
  vswitchd kill --signal HUP web

Prints each name that was sent it.

Exit status: 0 all were sent it, 1 one was not, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Kill {
    #[command(flatten)]
    remote: Remote,

    /// Which signal
    #[arg(short, long, default_value = "KILL", value_parser = signal::number)]
    signal: u8,

    /// Which
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<Name>,
}

/// Remove tasks that have ended, with their logs
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd rm web
  vswitchd rm --force web db

Prints each name that is removed. The others are removed all the same if one can't be.

Exit status: 0 all are removed, 1 one is not, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Rm {
    #[command(flatten)]
    remote: Remote,

    /// Kill them first if they run
    #[arg(short, long)]
    force: bool,

    /// Which
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<Name>,
}

/// Wait until tasks have ended, and print their exit codes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd wait web

Exit status: 0 all have ended, 1 one can't be waited for, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Wait {
    #[command(flatten)]
    remote: Remote,

    /// Which
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<Name>,
}

impl Stop {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let request = StopRequest { signal: Some(self.signal), patience_s: self.time };
        each(self.remote, self.tasks, |daemon, name| {
            let task: TaskView = daemon.ask(&Call::Task(name.clone())).map_err(|error| failed(&error))?;
            daemon.ask::<()>(&Call::StopTask(name.clone(), request)).map_err(|error| failed(&error))?;
            end_of(&task)?;
            Ok(format!("{name}\n"))
        })
    }
}

impl Kill {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let request = KillRequest { signal: self.signal };
        let call = |name| Call::KillTask(name, request);
        self.remote.ask_each(self.tasks, call, |name, ()| say(&format!("{name}\n")))
    }
}

impl Rm {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let force = self.force;
        let call = |task| Call::RemoveTask { task, force };
        self.remote.ask_each(self.tasks, call, |name, ()| say(&format!("{name}\n")))
    }
}

impl Wait {
    pub(in crate::cli) fn run(self) -> ExitCode {
        each(self.remote, self.tasks, |daemon, name| {
            let task: TaskView = daemon.ask(&Call::Task(name.clone())).map_err(|error| failed(&error))?;
            let code = match end_of(&task)? {
                Some(code) => Some(code),
                None => {
                    let task: TaskView =
                        daemon.ask(&Call::Task(name.clone())).map_err(|error| failed(&error))?;
                    task.exit_code
                }
            };
            Ok(code.map_or_else(|| "?\n".into(), |code| format!("{code}\n")))
        })
    }
}

/// Does it for each and prints what comes of it; the others are done all the same if one fails.
fn each(
    remote: Remote,
    names: Vec<Name>,
    mut work: impl FnMut(&Daemon, &Name) -> Result<String, ExitCode>,
) -> ExitCode {
    let daemon = match remote.find() {
        Ok(daemon) => daemon,
        Err(code) => return code,
    };
    let mut outcome = ExitCode::SUCCESS;
    for name in names {
        match work(&daemon, &name).map(|text| say(&text)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return failed(&error),
            Err(code) => outcome = code,
        }
    }
    outcome
}

/// Waits for a task's end; gives its code, if it has not ended before.
fn end_of(task: &TaskView) -> Result<Option<u8>, ExitCode> {
    if !task.state.is_kept() {
        return Ok(None);
    }
    let wishes = Wishes {
        input: false,
        output: false,
        tty: false,
        signals: false,
        keys: super::keys::Keys::default(),
    };
    let runtime = runtime().map_err(|error| failed(&error))?;
    let outcome = runtime.block_on(async { Session::begin(&task.directory, wishes).await?.run().await });
    match outcome {
        Ok(Outcome::Ended(code)) => Ok(Some(code)),
        Ok(Outcome::Interrupted(signal)) => Err(ExitCode::from(128 + signal)),
        Ok(Outcome::Detached) => Ok(None),
        // It is over, however that came.
        Err(SessionError::Connection(ConnectionError::Ended) | SessionError::Lost) => Ok(None),
        Err(error) => Err(failed(&error)),
    }
}
