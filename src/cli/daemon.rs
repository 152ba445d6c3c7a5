//! `vswitchd daemon`.

use std::path::PathBuf;
use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

use super::failed;
use crate::config::{Config, ConfigError, Flags, Key, LogLevel, Surroundings, resolve};
use crate::daemon;

/// Run this host's node, in the foreground
///
/// It listens at a UNIX socket for the other commands, comes up without a cluster and waits, and runs until SIGTERM or
/// Ctrl-C. Run by root its state is in /var/lib/vswitchd and its socket in /run/vswitchd; run by anybody else they are
/// in the user's own directories. Log lines go to standard error. systemd is told when it is ready
/// (contrib/vswitchd.service).
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    given: Given,
}

/// The keys of the configuration as flags.
#[derive(Debug, clap::Args)]
pub(super) struct Given {
    /// Configuration file [default: /etc/vswitchd/vswitchd.toml or ~/.config/vswitchd/vswitchd.toml, if there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of this node's identity and records; one for each daemon
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,

    /// Socket to listen at; one for each daemon
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,

    /// Group whose members may use the socket too; what they can do with it, this user can
    #[arg(long, value_name = "GROUP")]
    socket_group: Option<String>,

    /// Log lines to print: error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,

    /// Resolvers to ask for names of the world outside, at most three [default: this host's, /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS[:PORT],...")]
    dns: Option<String>,

    /// Run tasks of services here: managers of the cluster then choose programs that run on this host
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_tasks: Option<String>,

    /// The user of their programs; a number that is not in /etc/passwd needs a group [default: this one]
    #[arg(long, value_name = "USER[:GROUP]")]
    task_user: Option<String>,

    /// The programs that they may be, by absolute paths, as services name them [default: all]
    #[arg(long, value_name = "PROGRAM,...")]
    task_commands: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  This host's node:
    vswitchd daemon

  A second one on the same machine, and a command to it:
    vswitchd daemon --state-dir ~/two --socket ~/two/api.sock
    vswitchd status -H ~/two/api.sock

Each flag is also a key of the configuration file and a variable, such as VSWITCHD_STATE_DIR;
flags win over variables, variables over the file. `vswitchd config check` shows what comes of it.

Exit status: 0 stopped by a signal, 1 failed, 2 wrong usage or configuration.";

impl Given {
    pub(super) fn flags(self) -> Flags {
        let values = [
            (Key::StateDir, self.state_dir),
            (Key::Socket, self.socket),
            (Key::SocketGroup, self.socket_group),
            (Key::LogLevel, self.log_level),
            (Key::Dns, self.dns),
            (Key::AllowTasks, self.allow_tasks),
            (Key::TaskUser, self.task_user),
            (Key::TaskCommands, self.task_commands),
        ];
        let given = values.into_iter().filter_map(|(key, value)| Some((key, value?)));
        Flags { config: self.config, values: given.collect() }
    }
}

/// The configuration of this process, or the exit code after having said why there is none.
pub(super) fn configure(flags: &Flags) -> Result<Config, ExitCode> {
    let surroundings = Surroundings::of_process().map_err(|error| failed(&error))?;
    resolve(&surroundings, flags).map_err(|error: ConfigError| {
        eprintln!("vswitchd: {error}");
        ExitCode::from(2)
    })
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let config = match configure(&self.given.flags()) {
            Ok(config) => config,
            Err(code) => return code,
        };
        log_to_stderr(config.log_level);
        match daemon::run(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
}

fn log_to_stderr(level: LogLevel) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
}
