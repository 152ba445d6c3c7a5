//! What a joining node and a manager say to each other, inside TLS on TCP 2377 ([`crate::crypto::tls`]).
//!
//! ```text
//!  0              4
//! | length (u32) | JSON of that many bytes |
//! ```
//!
//! Big-endian; one [`Request`], one [`Answer`]. Unknown fields are passed over, so that a newer end can say more.
//! Bytes are written in hexadecimal. Buffers are wiped: a request holds a token's secret, an answer to a manager the
//! CA's key.

use std::fmt;
use std::io;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::credentials::ManagerPlace;

/// Bytes of a message: ours have at most some 4 KiB.
pub(super) const MESSAGE_MAX: usize = 16 * 1024;

/// What a node shows a manager to become a member.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Its version, for the manager's log.
    pub(super) version: String,
    /// Its name.
    pub(super) name: String,
    /// A token's secret.
    pub(super) secret: Hex,
    /// A certificate signing request.
    pub(super) request: Hex,
}

/// What the manager says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Admitted(Admission),
    /// The secret is no token's, or no longer.
    WrongToken,
    /// Why not else, for people.
    Refused(String),
}

/// What makes a node a member.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Admission {
    /// Its certificate, in DER, which names its id and role.
    pub(super) certificate: Hex,
    /// Where managers are.
    pub(super) managers: Vec<ManagerPlace>,
    /// The cluster's shared keys ([`crate::crypto::keyring::KeyRing::encode`]).
    pub(super) ring: Hex,
    /// For a manager.
    pub(super) authority: Option<AuthorityParts>,
}

/// What only managers have.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AuthorityParts {
    /// The CA's key, in PKCS #8.
    pub(super) ca_key: Hex,
    /// The secrets of the join tokens: the worker's, the manager's.
    pub(super) secrets: Hex,
}

/// Bytes that are written in hexadecimal, wiped when dropped, and never printed.
pub(super) struct Hex(pub(super) Zeroizing<Vec<u8>>);

impl Hex {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }
}

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).expect("a nibble is a digit");
        let mut text = Zeroizing::new(String::with_capacity(2 * self.0.len()));
        text.extend(self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes = text.as_bytes().chunks(2).map(pair).collect::<Option<Vec<_>>>();
        bytes.map(|bytes| Self(Zeroizing::new(bytes))).ok_or_else(|| de::Error::custom("not hexadecimal"))
    }
}

/// Sends a message.
pub(super) async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &impl Serialize) -> io::Result<()> {
    let body = Zeroizing::new(serde_json::to_vec(message)?);
    let length = u32::try_from(body.len()).ok().filter(|&length| length as usize <= MESSAGE_MAX);
    let length = length.ok_or_else(|| io::Error::other("a message that is too long"))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await?;
    stream.flush().await
}

/// Receives one, of which nothing is trusted.
pub(super) async fn receive<T: de::DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let length = stream.read_u32().await? as usize;
    if length > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too long"));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await?;
    Ok(serde_json::from_slice(&body)?)
}
