//! Linux namespaces: a private corner of this machine that needs no root and leaves nothing behind.
//!
//! [`sandbox`] puts this process into namespaces of its own, [`init`] does the same for a whole family of
//! processes that ends together, [`room`] does it for one command, [`netns`] makes network namespaces and runs closures and commands in them,
//! [`netlink`] builds what is in them, [`names`] lets `ip netns` find them, and [`visit`] runs a command in
//! somebody's sandbox. [`obstacle`] tells what forbids it where it is forbidden, and [`trial`] asks
//! beforehand.
//!
//! A network namespace lives as long as a descriptor or a process holds it. Nothing here is pinned to a file of
//! the host, so the kernel takes everything back when the processes end, whatever ended them.
//!
//! This module and the I/O drivers of the data plane are the only places with `unsafe`: `unshare`, the code that
//! runs between fork and exec, the trial's fork, taking over inherited descriptors, and asking who a socket's peer
//! is.

pub mod init;
pub mod messages;
pub mod names;
pub mod netlink;
pub mod netns;
pub mod obstacle;
pub mod peer;
pub mod room;
pub mod sandbox;
pub mod trial;
pub mod visit;
