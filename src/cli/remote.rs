//! What all commands have in common that ask a daemon.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::daemon::configure;
use super::failed;
use crate::api::client::{self, AskError};
use crate::api::{Call, Name};
use crate::config::{Flags, Key};

/// Which daemon is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Remote {
    /// Socket of the daemon [default: $VSWITCHD_SOCKET, or as `vswitchd config check` shows it]
    #[arg(short = 'H', long, value_name = "PATH")]
    socket: Option<String>,
}

/// A daemon, by its socket.
#[derive(Debug)]
pub(super) struct Daemon(PathBuf);

impl Remote {
    /// Its answer, or the exit code after having said why there is none.
    pub(super) fn ask<T: DeserializeOwned>(self, call: &Call) -> Result<T, ExitCode> {
        self.find()?.ask(call).map_err(|error| failed(&error))
    }

    /// The daemon that it is, or the exit code after having said why that isn't known.
    pub(super) fn find(self) -> Result<Daemon, ExitCode> {
        let values = self.socket.map(|socket| (Key::Socket, socket));
        let config = configure(&Flags { config: None, values: values.into_iter().collect() })?;
        Ok(Daemon(config.socket))
    }

    /// Asks for each of several things and hands answers to `done`. What is refused is said, and the others are done
    /// all the same; then the exit code is that of failure.
    pub(super) fn ask_each<T: DeserializeOwned>(
        self,
        names: Vec<Name>,
        call: impl Fn(Name) -> Call,
        mut done: impl FnMut(&Name, T) -> io::Result<()>,
    ) -> ExitCode {
        let daemon = match self.find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        let mut outcome = ExitCode::SUCCESS;
        for name in names {
            match daemon.ask(&call(name.clone())) {
                Ok(answer) => match done(&name, answer) {
                    Ok(()) => {}
                    Err(error) => return failed(&error),
                },
                Err(error @ AskError::Refused(_)) => outcome = failed(&error),
                // The next would come no further.
                Err(error) => return failed(&error),
            }
        }
        outcome
    }
}

impl Daemon {
    /// Its answer.
    pub(super) fn ask<T: DeserializeOwned>(&self, call: &Call) -> Result<T, AskError> {
        client::ask(&self.0, call)
    }
}
