//! What tasks of services may have: programs, users and nodes as operators say; ports and addresses as far as there are any.
//! Of what they can't have the reason is told.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::Host;
use super::services::{refused, running, tasks};
use crate::fixture::{Ending, PATIENCE, VSWITCHD, bound, set};

/// What a node is told whose operator does not trust managers with everything.
const RESTRICTED: [&str; 4] = ["--task-user", "65534:65533", "--task-commands", "/bin/sh,/bin/sleep"];
/// Starts a daemon that may not listen at ports below 1024.
const UNPRIVILEGED: [&str; 3] =
    ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
/// Addresses of a /29 for tasks: without those of network, broadcast, gateway and a service.
const CAPACITY: usize = 4;
/// Tasks of one service that has addresses before another one, and of the other one, which are one too many.
const FIRST: usize = 2;
const SECOND: usize = 3;

pub(super) fn operators() -> Result<()> {
    with_daemons("permitted", 2, |daemons| {
        form(daemons, |daemons| daemons.arguments.extend(RESTRICTED.map(String::from)))?;
        users(daemons)?;
        programs(daemons)?;
        labels(daemons)
    })
}

/// Makes a cluster of all hosts, the last of which is started otherwise.
fn form(daemons: &mut Daemons, otherwise: impl FnOnce(&mut Daemons)) -> Result<()> {
    let last = daemons.hosts.len() - 1;
    daemons.arguments = vec!["--allow-tasks".into()];
    daemons.form(last, 1)?;
    otherwise(daemons);
    daemons.start(last)?;
    let token = daemons.hosts[0].token("worker")?;
    daemons.join(last, &token, 0)?;
    daemons.wait_until_all_see_all()
}

/// Tasks are their node's user's, with no right of root's, and have the environment of their service.
fn users(daemons: &Daemons) -> Result<()> {
    let script = "id -u; id -g; id -G; grep CapEff /proc/self/status; echo $TAG,$MORE; exec sleep 1d";
    let create = ["service", "create", "-d", "--name", "who", "--mode", "global", "--env", "TAG=a b"];
    let manager = &daemons.hosts[0];
    manager.say(&[&create[..], &["--", "/bin/sh", "-c", script]].concat())?;
    written(daemons, "a b,")?;
    manager.say(&["service", "update", "-d", "--env-rm", "TAG", "--env-add", "MORE=c", "who"])?;
    written(daemons, ",c")?;
    manager.say(&["service", "update", "-d", "--env-add", "MORE=d", "who"])?;
    written(daemons, ",d")?;
    manager.say(&["service", "rm", "who"]).map(drop)
}

/// Waits until the tasks of both nodes have said who they are, and what is in their environment.
fn written(daemons: &Daemons, environment: &str) -> Result<()> {
    let restricted = ["65534", "65533", "65533", "CapEff:\t0000000000000000", environment];
    let mut shown = String::new();
    let all = wait_until("both have said it", || {
        // That of a task that is just being removed may not be had, which is told.
        shown = String::from_utf8(daemons.hosts[0].ask(&["service", "logs", "who"], "")?.stdout)?;
        let by = |host: &Host| -> Vec<&str> {
            let from = format!("who@{} | ", host.name);
            shown.lines().filter_map(|line| line.strip_prefix(&from)).collect()
        };
        let [any, other] = [by(&daemons.hosts[0]), by(&daemons.hosts[1])];
        Ok(any.len() == restricted.len() && any[0] == "0" && any[4] == environment && other == restricted)
    });
    all.map(drop).with_context(|| format!("{environment}: {shown}"))
}

/// Where a program is not on the list it does not run, and the reason is told; another node has its tasks.
fn programs(daemons: &Daemons) -> Result<()> {
    let [manager, restricted] = [&daemons.hosts[0], &daemons.hosts[1]];
    let why = |program: &str| format!("{program} is not allowed here: task-commands are /bin/sh, /bin/sleep");
    let other = ["--name", "other", "--replicas", "2", "--", "busybox", "sleep", "1d"];
    manager.say(&[&["service", "create", "-d"], &other[..]].concat())?;
    told(daemons, "other", (1, "rejected"), &[&why("busybox")])?;
    wait_until("another node has all of it", || {
        Ok(places(daemons, "other", "running")? == [2, 0] && places(daemons, "other", "rejected")? == [0, 1])
    })?;
    // It is the word that is compared: whose file another one means may be up to the service.
    let here = format!("node.hostname=={}", restricted.name);
    let pinned = ["--name", "pinned", "--constraint", &here, "--", "sh", "-c", "exec sleep 1d"];
    refused(daemons, 0, &[&["service", "create"], &pinned[..]].concat(), &why("sh"))?;
    ensure!(restricted.say(&["ps", "-aq"])?.is_empty(), "nothing runs there");
    manager.say(&["service", "update", "pinned", "--", "/bin/sh", "-c", "exec sleep 1d"])?;
    ensure!(running(daemons, 1, "pinned", 1)?[0]["node"] == restricted.name, "what is on the list does");
    manager.say(&["service", "rm", "other", "pinned"]).map(drop)
}

/// Tasks follow the labels of nodes that their service asks for.
fn labels(daemons: &Daemons) -> Result<()> {
    let create = ["service", "create", "-d", "--name", "picky", "--replicas", "2"];
    let constraint = ["--constraint", "node.labels.disk==ssd", "--", "/bin/sleep", "1d"];
    daemons.hosts[0].say(&[&create[..], &constraint].concat())?;
    let nowhere = || {
        let unmet = "no node may run it: of 2 that are there 2 don't meet node.labels.disk==ssd";
        wait_until("no node may run it", || {
            let tasks = tasks(daemons, 0, "picky")?;
            Ok(tasks.len() == 2 && tasks.iter().all(|task| task["reason"] == unmet))
        })
    };
    nowhere()?;
    for (host, flag, label, expected) in [
        (0, "--label-add", "disk=ssd", [2, 0]),
        (1, "--label-add", "disk=ssd", [1, 1]),
        (0, "--label-rm", "disk", [0, 2]),
        (1, "--label-add", "disk=hdd", [0, 0]),
    ] {
        daemons.hosts[0].say(&["node", "update", flag, label, daemons.hosts[host].name])?;
        let moved = wait_until("its tasks have moved", || {
            Ok(tasks(daemons, 0, "picky")?.len() == 2 && places(daemons, "picky", "running")? == expected)
        });
        moved.with_context(|| format!("{flag} {label} on node {host}: {:?}", tasks(daemons, 0, "picky")))?;
    }
    nowhere()?;
    daemons.hosts[0].say(&["service", "rm", "picky"]).map(drop)
}

/// How many tasks of a service in that state each node has.
fn places(daemons: &Daemons, service: &str, state: &str) -> Result<Vec<usize>> {
    let tasks = tasks(daemons, 0, service)?;
    let is_of = |task: &Value, host: &Host| task["node"] == host.name && task["state"] == state;
    let count = |host: &Host| tasks.iter().filter(|task| is_of(task, host)).count();
    Ok(daemons.hosts.iter().map(count).collect())
}

/// Waits until there is a row of a host in that state, with a reason that holds all of these.
fn told(daemons: &Daemons, service: &str, (host, state): (usize, &str), parts: &[&str]) -> Result<()> {
    let mut rows = Vec::new();
    let heard = wait_until("the reason is told", || {
        rows = tasks(daemons, 0, service)?;
        let node = daemons.hosts[host].name;
        let reasons = rows.iter().filter(|row| row["node"] == node && row["state"] == state);
        let mut reasons = reasons.filter_map(|row| row["reason"].as_str());
        Ok(reasons.any(|reason| parts.iter().all(|part| reason.contains(part))))
    });
    heard.map(drop).with_context(|| format!("want {parts:?} of node {host}, {state}: {rows:?}"))
}

pub(super) fn ports() -> Result<()> {
    with_daemons("hostports", 3, |daemons| {
        form(daemons, |daemons| daemons.starter = UNPRIVILEGED.into())?;
        let root = daemons.hosts[0].state.with_extension("www");
        fs::create_dir(&root)?;
        fs::write(root.join("index.html"), "cloudberries\n")?;
        let serve = ["--", "busybox", "httpd", "-f", "-h", root.to_str().context("UTF-8")?];
        moved(daemons, &serve)?;
        taken(daemons, &serve)?;
        low(daemons, &serve)
    })
}

/// Ports of hosts are open where a task runs, and nowhere else.
fn moved(daemons: &Daemons, serve: &[&str]) -> Result<()> {
    let at = |host: usize| format!("node.hostname=={}", daemons.hosts[host].name);
    let (first, second) = (at(1), at(0));
    let create = ["service", "create", "-d", "--name", "near", "--constraint", &first];
    let publish = ["-p", "published=8080,target=80,mode=host"];
    daemons.hosts[0].say(&[&create[..], &publish, serve].concat())?;
    wait_until("it is reached where it runs", || answers(daemons, 1, 8080))?;
    ensure!(is_closed(daemons, 0, 8080)? && is_closed(daemons, 2, 8080)?, "there is no mesh");
    let there = ["--constraint-rm", &first, "--constraint-add", &second, "near"];
    daemons.hosts[0].say(&[&["service", "update", "-d"], &there[..]].concat())?;
    wait_until("it is reached where it runs now", || answers(daemons, 0, 8080))?;
    wait_until("and only there", || is_closed(daemons, 1, 8080))?;
    ensure!(is_closed(daemons, 2, 8080)?);
    daemons.hosts[0].say(&["service", "rm", "near"])?;
    wait_until("and nowhere", || is_closed(daemons, 0, 8080)).map(drop)
}

/// Where another program has the port of a host, the task waits for it, and says so.
fn taken(daemons: &Daemons, serve: &[&str]) -> Result<()> {
    let other = bound(&daemons.hosts[1].netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8081)))?;
    let elsewhere = format!("node.hostname!={}", daemons.hosts[2].name);
    let create = ["service", "create", "-d", "--name", "all", "--mode", "global", "--constraint", &elsewhere];
    let publish = ["-p", "published=8081,target=80,mode=host"];
    daemons.hosts[0].say(&[&create[..], &publish, serve].concat())?;
    told(daemons, "all", (1, "waiting"), &["port 8081", "in use by another program"])?;
    wait_until("others have it", || answers(daemons, 0, 8081))?;
    drop(other);
    wait_until("it has it now", || answers(daemons, 1, 8081))?;
    daemons.hosts[0].say(&["service", "rm", "all"]).map(drop)
}

/// A node that may not listen at a port says so, with the remedy; others serve, and so does it once it may.
fn low(daemons: &Daemons, serve: &[&str]) -> Result<()> {
    let (manager, bare) = (&daemons.hosts[0], &daemons.hosts[2]);
    let why = ["may not listen at port 80", "CAP_NET_BIND_SERVICE", "ip_unprivileged_port_start=80"];
    let elsewhere = format!("node.hostname!={}", bare.name);
    let create = ["service", "create", "-d", "--name", "web", "--constraint", &elsewhere, "-p", "80:80"];
    manager.say(&[&create[..], serve].concat())?;
    told(daemons, "web", (2, "not listening"), &why)?;
    let shown: Value = serde_json::from_str(&manager.say(&["node", "inspect", bare.name])?)?;
    let port = &shown[0]["NotListening"][0];
    let reason = port["Reason"].as_str().context("a reason")?;
    ensure!(port["PublishedPort"] == 80 && port["Service"] == "web", "{shown}");
    ensure!(why.iter().all(|part| reason.contains(part)), "{shown}");
    for host in [0, 1] {
        wait_until("others serve", || answers(daemons, host, 80))?;
        let shown: Value =
            serde_json::from_str(&manager.say(&["node", "inspect", daemons.hosts[host].name])?)?;
        ensure!(shown[0]["NotListening"].as_array().is_some_and(Vec::is_empty), "{shown}");
    }
    ensure!(is_closed(daemons, 2, 80)?, "it can't");
    let here = format!("node.hostname=={}", bare.name);
    let host_port = ["--constraint", &here, "-p", "published=81,target=8080,mode=host", "--", "sleep", "1d"];
    manager.say(&[&["service", "create", "-d", "--name", "low"], &host_port[..]].concat())?;
    told(daemons, "low", (2, "waiting"), &["may not listen at port 81"])?;
    set(&bare.netns, "ipv4/ip_unprivileged_port_start", "80")?;
    wait_until("now it may", || answers(daemons, 2, 80))?;
    wait_until("nothing is missing", || {
        Ok(tasks(daemons, 0, "web")?.iter().all(|row| row["state"] == "running"))
    })?;
    manager.say(&["service", "rm", "web", "low"]).map(drop)
}

/// A connection to a host's port, from another one.
fn visit(daemons: &Daemons, host: usize, port: u16) -> Result<std::io::Result<TcpStream>> {
    let from = &daemons.hosts[(host + 1) % daemons.hosts.len()].netns;
    let to = SocketAddr::new(daemons.hosts[host].address, port);
    Ok(from.run(|| TcpStream::connect_timeout(&to, PATIENCE))?)
}

/// Whether a port leads to a task's server.
fn answers(daemons: &Daemons, host: usize, port: u16) -> Result<bool> {
    let Ok(mut stream) = visit(daemons, host, port)? else { return Ok(false) };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut page = String::new();
    let asked = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| stream.read_to_string(&mut page));
    Ok(asked.is_ok() && page.ends_with("cloudberries\n"))
}

/// Whether nobody listens at a port.
fn is_closed(daemons: &Daemons, host: usize, port: u16) -> Result<bool> {
    Ok(visit(daemons, host, port)?.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused))
}

/// Of a service for which there are too few addresses those tasks run that have one; others say why not, and start when
/// there is room. Who watches sees it.
pub(super) fn addresses() -> Result<()> {
    with_daemons("roomless", 2, |daemons| {
        daemons.arguments = vec!["--allow-tasks".into()];
        daemons.form(2, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "--subnet", "10.77.0.0/29", "sloe"])?;
        // That says what follows a task that has ended, and those have never begun.
        let sleep = ["--restart-condition", "none", "--network", "sloe", "--", "sleep", "1d"];
        let create = |name, flags: &[&str]| {
            manager.say(&[&["service", "create", "--name", name], flags, &sleep].concat())
        };
        create("first", &["--replicas", &FIRST.to_string(), "--endpoint-mode", "dnsrr"])?;
        create("web", &["-d", "--replicas", &SECOND.to_string()])?;
        let full = format!("10.77.0.0/29: {CAPACITY} of {CAPACITY} used");
        let lacks = |row: &Value| row["reason"].as_str().is_some_and(|reason| reason.contains(&full));
        let watched = Watched::start(manager, "web")?;
        let mut rows = Vec::new();
        let short = wait_until("those run that have addresses", || {
            rows = tasks(daemons, 1, "web")?;
            let run = rows.iter().filter(|row| row["state"] == "running").count();
            Ok(run == CAPACITY - FIRST && rows.iter().any(|row| row["state"] == "waiting" && lacks(row)))
        });
        short.with_context(|| format!("{rows:?}"))?;
        let missing = watched.hear(|row| row["state"] == "waiting" && lacks(row))?;
        manager.say(&["service", "scale", "-d", "first=1"])?;
        let came = watched.hear(|row| row["slot"] == missing["slot"] && row["state"] == "running")?;
        let now = running(daemons, 1, "web", SECOND)?;
        ensure!(now.iter().any(|row| row["id"] == came["id"]), "{came} {now:?}");
        watched.interrupt()?;
        manager.say(&["service", "rm", "first", "web"]).map(drop)
    })
}

/// `service ps --watch` as a process.
struct Watched {
    process: Ending,
    rows: Receiver<Value>,
}

impl Watched {
    fn start(host: &Host, service: &str) -> Result<Self> {
        // Who starts the tests in the background may have had them ignore it.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", VSWITCHD, "service", "ps", "--watch", "--format", "json"]);
        command.arg(service).env("VSWITCHD_SOCKET", &host.socket).stdin(Stdio::null());
        let mut process = Ending(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        let printed = BufReader::new(process.0.stdout.take().context("it is piped")?);
        let (sender, rows) = channel();
        thread::Builder::new().name("watched".into()).spawn(move || {
            for line in printed.lines().map_while(Result::ok) {
                // What is no JSON fails whoever waits for it; a test that has ended waits for nothing.
                let _unheard = sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line)));
            }
        })?;
        Ok(Self { process, rows })
    }

    /// The next row that is as wanted.
    fn hear(&self, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let row = self.rows.recv_timeout(PATIENCE).context("no such row")?;
            ensure!(row["service"].is_string(), "not a row: {row}");
            if is_it(&row) {
                return Ok(row);
            }
        }
    }

    /// Ctrl-C is what ends it, and it has nothing to complain of.
    fn interrupt(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.process.0), Signal::INT)?;
        wait_until("it ends", || Ok(self.process.0.try_wait()?.is_some()))?;
        let status = self.process.0.wait()?;
        let mut errors = String::new();
        self.process.0.stderr.take().context("it is piped")?.read_to_string(&mut errors)?;
        ensure!(status.signal() == Some(Signal::INT.as_raw()) && errors.is_empty(), "{status}: {errors}");
        ensure!(self.rows.iter().all(|row| row["service"].is_string()), "each row is whole");
        Ok(())
    }
}
