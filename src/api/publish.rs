//! Published ports: at which port of this host a port of an endpoint is reached; and how people write them.
//!
//! ```text
//! 80                  a free port of this host, to port 80
//! 8080:80             all addresses of this host, IPv4 and IPv6
//! 127.0.0.1:8080:80   this address alone; [::1]:8080:80 with IPv6; 127.0.0.1::80 with a free port
//! 8000-8002:80-82     8000 to 80, 8001 to 81, 8002 to 82
//! 5353:53/udp         with its protocol: tcp if not given
//! published=8080,target=80,protocol=tcp,mode=host,host_ip=127.0.0.1   the same in words; only target is needed
//! ```
//!
//! As Docker's `--publish`, which has the first form for containers and the last for services.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Published ports of an endpoint: each has two sockets of this host at most.
pub const PUBLISHED_MAX: usize = 256;

/// What a port is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port that is to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// The address of this host that it is reached at; all, of both IP versions, if not given.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Its port there; 0, or not given: a free one.
    #[serde(default)]
    pub published: u16,
    /// The endpoint's port.
    pub target: u16,
    /// What both are of; TCP if not given.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A port that an endpoint has published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedView {
    /// The endpoint's port.
    pub target: u16,
    /// What it is of.
    pub protocol: Protocol,
    /// The port of this host.
    pub published: u16,
    /// Where this host listens for it: nowhere if it has an error.
    pub at: Vec<SocketAddr>,
    /// Why this host does not listen, if it does not: after a restart of the daemon somebody else may have the port. It is
    /// tried again each second.
    pub error: Option<String>,
}

/// A text that says no published port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Not a number that a port has.
    #[error("{0:?} is no port: want 1 to 65535, or two of them as in 8000-8002; as a whole, as in 8080:80")]
    Port(String),
    /// A range that ends before it begins.
    #[error("{0}-{1} ends before it begins")]
    Backwards(u16, u16),
    /// Ranges of two lengths.
    #[error("{published} ports of this host can't lead to {targets}: want as many, as in 8000-8002:80-82")]
    Lengths {
        /// This host's.
        published: usize,
        /// The endpoint's.
        targets: usize,
    },
    /// More than [`PUBLISHED_MAX`].
    #[error("an endpoint has at most {PUBLISHED_MAX} published ports")]
    Many,
    /// Neither TCP nor UDP.
    #[error("{0:?} is no protocol that is carried: want tcp or udp, as in 8080:80/tcp")]
    Protocol(String),
    /// Not an address.
    #[error("{0:?} is no IP address: want one as in 127.0.0.1:8080:80 or [::1]:8080:80")]
    Address(String),
    /// More parts than there can be.
    #[error("too many colons: want [[IP:]PORT:]PORT, with an IPv6 address in brackets, as in [::1]:8080:80")]
    Parts,
    /// A key that there is not.
    #[error(
        "{0:?}: want published=, target=, protocol=, host_ip= or mode=host; of a service also mode=ingress or proxy=v2"
    )]
    Key(String),
    /// A key that was there before.
    #[error("{0}= is given twice")]
    Twice(String),
    /// No port of the endpoint's.
    #[error("target= is missing: want as in published=8080,target=80")]
    Target,
    /// Another mode.
    #[error("mode={0}: a single program or machine has its ports published on this node alone, by mode=host")]
    Mode(String),
}

/// One `--publish`: the ports that it means, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish(pub Vec<PublishedPort>);

impl PublishedPort {
    /// Whether both can't be there at once: one port, at addresses of which one is among the other's.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        let meet = match (self.address, other.address) {
            (None, _) | (_, None) => true,
            (Some(one), Some(other)) => {
                let all = one.is_unspecified() || other.is_unspecified();
                one == other || all && one.is_ipv4() == other.is_ipv4()
            }
        };
        let same = (self.protocol, self.published) == (other.protocol, other.published);
        self.published > 0 && same && meet
    }
}

/// That of the host, as people write it: `8080/tcp`, `127.0.0.1:8080/tcp`.
impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}/{}", SocketAddr::new(address, self.published), self.protocol),
            None => write!(f, "{}/{}", self.published, self.protocol),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As Docker shows it: `0.0.0.0:8080->80/tcp, [::]:8080->80/tcp`.
impl fmt::Display for PublishedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, protocol, .. } = self;
        if self.at.is_empty() {
            return write!(f, "{}->{target}/{protocol} (not listening)", self.published);
        }
        for (index, at) in self.at.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{at}->{target}/{protocol}")?;
        }
        Ok(())
    }
}

impl FromStr for Protocol {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            other => Err(PublishError::Protocol(other.into())),
        }
    }
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        let written = if text.contains('=') { Written::words(text)? } else { Written::short(text)? };
        written.publish()
    }
}

/// What was written, in parts.
struct Written<'t> {
    address: Option<&'t str>,
    published: Option<&'t str>,
    target: &'t str,
    protocol: Option<&'t str>,
}

impl<'t> Written<'t> {
    fn short(text: &'t str) -> Result<Self, PublishError> {
        let (ends, protocol) = match text.rsplit_once('/') {
            Some((ends, protocol)) => (ends, Some(protocol)),
            None => (text, None),
        };
        if let Some(bracketed) = ends.strip_prefix('[') {
            let (address, ports) =
                bracketed.split_once("]:").ok_or_else(|| PublishError::Address(ends.into()))?;
            let (published, target) =
                ports.split_once(':').ok_or_else(|| PublishError::Port(ports.into()))?;
            return Ok(Self { address: Some(address), published: Some(published), target, protocol });
        }
        let parts: Vec<&str> = ends.split(':').collect();
        match parts[..] {
            [target] => Ok(Self { address: None, published: None, target, protocol }),
            [published, target] => Ok(Self { address: None, published: Some(published), target, protocol }),
            [address, published, target] => {
                Ok(Self { address: Some(address), published: Some(published), target, protocol })
            }
            _ => Err(PublishError::Parts),
        }
    }

    fn words(text: &'t str) -> Result<Self, PublishError> {
        let (mut address, mut published, mut target, mut protocol, mut mode) = Default::default();
        for word in text.split(',') {
            let (key, value) = word.split_once('=').ok_or_else(|| PublishError::Key(word.into()))?;
            let part: &mut Option<&str> = match key {
                "host_ip" => &mut address,
                "published" => &mut published,
                "target" => &mut target,
                "protocol" => &mut protocol,
                "mode" => &mut mode,
                _ => return Err(PublishError::Key(word.into())),
            };
            if part.replace(value).is_some() {
                return Err(PublishError::Twice(key.into()));
            }
        }
        match (target, mode) {
            (_, Some(mode)) if mode != "host" => Err(PublishError::Mode(mode.into())),
            (None, _) => Err(PublishError::Target),
            (Some(target), _) => Ok(Self { address, published, target, protocol }),
        }
    }

    fn publish(&self) -> Result<Publish, PublishError> {
        let protocol = self.protocol.map_or_else(|| Ok(Protocol::default()), str::parse)?;
        let address = |text: &str| text.parse().map_err(|_| PublishError::Address(text.into()));
        let address: Option<IpAddr> = self.address.map(address).transpose()?;
        let targets = ports(self.target)?;
        let count = targets.len();
        // An address with nothing behind it has a free port there.
        let published = match self.published {
            None | Some("") => vec![0; count],
            Some(text) => ports(text)?.collect(),
        };
        if published.len() != count {
            return Err(PublishError::Lengths { published: published.len(), targets: count });
        }
        if count > PUBLISHED_MAX {
            return Err(PublishError::Many);
        }
        let port = |(published, target)| PublishedPort { address, published, target, protocol };
        Ok(Publish(published.into_iter().zip(targets).map(port).collect()))
    }
}

/// One port, or several in a row.
fn ports(text: &str) -> Result<RangeInclusive<u16>, PublishError> {
    let wrong = || PublishError::Port(text.into());
    // Digits only: a number may have a sign.
    let port = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|&port| port > 0 && digits).ok_or_else(wrong)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if last < first { Err(PublishError::Backwards(first, last)) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: Option<&str>, published: u16, target: u16, protocol: Protocol) -> PublishedPort {
        PublishedPort {
            address: address.map(|address| address.parse().unwrap()),
            published,
            target,
            protocol,
        }
    }

    #[test]
    fn every_way_to_write_it_is_understood() {
        use Protocol::{Tcp, Udp};
        for (text, wanted) in [
            ("80", vec![port(None, 0, 80, Tcp)]),
            ("8080:80", vec![port(None, 8080, 80, Tcp)]),
            ("5353:53/udp", vec![port(None, 5353, 53, Udp)]),
            ("127.0.0.1:8080:80/tcp", vec![port(Some("127.0.0.1"), 8080, 80, Tcp)]),
            ("127.0.0.1::80", vec![port(Some("127.0.0.1"), 0, 80, Tcp)]),
            ("[::1]:8080:80", vec![port(Some("::1"), 8080, 80, Tcp)]),
            ("[fd00::1]::53/udp", vec![port(Some("fd00::1"), 0, 53, Udp)]),
            ("8000-8001:80-81", vec![port(None, 8000, 80, Tcp), port(None, 8001, 81, Tcp)]),
            ("80-81/udp", vec![port(None, 0, 80, Udp), port(None, 0, 81, Udp)]),
            ("published=8080,target=80,protocol=tcp,mode=host", vec![port(None, 8080, 80, Tcp)]),
            ("target=53,protocol=udp", vec![port(None, 0, 53, Udp)]),
            ("host_ip=::1,target=80,published=81", vec![port(Some("::1"), 81, 80, Tcp)]),
            ("1:65535", vec![port(None, 1, 65_535, Tcp)]),
        ] {
            assert_eq!(text.parse::<Publish>().map(|publish| publish.0), Ok(wanted), "{text}");
        }
        let most: Publish = "1000-1255:2000-2255".parse().unwrap();
        assert_eq!((most.0.len(), most.0[255].published, most.0[255].target), (PUBLISHED_MAX, 1_255, 2_255));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "\"\" is no port"),
            ("http:80", "\"http\" is no port"),
            ("8080:", "\"\" is no port"),
            ("0:80", "\"0\" is no port"),
            ("8080:65536", "\"65536\" is no port"),
            ("+80", "\"+80\" is no port"),
            ("-80", "\"-80\" is no port"),
            ("8080:80/sctp", "tcp or udp"),
            ("8080:80/", "tcp or udp"),
            ("8000-8002:80", "3 ports of this host can't lead to 1"),
            ("8002-8000:80-82", "8002-8000 ends before it begins"),
            ("1-65535:1-65535", "at most 256"),
            ("localhost:8080:80", "\"localhost\" is no IP address"),
            ("127.0.0.1:80", "\"127.0.0.1\" is no port"),
            ("::1:8080:80", "in brackets"),
            ("[::1]", "no IP address"),
            ("[::1]:80", "\"80\" is no port"),
            ("[127.0.0]:1:2", "\"127.0.0\" is no IP address"),
            ("published=8080", "target= is missing"),
            ("target=80,target=81", "target= is given twice"),
            ("target=80,mode=ingress", "by mode=host"),
            ("target=80,colour=red", "\"colour=red\": want published="),
            ("target=80,", "\"\": want published="),
        ] {
            let error = text.parse::<Publish>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ports_clash_where_their_addresses_meet() {
        use Protocol::{Tcp, Udp};
        let one = port(None, 80, 80, Tcp);
        assert!(one.clashes(&one) && one.clashes(&port(Some("::1"), 80, 81, Tcp)));
        assert!(!one.clashes(&port(None, 80, 80, Udp)) && !one.clashes(&port(None, 81, 80, Tcp)));
        let free = port(None, 0, 80, Tcp);
        assert!(!free.clashes(&free), "each gets another one");
        let at = |address| port(Some(address), 80, 80, Tcp);
        for (one, other, clash) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0", "127.0.0.2", true),
            ("::1", "::", true),
            ("0.0.0.0", "::", false),
            ("::", "127.0.0.1", false),
        ] {
            assert_eq!(
                [at(one).clashes(&at(other)), at(other).clashes(&at(one))],
                [clash; 2],
                "{one} {other}"
            );
        }
    }

    #[test]
    fn it_is_shown_as_docker_does() {
        let (at, error) = (vec!["0.0.0.0:8080".parse().unwrap(), "[::]:8080".parse().unwrap()], None);
        let shown = PublishedView { target: 80, protocol: Protocol::Tcp, published: 8080, at, error };
        assert_eq!(shown.to_string(), "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
        let not = PublishedView { at: Vec::new(), error: Some("taken".into()), ..shown };
        assert_eq!(not.to_string(), "8080->80/tcp (not listening)");
        let json = r#"{"target":53,"protocol":"udp"}"#;
        assert_eq!(serde_json::from_str::<PublishedPort>(json).unwrap(), port(None, 0, 53, Protocol::Udp));
    }
}
