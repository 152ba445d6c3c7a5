//! This node's endpoints: what they are named, and how they outlive the daemon.
//!
//! They are kept in [`FILE`] of the state directory before anything is promised, and attached again at the next start.
//! One whose TAP or namespace is gone by then is dropped: a TAP that was there before must not be made by us, and a
//! process id must not stand for another process.

use std::io;
use std::net::IpAddr;

use rustix::fs::fstat;
use serde::{Deserialize, Serialize};

use super::envoy::EnvoyError;
use super::plan::LocalEndpoint;
use super::view::{Backend, NetworkId};
use crate::api::{EndpointDevice, HostAddress, IpPrefix, PublishedPort};
use crate::gateway::door::DoorError;
use crate::namespace::netlink::NetlinkError;
use crate::state::{StateDir, StateError};
use crate::switch::io::netns::{NetnsError, NetnsRef, NetnsRefError};
use crate::switch::io::qemu::QemuError;
use crate::switch::io::tap::TapError;
use crate::switch::tables::PORTS_MAX;
use crate::switch::tunnel::Protection;
use crate::switch::wire::MacAddr;

/// The file.
pub const FILE: &str = "endpoints.json";
/// Endpoints of a node: a switch has no more ports.
pub const ENDPOINTS_MAX: usize = PORTS_MAX;
/// Characters of an endpoint's name: a DNS label's (RFC 1035 §2.3.4).
pub const NAME_MAX: usize = 63;

/// An endpoint to be attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// What it is known by, unique in the cluster: characters as in a name.
    pub id: String,
    /// Its name, unique in its network: 1 to [`NAME_MAX`] letters, digits, `-`, `_` or `.`.
    pub name: String,
    /// Its other names there.
    pub aliases: Vec<String>,
    /// The network that it is in.
    pub network: NetworkId,
    /// Its addresses, each with the length of its subnet's prefix.
    pub addresses: Vec<HostAddress>,
    /// Its MAC address. None before it is attached: then it gets the one that follows from its addresses, or that which
    /// its TAP has had before.
    #[serde(with = "crate::api::text::optional")]
    pub mac: Option<MacAddr>,
    /// Where packets for the world outside go: at most one of each IP version.
    pub gateways: Vec<IpAddr>,
    /// The network's subnets that it has no address in: they are on the same link.
    #[serde(default)]
    pub beside: Vec<IpPrefix>,
    /// Whether it is the host's own place in the network, of which there is one.
    #[serde(default)]
    pub exposed: bool,
    /// Ports of this host at which it is reached from outside.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Its part in a service, if it has one.
    #[serde(default)]
    pub backend: Option<Backend>,
    /// What its frames go in and out by.
    #[serde(flatten)]
    pub device: EndpointDevice,
}

/// Why an endpoint was not attached. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Not a name.
    #[error("an endpoint's name is 1 to {NAME_MAX} letters, digits, '-', '_' or '.', not {0:?}")]
    Name(String),
    /// The name is in use there.
    #[error("this node has an endpoint {0} in that network already: choose another name")]
    Taken(String),
    /// The host has a place in that network.
    #[error("this host is in that network already: {0}")]
    Exposed(String),
    /// Another endpoint of this node is reached there.
    #[error("port {port} of this host is published by endpoint {endpoint} of network {network} already")]
    Published {
        /// The port.
        port: PublishedPort,
        /// The other's name.
        endpoint: String,
        /// Its network's name.
        network: String,
    },
    /// It was to be reached twice there.
    #[error("port {0} of this host is to be published twice")]
    PublishedTwice(PublishedPort),
    /// A port of this host can't be had.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// No such network.
    #[error("there is no network {0}")]
    NoNetwork(NetworkId),
    /// [`ENDPOINTS_MAX`] are there.
    #[error("a node has at most {ENDPOINTS_MAX} endpoints")]
    TooMany,
    /// Not a namespace.
    #[error(transparent)]
    NetnsRef(#[from] NetnsRefError),
    /// A namespace that is not there, or not ours to open.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The host's own TAP can't be made.
    #[error(
        "{interface}: this daemon may not make an interface of the host: run it as root, or `setcap cap_net_admin+ep` on \
         the program, or as root `ip tuntap add dev {interface} mode tap user {user}` and try again"
    )]
    HostNotPermitted {
        /// The TAP.
        interface: String,
        /// The daemon's user.
        user: u32,
    },
    /// Its TAP or addresses, in a user namespace that is not the daemon's.
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    /// A virtual machine's socket.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// Its addresses: the TAP could not be given them.
    #[error(transparent)]
    Interface(#[from] NetlinkError),
    /// The host's own TAP would change its way out.
    #[error("{setting}: {source}")]
    Setting {
        /// The file.
        setting: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// It can't be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// Something that an endpoint stood on before the restart is not there any more.
    #[error("{0} is gone")]
    Gone(String),
}

impl AttachError {
    /// Whether what the endpoint stood on is gone for good, so that it need not be tried again.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Gone(_) => true,
            Self::Netns(error) | Self::Tap(TapError::Netns(error)) => {
                matches!(error, NetnsError::Missing(_) | NetnsError::NotANamespace(_))
            }
            _ => false,
        }
    }
}

impl EndpointSpec {
    /// One without addresses.
    pub fn new(
        id: impl Into<String>,
        name: impl Into<String>,
        network: NetworkId,
        device: EndpointDevice,
    ) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            aliases: Vec::new(),
            network,
            addresses: Vec::new(),
            mac: None,
            gateways: Vec::new(),
            beside: Vec::new(),
            exposed: false,
            published: Vec::new(),
            backend: None,
            device,
        }
    }

    /// Device and inode of the namespace that its TAP is in, so that two can be compared; none if that is the daemon's
    /// own, or it has no TAP.
    ///
    /// # Errors
    /// If there is none any more, or it can't be opened.
    pub fn place(&self) -> Result<Option<(u64, u64)>, AttachError> {
        Ok(self.netns_ref()?.map(place_of).transpose()?)
    }

    pub(super) fn check(&self) -> Result<(), AttachError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = |text: &str| (1..=NAME_MAX).contains(&text.len()) && text.chars().all(fits);
        let names = [&self.id, &self.name].into_iter().chain(&self.aliases);
        if let Some(bad) = names.into_iter().find(|text| !is_name(text)) {
            return Err(AttachError::Name(bad.clone()));
        }
        self.netns_ref().map(drop).map_err(AttachError::from)
    }

    /// The MAC address that follows from its IPv4 address, as in Docker; without one, a `random` one of its own
    /// (IEEE 802, clause 8.4.4.2: locally administered, unicast).
    pub(super) fn usual_mac(&self, random: u64) -> MacAddr {
        let v4 = self.addresses.iter().find_map(|own| match own.address() {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        });
        match (v4, random.to_le_bytes()) {
            (Some([a, b, c, d]), _) => MacAddr([0x02, 0x42, a, b, c, d]),
            (None, [first, a, b, c, d, e, ..]) => MacAddr([first & !1 | 2, a, b, c, d, e]),
        }
    }

    /// As a plan takes it.
    pub(super) fn local(&self) -> LocalEndpoint {
        let addresses = self.addresses.iter().map(|own| own.address()).collect();
        let (network, backend) = (self.network.clone(), self.backend.clone());
        LocalEndpoint { network, mac: self.mac, addresses, backend }
    }

    pub(super) fn netns_ref(&self) -> Result<Option<NetnsRef>, NetnsRefError> {
        self.device.netns().map(str::parse).transpose()
    }
}

/// An endpoint as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(flatten)]
    pub(super) spec: EndpointSpec,
    /// Whether its network is sealed: that bounds the TAP's MTU before the network's record is known again.
    pub(super) encrypted: bool,
    /// Whether the TAP was made for it.
    pub(super) made: bool,
    /// Device and inode of a namespace that a process id stands for.
    pub(super) process_netns: Option<(u64, u64)>,
}

impl Kept {
    pub(super) fn new(spec: EndpointSpec, protection: Protection, made: bool) -> Result<Self, AttachError> {
        let encrypted = protection == Protection::Sealed;
        let process_netns = identity(&spec)?;
        Ok(Self { spec, encrypted, made, process_netns })
    }

    pub(super) fn protection(&self) -> Protection {
        if self.encrypted { Protection::Sealed } else { Protection::Plain }
    }

    /// Whether it may be attached again after a restart, as far as can be told before.
    pub(super) fn check(&self) -> Result<(), AttachError> {
        if identity(&self.spec)? == self.process_netns {
            return Ok(());
        }
        let process = self.spec.device.netns().unwrap_or_default();
        Err(AttachError::Gone(format!("process {process}, whose namespace it was in,")))
    }

    /// Whether its TAP is the one that it had; a new one stands in for one that we had made only.
    pub(super) fn check_made(&self, made: bool) -> Result<(), AttachError> {
        if made && !self.made {
            return Err(AttachError::Gone(format!("{}, which was there before,", self.spec.device)));
        }
        Ok(())
    }
}

/// Device and inode of a namespace.
///
/// # Errors
/// If there is none, or it can't be opened.
pub fn place_of(netns: NetnsRef) -> Result<(u64, u64), NetnsError> {
    let fd = netns.open()?;
    let stat = fstat(&fd).map_err(|errno| NetnsError::Open { netns, source: errno.into() })?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What tells the namespace of one process from that of another with its id.
fn identity(spec: &EndpointSpec) -> Result<Option<(u64, u64)>, AttachError> {
    if matches!(spec.netns_ref()?, Some(NetnsRef::Pid(_))) { spec.place() } else { Ok(None) }
}

/// The endpoints of this node's earlier life.
pub(super) fn load(state: &StateDir) -> Result<Vec<Kept>, StateError> {
    Ok(state.load::<Vec<Kept>>(FILE)?.unwrap_or_default())
}

/// Keeps the endpoints that there are.
pub(super) fn store<'e>(
    state: &StateDir,
    endpoints: impl IntoIterator<Item = &'e Kept>,
) -> Result<(), StateError> {
    state.store(FILE, &endpoints.into_iter().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, netns: Option<&str>) -> EndpointSpec {
        let device = EndpointDevice::tap("tap0", netns.map(Into::into));
        EndpointSpec::new("id", name, NetworkId("n".into()), device)
    }

    #[test]
    fn names_and_namespaces_are_checked() {
        assert!(spec("web-1.a_b", Some("red")).check().is_ok());
        for name in ["", "a b", "a/b", "\u{1b}[2J", &"x".repeat(64)] {
            assert!(matches!(spec(name, None).check(), Err(AttachError::Name(_))), "{name:?}");
        }
        assert!(matches!(spec("a", Some("")).check(), Err(AttachError::NetnsRef(_))));
    }

    #[test]
    fn mac_addresses_follow_from_ipv4_or_are_of_their_own() {
        let with = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            EndpointSpec { addresses, ..spec("a", None) }
        };
        assert_eq!(with(&["fd00::2/64", "10.0.9.2/24"]).usual_mac(0).to_string(), "02:42:0a:00:09:02");
        let own = with(&["fd00::2/64"]).usual_mac(u64::MAX);
        assert_eq!((own.0[0], own.is_multicast()), (0xfe, false));
        assert_eq!(with(&[]).usual_mac(0).0[0], 2);
    }

    #[test]
    fn a_process_id_stands_for_one_process_only() {
        let own = std::process::id().to_string();
        let kept = Kept::new(spec("a", Some(&own)), Protection::Plain, true).unwrap();
        assert!(kept.process_netns.is_some() && kept.check().is_ok());
        let other = Kept { process_netns: kept.process_netns.map(|(dev, ino)| (dev, ino + 1)), ..kept };
        assert!(other.check().unwrap_err().is_gone());
        let nobody = Kept { spec: spec("a", Some("4194305")), ..other };
        assert!(nobody.check().unwrap_err().is_gone());
    }

    #[test]
    fn a_tap_that_was_there_is_not_made() {
        let kept = |made| Kept::new(spec("a", None), Protection::Sealed, made).unwrap();
        assert!(kept(true).check_made(true).is_ok() && kept(false).check_made(false).is_ok());
        assert!(kept(true).check_made(false).is_ok(), "somebody has made it since");
        assert!(kept(false).check_made(true).unwrap_err().is_gone());
    }
}
