//! What services can't both have, or one can't have twice, as Docker's users know it; and what changes of places do.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::shown::{generation, inspect, prefixed_vips, refused, tasks};

/// Ports have one holder, who is named; what is there already is no contradiction.
pub(super) fn ports() -> Result<()> {
    with_daemons("contradictions", 2, |daemons| {
        daemons.form(2, 1)?;
        let create = |flags: &str| -> Result<String> {
            let line = format!("service create -d --name {flags} -- sleep 1d");
            Ok(daemons.hosts[0].say(&line.split(' ').collect::<Vec<_>>())?.trim().to_owned())
        };
        daemons.hosts[0].say(&["network", "create", "sorrel"])?;
        let mesh = create("mesh --network sorrel -p 8080:80 -p 53/udp")?;
        let host = create("host --network sorrel -p published=9090,target=90,mode=host")?;
        let taken = format!("port '8080' is already in use by service 'mesh' ({mesh}) as an ingress port");
        let held =
            format!("port '9090' is already in use by service 'host' ({host}) as a host-published port");
        for (line, reason) in [
            ("create --name other -p 8080:81", &taken),
            ("create --name other -p published=8080,target=81,mode=host", &taken),
            ("create --name other -p 9090:90", &held),
            ("update --publish-add 8080:90 host", &taken),
            ("update --publish-add 9090:80 mesh", &held),
        ] {
            refused(daemons, 0, &words(line), reason)?;
        }
        // Each host has it once, UDP is apart, and so are automatic ones.
        create("other --network sorrel -p published=9090,target=80,mode=host -p 8080:53/udp -p 53/udp")?;
        ensure!(published(daemons, "other")? == ["9090", "8080", "30001"], "the first free one");
        wrong(daemons)?;
        updated(daemons)
    })
}

/// What makes no sense in itself is not even asked for.
fn wrong(daemons: &Daemons) -> Result<()> {
    let twice = "duplicate published ports provided";
    let dnsrr = "port published with ingress mode can't be used with dnsrr mode";
    for (line, reason) in [
        ("create --name none -p 80:80 -p 80:81", twice),
        ("create --name none -p 80:80 -p published=80,target=80,mode=host", twice),
        ("create --name none -p 80 -p 80", twice),
        ("create --name none --endpoint-mode dnsrr -p 80:80", dnsrr),
    ] {
        let outcome = daemons.hosts[0].ask(&words(line), "")?;
        let said = String::from_utf8_lossy(&outcome.stderr);
        ensure!(outcome.status.code() == Some(2) && said.contains(reason), "{line}: {outcome:?}");
    }
    for (line, reason) in [
        ("update --publish-add 8080:81 mesh", twice),
        ("update --publish-add published=8080,target=80,mode=host mesh", twice),
        ("update --endpoint-mode dnsrr mesh", dnsrr),
        ("update --publish-rm 81 mesh", "the service has no published port 81/tcp"),
        ("update --publish-rm 53 mesh", "the service has no published port 53/tcp"),
    ] {
        refused(daemons, 0, &words(line), reason)?;
    }
    Ok(())
}

/// One that is there is not added again; they go by the tasks' port.
fn updated(daemons: &Daemons) -> Result<()> {
    let made = generation(daemons, "mesh")?;
    let update = |flags: &str| {
        let line = format!("update -d {flags} mesh");
        daemons.hosts[0].say(&words(&line))?;
        let shown = inspect(daemons, 0, "mesh")?;
        ensure!(shown["Generation"] == made, "the mesh leads to the same tasks: {flags}");
        Ok((published(daemons, "mesh")?.join(" "), prefixed_vips(&shown)?))
    };
    let (ports, before) = update("--publish-add 8080:80")?;
    ensure!(ports == "8080 30000" && before.len() == 1, "{ports} {before:?}");
    for (flags, expected) in [
        ("--publish-add 53/udp", "8080 30000"),
        ("--publish-rm 80 --publish-add 8081:80 --publish-add 8082:80", "30000 8081 8082"),
        ("--publish-rm 8081:80", "30000 8082"),
        ("--publish-rm 80 --publish-rm 53/udp", ""),
        ("--endpoint-mode vip --publish-add 8083:80", "8083"),
    ] {
        ensure!(update(flags)? == (expected.to_owned(), before.clone()), "{flags}: its address stays, too");
    }
    // Free again.
    let other = "create -d --name next --network sorrel -p 8080:80 -- sleep 1d";
    daemons.hosts[0].say(&words(other)).map(drop)
}

/// Another network replaces all tasks, and the one before is empty then.
pub(super) fn networks() -> Result<()> {
    with_daemons("other-networks", 2, |daemons| {
        daemons.form_with_tasks(2, 1)?;
        let manager = &daemons.hosts[0];
        for network in ["sorrel", "tansy"] {
            manager.say(&["network", "create", network])?;
        }
        manager.say(&words("create -q --name web --replicas 3 --network sorrel -- sleep 1d"))?;
        let before = ids(daemons)?;
        manager
            .say(&words("update -q --network-add tansy --network-rm sorrel --update-parallelism 0 web"))?;
        let after = ids(daemons)?;
        ensure!(after.len() == 3 && before.is_disjoint(&after), "all are replaced: {before:?} {after:?}");
        wait_until("nobody is in the one, and all are in the other", || {
            Ok(members(daemons, "sorrel")? == 0 && members(daemons, "tansy")? == 3)
        })?;
        manager.say(&["network", "rm", "sorrel"])?;
        refused(daemons, 0, &["network", "rm", "tansy"], "network tansy is in use by service web")?;
        manager.say(&words("rm web")).map(drop)
    })
}

/// A command about services.
fn words(line: &str) -> Vec<&str> {
    ["service"].into_iter().chain(line.split(' ')).collect()
}

fn published(daemons: &Daemons, service: &str) -> Result<Vec<String>> {
    let shown = inspect(daemons, 0, service)?;
    let ports = shown["Endpoint"]["Ports"].as_array().context("a list")?.iter();
    Ok(ports.map(|port| port["PublishedPort"].to_string()).collect())
}

fn ids(daemons: &Daemons) -> Result<BTreeSet<String>> {
    let tasks = tasks(daemons, 0, "web")?;
    Ok(tasks.iter().filter_map(|task| task["id"].as_str().map(Into::into)).collect())
}

fn members(daemons: &Daemons, network: &str) -> Result<usize> {
    let shown: Value = serde_json::from_str(&daemons.hosts[0].say(&["network", "inspect", network])?)?;
    Ok(shown[0]["Endpoints"].as_array().context("a list")?.len())
}
