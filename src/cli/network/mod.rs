//! `vswitchd network`: the networks of the cluster.

mod cell;
mod connect;
mod create;
mod inspect;
mod list;
mod option;
mod remove;
mod subnets;
mod template;
mod term;

use std::process::ExitCode;

/// What Docker calls networks of a whole cluster.
const SCOPE: &str = "swarm";
/// The only kind of network there is.
const DRIVER: &str = "overlay";

/// Make, list, show and remove networks
///
/// A NETWORK is named by its name, its id, or the beginning of its id. Every node can list and show them; managers make
/// and remove them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(create::Create),
    #[command(visible_alias = "list")]
    Ls(list::Ls),
    Inspect(inspect::Inspect),
    #[command(visible_alias = "remove")]
    Rm(remove::Rm),
    Prune(remove::Prune),
    Connect(connect::Connect),
    Disconnect(connect::Disconnect),
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Create(args) => args.run(),
            Command::Ls(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Rm(args) => args.run(),
            Command::Prune(args) => args.run(),
            Command::Connect(args) => args.run(),
            Command::Disconnect(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{NetworkOptions, NetworkView, Subnet};

    /// A network with a bit of everything.
    pub(super) fn network(name: &str, subnets: &[(&str, &str)]) -> NetworkView {
        let subnet = |&(subnet, gateway): &(&str, &str)| Subnet {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            ip_range: None,
            reserved: Default::default(),
        };
        NetworkView {
            id: "0123456789abcdefghijklmno".into(),
            name: name.into(),
            vni: 4096,
            subnets: subnets.iter().map(subnet).collect(),
            options: NetworkOptions::default(),
            created_ms: 0,
            nodes: 0,
            conflicts: Vec::new(),
        }
    }
}
