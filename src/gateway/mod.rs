//! A network's gateway: on every node that has ports in the network, under one address, answered there and nowhere else.
//!
//! ```text
//! port of the switch ──► run ──► station (pure: ARP, ND, echo, DNS with its streams, unreachables) ──► frames back
//!                         │      ├──► desk (names, and what others have said of others), counters
//!                         │      └──► dhcp (from a table), router (advertisements): pure, too
//!                         └──► upstream (names that the network does not have) ──► frames back, later
//! ```
//!
//! The same MAC and IP addresses on every node (anycast): the node's own switch has them announced at its own port, so
//! what is for the gateway never crosses the underlay, and a name is answered from tables of this node.
//!
//! [`station`] is bytes in, bytes out. [`run`] gives it a [`ChannelEnd`](crate::switch::io::channel::ChannelEnd) and a
//! thread. Packets for addresses outside of the network are carried by [`nat`], or get ICMP's "no route", at
//! once; so is what comes to ports of this host that endpoints have published ([`door`]).

mod addresses;
mod checks;
mod counters;
mod desk;
mod dhcp;
pub mod door;
pub(crate) mod doors;
mod entrance;
mod frame;
pub mod nat;
pub(crate) mod origin;
mod packets;
pub mod pipe;
mod publication;
mod resolvers;
mod router;
pub mod run;
pub mod station;
mod streams;
mod tables;
mod upstream;

pub use self::addresses::{Addresses, Own, mac_of};
pub use self::counters::{Counters, Counts};
pub use self::entrance::{Entrance, Resident};
pub use self::publication::Publication;
pub use self::resolvers::Resolvers;
pub use self::run::{Gateway, port_spec};
pub use self::tables::{Lease, Tables};
