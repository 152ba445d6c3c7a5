//! Becoming a member: asks managers, one after the other, until one lets this node in; whatever keeps one from it
//! is known at once and said.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::time_provider::DefaultTimeProvider;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::{self, Answer, Hex, Request};
use crate::crypto::ca::{Ca, Certificate, Root};
use crate::crypto::identity::PrivateKey;
use crate::crypto::keyring::KeyRing;
use crate::crypto::peer::{Peer, PeerError};
use crate::crypto::tls::{self, pinned_root, server_name};
use crate::crypto::token::Token;

use super::credentials::{Authority, ManagerPlace, secrets_of};

/// Where managers let nodes in, if nothing else is said.
pub(super) const PORT: u16 = 2377;
/// How long a manager may take to accept.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take for each step after that: where a SYN was lost, TCP repeats what is lost next only after 3 s and 9 s
/// (RFC 6298 §5.7).
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What came of joining.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) root: Root,
    pub(super) certificate: Certificate,
    pub(super) peer: Peer,
    pub(super) managers: Vec<ManagerPlace>,
    pub(super) ring: KeyRing,
    pub(super) authority: Option<Authority>,
}

/// Why a manager did not let this node in.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the name has no address: {0}")]
    Name(io::Error),
    #[error(
        "unreachable ({0}): check the address, that a manager runs there, and that firewalls let TCP pass"
    )]
    Unreachable(io::Error),
    #[error("it takes the connection and does not answer: is it a manager of vswitchd?")]
    Silent,
    #[error("its CA is not the token's: the token is of another cluster, or something is in between")]
    WrongCa,
    #[error(
        "its certificate is out of date by this host's clock ({}): compare the clocks of both", utc(*.0)
    )]
    Clock(SystemTime),
    #[error("it is a worker: ask a manager")]
    Worker,
    #[error("it speaks another version of the protocol, or is not vswitchd: compare the versions of both")]
    Version,
    #[error(
        "the token is not, or no longer, valid there: `vswitchd token worker` on a manager shows the present one"
    )]
    WrongToken,
    #[error("refused: {0}")]
    Refused(String),
    #[error("the connection failed: {0}")]
    Broken(io::Error),
    #[error("what it answers makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Why none did: each with its reason.
#[derive(Debug)]
pub(super) struct JoinError(Vec<(String, Failure)>);

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.0.iter().map(|(manager, failure)| format!("{manager}: {failure}"));
        f.write_str(&each.collect::<Vec<_>>().join("; "))
    }
}

/// A moment as operators compare it: seconds since 1970 mean little to them, and less without a zone.
fn utc(time: SystemTime) -> String {
    let s = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(s / 86_400);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", s / 3_600 % 24, s / 60 % 60)
}

/// Year, month and day of a day since 1970, by Hinnant's algorithm ("chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Asks each of `managers` (`HOST[:PORT]`) in turn.
pub(super) async fn join(
    managers: &[String],
    token: &Token,
    key: &PrivateKey,
    name: &str,
) -> Result<Joined, JoinError> {
    let mut failures = Vec::new();
    for manager in managers {
        match ask(manager, token, key, name).await {
            Ok(joined) => return Ok(joined),
            Err(failure) => failures.push((manager.clone(), failure)),
        }
    }
    Err(JoinError(failures))
}

async fn ask(manager: &str, token: &Token, key: &PrivateKey, name: &str) -> Result<Joined, Failure> {
    let stream = connect(manager).await?;
    let mut stream = secure(stream, token).await?;
    let root = pinned_root(stream.get_ref().1, token.ca).ok_or(Failure::WrongCa)?;
    let request = Request {
        version: env!("CARGO_PKG_VERSION").into(),
        name: name.into(),
        secret: Hex::new(token.secret.reveal()),
        request: Hex::new(&key.request()),
    };
    let exchange = async {
        wire::send(&mut stream, &request).await?;
        wire::receive::<Answer>(&mut stream).await
    };
    match timeout(PATIENCE, exchange).await {
        Err(_) => Err(Failure::Silent),
        Ok(Err(error)) => Err(Failure::Broken(error)),
        Ok(Ok(Answer::WrongToken)) => Err(Failure::WrongToken),
        Ok(Ok(Answer::Refused(reason))) => Err(Failure::Refused(reason.lines().collect())),
        Ok(Ok(Answer::Admitted(admission))) => accept(admission, root),
    }
}

async fn connect(manager: &str) -> Result<TcpStream, Failure> {
    let addresses: Vec<SocketAddr> = lookup_host(with_port(manager)).await.map_err(Failure::Name)?.collect();
    let mut last = Failure::Name(io::ErrorKind::NotFound.into());
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Failure::Unreachable(error),
            Err(_) => last = Failure::Unreachable(io::Error::new(io::ErrorKind::TimedOut, "no answer")),
        }
    }
    Err(last)
}

/// `HOST:PORT` of what may have no port, and be an IPv6 address with brackets or without.
fn with_port(manager: &str) -> String {
    if let Ok(address) = manager.parse::<std::net::IpAddr>() {
        return SocketAddr::new(address, PORT).to_string();
    }
    let behind = manager.rsplit_once(']').map_or(manager, |(_, behind)| behind);
    if behind.contains(':') { manager.into() } else { format!("{manager}:{PORT}") }
}

async fn secure(stream: TcpStream, token: &Token) -> Result<TlsStream<TcpStream>, Failure> {
    let config = tls::join_client(token.ca, Arc::new(DefaultTimeProvider));
    let config = config.map_err(|error| Failure::Broken(io::Error::other(error)))?;
    let connecting = TlsConnector::from(Arc::new(config)).connect(server_name(None), stream);
    match timeout(PATIENCE, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(of_tls(error)),
        Err(_) => Err(Failure::Silent),
    }
}

/// What an error of the handshake means to whoever wants to join.
fn of_tls(error: io::Error) -> Failure {
    let tls_error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    // Bytes that are no TLS at all.
    if matches!(tls_error, Some(rustls::Error::InvalidMessage(_))) {
        return Failure::Version;
    }
    match tls_error.and_then(tls::refusal) {
        Some(tls::Refusal::Ours(PeerError::WrongCa)) => Failure::WrongCa,
        Some(tls::Refusal::Ours(PeerError::Expired | PeerError::NotYetValid)) => {
            Failure::Clock(SystemTime::now())
        }
        Some(tls::Refusal::Ours(PeerError::WrongRole)) => Failure::Worker,
        Some(tls::Refusal::Version) => Failure::Version,
        _ => Failure::Broken(error),
    }
}

/// What the manager gave must be what members have; it is trusted, but may be of another version.
fn accept(admission: wire::Admission, root: Root) -> Result<Joined, Failure> {
    let certificate = Certificate::from(admission.certificate.0.to_vec());
    let now = SystemTime::now();
    let peer = root.verify(&certificate, now, &Default::default()).map_err(|error| match error {
        PeerError::Expired | PeerError::NotYetValid => Failure::Clock(now),
        _ => Failure::Nonsense("a certificate that is not of its CA"),
    })?;
    let authority = admission.authority.map(|parts| authority(&parts, &root)).transpose()?;
    let ring =
        KeyRing::decode(&admission.ring.0).map_err(|_| Failure::Nonsense("shared keys that are none"))?;
    Ok(Joined { root, certificate, peer, managers: admission.managers, ring, authority })
}

fn authority(parts: &wire::AuthorityParts, root: &Root) -> Result<Authority, Failure> {
    let key =
        PrivateKey::from_der(&parts.ca_key.0).map_err(|_| Failure::Nonsense("a CA key that is none"))?;
    let ca = Ca::new(root.clone(), key).map_err(|_| Failure::Nonsense("a CA key of another CA"))?;
    let secrets = secrets_of(&parts.secrets.0).ok_or(Failure::Nonsense("tokens that are none"))?;
    Ok(Authority { ca, secrets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managers_need_no_port() {
        for (given, meant) in [
            ("192.0.2.1", "192.0.2.1:2377"),
            ("192.0.2.1:99", "192.0.2.1:99"),
            ("2001:db8::1", "[2001:db8::1]:2377"),
            ("[2001:db8::1]", "[2001:db8::1]:2377"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
            ("host.example", "host.example:2377"),
            ("host.example:99", "host.example:99"),
        ] {
            assert_eq!(with_port(given), meant);
        }
    }

    #[test]
    fn moments_are_dates() {
        let at = |s| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(at(1_795_248_000), "2026-11-21 08:00 UTC");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00 UTC");
    }
}
