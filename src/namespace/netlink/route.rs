//! Which prefixes a host has routes for.

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::{Netlink, NetlinkError};

/// What stands for the links of a route that has several.
const SEVERAL: &str = "several links";

impl Netlink {
    /// The main table's routes to other hosts: address, length of the prefix, and the link; without default routes, and
    /// without those of one link alone (RFC 3927 §2.7, RFC 4291 §2.5.6).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn routes(&mut self) -> Result<Vec<(IpAddr, u8, String)>, NetlinkError> {
        let links = self.links()?;
        let mut routes = Vec::new();
        let all = RouteNetlinkMessage::GetRoute(RouteMessage::default());
        self.dump(
            || "list the routes".into(),
            all,
            |answer| {
                let RouteNetlinkMessage::NewRoute(message) = answer else { return };
                let Some((address, length)) = prefix(&message) else { return };
                let index = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
                let link = links.iter().find(|link| Some(link.index) == index);
                routes.push((address, length, link.map_or_else(|| SEVERAL.into(), |link| link.name.clone())));
            },
        )?;
        Ok(routes)
    }
}

/// Where a route leads, if it is one of those that are meant.
fn prefix(message: &RouteMessage) -> Option<(IpAddr, u8)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let on_link = match destination {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!on_link && header.destination_prefix_length > 0)
        .then_some((destination, header.destination_prefix_length))
}
