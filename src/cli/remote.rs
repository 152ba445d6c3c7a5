//! What all commands have in common that ask a daemon.

use std::process::ExitCode;

use serde::de::DeserializeOwned;

use super::daemon::configure;
use super::failed;
use crate::api::{Call, client};
use crate::config::{Flags, Key};

/// Which daemon is asked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Remote {
    /// Socket of the daemon [default: $VSWITCHD_SOCKET, or as `vswitchd config check` shows it]
    #[arg(short = 'H', long, value_name = "PATH")]
    socket: Option<String>,
}

impl Remote {
    /// Its answer, or the exit code after having said why there is none.
    pub(super) fn ask<T: DeserializeOwned>(self, call: &Call) -> Result<T, ExitCode> {
        let values = self.socket.map(|socket| (Key::Socket, socket));
        let config = configure(&Flags { config: None, values: values.into_iter().collect() })?;
        client::ask(&config.socket, call).map_err(|error| failed(&error))
    }
}
