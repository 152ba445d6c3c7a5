//! `vswitchd keys`: the keys that all nodes share.

use std::process::ExitCode;

use super::print;
use super::remote::Remote;
use crate::api::{Call, KeysRotated};

/// Rotate the keys that all nodes share
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Rotate(Rotate),
}

/// Rotate the cluster's shared keys now; on a manager
///
/// Managers do so every 12 hours by themselves, and when a node is removed. Data keys are agreed anew, too; no packet
/// is lost by it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd keys rotate

Exit status: 0 rotated, 1 not, 2 wrong usage or configuration.")]
struct Rotate {
    #[command(flatten)]
    remote: Remote,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let Command::Rotate(Rotate { remote }) = self.command;
        match remote.ask::<KeysRotated>(&Call::RotateKeys) {
            Ok(rotated) => print(&format!("The shared keys are at epoch {} now.\n", rotated.epoch)),
            Err(code) => code,
        }
    }
}
