//! Gateways of networks whose names are given by hand.

use std::collections::HashSet;
use std::net::IpAddr;
use std::str::FromStr;

use tokio::runtime::Handle;

use super::config::{NetworkSpec, vni};
use super::{ConfigError, RunError};
use crate::api::{HostAddress, IpPrefix};
use crate::gateway::{Addresses, Gateway, Lease, Own, Resolvers, Tables, port_spec};
use crate::names::{Host, Zone, ZoneFull};
use crate::switch::fdb::Place;
use crate::switch::io::FrameIo;
use crate::switch::switch::Switch;
use crate::switch::tables::PortId;
use crate::switch::wire::{MacAddr, Vni};

/// A network's gateway: `VNI:ADDRESS[/LENGTH][,ADDRESS[/LENGTH]]…`, and what it knows.
#[derive(Clone, Debug)]
pub struct GatewaySpec {
    vni: Vni,
    at: Addresses,
    tables: Tables,
}

/// A name in a network, and who gets its address by DHCP: `VNI:NAME=ADDRESS[,ADDRESS]…[,MAC]`.
#[derive(Clone, Debug)]
pub struct HostSpec {
    vni: Vni,
    host: Host,
    mac: Option<MacAddr>,
}

/// A contradiction in what was given.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Not a gateway.
    #[error("\"{0}\" is no gateway: want VNI:ADDRESS[/LENGTH][,ADDRESS[/LENGTH]...]")]
    Gateway(String),
    /// Not a host.
    #[error("\"{0}\" is no host: want VNI:NAME=ADDRESS[,ADDRESS...][,MAC]")]
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
    /// Nobody can tell it its address.
    #[error(
        "--host {0} has a MAC address, but no IPv4 address in a subnet of --gateway, which DHCP needs: give the gateway's \
         with its prefix's length, such as 10.0.9.1/24"
    )]
    NoSubnet(String),
    /// Two hosts with one MAC address.
    #[error("--host {0} has the MAC address of another, {1}")]
    MacTwice(String, MacAddr),
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
        let own: Option<Vec<Own>> = listed.split(',').map(parse_own).collect();
        let at = own.and_then(Addresses::of).ok_or_else(wrong)?;
        Ok(Self { vni, at, tables: Zone::new(&vni.to_string(), false).into() })
    }
}

impl FromStr for HostSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || GatewayError::Host(text.into());
        let (id, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (name, listed) = rest.split_once('=').ok_or_else(wrong)?;
        let (listed, mac) = match listed.rsplit_once(',').map(|(before, last)| (before, last.parse())) {
            Some((before, Ok(mac))) => (before, Some(mac)),
            _ => (listed, None),
        };
        let addresses: Option<Vec<IpAddr>> = listed.split(',').map(|address| address.parse().ok()).collect();
        let addresses = addresses.filter(|_| is_name(name)).ok_or_else(wrong)?;
        Ok(Self { vni: vni(id)?, host: Host { name: name.into(), addresses, ..Host::default() }, mac })
    }
}

/// An address, with its prefix's length or without.
fn parse_own(text: &str) -> Option<Own> {
    if !text.contains('/') {
        return Some(Own { address: text.parse().ok()?, subnet: None });
    }
    let host: HostAddress = text.parse().ok()?;
    Some(Own { address: host.address(), subnet: IpPrefix::around(host.address(), host.length()) })
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
    for HostSpec { vni, host, mac } in hosts {
        let gateway = gateways.iter_mut().find(|gateway| gateway.vni == vni);
        let gateway = gateway.ok_or_else(|| GatewayError::NoGateway(host.name.clone(), vni))?;
        gateway.tables.zone.add(&host)?;
        if let Some(mac) = mac {
            gateway.lease(&host, mac)?;
        }
    }
    Ok(gateways)
}

impl GatewaySpec {
    fn lease(&mut self, host: &Host, mac: MacAddr) -> Result<(), GatewayError> {
        let on_link = |address: &IpAddr| self.at.all().iter().any(|own| own.is_beside(*address));
        let address = host.addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) if on_link(address) => Some(*v4),
            _ => None,
        });
        let address = address.ok_or_else(|| GatewayError::NoSubnet(host.name.clone()))?;
        let lease = Lease { address, name: host.name.clone(), mtu: 0 };
        match self.tables.leases.insert(mac, lease) {
            None => Ok(()),
            Some(_) => Err(GatewayError::MacTwice(host.name.clone(), mac)),
        }
    }

    pub(super) fn vni(&self) -> Vni {
        self.vni
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.at.all().iter().map(|own| own.address).collect()
    }

    /// What it knows, with the MTU of the network's ports.
    fn tables(&self, mtu: u32) -> Tables {
        let mut tables = self.tables.clone();
        tables.mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        tables.leases.values_mut().for_each(|lease| lease.mtu = tables.mtu);
        tables
    }

    /// Makes its port and starts it.
    pub(super) fn open(&self, switch: &Switch, mtu: u32) -> Result<(PortId, Box<dyn FrameIo>), RunError> {
        let resolvers = Resolvers::host(Handle::current());
        // It ends with its port.
        let (_, device) = Gateway::open(self.at.clone(), self.tables(mtu), resolvers)?;
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
            &["1:10.0.9.1/24,fd00::1", "2:fd00::1"],
            &["1:web=10.0.9.2,fd00::2", "2:db.old=fd00::3", "1:web=10.0.9.3,02:42:0a:00:09:03"],
        );
        let gateways = gateways.unwrap();
        let lease = Lease { address: [10, 0, 9, 3].into(), name: "web".into(), mtu: 1_450 };
        assert_eq!(gateways[0].tables(1_450).leases.into_values().collect::<Vec<_>>(), [lease]);
        assert_eq!(gateways[0].at.mac().to_string(), "02:42:0a:00:09:01");
        assert_eq!(gateways[1].at.v4(), None);
        assert_eq!(gateways[0].tables.zone.network(), "1");
    }

    #[test]
    fn contradictions_are_named() {
        let vni = |id| Vni::new(id).unwrap();
        assert_eq!(checked(&["3:10.0.9.1"], &[]).unwrap_err(), GatewayError::Vni(vni(3)));
        let twice = checked(&["1:10.0.9.1", "1:fd00::1"], &[]).unwrap_err();
        assert_eq!(twice, GatewayError::Twice(vni(1)));
        let none = checked(&["1:10.0.9.1"], &["1:web=10.0.9.2,02:00:00:00:00:02"]).unwrap_err();
        assert_eq!(none, GatewayError::NoSubnet("web".into()));
        let twice = ["1:a=10.0.9.2,02:00:00:00:00:02", "1:b=10.0.9.3,02:00:00:00:00:02"];
        assert!(matches!(checked(&["1:10.0.9.1/24"], &twice), Err(GatewayError::MacTwice(..))));
        let nobody = checked(&["1:10.0.9.1"], &["2:web=10.0.9.2"]).unwrap_err();
        assert_eq!(nobody, GatewayError::NoGateway("web".into(), vni(2)));
    }

    #[test]
    fn texts_that_are_none() {
        for text in [
            "1",
            "1:",
            "1:x",
            "x:10.0.9.1",
            "1:0.0.0.0",
            "1:224.0.0.1",
            "1:127.0.0.1",
            "1:10.0.9.1/33",
            "1:10.0.9.1/",
        ] {
            assert!(text.parse::<GatewaySpec>().is_err(), "{text}");
        }
        let long = format!("1:{}=10.0.9.2", "a".repeat(64));
        for text in [
            "1:web",
            "1:web=",
            "1:=10.0.9.2",
            "1:we b=10.0.9.2",
            "1:a..b=10.0.9.2",
            "1:a=02:00:00:00:00:02",
            "web=10.0.9.2",
            &long,
        ] {
            assert!(text.parse::<HostSpec>().is_err(), "{text}");
        }
    }
}
