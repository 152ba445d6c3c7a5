//! A link in memory whose faults are chosen: loss, duplication, reordering, delay and partition.
//!
//! [`Wire`] is the link itself, without clock or thread, the same for the same seed. [`Network`] is an underlay made
//! of it, for workers in one process.

mod underlay;
mod wire;

pub use underlay::{Network, Underlay};
pub use wire::{Faults, FaultsError, Wire, WireCounts};
