//! Opening, in place.

use std::ops::Range;

use crate::aead::DataKey;
use crate::envelope::{HEADER_LEN, Header, SessionId};
use crate::key::Key;
use crate::replay::Window;

/// The receiving end of one direction of a session. Shared by every thread that receives from its peer.
///
/// GCM also bounds how many forgeries a key may be tried with: 2^52 for the longest datagrams (RFC 9001, appendix
/// B.1.2). At ten million a second that is fourteen years, so they are not counted against the key.
pub struct Opener {
    key: DataKey,
    session: SessionId,
    window: Window,
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not sealed by the holder of the key, or changed since; there is nothing more to be told of it. The
    /// datagram's bytes are lost.
    #[error("the datagram does not open")]
    Failed,
    /// Sealed by the holder of the key, but opened before, or too old to tell
    /// ([`crate::replay::WINDOW`]). Its bytes are to be let go of.
    #[error("the datagram has been opened before, or is too old")]
    Replayed,
}

impl Opener {
    /// An end for a key that nothing has been opened with: another one of the same key would open everything
    /// once more.
    ///
    /// `session` is our own choice, and differs among the openers of one host.
    #[must_use]
    pub fn new(key: &Key, session: SessionId) -> Self {
        Self { key: DataKey::new(key), session, window: Window::default() }
    }

    /// The number by which a datagram asks for this end.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Opens a datagram in place and gives where in it the plaintext is.
    ///
    /// The tag is verified before the window is asked, so that nobody else can move it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(&self, datagram: &mut [u8]) -> Result<Range<usize>, OpenError> {
        let header = Header::parse(datagram).map_err(|_| OpenError::Failed)?;
        if header.session != self.session {
            return Err(OpenError::Failed);
        }
        let (aad, sealed) = datagram.split_at_mut(HEADER_LEN);
        let plaintext = self.key.open(header.counter, aad, sealed).ok_or(OpenError::Failed)?;
        let range = HEADER_LEN..HEADER_LEN + plaintext;
        self.window.note(header.counter).map_err(|_| OpenError::Replayed)?;
        Ok(range)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("session", &self.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::{OVERHEAD, TAG_LEN};
    use crate::seal::Sealer;

    fn key() -> Key {
        Key::new(&[0xaa; 32])
    }

    fn session(id: u32) -> SessionId {
        SessionId::new(id).unwrap()
    }

    fn ends() -> (Sealer, Opener) {
        (Sealer::new(&key(), session(7)), Opener::new(&key(), session(7)))
    }

    fn seal(sealer: &Sealer, plaintext: &[u8]) -> Vec<u8> {
        let mut datagram = [&[0; HEADER_LEN][..], plaintext, &[0; TAG_LEN]].concat();
        sealer.seal(&mut datagram).unwrap();
        datagram
    }

    #[test]
    fn a_second_time_is_a_replay() {
        let (sealer, opener) = ends();
        let datagrams: Vec<_> = (0..3).map(|_| seal(&sealer, b"again")).collect();
        for datagram in [&datagrams[2], &datagrams[0], &datagrams[1]] {
            assert_eq!(opener.open(&mut datagram.clone()), Ok(HEADER_LEN..HEADER_LEN + 5));
            assert_eq!(opener.open(&mut datagram.clone()), Err(OpenError::Replayed));
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_fails() {
        let (sealer, opener) = ends();
        let whole = seal(&sealer, b"payload");
        for len in 0..whole.len() {
            assert_eq!(opener.open(&mut whole[..len].to_vec()), Err(OpenError::Failed), "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut datagram = whole.clone();
            datagram[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(opener.open(&mut datagram), Err(OpenError::Failed), "bit {bit}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(opener.open(&mut longer.clone()), Err(OpenError::Failed));
        assert_eq!(
            opener.open(&mut whole.clone()),
            Ok(HEADER_LEN..HEADER_LEN + 7),
            "none has moved the window"
        );
    }

    #[test]
    fn another_session_or_key_fails() {
        let (sealer, _) = ends();
        let datagram = seal(&sealer, b"payload");
        for other in [Opener::new(&key(), session(8)), Opener::new(&Key::new(&[0xab; 32]), session(7))] {
            assert_eq!(opener_outcome(&other, &datagram), Err(OpenError::Failed));
        }
        // The number is covered by the tag too.
        let mut renamed = datagram;
        renamed[3] = 8;
        assert_eq!(opener_outcome(&Opener::new(&key(), session(8)), &renamed), Err(OpenError::Failed));
    }

    fn opener_outcome(opener: &Opener, datagram: &[u8]) -> Result<Range<usize>, OpenError> {
        opener.open(&mut datagram.to_vec())
    }

    #[test]
    fn a_forged_counter_does_not_close_the_window() {
        let (sealer, opener) = ends();
        let whole = seal(&sealer, b"payload");
        let mut forged = whole.clone();
        forged[4..HEADER_LEN].copy_from_slice(&(1_u64 << 31).to_be_bytes());
        assert_eq!(opener_outcome(&opener, &forged), Err(OpenError::Failed));
        assert!(opener_outcome(&opener, &whole).is_ok());
    }

    #[test]
    fn debug_output_has_no_key() {
        assert_eq!(format!("{:?}", ends().1), "Opener { session: SessionId(7), .. }");
    }

    proptest! {
        #[test]
        fn round_trip(plaintext in proptest::collection::vec(any::<u8>(), 0..4_096)) {
            let (sealer, opener) = ends();
            let mut datagram = seal(&sealer, &plaintext);
            prop_assert_eq!(datagram.len(), plaintext.len() + OVERHEAD);
            let range = opener.open(&mut datagram);
            prop_assert_eq!(range.map(|range| datagram[range].to_vec()), Ok(plaintext));
        }
    }
}
