//! Tasks count once they take connections: programs here are `sleep`, and the tests listen in their places.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::publish::{inside, listen};
use super::shown::{at_its_host, generation, refused, tasks};

/// What is said of a task at whose port nobody listens.
const YET: &str = "port 80/tcp of it does not listen yet";

/// A task that publishes TCP ports runs when all of them are listened at, and only then the next one is replaced.
pub(super) fn late() -> Result<()> {
    with_daemons("readiness", 2, |daemons| {
        daemons.form_with_tasks(2, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "sorrel"])?;
        let ports = ["--network", "sorrel", "-p", "8080:80", "-p", "8053:53/udp"];
        let create = ["service", "create", "-d", "--name", "web", "--replicas", "2"];
        manager.say(&[&create[..], &ports, &["--", "sleep", "1d"]].concat())?;
        for slot in 0..2 {
            wait_for(daemons, slot, ("starting", YET))?;
        }
        ensure!(ready(daemons)? == "0/2\n", "none takes connections");
        let first = place(daemons, 0)?;
        let to_itself = first.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 80)))??;
        wait_for(daemons, 0, ("starting", "port 80/tcp of it listens at 127.0.0.1 only"))?;
        drop(to_itself);
        let _first = listen(&first)?;
        wait_for(daemons, 0, ("running", ""))?;
        ensure!(ready(daemons)? == "1/2\n" && state(daemons, 1)? == (true, "starting".into(), YET.into()));
        let _second = listen(&place(daemons, 1)?)?;
        wait_for(daemons, 1, ("running", ""))?;
        updated(daemons)?;
        ended(daemons)
    })
}

/// The second slot waits until the first one takes connections again.
fn updated(daemons: &Daemons) -> Result<()> {
    daemons.hosts[0].say(&["service", "update", "-d", "--args", "2d", "web"])?;
    wait_for(daemons, 0, ("starting", YET))?;
    ensure!(state(daemons, 1)? == (false, "running".into(), String::new()), "it is not its turn");
    let _first = listen(&place(daemons, 0)?)?;
    wait_for(daemons, 1, ("starting", YET))?;
    ensure!(state(daemons, 0)?.1 == "running");
    // Those that nobody waits for are replaced at once, and can be scaled away.
    daemons.hosts[0].say(&["service", "update", "-d", "--args", "3d", "web"])?;
    wait_for(daemons, 1, ("starting", YET))?;
    daemons.hosts[0].say(&["service", "scale", "-d", "web=1"])?;
    wait_until("it is gone", || Ok(tasks(daemons, 0, "web")?.iter().all(|task| task["slot"] != 1)))?;
    daemons.hosts[0].say(&["service", "rm", "web"]).map(drop)
}

/// A program that ends before it has listened has failed.
fn ended(daemons: &Daemons) -> Result<()> {
    let program = ["--restart-condition", "none", "--network", "sorrel", "--", "sh", "-c", "exit 3"];
    let create = ["service", "create", "-d", "--name", "web", "-p", "8080:80"];
    daemons.hosts[0].say(&[&create[..], &program].concat())?;
    wait_for(daemons, 0, ("failed", "exit code 3"))
}

/// With start-first a slot has a task at any time; whoever does not heed SIGTERM is killed after the time that the service
/// has for it, and so is one of a service that is gone.
pub(super) fn replaced() -> Result<()> {
    with_daemons("start-first", 1, |daemons| {
        daemons.form_with_tasks(1, 1)?;
        let manager = &daemons.hosts[0];
        let flags = ["--update-order", "start-first", "--stop-grace-period", "300ms", "-p", "8080:80"];
        let stubborn = |time: &str| format!("trap '' TERM; while :; do sleep {time}; done");
        let create = ["service", "create", "-d", "--name", "web"];
        manager.say(&[&create[..], &flags, &["--", "sh", "-c", &stubborn("1")]].concat())?;
        wait_for(daemons, 0, ("starting", YET))?;
        let first = listen(&place(daemons, 0)?)?;
        wait_for(daemons, 0, ("running", ""))?;
        manager.say(&["service", "update", "-d", "web", "--", "sh", "-c", &stubborn("2")])?;
        wait_for(daemons, 0, ("starting", YET))?;
        ensure!(
            states(daemons)? == [(false, "running".into()), (true, "starting".into())],
            "the first goes on"
        );
        // A daemon that comes back finds both.
        daemons.kill(0)?;
        daemons.start(0)?;
        wait_until("both are gone on with", || {
            Ok(states(daemons)? == [(false, "running".into()), (true, "starting".into())])
        })?;
        let _second = listen(&place(daemons, 0)?)?;
        wait_until("the first one is gone", || Ok(states(daemons)? == [(true, "running".into())]))?;
        drop(first);
        let host = ["--publish-add", "published=8081,target=81,mode=host", "web"];
        refused(daemons, 0, &[&["service", "update"], &host[..]].concat(), "use stop-first")?;
        daemons.hosts[0].say(&["service", "rm", "web"])?;
        wait_until("nothing is left", || Ok(daemons.hosts[0].say(&["ps", "-aq"])?.is_empty())).map(drop)
    })
}

/// The tasks of `web`, by whether they are of its generation.
fn states(daemons: &Daemons) -> Result<Vec<(bool, String)>> {
    let generation = generation(daemons, "web")?;
    let state = |task: &Value| Some((task["generation"] == generation, task["state"].as_str()?.to_owned()));
    let mut states: Vec<_> = tasks(daemons, 0, "web")?.iter().filter_map(state).collect();
    states.sort();
    Ok(states)
}

fn ready(daemons: &Daemons) -> Result<String> {
    daemons.hosts[1].say(&["service", "ls", "--format", "{{.Replicas}}"])
}

/// The newest task of a slot of `web`.
fn task(daemons: &Daemons, slot: u64) -> Result<Option<Value>> {
    let tasks = tasks(daemons, 0, "web")?.into_iter().filter(|task| task["slot"] == slot);
    Ok(tasks.max_by_key(|task| task["generation"].as_u64()))
}

/// Whether the newest task of a slot is of the service's generation, its state and why.
fn state(daemons: &Daemons, slot: u64) -> Result<(bool, String, String)> {
    let generation = generation(daemons, "web")?;
    let task = task(daemons, slot)?.context("there is one")?;
    let text = |key: &str| task[key].as_str().unwrap_or_default().to_owned();
    Ok((task["generation"] == generation, text("state"), text("reason")))
}

/// Waits until a slot has a task of the service's generation in that state.
fn wait_for(daemons: &Daemons, slot: u64, (state, reason): (&str, &str)) -> Result<()> {
    let generation = generation(daemons, "web")?;
    wait_until(&format!("slot {slot} is {state}, generation {generation}: {reason}"), || {
        let task = task(daemons, slot)?.unwrap_or_default();
        Ok(task["generation"] == generation && task["state"] == state && task["reason"] == reason)
    })
    .map(drop)
}

/// The namespace of a slot's task.
fn place(daemons: &Daemons, slot: u64) -> Result<NetNs> {
    let task = task(daemons, slot)?.context("there is one")?;
    inside(&at_its_host(daemons, &task)?.1)
}
