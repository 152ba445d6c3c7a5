//! A service without a program: tasks and endpoints are in it that say so themselves.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vswitchd::namespace::netns::NetNs;

use super::held::{Held, Served};
use super::named::dig;
use super::{NETWORKS, OWN, Task, prepare, vips};
use crate::cluster::daemons::{Daemons, wait_until, with_daemons};
use crate::cluster::host::refused;
use crate::cluster::overlay::{endpoint, plug};
use crate::cluster::publish::inside;
use crate::cluster::shown::{addresses, inspect};
use crate::fixture::PATIENCE;

/// A service without a program: whoever says so is its task.
pub(in crate::cluster) fn joined() -> Result<()> {
    with_daemons("balancingjoined", 2, |daemons| {
        prepare(daemons, 2, 1)?;
        let [one, two] = [&daemons.hosts[0], &daemons.hosts[1]];
        one.say(&["service", "create", "--name", "web", "--network", "bilberry", "--idle-timeout", "90m"])?;
        wait_until("it is known", || Ok(two.say(&["service", "ls", "-q"])?.lines().count() == 1))?;
        limits(daemons)?;
        plug(daemons, 0, 0, NETWORKS[0])?;
        let (from, vip) = (endpoint(daemons, 0, 0).netns(), vips(daemons, "web")?[0]);
        let nobody = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(vip, OWN), PATIENCE))?;
        ensure!(nobody.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "nobody answers");
        let foreign = attached(daemons, from, vip)?;
        let run = ["run", "-d", "--name", "hand", "--network", "bilberry", "--network", "gooseberry"];
        one.say(&[&run[..], &["--service", "web", "--", "sleep", "1d"]].concat())?;
        let strange = ["run", "-d", "--network", "gooseberry", "--service", "web", "--", "sleep", "1d"];
        let strange = one.ask(&strange, "")?;
        let said = String::from_utf8_lossy(&strange.stderr);
        ensure!(strange.status.code() == Some(125) && said.contains("it is in bilberry"), "{strange:?}");
        let shown = one.json(&["ps", "--filter", "name=hand"])?;
        let task = Task {
            id: "hand".into(),
            host: 0,
            name: "hand".into(),
            netns: inside(&shown[0])?,
            addresses: addresses(&shown[0]["endpoints"][0])?,
        };
        let servers = [Served::start(&task)?, Served::start(&foreign)?];
        let mut held = Held::all(from, vip, &servers)?;
        held.iter_mut().try_for_each(Held::echo)?;
        two.say(&["detach", "machine"])?;
        let (gone, mut stay): (Vec<_>, Vec<_>) =
            held.into_iter().partition(|held| held.task.name == "machine");
        gone.into_iter().try_for_each(Held::wait_for_reset)?;
        stay.iter_mut().try_for_each(Held::echo)?;
        one.say(&["rm", "-f", "hand"])?;
        stay.into_iter().try_for_each(Held::wait_for_reset)?;
        ensure!(dig(daemons, 0, 0, "web")?.is_none_or(|said| said == [vip.to_string()]), "it has its name");
        Ok(())
    })
}

/// What stands for a virtual machine or a program elsewhere: an endpoint of the second node, attached by hand. Prints
/// how soon the first one gets there.
fn attached(daemons: &Daemons, from: &NetNs, vip: IpAddr) -> Result<Task> {
    let netns = endpoint(daemons, 1, 0).netns();
    let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
    ensure!(Path::new(&path).exists());
    let place =
        ["attach", "--network", "bilberry", "--name", "machine", "--tap", "machine0", "--netns", &path];
    let _server = netns.run(|| TcpListener::bind(("0.0.0.0", OWN)))??;
    let (attached, returned, reached) = thread::scope(|scope| {
        let client = scope.spawn(|| wait_until_connected(from, SocketAddr::new(vip, OWN)));
        let attached = daemons.hosts[1].json(&[&place[..], &["--service", "web"]].concat());
        let returned = Instant::now();
        (attached, returned, client.join().expect("it returns its errors"))
    });
    let (attached, reached) = (attached?, reached?);
    let (late, early) = (reached.saturating_duration_since(returned), returned.duration_since(reached));
    eprintln!(
        "balancing: reached on the other node {late:.1?} after attach has returned, or {early:.1?} before"
    );
    let id = "machine".to_owned();
    Ok(Task { name: id.clone(), id, host: 1, netns: netns.clone(), addresses: addresses(&attached[0])? })
}

/// When somebody is there for the first time; until then a connection is refused at once.
fn wait_until_connected(from: &NetNs, to: SocketAddr) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    while from.run(|| TcpStream::connect_timeout(&to, PATIENCE))?.is_err() {
        ensure!(Instant::now() < deadline, "nobody comes to {to}");
        thread::yield_now();
    }
    Ok(Instant::now())
}

/// How long connections may be silent is asked for and shown.
fn limits(daemons: &Daemons) -> Result<()> {
    let host = &daemons.hosts[0];
    let shown = || -> Result<Duration> {
        let shown = inspect(daemons, 0, "web")?;
        let idle = shown["Endpoint"]["Spec"]["IdleTimeout"].as_u64();
        Ok(Duration::from_nanos(idle.context("a number")?))
    };
    ensure!(shown()? == Duration::from_secs(90 * 60));
    host.say(&["service", "update", "--idle-timeout", "2h", "web"])?;
    ensure!(shown()? == Duration::from_secs(2 * 3_600));
    refused(&host.ask(&["service", "update", "--idle-timeout", "1ms", "web"], "")?, &["want 1 s to 7 days"])
}
