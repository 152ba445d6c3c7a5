//! Where a node is and what it is called: from what was given to settings.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::cluster::GOSSIP_PORT;
use super::credentials::Settings;
use super::life::{bad_request, internal};
use super::{address, join};
use crate::api::Refusal;
use crate::api::settings::data_path_port;

/// Characters of a node's name: a DNS label's (RFC 1035 §2.3.4).
const NAME_MAX: usize = 63;

/// Name and addresses as they were given.
pub(super) struct Place {
    pub(super) name: Option<String>,
    pub(super) advertise: Option<String>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) gossip_port: Option<u16>,
    pub(super) data_address: Option<String>,
    pub(super) data_port: Option<u16>,
}

/// Name and addresses, as given or as this host has them.
pub(super) fn settings(place: Place) -> Result<Settings, Refusal> {
    let Place { name, advertise, listen, gossip_port, data_address, data_port } = place;
    let listen = listen.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), join::PORT));
    if listen.port() == 0 {
        return Err(bad_request("--listen-addr needs a port: others are told which"));
    }
    let name = name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let name = node_name(&name).map_err(|error| bad_request(error.to_string()))?.to_owned();
    let gossip_port = gossip_port.unwrap_or(GOSSIP_PORT);
    if gossip_port == 0 {
        return Err(bad_request("--gossip-port: others are told which, so it can't be 0"));
    }
    let interfaces = address::interfaces().map_err(internal)?;
    let own = (!listen.ip().is_unspecified() && advertise.is_none()).then(|| listen.ip().to_string());
    let given = own.or(advertise);
    let advertise = address::choose("--advertise-addr", given.as_deref(), &interfaces)
        .map_err(|error| bad_request(error.to_string()))?;
    // An address is meant as such; an interface's may change.
    let meant = given.is_some_and(|given| given.parse::<IpAddr>().is_ok());
    let interface = interfaces.iter().find(|interface| interface.address == advertise && !meant);
    let follow = interface.map(|interface| interface.name.clone());
    let data_address =
        data_address.map(|given| address::choose("--data-path-addr", Some(&given), &interfaces));
    let data_address = data_address.transpose().map_err(|error| bad_request(error.to_string()))?;
    let data_port =
        data_port.map(data_path_port).transpose().map_err(|error| bad_request(error.to_string()))?;
    // Listening at all addresses means those of the family that others are told.
    let listen = match (listen.ip().is_unspecified(), advertise) {
        (true, IpAddr::V6(_)) => SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), listen.port()),
        _ => listen,
    };
    Ok(Settings {
        node: String::new(),
        name,
        advertise,
        listen,
        gossip_port,
        follow,
        data_address,
        data_port,
        managers: Vec::new(),
    })
}

/// A text that is no node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.', not {0:?}: choose one with --name"
)]
pub(super) struct BadName(String);

/// A node's name, if it is one.
pub(super) fn node_name(text: &str) -> Result<&str, BadName> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = !text.is_empty() && text.len() <= NAME_MAX && text.chars().all(fits);
    if good { Ok(text) } else { Err(BadName(text.chars().take(NAME_MAX).collect())) }
}
