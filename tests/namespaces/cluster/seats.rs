//! What services ask of hosts: ports that one of them has at a time, addresses, names; and endpoints that others make their tasks of.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::services::{refused, running, tasks};

const NODES: u16 = 3;

fn create(daemons: &Daemons, name: &str, flags: &[&str], command: &[&str]) -> Result<()> {
    let create = ["service", "create", "-d", "--name", name];
    daemons.hosts[0].say(&[&create[..], flags, command].concat()).map(drop)
}

/// Those of a state.
fn those(tasks: &[Value], state: &str) -> Vec<Value> {
    tasks.iter().filter(|task| task["state"] == state).cloned().collect()
}

/// A port of a host is one service's at a time: others are elsewhere, or wait and say why, until it is free.
pub(super) fn host_ports() -> Result<()> {
    with_daemons("seats", NODES, |daemons| {
        daemons.arguments = vec!["--allow-tasks".into()];
        daemons.form(NODES.into(), 1)?;
        daemons.hosts[0].say(&["network", "create", "medlar"])?;
        let server = ["--", "busybox", "httpd", "-f", "-p", "80"];
        let flags = |port| ["--network", "medlar", "-p", port];
        let port = flags("published=82,target=80,mode=host");
        let node = daemons.hosts[0].name;
        let here = format!("node.hostname=={node}");
        create(daemons, "hp", &[&port[..], &["--constraint", &here]].concat(), &server)?;
        running(daemons, 0, "hp", 1)?;
        let others = ["oa", "ob", "oc", "od"];
        others.iter().try_for_each(|name| create(daemons, name, &port, &server))?;
        let mut all = Vec::new();
        wait_until("two run on the other nodes, and two say why they don't", || {
            all.clear();
            for name in others {
                all.extend(tasks(daemons, 1, name)?);
            }
            let said = |task: &Value| {
                let reason = task["reason"].as_str().unwrap_or_default();
                reason.contains("have port 82/tcp published by service hp")
            };
            let pending = those(&all, "pending");
            Ok(all.len() == 4
                && those(&all, "running").len() == 2
                && pending.iter().filter(|task| said(task)).count() == 2)
        })
        .with_context(|| format!("{all:?}"))?;
        let ran = those(&all, "running");
        ensure!(ran[0]["node"] != ran[1]["node"] && ran.iter().all(|task| task["node"] != node), "{ran:?}");
        // It goes: one of the others comes in its place, and not by being tried until the port is free.
        daemons.hosts[0].say(&["service", "rm", "hp"])?;
        wait_until("another has its node", || {
            let mut now = Vec::new();
            for name in others {
                now.extend(tasks(daemons, 1, name)?);
            }
            let on = those(&now, "running");
            let stay = |task: &&Value| on.iter().any(|other| other["id"] == task["id"]);
            ensure!(ran.iter().filter(stay).count() == 2, "those that run stay: {ran:?}, {now:?}");
            let in_vain = |task: &Value| {
                let reason = task["reason"].as_str();
                reason.is_some_and(|reason| reason.contains("in use by another program"))
            };
            ensure!(!now.iter().any(in_vain), "tried in vain: {now:?}");
            Ok(on.len() == 3 && on.iter().any(|task| task["node"] == node))
        })?;
        spread(daemons)
    })
}

/// More replicas than nodes wait, and move nobody.
fn spread(daemons: &Daemons) -> Result<()> {
    let flags = ["--network", "medlar", "--replicas", "2", "-p", "published=83,target=80,mode=host"];
    create(daemons, "h2", &flags, &["--", "busybox", "httpd", "-f", "-p", "80"])?;
    let two = running(daemons, 0, "h2", 2)?;
    ensure!(two[0]["node"] != two[1]["node"], "{two:?}");
    daemons.hosts[0].say(&["service", "scale", "-d", "h2=5"])?;
    let mut now = Vec::new();
    wait_until("three run and two wait", || {
        now = tasks(daemons, 2, "h2")?;
        Ok(now.len() == 5
            && those(&now, "running").len() == usize::from(NODES)
            && those(&now, "pending").len() == 2)
    })
    .with_context(|| format!("{now:?}"))?;
    ensure!(two.iter().all(|task| now.iter().any(|other| other["id"] == task["id"])), "{two:?} {now:?}");
    let reason = now[4]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("of 3 that are there 3 run another task of it"), "{reason}");
    Ok(())
}

/// Two addresses have a port each, one that nobody has is told; names are one service's; and what never fits is refused.
pub(super) fn addresses() -> Result<()> {
    with_daemons("seatsaddresses", 2, |daemons| {
        daemons.form(2, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "--attachable", "medlar"])?;
        manager.say(&["network", "create", "--subnet", "10.99.0.0/29", "tiny"])?;
        joined(daemons)?;
        create(daemons, "two", &["-p", "127.0.0.1:87:80", "-p", "[::1]:87:80"], &[])?;
        create(daemons, "three", &["-p", "127.0.0.2:87:80"], &[])?;
        for address in ["127.0.0.1:87", "[::1]:87", "127.0.0.2:87"] {
            let to: SocketAddr = address.parse()?;
            wait_until("every node listens", || {
                let connected =
                    |host: &super::host::Host| Ok(host.netns.run(|| TcpStream::connect(to))?.is_ok());
                Ok(daemons.hosts.iter().map(connected).collect::<Result<Vec<_>>>()?.iter().all(|&is| is))
            })
            .with_context(|| address)?;
        }
        for (port, holder) in [("127.0.0.2:87:81", "three"), ("0.0.0.0:87:81", "t"), ("87:81", "t")] {
            let reason = format!("port '87' is already in use by service '{holder}");
            refused(daemons, 0, &["service", "create", "--name", "four", "-p", port], &reason)?;
        }
        create(daemons, "nowhere", &["-p", "10.11.12.13:86:80"], &[])?;
        wait_until("it is told that nobody listens", || {
            let rows = tasks(daemons, 1, "nowhere")?;
            let said = |row: &Value| {
                row["state"] == "not listening" && row["reason"] == "no node has the address 10.11.12.13"
            };
            Ok(rows.len() == 1 && rows.iter().all(said))
        })?;
        create(daemons, "roll", &["--network", "medlar,alias=www"], &[])?;
        for alias in ["roll", "www"] {
            let network = format!("medlar,alias={alias}");
            let web = ["service", "create", "--name", "web", "--network", &network];
            refused(daemons, 0, &web, &format!("{alias} is a name of service 'roll'"))?;
        }
        let dotted = ["service", "create", "--name", "web", "--network", "medlar,alias=tasks.roll"];
        let said = daemons.hosts[0].ask(&dotted, "")?;
        let errors = String::from_utf8_lossy(&said.stderr);
        ensure!(!said.status.success() && errors.contains("alias tasks.roll: want no '.'"), "{said:?}");
        let five = [
            "service",
            "create",
            "--name",
            "web",
            "--network",
            "tiny",
            "--replicas",
            "5",
            "--",
            "sleep",
            "9",
        ];
        refused(daemons, 0, &five, "service web can't have 5 tasks in network tiny: ")?;
        create(daemons, "web", &["--network", "tiny"], &["--", "sleep", "9"])?;
        refused(daemons, 0, &["service", "scale", "web=5"], "10.99.0.0/29 has 5 addresses")
    })
}

/// A service without a command has those that answer for it.
fn joined(daemons: &Daemons) -> Result<()> {
    let [one, two] = [&daemons.hosts[0], &daemons.hosts[1]];
    create(daemons, "machines", &["--network", "medlar"], &[])?;
    wait_until("it is known", || Ok(two.say(&["service", "ls", "-q"])?.lines().count() == 1))?;
    let run = |name| {
        ["run", "-d", "--name", name, "--network", "medlar", "--service", "machines", "--", "sleep", "1d"]
    };
    one.say(&run("m1"))?;
    two.say(&run("m2"))?;
    wait_until("both are shown on both", || {
        let mut shown = true;
        for host in 0..2 {
            let rows = tasks(daemons, host, "machines")?;
            let row = |name: &str, node: &str| {
                let is =
                    |row: &&Value| row["name"] == name && row["node"] == node && row["state"] == "running";
                rows.iter().filter(is).count() == 1
            };
            shown &= rows.len() == 2 && row("machines.m1", one.name) && row("machines.m2", two.name);
            let listed =
                daemons.hosts[host].say(&["service", "ls", "--format", "{{.Name}} {{.Replicas}}"])?;
            shown &= listed == "machines 2/2\n";
        }
        Ok(shown)
    })?;
    let reason = "service machines has no command, so it has no number of replicas";
    refused(daemons, 0, &["service", "scale", "machines=3"], reason)?;
    refused(daemons, 0, &["service", "update", "--replicas", "3", "machines"], reason)?;
    let three = ["service", "create", "--name", "more", "--replicas", "3"];
    refused(daemons, 0, &three, "service more has no command")?;
    two.say(&["rm", "-f", "m2"])?;
    wait_until("one is left", || Ok(tasks(daemons, 0, "machines")?.len() == 1))?;
    one.say(&["rm", "-f", "m1"]).map(drop)
}
