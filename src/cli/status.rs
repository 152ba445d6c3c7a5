//! `vswitchd status`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::remote::Remote;
use super::{Format, failed, say};
use crate::api::{Call, Status};

/// Show how this host's node is
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd status
  vswitchd status -H ~/two/api.sock --format json

Exit status: 0 the daemon answered, 1 it did not, 2 wrong usage or configuration.")]
pub(super) struct Args {
    #[command(flatten)]
    remote: Remote,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let status: Status = match self.remote.ask(&Call::Status) {
            Ok(status) => status,
            Err(code) => return code,
        };
        let text = match self.format {
            Format::Text => text(&status),
            Format::Json => format!("{}\n", json!(status)),
        };
        match say(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
}

fn text(status: &Status) -> String {
    let daemon = format!(
        "daemon: vswitchd {}, process {}, up {}\nstate: {}\nsocket: {}\n",
        status.version,
        status.pid,
        span(Duration::from_secs(status.up_s)),
        status.state_dir.display(),
        status.socket.display(),
    );
    let Some(cluster) = &status.cluster else {
        return format!("{daemon}cluster: none: `vswitchd init` makes one, `vswitchd join` enters one\n");
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let certificate = match cluster.certificate_until {
        Some(until) => format!("valid for {}", span(Duration::from_secs(until.saturating_sub(now)))),
        None => "not valid now: it has expired, or this host's clock is wrong".into(),
    };
    let managers: Vec<_> = cluster.managers.iter().map(ToString::to_string).collect();
    format!(
        "{daemon}cluster: {}\nnode: {} ({}), {}, at {}\nmanagers: {}\ncertificate: {certificate}\n",
        cluster.id,
        cluster.node,
        cluster.name,
        cluster.role,
        cluster.address,
        managers.join(", "),
    )
}

/// A time span in its two largest units.
pub(super) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let text = |s| span(Duration::from_secs(s));
        assert_eq!([text(0), text(59), text(60)], ["0 s", "59 s", "1 min 0 s"]);
        assert_eq!([text(3_599), text(86_399)], ["59 min 59 s", "23 h 59 min"]);
        assert_eq!(text(90 * 86_400 + 3_600), "90 d 1 h");
    }
}
