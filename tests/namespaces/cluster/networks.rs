//! Networks by their commands: made with addresses, refused by name, made twice on two sides of a partition.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};

/// Managers and workers of the two halves.
const HALVES: [[usize; 2]; 2] = [[0, 2], [1, 3]];

pub(super) fn made_and_refused() -> Result<()> {
    with_daemons("networks", 2, |daemons| {
        daemons.form(2, 1)?;
        let manager = &daemons.hosts[0];
        let id = manager.say(&[
            "network",
            "create",
            "--subnet",
            "172.20.0.0/16",
            "--gateway",
            "172.20.0.99",
            "--ip-range",
            "172.20.128.0/17",
            "--label",
            "stage=test",
            "--opt",
            "mtu=1400",
            "currant",
        ])?;
        manager.say(&["network", "create", "--ipv6", "sloe"])?;
        wait_until("the worker knows both", || Ok(daemons.hosts[1].networks()? == ["currant", "sloe"]))?;
        let shown = inspect(daemons, 1, "currant")?;
        ensure!(shown["Id"] == id.trim(), "{shown}");
        let config = &shown["IPAM"]["Config"][0];
        ensure!(config["Gateway"] == "172.20.0.99" && config["IPRange"] == "172.20.128.0/17", "{shown}");
        ensure!(shown["Containers"].is_null() && shown["Labels"]["stage"] == "test", "{shown}");
        let pool = inspect(daemons, 1, "sloe")?;
        ensure!(pool["IPAM"]["Config"][0]["Subnet"] == "10.0.1.0/24", "{pool}");
        ensure!(
            pool["EnableIPv6"] == true && pool["IPAM"]["Config"].as_array().is_some_and(|all| all.len() == 2)
        );
        let listed =
            daemons.hosts[1].say(&["network", "ls", "--filter", "label=stage", "--format", "{{.Name}}"])?;
        ensure!(listed == "currant\n", "{listed}");
        refusals(daemons)?;
        used(daemons)?;
        let removed = daemons.hosts[0].ask(&["network", "rm", "sloe", "bramble", "currant"], "")?;
        ensure!(removed.stdout == b"sloe\ncurrant\n" && removed.status.code() == Some(1), "{removed:?}");
        ensure!(
            String::from_utf8_lossy(&removed.stderr).contains("there is no network bramble"),
            "{removed:?}"
        );
        daemons.hosts[0].say(&["network", "create", "sloe"])?;
        let pruned = daemons.hosts[0].ask(&["network", "prune"], "y\n")?;
        ensure!(pruned.stdout == b"Deleted Networks:\nsloe\n", "{pruned:?}");
        Ok(())
    })
}

/// Everything that is in the way is named.
fn refusals(daemons: &Daemons) -> Result<()> {
    for (flags, reason) in [
        (&["currant"][..], "there is a network currant already"),
        (&["--subnet", "172.20.9.0/24", "bramble"], "overlaps 172.20.0.0/16 of network currant"),
        (&["--subnet", "198.18.7.0/24", "bramble"], "overlaps this host's route 198.18.0.0/15 on"),
        (&["--vni", "4096", "bramble"], "VNI 4096 is that of network ingress"),
        (&["--subnet", "10.0.0.0/24", "bramble"], "overlaps 10.0.0.0/24 of network ingress"),
        (&["--ingress", "bramble"], "is the routing mesh's network already"),
        (&["--subnet", "172.21.0.0/16", "--gateway", "172.21.0.0", "bramble"], "is not a host's"),
        (&["--opt", "mtu=500", "bramble"], "IPv4 needs 576"),
    ] {
        let refused = daemons.hosts[0].ask(&[&["network", "create"], flags].concat(), "")?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1) && said.contains(reason), "{flags:?}: {said}");
    }
    let worker = daemons.hosts[1].ask(&["network", "create", "bramble"], "")?;
    ensure!(String::from_utf8_lossy(&worker.stderr).contains("this node is a worker"), "{worker:?}");
    Ok(())
}

/// Who uses a network is named, and its interfaces have what its underlay leaves them.
fn used(daemons: &Daemons) -> Result<()> {
    for (host, endpoint) in [(0, "web"), (1, "db")] {
        let place = ["--network", "currant", "--name", endpoint, "--tap", "tap-test"];
        daemons.hosts[host].say(&[&["attach"], &place[..]].concat())?;
    }
    let manager = &daemons.hosts[0];
    wait_until("the manager knows of both nodes", || {
        let shown = inspect(daemons, 0, "currant")?;
        Ok(["Peers", "Endpoints"].iter().all(|list| shown[list].as_array().is_some_and(|all| all.len() == 2)))
    })?;
    let shown = inspect(daemons, 0, "currant")?;
    let here = shown["Containers"].as_object().context("by id")?;
    ensure!(
        here.len() == 1 && here.values().all(|own| own["Name"] == "web" && own["MTU"] == 1_350),
        "{shown}"
    );
    let listed =
        manager.say(&["network", "ls", "--filter", "in-use=true", "--format", "{{.Name}} {{.Nodes}}"])?;
    ensure!(listed == "currant 2\n", "{listed}");
    let refused = manager.ask(&["network", "rm", "currant"], "")?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let users = format!("in use by db on {}, web on {}", daemons.hosts[1].name, manager.name);
    ensure!(refused.status.code() == Some(1) && said.contains(&users), "{said}");
    let pruned = manager.say(&["network", "prune", "--force", "--filter", "label=stage"])?;
    ensure!(pruned.is_empty(), "{pruned}");
    for (host, endpoint) in [(0, "web"), (1, "db")] {
        daemons.hosts[host].say(&["detach", endpoint])?;
    }
    wait_until("the manager knows that nobody is in it", || {
        Ok(inspect(daemons, 0, "currant")?["Peers"] == serde_json::json!([]))
    })
    .map(drop)
}

/// One name, one VNI and one block of addresses on both sides: the older network holds them, on every node.
pub(super) fn made_twice() -> Result<()> {
    with_daemons("twice", 4, |daemons| {
        daemons.form(4, 2)?;
        let [one, other] = HALVES;
        daemons.split(&other)?;
        daemons.wait_until_see(&one, &other, false)?;
        daemons.wait_until_see(&other, &one, false)?;
        let older = daemons.hosts[0].say(&["network", "create", "currant"])?;
        let younger = daemons.hosts[1].say(&["network", "create", "--opt", "encrypted", "currant"])?;
        let (older, younger) = (older.trim(), younger.trim());
        daemons.unite(&other)?;
        for host in &daemons.hosts {
            wait_until("both are known", || Ok(host.networks()?.len() == 2))?;
            let listed = host.json(&["network", "ls", "--filter", "name=currant"])?;
            let of = |id: &str| {
                let network = listed.iter().find(|network| network["id"] == id);
                let conflicts = network.and_then(|network| network["conflicts"].as_array()).cloned();
                conflicts.with_context(|| format!("{id} is listed: {listed:?}"))
            };
            let kinds: Vec<Value> = of(younger)?.iter().map(|conflict| conflict["of"].clone()).collect();
            ensure!(of(older)?.is_empty() && kinds == ["name", "vni", "subnet"], "{listed:?}");
            let table = host.say(&["network", "ls"])?;
            ensure!(table.contains("CONFLICT") && table.contains(&format!("name means {older}")), "{table}");
        }
        ensure!(inspect(daemons, 3, "currant")?["Id"] == older);
        let removed = daemons.hosts[1].ask(&["network", "rm", "currant"], "")?;
        ensure!(String::from_utf8_lossy(&removed.stderr).contains("not one network but 2"), "{removed:?}");
        daemons.hosts[1].say(&["network", "rm", younger])?;
        wait_until("the conflict is over everywhere", || {
            let listed =
                daemons.hosts.iter().map(|host| host.say(&["network", "ls"])).collect::<Result<Vec<_>>>()?;
            Ok(listed.iter().all(|table| !table.contains("CONFLICT")))
        })?;
        Ok(())
    })
}

fn inspect(daemons: &Daemons, host: usize, network: &str) -> Result<Value> {
    let shown: Value = serde_json::from_str(&daemons.hosts[host].say(&["network", "inspect", network])?)?;
    Ok(shown[0].clone())
}
