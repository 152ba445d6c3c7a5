//! `vswitchd keep`: what the daemon starts for each task. Not for people.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::failed;
use crate::namespace::init;
use crate::task;

/// Look after a task; started by the daemon
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Keep {
    /// The task's directory
    directory: PathBuf,
}

impl Keep {
    /// Goes through the stages of a room: this is called in two processes.
    pub(in crate::cli) fn run(self) -> ExitCode {
        match init::host() {
            Ok(None) => match task::keep(&self.directory) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            },
            Ok(Some(host)) => host.run().map_or_else(|error| failed(&error), ExitCode::from),
            Err(error) => failed(&error),
        }
    }
}
