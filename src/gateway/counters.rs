//! What a gateway has done, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one gateway, from its start.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) answered: AtomicU64,
    pub(super) cached: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) unanswered: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) leased: AtomicU64,
    pub(super) dropped: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions that the network's names have answered.
    pub answered: u64,
    /// Questions that were answered with what others had said before.
    pub cached: u64,
    /// Questions that others were asked.
    pub forwarded: u64,
    /// Of these, those that nobody has answered in time.
    pub unanswered: u64,
    /// Questions that got an error at once: of an internal network, for a name that it does not have; of any,
    /// because they made no sense, or too many were under way.
    pub refused: u64,
    /// Messages of DHCP that were answered.
    pub leased: u64,
    /// Frames that the switch did not take.
    pub dropped: u64,
    /// Connections and clients' flows of datagrams that were carried in, to published ports.
    pub carried_in: u64,
    /// Those that the endpoint has refused or not answered, and what there was no room for.
    pub refused_in: u64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            answered: read(&self.answered),
            cached: read(&self.cached),
            forwarded: read(&self.forwarded),
            unanswered: read(&self.unanswered),
            refused: read(&self.refused),
            leased: read(&self.leased),
            dropped: read(&self.dropped),
            ..Counts::default()
        }
    }
}
