//! `vswitchd network connect`, `disconnect`.

use std::net::IpAddr;
use std::process::ExitCode;

use crate::api::{Attached, Call, ConnectRequest, DisconnectRequest, Name};
use crate::cli::attach::Printed;
use crate::cli::print;
use crate::cli::remote::Remote;

/// Connect an endpoint that is there to another network, too
///
/// Its namespace gets another interface (the first of eth0, eth1, … that is free), by which it has the same name in the
/// other network. Its way out stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network connect back web
  vswitchd network connect --ip 10.0.8.7 --alias db back web

The endpoint is one of the node that is asked, and has a namespace: no virtual machine, and not the host (see `vswitchd \
expose`).

Exit status: 0 connected, 1 not, 2 wrong usage or configuration.")]
pub(super) struct Connect {
    #[command(flatten)]
    remote: Remote,

    /// The address that it is to have, of each IP version at most one [default: the next free ones]
    #[arg(long, value_name = "ADDRESS", visible_alias = "ip6")]
    ip: Vec<IpAddr>,

    /// Another name of it in the network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Name>,

    #[command(flatten)]
    printed: Printed,

    /// The network, by name or id
    network: Name,

    /// The endpoint, by its name, its id, or the beginning of that
    endpoint: Name,
}

/// Disconnect an endpoint from a network
///
/// Its interface there goes, and its address is free again. If that network was the way out, another one becomes it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network disconnect back web

Exit status: 0 it is not in the network any more, 1 it is or never was, 2 wrong usage or configuration.")]
pub(super) struct Disconnect {
    #[command(flatten)]
    remote: Remote,

    /// Say nothing if it isn't connected
    #[arg(short, long)]
    force: bool,

    /// The network, by name or id
    network: Name,

    /// The endpoint, by its name, its id, or the beginning of that
    endpoint: Name,
}

impl Connect {
    pub(super) fn run(self) -> ExitCode {
        let Self { remote, ip, aliases, printed, network, endpoint } = self;
        let request = ConnectRequest { endpoint: endpoint.clone(), ip, aliases };
        match remote.ask::<Attached>(&Call::Connect(network.clone(), request)) {
            Ok(attached) => printed.show(endpoint.as_str(), &network, &attached, ""),
            Err(code) => code,
        }
    }
}

impl Disconnect {
    pub(super) fn run(self) -> ExitCode {
        let Self { remote, force, network, endpoint } = self;
        match remote.ask::<()>(&Call::Disconnect(network, DisconnectRequest { endpoint, force })) {
            Ok(()) => print(""),
            Err(code) => code,
        }
    }
}
