//! `vswitchd config`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::daemon::configure;
use super::table::Table;
use super::{Format, failed, say};
use crate::config::{Config, Flags, Origin};

/// Look at the daemon's configuration
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
}

/// Check a configuration file with the environment, and print what a daemon would run with
///
/// What is wrong is said in one line: where it is, the key, and why.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd config check
  vswitchd config check ./new.toml && sudo cp ./new.toml /etc/vswitchd/vswitchd.toml
  vswitchd config check --format json | jq -r '.settings.socket.value'

Exit status: 0 valid, 1 could not be printed, 2 not valid or wrong usage.")]
struct Check {
    /// File to check [default: the one that the daemon would read]
    file: Option<PathBuf>,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let Command::Check(check) = self.command;
        let config = match configure(&Flags { config: check.file, values: Vec::new() }) {
            Ok(config) => config,
            Err(code) => return code,
        };
        let text = match check.format {
            Format::Text => text(&config),
            Format::Json => format!("{}\n", json_of(&config)),
        };
        match say(&text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        }
    }
}

fn text(config: &Config) -> String {
    let mut table = Table::new(["KEY", "VALUE", "FROM"]);
    for setting in config.settings() {
        let value = setting.value.unwrap_or_else(|| "-".into());
        table.row([setting.key.to_string(), value, setting.origin.to_string()]);
    }
    let file = config.file.as_ref().map_or_else(|| "none".into(), |file| file.display().to_string());
    format!("{table}file: {file}\n")
}

fn json_of(config: &Config) -> serde_json::Value {
    let settings: serde_json::Map<_, _> = config
        .settings()
        .into_iter()
        .map(|setting| {
            let from = match &setting.origin {
                Origin::Default => "default",
                Origin::File { .. } => "file",
                Origin::Variable(_) => "environment",
                Origin::Flag(_) => "flag",
            };
            let value = json!({ "value": setting.value, "from": from, "where": setting.origin.to_string() });
            (setting.key.to_string(), value)
        })
        .collect();
    json!({ "file": config.file, "settings": settings })
}
