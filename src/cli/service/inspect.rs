//! `vswitchd service inspect`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::cell;
use crate::api::{Call, Name, ServicePlace, ServiceView, UnboundPort};
use crate::cli::date::rfc3339;
use crate::cli::document::DocumentFormat;
use crate::cli::duration::written;
use crate::cli::printable::{self, printable};
use crate::cli::remote::Remote;
use crate::cli::{failed, say};
use crate::service::{Mode, Port, RestartPolicy, ServiceNetwork, UpdatePolicy};

/// Nanoseconds, in which Docker counts, of a millisecond.
const NS_PER_MS: u64 = 1_000_000;

/// Show all that is known of services, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service inspect web
  vswitchd service inspect --pretty web api
  vswitchd service inspect --format '{{.Spec.Name}}: {{json .Endpoint.Ports}}' web

The list has the shape of Docker's: Spec is what was asked for, Endpoint what came of it (Ports with their numbers, \
VirtualIPs). IdleTimeout, Networks, Generation, Running, Wanted, Conflicts and NotListening (ports that nodes could not \
have, and why) are ours, and so is ProxyProtocol of a port.

Templates have fields of that by their names, as {{.Spec.Name}}, and {{json .Spec}} as JSON; of Go's templates there is \
no more.

Exit status: 0 shown, 1 a service or a field of it was not found, 2 wrong usage or configuration.")]
pub(super) struct Inspect {
    /// Which
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<Name>,

    #[command(flatten)]
    remote: Remote,

    /// For people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,

    /// How to print them: json (the list in one line), or a template, with a line for each
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<DocumentFormat>,
}

impl Inspect {
    pub(super) fn run(self) -> ExitCode {
        let mut services = Vec::new();
        let outcome = self.remote.ask_each(self.services, Call::Service, |_, service: ServiceView| {
            services.push(service);
            Ok(())
        });
        let documents = || services.iter().map(document).collect::<Vec<_>>();
        let shown = match &self.format {
            _ if self.pretty => services.iter().map(pretty).collect::<Vec<_>>().join("\n"),
            None => printable::json_pretty(&documents()),
            Some(format) => match format.show(&documents()) {
                Ok(shown) => shown,
                Err(error) => return failed(&error),
            },
        };
        match say(&shown) {
            Ok(()) => outcome,
            Err(error) => failed(&error),
        }
    }
}

/// In the shape of `docker service inspect`, and what Docker has no field for.
fn document(service: &ServiceView) -> Value {
    let endpoint_spec = endpoint_spec(service);
    let places = |place: &ServicePlace| json!({ "ID": place.network, "Name": place.name });
    json!({
        "ID": service.id,
        "Version": { "Index": service.updated_ms },
        "CreatedAt": rfc3339(service.created_ms),
        "UpdatedAt": rfc3339(service.updated_ms),
        "Spec": spec(service, &endpoint_spec),
        "Endpoint": {
            "Spec": endpoint_spec,
            "Ports": service.ports.iter().map(port).collect::<Vec<_>>(),
            "VirtualIPs": service.networks.iter().flat_map(virtual_ips).collect::<Vec<_>>(),
        },
        "Networks": service.networks.iter().map(places).collect::<Vec<_>>(),
        "Generation": service.generation,
        "Running": service.running,
        "Wanted": service.wanted,
        "NotListening": service.unbound.iter().map(not_listening).collect::<Vec<_>>(),
        "Conflicts": service.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

fn spec(service: &ServiceView, endpoint_spec: &Value) -> Value {
    let spec = &service.spec;
    let network = |network: &ServiceNetwork| json!({ "Target": network.network, "Aliases": network.aliases });
    let mode = match spec.mode {
        Mode::Replicated(replicas) => json!({ "Replicated": { "Replicas": replicas } }),
        Mode::Global => json!({ "Global": {} }),
    };
    let mut task = json!({
        "ContainerSpec": {
            "Command": spec.command,
            "Env": spec.env,
            "StopGracePeriod": spec.stop_grace_ms.saturating_mul(NS_PER_MS),
        },
        "RestartPolicy": {
            "Condition": spec.restart.condition.name(),
            "Delay": spec.restart.delay_ms.saturating_mul(NS_PER_MS),
            "MaxAttempts": spec.restart.max_attempts.unwrap_or(0),
            "Window": spec.restart.window_ms.saturating_mul(NS_PER_MS),
        },
        "Placement": { "Constraints": spec.constraints },
        "Networks": spec.networks.iter().map(network).collect::<Vec<_>>(),
    });
    if let Some(workdir) = &spec.workdir {
        task["ContainerSpec"]["Dir"] = json!(workdir);
    }
    json!({
        "Name": spec.name,
        "Labels": spec.labels,
        "TaskTemplate": task,
        "Mode": mode,
        "UpdateConfig": {
            "Parallelism": spec.update.parallelism,
            "Delay": spec.update.delay_ms.saturating_mul(NS_PER_MS),
            "Order": spec.update.order.name(),
        },
        "EndpointSpec": endpoint_spec,
    })
}

fn endpoint_spec(service: &ServiceView) -> Value {
    let ports = service.spec.ports.iter().map(port).collect::<Vec<_>>();
    let idle = service.spec.idle_timeout_ms.saturating_mul(NS_PER_MS);
    json!({ "Mode": service.spec.endpoint_mode.name(), "Ports": ports, "IdleTimeout": idle })
}

fn port(port: &Port) -> Value {
    let mut document =
        json!({ "Protocol": port.protocol, "TargetPort": port.target, "PublishMode": port.mode });
    if let Some(published) = port.published {
        document["PublishedPort"] = json!(published);
    }
    if let Some(version) = port.proxy {
        document["ProxyProtocol"] = json!(version);
    }
    if let Some(address) = port.address {
        document["HostIP"] = json!(address);
    }
    document
}

fn not_listening(port: &UnboundPort) -> Value {
    json!({
        "Node": port.node,
        "PublishedPort": port.published,
        "Protocol": port.protocol,
        "HostIP": port.address,
        "Reason": port.reason,
    })
}

fn virtual_ips(place: &ServicePlace) -> Vec<Value> {
    place.vips.iter().map(|vip| json!({ "NetworkID": place.network, "Addr": vip })).collect()
}

fn pretty(service: &ServiceView) -> String {
    let spec = &service.spec;
    let line = |name: &str, value: &str| format!("{name}: {}\n", printable(value));
    let mut text = [
        line("id", &service.id),
        line("name", spec.name.as_str()),
        line("mode", spec.mode.name()),
        line("tasks", &cell::replicas(service)),
        line("made", &rfc3339(service.created_ms)),
        line("changed", &rfc3339(service.updated_ms)),
        line("command", &cell::command(service, false)),
        line("endpoint mode", spec.endpoint_mode.name()),
        line("idle timeout", &written(spec.idle_timeout_ms)),
        line("stop grace period", &written(spec.stop_grace_ms)),
        line("restart", &restart(&spec.restart)),
        line("update", &update(&spec.update)),
    ]
    .concat();
    for variable in &spec.env {
        text += &line("env", variable);
    }
    if let Some(workdir) = &spec.workdir {
        text += &line("workdir", workdir);
    }
    for place in &service.networks {
        text += &line("network", &network(place, &spec.networks));
    }
    if !service.ports.is_empty() {
        text += &line("ports", &cell::ports(service));
    }
    for port in &service.unbound {
        text += &line("not listening", &format!("{port} on {}: {}", port.node, port.reason));
    }
    for constraint in &spec.constraints {
        text += &line("constraint", &constraint.to_string());
    }
    for (key, value) in &spec.labels {
        text += &line("label", &format!("{key}={value}"));
    }
    for conflict in &service.conflicts {
        text += &line("conflict", &conflict.to_string());
    }
    text
}

/// Its name, virtual addresses and aliases.
fn network(place: &ServicePlace, asked: &[ServiceNetwork]) -> String {
    let mut words = vec![place.name.clone()];
    if !place.vips.is_empty() {
        words.push(place.vips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    }
    let of = asked.iter().filter(|network| network.network.as_str() == place.network);
    let aliases: Vec<&str> = of.flat_map(|network| &network.aliases).map(Name::as_str).collect();
    if !aliases.is_empty() {
        words.push(format!("alias {}", aliases.join(", ")));
    }
    words.join(" ")
}

fn restart(policy: &RestartPolicy) -> String {
    let attempts = policy.max_attempts.map_or_else(String::new, |most| format!(", at most {most} times"));
    let window = match policy.window_ms {
        0 => String::new(),
        window => format!(", counted anew after {}", written(window)),
    };
    format!("{}, after {}{attempts}{window}", policy.condition.name(), written(policy.delay_ms))
}

fn update(policy: &UpdatePolicy) -> String {
    let at_a_time = match policy.parallelism {
        0 => "all".into(),
        count => count.to_string(),
    };
    format!("{at_a_time} at a time, {} between them, {}", written(policy.delay_ms), policy.order.name())
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;

    #[test]
    fn a_service_has_dockers_shape() {
        let shown = document(&service("web"));
        assert_eq!(shown["Spec"]["Mode"], json!({ "Replicated": { "Replicas": 1 } }));
        assert_eq!(
            shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Command"],
            json!(["busybox", "httpd", "-f"])
        );
        assert_eq!(shown["Spec"]["TaskTemplate"]["Placement"]["Constraints"], json!(["node.role==worker"]));
        assert_eq!(shown["Spec"]["TaskTemplate"]["RestartPolicy"]["Delay"], 5_000_000_000_u64);
        assert_eq!(
            shown["Spec"]["TaskTemplate"]["Networks"],
            json!([{ "Target": "n1", "Aliases": ["www"] }])
        );
        assert_eq!(shown["Endpoint"]["Spec"], shown["Spec"]["EndpointSpec"]);
        let asked = &shown["Endpoint"]["Spec"]["Ports"][0];
        assert_eq!(asked, &json!({ "Protocol": "tcp", "TargetPort": 80, "PublishMode": "ingress" }));
        assert_eq!(shown["Endpoint"]["Ports"][0]["PublishedPort"], 30_000);
        assert_eq!(
            shown["Endpoint"]["VirtualIPs"],
            json!([{ "NetworkID": "n1", "Addr": "10.0.9.5/24" }, { "NetworkID": "n1", "Addr": "fd00:9::5/64" }])
        );
        assert_eq!(
            (&shown["CreatedAt"], &shown["Generation"]),
            (&json!("1970-01-01T00:00:00.000Z"), &json!(2))
        );
        let mut global = service("web");
        let mut parts = global.spec.into_parts();
        parts.mode = Mode::Global;
        global.spec = crate::service::ServiceSpec::new(parts).unwrap();
        assert_eq!(document(&global)["Spec"]["Mode"], json!({ "Global": {} }));
    }

    #[test]
    fn people_get_lines() {
        let text = pretty(&service("web"));
        assert!(
            text.contains("\ntasks: 0/1\n")
                && text.contains("\nnetwork: front 10.0.9.5/24, fd00:9::5/64 alias www\n"),
            "{text}"
        );
        assert!(
            text.contains(
                "\nports: *:30000->80/tcp, 5353->53/udp\nconstraint: node.role==worker\nlabel: stage=test\n"
            ),
            "{text}"
        );
        assert!(
            text.contains(
                "\nidle timeout: 24h\nstop grace period: 10s\nrestart: any, after 5s\n\
                 update: 1 at a time, 0s between them, stop-first\nenv: A=b\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn policies_are_told_in_words() {
        let asked = RestartPolicy { max_attempts: Some(3), window_ms: 60_000, ..RestartPolicy::default() };
        assert_eq!(restart(&asked), "any, after 5s, at most 3 times, counted anew after 1m");
        let asked = UpdatePolicy { parallelism: 0, delay_ms: 90_000, ..UpdatePolicy::default() };
        assert_eq!(update(&asked), "all at a time, 1m30s between them, stop-first");
    }
}
