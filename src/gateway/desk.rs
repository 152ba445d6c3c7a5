//! Where questions for names are answered, whichever way they have come: from the network's names, from what
//! others have said before, or not here.

use std::sync::Arc;
use std::time::Instant;

use super::counters::{Counters, count};
use crate::names::{self, Cache, Outcome, Through, Zone};

/// What is needed for that besides the tables.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) cache: Cache,
    pub(super) rng: fastrand::Rng,
    pub(super) counters: Arc<Counters>,
}

/// The desk at one moment.
#[derive(Debug)]
pub(super) struct Open<'d> {
    desk: &'d mut Desk,
    zone: &'d Zone,
    now: Instant,
}

impl Desk {
    pub(super) fn open<'d>(&'d mut self, zone: &'d Zone, now: Instant) -> Open<'d> {
        Open { desk: self, zone, now }
    }
}

impl Open<'_> {
    /// What becomes of a question. [`Outcome::Forward`] is counted by whoever asks.
    pub(super) fn answer(&mut self, query: &[u8], through: Through) -> Outcome {
        let Desk { cache, rng, counters } = &mut *self.desk;
        let outcome = names::answer(self.zone, query, through, rng);
        match &outcome {
            Outcome::Forward => {
                if let Some(reply) = cache.find(query, through, self.now) {
                    count(&counters.cached);
                    return Outcome::Reply(reply);
                }
            }
            Outcome::Reply(reply) if names::is_error(reply) => count(&counters.refused),
            Outcome::Reply(_) => count(&counters.answered),
            Outcome::Ignore => {}
        }
        outcome
    }

    /// The reply to a question that can't be asked now; none if it is none.
    pub(super) fn refuse(&self, query: &[u8]) -> Option<Vec<u8>> {
        count(&self.desk.counters.refused);
        names::fail(query)
    }

    /// A number that nobody can guess.
    pub(super) fn seed(&mut self) -> u64 {
        self.desk.rng.u64(..)
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }
}
