//! Paths over a link in simulated time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::wire::probe::{Operation, Probe};

/// IPv4 and UDP.
const AROUND: u16 = 28;
const SECOND: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences matter")]
fn start() -> Instant {
    Instant::now()
}

/// A path, and a link to a peer that answers.
struct Run {
    path: Path,
    start: Instant,
    now: Instant,
    random: fastrand::Rng,
    /// Share of round trips that are lost.
    loss: f64,
    round_trip: Duration,
    mtu: u16,
    flying: BTreeMap<(Instant, u32), Probe>,
    /// Requests sent, in bytes.
    sent: Vec<u16>,
    /// Changes, with the second in which they came.
    changes: Vec<(u64, PathChange)>,
}

impl Run {
    fn new(seed: u64) -> Self {
        println!("seed {seed}");
        let now = start();
        Self {
            path: Path::new(ProbeConfig::new(seed), now),
            start: now,
            now,
            random: fastrand::Rng::with_seed(seed),
            loss: 0.0,
            round_trip: Duration::from_millis(10),
            mtu: 1_500,
            flying: BTreeMap::new(),
            sent: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let arrival = self.flying.keys().next().map(|&(at, _)| at);
            let next = arrival.into_iter().chain([self.path.next_deadline()]).min().expect("one at least");
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            while let Some((&(at, sequence), &reply)) =
                self.flying.first_key_value().filter(|(key, _)| key.0 <= self.now)
            {
                self.flying.remove(&(at, sequence));
                // Of a search that an outage has ended nothing is known any more.
                let _known = self.path.handle_reply(&reply, self.now);
                assert!(!self.path.handle_reply(&reply, self.now), "a reply counts once");
            }
            self.path.handle_timeout(self.now);
            while let Some(request) = self.path.poll_transmit(AROUND, self.now) {
                self.carry(request);
            }
            assert!(self.path.next_deadline() > self.now, "what was due has been done");
            let second = (self.now - self.start).as_secs();
            self.changes
                .extend(std::iter::from_fn(|| self.path.poll_change()).map(|change| (second, change)));
        }
    }

    fn carry(&mut self, request: Probe) {
        assert_eq!(request.operation, Operation::Request);
        self.sent.push(request.length);
        if request.length + AROUND <= self.mtu && self.random.f64() >= self.loss {
            self.flying.insert((self.now + self.round_trip, request.sequence), request.reply());
        }
    }

    fn report(&self) -> PathReport {
        self.path.report(VtepId(1), SocketAddr::from(([192, 0, 2, 1], 4789)))
    }

    fn count(&self, wanted: PathChange) -> usize {
        self.changes.iter().filter(|(_, change)| *change == wanted).count()
    }
}

fn up(milliseconds: u64) -> PathChange {
    PathChange::Up { rtt: Duration::from_millis(milliseconds) }
}

#[test]
fn a_good_path_is_up_after_one_answer_and_known_in_seconds() {
    let mut run = Run::new(1);
    assert_eq!(run.report().state, PathState::Unknown);
    run.pass(10 * SECOND);
    let changes: Vec<_> = run.changes.iter().map(|&(_, change)| change).collect();
    assert_eq!(changes, [up(10), PathChange::Mtu(1_500)]);
    assert_eq!(run.changes[0].0, 0, "within a second");
    let report = run.report();
    assert_eq!((report.state, report.rtt, report.mtu), (PathState::Up, Some(run.round_trip), Some(1_500)));
    assert_eq!(report.lost, 0);
    assert!((9..=13).contains(&report.asked), "about one a second: {report:?}");
}

#[test]
fn echoes_are_short_and_the_interval_is_spread() {
    let mut run = Run::new(2);
    run.mtu = 100;
    let (mut last, mut gaps) = (run.now, Vec::new());
    for _ in 0..200 {
        let due = run.path.next_deadline();
        let count = run.sent.len();
        run.pass(due - run.now);
        if run.sent.len() > count && run.sent[count..].contains(&16) {
            gaps.push(run.now - last);
            last = run.now;
        }
    }
    let gaps = &gaps[1..];
    assert!(gaps.len() > 50);
    assert!(gaps.iter().all(|gap| (900..=1_100).contains(&gap.as_millis())), "{gaps:?}");
    assert!(gaps.iter().any(|&gap| gap > SECOND) && gaps.iter().any(|&gap| gap < SECOND));
}

#[test]
fn the_round_trip_is_followed_and_a_late_reply_is_one() {
    let mut run = Run::new(3);
    run.pass(20 * SECOND);
    run.round_trip = Duration::from_millis(1_500);
    run.pass(60 * SECOND);
    let report = run.report();
    assert_eq!(report.state, PathState::Up, "the time-out of one second is no verdict");
    assert!(report.rtt.expect("measured").abs_diff(run.round_trip) < Duration::from_millis(20), "{report:?}");
    assert_eq!(run.count(PathChange::Down), 0);
    run.pass(64 * SECOND);
    assert_eq!(run.report().lost, 0, "replies that came late are counted as replies");
}

#[test]
fn a_blocked_path_is_down_within_seconds_and_comes_back() {
    let mut run = Run::new(4);
    run.pass(10 * SECOND);
    run.changes.clear();
    run.loss = 1.0;
    run.pass(6 * SECOND);
    assert_eq!(run.changes.iter().map(|&(_, change)| change).collect::<Vec<_>>(), [PathChange::Down]);
    assert_eq!(run.report().state, PathState::Down);
    run.pass(60 * SECOND);
    let sent = run.sent.len();
    run.loss = 0.0;
    run.pass(2 * SECOND);
    assert_eq!(run.report().state, PathState::Up);
    assert_eq!((run.changes.len(), run.count(up(10))), (2, 1), "{:?}", run.changes);
    assert!(run.sent.len() - sent >= 2);
}

#[test]
fn a_peer_that_never_answers_is_silent_and_asked_less() {
    let mut run = Run::new(5);
    run.loss = 1.0;
    run.pass(8 * SECOND);
    assert_eq!(run.report().state, PathState::Silent);
    assert_eq!(run.count(PathChange::Silent), 1);
    let before = run.sent.len();
    run.pass(100 * SECOND);
    let asked = run.sent.len() - before;
    assert!((17..=24).contains(&asked), "one in five seconds: {asked}");
    assert_eq!(run.changes.len(), 1, "it is said once");
    run.loss = 0.0;
    run.pass(7 * SECOND);
    assert_eq!(run.report().state, PathState::Up);
}

#[test]
fn loss_is_measured_and_is_not_taken_for_an_end() {
    for (seed, each_way, bounds) in [(6, 0.1, 4..=24), (7, 0.3, 20..=45)] {
        let mut run = Run::new(seed);
        // To learn what is usual takes a moment.
        run.loss = 0.02;
        run.pass(10 * SECOND);
        run.loss = 1.0 - (1.0 - each_way) * (1.0 - each_way);
        run.pass(600 * SECOND);
        let report = run.report();
        assert!(bounds.contains(&report.lost), "{report:?}");
        assert_eq!(run.count(PathChange::Down), 0, "{:?}", run.changes);
        assert_eq!(report.mtu, Some(1_500), "nor for a black hole: {:?}", run.changes);
    }
}

#[test]
fn a_black_hole_for_large_packets_is_found() {
    let mut run = Run::new(8);
    run.mtu = 9_000;
    run.pass(5 * SECOND);
    run.mtu = 1_400;
    run.pass(60 * SECOND);
    let changes: Vec<_> = run.changes.iter().map(|&(_, change)| change).collect();
    let want = [up(10), PathChange::Mtu(9_000), PathChange::Mtu(1_280), PathChange::Mtu(1_400)];
    assert_eq!(changes, want, "small probes go on being answered");
}

#[test]
fn another_path_after_an_outage_is_measured_at_once() {
    let mut run = Run::new(9);
    run.pass(30 * SECOND);
    run.loss = 1.0;
    run.pass(30 * SECOND);
    (run.loss, run.mtu) = (0.0, 1_280);
    run.changes.clear();
    run.pass(8 * SECOND);
    assert_eq!(
        run.changes.iter().map(|&(_, change)| change).collect::<Vec<_>>(),
        [up(10), PathChange::Mtu(1_280)]
    );
}

#[test]
fn a_made_up_reply_is_none() {
    let mut run = Run::new(10);
    run.loss = 1.0;
    let due = run.path.next_deadline();
    run.path.handle_timeout(due);
    let request = run.path.poll_transmit(AROUND, due).expect("it is due");
    for (sequence, stamp) in [(1, 0), (0, 1), (0, u64::MAX / 2), (7, 7)] {
        let reply = Probe {
            sequence: request.sequence.wrapping_add(sequence),
            stamp: request.stamp.wrapping_add(stamp),
            ..request.reply()
        };
        assert!(!run.path.handle_reply(&reply, due));
    }
    assert!(!run.path.handle_reply(&Probe { length: 17, ..request.reply() }, due), "another length");
    assert!(!run.path.handle_reply(&request, due), "our own request, come back");
    assert_eq!(run.report().state, PathState::Unknown);
    assert!(run.path.handle_reply(&request.reply(), due));
    assert_eq!(run.report().state, PathState::Up);
}

proptest! {
    /// Whatever is lost and whenever it comes: no panic, no busy loop, bounded memory, counts that fit each other.
    #[test]
    fn any_course_of_events(
            seed: u64,
            turns in proptest::collection::vec((0..20_u64, 0..5_000_u64, 0.0..1.0_f64, 0..9_200_u16), 1..20),
        ) {
        let mut run = Run::new(seed);
        for (seconds, round_trip, loss, mtu) in turns {
            (run.loss, run.mtu) = (loss, mtu);
            run.round_trip = Duration::from_millis(round_trip);
            run.pass(Duration::from_secs(seconds));
            let report = run.report();
            prop_assert!(report.lost <= report.asked && report.asked <= WINDOW);
            prop_assert!(report.rtt.is_some() == !matches!(report.state, PathState::Unknown | PathState::Silent));
            prop_assert!(report.mtu.is_none_or(|_| report.rtt.is_some()));
        }
    }
}
