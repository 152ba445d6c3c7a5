//! Gateways of networks whose names are given by hand.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use tokio::runtime::Handle;

use super::config::{NetworkSpec, vni};
use super::{ConfigError, RunError};
use crate::gateway::{Addresses, Gateway, Resolvers, port_spec};
use crate::names::{Host, Zone, ZoneFull};
use crate::switch::fdb::Place;
use crate::switch::io::FrameIo;
use crate::switch::switch::Switch;
use crate::switch::tables::PortId;
use crate::switch::wire::Vni;

/// A network's gateway: `VNI:ADDRESS[,ADDRESS]`, and what it knows.
#[derive(Clone, Debug)]
pub struct GatewaySpec {
    vni: Vni,
    at: Addresses,
    zone: Zone,
}

/// A name in a network: `VNI:NAME=ADDRESS[,ADDRESS]…`.
#[derive(Clone, Debug)]
pub struct HostSpec {
    vni: Vni,
    host: Host,
}

/// A contradiction in what was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Not a gateway.
    #[error("\"{0}\" is no gateway: want VNI:ADDRESS[,ADDRESS...]")]
    Gateway(String),
    /// Not a host.
    #[error("\"{0}\" is no host: want VNI:NAME=ADDRESS[,ADDRESS...]")]
    Host(String),
    /// A gateway in a network that we don't serve.
    #[error("--gateway {0} is of a network that has no --vni")]
    Vni(Vni),
    /// Two gateways in one network.
    #[error("--gateway is given twice for network {0}")]
    Twice(Vni),
    /// A name that nobody resolves.
    #[error("--host {0} is in network {1}, which has no --gateway to resolve it")]
    NoGateway(String, Vni),
    /// Too many names.
    #[error(transparent)]
    Full(#[from] ZoneFull),
}

impl FromStr for GatewaySpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || GatewayError::Gateway(text.into());
        let (id, listed) = text.split_once(':').ok_or_else(wrong)?;
        let vni = vni(id)?;
        let addresses = parse_addresses(listed).ok_or_else(wrong)?;
        let at = Addresses::new(&addresses).ok_or_else(wrong)?;
        Ok(Self { vni, at, zone: Zone::new(&vni.to_string(), false) })
    }
}

impl FromStr for HostSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || GatewayError::Host(text.into());
        let (id, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (name, listed) = rest.split_once('=').ok_or_else(wrong)?;
        let addresses = parse_addresses(listed).ok_or_else(wrong)?;
        if !is_name(name) {
            return Err(wrong().into());
        }
        Ok(Self { vni: vni(id)?, host: Host { name: name.into(), addresses, ..Host::default() } })
    }
}

fn parse_addresses(listed: &str) -> Option<Vec<IpAddr>> {
    listed.split(',').map(|address| address.parse().ok()).collect()
}

/// Labels of a name that DNS can carry (RFC 1035 §2.3.4), with the characters of host names and `_`.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(fits);
    name.len() < 240 && name.split('.').all(is_label)
}

/// Brings gateways and the names that they resolve together.
///
/// # Errors
/// The first that contradicts.
pub fn check_gateways(
    mut gateways: Vec<GatewaySpec>,
    hosts: Vec<HostSpec>,
    networks: &[NetworkSpec],
) -> Result<Vec<GatewaySpec>, GatewayError> {
    let mut given = HashSet::new();
    for gateway in &gateways {
        if networks.iter().all(|network| network.vni != gateway.vni) {
            return Err(GatewayError::Vni(gateway.vni));
        }
        if !given.insert(gateway.vni) {
            return Err(GatewayError::Twice(gateway.vni));
        }
    }
    for HostSpec { vni, host } in hosts {
        let gateway = gateways.iter_mut().find(|gateway| gateway.vni == vni);
        let gateway = gateway.ok_or_else(|| GatewayError::NoGateway(host.name.clone(), vni))?;
        gateway.zone.add(&host)?;
    }
    Ok(gateways)
}

impl GatewaySpec {
    pub(super) fn vni(&self) -> Vni {
        self.vni
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.at.all().iter().map(|own| own.address).collect()
    }

    /// Makes its port and starts it.
    pub(super) fn open(&self, switch: &Switch, mtu: u32) -> Result<(PortId, Box<dyn FrameIo>), RunError> {
        let resolvers = Resolvers::host(Handle::current());
        // It ends with its port.
        let (_, device) = Gateway::open(self.at.clone(), self.zone.clone(), resolvers)?;
        let port = switch.add_port(port_spec(self.vni, mtu, &device))?;
        switch.announce(self.vni, self.at.mac(), &self.at.announced(), Place::Port(port))?;
        Ok((port, Box::new(device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(gateways: &[&str], hosts: &[&str]) -> Result<Vec<GatewaySpec>, GatewayError> {
        let gateways = gateways.iter().map(|text| text.parse().unwrap()).collect();
        let hosts = hosts.iter().map(|text| text.parse().unwrap()).collect();
        check_gateways(gateways, hosts, &["1:a".parse().unwrap(), "2:b".parse().unwrap()])
    }

    #[test]
    fn names_go_to_the_gateway_of_their_network() {
        let gateways = checked(
            &["1:10.0.9.1,fd00::1", "2:fd00::1"],
            &["1:web=10.0.9.2,fd00::2", "2:db.old=fd00::3", "1:web=10.0.9.3"],
        );
        let gateways = gateways.unwrap();
        assert_eq!(gateways[0].at.mac().to_string(), "02:42:0a:00:09:01");
        assert_eq!(gateways[1].at.v4(), None);
        assert_eq!(gateways[0].zone.network(), "1");
    }

    #[test]
    fn contradictions_are_named() {
        let vni = |id| Vni::new(id).unwrap();
        assert_eq!(checked(&["3:10.0.9.1"], &[]).unwrap_err(), GatewayError::Vni(vni(3)));
        let twice = checked(&["1:10.0.9.1", "1:fd00::1"], &[]).unwrap_err();
        assert_eq!(twice, GatewayError::Twice(vni(1)));
        let nobody = checked(&["1:10.0.9.1"], &["2:web=10.0.9.2"]).unwrap_err();
        assert_eq!(nobody, GatewayError::NoGateway("web".into(), vni(2)));
    }

    #[test]
    fn texts_that_are_none() {
        for text in ["1", "1:", "1:x", "x:10.0.9.1", "1:0.0.0.0", "1:224.0.0.1", "1:127.0.0.1"] {
            assert!(text.parse::<GatewaySpec>().is_err(), "{text}");
        }
        let long = format!("1:{}=10.0.9.2", "a".repeat(64));
        for text in
            ["1:web", "1:web=", "1:=10.0.9.2", "1:we b=10.0.9.2", "1:a..b=10.0.9.2", "web=10.0.9.2", &long]
        {
            assert!(text.parse::<HostSpec>().is_err(), "{text}");
        }
    }
}
