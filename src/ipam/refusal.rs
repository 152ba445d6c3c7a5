//! Why an endpoint gets no address, with the numbers.

use std::net::IpAddr;

use crate::gossip::NodeId;

/// Why an endpoint gets no address. Nothing has changed for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not of this subnet, or its network or broadcast address.
    #[error("{address} is no address for an endpoint of {subnet}")]
    Outside {
        /// What was asked for.
        address: IpAddr,
        /// In which subnet.
        subnet: String,
    },
    /// Kept for something else.
    #[error("{address} is reserved: {what}")]
    Reserved {
        /// What was asked for.
        address: IpAddr,
        /// What it is kept for.
        what: String,
    },
    /// Another endpoint's.
    #[error("{address} is in use by {holder}")]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Whose it is.
        holder: String,
        /// Where that is.
        node: NodeId,
    },
    /// The endpoint has another one.
    #[error("{holder} has {address} already")]
    Has {
        /// The endpoint.
        holder: String,
        /// What it has.
        address: IpAddr,
    },
    /// None is free, anywhere.
    #[error("{subnet}: {used} of {capacity} used{}", besides(*virtuals))]
    Full {
        /// The subnet.
        subnet: String,
        /// Addresses in use on all nodes.
        used: u128,
        /// Addresses that there are, besides the gateway's, reserved and virtual ones.
        capacity: u128,
        /// Virtual addresses of services.
        virtuals: usize,
    },
    /// None is free on the nodes that answer; the others have some.
    #[error(
        "{subnet}: no free address within reach, {used} of {capacity} used; {free} free on {nodes} nodes out of reach"
    )]
    OutOfReach {
        /// The subnet.
        subnet: String,
        /// Addresses in use on all nodes, as far as is known.
        used: u128,
        /// Addresses that there are.
        capacity: u128,
        /// How many nodes did not answer.
        nodes: usize,
        /// How many free addresses these had when last heard of.
        free: u128,
    },
    /// Nobody who answers holds the address that was asked for.
    #[error("{address} belongs to none of the nodes within reach ({nodes} are not)")]
    Unheld {
        /// What was asked for.
        address: IpAddr,
        /// How many nodes did not answer.
        nodes: usize,
    },
    /// See [`super::Pool::is_set_back`].
    #[error("this node's state is older than what others remember of it: remove it and let it join anew")]
    SetBack,
    /// [`super::LEASES_MAX`], [`super::HOLDER_MAX`] or [`super::RANGES_MAX`].
    #[error("too many addresses on one node, or too long a name")]
    Limit,
}

fn besides(virtuals: usize) -> String {
    match virtuals {
        0 => String::new(),
        1 => ", besides the gateway's and 1 virtual address".into(),
        _ => format!(", besides the gateway's and {virtuals} virtual addresses"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_else_is_taken_is_told() {
        let full = |used, capacity, virtuals| {
            Refusal::Full { subnet: "10.99.0.0/30".into(), used, capacity, virtuals }.to_string()
        };
        assert_eq!(full(1, 1, 0), "10.99.0.0/30: 1 of 1 used");
        assert_eq!(full(0, 0, 1), "10.99.0.0/30: 0 of 0 used, besides the gateway's and 1 virtual address");
        assert!(full(3, 3, 2).ends_with("and 2 virtual addresses"));
    }
}
