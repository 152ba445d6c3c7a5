//! `vswitchd service update`.

use std::ffi::OsString;
use std::process::ExitCode;

use super::create::Policies;
use super::options::{self, Endpoint, Ports};
use super::wait::Wait;
use crate::api::{Call, Name, ServiceView};
use crate::cli::duration::milliseconds;
use crate::cli::label::label;
use crate::cli::printable::printable;
use crate::cli::remote::Remote;
use crate::cli::task::options::words;
use crate::cli::{failed, say};
use crate::service::{Constraint, PortRef, ServiceNetwork, ServiceUpdate, SpecParts};

/// Change a service; on a manager
///
/// What is not given stays. Another program, another network or another port of hosts replaces all tasks, as many at a
/// time as --update-parallelism says.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service update --replicas 5 web
  vswitchd service update --network-add back --network-rm front web
  vswitchd service update --publish-rm 80 --publish-add 9090:80 web
  vswitchd service update --args '-f -p 81' web
  vswitchd service update --force --update-parallelism 2 --update-delay 10s web
  vswitchd service update --update-order start-first --args '-f -p 80 -h /srv/new' web
  vswitchd service update web -- busybox httpd -f

Prints the service, then waits until all tasks are as they are to be now, as `service create` does. A port to publish that is published just so already changes nothing; one to publish no more is named \
by the tasks' port, as 80 or 53/udp. Virtual addresses and ports that nobody named stay as they are.

Exit status: 0 changed and so it runs, or with --detach changed, 1 not, 2 wrong usage or configuration, 130 interrupted.")]
pub(super) struct Update {
    #[command(flatten)]
    remote: Remote,

    /// Another number of tasks
    #[arg(long, value_name = "N", value_parser = options::replicas)]
    replicas: Option<u16>,

    /// A network to enter
    #[arg(long, value_name = "NETWORK[,alias=NAME]", value_parser = options::network)]
    network_add: Vec<ServiceNetwork>,

    /// A network to leave
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<Name>,

    /// A port to publish
    #[arg(long, value_name = "[[IP:]PORT:]PORT[/PROTOCOL]", value_parser = options::ports)]
    publish_add: Vec<Ports>,

    /// A port to publish no more, by that of the tasks
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    publish_rm: Vec<PortRef>,

    /// What its name leads to
    #[arg(long, value_enum)]
    endpoint_mode: Option<Endpoint>,

    /// How long a TCP connection to its virtual address may be silent
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    idle_timeout: Option<u64>,

    /// A condition on nodes that is to hold, too
    #[arg(long, value_name = "KEY==VALUE")]
    constraint_add: Vec<Constraint>,

    /// A condition on nodes that is to hold no more
    #[arg(long, value_name = "KEY==VALUE")]
    constraint_rm: Vec<Constraint>,

    /// A variable, in place of one with the same key
    #[arg(long, value_name = "KEY=VALUE")]
    env_add: Vec<String>,

    /// The key of a variable to take out
    #[arg(long, value_name = "KEY")]
    env_rm: Vec<String>,

    /// A label to put on, in place of one with the same key
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = label)]
    label_add: Vec<(String, String)>,

    /// The key of a label to take off
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,

    /// Another directory to start in; an empty one is /
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Another time from when a task is asked to end until it is killed
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    stop_grace_period: Option<u64>,

    /// Other arguments of the program, in one word with blanks between them, and quotes as in a shell
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, conflicts_with = "command")]
    args: Option<String>,

    /// Replace the tasks even if nothing has changed
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    policies: Policies,

    #[command(flatten)]
    wait: Wait,

    /// Which
    service: Name,

    /// Another program with its arguments; one that begins with a - needs a -- before it
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Update {
    pub(super) fn run(self) -> ExitCode {
        let (service, wait) = (self.service.clone(), self.wait);
        let daemon = match self.remote.clone().find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        // Policies are changed as a whole, and flags name parts of them.
        let before: ServiceView = match daemon.ask(&Call::Service(service.clone())) {
            Ok(before) => before,
            Err(error) => return failed(&error),
        };
        let update = match self.update(&before.spec) {
            Ok(update) => update,
            Err(message) => {
                eprintln!("vswitchd: {}", printable(&message));
                return ExitCode::from(2);
            }
        };
        match daemon.ask(&Call::UpdateService(service.clone(), Box::new(update))) {
            Ok(()) => match say(&format!("{service}\n")) {
                Ok(()) => wait.until_settled(&daemon, &[before.id]),
                Err(error) => failed(&error),
            },
            Err(error) => failed(&error),
        }
    }

    fn update(self, before: &SpecParts) -> Result<ServiceUpdate, String> {
        let command = words(self.command).map_err(|error| error.to_string())?;
        let args = self.args.map(|line| options::words(&line)).transpose();
        Ok(ServiceUpdate {
            replicas: self.replicas,
            endpoint_mode: self.endpoint_mode.map(Into::into),
            command: Some(command).filter(|command| !command.is_empty()),
            args: args.map_err(|error| format!("--args: {error}"))?,
            env_rm: self.env_rm,
            env_add: self.env_add,
            workdir: self.workdir,
            stop_grace_ms: self.stop_grace_period,
            network_rm: self.network_rm,
            network_add: self.network_add,
            publish_rm: self.publish_rm,
            publish_add: options::all(self.publish_add),
            constraint_rm: self.constraint_rm,
            constraint_add: self.constraint_add,
            label_rm: self.label_rm,
            label_add: self.label_add,
            restart: self.policies.restart(before.restart),
            update: self.policies.update(before.update),
            idle_timeout_ms: self.idle_timeout,
            force: self.force,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::tests::service;
    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        update: Update,
    }

    fn read(line: &[&str]) -> Result<ServiceUpdate, String> {
        let line = Line::try_parse_from(["test"].iter().chain(line));
        line.map_err(|error| error.to_string())?.update.update(&service("web").spec)
    }

    #[test]
    fn flags_become_changes() {
        assert_eq!(read(&["web"]), Ok(ServiceUpdate::default()));
        let line = "--replicas 5 --network-add back,alias=b --network-rm front --publish-add 9090-9091:80-81 --publish-rm 80 \
                    --publish-rm 8053:53/udp --endpoint-mode dnsrr --constraint-add node.id==a --constraint-rm \
                    node.role==worker --env-add B=c --env-rm A --label-add x --label-rm stage --update-delay 5s --force web";
        let update = read(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!((update.replicas, update.force, update.command), (Some(5), true, None));
        assert_eq!(update.publish_add.len(), 2);
        assert_eq!(
            update.publish_rm.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["80/tcp", "8053:53/udp"]
        );
        assert_eq!((update.restart, update.update.unwrap().delay_ms), (None, 5_000));
        assert_eq!(update.update.unwrap().parallelism, 1, "what it was");
        assert_eq!(update.label_add, [("x".to_owned(), String::new())]);
        let args = read(&["--args", "-f -p '8 1'", "web"]).unwrap().args.unwrap();
        assert_eq!(args, ["-f", "-p", "8 1"]);
        for line in
            [&["web", "--", "sleep", "-x"][..], &["web", "sleep", "-x"], &["-d", "web", "sleep", "-x"]]
        {
            assert_eq!(read(line).unwrap().command.unwrap(), ["sleep", "-x"], "{line:?}");
        }
        assert_eq!(read(&["web", "--", "-x"]).unwrap().command.unwrap(), ["-x"]);
        let behind = read(&["web", "-d", "--replicas", "3"]).unwrap();
        assert_eq!((behind.replicas, behind.command), (Some(3), None), "flags may come behind the service");
    }

    #[test]
    fn what_can_not_be_is_refused_at_once() {
        for (line, expected) in [
            (&["--args", "'a", "web"][..], "--args: a quote that does not end"),
            (&["--args", "a", "web", "--", "sleep"], "cannot be used with"),
            (&["--publish-rm", "80-81", "web"], "are several ports: want one"),
            (&["--network-add", "a b", "web"], "letters"),
            (&["web", "--rollback", "-d"], "unexpected argument '--rollback'"),
            (&["web", "-d", "--image", "nginx:2"], "unexpected argument '--image'"),
            (&["web", "-d", "--replica", "3"], "unexpected argument '--replica'"),
        ] {
            let refused = read(line).unwrap_err();
            assert!(refused.contains(expected), "{line:?}: {refused}");
        }
    }
}
