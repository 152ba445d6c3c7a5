//! What strangers and new members send: group datagrams, key rings, join tokens, certificates.

use std::sync::LazyLock;
use std::time::SystemTime;

use ring::rand::SystemRandom;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use vswitchd_crypto::ca::{Ca, Root};
use vswitchd_crypto::envelope::TAG_LEN;
use vswitchd_crypto::group::{GroupOpener, GroupSealer, HEADER_LEN, Header, OVERHEAD, OpenError};
use vswitchd_crypto::identity::{ClusterId, NodeId, Role};
use vswitchd_crypto::keyring::{KeyRing, RING_LENS};
use vswitchd_crypto::peer::Revoked;
use vswitchd_crypto::token::{TOKEN_WIDTH, Token};

/// A join token is refused, or is exactly what would be written for it.
pub fn token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = Token::parse(text) {
        assert_eq!(text.len(), TOKEN_WIDTH);
        assert_eq!(*token.reveal(), text);
    }
}

/// A key ring is refused, or is exactly what would be written for it.
pub fn keyring(data: &[u8]) {
    if let Ok(ring) = KeyRing::decode(data) {
        assert!(RING_LENS.contains(&data.len()));
        // The time at which the previous key goes is only read if a flag says so; nothing else is left out.
        let written = ring.encode();
        assert_eq!(KeyRing::decode(&written).as_ref(), Ok(&ring));
        assert_eq!((&written[..14], &written[22..]), (&data[..14], &data[22..]));
    }
}

/// Any bytes, before and after they are sealed by a member: those of a stranger never open, those of a member open
/// once.
pub fn group(data: &[u8]) {
    let random = SystemRandom::new();
    let (one, two) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
    let keys = KeyRing::make(std::time::UNIX_EPOCH, &random).expect("randomness");
    let mut opener = GroupOpener::new(two, keys.clone());
    let stranger = opener.open(&mut data.to_vec());
    assert!(stranger.is_err(), "nobody has the key");
    if data.len() < OVERHEAD || data[0] != vswitchd_crypto::group::KIND {
        assert_eq!((stranger, Header::parse(data)), (Err(OpenError::Malformed), None));
    } else {
        let header = Header::parse(data).expect("long enough, and of the kind");
        assert_eq!(header.emit(), data[..HEADER_LEN]);
    }

    let mut sealer = GroupSealer::new(one, &keys, &random).expect("randomness");
    let mut datagram = [&[0; HEADER_LEN][..], data, &[0; TAG_LEN]].concat();
    sealer.seal(&mut datagram).expect("the first");
    let sealed = datagram.clone();
    let opened = opener.open(&mut datagram).expect("a member's");
    assert_eq!((opened.sender, &datagram[opened.plaintext]), (one, data));
    assert_eq!(opener.open(&mut sealed.clone()), Err(OpenError::Replayed));
    // What was changed does not open; where, the bytes themselves say.
    let mut changed = sealed;
    let place = data.iter().fold(0, |sum: usize, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
        % changed.len();
    changed[place] ^= data.first().map_or(1, |&byte| byte | 1);
    assert!(opener.open(&mut changed).is_err(), "byte {place}");
}

/// A cluster of which nobody knows the keys, and which has issued nothing.
static CLUSTER: LazyLock<Ca> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let id = ClusterId::random(&random).expect("randomness");
    Ca::make(id, SystemTime::now(), &random).expect("a time that certificates can bear")
});

/// A certificate, a signature, a request for a certificate: none is of our cluster, and only a request whose key has
/// signed it gets a certificate, which is for that key and for nothing else that it says.
pub fn certificate(data: &[u8]) {
    let (root, now, nobody) = (CLUSTER.root(), SystemTime::now(), Revoked::default());
    assert!(root.verify(&CertificateDer::from(data), now, &nobody).is_err());
    assert!(root.verify_signed(b"record", data, &nobody).is_err());
    if let Ok(root) = Root::from_der(data) {
        assert_eq!(Root::from_der(root.certificate()).as_ref(), Ok(&root));
    }
    let (id, request) = (NodeId::from_bytes([1; 16]), CertificateSigningRequestDer::from(data));
    if let Ok(certificate) = CLUSTER.issue(&request, id, Role::Worker, now, &SystemRandom::new()) {
        let peer = root.verify(&certificate, now, &nobody).expect("our CA has just signed it");
        assert_eq!((peer.node, peer.role, peer.cluster), (id, Role::Worker, root.cluster()));
    }
}
