//! This host's membership of a cluster: how it begins (`init`, `join`), lasts (restarts, renewal) and ends (`leave`).
//!
//! What is answered here is kept first: a node that has said that it joined is a member after a `kill -9`, too. Who
//! else is a member, and alive, is not known here.

mod address;
mod credentials;
mod door;
mod join;
mod life;
pub mod requests;
mod wire;

pub use life::Node;
