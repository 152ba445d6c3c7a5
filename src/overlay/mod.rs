//! The data plane of a daemon: one switch at the node's data address, whose networks, peers and keys follow from what
//! gossip says, and whose ports are this node's endpoints.
//!
//! ```text
//! View (nodes, networks)  ──► plan ──► Plan ──► steps ──► Plane (Switch, Workers)   one at a time, replaced as a whole
//! endpoints (TAPs, kept)  ──►             ├──► Sessions (keys of the peers in it)   outlive the plane
//!                                         └──► Gateways (of the networks in it)     likewise
//! ```
//!
//! [`plan`] and [`steps`] are pure. [`sessions`] knows no network, only peers that need keys. [`Overlay`] joins them,
//! owns endpoints and their devices, and tells [`OverlayEvent`]s. Gossip, connections between members and records are
//! somebody else's: a [`View`] comes in, [`Overlay::presence`] goes out, keys are agreed on by way of
//! [`sessions::Agree`].

mod balanced;
mod config;
mod device;
mod endpoint;
pub mod envoy;
mod event;
mod gateways;
mod interface;
mod mtu;
mod path;
mod plan;
mod plane;
mod publish;
mod reconcile;
mod run;
pub mod sessions;
#[cfg(test)]
mod tests;
mod view;
mod work;

pub use self::balanced::Balanced;
pub use self::config::OverlayConfig;
pub use self::device::{ChannelDevice, Device};
pub use self::endpoint::{AttachError, ENDPOINTS_MAX, EndpointSpec, FILE, NAME_MAX, place_of};
pub use self::event::OverlayEvent;
pub use self::gateways::{Entrances, GatewayView, Reached};
pub use self::path::{BLOCKED_AFTER, DataPath, PathView};
pub use self::plan::{Announcement, At, Carried, LocalEndpoint, Plan, Refused, plan};
pub use self::plane::PlaneError;
pub use self::reconcile::{Have, Step, steps};
pub use self::run::{EndpointView, Overlay};
pub use self::view::{
    Backend, BackendState, NetworkId, NetworkView, NodeView, RemoteEndpoint, ServiceView, View,
};
