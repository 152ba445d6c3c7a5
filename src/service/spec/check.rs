//! Whether the parts of a service make sense, each by itself and with the others.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::{
    EndpointMode, IDLE_TIMEOUT_MIN, POLICY_TIME_MAX, PORTS_MAX, PROGRAM_BYTES_MAX, SERVICE_NAME_MAX,
    ServiceNetwork, SpecError, SpecParts, UpdateOrder,
};
use crate::api::{ALIASES_MAX, LABEL_VALUE_MAX, LABELS_MAX, Name, TASK_NETWORKS_MAX, WORDS_MAX};
use crate::service::constraint::is_label_key;
use crate::service::port::{Port, PortMode};

pub(super) fn at_most(what: &'static str, count: usize, most: usize) -> Result<(), SpecError> {
    if count > most { Err(SpecError::Many { what, count, most }) } else { Ok(()) }
}

/// A label of a DNS name, but for underscores, which Docker's users have there.
pub(super) fn check_name(name: &Name) -> Result<(), SpecError> {
    let text = name.as_str();
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let fits = begins && text.len() <= SERVICE_NAME_MAX && !text.contains('.');
    if fits { Ok(()) } else { Err(SpecError::Name(name.clone())) }
}

pub(super) fn check_program(parts: &SpecParts) -> Result<(), SpecError> {
    let SpecParts { command, env, workdir, .. } = parts;
    if command.is_empty() && !(env.is_empty() && workdir.is_none()) {
        return Err(SpecError::NoCommand);
    }
    let all = command.iter().chain(env).chain(workdir);
    at_most("bytes of a program", all.map(String::len).sum(), PROGRAM_BYTES_MAX)?;
    check_words(command, env, workdir.as_deref().map(Path::new))
}

/// Whether a program can be asked for like this, for a service or a single task.
///
/// # Errors
/// [`SpecError::Nameless`], [`SpecError::Many`], [`SpecError::Nul`], [`SpecError::Env`], [`SpecError::Workdir`].
pub(crate) fn check_words(
    command: &[String],
    env: &[String],
    workdir: Option<&Path>,
) -> Result<(), SpecError> {
    if command.first().is_some_and(String::is_empty) {
        return Err(SpecError::Nameless);
    }
    at_most("words of a command", command.len(), WORDS_MAX)?;
    at_most("variables", env.len(), WORDS_MAX)?;
    let texts = command.iter().chain(env).map(String::as_bytes);
    if texts.chain(workdir.map(|path| path.as_os_str().as_bytes())).any(|text| text.contains(&0)) {
        return Err(SpecError::Nul);
    }
    let nameless = |variable: &&String| variable.split_once('=').is_none_or(|(key, _)| key.is_empty());
    if let Some(variable) = env.iter().find(nameless) {
        return Err(SpecError::Env(variable.clone()));
    }
    match workdir {
        Some(path) if !path.is_absolute() => Err(SpecError::Workdir(path.display().to_string())),
        _ => Ok(()),
    }
}

pub(super) fn check_networks(networks: &[ServiceNetwork]) -> Result<(), SpecError> {
    at_most("networks", networks.len(), TASK_NETWORKS_MAX)?;
    let mut seen = BTreeSet::new();
    for network in networks {
        if !seen.insert(&network.network) {
            return Err(SpecError::Network(network.network.clone()));
        }
        if let Some(alias) = network.aliases.iter().find(|alias| alias.as_str().contains('.')) {
            return Err(SpecError::Alias(alias.clone()));
        }
    }
    // Of all networks together, since a service is one record of gossip.
    at_most("aliases", networks.iter().map(|network| network.aliases.len()).sum(), ALIASES_MAX)
}

pub(super) fn check_ports(parts: &SpecParts) -> Result<(), SpecError> {
    at_most("ports", parts.ports.len(), PORTS_MAX)?;
    for (index, port) in parts.ports.iter().enumerate() {
        if let Some(other) = parts.ports[..index].iter().find(|other| clash(other, port)) {
            return Err(SpecError::Ports(*other, *port));
        }
        if !port.may_have_proxy() {
            return Err(SpecError::Proxy(*port));
        }
        if port.mode == PortMode::Ingress && parts.endpoint_mode == EndpointMode::Dnsrr {
            return Err(SpecError::Dnsrr(*port));
        }
        if port.mode == PortMode::Host && parts.update.order == UpdateOrder::StartFirst {
            return Err(SpecError::StartFirst(*port));
        }
    }
    Ok(())
}

/// Whether one of two is in the other's way, or says the same.
fn clash(one: &Port, other: &Port) -> bool {
    let unnumbered = one.published.is_none() && other.published.is_none();
    let what = |port: &Port| (port.protocol, port.target, port.mode, port.address);
    one.clashes(other) || (unnumbered && what(one) == what(other))
}

pub(super) fn check_policies(parts: &SpecParts) -> Result<(), SpecError> {
    let SpecParts { restart, update, .. } = parts;
    let times = [
        ("restart delay", restart.delay_ms),
        ("restart window", restart.window_ms),
        ("update delay", update.delay_ms),
        ("stop grace period", parts.stop_grace_ms),
    ];
    let too_long = times.into_iter().find(|&(_, ms)| Duration::from_millis(ms) > POLICY_TIME_MAX);
    if let Some((what, _)) = too_long {
        return Err(SpecError::Time(what));
    }
    let idle = Duration::from_millis(parts.idle_timeout_ms);
    if (IDLE_TIMEOUT_MIN..=POLICY_TIME_MAX).contains(&idle) { Ok(()) } else { Err(SpecError::IdleTimeout) }
}

/// Whether these can be labels, of services or of nodes.
///
/// # Errors
/// [`SpecError::Many`], [`SpecError::Label`].
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), SpecError> {
    at_most("labels", labels.len(), LABELS_MAX)?;
    let fits = |(key, value): &(&String, &String)| is_label_key(key) && value.len() <= LABEL_VALUE_MAX;
    match labels.iter().find(|label| !fits(label)) {
        Some((key, _)) => Err(SpecError::Label(key.chars().take(20).collect())),
        None => Ok(()),
    }
}
