//! `vswitchd daemon` and its commands as a user runs them.
//!
//! What needs a second user runs as root only; elsewhere it says so, and fails if `CI=true`.

mod processes;

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;

use processes::{family, is_alive, wait_until};
use ring::rand::SystemRandom;
use vswitchd::api::BODY_MAX;
use vswitchd::crypto::ca::{Ca, Root};
use vswitchd::crypto::identity::{PrivateKey, Role};

/// Long enough for anything that happens at all, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("vswitchd-cluster-{name}-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn given_to(self, user: Option<u32>) -> Result<Self> {
        if let Some(user) = user {
            chown(&self.0, Some(user), Some(user))?;
        }
        Ok(self)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of a failed test is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program, in a home of its own, under a user of its own if there is one.
fn vswitchd(home: &Path, user: Option<u32>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vswitchd"));
    command.args(arguments).stdin(Stdio::null()).env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run"));
    for name in
        ["VSWITCHD_CONFIG", "VSWITCHD_LOG_LEVEL", "VSWITCHD_SOCKET", "VSWITCHD_SOCKET_GROUP", "VSWITCHD_DNS"]
    {
        command.env_remove(name);
    }
    for name in ["VSWITCHD_STATE_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "NOTIFY_SOCKET"] {
        command.env_remove(name);
    }
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    command
}

/// A daemon that has said that it is ready; killed at the end if a test fails.
struct Daemon {
    child: Child,
    manager: UnixDatagram,
    home: PathBuf,
    user: Option<u32>,
}

impl Daemon {
    fn start(scratch: &Scratch, user: Option<u32>, arguments: &[&str]) -> Result<Self> {
        let socket = scratch.path("notify");
        // One of a daemon that was killed before.
        let _ = fs::remove_file(&socket);
        let manager = UnixDatagram::bind(&socket)?;
        fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
        manager.set_read_timeout(Some(PATIENCE))?;
        let mut command = vswitchd(&scratch.0, user, &[&["daemon"], arguments].concat());
        let child = command.env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped()).spawn()?;
        let daemon = Self { child, manager, home: scratch.0.clone(), user };
        daemon.hear("READY=1")?;
        Ok(daemon)
    }

    /// In a directory of its own: `state` and `api.sock` of the scratch.
    fn usual(scratch: &Scratch) -> Result<Self> {
        let (state, socket) = (scratch.path("state"), scratch.path("api.sock"));
        Self::start(scratch, None, &["--state-dir", text(&state)?, "--socket", text(&socket)?])
    }

    fn hear(&self, expected: &str) -> Result<()> {
        let mut said = [0; 64];
        // With a timeout it is interrupted when this process is stopped and goes on (signal(7)).
        let len = loop {
            match self.manager.recv(&mut said) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                outcome => break outcome.with_context(|| format!("waiting for {expected}"))?,
            }
        };
        ensure!(&said[..len] == expected.as_bytes(), "{:?}", String::from_utf8_lossy(&said[..len]));
        Ok(())
    }

    fn ask(&self, arguments: &[&str]) -> Result<Output> {
        output(&mut vswitchd(&self.home, self.user, arguments))
    }

    /// Ends it as systemd does; gives what it logged.
    fn stop(mut self, signal: Signal) -> Result<String> {
        let all = family(self.child.id())?;
        kill_process(Pid::from_child(&self.child), signal)?;
        self.hear("STOPPING=1")?;
        let mut log = String::new();
        self.child.stderr.take().context("stderr is piped")?.read_to_string(&mut log)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {log}");
        wait_until("all its processes end", || Ok(!all.iter().any(|&pid| is_alive(pid))))?;
        Ok(log)
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It has ended in a test that passed; else the test has already failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("scratch paths are UTF-8")
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().context("starting vswitchd")
}

/// That it failed, with this exit code and one line that holds all of these.
fn refused(output: &Output, code: i32, parts: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{:?}: {said}", output.status);
    ensure!(said.lines().count() == 1, "more than a line: {said}");
    for part in parts {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    Ok(())
}

/// Whether this is root; if not, it says that the test is skipped.
fn is_root() -> Result<bool> {
    let root = geteuid().is_root();
    if !root {
        ensure!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "with CI=true it must run as root");
        eprintln!("\nTHIS TEST NEEDS ROOT TO BE SOMEBODY ELSE, AND IS SKIPPED\n");
    }
    Ok(root)
}

#[test]
fn a_daemon_answers_and_leaves_only_its_state() -> Result<()> {
    let scratch = Scratch::new("answers")?;
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = Daemon::usual(&scratch)?;
        let status = daemon.ask(&["status", "-H", text(&scratch.path("api.sock"))?, "--format", "json"])?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        ensure!(status["pid"] == daemon.child.id(), "{status}");
        ensure!(status["version"] == env!("CARGO_PKG_VERSION"), "{status}");
        let log = daemon.stop(signal)?;
        ensure!(log.contains("INFO") && log.contains("stopping"), "{log}");
        let mut left: Vec<_> =
            fs::read_dir(&scratch.0)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
        left.sort();
        ensure!(left == ["notify", "state"], "{left:?}");
        let state: Vec<_> = fs::read_dir(scratch.path("state"))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        ensure!(state == ["format"], "{state:?}");
    }
    Ok(())
}

#[test]
fn an_ordinary_user_needs_no_arguments() -> Result<()> {
    let user = geteuid().is_root().then_some(NOBODY);
    let scratch = Scratch::new("user")?.given_to(user)?;
    fs::create_dir(scratch.path("run"))?;
    if let Some(user) = user {
        chown(scratch.path("run"), Some(user), Some(user))?;
    }
    let daemon = Daemon::start(&scratch, user, &[])?;
    let status = daemon.ask(&["status"])?;
    let said = String::from_utf8_lossy(&status.stdout);
    ensure!(status.status.success(), "{status:?}");
    ensure!(said.contains(".local/state/vswitchd") && said.contains("run/vswitchd/vswitchd.sock"), "{said}");
    let mode =
        |name: &str| Ok::<_, anyhow::Error>(fs::metadata(scratch.path(name))?.permissions().mode() & 0o7777);
    ensure!(mode(".local/state/vswitchd")? == 0o700);
    ensure!(mode("run/vswitchd/vswitchd.sock")? == 0o600);
    daemon.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn an_ordinary_users_tasks_have_namespaces_and_one_user() -> Result<()> {
    let user = geteuid().is_root().then_some(NOBODY);
    let scratch = Scratch::new("user-task")?.given_to(user)?;
    let socket = scratch.path("api.sock");
    let socket = text(&socket)?;
    let daemon = Daemon::start(&scratch, user, &["--socket", socket])?;
    let run = |options: &[&str], script: &str| {
        let first = ["run", "--rm", "--network", "none", "--workdir", "/", "-H", socket];
        daemon.ask(&[&first, options, &["sh", "-c", script]].concat())
    };
    let seen = run(&["--hostname", "quince"], "id -u; hostname; cat /etc/hostname; ls /sys/class/net")?;
    if !seen.status.success() && std::env::var_os("CI").is_none_or(|ci| ci != "true") {
        eprintln!("\nAN ORDINARY USER CAN'T HAVE TASKS HERE: {}", String::from_utf8_lossy(&seen.stderr));
        return daemon.stop(Signal::TERM).map(drop);
    }
    ensure!(seen.stdout == b"0\nquince\nquince\nlo\n", "{seen:?}");
    refused(&run(&["--user", "4711"], "true")?, 125, &["--user 4711", "not root", "say 0"])?;
    ensure!(run(&["--user", "0"], "exit 3")?.status.code() == Some(3));
    daemon.stop(Signal::TERM).map(drop)
}

#[test]
fn two_daemons_share_nothing() -> Result<()> {
    let scratch = Scratch::new("two")?;
    let first = Daemon::usual(&scratch)?;
    let (state, socket) = (scratch.path("state"), scratch.path("api.sock"));
    let (state2, socket2) = (scratch.path("state2"), scratch.path("api2.sock"));
    let pid = format!("(process {})", first.child.id());
    let same_state = first.ask(&["daemon", "--state-dir", text(&state)?, "--socket", text(&socket2)?])?;
    refused(&same_state, 1, &["another daemon uses", &pid, "--state-dir"])?;
    let same_socket = first.ask(&["daemon", "--state-dir", text(&state2)?, "--socket", text(&socket)?])?;
    refused(&same_socket, 1, &["another daemon listens", &pid, "--socket"])?;
    let second = Scratch::new("second")?;
    let other = Daemon::start(&second, None, &["--state-dir", text(&state2)?, "--socket", text(&socket2)?])?;
    for (socket, daemon) in [(&socket, &first), (&socket2, &other)] {
        let status = daemon.ask(&["status", "-H", text(socket)?, "--format", "json"])?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        ensure!(status["pid"] == daemon.child.id(), "{status}");
    }
    other.stop(Signal::TERM)?;
    first.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn a_killed_daemon_is_replaced() -> Result<()> {
    let scratch = Scratch::new("killed")?;
    Daemon::usual(&scratch)?.kill()?;
    let socket = scratch.path("api.sock");
    ensure!(socket.exists(), "a killed daemon cleans nothing up");
    let gone = output(&mut vswitchd(&scratch.0, None, &["status", "-H", text(&socket)?]))?;
    refused(&gone, 1, &["no daemon answers", "vswitchd daemon", "-H"])?;
    let again = Daemon::usual(&scratch)?;
    ensure!(again.ask(&["status", "-H", text(&socket)?])?.status.success());
    again.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn state_that_others_could_read_is_refused() -> Result<()> {
    let scratch = Scratch::new("modes")?;
    let (state, socket) = (scratch.path("state"), scratch.path("api.sock"));
    fs::create_dir(&state)?;
    fs::set_permissions(&state, Permissions::from_mode(0o755))?;
    let arguments = ["daemon", "--state-dir", text(&state)?, "--socket", text(&socket)?];
    let start = || output(&mut vswitchd(&scratch.0, None, &arguments));
    refused(&start()?, 1, &["mode 0755", "chmod go="])?;
    fs::set_permissions(&state, Permissions::from_mode(0o700))?;
    fs::write(state.join("diary"), "")?;
    refused(&start()?, 1, &["not empty and no state of vswitchd"])?;
    fs::remove_file(state.join("diary"))?;
    fs::write(state.join("format"), "vswitchd state 99\n")?;
    fs::set_permissions(state.join("format"), Permissions::from_mode(0o600))?;
    refused(&start()?, 1, &["format 99", "newer"])?;
    ensure!(!socket.exists());
    Ok(())
}

#[test]
fn anothers_state_is_refused() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let scratch = Scratch::new("owner")?;
    let state = scratch.path("state");
    fs::create_dir(&state)?;
    fs::set_permissions(&state, Permissions::from_mode(0o700))?;
    chown(&state, Some(NOBODY), None)?;
    let start = output(&mut vswitchd(&scratch.0, None, &["daemon", "--state-dir", text(&state)?]))?;
    refused(&start, 1, &["belongs to user 65534, not to 0"])
}

#[test]
fn strangers_are_refused() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let scratch = Scratch::new("strangers")?;
    let daemon = Daemon::usual(&scratch)?;
    let socket = scratch.path("api.sock");
    let as_stranger = || output(&mut vswitchd(&scratch.0, Some(NOBODY), &["status", "-H", text(&socket)?]));
    refused(&as_stranger()?, 1, &["this user may not talk", "--socket-group"])?;
    // Somebody has opened the file to all: the daemon still asks who it is.
    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    refused(&as_stranger()?, 1, &["user 65534 may not talk to this daemon"])?;
    daemon.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn a_group_is_let_in() -> Result<()> {
    if !is_root()? {
        return Ok(());
    }
    let scratch = Scratch::new("group")?;
    let (state, socket) = (scratch.path("state"), scratch.path("api.sock"));
    let group = NOBODY.to_string();
    let arguments = ["--state-dir", text(&state)?, "--socket", text(&socket)?, "--socket-group", &group];
    let daemon = Daemon::start(&scratch, None, &arguments)?;
    let member = output(&mut vswitchd(&scratch.0, Some(NOBODY), &["status", "-H", text(&socket)?]))?;
    ensure!(member.status.success(), "{member:?}");
    let stranger = output(vswitchd(&scratch.0, Some(NOBODY), &["status", "-H", text(&socket)?]).gid(4_711))?;
    refused(&stranger, 1, &["this user may not talk"])?;
    daemon.stop(Signal::TERM)?;
    Ok(())
}

/// The whole answer to bytes that are no usual request.
fn answer(socket: &Path, request: &[u8]) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may be refused before its end.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error.into()),
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn the_api_refuses_what_it_does_not_understand() -> Result<()> {
    let scratch = Scratch::new("api")?;
    let daemon = Daemon::usual(&scratch)?;
    let socket = scratch.path("api.sock");
    let (len, body) = (BODY_MAX + 1, "x".repeat(BODY_MAX + 1));
    let long = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: {len}\r\n\r\n{body}");
    let chunk = format!("{len:x}\r\n{body}\r\n");
    let chunked =
        format!("GET /v1/status HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    let many = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100));
    let wide = format!("GET /v1/{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    for (request, status, part) in [
        ("GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", "200", r#""pid":"#),
        ("GET /v1/nothing HTTP/1.1\r\nhost: x\r\n\r\n", "404", r#"{"error":"not-found","message":""#),
        ("GET /v7/status HTTP/1.1\r\nhost: x\r\n\r\n", "404", "begin with /v1/"),
        ("PUT /v1/status HTTP/1.1\r\nhost: x\r\n\r\n", "405", r#""error":"method-not-allowed""#),
        (
            "GET /v1/status HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
            "400",
            r#""error":"bad-request""#,
        ),
        (&long, "413", r#""error":"too-large""#),
        (&chunked, "413", r#""error":"too-large""#),
        (&many, "431", ""),
        (&wide, "4", ""),
        ("\u{0}\u{1}\u{2}\r\n\r\n", "400", ""),
    ] {
        let answer = answer(&socket, request.as_bytes())?;
        let start: String = request.chars().take(60).collect();
        ensure!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{start:?}: {answer:?}");
        ensure!(answer.contains(part), "{start:?}: {answer:?}");
    }
    ensure!(answer(&socket, b"")?.is_empty());
    let alive = daemon.ask(&["status", "-H", text(&socket)?])?;
    ensure!(alive.status.success(), "{alive:?}");
    daemon.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn the_idle_make_others_wait_and_no_more() -> Result<()> {
    let scratch = Scratch::new("idle")?;
    let daemon = Daemon::usual(&scratch)?;
    let socket = scratch.path("api.sock");
    let mut idle = Vec::new();
    for _ in 0..100 {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(b"GET /v1/sta")?;
        idle.push(stream);
    }
    let status = daemon.ask(&["status", "-H", text(&socket)?])?;
    ensure!(status.status.success(), "{status:?}");
    daemon.stop(Signal::TERM)?;
    Ok(())
}

#[test]
fn configuration_is_checked_before_it_is_used() -> Result<()> {
    let scratch = Scratch::new("config")?;
    let file = scratch.path("vswitchd.toml");
    let check = |arguments: &[&str]| output(&mut vswitchd(&scratch.0, None, arguments));
    fs::write(&file, "state-dir = \"/srv/one\"\nlog-level = \"loud\"\n")?;
    let place = format!("{}:2: log-level: \"loud\"", file.display());
    refused(&check(&["config", "check", text(&file)?])?, 2, &[&place])?;
    refused(&check(&["daemon", "--config", text(&file)?])?, 2, &[&place])?;
    fs::write(&file, "state-dir = \"/srv/one\"\nlog-level = \"warn\"\n")?;
    let valid = check(&["config", "check", text(&file)?, "--format", "json"])?;
    let shown: Value = serde_json::from_slice(&valid.stdout)?;
    ensure!(shown["settings"]["state-dir"]["value"] == "/srv/one", "{shown}");
    ensure!(shown["settings"]["log-level"]["where"] == format!("{}:2", file.display()), "{shown}");
    ensure!(shown["settings"]["socket-group"]["value"].is_null(), "{shown}");
    let people = check(&["config", "check", text(&file)?])?;
    let said = String::from_utf8_lossy(&people.stdout);
    let mut lines = said.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    ensure!(lines.any(|line| line == ["log-level", "warn"]), "{people:?}");
    refused(
        &check(&["config", "check", text(&scratch.path("none.toml"))?])?,
        2,
        &["--config: can't be read"],
    )?;
    refused(&check(&["status", "-H", &format!("/{}", "x".repeat(200))])?, 2, &["--socket: socket: ", "107"])
}

/// A daemon with a directory of its own, and a place on the loopback where it lets nodes in.
struct Host {
    daemon: Daemon,
    scratch: Scratch,
    listen: String,
    /// Of its gossip.
    port: String,
}

impl Host {
    fn start(name: &str) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        let daemon = Daemon::usual(&scratch)?;
        // Nobody has it now, and ports are given out in turn.
        let [listen, gossip] = [(), ()].map(|()| std::net::TcpListener::bind("127.0.0.1:0"));
        let listen = listen?.local_addr()?.to_string();
        let port = gossip?.local_addr()?.port().to_string();
        Ok(Self { daemon, scratch, listen, port })
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let socket = self.scratch.path("api.sock");
        output(vswitchd(&self.scratch.0, None, arguments).env("VSWITCHD_SOCKET", socket))
    }

    fn init(&self) -> Result<String> {
        let place = ["--listen-addr", &self.listen, "--gossip-port", &self.port, "--name", "first"];
        said(&self.run(&[&["init"], &place[..]].concat())?)
    }

    fn token(&self, arguments: &[&str]) -> Result<String> {
        Ok(said(&self.run(&[&["token", "-q"], arguments].concat())?)?.trim().to_owned())
    }

    fn join(&self, token: &str, manager: &str) -> Result<Output> {
        let place = ["--listen-addr", &self.listen, "--gossip-port", &self.port];
        self.run(&[&["join", "--token", token, manager], &place[..]].concat())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&said(&self.run(&["status", "--format", "json"])?)?)?)
    }

    fn cluster(&self) -> Result<Value> {
        let mut cluster = self.status()?["cluster"].clone();
        // What grows with time, or is not there yet.
        if let Some(parts) = cluster.as_object_mut() {
            parts.retain(|name, _| {
                !["gossip", "keys", "data", "managers", "refused_connections"].contains(&name.as_str())
            });
        }
        Ok(cluster)
    }

    fn restart(self) -> Result<Self> {
        let Self { daemon, scratch, listen, port } = self;
        daemon.kill()?;
        Ok(Self { daemon: Daemon::usual(&scratch)?, scratch, listen, port })
    }

    fn stop(self) -> Result<()> {
        let log = self.daemon.stop(Signal::TERM)?;
        ensure!(!log.contains("VSWTKN-1-") && !log.contains("panicked"), "{log}");
        Ok(())
    }
}

/// What a command that did well has said.
fn said(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout.clone())?)
}

#[test]
fn nodes_join_and_come_back() -> Result<()> {
    let [first, second, third] = ["join-1", "join-2", "join-3"].map(Host::start);
    let (first, second, third) = (first?, second?, third?);
    let made = first.init()?;
    let line =
        made.lines().find_map(|line| line.trim().strip_prefix("vswitchd ")).context("a line to paste")?;
    let pasted: Vec<&str> =
        line.split(' ').chain(["--listen-addr", &second.listen, "--gossip-port", &second.port]).collect();
    ensure!(pasted.last().is_some() && line.ends_with(&first.listen), "{line}");
    ensure!(said(&second.run(&pasted)?)?.contains("joined the cluster as a worker"));
    let manager_token = first.token(&["manager"])?;
    ensure!(said(&third.join(&manager_token, &first.listen)?)?.contains("as a manager"));
    let before = [first.cluster()?, second.cluster()?, third.cluster()?];
    ensure!(before.iter().all(|cluster| cluster["id"] == before[0]["id"]), "{before:?}");
    let nodes: std::collections::HashSet<_> =
        before.iter().map(|cluster| cluster["node"].to_string()).collect();
    ensure!(nodes.len() == 3, "{before:?}");
    refused(&second.run(&["token", "worker"])?, 1, &["this node is a worker", &first.listen])?;
    let [first, second, third] = [first, second, third].map(Host::restart);
    let (first, second, third) = (first?, second?, third?);
    ensure!([first.cluster()?, second.cluster()?, third.cluster()?] == before);
    ensure!(third.token(&["manager"])? == manager_token);
    // The second manager lets nodes in, too, once it has its port again.
    let fourth = Host::start("join-4")?;
    let token = first.token(&["worker"])?;
    wait_until("the restarted manager lets a node in", || {
        Ok(fourth.join(&token, &third.listen)?.status.success())
    })?;
    for host in [first, second, third, fourth] {
        host.stop()?;
    }
    Ok(())
}

#[test]
fn who_may_not_join_hears_why() -> Result<()> {
    let (ours, theirs, stranger) = (Host::start("why-1")?, Host::start("why-2")?, Host::start("why-3")?);
    refused(&stranger.run(&["token", "worker"])?, 1, &["in no cluster", "vswitchd init"])?;
    ours.init()?;
    theirs.init()?;
    refused(&ours.run(&["init", "--listen-addr", &stranger.listen])?, 1, &["in a cluster already", "leave"])?;
    let old = ours.token(&["worker"])?;
    let new = ours.token(&["worker", "--rotate"])?;
    ensure!(old != new && old[..60] == new[..60], "the CA stays");
    let counted = || Ok::<_, anyhow::Error>(ours.status()?["cluster"]["refused_connections"].as_u64());
    ensure!(counted()? == Some(0));
    refused(&stranger.join(&old, &ours.listen)?, 1, &["not, or no longer, valid", "vswitchd token"])?;
    wait_until("it is counted", || Ok(counted()? == Some(1)))?;
    refused(&stranger.join(&new, &theirs.listen)?, 1, &["CA is not the token's"])?;
    refused(&stranger.join(&new, &stranger.listen)?, 1, &["unreachable", "refused"])?;
    refused(&stranger.join("VSWTKN-1-x", &ours.listen)?, 1, &["join token"])?;
    refused(&stranger.join(&new, "no-such-host.invalid")?, 1, &["the name has no address"])?;
    // A server that speaks first, and no TLS.
    let other = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = other.local_addr()?.to_string();
    let speaker = std::thread::spawn(move || {
        let (mut stream, _) = other.accept()?;
        stream.write_all(b"220 mail.example ready\r\n")?;
        // Until the other end has gone.
        stream.read_to_end(&mut Vec::new()).or(Ok::<_, std::io::Error>(0))
    });
    refused(&stranger.join(&new, &address)?, 1, &["another version of the protocol, or is not vswitchd"])?;
    speaker.join().expect("it doesn't panic")?;
    // The first that lets it in counts, and the token may come by a file.
    let file = stranger.scratch.path("token");
    fs::write(&file, format!("{new}\n"))?;
    let arguments = ["join", "--token-file", text(&file)?, &stranger.listen, &ours.listen];
    ensure!(
        said(&stranger.run(
            &[&arguments, &["--listen-addr", &stranger.listen, "--gossip-port", &stranger.port][..]].concat()
        )?)?
        .contains("worker")
    );
    for host in [ours, theirs, stranger] {
        host.stop()?;
    }
    Ok(())
}

#[test]
fn leaving_forgets() -> Result<()> {
    let (first, second) = (Host::start("leave-1")?, Host::start("leave-2")?);
    refused(&first.run(&["leave"])?, 1, &["in no cluster"])?;
    first.init()?;
    let token = first.token(&["worker"])?;
    said(&second.join(&token, &first.listen)?)?;
    let before = second.cluster()?["node"].clone();
    said(&second.run(&["leave"])?)?;
    ensure!(second.cluster()?.is_null());
    let state: Vec<_> = fs::read_dir(second.scratch.path("state"))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<_>>()?;
    ensure!(state.len() == 2 && state.iter().all(|name| name == "format" || name == "lock"), "{state:?}");
    said(&second.join(&token, &first.listen)?)?;
    ensure!(second.cluster()?["node"] != before, "another membership, another id");
    refused(&first.run(&["leave"])?, 1, &["is a manager", "--force"])?;
    said(&first.run(&["leave", "--force"])?)?;
    let refused_now = Host::start("leave-3")?;
    refused(&refused_now.join(&token, &first.listen)?, 1, &["unreachable"])?;
    for host in [first, second, refused_now] {
        host.stop()?;
    }
    Ok(())
}

#[test]
fn strangers_at_the_door_do_no_harm() -> Result<()> {
    let host = Host::start("door")?;
    host.init()?;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(std::net::TcpStream::connect(&host.listen)?);
    }
    let mut garbage = std::net::TcpStream::connect(&host.listen)?;
    garbage.write_all(&[0x16; 4_096])?;
    garbage.set_read_timeout(Some(PATIENCE))?;
    // An alert, and the end; or the end at once.
    let _ = garbage.read_to_end(&mut Vec::new());
    let node = Host::start("door-2")?;
    said(&node.join(&host.token(&["worker"])?, &host.listen)?)?;
    node.stop()?;
    host.stop()
}

#[test]
fn a_worker_has_its_certificate_renewed() -> Result<()> {
    const DAY: Duration = Duration::from_secs(86_400);
    let (first, second) = (Host::start("renew-1")?, Host::start("renew-2")?);
    first.init()?;
    said(&second.join(&first.token(&["worker"])?, &first.listen)?)?;
    let before = second.cluster()?;
    let Host { daemon, scratch, listen, port } = second;
    daemon.kill()?;
    // The one that it would have if it had joined seventy days ago.
    let authority = |name: &str| fs::read(first.scratch.path("state").join(name));
    let own = |name: &str| scratch.path("state").join(name);
    let root = Root::from_der(&authority("ca.crt")?)?;
    let ca = Ca::new(root, PrivateKey::from_der(&authority("ca.key")?)?)?;
    let request = PrivateKey::from_der(&fs::read(own("node.key"))?)?.request();
    let node = before["node"].as_str().context("an id")?.parse()?;
    let then = SystemTime::now() - 70 * DAY;
    fs::write(own("node.crt"), ca.issue(&request, node, Role::Worker, then, &SystemRandom::new())?)?;
    let second = Host { daemon: Daemon::usual(&scratch)?, scratch, listen, port };
    let renewed = (SystemTime::now() + 80 * DAY).duration_since(UNIX_EPOCH)?.as_secs();
    wait_until("it has a new one", || {
        Ok(second.cluster()?["certificate_until"].as_u64().is_some_and(|until| until > renewed))
    })?;
    let kept = second.cluster()?;
    ensure!(kept["node"] == before["node"] && kept["role"] == "worker", "{kept}");
    let second = second.restart()?;
    ensure!(second.cluster()? == kept);
    second.stop()?;
    first.stop()
}
