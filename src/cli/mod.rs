//! The command line: definitions here, the work in the modules that they name.

mod attach;
mod bench;
mod cluster;
mod config;
mod daemon;
mod date;
mod document;
mod duration;
mod expose;
mod keys;
mod lab;
mod label;
mod network;
mod node;
mod peers;
mod printable;
mod remote;
mod service;
mod settings;
mod status;
mod switch;
mod table;
mod task;
mod template;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A virtual Ethernet switch in userspace.
///
/// Carries Ethernet frames between TAP devices on many hosts as VXLAN over UDP, with no kernel module but TUN/TAP.
#[derive(Debug, Parser)]
#[command(name = "vswitchd", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Daemon(daemon::Args),
    Init(cluster::Init),
    Join(cluster::Join),
    Leave(cluster::Leave),
    Token(cluster::Token),
    Node(node::Args),
    Network(network::Args),
    Service(service::Args),
    Attach(attach::Attach),
    Detach(attach::Detach),
    Expose(expose::Expose),
    Unexpose(expose::Unexpose),
    Run(task::Run),
    Ps(task::Ps),
    Logs(task::Logs),
    Exec(task::Exec),
    Stop(task::Stop),
    Kill(task::Kill),
    Wait(task::Wait),
    Rm(task::Rm),
    #[command(hide = true)]
    Keep(task::Keep),
    #[command(hide = true)]
    Envoy(task::Envoy),
    Status(status::Args),
    Cluster(settings::Args),
    Keys(keys::Args),
    Config(config::Args),
    Switch(switch::Args),
    Lab(lab::Args),
    Bench(bench::Args),
}

impl Cli {
    /// Does what the command line says; the exit code is 0 for success, 1 for failure, 2 for wrong
    /// usage or configuration.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Daemon(args) => args.run(),
            Command::Init(args) => args.run(),
            Command::Join(args) => args.run(),
            Command::Leave(args) => args.run(),
            Command::Token(args) => args.run(),
            Command::Node(args) => args.run(),
            Command::Network(args) => args.run(),
            Command::Service(args) => args.run(),
            Command::Attach(args) => args.run(),
            Command::Detach(args) => args.run(),
            Command::Expose(args) => args.run(),
            Command::Unexpose(args) => args.run(),
            Command::Run(args) => args.run(),
            Command::Ps(args) => args.run(),
            Command::Logs(args) => args.run(),
            Command::Exec(args) => args.run(),
            Command::Stop(args) => args.run(),
            Command::Kill(args) => args.run(),
            Command::Wait(args) => args.run(),
            Command::Rm(args) => args.run(),
            Command::Keep(args) => args.run(),
            Command::Envoy(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Cluster(args) => args.run(),
            Command::Keys(args) => args.run(),
            Command::Config(args) => args.run(),
            Command::Switch(args) => args.run(),
            Command::Lab(args) => args.run(),
            Command::Bench(args) => args.run(),
        }
    }
}

/// Digits of an id that tables show, as Docker's do.
const ID_SHORT: usize = 12;

/// How output is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs: JSON, one document a line where there are several.
    Json,
}

/// Writes to standard output, which may be a closed pipe or a full disk: `println!` would panic.
pub(crate) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// The same, as the end of a command.
fn print(text: &str) -> ExitCode {
    match say(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Prints why a command failed, and gives the exit code of failure.
pub(crate) fn failed(error: &dyn std::error::Error) -> ExitCode {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Many errors have their cause's text in their own.
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    // It may quote what others have named.
    eprintln!("vswitchd: {}", printable::printable(&line));
    ExitCode::FAILURE
}
