//! This host's membership of a cluster: how it begins (`init`, `join`), lasts (restarts, renewal) and ends (`leave`).
//!
//! What is answered here is kept first: a node that has said that it joined is a member after a `kill -9`, too.
//!
//! A command comes to [`Node`] (`life`), which has a `cluster` while it is a member. What members say to all is in
//! `records`; what they say to each other alone, in `links` and `answer`; how one becomes a member, in `join`, `door` and
//! `wire`.

mod accept;
mod address;
mod addresses;
mod answer;
mod cluster;
mod commands;
mod connect;
mod credentials;
mod data;
mod door;
mod endpoints;
mod expose;
mod follow;
mod gossip_parts;
#[doc(hidden)]
pub mod hostile;
mod join;
mod keys;
mod life;
mod links;
mod manage;
mod mesh;
mod networks;
mod place;
pub(crate) mod records;
mod requests;
mod rights;
mod rotation;
mod said;
mod services;
mod wire;

pub use life::Node;
pub(crate) use requests::find;
#[cfg(test)]
pub(crate) use services::ServiceNode;
pub(crate) use services::{Facts, Membership, Seats, is_final, seats};
