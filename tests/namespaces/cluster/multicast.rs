//! Multicast among endpoints on several nodes, as mDNS uses it (RFC 6762 §3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;
use vswitchd::lab::ENDPOINT_LINK;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::switch::storm::StormLimit;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::{PLAIN, SEALED, attach_all, endpoint};
use crate::fixture::{PATIENCE, SILENCE, reaches, udp};

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
const PORT: u16 = 5353;
/// Datagrams sent at once, three times what a port may have flooded.
const STORM: usize = 6_000;

/// What one endpoint says to the group is heard by those on the other nodes, in both kinds of networks and both IP
/// versions; too much of it is not, and only of the one that says too much.
pub(super) fn reaches_all_nodes() -> Result<()> {
    with_daemons("multicast", 3, |daemons| {
        daemons.form(3, 1)?;
        attach_all(daemons, 3)?;
        for (network, of_v4) in [(SEALED, true), (SEALED, false), (PLAIN, true), (PLAIN, false)] {
            let members = Member::on_each(daemons, network, of_v4)?;
            for from in 0..members.len() {
                all_hear(&members, from).with_context(|| format!("network {network}, IPv4 {of_v4}"))?;
            }
        }
        storm(daemons)
    })
}

/// An endpoint's socket in the group, to which its own datagrams don't come back.
struct Member {
    socket: UdpSocket,
    own: IpAddr,
    group: SocketAddr,
}

impl Member {
    fn on_each(daemons: &Daemons, network: usize, of_v4: bool) -> Result<Vec<Self>> {
        (0..daemons.hosts.len()).map(|node| Self::of(daemons, node, network, of_v4)).collect()
    }

    fn of(daemons: &Daemons, node: usize, network: usize, of_v4: bool) -> Result<Self> {
        let endpoint = endpoint(daemons, node, network);
        let (netns, plan) = (endpoint.netns(), endpoint.plan());
        if of_v4 {
            let socket = udp(netns, Ipv4Addr::UNSPECIFIED.into(), PORT)?;
            socket.join_multicast_v4(&GROUP_V4, &plan.v4)?;
            socket.set_multicast_loop_v4(false)?;
            SockRef::from(&socket).set_multicast_if_v4(&plan.v4)?;
            return Ok(Self { socket, own: plan.v4.into(), group: (GROUP_V4, PORT).into() });
        }
        let index = Netlink::open(netns)?.link(ENDPOINT_LINK)?.index;
        // Bound to its address, it would not hear the group; the source that it chooses is the link's own.
        let socket = udp(netns, Ipv6Addr::UNSPECIFIED.into(), PORT)?;
        socket.join_multicast_v6(&GROUP_V6, index)?;
        socket.set_multicast_loop_v6(false)?;
        let group = SocketAddrV6::new(GROUP_V6, PORT, 0, index).into();
        Ok(Self { socket, own: plan.v6.into(), group })
    }

    fn say(&self, what: &[u8]) -> Result<()> {
        self.socket.send_to(what, self.group)?;
        Ok(())
    }

    fn hear(&self) -> Result<(Vec<u8>, IpAddr)> {
        self.socket.set_read_timeout(Some(PATIENCE))?;
        let mut buf = [0; 100];
        let (len, from) = self.socket.recv_from(&mut buf)?;
        Ok((buf[..len].to_vec(), from.ip()))
    }

    /// What comes until nothing does any more.
    fn count(&self) -> Result<usize> {
        self.socket.set_read_timeout(Some(SILENCE))?;
        let mut count = 0;
        while self.socket.recv(&mut [0; 100]).is_ok() {
            count += 1;
        }
        Ok(count)
    }
}

/// Has one speak, and each other one hear it once.
fn all_hear(members: &[Member], from: usize) -> Result<()> {
    let said = format!("is there a printer? {from}");
    members[from].say(said.as_bytes())?;
    for (at, member) in members.iter().enumerate().filter(|&(at, _)| at != from) {
        let (heard, source) = member.hear().with_context(|| format!("from {from} to {at}"))?;
        let linked = matches!(source, IpAddr::V6(source) if source.is_unicast_link_local());
        ensure!(heard == said.as_bytes() && (linked || source == members[from].own), "{heard:?} of {source}");
    }
    Ok(())
}

/// An endpoint that says more than its port may have flooded is cut short, others and its own unicast are not.
fn storm(daemons: &Daemons) -> Result<()> {
    let members = Member::on_each(daemons, PLAIN, true)?;
    let [loud, quiet, listener] = &members[..] else { anyhow::bail!("want three members") };
    let limited = || -> Result<u64> {
        let status = daemons.hosts[0].status()?;
        Ok(status["data"]["drops"]["storm-limit"].as_u64().unwrap_or(0))
    };
    ensure!(limited()? == 0, "nothing was too much so far");
    let limit = StormLimit::default();
    wait_until("too much is counted", || {
        let started = Instant::now();
        let (heard, lasted) = thread::scope(|scope| -> Result<(usize, Duration)> {
            let counter = scope.spawn(|| listener.count());
            let outcome = (0..STORM).try_for_each(|_| loud.say(b"me!"));
            let heard = counter.join().expect("it returns its errors")?;
            // Until the last has come: they wait in queues on the way.
            outcome.map(|()| (heard, started.elapsed()))
        })?;
        let most = f64::from(limit.burst) + f64::from(limit.frames_per_second) * lasted.as_secs_f64();
        eprintln!("{heard} of {STORM} multicast datagrams got through in {lasted:?}");
        ensure!(heard > 0 && heard as f64 <= most, "{heard} in {lasted:?}, and {most} may");
        Ok(limited()? > 0)
    })?;
    quiet.count()?;
    let [from, to] = [0, 1].map(|node| endpoint(daemons, node, PLAIN));
    let (from, to) = (udp(from.netns(), from.plan().v4.into(), 0)?, udp(to.netns(), to.plan().v4.into(), 0)?);
    ensure!(reaches(&from, to.local_addr()?, &to)?, "unicast of the loud one is no flood");
    quiet.say(b"may I?")?;
    ensure!(listener.hear()?.0 == b"may I?", "the quiet one is heard");
    Ok(())
}
