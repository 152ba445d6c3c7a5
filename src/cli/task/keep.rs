//! `vswitchd keep` and `envoy`: what the daemon starts. Not for people.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::failed;
use crate::namespace::init;
use crate::overlay::envoy::{self, EnvoyError};
use crate::task;

/// Look after a task; started by the daemon
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Keep {
    /// The task's directory
    directory: PathBuf,
}

/// Do one errand in another user namespace; started by the daemon
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Envoy {}

impl Envoy {
    pub(in crate::cli) fn run(self) -> ExitCode {
        let stream = rustix::stdio::stdin().try_clone_to_owned().map(UnixStream::from);
        match stream.map_err(EnvoyError::from).and_then(|stream| envoy::serve(&stream)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
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
