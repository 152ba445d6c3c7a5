//! The gateways of networks, which every node has for its own endpoints, asked by real clients.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::api::HostAddress;
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::Host;
use super::overlay::{attach, endpoint, plug};
use crate::fixture::{PATIENCE, tcp, tool};

/// Port of the test's own resolver.
const RESOLVER_PORT: u16 = 5_353;
/// What that says of any name.
const SAID: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
/// The networks, in the order of each node's endpoints: one that leads out, one that does not.
const NETWORKS: [&str; 2] = ["bilberry", "cloudberry"];
const OPEN: usize = 0;
const INTERNAL: usize = 1;
/// Least time that a forwarded question takes when nobody answers: far more than a refusal takes.
const FORWARDED: Duration = Duration::from_millis(1_000);

/// A resolver for the world outside, which says an address of any name, until the test's process ends.
pub(super) fn resolver(host: &Host, said: Ipv4Addr) -> Result<SocketAddr> {
    let at = SocketAddr::new(host.address, RESOLVER_PORT);
    let socket = host.netns.run(|| UdpSocket::bind(at))??;
    thread::Builder::new().name("resolver".into()).spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            // Whoever asked will say that nothing came.
            let _ = answer(&query[..len], said).map(|reply| socket.send_to(&reply, from));
        }
    })?;
    Ok(at)
}

/// The query as a reply (RFC 1035 §4.1): its header with answers counted, its question, and, if that is for an IPv4
/// address, an answer, whose name is the question's.
fn answer(query: &[u8], said: Ipv4Addr) -> Option<Vec<u8>> {
    let name = query.get(12..)?.iter().position(|&byte| byte == 0)?;
    let question = query.get(12..12 + name + 5)?;
    let known = question.ends_with(&[0, 1, 0, 1]);
    let header = [query[0], query[1], 0x81, 0x80, 0, 1, 0, known.into(), 0, 0, 0, 0];
    let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4], &said.octets()[..]].concat();
    Some([&header[..], question, if known { &record } else { &[] }].concat())
}

/// Makes both networks with the addresses that the lab's endpoints have, and attaches an endpoint of each node
/// to both.
fn attach_all(daemons: &Daemons) -> Result<()> {
    for (number, name) in (1..).zip(NETWORKS) {
        let v4 = format!("10.{number}.0.0/16");
        let (v4_gateway, v6) = (format!("10.{number}.255.254"), format!("fd00:{number}::/64"));
        let v6_gateway = format!("fd00:{number}::ffff:1");
        let subnets = ["--subnet", &v4, "--gateway", &v4_gateway, "--subnet", &v6, "--gateway", &v6_gateway];
        let kind = if name == NETWORKS[INTERNAL] { &["--internal"][..] } else { &[] };
        daemons.hosts[0].say(&[&["network", "create"], &subnets[..], kind, &[name]].concat())?;
    }
    for node in 0..2 {
        wait_until("the networks are known", || Ok(daemons.hosts[node].networks()? == NETWORKS))?;
        for (index, network) in NETWORKS.iter().enumerate() {
            attach(daemons, node, index, network)?;
        }
    }
    Ok(())
}

/// Ping, DNS from elsewhere, and what an internal network says at once.
pub(super) fn answers() -> Result<()> {
    with_daemons("gateway", 2, |daemons| {
        let resolver = resolver(&daemons.hosts[0], SAID)?;
        daemons.arguments = vec!["--dns".into(), resolver.to_string()];
        daemons.form(2, 1)?;
        attach_all(daemons)?;
        for node in 0..2 {
            for network in [OPEN, INTERNAL] {
                pings(daemons, node, network)?;
            }
            let said = dig(daemons, node, OPEN, "+short example.org")?;
            ensure!(said.is_none_or(|said| said == "192.0.2.77\n"), "node {node} resolves nothing outside");
            let again = dig(daemons, node, OPEN, "+short EXAMPLE.org")?;
            ensure!(again.is_none_or(|said| said == "192.0.2.77\n"), "node {node} has forgotten it");
            let asked = Instant::now();
            if let Some(said) = dig(daemons, node, INTERNAL, "example.org")? {
                ensure!(said.contains("status: NXDOMAIN"), "node {node}, internal: {said}");
                ensure!(asked.elapsed() < FORWARDED, "it was asked of somebody: {:?}", asked.elapsed());
            }
        }
        // Nobody's gateway was heard at another node.
        for host in &daemons.hosts {
            let drops = host.status()?["data"]["drops"].clone();
            ensure!(drops["source-elsewhere"].is_null(), "{}: {drops}", host.name);
        }
        counted(daemons)?;
        gone(daemons)
    })
}

/// Each node says what its gateways have done.
fn counted(daemons: &Daemons) -> Result<()> {
    for host in &daemons.hosts {
        let data = host.status()?["data"].clone();
        let gateways = data["gateways"].as_array().context("a list")?;
        let names: Vec<_> = gateways.iter().map(|gateway| &gateway["network"]).collect();
        ensure!(names == NETWORKS, "{}: {data}", host.name);
        let asked = |network: usize, counter: &str| gateways[network][counter].as_u64();
        if asked(OPEN, "forwarded") == Some(0) {
            eprintln!("nothing to count: dig is missing");
            return Ok(());
        }
        let open = [asked(OPEN, "forwarded"), asked(OPEN, "cached"), asked(OPEN, "unanswered")];
        ensure!(open == [Some(1), Some(1), Some(0)], "{}: {data}", host.name);
        ensure!(asked(INTERNAL, "refused") == Some(1) && asked(INTERNAL, "forwarded") == Some(0), "{data}");
        let text = host.say(&["status"])?;
        let line = format!(
            "gateway of {}: at 10.1.255.254 and fd00:1::ffff:1, from memory 1, forwarded 1",
            NETWORKS[OPEN]
        );
        ensure!(text.contains(&line), "{text}");
    }
    Ok(())
}

/// The gateway's addresses in a network, and what else a question needs.
fn dig(daemons: &Daemons, node: usize, network: usize, question: &str) -> Result<Option<String>> {
    let line = format!("dig +tries=1 +time=5 @10.{}.255.254 {question}", network + 1);
    let output = tool(endpoint(daemons, node, network).netns(), &line)?;
    output.map(|output| String::from_utf8(output.stdout).context("dig says text")).transpose()
}

fn pings(daemons: &Daemons, node: usize, network: usize) -> Result<()> {
    let from = endpoint(daemons, node, network).netns();
    for (server, size) in
        [(format!("10.{}.255.254", network + 1), 1_372), (format!("fd00:{}::ffff:1", network + 1), 1_352)]
    {
        let line = format!("ping -c 2 -i 0.2 -W 5 -s {size} -M do {server}");
        let Some(output) = tool(from, &line)? else { continue };
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("2 received, 0% packet loss"), "node {node}: {line}: {said}");
    }
    Ok(())
}

/// With a node's last endpoint its gateway ends; the other node's is not concerned.
fn gone(daemons: &Daemons) -> Result<()> {
    let gateways = |node: usize| -> Result<usize> {
        let tasks = format!("/proc/{}/task", daemons.hosts[node].process()?.id());
        let mut names = Vec::new();
        for task in std::fs::read_dir(tasks)? {
            // A thread may have ended meanwhile.
            names.extend(std::fs::read_to_string(task?.path().join("comm")));
        }
        Ok(names.iter().filter(|name| name.trim() == "gateway").count())
    };
    ensure!(gateways(0)? == 2, "one for each network");
    let name = &endpoint(daemons, 0, OPEN).plan().name;
    daemons.hosts[0].say(&["detach", name])?;
    wait_until("its gateway ends", || Ok(gateways(0)? == 1))?;
    ensure!(gateways(1)? == 2);
    pings(daemons, 1, OPEN)
}

/// With nothing set by hand, endpoints reach what is outside of the cluster, and neither other networks nor, from an
/// internal one, anything.
pub(super) fn leads_out() -> Result<()> {
    with_daemons("wayout", 2, |daemons| {
        daemons.form(2, 1)?;
        for (network, kind) in NETWORKS.iter().zip([&[][..], &["--internal"]]) {
            daemons.hosts[0].say(&[&["network", "create"], kind, &[*network]].concat())?;
        }
        wait_until("the networks are known", || Ok(daemons.hosts[1].networks()? == NETWORKS))?;
        let first = |attached: Value| -> Result<IpAddr> {
            let address = attached["addresses"][0].as_str().context("an address")?;
            Ok(address.parse::<HostAddress>()?.address())
        };
        plug(daemons, 1, OPEN, NETWORKS[OPEN])?;
        let internal = first(plug(daemons, 1, INTERNAL, NETWORKS[INTERNAL])?)?;
        let (world, inside) = (&daemons.hosts[0], endpoint(daemons, 1, OPEN).netns());
        tcp(inside, &world.netns, world.address, 8 << 20)?;
        let refused = |from: &NetNs, to: IpAddr| -> Result<ErrorKind> {
            let outcome = from.run(|| TcpStream::connect_timeout(&(to, 80).into(), PATIENCE))?;
            Ok(outcome.err().with_context(|| format!("{to} is reached"))?.kind())
        };
        // Nobody listens there, which is said by the host itself.
        ensure!(refused(inside, world.address)? == ErrorKind::ConnectionRefused);
        ensure!(refused(inside, internal)? == ErrorKind::HostUnreachable, "networks are kept apart");
        let enclosed = endpoint(daemons, 1, INTERNAL).netns();
        ensure!(refused(enclosed, world.address)? == ErrorKind::NetworkUnreachable, "it has no way out");
        Ok(())
    })
}
