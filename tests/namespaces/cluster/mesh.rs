//! The routing mesh: clients outside of the cluster, at nodes with tasks and without, and tasks that see them.
//!
//! Tasks are programs that sleep: this test listens in their place, in their namespaces.

mod datagrams;
mod proxied;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::lab::underlay::UPLINK;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

pub(super) use self::datagrams::datagrams;
pub(super) use self::proxied::proxied;
use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::Host;
use super::publish::{connect, inside, listen, stream};
use super::shown::{self, all_run};
use crate::fixture::PATIENCE;

/// Members of the cluster: the first two have the tasks. One more host is outside.
const MEMBERS: usize = 3;
/// Connections at a time.
const MANY: usize = 1_000;

/// A host's address of IPv6.
fn v6(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::try_from(host + 1).unwrap_or(0))
}

/// Members that run tasks, one that does not, a host outside, and a network.
fn prepare(daemons: &mut Daemons) -> Result<()> {
    daemons.form_with_tasks(MEMBERS, 1)?;
    for (index, host) in daemons.hosts.iter().enumerate() {
        let mut links = Netlink::open(&host.netns)?;
        links.add_address(UPLINK, v6(index).into(), 64)?;
        links.set_up("lo")?;
    }
    let network = ["network", "create", "--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "sorrel"];
    daemons.hosts[0].say(&network).map(drop)
}

/// The tasks of a service, as listeners in their namespaces that do not block.
struct Tasks {
    listeners: Vec<TcpListener>,
    names: Vec<String>,
}

/// A connection at a task: which task, and whom it sees.
struct Served {
    stream: TcpStream,
    task: usize,
    seen: SocketAddr,
}

impl Tasks {
    /// Makes a service of two tasks on the first two hosts, and listens for them.
    fn create(daemons: &Daemons, published: &[&str]) -> Result<Self> {
        let published: Vec<&str> = published.iter().flat_map(|port| ["-p", port]).collect();
        let not_there = format!("node.name!={}", daemons.hosts[2].name);
        let create = ["service", "create", "-d", "--name", "web", "--replicas", "2", "--network", "sorrel"];
        let rest = ["--constraint", &not_there, "--", "sleep", "1d"];
        daemons.hosts[0].say(&[&create[..], &published, &rest].concat())?;
        let (mut listeners, mut names) = (Vec::new(), Vec::new());
        for host in &daemons.hosts[..2] {
            let task = only_task(host)?;
            listeners.push(listen(&inside(&task)?)?);
            names.push(task["name"].as_str().context("a name")?.to_owned());
        }
        listeners.iter().try_for_each(|listener| listener.set_nonblocking(true))?;
        wait_until("they run, as all know", || {
            let all = (0..MEMBERS).map(|host| shown::tasks(daemons, host, "web"));
            Ok(all_run(&all.collect::<Result<Vec<_>>>()?.concat(), 2 * MEMBERS))
        })?;
        Ok(Self { listeners, names })
    }

    /// The next connection, at whichever.
    fn accept(&self) -> Result<Served> {
        let mut served = None;
        wait_until("a task gets a connection", || {
            served = self.try_accept()?;
            Ok(served.is_some())
        })?;
        served.context("it has come")
    }

    /// The same, if there is one now.
    fn try_accept(&self) -> Result<Option<Served>> {
        for (task, listener) in self.listeners.iter().enumerate() {
            match listener.accept() {
                Ok((stream, seen)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
                    return Ok(Some(Served { stream, task, seen }));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// A client's connection, with what the task has of it.
    fn connection(&self, from: &NetNs, to: SocketAddr) -> Result<(TcpStream, Served)> {
        let client = connect(from, to)?;
        let served =
            self.accept().with_context(|| format!("{client:?} to {to}: {:?}", client.take_error()))?;
        Ok((client, served))
    }

    /// The same, until it is at that task.
    fn connection_to(&self, from: &NetNs, to: SocketAddr, task: usize) -> Result<(TcpStream, Served)> {
        for _ in 0..64 {
            let (client, served) = self.connection(from, to)?;
            if served.task == task {
                return Ok((client, served));
            }
        }
        anyhow::bail!("of 64 connections none came to task {task}")
    }
}

/// The task of a service on a host, once it is there.
fn only_task(host: &Host) -> Result<Value> {
    let mut found = None;
    wait_until("its program runs", || {
        found = host.json(&["ps"])?.into_iter().find(|task| task["state"] == "running");
        Ok(found.is_some())
    })?;
    found.context("it was there")
}

/// Every node's port leads to every task, which sees the client.
pub(super) fn carried() -> Result<()> {
    with_daemons("mesh", 4, |daemons| {
        prepare(daemons)?;
        let tasks = Tasks::create(daemons, &["8080:80"])?;
        let outside = &daemons.hosts[MEMBERS].netns;
        for (index, host) in daemons.hosts[..MEMBERS].iter().enumerate() {
            for address in [host.address, v6(index).into()] {
                let to = SocketAddr::new(address, 8080);
                for task in 0..2 {
                    let what = format!("to {to}, task {task}");
                    let (client, served) = tasks.connection_to(outside, to, task).context(what.clone())?;
                    ensure!(served.seen == client.local_addr()?, "{what}: {} is {client:?}", served.seen);
                    stream(client, served.stream).with_context(|| format!("in, {what}"))?;
                    let (client, served) = tasks.connection_to(outside, to, task)?;
                    stream(served.stream, client).with_context(|| format!("out, {what}"))?;
                }
            }
            ends(&tasks, outside, SocketAddr::new(host.address, 8080))?;
        }
        let to = SocketAddr::new(daemons.hosts[2].address, 8080);
        many(&tasks, outside, to)?;
        // A task that refuses is followed by the other.
        let Tasks { mut listeners, names } = tasks;
        listeners.truncate(1);
        let tasks = Tasks { listeners, names };
        // A child of another test's thread may hold its socket a moment longer, between fork and exec: then it would not refuse.
        let refusing = inside(&only_task(&daemons.hosts[1])?)?;
        wait_until("nobody listens there", || {
            Ok(refusing.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, 80)))?.is_err())
        })?;
        for host in &daemons.hosts[..MEMBERS] {
            for _ in 0..8 {
                tasks.connection(outside, SocketAddr::new(host.address, 8080))?;
            }
        }
        drop(tasks);
        let error = connect(outside, to)?.read(&mut [0; 1]).err().context("somebody has answered")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        Ok(())
    })
}

/// Each end of sending and each reset is passed on, by every task.
fn ends(tasks: &Tasks, outside: &NetNs, to: SocketAddr) -> Result<()> {
    for task in 0..2 {
        let (mut client, mut served) = tasks.connection_to(outside, to, task)?;
        client.write_all(b"question")?;
        client.shutdown(Shutdown::Write)?;
        let (mut question, mut answer) = (String::new(), String::new());
        served.stream.read_to_string(&mut question)?;
        served.stream.write_all(b"answer")?;
        drop(served);
        client.read_to_string(&mut answer)?;
        ensure!((question.as_str(), answer.as_str()) == ("question", "answer"), "{question:?} {answer:?}");
        for by_client in [true, false] {
            let (client, served) = tasks.connection_to(outside, to, task)?;
            let (gone, mut left) = if by_client { (client, served.stream) } else { (served.stream, client) };
            rustix::net::sockopt::set_socket_linger(&gone, Some(Duration::ZERO))?;
            drop(gone);
            let error = left.read(&mut [0; 1]).err().context("an end in order")?;
            ensure!(error.kind() == ErrorKind::ConnectionReset, "by client {by_client}: {error}");
        }
    }
    Ok(())
}

/// All are open at once, each has its own answer, and tasks have as many as is said.
fn many(tasks: &Tasks, outside: &NetNs, to: SocketAddr) -> Result<()> {
    let (mut clients, mut served) = (Vec::new(), Vec::new());
    for number in 0..MANY {
        let mut client = connect(outside, to)?;
        client.write_all(&number.to_be_bytes())?;
        clients.push(client);
        // Tasks accept meanwhile: one whose queue is full would be passed over.
        while let Some(one) = tasks.try_accept()? {
            served.push(one);
        }
    }
    while served.len() < MANY {
        served.push(tasks.accept().with_context(|| format!("{} of {MANY} have come", served.len()))?);
    }
    let mut counts = [0_usize; 2];
    for one in &mut served {
        let mut number = [0; 8];
        one.stream.read_exact(&mut number)?;
        let number = usize::from_be_bytes(number);
        ensure!(clients[number].local_addr()? == one.seen, "{number} is {}", one.seen);
        one.stream.write_all(&number.to_be_bytes())?;
        counts[one.task] += 1;
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        let mut answer = [0; 8];
        client.read_exact(&mut answer)?;
        ensure!(usize::from_be_bytes(answer) == number);
    }
    // Six deviations of a fair coin.
    ensure!(counts.iter().all(|count| count.abs_diff(MANY / 2) <= 3 * MANY.isqrt()), "{counts:?}");
    Ok(())
}

/// A port that somebody has is told by all and had once it is free; a service that goes frees its ports.
pub(super) fn ports() -> Result<()> {
    with_daemons("meshports", 4, |daemons| {
        prepare(daemons)?;
        let taken = &daemons.hosts[1];
        let other = taken.netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)))??;
        let create = ["service", "create", "-d", "--name", "web", "--network", "sorrel"];
        let ports = ["-p", "8080:80", "-p", "192.0.2.9:8081:80", "-p", "8080:80/udp", "--", "sleep", "1d"];
        let create: Vec<&str> = create.into_iter().chain(ports).collect();
        daemons.hosts[0].say(&create)?;
        // No node has 192.0.2.9, of which all together have one row.
        let of_nodes = |row: &&Value| row["state"] == "not listening" && row["node"] != "all nodes";
        for host in &daemons.hosts[..MEMBERS] {
            wait_until("all are told", || {
                let rows = host.json(&["service", "ps", "web"])?;
                Ok(rows.iter().filter(|row| row["state"] == "not listening").count() == 2)
            })?;
            let rows = host.json(&["service", "ps", "web"])?;
            let row = rows.iter().filter(of_nodes).collect::<Vec<_>>();
            ensure!(row.len() == 1 && row[0]["node"] == taken.name, "{rows:?}");
            let reason = row[0]["reason"].as_str().context("a reason")?;
            ensure!(reason.contains("8080/tcp") && reason.contains("another program"), "{reason}");
            let table = host.say(&["service", "ps", "web"])?;
            ensure!(table.contains("Not listening") && table.contains("8080/tcp"), "{table}");
            let shown: Value = serde_json::from_str(&host.say(&["node", "inspect", taken.name])?)?;
            let port = &shown[0]["NotListening"][0];
            ensure!(port["PublishedPort"] == 8080 && port["Service"] == "web", "{shown}");
            let shown: Value = serde_json::from_str(&host.say(&["service", "inspect", "web"])?)?;
            ensure!(shown[0]["NotListening"][0]["Node"] == taken.name, "{shown}");
            ensure!(
                host.say(&["service", "inspect", "--pretty", "web"])?.contains("not listening: 8080/tcp on")
            );
        }
        let nodes = daemons.hosts[0].json(&["node", "ls"])?;
        let of = nodes.iter().find(|node| node["name"] == taken.name).context("it is listed")?;
        ensure!(of["unbound"][0]["published"] == 8080, "{of}");
        drop(other);
        taken.process()?.hear("now that it is free")?;
        wait_until("all are told", || {
            let rows = daemons.hosts[0].json(&["service", "ps", "web"])?;
            Ok(rows.iter().filter(of_nodes).count() == 0)
        })?;
        let is_free = |host: &Host| -> Result<bool> {
            let addresses = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::LOCALHOST.into()];
            let bind = |address| host.netns.run(move || TcpListener::bind((address, 8080)).is_ok());
            Ok(addresses.into_iter().map(bind).collect::<Result<Vec<bool>, _>>()?.iter().all(|&free| free))
        };
        ensure!(!is_free(&daemons.hosts[0])?, "they listen");
        daemons.hosts[0].say(&["service", "rm", "web"])?;
        ensure!(is_free(&daemons.hosts[0])?, "at once where it was removed");
        for host in &daemons.hosts[1..MEMBERS] {
            wait_until("and everywhere", || is_free(host))?;
        }
        Ok(())
    })
}

/// Who loses a task, or its node, is told at once; others go on.
pub(super) fn cut_off() -> Result<()> {
    with_daemons("meshcut", 4, |daemons| {
        prepare(daemons)?;
        let tasks = Tasks::create(daemons, &["8080:80"])?;
        let outside = daemons.hosts[MEMBERS].netns.clone();
        let to = SocketAddr::new(daemons.hosts[2].address, 8080);
        // Its other end is this test's, and stays open: only the mesh can end it.
        let (mut one, _served_one) = tasks.connection_to(&outside, to, 0)?;
        let (mut two, mut served_two) = tasks.connection_to(&outside, to, 1)?;
        daemons.hosts[0].say(&["kill", &tasks.names[0]])?;
        let ended = one.read(&mut [0; 1]);
        ensure!(is_reset(&ended), "{ended:?}");
        served_two.stream.write_all(b"answer")?;
        two.read_exact(&mut [0; 6])?;
        // Nobody says anything: only gossip tells that it is gone.
        daemons.cut(1)?;
        let ended = two.read(&mut [0; 1]);
        ensure!(is_reset(&ended), "{ended:?}");
        Ok(())
    })
}

fn is_reset<T>(outcome: &std::io::Result<T>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}
