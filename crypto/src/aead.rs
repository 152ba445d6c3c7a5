//! AES-256-GCM (SP 800-38D) under data keys, by the library that is the faster one here.
//!
//! That is `ring`, which uses 256-bit vectors. With the cargo feature `aws-lc`, on an x86-64 processor with AVX-512 and
//! vector AES, it is AWS-LC, which has code for 512-bit ones: measured on such a processor, 1.35 times as fast at 1,400
//! bytes and twice at 8,900. Without AVX-512 it falls back to 128-bit ones and is slower than `ring`, so the processor
//! is asked. The bytes are the same, so two hosts need not agree; all but data stays with `ring`.

use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::envelope::{Counter, TAG_LEN};
use crate::key::Key;

/// A data key, ready for use. What it was made from it keeps until dropped.
#[cfg_attr(
    all(feature = "aws-lc", target_arch = "x86_64"),
    expect(clippy::large_enum_variant, reason = "each datagram reads it, so it stays where its session is")
)]
pub(crate) enum DataKey {
    Ring(LessSafeKey),
    #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
    AwsLc(aws_lc_rs::aead::LessSafeKey),
}

impl DataKey {
    pub(crate) fn new(key: &Key) -> Self {
        #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
        if wide::is_faster() {
            return Self::AwsLc(wide::expand(key));
        }
        Self::Ring(key.expand())
    }

    /// Encrypts in place and gives the tag. The nonce must not have been used with this key.
    pub(crate) fn seal(&self, counter: Counter, header: &[u8], plaintext: &mut [u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        match self {
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(counter.nonce());
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(header), plaintext);
                tag.copy_from_slice(made.expect("a datagram is shorter than 64 GiB").as_ref());
            }
            #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
            Self::AwsLc(key) => wide::seal(key, counter, header, plaintext, &mut tag),
        }
        tag
    }

    /// Decrypts what has its tag at the end, in place, and gives the plaintext's length; `None` if the tag is wrong.
    /// The bytes are lost then.
    pub(crate) fn open(&self, counter: Counter, header: &[u8], sealed: &mut [u8]) -> Option<usize> {
        match self {
            Self::Ring(key) => {
                let nonce = Nonce::assume_unique_for_key(counter.nonce());
                let plaintext = key.open_in_place(nonce, Aad::from(header), sealed).ok()?;
                Some(plaintext.len())
            }
            #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
            Self::AwsLc(key) => wide::open(key, counter, header, sealed),
        }
    }
}

/// AWS-LC: the same calls as `ring`'s, on types of its own.
#[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
mod wide {
    use std::arch::is_x86_feature_detected;

    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    use crate::envelope::{Counter, TAG_LEN};
    use crate::key::Key;

    /// Whether it would take its AVX-512 code (`crypto_gcm_avx512_enabled` in its sources).
    pub(super) fn is_faster() -> bool {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("vpclmulqdq")
    }

    pub(super) fn expand(key: &Key) -> LessSafeKey {
        let key =
            UnboundKey::new(&AES_256_GCM, key.bytes()).expect("the key is as long as the algorithm asks");
        LessSafeKey::new(key)
    }

    pub(super) fn seal(
        key: &LessSafeKey,
        counter: Counter,
        header: &[u8],
        plaintext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let nonce = Nonce::assume_unique_for_key(counter.nonce());
        let made = key.seal_in_place_separate_tag(nonce, Aad::from(header), plaintext);
        tag.copy_from_slice(made.expect("a datagram is shorter than 64 GiB").as_ref());
    }

    pub(super) fn open(
        key: &LessSafeKey,
        counter: Counter,
        header: &[u8],
        sealed: &mut [u8],
    ) -> Option<usize> {
        let nonce = Nonce::assume_unique_for_key(counter.nonce());
        let plaintext = key.open_in_place(nonce, Aad::from(header), sealed).ok()?;
        Some(plaintext.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every library that this build has, whether or not it is the one that would be taken here.
    fn keys() -> Vec<DataKey> {
        let key = Key::derive(b"test", &[]);
        vec![
            DataKey::Ring(key.expand()),
            #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
            DataKey::AwsLc(wide::expand(&key)),
        ]
    }

    #[test]
    fn what_one_library_seals_each_opens_and_the_bytes_are_equal() {
        let keys = keys();
        // All lengths of the last vectors, and those around what datagrams and whole runs have.
        for len in (0..1_100).chain(1_400..1_430).chain([8_900, 65_535]) {
            let plaintext: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
            let sealed = keys.iter().map(|key| {
                let mut bytes = plaintext.clone();
                let tag = key.seal(Counter(len as u64), b"header", &mut bytes);
                [&bytes[..], &tag].concat()
            });
            let sealed: Vec<_> = sealed.collect();
            assert!(sealed.iter().all(|bytes| *bytes == sealed[0]), "{len} bytes");
            for key in &keys {
                let mut bytes = sealed[0].clone();
                assert_eq!(key.open(Counter(len as u64), b"header", &mut bytes), Some(len));
                assert_eq!(bytes[..len], plaintext);
            }
        }
    }

    #[test]
    fn each_library_refuses_what_was_changed() {
        for key in keys() {
            let mut whole = vec![7; 300 + TAG_LEN];
            let tag = key.seal(Counter(1), b"header", &mut whole[..300]);
            whole[300..].copy_from_slice(&tag);
            assert_eq!(key.open(Counter(1), b"header", &mut whole.clone()), Some(300));
            assert_eq!(key.open(Counter(2), b"header", &mut whole.clone()), None);
            assert_eq!(key.open(Counter(1), b"Header", &mut whole.clone()), None);
            for len in 0..whole.len() {
                assert_eq!(key.open(Counter(1), b"header", &mut whole[..len].to_vec()), None, "{len} bytes");
            }
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 0x80 >> (bit % 8);
                assert_eq!(key.open(Counter(1), b"header", &mut bytes), None, "bit {bit}");
            }
        }
    }

    #[test]
    fn the_feature_alone_takes_nothing_from_ring() {
        let takes_ring = matches!(DataKey::new(&Key::derive(b"test", &[])), DataKey::Ring(_));
        #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
        assert_eq!(takes_ring, !wide::is_faster());
        #[cfg(not(all(feature = "aws-lc", target_arch = "x86_64")))]
        assert!(takes_ring);
    }
}
