//! What flows have at hand while they work.

use std::time::Instant;

use super::counters::Count;
use super::host::Host;
use super::inside::{Inside, Outward, Refusal};
use super::policy::Policy;

/// One packet's or one socket's turn.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) policy: &'a Policy,
    pub(super) host: &'a mut Host,
    pub(super) inside: &'a mut Inside,
    pub(super) rng: &'a mut fastrand::Rng,
}

impl Turn<'_> {
    /// Says why a packet goes no further, and counts it.
    pub(super) fn refuse(&mut self, outward: &Outward<'_>, why: Refusal, count: Count) {
        self.inside.refuse(outward.back, outward.packet, why, count, self.now);
    }
}
