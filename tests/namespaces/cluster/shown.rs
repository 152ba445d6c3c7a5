//! What commands show of services and their tasks: how many run, where, and at which addresses.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use vswitchd::api::HostAddress;

use super::daemons::{Daemons, wait_until};
use super::host::failed;

/// A service, as a node knows it.
pub(super) fn inspect(daemons: &Daemons, host: usize, service: &str) -> Result<Value> {
    let shown: Value = serde_json::from_str(&daemons.hosts[host].say(&["service", "inspect", service])?)?;
    Ok(shown[0].clone())
}

/// The generation of a service.
pub(super) fn generation(daemons: &Daemons, service: &str) -> Result<u64> {
    inspect(daemons, 0, service)?["Generation"].as_u64().context("a number")
}

/// The virtual addresses of a service, in the order of networks, first IPv4.
pub(super) fn vips(daemons: &Daemons, service: &str) -> Result<Vec<IpAddr>> {
    prefixed_vips(&inspect(daemons, 0, service)?)?.iter().map(|vip| host_part(vip)).collect()
}

/// The same of a service that has been inspected, with the lengths of their prefixes.
pub(super) fn prefixed_vips(shown: &Value) -> Result<Vec<String>> {
    let vips = shown["Endpoint"]["VirtualIPs"].as_array().context("a list")?;
    vips.iter().map(|vip| Ok(vip["Addr"].as_str().context("an address")?.to_owned())).collect()
}

/// An address without the length of its prefix, which it must have.
fn host_part(address: &str) -> Result<IpAddr> {
    Ok(address.parse::<HostAddress>()?.address())
}

/// The addresses of a task in one of its networks, or of what was attached, first IPv4.
pub(super) fn addresses(endpoint: &Value) -> Result<Vec<IpAddr>> {
    let own = endpoint["addresses"].as_array().with_context(|| format!("a list: {endpoint}"))?;
    own.iter().map(|own| host_part(own.as_str().context("text")?)).collect()
}

/// The first one of them.
pub(super) fn address(endpoint: &Value) -> Result<IpAddr> {
    addresses(endpoint)?.first().copied().context("it has an address")
}

/// The tasks of a service, as a node shows them.
pub(super) fn tasks(daemons: &Daemons, host: usize, service: &str) -> Result<Vec<Value>> {
    daemons.hosts[host].json(&["service", "ps", service])
}

/// Those of them that run.
pub(super) fn running_now(daemons: &Daemons, host: usize, service: &str) -> Result<Vec<Value>> {
    let mut tasks = tasks(daemons, host, service)?;
    tasks.retain(|task| task["state"] == "running");
    Ok(tasks)
}

/// Whether these are so many tasks, and all run.
pub(super) fn all_run(tasks: &[Value], count: usize) -> bool {
    tasks.len() == count && tasks.iter().all(|task| task["state"] == "running")
}

/// Whether a service has so many tasks and nothing else, which all run and are of its generation.
pub(super) fn all_run_as_asked(daemons: &Daemons, host: usize, service: &str, count: usize) -> Result<bool> {
    let (generation, tasks) = (generation(daemons, service)?, tasks(daemons, host, service)?);
    Ok(all_run(&tasks, count) && tasks.iter().all(|task| task["generation"] == generation))
}

/// The tasks once so many run and there is nothing else.
pub(super) fn running(daemons: &Daemons, host: usize, service: &str, count: usize) -> Result<Vec<Value>> {
    let mut found = Vec::new();
    wait_until("they run", || {
        found = tasks(daemons, host, service)?;
        Ok(all_run(&found, count))
    })
    .with_context(|| format!("want {count}"))?;
    Ok(found)
}

/// The host of a task that `service ps` shows.
pub(super) fn host_of(daemons: &Daemons, task: &Value) -> Result<usize> {
    let found = daemons.hosts.iter().position(|host| task["node"] == host.name);
    found.with_context(|| format!("it is nowhere: {task}"))
}

/// The same, and what `ps` shows of it there, where its program runs.
pub(super) fn at_its_host(daemons: &Daemons, task: &Value) -> Result<(usize, Value)> {
    let host = host_of(daemons, task)?;
    let here = daemons.hosts[host].json(&["ps"])?.into_iter().find(|here| here["id"] == task["id"]);
    Ok((host, here.with_context(|| format!("it is not there: {task}"))?))
}

/// That a command of a host fails for this reason, even if its question is said yes to.
pub(super) fn refused(daemons: &Daemons, host: usize, arguments: &[&str], reason: &str) -> Result<()> {
    let outcome = daemons.hosts[host].ask(arguments, "y\n")?;
    failed(&outcome, &[reason]).with_context(|| format!("{arguments:?}"))
}
