//! Gossip as who can read and write the underlay sees it.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use vswitchd::crypto::envelope::TAG_LEN;
use vswitchd::crypto::group::{HEADER_LEN, Header};
use vswitchd::crypto::identity::NodeId;

use super::capture::{Capture, Datagram, find};
use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::{GOSSIP_PORT, Host};
use crate::fixture::seeded;

/// Datagrams of each kind that are sent to a node: fewer than its socket has room for.
const SENT: usize = 32;

/// A cluster is made, changes, loses a node and gets it back, and who reads all of it learns no name, no record's id
/// and no secret. Whose a datagram is can be read, by design: the sender's number stands in its header.
pub(super) fn sealed() -> Result<()> {
    with_daemons("sealed", 3, |daemons| {
        let capture = Capture::start(daemons.underlay()?)?;
        daemons.form(3, 2)?;
        let network = daemons.hosts[0].say(&["network", "create", "--opt", "encrypted", "redcurrant-net"])?;
        daemons.hosts[1].say(&["token", "worker", "--rotate"])?;
        daemons.hosts[0].say(&["keys", "rotate"])?;
        daemons.kill(2)?;
        daemons.wait_until_see(&[0, 1], &[2], false)?;
        daemons.start(2)?;
        daemons.wait_until_all_see_all()?;
        wait_until("all know the same", || {
            Ok(daemons.agree()? && daemons.hosts[2].networks()? == ["redcurrant-net"])
        })?;
        let ids = daemons.hosts.iter().map(|host| host.id()).collect::<Result<Vec<_>>>()?;
        let mut secret: Vec<String> = ids.clone();
        secret.extend(daemons.hosts.iter().map(|host| host.name.to_owned()));
        secret.push(daemons.hosts[0].status()?["id"].as_str().context("a cluster's id")?.into());
        secret.extend([network.trim().into(), "redcurrant-net".into(), "VSWTKN".into(), "manager".into()]);
        for host in &daemons.hosts[..2] {
            secret.extend([host.token("worker")?, host.token("manager")?]);
        }
        let datagrams = capture.datagrams(GOSSIP_PORT);
        for frame in capture.stop()? {
            let leaked = secret.iter().find(|text| find(&frame, text.as_bytes()).is_some());
            ensure!(leaked.is_none(), "{leaked:?} in clear in a frame of {} bytes", frame.len());
        }
        let numbers = ids.iter().map(|id| Ok(id.parse::<NodeId>()?)).collect::<Result<Vec<_>>>()?;
        for host in &daemons.hosts {
            let count = datagrams.iter().filter(|datagram| datagram.from.ip() == host.address).count();
            ensure!(count > 20, "{count} datagrams from {} are not all", host.name);
        }
        for datagram in &datagrams {
            let header = Header::parse(&datagram.payload).context("no sealed datagram")?;
            ensure!(numbers.contains(&header.sender), "sealed by nobody");
            let number = numbers
                .iter()
                .find(|number| find(&datagram.payload[HEADER_LEN..], number.as_bytes()).is_some());
            ensure!(number.is_none(), "{number:?} in clear behind the header");
        }
        Ok(())
    })
}

/// Everything that was sent to a node comes again, whole, changed and cut; and to a node that it was not sent to.
pub(super) fn attacked() -> Result<()> {
    with_daemons("attacked", 4, |daemons| {
        let mut rng = seeded();
        let capture = Capture::start(daemons.underlay()?)?;
        daemons.form(3, 1)?;
        daemons.hosts[0].say(&["network", "create", "redcurrant"])?;
        wait_until("all know the same", || Ok(daemons.hosts[2].networks()?.len() == 1 && daemons.agree()?))?;
        let recorded = recorded(daemons, &capture)?;
        capture.stop()?;
        let before = changes(daemons)?;
        let stranger = daemons.hosts[3].netns.run(|| UdpSocket::bind(("0.0.0.0", 0)))??;

        refused(daemons, &stranger, "replays", recorded.iter().map(|datagram| datagram.payload.clone()))?;
        refused(
            daemons,
            &stranger,
            "bit flips",
            recorded.iter().map(|datagram| {
                let mut flipped = datagram.payload.clone();
                let at = rng.usize(..flipped.len());
                flipped[at] ^= 1 << rng.u8(..8);
                flipped
            }),
        )?;
        // Every bit of the header and of the tag, and every length, of one.
        let one = &recorded.first().context("something was sent")?.payload;
        let bits = (0..HEADER_LEN)
            .chain(one.len() - TAG_LEN..one.len())
            .flat_map(|at| (0..8).map(move |bit| (at, bit)));
        let flips: Vec<_> = bits
            .map(|(at, bit)| {
                let mut flipped = one.clone();
                flipped[at] ^= 1 << bit;
                flipped
            })
            .collect();
        for flips in flips.chunks(SENT) {
            refused(daemons, &stranger, "single flips", flips.iter().cloned())?;
        }
        let cut: Vec<_> = (0..one.len()).map(|len| one[..len].to_vec()).collect();
        for cut in cut.chunks(SENT) {
            refused(daemons, &stranger, "truncations", cut.iter().cloned())?;
        }
        // Members may open what was meant for others, and must not mind.
        for datagram in &recorded {
            stranger.send_to(&datagram.payload, daemons.hosts[1].gossip())?;
        }
        wait_until("all know the same", || daemons.agree())?;
        ensure!(changes(daemons)? == before, "{:?} instead of {before:?}", changes(daemons)?);
        daemons.wait_until_all_see_all()
    })
}

/// A node that has just started remembers no counters, so it opens what was recorded before. A farewell, a record that
/// was deleted since and all the rest must be old news to it.
pub(super) fn replayed_after_start() -> Result<()> {
    with_daemons("restarted", 4, |daemons| {
        let capture = Capture::start(daemons.underlay()?)?;
        daemons.form(3, 1)?;
        daemons.hosts[0].say(&["network", "create", "redcurrant"])?;
        wait_until("the network is known", || Ok(daemons.hosts[2].networks()?.len() == 1))?;
        daemons.stop(2)?;
        daemons.wait_until_see(&[0, 1], &[2], false)?;
        daemons.start(2)?;
        daemons.wait_until_all_see_all()?;
        daemons.hosts[0].say(&["network", "create", "whitecurrant"])?;
        daemons.hosts[0].say(&["network", "rm", "redcurrant"])?;
        daemons.kill(0)?;
        daemons.start(0)?;
        daemons.wait_until_all_see_all()?;
        wait_until("all know the same", || {
            Ok(daemons.hosts[2].networks()? == ["whitecurrant"] && daemons.agree()?)
        })?;
        let recorded = capture.datagrams(GOSSIP_PORT);
        capture.stop()?;
        let before = changes(daemons)?;
        let opened = |host: &Host| {
            Ok::<_, anyhow::Error>(host.gossip_counter("received")? - host.gossip_counter("unopened")?)
        };
        let stranger = daemons.hosts[3].netns.run(|| UdpSocket::bind(("0.0.0.0", 0)))??;
        let host = &daemons.hosts[0];
        let opened_before = opened(host)?;
        for some in recorded.chunks(SENT) {
            let received = host.gossip_counter("received")?;
            for datagram in some {
                stranger.send_to(&datagram.payload, host.gossip())?;
            }
            wait_until("they are received", || {
                Ok(host.gossip_counter("received")? >= received + some.len() as u64)
            })?;
        }
        let opened = opened(host)? - opened_before;
        ensure!(opened > 2 * SENT as u64, "{opened} of {} were opened: nothing was tried", recorded.len());
        wait_until("all know the same", || daemons.agree())?;
        ensure!(changes(daemons)? == before, "{:?} instead of {before:?}", changes(daemons)?);
        daemons.wait_until_all_see_all()
    })
}

/// The latest datagrams to the first host, which it has opened.
fn recorded(daemons: &Daemons, capture: &Capture) -> Result<Vec<Datagram>> {
    let target = daemons.hosts[0].gossip();
    let mut all = Vec::new();
    wait_until("enough is sent to a host", || {
        all = capture.datagrams(GOSSIP_PORT);
        all.retain(|datagram| datagram.to == target);
        Ok(all.len() > 2 * SENT)
    })?;
    // The very last may still be on their way.
    Ok(all[all.len() - SENT - 8..all.len() - 8].to_vec())
}

/// Sends these to the first host, which must refuse and count each.
fn refused(
    daemons: &Daemons,
    stranger: &UdpSocket,
    what: &str,
    datagrams: impl Iterator<Item = Vec<u8>>,
) -> Result<()> {
    let host = &daemons.hosts[0];
    let before = host.gossip_counter("unopened")?;
    let mut sent = 0;
    for datagram in datagrams {
        stranger.send_to(&datagram, host.gossip())?;
        sent += 1;
    }
    wait_until("each is counted", || Ok(host.gossip_counter("unopened")? >= before + sent))
        .with_context(|| format!("{what}: {before} and {sent} sent, {:?}", host.status()))?;
    ensure!(
        host.gossip_counter("unopened")? == before + sent,
        "{what}: members' datagrams were refused, too"
    );
    Ok(())
}

/// What each host has said of others that came or went, and what it lists.
fn changes(daemons: &Daemons) -> Result<Vec<[Vec<String>; 3]>> {
    let of_host = |host: &Host| {
        let mut said = host.log();
        said.retain(|line| ["is up", "is down", "has left"].iter().any(|word| line.contains(word)));
        Ok([said, host.listed()?, host.networks()?])
    };
    daemons.hosts[..3].iter().map(of_host).collect()
}
