//! Hosts in network namespaces, built with the lab's own code, and traffic between them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::{Range, RangeInclusive};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;
use vswitchd::lab::program::Program;
use vswitchd::lab::{Lab, Plan, Shape};
use vswitchd::namespace::netns::NetNs;

/// Long enough for anything that happens at all, on the slowest machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for what must not happen to have happened: the same thing took microseconds where it may.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Until a child of another test's thread, between fork and exec, has closed the sockets that it got with it.
const FORKED: Duration = Duration::from_secs(2);

/// The program under test.
pub(crate) const VSWITCHD: &str = env!("CARGO_BIN_EXE_vswitchd");

pub(crate) fn shape(nodes: u16, endpoints: u16, networks: u16, ipv6: bool) -> Shape {
    Shape { nodes, endpoints, networks, ipv6, ..Shape::default() }
}

/// A lab whose nodes run `vswitchd switch`, with more arguments if wanted.
pub(crate) fn lab(shape: Shape, arguments: &[&str]) -> Result<Lab> {
    lab_of(Plan::new(shape)?, arguments)
}

pub(crate) fn lab_of(plan: Plan, arguments: &[&str]) -> Result<Lab> {
    let mut lab = Lab::build(plan)?;
    let nodes = 0..lab.nodes().len();
    start(&mut lab, nodes, arguments)?;
    Ok(lab)
}

/// Runs `vswitchd switch` in some nodes of a lab, with more arguments if wanted.
pub(crate) fn start(lab: &mut Lab, nodes: Range<usize>, arguments: &[&str]) -> Result<()> {
    let more: &[&str] = if arguments.contains(&NO_OFFLOAD) { &[] } else { offload_arguments() };
    Ok(lab.start_nodes(nodes, VSWITCHD, &[arguments, more].concat())?)
}

/// The switch's option for TAPs without offloads.
pub(crate) const NO_OFFLOAD: &str = "--no-offload";

/// What every switch is given: nothing, or with `VSWITCHD_TEST_OFFLOAD=off` [`NO_OFFLOAD`].
pub(crate) fn offload_arguments() -> &'static [&'static str] {
    match std::env::var("VSWITCHD_TEST_OFFLOAD").as_deref() {
        Err(_) | Ok("on") => &[],
        Ok("off") => &[NO_OFFLOAD],
        Ok(other) => panic!("VSWITCHD_TEST_OFFLOAD is `on` or `off`, not {other:?}"),
    }
}

/// Whether switches use offloads; says so where a test has nothing to look at without.
pub(crate) fn with_offloads() -> bool {
    let with = offload_arguments().is_empty();
    if !with {
        eprintln!("\nTHIS TEST IS ABOUT OFFLOADS AND SKIPPED: VSWITCHD_TEST_OFFLOAD=off\n");
    }
    with
}

/// The counters of a node's switch, asked for with SIGUSR1.
pub(crate) fn counters(program: &Program) -> Result<Value> {
    rustix::process::kill_process(program.pid(), rustix::process::Signal::USR1)?;
    event(program, "counters")
}

/// The next event of that kind; others are passed over.
pub(crate) fn event(program: &Program, kind: &str) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(event) = program.next_event(deadline) {
        if event["event"] == kind {
            return Ok(event);
        }
    }
    bail!("no event {kind} within {PATIENCE:?}: {:?}", program.last_words())
}

pub(crate) fn program(lab: &Lab, node: usize) -> Result<&Program> {
    lab.nodes()[node].program().context("the node runs a program")
}

/// A seed, said beforehand: a test that fails must tell what it was.
pub(crate) fn seeded() -> Rng {
    let seed = std::env::var("VSWITCHD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("VSWITCHD_TEST_SEED={seed}");
    Rng::with_seed(seed)
}

/// Bytes that repeat with a period prime to every buffer's size, so that lost, doubled or moved ones show; laid out
/// once, so that checking a gigabyte costs a comparison.
pub(crate) struct Pattern(Vec<u8>);

const CHUNK: usize = 1 << 18;
const PERIOD: usize = 65_521;

impl Pattern {
    pub(crate) fn new() -> Self {
        let byte = |at: usize| ((at % PERIOD).wrapping_mul(0x9e37) >> 7).to_le_bytes()[0];
        Self((0..PERIOD + CHUNK).map(byte).collect())
    }

    fn at(&self, offset: usize, len: usize) -> &[u8] {
        &self.0[offset % PERIOD..][..len]
    }

    /// Writes that many bytes.
    pub(crate) fn write(&self, stream: &mut TcpStream, bytes: usize) -> Result<()> {
        let mut sent = 0;
        while sent < bytes {
            let len = CHUNK.min(bytes - sent);
            stream.write_all(self.at(sent, len)).with_context(|| format!("after {sent} bytes"))?;
            sent += len;
        }
        Ok(())
    }

    /// Reads to the end, checks every byte, and gives how many there were.
    pub(crate) fn check(&self, stream: &mut TcpStream) -> Result<usize> {
        let (mut buf, mut received) = (vec![0; CHUNK], 0);
        loop {
            let len = stream.read(&mut buf).with_context(|| format!("after {received} bytes"))?;
            if len == 0 {
                return Ok(received);
            }
            ensure!(&buf[..len] == self.at(received, len), "corrupted between {received} and +{len}");
            received += len;
        }
    }
}

/// Sends `bytes` over TCP from one namespace to an address in another, checks every byte, and gives the seconds.
pub(crate) fn tcp(from: &NetNs, to: &NetNs, address: IpAddr, bytes: usize) -> Result<f64> {
    let pattern = Pattern::new();
    let listener = to.run(|| TcpListener::bind((address, 0)))??;
    let target = listener.local_addr()?;
    let started = Instant::now();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let received = pattern.check(&mut stream)?;
            ensure!(received == bytes, "{received} of {bytes} bytes arrived");
            stream.write_all(b"done")?;
            Ok(())
        });
        let sent = (|| -> Result<()> {
            let mut stream = connect(from, target)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            pattern.write(&mut stream, bytes)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut [0; 4]).context("waiting for the receiver's word")?;
            Ok(())
        })();
        if sent.is_err() {
            // Let the receiver end: it may still wait for a connection.
            to.run(|| TcpStream::connect(target))?.ok();
        }
        let received = receiver.join().expect("the receiver returns its errors");
        received.context("receiving")?;
        sent.context("sending")
    })?;
    Ok(started.elapsed().as_secs_f64())
}

fn connect(from: &NetNs, target: SocketAddr) -> Result<TcpStream> {
    Ok(from.run(|| TcpStream::connect_timeout(&target, PATIENCE))??)
}

/// A socket in a namespace. One of before may be open still for a moment after it was closed: in a child of another test's
/// thread, between fork and exec.
pub(crate) fn bound<T: Send>(netns: &NetNs, bind: impl Fn() -> std::io::Result<T> + Sync) -> Result<T> {
    let deadline = Instant::now() + FORKED;
    loop {
        match netns.run(&bind)? {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::yield_now();
            }
            bound => return Ok(bound?),
        }
    }
}

/// A UDP socket in a namespace, bound to any port of `address`, with a time-out.
pub(crate) fn udp(netns: &NetNs, address: IpAddr, port: u16) -> Result<UdpSocket> {
    let socket = bound(netns, || UdpSocket::bind((address, port)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_broadcast(true)?;
    Ok(socket)
}

/// Sends datagrams of every size up to `largest`, a few at a time, and checks each that comes back byte for byte.
pub(crate) fn udp_both_ways(
    from: &NetNs,
    to: &NetNs,
    here: IpAddr,
    there: IpAddr,
    largest: usize,
) -> Result<()> {
    udp_sizes(from, to, here, there, 1..=largest)
}

/// As [`udp_both_ways`], from a smallest size on.
pub(crate) fn udp_sizes(
    from: &NetNs,
    to: &NetNs,
    here: IpAddr,
    there: IpAddr,
    range: RangeInclusive<usize>,
) -> Result<()> {
    let (client, server) = (udp(from, here, 0)?, udp(to, there, 0)?);
    let (source, target) = (client.local_addr()?, server.local_addr()?);
    let pattern = Pattern::new();
    let largest = *range.end();
    let sizes: Vec<usize> = range.step_by(7).chain([largest]).collect();
    let mut buf = vec![0; 65_536];
    for window in sizes.chunks(8) {
        for &size in window {
            client.send_to(pattern.at(size * 31, size), target)?;
        }
        each_once(window, || {
            let (len, sender) =
                server.recv_from(&mut buf).with_context(|| format!("waiting for {window:?}"))?;
            ensure!(sender == source, "{len} bytes from {sender}");
            ensure!(&buf[..len] == pattern.at(len * 31, len), "corrupted on the way there, {len} bytes");
            server.send_to(&buf[..len], sender)?;
            Ok(len)
        })?;
        each_once(window, || {
            let len = client.recv(&mut buf).with_context(|| format!("waiting for echoes of {window:?}"))?;
            ensure!(&buf[..len] == pattern.at(len * 31, len), "corrupted on the way back, {len} bytes");
            Ok(len)
        })?;
    }
    Ok(())
}

/// Receives one of each size. In which order is not the switch's alone to say: where a device has several queues, the
/// kernel moves a flow to another one once it has been answered there.
fn each_once(sizes: &[usize], mut receive: impl FnMut() -> Result<usize>) -> Result<()> {
    let mut missing = sizes.to_vec();
    while !missing.is_empty() {
        let size = receive()?;
        let at = missing.iter().position(|&missing| missing == size);
        missing.swap_remove(at.with_context(|| format!("{size} bytes once too often, or never sent"))?);
    }
    Ok(())
}

/// Whether a datagram gets from one socket to an address, received at `at`; tries again while neighbours resolve.
pub(crate) fn reaches(from: &UdpSocket, target: SocketAddr, at: &UdpSocket) -> Result<bool> {
    at.set_read_timeout(Some(SILENCE))?;
    for _ in 0..3 {
        from.send_to(b"there?", target)?;
        if at.recv(&mut [0; 16]).is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sets a network setting of a namespace's own, `ipv4/tcp_sack` and the like.
pub(crate) fn set(netns: &NetNs, name: &str, value: &str) -> Result<()> {
    // This directory shows the settings of whoever looks.
    netns
        .run(|| fs::write(format!("/proc/sys/net/{name}"), value))?
        .with_context(|| format!("setting {name}"))
}

/// What a namespace's protocols have counted, in one of its tables: `snmp`, `netstat`.
pub(crate) fn counted(netns: &NetNs, table: &str, name: &str) -> Result<u64> {
    let table = netns.run(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")))??;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split(' ').collect()).collect();
    let found = lines.chunks(2).find_map(|pair| {
        let column = pair[0].iter().position(|&column| column == name)?;
        pair.get(1)?.get(column)?.parse().ok()
    });
    found.with_context(|| format!("the kernel doesn't count {name}"))
}

/// Runs a program of the system's in a host. Where it is not installed the test can't run, which `CI=true` forbids.
pub(crate) fn tool(host: &NetNs, line: &str) -> Result<Option<Output>> {
    let mut words = line.split(' ');
    let name = words.next().context("a program")?;
    match host.command(name).args(words).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            ensure!(
                std::env::var_os("CI").is_none_or(|ci| ci != "true"),
                "with CI=true {name} must be there"
            );
            eprintln!("\nA PART OF THIS TEST CAN'T RUN HERE: {name} is not installed\n");
            Ok(None)
        }
        outcome => Ok(Some(outcome?)),
    }
}

/// A program that ends with its test.
pub(crate) struct Ending(pub(crate) Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait().map(drop));
    }
}

/// Has iperf3's client, which `run` runs, exchange 64 MiB with a server in `server`. Gives how many bytes were received;
/// `None` where it is not installed.
pub(crate) fn iperf3(
    server: &NetNs,
    address: IpAddr,
    options: &str,
    run: impl Fn(&str) -> Result<Option<Output>>,
) -> Result<Option<u64>> {
    if tool(server, "iperf3 --version")?.is_none() {
        return Ok(None);
    }
    let mut command = server.command("iperf3");
    let _server = Ending(command.args(["-s", "-1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    // Until it listens, it refuses.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = run(&format!("iperf3 -c {address} -n 64M {options} -J"))?.context("it is there")?;
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let refused = said["error"].as_str().is_some_and(|error| error.contains("refused"));
        if refused && Instant::now() < deadline {
            continue;
        }
        let bytes = said["end"]["sum_received"]["bytes"].as_u64();
        return bytes.with_context(|| said.to_string()).map(Some);
    }
}
