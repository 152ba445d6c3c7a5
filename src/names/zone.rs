//! The names of one network, with what they stand for.

use std::collections::HashMap;
use std::net::IpAddr;

/// Names of a zone, aliases counted: those of a full switch, four each.
pub const NAMES_MAX: usize = 262_144;
/// Addresses behind one name: what a reply over TCP holds (64 KiB) with room to spare, at 28 bytes for each IPv6 record.
pub const ADDRESSES_MAX: usize = 2_048;

/// What carries a port's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `_tcp`
    Tcp,
    /// `_udp`
    Udp,
}

/// A port that SRV records tell of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Its service, such as `http`, without an underscore. The port's number is a name of it, too.
    pub service: String,
    /// What carries it.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// Something that has addresses in the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Its name, which its addresses lead back to.
    pub name: String,
    /// Other names, which it may share.
    pub aliases: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports, if it tells of any.
    pub ports: Vec<NamedPort>,
}

/// [`NAMES_MAX`] names, or [`ADDRESSES_MAX`] addresses of one name, are there; the host is in no part of the zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for the names of {0}: a network has at most {NAMES_MAX}, a name {ADDRESSES_MAX} addresses")]
pub struct ZoneFull(pub String);

/// The names of a network, as they are at one moment. A change of the tables makes another one.
#[derive(Clone, Debug, Default)]
pub struct Zone {
    network: String,
    internal: bool,
    names: HashMap<String, Entry>,
    back: HashMap<IpAddr, String>,
}

/// What a name stands for.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<(NamedPort, String)>,
}

impl Zone {
    /// A network without names. Nothing is forwarded for one that is `internal`.
    #[must_use]
    pub fn new(network: &str, internal: bool) -> Self {
        Self { network: network.to_ascii_lowercase(), internal, ..Self::default() }
    }

    /// Whether unknown names are unknown, instead of asked for elsewhere.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.internal
    }

    /// The network's name, in lower case.
    #[must_use]
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Adds a host. Names that others have, too, then stand for the addresses of all.
    ///
    /// # Errors
    /// See [`ZoneFull`].
    pub fn add(&mut self, host: &Host) -> Result<(), ZoneFull> {
        let names: Vec<String> =
            std::iter::once(&host.name).chain(&host.aliases).map(|name| name.to_ascii_lowercase()).collect();
        let new = names.iter().filter(|name| !self.names.contains_key(*name)).count();
        let held = names.iter().filter_map(|name| self.names.get(name)).map(|entry| entry.addresses.len());
        let most = held.max().unwrap_or_default() + host.addresses.len();
        if self.names.len() + new > NAMES_MAX || most > ADDRESSES_MAX {
            return Err(ZoneFull(host.name.clone()));
        }
        for name in names {
            let entry = self.names.entry(name).or_default();
            for &address in &host.addresses {
                if !entry.addresses.contains(&address) {
                    entry.addresses.push(address);
                }
            }
            entry.ports.extend(host.ports.iter().map(|port| (port.clone(), host.name.clone())));
        }
        self.back.extend(host.addresses.iter().map(|&address| (address, host.name.clone())));
        Ok(())
    }

    /// What a name stands for: lower case, no dot at the end, with or without the network's.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        let suffixed = || name.strip_suffix(self.network.as_str())?.strip_suffix('.');
        self.names.get(name).or_else(|| self.names.get(suffixed()?))
    }

    /// The name that an address leads back to.
    pub(super) fn back(&self, address: IpAddr) -> Option<&str> {
        self.back.get(&address).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, aliases: &[&str], last: u8) -> Host {
        let aliases = aliases.iter().map(|&alias| alias.into()).collect();
        Host { name: name.into(), aliases, addresses: vec![[10, 0, 9, last].into()], ports: Vec::new() }
    }

    #[test]
    fn names_are_found_with_and_without_the_network() {
        let mut zone = Zone::new("Front", false);
        zone.add(&host("Web", &["www"], 2)).unwrap();
        zone.add(&host("web.old", &["www"], 3)).unwrap();
        let found = |name| zone.find(name).map(|entry| entry.addresses.len());
        assert_eq!(["web", "web.front", "www", "www.front"].map(found), [1, 1, 2, 2].map(Some));
        assert_eq!(["web.old", "web.old.front"].map(found), [Some(1); 2]);
        assert_eq!(["", "front", ".front", "webfront", "web.back", "web.front.front"].map(found), [None; 6]);
        assert_eq!(zone.back([10, 0, 9, 2].into()), Some("Web"));
    }

    #[test]
    fn a_host_that_does_not_fit_is_not_half_there() {
        let mut zone = Zone::new("front", false);
        zone.add(&host("web", &[], 2)).unwrap();
        let addresses = (0..ADDRESSES_MAX).map(|n| IpAddr::V6((n as u128 + 1).into())).collect();
        let wide = Host { name: "wide".into(), aliases: vec!["web".into()], addresses, ports: Vec::new() };
        assert_eq!(zone.add(&wide), Err(ZoneFull("wide".into())));
        assert!(zone.find("wide").is_none());
        assert_eq!(zone.find("web").unwrap().addresses.len(), 1);
    }
}
