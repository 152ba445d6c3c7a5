//! What lists show of a service, as text. Nothing here is made printable.

use std::collections::BTreeMap;

use crate::api::ServiceView;
use crate::cli::ID_SHORT;
use crate::cli::printable::shorten;
use crate::service::{Port, PortMode};

/// Characters of a command that tables show.
const COMMAND_SHORT: usize = 32;

pub(super) fn id(service: &ServiceView, shortened: bool) -> String {
    service.id.chars().take(if shortened { ID_SHORT } else { usize::MAX }).collect()
}

pub(super) fn command(service: &ServiceView, shortened: bool) -> String {
    shorten(&service.spec.command.join(" "), if shortened { COMMAND_SHORT } else { usize::MAX })
}

/// How many tasks run, and how many are to.
pub(super) fn replicas(service: &ServiceView) -> String {
    format!("{}/{}", service.running, service.wanted)
}

/// `*:8080->80/tcp` on every node; `8080->80/tcp` on those of tasks.
pub(super) fn ports(service: &ServiceView) -> String {
    let port = |port: &Port| {
        let host = match (port.address, port.mode) {
            (Some(address), _) if address.is_ipv6() => format!("[{address}]:"),
            (Some(address), _) => format!("{address}:"),
            (None, PortMode::Ingress) => "*:".into(),
            (None, PortMode::Host) => String::new(),
        };
        let published = port.published.map_or(0, Into::into);
        let proxy = port.proxy.map_or_else(String::new, |version| format!(" (proxy {version})"));
        format!("{host}{published}->{}/{}{proxy}", port.target, port.protocol)
    };
    service.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// Its virtual addresses in all networks.
pub(super) fn vips(service: &ServiceView) -> String {
    let vips = service.networks.iter().flat_map(|place| &place.vips);
    vips.map(|vip| vip.address().to_string()).collect::<Vec<_>>().join(",")
}

pub(super) fn networks(service: &ServiceView) -> String {
    service.networks.iter().map(|place| place.name.as_str()).collect::<Vec<_>>().join(",")
}

pub(super) fn labels(service: &ServiceView) -> String {
    let labels = service.spec.labels.iter();
    labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Ports that nodes can't have, each with the node, or with how many they are.
pub(super) fn unbound(service: &ServiceView) -> String {
    let mut ports = BTreeMap::<String, Vec<&str>>::new();
    for port in &service.unbound {
        ports.entry(port.to_string()).or_default().push(&port.node);
    }
    let cell = |(port, nodes): (String, Vec<&str>)| match nodes[..] {
        [node] => format!("{port} on {node}"),
        _ => format!("{port} on {} nodes", nodes.len()),
    };
    ports.into_iter().map(cell).collect::<Vec<_>>().join(", ")
}

pub(super) fn conflicts(service: &ServiceView) -> String {
    service.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
