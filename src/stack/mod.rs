//! TCP and UDP for a program in this process that is an endpoint of a network: no device, no namespace, no
//! privilege.
//!
//! ```text
//! TcpStream, TcpListener, UdpSocket  ──►  Stack (smoltcp, a thread)  ──►  channel  ──►  a switch's port
//! ```
//!
//! A [`Stack`] is at the end of an [`io::channel`](crate::switch::io::channel), whose other side is a port: of a
//! [`Switch`](crate::switch::switch::Switch), or of an [`Overlay`](crate::overlay::Overlay) by way of
//! [`ChannelDevice`](crate::overlay::ChannelDevice). It has the addresses that it is told, and asks the network's
//! gateway for names: `stack.connect("web:80")`. `examples/stack.rs` is a whole program.
//!
//! Every socket is looked at for every packet, and a frame costs an allocation: this is for a program's own few
//! connections, not for carrying a network's traffic. There is no path MTU discovery; the MTU is to be the port's.

mod device;
mod drive;
mod engine;
mod tcp;
mod udp;

use std::io;
use std::net::IpAddr;

use crate::api::{Attached, HostAddress};
use crate::switch::wire::MacAddr;

pub use self::drive::Stack;
pub use self::engine::SOCKETS_MAX;
pub use self::tcp::{TcpListener, TcpStream};
pub use self::udp::UdpSocket;

/// What a stack is on its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackConfig {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses: one of each IP version at most.
    pub addresses: Vec<HostAddress>,
    /// Its way out, of each IP version.
    pub gateways: Vec<IpAddr>,
    /// Whom it asks for names.
    pub resolver: Option<IpAddr>,
    /// Bytes of its largest packet, from 1280 (RFC 8200 §5) to 65,559.
    pub mtu: u32,
}

impl From<&Attached> for StackConfig {
    fn from(attached: &Attached) -> Self {
        Self {
            mac: attached.mac,
            addresses: attached.addresses.clone(),
            gateways: attached.gateways.clone(),
            resolver: attached.resolver,
            mtu: attached.mtu,
        }
    }
}

/// Why a stack, or one of its sockets, can't be. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// None, or more than one of an IP version.
    #[error("a stack has one address or two, one of each IP version, and as many gateways at most")]
    Addresses,
    /// Not a device's.
    #[error("{0} is no device's MAC address")]
    Mac(MacAddr),
    /// Out of range.
    #[error("an MTU of {0} is out of range: want 1280 to 65559")]
    Mtu(u32),
    /// No thread.
    #[error("can't start the stack's thread: {0}")]
    Thread(io::Error),
    /// [`SOCKETS_MAX`] are open, or too many questions for names.
    #[error("the stack has too many sockets, at most {SOCKETS_MAX}, or questions")]
    TooMany,
    /// A socket has it.
    #[error("port {0} is in use, or no port")]
    Port(u16),
    /// No address of that family.
    #[error("no way to {0}")]
    NoWay(IpAddr),
    /// Not a name, or nobody to ask.
    #[error("{0:?} can't be resolved: it is no name, or nobody is there to ask")]
    Name(String),
    /// The switch has closed the port.
    #[error("the port is closed")]
    Closed,
}

impl From<StackError> for io::Error {
    fn from(error: StackError) -> Self {
        let kind = match error {
            StackError::Port(_) => io::ErrorKind::AddrInUse,
            StackError::NoWay(_) => io::ErrorKind::NetworkUnreachable,
            StackError::Name(_) => io::ErrorKind::NotFound,
            StackError::Closed => io::ErrorKind::NotConnected,
            StackError::TooMany => io::ErrorKind::QuotaExceeded,
            StackError::Thread(_) => io::ErrorKind::Other,
            StackError::Addresses | StackError::Mac(_) | StackError::Mtu(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests;
