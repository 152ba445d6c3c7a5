//! Commands against a daemon that answers as a test wants: what they ask, print, and end with.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use vswitchd::api::server::{Admission, Answer, serve};
use vswitchd::api::{Call, Code, Refusal, Socket};
use vswitchd::service::{ServiceSpec, SpecParts};

/// What becomes of a call, and what was called.
struct Script {
    answer: fn(&Call) -> Result<Value, Refusal>,
    calls: Mutex<Vec<String>>,
}

impl Answer for Script {
    async fn answer(&self, call: Call) -> Result<Value, Refusal> {
        let line = format!("{} {}", call.method(), call.path());
        self.calls.lock().expect("nothing panics under this lock").push(line);
        (self.answer)(&call)
    }
}

/// A daemon with a script, in a directory that goes with it.
struct Daemon {
    scratch: PathBuf,
    script: Arc<Script>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(name: &str, answer: fn(&Call) -> Result<Value, Refusal>) -> Result<Self> {
        let scratch = std::env::temp_dir().join(format!("vswitchd-commands-{name}-{}", std::process::id()));
        let socket = Socket::bind(&scratch.join("api.sock"), None)?;
        let script = Arc::new(Script { answer, calls: Mutex::default() });
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answers = Arc::clone(&script);
        let listener = socket.listener()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("it does not block");
                // Also if the other end is dropped.
                let stopped = async { drop(stopped.await) };
                serve(listener, Admission::File, answers, stopped).await;
            });
            drop(socket);
        });
        Ok(Self { scratch, script, stop: Some(stop), thread: Some(thread) })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchd"));
        command.args(arguments).stdin(std::process::Stdio::null()).env_clear().env("HOME", &self.scratch);
        command.env("VSWITCHD_SOCKET", self.scratch.join("api.sock"));
        command.output().context("vswitchd")
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.script.calls.lock().expect("nothing panics under this lock"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok(), "the daemon panicked");
        }
        std::fs::remove_dir_all(&self.scratch).expect("the test made it");
    }
}

fn node(name: &str) -> Value {
    json!({
        "id": "0123456789abcdefghijklmno", "name": name, "own": false, "role": "worker", "status": "down",
        "joined_ms": 0, "address": null, "door": null, "data": null, "version": "\u{1b}]0;owned\u{7}",
        "tasks": true, "labels": { name: name }, "unbound": [unbound(name)],
    })
}

fn network(name: &str) -> Value {
    json!({
        "id": name, "name": name, "vni": 1, "created_ms": u64::MAX, "nodes": 1,
        "subnets": [{ "subnet": "10.0.9.0/24", "gateway": "10.0.9.1", "ip_range": null, "reserved": {} }],
        "options": { "labels": { name: name } },
        "conflicts": [{ "of": "name", "holder": { "id": name, "name": name } }],
    })
}

fn task(text: &str) -> Value {
    let program = json!({ "command": [text], "tty": false, "stdin": false });
    json!({
        "id": text, "name": "amber", "program": program, "remove": false, "created_ms": 0, "state": "exited",
        "endpoints": [{
            "network": text, "network_name": text, "endpoint": text, "interface": "eth0", "addresses": [],
        }],
        "started_ms": 0, "ended_ms": 0, "exit_code": 1, "error": text, "pid": null, "directory": "/no/such",
    })
}

fn unbound(text: &str) -> Value {
    json!({
        "node": text, "service": text, "published": 80, "protocol": "tcp", "address": null, "reason": text, "since_ms": 0,
    })
}

fn service(text: &str) -> Value {
    let parts = SpecParts { command: vec![text.into()], ..SpecParts::new("web".parse().expect("a name")) };
    json!({
        "id": text, "spec": ServiceSpec::new(parts).expect("any program will do"), "generation": 1, "ports": [],
        "networks": [{ "network": text, "name": text, "vips": [] }], "wanted": 1, "running": 0, "created_ms": 0,
        "updated_ms": u64::MAX, "conflicts": [], "unbound": [unbound(text)],
    })
}

fn service_task(text: &str) -> Value {
    json!({
        "id": text, "name": format!("{text}.1"), "service": text, "slot": 0, "node": text, "generation": 1, "wanted": true, "state": text, "reason": text,
        "since_ms": 0,
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("what is printed is UTF-8")
}

#[test]
fn each_of_several_is_done_and_the_failed_are_named() -> Result<()> {
    let daemon = Daemon::start("several", |call| match call {
        Call::RemoveNode { node, .. } if node.as_str() == "b" => {
            Err(Refusal::new(Code::NotFound, "there is no node b"))
        }
        Call::Detach(_) | Call::RemoveNode { .. } => Ok(Value::Null),
        Call::Promote(node) => Ok(json!({ "changed": node.as_str() == "a" })),
        other => Err(Refusal::new(Code::Internal, format!("unexpected: {other:?}"))),
    })?;
    let removed = daemon.run(&["node", "rm", "--force", "a", "b", "c"])?;
    ensure!(removed.status.code() == Some(1), "{removed:?}");
    ensure!(text(&removed.stdout) == "a\nc\n", "{removed:?}");
    ensure!(text(&removed.stderr) == "vswitchd: there is no node b\n", "{removed:?}");
    let asked = ["a", "b", "c"].map(|node| format!("DELETE /v1/nodes/{node}?force"));
    ensure!(daemon.calls() == asked, "all three were asked for");
    let promoted = daemon.run(&["node", "promote", "a", "b"])?;
    ensure!(
        text(&promoted.stdout) == "Node a is now a manager.\nNode b is already a manager.\n",
        "{promoted:?}"
    );
    ensure!(promoted.status.success() && daemon.run(&["detach", "x"])?.stdout == b"x\n");
    Ok(())
}

#[test]
fn inspect_shows_what_it_found() -> Result<()> {
    let daemon = Daemon::start("inspect", |call| match call {
        Call::Node(name) if name.as_str() == "self" => Ok(node("one")),
        Call::Service(name) if name.as_str() != "x" => Ok(service("s1")),
        _ => Err(Refusal::new(Code::NotFound, "there is no such node")),
    })?;
    let shown = daemon.run(&["node", "inspect", "x", "self"])?;
    ensure!(shown.status.code() == Some(1), "{shown:?}");
    let document: Value = serde_json::from_slice(&shown.stdout)?;
    ensure!(document.as_array().is_some_and(|nodes| nodes.len() == 1), "{document}");
    ensure!(document[0]["Description"]["Hostname"] == "one", "{document}");
    let services = daemon.run(&["service", "inspect", "-f", "{{.ID}} {{.Spec.Name}}", "one", "two", "x"])?;
    ensure!(services.status.code() == Some(1) && services.stdout == b"s1 web\ns1 web\n", "{services:?}");
    let lacking = daemon.run(&["service", "inspect", "--format", "{{.Spec.Colour}}", "one"])?;
    ensure!(lacking.status.code() == Some(1) && lacking.stdout.is_empty(), "{lacking:?}");
    ensure!(text(&lacking.stderr).starts_with("vswitchd: {{.Spec.Colour}}: no such field"), "{lacking:?}");
    let pretty = daemon.run(&["node", "inspect", "--pretty", "self"])?;
    ensure!(text(&pretty.stdout).contains("name: one\n") && pretty.status.success(), "{pretty:?}");
    Ok(())
}

#[test]
fn no_name_reaches_the_terminal_as_a_command() -> Result<()> {
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\u{7f}\r\u{202e}b";
    let daemon = Daemon::start("hostile", |call| match call {
        Call::Nodes(_) => Ok(json!([node(HOSTILE)])),
        Call::Node(_) => Ok(node(HOSTILE)),
        Call::Network(_) => Ok(json!({
            "network": network(HOSTILE),
            "peers": [{ "id": HOSTILE, "name": HOSTILE, "address": null }],
            "endpoints": [{
                "id": HOSTILE, "name": HOSTILE, "aliases": [HOSTILE], "mac": "02:00:00:00:00:01", "addresses": [],
                "tap": HOSTILE, "netns": HOSTILE, "mtu": 0, "carried": true,
            }],
            "members": [{
                "id": HOSTILE, "name": HOSTILE, "aliases": [HOSTILE], "node": HOSTILE,
                "mac": "02:00:00:00:00:01", "addresses": [],
            }],
            "addresses": [],
        })),
        Call::PruneNetworks(_) => Ok(json!({ "removed": [HOSTILE] })),
        Call::Networks => Ok(json!([network(HOSTILE)])),
        Call::Tasks => Ok(json!([task(HOSTILE)])),
        Call::Services => Ok(json!([service(HOSTILE)])),
        Call::Service(_) => Ok(service(HOSTILE)),
        Call::ServiceTasks(_) => Ok(json!([service_task(HOSTILE)])),
        _ => Err(Refusal::new(Code::Conflict, format!("{HOSTILE} uses it"))),
    })?;
    for arguments in [
        &["node", "ls"][..],
        &["node", "ls", "--no-trunc"],
        &["node", "ls", "--format", "json"],
        &["node", "inspect", "x"],
        &["node", "inspect", "--pretty", "x"],
        &["network", "ls"],
        &["network", "ls", "-q"],
        &["network", "ls", "--format", "json"],
        &["network", "ls", "--format", "{{.Name}} {{.Labels}} {{.Conflicts}}"],
        &["network", "inspect", "x"],
        &["network", "rm", "x"],
        &["network", "prune", "-f"],
        &["ps", "-a", "--no-trunc"],
        &["ps", "-a", "--format", "json"],
        &["run", "--network", "x", "true"],
        &["rm", "x"],
        &["service", "ls"],
        &["service", "ls", "--no-trunc"],
        &["service", "ls", "--format", "json"],
        &["service", "ls", "--format", "{{.ID}} {{.Command}} {{.Networks}}"],
        &["service", "ps", "--no-trunc", "x"],
        &["service", "ps", "--format", "json", "x"],
        &["service", "ps", "--format", "{{.Name}} {{.Node}} {{.CurrentState}}", "x"],
        &["service", "inspect", "x"],
        &["service", "inspect", "--pretty", "x"],
        &["service", "inspect", "--format", "json", "x"],
        &["service", "inspect", "--format", "{{.ID}} {{json .Networks}}", "x"],
        &["service", "create", "--name", "x"],
        &["service", "update", "--replicas", "2", "x"],
        &["service", "rm", "x"],
    ] {
        let output = daemon.run(arguments)?;
        let (said, failed) = (text(&output.stdout), text(&output.stderr));
        let harmless = |c: char| (!c.is_control() || c == '\n') && c != '\u{202e}';
        ensure!(said.chars().all(harmless) && failed.chars().all(harmless), "{arguments:?}: {output:?}");
        ensure!(said.contains("[2J") || failed.contains("[2J"), "{arguments:?} showed it: {output:?}");
    }
    let listed = daemon.run(&["node", "ls", "--format", "json"])?;
    ensure!(serde_json::from_slice::<Value>(&listed.stdout)?["name"] == HOSTILE, "JSON says the same");
    Ok(())
}

#[test]
fn the_routing_meshs_network_is_not_removed_unasked() -> Result<()> {
    let daemon = Daemon::start("ingress", |call| match call {
        Call::Networks => {
            let mut ingress = network("ingress");
            ingress["options"]["ingress"] = json!(true);
            Ok(json!([ingress, network("front")]))
        }
        Call::RemoveNetwork(_) => Ok(Value::Null),
        other => Err(Refusal::new(Code::Internal, format!("unexpected: {other:?}"))),
    })?;
    // Nobody answers at the end of the input: the others are removed all the same.
    let removed = daemon.run(&["network", "rm", "ingress", "front"])?;
    ensure!(removed.status.success() && removed.stdout == b"front\n", "{removed:?}");
    ensure!(text(&removed.stderr).contains("ingress is the routing mesh's network"), "{removed:?}");
    ensure!(daemon.calls() == ["GET /v1/networks", "DELETE /v1/networks/front"]);
    let gone = daemon.run(&["network", "rm", "--force", "side"])?;
    ensure!(gone.status.success() && gone.stdout.is_empty() && gone.stderr.is_empty(), "{gone:?}");
    let pruned = daemon.run(&["network", "prune"])?;
    ensure!(pruned.status.success() && text(&pruned.stderr).contains("[y/N]"), "{pruned:?}");
    ensure!(daemon.calls() == ["GET /v1/networks"], "nothing was pruned");
    Ok(())
}

#[test]
fn what_is_watched_is_what_there_is() -> Result<()> {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    // Its task comes to run, and then it is removed.
    let daemon = Daemon::start("watch", |call| match call {
        Call::ServiceTasks(name) if name.as_str() == "w1" => match LOOKS.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => Ok(json!([service_task("starting")])),
            2 => Ok(json!([service_task("running")])),
            _ => Err(Refusal::new(Code::NotFound, "there is no service w1")),
        },
        _ => Err(Refusal::new(Code::NotFound, "there is no service nope")),
    })?;
    let nothing = daemon.run(&["service", "ps", "--watch", "nope"])?;
    ensure!(nothing.status.code() == Some(1) && nothing.stdout.is_empty(), "{nothing:?}");
    ensure!(text(&nothing.stderr) == "vswitchd: there is no service nope\n", "{nothing:?}");
    ensure!(daemon.calls().len() == 1);
    let watched = daemon.run(&["service", "ps", "--watch", "--format", "json", "w1", "nope"])?;
    ensure!(watched.status.code() == Some(1), "{watched:?}");
    let states =
        text(&watched.stdout).lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["state"].take()));
    ensure!(states.collect::<Result<Vec<_>>>()? == ["starting", "running"], "each change once: {watched:?}");
    let said = "vswitchd: there is no service nope\nvswitchd: there is no service w1\n";
    ensure!(text(&watched.stderr) == said, "{watched:?}");
    ensure!(
        daemon.calls().iter().filter(|call| call.contains("nope")).count() == 1,
        "it is not asked for again"
    );
    Ok(())
}

#[test]
fn who_waits_hears_of_ports_that_nodes_can_not_have() -> Result<()> {
    let daemon = Daemon::start("ports", |call| match call {
        Call::CreateService(_) => Ok(json!({ "id": "s1" })),
        Call::Service(_) | Call::UpdateService(..) => {
            let mut service = service("sleep");
            service["unbound"] = json!([unbound("one"), unbound("two")]);
            Ok(if matches!(call, Call::Service(_)) { service } else { Value::Null })
        }
        Call::ServiceTasks(_) => Ok(json!([service_task("running")])),
        Call::Services => Ok(json!([service("one")])),
        other => Err(Refusal::new(Code::Internal, format!("unexpected: {other:?}"))),
    })?;
    let line = |node| format!("vswitchd: service web runs, but {node} does not listen on 80/tcp: {node}\n");
    for arguments in [
        &["service", "create", "-q", "--name", "web", "sleep", "1d"][..],
        &["service", "update", "-q", "--replicas", "1", "web"],
    ] {
        let output = daemon.run(arguments)?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        ensure!(text(&output.stderr) == line("one") + &line("two"), "{output:?}");
    }
    let listed = daemon.run(&["service", "ls"])?;
    let table: Vec<&str> = text(&listed.stdout).lines().collect();
    ensure!(table[0].ends_with("  NOT LISTENING") && table[1].ends_with("  80/tcp on one"), "{table:?}");
    Ok(())
}

#[test]
fn wrong_usage_is_told_without_asking() -> Result<()> {
    let daemon = Daemon::start("usage", |_| Ok(Value::Null))?;
    for (arguments, reason) in [
        (&["node", "ls", "--filter", "label=x"][..], "want role=, status=, name= or id="),
        (&["node", "rm", "a b"], "letters, digits"),
        (&["cluster", "update"], "nothing to change"),
        (&["cluster", "update", "--data-path-port", "80"], "1024 to 49151"),
        (&["init", "--default-addr-pool", "10.0.0.0/8,10.1.0.0/16"], "10.0.0.0/8 and 10.1.0.0/16 overlap"),
        (&["init", "--default-addr-pool", "10.1.2.3/8"], "do you mean 10.0.0.0/8?"),
        (&["init", "--default-addr-pool-mask-length", "30"], "want /8 to /29"),
        (&["network", "create", "--opt", "colour=red", "x"], "want encrypted"),
        (&["network", "create", "--gateway", "10.0.9.1", "x"], "give the --subnet"),
        (&["network", "create", "--subnet", "10.0.9.1/24", "x"], "do you mean 10.0.9.0/24?"),
        (&["network", "ls", "--filter", "colour=red"], "want driver="),
        (&["network", "ls", "--format", "{{.Colour}}"], "no such field"),
        (&["network", "prune", "--filter", "name=x"], "want until= or label="),
        (&["network", "create", "--vni", "16777216", "x"], "16777215"),
        (&["run", "true"], "--network"),
        (&["run", "--network", "front"], "COMMAND"),
        (&["run", "--network", "front,colour=red", "true"], "want alias=, ip= or mac="),
        (&["run", "--network", "front", "--detach-keys", "ctrl-1", "true"], "want keys such as"),
        (&["kill", "--signal", "NONE", "x"], "no signal NONE"),
        (&["ps", "--filter", "colour=red"], "want status="),
        (&["logs", "--tail", "few", "x"], "want a number of lines"),
        (&["attach", "--network", "front", "amber"], "cannot be used with"),
        (&["attach"], "required"),
        (&["service", "ps", "--format", "{{.Ports}}", "x"], "no such field"),
        (&["service", "inspect", "--format", "{{range .Spec}}", "x"], "want a field such as"),
        (&["service", "inspect", "--format", "json", "--pretty", "x"], "cannot be used with"),
        (
            &["service", "create", "--name", "v", "--replicas", "1000000000"],
            "want a number of tasks, 0 to 1000",
        ),
        (&["service", "update", "v", "--replicas", "1001"], "want a number of tasks, 0 to 1000"),
        (&["service", "scale", "v=1001"], "want a number of tasks, 0 to 1000"),
        (&["service", "create", "--name", ""], "want 1 to 45 letters"),
        (&["service", "create", "--name", "a.b"], "want 1 to 45 letters"),
        (&["service", "update", "v", "--rollback", "-d"], "unexpected argument '--rollback'"),
        (&["service", "update", "v", "-d", "--image", "nginx:2"], "unexpected argument '--image'"),
        (&["service", "create", "--name", "v", "--tmpfs", "/x", "-d"], "unexpected argument '--tmpfs'"),
    ] {
        let output = daemon.run(arguments)?;
        ensure!(output.status.code() == Some(2), "{arguments:?}: {output:?}");
        ensure!(text(&output.stderr).contains(reason), "{arguments:?}: {output:?}");
    }
    ensure!(daemon.calls().is_empty());
    Ok(())
}
