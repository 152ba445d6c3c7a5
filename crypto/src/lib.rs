//! Who is a member of a cluster, and what keeps everybody else out of its traffic.
//!
//! Bytes in, bytes out: no socket, file, thread, clock or source of randomness, and no sibling crate. Time and
//! randomness are arguments. AES-256-GCM, HKDF, SHA-256 and Ed25519 come from `ring` (with the feature `aws-lc` the first
//! from AWS-LC for data, where that is faster), certificates from `rcgen` and
//! `webpki`, TLS 1.3 from `rustls`; nothing here is a cryptographic construction of its own.
//!
//! | for | modules |
//! |---|---|
//! | who somebody is | [`identity`] ids, roles, keys; [`ca`] certificates; [`peer`] whether one is a member's; [`token`] how to become one |
//! | connections | [`tls`] who shows what to whom; [`exporter`] keys for data from a connection |
//! | data between two nodes | [`envelope`] the format; [`seal`], [`open`] its two ends; [`renewal`] when to change keys, and in which order |
//! | records for all members | [`signing`] what only managers can say |
//! | datagrams for all members | [`keyring`] the shared keys and their rotation; [`group`] the format and its two ends |
//! | below | [`key`] secrets; [`replay`] what has been seen; [`base36`] how ids are written |
//!
//! # From nothing to keys for data
//!
//! ```
//! use std::sync::Arc;
//! use std::time::SystemTime;
//!
//! use arc_swap::ArcSwap;
//! use ring::rand::SystemRandom;
//! use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
//! use rustls::{ClientConnection, ServerConnection};
//! use vswitchd_crypto::ca::{Ca, Certificate};
//! use vswitchd_crypto::envelope::{HEADER_LEN, SessionId, TAG_LEN};
//! use vswitchd_crypto::exporter::{Agreed, Exporter};
//! use vswitchd_crypto::identity::{ClusterId, NodeId, PrivateKey, Role};
//! use vswitchd_crypto::open::Opener;
//! use vswitchd_crypto::peer::Revoked;
//! use vswitchd_crypto::seal::Sealer;
//! use vswitchd_crypto::tls::{self, Credentials, Revocations};
//! use vswitchd_crypto::token::{JoinSecrets, Token};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (random, now) = (SystemRandom::new(), SystemTime::now());
//! let time: Arc<dyn TimeProvider> = Arc::new(DefaultTimeProvider);
//!
//! // `init`: the first node makes the CA, its own certificate, and the secrets of the join tokens.
//! let ca = Ca::make(ClusterId::random(&random)?, now, &random)?;
//! let (first, first_key) = (NodeId::random(&random)?, PrivateKey::generate(&random)?);
//! let first_certificate = ca.issue(&first_key.request(), first, Role::Manager, now, &random)?;
//! let secrets = JoinSecrets::random(&random)?;
//! let token = secrets.token(Role::Worker, ca.root().digest()).reveal();
//!
//! // `join`: a second node has the token only. It calls the first, which has to show the CA that the token names.
//! let token = Token::parse(&token)?;
//! let own = Credentials { root: ca.root(), certificate: &first_certificate, key: &first_key };
//! let mut server = ServerConnection::new(Arc::new(tls::join_server(&own, time.clone())?))?;
//! let client = tls::join_client(token.ca, time.clone())?;
//! let mut client = ClientConnection::new(Arc::new(client), tls::server_name(None))?;
//! handshake(&mut client, &mut server)?;
//! let root = tls::pinned_root(&client, token.ca).ok_or("no CA")?;
//!
//! // Over that connection it sends the token's secret and a request; the first node answers with a certificate.
//! let second_key = PrivateKey::generate(&random)?;
//! let (shown, request) = (token.secret, second_key.request());
//! let role = secrets.admit(&shown)?;
//! let second = NodeId::random(&random)?;
//! let second_certificate: Certificate = ca.issue(&request, second, role, now, &random)?;
//!
//! // Members: both ends show certificates, and know each other then.
//! let revocations: Revocations = Arc::new(ArcSwap::from_pointee(Revoked::default()));
//! let server = tls::member_server(&own, revocations.clone(), time.clone())?;
//! let mut server = ServerConnection::new(Arc::new(server))?;
//! let own = Credentials { root: &root, certificate: &second_certificate, key: &second_key };
//! let client = tls::member_client(&own, revocations, time)?;
//! let mut client = ClientConnection::new(Arc::new(client), tls::server_name(Some(first)))?;
//! handshake(&mut client, &mut server)?;
//! let peer = tls::peer(&server).ok_or("no certificate")?;
//! assert_eq!((peer.node, peer.role), (second, Role::Worker));
//!
//! // Keys for data: each end says by which number it wants to be sent to, and draws the keys from the connection.
//! let (to_first, to_second) = (SessionId::new(1).ok_or("")?, SessionId::new(2).ok_or("")?);
//! let agreed = Agreed { send: to_first, receive: to_second, renewal: 0 };
//! let keys = Exporter::new(second, first).session_keys(agreed, |output, label, context| {
//!     client.export_keying_material(output, label, Some(context)).map(drop)
//! })?;
//! let sealer = Sealer::new(&keys.send, to_first);
//! let agreed = Agreed { send: to_second, receive: to_first, renewal: 0 };
//! let keys = Exporter::new(first, second).session_keys(agreed, |output, label, context| {
//!     server.export_keying_material(output, label, Some(context)).map(drop)
//! })?;
//! let opener = Opener::new(&keys.receive, to_first);
//!
//! let mut datagram = [&[0; HEADER_LEN][..], b"a frame", &[0; TAG_LEN]].concat();
//! sealer.seal(&mut datagram)?;
//! let range = opener.open(&mut datagram)?;
//! assert_eq!(&datagram[range], b"a frame");
//! # Ok(())
//! # }
//! # fn handshake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), Box<dyn std::error::Error>> {
//! #     while client.is_handshaking() || server.is_handshaking() {
//! #         let mut wire = Vec::new();
//! #         client.write_tls(&mut wire)?;
//! #         server.read_tls(&mut wire.as_slice())?;
//! #         server.process_new_packets()?;
//! #         wire.clear();
//! #         server.write_tls(&mut wire)?;
//! #         client.read_tls(&mut wire.as_slice())?;
//! #         client.process_new_packets()?;
//! #     }
//! #     Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod aead;
pub mod base36;
pub mod ca;
pub mod envelope;
pub mod exporter;
#[cfg(test)]
mod fixture;
pub mod group;
pub mod identity;
pub mod key;
pub mod keyring;
pub mod open;
pub mod peer;
pub mod renewal;
pub mod replay;
pub mod seal;
pub mod signing;
pub mod tls;
pub mod token;
