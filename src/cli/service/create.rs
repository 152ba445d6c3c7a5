//! `vswitchd service create`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::options::{self, Condition, Endpoint, Order, Ports};
use super::wait::Wait;
use crate::api::{Call, Name, ServiceCreated, ServiceView};
use crate::cli::duration::milliseconds;
use crate::cli::label::label;
use crate::cli::printable::printable;
use crate::cli::remote::Remote;
use crate::cli::task::options::{variables, words};
use crate::cli::{failed, say};
use crate::service::{Constraint, Mode, RestartPolicy, ServiceNetwork, ServiceSpec, SpecParts, UpdatePolicy};
use crate::task::name;

/// Make a service; on a manager
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service create --name web --replicas 3 --network front -p 8080:80 -- busybox httpd -f -p 80 -h /srv
  vswitchd service create --name dns --mode global -p published=53,target=53,protocol=udp,mode=host -- dnsmasq -k
  vswitchd service create --name db --network back,alias=sql --constraint node.labels.disk==ssd -- postgres
  vswitchd service create --name machines --network front

A port is published on every node, unless mode=host says on those of tasks; without a number it gets the first free one \
of 30000 to 32767, and keeps it. Constraints are on node.id, node.hostname, node.role and node.labels.KEY, with == or != \
(see `vswitchd node update`).

Without a command its tasks are made by others: endpoints, such as virtual machines, that say so.

Prints its id, then waits until its tasks run, for a second at least. If they don't come to, since no node may run them or for \
a minute nothing gets better, it says why and fails. The service is there all the same, also if the waiting is interrupted.

Exit status: 0 it is made and runs, or with --detach is made, 1 not, 2 wrong usage or configuration, 130 interrupted.")]
pub(super) struct Create {
    #[command(flatten)]
    remote: Remote,

    /// Its name, one of a kind in the cluster; needed without a COMMAND [default: a random one]
    #[arg(long, value_parser = options::service_name)]
    name: Option<Name>,

    /// Whether it has a number of tasks, or one on each node
    #[arg(long, value_parser = ["replicated", "global"], default_value = "replicated")]
    mode: String,

    /// How many tasks it has [default: 1]
    #[arg(long, value_name = "N", value_parser = options::replicas)]
    replicas: Option<u16>,

    /// A network of its tasks, by name or id; the first is their eth0. Several times for several
    #[arg(long = "network", value_name = "NETWORK[,alias=NAME]", value_parser = options::network)]
    networks: Vec<ServiceNetwork>,

    /// A port to publish, or the same in words: published=,target=,protocol=,mode=,host_ip=,proxy=v2
    #[arg(short, long, value_name = "[[IP:]PORT:]PORT[/PROTOCOL]", value_parser = options::ports)]
    publish: Vec<Ports>,

    /// What its name leads to [default: vip]
    #[arg(long, value_enum)]
    endpoint_mode: Option<Endpoint>,

    /// How long a TCP connection to its virtual address may be silent [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    idle_timeout: Option<u64>,

    /// A condition on nodes that run its tasks
    #[arg(long = "constraint", value_name = "KEY==VALUE")]
    constraints: Vec<Constraint>,

    /// A variable of its environment; KEY alone passes this command's on
    #[arg(short, long, value_name = "KEY=VALUE")]
    env: Vec<String>,

    /// A file with a variable on each line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// The directory that it starts in, on whichever node [default: /]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// From when a task is asked to end (by SIGTERM) until it is killed [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    stop_grace_period: Option<u64>,

    /// A label of it; its value may be left out
    #[arg(short, long = "label", value_name = "KEY[=VALUE]", value_parser = label)]
    labels: Vec<(String, String)>,

    #[command(flatten)]
    policies: Policies,

    #[command(flatten)]
    wait: Wait,

    /// The program and its arguments; one that begins with a - needs a -- before it
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How tasks are started again and replaced.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Policies {
    /// When an ended task is started again [a new service has any]
    #[arg(long, value_enum, value_name = "WHEN")]
    restart_condition: Option<Condition>,

    /// How long after its first end; later more and more [a new service has 5s]
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    restart_delay: Option<u64>,

    /// How often at most; 0 is without end
    #[arg(long, value_name = "N")]
    restart_max_attempts: Option<u32>,

    /// What counts for that; 0 is everything
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    restart_window: Option<u64>,

    /// How many tasks are replaced at a time; 0 is all [a new service has 1]
    #[arg(long, value_name = "N")]
    update_parallelism: Option<u16>,

    /// From when these run until the next are replaced
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    update_delay: Option<u64>,

    /// Whether the old task goes first or the new one comes first, without a gap [a new service has stop-first]
    #[arg(long, value_enum, value_name = "ORDER")]
    update_order: Option<Order>,
}

impl Policies {
    /// What is given in place of what there was; none if nothing is.
    pub(super) fn restart(&self, before: RestartPolicy) -> Option<RestartPolicy> {
        let after = RestartPolicy {
            condition: self.restart_condition.map_or(before.condition, Into::into),
            delay_ms: self.restart_delay.unwrap_or(before.delay_ms),
            max_attempts: match self.restart_max_attempts {
                None => before.max_attempts,
                Some(attempts) => Some(attempts).filter(|&attempts| attempts > 0),
            },
            window_ms: self.restart_window.unwrap_or(before.window_ms),
        };
        (after != before).then_some(after)
    }

    /// The same of replacing.
    pub(super) fn update(&self, before: UpdatePolicy) -> Option<UpdatePolicy> {
        let after = UpdatePolicy {
            parallelism: self.update_parallelism.unwrap_or(before.parallelism),
            delay_ms: self.update_delay.unwrap_or(before.delay_ms),
            order: self.update_order.map_or(before.order, Into::into),
        };
        (after != before).then_some(after)
    }
}

impl Create {
    pub(super) fn run(self) -> ExitCode {
        let (remote, wait, is_named) = (self.remote.clone(), self.wait, self.name.is_some());
        let mut spec = match self.spec() {
            Ok(spec) => spec,
            Err(message) => {
                eprintln!("vswitchd: {}", printable(&message));
                return ExitCode::from(2);
            }
        };
        let daemon = match remote.find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        if !is_named {
            let services = match daemon.ask::<Vec<ServiceView>>(&Call::Services) {
                Ok(services) => services,
                Err(error) => return failed(&error),
            };
            let name = random_name(|name| services.iter().any(|service| service.spec.name.as_str() == name));
            let parts = SpecParts { name, ..SpecParts::clone(&spec) };
            spec = ServiceSpec::new(parts).expect("a name like the one before");
        }
        match daemon.ask::<ServiceCreated>(&Call::CreateService(Box::new(spec))) {
            Ok(made) => match say(&format!("{}\n", printable(&made.id))) {
                Ok(()) => wait.until_settled(&daemon, &[made.id]),
                Err(error) => failed(&error),
            },
            Err(error) => failed(&error),
        }
    }

    fn spec(self) -> Result<ServiceSpec, String> {
        let mode = match (self.mode.as_str(), self.replicas) {
            ("global", None) => Mode::Global,
            ("global", Some(_)) => {
                return Err("--replicas is for replicated services: leave it out with --mode global".into());
            }
            (_, replicas) => Mode::Replicated(replicas.unwrap_or(1)),
        };
        let name = match self.name {
            Some(name) => name,
            None if self.command.is_empty() => {
                return Err("a service without a command needs a --name, by which others join it".into());
            }
            None => random_name(|_| false),
        };
        let default = SpecParts::new(name);
        let parts = SpecParts {
            mode,
            command: words(self.command).map_err(|error| error.to_string())?,
            env: variables(&self.env_file, &self.env).map_err(|error| error.to_string())?,
            workdir: self.workdir,
            stop_grace_ms: self.stop_grace_period.unwrap_or(default.stop_grace_ms),
            networks: self.networks,
            ports: options::all(self.publish),
            endpoint_mode: self.endpoint_mode.map(Into::into).unwrap_or_default(),
            constraints: self.constraints,
            restart: self.policies.restart(default.restart).unwrap_or(default.restart),
            update: self.policies.update(default.update).unwrap_or(default.update),
            labels: self.labels.into_iter().collect(),
            idle_timeout_ms: self.idle_timeout.unwrap_or(default.idle_timeout_ms),
            ..default
        };
        ServiceSpec::new(parts).map_err(|error| error.to_string())
    }
}

/// A name that is not taken.
fn random_name(is_taken: impl Fn(&str) -> bool) -> Name {
    name::free(&mut fastrand::Rng::new(), is_taken).parse().expect("a colour and a bird")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::service::{EndpointMode, PortMode, RestartCondition, UpdateOrder};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn read(line: &str) -> Result<ServiceSpec, String> {
        let line = Line::try_parse_from(["test"].into_iter().chain(line.split(' ')));
        line.map_err(|error| error.to_string())?.create.spec()
    }

    #[test]
    fn flags_become_a_service() {
        let line = "--name web --replicas 3 --network front,alias=www --network back -p 8080:80 --publish \
                    published=53,target=53,protocol=udp,mode=host --constraint node.role==worker -e A=b=c -w /srv \
                    -l stage=test --restart-condition on-failure --restart-delay 1s --restart-max-attempts 3 \
                    --update-parallelism 2 --update-delay 1m30s --idle-timeout 2h --stop-grace-period 1500ms -- busybox httpd -f -p 80";
        let spec = read(line).unwrap();
        assert_eq!((spec.name.as_str(), spec.mode), ("web", Mode::Replicated(3)));
        assert_eq!(spec.command, ["busybox", "httpd", "-f", "-p", "80"]);
        let networks: Vec<_> =
            spec.networks.iter().map(|network| (network.network.as_str(), network.aliases.len())).collect();
        assert_eq!(networks, [("front", 1), ("back", 0)]);
        let ports: Vec<_> = spec.ports.iter().map(|port| (port.to_string(), port.mode)).collect();
        assert_eq!(ports, [("8080:80/tcp".into(), PortMode::Ingress), ("53:53/udp".into(), PortMode::Host)]);
        assert_eq!(
            (&spec.env[0], spec.workdir.as_deref(), &spec.labels["stage"]),
            (&"A=b=c".into(), Some("/srv"), &"test".into())
        );
        let restart = RestartPolicy {
            condition: RestartCondition::OnFailure,
            delay_ms: 1_000,
            max_attempts: Some(3),
            window_ms: 0,
        };
        assert_eq!(
            (spec.restart, spec.update),
            (restart, UpdatePolicy { parallelism: 2, delay_ms: 90_000, ..UpdatePolicy::default() })
        );
        assert_eq!((spec.idle_limits().tcp.as_secs(), spec.stop_grace_ms), (7_200, 1_500));
        let order = read("--name web --update-order start-first").unwrap().update.order;
        assert_eq!(order, UpdateOrder::StartFirst);
        let least = read("--name web --mode global --endpoint-mode dnsrr").unwrap();
        assert_eq!((least.mode, least.endpoint_mode), (Mode::Global, EndpointMode::Dnsrr));
        assert_eq!((least.restart, least.update), (RestartPolicy::default(), UpdatePolicy::default()));
    }

    #[test]
    fn words_behind_the_program_are_its_own() {
        let command = |line| read(line).map(|spec| spec.into_parts().command.join(" "));
        for (line, expected) in [
            ("--name web sleep -x --name y", "sleep -x --name y"),
            ("--name web -- sleep -x", "sleep -x"),
            ("--name web sleep -- -x", "sleep -- -x"),
            ("--name web -- -x", "-x"),
            ("sleep --name web", "sleep --name web"),
        ] {
            assert_eq!(command(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_can_not_be_is_refused_at_once() {
        for (line, expected) in [
            ("--replicas 3", "a service without a command needs a --name"),
            ("--name web --tmpfs /x -d", "unexpected argument '--tmpfs'"),
            ("--name web -x", "unexpected argument '-x'"),
            ("--name a.b", "want 1 to 45 letters"),
            ("--name ", "want 1 to 45 letters"),
            ("--name web --mode global --replicas 3", "leave it out with --mode global"),
            ("--name web --mode job", "invalid value 'job'"),
            ("--name web --replicas 1001", "want a number of tasks, 0 to 1000"),
            ("--name web -p 80:http", "\"http\" is no port"),
            (
                "--name web -p target=80,foo=bar",
                "host_ip= or mode=host; of a service also mode=ingress or proxy=v2",
            ),
            ("--name web --constraint node.labels.a\u{a0}b==c", "no spaces"),
            ("--name web -p 80:80 -p 80:81", "duplicate published ports provided: 80:80/tcp and 80:81/tcp"),
            ("--name web -p 80 --endpoint-mode dnsrr", "can't be used with dnsrr mode"),
            ("--name web --constraint node.role=worker", "want KEY==VALUE or KEY!=VALUE"),
            ("--name web --network front --network front", "network front is given twice"),
            ("--name web -e A=b", "a service without a command has no environment"),
            ("--name web --idle-timeout 0", "idle timeout: want 1 s to 7 days"),
            ("--name web --update-order start-first -p mode=host,target=80", "use stop-first"),
            ("--name web --update-delay 5", "want a duration such as 500ms"),
        ] {
            let refused = read(line).unwrap_err();
            assert!(refused.contains(expected), "{line}: {refused}");
        }
    }
}
