//! The `vswitchd` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Started again through /proc/self/exe, the lab's processes would otherwise be listed as "exe".
    let _cosmetic = rustix::thread::set_name(c"vswitchd");
    vswitchd::cli::Cli::parse().run()
}
