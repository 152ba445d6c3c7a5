//! The one place where values become bytes: bincode behind a version byte, with a limit.
//!
//! Only for bytes whose sender is known: what arrives here has been opened by [`crate::Sealing`], came over mutual TLS,
//! or was read from our own disk. bincode is no longer maintained (RUSTSEC-2025-0141); it is pinned to 2.0.1, which
//! has no known flaw, and nothing outside of this module names it, so that another format of serde's is a change here
//! and of [`VERSION`].
//!
//! ```text
//! +---------+----------------------------------------------+
//! | version | bincode 2, standard configuration (varints)  |
//! +---------+----------------------------------------------+
//! ```

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of everything encoded. Another one is refused, not guessed at.
pub const VERSION: u8 = 1;

/// Most bytes that a value is read from: a whole bulk transfer or snapshot. It bounds what a forged length can make us
/// allocate, too.
pub const SIZE_LIMIT: usize = 16 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<SIZE_LIMIT>> =
    config::standard().with_limit::<SIZE_LIMIT>();

/// Bytes that are no value of the wanted type. Nothing was changed by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes at all.
    #[error("empty")]
    Empty,
    /// Written by another version.
    #[error("format version {0}, not {VERSION}")]
    Version(u8),
    /// Longer than [`SIZE_LIMIT`].
    #[error("longer than {SIZE_LIMIT} bytes")]
    TooLong,
    /// Cut short, a length beyond the end, an unknown variant, text that isn't UTF-8.
    #[error("malformed")]
    Malformed,
    /// A value, and bytes behind it.
    #[error("bytes left over")]
    Trailing,
}

/// `value` as bytes, version byte first.
///
/// # Panics
/// If `value` can't be encoded, which no type of this crate can bring about: none has a map of unknown length or an
/// encoder of its own that fails.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    append(value, &mut bytes);
    bytes
}

/// The value that [`encode`] made `bytes` of.
///
/// # Errors
/// Whatever else the bytes are; see [`DecodeError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (&version, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if version != VERSION {
        return Err(DecodeError::Version(version));
    }
    if body.len() > SIZE_LIMIT {
        return Err(DecodeError::TooLong);
    }
    let (value, read) = take(body)?;
    if read == body.len() { Ok(value) } else { Err(DecodeError::Trailing) }
}

/// Appends `value` without a version byte: for parts of a message that has one.
pub(crate) fn append<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, bytes, CONFIG)
        .expect("a vector takes any length, and our types encode");
}

/// A value at the start of `bytes`, and how many of them it took.
pub(crate) fn take<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_every_truncation_and_golden_bytes() {
        let value = (300_u64, "name".to_owned(), vec![1_u8, 2, 3], Some(false));
        let bytes = encode(&value);
        assert_eq!(
            bytes,
            [1, 251, 44, 1, 4, b'n', b'a', b'm', b'e', 3, 1, 2, 3, 1, 0],
            "the format has changed"
        );
        assert_eq!(decode::<(u64, String, Vec<u8>, Option<bool>)>(&bytes), Ok(value));
        for length in 0..bytes.len() {
            assert!(decode::<(u64, String, Vec<u8>, Option<bool>)>(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn versions_lengths_and_trailing_bytes_are_refused() {
        assert_eq!(decode::<u8>(&[]), Err(DecodeError::Empty));
        assert_eq!(decode::<u8>(&[9, 0]), Err(DecodeError::Version(9)));
        assert_eq!(decode::<u8>(&[VERSION, 0, 0]), Err(DecodeError::Trailing));
        // A vector of 2^62 elements.
        let hostile = [VERSION, 253, 0, 0, 0, 0, 0, 0, 0, 64];
        assert_eq!(decode::<Vec<u64>>(&hostile), Err(DecodeError::Malformed));
    }
}
