//! What other terminals do with a lab: `exec`, `ls`, `down`.

use std::env;
use std::ffi::OsString;
use std::io;
use std::process::{Command, ExitCode};

use serde_json::json;

use super::{Exec, KILLED, resolv_conf};
use crate::cli::{Format, failed, say};
use crate::lab::cluster::{DaemonPlace, NO_CONFIG};
use crate::lab::control::client::{self, AskError, Entrance};
use crate::lab::control::{LabName, Listing};
use crate::namespace::names::PRIVATE_DIR;
use crate::namespace::visit::{self, VisitError};

/// Tells the command which lab it is in.
const LAB_VARIABLE: &str = "VSWITCHD_LAB";

pub(super) fn exec(exec: Exec) -> ExitCode {
    let entered = client::choose(exec.name).and_then(|name| {
        let entrance = client::enter(&name, &exec.target)?;
        Ok((name, entrance))
    });
    let (name, Entrance { visit, namespaces, daemon }) = match entered {
        Ok(entered) => entered,
        Err(error) => return failed(&error),
    };
    // In the lab's namespaces this process has no place in /proc.
    let path = path();
    let outcome = visit::join(namespaces).and_then(|()| {
        visit::dress_up(&exec.target, &resolv_conf(&exec.target));
        let mut command = command(&name, daemon, exec.command);
        command.envs(path.map(|path| ("PATH", path)));
        visit::run(command)
    });
    match outcome {
        Ok(ended) => {
            if ended.code == KILLED && visit.has_lab_ended() {
                eprintln!("vswitchd: lab {name} has ended");
            }
            ended.into()
        }
        Err(error @ VisitError::Start { .. }) => {
            failed(&error);
            // As shells do for a command that can't be found.
            ExitCode::from(127)
        }
        Err(error) => failed(&error),
    }
}

fn command(lab: &LabName, daemon: Option<DaemonPlace>, words: Vec<OsString>) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or_else(visit::shell));
    command.args(words).env(LAB_VARIABLE, lab.as_str());
    // A tmux of the host's must not be taken for one in the lab, nor its folder of sockets, which belongs to a
    // user who in the lab is nobody.
    command.env_remove("TMUX").env("TMUX_TMPDIR", PRIVATE_DIR);
    if let Some(DaemonPlace { socket, state_dir }) = daemon {
        // So that a client asks this node, and a daemon goes on as this node instead of as the host.
        command.env("VSWITCHD_SOCKET", socket).env("VSWITCHD_STATE_DIR", state_dir);
        command.env("VSWITCHD_CONFIG", NO_CONFIG);
    }
    command
}

/// Where programs are found: this one, too, if it is not installed. None if that can't be told.
fn path() -> Option<OsString> {
    let own = env::current_exe().ok()?;
    let path = env::var_os("PATH").unwrap_or_default();
    env::join_paths(env::split_paths(&path).chain([own.parent()?.to_owned()])).ok()
}

pub(super) fn ls(format: Format) -> ExitCode {
    let outcome = client::labs().and_then(|names| {
        // One that ends just now is not listed.
        let listed =
            names.iter().map(client::list).filter(|listing| !matches!(listing, Err(AskError::NoSuchLab(_))));
        listed.collect::<Result<Vec<Listing>, AskError>>()
    });
    let listing = match outcome {
        Ok(labs) if format == Format::Json => format!("{}\n", json!({ "labs": labs })),
        Ok(labs) if labs.is_empty() => "no lab is running\n".into(),
        Ok(labs) => labs.iter().map(text).collect(),
        Err(error) => return failed(&error),
    };
    match say(&listing) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failed(&error),
        _ => ExitCode::SUCCESS,
    }
}

fn text(lab: &Listing) -> String {
    let mut text = format!("{}\n", lab.name);
    for node in lab.nodes.iter().chain(&lab.outside) {
        let socket =
            node.daemon.as_ref().map_or_else(String::new, |daemon| daemon.socket.display().to_string());
        text += &format!("  {:<8} {:<12} {socket}", node.name, node.address);
        text.truncate(text.trim_end().len());
        text.push('\n');
        for endpoint in &node.endpoints {
            let addresses = format!("{:<12} {:<18}", endpoint.ipv4, endpoint.ipv6);
            text += &format!(
                "    {:<6} {addresses} {} (VNI {})\n",
                endpoint.name, endpoint.network, endpoint.vni
            );
        }
    }
    text
}

pub(super) fn down(name: Option<LabName>, all: bool) -> ExitCode {
    let names = if all { client::labs() } else { client::choose(name).map(|name| vec![name]) };
    let outcome = names.and_then(|names| names.iter().try_for_each(client::down));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::{Plan, Shape};

    #[test]
    fn a_listing_names_everything() {
        let plan = Plan::new(Shape::default()).unwrap();
        let text = text(&Listing::new("mine", &plan));
        for word in [
            "mine",
            "node3",
            "198.18.0.3",
            "outside  198.18.255.254\n",
            "n3b",
            "10.2.3.2",
            "fd00:2::3:2",
            "net2 (VNI 43)",
        ] {
            assert!(text.contains(word), "{word} in {text}");
        }
    }
}
