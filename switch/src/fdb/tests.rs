use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn port(id: u32) -> Place {
    Place::Port(PortId(id))
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
fn start() -> Instant {
    Instant::now()
}

fn limits() -> Limits {
    Limits { entries_max: 4, moves_max: 2, ..Limits::default() }
}

#[test]
fn a_learnt_address_is_found_and_ages() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    assert_eq!(fdb.learn(vni(1), mac(1), port(7), t0), Learnt::New);
    assert_eq!(fdb.lookup(vni(1), mac(1)), Forward::Local(PortId(7)));
    assert_eq!(fdb.lookup(vni(2), mac(1)), Forward::Flood, "another network");
    assert_eq!(fdb.age(t0 + Duration::from_secs(299)), 0);
    assert_eq!(fdb.learn(vni(1), mac(1), port(7), t0 + Duration::from_secs(299)), Learnt::Refreshed);
    assert_eq!(fdb.age(t0 + Duration::from_secs(598)), 0);
    assert_eq!(fdb.age(t0 + Duration::from_secs(599)), 1);
    assert_eq!(fdb.lookup(vni(1), mac(1)), Forward::Flood);
}

#[test]
fn the_writer_hears_of_an_entry_only_when_it_is_news() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    assert_eq!(fdb.source(vni(1), mac(1), port(1), t0), Source::News);
    fdb.learn(vni(1), mac(1), port(1), t0);
    assert_eq!(fdb.source(vni(1), mac(1), port(1), t0 + Duration::from_secs(37)), Source::Known);
    assert_eq!(
        fdb.source(vni(1), mac(1), port(1), t0 + Duration::from_secs(38)),
        Source::News,
        "due for a refresh"
    );
    assert_eq!(fdb.source(vni(1), mac(1), port(2), t0), Source::News, "moved");
}

#[test]
fn group_and_zero_sources_are_refused() {
    let (fdb, t0) = (Fdb::new(limits()), start());
    let refused = Source::Refused(DropReason::SourceInvalid);
    assert_eq!(fdb.source(vni(1), MacAddr::BROADCAST, port(1), t0), refused);
    assert_eq!(fdb.source(vni(1), MacAddr([1, 0, 0x5e, 0, 0, 1]), port(1), t0), refused);
    assert_eq!(fdb.source(vni(1), MacAddr([0; 6]), port(1), t0), refused);
}

#[test]
fn an_announced_entry_is_neither_aged_nor_displaced() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    fdb.learn(vni(1), mac(1), port(1), t0);
    fdb.announce(vni(1), mac(1), Place::Vtep(VtepId(3))).unwrap();
    assert_eq!(fdb.source(vni(1), mac(1), port(1), t0), Source::Refused(DropReason::SourceElsewhere));
    assert_eq!(fdb.learn(vni(1), mac(1), port(1), t0), Learnt::Refused);
    assert_eq!(fdb.age(t0 + Duration::from_secs(9999)), 0);
    assert_eq!(fdb.lookup(vni(1), mac(1)), Forward::Remote(VtepId(3)));
    assert!(fdb.withdraw(vni(1), mac(1)));
    assert!(!fdb.withdraw(vni(1), mac(1)));
    assert_eq!(fdb.lookup(vni(1), mac(1)), Forward::Flood);
}

#[test]
fn a_full_table_refuses_and_keeps_what_it_has() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    for n in 0..4 {
        assert_eq!(fdb.learn(vni(1), mac(n), port(1), t0), Learnt::New);
    }
    assert_eq!(fdb.learn(vni(1), mac(9), port(1), t0), Learnt::Full);
    assert_eq!(fdb.announce(vni(1), mac(9), port(1)), Err(TableFull(4)));
    assert_eq!(fdb.announce(vni(1), mac(3), port(2)), Ok(()), "an entry that is there may change");
    assert_eq!(fdb.learn(vni(1), mac(0), port(2), t0), Learnt::Moved);
    assert_eq!(fdb.forget(vni(2), port(2)), []);
    assert_eq!(fdb.forget(vni(1), port(2)).len(), 2);
    assert_eq!(fdb.len(), 2);
}

#[test]
fn an_address_that_flaps_is_held_and_let_go_again() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    fdb.learn(vni(1), mac(1), port(1), t0);
    assert_eq!(fdb.learn(vni(1), mac(1), port(2), t0), Learnt::Moved);
    assert_eq!(fdb.learn(vni(1), mac(1), port(1), t0), Learnt::Moved);
    assert_eq!(fdb.learn(vni(1), mac(1), port(2), t0), Learnt::Held);
    assert_eq!(fdb.lookup(vni(1), mac(1)), Forward::Local(PortId(1)));
    assert_eq!(fdb.source(vni(1), mac(1), port(2), t0), Source::Refused(DropReason::MacMoveLimit));
    assert_eq!(fdb.source(vni(1), mac(1), port(1), t0), Source::Known);
    let later = t0 + Limits::default().hold;
    assert_eq!(fdb.source(vni(1), mac(1), port(2), later), Source::News);
    assert_eq!(fdb.learn(vni(1), mac(1), port(2), later), Learnt::Moved);
}

#[test]
fn slow_moves_are_never_held() {
    let (mut fdb, t0) = (Fdb::new(limits()), start());
    fdb.learn(vni(1), mac(1), port(0), t0);
    for n in 1..50 {
        let at = port(n % 2);
        assert_eq!(fdb.learn(vni(1), mac(1), at, t0 + Duration::from_secs(6 * u64::from(n))), Learnt::Moved);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u32, u8, u32),
    Announce(u32, u8, u32),
    Withdraw(u32, u8),
    Forget(u32, u32),
    Wait(u64),
    Age,
}

fn step() -> impl Strategy<Value = Step> {
    let (network, last, place) = (0..2u32, 0..6u8, 0..3u32);
    prop_oneof![
        6 => (network.clone(), last.clone(), place.clone()).prop_map(|(v, m, p)| Step::Learn(v, m, p)),
        2 => (network.clone(), last.clone(), place.clone()).prop_map(|(v, m, p)| Step::Announce(v, m, p)),
        1 => (network.clone(), last).prop_map(|(v, m)| Step::Withdraw(v, m)),
        1 => (network, place).prop_map(|(v, p)| Step::Forget(v, p)),
        2 => (0..400u64).prop_map(Step::Wait),
        2 => Just(Step::Age),
    ]
}

/// The table as one would describe it in words: the place, and when it was last heard from (`None`: announced).
type Model = BTreeMap<(u32, u8), (u32, Option<u64>)>;

proptest! {
    /// Against a naive model; moves are unlimited here, holding has tests of its own.
    #[test]
    fn behaves_like_the_model(steps in proptest::collection::vec(step(), 1..200)) {
        let limits = Limits { entries_max: 5, moves_max: u32::MAX, ..Limits::default() };
        let (mut fdb, t0) = (Fdb::new(limits), start());
        let (mut model, mut second) = (Model::new(), 0u64);
        for step in steps {
            let now = t0 + Duration::from_secs(second);
            match step {
                Step::Learn(v, m, p) => {
                    let full = model.len() >= limits.entries_max;
                    let want = match model.get_mut(&(v, m)) {
                        None if full => Learnt::Full,
                        None => { model.insert((v, m), (p, Some(second))); Learnt::New }
                        Some((at, None)) => if *at == p { Learnt::Refreshed } else { Learnt::Refused },
                        Some((at, seen)) => {
                            *seen = Some(second);
                            if std::mem::replace(at, p) == p { Learnt::Refreshed } else { Learnt::Moved }
                        }
                    };
                    prop_assert_eq!(fdb.learn(vni(v), mac(m), port(p), now), want);
                }
                Step::Announce(v, m, p) => {
                    let fits = model.len() < limits.entries_max || model.contains_key(&(v, m));
                    if fits { model.insert((v, m), (p, None)); }
                    prop_assert_eq!(fdb.announce(vni(v), mac(m), port(p)).is_ok(), fits);
                }
                Step::Withdraw(v, m) => {
                    let announced = matches!(model.get(&(v, m)), Some((_, None)));
                    if announced { model.remove(&(v, m)); }
                    prop_assert_eq!(fdb.withdraw(vni(v), mac(m)), announced);
                }
                Step::Forget(v, p) => { model.retain(|&(network, _), (at, _)| network != v || *at != p); fdb.forget(vni(v), port(p)); }
                Step::Wait(seconds) => second += seconds,
                Step::Age => {
                    let before = model.len();
                    model.retain(|_, (_, seen)| seen.is_none_or(|seen| second - seen < 300));
                    prop_assert_eq!(fdb.age(now), before - model.len());
                }
            }
            prop_assert_eq!(fdb.len(), model.len());
            for v in 0..2 {
                for m in 0..6 {
                    let want = model.get(&(v, m)).map_or(Forward::Flood, |&(p, _)| Forward::Local(PortId(p)));
                    prop_assert_eq!(fdb.lookup(vni(v), mac(m)), want);
                }
            }
        }
    }
}
