//! The services of the cluster: what may be made, which is meant, what they share.
//!
//! Decisions are pure functions of all services and networks that are known here; `commands` gathers these, and writes
//! records.
//!
//! - `tasks`: the tasks of a service as they are shown, and why there are none.
//! - `joined`: endpoints that answer for services whose tasks others make.
//! - `logs`: what the tasks of a service have written, from the nodes that have them.
//! - `settle`: a request becomes a service, or a refusal that names what is in the way.
//! - `ingress`: which tasks are in the routing mesh's network.
//! - `addresses`: virtual ones, which outlive the node that chose them.
//! - `conflict`: two sides of a partition may each make a service of one name or port. The older holds it, on every
//!   node that knows both; the other says so in `ls`.
//! - `reach`: what the data plane is told of services: where clients reach them, and by which names.
//! - `seats`: which nodes run the tasks of which services.
//! - `facts`: what a node's own part in services follows from, for [`crate::runner`].
//! - `lookup`: names, ids and beginnings of ids; who uses a network.

mod addresses;
mod commands;
mod conflict;
mod facts;
mod ingress;
mod joined;
mod logs;
mod lookup;
mod reach;
mod seats;
mod settle;
mod tasks;

#[cfg(test)]
pub(crate) use facts::ServiceNode;
pub(crate) use facts::{Facts, Membership, is_final};
pub(super) use logs::LogQuestion;
pub(super) use lookup::{find_service, network_is_free};
pub(super) use reach::in_networks;
pub(crate) use seats::{Seats, seats};
