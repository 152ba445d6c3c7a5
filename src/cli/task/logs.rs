//! `vswitchd logs`.

use std::io::{self, Write};
use std::process::ExitCode;

use super::runtime;
use crate::api::{Call, Name, TaskView};
use crate::cli::date::rfc3339;
use crate::cli::failed;
use crate::cli::remote::Remote;
use crate::task::connection::{ConnectionError, connect};
use crate::task::frame::{Frame, Request, Stream};
use crate::task::log::{self, Entry};

/// Show what a task's program has written
///
/// Lines of its standard error go to this command's. Up to 16 MiB are kept, the newest.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd logs web
  vswitchd logs -f --tail 10 web

Exit status: 0 shown, 1 not to be had, 2 wrong usage or configuration.")]
pub(in crate::cli) struct Logs {
    #[command(flatten)]
    remote: Remote,

    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,

    /// Only so many lines from the end, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,

    /// Put its time, in UTC, before each line
    #[arg(short, long)]
    timestamps: bool,

    /// Which
    task: Name,
}

#[derive(Clone, Copy, Debug)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => {
            number.parse().map(|lines| Tail(Some(lines))).map_err(|_| "want a number of lines, or all".into())
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error("the log of task {0}: {1}")]
    Read(Name, io::Error),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the log has a line that makes no sense: {0}")]
    Line(#[from] serde_json::Error),
    #[error(transparent)]
    Write(#[from] io::Error),
}

impl Logs {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let task: TaskView = match self.remote.clone().ask(&Call::Task(self.task.clone())) {
            Ok(task) => task,
            Err(code) => return code,
        };
        match self.show(&task) {
            // A reader that has seen enough is no failure.
            Err(LogError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => failed(&error),
            Ok(()) => ExitCode::SUCCESS,
        }
    }

    fn show(&self, task: &TaskView) -> Result<(), LogError> {
        if self.follow && task.state.is_kept() {
            match runtime()?.block_on(self.follow(task)) {
                // It has ended since it was asked for.
                Err(LogError::Connection(ConnectionError::Ended)) => {}
                outcome => return outcome,
            }
        }
        let read = log::lines(&task.directory, self.tail.0);
        let lines = read.map_err(|error| LogError::Read(task.name.clone(), error))?;
        lines.split_inclusive(|&byte| byte == b'\n').try_for_each(|line| self.line(line))
    }

    async fn follow(&self, task: &TaskView) -> Result<(), LogError> {
        let (mut receiver, mut sender) = connect(&task.directory).await?;
        sender.send(&Frame::Request(Request::Logs { tail: self.tail.0 })).await?;
        let mut any = false;
        loop {
            match receiver.next().await {
                Ok(Some(Frame::Log(line))) => self.line(&line)?,
                Ok(Some(Frame::Ended(_))) => return Ok(()),
                Ok(Some(_)) => return Err(ConnectionError::Unexpected.into()),
                // What was shown is not to be shown again.
                Ok(None) | Err(ConnectionError::Ended) if any => return Ok(()),
                Ok(None) => return Err(ConnectionError::Ended.into()),
                Err(error) => return Err(error.into()),
            }
            any = true;
        }
    }

    fn line(&self, line: &[u8]) -> Result<(), LogError> {
        let Entry { time_ms, stream, log } = serde_json::from_slice(line)?;
        let time = if self.timestamps { format!("{} ", rfc3339(time_ms)) } else { String::new() };
        match stream {
            Stream::Stdout => write!(io::stdout().lock(), "{time}{log}")?,
            Stream::Stderr => write!(io::stderr().lock(), "{time}{log}")?,
        }
        Ok(())
    }
}
