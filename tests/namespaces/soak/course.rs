//! Jobs that are done again and again, side by side, until time is up or one of them fails.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, ensure};

/// How long it goes.
pub(super) struct Course {
    pub(super) start: Instant,
    end: Instant,
    failed: Mutex<bool>,
    failing: Condvar,
}

/// Work for one thread.
pub(super) struct Job<'a> {
    pub(super) name: &'static str,
    /// Between two times.
    pub(super) pause: Duration,
    pub(super) loss: Loss,
    pub(super) work: Box<dyn FnMut() -> Result<()> + Send + 'a>,
}

/// What is to be said of what doesn't arrive. What does must be right in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It must arrive.
    Never,
    /// Only if a queue of a kernel's has overflowed, which it counts.
    Counted,
    /// Something loses it that doesn't count.
    Any,
}

/// How often a job was done, and how often something was lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) lost: u64,
}

impl Course {
    pub(super) fn new(duration: Duration) -> Self {
        let start = Instant::now();
        Self { start, end: start + duration, failed: Mutex::new(false), failing: Condvar::new() }
    }

    /// Lets time pass, less if something fails; gives whether to go on.
    pub(super) fn pause(&self, duration: Duration) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let until = duration.min(self.end.saturating_duration_since(Instant::now()));
        let waited = self.failing.wait_timeout_while(failed, until, |failed| !*failed);
        let (failed, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*failed && Instant::now() < self.end
    }

    fn fail(&self) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.failing.notify_all();
    }

    /// Runs `main` beside the jobs, and gives what became of them.
    pub(super) fn run(
        &self,
        jobs: Vec<Job<'_>>,
        main: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<(&'static str, Loss, Tally)>> {
        thread::scope(|scope| {
            let jobs = jobs.into_iter().map(|job| (job.name, job.loss, self.spawn(scope, job)));
            let jobs: Vec<_> = jobs.collect();
            let outcome = main();
            if outcome.is_err() {
                self.fail();
            }
            let tallies = jobs.into_iter().map(|(name, loss, job)| {
                let tally = job.join().expect("jobs return their errors").context(name)?;
                Ok((name, loss, tally))
            });
            // A job's failure is why `main` had nothing more to look at, so it comes first.
            let tallies = tallies.collect::<Result<Vec<_>>>()?;
            outcome.map(|()| tallies)
        })
    }

    fn spawn<'scope, 'env>(
        &'scope self,
        scope: &'scope Scope<'scope, 'env>,
        job: Job<'scope>,
    ) -> ScopedJoinHandle<'scope, Result<Tally>> {
        scope.spawn(move || {
            let outcome = self.repeat(job);
            if outcome.is_err() {
                self.fail();
            }
            outcome
        })
    }

    fn repeat(&self, mut job: Job<'_>) -> Result<Tally> {
        let mut tally = Tally::default();
        while self.pause(job.pause) {
            match (job.work)() {
                Ok(()) => tally.done += 1,
                Err(error) if job.loss != Loss::Never && is_loss(&error) => tally.lost += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(tally)
    }
}

impl Tally {
    /// `overflowed` is what the kernels' queues have lost.
    pub(super) fn check(self, loss: Loss, overflowed: u64) -> Result<()> {
        let excused = overflowed > 0 && loss != Loss::Never;
        ensure!(self.done > 0 || excused, "was never done");
        ensure!(self.lost == 0 || excused || loss == Loss::Any, "{} times something was lost", self.lost);
        Ok(())
    }
}

/// Whether an error says that something was waited for in vain.
fn is_loss(error: &Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), WouldBlock | TimedOut))
}
