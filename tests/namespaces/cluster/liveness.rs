//! Daemons that die, stop, come back, and lose their cable.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::daemons::{Daemons, wait_until, with_daemons};

/// How long a cable is out. Long enough that everybody has given the node up and calls it seldom: a dead node is
/// called again after up to 30 s.
const PULLED: Duration = Duration::from_secs(30);

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
