//! `vswitchd network create`.

use std::process::ExitCode;

use super::option::Opt;
use super::subnets::Subnets;
use super::{DRIVER, SCOPE};
use crate::api::{Call, Name, NetworkCreate, NetworkCreated, NetworkOptions};
use crate::cli::label::label;
use crate::cli::print;
use crate::cli::printable::printable;
use crate::cli::remote::Remote;
use crate::switch::wire::Vni;

/// Make a network; on a manager
///
/// Prints its id. Every node knows it at once; it costs nothing where nothing is attached to it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd network create front
  vswitchd network create --opt encrypted --label stage=test back
  vswitchd network create --subnet 10.0.9.0/24 --gateway 10.0.9.99 my-network
  vswitchd network create --subnet 10.1.0.0/16 --subnet fd00:9::/64 --ip-range 10.1.128.0/17 --internal both
  vswitchd network create --opt mtu=1400 --ipv6 narrow
  vswitchd network create --opt foreign=192.0.2.9 --subnet 10.0.9.0/24 --aux-address theirs=10.0.9.9 wide

What is not a subnet belongs to the subnet that it is in. Options are those of Docker, by their short or long names: \
encrypted seals its data between nodes; mtu= is what the underlay carries, and interfaces get what is left (50 bytes \
less, 80 if encrypted, over IPv4); vxlanid_list= is the same as --vni. Our own: foreign=ADDRESS[,ADDRESS]… names VXLAN \
end points of the underlay that are no nodes and in the network all the same, such as Linux's vxlan device; anybody who can \
send from their addresses is, too.

Exit status: 0 the network is made, 1 it is not, 2 wrong usage or configuration.")]
pub(super) struct Create {
    /// Its name
    name: Name,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    subnets: Subnets,

    /// Give it IPv6; without a subnet of it, one of its own that nobody else has
    #[arg(long)]
    ipv6: bool,

    /// Give it no way out
    #[arg(long)]
    internal: bool,

    /// Let single programs be attached to it
    #[arg(long)]
    attachable: bool,

    /// Make it the one of the routing mesh
    #[arg(long, conflicts_with_all = ["attachable", "internal"])]
    ingress: bool,

    /// A label of it; its value may be left out
    #[arg(long = "label", value_name = "KEY[=VALUE]", value_parser = label)]
    labels: Vec<(String, String)>,

    /// An option of it: encrypted, mtu=, vxlanid_list= or foreign=
    #[arg(short, long = "opt", value_name = "OPTION")]
    options: Vec<Opt>,

    /// Its VXLAN network identifier [default: the first free one from 4096 on]
    #[arg(long, value_parser = clap::value_parser!(u32).range(..=i64::from(Vni::MAX)))]
    vni: Option<u32>,

    /// Its kind, of which there is one
    #[arg(short, long, default_value = DRIVER, value_parser = [DRIVER], hide_possible_values = true)]
    driver: String,

    /// Its reach, of which there is one
    #[arg(long, default_value = SCOPE, value_parser = [SCOPE], hide_possible_values = true, hide = true)]
    scope: String,
}

impl Create {
    pub(super) fn run(self) -> ExitCode {
        let remote = self.remote.clone();
        let request = match self.request() {
            Ok(request) => request,
            Err(message) => {
                eprintln!("vswitchd: {}", printable(&message));
                return ExitCode::from(2);
            }
        };
        match remote.ask::<NetworkCreated>(&Call::CreateNetwork(request)) {
            Ok(made) => print(&format!("{}\n", printable(&made.id))),
            Err(code) => code,
        }
    }

    fn request(self) -> Result<NetworkCreate, String> {
        let Self { internal, attachable, ingress, .. } = self;
        let mut options = NetworkOptions { internal, attachable, ingress, ..NetworkOptions::default() };
        options.labels = self.labels.into_iter().collect();
        let mut vni = self.vni;
        for option in self.options {
            // The last one wins, as everywhere; end points are all wanted.
            match option {
                Opt::Encrypted(encrypted) => options.encrypted = encrypted,
                Opt::Mtu(mtu) => options.mtu = Some(mtu),
                Opt::Foreign(addresses) => options.foreign.extend(addresses),
                Opt::Vni(given) if self.vni.is_some_and(|flag| flag != given) => {
                    return Err("--vni and vxlanid_list= contradict each other: give one".into());
                }
                Opt::Vni(given) => vni = Some(given),
            }
        }
        Ok(NetworkCreate {
            name: self.name,
            subnets: self.subnets.requests()?,
            ipv6: self.ipv6,
            vni,
            options,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn read(line: &str) -> Result<NetworkCreate, String> {
        let line = Line::try_parse_from(["test"].into_iter().chain(line.split(' ')));
        line.map_err(|error| error.to_string())?.create.request()
    }

    #[test]
    fn flags_become_a_request() {
        let line = "-d overlay --scope swarm --subnet 10.0.9.0/24 --gateway 10.0.9.99 --internal --attachable --ipv6 \
                    --label a --label b=c=d --label b=e -o encrypted --opt mtu=1400 --opt vxlanid_list=42 front";
        let request = read(line).unwrap();
        assert_eq!((request.name.as_str(), request.vni, request.ipv6), ("front", Some(42), true));
        assert_eq!(request.subnets[0].gateway, Some("10.0.9.99".parse().unwrap()));
        let labels = [("a".into(), String::new()), ("b".into(), "e".into())].into();
        let mut expected =
            NetworkOptions { encrypted: true, mtu: Some(1400), labels, ..NetworkOptions::default() };
        (expected.internal, expected.attachable) = (true, true);
        assert_eq!(request.options, expected);
        assert!(!read("-o encrypted -o encrypted=false front").unwrap().options.encrypted);
        assert_eq!(read("--vni 7 -o vxlanid_list=7 front").unwrap().vni, Some(7));
        let foreign =
            read("-o foreign=192.0.2.9 -o foreign=192.0.2.8,192.0.2.9 front").unwrap().options.foreign;
        assert_eq!(foreign, [[192, 0, 2, 8].into(), [192, 0, 2, 9].into()].into());
        assert!(read("--ingress front").unwrap().options.ingress);
    }

    #[test]
    fn what_can_not_be_is_refused_at_once() {
        for (line, expected) in [
            ("-d bridge front", "invalid value 'bridge'"),
            ("--vni 7 -o vxlanid_list=8 front", "contradict"),
            ("--label =x front", "want KEY"),
            ("--ingress --attachable front", "cannot be used with"),
            ("--gateway 10.0.9.1 front", "give the --subnet"),
            ("a/b", "letters, digits"),
        ] {
            let refused = read(line).unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
        }
    }
}
