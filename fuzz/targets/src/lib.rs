//! What the fuzz targets do: each takes arbitrary bytes, and panics if something that must hold of them doesn't.
//!
//! Coverage-guided runs are in the package above (`fuzz/Cargo.toml` says how); `tests/replay.rs` runs every
//! file of `fuzz/corpus/` through the same functions. A target is a function here, a line in [`TARGETS`], a
//! binary in `fuzz/fuzz_targets/`, and a folder of seeds in `fuzz/corpus/`.
//!
//! What is checked is written anew here, or asked of etherparse: an oracle that shares code with the subject
//! agrees with its mistakes.

mod addresses;
mod balance;
mod cluster;
mod gateway;
mod gossip;
mod headers;
mod nat;
mod node;
mod oracle;
mod packets;
mod switch;

pub use addresses::addresses;
pub use balance::balance;
pub use cluster::{certificate, group, keyring, token};
pub use gateway::{dhcp, gateway, names};
pub use gossip::gossip;
pub use headers::{ethernet, stream, virtio, vxlan};
pub use nat::{inward, nat};
pub use node::{api, join, link, mesh, publish, record, service, task};
pub use packets::{flow, neighbour, offload, segment};
pub use switch::{egress, ingress, sealed};

/// A target: arbitrary bytes in, a panic if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target, with the name of its binary and of its corpus folder.
pub const TARGETS: &[(&str, Target)] = &[
    ("addresses", addresses),
    ("api", api),
    ("balance", balance),
    ("certificate", certificate),
    ("dhcp", dhcp),
    ("egress", egress),
    ("ethernet", ethernet),
    ("flow", flow),
    ("gateway", gateway),
    ("gossip", gossip),
    ("group", group),
    ("ingress", ingress),
    ("inward", inward),
    ("join", join),
    ("keyring", keyring),
    ("link", link),
    ("mesh", mesh),
    ("names", names),
    ("nat", nat),
    ("neighbour", neighbour),
    ("offload", offload),
    ("publish", publish),
    ("record", record),
    ("sealed", sealed),
    ("segment", segment),
    ("service", service),
    ("stream", stream),
    ("task", task),
    ("token", token),
    ("virtio", virtio),
    ("vxlan", vxlan),
];
