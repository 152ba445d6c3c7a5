//! What lists show of a network, as text. Nothing here is made printable.

use crate::api::NetworkView;
use crate::cli::ID_SHORT;

pub(super) fn id(network: &NetworkView, shortened: bool) -> String {
    network.id.chars().take(if shortened { ID_SHORT } else { usize::MAX }).collect()
}

pub(super) fn subnets(network: &NetworkView) -> String {
    joined(network.subnets.iter().map(|subnet| subnet.subnet.to_string()))
}

/// What is special about it.
pub(super) fn options(network: &NetworkView) -> String {
    let options = &network.options;
    let flags = [
        (options.encrypted, "encrypted"),
        (options.internal, "internal"),
        (options.attachable, "attachable"),
        (options.ingress, "ingress"),
    ];
    let flags = flags.into_iter().filter(|&(set, _)| set).map(|(_, name)| name.to_owned());
    joined(flags.chain(options.mtu.map(|mtu| format!("mtu={mtu}"))))
}

pub(super) fn labels(network: &NetworkView) -> String {
    joined(network.options.labels.iter().map(|(key, value)| format!("{key}={value}")))
}

pub(super) fn conflicts(network: &NetworkView) -> String {
    network.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}
