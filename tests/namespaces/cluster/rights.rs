//! What managers decide about others: removal, roles, tokens.

use std::fs;

use anyhow::{Result, ensure};
use vswitchd::crypto::identity::Role;
use vswitchd::crypto::peer::PeerError;
use vswitchd::crypto::tls::Refusal;

use super::daemons::{wait_until, with_daemons};
use super::host::refused;
use super::member::{Heard, Papers, call};

/// A worker that is alive, and does not want to go.
pub(super) fn removal() -> Result<()> {
    with_daemons("removal", 3, |daemons| {
        daemons.form(3, 1)?;
        let papers = Papers::of(&daemons.hosts[2].state)?;
        refused(
            &daemons.hosts[0].ask(&["node", "rm", daemons.hosts[2].name], "")?,
            &["is not down", "--force"],
        )?;
        daemons.hosts[0].say(&["node", "rm", "--force", daemons.hosts[2].name])?;
        for host in [0, 1] {
            wait_until("the others have forgotten it", || Ok(daemons.hosts[host].listed()?.len() == 2))?;
            let address = daemons.hosts[host].gossip();
            let heard = call(&daemons.hosts[2].netns, address, &papers)?;
            ensure!(heard == Heard::Refused(Refusal::Theirs(PeerError::Revoked)), "{heard:?} at {address}");
            // It calls them with the keys that it had.
            let before = daemons.hosts[host].gossip_counter("unopened")?;
            wait_until("its gossip is not opened", || {
                Ok(daemons.hosts[host].gossip_counter("unopened")? > before)
            })?;
        }
        daemons.hosts[2].process()?.hear("this node was removed from its cluster")?;
        ensure!(daemons.hosts[2].status()?["removed"] == true);
        daemons.wait_until_see(&[0, 1], &[0, 1], true)?;
        // Not by a new start, but by a token, as somebody else.
        daemons.kill(2)?;
        daemons.start(2)?;
        daemons.hosts[2].process()?.hear("this node was removed from its cluster")?;
        ensure!([0, 1].iter().all(|&host| daemons.hosts[host].listed().is_ok_and(|all| all.len() == 2)));
        let before = daemons.hosts[2].id()?;
        daemons.hosts[2].say(&["leave"])?;
        daemons.join(2, &daemons.hosts[0].token("worker")?, 0)?;
        daemons.wait_until_all_see_all()?;
        ensure!(daemons.hosts[2].id()? != before);
        Ok(())
    })
}

/// Removed while nobody heard it: it comes back, calls the others, and is told.
pub(super) fn removal_of_the_absent() -> Result<()> {
    with_daemons("absent", 3, |daemons| {
        daemons.form(3, 1)?;
        daemons.cut(2)?;
        daemons.wait_until_see(&[0, 1], &[2], false)?;
        daemons.hosts[0].say(&["node", "rm", daemons.hosts[2].name])?;
        daemons.mend(2)?;
        daemons.hosts[2].process()?.hear("this node was removed from its cluster")?;
        for host in &daemons.hosts[..2] {
            ensure!(host.listed()?.len() == 2 && host.ready()?.len() == 2, "{} lists it again", host.name);
        }
        Ok(())
    })
}

/// A worker becomes a manager and demotes the one that made it one.
pub(super) fn roles() -> Result<()> {
    with_daemons("roles", 3, |daemons| {
        daemons.form(2, 1)?;
        let [first, second] = [daemons.hosts[0].name, daemons.hosts[1].name];
        let old = Papers::of(&daemons.hosts[0].state)?;
        refused(&daemons.hosts[0].ask(&["node", "demote", first], "")?, &["no manager would be there"])?;
        refused(&daemons.hosts[1].ask(&["node", "promote", second], "")?, &["this node is a worker"])?;
        daemons.hosts[0].say(&["node", "promote", second])?;
        let becomes = |host: usize, role: Role| {
            wait_until("it takes up its role", || Ok(daemons.hosts[host].status()?["role"] == role.name()))
        };
        becomes(1, Role::Manager)?;
        ensure!(daemons.hosts[1].token("worker")? == daemons.hosts[0].token("worker")?);
        daemons.hosts[1].say(&["node", "demote", first])?;
        becomes(0, Role::Worker)?;
        for secret in ["ca.key", "join-secrets"] {
            ensure!(!fs::exists(daemons.hosts[0].state.join(secret))?, "a worker keeps {secret}");
        }
        refused(&daemons.hosts[0].ask(&["token", "worker"], "")?, &["this node is a worker"])?;
        wait_until("the manager's certificate of the worker is refused", || {
            let heard = call(&daemons.hosts[2].netns, daemons.hosts[1].gossip(), &old)?;
            Ok(heard == Heard::Refused(Refusal::Theirs(PeerError::Revoked)))
        })?;
        // The new manager lets nodes in, the old one does not even answer.
        daemons.start(2)?;
        let token = daemons.hosts[1].token("worker")?;
        refused(&daemons.try_join(2, &token, 0)?, &["unreachable"])?;
        daemons.join(2, &token, 1)?;
        daemons.wait_until_all_see_all()
    })
}

/// What one manager rotates holds at the other.
pub(super) fn tokens() -> Result<()> {
    with_daemons("tokens", 3, |daemons| {
        daemons.form(2, 2)?;
        daemons.start(2)?;
        let old = daemons.hosts[0].token("worker")?;
        ensure!(daemons.hosts[1].token("worker")? == old);
        daemons.hosts[0].say(&["token", "worker", "--rotate"])?;
        let new = daemons.hosts[0].token("worker")?;
        wait_until("the other manager has the new token", || Ok(daemons.hosts[1].token("worker")? == new))?;
        for manager in [0, 1] {
            refused(&daemons.try_join(2, &old, manager)?, &["not, or no longer, valid"])?;
        }
        daemons.join(2, &new, 1)?;
        daemons.wait_until_all_see_all()
    })
}
