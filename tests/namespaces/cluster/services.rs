//! Services by their commands: made on one manager, known on every node, changed, refused by name, removed.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::daemons::{Daemons, HALVES, wait_until, with_daemons};
use super::shown::{all_run_as_asked, running_now};
pub(super) use super::shown::{generation, inspect, prefixed_vips, refused, running, tasks};

pub(super) fn made_changed_and_removed() -> Result<()> {
    with_daemons("services", 2, |daemons| {
        daemons.form(2, 1)?;
        let manager = &daemons.hosts[0];
        for network in ["currant", "sloe"] {
            let subnet = if network == "currant" { "172.20.0.0/24" } else { "172.21.0.0/24" };
            manager.say(&["network", "create", "--ipv6", "--subnet", subnet, network])?;
        }
        let flags = ["--replicas", "3", "--network", "currant,alias=www", "-p", "8080:80", "-p", "53/udp"];
        let id = manager.say(
            &[&["service", "create", "-d", "--name", "web"], &flags[..], &["--", "busybox", "httpd", "-f"]]
                .concat(),
        )?;
        wait_until("the worker knows it", || Ok(listed(daemons, 1, "{{.Name}}")? == "web\n"))?;
        let shown = inspect(daemons, 1, "web")?;
        ensure!(shown["ID"] == id.trim(), "{shown}");
        let ports = &shown["Endpoint"]["Ports"];
        ensure!(ports[0]["PublishedPort"] == 8080 && ports[1]["PublishedPort"] == 30_000, "{ports}");
        let vips = prefixed_vips(&shown)?;
        ensure!(vips.len() == 2 && vips[0] == "172.20.0.2/24", "of each IP version one: {vips:?}");
        let table = daemons.hosts[1].say(&["service", "ls"])?;
        ensure!(table.contains("0/3") && table.contains("*:8080->80/tcp, *:30000->53/udp"), "{table}");
        refusals(daemons)?;
        changed(daemons, &vips)?;
        removed(daemons)
    })
}

/// Everything that is in the way is named.
fn refusals(daemons: &Daemons) -> Result<()> {
    for (flags, reason) in [
        (&["--name", "web"][..], "there is a service web already"),
        (&["--name", "api", "-p", "8080:81"], "port '8080' is already in use by service 'web'"),
        (&["--name", "api", "--network", "bramble"], "there is no network bramble"),
        (&["--name", "api", "--network", "ingress"], "can't be attached to the ingress network"),
    ] {
        refused(daemons, 0, &[&["service", "create"], flags].concat(), reason)?;
    }
    for (arguments, reason) in [
        (&["service", "update", "--publish-add", "8080:81", "web"][..], "duplicate published ports provided"),
        (&["service", "update", "--publish-rm", "81", "web"], "has no published port 81/tcp"),
        (&["service", "update", "--endpoint-mode", "dnsrr", "web"], "can't be used with dnsrr mode"),
        (&["service", "scale", "api=2"], "there is no service api"),
        (&["network", "rm", "currant"], "network currant is in use by service web"),
        (&["network", "rm", "ingress"], "network ingress is in use by service web"),
        (&["node", "update", "--label-rm", "zone", "self"], "has no label zone"),
    ] {
        refused(daemons, 0, arguments, reason)?;
    }
    refused(daemons, 1, &["service", "create", "--name", "api"], "this node is a worker")?;
    // Its address is nobody else's, on whichever node.
    for host in [0, 1] {
        let taken =
            ["attach", "--network", "currant", "--name", "x", "--tap", "tap-test", "--ip", "172.20.0.2"];
        refused(daemons, host, &taken, "172.20.0.2 is reserved: service web")?;
    }
    Ok(())
}

/// What is not changed stays: ports that nobody named, and virtual addresses, even over a restart of their maker.
fn changed(daemons: &mut Daemons, before: &[String]) -> Result<()> {
    let update = |daemons: &Daemons, flags: &[&str]| -> Result<Value> {
        let said = daemons.hosts[0].say(&[&["service", "update", "-d"], flags, &["web"]].concat())?;
        ensure!(said == "web\n", "{said}");
        inspect(daemons, 0, "web")
    };
    let made = generation(daemons, "web")?;
    let scaled = daemons.hosts[0].say(&["service", "scale", "-d", "web=5"])?;
    ensure!(scaled == "web scaled to 5\n" && generation(daemons, "web")? == made, "{scaled}");
    let shown =
        update(daemons, &["--network-add", "sloe", "--publish-rm", "80", "--label-add", "stage=test"])?;
    ensure!(shown["Spec"]["Mode"]["Replicated"]["Replicas"] == 5, "{shown}");
    let second = generation(daemons, "web")?;
    ensure!(second > made, "tasks in another network are others");
    ensure!(shown["Endpoint"]["Ports"][0]["PublishedPort"] == 30_000, "{shown}");
    let both = prefixed_vips(&shown)?;
    ensure!(both.len() == 4 && both[..2] == *before && both[2] == "172.21.0.2/24", "{both:?}");
    daemons.kill(0)?;
    daemons.start(0)?;
    let attach = |network: &str| {
        ["attach", "--network", network, "--name", "db", "--tap", "tap-test"].map(String::from)
    };
    let attached = attach("sloe");
    let attached = daemons.hosts[0].say(&attached.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(attached.contains("172.21.0.3"), "the next address is given: {attached}");
    daemons.hosts[0].say(&["detach", "db"])?;
    let shown = update(daemons, &["--network-rm", "currant", "--args", "httpd -f -p 81"])?;
    ensure!(prefixed_vips(&shown)? == both[2..], "{shown}");
    ensure!(
        shown["Spec"]["TaskTemplate"]["ContainerSpec"]["Command"]
            == json!(["busybox", "httpd", "-f", "-p", "81"])
    );
    let third = generation(daemons, "web")?;
    update(daemons, &["--force"])?;
    let fourth = generation(daemons, "web")?;
    ensure!(second < third && third < fourth, "each replaces all tasks: {second} {third} {fourth}");
    wait_until("the worker knows it", || {
        Ok(listed(daemons, 1, "{{.Generation}} {{.Replicas}}")? == format!("{fourth} 0/5\n"))
    })?;
    daemons.hosts[0].say(&["network", "rm", "currant"])?;
    daemons.hosts[0].say(&["node", "update", "--label-add", "zone=a", "self"])?;
    wait_until("the worker knows the label", || {
        let nodes = daemons.hosts[1].json(&["node", "ls"])?;
        Ok(nodes.iter().any(|node| node["labels"]["zone"] == "a"))
    })?;
    let constraint = ["--mode", "global", "--constraint", "node.labels.zone==a", "--", "sleep", "9"];
    daemons.hosts[0].say(&[&["service", "create", "-d", "--name", "all"], &constraint[..]].concat())?;
    let shown = listed(daemons, 0, "{{.Name}} {{.Replicas}}")?;
    ensure!(shown == "all 0/0\nweb 0/5\n", "nodes run tasks only if they are told to: {shown}");
    let pending = tasks(daemons, 0, "all")?.remove(0);
    let reason =
        "no node may run it: of 2 that are there 2 run no tasks (see `vswitchd daemon --allow-tasks`)";
    ensure!(pending["reason"] == reason, "{pending}");
    refused(daemons, 0, &["service", "scale", "all=2"], "service all is global")
}

/// The network of the mesh goes once no service publishes by it, and none can until there is another.
fn removed(daemons: &Daemons) -> Result<()> {
    let manager = &daemons.hosts[0];
    let removed = manager.ask(&["service", "rm", "web", "bramble", "all"], "")?;
    ensure!(removed.stdout == b"web\nall\n" && removed.status.code() == Some(1), "{removed:?}");
    wait_until("the worker knows it", || Ok(listed(daemons, 1, "{{.Name}}")?.is_empty()))?;
    let gone = manager.ask(&["network", "rm", "ingress"], "y\n")?;
    ensure!(gone.stdout == b"ingress\n", "{gone:?}");
    let publish = ["service", "create", "--name", "web", "-p", "80"];
    refused(daemons, 0, &publish, "needs ingress network, but no ingress network is present")?;
    manager.say(&["network", "create", "--ingress", "mesh"])?;
    manager.say(&publish)?;
    let free = ["attach", "--network", "sloe", "--name", "db", "--tap", "tap-test", "--ip", "172.21.0.2"];
    manager.say(&free).context("its virtual address is free")?;
    manager.say(&["detach", "db"]).map(drop)
}

/// One name and one port on both sides: the older service holds them, on every node.
pub(super) fn made_twice() -> Result<()> {
    with_daemons("services-twice", 4, |daemons| {
        daemons.form(4, 2)?;
        let [one, other] = HALVES;
        daemons.part(&one, &other)?;
        let create = |host: usize, port: &str| {
            let id = daemons.hosts[host].say(&["service", "create", "--name", "web", "-p", port])?;
            Ok::<String, anyhow::Error>(id.trim().to_owned())
        };
        let (older, younger) = (create(0, "8080:80")?, create(1, "8080:81")?);
        daemons.unite(&other)?;
        for host in 0..4 {
            wait_until("both are known", || Ok(listed(daemons, host, "{{.ID}}")?.lines().count() == 2))?;
            let all = daemons.hosts[host].json(&["service", "ls"])?;
            let of = |id: &str| {
                let service = all.iter().find(|service| service["id"] == id).context("it is listed")?;
                let conflicts = service["conflicts"].as_array().context("a list")?;
                Ok::<Vec<Value>, anyhow::Error>(
                    conflicts.iter().map(|conflict| conflict["of"].clone()).collect(),
                )
            };
            ensure!(of(&older)?.is_empty() && of(&younger)? == ["name", "port"], "{all:?}");
            ensure!(inspect(daemons, host, "web")?["ID"] == older.as_str());
            ensure!(daemons.hosts[host].say(&["service", "ls"])?.contains("CONFLICT"));
        }
        refused(daemons, 1, &["service", "rm", "web"], "not one service but 2")?;
        daemons.hosts[1].say(&["service", "rm", &younger])?;
        wait_until("the conflict is over everywhere", || {
            let all =
                (0..4).map(|host| listed(daemons, host, "{{.Conflicts}}")).collect::<Result<Vec<_>>>()?;
            Ok(all.iter().all(|conflicts| conflicts == "\n"))
        })
        .map(drop)
    })
}

fn listed(daemons: &Daemons, host: usize, template: &str) -> Result<String> {
    daemons.hosts[host].say(&["service", "ls", "--format", template])
}

/// Tasks run, spread over the nodes; they crash, their node dies and comes back, they are scaled, replaced, removed.
pub(super) fn tasks_run() -> Result<()> {
    with_daemons("services-run", 3, |daemons| {
        daemons.form_with_tasks(3, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "currant"])?;
        let policies = ["--restart-delay", "100ms", "--update-delay", "200ms"];
        let create = ["service", "create", "--name", "web", "--replicas", "4", "--network", "currant"];
        manager.say(&[&create[..], &policies, &["--", "sleep", "1000"]].concat())?;
        let spread = running(daemons, 1, "web", 4)?;
        ensure!((0..3).all(|host| (1..=2).contains(&on(&spread, daemons.hosts[host].name))), "{spread:?}");
        ensure!(listed(daemons, 2, "{{.Name}} {{.Replicas}}")? == "web 4/4\n");
        let members = members(daemons, 0)?;
        ensure!(members == 4, "each has its place in the network: {members}");
        crashed(daemons)?;
        left(daemons)?;
        daemons.hosts[0].say(&["service", "scale", "web=2"])?;
        running(daemons, 2, "web", 2)?;
        let before = generation(daemons, "web")?;
        daemons.hosts[0].say(&["service", "update", "--args", "2000", "web"])?;
        let after = generation(daemons, "web")?;
        ensure!(after != before);
        wait_until("all are replaced", || all_run_as_asked(daemons, 2, "web", 2))?;
        rejected(daemons)?;
        written(daemons)?;
        daemons.hosts[0].say(&["service", "rm", "web", "none", "say"])?;
        wait_until("nothing is left", || {
            let mut left = members_of(daemons, 0)?;
            for host in &daemons.hosts {
                left += host.say(&["ps", "-aq"])?.lines().count();
            }
            Ok(left == 0)
        })
        .map(drop)
    })
}

/// A task that ends is followed by another one.
fn crashed(daemons: &Daemons) -> Result<()> {
    let before = tasks(daemons, 0, "web")?;
    let task = before.iter().find(|task| task["node"] == daemons.hosts[1].name).context("it has one")?;
    let id = task["id"].as_str().context("an id")?;
    daemons.hosts[1].say(&["kill", id])?;
    wait_until("another one runs in its slot", || {
        let now = tasks(daemons, 0, "web")?;
        let other = now.iter().find(|other| other["slot"] == task["slot"] && other["state"] == "running");
        Ok(other.is_some_and(|other| other["id"] != id && other["node"] == task["node"]))
    })
    .map(drop)
}

/// What a dead node ran, others run; what it still runs when it comes back is its own again, and theirs goes.
fn left(daemons: &mut Daemons) -> Result<()> {
    let before = running(daemons, 0, "web", 4)?;
    daemons.kill(2)?;
    let name = daemons.hosts[2].name;
    wait_until("its slots run elsewhere", || {
        let running = running_now(daemons, 0, "web")?;
        Ok(running.len() == 4 && running.iter().all(|task| task["node"] != name))
    })?;
    daemons.start(2)?;
    daemons.wait_until_all_see_all()?;
    wait_until("all is as it was", || {
        let now = tasks(daemons, 0, "web")?;
        let same = |task: &Value| {
            now.iter().any(|other| other["slot"] == task["slot"] && other["node"] == task["node"])
        };
        Ok(now.len() == 4 && before.iter().all(same))
    })?;
    let kept = |all: &[Value]| all.iter().find(|task| task["node"] == name).map(|task| task["id"].clone());
    let now = tasks(daemons, 0, "web")?;
    ensure!(kept(&before) == kept(&now), "its tasks outlived its daemon: {before:?} {now:?}");
    Ok(())
}

/// Where there is no such program it says so, and runs nowhere.
fn rejected(daemons: &Daemons) -> Result<()> {
    let create = ["service", "create", "--name", "none", "--", "no-such-program"];
    refused(daemons, 0, &create, "service none does not come about: ")?;
    wait_until("all have rejected it", || {
        let tasks = tasks(daemons, 1, "none")?;
        let pending = tasks.iter().find(|task| task["state"] == "pending");
        let reason = pending.and_then(|task| task["reason"].as_str()).unwrap_or_default();
        Ok(reason.contains("of 3 that are there 3 have rejected it") && reason.contains("no-such-program"))
    })?;
    for host in &daemons.hosts {
        let known = host.json(&["ps", "--all"])?.len();
        let kept = std::fs::read_dir(host.state.join("tasks"))?.count();
        ensure!(kept == known, "{kept} directories of {known} tasks: what was rejected is left behind");
    }
    Ok(())
}

/// What tasks write is read on a manager, wherever they are.
fn written(daemons: &Daemons) -> Result<()> {
    let command =
        ["--mode", "global", "--restart-condition", "none", "--", "sh", "-c", "echo here; echo there >&2"];
    daemons.hosts[0].say(&[&["service", "create", "--name", "say"], &command[..]].concat())?;
    wait_until("all have ended", || {
        let tasks = tasks(daemons, 0, "say")?;
        Ok(tasks.len() == 3 && tasks.iter().all(|task| task["state"] == "complete"))
    })?;
    let shown = daemons.hosts[0].ask(&["service", "logs", "say"], "")?;
    let (out, errors) = (String::from_utf8(shown.stdout)?, String::from_utf8(shown.stderr)?);
    for host in &daemons.hosts {
        let line = |text: &str| format!("say@{} | {text}\n", host.name);
        ensure!(out.contains(&line("here")) && errors.contains(&line("there")), "{out}{errors}");
    }
    ensure!(out.lines().count() == 3 && errors.lines().count() == 3, "{out}{errors}");
    refused(daemons, 1, &["service", "logs", "say"], "this node is a worker")
}

fn on(tasks: &[Value], node: &str) -> usize {
    tasks.iter().filter(|task| task["node"] == node).count()
}

fn members(daemons: &Daemons, host: usize) -> Result<usize> {
    let mut members = 0;
    wait_until("endpoints are known", || {
        members = members_of(daemons, host)?;
        Ok(members >= 4)
    })?;
    Ok(members)
}

fn members_of(daemons: &Daemons, host: usize) -> Result<usize> {
    let shown: Value = serde_json::from_str(&daemons.hosts[host].say(&["network", "inspect", "currant"])?)?;
    Ok(shown[0]["Endpoints"].as_array().context("a list")?.len())
}
