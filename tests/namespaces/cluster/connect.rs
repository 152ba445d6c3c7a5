//! More networks for a namespace that has an endpoint, and networks for the hosts themselves.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::namespace::netlink::{Link, Netlink};
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::refused;
use super::overlay::wait_until_carried;
use super::shown::{address, addresses};
use crate::fixture::{tool, udp_both_ways};

const NETWORKS: [&str; 2] = ["elder", "rowan"];
/// Bytes that fit into one packet of any network here.
const PAYLOAD: usize = 1_200;

fn make(daemons: &Daemons) -> Result<()> {
    let manager = &daemons.hosts[0];
    manager.say(&[
        "network",
        "create",
        "--attachable",
        "--vni",
        "6001",
        "--subnet",
        "10.81.0.0/24",
        NETWORKS[0],
    ])?;
    let both = [
        "--attachable",
        "--subnet",
        "10.82.0.0/24",
        "--subnet",
        "fd82::/64",
        "--opt",
        "encrypted",
        "--vni",
        "6002",
    ];
    manager.say(&[&["network", "create"], &both[..], &[NETWORKS[1]]].concat())?;
    for host in &daemons.hosts {
        wait_until("the networks are known", || Ok(host.networks()? == NETWORKS))?;
    }
    Ok(())
}

fn link(netns: &NetNs, name: &str) -> Result<Option<Link>> {
    Ok(Netlink::open(netns)?.links()?.into_iter().find(|link| link.name == name))
}

/// Where a namespace's packets for the world outside go; none where there is no `ip` to ask.
fn way_out(netns: &NetNs) -> Result<Option<String>> {
    let said = tool(netns, "ip route show default")?;
    Ok(said.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()))
}

/// Hosts have names and addresses in a network, over restarts, and no other way out than before.
pub(super) fn exposed() -> Result<()> {
    with_daemons("exposed", 2, |daemons| {
        daemons.form(2, 1)?;
        make(daemons)?;
        let [one, two] = [0, 1].map(|host| daemons.hosts[host].netns.clone());
        let before = way_out(&two)?;
        let expose = |host: usize, flags: &[&str], network| -> Result<Value> {
            daemons.hosts[host]
                .json(&[&["expose"], flags, &[network]].concat())?
                .pop()
                .context("it says something")
        };
        let here = expose(0, &["--ip", "10.81.0.9"], NETWORKS[0])?;
        ensure!(here["interface"] == "vsw6001" && here["addresses"][0] == "10.81.0.9/24", "{here}");
        ensure!(here["gateways"] == Value::Array(Vec::new()) && here["resolver"] == "10.81.0.1", "{here}");
        let there = expose(1, &["--name", "gate", "--interface", "gate0"], NETWORKS[0])?;
        wait_until_carried(daemons, &[0, 1])?;
        udp_both_ways(&one, &two, address(&here)?, address(&there)?, PAYLOAD)?;
        ensure!(way_out(&two)? == before, "the host's way out is its own");
        let both = expose(0, &[], NETWORKS[1])?;
        ensure!(addresses(&both)?.len() == 2 && both["mtu"] == 1_420, "{both}");
        let heard = one.run(|| fs::read_to_string("/proc/sys/net/ipv6/conf/vsw6002/accept_ra"))??;
        ensure!(heard.trim() == "0", "no router of the network's is the host's: {heard}");
        let found = link(&two, "gate0")?.context("it is there")?;
        ensure!(found.mtu == 1_450 && found.up, "{found:?}");

        let again = daemons.hosts[1].ask(&["expose", "--name", "other", NETWORKS[0]], "")?;
        refused(&again, &["this host is in that network already: gate0"])?;
        refused(
            &daemons.hosts[1].ask(&["unexpose", NETWORKS[1]], "")?,
            &["network rowan is not exposed to this host"],
        )?;
        Netlink::open(&two)?.add_bridge("lan0", 1_500)?;
        Netlink::open(&two)?.add_address("lan0", "10.82.0.5".parse()?, 24)?;
        Netlink::open(&two)?.set_up("lan0")?;
        let clash = daemons.hosts[1].ask(&["expose", NETWORKS[1]], "")?;
        refused(&clash, &["its route 10.82.0.0/24 on lan0 is in 10.82.0.0/24"])?;

        daemons.kill(1)?;
        wait_until("its interface has gone with the daemon", || Ok(link(&two, "gate0")?.is_none()))?;
        daemons.start(1)?;
        daemons.wait_until_see(&[0, 1], &[0, 1], true)?;
        wait_until("it is there again", || Ok(link(&two, "gate0")?.is_some_and(|link| link.up)))?;
        wait_until_carried(daemons, &[0, 1])?;
        udp_both_ways(&one, &two, address(&here)?, address(&there)?, PAYLOAD)?;
        let host = &daemons.hosts[1];
        let shown: Value = serde_json::from_str(&host.say(&["network", "inspect", NETWORKS[0]])?)?;
        let names = shown[0]["Endpoints"].to_string();
        ensure!(names.contains("gate") && names.contains(daemons.hosts[0].name), "{names}");
        ensure!(host.say(&["unexpose", NETWORKS[0]])? == format!("{}\n", NETWORKS[0]));
        ensure!(link(&two, "gate0")?.is_none(), "it is gone when that is said");
        Ok(())
    })
}

/// A namespace gets another network while it runs, and loses the first one.
pub(super) fn connected() -> Result<()> {
    with_daemons("connected", 2, |daemons| {
        daemons.form(2, 1)?;
        make(daemons)?;
        let places = [NetNs::create()?, NetNs::create()?];
        let mut first_ones = Vec::new();
        for (host, (netns, name)) in daemons.hosts.iter().zip(places.iter().zip(["web", "db"])) {
            Netlink::open(netns)?.set_up("lo")?;
            let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
            let place = ["--network", NETWORKS[0], "--name", name, "--tap", "eth0", "--netns", &path];
            first_ones
                .push(host.json(&[&["attach"], &place[..]].concat())?.pop().context("it says something")?);
        }
        let connect = |host: usize, flags: &[&str], name| -> Result<Value> {
            let line = [&["network", "connect"], flags, &[NETWORKS[1], name]].concat();
            daemons.hosts[host].json(&line)?.pop().context("it says something")
        };
        let web = connect(0, &["--ip", "10.82.0.7", "--alias", "www"], "web")?;
        ensure!(web["interface"] == "eth1" && web["addresses"][0] == "10.82.0.7/24", "{web}");
        let id = first_ones[1]["id"].as_str().context("text")?;
        let db = connect(1, &[], &id[..12])?;
        wait_until_carried(daemons, &[0, 1])?;
        for (here, there) in addresses(&web)?.into_iter().zip(addresses(&db)?) {
            udp_both_ways(&places[0], &places[1], here, there, PAYLOAD)?;
        }
        udp_both_ways(&places[0], &places[1], address(&first_ones[0])?, address(&first_ones[1])?, PAYLOAD)?;
        if let Some(way) = way_out(&places[0])? {
            ensure!(way.contains("via 10.81.0.1 dev eth0"), "the first network is the way out: {way}");
        }

        let ask = |host: usize, line: &[&str]| daemons.hosts[host].ask(&[&["network"], line].concat(), "");
        refused(&ask(0, &["connect", NETWORKS[1], "web"])?, &["web is in network rowan already, by eth1"])?;
        refused(
            &ask(1, &["connect", NETWORKS[1], "web"])?,
            &["this node has no endpoint web: it is on node", daemons.hosts[0].name],
        )?;
        daemons.hosts[0].say(&["expose", "--name", "host", NETWORKS[0]])?;
        refused(
            &ask(0, &["connect", NETWORKS[1], "host"])?,
            &["host has no namespace of its own", "`vswitchd expose`"],
        )?;
        refused(&ask(0, &["disconnect", NETWORKS[1], "host"])?, &["host is not in network rowan"])?;
        daemons.hosts[0].say(&["network", "disconnect", "-f", NETWORKS[1], "host"])?;
        refused(&ask(0, &["disconnect", "-f", "sorb", "web"])?, &["there is no network sorb"])?;

        daemons.hosts[0].say(&["network", "disconnect", NETWORKS[0], "web"])?;
        ensure!(link(&places[0], "eth0")?.is_none(), "it is gone when that is said");
        if let Some(way) = way_out(&places[0])? {
            ensure!(way.contains("via 10.82.0.1 dev eth1"), "the other network is the way out now: {way}");
        }
        for (here, there) in addresses(&web)?.into_iter().zip(addresses(&db)?) {
            udp_both_ways(&places[0], &places[1], here, there, PAYLOAD)?;
        }
        let line = ["network", "connect", NETWORKS[0], "web"];
        let back = daemons.hosts[0].json(&line)?.pop().context("it says something")?;
        ensure!(back["interface"] == "eth0", "the lowest that is free: {back}");
        // As others do, it comes back with the daemon.
        daemons.kill(0)?;
        daemons.start(0)?;
        daemons.wait_until_see(&[0, 1], &[0, 1], true)?;
        wait_until("both are there", || {
            let there = |name| anyhow::Ok(link(&places[0], name)?.is_some_and(|link| link.up));
            Ok(there("eth0")? && there("eth1")?)
        })?;
        wait_until_carried(daemons, &[0, 1])?;
        udp_both_ways(&places[0], &places[1], address(&back)?, address(&first_ones[1])?, PAYLOAD)
    })
}

/// What a task's programs know of names follows the networks that it is in.
pub(super) fn tasks() -> Result<()> {
    with_daemons("joined", 1, |daemons| {
        daemons.form(1, 1)?;
        make(daemons)?;
        let host = &daemons.hosts[0];
        // It ends by itself where this test fails.
        host.say(&["run", "-d", "--name", "wren", "--network", NETWORKS[0], "sleep", "120"])?;
        let inside = |path: &str| host.say(&["exec", "wren", "cat", path]);
        host.say(&["network", "connect", "--alias", "bird", NETWORKS[1], "wren"])?;
        let said = inside("/etc/resolv.conf")?;
        ensure!(said.contains("nameserver 10.81.0.1\nnameserver 10.82.0.1\n"), "{said}");
        let own = inside("/etc/hosts")?;
        ensure!(own.contains("10.81.0.2\t") && own.contains("10.82.0.2\t"), "{own}");
        host.say(&["network", "disconnect", NETWORKS[0], "wren"])?;
        let said = inside("/etc/resolv.conf")?;
        ensure!(!said.contains("10.81.0.1") && said.contains("nameserver 10.82.0.1\n"), "{said}");
        let routes = inside("/proc/net/route")?;
        let default =
            routes.lines().find(|line| line.contains("\t00000000\t0100520A\t")).context("a way out")?;
        ensure!(default.starts_with("eth1\t") && !routes.contains("eth0"), "{routes}");
        host.say(&["rm", "-f", "wren"])?;
        wait_until("nothing is left of it", || {
            let shown: Value = serde_json::from_str(&host.say(&["network", "inspect", NETWORKS[1]])?)?;
            Ok(shown[0]["Endpoints"].as_array().is_some_and(Vec::is_empty))
        })
        .map(drop)
    })
}
