//! The forwarding table: where each MAC address of each network is.
//!
//! Two sources feed it. *Announced* entries come from the control plane: authoritative, never aged, never displaced
//! by a frame. *Learnt* entries come from source addresses of frames (RFC 7348 §4.1, IEEE 802.1Q §8.7), age, and may
//! move; one that moves too often is held where it is (the idea of RFC 7432 §15.1), so that a loop or two hosts with
//! one address can't keep the table changing.
//!
//! The table is plain data. Writers change a master copy and publish clones; see [`crate::tables`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::drops::DropReason;
use crate::tables::PortId;
use crate::vtep::VtepId;
use crate::wire::{MacAddr, Vni};

/// Bounds of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries of both kinds. At 64 bytes each the default stays under 5 MiB a copy.
    pub entries_max: usize,
    /// A learnt entry not heard from for so long is forgotten. 300 s is IEEE 802.1Q's default.
    pub age: Duration,
    /// Moves allowed in [`Self::move_window`] before an entry is held.
    pub moves_max: u32,
    /// The time over which moves are counted.
    pub move_window: Duration,
    /// How long a held entry stays; frames with its address from elsewhere are dropped meanwhile.
    pub hold: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries_max: 65_536,
            age: Duration::from_secs(300),
            moves_max: 10,
            move_window: Duration::from_secs(10),
            hold: Duration::from_secs(30),
        }
    }
}

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a port of this switch.
    Port(PortId),
    /// Behind a peer.
    Vtep(VtepId),
    /// At a service's tasks, wherever these are ([`crate::balance`]).
    Service,
}

/// What is to be done with a frame for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Hand it to that port.
    Local(PortId),
    /// Send it to that peer.
    Remote(VtepId),
    /// Let one of the service's tasks have it.
    Service,
    /// Nobody knows the address, or it is a group's: everybody in the network gets it.
    Flood,
    /// It dies.
    Drop(DropReason),
}

/// What the table says of a frame's source address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At that place, and heard from lately.
    Known,
    /// New, moved, or due for a refresh: tell the writer ([`Fdb::learn`]).
    News,
    /// The frame is not to be believed.
    Refused(DropReason),
}

/// What learning an address has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// A new entry.
    New,
    /// The entry was there and is younger now.
    Refreshed,
    /// The entry has moved to the new place.
    Moved,
    /// The entry has moved too often and stays where it is; the table's time of hold begins.
    Held,
    /// The place differs from an announced or a held entry's; nothing has changed.
    Refused,
    /// The table is full; nothing has changed.
    Full,
}

/// The table cannot take another announced entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the forwarding table is full ({0} entries)")]
pub struct TableFull(pub usize);

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Announced,
    Learnt { seen: Instant, moves: Moves },
}

#[derive(Clone, Copy, Debug)]
struct Moves {
    count: u32,
    since: Instant,
    held_until: Option<Instant>,
}

/// A share of [`Limits::age`]: entries are refreshed when older than that, so the writer isn't told of each frame.
const REFRESH_SHARE: u32 = 8;

/// The table.
#[derive(Clone, Debug)]
pub struct Fdb {
    entries: HashMap<(Vni, MacAddr), Entry, foldhash::fast::RandomState>,
    limits: Limits,
}

impl Fdb {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { entries: HashMap::default(), limits }
    }

    /// Entries of both kinds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where a frame for `mac` goes. A group's address is flooded.
    #[must_use]
    pub fn lookup(&self, vni: Vni, mac: MacAddr) -> Forward {
        if mac.is_multicast() {
            return Forward::Flood;
        }
        match self.entries.get(&(vni, mac)).map(|entry| entry.place) {
            Some(Place::Port(port)) => Forward::Local(port),
            Some(Place::Vtep(vtep)) => Forward::Remote(vtep),
            Some(Place::Service) => Forward::Service,
            None => Forward::Flood,
        }
    }

    /// Judges the source address of a frame that came from `at`.
    #[must_use]
    pub fn source(&self, vni: Vni, mac: MacAddr, at: Place, now: Instant) -> Source {
        if mac.is_multicast() || mac.is_zero() {
            return Source::Refused(DropReason::SourceInvalid);
        }
        let Some(entry) = self.entries.get(&(vni, mac)) else {
            return Source::News;
        };
        match entry.kind {
            Kind::Announced if entry.place == at => Source::Known,
            Kind::Announced => Source::Refused(DropReason::SourceElsewhere),
            Kind::Learnt { seen, .. } if entry.place == at => {
                if now.saturating_duration_since(seen) < self.limits.age / REFRESH_SHARE {
                    Source::Known
                } else {
                    Source::News
                }
            }
            Kind::Learnt { moves, .. } if moves.is_held(now) => Source::Refused(DropReason::MacMoveLimit),
            Kind::Learnt { .. } => Source::News,
        }
    }

    /// Takes note that `mac` was heard at `at`.
    pub fn learn(&mut self, vni: Vni, mac: MacAddr, at: Place, now: Instant) -> Learnt {
        let full = self.entries.len() >= self.limits.entries_max;
        let Some(entry) = self.entries.get_mut(&(vni, mac)) else {
            if full {
                return Learnt::Full;
            }
            let moves = Moves { count: 0, since: now, held_until: None };
            self.entries.insert((vni, mac), Entry { place: at, kind: Kind::Learnt { seen: now, moves } });
            return Learnt::New;
        };
        let Kind::Learnt { seen, moves } = &mut entry.kind else {
            return if entry.place == at { Learnt::Refreshed } else { Learnt::Refused };
        };
        if entry.place == at {
            *seen = now;
            return Learnt::Refreshed;
        }
        if moves.is_held(now) {
            return Learnt::Refused;
        }
        if !moves.allow(&self.limits, now) {
            return Learnt::Held;
        }
        *seen = now;
        entry.place = at;
        Learnt::Moved
    }

    /// Enters what the control plane knows; displaces a learnt entry.
    ///
    /// # Errors
    /// The table is full; it has not changed.
    pub fn announce(&mut self, vni: Vni, mac: MacAddr, at: Place) -> Result<(), TableFull> {
        if self.entries.len() >= self.limits.entries_max && !self.entries.contains_key(&(vni, mac)) {
            return Err(TableFull(self.entries.len()));
        }
        self.entries.insert((vni, mac), Entry { place: at, kind: Kind::Announced });
        Ok(())
    }

    /// Whether the control plane has entered that address.
    #[must_use]
    pub fn is_announced(&self, vni: Vni, mac: MacAddr) -> bool {
        self.entries.get(&(vni, mac)).is_some_and(|entry| matches!(entry.kind, Kind::Announced))
    }

    /// Removes an announced entry; a learnt one stays. Gives whether there was one.
    pub fn withdraw(&mut self, vni: Vni, mac: MacAddr) -> bool {
        self.is_announced(vni, mac) && self.entries.remove(&(vni, mac)).is_some()
    }

    /// Forgets learnt entries that have not been heard from for [`Limits::age`]. Gives how many.
    pub fn age(&mut self, now: Instant) -> usize {
        let before = self.entries.len();
        let age = self.limits.age;
        self.entries.retain(|_, entry| match entry.kind {
            Kind::Announced => true,
            Kind::Learnt { seen, .. } => now.saturating_duration_since(seen) < age,
        });
        before - self.entries.len()
    }

    /// Forgets everything at a place that has left a network; gives the addresses.
    pub fn forget(&mut self, vni: Vni, place: Place) -> Vec<MacAddr> {
        let gone = self.entries.extract_if(|&(network, _), entry| network == vni && entry.place == place);
        gone.map(|((_, mac), _)| mac).collect()
    }
}

impl Moves {
    fn is_held(&self, now: Instant) -> bool {
        self.held_until.is_some_and(|until| now < until)
    }

    /// Counts a move; `false` if it is one too many, and the entry is held from now on.
    fn allow(&mut self, limits: &Limits, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= limits.move_window || self.held_until.is_some() {
            *self = Self { count: 0, since: now, held_until: None };
        }
        self.count += 1;
        if self.count > limits.moves_max {
            self.held_until = Some(now + limits.hold);
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests;
