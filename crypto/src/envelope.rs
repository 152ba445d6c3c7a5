//! The sealed datagram.
//!
//! ```text
//!   0       1               4                               12             len - 16        len
//!  +-------+---------------+-------------------------------+- - - - - - - -+---------------+
//!  | kind  |    session    |            counter            |  ciphertext   |      tag      |
//!  +-------+---------------+-------------------------------+- - - - - - - -+---------------+
//!   0x81    24 bits,         64 bits, big endian             of the whole    AES-256-GCM,
//!           big endian                                       VXLAN packet    128 bits
//! ```
//!
//! - **Kind** shares its place with the flags of a VXLAN header (RFC 7348 §5), since both arrive at one port.
//!   There the I flag, 0x08, must be set, and 0x80 is reserved and sent as 0; here it is the other way round. So
//!   no VXLAN header is taken for a sealed datagram, and no VXLAN receiver accepts one for a frame.
//! - **Session** is a number that the receiver chose and told the sender: it finds the key, and says nothing else.
//! - **Counter** is that of the datagrams sealed with the key, from 0. The nonce (SP 800-38D §8.2.1, RFC 5116
//!   §3.2) is 32 zero bits and the counter; each key serves one direction, so two ends never meet at a nonce.
//! - The first twelve bytes are the associated data: a changed header fails like a changed payload.
//!
//! What it hides is the payload, not its length, nor who talks to whom.

/// Bytes before the ciphertext.
pub const HEADER_LEN: usize = 12;
/// Bytes behind the ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// The first byte of a sealed datagram.
pub const KIND: u8 = 0x81;

/// RFC 7348 §5: set in every VXLAN header.
const VXLAN_FLAG_VNI: u8 = 0x08;
/// RFC 7348 §5: clear in every VXLAN header.
const VXLAN_RESERVED: u8 = 0x80;
const _: () = assert!(KIND & VXLAN_FLAG_VNI == 0 && KIND & VXLAN_RESERVED != 0);

mod field {
    use std::ops::Range;

    pub(super) const KIND: usize = 0;
    pub(super) const SESSION: Range<usize> = 1..4;
    pub(super) const COUNTER: Range<usize> = 4..12;
}

/// A key's number at its receiver, 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u32);

impl SessionId {
    /// The largest number.
    pub const MAX: u32 = (1 << 24) - 1;

    /// `None` if `id` needs more than 24 bits.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        (id <= Self::MAX).then_some(Self(id))
    }

    /// As a number.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

/// A datagram's place among those sealed with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counter(pub u64);

impl Counter {
    /// 32 zero bits and the counter, big endian.
    pub(crate) fn nonce(self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.0.to_be_bytes());
        nonce
    }
}

/// What a datagram says of itself, before anything has been verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose key it claims to be sealed with.
    pub session: SessionId,
    /// Its place.
    pub counter: Counter,
}

/// Why bytes are no sealed datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Fewer bytes than header and tag have.
    #[error("sealed datagram: truncated")]
    Truncated,
    /// Another first byte than [`KIND`].
    #[error("sealed datagram: unknown kind")]
    Kind,
}

/// Whether a datagram that is no VXLAN packet may be a sealed one. Empty ones are not.
#[must_use]
pub fn is_sealed(datagram: &[u8]) -> bool {
    datagram.first() == Some(&KIND)
}

impl Header {
    /// Reads the header of a datagram of at least [`OVERHEAD`] bytes.
    ///
    /// # Errors
    /// See [`EnvelopeError`].
    pub fn parse(datagram: &[u8]) -> Result<Self, EnvelopeError> {
        if datagram.first().is_some_and(|&kind| kind != KIND) {
            return Err(EnvelopeError::Kind);
        }
        if datagram.len() < OVERHEAD {
            return Err(EnvelopeError::Truncated);
        }
        let (mut session, mut counter) = ([0; 4], [0; 8]);
        session[1..].copy_from_slice(&datagram[field::SESSION]);
        counter.copy_from_slice(&datagram[field::COUNTER]);
        let session = SessionId(u32::from_be_bytes(session));
        Ok(Self { session, counter: Counter(u64::from_be_bytes(counter)) })
    }

    /// The header's bytes.
    #[must_use]
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[field::KIND] = KIND;
        header[field::SESSION].copy_from_slice(&self.session.0.to_be_bytes()[1..]);
        header[field::COUNTER].copy_from_slice(&self.counter.0.to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_diagram() {
        let header =
            Header { session: SessionId::new(0x12_3456).unwrap(), counter: Counter(0x0102_0304_0506_0708) };
        assert_eq!(header.emit(), [0x81, 0x12, 0x34, 0x56, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(header.counter.nonce(), [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn sessions_have_24_bits() {
        assert_eq!(SessionId::new(SessionId::MAX).map(SessionId::id), Some(0xff_ffff));
        assert_eq!(SessionId::new(SessionId::MAX + 1), None);
    }

    #[test]
    fn every_truncation_and_every_other_kind_is_refused() {
        let mut datagram = [0; OVERHEAD];
        datagram[0] = KIND;
        for len in 0..OVERHEAD {
            assert_eq!(Header::parse(&datagram[..len]), Err(EnvelopeError::Truncated), "{len} bytes");
        }
        assert!(Header::parse(&datagram).is_ok());
        for kind in (0..=u8::MAX).filter(|&kind| kind != KIND) {
            datagram[0] = kind;
            assert_eq!(Header::parse(&datagram), Err(EnvelopeError::Kind));
            assert!(!is_sealed(&datagram));
        }
    }

    proptest! {
        #[test]
        fn round_trip(session in 0..=SessionId::MAX, counter: u64, rest in proptest::collection::vec(any::<u8>(), TAG_LEN..64)) {
            let header = Header { session: SessionId::new(session).unwrap(), counter: Counter(counter) };
            let datagram = [&header.emit()[..], &rest].concat();
            prop_assert!(is_sealed(&datagram));
            prop_assert_eq!(Header::parse(&datagram), Ok(header));
        }
    }
}
