//! `vswitchd network`: the networks of the cluster.

use std::process::ExitCode;
use std::str::FromStr;

use serde_json::{Value, json};

use super::date::rfc3339;
use super::printable::{self, printable, shorten};
use super::remote::Remote;
use super::table::Table;
use super::{Format, ID_SHORT, failed, print, say};
use crate::api::{Call, NAME_MAX, Name, NetworkCreate, NetworkCreated, NetworkView};
use crate::switch::wire::Vni;

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
    Create(Create),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

/// Make a network; on a manager
///
/// Prints its id. Every node knows it at once; it costs nothing where nothing is attached to it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network create front
  vswitchd network create --opt encrypted back

Exit status: 0 the network is made, 1 it is not, 2 wrong usage or configuration.")]
struct Create {
    /// Its name
    name: Name,

    #[command(flatten)]
    remote: Remote,

    /// An option of it: encrypted seals its data between nodes
    #[arg(short, long = "opt", value_name = "OPTION")]
    options: Vec<Opt>,

    /// Its VXLAN network identifier [default: the first free one from 4096 on]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=i64::from(Vni::MAX)))]
    vni: Option<u32>,

    /// Its kind, of which there is one
    #[arg(short, long, default_value = DRIVER, value_parser = [DRIVER], hide_possible_values = true)]
    driver: String,
}

/// List networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network ls
  vswitchd network ls --format json

Exit status: 0 listed, 1 not to be had, 2 wrong usage or configuration.")]
struct Ls {
    #[command(flatten)]
    remote: Remote,

    /// How to print them; JSON has one document a line for each network
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids and names
    #[arg(long)]
    no_trunc: bool,
}

/// Show all that is known of networks, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network inspect front back

Exit status: 0 shown, 1 a network was not found, 2 wrong usage or configuration.")]
struct Inspect {
    /// Which
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

/// Remove networks; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network rm front back

Prints each network that is removed. The others are removed all the same if one can't be.

Exit status: 0 all are removed, 1 one is not, 2 wrong usage or configuration.")]
struct Rm {
    /// Which
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

/// An option of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opt {
    Encrypted(bool),
}

impl FromStr for Opt {
    type Err = String;

    /// `encrypted` alone is what Docker's users write.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').unwrap_or((text, "")) {
            ("encrypted", "" | "true") => Ok(Self::Encrypted(true)),
            ("encrypted", "false") => Ok(Self::Encrypted(false)),
            ("encrypted", _) => Err("want encrypted, encrypted=true or encrypted=false".into()),
            _ => Err("no such option: want encrypted".into()),
        }
    }
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Create(args) => args.run(),
            Command::Ls(args) => args.run(),
            Command::Inspect(args) => args.run(),
            Command::Rm(args) => args.run(),
        }
    }
}

impl Create {
    fn run(self) -> ExitCode {
        // The last one wins, as everywhere.
        let encrypted = self.options.last().is_some_and(|&Opt::Encrypted(encrypted)| encrypted);
        let call = Call::CreateNetwork(NetworkCreate { name: self.name, encrypted, vni: self.vni });
        match self.remote.ask::<NetworkCreated>(&call) {
            Ok(made) => print(&format!("{}\n", printable(&made.id))),
            Err(code) => code,
        }
    }
}

impl Ls {
    fn run(self) -> ExitCode {
        let networks: Vec<NetworkView> = match self.remote.ask(&Call::Networks) {
            Ok(networks) => networks,
            Err(code) => return code,
        };
        print(&match (self.quiet, self.format) {
            (true, _) => networks.iter().map(|network| format!("{}\n", printable(&network.id))).collect(),
            (false, Format::Json) => networks.iter().map(printable::json).collect(),
            (false, Format::Text) => table(&networks, !self.no_trunc),
        })
    }
}

impl Inspect {
    fn run(self) -> ExitCode {
        let mut networks = Vec::new();
        let outcome = self.remote.ask_each(self.networks, Call::Network, |_, network: NetworkView| {
            networks.push(document(&network));
            Ok(())
        });
        match say(&printable::json_pretty(&networks)) {
            Ok(()) => outcome,
            Err(error) => failed(&error),
        }
    }
}

impl Rm {
    fn run(self) -> ExitCode {
        self.remote.ask_each(self.networks, Call::RemoveNetwork, |name, ()| say(&format!("{name}\n")))
    }
}

fn table(networks: &[NetworkView], shortened: bool) -> String {
    let mut table = Table::new(["NETWORK ID", "NAME", "DRIVER", "SCOPE", "VNI", "ENCRYPTED"]);
    let cut = |text: &str, max| if shortened { shorten(&printable(text), max) } else { text.into() };
    for network in networks {
        let encrypted = if network.encrypted { "yes" } else { "no" };
        table.row([
            network.id.chars().take(if shortened { ID_SHORT } else { usize::MAX }).collect(),
            cut(&network.name, NAME_MAX),
            DRIVER.into(),
            SCOPE.into(),
            network.vni.to_string(),
            encrypted.into(),
        ]);
    }
    table.to_string()
}

/// In the shape of `docker network inspect`, as far as it is known.
fn document(network: &NetworkView) -> Value {
    let mut options = json!({ "com.docker.network.driver.overlay.vxlanid_list": network.vni.to_string() });
    if network.encrypted {
        options["encrypted"] = json!("");
    }
    json!({
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_ms),
        "Scope": SCOPE,
        "Driver": DRIVER,
        "Options": options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, encrypted: bool) -> NetworkView {
        NetworkView {
            id: "0123456789abcdefghijklmno".into(),
            name: name.into(),
            vni: 4096,
            encrypted,
            created_ms: 0,
        }
    }

    #[test]
    fn the_table_is_dockers_with_more() {
        assert_eq!(
            table(&[network("front", true), network("\u{9b}2J", false)], true),
            "NETWORK ID    NAME      DRIVER   SCOPE  VNI   ENCRYPTED\n\
             0123456789ab  front     overlay  swarm  4096  yes\n\
             0123456789ab  \\u{9b}2J  overlay  swarm  4096  no\n"
        );
        assert!(table(&[network("front", true)], false).contains("0123456789abcdefghijklmno  front"));
    }

    #[test]
    fn inspect_has_dockers_shape() {
        let options = |encrypted| document(&network("front", encrypted))["Options"].clone();
        assert_eq!(options(false), json!({ "com.docker.network.driver.overlay.vxlanid_list": "4096" }));
        assert_eq!(options(true)["encrypted"], "");
        assert_eq!(document(&network("front", true))["Created"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn the_option_is_dockers() {
        let read = |text: &str| text.parse::<Opt>();
        assert_eq!(
            [read("encrypted"), read("encrypted=")],
            [Ok(Opt::Encrypted(true)), Ok(Opt::Encrypted(true))]
        );
        assert_eq!(read("encrypted=false"), Ok(Opt::Encrypted(false)));
        for text in ["encrypted=no", "mtu=1400", "", "=", "encryption"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
