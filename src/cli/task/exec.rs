//! `vswitchd exec`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use super::options;
use super::{runtime, terminal};
use crate::api::{Call, Name, TaskState, TaskView};
use crate::cli::failed;
use crate::cli::remote::Remote;
use crate::namespace::sandbox::is_privileged;
use crate::namespace::visit::{self, Kind, VisitError};
use crate::task::connection::{self, ConnectionError};
use crate::task::frame::Request;
use crate::task::kept::{Kept, NOT_EXECUTABLE, NOT_FOUND, TASK};
use crate::task::{UserError, find_user};

/// Run another program in a task
///
/// It has the task's interfaces, host name, environment and user, and this command's terminal if there is one: job control
/// and Ctrl-C work as without it. It ends with the task.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd exec web ip addr
  vswitchd exec -it web sh
  vswitchd exec --env LANG=C --workdir /tmp web -- ls -l

Exit status: the program's, or 128 and its signal's number; 127 if there is no such program, 126 if it can't be run, 1 if \
the task does not run.")]
pub(in crate::cli) struct Exec {
    #[command(flatten)]
    remote: Remote,

    /// Let it read this command's input
    #[arg(short, long)]
    interactive: bool,

    /// Insist on a terminal; it has this command's in any case
    #[arg(short, long)]
    tty: bool,

    /// A variable of its environment; KEY alone passes this command's on
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,

    /// A file with a variable on each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// The directory that it starts in [default: the task's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Its user, by name or number; a number that is not in /etc/passwd needs a group [default: the task's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Which
    task: Name,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("task {0} does not run")]
    NotRunning(Name),
    #[error("-t wants a terminal, and standard input is none: leave it out")]
    NoTerminal,
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
    #[error("{path} makes no sense: {source}")]
    Task { path: String, source: serde_json::Error },
    #[error(transparent)]
    Option(#[from] options::OptionError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Exec {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let task: TaskView = match self.remote.clone().ask(&Call::Task(self.task.clone())) {
            Ok(task) => task,
            Err(code) => return code,
        };
        match self.attempt(&task) {
            Ok(code) => code,
            Err(ExecError::Visit(error @ VisitError::Start { .. })) => {
                failed(&error);
                let missing = matches!(&error, VisitError::Start { source, .. } if source.kind() == io::ErrorKind::NotFound);
                ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE })
            }
            Err(error) => failed(&error),
        }
    }

    fn attempt(self, task: &TaskView) -> Result<ExitCode, ExecError> {
        if self.tty && !terminal::has_input() {
            return Err(ExecError::NoTerminal);
        }
        let Some(pid) = task.pid.filter(|_| task.state == TaskState::Running) else {
            return Err(ExecError::NotRunning(task.name.clone()));
        };
        let command = self.command(task)?;
        let kinds = [Kind::User, Kind::Pid, Kind::Mnt, Kind::Net, Kind::Uts];
        let open = |kind: Kind| {
            let path = format!("/proc/{pid}/ns/{}", kind.file_name());
            let file = File::open(&path).map_err(|source| ExecError::File { path, source })?;
            Ok((kind, file.into()))
        };
        let namespaces = kinds.into_iter().map(open).collect::<Result<_, ExecError>>()?;
        // Only now is it certain that the number still was that process's when they were opened.
        let status = runtime()?.block_on(connection::ask_status(&task.directory, Request::Status))?;
        if status.state != TaskState::Running || status.pid != pid {
            return Err(ExecError::NotRunning(task.name.clone()));
        }
        visit::join(namespaces)?;
        Ok(visit::run(command)?.into())
    }

    fn command(self, task: &TaskView) -> Result<Command, ExecError> {
        let path = task.directory.join(TASK);
        let shown = || path.display().to_string();
        let text = fs::read(&path).map_err(|source| ExecError::File { path: shown(), source })?;
        let kept: Kept =
            serde_json::from_slice(&text).map_err(|source| ExecError::Task { path: shown(), source })?;
        let user = match &self.user {
            Some(wanted) => find_user(Some(wanted), is_privileged())?,
            None => kept.user.clone(),
        };
        let mut words = self.command.into_iter();
        let mut command = Command::new(words.next().expect("the parser wants one"));
        command.args(words).env_clear().envs(kept.environment(terminal::has_input()));
        let given = options::variables(&self.env_file, &self.env)?;
        command.envs(given.iter().filter_map(|variable| variable.split_once('=')));
        let workdir = self.workdir.as_deref().map(|workdir| options::directory(Some(workdir))).transpose()?;
        command.current_dir(workdir.or(kept.program.workdir).unwrap_or_else(|| "/".into()));
        if let Some((uid, gid)) = user.ids {
            command.uid(uid).gid(gid);
        }
        if !self.interactive {
            command.stdin(Stdio::null());
        }
        Ok(command)
    }
}
