//! The way out of a network, and in: packets for the world outside, and what comes from there to published ports, are
//! carried by ordinary sockets of this host.
//!
//! ```text
//!           station (Action::Carry)                      sockets, one epoll
//! inside ──────────► nat ──► connections (TCP: smoltcp here, the host's TCP there) ──► outside
//!        ◄── frames ──┘ ├──► datagrams  (UDP: a socket for each inside address and port)
//!                       ├──► datagrams  (echo: an ICMP socket for each identifier)
//!                       └──► inward     (connections and datagrams that were sent to a port of this host)
//! ```
//!
//! So inside reaches what a program of this host's user would reach, with this host's address, and no privilege,
//! rule or route is needed. Where it may not go is a [`Policy`]. Nothing outside reaches inside but what answers, and
//! what is published (`inward`).
//!
//! [`Nat`] has sockets and no clock: time comes in. Whatever is bounded says in [`Counters`] when it was full, and
//! inside is told by ICMP, or a reset. What is not carried: fragments, other protocols, ICMP but echo, and TCP's
//! urgent pointer and options (each side has its own).

mod carry;
mod connection;
mod connections;
mod counters;
mod datagrams;
mod fragments;
mod host;
mod inside;
mod inward;
mod link;
pub(crate) mod outer;
mod policy;
mod quote;
mod table;
mod turn;

#[cfg(test)]
mod tests;

pub use self::carry::{Nat, Outside, descriptors};
pub use self::counters::{Count, Counters, Kind};
pub(crate) use self::host::{Host, Interest};
pub use self::host::{Ready, Token};
pub(crate) use self::inward::{ANSWERED_IDLE, ASKED_IDLE};
pub use self::inward::{Answered, Reply, Tag};
pub(super) use self::inward::{Board, Handed, Inlet, Letter, Listing, Way};
pub use self::outer::Outer;
pub use self::policy::Policy;
pub(crate) use self::table::{Key as FlowKey, Limits, Table};
