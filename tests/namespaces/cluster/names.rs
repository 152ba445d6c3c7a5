//! Names of endpoints: there on every node as soon as they are attached, and gone as soon as they are not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::{endpoint, plug};
use super::shown::{address, addresses};
use crate::fixture::{PATIENCE, tool, udp};
use crate::gateway::{lease, query, says};

/// An internal network, so that what is not known is so at once, and nobody else is asked.
const NETWORK: &str = "dewberry";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// Endpoints that come and go while it is measured how soon that is known.
const ROUNDS: usize = 5;

/// Whether the gateway knows a name.
struct Asker(UdpSocket);

impl Asker {
    /// One at a node's first endpoint, which has been attached as `attached`.
    fn new(daemons: &Daemons, node: usize, attached: &Value) -> Result<Self> {
        let socket = udp(endpoint(daemons, node, 0).netns(), address(attached)?, 0)?;
        socket.connect(SocketAddr::from((GATEWAY, 53)))?;
        Ok(Self(socket))
    }

    fn knows(&self, name: &str) -> Result<bool> {
        let mut reply = [0; 512];
        self.0.send(&query(name))?;
        let len = self.0.recv(&mut reply).context("the gateway answers at once")?;
        ensure!(len > 12 && matches!(reply[3] & 0xf, 0 | 3), "{:?}", &reply[..len]);
        Ok(reply[3] & 0xf == 0 && reply[7] == 1)
    }

    /// When that became so.
    fn wait(&self, name: &str, known: bool) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        while self.knows(name)? != known {
            ensure!(Instant::now() < deadline, "{name}: not known: {known}");
        }
        Ok(Instant::now())
    }
}

fn make(daemons: &Daemons) -> Result<()> {
    let subnets = ["--subnet", "10.88.0.0/24", "--subnet", "fd88::/64"];
    daemons.hosts[0].say(&[&["network", "create", "--internal"], &subnets[..], &[NETWORK]].concat())?;
    for host in daemons.hosts.iter().filter(|host| host.process.is_some()) {
        wait_until("the network is known", || Ok(host.networks()? == [NETWORK]))?;
    }
    Ok(())
}

/// Attaches a TAP of a host's own namespace, and gives what came of it.
fn attach(daemons: &Daemons, host: usize, name: &str, flags: &[&str]) -> Result<Value> {
    let place = ["attach", "--network", NETWORK, "--name", name, "--tap", name];
    daemons.hosts[host].json(&[&place[..], flags].concat())?.pop().context("attach says something")
}

pub(super) fn resolve() -> Result<()> {
    with_daemons("names", 2, |daemons| {
        daemons.form(2, 1)?;
        make(daemons)?;
        let askers = [0, 1].map(|node| Asker::new(daemons, node, &plug(daemons, node, 0, NETWORK)?));
        let [there, here] = askers;
        let (there, here) = (there?, here?);
        for round in 0..ROUNDS {
            measured(daemons, &there, &here, round)?;
        }
        let web = attach(daemons, 1, "Web", &["--alias", "www", "--alias", "db"])?;
        there.wait("web", true)?;
        for node in 0..2 {
            asked(daemons, node, &web)?;
        }
        let endpoint = endpoint(daemons, 1, 0).plan().name.clone();
        there.wait(&endpoint, true)?;
        let killed = Instant::now();
        daemons.kill(1)?;
        let gone = there.wait("web", false)?.duration_since(killed);
        eprintln!("names: those of a node that was killed are gone after {gone:.1?}");
        there.wait(&endpoint, false).map(drop)
    })
}

/// An endpoint comes to the second node, and goes again: prints how soon both know.
fn measured(daemons: &Daemons, there: &Asker, here: &Asker, round: usize) -> Result<()> {
    let name = &format!("e{round}");
    let times = |known: bool, command: &dyn Fn() -> Result<()>| -> Result<[Duration; 2]> {
        let started = Instant::now();
        thread::scope(|scope| {
            let waits = [here, there].map(|asker| scope.spawn(move || asker.wait(name, known)));
            command()?;
            let [here, there] = waits.map(|wait| wait.join().expect("it returns its errors"));
            let (here, there) = (here?, there?);
            Ok([here - started, there.saturating_duration_since(here)])
        })
    };
    let came = times(true, &|| attach(daemons, 1, name, &[]).map(drop))?;
    let went = times(false, &|| daemons.hosts[1].say(&["detach", name]).map(drop))?;
    for (what, [here, there]) in [("attach", came), ("detach", went)] {
        eprintln!(
            "names: {what}, known on its node after {here:.1?} (command included), elsewhere {there:.1?} later"
        );
    }
    Ok(())
}

/// What `dig` says of an endpoint.
fn asked(daemons: &Daemons, node: usize, web: &Value) -> Result<()> {
    let [address, six] = addresses(web)?[..] else { anyhow::bail!("two addresses: {web}") };
    let id = web["id"].as_str().context("text")?;
    let line = |address: IpAddr| format!("{address}\n");
    let short = id.get(..12).context("ids are longer")?;
    let name = format!("Web.{NETWORK}.\n");
    for (question, expected) in [
        ("web".into(), line(address)),
        (format!("WEB.{NETWORK}"), line(address)),
        ("www".into(), line(address)),
        (format!("db.{NETWORK}"), line(address)),
        (short.into(), line(address)),
        ("web AAAA".into(), line(six)),
        (format!("-x {address}"), name.clone()),
        (format!("-x {six}"), name),
        ("web MX".into(), String::new()),
    ] {
        let line = format!("dig +short +tries=1 +time=5 @{GATEWAY} {question}");
        let Some(output) = tool(endpoint(daemons, node, 0).netns(), &line)? else { return Ok(()) };
        let said = String::from_utf8(output.stdout)?;
        ensure!(said == expected, "node {node}, {question}: {said:?} is not {expected:?}");
    }
    Ok(())
}

/// What attach says of an endpoint is what its machine is told.
pub(super) fn leased() -> Result<()> {
    with_daemons("dhcp", 1, |daemons| {
        daemons.form(1, 1)?;
        make(daemons)?;
        let attached = plug(daemons, 0, 0, NETWORK)?;
        let endpoint = endpoint(daemons, 0, 0);
        let Some(lease) = lease(endpoint.netns())? else { return Ok(()) };
        let mtu = attached["mtu"].as_u64().context("a number")?;
        let told = [
            format!("ip={}", address(&attached)?),
            format!("mtu={mtu}"),
            format!("hostname={}", endpoint.plan().name),
            format!("search={NETWORK}"),
            format!("dns={GATEWAY}"),
            // It is internal.
            "router=".into(),
            "staticroutes=".into(),
        ];
        says(&lease, &told)
    })
}
