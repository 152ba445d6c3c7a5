//! Datagrams for any member: sealed under keys that every member can derive.
//!
//! ```text
//!   0      1         5                  21             29             37            len - 16      len
//!  +------+---------+------------------+--------------+--------------+- - - - - - -+-------------+
//!  | kind |  epoch  |      sender      |     boot     |   counter    | ciphertext  |     tag     |
//!  +------+---------+------------------+--------------+--------------+- - - - - - -+-------------+
//!   0x82   of the     node id            random         64 bits,                     AES-256-GCM,
//!          key, 32                                      big endian                   128 bits
//! ```
//!
//! The key is HKDF-SHA256 (RFC 5869) of the group key of that [`KeyEpoch`], with the purpose, the sender and the
//! boot as info; the nonce is 32 zero bits and the counter (SP 800-38D §8.2.1); the bytes before the ciphertext are
//! the associated data.
//!
//! **No nonce is used twice.** Senders never share a key, since their ids differ. A sender draws a new boot, 64
//! random bits, at each start and each time its group key changes, and counts from 0: so neither a restart nor a
//! clock that was set back, nor a ring that comes again repeats a key. Two boots of one sender under one group key are
//! equal with a chance of 2^-32 (what SP 800-38D §8 allows) only after 65,536 of them, which is a restart every
//! second for 12 hours and more.
//!
//! **What it proves** is that a member sealed the datagram. Which one, members have to believe each other: whoever
//! has the group key can derive every sender's.
//!
//! **Replays** are refused for each sender and boot, as [`crate::replay`] does. A node that has just started knows
//! nothing of before: as long as the ring has their key, it would open datagrams that were recorded. What is said in
//! them must bear being heard late and again.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use ring::aead::{Aad, LessSafeKey, Nonce};
use ring::rand::SecureRandom;

use crate::envelope::{Counter, TAG_LEN};
use crate::identity::{ID_LEN, NoRandomness, NodeId, fresh};
use crate::key::Key;
use crate::keyring::{GroupKey, KeyEpoch, KeyRing};
use crate::replay::Window;
use crate::seal::{SEALS_MAX, UsedUp};

/// Bytes before the ciphertext.
pub const HEADER_LEN: usize = 37;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// The first byte. Not that of data ([`crate::envelope::KIND`]), nor that of a VXLAN header.
pub const KIND: u8 = 0x82;

/// Senders' boots that an opener remembers counters of; the one not heard for longest goes when another is heard. A
/// thousand nodes need three thousand around a rotation. Each takes about 1.5 KiB.
pub const STREAMS_MAX: usize = 4_096;
/// Boots of one sender under one key that are remembered, so that a node which restarts all the time does not
/// drive out the others.
pub const BOOTS_MAX: usize = 16;

/// Blocks of a replay window: counters up to 2,016 behind the highest are told apart.
const WINDOW_BLOCKS: usize = 64;
const PURPOSE: &[u8] = b"vswitchd group datagram 1";

mod field {
    use std::ops::Range;

    pub(super) const KIND: usize = 0;
    pub(super) const EPOCH: Range<usize> = 1..5;
    pub(super) const SENDER: Range<usize> = 5..21;
    pub(super) const BOOT: Range<usize> = 21..29;
    pub(super) const COUNTER: Range<usize> = 29..37;
}
const _: () = assert!(field::COUNTER.end == HEADER_LEN && field::SENDER.end - field::SENDER.start == ID_LEN);

/// A sender's use of a key, from its start or from the key's until either ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BootId(u64);

/// What a datagram says of itself, before anything has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Of the group key.
    pub epoch: KeyEpoch,
    /// Who sealed it.
    pub sender: NodeId,
    /// Since when.
    pub boot: BootId,
    /// Its place.
    pub counter: Counter,
}

impl Header {
    /// Reads the header of a datagram of at least [`OVERHEAD`] bytes; `None` if it is none.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < OVERHEAD || datagram[field::KIND] != KIND {
            return None;
        }
        let number = |range: Range<usize>| {
            datagram[range].iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte))
        };
        let mut sender = [0; ID_LEN];
        sender.copy_from_slice(&datagram[field::SENDER]);
        let epoch = u32::try_from(number(field::EPOCH)).expect("four bytes");
        Some(Self {
            epoch: KeyEpoch(epoch),
            sender: NodeId::from_bytes(sender),
            boot: BootId(number(field::BOOT)),
            counter: Counter(number(field::COUNTER)),
        })
    }

    /// The header's bytes.
    #[must_use]
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[field::KIND] = KIND;
        header[field::EPOCH].copy_from_slice(&self.epoch.0.to_be_bytes());
        header[field::SENDER].copy_from_slice(self.sender.as_bytes());
        header[field::BOOT].copy_from_slice(&self.boot.0.to_be_bytes());
        header[field::COUNTER].copy_from_slice(&self.counter.0.to_be_bytes());
        header
    }
}

fn derive(key: &GroupKey, sender: NodeId, boot: BootId) -> LessSafeKey {
    // Parts of fixed length, so no two lists of them run together to the same info.
    Key::derive(&*key.secret, &[PURPOSE, sender.as_bytes(), &boot.0.to_be_bytes()]).expand()
}

/// The sending end: one for each node, which makes another at each start.
pub struct GroupSealer {
    group: GroupKey,
    key: LessSafeKey,
    sender: NodeId,
    boot: BootId,
    next: u64,
}

impl GroupSealer {
    /// An end for what this node sends.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn new(sender: NodeId, ring: &KeyRing, random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let boot = BootId(u64::from_be_bytes(*fresh(random)?));
        let group = ring.current().clone();
        Ok(Self { key: derive(&group, sender, boot), group, sender, boot, next: 0 })
    }

    /// Goes over to the ring's current key, if it is another.
    ///
    /// # Errors
    /// [`NoRandomness`]; it goes on with the old key.
    pub fn update(&mut self, ring: &KeyRing, random: &dyn SecureRandom) -> Result<(), NoRandomness> {
        if self.group != *ring.current() {
            *self = Self::new(self.sender, ring, random)?;
        }
        Ok(())
    }

    /// Seals in place: `datagram` has [`HEADER_LEN`] bytes for the header, the plaintext, and [`TAG_LEN`] bytes for
    /// the tag.
    ///
    /// # Errors
    /// [`UsedUp`] after [`SEALS_MAX`] datagrams under one key; the next rotation brings another.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`OVERHEAD`].
    pub fn seal(&mut self, datagram: &mut [u8]) -> Result<(), UsedUp> {
        assert!(datagram.len() >= OVERHEAD, "no room for header and tag");
        if self.next >= SEALS_MAX {
            return Err(UsedUp);
        }
        let counter = Counter(self.next);
        self.next += 1;
        let Self { sender, boot, .. } = *self;
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        let (plaintext, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        header.copy_from_slice(&Header { epoch: self.group.epoch, sender, boot, counter }.emit());
        let nonce = Nonce::assume_unique_for_key(counter.nonce());
        let made = self.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), plaintext);
        tag.copy_from_slice(made.expect("a datagram is shorter than 64 GiB").as_ref());
        Ok(())
    }
}

impl fmt::Debug for GroupSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSealer")
            .field("epoch", &self.group.epoch)
            .field("sender", &self.sender)
            .field("used", &self.next)
            .finish_non_exhaustive()
    }
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, or of another kind.
    #[error("not a sealed group datagram")]
    Malformed,
    /// Of a key that the ring has not. If `newer`, there may be a newer ring to ask a manager for; but anybody can
    /// send such a number, so ask seldom.
    #[error("sealed with an unknown group key")]
    UnknownEpoch {
        /// Above every epoch of the ring.
        newer: bool,
    },
    /// Our own, sent back by somebody.
    #[error("sealed by this node itself")]
    Reflected,
    /// Not sealed by a member, or changed since. The datagram's bytes are lost.
    #[error("the datagram does not open")]
    Failed,
    /// Opened before, or too old to tell. Its bytes are to be let go of.
    #[error("the datagram has been opened before, or is too old")]
    Replayed,
}

/// What was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The member that it says it is from.
    pub sender: NodeId,
    /// Where in the datagram the plaintext is.
    pub plaintext: Range<usize>,
}

/// What is kept of a sender's boot.
struct Stream {
    key: LessSafeKey,
    window: Window<WINDOW_BLOCKS>,
    /// When it was last heard, in datagrams opened.
    heard: u64,
}

/// The receiving end for datagrams of all other members.
pub struct GroupOpener {
    own: NodeId,
    ring: KeyRing,
    streams: BTreeMap<(KeyEpoch, NodeId, BootId), Stream>,
    opened: u64,
}

impl GroupOpener {
    /// An end for what this node receives.
    #[must_use]
    pub fn new(own: NodeId, ring: KeyRing) -> Self {
        Self { own, ring, streams: BTreeMap::new(), opened: 0 }
    }

    /// Opens with the keys of this ring from here on, and no more with others.
    pub fn update(&mut self, ring: KeyRing) {
        let same = |epoch| ring.key(epoch).is_some_and(|key| self.ring.key(epoch) == Some(key));
        self.streams.retain(|&(epoch, ..), _| same(epoch));
        self.ring = ring;
    }

    /// Opens a datagram in place. Nothing is remembered of one whose tag does not verify.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&mut self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        let header = Header::parse(datagram).ok_or(OpenError::Malformed)?;
        let Header { epoch, sender, boot, counter } = header;
        let Some(group) = self.ring.key(epoch) else {
            return Err(OpenError::UnknownEpoch { newer: epoch > self.ring.newest() });
        };
        if sender == self.own {
            return Err(OpenError::Reflected);
        }
        let (aad, sealed) = datagram.split_at_mut(HEADER_LEN);
        let nonce = Nonce::assume_unique_for_key(counter.nonce());
        let id = (epoch, sender, boot);
        let opened = self.opened;
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.key.open_in_place(nonce, Aad::from(&*aad), sealed).map_err(|_| OpenError::Failed)?;
            stream.window.note(counter).map_err(|_| OpenError::Replayed)?;
            stream.heard = opened;
        } else {
            let stream =
                Stream { key: derive(group, sender, boot), window: Window::default(), heard: opened };
            stream.key.open_in_place(nonce, Aad::from(&*aad), sealed).map_err(|_| OpenError::Failed)?;
            stream.window.note(counter).map_err(|_| OpenError::Replayed)?;
            self.make_room(epoch, sender);
            self.streams.insert(id, stream);
        }
        self.opened += 1;
        Ok(Opened { sender, plaintext: HEADER_LEN..datagram.len() - TAG_LEN })
    }

    /// Lets go of what has not been heard for longest, if a limit is reached.
    fn make_room(&mut self, epoch: KeyEpoch, sender: NodeId) {
        let boots = (epoch, sender, BootId(0))..=(epoch, sender, BootId(u64::MAX));
        let oldest = if self.streams.range(boots.clone()).count() >= BOOTS_MAX {
            self.streams.range(boots).min_by_key(|(_, stream)| stream.heard)
        } else if self.streams.len() >= STREAMS_MAX {
            self.streams.iter().min_by_key(|(_, stream)| stream.heard)
        } else {
            None
        };
        if let Some((&oldest, _)) = oldest {
            self.streams.remove(&oldest);
        }
    }
}

impl fmt::Debug for GroupOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupOpener")
            .field("own", &self.own)
            .field("ring", &self.ring)
            .field("streams", &self.streams.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
