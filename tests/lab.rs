//! `vswitchd lab` as a user runs it.
//!
//! Where this machine forbids it the tests say so, in the program's own words, and fail if `CI=true`.

mod labs;
mod processes;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use labs::{Kept, can_run, output, program, vswitchd};
use processes::{family, is_alive, wait_until};
use vswitchd::namespace::names::PRIVATE_DIR;

#[test]
fn the_usual_lab_is_well() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let text = output("lab")?;
    let said = String::from_utf8_lossy(&text.stdout);
    ensure!(text.status.success(), "{said} {}", String::from_utf8_lossy(&text.stderr));
    let cluster = "Cluster: managed by node1; every node lists the same 3 as ready, their records are equal";
    for part in [
        "node3",
        "n2b",
        "MTU 1420, encrypted",
        "Names: 24 of 24 resolve, median ",
        "; none of 6 of other networks does",
        "Page: n1a fetches http://n2a/: 1024 KiB in ",
        "Page: n1b fetches http://n2b/: 1024 KiB in ",
        "every byte checked, encrypted\n",
        "Way out: 6 of 6 fetch http://outside.test/, which sees their nodes' addresses, median ",
        "Service: 72 of 72 visits to http://web/ led to 6 tasks, which see their visitors, median ",
        "Ports: 80 of 3 of 3 nodes leads to a task from outside, which sees its visitor\n",
        "Mbit/s",
        "checked, encrypted)",
        cluster,
        "OK: all 12 pairs",
    ] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    ensure!(!Path::new(PRIVATE_DIR).exists(), "its /run is its own");
    Ok(())
}

#[test]
fn json_tells_every_pair_and_the_throughput() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    for (nodes, endpoints, ipv6) in [(2, 2, "--ipv6"), (5, 1, "")] {
        let shape = format!("--nodes {nodes} --endpoints {endpoints} --networks 1 {ipv6}");
        let json = output(&format!("lab {shape} --format json"))?;
        let report: Value = serde_json::from_slice(&json.stdout)?;
        ensure!(report["ok"] == true, "{report}");
        let pairs = report["pairs"].as_array().context("a list")?;
        ensure!(pairs.len() == nodes * endpoints * (nodes * endpoints - 1), "every ordered pair: {report}");
        ensure!(
            pairs.iter().all(|pair| pair["expected"] == true && pair["rtt_ipv4_us"].as_f64() > Some(0.0))
        );
        let members = report["cluster"]["members"].as_array().context("a list")?;
        ensure!(report["cluster"]["ok"] == true && members.len() == nodes, "{report}");
        ensure!(members.iter().filter(|node| node["role"] == "manager").count() == 1, "{report}");
        ensure!(report["tcp"]["ok"] == true && report["tcp_encrypted"].is_null(), "{report}");
        ensure!(report["names"]["resolved"] == pairs.len() * 2 && report["names"]["ok"] == true, "{report}");
        ensure!(report["page"]["bytes"] == 1 << 20 && report["page_encrypted"].is_null(), "{report}");
        leads_out(&report, nodes * endpoints)?;
    }
    Ok(())
}

/// Every endpoint is seen outside as its node.
fn leads_out(report: &Value, endpoints: usize) -> Result<()> {
    let errands = report["way_out"]["endpoints"].as_array().context("a list")?;
    ensure!(errands.len() == endpoints && report["way_out"]["ok"] == true, "{report}");
    for node in report["plan"]["nodes"].as_array().context("a list")? {
        for endpoint in node["endpoints"].as_array().context("a list")? {
            let own = |errand: &&Value| errand["endpoint"] == endpoint["name"];
            let errand = errands.iter().find(own).context("every endpoint goes out")?;
            ensure!(errand["seen"] == node["address"] && errand["seconds"].as_f64() > Some(0.0), "{errand}");
        }
    }
    Ok(())
}

#[test]
fn a_bad_wire_is_survived() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let wire = "--underlay wire --loss 0.05 --delay 2 --jitter 1 --reorder 0.05 --duplicate 0.05 --seed 7";
    let text = output(&format!("lab {wire}"))?;
    let said = String::from_utf8_lossy(&text.stdout);
    ensure!(text.status.success(), "{said} {}", String::from_utf8_lossy(&text.stderr));
    for part in ["Names: 24 of 24 resolve", "checked, encrypted\n", "Way out: 6 of 6 fetch"] {
        ensure!(said.contains(part), "no {part:?} in {said}");
    }
    Ok(())
}

#[test]
fn a_full_disk_is_an_error_and_a_closed_pipe_is_none() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    for arguments in ["lab --nodes 2", "lab ls"] {
        let full = fs::File::options().write(true).open("/dev/full")?;
        let refused =
            vswitchd(arguments).stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).output()?;
        let text = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1), "{arguments}: {:?} {text}", refused.status);
        ensure!(text.lines().count() == 1 && !text.contains("panicked"), "{arguments}: {text}");
    }
    for arguments in ["lab --nodes 2", "lab ls"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let unread =
            vswitchd(arguments).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output()?;
        ensure!(unread.status.success() && unread.stderr.is_empty(), "{arguments}: {unread:?}");
    }
    Ok(())
}

#[test]
fn every_node_of_a_kept_lab_can_be_asked() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let mut lab = Kept::new("cluster", "")?;
    let ask = |place: &str, arguments: &[&str]| -> Result<Value> {
        let said = lab.exec(place, &[&["vswitchd"], arguments, &["--format", "json"]].concat())?;
        serde_json::from_slice(&said.stdout).with_context(|| format!("{place}: {arguments:?}: {said:?}"))
    };
    let mut ids = Vec::new();
    for (place, node) in [("node1", "node1"), ("node2", "node2"), ("n3b", "node3")] {
        let status = ask(place, &["status"])?;
        ensure!(status["cluster"]["name"] == node, "{place} asks its own node: {status}");
        let elsewhere = format!("{PRIVATE_DIR}/node1/api.sock");
        let elsewhere = ask(place, &["status", "-H", &elsewhere])?;
        ensure!(elsewhere["cluster"]["id"] == status["cluster"]["id"], "{status} {elsewhere}");
        let mtu = lab.exec(&format!("n{}b", &node[4..]), &["cat", "/sys/class/net/eth0/mtu"])?;
        ensure!(mtu.stdout == b"1420\n", "of an encrypted network: {mtu:?}");
        ids.push(status["cluster"]["id"].clone());
    }
    ensure!(ids.iter().all(|id| *id == ids[0] && id.is_string()), "{ids:?}");
    for pid in family(lab.child.id())? {
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words = String::from_utf8_lossy(&words);
        ensure!(!words.contains("VSWTKN"), "a token in a list of processes: {words}");
    }
    let list = output("lab ls --format json")?;
    ensure!(String::from_utf8_lossy(&list.stdout).contains("/node3/api.sock"), "{list:?}");
    lab.down()
}

#[test]
fn a_bare_lab_waits_for_a_cluster_of_its_users() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let mut lab = Kept::new("bare", "--bare --nodes 2")?;
    let alone = lab.exec("node2", &["vswitchd", "node", "ls"])?;
    ensure!(String::from_utf8_lossy(&alone.stderr).contains("this node is in no cluster"), "{alone:?}");
    let made = lab.exec("node1", &["vswitchd", "init", "--format", "json"])?;
    let made: Value = serde_json::from_slice(&made.stdout).with_context(|| format!("{made:?}"))?;
    let token = made["worker"]["token"].as_str().context("a token")?;
    let joined = lab.exec("node2", &["vswitchd", "join", "--token", token, "198.18.0.1"])?;
    ensure!(joined.status.success(), "{joined:?}");
    let names = lab.exec("node2", &["sh", "-c", "vswitchd node ls | awk 'NR > 1 { print $2 $3 }'"])?;
    ensure!(names.stdout == b"node1Ready\n*node2\n", "named by the hosts' names: {names:?}");
    lab.down()?;
    for option in ["--endpoints 1", "--networks 1"] {
        ensure!(output(&format!("lab --bare {option}"))?.status.code() == Some(2));
    }
    let text = output("lab --bare --nodes 2")?;
    let said = String::from_utf8_lossy(&text.stdout);
    ensure!(text.status.success() && said.contains("node2  198.18.0.2") && !said.contains("Round"), "{said}");
    Ok(())
}

/// Whether a process is `vswitchd` by now.
fn is_program(pid: u32) -> bool {
    let runs = fs::read_link(format!("/proc/{pid}/exe"));
    runs.is_ok_and(|runs| fs::canonicalize(program()).is_ok_and(|program| runs == program))
}

#[test]
fn an_interruption_at_any_stage_leaves_nothing() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    // From the program that was started to its last node's daemon.
    for stage in 1..=6 {
        // Who starts the tests in the background may have had them ignore it.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(program()).arg("lab");
        let mut lab = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let pid = lab.id();
        wait_until("so many processes run", || Ok(is_program(pid) && family(pid)?.len() >= stage))?;
        let all = family(pid)?;
        rustix::process::kill_process(rustix::process::Pid::from_child(&lab), rustix::process::Signal::INT)?;
        let ended = lab.wait()?;
        ensure!(!ended.success(), "stage {stage}: {ended}");
        wait_until("all end", || Ok(!all.iter().any(|&pid| is_alive(pid))))?;
        ensure!(!Path::new(PRIVATE_DIR).exists(), "its /run is its own");
    }
    Ok(())
}

#[test]
fn a_kept_lab_can_be_visited_listed_and_taken_down() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let mut lab = Kept::new("visit", "")?;
    let inside = lab.exec("n1a", &["sh", "-c", "cat /sys/class/net/eth0/address; exit 7"])?;
    ensure!(inside.status.code() == Some(7), "{inside:?}");
    let nowhere = lab.exec("n9z", &["true"])?;
    ensure!(
        !nowhere.status.success() && String::from_utf8_lossy(&nowhere.stderr).contains("n3b"),
        "{nowhere:?}"
    );
    for (place, name, address) in [
        ("n1a", "n2a", "10.1.2.1"),
        ("n1b", "n2b.net2", "10.2.2.2"),
        ("n1a", "outside.test", "198.18.255.254"),
        ("node1", "outside.test", "198.18.255.254"),
        ("outside", "outside.test", "198.18.255.254"),
    ] {
        let told = lab.exec(place, &["getent", "ahostsv4", name])?;
        ensure!(String::from_utf8_lossy(&told.stdout).starts_with(address), "{place}: {name}: {told:?}");
    }
    let unknown = lab.exec("n1a", &["getent", "ahostsv4", "n2b"])?;
    ensure!(unknown.status.code() == Some(2), "of another network: {unknown:?}");
    let list = output("lab ls --format json")?;
    let listed = String::from_utf8_lossy(&list.stdout);
    ensure!(list.status.success() && listed.contains(&lab.name) && listed.contains("n3b"), "{list:?}");
    let all = family(lab.child.id())?;
    lab.down()?;
    ensure!(!all.into_iter().any(is_alive), "something is left");
    Ok(())
}

#[test]
fn killing_any_of_its_heads_leaves_nothing() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    // The program that was started, process 1 of its PID namespace, and the one that does the work.
    for head in 0..3 {
        let lab = Kept::new("kill", "--nodes 2")?;
        let mut visitor = vswitchd(&format!("lab exec --name {} n1a -- sleep 1000", lab.name)).spawn()?;
        let sleeper = || -> Result<Vec<u32>> { Ok(family(visitor.id())?.split_off(1)) };
        wait_until("the visitor's command starts", || Ok(!sleeper()?.is_empty()))?;
        let visit = sleeper()?;
        let all = family(lab.child.id())?;
        ensure!(all.len() >= 5, "three heads and two nodes: {all:?}");
        let pid = i32::try_from(all[head]).ok().and_then(rustix::process::Pid::from_raw).context("a pid")?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        let gone = || Ok(!all.iter().chain(&visit).any(|&pid| is_alive(pid)));
        wait_until(&format!("everything ends with head {head}"), gone)?;
        visitor.wait()?;
    }
    Ok(())
}
