//! Addresses, routes, neighbours and forwarding entries of links.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use rustix::io::Errno;
use vswitchd_switch::wire::MacAddr;

use super::{Netlink, NetlinkError};

impl Netlink {
    /// The addresses of links that are up, each with its link's name, in the kernel's order.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn addresses(&mut self) -> Result<Vec<(String, IpAddr)>, NetlinkError> {
        let links = self.links()?;
        let mut addresses = Vec::new();
        let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(
            || "list the addresses".into(),
            all,
            |answer| {
                let RouteNetlinkMessage::NewAddress(message) = answer else { return };
                let link = links.iter().find(|link| link.index == message.header.index && link.up);
                // On a point-to-point link the other attribute for an address is the far end's.
                let local = message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                });
                let address = local.or_else(|| {
                    message.attributes.iter().find_map(|attribute| match attribute {
                        AddressAttribute::Address(address) => Some(*address),
                        _ => None,
                    })
                });
                addresses.extend(link.zip(address).map(|(link, address)| (link.name.clone(), address)));
            },
        )?;
        Ok(addresses)
    }

    /// Gives a link an address; an IPv6 one is usable at once, without duplicate address detection (RFC 4862
    /// §5.4).
    ///
    /// # Errors
    /// If there is no such link, it has the address, or the kernel refuses.
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> Result<(), NetlinkError> {
        let index = self.link(name)?.index;
        let message = match address {
            IpAddr::V4(v4) => {
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4, prefix_len).build()
            }
            IpAddr::V6(v6) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
                let mut message = builder.address(v6, prefix_len).build();
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
                message
            }
        };
        let request = || format!("give {name} the address {address}/{prefix_len}");
        self.change(request, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Routes a prefix through a gateway on a link.
    ///
    /// # Errors
    /// If there is no such link, the families differ, the gateway can't be reached, or the kernel refuses.
    pub fn add_route(
        &mut self,
        prefix: (IpAddr, u8),
        gateway: Option<IpAddr>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let index = self.link(name)?.index;
        let request = || format!("route {}/{} through {name}", prefix.0, prefix.1);
        let malformed = |error: &dyn std::fmt::Debug| NetlinkError::Malformed {
            request: request(),
            cause: format!("{error:?}"),
        };
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .output_interface(index)
            .destination_prefix(prefix.0, prefix.1)
            .map_err(|error| malformed(&error))?;
        if let Some(gateway) = gateway {
            builder = builder.gateway(gateway).map_err(|error| malformed(&error))?;
        }
        self.change(request, RouteNetlinkMessage::NewRoute(builder.build()), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets the permanent MAC address of a neighbour on a link.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub fn add_neighbour(&mut self, name: &str, address: IpAddr, mac: MacAddr) -> Result<(), NetlinkError> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let message = self.entry(name, family, address, mac)?;
        let request = || format!("set the neighbour {address} of {name} to {mac}");
        self.change(request, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Adds a remote to a vxlan device's forwarding entry for `mac`; 00:00:00:00:00:00 stands for everything that
    /// has no entry: each remote added to it gets a copy.
    ///
    /// # Errors
    /// If there is no such link, it has this remote already, or the kernel refuses.
    pub fn append_fdb(&mut self, name: &str, mac: MacAddr, remote: IpAddr) -> Result<(), NetlinkError> {
        let mut message = self.entry(name, AddressFamily::Bridge, remote, mac)?;
        message.header.flags = NeighbourFlags::Own;
        let request = || format!("append {remote} to the entry {mac} of {name}");
        self.change(request, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_APPEND)
    }

    /// Forgets every neighbour that was learnt on a link, IPv4 and IPv6.
    ///
    /// # Errors
    /// If there is no such link, or the kernel refuses.
    pub fn flush_neighbours(&mut self, name: &str) -> Result<(), NetlinkError> {
        let index = self.link(name)?.index;
        let mut learnt = Vec::new();
        let all = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(
            || "list the neighbours".into(),
            all,
            |answer| {
                if let RouteNetlinkMessage::NewNeighbour(entry) = answer
                    && entry.header.ifindex == index
                    && !matches!(entry.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
                {
                    learnt.push(entry);
                }
            },
        )?;
        for mut entry in learnt {
            entry.attributes.retain(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)));
            let request = || format!("forget the neighbours of {name}");
            match self.change(request, RouteNetlinkMessage::DelNeighbour(entry), 0) {
                Ok(()) => {}
                // The kernel was faster.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        family: AddressFamily,
        destination: IpAddr,
        mac: MacAddr,
    ) -> Result<NeighbourMessage, NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = self.link(name)?.index;
        message.header.state = NeighbourState::Permanent;
        let destination = match destination {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        Ok(message)
    }
}
