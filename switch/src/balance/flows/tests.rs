use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::ScopedJoinHandle;

use proptest::prelude::*;

use super::*;
use crate::balance::packet::FRAGMENT;
use crate::balance::standing::Marks;
use crate::wire::Vni;
use crate::wire::flow::{TCP, UDP};

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
    Instant::now()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn ip(last: u8) -> IpAddr {
    if last.is_multiple_of(2) {
        IpAddr::from([10, 0, 0, last])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()])
    }
}

fn key(protocol: u8, client: u8, port: u16) -> Key {
    Key { vni: Vni::new(7).unwrap(), protocol, client: ip(client), client_port: port, service_port: 80 }
}

fn open<'t>(flows: &'t Flows, key: &Key, vip: u8, tasks: &[u8], now: Instant) -> Result<Found<'t>, Unopened> {
    let candidates = tasks.iter().map(|&task| (mac(task), ip(task)));
    let stale = |found: &Found<'_>| Standing::of(found.flow.key.protocol, found.marks()).is_over();
    let IpAddr::V4(client) = key.client else { unreachable!("tests' clients have even numbers") };
    let (vip, vip_mac, client_mac) = (ip(vip), mac(vip), mac(client.octets()[3]));
    flows.open(&Newcomer { key: *key, vip, vip_mac, client_mac, epoch: 1, now }, candidates, stale)
}

#[test]
fn words_are_a_flow() {
    for (protocol, client, vip, task) in [(TCP, 2, 4, 6), (UDP, 3, 5, 7), (FRAGMENT, 250, 252, 254)] {
        let flow = Flow {
            key: Key { client_port: 0xabcd, ..key(protocol, client, 1) },
            vip: ip(vip),
            task: ip(task),
            client_mac: mac(1),
            vip_mac: MacAddr([0xff; 6]),
            task_mac: mac(3),
        };
        assert_eq!(Flow::from_words(&flow.to_words()), flow);
    }
}

#[test]
fn a_full_bucket_gives_up_what_matters_least_and_keeps_connections() {
    let flows = Flows::new(1);
    let t0 = start();
    let at = |seconds| t0 + Duration::from_secs(seconds);
    let confirmed = Marks::ANSWERED.and(Marks::CONFIRMED);
    for port in 0..8 {
        let found = open(&flows, &key(TCP, 2, port), 100, &[10], at(port.into())).unwrap();
        if port > 0 {
            found.mark(confirmed);
        }
    }
    let there = |port| flows.find(&key(TCP, 2, port), Side::Client(ip(100))).is_some();
    open(&flows, &key(TCP, 2, 8), 100, &[10], at(8)).unwrap().mark(confirmed);
    assert!(!there(0) && (1..=8).all(there), "what has never been answered makes room");
    assert_eq!(open(&flows, &key(TCP, 2, 9), 100, &[10], at(9)).unwrap_err(), Unopened::Full);
    let find = |port| flows.find(&key(TCP, 2, port), Side::Client(ip(100))).unwrap();
    for port in [3, 5] {
        find(port).mark(Marks::CLIENT_ENDED.and(Marks::TASK_ENDED));
    }
    flows.touch(&find(3), at(20));
    open(&flows, &key(TCP, 2, 9), 100, &[10], at(21)).unwrap();
    assert!(there(3) && !there(5), "of two that are closed, the one that was silent for longer");
    find(4).mark(Marks::RESET);
    flows.touch(&find(4), at(22));
    open(&flows, &key(TCP, 2, 10), 100, &[10], at(22)).unwrap();
    assert!(there(3) && !there(4), "one that was reset matters less");
    let counts = flows.counts();
    assert_eq!((counts.flows, counts.opened, counts.evicted, counts.refused), (8, 11, 3, 1));
}

#[test]
fn who_has_most_of_a_bucket_makes_room_for_others_and_not_for_itself() {
    let (flows, now) = (Flows::new(1), start());
    let at = |seconds| now + Duration::from_secs(seconds);
    let establish = |client, port: u16, now| {
        let opened = open(&flows, &key(TCP, client, port), 100, &[10], now);
        opened.map(|found| found.mark(Marks::ANSWERED.and(Marks::CONFIRMED)))
    };
    (0..8).for_each(|port| establish(2, port, at(port.into())).unwrap());
    assert_eq!(establish(2, 8, at(8)), Err(Unopened::Full));
    let there = |client, port| flows.find(&key(TCP, client, port), Side::Client(ip(100))).is_some();
    for (client, lost) in [(4, 0), (6, 1), (8, 2), (10, 3)] {
        establish(client, 50, at(10)).unwrap();
        assert!(there(client, 50) && !there(2, lost) && there(2, lost + 1), "the longest silent goes");
    }
    assert_eq!(establish(12, 50, at(10)), Err(Unopened::Full), "half of them is no more than a share");
}

#[test]
fn a_number_is_kept_and_a_service_asked_once_a_version() {
    let flows = Flows::new(64);
    let found = open(&flows, &key(TCP, 2, 1), 100, &[10], start()).unwrap();
    found.note_number(9);
    assert_eq!(flows.find(&key(TCP, 2, 1), Side::Task(ip(10))).unwrap().number(), 9);
    assert!(found.is_served(1, |_| panic!("it was opened with this version")));
    assert!(found.is_served(2, |flow| flow.task == ip(10)));
    assert!(found.is_served(2, |_| panic!("asked before")));
    assert!(!found.is_served(3, |_| false) && !found.is_served(3, |_| false));
}

#[test]
fn what_is_found_of_a_flow_that_has_gone_changes_nothing() {
    let flows = Flows::new(1);
    let t0 = start();
    let old = open(&flows, &key(TCP, 2, 0), 100, &[10], t0).unwrap();
    for port in 1..=8 {
        open(&flows, &key(TCP, 2, port), 100, &[10], t0).unwrap();
    }
    old.mark(Marks::RESET);
    assert_eq!(old.marks(), Marks::default());
    let marks = (1..=8).map(|port| flows.find(&key(TCP, 2, port), Side::Client(ip(100))).unwrap().marks());
    assert!(marks.into_iter().all(|marks| marks == Marks::default()));
}

/// What a test does to a table.
#[derive(Clone, Debug)]
enum Step {
    Open { port: u16, vip: u8, tasks: Vec<u8> },
    Find { port: u16, side: u8, by_task: bool },
    Mark { port: u16, vip: u8, marks: Marks },
    Sweep { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let marks = prop_oneof![
        Just(Marks::ANSWERED.and(Marks::CONFIRMED)),
        Just(Marks::CLIENT_ENDED),
        Just(Marks::TASK_ENDED),
        Just(Marks::RESET)
    ];
    let (port, vip) = (0..3_u16, 100..102_u8);
    prop_oneof![
        4 => (port.clone(), vip.clone(), proptest::collection::vec(10..14_u8, 0..4))
            .prop_map(|(port, vip, tasks)| Step::Open { port, vip, tasks }),
        3 => (port.clone(), prop_oneof![10..14_u8, 100..102_u8], any::<bool>())
            .prop_map(|(port, side, by_task)| Step::Find { port, side, by_task }),
        3 => (port, vip, marks).prop_map(|(port, vip, marks)| Step::Mark { port, vip, marks }),
        1 => (0..100_u64).prop_map(|seconds| Step::Sweep { seconds }),
    ]
}

/// A flow of the model: its task, what has been seen of it, and when.
type Known = BTreeMap<(u16, u8), (u8, Marks, Instant)>;

proptest! {
    /// Against a plain map: six flows at most, so that none has to make room, however they fall.
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec(steps(), 0..60)) {
        let (flows, limits) = (Flows::new(1), IdleLimits::default());
        let (mut known, mut now) = (Known::new(), start());
        for step in steps {
            match step {
                Step::Open { port, vip, tasks } => {
                    let over = |marks| Standing::of(TCP, marks).is_over();
                    let want = match known.get(&(port, vip)) {
                        Some(&(task, marks, _)) if !over(marks) => Ok(task),
                        _ => {
                            let taken = |task| known.iter().any(|(&of, &(its, ..))| of.0 == port && of.1 != vip && its == task);
                            tasks.iter().copied().find(|&task| !taken(task)).ok_or(Unopened::NoTask)
                        }
                    };
                    let got = open(&flows, &key(TCP, 2, port), vip, &tasks, now).map(|found| found.flow.task);
                    prop_assert_eq!(got, want.map(ip));
                    if let Ok(task) = want && known.get(&(port, vip)).is_none_or(|&(_, marks, _)| over(marks)) {
                        known.insert((port, vip), (task, Marks::default(), now));
                    }
                }
                Step::Find { port, side, by_task } => {
                    let find = if by_task { Side::Task(ip(side)) } else { Side::Client(ip(side)) };
                    let want = known.iter().find(|&(&(of, vip), &(task, ..))| of == port && side == if by_task { task } else { vip });
                    let got = flows.find(&key(TCP, 2, port), find).map(|found| (found.flow.vip, found.flow.task));
                    prop_assert_eq!(got, want.map(|(&(_, vip), &(task, ..))| (ip(vip), ip(task))));
                }
                Step::Mark { port, vip, marks } => {
                    let found = flows.find(&key(TCP, 2, port), Side::Client(ip(vip)));
                    prop_assert_eq!(found.is_some(), known.contains_key(&(port, vip)));
                    if let (Some(found), Some(flow)) = (found, known.get_mut(&(port, vip))) {
                        found.mark(marks);
                        flows.touch(&found, now);
                        (flow.1, flow.2) = (flow.1.and(marks), now);
                        prop_assert_eq!(found.marks(), flow.1);
                    }
                }
                Step::Sweep { seconds } => {
                    now += Duration::from_secs(seconds);
                    for bucket in 0..flows.buckets() {
                        flows.sweep(bucket, |found| !flows.is_expired(found, &limits, now));
                    }
                    known.retain(|_, &mut (_, marks, seen)| {
                        now.duration_since(seen) < Standing::of(TCP, marks).idle_limit(&limits)
                    });
                }
            }
            prop_assert_eq!(flows.counts().flows, known.len() as u64);
        }
    }
}

/// Readers among writers never see half a flow: all that is in one follows from its port.
#[test]
fn what_is_read_was_written_at_once() {
    const PORTS: u16 = 64;
    const READERS: usize = 2;
    const ROUNDS: usize = 20_000;
    // Far more than there are while a writer waits for its turn between two flows.
    const LOOKS_MAX: u64 = 10_000_000;
    let (flows, now, stop) = (Flows::new(16), start(), AtomicBool::new(false));
    let (begin, have_read) = (Barrier::new(READERS + 1), AtomicUsize::new(0));
    let task = |port: u16| u8::try_from(port % 50).unwrap() + 10;
    let vip = |port: u16| u8::try_from(port % 40).unwrap() + 100;
    let read = || {
        let (mut seen, mut looks) = (0_u64, 0_u64);
        begin.wait();
        while !stop.load(Ordering::Relaxed) {
            looks += 1;
            assert!(seen > 0 || looks < LOOKS_MAX, "there was never anything to read");
            for port in 0..PORTS {
                let found = flows.find(&key(UDP, 2, port), Side::Task(ip(task(port))));
                let Some(found) = found else { continue };
                assert_eq!((found.flow.vip, found.flow.vip_mac), (ip(vip(port)), mac(vip(port))));
                assert_eq!(found.flow.task_mac, mac(task(port)));
                if seen == 0 {
                    have_read.fetch_add(1, Ordering::Relaxed);
                }
                seen += 1;
            }
        }
    };
    std::thread::scope(|scope| {
        let readers = [(); READERS].map(|()| scope.spawn(read));
        begin.wait();
        // A reader that has ended has failed.
        let is_awaited = || {
            have_read.load(Ordering::Relaxed) < READERS && !readers.iter().any(ScopedJoinHandle::is_finished)
        };
        for (round, port) in (0..PORTS).cycle().enumerate() {
            if round >= ROUNDS && !is_awaited() {
                break;
            }
            open(&flows, &key(UDP, 2, port), vip(port), &[task(port)], now).unwrap();
            if round % 100 == 0 {
                (0..flows.buckets()).for_each(|bucket| flows.sweep(bucket, |_| false));
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!(have_read.into_inner(), READERS, "each has read something meanwhile");
}
