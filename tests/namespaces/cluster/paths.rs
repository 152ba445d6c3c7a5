//! Interfaces of a cluster whose underlay carries less in the middle than at the hosts.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use vswitchd::lab::ENDPOINT_LINK;
use vswitchd::namespace::netlink::Netlink;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::overlay::{NETWORKS, PLAIN, SEALED, attach_all, endpoint};
use crate::fixture::{tcp, tool};

/// Bytes of the underlay's packets that get through,
const NARROW: u32 = 1_400;
/// and what goes from those for the headers, in the order of [`NETWORKS`].
const HEADERS: [u32; 2] = [80, 50];
/// Bytes of a TCP stream.
const BULK: usize = 8 << 20;

fn wait_for_mtu(daemons: &Daemons, node: usize, network: usize, path: u32) -> Result<()> {
    let want = path - HEADERS[network];
    let netns = endpoint(daemons, node, network).netns();
    let took =
        wait_until(&format!("an MTU of {want} in network {} on node {node}", NETWORKS[network]), || {
            Ok(Netlink::open(netns)?.link(ENDPOINT_LINK)?.mtu == want)
        })?;
    eprintln!("MTU {want} in network {} on node {node} after {took:?}", NETWORKS[network]);
    Ok(())
}

/// The bridge between the hosts drops what is too long for it, silently; the interfaces get to know.
pub(super) fn followed() -> Result<()> {
    with_daemons("followed", 2, |daemons| {
        let mut bridge = Netlink::open(daemons.underlay()?)?;
        daemons.form(2, 1)?;
        // A bridge's port sends nothing larger than its own MTU.
        daemons.hosts.iter().try_for_each(|host| bridge.set_mtu(&host.port, NARROW))?;
        attach_all(daemons, 2)?;
        for network in [SEALED, PLAIN] {
            [0, 1].iter().try_for_each(|&node| wait_for_mtu(daemons, node, network, NARROW))?;
            let [one, two] = [0, 1].map(|node| endpoint(daemons, node, network));
            let fits = NARROW - HEADERS[network] - 28;
            let ping = |size: u32| {
                let line = format!("ping -n -c 2 -i 0.2 -W 5 -M do -s {size} {}", two.plan().v4);
                tool(one.netns(), &line)
            };
            tcp(one.netns(), two.netns(), two.plan().v4.into(), BULK)?;
            let Some(fitting) = ping(fits)? else { continue };
            let said = |output: &Output| {
                String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
            };
            ensure!(fitting.status.success(), "{}", said(&fitting));
            let large = ping(fits + 1)?.context("it was there")?;
            let mtu = format!("mtu={}", NARROW - HEADERS[network]);
            ensure!(
                !large.status.success() && said(&large).contains(&mtu),
                "the interface says it: {}",
                said(&large)
            );
        }
        let told = format!("network {}: MTU 1350, was 1450", network_id(daemons, NETWORKS[PLAIN])?);
        ensure!(daemons.hosts[0].log().iter().any(|line| line.contains(&told)), "no {told:?} in the log");

        // With nobody there any more that it could be too large for, it is what it was.
        daemons.hosts[1].say(&["detach", &endpoint(daemons, 1, PLAIN).plan().name])?;
        wait_for_mtu(daemons, 0, PLAIN, 1_500)?;
        wait_for_mtu(daemons, 0, SEALED, NARROW)
    })
}

fn network_id(daemons: &Daemons, name: &str) -> Result<String> {
    let all = daemons.hosts[0].json(&["network", "ls"])?;
    let found = all.iter().find(|network| network["name"] == name).context("it is listed")?;
    Ok(found["id"].as_str().context("text")?.to_owned())
}
