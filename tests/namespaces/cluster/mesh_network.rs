//! The routing mesh's network: who is in it without having asked, and how it is removed and made again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::shown::{at_its_host, host_of, refused, tasks};

/// Why nothing can be published.
const ABSENT: &str = "needs ingress network, but no ingress network is present";

/// Tasks that publish ports and have no way out are in the mesh's network; it stays as long as they are, and can be
/// another one afterwards.
pub(super) fn joined_and_replaced() -> Result<()> {
    with_daemons("mesh-network", 2, |daemons| {
        daemons.form_with_tasks(2, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "sorrel"])?;
        manager.say(&["network", "create", "--internal", "tansy"])?;
        let sleep = ["--", "sleep", "1d"];
        for (name, flags, places) in [
            ("hello", &["-p", "8080:80", "--replicas", "3"][..], "ingress"),
            ("quiet", &[], ""),
            ("front", &["--network", "sorrel", "-p", "8081:80"], "sorrel"),
            ("back", &["--network", "tansy", "-p", "53:53/udp"], "tansy ingress"),
            (
                "hosts",
                &["--mode", "global", "-p", "published=8082,target=80,protocol=udp,mode=host"],
                "ingress",
            ),
        ] {
            let create = ["service", "create", "-d", "--name", name];
            manager.say(&[&create[..], flags, &sleep].concat())?;
            wait_until("its tasks are where they belong", || all_in(daemons, name, places))?;
        }
        updated(daemons)?;
        removed(daemons)?;
        again(daemons)
    })
}

/// Whether each task of a service is in those networks, in this order.
fn all_in(daemons: &Daemons, service: &str, places: &str) -> Result<bool> {
    let wanted = tasks(daemons, 0, service)?;
    let place = |task: &Value| -> Option<bool> {
        // One that is pending, or has just ended, is nowhere.
        let (_, task) = at_its_host(daemons, task).ok()?;
        let names = task["endpoints"].as_array()?.iter().map(|place| place["network_name"].as_str());
        Some(names.flatten().collect::<Vec<_>>().join(" ") == places)
    };
    Ok(!wanted.is_empty() && wanted.iter().all(|task| place(task).unwrap_or_default()))
}

/// Whoever comes to publish ports comes to be in the mesh's network, and goes with them.
fn updated(daemons: &Daemons) -> Result<()> {
    for (flag, port, places) in [("--publish-add", "8090:80", "ingress"), ("--publish-rm", "80", "")] {
        daemons.hosts[0].say(&["service", "update", "-d", flag, port, "quiet"])?;
        wait_until("its tasks have moved", || all_in(daemons, "quiet", places))?;
    }
    Ok(())
}

/// It is asked for, and kept as long as somebody needs it.
fn removed(daemons: &Daemons) -> Result<()> {
    let manager = &daemons.hosts[0];
    let no = manager.ask(&["network", "rm", "ingress"], "n\n")?;
    let asked = String::from_utf8_lossy(&no.stderr);
    ensure!(no.status.success() && no.stdout.is_empty(), "{asked}");
    ensure!(asked.contains("ingress is the routing mesh's network") && asked.contains("[y/N]"), "{asked}");
    refused(
        daemons,
        0,
        &["network", "rm", "ingress"],
        "in use by services back, front, hello, hosts, which publish",
    )?;
    manager.say(&["service", "rm", "back", "front", "hello", "hosts"])?;
    let mut gone = None;
    wait_until("the last task has left it", || {
        let outcome = manager.ask(&["network", "rm", "ingress"], "y\n")?;
        gone = outcome.status.success().then_some(outcome.stdout);
        Ok(gone.is_some())
    })?;
    ensure!(gone.as_deref() == Some(b"ingress\n"), "{gone:?}");
    for publish in ["8080:80", "published=8080,target=80,mode=host"] {
        refused(
            daemons,
            0,
            &["service", "create", "-d", "--name", "hello", "-p", publish, "--", "sleep", "1d"],
            ABSENT,
        )?;
        refused(daemons, 0, &["service", "update", "-d", "--publish-add", publish, "quiet"], ABSENT)?;
    }
    wait_until("others go on", || {
        Ok(tasks(daemons, 0, "quiet")?.iter().all(|task| task["state"] == "running"))
    })
    .map(drop::<Duration>)
}

/// Another one takes its place, with addresses and a size of one's own; there is never a second.
fn again(daemons: &Daemons) -> Result<()> {
    let manager = &daemons.hosts[0];
    let options = ["--subnet", "10.11.0.0/16", "--gateway", "10.11.0.2", "--opt", "mtu=1200"];
    let create = [&["network", "create", "--ingress"], &options[..], &["my-ingress"]].concat();
    manager.say(&create)?;
    let shown: Value = serde_json::from_str(&manager.say(&["network", "inspect", "my-ingress"])?)?;
    let config = &shown[0]["IPAM"]["Config"][0];
    ensure!(shown[0]["Ingress"] == true, "{shown}");
    ensure!(config["Subnet"] == "10.11.0.0/16" && config["Gateway"] == "10.11.0.2", "{shown}");
    let second = ["network", "create", "--ingress", "another"];
    refused(daemons, 0, &second, "my-ingress")?;
    manager.say(&["service", "create", "-d", "--name", "hello", "-p", "8080:80", "--", "sleep", "1d"])?;
    wait_until("tasks are in it", || all_in(daemons, "hello", "my-ingress"))?;
    let task = tasks(daemons, 0, "hello")?.remove(0);
    let host = &daemons.hosts[host_of(daemons, &task)?];
    let mtu = ["exec", task["id"].as_str().context("an id")?, "cat", "/sys/class/net/eth0/mtu"];
    // It has its place before it runs.
    wait_until("its program has been started", || Ok(host.ask(&mtu, "")?.status.success()))?;
    let link = host.say(&mtu)?;
    ensure!(link.trim() == "1150", "what VXLAN leaves of 1200 bytes: {link}");
    Ok(())
}
