//! `vswitchd run`, and back to its terminal: `vswitchd attach TASK`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::runtime::Runtime;

use super::keys::Keys;
use super::options::{self, OptionError};
use super::runtime;
use super::session::{Outcome, Session, Wishes};
use super::terminal;
use crate::api::client::AskError;
use crate::api::{Call, Code, Name, Publish, TaskCreate, TaskNetwork, TaskProgram, TaskState, TaskView};
use crate::cli::remote::{Daemon, Remote};
use crate::cli::{failed, print, printable::printable};

/// The exit code of what failed before the program was started, as Docker's.
const NOT_RUN: u8 = 125;

/// Run a program of this host in networks of the cluster
///
/// The program runs in namespaces of its own: it sees its interfaces (eth0, eth1, ... in the order of --network), its
/// processes and its host name, and this host's files. It outlives the daemon and this command. Without root it runs as
/// the daemon's user, who appears as root in it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  A shell that others find by the name alpine1, until it is left:
    vswitchd run -it --rm --name alpine1 --network test-net -- sh

  A server in the background, what it says, its end:
    vswitchd run -d --name web --network front -- python3 -m http.server 80
    vswitchd logs -f web
    vswitchd stop web

  In two networks, with an address and a second name, and variables:
    vswitchd run -d --network front,ip=10.0.9.7,alias=www --network back --env STAGE=test -- ./server

  Reached at port 8080 of this host, and at its port 5353 by UDP from this host alone:
    vswitchd run -d --network front -p 8080:80 -p 127.0.0.1:5353:53/udp -- ./server

  One more task of a service, as long as it runs:
    vswitchd run -d --network front --service web -- busybox httpd -f -p 80

  Apart from all networks:
    vswitchd run --rm --network none -- ip addr

--publish takes what Docker's does: 80 (a free port of this host), 8080:80 (all addresses of it), 127.0.0.1:8080:80, \
[::1]:8080:80, 8000-8002:80-82, /udp behind any of them; or published=8080,target=80,protocol=tcp,mode=host. The program \
sees the clients' own addresses. `vswitchd ps` shows what is reached where.

Ctrl-P Ctrl-Q leaves a terminal without ending the program; `vswitchd attach NAME` comes back to it. Without a terminal
signals go to the program.

Exit status: the program's, or 128 and its signal's number; 127 if there is no such program, 126 if it can't be run, 125 \
if it was not tried, or could not be started for now.")]
pub(in crate::cli) struct Run {
    #[command(flatten)]
    remote: Remote,

    /// Write this command's input to the program's
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// Print its id and leave it running
    #[arg(short, long)]
    detach: bool,

    /// Remove it once it has ended
    #[arg(long)]
    rm: bool,

    /// Its name, one of a kind on this node [default: a random one]
    #[arg(long)]
    name: Option<Name>,

    /// The host name that it sees [default: the beginning of its id]
    #[arg(long)]
    hostname: Option<Name>,

    /// A network made with --attachable, by name or id; or none. Several times for several
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK[,alias=NAME][,ip=ADDRESS][,mac=MAC]", required = true, value_parser = options::network)]
    networks: Vec<Option<TaskNetwork>>,

    /// Have a port of it reached at a port of this host, by clients from outside; as in 8080:80. Several times for several
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT[/tcp|/udp]")]
    publish: Vec<Publish>,

    /// The service that it answers for: what clients send to that, in a network of both, may come to it
    #[arg(long, value_name = "SERVICE")]
    service: Option<Name>,

    /// The directory that it starts in [default: this one]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// A variable of its environment; KEY alone passes this command's on
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,

    /// A file with a variable on each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Its user, by name or number; a number that is not in /etc/passwd needs a group [default: the daemon's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// What leaves a terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: Keys,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Why there is no session, and the exit code that goes with it.
type Failure = ExitCode;

impl Run {
    pub(in crate::cli) fn run(self) -> ExitCode {
        self.attempt().unwrap_or_else(|code| code)
    }

    fn attempt(self) -> Result<ExitCode, Failure> {
        if self.tty && self.interactive && !self.detach && !terminal::has_input() {
            return Err(not_run(&Wrong(
                "-t with -i wants a terminal, and standard input is none: leave -t out",
            )));
        }
        let daemon = self.remote.clone().find().map_err(|_said| ExitCode::from(NOT_RUN))?;
        let (detach, rm) = (self.detach, self.rm);
        let wishes = Wishes {
            input: self.interactive,
            output: true,
            tty: self.tty,
            signals: !self.tty,
            keys: self.detach_keys.clone(),
        };
        let request = self.request().map_err(|error| not_run(&error))?;
        let task: TaskView = daemon.ask(&Call::CreateTask(request)).map_err(|error| not_run(&error))?;
        let runtime = runtime().map_err(|error| not_run(&error))?;
        let session = if detach { None } else { Some(begin(&runtime, &task, wishes)?) };
        let started = start(&daemon, &task)?;
        if let Some(error) = &started.error {
            eprintln!("vswitchd: {}", printable(error));
        }
        match session {
            None if started.state == TaskState::Running => Ok(print(&format!("{}\n", started.id))),
            None => Ok(ExitCode::from(started.exit_code.unwrap_or(NOT_RUN))),
            Some(session) => {
                let outcome = go_through(&runtime, session)?;
                if let (true, Outcome::Ended(_)) = (rm, outcome) {
                    remove(&daemon, &task)?;
                }
                Ok(code_of(outcome))
            }
        }
    }

    fn request(self) -> Result<TaskCreate, OptionError> {
        let program = TaskProgram {
            command: options::words(self.command)?,
            workdir: Some(options::directory(self.workdir.as_deref())?),
            env: options::variables(&self.env_file, &self.env)?,
            user: self.user,
            hostname: self.hostname,
            tty: self.tty,
            stdin: self.interactive,
        };
        let networks = self.networks.into_iter().flatten().collect();
        let published = self.publish.into_iter().flat_map(|Publish(ports)| ports).collect();
        let service = self.service;
        Ok(TaskCreate { name: self.name, program, networks, published, remove: self.rm, service })
    }
}

/// Comes back to a task's program.
pub(in crate::cli) fn reattach(remote: Remote, task: Name, no_stdin: bool, keys: Keys) -> ExitCode {
    let attempt = || {
        let task: TaskView = remote.ask(&Call::Task(task))?;
        if task.state != TaskState::Running {
            return Err(failed(&Wrong("the task does not run: `vswitchd logs` has what it wrote")));
        }
        let tty = task.program.tty;
        let input = !no_stdin && task.program.stdin;
        let runtime = runtime().map_err(|error| not_run(&error))?;
        let session = begin(&runtime, &task, Wishes { input, output: true, tty, signals: !tty, keys })?;
        go_through(&runtime, session).map(code_of)
    };
    attempt().unwrap_or_else(|code| code)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(&'static str);

fn not_run(error: &dyn std::error::Error) -> ExitCode {
    failed(error);
    ExitCode::from(NOT_RUN)
}

fn begin(runtime: &Runtime, task: &TaskView, wishes: Wishes) -> Result<Session, Failure> {
    runtime.block_on(Session::begin(&task.directory, wishes)).map_err(|error| not_run(&error))
}

fn start(daemon: &Daemon, task: &TaskView) -> Result<TaskView, Failure> {
    let id = task.id.parse().map_err(|error| not_run(&error))?;
    daemon.ask(&Call::StartTask(id)).map_err(|error| not_run(&error))
}

fn go_through(runtime: &Runtime, session: Session) -> Result<Outcome, Failure> {
    runtime.block_on(session.run()).map_err(|error| not_run(&error))
}

/// The daemon may have done it before.
fn remove(daemon: &Daemon, task: &TaskView) -> Result<(), Failure> {
    let id = task.id.parse().map_err(|error| not_run(&error))?;
    match daemon.ask(&Call::RemoveTask { task: id, force: true }) {
        Ok(()) => Ok(()),
        Err(AskError::Refused(refusal)) if refusal.code == Code::NotFound => Ok(()),
        Err(error) => Err(not_run(&error)),
    }
}

fn code_of(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Ended(code) => ExitCode::from(code),
        Outcome::Detached => ExitCode::SUCCESS,
        Outcome::Interrupted(signal) => ExitCode::from(128 + signal),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn command(line: &str) -> Result<Vec<OsString>, String> {
        let line = Line::try_parse_from(["run"].into_iter().chain(line.split(' ')));
        Ok(line.map_err(|error| error.to_string())?.run.command)
    }

    #[test]
    fn options_behind_the_program_are_its_own_and_others_are_none() {
        for line in ["--network none -- ls -l --rm", "--network none ls -l --rm"] {
            assert_eq!(command(line).unwrap(), ["ls", "-l", "--rm"], "{line}");
        }
        assert_eq!(command("--network none -- -x").unwrap(), ["-x"]);
        for option in ["-x", "--no-such"] {
            let refused = command(&format!("--network none {option} ls")).unwrap_err();
            assert!(refused.contains(&format!("unexpected argument '{option}'")), "{refused}");
        }
    }
}
