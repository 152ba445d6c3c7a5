//! What is asked of connections that were made while much happened to their service.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{ALL, Outcome, Story};

/// How long a task that goes by order keeps what it has, as users are told.
const DRAIN: Duration = Duration::from_millis(500);
/// Until the end of a connection whose task has died.
const SOON: Duration = Duration::from_secs(1);
/// One of so many of those may take longer.
const HURRIED: usize = 1_000;
/// Until the end of any connection, good or bad: on two busy cores, shared with other tests, a program may wait that long.
const LATEST: Duration = Duration::from_secs(5);
/// Lost connections that are told of one by one.
const TOLD: usize = 10;
/// How far from its even share a task's may be, in standard deviations: with a dozen of shares once in 100,000 runs.
const DEVIATIONS: f64 = 5.0;

impl Story {
    pub(super) fn judge(&self, outcomes: &[Outcome]) -> Result<()> {
        ensure!(outcomes.len() >= ALL);
        self.are_even(outcomes)?;
        let (lost, others): (Vec<&Outcome>, Vec<&Outcome>) =
            outcomes.iter().partition(|outcome| outcome.failure.is_some());
        let wrong = lost.iter().filter_map(|lost| {
            let error = self.is_excused(lost, outcomes).err()?;
            Some(format!("{error}: {}", self.tell(lost)))
        });
        let wrong: Vec<String> = wrong.collect();
        let (lost, others) = (self.longest(&lost), self.longest(&others));
        eprintln!(
            "load: {} connections, {} lost, {} of these without an excuse; a living node was taken for dead {} times",
            outcomes.len(),
            lost.len(),
            wrong.len(),
            self.starved.len()
        );
        for (what, those) in [("lost", &lost), ("others", &others)] {
            let Some((took, outcome)) = those.first() else { continue };
            eprintln!("load: of {what} the longest took {took:.2?}: {}", self.tell(outcome));
        }
        ensure!(wrong.is_empty(), "{} lost: {:#?}", wrong.len(), &wrong[..wrong.len().min(TOLD)]);
        let limits = [(&lost, lost.len() / HURRIED, SOON), (&lost, 0, LATEST), (&others, 0, LATEST)];
        for (those, allowed, limit) in limits {
            // Where no node is heard in time, no connection is either.
            let mut timed = those.iter().filter(|(_, outcome)| !self.is_starved(outcome));
            let Some((took, outcome)) = timed.nth(allowed) else { continue };
            ensure!(*took < limit, "{} has taken {took:?}", self.tell(outcome));
        }
        Ok(())
    }

    /// Whether shares were even whenever it was calm, and nobody was taken for dead, which is to be so at least once.
    fn are_even(&self, outcomes: &[Outcome]) -> Result<()> {
        let starved = |then: &Range<Instant>| self.starved.iter().any(|when| then.contains(when));
        let calm = self.calm.iter().map(|(from, to, tasks)| (*from..*to, tasks));
        let calm: Vec<_> = calm.filter(|(then, _)| !starved(then)).collect();
        ensure!(!calm.is_empty(), "it was never calm");
        calm.into_iter().try_for_each(|(then, tasks)| is_even(outcomes, then, tasks))
    }

    /// How long each of these took, the longest first.
    fn longest<'a>(&self, those: &[&'a Outcome]) -> Vec<(Duration, &'a Outcome)> {
        let mut all: Vec<_> = those.iter().map(|outcome| (self.took(outcome), *outcome)).collect();
        all.sort_by_key(|(took, _)| Reverse(*took));
        all
    }

    fn took(&self, outcome: &Outcome) -> Duration {
        // Whose node is gone can't know before that is known.
        let may_wait = outcome.task.as_ref().is_none_or(|task| self.died.contains(task));
        let gone = self.gone.filter(|(from, _)| may_wait && outcome.ended > *from);
        let waited_from = gone.map_or(outcome.started, |(_, known)| outcome.started.max(known));
        outcome.ended.saturating_duration_since(waited_from)
    }

    /// Whether a node that ran was taken for dead meanwhile, give or take what lies between the deed and its line in a log.
    fn is_starved(&self, outcome: &Outcome) -> bool {
        let meanwhile = |when: &Instant| outcome.started <= *when + SOON && *when <= outcome.ended + SOON;
        self.starved.iter().any(meanwhile)
    }

    fn tell(&self, outcome: &Outcome) -> String {
        let place = |then: Instant| {
            let before = self.done.iter().rev().find(|(when, _)| *when <= then);
            before.map_or_else(String::new, |(when, what)| format!("{:.2?} after {what:?}", then - *when))
        };
        let (from, to) = (place(outcome.started), place(outcome.ended));
        format!("task {:?}, {:?}, from {from} to {to}", outcome.task, outcome.failure)
    }

    /// Whether its own task had died, or was taken for dead.
    fn is_excused(&self, lost: &Outcome, all: &[Outcome]) -> Result<()> {
        if self.is_starved(lost) {
            return Ok(());
        }
        ensure!(self.back.is_none_or(|back| lost.ended < back), "everybody was back");
        let Some(task) = &lost.task else {
            // It was not told whose it was; so there has to be one that it can have been.
            let during = |&&(from, to): &&(Instant, Instant)| lost.ended >= from && lost.started <= to;
            ensure!(self.killed.iter().chain(&self.gone).any(|times| during(&times)), "nobody had died");
            return Ok(());
        };
        if self.died.contains(task) {
            return Ok(());
        }
        // It was told to go. Whoever came before that has had time to end.
        ensure!(lost.ended - lost.started > DRAIN, "its task has not been drained");
        ensure!(!self.stay.contains(task), "its task is still there");
        let later = |other: &&Outcome| other.task.as_ref() == Some(task) && other.started > lost.ended;
        let later = all.iter().filter(later).any(|other| other.failure.is_none());
        ensure!(!later, "its task has answered another one later");
        Ok(())
    }
}

/// Whether each of the tasks had its share of what began and ended then, and nobody else any.
fn is_even(outcomes: &[Outcome], then: Range<Instant>, tasks: &BTreeSet<String>) -> Result<()> {
    let mut seen: BTreeMap<&str, u32> = tasks.iter().map(|task| (task.as_str(), 0)).collect();
    let mut all = 0;
    let is_then = |outcome: &&Outcome| then.contains(&outcome.started) && then.contains(&outcome.ended);
    for outcome in outcomes.iter().filter(is_then) {
        let task =
            outcome.task.as_deref().with_context(|| format!("{:?} while it was calm", outcome.failure))?;
        *seen.entry(task).or_default() += 1;
        all += 1;
    }
    let chance = 1.0 / f64::from(u32::try_from(tasks.len())?);
    let share = f64::from(all) * chance;
    let bound = DEVIATIONS * (share * (1.0 - chance)).sqrt();
    eprintln!(
        "load: of {all} connections each of {} should have {share:.0} ± {bound:.0}: {seen:?}",
        tasks.len()
    );
    ensure!(seen.len() == tasks.len(), "{seen:?} are not {tasks:?}");
    let uneven = seen.values().find(|&&count| (f64::from(count) - share).abs() > bound);
    ensure!(uneven.is_none(), "{seen:?}: {share:.0} ± {bound:.0} are a share");
    Ok(())
}
