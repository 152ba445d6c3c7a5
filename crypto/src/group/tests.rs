use proptest::prelude::*;

use super::*;
use crate::fixture::{now, random};

fn node(number: u32) -> NodeId {
    let mut bytes = [0; ID_LEN];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn ring() -> KeyRing {
    KeyRing::make(now(), &random()).unwrap()
}

fn sealer(number: u32, ring: &KeyRing) -> GroupSealer {
    GroupSealer::new(node(number), ring, &random()).unwrap()
}

fn seal(sealer: &mut GroupSealer, plaintext: &[u8]) -> Vec<u8> {
    let mut datagram = [&[0; HEADER_LEN][..], plaintext, &[0; TAG_LEN]].concat();
    sealer.seal(&mut datagram).unwrap();
    datagram
}

fn open(opener: &mut GroupOpener, datagram: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut datagram = datagram.to_vec();
    opener.open(&mut datagram).map(|opened| datagram[opened.plaintext].to_vec())
}

#[test]
fn the_bytes_are_those_of_the_diagram() {
    let header = Header {
        epoch: KeyEpoch(0x0102_0304),
        sender: NodeId::from_bytes([0x55; ID_LEN]),
        boot: BootId(0x1112_1314_1516_1718),
        counter: Counter(0x2122_2324_2526_2728),
    };
    let mut want = vec![0x82, 1, 2, 3, 4];
    want.extend([0x55; ID_LEN]);
    want.extend([0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
    want.extend([0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]);
    assert_eq!(header.emit().to_vec(), want);
    want.extend([0; TAG_LEN]);
    assert_eq!(Header::parse(&want), Some(header));
}

#[test]
fn members_hear_each_other_and_not_themselves() {
    let ring = ring();
    let (mut one, mut two) = (sealer(1, &ring), sealer(2, &ring));
    let mut opener = GroupOpener::new(node(1), ring);
    let mut datagram = seal(&mut two, b"alive");
    let opened = opener.open(&mut datagram).unwrap();
    assert_eq!((opened.sender, &datagram[opened.plaintext]), (node(2), &b"alive"[..]));
    assert_eq!(open(&mut opener, &seal(&mut one, b"echo")), Err(OpenError::Reflected));
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let ring = ring();
    let whole = seal(&mut sealer(1, &ring), b"alive");
    let mut opener = GroupOpener::new(node(2), ring);
    for len in 0..whole.len() {
        assert!(open(&mut opener, &whole[..len]).is_err(), "{len} bytes");
    }
    for bit in 0..whole.len() * 8 {
        let mut datagram = whole.clone();
        datagram[bit / 8] ^= 0x80 >> (bit % 8);
        assert!(open(&mut opener, &datagram).is_err(), "bit {bit}");
    }
    assert!(opener.streams.is_empty(), "nothing is kept of what does not open");
    assert_eq!(open(&mut opener, &whole), Ok(b"alive".to_vec()), "none has moved a window");
}

#[test]
fn a_second_time_is_a_replay_in_any_order() {
    let ring = ring();
    let mut one = sealer(1, &ring);
    let mut opener = GroupOpener::new(node(2), ring);
    let datagrams: Vec<_> = (0..100).map(|_| seal(&mut one, b"alive")).collect();
    for datagram in datagrams.iter().rev() {
        assert!(open(&mut opener, datagram).is_ok());
    }
    for datagram in &datagrams {
        assert_eq!(open(&mut opener, datagram), Err(OpenError::Replayed));
    }
}

#[test]
fn a_restart_repeats_no_key_and_what_was_before_it_is_still_a_replay() {
    let ring = ring();
    let mut opener = GroupOpener::new(node(2), ring.clone());
    let mut before = sealer(1, &ring);
    let old = seal(&mut before, b"the same");
    assert!(open(&mut opener, &old).is_ok());
    // The ring comes back from disk, the counter starts from 0.
    let mut after = sealer(1, &KeyRing::decode(&ring.encode()).unwrap());
    let new = seal(&mut after, b"the same");
    let (was, is) = (Header::parse(&old).unwrap(), Header::parse(&new).unwrap());
    assert_eq!((was.epoch, was.sender, was.counter), (is.epoch, is.sender, is.counter));
    assert_ne!(was.boot, is.boot);
    assert_ne!(old[HEADER_LEN..], new[HEADER_LEN..], "another key");
    assert!(open(&mut opener, &new).is_ok());
    assert_eq!(open(&mut opener, &old), Err(OpenError::Replayed));
    // The boot is in the key, not only in the window's name.
    let mut renamed = old;
    renamed[field::BOOT].copy_from_slice(&is.boot.0.to_be_bytes());
    renamed[field::COUNTER].copy_from_slice(&9_u64.to_be_bytes());
    assert_eq!(open(&mut opener, &renamed), Err(OpenError::Failed));
}

#[test]
fn no_two_datagrams_have_key_and_nonce_in_common() {
    let mut ring = ring();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..20 {
        // Restarts, rotations, and rings that come back after another was taken.
        let kept = ring.clone();
        let mut one = sealer(1, &ring);
        for _ in 0..3 {
            ring.rotate(now(), &random()).unwrap();
            for ring in [&ring, &kept, &kept, &ring] {
                one.update(ring, &random()).unwrap();
                for _ in 0..2 {
                    let header = Header::parse(&seal(&mut one, b"")).unwrap();
                    let id = (header.epoch, header.boot.0, header.counter.0);
                    assert!(seen.insert(id), "round {round}: {header:?}");
                }
            }
        }
    }
}

#[test]
fn a_ring_that_changes_nothing_changes_no_boot() {
    let ring = ring();
    let mut one = sealer(1, &ring);
    let first = Header::parse(&seal(&mut one, b"")).unwrap();
    one.update(&ring, &random()).unwrap();
    let second = Header::parse(&seal(&mut one, b"")).unwrap();
    assert_eq!((second.boot, second.counter), (first.boot, Counter(1)));
}

#[test]
fn senders_with_equal_boots_have_different_keys() {
    let ring = ring();
    let key = |sender, boot| {
        let mut bytes = *b"plain";
        let nonce = Nonce::assume_unique_for_key(Counter(0).nonce());
        let key = derive(ring.current(), node(sender), BootId(boot));
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut bytes).unwrap();
        (bytes, tag.as_ref().to_vec())
    };
    assert_eq!(key(1, 7), key(1, 7));
    assert_ne!(key(1, 7), key(2, 7));
    assert_ne!(key(1, 7), key(1, 8));
}

#[test]
fn unknown_keys_say_whether_there_may_be_a_newer_ring() {
    let old = ring();
    let mut newer = old.clone();
    newer.expel(now(), &random()).unwrap();
    let mut opener = GroupOpener::new(node(2), old.clone());
    let ahead = seal(&mut sealer(1, &newer), b"");
    assert_eq!(open(&mut opener, &ahead), Err(OpenError::UnknownEpoch { newer: true }));
    opener.update(newer.clone());
    assert_eq!(open(&mut opener, &ahead), Ok(Vec::new()));
    let behind = seal(&mut sealer(1, &old), b"");
    assert_eq!(open(&mut opener, &behind), Ok(Vec::new()), "within the grace");
    newer.handle(now() + crate::keyring::EXPEL_GRACE);
    opener.update(newer);
    let behind = seal(&mut sealer(1, &old), b"");
    assert_eq!(open(&mut opener, &behind), Err(OpenError::UnknownEpoch { newer: false }));
}

#[test]
fn a_rotation_loses_and_repeats_nothing() {
    let mut ring = ring();
    let mut opener = GroupOpener::new(node(2), ring.clone());
    let mut one = sealer(1, &ring);
    let mut late = Vec::new();
    for _ in 0..50 {
        late.push(seal(&mut one, b"late"));
        let heard = seal(&mut one, b"heard");
        assert!(open(&mut opener, &heard).is_ok());
        ring.rotate(now(), &random()).unwrap();
        // The listener gets the ring now, the sender only after that.
        opener.update(ring.clone());
        assert_eq!(open(&mut opener, &heard), Err(OpenError::Replayed));
        assert!(open(&mut opener, &seal(&mut one, b"behind")).is_ok());
        assert!(open(&mut opener, late.last().unwrap()).is_ok());
        one.update(&ring, &random()).unwrap();
    }
    for datagram in &late {
        assert!(open(&mut opener, datagram).is_err());
    }
    assert!(opener.streams.len() <= 3, "keys that went take their streams along");
}

#[test]
fn equal_epochs_of_rings_made_apart_are_different_keys() {
    let first = ring();
    let (mut one, mut two) = (first.clone(), first);
    one.expel(now(), &random()).unwrap();
    two.expel(now(), &random()).unwrap();
    let mut opener = GroupOpener::new(node(2), one.clone());
    let mut sealer = sealer(1, &one);
    assert!(open(&mut opener, &seal(&mut sealer, b"")).is_ok());
    opener.update(two.clone());
    assert_eq!(open(&mut opener, &seal(&mut sealer, b"")), Err(OpenError::Failed));
    sealer.update(&two, &random()).unwrap();
    assert!(open(&mut opener, &seal(&mut sealer, b"")).is_ok());
}

#[test]
fn boots_and_streams_have_limits_and_the_oldest_goes() {
    let ring = ring();
    let mut opener = GroupOpener::new(node(0), ring.clone());
    let other = seal(&mut sealer(2, &ring), b"");
    assert!(open(&mut opener, &other).is_ok());
    let mut boots: Vec<_> = (0..BOOTS_MAX + 1).map(|_| sealer(1, &ring)).collect();
    for boot in &mut boots {
        assert!(open(&mut opener, &seal(boot, b"")).is_ok());
    }
    assert_eq!(opener.streams.len(), BOOTS_MAX + 1);
    let held = |opener: &GroupOpener, sealer: &GroupSealer| {
        opener.streams.contains_key(&(ring.epoch(), sealer.sender, sealer.boot))
    };
    assert!(!held(&opener, &boots[0]) && boots[1..].iter().all(|boot| held(&opener, boot)));
    assert_eq!(open(&mut opener, &other), Err(OpenError::Replayed), "another sender's stays");

    let mut senders = 10;
    while opener.streams.len() < STREAMS_MAX {
        senders += 1;
        assert!(open(&mut opener, &seal(&mut sealer(senders, &ring), b"")).is_ok());
    }
    assert!(open(&mut opener, &seal(&mut sealer(senders + 1, &ring), b"")).is_ok());
    assert_eq!(opener.streams.len(), STREAMS_MAX);
    assert!(open(&mut opener, &other).is_ok(), "the first heard was forgotten: as the limit says");
}

#[test]
fn a_used_up_key_seals_nothing_until_the_next() {
    let mut ring = ring();
    let mut one = sealer(1, &ring);
    one.next = SEALS_MAX - 1;
    let clear = [0xcc; OVERHEAD];
    assert_eq!(one.seal(&mut clear.to_vec()), Ok(()));
    for _ in 0..2 {
        let mut datagram = clear;
        assert_eq!((one.seal(&mut datagram), datagram), (Err(UsedUp), clear));
    }
    ring.rotate(now(), &random()).unwrap();
    one.update(&ring, &random()).unwrap();
    assert_eq!(one.seal(&mut clear.to_vec()), Ok(()));
}

#[test]
fn debug_output_has_no_key() {
    let ring = ring();
    let want = format!("GroupSealer {{ epoch: KeyEpoch(0), sender: {}, used: 0, .. }}", node(1));
    assert_eq!(format!("{:?}", sealer(1, &ring)), want);
    let want = format!("GroupOpener {{ own: {}, ring: {ring:?}, streams: 0, .. }}", node(1));
    assert_eq!(format!("{:?}", GroupOpener::new(node(1), ring)), want);
}

proptest! {
    #[test]
    fn round_trip(plaintext in prop::collection::vec(any::<u8>(), 0..1_400)) {
        let ring = ring();
        let datagram = seal(&mut sealer(1, &ring), &plaintext);
        prop_assert_eq!(datagram.len(), plaintext.len() + OVERHEAD);
        prop_assert_eq!(open(&mut GroupOpener::new(node(2), ring), &datagram), Ok(plaintext));
    }
}
