use proptest::prelude::*;

use super::*;
use crate::envelope::TAG_LEN;
use crate::fixture::{DAY, now, random};
use crate::group::{GroupOpener, GroupSealer, HEADER_LEN};
use crate::identity::NodeId;

const HOUR: Duration = Duration::from_secs(3_600);

fn ring() -> KeyRing {
    KeyRing::make(now(), &random()).unwrap()
}

fn epochs(ring: &KeyRing) -> (Option<u32>, u32, u32) {
    (ring.previous.as_ref().map(|key| key.epoch.0), ring.current.epoch.0, ring.next.epoch.0)
}

fn node(number: usize) -> NodeId {
    NodeId::from_bytes((number as u128 + 1).to_be_bytes())
}

/// Whether a datagram that a fresh sender with one ring seals opens with the other.
fn hears(listener: &KeyRing, speaker: &KeyRing) -> bool {
    let mut datagram = [&[0; HEADER_LEN][..], b"hello", &[0; TAG_LEN]].concat();
    GroupSealer::new(node(0), speaker, &random()).unwrap().seal(&mut datagram).unwrap();
    GroupOpener::new(node(1), listener.clone()).open(&mut datagram).is_ok()
}

#[test]
fn the_next_key_becomes_the_current_one() {
    let mut ring = ring();
    assert_eq!(epochs(&ring), (None, 0, 1));
    for epoch in 0..4 {
        let next = ring.next.secret.clone();
        ring.rotate(now(), &random()).unwrap();
        assert_eq!(epochs(&ring), (Some(epoch), epoch + 1, epoch + 2));
        assert_eq!(ring.current.secret, next);
    }
}

#[test]
fn rotation_is_due_after_twelve_hours_and_when_a_clock_was_ahead() {
    let ring = ring();
    let second = Duration::from_secs(1);
    assert!(!ring.rotation_due(now()) && !ring.rotation_due(now() + ROTATION - second));
    assert!(ring.rotation_due(now() + ROTATION));
    assert!(!ring.rotation_due(now() - HOUR) && ring.rotation_due(now() - DAY));
    assert_eq!(ring.next_deadline(Role::Manager), Some(now() + ROTATION));
    assert_eq!(ring.next_deadline(Role::Worker), None);
}

#[test]
fn whoever_is_expelled_hears_nothing_at_once_and_is_not_heard_soon() {
    let mut ring = ring();
    ring.rotate(now(), &random()).unwrap();
    let removed = ring.clone();
    ring.expel(now(), &random()).unwrap();
    assert_eq!(epochs(&ring), (Some(1), 3, 4));
    assert!(!hears(&removed, &ring) && hears(&ring, &removed));
    assert_eq!(ring.next_deadline(Role::Worker), Some(now() + EXPEL_GRACE));
    assert!(!ring.handle(now()));
    assert!(ring.handle(now() + EXPEL_GRACE) && !ring.handle(now() + EXPEL_GRACE));
    assert!(!hears(&ring, &removed));
    // Its next key is never used, by whatever rotates first.
    let mut ahead = removed.clone();
    ahead.rotate(now(), &random()).unwrap();
    ring.rotate(now(), &random()).unwrap();
    assert!(!hears(&ring, &ahead) && !hears(&ahead, &ring));
}

#[test]
fn an_expulsion_beats_any_number_of_rotations() {
    let mut expelled = ring();
    let mut rotated = expelled.clone();
    expelled.expel(now(), &random()).unwrap();
    for _ in 0..5 {
        rotated.rotate(now(), &random()).unwrap();
    }
    assert_eq!(expelled.merge(rotated.clone(), Role::Manager), Ok(Merged::Kept));
    assert_eq!(rotated.merge(expelled.clone(), Role::Manager), Ok(Merged::Taken));
    assert_eq!(rotated, expelled);
}

#[test]
fn workers_make_no_rings() {
    let mut ours = ring();
    let mut theirs = ours.clone();
    theirs.rotate(now(), &random()).unwrap();
    let before = ours.clone();
    assert_eq!(ours.merge(theirs, Role::Worker), Err(NotAManager));
    assert_eq!(ours, before);
}

#[test]
fn a_previous_key_that_one_has_forgotten_is_forgotten_by_the_other() {
    let mut slow = ring();
    slow.expel(now(), &random()).unwrap();
    let mut quick = slow.clone();
    quick.handle(now() + EXPEL_GRACE);
    assert_eq!(slow.merge(quick.clone(), Role::Manager), Ok(Merged::Taken));
    assert_eq!(slow, quick);
    assert_eq!(slow.merge(quick, Role::Manager), Ok(Merged::Kept));
}

#[test]
fn used_up_epochs_are_an_error_and_change_nothing() {
    let mut ring = ring();
    (ring.current.epoch, ring.next.epoch) = (KeyEpoch(u32::MAX - 2), KeyEpoch(u32::MAX - 1));
    let before = ring.clone();
    assert_eq!(ring.expel(now(), &random()), Err(RotateError::UsedUp));
    assert_eq!(ring, before);
    ring.rotate(now(), &random()).unwrap();
    let before = ring.clone();
    assert_eq!(ring.rotate(now(), &random()), Err(RotateError::UsedUp));
    assert_eq!(ring, before);
}

#[test]
fn rings_come_back_from_bytes_and_from_no_part_of_them() {
    let mut rings = vec![ring()];
    rings.push(rings[0].clone());
    rings[1].rotate(now() + HOUR, &random()).unwrap();
    rings.push(rings[1].clone());
    rings[2].expel(now() + 2 * HOUR, &random()).unwrap();
    for ring in rings {
        let bytes = ring.encode();
        assert!(bytes.capacity() == RING_LENS[1] && RING_LENS.contains(&bytes.len()));
        assert_eq!(KeyRing::decode(&bytes), Ok(ring));
        for len in 0..bytes.len() {
            assert_eq!(KeyRing::decode(&bytes[..len]), Err(RingError::Length), "{len} bytes");
        }
        assert_eq!(KeyRing::decode(&[&bytes[..], &[0]].concat()), Err(RingError::Length));
    }
}

#[test]
fn the_bytes_are_those_of_the_diagram() {
    let key = |epoch, byte| GroupKey { epoch: KeyEpoch(epoch), secret: Zeroizing::new([byte; KEY_LEN]) };
    let seconds = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let (since, until) = (seconds(0x0102), Some(seconds(0x0304)));
    let ring = KeyRing {
        expels: 5,
        since,
        previous: Some(key(6, 0x66)),
        until,
        current: key(8, 0x88),
        next: key(9, 0x99),
    };
    let mut want = vec![1, 3, 0, 0, 0, 5];
    want.extend([0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 3, 4]);
    for (epoch, byte) in [(9, 0x99), (8, 0x88), (6, 0x66)] {
        want.extend([0, 0, 0, epoch]);
        want.extend([byte; KEY_LEN]);
    }
    assert_eq!(*ring.encode(), want);
}

#[test]
fn contradictions_are_refused() {
    let mut rotated = ring();
    rotated.rotate(now(), &random()).unwrap();
    let good = rotated.encode();
    let with = |place: usize, value: u8| {
        let mut bytes = good.to_vec();
        bytes[place] = value;
        KeyRing::decode(&bytes)
    };
    assert!(with(0, 1).is_ok());
    assert_eq!(with(0, 2), Err(RingError::Version));
    for flags in [2, 4, 0x80] {
        assert_eq!(with(1, flags), Err(RingError::Inconsistent), "flags {flags}");
    }
    assert_eq!(with(6, 0x80), Err(RingError::Inconsistent), "a time that no clock shows");
    assert_eq!(with(25, 1), Err(RingError::Inconsistent), "next no later than current");
    assert_eq!(with(97, 1), Err(RingError::Inconsistent), "previous no earlier than current");
}

#[test]
fn debug_output_has_no_key() {
    let want = "KeyRing { previous: None, current: KeyEpoch(0), next: KeyEpoch(1), expels: 0, .. }";
    assert_eq!(format!("{:?}", ring()), want);
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    /// The rotating manager makes a new ring.
    Rotate,
    /// A node is removed, and the ring with it.
    Expel(usize),
    /// A node gets a ring that was made some time ago.
    Deliver { node: usize, ring: usize },
    /// Time passes, enough for an expelled node's key to go.
    Wait,
}

const NODES: usize = 5;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => Just(Step::Rotate),
        1 => (1..NODES).prop_map(Step::Expel),
        8 => (1..NODES, any::<prop::sample::Index>())
            .prop_map(|(node, ring)| Step::Deliver { node, ring: ring.index(64) }),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..60)
}

/// A node as the model knows it: its ring, which of all rings that is, and of which it was removed.
struct Model {
    ring: KeyRing,
    version: usize,
    removed_at: Option<usize>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Node 0 rotates; the others get its rings late, in any order, some never.
    #[test]
    fn members_a_rotation_apart_talk_and_the_removed_do_not(steps in steps()) {
        let first = ring();
        // All rings ever made, and whether each came by an expulsion.
        let (mut rings, mut expulsion, mut time) = (vec![first.clone()], vec![false], now());
        let mut nodes: Vec<Model> =
            (0..NODES).map(|_| Model { ring: first.clone(), version: 0, removed_at: None }).collect();
        for step in steps {
            match step {
                Step::Rotate => {
                    nodes[0].ring.rotate(time, &random()).unwrap();
                    rings.push(nodes[0].ring.clone());
                    expulsion.push(false);
                    nodes[0].version = rings.len() - 1;
                }
                Step::Expel(node) => {
                    nodes[0].ring.expel(time, &random()).unwrap();
                    rings.push(nodes[0].ring.clone());
                    expulsion.push(true);
                    nodes[0].version = rings.len() - 1;
                    nodes[node].removed_at.get_or_insert(rings.len() - 1);
                }
                Step::Deliver { node, ring } => {
                    let version = ring % rings.len();
                    // The removed are sent nothing any more.
                    if nodes[node].removed_at.is_none_or(|removed_at| version < removed_at) {
                        let sent = KeyRing::decode(&rings[version].encode()).unwrap();
                        nodes[node].ring.merge(sent, Role::Manager).unwrap();
                        nodes[node].version = nodes[node].version.max(version);
                    }
                }
                Step::Wait => {
                    time += EXPEL_GRACE;
                    for node in &mut nodes {
                        node.ring.handle(time);
                    }
                }
            }
            for (a, b) in (0..NODES).flat_map(|a| (0..NODES).map(move |b| (a, b))).filter(|(a, b)| a != b) {
                let (listener, speaker) = (&nodes[a], &nodes[b]);
                let (low, high) = (listener.version.min(speaker.version), listener.version.max(speaker.version));
                let apart = &expulsion[low + 1..=high];
                let heard = hears(&listener.ring, &speaker.ring);
                if apart.len() <= 1 && !apart.contains(&true) {
                    prop_assert!(heard, "{a} at {} hears {b} at {}", listener.version, speaker.version);
                }
                // Who was removed: does not hear those who know, nor is heard once they have rotated again or
                // the key so far is gone.
                if let Some(removed_at) = listener.removed_at.filter(|&at| speaker.version >= at) {
                    prop_assert!(!heard, "{a}, removed at {removed_at}, hears {b}");
                }
                if let Some(removed_at) = speaker.removed_at
                    && (listener.version > removed_at
                        || listener.version == removed_at && listener.ring.previous.is_none())
                {
                    prop_assert!(!heard, "{b}, removed at {removed_at}, is heard by {a}");
                }
            }
        }
    }

    /// Several managers that change rings on their own, and then exchange them in any order, have the same in the end.
    #[test]
    fn rings_made_apart_come_together(
        changes in prop::collection::vec((0..3_usize, any::<bool>()), 0..12),
        order in prop::collection::vec((0..3_usize, 0..3_usize), 0..12),
    ) {
        let first = ring();
        let mut rings = [first.clone(), first.clone(), first];
        for (ring, expel) in changes {
            let change = if expel { KeyRing::expel } else { KeyRing::rotate };
            change(&mut rings[ring], now(), &random()).unwrap();
        }
        let everybody = (0..3).flat_map(|from| (0..3).map(move |to| (from, to)));
        // Twice, since the first round may bring a ring to the last that the first has not seen.
        for (from, to) in order.into_iter().chain(everybody.clone()).chain(everybody) {
            let sent = rings[from].clone();
            let merged = rings[to].merge(sent.clone(), Role::Manager).unwrap();
            prop_assert_eq!(rings[to].merge(sent, Role::Manager), Ok(Merged::Kept), "after {:?}", merged);
        }
        prop_assert!(rings[0] == rings[1] && rings[1] == rings[2]);
    }
}
