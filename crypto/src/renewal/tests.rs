use proptest::prelude::*;

use super::*;
use crate::envelope::{HEADER_LEN, Header, TAG_LEN};
use crate::key::Key;
use crate::open::Opener;
use crate::seal::Sealer;

const SECOND: Duration = Duration::from_secs(1);

fn session(id: u32) -> SessionId {
    SessionId::new(id).unwrap()
}

fn actions(renewal: &mut Renewal) -> Vec<Action> {
    std::iter::from_fn(|| renewal.poll()).collect()
}

/// One that has asked once and has keys: the peer's number is 1, ours 2.
fn settled() -> Renewal {
    let mut renewal = Renewal::new(true, Duration::ZERO);
    renewal.handle_time(Duration::ZERO);
    assert!(renewal.handle_agreed(session(1), session(2), Side::Asked, Duration::ZERO));
    assert_eq!(actions(&mut renewal), [Action::Ask, Action::Seal(session(1))]);
    renewal
}

#[test]
fn keys_are_due_at_first_then_by_time_count_and_wish() {
    let mut renewal = settled();
    assert_eq!(renewal.next_deadline(), LIFE);
    renewal.handle_time(LIFE - SECOND);
    renewal.handle_used(SEALS_RENEW - 1, SECOND);
    assert_eq!(renewal.next_deadline(), LIFE);
    renewal.handle_time(LIFE);
    assert_eq!(actions(&mut renewal), [Action::Ask]);
    let due: [fn(&mut Renewal); 2] =
        [|renewal| renewal.handle_used(SEALS_RENEW, SECOND), |renewal| renewal.handle_due(SECOND)];
    for due in due {
        let mut renewal = settled();
        due(&mut renewal);
        assert_eq!(renewal.next_deadline(), SECOND);
        renewal.handle_time(SECOND);
        due(&mut renewal);
        renewal.handle_time(SECOND);
        assert_eq!(actions(&mut renewal), [Action::Ask], "once, until there is an answer");
    }
}

#[test]
fn the_second_waits_for_the_first_to_ask() {
    let mut renewal = Renewal::new(false, Duration::ZERO);
    renewal.handle_time(YIELD - SECOND);
    assert_eq!(actions(&mut renewal), []);
    renewal.handle_time(YIELD);
    assert_eq!(actions(&mut renewal), [Action::Ask]);
}

#[test]
fn failures_are_retried_ever_later_and_keep_what_there_is() {
    let mut renewal = settled();
    renewal.handle_due(Duration::ZERO);
    let (mut now, mut waits) = (Duration::ZERO, Vec::new());
    for silent in [false, true, false, true, false, true, false, true, false, true, false, true] {
        renewal.handle_time(now);
        assert_eq!(actions(&mut renewal), [Action::Ask]);
        if silent {
            now += ANSWER;
            renewal.handle_time(now);
        } else {
            renewal.handle_failed(now);
        }
        waits.push((renewal.next_deadline() - now).as_millis());
        now = renewal.next_deadline();
    }
    let doubled = [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200];
    assert_eq!(waits, [&doubled[..], &[60_000; 2]].concat());
    assert_eq!(renewal.sealing(), Some(session(1)));
    assert!(!renewal.openers.is_empty());
}

#[test]
fn who_answers_seals_with_new_keys_when_the_peer_can_open_them() {
    let confirmed: fn(&mut Renewal) = |renewal| renewal.handle_confirmed(session(3), SECOND);
    let heard: fn(&mut Renewal) = |renewal| renewal.handle_heard(session(4), SECOND);
    for signal in [confirmed, heard] {
        let mut renewal = settled();
        assert!(renewal.may_answer());
        assert!(renewal.handle_agreed(session(3), session(4), Side::Answered, SECOND));
        renewal.handle_heard(session(2), SECOND);
        renewal.handle_confirmed(session(9), SECOND);
        assert_eq!((actions(&mut renewal), renewal.sealing()), (vec![], Some(session(1))));
        signal(&mut renewal);
        signal(&mut renewal);
        assert_eq!(actions(&mut renewal), [Action::Seal(session(3))]);
    }
}

#[test]
fn old_keys_open_until_new_ones_are_heard_and_they_are_not() {
    let mut renewal = settled();
    renewal.handle_due(SECOND);
    renewal.handle_time(SECOND);
    assert!(renewal.handle_agreed(session(3), session(4), Side::Asked, SECOND));
    assert_eq!(actions(&mut renewal), [Action::Ask, Action::Seal(session(3))]);
    // Both are silent for an hour: the peer may not have gone over.
    let mut now = SECOND * 3_600;
    renewal.handle_time(now);
    renewal.handle_heard(session(4), now);
    for _ in 0..5 {
        now += GRACE - SECOND;
        renewal.handle_time(now);
        renewal.handle_heard(session(2), now);
    }
    assert_eq!(actions(&mut renewal), []);
    assert_eq!(renewal.next_deadline(), now + GRACE);
    renewal.handle_time(now + GRACE);
    assert_eq!(actions(&mut renewal), [Action::Forget(session(2))]);
    renewal.handle_time(now + GRACE * 100);
    assert_eq!(actions(&mut renewal), [], "the newest stays");
}

#[test]
fn of_two_that_ask_at_once_the_first_is_answered() {
    let mut first = Renewal::new(true, Duration::ZERO);
    let mut second = Renewal::new(false, Duration::ZERO);
    second.handle_due(Duration::ZERO);
    for end in [&mut first, &mut second] {
        end.handle_time(Duration::ZERO);
        assert_eq!(actions(end), [Action::Ask]);
    }
    assert!(!first.may_answer() && second.may_answer());
    assert!(second.handle_agreed(session(1), session(2), Side::Answered, Duration::ZERO));
    assert!(!second.handle_agreed(session(3), session(4), Side::Asked, Duration::ZERO), "given up");
    assert!(first.handle_agreed(session(2), session(1), Side::Asked, Duration::ZERO));
    second.handle_confirmed(session(1), Duration::ZERO);
    assert_eq!((first.sealing(), second.sealing()), (Some(session(2)), Some(session(1))));
}

#[test]
fn openers_have_a_limit_and_the_idlest_goes() {
    let mut renewal = settled();
    for round in 1..20 {
        let now = SECOND * round;
        let (send, receive) = (session(10 + round), session(50 + round));
        assert!(renewal.handle_agreed(send, receive, Side::Answered, now));
        renewal.handle_heard(receive, now);
        renewal.handle_heard(session(2), now);
        assert!(renewal.openers.len() <= OPENERS_MAX);
    }
    let kept: Vec<_> = renewal.openers.iter().map(|kept| kept.session.id()).collect();
    assert_eq!(kept, [2, 63, 64, 65, 66, 67, 68, 69], "one that is in use stays, however old");
}

#[test]
fn too_many_renewals_wait_for_openers_to_go() {
    let mut renewal = settled();
    for round in 1..OPENERS_MAX {
        let round = u32::try_from(round).unwrap();
        assert!(renewal.may_answer());
        assert!(renewal.handle_agreed(session(10 + round), session(50 + round), Side::Answered, SECOND));
        renewal.handle_heard(session(50 + round), SECOND * round);
    }
    actions(&mut renewal);
    assert!(!renewal.may_answer());
    renewal.handle_due(SECOND * 8);
    renewal.handle_time(SECOND * 8);
    assert_eq!((actions(&mut renewal), renewal.next_deadline()), (vec![], SECOND + GRACE));
    renewal.handle_time(SECOND + GRACE);
    assert_eq!(actions(&mut renewal), [Action::Forget(session(2)), Action::Ask]);
}

/// A message between two ends; one direction keeps their order, as TCP does.
#[derive(Clone, Debug)]
enum Message {
    Ask { number: u32, receive: SessionId },
    Answer { number: u32, send: SessionId, receive: SessionId },
    Refuse { number: u32 },
    Confirm { send: SessionId },
    Data(Vec<u8>, u64),
}

/// An end with real keys.
struct End {
    renewal: Renewal,
    sealer: Option<Sealer>,
    /// Keys that may come into use, by the peer's number.
    keys: Vec<(SessionId, [u8; 32])>,
    openers: Vec<Opener>,
    /// Number of the question that is open, and our number in it.
    asked: Option<(u32, SessionId)>,
    sessions: u32,
    sealed: u64,
}

/// In place of the exporter: what both ends can tell from the numbers.
fn key(receiver: usize, number: u32, session: SessionId) -> [u8; 32] {
    let mut bytes = [u8::try_from(receiver).unwrap(); 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes[4..8].copy_from_slice(&session.id().to_be_bytes());
    bytes
}

struct Simulation {
    random: u64,
    now: Duration,
    ends: [End; 2],
    /// What is on its way: when it arrives, to whom.
    wire: Vec<(Duration, usize, Message)>,
    questions: u32,
    delivered: [u64; 2],
    /// The share of control messages that is lost, of 16.
    loss: u64,
    switches: u32,
}

impl Simulation {
    fn new(seed: u64, loss: u64) -> Self {
        let end = |first| End {
            renewal: Renewal::new(first, Duration::ZERO),
            sealer: None,
            keys: Vec::new(),
            openers: Vec::new(),
            asked: None,
            sessions: 0,
            sealed: 0,
        };
        Self {
            random: seed | 1,
            now: Duration::ZERO,
            ends: [end(true), end(false)],
            wire: Vec::new(),
            questions: 0,
            delivered: [0; 2],
            loss,
            switches: 0,
        }
    }

    /// Xorshift, by Marsaglia.
    fn random(&mut self, below: u64) -> u64 {
        for (left, shift) in [(true, 13), (false, 7), (true, 17)] {
            self.random ^= if left { self.random << shift } else { self.random >> shift };
        }
        self.random % below
    }

    fn send(&mut self, to: usize, message: Message) {
        let delay = match message {
            // Datagrams overtake each other, and some are seconds late; none is lost, so that one which
            // does not open is our fault.
            Message::Data(..) if self.random(50) == 0 => self.random(5_000),
            Message::Data(..) => self.random(20),
            _ if self.random(16) < self.loss => return,
            _ => 50,
        };
        self.wire.push((self.now + Duration::from_millis(delay), to, message));
    }

    fn step(&mut self, force: bool) {
        self.now += Duration::from_millis(10);
        for at in 0..2 {
            if force && self.random(2) == 0 {
                let now = self.now;
                self.ends[at].renewal.handle_due(now);
            }
            self.ends[at].renewal.handle_time(self.now);
            self.act(at);
            self.seal(at);
        }
        let (due, later) =
            std::mem::take(&mut self.wire).into_iter().partition(|(time, ..)| *time <= self.now);
        self.wire = later;
        for (_, to, message) in Vec::<(Duration, usize, Message)>::into_iter(due) {
            self.receive(to, message);
            self.act(to);
        }
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.ends[at].renewal.poll() {
            match action {
                Action::Ask => {
                    self.questions += 1;
                    let (number, receive) = (self.questions, self.number(at));
                    self.ends[at].asked = Some((number, receive));
                    self.send(1 - at, Message::Ask { number, receive });
                }
                Action::Seal(session) => {
                    let end = &mut self.ends[at];
                    let place = end.keys.iter().position(|(known, _)| *known == session).unwrap();
                    let (_, key) = end.keys.swap_remove(place);
                    end.sealer = Some(Sealer::new(&Key::new(&key), session));
                    self.switches += 1;
                }
                Action::Forget(session) => self.ends[at].openers.retain(|opener| opener.session() != session),
            }
        }
    }

    fn number(&mut self, at: usize) -> SessionId {
        self.ends[at].sessions += 1;
        session(self.ends[at].sessions)
    }

    fn seal(&mut self, at: usize) {
        let end = &mut self.ends[at];
        let Some(sealer) = &end.sealer else { return };
        let mut datagram = [&[0; HEADER_LEN][..], &end.sealed.to_be_bytes(), &[0; TAG_LEN]].concat();
        sealer.seal(&mut datagram).unwrap();
        let number = end.sealed;
        end.sealed += 1;
        self.send(1 - at, Message::Data(datagram, number));
    }

    fn agree(&mut self, at: usize, number: u32, send: SessionId, receive: SessionId, side: Side) -> bool {
        let end = &mut self.ends[at];
        end.openers.push(Opener::new(&Key::new(&key(at, number, receive)), receive));
        end.keys.push((send, key(1 - at, number, send)));
        if end.renewal.handle_agreed(send, receive, side, self.now) {
            return true;
        }
        end.openers.pop();
        end.keys.pop();
        false
    }

    fn receive(&mut self, at: usize, message: Message) {
        let now = self.now;
        match message {
            Message::Ask { number, receive: send } => {
                if !self.ends[at].renewal.may_answer() {
                    return self.send(1 - at, Message::Refuse { number });
                }
                self.ends[at].asked = None;
                let receive = self.number(at);
                assert!(self.agree(at, number, send, receive, Side::Answered));
                self.send(1 - at, Message::Answer { number, send: receive, receive: send });
            }
            Message::Answer { number, send, receive } => {
                // An answer to a question of before is dropped with its connection.
                if self.ends[at].asked.take_if(|asked| *asked == (number, receive)).is_some()
                    && self.agree(at, number, send, receive, Side::Asked)
                {
                    self.send(1 - at, Message::Confirm { send: receive });
                }
            }
            Message::Refuse { number } => {
                if self.ends[at].asked.take_if(|asked| asked.0 == number).is_some() {
                    self.ends[at].renewal.handle_failed(now);
                }
            }
            Message::Confirm { send } => self.ends[at].renewal.handle_confirmed(send, now),
            Message::Data(mut datagram, number) => {
                let end = &mut self.ends[at];
                let session = Header::parse(&datagram).unwrap().session;
                let opener = end.openers.iter().find(|opener| opener.session() == session);
                let opener =
                    opener.unwrap_or_else(|| panic!("{now:?}: {at} has no opener {session} for {number}"));
                let range = opener.open(&mut datagram).unwrap();
                assert_eq!(datagram[range], number.to_be_bytes());
                self.delivered[at] += 1;
                end.renewal.handle_heard(session, now);
            }
        }
    }
}

/// Traffic both ways, a datagram every 10 ms, keys renewed every three seconds on the average by either end.
fn renew_under_load(seed: u64, loss: u64, steps: u64, every: u64) -> Simulation {
    let mut simulation = Simulation::new(seed, loss);
    for _ in 0..steps {
        let force = simulation.random(every) == 0;
        simulation.step(force);
        for end in &simulation.ends {
            assert!(end.openers.len() <= OPENERS_MAX);
        }
    }
    // What is on its way arrives.
    for _ in 0..600 {
        simulation.now += Duration::from_millis(10);
        let now = simulation.now;
        let (due, later) =
            std::mem::take(&mut simulation.wire).into_iter().partition(|(time, ..)| *time <= now);
        simulation.wire = later;
        for (_, to, message) in Vec::<(Duration, usize, Message)>::into_iter(due) {
            if matches!(message, Message::Data(..)) {
                simulation.receive(to, message);
            }
        }
    }
    let [one, two] = &simulation.ends;
    assert_eq!(simulation.delivered, [two.sealed, one.sealed], "seed {seed}");
    simulation
}

#[test]
fn ten_minutes_with_a_renewal_every_few_seconds_lose_nothing() {
    let simulation = renew_under_load(0x5eed, 0, 60_000, 300);
    assert!(simulation.delivered.iter().all(|&count| count > 59_000), "{:?}", simulation.delivered);
    assert!(simulation.switches > 150, "{} changes of key", simulation.switches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However many control messages are lost, on whichever side.
    #[test]
    fn no_datagram_is_lost(seed: u64, loss in 0..12_u64) {
        renew_under_load(seed, loss, 3_000, 150);
    }
}
