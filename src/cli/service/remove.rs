//! `vswitchd service rm`.

use std::process::ExitCode;
use std::time::Duration;

use super::wait::Wait;
use crate::api::client::AskError;
use crate::api::{Call, Name, ServiceView};
use crate::cli::remote::Remote;
use crate::cli::{failed, say};

/// Remove services, with their tasks; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service rm web api
  vswitchd service rm --detach web

Prints each service that is removed. The others are removed all the same if one can't be. Then it waits until the last task has \
ended. A name that two services have removes neither: give the id.

Exit status: 0 all are removed, 1 one is not, or has tasks that don't end, 2 wrong usage or configuration, 130 interrupted.")]
pub(super) struct Rm {
    /// Which
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    wait: Wait,
}

impl Rm {
    pub(super) fn run(self) -> ExitCode {
        let daemon = match self.remote.find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        let (mut outcome, mut removed) = (ExitCode::SUCCESS, Vec::new());
        for name in self.services {
            let service = daemon.ask::<ServiceView>(&Call::Service(name.clone()));
            let gone = service.and_then(|service| {
                daemon.ask::<()>(&Call::RemoveService(name.clone()))?;
                Ok((service.id, Duration::from_millis(service.spec.stop_grace_ms)))
            });
            match gone {
                Ok((id, grace)) => {
                    if let Err(error) = say(&format!("{name}\n")) {
                        return failed(&error);
                    }
                    removed.push((name, id, grace));
                }
                Err(error @ AskError::Refused(_)) => outcome = failed(&error),
                // The next would come no further.
                Err(error) => return failed(&error),
            }
        }
        match self.wait.until_gone(&daemon, &removed) {
            ExitCode::SUCCESS => outcome,
            code => code,
        }
    }
}
