//! Addresses of endpoints: this node's part of each subnet, on disk, and what members ask each other for it.
//!
//! [`crate::ipam`] decides, and is pure. Here a pool is kept for each subnet of a network that this node holds
//! addresses of, or has dealt in; and the questions go over links.
//!
//! - `pools`: the pools and their files. What came of a change is shown once it is on disk, and not before.
//! - `acquire`: an endpoint's way to its addresses, within a bounded time.
//! - `message`, `answer`: what members ask each other, and are answered.
//! - `share`: what each node tells all of its part, so that others know whom to ask and refusals have numbers.
//! - `reclaim`: what removed nodes held is found and used again.
//!
//! Services have virtual addresses, which no pool leases as long as their records are there, whoever holds them: the node
//! that makes a service leases them for the moment until then.
//!
//! A lease belongs to an endpoint by its id. It is on disk before the endpoint is, and released after it is gone
//! from there: a crash between leaves a lease without an endpoint, which the next look finds.

mod acquire;
mod answer;
mod message;
mod pools;
mod reclaim;
mod share;

pub(super) use self::message::{AddressAnswer, AddressRequest};
pub(super) use self::pools::{Pools, Virtual, capacity, forget};
pub(super) use self::reclaim::keep;
pub(super) use self::share::SharesHeard;
