//! Waits until what was asked of a service has come about.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::progress::{Progress, progress};
use crate::api::client::AskError;
use crate::api::{Call, Code, Name, ServiceTaskView, ServiceView, UnboundPort};
use crate::cli::failed;
use crate::cli::printable::printable;
use crate::cli::remote::Daemon;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// How long all has to be as it is to be before that is believed: a program may end at once.
const STEADY: Duration = Duration::from_secs(1);
/// How long there may be no hope before that is believed: a node may be about to join.
const HOPELESS: Duration = Duration::from_secs(5);
/// How long nothing may get better, besides the times that the service has for itself.
const PATIENCE: Duration = Duration::from_secs(60);
/// As shells have it for who was ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// Whether it is waited for, and how that looks.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Wait {
    /// Don't wait until it has come about
    #[arg(short, long)]
    detach: bool,

    /// Don't show how it goes
    #[arg(short, long)]
    quiet: bool,
}

impl Wait {
    /// Waits until all tasks of these services, named by their ids, are as they are to be; says why if they don't come to be.
    pub(super) fn until_settled(self, daemon: &Daemon, services: &[String]) -> ExitCode {
        if self.detach {
            return ExitCode::SUCCESS;
        }
        self.each(services, |id, waiter| {
            let look = |daemon: &Daemon| {
                let service: ServiceView = daemon.ask(&Call::Service(id.clone()))?;
                let tasks: Vec<ServiceTaskView> = daemon.ask(&Call::ServiceTasks(id.clone()))?;
                let slack = service.spec.update.delay_ms.saturating_add(service.spec.stop_grace_ms);
                let progress = progress(&service, &tasks);
                Ok(Look {
                    name: service.spec.name.to_string(),
                    progress,
                    slack: Duration::from_millis(slack),
                    unbound: service.unbound,
                })
            };
            waiter.wait(daemon, look)
        })
    }

    /// Waits until removed services have no tasks any more: by name and id, and with the time that tasks may take to end.
    pub(super) fn until_gone(self, daemon: &Daemon, services: &[(Name, String, Duration)]) -> ExitCode {
        if self.detach {
            return ExitCode::SUCCESS;
        }
        let ids: Vec<String> = services.iter().map(|(_, id, _)| id.clone()).collect();
        self.each(&ids, |id, waiter| {
            let Some((name, _, slack)) = services.iter().find(|(_, known, _)| known == id.as_str()) else {
                return Ok(());
            };
            waiter.wait(daemon, |daemon| {
                let left: Vec<ServiceTaskView> = match daemon.ask(&Call::ServiceTasks(id.clone())) {
                    Err(AskError::Refused(refusal)) if refusal.code == Code::NotFound => Vec::new(),
                    answer => answer?,
                };
                let rest = left.iter().map(|task| format!("{} is {}", task.name, task.state));
                let progress = Progress { rest: rest.collect(), ..Progress::default() };
                Ok(Look { name: name.to_string(), progress, slack: *slack, unbound: Vec::new() })
            })
        })
    }

    fn each(
        self,
        ids: &[String],
        mut wait: impl FnMut(&Name, &mut Waiter) -> Result<(), ExitCode>,
    ) -> ExitCode {
        let mut waiter = match Waiter::new(self.quiet) {
            Ok(waiter) => waiter,
            Err(error) => return failed(&error),
        };
        let mut outcome = ExitCode::SUCCESS;
        for id in ids.iter().filter_map(|id| id.parse().ok()) {
            match wait(&id, &mut waiter) {
                Ok(()) => {}
                Err(code) if waiter.interrupted => return code,
                Err(code) => outcome = code,
            }
        }
        outcome
    }
}

/// What was seen of a service.
struct Look {
    name: String,
    progress: Progress,
    /// How long nothing may change by the service's own policies.
    slack: Duration,
    /// Its ports that nodes can't have.
    unbound: Vec<UnboundPort>,
}

/// Whether one goes on to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Over,
    GivenUp,
}

/// What was seen until now, with time as an argument.
#[derive(Debug)]
struct Watch {
    most: Option<usize>,
    /// When it got better last.
    better: Instant,
    over_since: Option<Instant>,
    hopeless_since: Option<Instant>,
}

impl Watch {
    fn new(now: Instant) -> Self {
        Self { most: None, better: now, over_since: None, hopeless_since: None }
    }

    fn note(&mut self, progress: &Progress, slack: Duration, now: Instant) -> Verdict {
        if self.most.is_none_or(|most| progress.done > most) {
            (self.most, self.better) = (Some(progress.done), now);
        }
        let since =
            |since: Option<Instant>, holds: bool| since.filter(|_| holds).or_else(|| holds.then_some(now));
        self.over_since = since(self.over_since, progress.is_over());
        self.hopeless_since = since(self.hopeless_since, progress.hopeless);
        let lasts = |since: Option<Instant>, long| since.is_some_and(|since| now - since >= long);
        if lasts(self.over_since, if progress.wanted == 0 { Duration::ZERO } else { STEADY }) {
            return Verdict::Over;
        }
        let late = self.over_since.is_none() && now - self.better >= PATIENCE.saturating_add(slack);
        if late || lasts(self.hopeless_since, HOPELESS) { Verdict::GivenUp } else { Verdict::Wait }
    }
}

struct Waiter {
    runtime: Runtime,
    interrupt: Signal,
    interrupted: bool,
    quiet: bool,
    /// The last line that was shown.
    shown: String,
}

impl Waiter {
    fn new(quiet: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let interrupt = runtime.block_on(async { signal(SignalKind::interrupt()) })?;
        Ok(Self { runtime, interrupt, interrupted: false, quiet, shown: String::new() })
    }

    fn wait(
        &mut self,
        daemon: &Daemon,
        mut look: impl FnMut(&Daemon) -> Result<Look, AskError>,
    ) -> Result<(), ExitCode> {
        let mut watch = None;
        loop {
            let Look { name, progress, slack, unbound } = look(daemon).map_err(|error| {
                self.end_line();
                failed(&error)
            })?;
            let now = Instant::now();
            let verdict = watch.get_or_insert_with(|| Watch::new(now)).note(&progress, slack, now);
            self.show(&name, &progress);
            if verdict != Verdict::Wait {
                self.end_line();
            }
            match verdict {
                Verdict::Over => {
                    unbound.iter().for_each(|port| eprintln!("{}", warning(&name, port)));
                    return Ok(());
                }
                Verdict::GivenUp => {
                    let why = printable(&progress.why());
                    eprintln!(
                        "vswitchd: service {name} does not come about: {why} (see `vswitchd service ps {name}`)"
                    );
                    return Err(ExitCode::FAILURE);
                }
                Verdict::Wait => {}
            }
            if self.pause() {
                self.end_line();
                eprintln!(
                    "vswitchd: interrupted: service {name} goes on without being waited for (see `vswitchd service ps {name}`)"
                );
                return Err(ExitCode::from(INTERRUPTED));
            }
        }
    }

    /// Gives whether it was interrupted.
    fn pause(&mut self) -> bool {
        let interrupt = &mut self.interrupt;
        self.interrupted = self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                () = tokio::time::sleep(LOOK) => false,
            }
        });
        self.interrupted
    }

    /// On a terminal in one line; elsewhere in one each time that it has changed. It is of no use to programs, so it goes where
    /// errors go; and who doesn't hear it misses nothing.
    fn show(&mut self, name: &str, progress: &Progress) {
        let line = match (progress.wanted, progress.rest.len()) {
            (0, 1) => format!("{name}: 1 task is left"),
            (0, left) => format!("{name}: {left} tasks are left"),
            (wanted, _) => format!("{name}: {} of {wanted} tasks are there", progress.done),
        };
        // Nobody waits for none.
        let nothing = self.shown.is_empty() && progress.wanted == 0 && progress.is_over();
        if self.quiet || nothing || line == self.shown {
            return;
        }
        let mut error = io::stderr().lock();
        let shown = printable(&line);
        let _unheard = if error.is_terminal() {
            write!(error, "\r\x1b[K{shown}").and_then(|()| error.flush())
        } else {
            writeln!(error, "{shown}")
        };
        self.shown = line;
    }

    fn end_line(&mut self) {
        if !std::mem::take(&mut self.shown).is_empty() && io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

/// Tasks run all the same, and are reached by other nodes.
fn warning(service: &str, port: &UnboundPort) -> String {
    let UnboundPort { node, reason, .. } = port;
    printable(&format!("vswitchd: service {service} runs, but {node} does not listen on {port}: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(done: usize, rest: usize, hopeless: bool) -> Progress {
        Progress { done, wanted: 2, rest: vec!["web.1 is starting".into(); rest], hopeless }
    }

    #[test]
    fn a_port_that_a_node_can_not_have_is_told() {
        let told = warning("web", &super::super::tests::unbound("one\u{1b}"));
        assert_eq!(
            told,
            "vswitchd: service web runs, but one\\u{1b} does not listen on 80/tcp: address in use"
        );
    }

    #[test]
    fn it_is_over_when_it_has_been_so_for_a_while() {
        let begin = Instant::now();
        let mut watch = Watch::new(begin);
        let mut note = |progress: &Progress, at: u64| {
            watch.note(progress, Duration::ZERO, begin + Duration::from_millis(at))
        };
        assert_eq!(note(&seen(1, 1, false), 0), Verdict::Wait);
        assert_eq!([note(&seen(2, 0, false), 100), note(&seen(2, 0, false), 1_000)], [Verdict::Wait; 2]);
        assert_eq!(note(&seen(1, 1, false), 1_050), Verdict::Wait, "one has ended at once");
        assert_eq!([note(&seen(2, 0, false), 1_100), note(&seen(2, 0, false), 2_099)], [Verdict::Wait; 2]);
        assert_eq!(note(&seen(2, 0, false), 2_100), Verdict::Over);
        let none = Progress::default();
        assert_eq!(Watch::new(begin).note(&none, Duration::ZERO, begin), Verdict::Over, "nothing can end");
    }

    #[test]
    fn it_is_given_up_when_nothing_gets_better() {
        let begin = Instant::now();
        let (second, slack) = (Duration::from_secs(1), Duration::from_secs(10));
        let mut watch = Watch::new(begin);
        assert_eq!(watch.note(&seen(0, 2, false), slack, begin), Verdict::Wait);
        assert_eq!(watch.note(&seen(1, 1, false), slack, begin + 60 * second), Verdict::Wait);
        // One that crashes and comes back is no progress.
        assert_eq!(watch.note(&seen(0, 2, false), slack, begin + 100 * second), Verdict::Wait);
        assert_eq!(watch.note(&seen(1, 1, false), slack, begin + 129 * second), Verdict::Wait);
        assert_eq!(watch.note(&seen(1, 1, false), slack, begin + 130 * second), Verdict::GivenUp);
    }

    #[test]
    fn hope_is_given_up_soon_but_not_at_once() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut watch = Watch::new(begin);
        let mut note =
            |hopeless, at: u32| watch.note(&seen(0, 2, hopeless), Duration::ZERO, begin + at * second);
        assert_eq!([note(true, 0), note(true, 4), note(false, 5)], [Verdict::Wait; 3]);
        assert_eq!(
            [note(true, 6), note(true, 10), note(true, 11)],
            [Verdict::Wait, Verdict::Wait, Verdict::GivenUp]
        );
    }
}
