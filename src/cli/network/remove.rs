//! `vswitchd network rm`, `prune`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use super::term::prune_term;
use crate::api::{Call, Name, NetworkFilter, NetworkTerm, NetworkView, Pruned};
use crate::cli::printable::printable;
use crate::cli::remote::Remote;
use crate::cli::{failed, print, say};

/// Remove networks; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network rm front back

Prints each network that is removed; of one that is in use it says by whom. The others are removed all the same if one \
can't be. Before the routing mesh's network goes, it asks. A name that two networks have removes neither: give the id.

Exit status: 0 all are removed, 1 one is not, 2 wrong usage or configuration.")]
pub(super) struct Rm {
    /// Which
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    /// Say nothing of networks that are not there
    #[arg(short, long)]
    force: bool,
}

/// Remove the networks that nobody uses; on a manager
///
/// The routing mesh's stays.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network prune
  vswitchd network prune --force --filter until=24h --filter label=stage=test

Exit status: 0 done, or not confirmed, 1 not possible, 2 wrong usage or configuration.")]
pub(super) struct Prune {
    #[command(flatten)]
    remote: Remote,

    /// Only those that meet this: until= (an age such as 24h) or label=
    #[arg(long, value_name = "KEY=VALUE", value_parser = prune_term)]
    filter: Vec<NetworkTerm>,

    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Rm {
    pub(super) fn run(self) -> ExitCode {
        let known: Vec<NetworkView> = match self.remote.clone().ask(&Call::Networks) {
            Ok(known) => known,
            Err(code) => return code,
        };
        let mut wanted = Vec::new();
        for name in self.networks {
            let named = meant(&name, &known);
            let question =
                format!("{name} is the routing mesh's network: without it no service can publish a port.");
            if named.is_empty() && self.force {
                continue;
            }
            match named.iter().any(|network| network.options.ingress).then(|| confirmed(&question)) {
                None | Some(Ok(true)) => wanted.push(name),
                Some(Ok(false)) => {}
                Some(Err(error)) => return failed(&error),
            }
        }
        if wanted.is_empty() {
            return ExitCode::SUCCESS;
        }
        self.remote.ask_each(wanted, Call::RemoveNetwork, |name, ()| say(&format!("{name}\n")))
    }
}

/// The networks that could be meant: those of that id or name, or else those whose ids begin so.
fn meant<'n>(wanted: &Name, known: &'n [NetworkView]) -> Vec<&'n NetworkView> {
    let is = |network: &&NetworkView| network.name == wanted.as_str() || network.id == wanted.as_str();
    let whole: Vec<_> = known.iter().filter(is).collect();
    if !whole.is_empty() {
        return whole;
    }
    known.iter().filter(|network| network.id.starts_with(wanted.as_str())).collect()
}

impl Prune {
    pub(super) fn run(self) -> ExitCode {
        let confirmed =
            if self.force { Ok(true) } else { confirmed("All networks that nobody uses will be removed.") };
        match confirmed {
            Ok(true) => {}
            Ok(false) => return ExitCode::SUCCESS,
            Err(error) => return failed(&error),
        }
        match self.remote.ask::<Pruned>(&Call::PruneNetworks(NetworkFilter(self.filter))) {
            Ok(Pruned { removed }) if removed.is_empty() => ExitCode::SUCCESS,
            Ok(Pruned { removed }) => {
                let names: String = removed.iter().map(|name| format!("{}\n", printable(name))).collect();
                print(&format!("Deleted Networks:\n{names}"))
            }
            Err(code) => code,
        }
    }
}

/// Asks on standard error, since what is removed goes to standard output; only yes is yes, the end is not.
fn confirmed(what: &str) -> io::Result<bool> {
    let mut error = io::stderr().lock();
    write!(error, "{} Go on? [y/N] ", printable(what))?;
    error.flush()?;
    let mut input = io::stdin().lock();
    let answer = answered(&mut input)?;
    if !input.is_terminal() {
        // Nobody has typed the end of that line.
        writeln!(error)?;
    }
    Ok(answer)
}

fn answered(input: &mut impl BufRead) -> io::Result<bool> {
    let mut answer = String::new();
    // A line of any other length is no yes.
    io::Read::take(input, 16).read_line(&mut answer)?;
    Ok(["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes)))
}

#[cfg(test)]
mod tests {
    use super::super::tests::network;
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        let answer = |text: &str| answered(&mut text.as_bytes()).unwrap();
        assert!(["y\n", "Y\n", "yes\n", " y \n", "y"].into_iter().all(answer));
        assert!(!["", "\n", "n\n", "yesterday\n", "ja\n", "\ny\n"].into_iter().any(answer));
    }

    #[test]
    fn a_network_is_meant_by_name_and_id_and_only_then_by_the_beginning_of_one() {
        let short = NetworkView { id: "zz".into(), ..network("0", &[]) };
        let known = [network("front", &[]), short];
        let named = |text: &str| {
            let meant = meant(&text.parse().unwrap(), &known);
            meant.into_iter().map(|network| network.name.as_str()).collect::<Vec<_>>()
        };
        for text in ["front", "0123456789abcdefghijklmno", "01"] {
            assert_eq!(named(text), ["front"], "{text}");
        }
        assert_eq!((named("0"), named("z")), (vec!["0"], vec!["0"]));
        assert!(["fron", "fronts", "123", "back"].iter().all(|text| named(text).is_empty()));
    }
}
