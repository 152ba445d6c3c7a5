//! A service whose cluster is cut in two: each half runs all of it, and is reached in itself; united they run it once.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, HALVES, wait_until, with_daemons};
use super::shown::{generation, running_now};
use crate::fixture::tool;

const NETWORK: &str = "cranberry";
const REPLICAS: usize = 4;

pub(super) fn served() -> Result<()> {
    with_daemons("islands", 4, |daemons| {
        daemons.form_with_tasks(4, 2)?;
        let [one, other] = HALVES;
        daemons.hosts[0].say(&["network", "create", "--attachable", NETWORK])?;
        let replicas = REPLICAS.to_string();
        let create = ["service", "create", "--quiet", "--name", "web", "--replicas", &replicas];
        let root = daemons.hosts[0].state.with_extension("www");
        fs::create_dir(&root)?;
        fs::write(root.join("index.html"), "cranberries\n")?;
        let root = root.to_str().context("UTF-8")?;
        let serve = ["--network", NETWORK, "-p", "8080:80", "--", "busybox", "httpd", "-f", "-h", root];
        daemons.hosts[0].say(&[&create[..], &serve].concat())?;
        wait_until("the other half knows it", || Ok(placed(daemons, 3).is_ok()))?;
        let before = placed(daemons, 3)?;
        for &host in one.iter().chain(&other) {
            wait_until("the port leads there", || reached(daemons, host))?;
        }

        let cut = Instant::now();
        daemons.part(&one, &other)?;
        for half in HALVES {
            let names = half.map(|host| daemons.hosts[host].name);
            wait_until("each half runs all of it", || {
                let running = running_now(daemons, half[0], "web")?;
                let ours = running.iter().all(|task| names.iter().any(|name| task["node"] == *name));
                Ok(running.len() == REPLICAS && ours)
            })?;
            for host in half {
                wait_until("its port leads to one of them", || reached(daemons, host))?;
            }
        }
        println!("islands: each half runs all of it {:.1?} after the cut", cut.elapsed());
        // Each has a change of its own, one of which is overruled.
        for [manager, _] in HALVES {
            daemons.hosts[manager].say(&["service", "update", "--quiet", "--force", "web"])?;
        }

        daemons.unite(&other)?;
        let united = Instant::now();
        // It is reached all the time, whoever is ended.
        let mut asked = 0;
        let deadline = Duration::from_secs(60);
        loop {
            for host in 0..4 {
                ensure!(
                    reached(daemons, host)?,
                    "node {host}, {:?} after the halves have met",
                    united.elapsed()
                );
                asked += 1;
            }
            let is_as_before = |host| placed(daemons, host).is_ok_and(|now| now == before);
            if is_as_before(0) && is_as_before(3) && is_of_one(daemons)? {
                break;
            }
            ensure!(united.elapsed() < deadline, "{:?} {before:?}", running_now(daemons, 0, "web")?);
        }
        println!("islands: all is as it was {:.1?} after, {asked} requests answered", united.elapsed());
        daemons.hosts[0].say(&["service", "rm", "--quiet", "web"]).map(drop)
    })
}

/// Whether a node's port leads to a task.
fn reached(daemons: &Daemons, host: usize) -> Result<bool> {
    let address = daemons.hosts[host].address;
    let url = format!("http://{address}:8080/");
    let line = format!("curl -sS --max-time 10 {url}");
    let Some(output) = tool(&daemons.hosts[host].netns, &line)? else { return Ok(true) };
    Ok(output.status.success())
}

/// Whether all tasks are of the service's generation.
fn is_of_one(daemons: &Daemons) -> Result<bool> {
    let generation = generation(daemons, "web")?;
    Ok(running_now(daemons, 0, "web")?.iter().all(|task| task["generation"] == generation))
}

/// Where each slot runs, as a node knows; each once.
fn placed(daemons: &Daemons, host: usize) -> Result<BTreeMap<u64, String>> {
    let running = running_now(daemons, host, "web")?;
    let place = |task: &Value| Some((task["slot"].as_u64()?, task["node"].as_str()?.to_owned()));
    let slots: BTreeMap<u64, String> = running.iter().filter_map(place).collect();
    ensure!(slots.len() == REPLICAS && running.len() == REPLICAS, "{running:?}");
    Ok(slots)
}
