//! Daemons that die, stop, come back, and lose their cable.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::{GOSSIP_PORT, Host};
use super::overlay::{DATA_PORT, SEALED, attach_all, socket, wait_until_carried};
use crate::fixture::{reaches, tool};

/// How long a cable is out. Long enough that everybody has given the node up and calls it seldom: a dead node is
/// called again after up to 30 s.
const PULLED: Duration = Duration::from_secs(30);

/// A port of data that nobody has.
const OTHER_PORT: u16 = 14_789;

/// SIGKILL, a start, SIGTERM, a start. Times are printed and bounded by patience only: cores are shared.
pub(super) fn killed_and_stopped() -> Result<()> {
    with_daemons("killed", 3, |daemons| {
        daemons.form(3, 1)?;
        let before = daemons.hosts[2].status()?;
        daemons.kill(2)?;
        let gone = daemons.wait_until_see(&[0, 1], &[2], false)?;
        let listed = daemons.hosts[1].listed()?;
        ensure!(listed.len() == 3, "a dead node is still a member: {listed:?}");
        let started = Instant::now();
        daemons.start(2)?;
        daemons.wait_until_all_see_all()?;
        let back = started.elapsed();
        let after = daemons.hosts[2].status()?;
        ensure!((&after["id"], &after["node"]) == (&before["id"], &before["node"]), "{after}");
        // The first manager, which the others joined at, is nothing special.
        daemons.kill(0)?;
        daemons.wait_until_see(&[1, 2], &[0], false)?;
        daemons.wait_until_see(&[1], &[2], true)?;
        daemons.start(0)?;
        daemons.wait_until_all_see_all()?;
        let started = Instant::now();
        daemons.stop(1)?;
        daemons.wait_until_see(&[0, 2], &[1], false)?;
        let left = started.elapsed();
        daemons.start(1)?;
        daemons.wait_until_all_see_all()?;
        eprintln!(
            "killed: gone after {gone:.1?}, back {back:.1?} after its start; stopped: gone after {left:.1?}"
        );
        Ok(())
    })
}

/// The cable of one of three is out for 30 s, which really pass: nothing that could be waited for instead ends them.
#[expect(clippy::disallowed_methods, reason = "what passes is the time itself")]
pub(super) fn cable_pulled() -> Result<()> {
    with_daemons("cable", 3, |daemons| {
        daemons.form(3, 1)?;
        let processes = |daemons: &Daemons| -> Result<Vec<u32>> {
            daemons.hosts.iter().map(|host| Ok(host.process()?.id())).collect()
        };
        let before = processes(daemons)?;
        let pulled = Instant::now();
        daemons.cut(2)?;
        let gone = daemons.wait_until_see(&[0, 1], &[2], false)?;
        daemons.wait_until_see(&[2], &[0, 1], false)?;
        thread::sleep(PULLED.saturating_sub(pulled.elapsed()));
        for host in &daemons.hosts {
            ensure!(host.listed()?.len() == 3, "{} has forgotten somebody", host.name);
        }
        daemons.wait_until_see(&[0, 1], &[2], false)?;
        let mended = Instant::now();
        daemons.mend(2)?;
        daemons.wait_until_all_see_all()?;
        eprintln!("cable: gone after {gone:.1?}, after {PULLED:?} back within {:.1?}", mended.elapsed());
        ensure!(processes(daemons)? == before, "nobody was started again");
        wait_until("all know the same", || daemons.agree())?;
        Ok(())
    })
}

/// A host gets another address while its daemon runs, as by DHCP: nobody tells the daemon, and the others follow it.
pub(super) fn moved() -> Result<()> {
    with_daemons("moved", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        let (old, new) = (daemons.hosts[2].address, IpAddr::V4(Ipv4Addr::new(198, 18, 1, 77)));
        let started = Instant::now();
        for line in
            [format!("ip address delete {old}/15 dev eth0"), format!("ip address add {new}/15 dev eth0")]
        {
            let Some(done) = tool(&daemons.hosts[2].netns, &line)? else { return Ok(()) };
            ensure!(done.status.success(), "{line}: {done:?}");
        }
        let its_place = |data_port: u16| {
            let places = [GOSSIP_PORT, data_port].map(|port| SocketAddr::new(new, port).to_string());
            wait_until("the others know its new place", || {
                let known = |host: &Host| -> Result<bool> {
                    let nodes = host.json(&["node", "ls", "--filter", "status=ready"])?;
                    let it = nodes.iter().find(|node| node["name"] == daemons.hosts[2].name);
                    Ok(it.is_some_and(|it| it["address"] == places[0] && it["data"] == places[1]))
                };
                Ok(known(&daemons.hosts[0])? && known(&daemons.hosts[1])?)
            })
        };
        let its_data = || {
            let [from, at] = [2, 0].map(|node| socket(daemons, node, SEALED));
            let (from, at) = (from?, at?);
            wait_until("its data arrives", || reaches(&from, at.local_addr()?, &at))
        };
        let known = its_place(DATA_PORT)?;
        its_data()?;
        eprintln!("moved: known after {known:.1?}, data again after {:.1?}", started.elapsed());
        // The whole cluster goes on to another data port in the same way.
        daemons.hosts[0].say(&["cluster", "update", "--data-path-port", &OTHER_PORT.to_string()])?;
        its_place(OTHER_PORT)?;
        its_data()?;
        wait_until_carried(daemons, &[0, 1, 2])?;
        wait_until("all know the same", || daemons.agree()).map(drop)
    })
}
