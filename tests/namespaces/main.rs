//! Whole switches in real network namespaces, with real TAP devices, against the kernel.
//!
//! The harness is our own `main`, because a user namespace can only be entered by a process with one thread. Tests run
//! on threads of this sandbox; nothing is left behind however they end. They need what `vswitchd lab` needs: where that
//! is missing they say so, and fail if `CI=true`.

mod cluster;
mod cutting;
mod datagrams;
mod fixture;
mod gateway;
mod hosts;
mod kernel_vxlan;
mod links;
mod nat;
mod overlay;
mod ports;
mod probes;
mod relay;
mod services;
mod soak;
mod station;
mod superframe;
#[path = "../typist/mod.rs"]
mod typist;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use vswitchd::namespace::obstacle::check_tun;
use vswitchd::namespace::sandbox;

/// Tests that wait for time to pass more than for a core.
const WAITING_TOGETHER: usize = 8;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(cluster::SERVE) {
        return cluster::serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let arguments = Arguments::from_args();
    let ready = if arguments.list { Ok(()) } else { enter() };
    if let Err(reason) = &ready {
        eprintln!("\nNAMESPACE TESTS CAN'T RUN HERE: {reason}\n");
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            return ExitCode::FAILURE;
        }
    }
    let subjects = [
        gateway::tests(),
        nat::tests(),
        hosts::tests(),
        kernel_vxlan::tests(),
        ports::tests(),
        services::tests(),
        cutting::tests(),
        links::tests(),
        datagrams::tests(),
        probes::tests(),
        overlay::tests(),
        cluster::busy(),
    ];
    let trial = |(name, test): Test, ignored: bool| {
        let run = move || test().map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(name, run).with_ignored_flag(ignored || ready.is_err())
    };
    let soaks = soak::tests().into_iter().map(|test| trial(test, true));
    let busy = subjects.concat().into_iter().map(|test| trial(test, false)).chain(soaks);
    let waiting = cluster::tests().into_iter().map(|test| trial(test, false));
    // The busy ones are a few hosts that share two or more cores with their traffic: side by side they would only wait.
    let busy = run(&arguments, busy.collect(), 1);
    let waiting = run(&arguments, waiting.collect(), WAITING_TOGETHER);
    if busy.has_failed() || waiting.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs them, so many at a time if nothing else is asked for.
fn run(arguments: &Arguments, trials: Vec<Trial>, together: usize) -> Conclusion {
    let mut arguments = arguments.clone();
    arguments.test_threads.get_or_insert(together);
    libtest_mimic::run(&arguments, trials)
}

fn enter() -> anyhow::Result<()> {
    check_tun()?;
    sandbox::enter()?;
    Ok(())
}

/// A test and its name.
type Test = (&'static str, fn() -> anyhow::Result<()>);
