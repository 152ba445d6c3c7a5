//! Addresses of endpoints: nobody sets them by hand, and no two have one.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::api::HostAddress;
use vswitchd::lab::ENDPOINT_LINK;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::refused;
use super::overlay::{NETWORKS, PLAIN, SEALED, endpoint, wait_until_carried};
use crate::fixture::{tool, udp_both_ways};

/// A /29 without network, broadcast and gateway.
const CAPACITY: usize = 5;

/// Attaches a TAP of a host's own namespace; gives what came of it.
fn attach(daemons: &Daemons, host: usize, name: &str, flags: &[&str]) -> Result<Value> {
    let place = ["attach", "--network", "sloe", "--name", name, "--tap", name];
    daemons.hosts[host].json(&[&place[..], flags].concat())?.pop().context("attach says something")
}

/// The IPv4 address of what was attached.
fn v4(attached: &Value) -> Result<String> {
    let addresses = attached["addresses"].as_array().context("a list")?;
    let first = addresses.first().and_then(Value::as_str).context("an address")?;
    Ok(first.parse::<HostAddress>()?.address().to_string())
}

fn inspect(daemons: &Daemons, host: usize) -> Result<Value> {
    let shown: Value =
        serde_json::from_str(&daemons.hosts[host].say(&["network", "inspect", "-v", "sloe"])?)?;
    Ok(shown[0].clone())
}

fn make(daemons: &Daemons) -> Result<()> {
    let subnets = ["--subnet", "10.77.0.0/29", "--subnet", "fd77::/64"];
    daemons.hosts[0].say(&[&["network", "create"], &subnets[..], &["sloe"]].concat())?;
    for host in daemons.hosts.iter().filter(|host| host.process.is_some()) {
        wait_until("the network is known", || Ok(host.networks()? == ["sloe"]))?;
    }
    Ok(())
}

/// Different on all nodes, requested ones too; the last one is said to be the last at once, and a freed one works again.
pub(super) fn leased() -> Result<()> {
    with_daemons("leased", 3, |daemons| {
        daemons.form(3, 1)?;
        make(daemons)?;
        let web = attach(daemons, 1, "web", &["--ip", "10.77.0.6", "--alias", "www"])?;
        ensure!(web["mac"] == "02:42:0a:4d:00:06" && web["gateways"][0] == "10.77.0.1", "{web}");
        ensure!(web["resolver"] == "10.77.0.1" && web["addresses"][0] == "10.77.0.6/29", "{web}");
        ensure!(web["addresses"][1].as_str().is_some_and(|v6| v6.ends_with("/64")), "{web}");
        let own = Netlink::open(&daemons.hosts[1].netns)?.addresses()?;
        let six = IpAddr::from([10, 77, 0, 6]);
        ensure!(own.contains(&("web".into(), six)), "nobody has set it by hand: {own:?}");
        let names = [daemons.hosts[0].name, daemons.hosts[1].name];
        let ask = |host: usize, name: &str, flags: &[&str]| {
            let place = ["attach", "--network", "sloe", "--name", name, "--tap", name];
            daemons.hosts[host].ask(&[&place[..], flags].concat(), "")
        };
        wait_until("the other node has heard of it", || {
            Ok(inspect(daemons, 2)?["Endpoints"].as_array().is_some_and(|all| all.len() == 1))
        })?;
        let taken = ask(2, "db", &["--ip", "10.77.0.6"])?;
        refused(&taken, &["10.77.0.6 is in use by endpoint web on node", names[1]])?;
        refused(&ask(2, "db", &["--ip", "10.77.0.1"])?, &["10.77.0.1 is reserved: gateway"])?;
        refused(
            &ask(2, "db", &["--ip", "10.78.0.1"])?,
            &["10.78.0.1 is in no subnet of network sloe (10.77.0.0/29"],
        )?;
        refused(&ask(0, "web", &[])?, &["has an endpoint web on node", names[1]])?;
        let mac = web["mac"].as_str().context("text")?;
        refused(&ask(0, "db", &["--mac", mac])?, &["is that of endpoint web on node"])?;

        let mut seen = BTreeSet::from([v4(&web)?]);
        for number in 1..CAPACITY {
            let address = v4(&attach(daemons, number % 3, &format!("e{number}"), &[])?)?;
            ensure!(seen.insert(address.clone()), "{address} twice");
        }
        let started = Instant::now();
        for host in 0..3 {
            refused(&ask(host, "more", &[])?, &["10.77.0.0/29: 5 of 5 used"])?;
        }
        eprintln!(
            "addresses: {CAPACITY} of {CAPACITY} used, refused on each of 3 nodes in {:?}",
            started.elapsed()
        );
        wait_until("all have heard of all", || {
            let shown = inspect(daemons, 2)?;
            let used = &shown["Addresses"][0];
            Ok((&used["Used"], &used["Free"], &used["Unheard"]) == (&5.into(), &0.into(), &0.into()))
        })?;
        let shown = inspect(daemons, 1)?;
        let here = shown["Containers"].as_object().context("by id")?;
        let found = here.values().find(|endpoint| endpoint["Name"] == "web").context("it is here")?;
        ensure!(found["IPv4Address"] == "10.77.0.6/29" && found["Aliases"][0] == "www", "{found}");
        let busy = daemons.hosts[0].ask(&["network", "rm", "sloe"], "")?;
        refused(&busy, &["in use by e1 on ", ", e4 on ", " and 1 more: "])?;

        daemons.hosts[1].say(&["detach", "web"])?;
        let again = attach(daemons, 2, "again", &[])?;
        ensure!(v4(&again)? == v4(&web)?, "the only free one: {again}");
        Ok(())
    })
}

/// Kept over a kill, and given back by what is gone.
pub(super) fn kept() -> Result<()> {
    with_daemons("kept", 2, |daemons| {
        daemons.form(2, 1)?;
        make(daemons)?;
        let before = attach(daemons, 1, "web", &[])?;
        let id = before["id"].as_str().context("text")?.to_owned();
        // In a namespace that does not outlive the daemon: its address is free when it is back.
        let mut holder = NetNs::create()?.command("sleep").arg("1000").spawn()?;
        let pid = holder.id().to_string();
        let gone = attach(daemons, 1, "gone", &["--netns", &pid])?;
        for number in 0..CAPACITY - 2 {
            attach(daemons, 0, &format!("e{number}"), &[])?;
        }
        daemons.kill(1)?;
        holder.kill()?;
        holder.wait()?;
        daemons.start(1)?;
        daemons.wait_until_see(&[0, 1], &[0, 1], true)?;
        wait_until("the endpoint is there again, with its address", || {
            let shown = inspect(daemons, 1)?;
            let found = &shown["Containers"][&id];
            Ok(found["IPv4Address"] == before["addresses"][0] && found["MacAddress"] == before["mac"])
        })?;
        let own = Netlink::open(&daemons.hosts[1].netns)?.addresses()?;
        let address: IpAddr = v4(&before)?.parse()?;
        ensure!(own.contains(&("web".into(), address)), "its TAP has it, too: {own:?}");
        let again = attach(daemons, 0, "again", &[])?;
        ensure!(v4(&again)? == v4(&gone)?, "what the other had is free: {again}");
        // And after an orderly restart, too.
        daemons.stop(1)?;
        daemons.start(1)?;
        wait_until("it is there", || Ok(inspect(daemons, 1)?["Containers"][&id]["Name"] == "web")).map(drop)
    })
}

/// What a removed node held is used again; until then it is said to be out of reach.
pub(super) fn reclaimed() -> Result<()> {
    with_daemons("reclaimed", 3, |daemons| {
        daemons.form(3, 1)?;
        make(daemons)?;
        let lost = attach(daemons, 2, "lost", &[])?;
        daemons.kill(2)?;
        daemons.wait_until_see(&[0, 1], &[2], false)?;
        let mut count = 0;
        let last = loop {
            let place = [
                "attach",
                "--network",
                "sloe",
                "--name",
                &format!("e{count}"),
                "--tap",
                &format!("e{count}"),
            ];
            let outcome = daemons.hosts[count % 2].ask(&place, "")?;
            if !outcome.status.success() {
                break outcome;
            }
            count += 1;
        };
        ensure!(count < CAPACITY, "the dead node's are not used");
        let said = String::from_utf8_lossy(&last.stderr).into_owned();
        ensure!(said.contains("of 5 used"), "{said}");
        daemons.hosts[0].say(&["node", "rm", daemons.hosts[2].name])?;
        for number in count..CAPACITY {
            let name = format!("e{number}");
            let place = ["attach", "--network", "sloe", "--name", &name, "--tap", &name];
            let took = wait_until("an address of the removed node's is found", || {
                Ok(daemons.hosts[number % 2].ask(&place, "")?.status.success())
            })?;
            eprintln!("addresses: one of a removed node's after {took:?}");
        }
        let shown = inspect(daemons, 0)?;
        let all = shown["Endpoints"].as_array().context("a list")?;
        ensure!(all.iter().any(|endpoint| endpoint["IPv4Address"] == lost["addresses"][0]), "{shown}");
        Ok(())
    })
}

/// Two endpoints in namespaces reach each other by the addresses that they were given.
pub(super) fn reached() -> Result<()> {
    with_daemons("reached", 2, |daemons| {
        daemons.form(2, 1)?;
        let manager = &daemons.hosts[0];
        manager.say(&["network", "create", "--ipv6", "--opt", "encrypted", NETWORKS[SEALED]])?;
        manager.say(&["network", "create", "--ipv6", NETWORKS[PLAIN]])?;
        let mut given = Vec::new();
        for node in 0..2 {
            wait_until("the networks are known", || Ok(daemons.hosts[node].networks()? == NETWORKS))?;
            for (network, name) in NETWORKS.iter().enumerate() {
                let netns = endpoint(daemons, node, network).netns();
                Netlink::open(netns)?.set_up("lo")?;
                let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_fd().as_raw_fd());
                let place =
                    ["attach", "--network", name, "--name", &format!("web{node}"), "--tap", ENDPOINT_LINK];
                let attached = daemons.hosts[node].json(&[&place[..], &["--netns", &path]].concat())?.pop();
                let attached = attached.context("attach says something")?;
                let addresses = attached["addresses"].as_array().context("a list")?;
                let addresses = addresses
                    .iter()
                    .map(|own| Ok(own.as_str().context("text")?.parse::<HostAddress>()?.address()));
                given.push(addresses.collect::<Result<Vec<IpAddr>>>()?);
            }
        }
        wait_until_carried(daemons, &[0, 1])?;
        for network in [SEALED, PLAIN] {
            let [one, two] = [0, 1].map(|node| endpoint(daemons, node, network).netns());
            let (here, there) = (&given[network], &given[NETWORKS.len() + network]);
            ensure!(here.len() == 2 && there.len() == 2, "of IPv4 and of IPv6");
            for (&here, &there) in here.iter().zip(there) {
                udp_both_ways(one, two, here, there, 1_200)?;
                let Some(ping) = tool(one, &format!("ping -n -c 2 -W 5 {there}"))? else { continue };
                ensure!(ping.status.success(), "{ping:?}");
            }
            let default = tool(one, "ip route show default")?;
            if let Some(default) = default {
                let said = String::from_utf8_lossy(&default.stdout).into_owned();
                ensure!(said.contains(&format!("dev {ENDPOINT_LINK}")), "{said}");
            }
        }
        Ok(())
    })
}
