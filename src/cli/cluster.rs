//! `vswitchd init`, `join`, `leave`, `token`: how a node comes into a cluster, and out of it.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::printable;
use super::remote::Remote;
use super::settings::{Change, own_port};
use super::{Format, failed, print};
use crate::api::{
    Call, ClusterSettings, ClusterUpdate, InitRequest, Initialized, JoinRequest, Joined, LeaveRequest,
    SecretText, TokenAnswer,
};
use crate::crypto::identity::Role;

/// Bytes of a file with a token that are read: it has one line.
const TOKEN_FILE_MAX: u16 = 4_096;
/// Where managers let nodes in.
const PORT: u16 = 2377;

/// Make a new cluster, with this node as its first manager
///
/// Prints the command by which other nodes join.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd init
  vswitchd init --advertise-addr eth1
  vswitchd init --advertise-addr 192.0.2.1 --listen-addr 192.0.2.1:2377
  vswitchd init --advertise-addr eth0 --data-path-addr eth1
  vswitchd init --default-addr-pool 10.20.0.0/16 --default-addr-pool-mask-length 26

Exit status: 0 the cluster is made, 1 it is not, 2 wrong usage or configuration.")]
pub(super) struct Init {
    #[command(flatten)]
    remote: Remote,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    settings: Change,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Where a node is, and what it is called.
#[derive(Debug, clap::Args)]
struct Place {
    /// Address that other nodes reach this one at, or the interface that has it [default: the only one]
    #[arg(long, value_name = "IP|INTERFACE")]
    advertise_addr: Option<String>,

    /// Where a manager lets nodes in [default: port 2377 of all addresses]
    #[arg(long, value_name = "IP[:PORT]", value_parser = listen_addr)]
    listen_addr: Option<SocketAddr>,

    /// Address of this node's data, or the interface that has it [default: that of --advertise-addr]
    #[arg(long, value_name = "IP|INTERFACE")]
    data_path_addr: Option<String>,

    /// UDP and TCP port of gossip; several nodes on one address need different ones [default: 7946]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gossip_port: Option<u16>,

    /// The node's name [default: the host's]
    #[arg(long)]
    name: Option<String>,
}

/// Enter a cluster
///
/// The managers named are asked in turn until one lets this node in. If none does, the reason of each is said at once.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd join --token VSWTKN-1-... 192.0.2.1
  vswitchd join --token-file /run/token 192.0.2.1:2377 192.0.2.2:2377
  ssh manager vswitchd token worker -q | vswitchd join --token - manager

A token given as an argument can be seen by other users of this machine while the command runs.

Exit status: 0 this node has joined, 1 it has not, 2 wrong usage or configuration.")]
pub(super) struct Join {
    #[command(flatten)]
    remote: Remote,

    /// The join token, or `-` to read it from standard input
    #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,

    /// File with the join token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Managers to ask
    #[arg(required = true, value_name = "HOST[:PORT]")]
    managers: Vec<String>,

    #[command(flatten)]
    place: Place,

    /// UDP port of this node's data; several nodes on one address need different ones [default: the cluster's]
    #[arg(long, value_name = "PORT", value_parser = own_port)]
    data_path_port: Option<u16>,
}

/// Leave the cluster, and forget it
///
/// A manager leaves with --force only: the last one takes the cluster's CA and tokens with it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd leave
  vswitchd leave --force

Exit status: 0 this node is in no cluster any more, 1 it could not leave, 2 wrong usage or configuration.")]
pub(super) struct Leave {
    #[command(flatten)]
    remote: Remote,

    /// Also if this node is a manager
    #[arg(short, long)]
    force: bool,
}

/// Show, or replace, the token by which nodes join; on a manager
///
/// It is good for any number of nodes until it is rotated; those that have joined stay.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd token worker
  vswitchd token manager --rotate
  vswitchd token worker -q > token

Exit status: 0 shown, 1 not to be had, 2 wrong usage or configuration.")]
pub(super) struct Token {
    /// What nodes become by it: worker or manager
    role: Role,

    #[command(flatten)]
    remote: Remote,

    /// Replace it, for all managers at once: nobody gets in by the old one any more
    #[arg(long)]
    rotate: bool,

    /// Print the token only
    #[arg(short, long)]
    quiet: bool,
}

fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    let only = |address: IpAddr| SocketAddr::new(address, PORT);
    let anywhere = |port: u16| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
    let port = || Some(anywhere(text.strip_prefix(':')?.parse().ok()?));
    let address = text.parse().ok().or_else(|| text.parse().ok().map(only)).or_else(port);
    address.ok_or_else(|| "want IP, IP:PORT or :PORT".into())
}

impl Init {
    pub(super) fn run(self) -> ExitCode {
        let settings = ClusterUpdate::from(self.settings);
        // What one flag alone can't tell. The daemon checks it again: it has other clients.
        if let Err(error) = ClusterSettings::default().updated(&settings) {
            eprintln!("vswitchd: {error} (see vswitchd init --help)");
            return ExitCode::from(2);
        }
        let Place { advertise_addr, listen_addr, data_path_addr, gossip_port, name } = self.place;
        let call = Call::Init(InitRequest {
            advertise_addr,
            listen_addr,
            name,
            data_path_addr,
            gossip_port,
            settings,
        });
        let made: Initialized = match self.remote.ask(&call) {
            Ok(made) => made,
            Err(code) => return code,
        };
        print(&match self.format {
            Format::Json => printable::json(&made),
            Format::Text => format!(
                "Cluster made: this node ({}) is now a manager.\n\nTo add a worker, run on it:\n\n    {}\n\n\
                 To add a manager, see `vswitchd token manager`.\n",
                made.node,
                join_line(&made.worker)
            ),
        })
    }
}

impl Join {
    pub(super) fn run(self) -> ExitCode {
        let token = match (self.token, self.token_file) {
            (Some(token), _) if token != "-" => Ok(Zeroizing::new(token)),
            (_, Some(file)) => File::open(&file)
                .and_then(read_token)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
            (_, None) => read_token(io::stdin().lock()),
        };
        let token = match token {
            Ok(token) => SecretText(token),
            Err(error) => return failed(&error),
        };
        let Place { advertise_addr, listen_addr, data_path_addr, gossip_port, name } = self.place;
        let call = Call::Join(JoinRequest {
            token,
            managers: self.managers,
            advertise_addr,
            listen_addr,
            name,
            data_path_addr,
            gossip_port,
            data_path_port: self.data_path_port,
        });
        match self.remote.ask::<Joined>(&call) {
            Ok(joined) => print(&format!("This node joined the cluster as a {}.\n", joined.role)),
            Err(code) => code,
        }
    }
}

impl Leave {
    pub(super) fn run(self) -> ExitCode {
        match self.remote.ask::<()>(&Call::Leave(LeaveRequest { force: self.force })) {
            Ok(()) => print("This node left the cluster.\n"),
            Err(code) => code,
        }
    }
}

impl Token {
    pub(super) fn run(self) -> ExitCode {
        let call = if self.rotate { Call::RotateToken(self.role) } else { Call::Token(self.role) };
        let answer: TokenAnswer = match self.remote.ask(&call) {
            Ok(answer) => answer,
            Err(code) => return code,
        };
        if self.quiet {
            return print(&format!("{}\n", *answer.token.0));
        }
        let rotated = if self.rotate { "No manager takes the old token any more.\n\n" } else { "" };
        print(&format!("{rotated}To add a {}, run on it:\n\n    {}\n", self.role, join_line(&answer)))
    }
}

/// The command by which a node joins.
fn join_line(token: &TokenAnswer) -> String {
    let manager = token.managers.first().map_or_else(|| "MANAGER".into(), ToString::to_string);
    format!("vswitchd join --token {} {manager}", *token.token.0)
}

fn read_token(from: impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(usize::from(TOKEN_FILE_MAX) + 1));
    from.take(TOKEN_FILE_MAX.into()).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_at_may_leave_a_part_out() {
        let read = |text| listen_addr(text).map(|address| address.to_string());
        assert_eq!(read("192.0.2.1"), Ok("192.0.2.1:2377".into()));
        assert_eq!(read("192.0.2.1:99"), Ok("192.0.2.1:99".into()));
        assert_eq!(read("::1"), Ok("[::1]:2377".into()));
        assert_eq!(read("[::1]:99"), Ok("[::1]:99".into()));
        assert_eq!(read(":99"), Ok("0.0.0.0:99".into()));
        for text in ["", ":", "host:99", "192.0.2.1:", "192.0.2.1:70000"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_are_read_without_their_line_end() {
        assert_eq!(*read_token(&b" VSWTKN-1-a-b \n"[..]).unwrap(), "VSWTKN-1-a-b");
        assert!(read_token(&[0xff, 0xfe][..]).is_err());
    }
}
