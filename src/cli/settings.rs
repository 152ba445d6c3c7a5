//! `vswitchd cluster`: what the whole cluster shares. `init` takes the same flags.

use std::process::ExitCode;

use super::remote::Remote;
use super::{Format, print, printable};
use crate::api::settings::data_path_port;
use crate::api::{Call, ClusterSettings, ClusterUpdate, Ipv4Prefix};

/// Show and change what the whole cluster shares
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Inspect(Inspect),
    Update(Update),
}

/// Show the cluster's settings
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd cluster inspect
  vswitchd cluster inspect --format json

Exit status: 0 shown, 1 not to be had, 2 wrong usage or configuration.")]
struct Inspect {
    #[command(flatten)]
    remote: Remote,

    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Change the cluster's settings; on a manager
///
/// What is not given stays. Pools given replace all of before; networks keep the blocks that they have.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd cluster update --data-path-port 4790
  vswitchd cluster update --default-addr-pool 10.20.0.0/16 --default-addr-pool 10.30.0.0/16 \\
                          --default-addr-pool-mask-length 26

Exit status: 0 changed, 1 not, 2 wrong usage or configuration.")]
struct Update {
    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    change: Change,
}

/// Settings as flags.
#[derive(Debug, clap::Args)]
pub(super) struct Change {
    /// UDP port of data, 1024 to 49151, the same on every node [a new cluster has 4789]
    #[arg(long, value_name = "PORT", value_parser = default_or_port)]
    data_path_port: Option<u16>,

    /// Where networks without a subnet get theirs from; may be given several times [a new cluster has 10.0.0.0/8]
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    default_addr_pool: Vec<Ipv4Prefix>,

    /// Bits of the prefix of these subnets [a new cluster has 24]
    #[arg(long, value_name = "BITS")]
    default_addr_pool_mask_length: Option<u8>,
}

/// As in Docker, 0 is the default.
fn default_or_port(text: &str) -> Result<u16, String> {
    match own_port(text) {
        Err(_) if text == "0" => Ok(0),
        port => port,
    }
}

/// A port for data.
pub(super) fn own_port(text: &str) -> Result<u16, String> {
    let port = text.parse().map_err(|_| "want a port number".to_owned())?;
    data_path_port(port).map_err(|error| error.to_string())
}

impl From<Change> for ClusterUpdate {
    fn from(change: Change) -> Self {
        Self {
            data_path_port: change.data_path_port,
            default_addr_pools: change.default_addr_pool,
            default_addr_pool_mask_length: change.default_addr_pool_mask_length,
        }
    }
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            Command::Inspect(args) => match args.remote.ask(&Call::Cluster) {
                Ok(settings) => print(&match args.format {
                    Format::Text => text(&settings),
                    Format::Json => printable::json(&settings),
                }),
                Err(code) => code,
            },
            Command::Update(args) => args.run(),
        }
    }
}

impl Update {
    fn run(self) -> ExitCode {
        let update = ClusterUpdate::from(self.change);
        if update == ClusterUpdate::default() {
            eprintln!("vswitchd: nothing to change was given (see vswitchd cluster update --help)");
            return ExitCode::from(2);
        }
        match self.remote.ask(&Call::UpdateCluster(update)) {
            Ok(settings) => print(&text(&settings)),
            Err(code) => code,
        }
    }
}

fn text(settings: &ClusterSettings) -> String {
    let pools: Vec<_> = settings.default_addr_pools.iter().map(ToString::to_string).collect();
    format!(
        "data path port: {}\ndefault address pools: {}\nsubnets of: /{}\n",
        settings.data_path_port,
        pools.join(", "),
        settings.default_addr_pool_mask_length
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        change: Change,
    }

    fn read(arguments: &[&str]) -> Result<ClusterUpdate, String> {
        let line =
            Line::try_parse_from(["test"].iter().chain(arguments)).map_err(|error| error.to_string())?;
        Ok(line.change.into())
    }

    #[test]
    fn pools_may_be_given_one_by_one_or_together() {
        let pools = ["10.20.0.0/16", "10.30.0.0/16"].map(|pool| pool.parse().unwrap());
        for arguments in [
            &["--default-addr-pool", "10.20.0.0/16", "--default-addr-pool", "10.30.0.0/16"][..],
            &["--default-addr-pool", "10.20.0.0/16,10.30.0.0/16"],
        ] {
            assert_eq!(read(arguments).unwrap().default_addr_pools, pools);
        }
        assert_eq!(read(&[]), Ok(ClusterUpdate::default()));
    }

    #[test]
    fn what_can_not_be_is_refused_at_once() {
        let refused = |arguments: &[&str]| read(arguments).unwrap_err();
        assert!(refused(&["--data-path-port", "80"]).contains("want 1024 to 49151"));
        assert!(refused(&["--default-addr-pool", "10.0.0.1/8"]).contains("do you mean 10.0.0.0/8?"));
        assert!(refused(&["--default-addr-pool", "fd00::/8"]).contains("IPv6"));
        assert_eq!(read(&["--data-path-port", "0"]).unwrap().data_path_port, Some(0));
        assert!(own_port("0").is_err() && own_port("x").is_err());
    }

    #[test]
    fn settings_are_shown_in_full() {
        let shown = text(&ClusterSettings::default());
        assert_eq!(shown, "data path port: 4789\ndefault address pools: 10.0.0.0/8\nsubnets of: /24\n");
    }
}
