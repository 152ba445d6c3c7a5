//! Stand-alone programs, found by name: docs/tutorials/stand-alone-programs.md.

use anyhow::{Result, ensure};

use crate::site::{Site, bare, can_run, cell, names, soon};

#[test]
fn programs_of_two_hosts_find_each_other_by_name() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("alone", 2, 2, "")?;
    let id = site.ok(1, "vswitchd network create --attachable test-net")?;
    ensure!(id.trim().len() == 25, "{id}");
    let mut alpine1 = site.sit_down(1, "vswitchd run -it --name alpine1 --network test-net -- sh")?;
    alpine1.see("# ")?;
    soon(|| listed_and_not_in_use(&site, id.trim()))?;

    let task = site.ok(2, "vswitchd run -d --name alpine2 --network test-net -- sleep 1d")?;
    ensure!(task.trim().len() == 25, "{task}");
    ensure!(cell(&site.ok(2, "vswitchd network ls")?, "test-net", "NODES")? == "2");
    let (first, second) = (site.address(1, "test-net", "alpine1")?, site.address(2, "test-net", "alpine2")?);
    ensure!(first == "10.0.1.2/24" && second.ends_with("/24") && second != first, "{first} {second}");
    soon(|| {
        let known = site.inspect(1, "test-net")?;
        ensure!(known["Endpoints"][1]["Name"] == "alpine2", "{known}");
        Ok(())
    })?;
    let pinged = alpine1.ask("ping -c 2 alpine2", "2 packets transmitted, 2 received, 0% packet loss")?;
    ensure!(pinged.contains(&format!("64 bytes from alpine2.test-net ({})", bare(&second))), "{pinged}");
    let link = alpine1.ask("ip address show eth0", &format!("inet {first} "))?;
    ensure!(link.contains("mtu 1450") && link.contains("link/ether 02:42:0a:00:01:02 "), "{link}");
    alpine1.ask("hostname -i", &format!("{}\r\n", bare(&first)))?;

    let back = site.ok(2, "vswitchd exec alpine2 ping -c 2 alpine1")?;
    ensure!(back.contains(&format!("alpine1.test-net ({})", bare(&first))), "{back}");
    let third = "vswitchd run --rm --name alpine3 --network test-net -- ping -c 2";
    for name in ["alpine1", "alpine2"] {
        ensure!(site.ok(2, &format!("{third} {name}"))?.contains("2 received, 0% packet loss"));
    }
    ensure!(names(&site.ok(2, "vswitchd ps -a")?)? == ["alpine2"], "--rm removes");

    alpine1.type_in("\x10\x11")?;
    ensure!(alpine1.end()? == Some(0), "left by Ctrl-P Ctrl-Q");
    ensure!(cell(&site.ok(1, "vswitchd ps")?, "alpine1", "STATUS")?.starts_with("Up "));
    ends(&site)?;
    site.end()
}

/// Every node knows of it, with one id; it costs those nothing that don't use it.
fn listed_and_not_in_use(site: &Site, id: &str) -> Result<()> {
    let table = site.ok(2, "vswitchd network ls")?;
    ensure!(names(&table)? == ["ingress", "test-net"], "{table}");
    let heads = ["NETWORK ID", "DRIVER", "SCOPE", "SUBNETS", "OPTIONS", "NODES"];
    for (head, expected) in
        heads.into_iter().zip([&id[..12], "overlay", "swarm", "10.0.1.0/24", "attachable", "1"])
    {
        ensure!(cell(&table, "test-net", head)? == expected, "{head}: {table}");
    }
    let shown = site.inspect(2, "test-net")?;
    ensure!(shown["Id"] == id && shown["Containers"].is_null(), "{shown}");
    ensure!(shown["Peers"].as_array().is_some_and(|peers| peers.len() == 1 && peers[0]["Name"] == "node1"));
    Ok(())
}

/// Who uses a network is named until nobody does.
fn ends(site: &Site) -> Result<()> {
    let rm = "vswitchd network rm test-net";
    let users = ["network test-net is in use by alpine1 on node1, alpine2 on node2: ", "`vswitchd stop`"];
    ensure!(site.fails(1, rm, 1, &users)?.is_empty());
    ensure!(site.ok(2, "vswitchd stop alpine2")? == "alpine2\n");
    let shown = site.inspect(2, "test-net")?;
    ensure!(shown["Containers"].is_null(), "{shown}");
    let status = site.ok(2, "vswitchd status")?;
    // What was dropped may follow: a ping's answer to a program that has just gone, say.
    let none = status.lines().any(|line| line.starts_with("data: at ") && line.contains(", 0 endpoints"));
    ensure!(none, "this node holds nothing of it: {status}");
    ensure!(site.ok(2, "vswitchd rm alpine2")? == "alpine2\n");

    soon(|| site.fails(1, rm, 1, &["is in use by alpine1 on node1: "]))?;
    let mut alpine1 = site.sit_down(1, "vswitchd attach alpine1")?;
    alpine1.type_in("exit\n")?;
    ensure!(alpine1.end()? == Some(0));
    ensure!(site.ok(1, rm)? == "test-net\n");
    soon(|| {
        ensure!(names(&site.ok(2, "vswitchd network ls")?)? == ["ingress"]);
        Ok(())
    })?;
    let ended = site.ok(1, "vswitchd ps -a")?;
    ensure!(cell(&ended, "alpine1", "STATUS")?.starts_with("Exited (0) "), "{ended}");
    ensure!(site.ok(1, "vswitchd rm alpine1")? == "alpine1\n");
    Ok(())
}
