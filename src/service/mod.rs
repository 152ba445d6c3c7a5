//! Services: what many tasks answer for under one name.
//!
//! Here is what follows from records and time alone: no socket, clock, chance or task. Every node computes it by
//! itself and comes to the same, so nobody leads.
//!
//! - [`spec`]: what a service is, and whether that makes sense; [`update`]: how it is changed.
//! - [`port`]: published ports, as Docker's users write them.
//! - [`constraint`]: on which nodes its tasks may run.
//! - [`placement`]: which node runs which slot, and how a slot changes hands.
//! - [`rollout`]: which slots may be replaced now.
//! - [`restart`]: what becomes of a task that has ended.

pub mod constraint;
pub mod placement;
pub mod port;
pub mod restart;
pub mod rollout;
pub mod spec;
pub mod update;

pub use constraint::{Constraint, NodeFacts};
pub use port::{Port, PortMode, Protocol, ProxyVersion};
pub use spec::{
    EndpointMode, Mode, RestartCondition, RestartPolicy, ServiceNetwork, ServiceSpec, SpecError, SpecParts,
    UpdateOrder, UpdatePolicy,
};
pub use update::{PortRef, ServiceUpdate};
