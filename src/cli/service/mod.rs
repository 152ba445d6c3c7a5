//! `vswitchd service`: the services of the cluster.

mod cell;
mod create;
mod inspect;
mod list;
mod logs;
mod options;
mod progress;
mod ps;
mod remove;
mod scale;
mod template;
mod update;
mod wait;

use std::process::ExitCode;

/// Make, list, show, change and remove services
///
/// A SERVICE is named by its name, its id, or the beginning of its id. Every node can list and show them; managers make,
/// change and remove them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Box<create::Create>),
    #[command(visible_alias = "list")]
    Ls(list::Ls),
    Ps(ps::Ps),
    Logs(logs::Logs),
    Inspect(inspect::Inspect),
    Update(Box<update::Update>),
    Scale(scale::Scale),
    #[command(visible_alias = "remove")]
    Rm(remove::Rm),
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Create(args) => args.run(),
            Command::Ls(args) => args.run(),
            Command::Ps(args) => args.run(),
            Command::Logs(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Update(args) => args.run(),
            Command::Scale(args) => args.run(),
            Command::Rm(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::api::{Protocol, ServicePlace, ServiceView, UnboundPort};
    use crate::service::{Port, PortMode, ServiceNetwork, ServiceSpec, SpecParts};

    /// Port 80/tcp, which a node can't have.
    pub(super) fn unbound(node: &str) -> UnboundPort {
        UnboundPort {
            node: node.into(),
            service: "web".into(),
            published: 80,
            protocol: Protocol::Tcp,
            address: None,
            reason: "address in use".into(),
            since_ms: 0,
        }
    }

    /// A service with a bit of everything.
    pub(super) fn service(name: &str) -> ServiceView {
        let port = |text: &str, mode| Port::parse(text, mode).unwrap().remove(0);
        let network =
            ServiceNetwork { network: "n1".parse().unwrap(), aliases: vec!["www".parse().unwrap()] };
        let parts = SpecParts {
            command: vec!["busybox".into(), "httpd".into(), "-f".into()],
            env: vec!["A=b".into()],
            networks: vec![network],
            ports: vec![port("80", PortMode::Ingress), port("5353:53/udp", PortMode::Host)],
            constraints: vec!["node.role==worker".parse().unwrap()],
            labels: [("stage".to_owned(), "test".to_owned())].into(),
            ..SpecParts::new(name.parse().unwrap())
        };
        ServiceView {
            id: "0123456789abcdefghijklmno".into(),
            spec: ServiceSpec::new(parts).unwrap(),
            generation: 2,
            ports: vec![port("30000:80", PortMode::Ingress), port("5353:53/udp", PortMode::Host)],
            networks: vec![ServicePlace {
                network: "n1".into(),
                name: "front".into(),
                vips: vec!["10.0.9.5/24".parse().unwrap(), "fd00:9::5/64".parse().unwrap()],
            }],
            wanted: 1,
            running: 0,
            created_ms: 0,
            updated_ms: 1_000,
            conflicts: Vec::new(),
            unbound: Vec::new(),
        }
    }
}
