//! `vswitchd daemon`: one node, in the foreground.
//!
//! It locks its state, listens at its socket, tells systemd, and answers calls until SIGTERM or SIGINT. Nothing of
//! it but the state is there afterwards.

mod notify;
mod run;

pub use run::{DaemonError, run};
