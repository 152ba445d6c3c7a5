//! Programs in tasks: what they see, what is seen of them, and what outlives what.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vswitchd::task::connection::{self, ConnectionError};
use vswitchd::task::frame::{Frame, Request};

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::{Host, refused};
use crate::fixture::VSWITCHD;

/// Ends tasks that a test has left: they outlive their daemon.
pub(super) struct Left(pub(super) Vec<PathBuf>);

impl Drop for Left {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("descriptors are left");
        let folders = self.0.iter().filter_map(|state| fs::read_dir(state.join("tasks")).ok());
        for folder in folders.flatten().flatten() {
            let directory = folder.path();
            let stopped = async { tokio::time::timeout(Duration::from_secs(5), stop(&directory)).await };
            // It has ended already in a test that passed.
            let _ended = runtime.block_on(stopped);
        }
    }
}

/// Ends a task, and waits until its keeper writes nothing to its directory any more.
async fn stop(directory: &Path) -> Result<(), ConnectionError> {
    let (mut receiver, mut sender) = connection::connect(directory).await?;
    sender.send(&Frame::Request(Request::Watch)).await?;
    connection::ask(directory, Request::Stop { number: 9, patience_ms: 0 }).await?;
    loop {
        receiver.reply().await?;
    }
}

/// What `vswitchd run` with these words does, apart from all networks.
fn run(host: &Host, options: &[&str], command: &[&str], input: &str) -> Result<Output> {
    host.ask(&[&["run", "--network", "none"], options, &["--"], command].concat(), input)
}

fn ended(output: &Output, code: i32, stdout: &str, stderr: &str) -> Result<()> {
    ensure!(output.status.code() == Some(code), "{output:?}");
    ensure!(output.stdout == stdout.as_bytes() && output.stderr == stderr.as_bytes(), "{output:?}");
    Ok(())
}

/// How `ps -a` shows a task.
fn shown(host: &Host, name: &str) -> Result<Value> {
    let all = host.json(&["ps", "-a", "--filter", &format!("name={name}")])?;
    all.into_iter().next().with_context(|| format!("{name} is listed"))
}

pub(super) fn programs() -> Result<()> {
    with_daemons("tasks", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        exit_codes(host)?;
        surroundings(host)?;
        life(host)
    })
}

fn exit_codes(host: &Host) -> Result<()> {
    let run = |command: &[&str], input: &str| run(host, &["--rm", "-i"], command, input);
    ended(&run(&["sh", "-c", "echo out; echo err >&2; exit 7"], "")?, 7, "out\n", "err\n")?;
    ended(&run(&["sh", "-c", "kill -9 $$"], "")?, 137, "", "")?;
    ended(&run(&["/etc/passwd"], "")?, 126, "", "vswitchd: /etc/passwd: Permission denied (os error 13)\n")?;
    ended(&run(&["/no/such"], "")?, 127, "", "vswitchd: /no/such: there is no such program\n")?;
    being_written(host)?;
    ended(&run(&["cat"], "all of it\n")?, 0, "all of it\n", "")?;
    much(host)?;
    let nobody = host.ask(&["run", "--network", "no-such", "true"], "")?;
    ensure!(nobody.status.code() == Some(125), "{nobody:?}");
    let left = host.say(&["ps", "-aq"])?;
    ensure!(left.is_empty(), "--rm removes, and what can't be made leaves nothing: {left}");
    Ok(())
}

/// Whoever writes to a program's file is done some time: that is no fault of the program.
fn being_written(host: &Host) -> Result<()> {
    let path = host.state.with_extension("written");
    fs::write(&path, "#!/bin/sh\n")?;
    fs::set_permissions(&path, Permissions::from_mode(0o700))?;
    let open = fs::File::options().append(true).open(&path)?;
    let program = path.to_str().context("UTF-8")?;
    let stderr = format!("vswitchd: {program}: Text file busy (os error 26)\n");
    ended(&run(host, &["--rm"], &[program], "")?, 125, "", &stderr)?;
    drop(open);
    // A process that was forked meanwhile may have it open until it runs a program.
    wait_until("nobody writes to it", || Ok(run(host, &["--rm"], &[program], "")?.status.success())).map(drop)
}

/// More than pipes and sockets hold, so that everybody has to wait for everybody.
fn much(host: &Host) -> Result<()> {
    let path = host.state.with_extension("much");
    let bytes: Vec<u8> = (0_u32..1_000_000).flat_map(u32::to_le_bytes).collect();
    fs::write(&path, &bytes)?;
    for (program, expected) in [("cat", &bytes[..]), ("true", &[])] {
        let mut command = Command::new(VSWITCHD);
        command.args(["run", "--rm", "-i", "--network", "none", program]);
        command.env("VSWITCHD_SOCKET", &host.socket).stdin(fs::File::open(&path)?);
        let output = command.output()?;
        ensure!(output.status.success() && output.stdout == expected, "{program}: {:?}", output.status);
    }
    Ok(())
}

fn surroundings(host: &Host) -> Result<()> {
    let options = ["--rm", "--hostname", "quince", "--env", "A=b c", "--workdir", "/usr"];
    let script = "hostname; cat /etc/hostname; echo $A; pwd; ls /sys/class/net; echo $PPID; cat /proc/1/comm";
    let output = run(host, &options, &["sh", "-c", script], "")?;
    let seen = "quince\nquince\nb c\n/usr\nlo\n0\nvswitchd\n";
    ended(&output, 0, seen, "")?;
    let path = host.state.with_extension("env");
    fs::write(&path, "# two\nB=1\n\nC=2\n")?;
    let file = path.to_str().context("UTF-8")?;
    let output = run(host, &["--rm", "--env-file", file, "--env", "C=3"], &["sh", "-c", "echo $B $C"], "")?;
    ended(&output, 0, "1 3\n", "")?;
    let output = run(host, &["--rm", "--user", "12:34"], &["sh", "-c", "id -u; id -g; id -G"], "")?;
    ended(&output, 0, "12\n34\n34\n", "")?;
    let orphan = run(host, &["--rm"], &["sh", "-c", "sleep 1000 & echo done"], "")?;
    ended(&orphan, 0, "done\n", "")
}

fn life(host: &Host) -> Result<()> {
    let script =
        "for i in 1 2 3; do echo $i; done; echo e >&2; trap 'exit 4' TERM; while :; do sleep 0.05; done";
    let started = run(host, &["-d", "--name", "amber"], &["sh", "-c", script], "")?;
    ensure!(started.status.success() && started.stdout.len() == 26, "{started:?}");
    wait_until("it has written", || Ok(host.say(&["logs", "amber"])? == "1\n2\n3\n"))?;
    ensure!(host.say(&["logs", "--tail", "1", "-t", "amber"])?.is_empty(), "the last line is an error's");
    let again = run(host, &["-d", "--name", "amber"], &["true"], "")?;
    ensure!(again.status.code() == Some(125), "{again:?}");
    let table = host.say(&["ps"])?;
    let line = table.lines().nth(1).context("one runs")?;
    ensure!(line.contains("\"sh -c for i in 1 2 …\"") && line.ends_with("amber"), "{table}");
    refused(&host.ask(&["rm", "amber"], "")?, &["amber is running", "vswitchd stop amber"])?;
    let exec = host.ask(&["exec", "-i", "-e", "X=y", "amber", "sh", "-c", "cat; echo $X; exit 6"], "in\n")?;
    ended(&exec, 6, "in\ny\n", "")?;
    let missing = host.ask(&["exec", "amber", "/no/such"], "")?;
    ensure!(missing.status.code() == Some(127), "{missing:?}");
    let mut followed = follow(host, "amber")?;
    ensure!(host.say(&["stop", "amber"])? == "amber\n" && host.say(&["wait", "amber"])? == "4\n");
    let mut seen = String::new();
    followed.stdout.take().context("it is piped")?.read_to_string(&mut seen)?;
    ensure!(seen == "1\n2\n3\n" && followed.wait()?.success(), "{seen}");
    ensure!(shown(host, "amber")?["exit_code"] == 4);
    ensure!(host.say(&["ps", "-a", "--filter", "exited=4"])?.contains("Exited (4)"));
    refused(&host.ask(&["kill", "amber"], "")?, &["amber is not running"])?;
    refused(&host.ask(&["exec", "amber", "true"], "")?, &["amber does not run"])?;
    ensure!(host.say(&["logs", "-f", "amber"])? == "1\n2\n3\n" && host.say(&["rm", "amber"])? == "amber\n");
    // Who does not hear SIGTERM is killed.
    run(host, &["-d", "--name", "deaf"], &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], "")?;
    ensure!(host.say(&["stop", "-t", "0", "deaf"])? == "deaf\n" && host.say(&["wait", "deaf"])? == "137\n");
    host.say(&["rm", "deaf"]).map(drop)
}

fn follow(host: &Host, task: &str) -> Result<Child> {
    let mut command = Command::new(VSWITCHD);
    command.args(["logs", "-f", task]).env("VSWITCHD_SOCKET", &host.socket);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
}

/// A signal to `vswitchd run` is the program's.
pub(super) fn signals() -> Result<()> {
    with_daemons("signals", 1, |daemons| {
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        let script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done";
        let mut command = Command::new(VSWITCHD);
        command.args(["run", "--rm", "-i", "--network", "none", "--", "sh", "-c", script]);
        command.env("VSWITCHD_SOCKET", &host.socket).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn()?;
        let mut up = [0; 3];
        client.stdout.as_mut().context("it is piped")?.read_exact(&mut up)?;
        kill_process(Pid::from_child(&client), Signal::USR1)?;
        ensure!(client.wait()?.code() == Some(3));
        Ok(())
    })
}

/// Daemons come and go, tasks stay; keepers that are killed take their tasks along.
pub(super) fn recovery() -> Result<()> {
    with_daemons("recovery", 2, |daemons| {
        daemons.form(2, 1)?;
        daemons.hosts[0].say(&["network", "create", "--attachable", "--subnet", "10.9.0.0/24", "currant"])?;
        wait_until("the network is known", || Ok(daemons.hosts[1].networks()? == ["currant"]))?;
        run_in(&daemons.hosts[0], "one", "currant,ip=10.9.0.11")?;
        run_in(&daemons.hosts[1], "two", "currant,ip=10.9.0.12")?;
        wait_until("they hear each other", || ping(&daemons.hosts[0], "one", "10.9.0.12"))?;
        daemons.kill(0)?;
        // Without its daemon a task can be waited for, but not be in a network.
        let directory = task_directory(&daemons.hosts[0].state)?;
        ensure!(directory.join("control").exists());
        daemons.start(0)?;
        ensure!(shown(&daemons.hosts[0], "one")?["state"] == "running");
        wait_until("they hear each other again", || ping(&daemons.hosts[0], "one", "10.9.0.12"))?;
        keeper_silent(daemons)?;
        keeper_killed(&daemons.hosts[0])?;
        while_away(daemons)
    })
}

/// A keeper that does not answer the next daemon, here since it is stopped, still has its program: it is heard later.
fn keeper_silent(daemons: &mut Daemons) -> Result<()> {
    let pid = shown(&daemons.hosts[0], "one")?["pid"].as_u64().context("it has a first process")?;
    let keeper = Pid::from_raw(parent(pid)?).context("a process id")?;
    daemons.kill(0)?;
    let stopped = Stopped::new(keeper)?;
    daemons.start(0)?;
    let host = &daemons.hosts[0];
    let (state, of) = (shown(host, "one")?["state"].clone(), shown(host, "one")?["pid"].clone());
    ensure!(state == "running" && of == pid, "{state} {of}");
    drop(stopped);
    wait_until("it is heard", || Ok(host.ask(&["exec", "one", "true"], "")?.status.success()))?;
    wait_until("it is in its network", || ping(host, "one", "10.9.0.12")).map(drop)
}

/// A process that is stopped, until this goes.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Result<Self> {
        kill_process(pid, Signal::STOP)?;
        Ok(Self(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It has been ended by a test that failed.
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

fn keeper_killed(host: &Host) -> Result<()> {
    let pid = shown(host, "one")?["pid"].as_u64().context("it has a first process")?;
    let keeper = parent(pid)?;
    kill_process(Pid::from_raw(keeper).context("a process id")?, Signal::KILL)?;
    wait_until("it is dead", || Ok(shown(host, "one")?["state"] == "dead"))?;
    ensure!(host.say(&["wait", "one"])? == "137\n");
    wait_until("all its processes have ended", || Ok(!Path::new(&format!("/proc/{pid}")).exists()))?;
    // Its address is free, though it has not been removed.
    run_in(host, "three", "currant,ip=10.9.0.11")?;
    host.say(&["rm", "one"])?;
    host.say(&["rm", "--force", "three"]).map(drop)
}

/// What happens to tasks while there is no daemon is known to the next one.
fn while_away(daemons: &mut Daemons) -> Result<()> {
    let host = &daemons.hosts[0];
    for (name, options) in [("kept", &["-d"][..]), ("removed", &["-d", "--rm"])] {
        let options = [options, &["--name", name]].concat();
        run(host, &options, &["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done"], "")?;
    }
    let directories: Vec<PathBuf> = ["kept", "removed"]
        .iter()
        .map(|name| Ok(PathBuf::from(shown(host, name)?["directory"].as_str().context("a path")?)))
        .collect::<Result<_>>()?;
    daemons.kill(0)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for directory in &directories {
        runtime.block_on(connection::ask(directory, Request::Signal { number: 15 }))?;
        wait_until("it ends", || Ok(runtime.block_on(connection::ask(directory, Request::Status)).is_err()))?;
    }
    daemons.start(0)?;
    let host = &daemons.hosts[0];
    ensure!(shown(host, "kept")?["exit_code"] == 5 && host.say(&["rm", "kept"])? == "kept\n");
    wait_until("what was to be removed is", || Ok(host.say(&["ps", "-aq"])?.is_empty()))?;
    Ok(())
}

/// Stand-alone programs on two hosts, as the documentation's tutorial has them.
pub(super) fn walkthrough() -> Result<()> {
    with_daemons("walkthrough", 2, |daemons| {
        daemons.form(2, 1)?;
        let [one, two] = [&daemons.hosts[0], &daemons.hosts[1]];
        one.say(&["network", "create", "--subnet", "10.8.0.0/24", "closed"])?;
        one.say(&["network", "create", "--attachable", "--subnet", "10.9.0.0/24", "test-net"])?;
        wait_until("the networks are known", || Ok(two.networks()? == ["closed", "test-net"]))?;
        let closed = two.ask(&["run", "-d", "--network", "closed", "sleep", "1d"], "")?;
        let said = String::from_utf8_lossy(&closed.stderr);
        ensure!(closed.status.code() == Some(125) && said.contains("without --attachable"), "{closed:?}");
        run_in(one, "alpine1", "test-net")?;
        ensure!(two.say(&["network", "ls", "--filter", "in-use=true", "-q"])?.lines().count() == 1);
        run_in(two, "alpine2", "test-net,alias=other")?;
        wait_until("one hears the other by its name", || ping(one, "alpine1", "alpine2"))?;
        for (host, from, to) in [(two, "alpine2", "alpine1"), (one, "alpine1", "other")] {
            ensure!(ping(host, from, to)?, "{from} hears {to}");
        }
        let address = |host: &Host, task: &str| -> Result<String> {
            let own = shown(host, task)?["endpoints"][0]["addresses"][0].as_str().map(Into::into);
            own.context("it has an address")
        };
        let (own, other) = (address(one, "alpine1")?, address(two, "alpine2")?);
        let answer = one.say(&["exec", "alpine1", "ping", "-c1", "-W5", "alpine2"])?;
        ensure!(answer.contains(&format!("({})", other.trim_end_matches("/24"))) && own != other, "{answer}");
        let link = one.say(&["exec", "alpine1", "ip", "addr", "show", "eth0"])?;
        for part in ["mtu 1450", "link/ether 02:42:0a:09:00:", &format!("inet {own} ")] {
            ensure!(link.contains(part), "{part} in {link}");
        }
        two.say(&["run", "--rm", "--network", "test-net", "ping", "-c1", "-W5", "alpine1"])?;
        refused(&one.ask(&["network", "rm", "test-net"], "")?, &["in use by alpine1"])?;
        two.say(&["stop", "-t", "0", "alpine2"])?;
        one.say(&["stop", "-t", "0", "alpine1"])?;
        wait_until("nobody is in it", || Ok(one.ask(&["network", "rm", "test-net"], "")?.status.success()))?;
        one.say(&["rm", "alpine1"])?;
        two.say(&["rm", "alpine2"]).map(drop)
    })
}

fn run_in(host: &Host, name: &str, network: &str) -> Result<()> {
    host.say(&["run", "-d", "--name", name, "--network", network, "--", "sleep", "1d"]).map(drop)
}

fn ping(host: &Host, task: &str, address: &str) -> Result<bool> {
    Ok(host.ask(&["exec", task, "ping", "-c1", "-W1", address], "")?.status.success())
}

fn task_directory(state: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(state.join("tasks"))?;
    Ok(entries.next().context("there is a task")??.path())
}

/// The process that has started another.
fn parent(pid: u64) -> Result<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).context("it has a parent")?;
    Ok(line.trim().parse()?)
}
