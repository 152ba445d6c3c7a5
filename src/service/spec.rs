//! What a service is.

mod check;
mod policy;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::check::check_labels;
pub(crate) use self::check::check_words;
use self::check::{at_most, check_name, check_networks, check_policies, check_ports, check_program};
pub use self::policy::{EndpointMode, Mode, RestartCondition, RestartPolicy, UpdateOrder, UpdatePolicy};
use super::constraint::Constraint;
use super::port::{Port, PortMode};
use crate::api::{LABEL_KEY_MAX, LABEL_VALUE_MAX, Name};
use crate::switch::balance::IdleLimits;

/// Characters of a service's name: with a slot's number and the beginning of a task's id behind it, it is a task's.
pub const SERVICE_NAME_MAX: usize = 45;
/// Slots of a service: each is a record on every node.
pub const REPLICAS_MAX: u16 = 1000;
/// Ports that a service publishes.
pub const PORTS_MAX: usize = 128;
/// Constraints of a service.
pub const CONSTRAINTS_MAX: usize = 32;
/// Bytes of the command, the environment and the working directory together: a service is one record of gossip.
pub const PROGRAM_BYTES_MAX: usize = 16 << 10;
/// The longest time in a policy.
pub const POLICY_TIME_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The shortest time after which a silent connection through a virtual address is forgotten.
pub const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A network that the tasks are in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceNetwork {
    /// By name or id where it is asked for; by id where it is kept.
    pub network: Name,
    /// Other names of the service there.
    #[serde(default)]
    pub aliases: Vec<Name>,
}

/// What a service is made of, whether it makes sense or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecParts {
    /// Its name.
    pub name: Name,
    /// How many tasks there are.
    pub mode: Mode,
    /// The program and its arguments. None: its tasks are endpoints that say so themselves, such as virtual machines.
    #[serde(default)]
    pub command: Vec<String>,
    /// Variables of its environment as `KEY=VALUE`.
    #[serde(default)]
    pub env: Vec<String>,
    /// The directory that it starts in.
    #[serde(default)]
    pub workdir: Option<String>,
    /// From when its tasks are asked to end until they are killed, in milliseconds: at most [`POLICY_TIME_MAX`].
    #[serde(default = "stop_grace_ms")]
    pub stop_grace_ms: u64,
    /// Its networks; the first is the tasks' `eth0`.
    #[serde(default)]
    pub networks: Vec<ServiceNetwork>,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// How its name leads to its tasks.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// On which nodes tasks may run: all must hold.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// How an ended task is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How tasks are replaced.
    #[serde(default)]
    pub update: UpdatePolicy,
    /// Keys and values.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long an established TCP connection through a virtual address may be silent, in milliseconds:
    /// [`IDLE_TIMEOUT_MIN`] to [`POLICY_TIME_MAX`], a day if nothing is said.
    #[serde(default = "idle_timeout_ms")]
    pub idle_timeout_ms: u64,
}

/// A service that makes sense in itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SpecParts", into = "SpecParts")]
pub struct ServiceSpec(SpecParts);

/// Why parts make no service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A name that can't be part of a DNS name.
    #[error(
        "service name {0}: want 1 to {SERVICE_NAME_MAX} letters, digits, '-' and '_', a letter or digit first"
    )]
    Name(Name),
    /// Too many slots.
    #[error("{0} replicas are too many: want at most {REPLICAS_MAX}")]
    Replicas(u16),
    /// The number of slots of a service that has none.
    #[error("service {0} is global: it has a task on each node, and no number of replicas")]
    Global(Name),
    /// More than a service may have of something.
    #[error("{count} {what} are too many: want at most {most}")]
    Many {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// One network for the second time.
    #[error("network {0} is given twice")]
    Network(Name),
    /// Not in the list that it is to be taken out of.
    #[error("the service has no {what} {which}")]
    Missing {
        /// A what.
        what: &'static str,
        /// Which.
        which: String,
    },
    /// An alias that is more than one word of a DNS name: it could be taken for another service's `tasks.NAME`.
    #[error("alias {0}: want no '.'")]
    Alias(Name),
    /// One port for two purposes.
    #[error("duplicate published ports provided: {0} and {1}")]
    Ports(Port, Port),
    /// The mesh leads to a virtual address, of which there is none.
    #[error("port published with ingress mode can't be used with dnsrr mode: publish {0} with mode=host")]
    Dnsrr(Port),
    /// Two tasks of one slot can't have one port of their host.
    #[error(
        "port {0} is published with mode=host, where the next task can't have it before the last has ended: use stop-first"
    )]
    StartFirst(Port),
    /// A header where there is no place for one.
    #[error("port {0}: the PROXY protocol is for TCP ports in ingress mode")]
    Proxy(Port),
    /// A variable without a name.
    #[error("environment {0:?}: want KEY=VALUE")]
    Env(String),
    /// A command whose first word is empty.
    #[error("the command's first word is empty: it is the program")]
    Nameless,
    /// No text for a program.
    #[error("a command, variable or directory has a NUL byte in it")]
    Nul,
    /// A working directory that depends on where one is.
    #[error("workdir {0:?}: want an absolute path")]
    Workdir(String),
    /// Something for programs where there is none.
    #[error(
        "a service without a command has no environment, workdir or arguments: its tasks are made by others"
    )]
    NoCommand,
    /// A label that is none.
    #[error(
        "label {0:?}: want a key of 1 to {LABEL_KEY_MAX} bytes without spaces, and a value of at most {LABEL_VALUE_MAX}"
    )]
    Label(String),
    /// A time that is too long.
    #[error("{0}: want at most 7 days")]
    Time(&'static str),
    /// Connections would be forgotten too soon or too late.
    #[error("idle timeout: want 1 s to 7 days")]
    IdleTimeout,
}

impl SpecParts {
    /// A service of that name, with one task that somebody else makes, and Docker's defaults.
    #[must_use]
    pub fn new(name: Name) -> Self {
        Self {
            name,
            mode: Mode::Replicated(1),
            command: Vec::new(),
            env: Vec::new(),
            workdir: None,
            stop_grace_ms: stop_grace_ms(),
            networks: Vec::new(),
            ports: Vec::new(),
            endpoint_mode: EndpointMode::default(),
            constraints: Vec::new(),
            restart: RestartPolicy::default(),
            update: UpdatePolicy::default(),
            labels: BTreeMap::new(),
            idle_timeout_ms: idle_timeout_ms(),
        }
    }
}

/// The switch's own choice.
fn idle_timeout_ms() -> u64 {
    u64::try_from(IdleLimits::default().tcp.as_millis()).expect("it is a day")
}

/// Docker's.
fn stop_grace_ms() -> u64 {
    10_000
}

impl ServiceSpec {
    /// The service that has these parts.
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn new(parts: SpecParts) -> Result<Self, SpecError> {
        check_name(&parts.name)?;
        match parts.mode {
            Mode::Replicated(count) if count > REPLICAS_MAX => return Err(SpecError::Replicas(count)),
            Mode::Replicated(_) | Mode::Global => {}
        }
        check_program(&parts)?;
        check_networks(&parts.networks)?;
        check_ports(&parts)?;
        at_most("constraints", parts.constraints.len(), CONSTRAINTS_MAX)?;
        check_policies(&parts)?;
        check_labels(&parts.labels)?;
        Ok(Self(parts))
    }

    /// Its parts, to be changed.
    #[must_use]
    pub fn into_parts(self) -> SpecParts {
        self.0
    }

    /// How long what goes through its virtual addresses may be silent.
    #[must_use]
    pub fn idle_limits(&self) -> IdleLimits {
        IdleLimits { tcp: Duration::from_millis(self.idle_timeout_ms), ..IdleLimits::default() }
    }

    /// From when its tasks are asked to end until they are killed.
    #[must_use]
    pub fn stop_grace(&self) -> Duration {
        Duration::from_millis(self.stop_grace_ms)
    }

    /// Whether there has to be a network of the routing mesh: it publishes ports on every node, or it publishes ports and
    /// has no network by which they could be reached.
    #[must_use]
    pub fn needs_ingress(&self) -> bool {
        let without = self.networks.is_empty() && !self.ports.is_empty();
        without || self.ports.iter().any(|port| port.mode == PortMode::Ingress)
    }
}

impl Deref for ServiceSpec {
    type Target = SpecParts;

    fn deref(&self) -> &SpecParts {
        &self.0
    }
}

impl TryFrom<SpecParts> for ServiceSpec {
    type Error = SpecError;

    fn try_from(parts: SpecParts) -> Result<Self, SpecError> {
        Self::new(parts)
    }
}

impl From<ServiceSpec> for SpecParts {
    fn from(spec: ServiceSpec) -> Self {
        spec.0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gossip::codec;

    /// A service with a bit of everything.
    pub(crate) fn full() -> SpecParts {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let ports = ["8080:80", "53/udp"].map(|text| Port::parse(text, PortMode::Ingress).unwrap().remove(0));
        SpecParts {
            mode: Mode::Replicated(3),
            command: vec!["busybox".into(), "httpd".into(), "-f".into()],
            env: vec!["A=b=c".into()],
            workdir: Some("/srv".into()),
            networks: vec![ServiceNetwork { network: name("front"), aliases: vec![name("www")] }],
            ports: ports.into(),
            constraints: vec!["node.role==worker".parse().unwrap()],
            restart: RestartPolicy {
                condition: RestartCondition::OnFailure,
                max_attempts: Some(3),
                ..RestartPolicy::default()
            },
            labels: [("stage".to_owned(), "test".to_owned())].into(),
            ..SpecParts::new(name("web"))
        }
    }

    fn refused(change: impl FnOnce(&mut SpecParts)) -> String {
        let mut parts = full();
        change(&mut parts);
        ServiceSpec::new(parts).unwrap_err().to_string()
    }

    fn port(text: &str, mode: PortMode) -> Port {
        Port::parse(text, mode).unwrap().remove(0)
    }

    #[test]
    fn specs_come_as_they_went() {
        let spec = ServiceSpec::new(full()).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSpec>(&json).unwrap(), spec);
        assert_eq!(codec::decode::<ServiceSpec>(&codec::encode(&spec)), Ok(spec));
        let least: ServiceSpec = serde_json::from_str(r#"{"name":"web","mode":"global"}"#).unwrap();
        let parts = SpecParts { mode: Mode::Global, ..SpecParts::new("web".parse().unwrap()) };
        assert_eq!(least, ServiceSpec::new(parts).unwrap());
        assert_eq!((least.restart.delay_ms, least.update.parallelism), (5_000, 1));
        assert_eq!(least.idle_limits(), IdleLimits::default());
        for hostile in [r#"{"name":"a.b","mode":"global"}"#, r#"{"name":"a","mode":{"replicated":1001}}"#] {
            assert!(serde_json::from_str::<ServiceSpec>(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_service() {
        let mut long = "x".repeat(46);
        for name in ["a.b", "-a", "_a", long.as_str()] {
            let said = refused(|parts| parts.name = name.parse().unwrap());
            assert!(said.starts_with(&format!("service name {name}: want 1 to 45")), "{said}");
        }
        long.pop();
        let longest = SpecParts::new(long.parse().unwrap());
        assert!(ServiceSpec::new(longest).is_ok());
        for (said, expected) in [
            (refused(|parts| parts.mode = Mode::Replicated(1001)), "1001 replicas are too many"),
            (refused(|parts| parts.command.clear()), "a service without a command has no environment"),
            (refused(|parts| parts.env.push("=a".into())), "environment \"=a\": want KEY=VALUE"),
            (refused(|parts| parts.command[0].clear()), "first word is empty"),
            (refused(|parts| parts.command.push("a\0b".into())), "NUL"),
            (refused(|parts| parts.command.push("x".repeat(16 << 10))), "bytes of a program are too many"),
            (refused(|parts| parts.workdir = Some("srv".into())), "workdir \"srv\": want an absolute"),
            (refused(|parts| parts.networks.push(parts.networks[0].clone())), "network front is given twice"),
            (
                refused(|parts| parts.networks[0].aliases.push("tasks.roll".parse().unwrap())),
                "alias tasks.roll: want no '.'",
            ),
            (refused(|parts| parts.update.delay_ms = u64::MAX), "update delay: want at most 7 days"),
            (refused(|parts| parts.idle_timeout_ms = 999), "idle timeout: want 1 s to 7 days"),
            (refused(|parts| parts.idle_timeout_ms = u64::MAX), "idle timeout: want 1 s to 7 days"),
            (refused(|parts| parts.stop_grace_ms = u64::MAX), "stop grace period: want at most 7 days"),
            (refused(|parts| drop(parts.labels.insert(String::new(), String::new()))), "label \"\": want"),
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_port_has_one_purpose() {
        let publish = |text: &str, mode| refused(|parts| parts.ports.push(port(text, mode)));
        assert_eq!(
            publish("8080:81", PortMode::Ingress),
            "duplicate published ports provided: 8080:80/tcp and 8080:81/tcp"
        );
        assert_eq!(
            publish("8080:80", PortMode::Host),
            "duplicate published ports provided: 8080:80/tcp and 8080:80/tcp"
        );
        assert_eq!(
            publish("53/udp", PortMode::Ingress),
            "duplicate published ports provided: 53/udp and 53/udp"
        );
        let mut parts = full();
        parts.ports.extend([port("8080:80/udp", PortMode::Ingress), port("53", PortMode::Ingress)]);
        parts.ports.extend(["127.0.0.1:87:80", "[::1]:87:80"].map(|text| port(text, PortMode::Ingress)));
        assert!(ServiceSpec::new(parts.clone()).is_ok(), "TCP and UDP are apart, and so are two addresses");
        parts.ports.push(port("87:80", PortMode::Ingress));
        assert!(ServiceSpec::new(parts).is_err());
    }

    #[test]
    fn the_mesh_leads_to_virtual_addresses() {
        let said = refused(|parts| parts.endpoint_mode = EndpointMode::Dnsrr);
        assert!(said.contains("port published with ingress mode can't be used with dnsrr mode"), "{said}");
        let mut parts = SpecParts { endpoint_mode: EndpointMode::Dnsrr, ..full() };
        parts.ports = vec![port("8080:80", PortMode::Host)];
        let update = UpdatePolicy { order: UpdateOrder::StartFirst, ..parts.update };
        let two = ServiceSpec::new(SpecParts { update, ..parts.clone() }).unwrap_err();
        assert_eq!(two, SpecError::StartFirst(parts.ports[0]));
        let spec = ServiceSpec::new(parts).unwrap();
        assert!(!spec.needs_ingress() && ServiceSpec::new(full()).unwrap().needs_ingress());
        let alone = SpecParts { networks: Vec::new(), ..spec.into_parts() };
        assert!(ServiceSpec::new(alone).unwrap().needs_ingress(), "there is no other way to its tasks");
    }
}
