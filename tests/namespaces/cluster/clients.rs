//! What people use, in tasks on two hosts: dig, curl, ping and iperf3, to each other and to the world.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Output;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::gateway::resolver;
use super::host::Host;
use super::shown::addresses;
use crate::fixture::{PATIENCE, iperf3, set, tool};

/// The networks: one that leads out and is sealed, one that is internal.
const NETWORKS: [&str; 2] = ["bilberry", "cloudberry"];
/// Bytes of the largest packet in the first.
const MTU: usize = 1_420;
/// Host without a daemon: the world.
const WORLD: usize = 2;
/// A page, of many packets.
const PAGE: usize = 300_000;
/// More than what is said at once takes, and less than what is waited for.
const AT_ONCE: Duration = Duration::from_millis(1_000);

pub(super) fn real() -> Result<()> {
    with_daemons("clients", 3, |daemons| {
        let tools = ["dig -v", "curl --version", "ping -V", "busybox true"];
        for line in tools {
            if tool(&daemons.hosts[WORLD].netns, line)?.is_none() {
                return Ok(());
            }
        }
        let world = daemons.hosts[WORLD].address;
        let IpAddr::V4(said) = world else { anyhow::bail!("the plan says IPv4") };
        daemons.arguments = vec!["--dns".into(), resolver(&daemons.hosts[WORLD], said)?.to_string()];
        daemons.form(2, 1)?;
        let web = begin(daemons)?;
        let client = &daemons.hosts[1];
        names(client, &web, world)?;
        sizes(client, &web, world)?;
        let page = fs::read(page(&daemons.hosts[0]))?;
        // By name, which both families have, and by address.
        for (options, place) in [("-4", "web".into()), ("-6", format!("web.{}", NETWORKS[0]))] {
            fetch(client, options, &format!("http://{place}/page"), &page)?;
        }
        fetch(client, "-g", &format!("http://[{}]/page", web[1]), &page)?;
        outside(client, &daemons.hosts[WORLD])?;
        for (host, task) in [(&daemons.hosts[0], "web"), (client, "client"), (client, "hermit")] {
            host.say(&["rm", "-f", task])?;
        }
        Ok(())
    })
}

/// Where a host's page is.
fn page(host: &Host) -> std::path::PathBuf {
    host.state.with_extension("www").join("page")
}

/// Networks and tasks: a server of a page, and clients on the other host. Gives the server's addresses.
fn begin(daemons: &Daemons) -> Result<Vec<IpAddr>> {
    let [one, two] = [&daemons.hosts[0], &daemons.hosts[1]];
    // Pings leave as the daemon's own.
    set(&two.netns, "ipv4/ping_group_range", "0 0")?;
    for (network, kind) in NETWORKS.iter().zip(["--opt=encrypted", "--internal"]) {
        one.say(&["network", "create", "--attachable", "--ipv6", kind, network])?;
    }
    wait_until("the networks are known", || Ok(two.networks()? == NETWORKS))?;
    let path = page(one);
    let root = path.parent().context("it is in one")?;
    fs::create_dir(root)?;
    fs::write(&path, (b'a'..b'x').cycle().take(PAGE).collect::<Vec<_>>())?;
    let serve = ["busybox", "httpd", "-f", "-h", root.to_str().context("UTF-8")?];
    let server = ["run", "-d", "--name", "web", "--network", NETWORKS[0], "--"];
    one.say(&[&server[..], &serve].concat())?;
    for (task, network) in ["client", "hermit"].into_iter().zip(NETWORKS) {
        two.say(&["run", "-d", "--name", task, "--network", network, "--", "sleep", "1d"])?;
    }
    let shown = one.json(&["ps", "--filter", "name=web"])?;
    let addresses = addresses(&shown[0]["endpoints"][0])?;
    ensure!(addresses.len() == 2, "{shown:?}");
    wait_until("data gets there", || Ok(exec(two, "client", "ping -c 1 -W 1 web")?.status.success()))?;
    Ok(addresses)
}

/// Runs a line in a task.
fn exec(host: &Host, task: &str, line: &str) -> Result<Output> {
    let words: Vec<&str> = line.split(' ').collect();
    host.ask(&[&["exec", task], &words[..]].concat(), "")
}

/// What it says there, on both of its outputs.
fn says(host: &Host, task: &str, line: &str) -> Result<String> {
    let output = exec(host, task, line)?;
    Ok(String::from_utf8([output.stdout, output.stderr].concat())?)
}

/// As the task's own resolv.conf has it.
fn names(client: &Host, web: &[IpAddr], world: IpAddr) -> Result<()> {
    let name = format!("web.{}.\n", NETWORKS[0]);
    for (question, expected) in [
        ("web", format!("{}\n", web[0])),
        ("+tcp web", format!("{}\n", web[0])),
        ("+bufsize=512 WEB", format!("{}\n", web[0])),
        ("+noedns web AAAA", format!("{}\n", web[1])),
        (&format!("-x {}", web[0]), name.clone()),
        (&format!("+tcp -x {}", web[1]), name),
        // What the world says.
        ("www.example.org", format!("{world}\n")),
        ("www.example.org AAAA", String::new()),
    ] {
        let said = says(client, "client", &format!("dig +short +tries=1 +time=5 {question}"))?;
        ensure!(said == expected, "{question}: {said:?} is not {expected:?}");
    }
    for line in ["dig +tries=1 +time=5 www.example.org", "dig +tcp +tries=1 +time=5 web"] {
        let asked = Instant::now();
        let said = says(client, "hermit", line)?;
        ensure!(said.contains("status: NXDOMAIN") && asked.elapsed() < AT_ONCE, "{line}: {said}");
    }
    Ok(())
}

/// Up to the MTU packets come whole; larger ones in parts, or, where that is forbidden, not at all, which is said.
fn sizes(client: &Host, web: &[IpAddr], world: IpAddr) -> Result<()> {
    for (to, headers) in [(web[0], 28), (web[1], 48), (world, 28)] {
        let ping = |size: usize, how: &str| {
            let line = format!("ping -n -c 2 -i 0.2 -W 5 -s {size} {how} {to}");
            Ok::<_, anyhow::Error>((says(client, "client", &line)?, line))
        };
        for size in [0, 56, 1_000, MTU - headers] {
            let (said, line) = ping(size, "-M do")?;
            ensure!(said.contains("2 received, 0% packet loss"), "{line}: {said}");
        }
        let (said, line) = ping(MTU - headers + 1, "-M do")?;
        let (error, none) = (format!("mtu: {MTU}"), "0 received, +2 errors, 100% packet loss");
        let told = said.contains(&error) || said.contains(&error.replace(": ", "="));
        ensure!(told && said.contains(none), "{line}: {said}");
        // Inside must not send fragments to the world.
        if to != world {
            let (said, line) = ping(4_000, "-M dont")?;
            ensure!(said.contains("2 received, 0% packet loss"), "{line}: {said}");
        }
    }
    Ok(())
}

fn fetch(client: &Host, options: &str, url: &str, page: &[u8]) -> Result<()> {
    let output = exec(client, "client", &format!("curl -sS --max-time 20 {options} {url}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && output.stdout == page, "{url}: {} bytes, {said}", output.stdout.len());
    Ok(())
}

/// Pages of the world, by address and by name, and streams there and back: all of them in the node's name.
fn outside(client: &Host, world: &Host) -> Result<()> {
    let page = vec![b'x'; PAGE];
    let (at, peers) = serve(&world.netns, world.address, page.clone())?;
    for place in [at.to_string(), format!("www.example.org:{}", at.port())] {
        fetch(client, "-4", &format!("http://{place}/"), &page)?;
        let peer = peers.recv_timeout(PATIENCE).context("somebody was served")?;
        ensure!(peer == client.address, "it was asked by {peer}");
    }
    for direction in ["-P 2", "-P 2 -R"] {
        let run = |line: &str| exec(client, "client", line).map(Some);
        let bytes = iperf3(&world.netns, world.address, direction, run).context(direction)?;
        // What is under way when the sender has counted all of its own does not count.
        ensure!(bytes.is_none_or(|bytes| bytes > 32 << 20), "{direction}: {bytes:?} bytes");
    }
    Ok(())
}

/// A web server with one page, until the test's process ends, and who has asked it.
fn serve(netns: &NetNs, address: IpAddr, page: Vec<u8>) -> Result<(SocketAddr, Receiver<IpAddr>)> {
    let listener = netns.run(|| TcpListener::bind((address, 0)))??;
    let at = listener.local_addr()?;
    let (tell, peers) = channel();
    thread::Builder::new().name("web".into()).spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let mut head = [0; 4_096];
            // Whoever asked will say that nothing came.
            let served = stream.read(&mut head).and_then(|_| {
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len())?;
                stream.write_all(&page)
            });
            if served.is_err() || tell.send(peer.ip()).is_err() {
                return;
            }
        }
    })?;
    Ok((at, peers))
}
