//! The data plane of a daemon: one switch at the node's data address, whose networks, peers and keys follow from what
//! gossip says, and whose ports are this node's endpoints.

mod plan;
mod reconcile;
pub mod sessions;
mod view;

pub use self::plan::{Carried, Plan, Refused, plan};
pub use self::reconcile::{Have, Step, steps};
pub use self::view::{NetworkId, NetworkView, NodeView, View};
