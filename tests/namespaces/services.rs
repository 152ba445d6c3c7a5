//! Virtual addresses, for the kernel's own stack: connections spread over endpoints here and on another host.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan};
use vswitchd::switch::balance::{IdleLimits, ServiceSpec, Task, TaskState};
use vswitchd::switch::fdb::Limits;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::{Offloads, Tap, TapConfig};
use vswitchd::switch::io::udp::{Udp, UdpConfig};
use vswitchd::switch::storm::StormLimit;
use vswitchd::switch::switch::Switch;
use vswitchd::switch::tables::PortSpec;
use vswitchd::switch::wire::{MacAddr, Vni, vxlan};
use vswitchd::switch::worker::{WorkerConfig, Workers};

use crate::Test;
use crate::fixture::{PATIENCE, Pattern, counters, offload_arguments, program, shape, start, tool, udp};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("services::connections_are_spread_and_tasks_see_their_clients", spread),
        ("services::a_task_is_its_own_client", hairpin),
        ("services::bulk_udp_echoes_and_errors_pass", traffic),
        ("services::who_loses_its_task_hears_of_it", death),
    ]
}

const PORT: u16 = 8_080;
const VIP4: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 100);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0xffff, 100);
const BULK: usize = 64 << 20;

fn vip(six: bool) -> IpAddr {
    if six { VIP6.into() } else { VIP4.into() }
}

fn own(endpoint: &Endpoint, six: bool) -> IpAddr {
    if six { endpoint.plan().v6.into() } else { endpoint.plan().v4.into() }
}

/// An endpoint by node and number.
fn endpoint(lab: &Lab, node: usize, number: usize) -> &Endpoint {
    &lab.nodes()[node].endpoints()[number]
}

/// Two nodes of two endpoints in one network, whose switches have both virtual addresses with these tasks.
fn lab(tasks: &[(usize, usize)]) -> Result<Lab> {
    let mut lab = Lab::build(Plan::new(shape(2, 2, 1, false))?)?;
    let vni = lab.plan().networks[0].vni;
    let listed = |six: bool| {
        let plans = tasks.iter().map(|&(node, number)| &lab.plan().nodes[node].endpoints[number]);
        let address =
            |plan: &vswitchd::lab::EndpointPlan| if six { plan.v6.into() } else { IpAddr::V4(plan.v4) };
        let tasks: Vec<_> = plans.map(|plan| format!("{}@{}", address(plan), plan.mac)).collect();
        format!("--service={vni}:{}={}", vip(six), tasks.join(","))
    };
    let arguments = [listed(false), listed(true)];
    start(&mut lab, 0..2, &arguments.each_ref().map(String::as_str))?;
    Ok(lab)
}

/// A server that says its name and its client's address, a line, and then all that it hears.
struct Server<'a> {
    endpoint: &'a Endpoint,
    address: SocketAddr,
    quit: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl<'a> Server<'a> {
    fn start(endpoint: &'a Endpoint, six: bool) -> Result<Self> {
        let listener = endpoint.netns().run(|| TcpListener::bind((own(endpoint, six), PORT)))??;
        let (address, name) = (listener.local_addr()?, endpoint.plan().name.clone());
        let quit = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&quit);
        let accept = move || {
            let mut served = Vec::new();
            loop {
                let (mut stream, client) = listener.accept()?;
                if told.load(Ordering::Acquire) {
                    break;
                }
                let (line, end) = (format!("{name} {}\n", client.ip()), stream.try_clone()?);
                let serve = move || -> io::Result<()> {
                    stream.write_all(line.as_bytes())?;
                    io::copy(&mut stream.try_clone()?, &mut stream)?;
                    stream.shutdown(Shutdown::Write)
                };
                served.push((end, thread::spawn(serve)));
            }
            for (end, thread) in served {
                // One whose client was told that this server is gone knows nothing of it. What has become of the others their
                // clients say.
                let _ = end.shutdown(Shutdown::Both);
                drop(thread.join());
            }
            Ok(())
        };
        Ok(Self { endpoint, address, quit, thread: Some(thread::spawn(accept)) })
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::Release);
        let woken = self.endpoint.netns().run(|| TcpStream::connect(self.address));
        if woken.is_ok_and(|stream| stream.is_ok()) {
            self.thread.take().map(JoinHandle::join);
        }
    }
}

/// A connection of an endpoint to the service, and who answered: its name, and the client's address that it saw.
fn connect(from: &Endpoint, six: bool) -> Result<(TcpStream, String, IpAddr)> {
    let target = SocketAddr::new(vip(six), PORT);
    let stream = from.netns().run(|| TcpStream::connect_timeout(&target, PATIENCE))??;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    // A byte at a time: what follows is the caller's.
    BufReader::with_capacity(1, &stream).read_line(&mut line)?;
    let (name, client) = line.trim_end().split_once(' ').context("a name and an address")?;
    let seen = (name.to_owned(), client.parse()?);
    Ok((stream, seen.0, seen.1))
}

fn spread() -> Result<()> {
    const CONNECTIONS: usize = 60;
    let tasks = [(0, 1), (1, 0), (1, 1)];
    let lab = lab(&tasks)?;
    let client = endpoint(&lab, 0, 0);
    for six in [false, true] {
        let servers = tasks.map(|(node, number)| Server::start(endpoint(&lab, node, number), six));
        let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        let (mut names, mut open) = (BTreeSet::new(), Vec::new());
        for _ in 0..CONNECTIONS {
            let (stream, name, seen) = connect(client, six)?;
            ensure!(seen == own(client, six), "{name} sees {seen}");
            names.insert(name);
            open.push(stream);
        }
        ensure!(names.len() == tasks.len(), "only {names:?} of three got any of {CONNECTIONS}");
        // All at once, each on its own way.
        for (number, stream) in open.iter_mut().enumerate() {
            stream.write_all(format!("{number:04}").as_bytes())?;
        }
        for (number, stream) in open.iter_mut().enumerate() {
            let mut heard = [0; 4];
            stream.read_exact(&mut heard)?;
            ensure!(heard == *format!("{number:04}").as_bytes(), "connection {number} heard {heard:?}");
        }
        drop((open, servers));
    }
    let counted = counters(program(&lab, 0)?)?;
    ensure!(counted["flows"]["opened"] == 2 * CONNECTIONS, "{counted}");
    let elsewhere = counters(program(&lab, 1)?)?;
    ensure!(elsewhere["flows"]["opened"] == 0, "tasks' hosts have no part in it: {elsewhere}");
    Ok(())
}

fn hairpin() -> Result<()> {
    let lab = lab(&[(0, 0)])?;
    let both = endpoint(&lab, 0, 0);
    for six in [false, true] {
        let _server = Server::start(both, six)?;
        let (mut stream, name, seen) = connect(both, six)?;
        ensure!((name, seen) == (both.plan().name.clone(), vip(six)), "it hears from the service");
        stream.write_all(b"to myself")?;
        stream.shutdown(Shutdown::Write)?;
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        ensure!(heard == b"to myself");
    }
    Ok(())
}

fn traffic() -> Result<()> {
    let lab = lab(&[(1, 0)])?;
    let (client, task) = (endpoint(&lab, 0, 0), endpoint(&lab, 1, 0));
    for six in [false, true] {
        let server = Server::start(task, six)?;
        bulk(client, six)?;
        drop(server);
        datagrams(client, task, six)?;
        let refused = connect(client, six).err().context("nobody listens any more")?;
        ensure!(is(&refused, ErrorKind::ConnectionRefused), "{refused:#}");
    }
    for line in [
        format!("ping -c 3 -i 0.2 -W 5 {VIP4}"),
        format!("ping -c 3 -i 0.2 -W 5 -s 4000 {VIP4}"),
        format!("ping -c 3 -i 0.2 -W 5 -s 4000 {VIP6}"),
    ] {
        let Some(output) = tool(client.netns(), &line)? else { continue };
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("3 received, 0% packet loss"), "{line}: {said}");
    }
    iperf(client, task)?;
    let counted = counters(program(&lab, 0)?)?;
    ensure!(counted["drops"] == serde_json::json!({}), "{counted}");
    Ok(())
}

/// Both directions at once, every byte checked.
fn bulk(client: &Endpoint, six: bool) -> Result<()> {
    let (mut stream, ..) = connect(client, six)?;
    let (pattern, mut writer) = (Pattern::new(), stream.try_clone()?);
    let received = thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            pattern.write(&mut writer, BULK)?;
            Ok(writer.shutdown(Shutdown::Write)?)
        });
        let received = pattern.check(&mut stream);
        sender.join().expect("the sender returns its errors")?;
        received
    })?;
    ensure!(received == BULK, "{received} of {BULK} bytes came back");
    Ok(())
}

/// Datagrams of all sizes, in fragments too, and one that nobody takes.
fn datagrams(client: &Endpoint, task: &Endpoint, six: bool) -> Result<()> {
    let (asker, server) =
        (udp(client.netns(), own(client, six), 0)?, udp(task.netns(), own(task, six), PORT)?);
    let (target, mut buf) = (SocketAddr::new(vip(six), PORT), vec![0; 65_536]);
    for size in [1, 1_000, 1_400, 1_500, 4_000, 20_000] {
        let sent: Vec<u8> = (0..=250).cycle().take(size).collect();
        asker.send_to(&sent, target)?;
        let (len, from) = server.recv_from(&mut buf).with_context(|| format!("{size} bytes there"))?;
        ensure!(
            (&buf[..len], from) == (&sent[..], asker.local_addr()?),
            "{len} of {size} bytes, from {from}"
        );
        server.send_to(&sent, from)?;
        let (len, from) = asker.recv_from(&mut buf).with_context(|| format!("{size} bytes back"))?;
        ensure!((&buf[..len], from) == (&sent[..], target), "{len} of {size} bytes, from {from}");
    }
    drop(server);
    asker.connect(target)?;
    asker.send(b"anybody?")?;
    let refused = asker.recv(&mut buf).err().context("nobody is there")?;
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    Ok(())
}

/// A real client and server, both directions.
fn iperf(client: &Endpoint, task: &Endpoint) -> Result<()> {
    for reverse in ["", " -R"] {
        let ended = thread::scope(|scope| {
            let server = scope.spawn(|| tool(task.netns(), &format!("iperf3 -s -1 -B {}", task.plan().v4)));
            let line = format!("iperf3 -c {VIP4} -n 64M --connect-timeout 1000{reverse}");
            let deadline = Instant::now() + PATIENCE;
            // Until the server listens.
            let outcome = loop {
                match tool(client.netns(), &line)? {
                    Some(output) if !output.status.success() && Instant::now() < deadline => {}
                    outcome => break outcome,
                }
            };
            server.join().expect("it returns its errors")?;
            anyhow::Ok(outcome)
        })?;
        let Some(output) = ended else { continue };
        ensure!(output.status.success(), "iperf3{reverse}: {output:?}");
    }
    Ok(())
}

fn is(error: &anyhow::Error, kind: ErrorKind) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == kind))
}

/// The first node's switch runs in this process, so that its services can be changed.
struct Here {
    switch: Switch,
    vni: Vni,
    _workers: Workers,
}

impl Here {
    fn start(lab: &Lab) -> Result<Self> {
        const WORKERS: usize = 2;
        let (node, peer) = (&lab.nodes()[0], &lab.nodes()[1]);
        let local = SocketAddr::new(node.plan().address, vxlan::PORT);
        let underlays = node.netns().run(|| Udp::bind_all(&UdpConfig::new(local.ip(), 1), WORKERS))??;
        let (switch, vni) =
            (Switch::for_workers(local, Limits::default(), WORKERS), lab.plan().networks[0].vni);
        let mut devices = Vec::new();
        let offloads = if offload_arguments().is_empty() { Offloads::ALL } else { Offloads::NONE };
        for endpoint in node.endpoints() {
            let config =
                TapConfig { mtu: Some(1_450), queues: WORKERS, offloads, ..TapConfig::new(ENDPOINT_LINK) };
            let tap = endpoint.netns().run(|| Tap::open(&config))??;
            endpoint.configure()?;
            let (name, capabilities) = (endpoint.plan().name.clone(), tap.capabilities());
            let spec = PortSpec { name, vni, mtu: 1_450, capabilities, storm: StormLimit::default() };
            devices.push((switch.add_port(spec)?, Box::new(tap) as Box<dyn FrameIo>));
        }
        switch.add_peer(vni, SocketAddr::new(peer.plan().address, vxlan::PORT))?;
        let underlays = underlays.into_iter().map(|underlay| Box::new(underlay) as _).collect();
        let workers = Workers::spawn(switch.clone(), underlays, devices, WorkerConfig::default(), |_| {})?;
        Ok(Self { switch, vni, _workers: workers })
    }

    fn serve(&self, tasks: &[&Endpoint]) -> Result<()> {
        let task = |endpoint: &&Endpoint| {
            let plan = endpoint.plan();
            Task { mac: plan.mac, ipv4: Some(plan.v4), ipv6: Some(plan.v6), state: TaskState::Live }
        };
        let spec = ServiceSpec {
            mac: MacAddr([2, 0x42, 10, 1, 255, 100]),
            addresses: vec![vip(false), vip(true)],
            tasks: tasks.iter().map(task).collect(),
            idle: IdleLimits::default(),
        };
        Ok(self.switch.set_service(self.vni, spec)?)
    }
}

fn death() -> Result<()> {
    let mut lab = Lab::build(Plan::new(shape(2, 2, 1, false))?)?;
    start(&mut lab, 1..2, &[])?;
    let here = Here::start(&lab)?;
    let client = endpoint(&lab, 0, 0);
    let [first, second, third] = [(1, 0), (1, 1), (0, 1)].map(|(node, number)| endpoint(&lab, node, number));
    for six in [false, true] {
        let servers = [first, second, third].map(|endpoint| Server::start(endpoint, six));
        let _servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
        here.serve(&[first])?;
        let (mut waiting, name, _) = connect(client, six)?;
        ensure!(name == first.plan().name);
        let asker = udp(client.netns(), own(client, six), 0)?;
        asker.connect((vip(six), PORT + 1))?;
        let hearer = udp(first.netns(), own(first, six), PORT + 1)?;
        asker.send(b"question")?;
        hearer.recv(&mut [0; 16])?;
        // It vanishes without a word: both only wait, and are told.
        here.serve(&[second])?;
        let reset = waiting.read(&mut [0; 16]).err().context("the connection ended as if all were well")?;
        ensure!(reset.kind() == ErrorKind::ConnectionReset, "{reset}");
        let refused = asker.recv(&mut [0; 16]).err().context("somebody answered")?;
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
        // The new task has new connections at once, one of this host too.
        let (_kept, name, _) = connect(client, six)?;
        ensure!(name == second.plan().name);
        here.serve(&[second, third])?;
        let mut names = BTreeSet::new();
        for _ in 0..30 {
            names.insert(connect(client, six)?.1);
        }
        ensure!(names.len() == 2, "only {names:?}");
        here.serve(&[])?;
        let refused = connect(client, six).err().context("nobody is left")?;
        ensure!(is(&refused, ErrorKind::ConnectionRefused), "{refused:#}");
    }
    let flows = here.switch.report().flows;
    ensure!(flows.reset >= 4, "{flows:?}");
    Ok(())
}
