//! Thousands of short connections through a virtual address, or through the routing mesh, while tasks are killed, a node
//! dies and comes back, and the service is scaled and updated: each comes to its end soon, and only those fail whose own
//! task has died. One that goes by order is drained, so nobody may lose by it.
//!
//! What is asked of them is in `verdict`. What the tasks run is this program ([`serve`]), which says first which task it is:
//! so each connection knows whose it was.

mod verdict;

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use vswitchd::namespace::netns::{NetNs, NetnsError};

use super::balancing::vips;
use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::Host;
use super::overlay::{endpoint, plug};
use super::services::{generation, tasks};
use crate::fixture::PATIENCE;
use crate::gateway::query;

/// What this program is called with to be a task.
pub(crate) const SERVE: &str = "serve-as-task";
/// Where tasks listen, and nodes for them.
const PORT: u16 = 80;
const PUBLISHED: u16 = 8_080;
/// As much of a task's id as its host name has.
const NAME_LEN: usize = 12;
/// What is asked, and answered with the same.
const QUESTION: &[u8; 32] = b"whoever reads this says it back\n";

const NETWORK: &str = "rowan";
const SUBNET: &str = "10.89.0.0/24";
/// Who is asked for names there.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 89, 0, 1)), 53);
/// The service.
const SERVICE: &str = "web";
/// Hosts with clients: all but the last, which is to die.
const CLIENTS: usize = 4;
const VICTIM: usize = CLIENTS;
/// Connections at a time from each client.
const TOGETHER: usize = 4;
/// Connections altogether, at least.
const ALL: usize = 10_000;
/// Connections while nothing changes, and after each change.
const CALM: usize = 3_000;
const SOME: usize = 400;
/// Every so many connections one rests before it asks, and how long: what a change finds open, but shorter than a task that
/// goes is drained.
const REST_EVERY: usize = 8;
const REST: Duration = Duration::from_millis(200);
/// Every so many connections one asks first where the service is, if there is somebody to ask.
const ASK_EVERY: usize = 16;

/// Serves until it is killed.
///
/// # Errors
/// If it can't listen, or accept.
pub(crate) fn serve() -> io::Result<()> {
    let name = rustix::system::uname().nodename().to_bytes().to_vec();
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    loop {
        let (mut stream, _) = listener.accept()?;
        let name = name.clone();
        thread::spawn(move || -> io::Result<()> {
            stream.write_all(&name)?;
            let mut question = [0; QUESTION.len()];
            stream.read_exact(&mut question)?;
            stream.write_all(&question)
        });
    }
}

/// What has become of a connection.
struct Outcome {
    started: Instant,
    ended: Instant,
    /// Whose it was, once that was heard.
    task: Option<String>,
    failure: Option<io::Error>,
}

impl Outcome {
    fn of(to: &Target, rest: Option<Duration>, asks: bool) -> Self {
        let (started, mut task) = (Instant::now(), None);
        let address = if asks { to.ask() } else { Ok(to.address) };
        let failure = address.and_then(|address| talk(address, rest, &mut task)).err();
        Self { started, ended: Instant::now(), task, failure }
    }
}

#[expect(clippy::disallowed_methods, reason = "a connection that lasts")]
fn talk(to: SocketAddr, rest: Option<Duration>, task: &mut Option<String>) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = [0; NAME_LEN];
    stream.read_exact(&mut name)?;
    *task = Some(String::from_utf8_lossy(&name).into_owned());
    rest.into_iter().for_each(thread::sleep);
    stream.write_all(QUESTION)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer == QUESTION { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// What a client connects to.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    /// Who knows that address by the service's name.
    resolver: Option<SocketAddr>,
}

impl Target {
    /// The address that the name has, if anybody is there to be asked.
    fn ask(&self) -> io::Result<SocketAddr> {
        let Some(resolver) = self.resolver else { return Ok(self.address) };
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(resolver)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(&query(SERVICE))?;
        let mut reply = [0; 512];
        let len = socket.recv(&mut reply)?;
        match reply[..len] {
            // No error, and one answer, which comes last.
            [_, _, _, flags, _, _, 0, 1, .., a, b, c, d] if flags & 0xf == 0 => {
                Ok(SocketAddr::from(([a, b, c, d], self.address.port())))
            }
            _ => Err(io::Error::new(ErrorKind::NotFound, format!("no address: {:?}", &reply[..len]))),
        }
    }
}

/// Clients that connect again and again.
struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<Vec<Outcome>, NetnsError>>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    /// Connections that have ended.
    ended: AtomicUsize,
}

impl Load {
    fn start(clients: &[(NetNs, Target)]) -> Self {
        let shared = Arc::new(Shared::default());
        let client = |(from, to): &(NetNs, Target)| {
            let (from, to, shared) = (from.clone(), to.clone(), Arc::clone(&shared));
            thread::spawn(move || from.run(|| shared.connect(&to)))
        };
        let clients = clients.iter().flat_map(|client| std::iter::repeat_n(client, TOGETHER)).map(client);
        Self { clients: clients.collect(), shared }
    }

    fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Waits until so many more have ended, as long as any do.
    fn go_on(&self, count: usize) -> Result<()> {
        let until = self.ended() + count;
        while self.ended() < until {
            let before = self.ended();
            wait_until("a connection comes to its end", || Ok(self.ended() > before))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Outcome>> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut outcomes = Vec::new();
        for client in std::mem::take(&mut self.clients) {
            outcomes.extend(client.join().map_err(|_| anyhow!("a client has panicked"))??);
        }
        Ok(outcomes)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn connect(&self, to: &Target) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let rest = outcomes.len().is_multiple_of(REST_EVERY).then_some(REST);
            outcomes.push(Outcome::of(to, rest, outcomes.len().is_multiple_of(ASK_EVERY)));
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        outcomes
    }
}

/// What was done meanwhile.
#[derive(Default)]
struct Story {
    /// What was done when, for the reader of a failure.
    done: Vec<(Instant, String)>,
    /// Times in which all of these tasks should have had their shares.
    calm: Vec<(Instant, Instant, BTreeSet<String>)>,
    /// Times in which a task was killed, until no node took it for alive.
    killed: Vec<(Instant, Instant)>,
    /// When a node was killed, and known to be gone.
    gone: Option<(Instant, Instant)>,
    /// When it was started again: nobody loses anything from then on.
    back: Option<Instant>,
    /// Tasks that were killed, or whose node was.
    died: BTreeSet<String>,
    /// When a node was taken for dead that ran, as happens where too many programs share the cores: those whose clients wait for
    /// one of its tasks lose that.
    starved: Vec<Instant>,
    /// Tasks that have not gone.
    stay: BTreeSet<String>,
}

pub(super) fn through_a_virtual_address() -> Result<()> {
    under_load("load", |daemons| {
        (0..CLIENTS).try_for_each(|node| plug(daemons, node, 0, NETWORK).map(drop))?;
        let address = SocketAddr::new(vips(daemons, SERVICE)?[0], PORT);
        let to = Target { address, resolver: Some(RESOLVER) };
        Ok((0..CLIENTS).map(|node| (endpoint(daemons, node, 0).netns().clone(), to.clone())).collect())
    })
}

/// The hosts themselves are the clients, each of the next one.
pub(super) fn through_the_mesh() -> Result<()> {
    under_load("load-mesh", |daemons| {
        let at = |node: usize| {
            let address = SocketAddr::new(daemons.hosts[node % CLIENTS].address, PUBLISHED);
            Target { address, resolver: None }
        };
        Ok((0..CLIENTS).map(|node| (daemons.hosts[node].netns.clone(), at(node + 1))).collect())
    })
}

/// Clients, and where they connect to.
type Clients = Vec<(NetNs, Target)>;

fn under_load(name: &str, clients: impl FnOnce(&Daemons) -> Result<Clients>) -> Result<()> {
    with_daemons(name, 5, |daemons| {
        begin(daemons)?;
        let clients = clients(daemons)?;
        wait_until_all_answer(daemons, &clients)?;
        let load = Load::start(&clients);
        let mut story = Story::default();
        happen(daemons, &load, &mut story)?;
        story.judge(&load.finish()?)
    })
}

/// A service of five tasks.
fn begin(daemons: &mut Daemons) -> Result<()> {
    daemons.arguments = vec!["--allow-tasks".into()];
    daemons.form(CLIENTS + 1, 1)?;
    let manager = &daemons.hosts[0];
    manager.say(&["network", "create", "--attachable", "--subnet", SUBNET, NETWORK])?;
    for host in &daemons.hosts {
        wait_until("the network is known", || Ok(host.networks()? == [NETWORK]))?;
    }
    let program = std::env::current_exe()?;
    let program = [program.to_str().context("UTF-8")?, SERVE];
    let policies = ["--restart-delay", "100ms", "--update-parallelism", "2"];
    // What is published has to listen before it counts as running.
    let port = format!("{PUBLISHED}:{PORT}");
    let create =
        ["service", "create", "--name", SERVICE, "--replicas", "5", "--network", NETWORK, "-p", &port];
    manager.say(&[&create[..], &policies, &["--"], &program].concat()).map(drop)
}

fn wait_until_all_answer(daemons: &Daemons, clients: &[(NetNs, Target)]) -> Result<()> {
    let tasks = running(daemons, 5)?;
    for (from, to) in clients {
        let mut seen = BTreeSet::new();
        wait_until("all answer", || {
            seen.extend(from.run(|| Outcome::of(to, None, true))?.task);
            Ok(seen == tasks)
        })?;
    }
    Ok(())
}

/// The names of the service's tasks, once so many run of its generation and there is nothing else, but for what a dead node
/// may still have.
fn running(daemons: &Daemons, count: usize) -> Result<BTreeSet<String>> {
    let generation = generation(daemons, SERVICE)?;
    let mut names = BTreeSet::new();
    wait_until("they run", || {
        let alive = |task: &Value| {
            daemons.hosts.iter().any(|host| host.process.is_some() && task["node"] == host.name)
        };
        let mut tasks = tasks(daemons, 0, SERVICE)?;
        tasks.retain(alive);
        names = tasks.iter().filter_map(|task| task_name(task).ok()).collect();
        let runs = |task: &Value| task["state"] == "running" && task["generation"] == generation;
        Ok(names.len() == count && tasks.iter().all(runs))
    })
    .with_context(|| format!("want {count} of generation {generation}"))?;
    Ok(names)
}

/// What a task says that it is called.
fn task_name(shown: &Value) -> Result<String> {
    let name = shown["id"].as_str().and_then(|id| id.get(..NAME_LEN));
    Ok(name.context("an id")?.to_owned())
}

/// Everything that a service goes through, with connections between.
fn happen(daemons: &mut Daemons, load: &Load, story: &mut Story) -> Result<()> {
    story.be_calm(load, running(daemons, 5)?)?;
    for node in [VICTIM, 1] {
        story.kill(daemons, node)?;
        load.go_on(SOME)?;
    }
    for replicas in [2, 8] {
        story.say(daemons, &["service", "scale", &format!("{SERVICE}={replicas}")])?;
        running(daemons, replicas)?;
        load.go_on(SOME)?;
    }
    story.be_calm(load, running(daemons, 8)?)?;
    story.say(daemons, &["service", "update", "--force", SERVICE])?;
    running(daemons, 8)?;
    load.go_on(SOME)?;
    story.kill_node(daemons)?;
    running(daemons, 8)?;
    load.go_on(SOME)?;
    story.start_node(daemons)?;
    load.go_on(SOME)?;
    story.be_calm(load, running(daemons, 8)?)?;
    load.go_on(ALL.saturating_sub(load.ended()))?;
    story.stay = running(daemons, 8)?;
    story.note_starved(daemons)
}

impl Story {
    fn note(&mut self, what: String) {
        self.done.push((Instant::now(), what));
    }

    fn say(&mut self, daemons: &Daemons, arguments: &[&str]) -> Result<()> {
        self.note(arguments.join(" "));
        daemons.hosts[0].say(arguments).map(drop)
    }

    fn be_calm(&mut self, load: &Load, tasks: BTreeSet<String>) -> Result<()> {
        self.note("nothing".into());
        let from = Instant::now();
        load.go_on(CALM)?;
        self.calm.push((from, Instant::now(), tasks));
        Ok(())
    }

    /// Kills a task of that node.
    fn kill(&mut self, daemons: &Daemons, node: usize) -> Result<()> {
        let host = &daemons.hosts[node];
        let all = tasks(daemons, 0, SERVICE)?;
        let task = all.iter().find(|task| task["node"] == host.name).context("it has one")?;
        self.note(format!("kill a task of {}", host.name));
        let from = Instant::now();
        host.say(&["kill", task["id"].as_str().context("an id")?])?;
        self.died.insert(task_name(task)?);
        for host in &daemons.hosts {
            let knows = || -> Result<bool> {
                let now = host.json(&["service", "ps", SERVICE])?;
                Ok(now.iter().all(|other| other["id"] != task["id"] || other["state"] != "running"))
            };
            wait_until("it is known to have gone", knows)?;
        }
        self.killed.push((from, Instant::now()));
        running(daemons, 5).map(drop)
    }

    fn kill_node(&mut self, daemons: &mut Daemons) -> Result<()> {
        let name = daemons.hosts[VICTIM].name;
        let all = tasks(daemons, 0, SERVICE)?;
        let own = all.iter().filter(|task| task["node"] == name).map(task_name);
        let own = own.collect::<Result<BTreeSet<_>>>()?;
        ensure!(!own.is_empty(), "it has tasks");
        self.died.extend(own);
        self.note(format!("kill {name}"));
        let from = Instant::now();
        daemons.kill(VICTIM)?;
        for host in &daemons.hosts[..CLIENTS] {
            wait_until("it is heard no more", || Ok(!host.ready()?.contains(&name.to_owned())))?;
        }
        self.gone = Some((from, Instant::now()));
        Ok(())
    }

    /// Reads in all logs who was taken for dead, and when.
    fn note_starved(&mut self, daemons: &Daemons) -> Result<()> {
        let (from, known) = self.gone.context("a node was killed")?;
        let victim = daemons.hosts[VICTIM].id()?;
        for line in daemons.hosts.iter().flat_map(Host::log).filter(|line| line.ends_with(" is down")) {
            let when = said_at(&line).with_context(|| line.clone())?;
            let was_dead = line.contains(&victim) && (from..=known).contains(&when);
            self.starved.extend((!was_dead).then_some(when));
        }
        Ok(())
    }

    /// Starts it again, and waits until it runs what it has run before.
    fn start_node(&mut self, daemons: &mut Daemons) -> Result<()> {
        let name = daemons.hosts[VICTIM].name;
        self.note(format!("start {name}"));
        self.back = Some(Instant::now());
        daemons.start(VICTIM)?;
        daemons.wait_until_all_see_all()?;
        wait_until("it has tasks", || {
            Ok(tasks(daemons, 0, SERVICE)?.iter().any(|task| task["node"] == name))
        })?;
        running(daemons, 8).map(drop)
    }
}

/// When a line was logged: it begins with the date and time.
fn said_at(line: &str) -> Option<Instant> {
    const DAY: Duration = Duration::from_hours(24);
    let (_, time) = line.split_once('T')?;
    let (time, _) = time.split_once('Z')?;
    let parts = time.split(':').map(|part| part.parse::<f64>().ok()).collect::<Option<Vec<_>>>()?;
    let then = Duration::try_from_secs_f64(parts.iter().fold(0.0, |sum, part| sum * 60.0 + part)).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos() % DAY.as_nanos();
    let now = Duration::from_nanos(u64::try_from(now).ok()?);
    let ago = if now < then { now + DAY - then } else { now - then };
    Instant::now().checked_sub(ago)
}
