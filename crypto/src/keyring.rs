//! The keys that the whole cluster shares, for what is said to all members alike.
//!
//! Three at most: members seal with the *current* one and open with any.
//!
//! ```text
//!               previous   current   next
//!   at first       –          0       1
//!   rotate         0          1       2       the next key has been everywhere for 12 hours: nobody misses it
//!   rotate         1          2       3
//!   expel          2          4       5       whoever was expelled knows 3, so it is never used
//! ```
//!
//! Two members that are a rotation apart still understand each other, whichever of them got the ring first. After
//! [`KeyRing::expel`] a member that has not got the new ring is heard for [`EXPEL_GRACE`], but hears nothing until
//! it asks a manager for the ring; [`crate::group::OpenError::UnknownEpoch`] tells it to.
//!
//! Rings are made by managers and go from node to node over mutual TLS only, never under a key of the ring: a
//! removed node would read on. There is no leader: rings made at once on two managers are settled by
//! [`KeyRing::merge`], the same way on every node and in any order. Two rotations at once differ in the next key
//! only, so nothing is lost meanwhile.
//!
//! On disk and on the wire (after TLS), big endian; [`KeyRing::encode`]:
//!
//! ```text
//!   0         1       2         6           14           22                    58                 94          130
//!  +---------+-------+---------+-----------+------------+---------------------+------------------+-----------+
//!  | version | flags | expels  |   since   | until      |  epoch, key: next   | epoch, key:      | epoch, key: |
//!  |    1    |       |         |           |            |                     | current          | previous    |
//!  +---------+-------+---------+-----------+------------+---------------------+------------------+-----------+
//!             0x01 previous key there, 0x02 it goes at `until`; times in seconds since 1970
//! ```

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest;
use ring::rand::SecureRandom;
use zeroize::Zeroizing;

use crate::identity::{NoRandomness, Role, fresh};
use crate::key::KEY_LEN;

/// How long a key is the current one: Docker's 12 hours. Far less wears it out: see [`crate::seal::SEALS_MAX`],
/// which holds for each sender.
pub const ROTATION: Duration = Duration::from_secs(12 * 3_600);

/// How long members are heard that have not yet got the ring after somebody was expelled, and with them whoever was.
pub const EXPEL_GRACE: Duration = Duration::from_secs(30);

/// Bytes of a ring without and with a previous key.
pub const RING_LENS: [usize; 2] = [HEAD_LEN + 2 * ENTRY_LEN, HEAD_LEN + 3 * ENTRY_LEN];

const VERSION: u8 = 1;
const FLAG_PREVIOUS: u8 = 0x01;
const FLAG_UNTIL: u8 = 0x02;
const HEAD_LEN: usize = 22;
const ENTRY_LEN: usize = 4 + KEY_LEN;

/// A group key's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyEpoch(pub u32);

impl fmt::Display for KeyEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// One key of a ring. Keys for datagrams are derived from it ([`crate::group`]); it seals nothing itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct GroupKey {
    pub(crate) epoch: KeyEpoch,
    pub(crate) secret: Zeroizing<[u8; KEY_LEN]>,
}

impl GroupKey {
    fn random(epoch: u32, random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        Ok(Self { epoch: KeyEpoch(epoch), secret: fresh(random)? })
    }
}

/// A cluster's shared keys, as one node knows them. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    /// How often somebody was expelled.
    expels: u32,
    /// When the current key became that.
    since: SystemTime,
    previous: Option<GroupKey>,
    /// When the previous key goes, if before the next rotation.
    until: Option<SystemTime>,
    current: GroupKey,
    next: GroupKey,
}

/// Why a ring was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// See [`NoRandomness`].
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// There is no higher epoch. Rotating every second gets there in a century: a manager has made it up.
    #[error("the key ring has no epochs left")]
    UsedUp,
}

/// A ring that came from a node which may not make any; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key rings are taken from managers only")]
pub struct NotAManager;

/// Which ring a node has after it was given another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// Its own: the other is the same or older.
    Kept,
    /// The other, in whole or in part. Sealers and openers need it, disk and other nodes, too.
    Taken,
}

/// Why bytes are no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Another number of bytes than the flags say.
    #[error("key ring: wrong length")]
    Length,
    /// A version that we don't know.
    #[error("key ring: unknown version")]
    Version,
    /// Fields that no ring of ours has: unknown flags, keys out of order, times out of range.
    #[error("key ring: contradicts itself")]
    Inconsistent,
}

impl KeyRing {
    /// The ring of a new cluster.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn make(now: SystemTime, random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let (current, next) = (GroupKey::random(0, random)?, GroupKey::random(1, random)?);
        Ok(Self { expels: 0, since: now, previous: None, until: None, current, next })
    }

    /// The number of the key that is sealed with.
    #[must_use]
    pub fn epoch(&self) -> KeyEpoch {
        self.current.epoch
    }

    /// How often somebody was expelled.
    #[must_use]
    pub fn expels(&self) -> u32 {
        self.expels
    }

    /// When that became the current one.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Makes the next key the current one. For one manager, once [`Self::rotation_due`]; it sends the ring to every
    /// member then.
    ///
    /// # Errors
    /// See [`RotateError`].
    pub fn rotate(&mut self, now: SystemTime, random: &dyn SecureRandom) -> Result<(), RotateError> {
        let after = self.next.epoch.0.checked_add(1).ok_or(RotateError::UsedUp)?;
        let next = GroupKey::random(after, random)?;
        let current = std::mem::replace(&mut self.next, next);
        self.previous = Some(std::mem::replace(&mut self.current, current));
        (self.since, self.until) = (now, None);
        Ok(())
    }

    /// Goes on with keys that nobody has had before, when a node was removed. For the manager that removes it, which
    /// sends the ring to all others at once. The key so far still opens for [`EXPEL_GRACE`].
    ///
    /// A manager that learns of a removal together with a ring which does not follow from its own (after a partition)
    /// expels again: the two sides may each have removed a node that the other side's keys went to.
    ///
    /// # Errors
    /// See [`RotateError`].
    pub fn expel(&mut self, now: SystemTime, random: &dyn SecureRandom) -> Result<(), RotateError> {
        let epoch = |ahead| self.next.epoch.0.checked_add(ahead).ok_or(RotateError::UsedUp);
        let expels = self.expels.checked_add(1).ok_or(RotateError::UsedUp)?;
        let (current, next) = (GroupKey::random(epoch(1)?, random)?, GroupKey::random(epoch(2)?, random)?);
        self.previous = Some(std::mem::replace(&mut self.current, current));
        self.next = next;
        (self.expels, self.since, self.until) = (expels, now, Some(now + EXPEL_GRACE));
        Ok(())
    }

    /// Whether a manager should [`Self::rotate`]. A ring from a clock that was far ahead is due too, or it would
    /// stay for as long as that.
    #[must_use]
    pub fn rotation_due(&self, now: SystemTime) -> bool {
        now >= self.since + ROTATION || now + ROTATION < self.since
    }

    /// Forgets the previous key if it is time. True if it did.
    pub fn handle(&mut self, now: SystemTime) -> bool {
        let due = self.until.is_some_and(|until| now >= until || now + EXPEL_GRACE < until);
        if due {
            (self.previous, self.until) = (None, None);
        }
        due
    }

    /// When to call [`Self::handle`], and on managers to ask whether a rotation is due.
    #[must_use]
    pub fn next_deadline(&self, role: Role) -> Option<SystemTime> {
        let rotation = (role == Role::Manager).then(|| self.since + ROTATION);
        [self.until, rotation].into_iter().flatten().min()
    }

    /// Settles this ring with one that a member of this role has sent over mutual TLS: whoever expelled oftener is
    /// right, then the higher epoch, then whichever has the larger hash, which is as good as any rule that all apply.
    ///
    /// # Errors
    /// [`NotAManager`].
    pub fn merge(&mut self, other: Self, from: Role) -> Result<Merged, NotAManager> {
        if from != Role::Manager {
            return Err(NotAManager);
        }
        let before = self.clone();
        if other.rank() > self.rank() {
            *self = other;
        } else if other.rank() == self.rank() {
            // The same keys; only how long the previous one stays may differ, and the shorter time counts.
            let (ours, theirs) = (self.previous.is_some(), other.previous.is_some());
            self.until = [self.until, other.until].into_iter().flatten().min();
            self.since = self.since.min(other.since);
            if !(ours && theirs) {
                (self.previous, self.until) = (None, None);
            }
        }
        Ok(if *self == before { Merged::Kept } else { Merged::Taken })
    }

    fn rank(&self) -> (u32, KeyEpoch, [u8; 32]) {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"vswitchd key ring");
        hash.update(&*self.current.secret);
        hash.update(&*self.next.secret);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.finish().as_ref());
        (self.expels, self.current.epoch, bytes)
    }

    /// The key to seal with.
    pub(crate) fn current(&self) -> &GroupKey {
        &self.current
    }

    /// The highest epoch.
    pub(crate) fn newest(&self) -> KeyEpoch {
        self.next.epoch
    }

    /// The key of an epoch, if it is among those to open with.
    pub(crate) fn key(&self, epoch: KeyEpoch) -> Option<&GroupKey> {
        [Some(&self.current), self.previous.as_ref(), Some(&self.next)]
            .into_iter()
            .flatten()
            .find(|key| key.epoch == epoch)
    }

    /// The ring as bytes, secrets in clear: for a file that only its owner reads, or a TLS connection to a member.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut flags = 0;
        if self.previous.is_some() {
            flags |= FLAG_PREVIOUS;
        }
        if self.until.is_some() {
            flags |= FLAG_UNTIL;
        }
        // The whole capacity at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(RING_LENS[1]));
        bytes.extend([VERSION, flags]);
        bytes.extend(self.expels.to_be_bytes());
        bytes.extend(seconds(self.since).to_be_bytes());
        bytes.extend(self.until.map_or(0, seconds).to_be_bytes());
        for key in [Some(&self.next), Some(&self.current), self.previous.as_ref()].into_iter().flatten() {
            bytes.extend(key.epoch.0.to_be_bytes());
            bytes.extend(&*key.secret);
        }
        bytes
    }

    /// The reverse. Times come back in whole seconds.
    ///
    /// # Errors
    /// See [`RingError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RingError> {
        let (&version, rest) = bytes.split_first().ok_or(RingError::Length)?;
        if version != VERSION {
            return Err(RingError::Version);
        }
        let (&flags, rest) = rest.split_first().ok_or(RingError::Length)?;
        if flags & !(FLAG_PREVIOUS | FLAG_UNTIL) != 0 || flags == FLAG_UNTIL {
            return Err(RingError::Inconsistent);
        }
        if bytes.len() != RING_LENS[usize::from(flags & FLAG_PREVIOUS)] {
            return Err(RingError::Length);
        }
        let mut reader = Reader(rest);
        let expels = u32::from_be_bytes(reader.take());
        let (since, until) = (reader.time()?, reader.time()?);
        let (next, current) = (reader.key(), reader.key());
        let previous = (flags & FLAG_PREVIOUS != 0).then(|| reader.key());
        let until = (flags & FLAG_UNTIL != 0).then_some(until);
        let ordered = previous.as_ref().is_none_or(|previous| previous.epoch < current.epoch);
        if !ordered || current.epoch >= next.epoch {
            return Err(RingError::Inconsistent);
        }
        Ok(Self { expels, since, previous, until, current, next })
    }
}

/// Reads a ring whose length has been checked.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const LEN: usize>(&mut self) -> [u8; LEN] {
        let (taken, rest) = self.0.split_first_chunk().expect("the length has been checked");
        self.0 = rest;
        *taken
    }

    /// Before the year 9999, so that sums with durations of ours stay in range.
    fn time(&mut self) -> Result<SystemTime, RingError> {
        const END: u64 = 253_370_764_800;
        let seconds = u64::from_be_bytes(self.take());
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.filter(|_| seconds < END).ok_or(RingError::Inconsistent)
    }

    fn key(&mut self) -> GroupKey {
        let epoch = KeyEpoch(u32::from_be_bytes(self.take()));
        GroupKey { epoch, secret: Zeroizing::new(self.take()) }
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("previous", &self.previous.as_ref().map(|key| key.epoch))
            .field("current", &self.current.epoch)
            .field("next", &self.next.epoch)
            .field("expels", &self.expels)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
