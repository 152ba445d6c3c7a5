//! Whole switches in real network namespaces, with real TAP devices, against the kernel.
//!
//! The harness is our own `main`, because a user namespace can only be entered by a process with one thread. Tests run
//! on threads of this sandbox; nothing is left behind however they end. They need what `vswitchd lab` needs: where that
//! is missing they say so, and fail if `CI=true`.

mod cutting;
mod datagrams;
mod fixture;
mod hosts;
mod kernel_vxlan;
mod links;
mod overlay;
mod ports;
mod probes;
mod relay;
mod soak;
mod station;
mod superframe;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use vswitchd::namespace::obstacle::check_tun;
use vswitchd::namespace::sandbox;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each test is a few hosts that share two or more cores with its traffic: side by side they would only wait.
    arguments.test_threads.get_or_insert(1);
    let ready = if arguments.list { Ok(()) } else { enter() };
    if let Err(reason) = &ready {
        eprintln!("\nNAMESPACE TESTS CAN'T RUN HERE: {reason}\n");
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            return ExitCode::FAILURE;
        }
    }
    let subjects = [
        hosts::tests(),
        kernel_vxlan::tests(),
        ports::tests(),
        cutting::tests(),
        links::tests(),
        datagrams::tests(),
        probes::tests(),
        overlay::tests(),
    ];
    let all = subjects.concat().into_iter().map(|test| (test, false));
    let trials =
        all.chain(soak::tests().into_iter().map(|test| (test, true))).map(|((name, test), ignored)| {
            let run = move || test().map_err(|error| Failed::from(format!("{error:#}")));
            Trial::test(name, run).with_ignored_flag(ignored || ready.is_err())
        });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn enter() -> anyhow::Result<()> {
    check_tun()?;
    sandbox::enter()?;
    Ok(())
}

/// A test and its name.
type Test = (&'static str, fn() -> anyhow::Result<()>);
