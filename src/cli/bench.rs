//! `vswitchd bench`.

mod screen;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use super::{Format, failed, say};
use crate::bench;
use crate::namespace::init::{self, InitError, Stage};
use crate::namespace::trial::can_confine;

/// Measure what this machine can do for a switch, and what limits it
///
/// TAP devices (offloads, cost of a frame), UDP (single datagrams, batches, runs), the switch in memory, and one TCP
/// stream through two switches in two network namespaces. It takes some ten seconds, needs no root, only access to
/// /dev/net/tun and user namespaces, and leaves nothing behind; where one is missing, what needs it is left out and
/// the reason given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    /// Seconds of each measurement, of which there are nine
    #[arg(long, value_name = "N", default_value = "1", value_parser = seconds)]
    seconds: Duration,

    /// How to print the figures
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

const EXAMPLES: &str = "\
Examples:
  One screen:
    vswitchd bench

  Steadier figures, for a program:
    vswitchd bench --seconds 5 --format json | jq .stream.gbit_s

Reading it: \"one core\" is CPU time of the thread that does the work, so other programs hardly
change it; the rest is by the clock, and they do. A small frame holds 64 bytes of UDP payload;
bulk is super-frames and runs of 64 KiB. docs/operations.md has more.

Exit status: 0 measured, 1 nothing could be measured, 2 wrong usage, 130 interrupted.";

impl Args {
    /// Goes through the stages of [`init`]: this is called in three processes.
    pub(super) fn run(self) -> ExitCode {
        match init::stage() {
            Ok(Stage::Outside) => self.outside(),
            Ok(Stage::Init(init)) => init.run().map_or_else(|error| failed(&error), ExitCode::from),
            Ok(Stage::Inside(_)) => self.measure(Ok(())),
            Err(error) => failed(&error),
        }
    }

    fn outside(&self) -> ExitCode {
        if let Err(refused) = can_confine() {
            return self.measure(Err(refused.to_string()));
        }
        // The stages hand a descriptor on; nothing has to be told through this one.
        let nothing =
            File::open("/dev/null").map_err(|source| InitError::System { what: "open /dev/null", source });
        match nothing.and_then(|nothing| init::confine(nothing.into())) {
            Ok(ended) => ended.into(),
            Err(error) => failed(&error),
        }
    }

    fn measure(&self, sandbox: Result<(), String>) -> ExitCode {
        let progress = self.format == Format::Text && io::stderr().is_terminal();
        let report = bench::run(self.seconds, sandbox, |what| {
            if progress {
                eprint!("{}measuring {what} …", screen::CLEAR);
            }
        });
        if progress {
            eprint!("{}", screen::CLEAR);
        }
        let text = match self.format {
            Format::Text => Ok(screen::text(&report)),
            Format::Json => screen::json(&report),
        };
        match text.and_then(|text| say(&text)) {
            Err(error) => failed(&error),
            Ok(()) if report.is_empty() => ExitCode::FAILURE,
            Ok(()) => ExitCode::SUCCESS,
        }
    }
}

/// Seconds, with a fraction or none.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds")?;
    let ok = (0.05..=60.0).contains(&seconds);
    ok.then(|| Duration::from_secs_f64(seconds)).ok_or_else(|| "must be from 0.05 to 60 seconds".into())
}
