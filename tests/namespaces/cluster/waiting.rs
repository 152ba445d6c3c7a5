//! Commands that change services wait until that has come about, and say why if it doesn't.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::shown::{all_run_as_asked, generation, tasks};
use crate::fixture::VSWITCHD;

pub(super) fn waited() -> Result<()> {
    with_daemons("waiting", 2, |daemons| {
        daemons.form_with_tasks(2, 1)?;
        settles(daemons)?;
        given_up(daemons)?;
        interrupted(daemons)
    })
}

/// Whoever comes back finds everything as it was asked for.
fn settles(daemons: &Daemons) -> Result<()> {
    let manager = &daemons.hosts[0];
    manager.say(&["network", "create", "sorrel"])?;
    let flags = ["--replicas", "3", "--network", "sorrel", "--update-parallelism", "2"];
    let made = asked(
        daemons,
        &[&["service", "create", "--name", "web"], &flags[..], &["--", "sleep", "1d"]].concat(),
    )?;
    let id = manager.say(&["service", "inspect", "web"])?;
    let id: Value = serde_json::from_str(&id)?;
    ensure!(
        Some(String::from_utf8_lossy(&made.stdout).trim()) == id[0]["ID"].as_str(),
        "its id alone: {made:?}"
    );
    ensure!(String::from_utf8_lossy(&made.stderr).contains("web: 3 of 3 tasks are there"), "{made:?}");
    ensure!(all(daemons, 3)?, "they run");
    let before = generation(daemons, "web")?;
    let updated = asked(daemons, &["service", "update", "-q", "--args", "2d", "web"])?;
    ensure!(updated.stdout == b"web\n" && updated.stderr.is_empty(), "{updated:?}");
    let after = generation(daemons, "web")?;
    ensure!(after != before && all(daemons, 3)?, "all are replaced");
    let scaled = asked(daemons, &["service", "scale", "web=1"])?;
    ensure!(scaled.stdout == b"web scaled to 1\n" && all(daemons, 1)?, "{scaled:?}");
    ensure!(generation(daemons, "web")? == after, "none is replaced");
    let once = asked(daemons, &["service", "create", "--restart-condition", "none", "--", "true"])?;
    ensure!(String::from_utf8_lossy(&once.stderr).contains(": 1 of 1 tasks are there"), "{once:?}");
    asked(daemons, &["service", "rm", "web", String::from_utf8(once.stdout)?.trim()])?;
    for host in &daemons.hosts {
        ensure!(host.say(&["ps", "-aq"])?.is_empty(), "{} has none left", host.name);
    }
    Ok(())
}

/// What can't come about is said, and stays as it was asked for.
fn given_up(daemons: &Daemons) -> Result<()> {
    for (name, flags, why) in [
        (
            "strict",
            &["--constraint", "node.hostname==nobody", "--", "sleep", "1d"][..],
            "don't meet node.hostname==nobody",
        ),
        ("short", &["--restart-condition", "none", "--", "sh", "-c", "exit 3"], "is failed: exit code 3"),
        (
            "worn",
            &[
                &["--restart-condition", "on-failure", "--restart-delay", "100ms"][..],
                &["--restart-max-attempts", "1", "--", "sh", "-c", "exit 3"],
            ]
            .concat(),
            "is failed: exit code 3: not again after 2 tasks",
        ),
        ("absent", &["--mode", "global", "--", "no-such-program"], "there is no such program"),
    ] {
        let create = [&["service", "create", "--name", name][..], flags].concat();
        let outcome = daemons.hosts[0].ask(&create, "")?;
        let said = String::from_utf8_lossy(&outcome.stderr);
        ensure!(outcome.status.code() == Some(1) && outcome.stdout.len() == 26, "{outcome:?}");
        ensure!(
            said.contains(&format!("service {name} does not come about: ")) && said.contains(why),
            "{said}"
        );
        ensure!(said.contains(&format!("see `vswitchd service ps {name}`")), "{said}");
        asked(daemons, &["service", "rm", name])?;
    }
    // Without waiting it is not known.
    asked(daemons, &["service", "create", "-d", "--name", "absent", "--", "no-such-program"])?;
    // What others make is there at once.
    asked(daemons, &["service", "create", "--name", "machines"])?;
    asked(daemons, &["service", "rm", "absent", "machines"]).map(drop)
}

/// Ctrl-C ends the waiting, and nothing else.
fn interrupted(daemons: &Daemons) -> Result<()> {
    let mut command = Command::new(VSWITCHD);
    command.args(["service", "create", "--name", "late", "-p", "8080:80", "--", "sleep", "1d"]);
    command.env("VSWITCHD_SOCKET", &daemons.hosts[0].socket).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stderr.take().context("it is piped")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    ensure!(line == "late: 0 of 1 tasks are there\n", "{line}");
    kill_process(Pid::from_child(&child), Signal::INT)?;
    let outcome = child.wait_with_output()?;
    let mut rest = String::new();
    said.read_to_string(&mut rest)?;
    ensure!(outcome.status.code() == Some(130), "{outcome:?}");
    ensure!(rest.contains("interrupted: service late goes on without being waited for"), "{rest}");
    wait_until("it goes on", || {
        Ok(tasks(daemons, 0, "late")?.iter().any(|task| task["state"] == "starting"))
    })?;
    asked(daemons, &["service", "rm", "late"]).map(drop)
}

/// Whether there are so many tasks of `web`, all of its generation, and they run.
fn all(daemons: &Daemons, count: usize) -> Result<bool> {
    all_run_as_asked(daemons, 0, "web", count)
}

/// A command of the first host that does well.
fn asked(daemons: &Daemons, arguments: &[&str]) -> Result<Output> {
    let outcome = daemons.hosts[0].ask(arguments, "")?;
    ensure!(outcome.status.success(), "{arguments:?}: {outcome:?}");
    Ok(outcome)
}
