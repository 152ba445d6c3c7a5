//! `vswitchd network ls`.

use std::process::ExitCode;

use super::cell;
use super::term::term;
use super::{DRIVER, SCOPE};
use crate::api::{Call, NAME_MAX, NetworkFilter, NetworkTerm, NetworkView};
use crate::cli::print;
use crate::cli::printable::{printable, shorten};
use crate::cli::remote::Remote;
use crate::cli::table::Table;
use crate::cli::template::ListFormat;

/// List networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network ls
  vswitchd network ls --filter label=stage=test --filter in-use=false
  vswitchd network ls --format '{{.Name}}: {{.Subnets}}'
  vswitchd network ls --format json

Conditions with the same key are alternatives, and every key must be met; of labels all must be there. driver= is \
overlay, scope= is swarm, id= and name= are a part of it, label= is KEY or KEY=VALUE, in-use= is true where a node has \
endpoints in it (dangling= is the contrary), type= is custom, until= is an age such as 24h.

Templates know .ID .Name .Driver .Scope .CreatedAt .IPv4 .IPv6 .Internal .Labels and .Label \"KEY\" as Docker's, and \
.VNI .Subnets .Encrypted .Attachable .Ingress .Nodes .Conflicts; 'table ' before one lines them up under a head.

Of two networks that were made at once with one name, VNI or subnet, the older holds it; the other shows so in a column \
CONFLICT.

Exit status: 0 listed, 1 not to be had, 2 wrong usage or configuration.")]
pub(super) struct Ls {
    #[command(flatten)]
    remote: Remote,

    /// Only those that meet this: driver=, id=, name=, label=, scope=, in-use=, type= or until=
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = term)]
    filter: Vec<NetworkTerm>,

    /// How to print them: text, json (one document a line for each network), or a template
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: ListFormat<NetworkView>,

    /// Print ids only
    #[arg(short, long)]
    quiet: bool,

    /// Don't shorten ids and names
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub(super) fn run(self) -> ExitCode {
        let networks: Vec<NetworkView> = match self.remote.ask(&Call::Networks) {
            Ok(networks) => networks,
            Err(code) => return code,
        };
        let filter = NetworkFilter(self.filter);
        let networks: Vec<NetworkView> =
            networks.into_iter().filter(|network| filter.admits(network)).collect();
        let shortened = !self.no_trunc;
        let id = |network: &NetworkView| cell::id(network, shortened);
        print(&self.format.show(&networks, (self.quiet, shortened), id, table))
    }
}

/// The last column is there only if there is something in it.
fn table(networks: &[NetworkView], shortened: bool) -> String {
    const HEAD: [&str; 8] = ["NETWORK ID", "NAME", "DRIVER", "SCOPE", "VNI", "SUBNETS", "OPTIONS", "NODES"];
    let cells = |network: &NetworkView| -> [String; 8] {
        let name = printable(&network.name);
        [
            cell::id(network, shortened),
            if shortened { shorten(&name, NAME_MAX) } else { network.name.clone() },
            DRIVER.into(),
            SCOPE.into(),
            network.vni.to_string(),
            cell::subnets(network),
            cell::options(network),
            network.nodes.to_string(),
        ]
    };
    if networks.iter().all(|network| network.conflicts.is_empty()) {
        let mut table = Table::new(HEAD);
        networks.iter().for_each(|network| table.row(cells(network)));
        return table.to_string();
    }
    let with = |cells: [String; 8], last: String| -> [String; 9] {
        let mut all = cells.into_iter().chain([last]);
        std::array::from_fn(|_| all.next().unwrap_or_default())
    };
    let [a, b, c, d, e, f, g, h] = HEAD;
    let mut table = Table::new([a, b, c, d, e, f, g, h, "CONFLICT"]);
    networks.iter().for_each(|network| table.row(with(cells(network), cell::conflicts(network))));
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;
    use crate::api::{NetworkConflict, NetworkOptions, NetworkRef};

    #[test]
    fn the_table_is_dockers_with_more() {
        let front = NetworkView {
            nodes: 2,
            options: NetworkOptions { encrypted: true, internal: true, ..NetworkOptions::default() },
            ..network("front", &[("10.0.0.0/24", "10.0.0.1"), ("fd00::/64", "fd00::1")])
        };
        let hostile = network("\u{9b}2J", &[]);
        assert_eq!(
            table(&[front.clone(), hostile], true),
            "NETWORK ID    NAME      DRIVER   SCOPE  VNI   SUBNETS                OPTIONS             NODES\n\
             0123456789ab  front     overlay  swarm  4096  10.0.0.0/24,fd00::/64  encrypted,internal  2\n\
             0123456789ab  \\u{9b}2J  overlay  swarm  4096                                             0\n"
        );
        assert_eq!([true, false].map(|short| cell::id(&front, short).len()), [12, 25]);
        assert!(table(&[front], false).contains("0123456789abcdefghijklmno  front"));
    }

    #[test]
    fn a_conflict_has_a_column() {
        let holder = NetworkRef { id: "zzz".into(), name: "older\u{1b}".into() };
        let young = NetworkView { conflicts: vec![NetworkConflict::Vni { holder }], ..network("young", &[]) };
        let shown = table(&[network("front", &[]), young], true);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].ends_with("  NODES  CONFLICT") && lines[1].ends_with("  0"), "{shown}");
        assert!(lines[2].ends_with("  0      VNI is that of older\\u{1b} (zzz): carries nothing"), "{shown}");
    }
}
