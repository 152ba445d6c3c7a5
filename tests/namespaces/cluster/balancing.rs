//! Services at their virtual addresses and by their names: from every node, for clients of every kind.

mod by_hand;
mod changes;
mod held;
mod named;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::namespace::netns::NetNs;

pub(super) use self::by_hand::joined;
pub(super) use self::changes::changed;
pub(super) use self::named::made_twice;
use self::named::{by_name, named, without_addresses};
use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::{endpoint, plug};
use super::publish::{connect, inside};
pub(super) use super::shown::vips;
use super::shown::{self, addresses, all_run, at_its_host};
use crate::fixture::{PATIENCE, tool};

/// The networks: a plain one and a sealed one, both of both families.
const NETWORKS: [&str; 2] = ["bilberry", "gooseberry"];
const SUBNETS: [[&str; 2]; 2] = [["10.77.0.0/24", "fd77::/64"], ["10.78.0.0/24", "fd78::/64"]];
const GATEWAYS: [&str; 2] = ["10.77.0.1", "10.78.0.1"];
/// Where tasks serve, and where the test does in their place.
const HTTP: u16 = 80;
const OWN: u16 = 81;
/// Connections until all of a few tasks have had one: with three of equal chances, none of so many misses one.
const MANY: usize = 200;
/// Connections none of which may fail.
const SOME: usize = 30;

/// A task of a service, as the test sees it.
struct Task {
    id: String,
    host: usize,
    /// The host name that it has itself, and says to clients.
    name: String,
    netns: NetNs,
    /// In the order of its networks, first IPv4.
    addresses: Vec<IpAddr>,
}

/// Members that run tasks, with networks that all know.
fn prepare(daemons: &mut Daemons, members: usize, managers: usize) -> Result<()> {
    daemons.form_with_tasks(members, managers)?;
    for (index, network) in NETWORKS.iter().enumerate() {
        let [four, six] = SUBNETS[index];
        let flags = ["network", "create", "--attachable", "--subnet", four, "--subnet", six];
        let sealed: &[&str] = if index == 1 { &["--opt", "encrypted"] } else { &[] };
        daemons.hosts[0].say(&[&flags[..], sealed, &[network]].concat())?;
    }
    for host in &daemons.hosts[..members] {
        wait_until("the networks are known", || Ok(host.networks()? == NETWORKS))?;
    }
    Ok(())
}

/// A server that says its host name, and the address that it sees; its words.
fn server(daemons: &Daemons) -> Result<Vec<String>> {
    let root = daemons.hosts[0].state.with_extension("www");
    let script = root.join("cgi-bin/who");
    std::fs::create_dir_all(root.join("cgi-bin"))?;
    std::fs::write(
        &script,
        "#!/bin/sh\necho 'Content-Type: text/plain'\necho\necho $(hostname) $REMOTE_ADDR\n",
    )?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    let root = root.to_str().context("UTF-8")?;
    Ok(["busybox", "httpd", "-f", "-p", "80", "-h", root].map(String::from).into())
}

/// Makes a service of that server.
fn create(daemons: &Daemons, flags: &[&str]) -> Result<()> {
    let server = server(daemons)?;
    let server: Vec<&str> = server.iter().map(String::as_str).collect();
    let create = ["service", "create", "--name", "web", "--restart-delay", "100ms"];
    daemons.hosts[0].say(&[&create[..], flags, &["--"], &server].concat()).map(drop)
}

/// The tasks of a service once so many run and there is nothing else.
fn tasks(daemons: &Daemons, count: usize) -> Result<Vec<Task>> {
    let mut found = Vec::new();
    wait_until("they run", || {
        let shown = shown::tasks(daemons, 0, "web")?;
        if !all_run(&shown, count) {
            return Ok(false);
        }
        // One that has just been killed is not at its own node any more.
        found = shown.iter().map(|task| of(daemons, task)).collect::<Result<Vec<_>>>().unwrap_or_default();
        Ok(found.len() == count)
    })?;
    Ok(found)
}

fn of(daemons: &Daemons, shown: &Value) -> Result<Task> {
    let id = shown["id"].as_str().context("an id")?.to_owned();
    let (host, task) = at_its_host(daemons, shown)?;
    let places = task["endpoints"].as_array().context("a list")?.iter();
    let addresses = places.map(addresses).collect::<Result<Vec<_>>>()?.concat();
    Ok(Task { name: id[..12].to_owned(), netns: inside(&task)?, id, host, addresses })
}

/// Asks the server at an address for its name, and checks whom it saw.
fn who(from: &NetNs, to: SocketAddr) -> Result<String> {
    let mut stream = connect(from, to)?;
    stream.write_all(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let line = said.trim_end().lines().last().context("a page")?;
    let (name, client) = line.split_once(' ').with_context(|| format!("{said:?} is no page"))?;
    let seen: IpAddr = client.trim_matches(['[', ']']).parse().with_context(|| client.to_owned())?;
    ensure!(seen.to_canonical() == stream.local_addr()?.ip(), "the task has seen {seen}: {stream:?}");
    Ok(name.to_owned())
}

/// Who has answered how often, once all of these have; no connection may fail.
fn spread(from: &NetNs, to: SocketAddr, tasks: &[Task]) -> Result<BTreeMap<String, usize>> {
    let mut seen = BTreeMap::<String, usize>::new();
    for number in 0..MANY {
        *seen.entry(who(from, to)?).or_default() += 1;
        if number >= SOME && seen.len() == tasks.len() {
            break;
        }
    }
    let names: BTreeSet<&str> = seen.keys().map(String::as_str).collect();
    let wanted: BTreeSet<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    ensure!(names == wanted, "{to}: {seen:?}, want {wanted:?}");
    Ok(seen)
}

/// The same once it is so: programs take a while until they listen.
fn wait_until_spread(from: &NetNs, to: SocketAddr, tasks: &[Task]) -> Result<()> {
    let mut last = None;
    let waited = wait_until("all answer", || {
        last = spread(from, to, tasks).err();
        Ok(last.is_none())
    });
    waited.map(drop).with_context(|| format!("{last:?}"))
}

pub(super) fn reached() -> Result<()> {
    with_daemons("balancing", 3, |daemons| {
        if tool(&daemons.hosts[0].netns, "busybox true")?.is_none() {
            return Ok(());
        }
        prepare(daemons, 3, 1)?;
        create(daemons, &["--replicas", "3", "--network", "bilberry,alias=www", "--network", "gooseberry"])?;
        for (node, index) in (0..3).flat_map(|node| [(node, 0), (node, 1)]) {
            plug(daemons, node, index, NETWORKS[index])?;
        }
        let (tasks, vips) = (tasks(daemons, 3)?, vips(daemons, "web")?);
        ensure!(vips.len() == 4, "{vips:?}");
        for node in 0..3 {
            for (index, &vip) in vips.iter().enumerate() {
                let from = endpoint(daemons, node, index / 2).netns();
                wait_until_spread(from, SocketAddr::new(vip, HTTP), &tasks)?;
                let seen = spread(from, SocketAddr::new(vip, HTTP), &tasks)?;
                eprintln!("balancing: node {node} at {vip}: {:?}", seen.values().collect::<Vec<_>>());
                ping(from, vip)?;
            }
            datagrams(endpoint(daemons, node, 0).netns(), vips[0], &tasks, 0)?;
            datagrams(endpoint(daemons, node, 1).netns(), vips[3], &tasks, 3)?;
            named(daemons, node, &vips, &tasks)?;
        }
        by_name(daemons, &tasks)?;
        without_addresses(daemons)
    })
}

fn ping(from: &NetNs, vip: IpAddr) -> Result<()> {
    if let Some(output) = tool(from, &format!("ping -c 2 -i 0.2 -W 5 {vip}"))? {
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("2 received, 0% packet loss"), "{vip}: {said}");
    }
    Ok(())
}

/// Flows of UDP get to all tasks, answers come from the virtual address; `own` is which address of a task is asked.
fn datagrams(from: &NetNs, vip: IpAddr, tasks: &[Task], own: usize) -> Result<()> {
    let bind = |task: &Task| -> Result<UdpSocket> {
        let socket = task.netns.run(|| UdpSocket::bind((task.addresses[own], OWN)))??;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let servers = tasks.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let (mut seen, mut buffer) = (BTreeSet::new(), [0; 100]);
    for _ in 0..MANY {
        let any: IpAddr = if vip.is_ipv4() { [0; 4].into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let client = from.run(|| UdpSocket::bind((any, 0)))??;
        client.set_read_timeout(Some(PATIENCE))?;
        client.connect((vip, OWN))?;
        client.send(b"question")?;
        let deadline = Instant::now() + PATIENCE;
        let index = 'asked: loop {
            for (index, server) in servers.iter().enumerate() {
                if let Ok((len, asker)) = server.recv_from(&mut buffer) {
                    ensure!(asker == client.local_addr()?, "{asker} is not {client:?}");
                    server.send_to(&buffer[..len], asker)?;
                    break 'asked index;
                }
            }
            ensure!(Instant::now() < deadline, "nobody hears {client:?}");
            thread::yield_now();
        };
        ensure!(client.recv(&mut buffer)? == 8);
        seen.insert(index);
        if seen.len() == tasks.len() {
            return Ok(());
        }
    }
    anyhow::bail!("{vip}: only {seen:?} of {} hear datagrams", tasks.len())
}
