//! Join tokens: what a new node is given so that it and its cluster can trust each other.
//!
//! ```text
//!   VSWTKN-1-<50 digits: SHA-256 of the CA's certificate>-<25 digits: 128-bit secret>
//! ```
//!
//! Digits are those of base 36, as in Docker's tokens. The digest lets the node know the cluster before it has the
//! CA's certificate ([`crate::tls::join_client`]); the secret, sent over that connection, lets the cluster know that
//! somebody has admitted the node, and with which role. A secret is good for any number of nodes until it is rotated,
//! which changes nothing for those that have joined.

use std::fmt;

use ring::digest;
use ring::rand::SecureRandom;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::base36::{self, Base36Error};
use crate::ca::CaDigest;
use crate::identity::{NoRandomness, Role, fresh};

/// How each token starts: what it is, and of which version.
pub const PREFIX: &str = "VSWTKN-1-";
/// Characters of a token.
pub const TOKEN_WIDTH: usize = PREFIX.len() + DIGEST_WIDTH + 1 + SECRET_WIDTH;

const KIND: &str = "VSWTKN-";
const DIGEST_WIDTH: usize = 50;
const SECRET_WIDTH: usize = 25;

/// Bytes of a secret.
pub const SECRET_LEN: usize = 16;

/// Bytes of a secret's digest.
pub const SECRET_DIGEST_LEN: usize = 32;
const DIGEST_PURPOSE: &[u8] = b"vswitchd join secret 1";

/// What a joining node shows. Compared in constant time, wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; SECRET_LEN]>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        Ok(Self(fresh(random)?))
    }

    /// One from a file or a connection.
    #[must_use]
    pub fn new(bytes: &[u8; SECRET_LEN]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// Its bytes, for a file or a connection.
    #[must_use]
    pub fn reveal(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// What tells which secret is valid without giving it away: SHA-256 of a text that names the purpose and of the
    /// secret. The secret is 128 random bits, so nobody finds it by trying.
    #[must_use]
    pub fn digest(&self) -> [u8; SECRET_DIGEST_LEN] {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(DIGEST_PURPOSE);
        hash.update(self.reveal());
        let mut bytes = [0; SECRET_DIGEST_LEN];
        bytes.copy_from_slice(hash.finish().as_ref());
        bytes
    }

    /// Whether this secret has that digest. How long that takes says nothing of either.
    #[must_use]
    pub fn has_digest(&self, digest: &[u8; SECRET_DIGEST_LEN]) -> bool {
        self.digest().ct_eq(digest).into()
    }

    fn is(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// A join token.
#[derive(Clone, Debug)]
pub struct Token {
    /// The CA that the cluster has.
    pub ca: CaDigest,
    /// What the node shows it.
    pub secret: Secret,
}

/// Why a text is no token. None of them says what the text was, since most of it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It starts with something else than `VSWTKN-`.
    #[error("not a join token: those start with VSWTKN-1-")]
    Kind,
    /// A token of a version that we don't know.
    #[error("a join token of another version than 1")]
    Version,
    /// Not two parts behind the version.
    #[error("a join token has four parts, joined by -")]
    Parts,
    /// The CA's digest is not written as it should be.
    #[error("the join token's CA digest has {0}")]
    Digest(Base36Error),
    /// The secret is not written as it should be.
    #[error("the join token's secret has {0}")]
    Secret(Base36Error),
}

impl Token {
    /// Reads a token: exactly as [`Self::reveal`] writes it, without spaces around.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(KIND).ok_or(TokenError::Kind)?;
        let rest = rest.strip_prefix("1-").ok_or(TokenError::Version)?;
        let (digest, secret) = rest.split_once('-').ok_or(TokenError::Parts)?;
        if secret.contains('-') {
            return Err(TokenError::Parts);
        }
        let ca = digest.parse().map_err(TokenError::Digest)?;
        let mut bytes = Zeroizing::new([0; SECRET_LEN]);
        base36::decode(secret, SECRET_WIDTH, &mut *bytes).map_err(TokenError::Secret)?;
        Ok(Self { ca, secret: Secret(bytes) })
    }

    /// The token's text, for whoever is to join.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        // The whole capacity at once: a string that grows leaves copies behind.
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_WIDTH));
        text.push_str(PREFIX);
        base36::encode(self.ca.as_bytes(), DIGEST_WIDTH, &mut text);
        text.push('-');
        base36::encode(self.secret.reveal(), SECRET_WIDTH, &mut text);
        text
    }
}

/// A cluster's secrets, one for each role.
#[derive(Clone, Debug)]
pub struct JoinSecrets {
    worker: Secret,
    manager: Secret,
}

/// A secret that lets nobody in: rotated, of another cluster, or made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the join token is not, or no longer, valid")]
pub struct WrongSecret;

impl JoinSecrets {
    /// New ones.
    ///
    /// # Errors
    /// [`NoRandomness`].
    pub fn random(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        Ok(Self::new(Secret::random(random)?, Secret::random(random)?))
    }

    /// Those from a file or from another manager.
    #[must_use]
    pub fn new(worker: Secret, manager: Secret) -> Self {
        Self { worker, manager }
    }

    /// That of a role.
    #[must_use]
    pub fn secret(&self, role: Role) -> &Secret {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }

    /// The token that makes nodes of a role.
    #[must_use]
    pub fn token(&self, role: Role, ca: CaDigest) -> Token {
        Token { ca, secret: self.secret(role).clone() }
    }

    /// The role that a secret admits to. How long that takes says nothing of the secrets.
    ///
    /// # Errors
    /// [`WrongSecret`].
    pub fn admit(&self, shown: &Secret) -> Result<Role, WrongSecret> {
        let (worker, manager) = (self.worker.is(shown), self.manager.is(shown));
        // Not equal but by a fault of what made them; then the lesser role.
        if worker.into() {
            Ok(Role::Worker)
        } else if manager.into() {
            Ok(Role::Manager)
        } else {
            Err(WrongSecret)
        }
    }

    /// Gives a role a new secret. The old one admits nobody from here on.
    ///
    /// # Errors
    /// [`NoRandomness`]; the old one stays.
    pub fn rotate(&mut self, role: Role, random: &dyn SecureRandom) -> Result<(), NoRandomness> {
        let secret = Secret::random(random)?;
        match role {
            Role::Worker => self.worker = secret,
            Role::Manager => self.manager = secret,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{ca, random};

    fn token() -> Token {
        Token { ca: ca().root().digest(), secret: Secret::random(&random()).unwrap() }
    }

    #[test]
    fn what_is_written_is_read() {
        let token = token();
        let text = token.reveal();
        assert_eq!((text.len(), text.capacity()), (TOKEN_WIDTH, TOKEN_WIDTH), "{}", *text);
        let read = Token::parse(&text).unwrap();
        assert_eq!((read.ca, read.secret.reveal()), (token.ca, token.secret.reveal()));
    }

    #[test]
    fn every_truncation_says_what_is_missing() {
        let text = token().reveal();
        for len in 0..text.len() {
            let want = match len {
                0..7 => TokenError::Kind,
                7..9 => TokenError::Version,
                9..60 => TokenError::Parts,
                _ => TokenError::Secret(Base36Error::Length),
            };
            assert_eq!(Token::parse(&text[..len]).err(), Some(want), "{len} characters");
        }
    }

    #[test]
    fn each_fault_has_its_error() {
        let (digest, secret) = ("0".repeat(50), "0".repeat(25));
        assert!(Token::parse(&format!("VSWTKN-1-{digest}-{secret}")).is_ok());
        let cases = [
            (format!("SWMTKN-1-{digest}-{secret}"), TokenError::Kind),
            (format!(" VSWTKN-1-{digest}-{secret}"), TokenError::Kind),
            (format!("VSWTKN-2-{digest}-{secret}"), TokenError::Version),
            (format!("VSWTKN-11-{digest}-{secret}"), TokenError::Version),
            (format!("VSWTKN-1-{digest}{secret}"), TokenError::Parts),
            (format!("VSWTKN-1-{digest}-{secret}-"), TokenError::Parts),
            (format!("VSWTKN-1-0{digest}-{secret}"), TokenError::Digest(Base36Error::Length)),
            (format!("VSWTKN-1-{}-{secret}", "z".repeat(50)), TokenError::Digest(Base36Error::Range)),
            (format!("VSWTKN-1-{}-{secret}", "A".repeat(50)), TokenError::Digest(Base36Error::Digit)),
            (format!("VSWTKN-1-{digest}-{secret}\n"), TokenError::Secret(Base36Error::Length)),
            (format!("VSWTKN-1-{digest}-{}", "z".repeat(25)), TokenError::Secret(Base36Error::Range)),
            (format!("VSWTKN-1-{digest}-{}!", &secret[1..]), TokenError::Secret(Base36Error::Digit)),
        ];
        for (text, want) in cases {
            assert_eq!(Token::parse(&text).err(), Some(want), "{text}");
        }
    }

    #[test]
    fn a_secret_admits_to_its_role_until_it_is_rotated() {
        let mut secrets = JoinSecrets::random(&random()).unwrap();
        let old = secrets.clone();
        for role in Role::ALL {
            assert_eq!(secrets.admit(old.secret(role)), Ok(role));
        }
        secrets.rotate(Role::Worker, &random()).unwrap();
        assert_eq!(secrets.admit(old.secret(Role::Worker)), Err(WrongSecret));
        assert_eq!(secrets.admit(secrets.secret(Role::Worker)), Ok(Role::Worker));
        assert_eq!(secrets.admit(old.secret(Role::Manager)), Ok(Role::Manager), "the other one stays");
        assert_eq!(secrets.admit(&Secret::new(&[0; SECRET_LEN])), Err(WrongSecret));
    }

    #[test]
    fn a_digest_tells_a_secret_from_another_and_is_no_plain_hash() {
        let (one, other) = (Secret::random(&random()).unwrap(), Secret::random(&random()).unwrap());
        assert!(one.has_digest(&Secret::new(one.reveal()).digest()));
        assert!(!other.has_digest(&one.digest()));
        for bit in 0..SECRET_DIGEST_LEN * 8 {
            let mut digest = one.digest();
            digest[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(!one.has_digest(&digest), "bit {bit}");
        }
        assert_ne!(one.digest()[..], *digest::digest(&digest::SHA256, one.reveal()).as_ref());
        // Made with sha256sum: the purpose, then the bytes 00 01 … 0f.
        let secret = Secret::new(&std::array::from_fn(|index| u8::try_from(index).unwrap()));
        let hex: String = secret.digest().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "9d4f7a65ddbb8ac901fa0b64bbab390c756befc3889218800ac3ccb015cbb865");
    }

    #[test]
    fn debug_output_has_no_secret() {
        let token = token();
        assert_eq!(format!("{token:?}"), format!("Token {{ ca: {}, secret: Secret(redacted) }}", token.ca));
        let secrets = JoinSecrets::random(&random()).unwrap();
        let want = "JoinSecrets { worker: Secret(redacted), manager: Secret(redacted) }";
        assert_eq!(format!("{secrets:?}"), want);
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read_as_it_would_be_written(text in "(VSWTKN-1-)?[0-9a-z-]{0,90}|.*") {
            if let Ok(token) = Token::parse(&text) {
                prop_assert_eq!(&*token.reveal(), &text);
            }
        }
    }
}
