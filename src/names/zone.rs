//! The names of one network, with what they stand for.

use std::collections::HashMap;
use std::net::IpAddr;

/// Names of a zone, aliases counted: those of a full switch, four each.
pub const NAMES_MAX: usize = 262_144;
/// Addresses behind one name: what a reply over TCP holds (64 KiB) with room to spare, at 28 bytes for each IPv6 record.
pub const ADDRESSES_MAX: usize = 2_048;

/// What stands before a service's name where its tasks are meant, as in Docker.
const TASKS: &str = "tasks";

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

/// What many hosts stand for together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name, which its virtual addresses lead back to.
    pub name: String,
    /// Other names, which it may share with other services.
    pub aliases: Vec<String>,
    /// Its virtual addresses; if it has none, its names stand for its tasks.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its tasks that take connections.
    pub tasks: Vec<IpAddr>,
}

/// [`NAMES_MAX`] names, or [`ADDRESSES_MAX`] addresses of one name, are there; the host or service is in no part of the zone.
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
    of_service: bool,
}

impl Entry {
    /// With these, as far as there is room.
    fn extend(&mut self, addresses: &[IpAddr]) {
        for &address in addresses {
            if self.addresses.len() < ADDRESSES_MAX && !self.addresses.contains(&address) {
                self.addresses.push(address);
            }
        }
    }
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

    /// Adds a service, which comes before all hosts. Names that other services have, too, stand for the addresses of all.
    ///
    /// Of more than [`ADDRESSES_MAX`] addresses a name has the first: whoever says that he is one more of a service's tasks
    /// does not take its names away.
    ///
    /// # Errors
    /// There is no room for its names; it has none of them then.
    pub fn add_service(&mut self, service: &Service) -> Result<(), ZoneFull> {
        let Service { name, aliases, addresses, tasks } = service;
        let behind = if addresses.is_empty() { tasks } else { addresses };
        let names: Vec<String> =
            [name].into_iter().chain(aliases).map(|name| name.to_ascii_lowercase()).collect();
        let of_tasks: Vec<String> = names.iter().map(|name| format!("{TASKS}.{name}")).collect();
        let all: Vec<String> = names.iter().chain(&of_tasks).cloned().collect();
        self.check_room(name, &all, 0)?;
        for (names, addresses) in [(names, behind), (of_tasks, tasks)] {
            for name in names {
                let entry = self.names.entry(name).or_default();
                entry.of_service = true;
                entry.extend(addresses);
            }
        }
        self.back.extend(addresses.iter().map(|&address| (address, name.clone())));
        Ok(())
    }

    /// Adds a host. Names that others have, too, then stand for the addresses of all; but those of services stay theirs.
    ///
    /// # Errors
    /// See [`ZoneFull`].
    pub fn add(&mut self, host: &Host) -> Result<(), ZoneFull> {
        let is_free = |name: &&String| {
            !self.names.get(&name.to_ascii_lowercase()).is_some_and(|entry| entry.of_service)
        };
        let own: Vec<&String> = [&host.name].into_iter().chain(&host.aliases).filter(is_free).collect();
        let Some(&first) = own.first() else { return Ok(()) };
        let names: Vec<String> = own.iter().map(|name| name.to_ascii_lowercase()).collect();
        self.check_room(&host.name, &names, host.addresses.len())?;
        for name in names {
            let entry = self.names.entry(name).or_default();
            entry.extend(&host.addresses);
            entry.ports.extend(host.ports.iter().map(|port| (port.clone(), first.clone())));
        }
        self.back.extend(host.addresses.iter().map(|&address| (address, first.clone())));
        Ok(())
    }

    /// Whether so many more addresses have room behind each of these names, and these names have.
    fn check_room(&self, of: &str, names: &[String], addresses: usize) -> Result<(), ZoneFull> {
        let new = names.iter().filter(|name| !self.names.contains_key(*name)).count();
        let held = names.iter().filter_map(|name| self.names.get(name)).map(|entry| entry.addresses.len());
        let most = held.max().unwrap_or_default() + addresses;
        let fits = self.names.len() + new <= NAMES_MAX && most <= ADDRESSES_MAX;
        if fits { Ok(()) } else { Err(ZoneFull(of.to_owned())) }
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
    fn a_service_keeps_its_names_however_many_tasks_it_is_said_to_have() {
        let mut zone = Zone::new("front", false);
        let task = |number: usize| IpAddr::from(u128::try_from(number).unwrap().to_be_bytes());
        let (virtual_one, tasks) = (IpAddr::from([10, 0, 9, 100]), (0..=ADDRESSES_MAX).map(task).collect());
        let service =
            Service { name: "web".into(), aliases: Vec::new(), addresses: vec![virtual_one], tasks };
        zone.add_service(&service).unwrap();
        zone.add_service(&Service { name: "rr".into(), addresses: Vec::new(), ..service }).unwrap();
        let found = |name: &str| zone.find(name).unwrap().addresses.len();
        assert_eq!(["web", "tasks.web", "rr"].map(found), [1, ADDRESSES_MAX, ADDRESSES_MAX]);
    }

    #[test]
    fn names_of_services_are_no_hosts() {
        let mut zone = Zone::new("front", false);
        let address = |last: u8| IpAddr::from([10, 0, 9, last]);
        let service = |name: &str, addresses: &[u8], tasks: &[u8]| Service {
            name: name.into(),
            aliases: vec!["www".into()],
            addresses: addresses.iter().copied().map(address).collect(),
            tasks: tasks.iter().copied().map(address).collect(),
        };
        zone.add_service(&service("Web", &[100], &[2, 3])).unwrap();
        zone.add_service(&service("rr", &[], &[4])).unwrap();
        zone.add_service(&service("none", &[], &[])).unwrap();
        zone.add(&host("web", &["0123", "tasks.web"], 9)).unwrap();
        zone.add(&host("web.1.x", &["www"], 2)).unwrap();
        zone.add(&host("rr", &[], 8)).unwrap();
        let found = |name: &str| zone.find(name).map(|entry| entry.addresses.clone());
        let all = |lasts: &[u8]| Some(lasts.iter().copied().map(address).collect::<Vec<_>>());
        for (name, lasts) in [
            ("web", &[100][..]),
            ("web.front", &[100]),
            ("tasks.web", &[2, 3]),
            ("tasks.web.front", &[2, 3]),
            ("rr", &[4]),
            ("tasks.rr", &[4]),
            ("www", &[100, 4]),
            ("tasks.www", &[2, 3, 4]),
            ("none", &[]),
            ("0123", &[9]),
            ("web.1.x", &[2]),
        ] {
            assert_eq!(found(name), all(lasts), "{name}");
        }
        let back = [100, 2, 9].map(|last| zone.back(address(last)));
        assert_eq!(back, ["Web", "web.1.x", "0123"].map(Some));
        assert_eq!(zone.back(address(8)), None, "it has no name of its own");
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
