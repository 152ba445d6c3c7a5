//! Whether a certificate is a member's, and whose.
//!
//! [`Root::verify`] answers both, and if not, why not, in this order: a certificate that our CA has not signed is
//! of another cluster, whatever else it says; only then do its dates count, then what has been revoked. Nothing of
//! a certificate is believed, nor parsed further than `webpki` does, before the signature holds.
//!
//! [`Revoked`] is what `node rm` leaves behind: a certificate can't be called back, so members refuse it until it
//! has expired anyway.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, X509Certificate};

use crate::ca::{CERTIFICATE_LIFE, CLOCK_LEEWAY, Root, SERIAL_LEN, Serial, unit};
use crate::identity::{ClusterId, NodeId, Role};

/// Bytes of a certificate that is looked at: ours have about 500.
pub const CERTIFICATE_MAX: usize = 4_096;

/// Entries of a [`Revoked`], of either kind. An entry lasts as long as a certificate, so this is one removed every
/// two minutes.
pub const REVOKED_MAX: usize = 65_536;

/// A member, as its certificate names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Its role when the certificate was made.
    pub role: Role,
    /// The cluster.
    pub cluster: ClusterId,
    /// The certificate's number.
    pub serial: Serial,
    /// The certificate is good from here on,
    pub not_before: SystemTime,
    /// until here.
    pub not_after: SystemTime,
}

/// Why a certificate is no member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Our CA has not signed it: another cluster's, or nobody's.
    #[error("the certificate is not of this cluster's CA")]
    WrongCa,
    /// It was a member's once.
    #[error("the certificate has expired")]
    Expired,
    /// It will be a member's: our clock is behind, or that of its CA was ahead.
    #[error("the certificate is not valid yet: a clock is wrong")]
    NotYetValid,
    /// A member without the role that was asked for.
    #[error("the certificate is for another role")]
    WrongRole,
    /// Not the node that was called.
    #[error("the certificate is another node's")]
    WrongNode,
    /// The node was removed, or the certificate replaced by one with less rights.
    #[error("the certificate has been revoked")]
    Revoked,
    /// Not a certificate of the kind that the CA makes.
    #[error("malformed certificate")]
    Malformed,
}

impl Root {
    /// Whose certificate this is, if it is a member's at this time.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        now: SystemTime,
        revoked: &Revoked,
    ) -> Result<Peer, PeerError> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let verified = self.signed(certificate, UnixTime::since_unix_epoch(seconds(now)));
        match verified {
            Ok(()) => {}
            // Dates are looked at before the signature. So that a stranger's are not: would it do at its own time?
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                let strange = self.signed(certificate, not_after).is_err();
                return Err(if strange { PeerError::WrongCa } else { PeerError::Expired });
            }
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
                let strange = self.signed(certificate, not_before).is_err();
                return Err(if strange { PeerError::WrongCa } else { PeerError::NotYetValid });
            }
            Err(webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey) => {
                return Err(PeerError::WrongCa);
            }
            Err(_) => return Err(PeerError::Malformed),
        }
        let peer = Peer::of(certificate)?;
        if peer.cluster != self.cluster() {
            return Err(PeerError::WrongCa);
        }
        if revoked.has(&peer) {
            return Err(PeerError::Revoked);
        }
        Ok(peer)
    }

    /// The same, if it has this role.
    ///
    /// # Errors
    /// See [`PeerError`].
    pub fn verify_role(
        &self,
        certificate: &CertificateDer<'_>,
        role: Role,
        now: SystemTime,
        revoked: &Revoked,
    ) -> Result<Peer, PeerError> {
        let peer = self.verify(certificate, now, revoked)?;
        if peer.role == role { Ok(peer) } else { Err(PeerError::WrongRole) }
    }

    /// Whether the CA has signed it, without any CA between them, for what nodes do, for that time.
    pub(crate) fn signed(&self, certificate: &CertificateDer<'_>, at: UnixTime) -> Result<(), webpki::Error> {
        if certificate.len() > CERTIFICATE_MAX {
            return Err(webpki::Error::BadDer);
        }
        let anchor = webpki::anchor_from_trusted_cert(self.certificate())?;
        let verify = |usage| {
            EndEntityCert::try_from(certificate)?
                .verify_for_usage(
                    &[webpki::ring::ED25519],
                    std::slice::from_ref(&anchor),
                    &[],
                    at,
                    usage,
                    None,
                    None,
                )
                .map(drop)
        };
        verify(KeyUsage::server_auth())?;
        verify(KeyUsage::client_auth())
    }
}

impl Peer {
    /// What a verified certificate says.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let names = names(certificate)?;
        let role = Role::ALL.into_iter().find(|&role| names.unit.as_deref() == Some(unit(role)));
        Ok(Self {
            node: names.common_name.parse().map_err(|_| PeerError::Malformed)?,
            role: role.ok_or(PeerError::Malformed)?,
            cluster: names.organization.parse().map_err(|_| PeerError::Malformed)?,
            serial: names.serial,
            not_before: names.not_before,
            not_after: names.not_after,
        })
    }

    /// When to ask for the next certificate: after two thirds of this one's life, so that a month is left for finding
    /// a manager.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life * 2 / 3
    }
}

/// The parts of a certificate that are ours to lay out.
pub(crate) struct Names {
    pub(crate) common_name: String,
    pub(crate) organization: String,
    pub(crate) unit: Option<String>,
    pub(crate) public_key: Vec<u8>,
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
}

pub(crate) fn names(certificate: &CertificateDer<'_>) -> Result<Names, PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Malformed)?;
    let subject = parsed.subject();
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).map_err(|_| PeerError::Malformed)?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(PeerError::Malformed)
    };
    let serial = <[u8; SERIAL_LEN]>::try_from(parsed.raw_serial()).map_err(|_| PeerError::Malformed)?;
    Ok(Names {
        common_name: only(subject.iter_common_name())?.ok_or(PeerError::Malformed)?,
        organization: only(subject.iter_organization())?.ok_or(PeerError::Malformed)?,
        unit: only(subject.iter_organizational_unit())?,
        public_key: parsed.public_key().subject_public_key.data.to_vec(),
        serial: Serial::from_bytes(serial),
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
    })
}

/// The one value that a name has of a kind, if it has any. Several would let two readers see two names.
fn only<'n, 'd: 'n>(
    mut values: impl Iterator<Item = &'n AttributeTypeAndValue<'d>>,
) -> Result<Option<String>, PeerError> {
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(PeerError::Malformed);
    }
    first.as_str().map(|text| Some(text.to_owned())).map_err(|_| PeerError::Malformed)
}

/// Nodes and single certificates that are members no more, until the last certificate that names them has expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    nodes: BTreeMap<NodeId, SystemTime>,
    serials: BTreeMap<Serial, SystemTime>,
}

/// There is no room for another entry ([`REVOKED_MAX`]); nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many revocations")]
pub struct TooManyRevoked;

impl Revoked {
    /// Refuses every certificate of a node, for as long as one may last that was made just now.
    ///
    /// # Errors
    /// [`TooManyRevoked`].
    pub fn remove_node(&mut self, node: NodeId, now: SystemTime) -> Result<(), TooManyRevoked> {
        insert(&mut self.nodes, node, now + CERTIFICATE_LIFE + CLOCK_LEEWAY)
    }

    /// Refuses one certificate, such as that of a manager which has become a worker.
    ///
    /// # Errors
    /// [`TooManyRevoked`].
    pub fn remove_certificate(&mut self, held: &Peer) -> Result<(), TooManyRevoked> {
        insert(&mut self.serials, held.serial, held.not_after + CLOCK_LEEWAY)
    }

    /// Whether a member is refused.
    #[must_use]
    pub fn has(&self, peer: &Peer) -> bool {
        self.nodes.contains_key(&peer.node) || self.serials.contains_key(&peer.serial)
    }

    /// Whether a node was removed.
    #[must_use]
    pub fn has_node(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// Forgets what has expired on its own.
    pub fn age(&mut self, now: SystemTime) {
        self.nodes.retain(|_, until| *until > now);
        self.serials.retain(|_, until| *until > now);
    }

    /// Nodes removed, each with the time until which it is remembered: for a file, or for other members.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, SystemTime)> {
        self.nodes.iter().map(|(&node, &until)| (node, until))
    }

    /// Certificates removed, likewise.
    pub fn serials(&self) -> impl Iterator<Item = (Serial, SystemTime)> {
        self.serials.iter().map(|(&serial, &until)| (serial, until))
    }

    /// Takes over entries from a file or from a manager. The later time counts.
    ///
    /// # Errors
    /// [`TooManyRevoked`]; what fitted was taken.
    pub fn merge(
        &mut self,
        nodes: impl IntoIterator<Item = (NodeId, SystemTime)>,
        serials: impl IntoIterator<Item = (Serial, SystemTime)>,
    ) -> Result<(), TooManyRevoked> {
        nodes.into_iter().try_for_each(|(node, until)| insert(&mut self.nodes, node, until))?;
        serials.into_iter().try_for_each(|(serial, until)| insert(&mut self.serials, serial, until))
    }
}

fn insert<K: Ord>(
    map: &mut BTreeMap<K, SystemTime>,
    key: K,
    until: SystemTime,
) -> Result<(), TooManyRevoked> {
    if let Some(held) = map.get_mut(&key) {
        *held = until.max(*held);
    } else if map.len() < REVOKED_MAX {
        map.insert(key, until);
    } else {
        return Err(TooManyRevoked);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Ca;
    use crate::fixture::{DAY, Node, ca, node, now};

    const SECOND: Duration = Duration::from_secs(1);

    fn verify(ca: &Ca, node: &Node, now: SystemTime) -> Result<Peer, PeerError> {
        ca.root().verify(&node.certificate, now, &Revoked::default())
    }

    #[test]
    fn another_ca_is_wrong_before_anything_else_is() {
        let (ours, theirs) = (ca(), ca());
        let stranger = node(&theirs, Role::Manager, now());
        for at in [now(), now() - DAY, now() + 365 * DAY, UNIX_EPOCH] {
            assert_eq!(verify(&ours, &stranger, at), Err(PeerError::WrongCa), "{at:?}");
        }
        // One of the same cluster id, so the issuer's name is the same.
        let twin = Ca::make(ours.root().cluster(), now(), &crate::fixture::random()).unwrap();
        let stranger = node(&twin, Role::Manager, now());
        for at in [now(), now() - DAY, now() + 365 * DAY] {
            assert_eq!(verify(&ours, &stranger, at), Err(PeerError::WrongCa), "{at:?}");
        }
    }

    #[test]
    fn dates_hold_to_the_second() {
        let ca = ca();
        let member = node(&ca, Role::Worker, now());
        let (first, last) = (now() - CLOCK_LEEWAY, now() + CERTIFICATE_LIFE);
        assert_eq!(verify(&ca, &member, first - SECOND), Err(PeerError::NotYetValid));
        assert!(verify(&ca, &member, first).is_ok() && verify(&ca, &member, last).is_ok());
        assert_eq!(verify(&ca, &member, last + SECOND), Err(PeerError::Expired));
        assert_eq!(
            verify(&ca, &member, UNIX_EPOCH - DAY),
            Err(PeerError::NotYetValid),
            "a clock before 1970"
        );
        let renew_at = verify(&ca, &member, now()).unwrap().renew_at();
        assert!(now() + 59 * DAY < renew_at && renew_at < now() + 61 * DAY);
    }

    #[test]
    fn roles_are_told_apart() {
        let ca = ca();
        let member = node(&ca, Role::Worker, now());
        let verify = |role| ca.root().verify_role(&member.certificate, role, now(), &Revoked::default());
        assert_eq!(verify(Role::Worker).map(|peer| peer.node), Ok(member.id));
        assert_eq!(verify(Role::Manager), Err(PeerError::WrongRole));
    }

    #[test]
    fn the_ca_is_no_member() {
        let ca = ca();
        let peer = ca.root().verify(ca.root().certificate(), now(), &Revoked::default());
        assert_eq!(peer, Err(PeerError::Malformed));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_fails() {
        let ca = ca();
        let whole = node(&ca, Role::Worker, now()).certificate.to_vec();
        let verify = |der: &[u8]| ca.root().verify(&CertificateDer::from(der), now(), &Revoked::default());
        assert!(verify(&whole).is_ok());
        for len in 0..whole.len() {
            assert_eq!(verify(&whole[..len]), Err(PeerError::Malformed), "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut der = whole.clone();
            der[bit / 8] ^= 0x80 >> (bit % 8);
            assert!(verify(&der).is_err(), "bit {bit}");
        }
        assert_eq!(verify(&vec![0x30; CERTIFICATE_MAX + 1]), Err(PeerError::Malformed));
    }

    #[test]
    fn a_removed_node_and_a_removed_certificate_are_refused_until_they_expire() {
        let ca = ca();
        let (first, second) = (node(&ca, Role::Worker, now()), node(&ca, Role::Manager, now()));
        let mut revoked = Revoked::default();
        revoked.remove_node(first.id, now()).unwrap();
        let demoted = verify(&ca, &second, now()).unwrap();
        revoked.remove_certificate(&demoted).unwrap();
        let verify = |node: &Node, now, revoked: &Revoked| ca.root().verify(&node.certificate, now, revoked);
        for node in [&first, &second] {
            assert_eq!(verify(node, now(), &revoked), Err(PeerError::Revoked));
        }
        revoked.age(now() + CERTIFICATE_LIFE);
        assert_eq!((revoked.nodes().count(), revoked.serials().count()), (1, 1), "still valid otherwise");
        let mut other = Revoked::default();
        other.merge(revoked.nodes(), revoked.serials()).unwrap();
        assert_eq!(other, revoked);
        revoked.age(now() + CERTIFICATE_LIFE + CLOCK_LEEWAY);
        assert_eq!(revoked, Revoked::default());
        assert_eq!(verify(&first, now() + CERTIFICATE_LIFE + SECOND, &revoked), Err(PeerError::Expired));
    }

    #[test]
    fn revocations_have_a_limit() {
        let mut revoked = Revoked::default();
        let id = |number: usize| NodeId::from_bytes((number as u128).to_be_bytes());
        for number in 0..REVOKED_MAX {
            revoked.remove_node(id(number), now()).unwrap();
        }
        assert_eq!(revoked.remove_node(id(REVOKED_MAX), now()), Err(TooManyRevoked));
        assert_eq!(revoked.remove_node(id(7), now() + DAY), Ok(()), "one that is there is prolonged");
        assert_eq!(revoked.nodes().count(), REVOKED_MAX);
    }
}
