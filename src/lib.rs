//! A virtual Ethernet switch in userspace: VXLAN between hosts without kernel modules or root.
//!
//! The program `vswitchd` is this library behind a command line. The data plane is [`switch`], sealed datagrams
//! are [`crypto`], membership and replicated records [`gossip`].

#![deny(unsafe_code)]

pub mod api;
pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod gateway;
pub mod ipam;
pub mod lab;
pub(crate) mod mesh;
pub mod names;
pub mod namespace;
pub mod node;
pub mod overlay;
mod runner;
pub mod service;
pub mod stack;
pub mod standalone;
pub mod state;
pub mod task;

pub use vswitchd_crypto as crypto;
pub use vswitchd_gossip as gossip;
pub use vswitchd_switch as switch;
