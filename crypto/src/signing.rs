//! What a manager says to the whole cluster, signed, so that anybody may pass it on and nobody can change it.
//!
//! ```text
//!   0         2                2 + length         66 + length
//!  +---------+----------------+------------------+
//!  | length  |  certificate   |    signature     |
//!  +---------+----------------+------------------+
//!   u16, big    the signer's,   Ed25519 (RFC 8032),
//!   endian      X.509 in DER    64 bytes
//! ```
//!
//! Signed are a text that names the purpose, the length, the certificate, and the bytes in question. So a signature means
//! nothing elsewhere (in TLS, in a certificate request, as one of another version), and it can't be given another
//! certificate of the same key, which would make a second record of the same write. The certificate comes along
//! because whoever reads a record may never have met its writer.
//!
//! **A certificate's end does not end what was signed with it.** A network that a manager made in spring is still
//! there in autumn, when that certificate has long expired, and a node that joins then has to believe it; nobody would be
//! left to sign it again if its writer is gone. So a certificate is asked for at the first second of its own time
//! only: it shows who was a manager once. That leaves three things to whoever reads records:
//!
//! - **Revocations end it at once, and bring it back when they are forgotten.** [`Revoked::age`] drops an entry when TLS
//!   would refuse the certificate anyway. Here the certificate would count again. [`Root::verify_signed`] gives
//!   [`Peer::not_before`] and [`Peer::not_after`]: compare them with the time that the record says it was
//!   written at. A removed manager can then only claim that it wrote before its certificate ended, and loses to whatever
//!   has been written since.
//! - What a removed or demoted manager has written is refused from then on, to those who don't hold it yet. Another
//!   manager has to sign it again before it goes.
//! - How old a record is, or which of two is newer, is for its bytes to say.

use std::time::{Duration, UNIX_EPOCH};

use rcgen::SigningKey;
use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::EndEntityCert;

use crate::ca::{Certificate, Root};
use crate::identity::{PrivateKey, Role};
use crate::peer::{Peer, PeerError, Revoked};

/// Bytes of a signature that is looked at, certificate included: ours have about 600.
pub const SIGNED_MAX: usize = 1_023;

const PURPOSE: &[u8] = b"vswitchd signed record 1";
const LENGTH_LEN: usize = 2;
const SIGNATURE_LEN: usize = 64;
/// Bytes of a certificate that leaves room for the rest.
const CERTIFICATE_MAX: usize = SIGNED_MAX - LENGTH_LEN - SIGNATURE_LEN;
const _: () = assert!(CERTIFICATE_MAX <= crate::peer::CERTIFICATE_MAX);

/// Why a signature is no manager's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Not laid out as [`sign`] does, or longer than [`SIGNED_MAX`].
    #[error("malformed signature")]
    Malformed,
    /// Its certificate is not, or no longer, a manager's of this cluster.
    #[error(transparent)]
    Signer(#[from] PeerError),
    /// The signer has not signed these bytes.
    #[error("the signature is not of these bytes")]
    Forged,
}

/// Signs bytes of any length. Gives the signature with its certificate, at most [`SIGNED_MAX`] bytes.
///
/// # Panics
/// If the certificate is longer than any that [`crate::ca::Ca::issue`] makes.
#[must_use]
pub fn sign(key: &PrivateKey, certificate: &Certificate, bytes: &[u8]) -> Vec<u8> {
    assert!(certificate.len() <= CERTIFICATE_MAX, "not a certificate of ours");
    let signature = key.pair().sign(&message(certificate, bytes)).expect("an Ed25519 key signs anything");
    [&length(certificate)[..], certificate, &signature].concat()
}

impl Root {
    /// Which manager has signed these bytes; [`crate::signing`] says what its certificate's dates mean here.
    ///
    /// # Errors
    /// See [`SignedError`]. Of [`PeerError`], not `Expired` and `NotYetValid`.
    pub fn verify_signed(
        &self,
        bytes: &[u8],
        signature: &[u8],
        revoked: &Revoked,
    ) -> Result<Peer, SignedError> {
        let (certificate, signature) = parse(signature).ok_or(SignedError::Malformed)?;
        let certificate = CertificateDer::from(certificate);
        let began = UNIX_EPOCH + Duration::from_secs(self.began(&certificate).as_secs());
        let peer = self.verify_role(&certificate, Role::Manager, began, revoked)?;
        EndEntityCert::try_from(&certificate)
            .and_then(|end| {
                end.verify_signature(webpki::ring::ED25519, &message(&certificate, bytes), signature)
            })
            .map_err(|_| SignedError::Forged)?;
        Ok(peer)
    }

    /// The first second of a certificate's time, or 1970 for what is none; nothing is believed by that yet.
    fn began(&self, certificate: &CertificateDer<'_>) -> UnixTime {
        let epoch = UnixTime::since_unix_epoch(Duration::ZERO);
        match self.signed(certificate, epoch) {
            Err(webpki::Error::CertNotValidYet { not_before, .. }) => not_before,
            Ok(()) | Err(_) => epoch,
        }
    }
}

/// What is signed. The first part is of fixed length, the second says its own.
fn message(certificate: &CertificateDer<'_>, bytes: &[u8]) -> Vec<u8> {
    [PURPOSE, &length(certificate), certificate, bytes].concat()
}

fn length(certificate: &CertificateDer<'_>) -> [u8; LENGTH_LEN] {
    u16::try_from(certificate.len()).expect("both ends look at its length before").to_be_bytes()
}

/// Certificate and signature; `None` if there is more or less than those.
fn parse(signed: &[u8]) -> Option<(&[u8], &[u8])> {
    if signed.len() > SIGNED_MAX {
        return None;
    }
    let (length, rest) = signed.split_first_chunk::<LENGTH_LEN>()?;
    let (certificate, signature) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    (signature.len() == SIGNATURE_LEN).then_some((certificate, signature))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::ca::{CERTIFICATE_LIFE, CLOCK_LEEWAY, Ca};
    use crate::fixture::{DAY, Node, ca, node, now, random};

    const RECORD: &[u8] = b"network blue, VNI 42";

    fn signed_by(node: &Node) -> Vec<u8> {
        sign(&node.key, &node.certificate, RECORD)
    }

    fn verify(ca: &Ca, bytes: &[u8], signature: &[u8]) -> Result<Peer, SignedError> {
        ca.root().verify_signed(bytes, signature, &Revoked::default())
    }

    #[test]
    fn a_manager_is_known_by_what_it_signs_of_any_length() {
        let ca = ca();
        let manager = node(&ca, Role::Manager, now());
        for bytes in [&[][..], RECORD, &[7; 70_000]] {
            let signature = sign(&manager.key, &manager.certificate, bytes);
            assert!(signature.len() <= SIGNED_MAX, "{} bytes", signature.len());
            let peer = verify(&ca, bytes, &signature).unwrap();
            assert_eq!((peer.node, peer.role), (manager.id, Role::Manager));
        }
    }

    #[test]
    fn a_record_outlives_its_certificate_which_still_says_its_dates() {
        // No clock is asked at all: one made in any year is as good, and says when it was.
        for made in [now() - 40 * 365 * DAY, now(), now() + 100 * 365 * DAY] {
            let ca = Ca::make(crate::identity::ClusterId::from_bytes([1; 16]), made, &random()).unwrap();
            let peer = verify(&ca, RECORD, &signed_by(&node(&ca, Role::Manager, made))).unwrap();
            let dates: (SystemTime, SystemTime) = (made - CLOCK_LEEWAY, made + CERTIFICATE_LIFE);
            assert_eq!((peer.not_before, peer.not_after), dates);
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_fails() {
        let ca = ca();
        let whole = signed_by(&node(&ca, Role::Manager, now()));
        assert!(verify(&ca, RECORD, &whole).is_ok());
        for len in 0..whole.len() {
            assert_eq!(verify(&ca, RECORD, &whole[..len]), Err(SignedError::Malformed), "{len} bytes");
        }
        for bit in 0..whole.len() * 8 {
            let mut signature = whole.clone();
            signature[bit / 8] ^= 0x80 >> (bit % 8);
            let refused = verify(&ca, RECORD, &signature).unwrap_err();
            let in_signature = bit / 8 >= whole.len() - SIGNATURE_LEN;
            assert!(!in_signature || refused == SignedError::Forged, "bit {bit}: {refused}");
        }
        for bit in 0..RECORD.len() * 8 {
            let mut record = RECORD.to_vec();
            record[bit / 8] ^= 0x80 >> (bit % 8);
            assert_eq!(verify(&ca, &record, &whole), Err(SignedError::Forged), "bit {bit} of the record");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(verify(&ca, RECORD, &longer), Err(SignedError::Malformed));
        assert_eq!(verify(&ca, RECORD, &vec![0; SIGNED_MAX + 1]), Err(SignedError::Malformed));
    }

    #[test]
    fn only_managers_of_this_cluster_sign() {
        let (ca, other) = (ca(), ca());
        let stranger = signed_by(&node(&other, Role::Manager, now()));
        assert_eq!(verify(&ca, RECORD, &stranger), Err(SignedError::Signer(PeerError::WrongCa)));
        // One of the same cluster id, so the issuer's name is the same.
        let twin = Ca::make(ca.root().cluster(), now(), &random()).unwrap();
        let stranger = signed_by(&node(&twin, Role::Manager, now()));
        assert_eq!(verify(&ca, RECORD, &stranger), Err(SignedError::Signer(PeerError::WrongCa)));
        let worker = signed_by(&node(&ca, Role::Worker, now()));
        assert_eq!(verify(&ca, RECORD, &worker), Err(SignedError::Signer(PeerError::WrongRole)));
    }

    #[test]
    fn a_worker_with_a_managers_certificate_signs_nothing() {
        let ca = ca();
        let (manager, worker) = (node(&ca, Role::Manager, now()), node(&ca, Role::Worker, now()));
        let signature = sign(&worker.key, &manager.certificate, RECORD);
        assert_eq!(verify(&ca, RECORD, &signature), Err(SignedError::Forged));
    }

    #[test]
    fn a_signature_keeps_its_certificate() {
        let ca = ca();
        let manager = node(&ca, Role::Manager, now());
        let signature = signed_by(&manager);
        let held = verify(&ca, RECORD, &signature).unwrap();
        let renewed = ca.renew(&held, Role::Manager, &manager.key.request(), now(), &random()).unwrap();
        let signature = &signature[signature.len() - SIGNATURE_LEN..];
        let other = [&length(&renewed)[..], &renewed, signature].concat();
        assert_eq!(verify(&ca, RECORD, &other), Err(SignedError::Forged));
    }

    #[test]
    fn a_removed_node_and_a_removed_certificate_sign_no_more_until_that_is_forgotten() {
        let ca = ca();
        let (first, second) = (node(&ca, Role::Manager, now()), node(&ca, Role::Manager, now()));
        let mut revoked = Revoked::default();
        revoked.remove_node(first.id, now()).unwrap();
        let demoted = verify(&ca, RECORD, &signed_by(&second)).unwrap();
        revoked.remove_certificate(&demoted).unwrap();
        let verify = |node, revoked: &Revoked| ca.root().verify_signed(RECORD, &signed_by(node), revoked);
        for node in [&first, &second] {
            assert_eq!(verify(node, &revoked), Err(SignedError::Signer(PeerError::Revoked)));
        }
        let later = now() + CERTIFICATE_LIFE + CLOCK_LEEWAY;
        revoked.age(later);
        for node in [&first, &second] {
            let peer = verify(node, &revoked).unwrap();
            assert!(peer.not_after < later, "which is what tells a record of then from one of before");
        }
    }
}
