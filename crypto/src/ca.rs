//! The cluster's certificate authority.
//!
//! `init` makes it, every manager holds its key, every node its certificate ([`Root`]). What it signs are the
//! certificates of nodes (RFC 5280), whose subject is laid out as in Docker's swarms:
//!
//! ```text
//!   CN  node id                          5l04ib2x9a…
//!   OU  role                             vswitchd-worker | vswitchd-manager
//!   O   cluster id                       the CA's own O, too
//!   subject alternative name             <node id>.vswitchd
//! ```
//!
//! A certificate lasts [`CERTIFICATE_LIFE`] and is renewed after [`Peer::renew_at`], with the node's old or a new
//! key. It begins [`CLOCK_LEEWAY`] before it was made, for clocks that are behind. There are no intermediate CAs.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SerialNumber,
};
use ring::digest;
use ring::rand::SecureRandom;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::base36::{self, Base36Error};
use crate::identity::{ClusterId, KeyError, NoRandomness, NodeId, PrivateKey, Role, fresh};
use crate::peer::{Peer, names};

/// A certificate in DER.
pub type Certificate = CertificateDer<'static>;

/// How long a node's certificate lasts: Docker's 90 days.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// How long the CA lasts: as long as there is hardware to run it on.
pub const CA_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// How far a node's clock may be behind that of the manager that signs for it.
pub const CLOCK_LEEWAY: Duration = Duration::from_secs(3_600);

/// Bytes of a certificate request that is looked at: ours have about 200.
pub const REQUEST_MAX: usize = 4_096;
/// Bytes of a serial number. RFC 5280 §4.1.2.2 allows 20.
pub const SERIAL_LEN: usize = 16;

const DIGEST_LEN: usize = 32;
const DIGEST_WIDTH: usize = 50;
const CA_NAME: &str = "vswitchd CA";
/// The domain of subject alternative names. No resolver knows it.
pub(crate) const DOMAIN: &str = "vswitchd";

/// What an organizational unit is for a role.
pub(crate) const fn unit(role: Role) -> &'static str {
    match role {
        Role::Worker => "vswitchd-worker",
        Role::Manager => "vswitchd-manager",
    }
}

/// SHA-256 of a CA certificate in DER: what a join token pins.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CaDigest([u8; DIGEST_LEN]);

impl CaDigest {
    /// That of a certificate, whether or not it is a CA's.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; DIGEST_LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }
}

impl fmt::Display for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(DIGEST_WIDTH);
        base36::encode(&self.0, DIGEST_WIDTH, &mut text);
        f.pad(&text)
    }
}

impl fmt::Debug for CaDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CaDigest {
    type Err = Base36Error;

    fn from_str(text: &str) -> Result<Self, Base36Error> {
        let mut bytes = [0; DIGEST_LEN];
        base36::decode(text, DIGEST_WIDTH, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// A certificate's number, random, so that two managers never give one twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; SERIAL_LEN]);

impl Serial {
    fn random(random: &dyn SecureRandom) -> Result<Self, NoRandomness> {
        let mut bytes = *fresh(random)?;
        // Positive and never shorter in DER: the first bit is 0, the second 1.
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Ok(Self(bytes))
    }

    /// One whose bytes are known, such as from a stored list of revocations.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; SERIAL_LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes, big endian.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; SERIAL_LEN] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The CA's certificate: what makes a stranger's certificate a member's. It is no secret, but must not be taken
/// from strangers unchecked ([`CaDigest`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    certificate: Certificate,
    cluster: ClusterId,
}

/// Bytes that are no certificate of a CA of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a vswitchd CA certificate")]
pub struct NotACa;

impl Root {
    /// A CA certificate from a file, or one whose digest has been compared.
    ///
    /// # Errors
    /// [`NotACa`].
    pub fn from_der(der: &[u8]) -> Result<Self, NotACa> {
        let certificate = CertificateDer::from(der.to_vec());
        webpki::anchor_from_trusted_cert(&certificate).map_err(|_| NotACa)?;
        let subject = names(&certificate).map_err(|_| NotACa)?;
        if subject.common_name != CA_NAME {
            return Err(NotACa);
        }
        let cluster = subject.organization.parse().map_err(|_| NotACa)?;
        Ok(Self { certificate, cluster })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What tokens pin.
    #[must_use]
    pub fn digest(&self) -> CaDigest {
        CaDigest::of(&self.certificate)
    }

    /// The cluster that it is the CA of.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }
}

/// The CA itself: whoever holds it makes members, of any name and role.
pub struct Ca {
    root: Root,
    key: PrivateKey,
}

/// Why a CA was not made or loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// No key could be made, or the stored one is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The stored key is not that of the certificate.
    #[error("the key is not that of the CA certificate")]
    WrongKey,
    /// The time given is before 1970 or after 9999.
    #[error("the clock shows no time that a certificate could bear")]
    Clock,
}

/// Why no certificate was issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// Not a request that its key has signed, longer than [`REQUEST_MAX`], or for another kind of key than ours.
    #[error("malformed certificate request")]
    Request,
    /// See [`NoRandomness`].
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The time given is before 1970 or after 9999.
    #[error("the clock shows no time that a certificate could bear")]
    Clock,
}

impl Ca {
    /// A new CA for a new cluster.
    ///
    /// # Errors
    /// [`CaError::Key`], [`CaError::Clock`].
    pub fn make(cluster: ClusterId, now: SystemTime, random: &dyn SecureRandom) -> Result<Self, CaError> {
        let key = PrivateKey::generate(random)?;
        let mut params = params(cluster, None, CA_NAME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(number(Serial::random(random).map_err(KeyError::from)?));
        validity(&mut params, now, CA_LIFE).ok_or(CaError::Clock)?;
        let made = params.self_signed(key.pair()).expect("an Ed25519 key signs any parameters of ours");
        Ok(Self { root: Root { certificate: made.der().clone(), cluster }, key })
    }

    /// The CA that [`Self::root`] and [`Self::key`] gave.
    ///
    /// # Errors
    /// [`CaError::WrongKey`].
    pub fn new(root: Root, key: PrivateKey) -> Result<Self, CaError> {
        let ca = Self { root, key };
        let held = names(&ca.root.certificate).map_err(|_| CaError::WrongKey)?;
        if held.public_key != ca.key.pair().public_key_raw() {
            return Err(CaError::WrongKey);
        }
        Ok(ca)
    }

    /// Its certificate.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its key, for a manager's disk or another manager.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Signs a node's request. Whoever calls has settled that the node may have this id and role: by a join token,
    /// or by [`Self::renew`]. Of the request only the key is taken, and that its holder signed it.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(
        &self,
        request: &CertificateSigningRequestDer<'_>,
        node: NodeId,
        role: Role,
        now: SystemTime,
        random: &dyn SecureRandom,
    ) -> Result<Certificate, IssueError> {
        if request.len() > REQUEST_MAX {
            return Err(IssueError::Request);
        }
        let request = CertificateSigningRequestParams::from_der(request).map_err(|_| IssueError::Request)?;
        if request.public_key.algorithm() != &rcgen::PKCS_ED25519 {
            return Err(IssueError::Request);
        }
        let mut params = params(self.root.cluster, Some(role), &node.to_string());
        params.subject_alt_names = vec![rcgen::SanType::DnsName(
            format!("{node}.{DOMAIN}").try_into().expect("ids are letters and digits"),
        )];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(number(Serial::random(random)?));
        validity(&mut params, now, CERTIFICATE_LIFE).ok_or(IssueError::Clock)?;
        let issuer = Issuer::from_ca_cert_der(&self.root.certificate, self.key.pair())
            .expect("the root has been parsed before");
        let made = params.signed_by(&request.public_key, &issuer).map_err(|_| IssueError::Request)?;
        Ok(made.der().clone())
    }

    /// Signs a member's request over a connection that has authenticated it: the same id, and the role that it is to
    /// have from now on (the same unless it was promoted or demoted).
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn renew(
        &self,
        member: &Peer,
        role: Role,
        request: &CertificateSigningRequestDer<'_>,
        now: SystemTime,
        random: &dyn SecureRandom,
    ) -> Result<Certificate, IssueError> {
        self.issue(request, member.node, role, now, random)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("root", &self.root.digest()).finish_non_exhaustive()
    }
}

/// Parameters with a subject, and no more.
fn params(cluster: ClusterId, role: Option<Role>, name: &str) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, cluster.to_string());
    if let Some(role) = role {
        subject.push(DnType::OrganizationalUnitName, unit(role));
    }
    subject.push(DnType::CommonName, name);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params
}

fn number(serial: Serial) -> SerialNumber {
    SerialNumber::from_slice(serial.as_bytes())
}

/// Writes from when to when; `None` if those are no years of four digits after 1970 (RFC 5280 §4.1.2.5).
fn validity(params: &mut CertificateParams, now: SystemTime, life: Duration) -> Option<()> {
    /// The first second of the year 9999.
    const END: u64 = 253_370_764_800;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let before = now.checked_sub(CLOCK_LEEWAY.as_secs())?;
    let after = now.checked_add(life.as_secs()).filter(|&after| after < END)?;
    params.not_before = epoch + Duration::from_secs(before);
    params.not_after = epoch + Duration::from_secs(after);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{DAY, ca, node, now, random};

    #[test]
    fn a_ca_comes_back_from_its_parts_and_from_no_others() {
        let (first, second) = (ca(), ca());
        let root = Root::from_der(first.root().certificate()).unwrap();
        assert_eq!(&root, first.root());
        let key = |ca: &Ca| PrivateKey::from_der(&ca.key().to_der()).unwrap();
        let again = Ca::new(root.clone(), key(&first)).unwrap();
        assert_eq!(Ca::new(root, key(&second)).err(), Some(CaError::WrongKey));
        let member = node(&again, Role::Worker, now());
        assert!(first.root().verify(&member.certificate, now(), &Default::default()).is_ok());
    }

    #[test]
    fn a_node_certificate_is_no_ca() {
        let ca = ca();
        assert_eq!(Root::from_der(&node(&ca, Role::Manager, now()).certificate), Err(NotACa));
        let whole = ca.root().certificate().to_vec();
        for len in 0..whole.len() {
            assert_eq!(Root::from_der(&whole[..len]), Err(NotACa), "{len} bytes");
        }
    }

    #[test]
    fn a_certificate_says_who_and_how_long() {
        let ca = ca();
        for role in Role::ALL {
            let member = node(&ca, role, now());
            let peer = ca.root().verify(&member.certificate, now(), &Default::default()).unwrap();
            assert_eq!((peer.node, peer.role, peer.cluster), (member.id, role, ca.root().cluster()));
            assert_eq!((peer.not_before, peer.not_after), (now() - CLOCK_LEEWAY, now() + CERTIFICATE_LIFE));
        }
    }

    #[test]
    fn renewal_keeps_the_id_and_changes_the_rest() {
        let ca = ca();
        let member = node(&ca, Role::Worker, now());
        let verify = |certificate: &Certificate, now| ca.root().verify(certificate, now, &Default::default());
        let old = verify(&member.certificate, now()).unwrap();
        let later = now() + 60 * DAY;
        let key = PrivateKey::generate(&random()).unwrap();
        let renewed = ca.renew(&old, Role::Manager, &key.request(), later, &random()).unwrap();
        let new = verify(&renewed, now() + 120 * DAY).unwrap();
        assert_eq!((new.node, new.role), (old.node, Role::Manager));
        assert_ne!(new.serial, old.serial);
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_gets_nothing() {
        let (ca, id) = (ca(), NodeId::random(&random()).unwrap());
        let whole = PrivateKey::generate(&random()).unwrap().request().to_vec();
        let issue = |request: Vec<u8>| {
            ca.issue(&CertificateSigningRequestDer::from(request), id, Role::Manager, now(), &random())
        };
        assert!(issue(whole.clone()).is_ok());
        for len in 0..whole.len() {
            assert_eq!(issue(whole[..len].to_vec()).err(), Some(IssueError::Request), "{len} bytes");
        }
        // What is signed, and the signature's 64 bytes. The ten bytes between them only announce these, and have more
        // than one spelling.
        let signature = whole.len() - 64;
        for byte in (0..signature - 10).chain(signature..whole.len()) {
            let mut request = whole.clone();
            request[byte] ^= 1;
            assert_eq!(issue(request).err(), Some(IssueError::Request), "byte {byte}");
        }
        assert_eq!(issue(vec![0x30; REQUEST_MAX + 1]).err(), Some(IssueError::Request));
    }

    #[test]
    fn a_clock_outside_of_what_certificates_can_bear_is_refused() {
        let cluster = ClusterId::random(&random()).unwrap();
        for now in [UNIX_EPOCH, UNIX_EPOCH - DAY, UNIX_EPOCH + Duration::from_secs(1 << 40)] {
            assert_eq!(Ca::make(cluster, now, &random()).err(), Some(CaError::Clock), "{now:?}");
        }
    }

    #[test]
    fn debug_output_has_no_key() {
        let ca = ca();
        assert_eq!(format!("{ca:?}"), format!("Ca {{ root: {}, .. }}", ca.root().digest()));
    }
}
