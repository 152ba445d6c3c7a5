//! A virtual Ethernet switch in userspace: VXLAN between hosts without kernel modules or root.
//!
//! The program `vswitchd` is this library behind a command line. The data plane is [`switch`], sealed datagrams
//! are [`crypto`].

#![deny(unsafe_code)]

pub mod bench;
pub mod cli;
pub mod lab;
pub mod namespace;
pub mod standalone;

pub use vswitchd_crypto as crypto;
pub use vswitchd_switch as switch;
