//! Data between daemons: sealed on the underlay, refused from anybody else, lossless while keys change.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use vswitchd::crypto::envelope::{self, KIND};
use vswitchd::switch::wire::{Vni, vxlan};

use super::capture::{Capture, find};
use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::{
    DATA_PORT, PLAIN, SEALED, SIZE, TEXT, VNIS, attach_all, endpoint, socket, stream, wait_until_carried,
};
use crate::fixture::{SILENCE, seeded, tool, udp_both_ways};

/// Datagrams of each kind that are sent to a node: fewer than its socket has room for.
const SENT: usize = 32;
/// Bytes of a sealed datagram that carries one of a stream: the envelope, VXLAN, Ethernet, IPv4 and UDP are around it.
const SEALED_LEN: usize = envelope::OVERHEAD + vxlan::HEADER_LEN + 14 + 20 + 8 + SIZE;
/// How long keys are changed under load.
const LOAD: Duration = Duration::from_secs(5);
/// Reasons for which a node refuses what others send to its data port.
const REFUSALS: [&str; 11] = [
    "unknown-peer",
    "vxlan-truncated",
    "vxlan-flags",
    "sealed-truncated",
    "unknown-session",
    "forged",
    "replayed",
    "clear-refused",
    "sealed-refused",
    "probe-invalid",
    "probe-unasked",
];

/// What endpoints of a sealed network say can't be read, changed or said again by others.
pub(super) fn sealed() -> Result<()> {
    with_daemons("data", 4, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        let capture = Capture::start(daemons.underlay()?)?;
        for (one, other) in [(0, 1), (1, 2), (2, 0)] {
            for network in [SEALED, PLAIN] {
                let [from, to] = [one, other].map(|node| endpoint(daemons, node, network));
                let [here, there] = [from, to].map(|endpoint| endpoint.plan().v4.into());
                udp_both_ways(from.netns(), to.netns(), here, there, 1_300)?;
            }
        }
        // In clear first: so the text would be found.
        let text = |frames: &[Vec<u8>]| frames.iter().any(|frame| find(frame, TEXT).is_some());
        let sent = say(daemons, PLAIN)?;
        wait_until("the capture has seen the plain network's", || Ok(text(&capture.frames())))?;
        let before = capture.stop()?.len();
        let capture = Capture::start(daemons.underlay()?)?;
        let sealed = say(daemons, SEALED)?;
        let mut recorded = Vec::new();
        wait_until("the capture has seen all of the sealed network's", || {
            recorded = sealed_to(daemons.hosts[0].address, &capture);
            Ok(recorded.len() as u64 >= sealed)
        })?;
        ensure!(!text(&capture.stop()?), "a sealed network's frames in clear");
        eprintln!("data: {sent} plain and {sealed} sealed datagrams, {before} frames before");
        forged(daemons, &recorded)
    })
}

/// The sealed datagrams of streams to a node; those that were sent in a run are seen as a whole.
fn sealed_to(node: IpAddr, capture: &Capture) -> Vec<Vec<u8>> {
    let runs = capture.datagrams(DATA_PORT).into_iter().filter(|run| run.to.ip() == node);
    let datagrams =
        runs.flat_map(|run| run.payload.chunks(SEALED_LEN).map(<[u8]>::to_vec).collect::<Vec<_>>());
    datagrams.filter(|datagram| datagram.len() == SEALED_LEN && envelope::is_sealed(datagram)).collect()
}

/// A short stream to the first node; gives how many datagrams.
fn say(daemons: &Daemons, network: usize) -> Result<u64> {
    let [from, at] = [1, 0].map(|node| socket(daemons, node, network));
    let started = Instant::now();
    let soon = || wait_until("a stream goes on for a while", || Ok(started.elapsed() > SILENCE)).map(drop);
    stream(&from?, &at?, soon)
}

/// Frames made by hand, and sealed datagrams that come again, changed and cut.
fn forged(daemons: &Daemons, recorded: &[Vec<u8>]) -> Result<()> {
    let mut rng = seeded();
    let sockets = [1, 3].map(|node| daemons.hosts[node].netns.run(|| UdpSocket::bind(("0.0.0.0", 0))));
    let [member, stranger] = sockets;
    let (member, stranger) = (member??, stranger??);
    for network in [PLAIN, SEALED] {
        let at = socket(daemons, 0, network)?;
        at.set_read_timeout(Some(SILENCE))?;
        let frame = vxlan_by_hand(daemons, network, at.local_addr()?)?;
        if network == PLAIN {
            // Who could be the member is believed there, which shows that the frame is one.
            member.send_to(&frame, (daemons.hosts[0].address, DATA_PORT))?;
            ensure!(at.recv(&mut [0; 64]).is_ok(), "a clear frame in a plain network is delivered");
        } else {
            refused(daemons, &member, "a clear frame of a member", &vec![frame.clone(); SENT])?;
        }
        refused(daemons, &stranger, "a clear frame of a stranger", &vec![frame; SENT])?;
        ensure!(at.recv(&mut [0; 64]).is_err(), "a frame made by hand was delivered");
    }
    let latest = &recorded[recorded.len() - SENT..];
    let flipped = |datagram: &Vec<u8>, at: usize, bit: u8| {
        let mut flipped = datagram.clone();
        flipped[at] ^= 1 << bit;
        flipped
    };
    for from in [&member, &stranger] {
        refused(daemons, from, "replays", latest)?;
        let flips: Vec<_> = latest
            .iter()
            .map(|datagram| flipped(datagram, rng.usize(..datagram.len()), rng.u8(..8)))
            .collect();
        refused(daemons, from, "bit flips", &flips)?;
    }
    let one = &latest[0];
    ensure!(one[0] == KIND);
    let bits = (0..envelope::HEADER_LEN).chain(one.len() - envelope::TAG_LEN..one.len());
    let flips: Vec<_> =
        bits.flat_map(|at| (0..8).map(move |bit| (at, bit))).map(|(at, bit)| flipped(one, at, bit)).collect();
    flips.chunks(SENT).try_for_each(|flips| refused(daemons, &member, "single flips", flips))?;
    let cut: Vec<_> = (0..one.len()).map(|len| one[..len].to_vec()).collect();
    cut.chunks(SENT).try_for_each(|cut| refused(daemons, &member, "truncations", cut))?;
    say(daemons, SEALED).map(drop)
}

/// A UDP datagram to `target` in the network, from the second node's endpoint by what it says, in a VXLAN packet.
fn vxlan_by_hand(daemons: &Daemons, network: usize, target: SocketAddr) -> Result<Vec<u8>> {
    let [to, from] = [0, 1].map(|node| endpoint(daemons, node, network).plan());
    let builder = PacketBuilder::ethernet2(from.mac.0, to.mac.0).ipv4(from.v4.octets(), to.v4.octets(), 64);
    let mut frame = Vec::new();
    builder.udp(9, target.port()).write(&mut frame, b"by hand")?;
    let vni = Vni::new(VNIS[network]).context("a VNI")?;
    Ok([&vxlan::emit(vni)[..], &frame].concat())
}

/// Sends these to the first node, which must refuse and count each, and hand none to the sealed network's endpoint.
fn refused(daemons: &Daemons, from: &UdpSocket, what: &str, datagrams: &[Vec<u8>]) -> Result<()> {
    let refusals = || refusals(daemons);
    let before = refusals()?;
    for datagram in datagrams {
        from.send_to(datagram, (daemons.hosts[0].address, DATA_PORT))?;
    }
    let wanted = before + datagrams.len() as u64;
    wait_until("each is counted", || Ok(refusals()? >= wanted))
        .with_context(|| format!("{what}: {:?}", daemons.hosts[0].status()))?;
    ensure!(refusals()? == wanted, "{what}: others were refused, too: {:?}", daemons.hosts[0].status());
    Ok(())
}

/// How many datagrams the first node has refused.
fn refusals(daemons: &Daemons) -> Result<u64> {
    let drops = &daemons.hosts[0].status()?["data"]["drops"];
    Ok(REFUSALS.iter().filter_map(|reason| drops[reason].as_u64()).sum())
}

/// Every key changes many times a minute under a stream.
pub(super) fn rotated() -> Result<()> {
    with_daemons("rotated", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        let capture = Capture::start(daemons.underlay()?)?;
        let [from, at] = [1, 2].map(|node| socket(daemons, node, SEALED));
        let (mut rotations, started) = (0, Instant::now());
        let sent = stream(&from?, &at?, || {
            while started.elapsed() < LOAD {
                daemons.hosts[0].say(&["keys", "rotate"])?;
                let epoch = daemons.hosts[0].status()?["keys"]["epoch"].clone();
                wait_until("all have the new keys", || {
                    let all = daemons.hosts.iter().map(|host| Ok(host.status()?["keys"]["epoch"] == epoch));
                    Ok(all.collect::<Result<Vec<_>>>()?.into_iter().all(|has| has))
                })?;
                rotations += 1;
            }
            Ok(())
        })?;
        let source = daemons.hosts[1].address;
        let mut sessions: Vec<Vec<u8>> = capture
            .datagrams(DATA_PORT)
            .into_iter()
            .filter(|datagram| datagram.from.ip() == source && datagram.to.ip() == daemons.hosts[2].address)
            .filter(|datagram| envelope::is_sealed(&datagram.payload))
            .map(|datagram| datagram.payload[1..4].to_vec())
            .collect();
        capture.stop()?;
        sessions.sort();
        sessions.dedup();
        eprintln!(
            "rotation: {rotations} of shared keys, {} data keys of one direction, {sent} datagrams, none lost",
            sessions.len()
        );
        ensure!(rotations > 2 && sessions.len() > 2, "keys have hardly changed");
        Ok(())
    })
}

/// A node's daemon dies with its endpoints, and has them again when it comes back.
pub(super) fn resumed() -> Result<()> {
    with_daemons("resumed", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        say(daemons, SEALED)?;
        daemons.kill(1)?;
        daemons.wait_until_see(&[0, 2], &[1], false)?;
        let started = Instant::now();
        daemons.start(1)?;
        for network in [SEALED, PLAIN] {
            // The device was the daemon's, so it is another one, without addresses.
            wait_until("its endpoints are there again", || {
                Ok(endpoint(daemons, 1, network).configure().is_ok())
            })?;
        }
        wait_until_carried(daemons, &[0, 1, 2])?;
        say(daemons, SEALED)?;
        say(daemons, PLAIN)?;
        eprintln!("data: streams again {:.1?} after the start", started.elapsed());
        Ok(())
    })
}

/// A removed node goes on sending with the keys that it has; nobody takes it, in either network.
pub(super) fn removed() -> Result<()> {
    with_daemons("removed-data", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        let pairs = [SEALED, PLAIN].map(|network| Ok([2, 0].map(|node| socket(daemons, node, network))));
        let pairs = pairs.into_iter().collect::<Result<Vec<_>>>()?;
        let pairs = pairs.into_iter().map(|[from, at]| Ok((from?, at?))).collect::<Result<Vec<_>>>()?;
        for (from, at) in &pairs {
            from.send_to(TEXT, at.local_addr()?)?;
            ensure!(at.recv(&mut [0; 64]).is_ok(), "a member is heard");
        }
        daemons.hosts[0].say(&["node", "rm", "--force", daemons.hosts[2].name])?;
        wait_until("it is no peer any more", || Ok(daemons.hosts[0].peers()?.len() == 1))?;
        for (from, at) in &pairs {
            at.set_read_timeout(Some(SILENCE))?;
            // Those that were on their way.
            while at.recv(&mut [0; 64]).is_ok() {}
            (0..SENT).try_for_each(|_| from.send_to(TEXT, at.local_addr()?).map(drop))?;
            ensure!(at.recv(&mut [0; 64]).is_err(), "a removed node is heard");
        }
        let sent = 2 * SENT as u64;
        wait_until("what it sends is counted as refused", || Ok(refusals(daemons)? >= sent))?;
        daemons.wait_until_see(&[0, 1], &[0, 1], true).map(drop)
    })
}

/// A firewall that drops data only is told from a dead node, by name, and its end is noticed.
pub(super) fn blocked() -> Result<()> {
    with_daemons("blocked", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        let firewall = [
            "nft add table inet vswitchd",
            "nft add chain inet vswitchd in { type filter hook input priority 0 ; }",
            "nft add rule inet vswitchd in udp dport 4789 drop",
        ];
        for line in firewall {
            let Some(done) = tool(&daemons.hosts[1].netns, line)? else { return Ok(()) };
            ensure!(done.status.success(), "{line}: {done:?}");
        }
        let [one, other] = [daemons.hosts[0].name, daemons.hosts[1].name];
        let told = format!("{other}: control OK, data path blocked (UDP {DATA_PORT} from {one} to {other})");
        daemons.hosts[0].process()?.hear(&told)?;
        let peers = daemons.hosts[0].peers()?;
        let peer = |name: &str| peers.iter().find(|peer| peer["name"] == name).context("it is listed");
        ensure!(
            (&peer(other)?["data"]["state"], &peer(other)?["liveness"])
                == (&"blocked".into(), &"alive".into())
        );
        ensure!(peer(daemons.hosts[2].name)?["data"]["state"] == "ok", "{peers:?}");
        let text = daemons.hosts[0].say(&["status", "--peers"])?;
        ensure!(text.contains("control OK, data path blocked"), "{text}");
        let opened =
            tool(&daemons.hosts[1].netns, "nft delete table inet vswitchd")?.context("it was there")?;
        ensure!(opened.status.success(), "{opened:?}");
        wait_until_carried(daemons, &[0, 1, 2])?;
        say(daemons, SEALED).map(drop)
    })
}
