//! Links: making, changing, listing and deleting them.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
use vswitchd_switch::wire::MacAddr;

use super::{Link, Netlink, NetlinkError, Statistics, VethEnd, VxlanDevice};
use crate::namespace::netns::NetNs;

impl Netlink {
    /// Every link of this namespace, in order of their indices.
    ///
    /// # Errors
    /// If the kernel's answer can't be had.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(
            || "list the links".into(),
            all,
            |answer| {
                if let RouteNetlinkMessage::NewLink(message) = answer {
                    links.push(link(message));
                }
            },
        )?;
        links.sort_by_key(|link| link.index);
        Ok(links)
    }

    /// The link of that name.
    ///
    /// # Errors
    /// [`NetlinkError::NoLink`] if there is none.
    pub fn link(&mut self, name: &str) -> Result<Link, NetlinkError> {
        let found = self.links()?.into_iter().find(|link| link.name == name);
        found.ok_or_else(|| NetlinkError::NoLink(name.into()))
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// If there is none of that name, or the kernel refuses.
    pub fn set_up(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.set(name, "set", "up", LinkMessageBuilder::up)
    }

    /// Takes a link down.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_down(&mut self, name: &str) -> Result<(), NetlinkError> {
        self.set(name, "set", "down", LinkMessageBuilder::down)
    }

    /// Sets the largest packet, in bytes without the Ethernet header.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_mtu(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        self.set(name, "set the MTU of", &format!("to {mtu}"), |link| link.mtu(mtu))
    }

    /// Sets the MAC address.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn set_mac(&mut self, name: &str, mac: MacAddr) -> Result<(), NetlinkError> {
        self.set(name, "set the MAC address of", &format!("to {mac}"), |link| link.address(mac.0.to_vec()))
    }

    /// Makes a link a port of a bridge.
    ///
    /// # Errors
    /// As [`Self::set_up`], or if there is no such bridge.
    pub fn attach(&mut self, port: &str, bridge: &str) -> Result<(), NetlinkError> {
        let index = self.link(bridge)?.index;
        self.set(port, "attach", &format!("to {bridge}"), |link| link.controller(index))
    }

    /// Makes a bridge, down, without spanning tree and without multicast snooping: it floods what it must.
    ///
    /// # Errors
    /// If the name is taken, or the kernel refuses.
    pub fn add_bridge(&mut self, name: &str, mtu: u32) -> Result<(), NetlinkError> {
        let bridge = LinkBridge::new(name).mcast_snooping(false).mtu(mtu);
        self.add(|| format!("make the bridge {name}"), bridge.build())
    }

    /// Makes a veth pair, down: `here` in this namespace, `there` in `netns`, or in this one too.
    ///
    /// # Errors
    /// If a name is taken, or the kernel refuses.
    pub fn add_veth(
        &mut self,
        here: VethEnd<'_>,
        there: VethEnd<'_>,
        netns: Option<&NetNs>,
    ) -> Result<(), NetlinkError> {
        let mut peer = end(LinkMessageBuilder::<LinkUnspec>::new(), there);
        if let Some(netns) = netns {
            peer = peer.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        self.add(|| format!("make the veth pair {} and {}", here.name, there.name), end(pair, here).build())
    }

    /// Makes a vxlan device of the kernel's, down.
    ///
    /// # Errors
    /// If the name is taken, the lower link is not there, or the kernel refuses.
    pub fn add_vxlan(&mut self, name: &str, device: &VxlanDevice) -> Result<(), NetlinkError> {
        let mut builder = LinkVxlan::new(name, device.vni.id()).port(device.port).learning(device.learning);
        builder = match device.local {
            IpAddr::V4(local) => builder.local(local),
            IpAddr::V6(local) => builder.local6(local),
        };
        builder = match device.remote {
            Some(IpAddr::V4(remote)) => builder.remote(remote),
            Some(IpAddr::V6(remote)) => builder.remote6(remote),
            None => builder,
        };
        if let Some(lower) = &device.lower {
            builder = builder.dev(self.link(lower)?.index);
        }
        if let Some(mac) = device.mac {
            builder = builder.address(mac.0.to_vec());
        }
        if let Some(mtu) = device.mtu {
            builder = builder.mtu(mtu);
        }
        self.add(|| format!("make the vxlan device {name}"), builder.build())
    }

    /// Deletes a link, and with it the other end of a veth pair.
    ///
    /// # Errors
    /// As [`Self::set_up`].
    pub fn delete(&mut self, name: &str) -> Result<(), NetlinkError> {
        let index = self.link(name)?.index;
        let message = LinkUnspec::new_with_index(index).build();
        self.change(|| format!("delete {name}"), RouteNetlinkMessage::DelLink(message), 0)
    }

    fn add(&mut self, request: impl Fn() -> String, message: LinkMessage) -> Result<(), NetlinkError> {
        self.change(request, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    fn set(
        &mut self,
        name: &str,
        verb: &str,
        how: &str,
        edit: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetlinkError> {
        let message = edit(LinkUnspec::new_with_index(self.link(name)?.index)).build();
        self.change(|| format!("{verb} {name} {how}"), RouteNetlinkMessage::NewLink(message), 0)
    }
}

fn end<T>(builder: LinkMessageBuilder<T>, end: VethEnd<'_>) -> LinkMessageBuilder<T> {
    let builder = builder.name(end.name).mtu(end.mtu);
    match end.mac {
        Some(mac) => builder.address(mac.0.to_vec()),
        None => builder,
    }
}

fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        bridge: None,
        statistics: Statistics::default(),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) => link.bridge = Some(index),
            LinkAttribute::Stats64(counted) => {
                link.statistics = Statistics {
                    rx_packets: counted.rx_packets,
                    tx_packets: counted.tx_packets,
                    rx_bytes: counted.rx_bytes,
                    tx_bytes: counted.tx_bytes,
                    rx_dropped: counted.rx_dropped,
                    tx_dropped: counted.tx_dropped,
                };
            }
            _ => {}
        }
    }
    link
}
