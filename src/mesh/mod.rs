//! The routing mesh: every node listens on each port that a service publishes in `ingress` mode, and carries what comes there to
//! one of the service's tasks, wherever that is.
//!
//! ```text
//! client ──► listen (a thread, all ports) ──► ingress ──► a task here:  Entrance (the gateway of its network)
//!                                                │        elsewhere:    links ──TLS──► serve ──► Entrance, there
//!                                                └── plan (which service, which tasks; in which order: pure)
//! ```
//!
//! The task sees the client's own address and port, as far as [`crate::gateway::nat`] lets it see them: by its gateway its
//! answers come back. A task that can't be reached or refuses is followed by the next; a client for whom none is left is reset.
//!
//! Datagrams have flows, which stay with their task ([`datagrams`]), and one link to each node ([`post`]).
//!
//! [`frame`] and [`proxy`] are bytes, [`plan`] follows from records; [`words`] are what links say between connections, and [`pump`]
//! moves a connection's bytes between a link and whoever is at its end, the same at both. [`shares`] bound what one client, or one
//! other node, may have. What runs here has [`threads`] of its own, so that no client makes the daemon's own work wait. Who the
//! members are and what they say is somebody else's: a [`Plan`] comes in, and a [`Dial`] makes connections to other nodes.

mod datagrams;
pub(crate) mod frame;
mod ingress;
mod links;
mod listen;
mod party;
mod plan;
mod ports;
mod post;
mod proxy;
mod pump;
mod run;
mod serve;
mod shares;
mod threads;
mod words;

pub(crate) use self::links::{Dial, Dialing};
pub(crate) use self::party::Link;
pub(crate) use self::plan::{At, Candidate, Place, Plan, Published, one_of_each};
pub(crate) use self::ports::Unbound;
pub(crate) use self::run::Mesh;
