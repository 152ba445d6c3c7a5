//! Secrets that are held as bytes.

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// A key for AES-256-GCM, good for one direction between two hosts. Wiped when dropped; never printed.
pub struct Key(Zeroizing<[u8; KEY_LEN]>);

impl Key {
    /// A key whose bytes come from elsewhere, such as a TLS exporter (RFC 8446 §7.5). They must be secret, and
    /// as good as random; whoever holds them should wipe them.
    #[must_use]
    pub fn new(bytes: &[u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// Derives a key from a secret by HKDF-SHA256 (RFC 5869) without salt; another `info` gives another key,
    /// from which neither the first nor the secret can be told.
    ///
    /// `secret` must have the entropy of a key: a password has not.
    #[must_use]
    pub fn derive(secret: &[u8], info: &[&[u8]]) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        Salt::new(HKDF_SHA256, &[])
            .extract(secret)
            .expand(info, &AES_256_GCM)
            .and_then(|output| output.fill(&mut *bytes))
            .expect("HKDF gives up to 255 hashes' length, and a key is one");
        Self(bytes)
    }

    #[cfg(all(feature = "aws-lc", target_arch = "x86_64"))]
    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key in the form that `ring` works with, which it keeps until dropped but does not wipe.
    pub(crate) fn expand(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0).expect("the key is as long as the algorithm asks");
        // "Less safe" since it takes any nonce: `Sealer` sees to it that none comes twice.
        LessSafeKey::new(key)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivation_is_that_of_rfc_5869() {
        // Appendix A.3: no salt, no info; the first of its 42 bytes.
        let key = Key::derive(&[0x0b; 22], &[]);
        let want = [
            0x8d, 0xa4, 0xe7, 0x75, 0xa5, 0x63, 0xc1, 0x8f, 0x71, 0x5f, 0x80, 0x2a, 0x06, 0x3c, 0x5a, 0x31,
            0xb8, 0xa1, 0x1f, 0x5c, 0x5e, 0xe1, 0x87, 0x9e, 0xc3, 0x45, 0x4e, 0x5f, 0x3c, 0x73, 0x8d, 0x2d,
        ];
        assert_eq!(*key.0, want);
    }

    #[test]
    fn another_purpose_is_another_key() {
        let key = |info: &[u8]| Key::derive(&[1; KEY_LEN], &[info]);
        assert_eq!(*key(b"there").0, *key(b"there").0);
        assert_ne!(*key(b"there").0, *key(b"back").0);
    }

    #[test]
    fn debug_output_has_no_key() {
        assert_eq!(format!("{:?}", Key::new(&[0xaa; KEY_LEN])), "Key(redacted)");
    }
}
