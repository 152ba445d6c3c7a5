//! What a gateway is told of a published port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::addresses::Addresses;
use super::door::Door;
use super::frame::{Back, Ends};
use super::nat::{Inlet, Way};
use crate::switch::wire::MacAddr;

/// A door of this host, and the endpoint that it leads to.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The door.
    pub door: Arc<Door>,
    /// The endpoint's MAC address.
    pub mac: MacAddr,
    /// Its addresses; a client gets to one of its own IP version, if there is one.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Addresses of this gateway that are its way out. In other IP versions than theirs it sees no client's address, since
    /// its answers would go another way.
    pub ways_out: Vec<IpAddr>,
}

impl PartialEq for Publication {
    fn eq(&self, other: &Self) -> bool {
        let Self { door, mac, addresses, port, ways_out } = self;
        Arc::ptr_eq(door, &other.door)
            && (mac, addresses, port, ways_out)
                == (&other.mac, &other.addresses, &other.port, &other.ways_out)
    }
}

impl Eq for Publication {}

impl Publication {
    /// The same as a gateway at those addresses has it.
    pub(super) fn inlet(&self, at: &Addresses) -> Inlet {
        let ways = ways(at, (self.mac, &self.addresses, self.port), &self.ways_out);
        Inlet { door: Arc::clone(&self.door), ways }
    }
}

/// How a gateway at those addresses reaches an endpoint's port.
pub(super) fn ways(
    at: &Addresses,
    (mac, addresses, port): (MacAddr, &[IpAddr], u16),
    ways_out: &[IpAddr],
) -> Vec<Way> {
    let way = |&to: &IpAddr| {
        let ends = Ends::of(at.towards(to)?, to)?;
        let back = Back { own_mac: at.mac(), mac, ends };
        let leads_out = ways_out.iter().any(|gateway| gateway.is_ipv4() == to.is_ipv4());
        Some(Way { back, to: SocketAddr::new(to, port), leads_out })
    };
    addresses.iter().filter_map(way).collect()
}
