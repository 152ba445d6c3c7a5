//! Sealing, in place.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::aead::DataKey;
use crate::envelope::{Counter, HEADER_LEN, Header, OVERHEAD, SessionId, TAG_LEN};
use crate::key::Key;

/// Datagrams sealed with one key; not one more, whoever asks.
///
/// SP 800-38D §8.3 lets no key be used oftener, unless its nonces count as ours do. What still wears a counting
/// key out is that AES is a permutation: by the formula of RFC 9001, appendix B.1.1, an attacker who sees all of
/// them gains no more than 2^-49 if each is below 2 KiB, and 2^-39 if each has 64 KiB. At a million datagrams a
/// second it lasts 71 minutes.
pub const SEALS_MAX: u64 = 1 << 32;

/// Datagrams after which a key is to be renewed, long before it must be: RFC 9001, appendix B.1.1, lets an
/// attacker gain no more than 2^-57 up to here (packets below 2 KiB).
pub const SEALS_RENEW: u64 = 1 << 28;

/// The sending end of one direction of a session. Shared by every thread that sends to its peer.
pub struct Sealer {
    key: DataKey,
    session: SessionId,
    limit: u64,
    next: Next,
}

/// Counts in a cache line of its own (two, for the prefetcher): every thread writes it, and the key is only read.
#[repr(align(128))]
struct Next(AtomicU64);

/// As many datagrams have been sealed as may be: the key is used up, nothing was sealed, and nothing will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key has sealed as many datagrams as it may")]
pub struct UsedUp;

impl Sealer {
    /// An end for a key that nothing has been sealed with, and nothing else is sealed with.
    ///
    /// This is what nonces depend on: two sealers of one key, or one made again after a restart, seal different
    /// datagrams with equal nonces, which gives both away and lets anybody forge (SP 800-38D, appendix A).
    ///
    /// `session` is what the receiver calls the key.
    #[must_use]
    pub fn new(key: &Key, session: SessionId) -> Self {
        Self::limited(key, session, SEALS_MAX)
    }

    /// The same for a key that is to seal only so many datagrams; [`SEALS_MAX`] if `limit` is more.
    #[must_use]
    pub fn limited(key: &Key, session: SessionId, limit: u64) -> Self {
        let (key, limit) = (DataKey::new(key), limit.min(SEALS_MAX));
        Self { key, session, limit, next: Next(AtomicU64::new(0)) }
    }

    /// What the receiver calls the key.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Datagrams sealed so far; from [`SEALS_RENEW`] on a new key is due.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.next.0.load(Ordering::Relaxed).min(self.limit)
    }

    /// Takes the right to seal so many datagrams, all or none: one access to what the threads share, for a whole
    /// run.
    ///
    /// # Errors
    /// [`UsedUp`]: there are not so many left.
    pub fn reserve(&self, datagrams: u64) -> Result<Seals<'_>, UsedUp> {
        let fits = |next: u64| next.checked_add(datagrams).filter(|&end| end <= self.limit);
        // Looked at before adding, so that asking again and again can't wrap it; looked at again after, because
        // others may have added meanwhile. Each counter is given once since adding is atomic; nothing else is
        // ordered by it.
        fits(self.next.0.load(Ordering::Relaxed)).ok_or(UsedUp)?;
        let start = self.next.0.fetch_add(datagrams, Ordering::Relaxed);
        let end = fits(start).ok_or(UsedUp)?;
        Ok(Seals { sealer: self, counters: start..end })
    }

    /// Seals one datagram; see [`Seals::seal`].
    ///
    /// # Errors
    /// [`UsedUp`]; the bytes are as they were.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`OVERHEAD`].
    pub fn seal(&self, datagram: &mut [u8]) -> Result<(), UsedUp> {
        self.reserve(1)?.seal(datagram);
        Ok(())
    }
}

/// The right to seal some datagrams, with counters that nobody else gets.
#[derive(Debug)]
pub struct Seals<'s> {
    sealer: &'s Sealer,
    counters: Range<u64>,
}

impl Seals<'_> {
    /// Seals in place: `datagram` has [`HEADER_LEN`] bytes for the header, the plaintext, and [`TAG_LEN`] bytes
    /// for the tag.
    ///
    /// # Panics
    /// If `datagram` is shorter than [`OVERHEAD`], or as many as were reserved have been sealed.
    pub fn seal(&mut self, datagram: &mut [u8]) {
        assert!(datagram.len() >= OVERHEAD, "no room for header and tag");
        let Sealer { key, session, .. } = self.sealer;
        let counter = Counter(self.counters.next().expect("no more than were reserved"));
        let (header, rest) = datagram.split_at_mut(HEADER_LEN);
        let (plaintext, tag) = rest.split_at_mut(rest.len() - TAG_LEN);
        header.copy_from_slice(&Header { session: *session, counter }.emit());
        tag.copy_from_slice(&key.seal(counter, header, plaintext));
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("session", &self.session)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        SessionId::new(0x0a_0b0c).unwrap()
    }

    fn room(plaintext: &[u8]) -> Vec<u8> {
        [&[0; HEADER_LEN][..], plaintext, &[0; TAG_LEN]].concat()
    }

    /// Made with OpenSSL: key 00 01 … 1f, counters 0 and 1.
    #[test]
    fn the_bytes_are_those_that_another_library_makes() {
        let key: [u8; 32] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        let sealer = Sealer::new(&Key::new(&key), session());
        for want in GOLDEN {
            let mut datagram = room(b"whole VXLAN packet");
            sealer.seal(&mut datagram).unwrap();
            let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, want);
        }
        assert_eq!(sealer.used(), 2);
    }

    const GOLDEN: [&str; 2] = [
        "810a0b0c000000000000000079d4dab2d00cd5e544e9e715684df2f2b73778c1c1f3300fe39e4ca4182a331f166b",
        "810a0b0c000000000000000162bed09021d46646426f1f199cc7599c70ebddccc361278b6373a5f12484639684f9",
    ];

    #[test]
    fn a_used_up_key_seals_nothing_however_often_asked() {
        let sealer = Sealer::limited(&Key::new(&[7; 32]), session(), 1);
        let clear = room(b"clear");
        let mut datagram = clear.clone();
        assert_eq!(sealer.seal(&mut datagram), Ok(()));
        for _ in 0..3 {
            datagram.clone_from(&clear);
            assert_eq!(sealer.seal(&mut datagram), Err(UsedUp));
            assert_eq!(datagram, clear);
            assert_eq!(sealer.used(), 1);
        }
    }

    #[test]
    fn no_key_lasts_longer_than_the_standard_lets_it() {
        for limit in [SEALS_MAX + 1, u64::MAX] {
            let sealer = Sealer::limited(&Key::new(&[7; 32]), session(), limit);
            sealer.next.0.store(SEALS_MAX - 1, Ordering::Relaxed);
            assert_eq!(sealer.reserve(2).map(|seals| seals.counters), Err(UsedUp));
            assert_eq!(sealer.reserve(1).map(|seals| seals.counters), Ok(SEALS_MAX - 1..SEALS_MAX));
            for datagrams in [1, u64::MAX] {
                assert_eq!(sealer.reserve(datagrams).map(|seals| seals.counters), Err(UsedUp));
            }
            assert_eq!(sealer.used(), SEALS_MAX);
        }
    }

    #[test]
    fn threads_never_share_a_counter() {
        const EACH: u64 = 3_000;
        const LIMIT: u64 = 3 * EACH;
        let sealer = Sealer::limited(&Key::new(&[7; 32]), session(), LIMIT);
        let take = |datagrams: u64| {
            let taken = (0..EACH / datagrams).filter_map(|_| sealer.reserve(datagrams).ok());
            taken.flat_map(|seals| seals.counters).collect::<Vec<_>>()
        };
        let mut taken = std::thread::scope(|scope| {
            let threads: Vec<_> =
                [1, 2, 3, 4, 5].map(|datagrams| scope.spawn(move || take(datagrams))).into();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        taken.sort_unstable();
        assert!(taken.iter().all(|&counter| counter < LIMIT) && taken.is_sorted_by(|a, b| a < b));
        // Whoever fails at the limit has lost what was left there, of which there is less than one's share.
        assert!(taken.len() as u64 > LIMIT - 5 * 5, "{} of {LIMIT}", taken.len());
    }

    #[test]
    fn debug_output_has_no_key() {
        let text = format!("{:?}", Sealer::new(&Key::new(&[0xaa; 32]), session()));
        assert_eq!(text, "Sealer { session: SessionId(658188), used: 0, .. }");
    }
}
