//! `vswitchd service logs`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::api::{Call, LogMark, LogsRequest, Name, ServiceLogs};
use crate::cli::date::rfc3339;
use crate::cli::failed;
use crate::cli::printable::printable;
use crate::cli::remote::{Daemon, Remote};
use crate::task::frame::Stream;
use crate::task::log::Entry;

/// Between two looks of `--follow`.
const LOOK: Duration = Duration::from_millis(500);
/// Tasks whose marks are kept while nothing is told of them any more; with those that there are, up to two a slot while they
/// are replaced, they fit in a request ([`crate::api::BODY_MAX`]).
const MARKS_MAX: usize = 2_000;

/// Show what the tasks of a service have written, on all nodes; on a manager
///
/// Each line has its task and node in front. Lines of standard error go to this command's.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd service logs web
  vswitchd service logs -f --tail 10 web

A task's log goes with the task: of one that has failed it is there until the next one starts in its slot.

Exit status: 0 shown, 1 of some task not to be had, 2 wrong usage or configuration.")]
pub(super) struct Logs {
    #[command(flatten)]
    remote: Remote,

    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Only so many lines of each task from the end [default: all]
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,

    /// Put its time, in UTC, before each line
    #[arg(short, long)]
    timestamps: bool,

    /// Which
    service: Name,
}

impl Logs {
    pub(super) fn run(self) -> ExitCode {
        let daemon = match self.remote.clone().find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        match self.show(&daemon) {
            Ok(code) => code,
            // A reader that has seen enough is no failure.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }

    fn show(&self, daemon: &Daemon) -> io::Result<ExitCode> {
        let mut marks = Marks::default();
        let mut told = BTreeSet::new();
        loop {
            let request = LogsRequest { tail: self.tail, marks: marks.all() };
            let answer: ServiceLogs = match daemon.ask(&Call::ServiceLogs(self.service.clone(), request)) {
                Ok(answer) => answer,
                Err(error) => return Ok(failed(&error)),
            };
            for failure in answer.failures.iter().filter(|failure| told.insert((*failure).clone())) {
                eprintln!("vswitchd: {}", printable(failure));
            }
            // What is written while it is read is only for those who follow, or a busy task would have no end.
            let more = answer.logs.iter().any(|log| log.more);
            for (stream, line) in lines(&answer, self.timestamps) {
                match stream {
                    Stream::Stdout => io::stdout().lock().write_all(line.as_bytes())?,
                    Stream::Stderr => io::stderr().lock().write_all(line.as_bytes())?,
                }
            }
            io::stdout().lock().flush()?;
            marks.note(answer.logs.into_iter().filter_map(|log| Some((log.id, log.mark?))));
            match (more, self.follow) {
                (true, _) => {}
                (false, false) => {
                    return Ok(if told.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
                }
                #[expect(clippy::disallowed_methods, reason = "between two looks, as the user asked for")]
                (false, true) => thread::sleep(LOOK),
            }
        }
    }
}

/// Where this command is in the tasks' logs.
#[derive(Debug, Default)]
struct Marks {
    /// Each by its task's id, with the look that told it.
    told: BTreeMap<String, (LogMark, u64)>,
    looks: u64,
}

impl Marks {
    fn all(&self) -> BTreeMap<String, LogMark> {
        self.told.iter().map(|(id, (mark, _))| (id.clone(), *mark)).collect()
    }

    /// Takes what the last look has told. A task that was not in it may come back, as after a partition, or when a daemon
    /// knows all others again: none of its lines is to be shown twice. So those that were told of last are kept too.
    fn note(&mut self, marks: impl Iterator<Item = (String, LogMark)>) {
        self.looks += 1;
        self.told.extend(marks.map(|(id, mark)| (id, (mark, self.looks))));
        while self.told.len() > MARKS_MAX {
            let oldest = self.told.iter().min_by_key(|(_, (_, look))| *look);
            let Some(id) = oldest.filter(|(_, (_, look))| *look < self.looks).map(|(id, _)| id.clone())
            else {
                break;
            };
            self.told.remove(&id);
        }
    }
}

/// All lines, in the order of their times.
fn lines(answer: &ServiceLogs, timestamps: bool) -> Vec<(Stream, String)> {
    let mut all = Vec::new();
    for log in &answer.logs {
        // Who has it may be of another version.
        let entries = log.lines.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        for Entry { time_ms, stream, log: text } in entries {
            let time = if timestamps { format!("{} ", rfc3339(time_ms)) } else { String::new() };
            let from = printable(&format!("{}@{}", log.name, log.node));
            let end = if text.ends_with('\n') { "" } else { "\n" };
            all.push((time_ms, (stream, format!("{time}{from} | {text}{end}"))));
        }
    }
    all.sort_by_key(|(time_ms, _)| *time_ms);
    all.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BODY_MAX, TaskLog};
    use crate::crypto::identity::NodeId;

    #[test]
    fn lines_of_all_tasks_come_in_the_order_of_their_times() {
        let log = |name: &str, entries: &[(u64, Stream, &str)]| {
            let line = |&(time_ms, stream, text): &(u64, Stream, &str)| {
                let entry = Entry { time_ms, stream, log: text.into() };
                format!("{}\n", serde_json::to_string(&entry).unwrap())
            };
            TaskLog {
                id: name.into(),
                name: name.into(),
                node: "n\u{1b}".into(),
                lines: entries.iter().map(line).collect(),
                mark: None,
                more: false,
            }
        };
        let mut one = log("web.1", &[(1, Stream::Stdout, "a\n"), (3, Stream::Stderr, "c")]);
        one.lines.push_str("no entry\n");
        let answer = ServiceLogs {
            logs: vec![one, log("web.2", &[(2, Stream::Stdout, "b\n")])],
            failures: Vec::new(),
        };
        assert_eq!(
            lines(&answer, false),
            [
                (Stream::Stdout, "web.1@n\\u{1b} | a\n".to_owned()),
                (Stream::Stdout, "web.2@n\\u{1b} | b\n".into()),
                (Stream::Stderr, "web.1@n\\u{1b} | c\n".into()),
            ]
        );
        assert!(lines(&answer, true)[0].1.starts_with("1970-01-01T00:00:00.001Z web.1"));
    }

    #[test]
    fn marks_of_many_tasks_fit_in_a_request() {
        // The longest ids and marks that there are.
        let id = |number: u64| {
            let bytes = [0xff_u8; 8].into_iter();
            let bytes: Vec<u8> = bytes.chain(number.to_be_bytes()).collect();
            NodeId::from_bytes(bytes.try_into().unwrap()).to_string()
        };
        let mark = LogMark { file: u64::MAX, offset: crate::task::log::FILE_MAX };
        let mut marks = Marks::default();
        for number in 0..4_000 {
            marks.note([(id(0), mark), (id(number), mark)].into_iter());
        }
        let (all, most) = (marks.all(), u64::try_from(MARKS_MAX).unwrap());
        assert_eq!(all.len(), MARKS_MAX);
        assert!(all.contains_key(&id(0)), "it is told of each time");
        assert!(all.contains_key(&id(4_001 - most)), "it may come back");
        let request = serde_json::to_vec(&LogsRequest { tail: Some(u64::MAX), marks: all }).unwrap();
        assert!(request.len() <= BODY_MAX, "{}", request.len());
        // Those that are there are never forgotten.
        marks.note((0..2 * most).map(|number| (id(number), mark)));
        assert_eq!(marks.all().len(), 2 * MARKS_MAX);
    }
}
