//! TLS configurations (rustls on ring, TLS 1.3 and nothing older): who has to show what, and who believes it.
//!
//! | connection           | server shows           | client shows           | who is let through                    |
//! |----------------------|------------------------|------------------------|---------------------------------------|
//! | joining, TCP 2377    | a manager's, and the CA's | nothing             | a server whose CA has the digest in the token |
//! | members, TCP 7946    | a member's             | a member's             | members that are not revoked          |
//!
//! A joining client knows a digest only, so the server sends the CA's certificate along; after the handshake
//! [`pinned_root`] gives it. What the client then has to prove (its token's secret) it sends over the connection.
//! The server of a member connection is asked for by node id ([`server_name`]), or as any member.
//!
//! Nothing is resumed: a resumed session (RFC 8446 §2.2) would skip the certificates, and so what has been revoked
//! or has expired since. There is no early data, which could be replayed. No server name goes over the wire.
//!
//! Values, no sockets: the caller drives the connections. Time is asked of a [`TimeProvider`] at each handshake.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName,
    Error, PeerIncompatible, ServerConfig, SignatureScheme, version,
};

use crate::ca::{CaDigest, Certificate, DOMAIN, Root};
use crate::identity::{NodeId, PrivateKey, Role};
use crate::peer::{Peer, PeerError, Revoked};

/// Application protocol (RFC 7301) of joining. Another number means another version.
pub const ALPN_JOIN: &[u8] = b"vswitchd-join/1";
/// Application protocol of members.
pub const ALPN_MEMBER: &[u8] = b"vswitchd-member/1";

/// What a node is known by: its certificate and key, and the CA.
#[derive(Debug)]
pub struct Credentials<'c> {
    /// The cluster's CA.
    pub root: &'c Root,
    /// The node's certificate,
    pub certificate: &'c Certificate,
    /// and its key.
    pub key: &'c PrivateKey,
}

impl Credentials<'_> {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_der().to_vec()).into()
    }
}

/// The revocations that handshakes look at; store another to change them for every handshake from then on.
/// Connections that exist are the caller's to close.
pub type Revocations = Arc<ArcSwap<Revoked>>;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// For nodes that want to join: a manager's end.
///
/// # Errors
/// The certificate is not that of the key.
pub fn join_server(own: &Credentials<'_>, time: Arc<dyn TimeProvider>) -> Result<ServerConfig, Error> {
    let chain = vec![own.certificate.clone(), own.root.certificate().clone()];
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, own.key())?;
    harden_server(&mut config, ALPN_JOIN);
    Ok(config)
}

/// For joining: the end of a node that knows a token. The server must be a manager's, under the CA with this digest.
///
/// # Errors
/// None in practice: the library has what is asked of it.
pub fn join_client(ca: CaDigest, time: Arc<dyn TimeProvider>) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCa { ca, signatures: signatures() }))
        .with_no_client_auth();
    harden_client(&mut config, ALPN_JOIN);
    Ok(config)
}

/// For members: the end that is called.
///
/// # Errors
/// The certificate is not that of the key.
pub fn member_server(
    own: &Credentials<'_>,
    revoked: Revocations,
    time: Arc<dyn TimeProvider>,
) -> Result<ServerConfig, Error> {
    let verifier = Members { root: own.root.clone(), revoked, signatures: signatures() };
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(vec![own.certificate.clone()], own.key())?;
    harden_server(&mut config, ALPN_MEMBER);
    Ok(config)
}

/// For members: the end that calls, with a [`server_name`].
///
/// # Errors
/// The certificate is not that of the key.
pub fn member_client(
    own: &Credentials<'_>,
    revoked: Revocations,
    time: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, Error> {
    let verifier = Members { root: own.root.clone(), revoked, signatures: signatures() };
    let mut config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(vec![own.certificate.clone()], own.key())?;
    harden_client(&mut config, ALPN_MEMBER);
    Ok(config)
}

fn harden_server(config: &mut ServerConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

fn harden_client(config: &mut ClientConfig, alpn: &[u8]) {
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
}

/// Whom a client asks for: this node, or any member. (When joining, whoever shows the right CA.)
#[must_use]
pub fn server_name(node: Option<NodeId>) -> ServerName<'static> {
    let name = node.map_or_else(|| DOMAIN.to_owned(), |node| format!("{node}.{DOMAIN}"));
    ServerName::try_from(name).expect("ids are letters and digits")
}

/// Who is at the other end of a member connection, once its handshake is done; `None` before.
#[must_use]
pub fn peer(connection: &CommonState) -> Option<Peer> {
    if connection.is_handshaking() {
        return None;
    }
    Peer::of(connection.peer_certificates()?.first()?).ok()
}

/// The CA that a joining client has found to have the right digest, once its handshake is done; `None` before.
#[must_use]
pub fn pinned_root(connection: &CommonState, ca: CaDigest) -> Option<Root> {
    if connection.is_handshaking() {
        return None;
    }
    pinned(connection.peer_certificates()?, ca).ok()
}

/// Why there is no connection, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// We refused the other end.
    #[error("{0}")]
    Ours(PeerError),
    /// The other end refused us.
    #[error("refused by the other end: {0}")]
    Theirs(PeerError),
    /// The other end refused our certificate's dates: it has expired, or a clock is wrong.
    #[error("refused by the other end: our certificate has expired, or a clock is wrong")]
    TheirsDates,
    /// We have no certificate to show, but were asked for one.
    #[error("refused by the other end: it wants a member's certificate")]
    NoCertificate,
    /// The other end speaks no version of this protocol that we do, or is not vswitchd.
    #[error("the other end speaks another version of the protocol")]
    Version,
}

/// What an error of a connection means here; `None` for those that mean nothing special.
#[must_use]
pub fn refusal(error: &Error) -> Option<Refusal> {
    match error {
        Error::InvalidCertificate(error) => peer_error(error).map(Refusal::Ours),
        Error::NoCertificatesPresented => Some(Refusal::NoCertificate),
        Error::NoApplicationProtocol | Error::PeerIncompatible(_) => Some(Refusal::Version),
        Error::AlertReceived(alert) => Some(match alert {
            AlertDescription::UnknownCA => Refusal::Theirs(PeerError::WrongCa),
            AlertDescription::CertificateExpired => Refusal::TheirsDates,
            AlertDescription::CertificateRevoked => Refusal::Theirs(PeerError::Revoked),
            AlertDescription::AccessDenied => Refusal::Theirs(PeerError::WrongRole),
            AlertDescription::BadCertificate => Refusal::Theirs(PeerError::Malformed),
            AlertDescription::CertificateRequired => Refusal::NoCertificate,
            AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion => Refusal::Version,
            _ => return None,
        }),
        _ => None,
    }
}

/// Errors that the other end is told by an alert of their own (RFC 8446 §6.2).
fn certificate_error(error: PeerError) -> CertificateError {
    match error {
        PeerError::WrongCa => CertificateError::UnknownIssuer,
        PeerError::Expired => CertificateError::Expired,
        PeerError::NotYetValid => CertificateError::NotValidYet,
        PeerError::WrongRole => CertificateError::ApplicationVerificationFailure,
        PeerError::WrongNode => CertificateError::NotValidForName,
        PeerError::Revoked => CertificateError::Revoked,
        PeerError::Malformed => CertificateError::BadEncoding,
    }
}

fn peer_error(error: &CertificateError) -> Option<PeerError> {
    const ALL: [PeerError; 7] = [
        PeerError::WrongCa,
        PeerError::Expired,
        PeerError::NotYetValid,
        PeerError::WrongRole,
        PeerError::WrongNode,
        PeerError::Revoked,
        PeerError::Malformed,
    ];
    ALL.into_iter().find(|&cause| certificate_error(cause) == *error)
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(certificate_error(error))
    }
}

fn system_time(now: UnixTime) -> SystemTime {
    // The only clocks that show more are broken; then everything has expired.
    const END: std::time::Duration = std::time::Duration::from_secs(1 << 40);
    UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs()).min(END)
}

fn signatures() -> WebPkiSupportedAlgorithms {
    rustls::crypto::ring::default_provider().signature_verification_algorithms
}

/// The certificate among those shown that has the digest. At most as many are looked at as we send.
fn pinned(shown: &[CertificateDer<'_>], ca: CaDigest) -> Result<Root, PeerError> {
    let found = shown.iter().take(2).find(|certificate| CaDigest::of(certificate) == ca);
    Root::from_der(found.ok_or(PeerError::WrongCa)?).map_err(|_| PeerError::Malformed)
}

/// Believes a manager under the CA whose digest is known.
#[derive(Debug)]
struct PinnedCa {
    ca: CaDigest,
    signatures: WebPkiSupportedAlgorithms,
}

/// Believes members of the cluster, at either end.
#[derive(Debug)]
struct Members {
    root: Root,
    revoked: Revocations,
    signatures: WebPkiSupportedAlgorithms,
}

impl Members {
    fn verify(&self, shown: &CertificateDer<'_>, now: UnixTime) -> Result<Peer, PeerError> {
        self.root.verify(shown, system_time(now), &self.revoked.load())
    }
}

/// What both ends' verifiers do alike: the handshake's signature is checked as rustls does it, for Ed25519 only.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signed, &self.signatures)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = pinned(others, self.ca)?;
        // What has been revoked only members know.
        root.verify_role(shown, Role::Manager, system_time(now), &Revoked::default())?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = self.verify(shown, now)?;
        if *name != server_name(None) && *name != server_name(Some(peer.node)) {
            return Err(PeerError::WrongNode.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for Members {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // There is one CA, and every client knows which.
        &[]
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(shown, now)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

#[cfg(test)]
mod tests;
