//! What members say to each other about addresses.

use serde::{Deserialize, Serialize};

use crate::ipam::{Answer, Question, Reply, Want};

/// Most subnets that one request is about.
pub(crate) const SUBNETS_AT_ONCE: usize = 64;

/// Asks about a subnet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AddressRequest {
    /// The network's id.
    pub(crate) network: String,
    /// The subnet's place in the network's record.
    pub(crate) subnet: u16,
    /// What is asked.
    pub(crate) ask: AddressAsk,
}

/// What is asked about a subnet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AddressAsk {
    /// Gives addresses.
    Want(Want),
    /// Says what it holds.
    Question(Question),
}

/// What the other says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AddressAnswer {
    /// To [`AddressAsk::Want`].
    Reply(Reply),
    /// To [`AddressAsk::Question`].
    Holds(Answer),
    /// It knows of no such subnet, or can't read or keep what it holds of it.
    Unknown,
}
