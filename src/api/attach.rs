//! Attaching an endpoint, and what comes of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{EndpointDevice, HostAddress, Name, PublishedPort, PublishedView, text};
use crate::switch::wire::MacAddr;

/// Other names of an endpoint.
pub const ALIASES_MAX: usize = 32;

/// What [`super::Call::Attach`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Given", into = "Given")]
pub struct AttachRequest {
    /// The network, by name or id.
    pub network: Name,
    /// What the new endpoint is called.
    pub name: Name,
    /// What its frames go in and out by.
    pub device: EndpointDevice,
    /// The addresses that it is to have, at most one of each IP version; free ones where none is given.
    pub ip: Vec<IpAddr>,
    /// Its MAC address; what follows from its IPv4 address if not given.
    pub mac: Option<MacAddr>,
    /// Other names of it, at most [`ALIASES_MAX`].
    pub aliases: Vec<Name>,
    /// Ports of this host at which it is to be reached from outside, at most [`super::PUBLISHED_MAX`].
    pub published: Vec<PublishedPort>,
    /// The service that it answers for, by name or id, if for one.
    pub service: Option<Name>,
}

/// An [`AttachRequest`] as it goes over the socket: fields, of which none is unknown and one names a device.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    network: Name,
    name: Name,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tap: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qemu_stream: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qemu_dgram: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    qemu_remote: Option<String>,
    #[serde(default)]
    ip: Vec<IpAddr>,
    #[serde(default, with = "text::optional")]
    mac: Option<MacAddr>,
    #[serde(default)]
    aliases: Vec<Name>,
    #[serde(default)]
    published: Vec<PublishedPort>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Name>,
}

impl TryFrom<Given> for AttachRequest {
    type Error = &'static str;

    fn try_from(given: Given) -> Result<Self, Self::Error> {
        let Given { tap, netns, qemu_stream, qemu_dgram, qemu_remote, .. } = given;
        let Given { network, name, ip, mac, aliases, published, service, .. } = given;
        let device = match (tap, netns, qemu_stream, qemu_dgram, qemu_remote) {
            (Some(tap), netns, None, None, None) => EndpointDevice::Tap { tap, netns },
            (None, None, Some(qemu_stream), None, None) => EndpointDevice::QemuStream { qemu_stream },
            (None, None, None, Some(qemu_dgram), qemu_remote) => {
                EndpointDevice::QemuDgram { qemu_dgram, qemu_remote }
            }
            _ => {
                return Err(
                    "want one device: tap, perhaps with netns; qemu_stream; or qemu_dgram, perhaps with qemu_remote",
                );
            }
        };
        Ok(Self { network, name, device, ip, mac, aliases, published, service })
    }
}

impl From<AttachRequest> for Given {
    fn from(request: AttachRequest) -> Self {
        let AttachRequest { network, name, device, ip, mac, aliases, published, service } = request;
        let (mut tap, mut netns, mut qemu_stream, mut qemu_dgram, mut qemu_remote) = Default::default();
        match device {
            EndpointDevice::Tap { tap: name, netns: place } => (tap, netns) = (Some(name), place),
            EndpointDevice::QemuStream { qemu_stream: path } => qemu_stream = Some(path),
            EndpointDevice::QemuDgram { qemu_dgram: path, qemu_remote: other } => {
                (qemu_dgram, qemu_remote) = (Some(path), other);
            }
        }
        Self {
            network,
            name,
            tap,
            netns,
            qemu_stream,
            qemu_dgram,
            qemu_remote,
            ip,
            mac,
            aliases,
            published,
            service,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The endpoint's id: 25 digits of base 36.
    pub id: String,
    /// The network's id.
    pub network: String,
    /// The name of its TAP in its namespace, or the path of its socket.
    pub interface: String,
    /// Its MAC address: the one that a virtual machine is to have.
    #[serde(with = "text")]
    pub mac: MacAddr,
    /// Its addresses: of IPv4, and of IPv6 if the network has a subnet of it.
    pub addresses: Vec<HostAddress>,
    /// Its way out, of each IP version; none if the network is internal.
    pub gateways: Vec<IpAddr>,
    /// Whom it asks for names.
    pub resolver: Option<IpAddr>,
    /// Bytes of its largest packet.
    pub mtu: u32,
    /// Where it is reached from outside.
    #[serde(default)]
    pub published: Vec<PublishedView>,
}
