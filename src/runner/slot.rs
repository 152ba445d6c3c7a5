//! What this node has of one slot, and what it does next about it.

use std::time::{Duration, Instant};

use super::goals::Goal;
use super::slots::Moment;
use crate::node::records::{ServiceRecord, TaskPhase, TaskRecord};
use crate::service::UpdateOrder;
use crate::service::placement::{Duty, Owner, duty};
use crate::service::restart::{Next, Series};
use crate::service::rollout::Verdict;

/// Bytes of a reason that is told.
const REASON_MAX: usize = 256;
/// How soon it is looked again whether a program that has just been started takes connections; later twice as late each time.
const POLL_FIRST: Duration = Duration::from_millis(20);
/// How late at most.
const POLL_MAX: Duration = Duration::from_millis(500);
/// For how long another node has to run a slot, as far as is known here, before this one ends its own task of it. Two that hear
/// of others at different times, as when a cut has healed, could each take the other for the owner, and both end theirs.
pub(super) const HAND_OVER: Duration = Duration::from_secs(1);
/// How long after a task could not be made another is tried, whatever its service says of tasks that have ended.
const NOT_YET: Duration = Duration::from_secs(5);
/// How long a task may take to end by itself, if nothing is known of its service: as in Docker.
const GRACE: Duration = Duration::from_secs(10);

/// What this node has of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// The id of its task, or of the last that it had.
    pub(super) id: String,
    /// The generation of that.
    pub(super) generation: u64,
    /// Whether there is a task that has not ended.
    pub(super) has: bool,
    /// Whether something is under way about it.
    pub(super) busy: bool,
    phase: TaskPhase,
    reason: String,
    /// When it came to that, in milliseconds since 1970.
    pub(super) since_ms: u64,
    endpoints: Vec<String>,
    series: Series,
    /// When the next task of this generation is started; none: not again.
    again: Option<Instant>,
    /// When it is looked again whether it takes connections, and how long after the look before.
    poll: Option<(Instant, Duration)>,
    /// Since when another node is known to run it.
    surplus: Option<Instant>,
    /// How long its task may take to end by itself.
    pub(super) grace: Duration,
}

/// What is done next about a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, before something else happens.
    Nothing,
    /// Nothing, before this time has passed.
    Wait(Duration),
    /// A task is made and started.
    Start,
    /// Another task is made and started beside its task, which is ended when that runs.
    Replace,
    /// Its task is ended; others hear of that first, if it is drained.
    End {
        /// Whether it is.
        drained: bool,
    },
    /// Nothing is kept of it.
    Forget,
}

/// How a task has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Whether as it should.
    pub(super) well: bool,
    /// In words.
    pub(super) reason: String,
    /// How long it ran.
    pub(super) ran: Duration,
}

impl Slot {
    /// A slot that has had no task yet.
    pub(super) fn new(now: Instant, now_ms: u64) -> Self {
        Self {
            id: String::new(),
            generation: 0,
            has: false,
            busy: false,
            phase: TaskPhase::Waiting,
            reason: String::new(),
            since_ms: now_ms,
            endpoints: Vec::new(),
            series: Series::default(),
            again: Some(now),
            poll: None,
            surplus: None,
            grace: GRACE,
        }
    }

    /// Whether its task takes connections.
    pub(super) fn runs(&self) -> bool {
        self.has && self.phase == TaskPhase::Running
    }

    /// Whether it is time to look whether its task takes connections.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.phase == TaskPhase::Starting && self.poll.is_none_or(|(at, _)| at <= now)
    }

    /// How long it is until then.
    pub(super) fn look_at(&self, now: Instant) -> Option<Duration> {
        let waits = self.has && !self.busy && self.phase == TaskPhase::Starting;
        self.poll.filter(|_| waits).map(|(at, _)| at.saturating_duration_since(now))
    }

    /// What is told of it, once there was a task.
    pub(super) fn record(&self, service: &str, slot: Option<u16>) -> Option<(String, TaskRecord)> {
        let record = TaskRecord {
            service: service.into(),
            slot,
            generation: self.generation,
            state: self.phase,
            reason: self.reason.clone(),
            last: !self.has && self.again.is_none(),
            since_ms: self.since_ms,
            endpoints: self.endpoints.clone(),
        };
        (!self.id.is_empty()).then(|| (self.id.clone(), record))
    }

    /// What is done next; `settled` is whether this node knows what the others have, `leaving` whether there is a task besides
    /// that this one replaces.
    pub(super) fn step(&self, goal: &Goal, settled: bool, leaving: bool, now: Instant) -> Step {
        if self.busy {
            return Step::Nothing;
        }
        let service = goal.service.as_deref();
        match duty(goal.owner, self.has) {
            // Without connections there is nothing to be drained.
            Duty::Drain => self.hand_over(now),
            Duty::Stop | Duty::Keep if !settled => Step::Nothing,
            Duty::Stop => Step::End { drained: self.runs() && service.is_some() },
            Duty::Keep => match (goal.owner, service) {
                (Owner::Own, Some(service)) if self.generation != service.generation => match goal.replace {
                    _ if !self.runs() => Step::End { drained: false },
                    Verdict::Now => match service.spec.update.order {
                        UpdateOrder::StopFirst => Step::End { drained: true },
                        UpdateOrder::StartFirst if leaving => Step::Nothing,
                        UpdateOrder::StartFirst => Step::Replace,
                    },
                    Verdict::In(wait) => Step::Wait(wait),
                    Verdict::Behind(_) => Step::Nothing,
                },
                _ => Step::Nothing,
            },
            Duty::Start if !settled => Step::Nothing,
            Duty::Start => self.start(service, now),
            Duty::Nothing if self.must_be_known(goal) => Step::Nothing,
            Duty::Nothing => Step::Forget,
        }
    }

    /// What is done next about a task that is replaced; `successor` is whether the other one runs, `settled` as for [`Self::step`].
    pub(super) fn step_leaving(&self, goal: &Goal, settled: bool, successor: bool, now: Instant) -> Step {
        let end = match goal.owner {
            _ if self.busy => false,
            Owner::Own => successor,
            Owner::Other { runs: true } => return self.hand_over(now),
            Owner::Other { runs: false } => false,
            Owner::Nobody => settled,
        };
        if end { Step::End { drained: self.runs() && goal.service.is_some() } } else { Step::Nothing }
    }

    fn hand_over(&self, now: Instant) -> Step {
        let known = self.surplus.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        match HAND_OVER.saturating_sub(known) {
            Duration::ZERO => Step::End { drained: self.runs() },
            wait => Step::Wait(wait),
        }
    }

    fn start(&self, service: Option<&ServiceRecord>, now: Instant) -> Step {
        let another = service.is_some_and(|service| service.generation != self.generation);
        match self.again {
            _ if another => Step::Start,
            None => Step::Nothing,
            Some(at) if at > now => Step::Wait(at - now),
            Some(_) => Step::Start,
        }
    }

    /// As long as others hear that this node has rejected a generation, they don't count on it; and that its task has done its
    /// work, they don't do it again.
    fn must_be_known(&self, goal: &Goal) -> bool {
        let is_told = |service: &ServiceRecord| match self.phase {
            TaskPhase::Rejected => true,
            phase => phase.is_final(&service.spec.restart) && goal.owner != Owner::Nobody,
        };
        goal.service
            .as_deref()
            .is_some_and(|service| service.generation == self.generation && is_told(service))
    }

    /// What is known of its service, and of others that run it.
    pub(super) fn note_goal(&mut self, goal: &Goal, now: Instant) {
        if let Some(service) = &goal.service {
            self.grace = service.spec.stop_grace();
        }
        let elsewhere = goal.owner == Owner::Other { runs: true };
        self.surplus = elsewhere.then(|| self.surplus.unwrap_or(now));
    }

    fn say(&mut self, phase: TaskPhase, reason: &str, now_ms: u64) {
        if self.phase != phase {
            self.since_ms = now_ms;
        }
        self.phase = phase;
        let end = (0..=REASON_MAX.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
        self.reason = reason[..end.unwrap_or(0)].into();
    }

    /// A task of this id and generation is being made.
    pub(super) fn note_start(&mut self, id: String, generation: u64, now_ms: u64) {
        if generation != self.generation {
            self.series = Series::default();
        }
        (self.id, self.generation, self.has, self.busy) = (id, generation, true, true);
        self.endpoints.clear();
        self.poll = None;
        self.say(TaskPhase::Starting, "", now_ms);
        self.since_ms = now_ms;
    }

    /// Its task has these endpoints.
    pub(super) fn note_places(&mut self, endpoints: Vec<String>) {
        self.endpoints = endpoints;
    }

    /// Its program runs, and takes connections unless it has to be waited for.
    pub(super) fn note_running(&mut self, waits: Option<&str>, at: Moment) {
        let Some(reason) = waits else { return self.say(TaskPhase::Running, "", at.ms) };
        self.say(TaskPhase::Starting, reason, at.ms);
        let pause = self.poll.map_or(POLL_FIRST, |(_, pause)| (pause * 2).min(POLL_MAX));
        self.poll = Some((at.now + pause, pause));
    }

    /// It is being ended.
    pub(super) fn note_ending(&mut self, now_ms: u64) {
        self.busy = true;
        self.say(TaskPhase::Draining, "", now_ms);
    }

    /// It has been ended, since it was not wanted any more.
    pub(super) fn note_ended(&mut self, now: Instant, now_ms: u64) {
        (self.has, self.busy, self.again) = (false, false, Some(now));
        self.endpoints.clear();
        self.say(TaskPhase::Waiting, "", now_ms);
    }

    /// It has ended by itself: `service` says what comes then.
    pub(super) fn note_end(&mut self, end: &End, service: Option<&ServiceRecord>, now: Instant, now_ms: u64) {
        (self.has, self.busy) = (false, false);
        self.endpoints.clear();
        let next = service.map(|service| self.series.note_end(&service.spec.restart, end.well, end.ran));
        let phase = if end.well { TaskPhase::Complete } else { TaskPhase::Failed };
        let reason = match next {
            Some(Next::Again(pause)) => {
                self.again = Some(now + pause);
                format!("{}: again after {} s", end.reason, pause.as_secs())
            }
            Some(Next::Exhausted) => {
                self.again = None;
                format!("{}: not again after {} tasks", end.reason, self.series.ended())
            }
            Some(Next::Never) | None => {
                self.again = None;
                end.reason.clone()
            }
        };
        self.say(phase, &reason, now_ms);
    }

    /// It could not be made, and perhaps can be later: when another has given its address or port back.
    pub(super) fn note_not_yet(&mut self, reason: &str, at: Moment) {
        (self.has, self.busy, self.again) = (false, false, Some(at.now + NOT_YET));
        self.endpoints.clear();
        self.say(TaskPhase::Waiting, &format!("{reason}: again after {} s", NOT_YET.as_secs()), at.ms);
    }

    /// This node can't or may not run this generation of the service.
    pub(super) fn note_rejected(&mut self, reason: &str, now_ms: u64) {
        (self.has, self.busy, self.again) = (false, false, None);
        self.endpoints.clear();
        self.say(TaskPhase::Rejected, reason, now_ms);
    }

    /// It was there before this daemon.
    pub(super) fn adopt(&mut self, id: String, generation: u64, since_ms: u64) {
        (self.id, self.generation, self.has) = (id, generation, true);
        self.say(TaskPhase::Starting, "", since_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::super::goals::tests::service;
    use super::*;
    use crate::service::Mode;

    const OTHER: Owner = Owner::Other { runs: false };

    fn goal(owner: Owner, generation: u64, replace: Verdict) -> Goal {
        Goal { owner, service: Some(service(Mode::Replicated(1), generation).into()), replace }
    }

    fn running(generation: u64, now: Instant) -> Slot {
        let mut slot = Slot::new(now, 1);
        slot.note_start("t1".into(), generation, 2);
        slot.busy = false;
        slot.note_places(vec!["e1".into()]);
        slot.note_running(None, Moment { now, ms: 3 });
        slot
    }

    fn told(slot: &Slot) -> (TaskPhase, String, u64) {
        let (_, record) = slot.record("s", Some(0)).unwrap();
        (record.state, record.reason, record.since_ms)
    }

    #[test]
    fn a_task_is_started_once_others_are_known() {
        let now = Instant::now();
        let mut slot = Slot::new(now, 1);
        let own = goal(Owner::Own, 1, Verdict::Now);
        assert_eq!(
            [slot.step(&own, false, false, now), slot.step(&own, true, false, now)],
            [Step::Nothing, Step::Start]
        );
        assert_eq!(slot.record("s", Some(0)), None, "there is nothing to be told");
        slot.note_start("t1".into(), 1, 5);
        assert_eq!(slot.step(&own, true, false, now), Step::Nothing, "it is under way");
        assert_eq!(told(&slot), (TaskPhase::Starting, String::new(), 5));
        slot.busy = false;
        slot.note_running(None, Moment { now, ms: 7 });
        assert_eq!(
            (told(&slot), slot.step(&own, true, false, now)),
            ((TaskPhase::Running, String::new(), 7), Step::Nothing)
        );
    }

    #[test]
    fn it_is_ended_when_another_runs_it_or_nobody_is_to() {
        let now = Instant::now();
        let mut slot = running(1, now);
        let step = |owner, slot: &Slot| slot.step(&goal(owner, 1, Verdict::Now), true, false, now);
        assert_eq!(step(OTHER, &slot), Step::Nothing);
        let other = goal(Owner::Other { runs: true }, 1, Verdict::Now);
        let half = HAND_OVER / 2;
        for (at, expected) in [
            (now, Step::Wait(HAND_OVER)),
            (now + half, Step::Wait(half)),
            (now + HAND_OVER, Step::End { drained: true }),
        ] {
            slot.note_goal(&other, at);
            assert_eq!(slot.step(&other, true, false, at), expected);
        }
        slot.note_goal(&goal(OTHER, 1, Verdict::Now), now + HAND_OVER);
        assert_eq!(
            slot.step(&other, true, false, now + HAND_OVER),
            Step::Wait(HAND_OVER),
            "it ceased to run there"
        );
        assert_eq!(step(Owner::Nobody, &slot), Step::End { drained: true });
        let gone = Goal { owner: Owner::Nobody, service: None, replace: Verdict::Now };
        assert_eq!(slot.step(&gone, true, false, now), Step::End { drained: false }, "nobody asks for it");
        slot.note_ending(9);
        assert_eq!((step(OTHER, &slot), told(&slot).0), (Step::Nothing, TaskPhase::Draining));
        slot.note_ended(now, 11);
        assert_eq!([step(OTHER, &slot), step(Owner::Own, &slot)], [Step::Forget, Step::Start]);
    }

    #[test]
    fn who_does_not_take_connections_is_looked_at_again_and_needs_no_turn() {
        let now = Instant::now();
        let mut slot = Slot::new(now, 1);
        slot.note_start("t1".into(), 1, 2);
        slot.busy = false;
        let mut at = Moment { now, ms: 3 };
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert!(slot.is_due(at.now));
            slot.note_running(Some("port 80/tcp of it does not listen yet"), at);
            let pause = slot.look_at(at.now).unwrap();
            assert!(!slot.is_due(at.now));
            pauses.push(pause.as_millis());
            at = Moment { now: at.now + pause, ms: at.ms + 1 };
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 500, 500]);
        let reason = "port 80/tcp of it does not listen yet";
        assert_eq!(told(&slot), (TaskPhase::Starting, reason.into(), 2), "since it was started");
        let behind = goal(Owner::Own, 2, Verdict::Behind(0));
        assert_eq!(slot.step(&behind, true, false, now), Step::End { drained: false });
        assert_eq!(
            slot.step(&goal(Owner::Nobody, 1, Verdict::Now), true, false, now),
            Step::End { drained: false }
        );
        slot.note_running(None, at);
        assert_eq!((told(&slot).0, slot.look_at(at.now)), (TaskPhase::Running, None));
        assert_eq!(slot.step(&behind, true, false, now), Step::Nothing);
    }

    #[test]
    fn what_runs_goes_on_until_others_are_known() {
        let now = Instant::now();
        let slot = running(2, now);
        let gone = Goal { owner: Owner::Nobody, service: None, replace: Verdict::Now };
        for goal in [goal(Owner::Nobody, 2, Verdict::Now), goal(Owner::Own, 1, Verdict::Now), gone] {
            let steps = [false, true].map(|settled| slot.step(&goal, settled, false, now));
            assert!(steps[0] == Step::Nothing && matches!(steps[1], Step::End { .. }), "{goal:?}: {steps:?}");
        }
        let nobody = goal(Owner::Nobody, 2, Verdict::Now);
        assert_eq!(slot.step_leaving(&nobody, false, true, now), Step::Nothing);
    }

    #[test]
    fn work_that_is_done_stays_known() {
        let now = Instant::now();
        let mut slot = running(1, now);
        let record = service(Mode::Replicated(1), 1);
        let end = |well| End { well, reason: String::new(), ran: Duration::ZERO };
        slot.note_end(&end(false), Some(&record), now, 20);
        assert_eq!(slot.step(&goal(OTHER, 1, Verdict::Now), true, false, now), Step::Forget);
        // The fixture's policy is on failure.
        slot.note_end(&end(true), Some(&record), now, 21);
        assert_eq!(slot.step(&goal(OTHER, 1, Verdict::Now), true, false, now), Step::Nothing);
        assert_eq!(slot.step(&goal(OTHER, 2, Verdict::Now), true, false, now), Step::Forget);
        assert_eq!(slot.step(&goal(Owner::Nobody, 1, Verdict::Now), true, false, now), Step::Forget);
    }

    #[test]
    fn a_newer_generation_takes_its_turn() {
        let now = Instant::now();
        let slot = running(1, now);
        let second = Duration::from_secs(1);
        for (replace, step) in [
            (Verdict::Now, Step::End { drained: true }),
            (Verdict::In(second), Step::Wait(second)),
            (Verdict::Behind(0), Step::Nothing),
        ] {
            assert_eq!(slot.step(&goal(Owner::Own, 2, replace), true, false, now), step);
            assert_eq!(
                slot.step(&goal(OTHER, 2, replace), true, false, now),
                Step::Nothing,
                "its owner begins with the newer"
            );
        }
    }

    #[test]
    fn a_replaced_task_goes_when_another_runs() {
        let now = Instant::now();
        let slot = running(1, now);
        let first = |replace| {
            let mut goal = goal(Owner::Own, 2, replace);
            let service = std::sync::Arc::make_mut(goal.service.as_mut().unwrap());
            let mut parts = service.spec.clone().into_parts();
            parts.update.order = UpdateOrder::StartFirst;
            service.spec = crate::service::ServiceSpec::new(parts).unwrap();
            goal
        };
        assert_eq!(slot.step(&first(Verdict::Behind(0)), true, false, now), Step::Nothing);
        assert_eq!(slot.step(&first(Verdict::Now), true, false, now), Step::Replace);
        assert_eq!(slot.step(&first(Verdict::Now), true, true, now), Step::Nothing, "two are enough");
        let leaving = |owner, successor| {
            let (mut slot, goal) = (slot.clone(), goal(owner, 2, Verdict::Now));
            slot.note_goal(&goal, now);
            slot.step_leaving(&goal, true, successor, now + HAND_OVER)
        };
        let drained = Step::End { drained: true };
        assert_eq!([leaving(Owner::Own, false), leaving(Owner::Own, true)], [Step::Nothing, drained]);
        assert_eq!(
            [leaving(OTHER, true), leaving(Owner::Other { runs: true }, false)],
            [Step::Nothing, drained]
        );
        assert_eq!(leaving(Owner::Nobody, false), drained);
    }

    #[test]
    fn what_ends_is_started_again_as_the_policy_has_it() {
        let now = Instant::now();
        let mut slot = running(1, now);
        let record = service(Mode::Replicated(1), 1);
        let end = End { well: false, reason: "exit code 3".into(), ran: Duration::ZERO };
        let own = goal(Owner::Own, 1, Verdict::Now);
        slot.note_end(&end, Some(&record), now, 20);
        assert_eq!(told(&slot), (TaskPhase::Failed, "exit code 3: again after 5 s".into(), 20));
        let is_last = |slot: &Slot| slot.record("s", Some(0)).is_some_and(|(_, record)| record.last);
        assert!(!is_last(&slot));
        assert_eq!(slot.step(&own, true, false, now), Step::Wait(Duration::from_secs(5)));
        assert_eq!(slot.step(&own, true, false, now + Duration::from_secs(5)), Step::Start);
        // The fixture has three attempts.
        for _ in 0..3 {
            slot.note_end(&end, Some(&record), now, 21);
        }
        assert_eq!(told(&slot).1, "exit code 3: not again after 4 tasks");
        assert!(is_last(&slot));
        let later = now + Duration::from_secs(9_999);
        assert_eq!(slot.step(&own, true, false, later), Step::Nothing);
        assert_eq!(
            slot.step(&goal(Owner::Own, 2, Verdict::Now), true, false, later),
            Step::Start,
            "another generation"
        );
        slot.note_start("t2".into(), 2, 30);
        assert!(!is_last(&slot));
        slot.note_end(&End { well: true, ..end }, Some(&record), now, 31);
        assert_eq!(told(&slot), (TaskPhase::Complete, "exit code 3".into(), 31), "on failure only");
        assert!(is_last(&slot));
        slot.note_not_yet("no address is left", Moment { now, ms: 32 });
        assert_eq!(told(&slot), (TaskPhase::Waiting, "no address is left: again after 5 s".into(), 32));
        let own = goal(Owner::Own, 2, Verdict::Now);
        assert_eq!(slot.step(&own, true, false, now), Step::Wait(NOT_YET), "it has not ended");
        assert!(!is_last(&slot));
    }

    #[test]
    fn a_rejection_stays_known_for_its_generation() {
        let now = Instant::now();
        let mut slot = running(1, now);
        slot.note_rejected(&"ü".repeat(200), 40);
        assert_eq!((told(&slot).0, told(&slot).1.len()), (TaskPhase::Rejected, 256));
        assert_eq!(slot.step(&goal(OTHER, 1, Verdict::Now), true, false, now), Step::Nothing);
        assert_eq!(slot.step(&goal(Owner::Own, 1, Verdict::Now), true, false, now), Step::Nothing);
        assert_eq!(slot.step(&goal(OTHER, 2, Verdict::Now), true, false, now), Step::Forget);
        let gone = Goal { owner: Owner::Nobody, service: None, replace: Verdict::Now };
        assert_eq!(slot.step(&gone, true, false, now), Step::Forget);
    }

    #[test]
    fn a_task_of_before_is_gone_on_with() {
        let now = Instant::now();
        let mut slot = Slot::new(now, 1);
        slot.adopt("t1".into(), 3, 2);
        assert_eq!(slot.step(&goal(Owner::Own, 3, Verdict::Now), false, false, now), Step::Nothing);
        assert_eq!(slot.step(&goal(OTHER, 3, Verdict::Now), false, false, now), Step::Nothing);
    }
}
