//! Who a node is: its id, the role it has, the cluster it is in, and the key by which it proves that.
//!
//! Ids are 128 random bits, written as 25 digits of base 36, like Docker's. A node keeps its id and key over
//! restarts; another cluster means another id. The key is Ed25519 (RFC 8032) and signs TLS handshakes (RFC 8446
//! §4.4.3) and certificate requests; it never leaves its node.

use std::fmt;
use std::str::FromStr;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use ring::rand::SecureRandom;
use rustls::pki_types::{CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::base36::{self, Base36Error};

/// Bytes of an id.
pub const ID_LEN: usize = 16;
/// Characters of an id.
pub const ID_WIDTH: usize = 25;

/// The source of randomness failed; nothing was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct NoRandomness;

/// So many random bytes, wiped when dropped.
pub(crate) fn fresh<const LEN: usize>(
    random: &dyn SecureRandom,
) -> Result<Zeroizing<[u8; LEN]>, NoRandomness> {
    let mut bytes = Zeroizing::new([0; LEN]);
    random.fill(&mut *bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; ID_LEN]);

        impl $name {
            /// A new one.
            ///
            /// # Errors
            /// [`NoRandomness`].
            pub fn random(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
                Ok(Self(*fresh(random)?))
            }

            /// One whose bytes are known.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; ID_LEN]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; ID_LEN] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = String::with_capacity(ID_WIDTH);
                base36::encode(&self.0, ID_WIDTH, &mut text);
                f.pad(&text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Base36Error;

            fn from_str(text: &str) -> Result<Self, Base36Error> {
                let mut bytes = [0; ID_LEN];
                base36::decode(text, ID_WIDTH, &mut bytes)?;
                Ok(Self(bytes))
            }
        }
    };
}

id! {
    /// A node, for as long as it is a member of its cluster.
    NodeId
}
id! {
    /// A cluster, for as long as it has the same CA.
    ClusterId
}

/// What a node may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Carries traffic, and reads what managers write.
    Worker,
    /// Lets nodes in and out, rotates keys, and writes what the whole cluster shares.
    Manager,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 2] = [Self::Worker, Self::Manager];

    /// As commands and certificates spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither worker nor manager")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(UnknownRole)
    }
}

/// Bytes of an Ed25519 private key (RFC 8032 §5.1.5).
const SEED_LEN: usize = 32;
/// What PKCS #8, version 1, has before it (RFC 8410 §7). Version 2 with a public key, as `ring` writes it, is not read
/// by every OpenSSL.
const PKCS8_HEAD: &[u8] = &[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// A private key, of a node or of a CA. Wiped when dropped, but for the copy that `ring` works with; never printed.
pub struct PrivateKey(Zeroizing<KeyPair>);

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// See [`NoRandomness`].
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// Not an Ed25519 key in PKCS #8 (RFC 8410), or not in PEM where that was asked for.
    #[error("not a private key of ours")]
    Malformed,
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate(random: &dyn SecureRandom) -> Result<Self, KeyError> {
        let seed = fresh::<SEED_LEN>(random)?;
        let mut der = Zeroizing::new([0; PKCS8_HEAD.len() + SEED_LEN]);
        let (head, rest) = der.split_at_mut(PKCS8_HEAD.len());
        head.copy_from_slice(PKCS8_HEAD);
        rest.copy_from_slice(&*seed);
        Self::from_der(&*der)
    }

    /// A key that [`Self::to_der`] gave.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_der(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &rcgen::PKCS_ED25519);
        pair.map(|pair| Self(Zeroizing::new(pair))).map_err(|_| KeyError::Malformed)
    }

    /// PKCS #8 in DER, for a file that only its owner reads.
    #[must_use]
    pub fn to_der(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.serialize_der())
    }

    /// A key that [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pem_and_sign_algo(pem, &rcgen::PKCS_ED25519);
        pair.map(|pair| Self(Zeroizing::new(pair))).map_err(|_| KeyError::Malformed)
    }

    /// PKCS #8 in PEM (RFC 7468), for a file that only its owner reads.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.serialize_pem())
    }

    /// A certificate signing request (PKCS #10, RFC 2986). It proves who holds the key, and asks for nothing: names
    /// and role are the CA's to write.
    #[must_use]
    pub fn request(&self) -> CertificateSigningRequestDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(self.pair()).expect("an Ed25519 key signs anything");
        request.der().clone()
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::random;

    #[test]
    fn ids_are_written_in_25_characters_and_read_back() {
        let id = NodeId::random(&random()).unwrap();
        assert_eq!(id.to_string().len(), ID_WIDTH);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(NodeId::from_bytes([0; ID_LEN]).to_string(), "0".repeat(ID_WIDTH));
        assert_ne!(NodeId::random(&random()), Ok(id));
    }

    #[test]
    fn roles_are_read_as_written_and_nothing_else_is() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for text in ["", "Worker", "managers", "worker "] {
            assert_eq!(text.parse::<Role>(), Err(UnknownRole), "{text:?}");
        }
    }

    #[test]
    fn keys_come_back_from_both_forms() {
        let key = PrivateKey::generate(&random()).unwrap();
        let public = |key: &PrivateKey| key.pair().public_key_raw().to_vec();
        assert_eq!(public(&PrivateKey::from_der(&key.to_der()).unwrap()), public(&key));
        assert_eq!(public(&PrivateKey::from_pem(&key.to_pem()).unwrap()), public(&key));
        assert_ne!(public(&PrivateKey::generate(&random()).unwrap()), public(&key));
    }

    #[test]
    fn every_truncation_of_a_key_is_refused() {
        let der = PrivateKey::generate(&random()).unwrap().to_der();
        for len in 0..der.len() {
            assert_eq!(PrivateKey::from_der(&der[..len]).err(), Some(KeyError::Malformed), "{len} bytes");
        }
        for pem in [
            "",
            "-----BEGIN PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert_eq!(PrivateKey::from_pem(pem).err(), Some(KeyError::Malformed), "{pem:?}");
        }
    }

    #[test]
    fn debug_output_has_no_key() {
        assert_eq!(format!("{:?}", PrivateKey::generate(&random()).unwrap()), "PrivateKey(redacted)");
    }
}
