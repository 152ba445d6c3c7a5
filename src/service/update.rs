//! How a service is changed: what is taken out, what is put in, and whether its tasks have to be replaced.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::constraint::Constraint;
use super::port::{Port, PortError, PortMode, Protocol};
use super::spec::{
    EndpointMode, Mode, RestartPolicy, ServiceNetwork, ServiceSpec, SpecError, SpecParts, UpdatePolicy,
};
use crate::api::{Name, text};

/// A published port that is meant by the tasks' port: `80`, `53/udp`; with the host's, `8080:80`, it has to be that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRef {
    published: Option<NonZeroU16>,
    target: NonZeroU16,
    protocol: Protocol,
}

/// Changes of a service. What is not given stays; what is taken out goes before what is put in comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceUpdate {
    /// Another number of slots.
    pub replicas: Option<u16>,
    /// Another way from its name to its tasks.
    pub endpoint_mode: Option<EndpointMode>,
    /// Another command; empty: none.
    pub command: Option<Vec<String>>,
    /// Other arguments of the program, which stays.
    pub args: Option<Vec<String>>,
    /// Variables without which it is to be, by their keys.
    pub env_rm: Vec<String>,
    /// Variables as `KEY=VALUE`, each in place of one of the same key.
    pub env_add: Vec<String>,
    /// Another directory to start in; empty: none.
    pub workdir: Option<String>,
    /// Another time that tasks may take to end, in milliseconds.
    pub stop_grace_ms: Option<u64>,
    /// Networks to leave, by id where this is applied.
    pub network_rm: Vec<Name>,
    /// Networks to enter, by id where this is applied; one that it is in already gets these aliases.
    pub network_add: Vec<ServiceNetwork>,
    /// Ports to publish no more.
    pub publish_rm: Vec<PortRef>,
    /// Ports to publish; those that are published just so already change nothing.
    pub publish_add: Vec<Port>,
    /// Constraints that are to hold no more.
    pub constraint_rm: Vec<Constraint>,
    /// Constraints that are to hold, too.
    pub constraint_add: Vec<Constraint>,
    /// Keys of labels to take off.
    pub label_rm: Vec<String>,
    /// Labels to put on.
    pub label_add: Vec<(String, String)>,
    /// Another way of starting ended tasks again.
    pub restart: Option<RestartPolicy>,
    /// Another way of replacing tasks.
    pub update: Option<UpdatePolicy>,
    /// Another time that a TCP connection through a virtual address may be silent, in milliseconds.
    pub idle_timeout_ms: Option<u64>,
    /// Whether tasks are to be replaced even if nothing has changed.
    pub force: bool,
}

impl ServiceUpdate {
    /// The service as it is after this.
    ///
    /// # Errors
    /// If something that is to be taken out is not there, or what comes of it would make no sense.
    pub fn apply(&self, spec: &ServiceSpec) -> Result<ServiceSpec, SpecError> {
        let mut parts = spec.clone().into_parts();
        self.change_program(&mut parts)?;
        self.change_networks(&mut parts)?;
        self.change_ports(&mut parts)?;
        self.change_rest(&mut parts)?;
        ServiceSpec::new(parts)
    }

    fn change_program(&self, parts: &mut SpecParts) -> Result<(), SpecError> {
        if let Some(command) = &self.command {
            parts.command.clone_from(command);
        }
        if let Some(args) = &self.args {
            let program = parts.command.first().cloned().ok_or(SpecError::NoCommand)?;
            parts.command = [program].into_iter().chain(args.iter().cloned()).collect();
        }
        let key = |variable: &str| variable.split_once('=').map_or(variable, |(key, _)| key).to_owned();
        for wanted in &self.env_rm {
            take(&mut parts.env, "variable", wanted, |variable| key(variable) == *wanted)?;
        }
        for variable in &self.env_add {
            match parts.env.iter_mut().find(|other| key(other) == key(variable)) {
                Some(other) => other.clone_from(variable),
                None => parts.env.push(variable.clone()),
            }
        }
        if let Some(workdir) = &self.workdir {
            parts.workdir = Some(workdir.clone()).filter(|workdir| !workdir.is_empty());
        }
        parts.stop_grace_ms = self.stop_grace_ms.unwrap_or(parts.stop_grace_ms);
        Ok(())
    }

    fn change_networks(&self, parts: &mut SpecParts) -> Result<(), SpecError> {
        for network in &self.network_rm {
            take(&mut parts.networks, "network", network, |other| other.network == *network)?;
        }
        for network in &self.network_add {
            match parts.networks.iter_mut().find(|other| other.network == network.network) {
                Some(other) => other.clone_from(network),
                None => parts.networks.push(network.clone()),
            }
        }
        Ok(())
    }

    fn change_ports(&self, parts: &mut SpecParts) -> Result<(), SpecError> {
        for port in &self.publish_rm {
            take(&mut parts.ports, "published port", port, |other| port.means(other))?;
        }
        for port in &self.publish_add {
            if !parts.ports.contains(port) {
                parts.ports.push(*port);
            }
        }
        Ok(())
    }

    fn change_rest(&self, parts: &mut SpecParts) -> Result<(), SpecError> {
        match (self.replicas, parts.mode) {
            (None, _) => {}
            (Some(replicas), Mode::Replicated(_)) => parts.mode = Mode::Replicated(replicas),
            (Some(_), Mode::Global) => return Err(SpecError::Global(parts.name.clone())),
        }
        for constraint in &self.constraint_rm {
            take(&mut parts.constraints, "constraint", constraint, |other| other == constraint)?;
        }
        for constraint in &self.constraint_add {
            if !parts.constraints.contains(constraint) {
                parts.constraints.push(constraint.clone());
            }
        }
        for key in &self.label_rm {
            parts.labels.remove(key).ok_or_else(|| missing("label", key))?;
        }
        parts.labels.extend(self.label_add.iter().cloned());
        parts.endpoint_mode = self.endpoint_mode.unwrap_or(parts.endpoint_mode);
        parts.restart = self.restart.unwrap_or(parts.restart);
        parts.update = self.update.unwrap_or(parts.update);
        parts.idle_timeout_ms = self.idle_timeout_ms.unwrap_or(parts.idle_timeout_ms);
        Ok(())
    }
}

/// Whether tasks of one service would not do for the other: they have another program, other networks, or other ports
/// of their host.
#[must_use]
pub fn must_replace(before: &ServiceSpec, after: &ServiceSpec) -> bool {
    let program = |spec: &ServiceSpec| (spec.command.clone(), spec.env.clone(), spec.workdir.clone());
    let host = |spec: &ServiceSpec| {
        let ports = spec.ports.iter().filter(|port| port.mode == PortMode::Host).copied();
        ports.collect::<std::collections::BTreeSet<Port>>()
    };
    program(before) != program(after) || before.networks != after.networks || host(before) != host(after)
}

/// The generation after this one, 0 for a service that is made: `now` in microseconds since 1970, or one more than before where a
/// clock says less. So two of them are hardly ever equal, on both sides of a partition either: when it heals, the tasks of the
/// change that is overruled are told apart from the others, and replaced.
#[must_use]
pub fn next_generation(before: u64, now: SystemTime) -> u64 {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    u64::try_from(now).unwrap_or(u64::MAX).max(before.wrapping_add(1))
}

/// Takes out what is meant.
fn take<T>(
    from: &mut Vec<T>,
    what: &'static str,
    which: &impl fmt::Display,
    mut is_meant: impl FnMut(&T) -> bool,
) -> Result<(), SpecError> {
    let before = from.len();
    from.retain(|one| !is_meant(one));
    if from.len() == before { Err(missing(what, which)) } else { Ok(()) }
}

fn missing(what: &'static str, which: &impl fmt::Display) -> SpecError {
    SpecError::Missing { what, which: which.to_string() }
}

impl PortRef {
    fn means(self, port: &Port) -> bool {
        let published = self.published.is_none() || self.published == port.published;
        published && (self.target, self.protocol) == (port.target, port.protocol)
    }
}

impl FromStr for PortRef {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        match Port::parse(text, PortMode::Ingress)?.as_slice() {
            [Port { published, target, protocol, .. }] => {
                Ok(Self { published: *published, target: *target, protocol: *protocol })
            }
            _ => Err(PortError::Several(text.into())),
        }
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(published) = self.published {
            write!(f, "{published}:")?;
        }
        write!(f, "{}/{}", self.target, self.protocol)
    }
}

impl Serialize for PortRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for PortRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::spec::tests::full;
    use super::*;

    fn spec() -> ServiceSpec {
        ServiceSpec::new(full()).unwrap()
    }

    fn network(name: &str) -> ServiceNetwork {
        ServiceNetwork { network: name.parse().unwrap(), aliases: Vec::new() }
    }

    fn port(text: &str, mode: PortMode) -> Port {
        Port::parse(text, mode).unwrap().remove(0)
    }

    /// What came of it, and whether tasks are replaced.
    fn applied(update: &ServiceUpdate) -> (ServiceSpec, bool) {
        let after = update.apply(&spec()).unwrap();
        let replaced = must_replace(&spec(), &after);
        (after, replaced)
    }

    #[test]
    fn each_generation_is_another_one() {
        let now = UNIX_EPOCH + Duration::from_secs(2);
        assert_eq!(next_generation(0, now), 2_000_000);
        assert_eq!(next_generation(7, UNIX_EPOCH), 8, "a clock that says less");
        assert_eq!(next_generation(2_000_000, now), 2_000_001);
        assert_ne!(next_generation(u64::MAX, now), u64::MAX, "from a hostile record");
    }

    #[test]
    fn what_is_not_given_stays() {
        assert_eq!(applied(&ServiceUpdate::default()), (spec(), false));
        let update: ServiceUpdate = serde_json::from_str("{}").unwrap();
        assert_eq!(update, ServiceUpdate::default());
    }

    #[test]
    fn programs_and_networks_are_those_of_tasks() {
        let update = ServiceUpdate {
            env_rm: vec!["A".into()],
            env_add: vec!["B=1".into(), "B=2".into()],
            workdir: Some(String::new()),
            ..ServiceUpdate::default()
        };
        let (after, replaced) = applied(&update);
        assert_eq!((after.env.as_slice(), &after.workdir, replaced), (&["B=2".to_owned()][..], &None, true));
        let update = ServiceUpdate {
            network_rm: vec!["front".parse().unwrap()],
            network_add: vec![network("back")],
            ..ServiceUpdate::default()
        };
        let (after, replaced) = applied(&update);
        assert_eq!((after.networks.clone(), replaced), (vec![network("back")], true));
        let update = ServiceUpdate { args: Some(vec!["true".into()]), ..ServiceUpdate::default() };
        let (after, replaced) = applied(&update);
        assert_eq!((after.command.join(" ").as_str(), replaced), ("busybox true", true));
    }

    #[test]
    fn other_numbers_labels_and_modes_replace_nothing() {
        let update = ServiceUpdate {
            replicas: Some(7),
            label_rm: vec!["stage".into()],
            label_add: vec![("a".into(), "b".into())],
            constraint_rm: vec!["node.role==worker".parse().unwrap()],
            constraint_add: vec!["node.role!=worker".parse().unwrap()],
            update: Some(UpdatePolicy { parallelism: 0, delay_ms: 9, ..UpdatePolicy::default() }),
            idle_timeout_ms: Some(7_000),
            stop_grace_ms: Some(7),
            ..ServiceUpdate::default()
        };
        let (after, replaced) = applied(&update);
        assert_eq!((after.mode, after.labels["a"].as_str(), replaced), (Mode::Replicated(7), "b", false));
        assert_eq!(after.constraints[0].to_string(), "node.role!=worker");
        assert_eq!(after.idle_limits().tcp.as_secs(), 7);
    }

    #[test]
    fn ports_are_added_once_and_go_by_their_target() {
        let publish = |add: &[Port], rm: &[&str]| ServiceUpdate {
            publish_add: add.to_vec(),
            publish_rm: rm.iter().map(|text| text.parse().unwrap()).collect(),
            ..ServiceUpdate::default()
        };
        let same = port("8080:80", PortMode::Ingress);
        assert_eq!(applied(&publish(&[same], &[])), (spec(), false), "it is there already");
        let (after, replaced) = applied(&publish(&[port("9090:80", PortMode::Ingress)], &["80", "53/udp"]));
        assert_eq!((after.ports.clone(), replaced), (vec![port("9090:80", PortMode::Ingress)], false));
        let (after, replaced) = applied(&publish(&[port("8080:80", PortMode::Host)], &["8080:80"]));
        assert_eq!((after.ports.len(), replaced), (2, true), "tasks hold ports of their hosts");
        let said = |update: ServiceUpdate| update.apply(&spec()).unwrap_err().to_string();
        assert_eq!(
            said(publish(&[port("8080:90", PortMode::Ingress)], &[])),
            "duplicate published ports provided: 8080:80/tcp and 8080:90/tcp"
        );
        assert_eq!(said(publish(&[], &["9090:80"])), "the service has no published port 9090:80/tcp");
        assert_eq!(said(publish(&[], &["53"])), "the service has no published port 53/tcp");
    }

    #[test]
    fn what_is_not_there_can_not_be_taken_out() {
        let said = |update: ServiceUpdate| update.apply(&spec()).unwrap_err().to_string();
        for (update, expected) in [
            (ServiceUpdate { env_rm: vec!["B".into()], ..Default::default() }, "no variable B"),
            (
                ServiceUpdate { network_rm: vec!["back".parse().unwrap()], ..Default::default() },
                "no network back",
            ),
            (ServiceUpdate { label_rm: vec!["b".into()], ..Default::default() }, "no label b"),
            (
                ServiceUpdate { constraint_rm: vec!["node.id==a".parse().unwrap()], ..Default::default() },
                "no constraint node.id==a",
            ),
            (
                ServiceUpdate { command: Some(Vec::new()), ..Default::default() },
                "without a command has no environment",
            ),
        ] {
            let said = said(update);
            assert!(said.contains(expected), "{said}");
        }
        let global = ServiceSpec::new(SpecParts { mode: Mode::Global, ..full() }).unwrap();
        let update = ServiceUpdate { replicas: Some(2), ..Default::default() };
        assert!(update.apply(&global).unwrap_err().to_string().contains("service web is global"));
    }
}
