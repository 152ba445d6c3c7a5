//! Links, addresses, routes and forwarding entries of a network namespace, by rtnetlink: no `ip` program needed.
//!
//! Messages are built with the `rtnetlink` crate and carried by one blocking socket, one request at a time: a
//! lab is built step by step, and its crate's own asynchronous requests can't say `NLM_F_APPEND`, which a
//! second remote of a vxlan device needs. Links are named, not numbered: an index is looked up when needed.
//!
//! Source: rtnetlink(7), netlink(7), Linux `include/uapi/linux/{if_link,neighbour}.h`.

mod address;
mod link;
mod route;
mod transport;

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;
use vswitchd_switch::wire::{MacAddr, Vni};

use super::netns::NetnsError;

pub use transport::Netlink;

/// Why a request was not done. Nothing has changed, except where a request says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The namespace can't be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// No netlink socket.
    #[error("can't open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel refused.
    #[error("can't {request}: {source}")]
    Refused {
        /// What was asked for.
        request: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// There is no link of that name.
    #[error("no link named {0}")]
    NoLink(String),
    /// The kernel's answer makes no sense to us.
    #[error("can't {request}: an answer that can't be read: {cause}")]
    Malformed {
        /// What was asked for.
        request: String,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it was the kernel that refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket(source) | Self::Refused { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// A network interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number in this namespace.
    pub index: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<MacAddr>,
    /// Bytes of the largest packet, without the Ethernet header.
    pub mtu: u32,
    /// Whether it is up by configuration.
    pub up: bool,
    /// Whether it has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// What it has counted.
    pub statistics: Statistics,
}

/// What a link has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets received and dropped.
    pub rx_dropped: u64,
    /// Packets not sent.
    pub tx_dropped: u64,
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its MAC address; the kernel's choice where none is given.
    pub mac: Option<MacAddr>,
    /// Bytes of the largest packet.
    pub mtu: u32,
}

/// The kernel's own vxlan device (RFC 7348).
#[derive(Clone, Debug)]
pub struct VxlanDevice {
    /// The network.
    pub vni: Vni,
    /// Address to send from and to receive at.
    pub local: IpAddr,
    /// Where to send what has no forwarding entry; more are added by [`Netlink::append_fdb`] with a zero MAC.
    pub remote: Option<IpAddr>,
    /// UDP port of both ends; 4789 for others' sake.
    pub port: u16,
    /// Link that carries it, for its MTU; any where none is given.
    pub lower: Option<String>,
    /// Whether it learns senders' addresses.
    pub learning: bool,
    /// Its MAC address; the kernel's choice where none is given.
    pub mac: Option<MacAddr>,
    /// Bytes of the largest inner packet; the kernel's choice (50 or 70 less than the lower link's) where none
    /// is given.
    pub mtu: Option<u32>,
}
