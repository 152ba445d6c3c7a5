//! What a gateway answers from.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use hickory_proto::rr::Name;

use crate::names::Zone;
use crate::switch::wire::MacAddr;

/// What a gateway knows of its network and of those that ask it, as it is at one moment. A change makes another
/// one.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Names, and whether the network leads out.
    pub zone: Zone,
    /// Who gets an address by DHCP: those of this node, which are no more than its switch has ports.
    pub leases: HashMap<MacAddr, Lease>,
    /// Bytes of the largest packet that the network carries; 0: nobody is told.
    pub mtu: u16,
}

/// What is told whoever has a MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its address, in one of the gateway's subnets.
    pub address: Ipv4Addr,
    /// Its name.
    pub name: String,
    /// Bytes of its largest packet; 0: it is not told.
    pub mtu: u16,
}

impl Tables {
    /// The domain that its network is, if DNS can carry the name.
    pub(super) fn domain(&self) -> Option<Name> {
        let labels = self.zone.network().split('.').map(str::as_bytes);
        Name::from_labels(labels).ok().filter(|name| !name.is_root())
    }
}

impl From<Zone> for Tables {
    fn from(zone: Zone) -> Self {
        Self { zone, ..Self::default() }
    }
}
