//! Servers that people use, as services: nginx and Redis, asked by curl, wrk, redis-cli and dig, by name and from outside.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::Host;
use super::nginx;
use super::shown::{address, running};
use crate::fixture::tool;

/// The network.
const NETWORK: &str = "elder";
/// Host without a daemon: whoever is outside.
const WORLD: usize = 3;
/// Tasks of the web server.
const REPLICAS: usize = 3;
/// Pages that are fetched one by one: none from one of three tasks in one of 10^8 runs.
const FETCHES: usize = 48;

pub(super) fn real() -> Result<()> {
    with_daemons("servers", 4, |daemons| {
        let tools = ["nginx -v", "curl --version", "wrk -v", "redis-server -v", "redis-cli -v", "dig -v"];
        for line in tools {
            if tool(&daemons.hosts[WORLD].netns, line)?.is_none() {
                return Ok(());
            }
        }
        daemons.form_with_tasks(3, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "--attachable", NETWORK])?;
        let client = &daemons.hosts[2];
        wait_until("the network is known", || Ok(client.networks()? == [NETWORK]))?;
        let attached =
            client.say(&["run", "-d", "--name", "client", "--network", NETWORK, "--", "sleep", "1d"]);
        attached.context("a client")?;
        web(daemons)?;
        redis(daemons)?;
        manager.say(&["service", "rm", "web", "cache"])?;
        client.say(&["rm", "-f", "client"])?;
        Ok(())
    })
}

fn web(daemons: &Daemons) -> Result<()> {
    let [manager, _, client, world] = &daemons.hosts[..] else { anyhow::bail!("four hosts") };
    let directory = manager.state.with_extension("nginx");
    fs::create_dir(&directory)?;
    // It says who answers and who asks.
    let server = "listen 80; location / { return 200 \"$hostname $remote_addr\\n\"; }";
    let file = nginx::configure(&directory, server)?;
    let replicas = REPLICAS.to_string();
    let create = ["service", "create", "-d", "--name", "web", "--replicas", &replicas, "--network", NETWORK];
    let serve = ["-p", "8080:80", "--", "nginx", "-e", "stderr", "-c", file.to_str().context("UTF-8")?];
    manager.say(&[&create[..], &serve].concat())?;
    running(daemons, 0, "web", REPLICAS)?;
    let own = address_of(client)?;
    wait_until("the name leads there", || {
        Ok(inside(client, "curl -sS --max-time 5 http://web/")?.status.success())
    })?;
    let by_name = fetched(|| inside(client, "curl -sS --max-time 5 http://web/"), own)?;
    ensure!(by_name.len() == REPLICAS, "all of them answer: {by_name:?}");
    for node in &daemons.hosts[..WORLD] {
        let line = format!("curl -sS --max-time 5 http://{}:8080/", node.address);
        wait_until("the port leads there", || Ok(outside(&world.netns, &line)?.status.success()))?;
        let by_port = fetched(|| outside(&world.netns, &line), world.address)?;
        ensure!(by_port == by_name, "all of them answer: {by_port:?}");
    }
    let dig = |name: &str| -> Result<usize> {
        let output = inside(client, &format!("dig +short +tries=1 +time=5 {name}"))?;
        Ok(String::from_utf8(output.stdout)?.lines().count())
    };
    ensure!((dig("web")?, dig("tasks.web")?) == (1, REPLICAS));
    under_load(&inside(client, "wrk -t 1 -c 32 -d 1s http://web/")?)?;
    under_load(&outside(
        &world.netns,
        &format!("wrk -t 1 -c 32 -d 1s http://{}:8080/", daemons.hosts[1].address),
    )?)
}

/// The address of the client in the network.
fn address_of(client: &Host) -> Result<IpAddr> {
    let shown = client.json(&["ps", "--filter", "name=client"])?;
    address(&shown[0]["endpoints"][0])
}

/// Fetches the page again and again; who asks must be seen as `visitor`. Gives who answered.
fn fetched(fetch: impl Fn() -> Result<Output>, visitor: IpAddr) -> Result<BTreeSet<String>> {
    let mut tasks = BTreeSet::new();
    for _ in 0..FETCHES {
        let output = fetch()?;
        let said = String::from_utf8(output.stdout.clone())?;
        let (task, seen) = said.trim_end().split_once(' ').with_context(|| format!("{output:?}"))?;
        ensure!(seen == visitor.to_string(), "{task} sees {seen}, not {visitor}");
        tasks.insert(task.to_owned());
    }
    Ok(tasks)
}

/// No request of wrk's has failed.
fn under_load(output: &Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stdout);
    let requests =
        said.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<u64>().ok());
    ensure!(requests.is_some_and(|requests| requests > 0), "{output:?}");
    ensure!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    Ok(())
}

fn redis(daemons: &Daemons) -> Result<()> {
    let [manager, _, client, ..] = &daemons.hosts[..] else { anyhow::bail!("four hosts") };
    let create =
        ["service", "create", "-d", "--name", "cache", "--network", &format!("{NETWORK},alias=redis")];
    let serve = ["--", "redis-server", "--save", "", "--protected-mode", "no", "--bind", "*"];
    manager.say(&[&create[..], &serve].concat())?;
    let ask = |words: &str| {
        let output = inside(client, &format!("redis-cli -h redis {words}"))?;
        Ok::<_, anyhow::Error>(String::from_utf8(output.stdout)?)
    };
    wait_until("it answers", || Ok(ask("PING")? == "PONG\n"))?;
    ensure!(ask("SET fruit elderberry")? == "OK\n" && ask("GET fruit")? == "elderberry\n");
    Ok(())
}

fn inside(client: &Host, line: &str) -> Result<Output> {
    let words: Vec<&str> = line.split(' ').collect();
    client.ask(&[&["exec", "client"], &words[..]].concat(), "")
}

fn outside(netns: &NetNs, line: &str) -> Result<Output> {
    tool(netns, line)?.context("it was there")
}
