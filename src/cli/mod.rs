//! The command line: definitions, and one module for each command's work.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A virtual Ethernet switch in userspace.
#[derive(Debug, Parser)]
#[command(name = "vswitchd", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

impl Cli {
    /// Does what the command line says; the exit code is 0 for success, 1 for failure (2, a usage error, is clap's).
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {}
    }
}
