//! `vswitchd expose`, `unexpose`: this host itself in networks of the cluster.

use std::net::IpAddr;
use std::process::ExitCode;

use super::attach::Printed;
use super::remote::Remote;
use super::say;
use crate::api::{Attached, Call, ExposeRequest, Name};

/// Give this host an address in a network, so that its programs and the network's reach each other
///
/// An interface is made beside the host's own, as an endpoint like others: it has a name in the network and comes back
/// when the daemon is started again. The host keeps its way out; only the network's addresses are reached by it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd expose front
  vswitchd expose --ip 10.0.9.250 --name gate --interface front0 front

It takes the right to make interfaces (CAP_NET_ADMIN). A daemon that has it not can be given one, whose addresses root \
then sets, too:
  sudo ip tuntap add dev front0 mode tap user $USER
  sudo ip link set front0 mtu 1450 up
  vswitchd expose --interface front0 front

Exit status: 0 the host is in the network, 1 not, 2 wrong usage or configuration.")]
pub(super) struct Expose {
    #[command(flatten)]
    remote: Remote,

    /// The network, by name or id
    network: Name,

    /// What the host is called there; one of a kind in the network [default: the node's name]
    #[arg(long)]
    name: Option<Name>,

    /// The address that it is to have, of each IP version at most one [default: the next free ones]
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,

    /// What the interface is called [default: vsw and the network's VNI]
    #[arg(long, value_name = "DEVICE")]
    interface: Option<String>,

    #[command(flatten)]
    printed: Printed,
}

/// Take this host out of networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd unexpose front

Prints each network that the host has left. The others are left all the same if one can't be.

Exit status: 0 all are left, 1 one is not, 2 wrong usage or configuration.")]
pub(super) struct Unexpose {
    /// The networks, by name or id
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Expose {
    pub(super) fn run(self) -> ExitCode {
        let Self { remote, network, name, ip, interface, printed } = self;
        let request = ExposeRequest { name, ip, interface };
        match remote.ask::<Attached>(&Call::Expose(network.clone(), request)) {
            Ok(attached) => printed.show("this host", &network, &attached, ""),
            Err(code) => code,
        }
    }
}

impl Unexpose {
    pub(super) fn run(self) -> ExitCode {
        self.remote.ask_each(self.networks, Call::Unexpose, |name, ()| say(&format!("{name}\n")))
    }
}
