//! Published ports of services: those of single programs ([`Publish`]) with a mode, as in
//! `published=8080,target=80,protocol=tcp,mode=host`, and whether tasks hear of clients by the PROXY protocol, `proxy=v2`.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use crate::api::Protocol;
use crate::api::{Publish, PublishError, PublishedPort};

/// Where a published port is listened at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortMode {
    /// On every node, whether it has a task or not.
    Ingress,
    /// On the nodes of tasks, each for its own.
    Host,
}

/// A port of the tasks, and where the world finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The host's address that is listened at; all, of both IP versions, if none is given.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The host's port; one that is free if none is given.
    #[serde(default)]
    pub published: Option<NonZeroU16>,
    /// The task's port.
    pub target: NonZeroU16,
    /// What is carried.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where it is listened at.
    pub mode: PortMode,
    /// What a task is told before anything of the client's: TCP in mode ingress only.
    #[serde(default)]
    pub proxy: Option<ProxyVersion>,
}

/// A header that says who the client is, and whom it has asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// Version 2 of the PROXY protocol, which is binary.
    V2,
}

impl fmt::Display for ProxyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2 => f.write_str("v2"),
        }
    }
}

/// Why a text names no ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Apart from its mode.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Neither of the modes.
    #[error("{0:?} is no mode: want ingress or host")]
    Mode(String),
    /// A key that was there before.
    #[error("{0}= is given twice")]
    Twice(&'static str),
    /// Not a header that can be sent.
    #[error("{0:?} is no version of the PROXY protocol that is spoken here: want proxy=v2")]
    Proxy(String),
    /// A header where there is no place for one.
    #[error(
        "port {0}: proxy= is for TCP ports in mode ingress, where a connection is the node's before it is the task's"
    )]
    NoProxy(Port),
    /// Several ports where one is wanted.
    #[error("{0:?} are several ports: want one")]
    Several(String),
}

impl PortMode {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for PortMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PortMode {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let found = [Self::Ingress, Self::Host].into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| PortError::Mode(text.into()))
    }
}

/// As people write it: `8080:80/tcp`, without what was not given.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:")?,
            Some(IpAddr::V4(address)) => write!(f, "{address}:")?,
            None => {}
        }
        match (self.published, self.address) {
            (Some(published), _) => write!(f, "{published}:")?,
            (None, Some(_)) => f.write_str(":")?,
            (None, None) => {}
        }
        write!(f, "{}/{}", self.target, self.protocol)
    }
}

impl Port {
    /// The ports that a text names, as [`Publish`] has it: several if it has ranges. `mode` holds where the text says
    /// nothing of it, as the short form never does.
    ///
    /// # Errors
    /// See [`PortError`].
    pub fn parse(text: &str, mode: PortMode) -> Result<Vec<Self>, PortError> {
        let (mut given, mut proxy, mut rest) = (None, None, Vec::new());
        for word in text.split(',') {
            if let Some(word) = word.strip_prefix("mode=") {
                if given.replace(word.parse()?).is_some() {
                    return Err(PortError::Twice("mode"));
                }
            } else if let Some(version) = word.strip_prefix("proxy=") {
                let version = (version == "v2").then_some(ProxyVersion::V2);
                let version = version.ok_or_else(|| PortError::Proxy(word["proxy=".len()..].into()))?;
                if proxy.replace(version).is_some() {
                    return Err(PortError::Twice("proxy"));
                }
            } else {
                rest.push(word);
            }
        }
        let mode = given.unwrap_or(mode);
        let Publish(ports) = rest.join(",").parse()?;
        let port = |port: PublishedPort| {
            let PublishedPort { address, published, target, protocol } = port;
            let target = NonZeroU16::new(target).ok_or_else(|| PublishError::Port(target.to_string()))?;
            let port = Self { address, published: NonZeroU16::new(published), target, protocol, mode, proxy };
            if port.may_have_proxy() { Ok(port) } else { Err(PortError::NoProxy(port)) }
        };
        ports.into_iter().map(port).collect()
    }

    /// Whether it has no header, or a place for it.
    pub(super) fn may_have_proxy(&self) -> bool {
        self.proxy.is_none() || (self.protocol, self.mode) == (Protocol::Tcp, PortMode::Ingress)
    }

    /// Whether one host can't have both: they have one number, and an address in common.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        let same = (self.protocol, self.published) == (other.protocol, other.published);
        same && self.published.is_some() && overlap(self.address, other.address)
    }

    /// The same for the host of a task.
    #[must_use]
    pub fn on_host(self) -> PublishedPort {
        let Self { address, published, target, protocol, .. } = self;
        PublishedPort {
            address,
            published: published.map_or(0, NonZeroU16::get),
            target: target.get(),
            protocol,
        }
    }
}

/// Whether somebody who listens at one address of a host is in the way at the other: none is all of them, and an unspecified
/// one all of its IP version.
#[must_use]
pub fn overlap(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return true };
    let all = one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified());
    one == other || all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        match Port::parse(text, PortMode::Ingress) {
            Ok(ports) => {
                let shown = ports.iter().map(|port| format!("{port} {}", port.mode));
                shown.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_header_is_for_connections_that_a_node_takes() {
        let parse = |text| Port::parse(text, PortMode::Ingress);
        let ports = parse("published=80-81,target=80-81,proxy=v2").unwrap();
        assert!(ports.len() == 2 && ports.iter().all(|port| port.proxy == Some(ProxyVersion::V2)));
        assert_eq!(parse("80").unwrap()[0].proxy, None);
        for (text, expected) in [
            ("target=80,proxy=v1", "\"v1\" is no version"),
            ("target=80,proxy=v2,proxy=v2", "proxy= is given twice"),
            ("target=80,proxy=v2,protocol=udp", "80/udp: proxy= is for TCP ports in mode ingress"),
            ("target=80,proxy=v2,mode=host", "80/tcp: proxy= is for TCP ports in mode ingress"),
        ] {
            let refused = parse(text).unwrap_err().to_string();
            assert!(refused.contains(expected), "{text}: {refused}");
        }
        let json = serde_json::to_string(&ports[0]).unwrap();
        assert!(json.contains("\"proxy\":\"v2\""), "{json}");
        assert_eq!(serde_json::from_str::<Port>(&json).unwrap(), ports[0]);
    }

    #[test]
    fn two_ports_of_one_number_clash_where_they_have_an_address_in_common() {
        let port = |text| Port::parse(text, PortMode::Ingress).unwrap().remove(0);
        for (one, other, clash) in [
            ("85:80", "85:81", true),
            ("85:80", "85:80/udp", false),
            ("85:80", "86:80", false),
            ("80", "80", false),
            ("198.18.0.1:85:80", "198.18.0.2:85:80", false),
            ("198.18.0.1:85:80", "198.18.0.1:85:81", true),
            ("198.18.0.1:85:80", "85:80", true),
            ("127.0.0.1:87:80", "[::1]:87:80", false),
            ("0.0.0.0:87:80", "127.0.0.1:87:80", true),
            ("0.0.0.0:87:80", "[::]:87:80", false),
            ("[::]:87:80", "[::1]:87:80", true),
        ] {
            let (one, other) = (port(one), port(other));
            assert_eq!([one.clashes(&other), other.clashes(&one)], [clash; 2], "{one} and {other}");
        }
    }

    #[test]
    fn texts_are_those_of_published_ports_with_a_mode() {
        for (text, expected) in [
            ("80", "80/tcp ingress"),
            ("8080:80/udp", "8080:80/udp ingress"),
            ("192.0.2.1:8080:80", "192.0.2.1:8080:80/tcp ingress"),
            ("[::1]::80", "[::1]::80/tcp ingress"),
            ("8000-8001:80-81/udp", "8000:80/udp ingress, 8001:81/udp ingress"),
            ("target=80", "80/tcp ingress"),
            ("published=8080,target=80,protocol=udp,mode=host", "8080:80/udp host"),
            ("mode=ingress,target=80", "80/tcp ingress"),
            ("target=80,mode=mesh", "\"mesh\" is no mode: want ingress or host"),
            ("mode=host,target=80,mode=host", "mode= is given twice"),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for (text, expected) in [
            ("", "\"\" is no port"),
            ("http", "\"http\" is no port"),
            ("80/sctp", "want tcp or udp"),
            ("mode=host", "\"\" is no port"),
            ("published=80,mode=host", "target= is missing"),
        ] {
            let refused = read(text);
            assert!(refused.contains(expected), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(
            address in any::<Option<IpAddr>>(), published in any::<Option<NonZeroU16>>(),
            target in any::<NonZeroU16>(), udp in any::<bool>(), host in any::<bool>(),
        ) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let mode = if host { PortMode::Host } else { PortMode::Ingress };
            let port = Port { address, published, target, protocol, mode, proxy: None };
            prop_assert_eq!(Port::parse(&port.to_string(), mode), Ok(vec![port]));
        }
    }
}
