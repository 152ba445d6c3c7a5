//! The control path to another node, measured: how long a question and its answer take, and how many get lost.
//!
//! A node asks one other at a time, the live one that it hasn't asked for longest: with up to 60 others one a second,
//! with 300 one in 200 ms, and never more often; so up to 300 nodes each is asked once a minute at least. SWIM's probes
//! would not do: they go to random members, and twice, to get through at any price. A question here goes once and isn't
//! repeated, and nobody is suspected for want of an answer.
//!
//! - *Round-trip time*: smoothed by an eighth of each new sample (RFC 6298 §2). Both nodes' queues count, since that is
//!   what gossip experiences.
//! - *Loss*: of round trips, among the last [`LOSS_WINDOW`] questions. If each way loses 30 %, 51 % are lost here. An answer
//!   that takes longer than [`ANSWER_WITHIN`] is lost.
//!
//! Both begin anew when the node comes back or restarts.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::id::NodeId;
use crate::message::Message;

/// Questions that loss is counted over.
pub const LOSS_WINDOW: u32 = 32;
/// An answer that comes later counts as lost.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// All are asked within that time, if [`ASK_AT_MOST`] allows.
const ROUND: Duration = Duration::from_secs(60);
/// Shortest time between two questions: about 900 bytes a second with the answers.
const ASK_AT_MOST: Duration = Duration::from_millis(200);

/// How many questions stayed without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Lost, themselves or their answers.
    pub lost: u32,
    /// Of so many, [`LOSS_WINDOW`] at most.
    pub asked: u32,
}

/// What is known of the way to a node.
#[derive(Debug, Default)]
pub(crate) struct Path {
    rtt: Option<Duration>,
    /// One bit for each question, the latest lowest: whether it was lost.
    lost: u32,
    asked: u32,
    /// The question under way: its number, and when it went.
    open: Option<(u32, Instant)>,
    pub(crate) asked_at: Option<Instant>,
}

impl Path {
    pub(crate) fn ask(&mut self, number: u32, now: Instant) {
        // Two questions are at least a second apart, so the last one's answer is late now.
        self.close(true);
        (self.open, self.asked_at) = (Some((number, now)), Some(now));
    }

    /// An answer; any but that to the question under way is ignored.
    pub(crate) fn answered(&mut self, number: u32, now: Instant) {
        let Some((_, at)) = self.open.filter(|(open, _)| *open == number) else { return };
        let sample = now.saturating_duration_since(at);
        if sample > ANSWER_WITHIN {
            return self.close(true);
        }
        self.close(false);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// Gives up on an answer that is late.
    pub(crate) fn settle(&mut self, now: Instant) {
        if self.open.is_some_and(|(_, at)| at + ANSWER_WITHIN < now) {
            self.close(true);
        }
    }

    fn close(&mut self, lost: bool) {
        if self.open.take().is_some() {
            self.lost = self.lost << 1 | u32::from(lost);
            self.asked = (self.asked + 1).min(LOSS_WINDOW);
        }
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) fn loss(&self) -> Loss {
        Loss { lost: self.lost.count_ones(), asked: self.asked }
    }
}

const _: () = assert!(LOSS_WINDOW == u32::BITS, "one bit for each question");

impl Engine {
    /// Asks the live node that wasn't asked for longest. When to do so again.
    pub(crate) fn ask_next(&mut self, now: Instant) -> Instant {
        let mut live = 0;
        let mut next: Option<(Option<Instant>, NodeId)> = None;
        for (node, neighbour) in self.neighbours.iter_mut().filter(|(_, neighbour)| neighbour.alive) {
            neighbour.path.settle(now);
            live += 1;
            let candidate = (neighbour.path.asked_at, *node);
            next = Some(next.map_or(candidate, |next| next.min(candidate)));
        }
        if let Some(neighbour) = next.and_then(|(_, node)| self.neighbours.get_mut(&node)) {
            self.question = self.question.wrapping_add(1);
            neighbour.path.ask(self.question, now);
            let to = neighbour.peer.addr;
            self.say_once(to, &Message::Ping { number: self.question });
        }
        now + ask_every(live)
    }

    pub(crate) fn answer_ping(&mut self, from: SocketAddr, number: u32) {
        self.say_once(from, &Message::Pong { number });
    }

    pub(crate) fn take_pong(&mut self, now: Instant, sender: NodeId, number: u32) {
        if let Some(neighbour) = self.neighbours.get_mut(&sender) {
            neighbour.path.answered(number, now);
        }
    }
}

fn ask_every(live: u32) -> Duration {
    (ROUND / live.max(1)).clamp(ASK_AT_MOST, ANSWER_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any origin will do")]
    fn origin() -> Instant {
        Instant::now()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn round_trips_are_smoothed_and_the_window_forgets() {
        let (mut path, mut now) = (Path::default(), origin());
        let mut trip = |number, takes: Option<u64>| {
            now += ms(2000);
            path.ask(number, now);
            if let Some(takes) = takes {
                path.answered(number, now + ms(takes));
            }
            path.settle(now + ms(1001));
            (path.rtt(), path.loss())
        };
        assert_eq!(trip(1, None), (None, Loss { lost: 1, asked: 1 }));
        assert_eq!(trip(2, Some(80)), (Some(ms(80)), Loss { lost: 1, asked: 2 }));
        assert_eq!(trip(3, Some(160)), (Some(ms(90)), Loss { lost: 1, asked: 3 }));
        assert_eq!(trip(4, Some(1001)), (Some(ms(90)), Loss { lost: 2, asked: 4 }), "too late");
        for number in 5..5 + LOSS_WINDOW {
            trip(number, Some(90));
        }
        assert_eq!(trip(99, Some(90)), (Some(ms(90)), Loss { lost: 0, asked: LOSS_WINDOW }));
    }

    #[test]
    fn only_the_question_under_way_is_answered_and_once() {
        let (mut path, now) = (Path::default(), origin());
        path.answered(0, now);
        path.ask(7, now);
        path.answered(6, now + ms(1));
        assert_eq!((path.rtt(), path.loss()), (None, Loss::default()));
        path.answered(7, now + ms(5));
        path.answered(7, now + ms(9));
        assert_eq!((path.rtt(), path.loss()), (Some(ms(5)), Loss { lost: 0, asked: 1 }));
    }

    #[test]
    fn three_hundred_are_asked_within_a_minute_and_few_not_all_the_time() {
        assert!(ask_every(300) * 300 <= ROUND);
        assert_eq!(ask_every(4000), ASK_AT_MOST);
        assert_eq!((ask_every(0), ask_every(1)), (ms(1000), ms(1000)));
    }
}
