//! `vswitchd attach`, `detach`: TAP devices of this host in networks of the cluster; and back to the terminal of a task.

use std::io;
use std::process::ExitCode;

use super::remote::Remote;
use super::task::{self, Keys};
use super::{failed, print, printable::printable, say};
use crate::api::{AttachRequest, Attached, Call, Name};
use crate::switch::io::netns::NetnsRef;

/// Give a TAP device of this host a place in a network, or come back to a task
///
/// With a TASK alone it shows what that task's program writes from now on, and what is typed goes to it, as with `vswitchd
/// run -it`.
///
/// The device is made if it does not exist. It has no address yet: give it one as any other interface.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd attach --network front --name web --tap tap0
  vswitchd attach --network front --name web --tap eth0 --netns web
  vswitchd attach alpine1

Exit status: 0 attached, 1 not, 2 wrong usage or configuration; with a task, as that of `vswitchd run`.")]
pub(super) struct Attach {
    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    device: Option<Device>,

    /// The task to come back to
    #[arg(required_unless_present = "network", conflicts_with = "Device")]
    task: Option<Name>,

    /// Task: don't send input to it
    #[arg(long, requires = "task")]
    no_stdin: bool,

    /// Task: what leaves its terminal
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", requires = "task")]
    detach_keys: Keys,
}

#[derive(Debug, clap::Args)]
#[group(requires_all = ["network", "name", "tap"])]
struct Device {
    /// The network, by name or id
    #[arg(long, required = false)]
    network: Name,

    /// What it is called there; one of a kind on this node
    #[arg(long, required = false)]
    name: Name,

    /// The TAP device
    #[arg(long, value_name = "DEVICE", required = false)]
    tap: String,

    /// The network namespace that it is in [default: the daemon's]
    #[arg(long, value_name = "NAME|PATH|PID")]
    netns: Option<NetnsRef>,
}

/// Take TAP devices of this host out of their networks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd detach web

Prints each name that is detached. The others are detached all the same if one can't be.

Exit status: 0 all are detached, 1 one is not, 2 wrong usage or configuration.")]
pub(super) struct Detach {
    /// What they are called
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Name>,

    #[command(flatten)]
    remote: Remote,
}

impl Attach {
    pub(super) fn run(self) -> ExitCode {
        let Self { remote, device, task, no_stdin, detach_keys } = self;
        match (device, task) {
            (Some(device), _) => device.attach(remote),
            (None, Some(task)) => task::reattach(remote, task, no_stdin, detach_keys),
            (None, None) => unreachable!("the parser wants one of the two"),
        }
    }
}

impl Device {
    fn attach(self, remote: Remote) -> ExitCode {
        let netns = match self.netns.map(absolute).transpose() {
            Ok(netns) => netns.map(|netns| netns.to_string()),
            Err(error) => return failed(&error),
        };
        let Self { network, name, tap, .. } = self;
        let said = format!("{} is {name} in network {network} now.\n", printable(&tap));
        match remote.ask::<Attached>(&Call::Attach(AttachRequest { network, name, tap, netns })) {
            Ok(_) => print(&said),
            Err(code) => code,
        }
    }
}

impl Detach {
    pub(super) fn run(self) -> ExitCode {
        self.remote.ask_each(self.names, Call::Detach, |name, ()| say(&format!("{name}\n")))
    }
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
