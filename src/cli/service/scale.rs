//! `vswitchd service scale`.

use std::process::ExitCode;

use super::options;
use super::wait::Wait;
use crate::api::client::AskError;
use crate::api::{Call, Name, ServiceView};
use crate::cli::remote::Remote;
use crate::cli::{failed, say};
use crate::service::ServiceUpdate;

/// Set the numbers of tasks of services; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service scale web=5 api=2

Prints each service that is scaled. The others are scaled all the same if one can't be. Then it waits until all have so many \
tasks, as `service create` does.

Exit status: 0 all have so many, or with --detach are scaled, 1 one is not, 2 wrong usage or configuration, 130 interrupted.")]
pub(super) struct Scale {
    /// Which, and to how many
    #[arg(required = true, value_name = "SERVICE=N", value_parser = scaled)]
    services: Vec<(Name, u16)>,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    wait: Wait,
}

fn scaled(text: &str) -> Result<(Name, u16), String> {
    let (name, replicas) = text.split_once('=').ok_or("want SERVICE=N, as in web=5")?;
    let name = name.parse().map_err(|error| format!("{name}: {error}"))?;
    Ok((name, options::replicas(replicas)?))
}

impl Scale {
    pub(super) fn run(self) -> ExitCode {
        let daemon = match self.remote.find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        let (mut outcome, mut scaled) = (ExitCode::SUCCESS, Vec::new());
        for (name, replicas) in self.services {
            let update = ServiceUpdate { replicas: Some(replicas), ..ServiceUpdate::default() };
            let updated = daemon
                .ask::<()>(&Call::UpdateService(name.clone(), Box::new(update)))
                .and_then(|()| daemon.ask::<ServiceView>(&Call::Service(name.clone())));
            match updated {
                Ok(service) => {
                    scaled.push(service.id);
                    if let Err(error) = say(&format!("{name} scaled to {replicas}\n")) {
                        return failed(&error);
                    }
                }
                Err(error @ AskError::Refused(_)) => outcome = failed(&error),
                // The next would come no further.
                Err(error) => return failed(&error),
            }
        }
        match self.wait.until_settled(&daemon, &scaled) {
            ExitCode::SUCCESS => outcome,
            code => code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_scaled_to_a_number() {
        assert_eq!(scaled("web=5"), Ok(("web".parse().unwrap(), 5)));
        assert_eq!(scaled("web=0").map(|(_, replicas)| replicas), Ok(0));
        for text in ["web", "=5", "web=", "web=-1", "web=1001", "web=1000000000", "a b=1"] {
            assert!(scaled(text).is_err(), "{text}");
        }
    }
}
