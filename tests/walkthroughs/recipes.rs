//! The recipe book, as far as it is about networks: docs/tutorials/recipes.md.

use anyhow::{Result, ensure};

use crate::site::{Site, can_run, cell, names, soon};

#[test]
fn networks_go_where_they_are_used_and_are_removed_when_they_are_not() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("recipes", 3, 3, "")?;
    for name in ["hello-net", "mysql-net", "a-net", "b-net"] {
        site.ok(1, &format!("vswitchd network create --attachable {name}"))?;
    }
    site.ok(1, "vswitchd run -d --name hello --network hello-net -- sleep 1d")?;
    for (host, name) in [(2, "mysql.1"), (3, "mysql.2")] {
        site.ok(host, &format!("vswitchd run -d --name {name} --network mysql-net -- sleep 1d"))?;
    }
    soon(|| only_where_used(&site))?;
    prune_and_rm(&site)?;
    site.end()
}

fn only_where_used(site: &Site) -> Result<()> {
    for (host, here) in [(1, "hello-net"), (2, "mysql-net"), (3, "mysql-net")] {
        for network in ["hello-net", "mysql-net", "a-net", "b-net"] {
            let shown = site.inspect(host, network)?;
            ensure!(shown["Containers"].is_null() == (network != here), "node{host}: {shown}");
        }
    }
    let table = site.ok(1, "vswitchd network ls")?;
    for (network, nodes) in [("hello-net", "1"), ("mysql-net", "2"), ("a-net", "0"), ("ingress", "0")] {
        ensure!(cell(&table, network, "NODES")? == nodes, "{network}: {table}");
    }
    let used = site.ok(3, "vswitchd network ls --filter in-use=true")?;
    ensure!(names(&used)? == ["hello-net", "mysql-net"], "{used}");
    Ok(())
}

fn prune_and_rm(site: &Site) -> Result<()> {
    let users = [
        "network hello-net is in use by hello on node1: ",
        "network mysql-net is in use by mysql.1 on node2, mysql.2 on node3: ",
    ];
    let removed = site.fails(1, "vswitchd network rm hello-net mysql-net a-net b-net", 1, &users)?;
    ensure!(removed == "a-net\nb-net\n", "{removed}");
    soon(|| {
        ensure!(names(&site.ok(2, "vswitchd network ls")?)? == ["hello-net", "ingress", "mysql-net"]);
        Ok(())
    })?;
    let gone = site.fails(1, "vswitchd network rm a-net", 1, &["there is no network a-net"])?;
    ensure!(gone.is_empty());
    ensure!(site.ok(1, "vswitchd network rm --force a-net")?.is_empty());
    site.fails(
        2,
        "vswitchd network rm hello-net",
        1,
        &["this node is a worker: ask on a manager (198.18.0.1:2377)"],
    )?;

    site.ok(1, "vswitchd stop hello")?;
    let pruned = site.ok(1, "echo y | vswitchd network prune")?;
    ensure!(pruned == "Deleted Networks:\nhello-net\n", "{pruned}");
    ensure!(names(&site.ok(1, "vswitchd network ls")?)? == ["ingress", "mysql-net"], "ingress stays");
    Ok(())
}
