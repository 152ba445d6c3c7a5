//! Certificates of other clusters and of other times.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use ring::rand::SystemRandom;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ServerConnection, StreamOwned};
use vswitchd::crypto::ca::Ca;
use vswitchd::crypto::identity::{ClusterId, Role};
use vswitchd::crypto::peer::PeerError;
use vswitchd::crypto::tls::{self, Refusal};

use super::daemons::{wait_until, with_daemons};
use super::host::refused;
use super::member::{Heard, Papers, authority, call};

/// Longer than a certificate lasts.
const LONG: Duration = Duration::from_secs(200 * 86_400);

/// On TCP 7946 each hears why; the cluster goes on as if nothing had been.
pub(super) fn certificates() -> Result<()> {
    with_daemons("strangers", 3, |daemons| {
        daemons.form(2, 1)?;
        let (random, now) = (SystemRandom::new(), SystemTime::now());
        let ours = authority(&daemons.hosts[0].state)?;
        let theirs = Ca::make(ClusterId::random(&random)?, now, &random)?;
        // Another cluster that calls itself as ours does.
        let twin = Ca::make(ours.root().cluster(), now, &random)?;
        let dates = Heard::Refused(Refusal::TheirsDates);
        let wrong = || Heard::Refused(Refusal::Theirs(PeerError::WrongCa));
        for host in &daemons.hosts[..2] {
            let hears = |ca: &Ca, role, clock, expected: &Heard| {
                let papers = Papers::issue(ours.root(), ca, role, clock)?;
                let heard = call(&daemons.hosts[2].netns, host.gossip(), &papers)?;
                ensure!(heard == *expected, "{heard:?} instead of {expected:?} at {}", host.name);
                Ok(())
            };
            // That somebody is let through shows that the others are refused for their certificates.
            hears(&ours, Role::Worker, now, &Heard::Welcome)?;
            for role in Role::ALL {
                hears(&theirs, role, now, &wrong())?;
                hears(&twin, role, now, &wrong())?;
                hears(&ours, role, now - LONG, &dates)?;
                hears(&ours, role, now + LONG, &dates)?;
            }
            // Four certificates of each role.
            wait_until("each is counted", || {
                Ok(host.status()?["refused_connections"].as_u64().is_some_and(|count| count >= 8))
            })?;
        }
        daemons.wait_until_all_see_all()?;
        ensure!(daemons.hosts[0].listed()?.len() == 2);
        Ok(())
    })
}

/// A host whose clock is wrong has a certificate whose dates are wrong by the clocks of others, and the other way round:
/// so tests need no wrong clock.
pub(super) fn clocks() -> Result<()> {
    with_daemons("clocks", 3, |daemons| {
        daemons.form(2, 1)?;
        let ours = authority(&daemons.hosts[0].state)?;
        // A worker whose certificate ended while it was off: a manager could not tell that from a wrong clock.
        daemons.stop(1)?;
        let mut papers = Papers::of(&daemons.hosts[1].state)?;
        let id = ours.root().verify(&papers.certificate, SystemTime::now(), &Default::default())?.node;
        papers.certificate = ours.issue(
            &papers.key.request(),
            id,
            Role::Worker,
            SystemTime::now() - LONG,
            &SystemRandom::new(),
        )?;
        fs::write(daemons.hosts[1].state.join("node.crt"), &papers.certificate)?;
        daemons.start(1)?;
        ensure!(daemons.hosts[1].status()?["certificate_until"].is_null());
        daemons.hosts[1].process()?.hear("this node's own certificate: the certificate has expired")?;
        daemons.hosts[1].process()?.hear("our certificate has expired, or a clock is wrong")?;
        // A manager whose certificate has expired, or is not valid yet, by the clock of who wants to join.
        daemons.start(2)?;
        let token = daemons.hosts[0].token("worker")?;
        for clock in [SystemTime::now() - LONG, SystemTime::now() + LONG] {
            let papers = Papers::issue(ours.root(), &ours, Role::Manager, clock)?;
            let config = tls::join_server(&papers.credentials(), Arc::new(DefaultTimeProvider))?;
            let listener = daemons.hosts[1].netns.run(|| TcpListener::bind(("0.0.0.0", 2377)))??;
            let door = thread::spawn(move || -> Result<()> {
                let (stream, _) = listener.accept()?;
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config))?, stream);
                // The other end refuses us in the middle of this.
                ensure!(stream.write_all(b"who?").and_then(|()| stream.flush()).is_err());
                Ok(())
            });
            refused(&daemons.try_join(2, &token, 1)?, &["out of date by this host's clock", "UTC"])?;
            door.join().expect("the door returns its errors")?;
        }
        daemons.join(2, &token, 0)?;
        wait_until("the newcomer is seen", || Ok(daemons.hosts[0].ready()?.len() == 3))?;
        Ok(())
    })
}
