//! One pool against a model, several that talk directly, and many on a simulated network.

mod model;
mod simulation;
mod trade;

use super::*;
use crate::gossip::NodeId;

/// 10.0.9.0 with a prefix of this length, and the first address as gateway.
fn space(prefix: u8) -> Space {
    let gateway = ("10.0.9.1".parse().unwrap(), "gateway");
    Space::new("10.0.9.0".parse().unwrap(), prefix, None, [gateway]).unwrap()
}

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}
