//! A network laboratory on one machine: nodes in network namespaces, joined by an underlay, each with endpoints.
//!
//! ```text
//!  n1a ─┐                          ┌─ n2a    endpoints: a namespace each, a TAP in it as `eth0`
//!  n1b ─┴─ node1 ══════════ node2 ─┴─ n2b    nodes: a namespace and a program each, `eth0` in the underlay
//!               underlay: veth or wire ══════════ outside, which is no node
//! ```
//!
//! A [`Plan`] is pure: names, addresses and networks computed from a [`Shape`]. [`Lab::build`] makes its
//! namespaces and underlay, [`Lab::start`] runs a program in every node and gives the endpoints their
//! addresses; a lab without the second step has bare nodes, for other programs and for tests. One more host of the
//! underlay is [`outside`] of all networks. [`check`] asks who reaches whom, by which names and from where, [`report`] shows it, [`control`] lets other terminals in.
//!
//! Everything is held by descriptors of this process: when it ends, so does the lab. Build labs in a sandbox
//! ([`crate::namespace::sandbox`], [`crate::namespace::init`]); nothing here touches the namespace that it is
//! called in.

mod build;
pub mod check;
pub mod cluster;
pub mod control;
mod keeper;
mod member;
pub mod membership;
pub mod names;
pub mod outside;
pub mod page;
pub mod ping;
pub mod plan;
pub mod program;
pub mod report;
pub mod service;
mod switches;
pub mod throughput;
pub mod underlay;
mod visitors;
pub mod way_out;
pub mod wire;

pub use build::{ENDPOINT_LINK, Endpoint, Lab, LabError, Node, READY_PATIENCE};
pub use plan::{EndpointPlan, NetworkPlan, NodePlan, Plan, PlanError, Shape, UnderlayKind, WirePlan};
