//! The `vswitchd` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    vswitchd::cli::Cli::parse().run()
}
