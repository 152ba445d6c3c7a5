//! The networks of the cluster: what may be made, which is meant, who uses it.
//!
//! Decisions are pure functions of all networks that are known here, the cluster's address pools and this host's routes;
//! `commands` gathers these, and writes records.
//!
//! - `create`: a request becomes a network, or a refusal that names what is in the way; `subnet` and `pool` do so for
//!   its addresses.
//! - `conflict`: two sides of a partition may each make a network of one name, VNI or subnet. The older holds it, on
//!   every node that knows both; the other says so in `ls`, and gives way. Nothing is renamed, renumbered or removed
//!   unasked.
//! - `foreign`: VXLAN end points that are no nodes.
//! - `lookup`: names, ids and beginnings of ids.

mod commands;
mod conflict;
mod create;
mod foreign;
mod lookup;
mod pool;
mod subnet;

pub(super) use commands::host_routes;
pub(super) use lookup::{find_network, may_attach};
