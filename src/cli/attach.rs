//! `vswitchd attach`, `detach`: TAP devices of this host in networks of the cluster.

use std::io;
use std::net::IpAddr;
use std::process::ExitCode;

use super::printable::{self, printable};
use super::remote::Remote;
use super::{Format, failed, print, say};
use crate::api::{AttachRequest, Attached, Call, Name};
use crate::switch::io::netns::NetnsRef;
use crate::switch::wire::MacAddr;

/// Give a TAP device of this host a place in a network
///
/// The device is made if it does not exist, with addresses and, in a namespace of its own, the network's gateway as its way
/// out. A device that exists stays as it is.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd attach --network front --name web --tap tap0
  vswitchd attach --network front --name web --tap eth0 --netns web --ip 10.0.9.7 --alias www

Exit status: 0 attached, 1 not, 2 wrong usage or configuration.")]
pub(super) struct Attach {
    #[command(flatten)]
    remote: Remote,

    /// The network, by name or id
    #[arg(long)]
    network: Name,

    /// What it is called there; one of a kind in the network
    #[arg(long)]
    name: Name,

    /// The TAP device
    #[arg(long, value_name = "DEVICE")]
    tap: String,

    /// The network namespace that it is in [default: the daemon's]
    #[arg(long, value_name = "NAME|PATH|PID")]
    netns: Option<NetnsRef>,

    /// The address that it is to have, of each IP version at most one [default: the next free ones]
    #[arg(long, value_name = "ADDRESS")]
    ip: Vec<IpAddr>,

    /// Its MAC address [default: 02:42 and the bytes of its IPv4 address]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddr>,

    /// Another name of it in the network
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<Name>,

    /// How to print what came of it
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print its id only
    #[arg(short, long)]
    quiet: bool,
}

/// Take TAP devices of this host out of their networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd detach web

Prints each name that is detached. The others are detached all the same if one can't be.

Exit status: 0 all are detached, 1 one is not, 2 wrong usage or configuration.")]
pub(super) struct Detach {
    /// Their names, ids, or beginnings of ids
    #[arg(required = true, value_name = "ENDPOINT")]
    names: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Attach {
    pub(super) fn run(self) -> ExitCode {
        let netns = match self.netns.map(absolute).transpose() {
            Ok(netns) => netns.map(|netns| netns.to_string()),
            Err(error) => return failed(&error),
        };
        let Self { remote, network, name, tap, ip, mac, aliases, format, quiet, .. } = self;
        let said = format!("{} is {name} in network {network} now", printable(&tap));
        let request = AttachRequest { network, name, tap, netns, ip, mac, aliases };
        match remote.ask::<Attached>(&Call::Attach(request)) {
            Ok(attached) => print(&match (quiet, format) {
                (true, _) => format!("{}\n", printable(&attached.id)),
                (false, Format::Text) => format!("{said}: {}\n", parts(&attached)),
                (false, Format::Json) => printable::json(&attached),
            }),
            Err(code) => code,
        }
    }
}

impl Detach {
    pub(super) fn run(self) -> ExitCode {
        self.remote.ask_each(self.names, Call::Detach, |name, ()| say(&format!("{name}\n")))
    }
}

/// `10.0.9.2/24, 02:42:0a:00:09:02, MTU 1450, endpoint ID`
fn parts(attached: &Attached) -> String {
    let addresses: String = attached.addresses.iter().map(|own| format!("{own}, ")).collect();
    format!("{addresses}{}, MTU {}, endpoint {}", attached.mac, attached.mtu, printable(&attached.id))
}

/// The daemon has another working directory.
fn absolute(netns: NetnsRef) -> io::Result<NetnsRef> {
    match netns {
        NetnsRef::Path(path) => std::path::absolute(path).map(NetnsRef::Path),
        netns => Ok(netns),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_mean_the_same_to_the_daemon() {
        let sent = |text: &str| absolute(text.parse().unwrap()).unwrap().to_string();
        assert_eq!([sent("web"), sent("42"), sent("/run/x")], ["web", "42", "/run/x"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(sent("./web"), here.join("web").display().to_string());
        for text in ["web", "42", "./web"] {
            assert_eq!(sent(text).parse::<NetnsRef>().unwrap(), absolute(text.parse().unwrap()).unwrap());
        }
    }
}
