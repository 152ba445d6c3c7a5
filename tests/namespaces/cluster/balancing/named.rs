//! Names of services: what they stand for, and where they lead.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use super::{GATEWAYS, HTTP, MANY, NETWORKS, OWN, Task, prepare, tasks, vips, wait_until_spread};
use crate::cluster::daemons::{Daemons, wait_until, with_daemons};
use crate::cluster::host::Host;
use crate::cluster::overlay::{endpoint, plug};
use crate::fixture::{PATIENCE, tool};

/// What `dig` says, in the order said.
pub(super) fn dig(
    daemons: &Daemons,
    node: usize,
    index: usize,
    question: &str,
) -> Result<Option<Vec<String>>> {
    let line = format!("dig +short +tries=1 +time=5 @{} {question}", GATEWAYS[index]);
    let output = tool(endpoint(daemons, node, index).netns(), &line)?;
    let text = output.map(|output| String::from_utf8(output.stdout)).transpose()?;
    Ok(text.map(|text| text.lines().map(String::from).collect()))
}

/// Names stand for addresses, and addresses for names, on a node.
pub(super) fn named(daemons: &Daemons, node: usize, vips: &[IpAddr], tasks: &[Task]) -> Result<()> {
    let of_tasks = |index: usize| tasks.iter().map(|task| task.addresses[index].to_string()).collect();
    let one = |text: String| vec![text];
    for (network, question, mut expected) in [
        (0, "web".to_owned(), one(vips[0].to_string())),
        (0, "WEB.bilberry".into(), one(vips[0].to_string())),
        (0, "web AAAA".into(), one(vips[1].to_string())),
        (0, "www".into(), one(vips[0].to_string())),
        (1, "web".into(), one(vips[2].to_string())),
        (0, "tasks.web".into(), of_tasks(0)),
        (0, "tasks.www AAAA".into(), of_tasks(1)),
        (1, "tasks.web.gooseberry".into(), of_tasks(2)),
        (0, format!("-x {}", vips[0]), one("web.bilberry.".into())),
        (1, format!("-x {}", vips[3]), one("web.gooseberry.".into())),
    ] {
        expected.sort();
        let mut last = None;
        let waited = wait_until("it resolves", || {
            last = dig(daemons, node, network, &question)?;
            let mut said = last.clone().unwrap_or_default();
            said.sort();
            Ok(last.is_none() || said == expected)
        });
        waited.with_context(|| format!("node {node}, {question}: {last:?} is not {expected:?}"))?;
    }
    let mut orders = BTreeSet::new();
    for _ in 0..MANY {
        orders.extend(dig(daemons, node, 0, "tasks.web")?);
        if orders.len() != 1 {
            return Ok(());
        }
    }
    anyhow::bail!("always in one order: {orders:?}")
}

/// Clients that are tasks, of the service itself, too.
pub(super) fn by_name(daemons: &Daemons, tasks: &[Task]) -> Result<()> {
    let get = ["busybox", "wget", "-q", "-O", "-"];
    let page = "http://web/cgi-bin/who";
    for host in &daemons.hosts {
        for network in NETWORKS {
            let said =
                host.say(&[&["run", "--rm", "--network", network, "--"], &get[..], &[page]].concat())?;
            let name = said.split(' ').next().unwrap_or_default();
            ensure!(tasks.iter().any(|task| task.name == name), "{said}");
        }
    }
    for task in tasks {
        let mut seen = BTreeSet::new();
        for _ in 0..MANY {
            let said = daemons.hosts[task.host].say(&[&["exec", &task.id], &get[..], &[page]].concat())?;
            seen.extend(said.split(' ').next().map(String::from));
            if seen.len() == tasks.len() {
                break;
            }
        }
        ensure!(seen.contains(&task.name) && seen.len() == tasks.len(), "{} reaches {seen:?}", task.name);
    }
    Ok(())
}

/// In the other endpoint mode names stand for tasks, and back again for an address; who is there with the service's name
/// is not heard.
pub(super) fn without_addresses(daemons: &Daemons) -> Result<()> {
    let update = |mode: &str| daemons.hosts[0].say(&["service", "update", "--endpoint-mode", mode, "web"]);
    update("dnsrr")?;
    let wanted: BTreeSet<String> =
        tasks(daemons, 3)?.iter().map(|task| task.addresses[0].to_string()).collect();
    for node in 0..3 {
        for question in ["web", "www", "tasks.web"] {
            wait_until("its names stand for its tasks", || {
                let said = dig(daemons, node, 0, question)?;
                Ok(said.is_none_or(|said| said.into_iter().collect::<BTreeSet<_>>() == wanted))
            })?;
        }
    }
    update("vip")?;
    let vip = vips(daemons, "web")?[0];
    let attach = ["attach", "--network", "bilberry", "--name", "web", "--tap", "tap-web"];
    daemons.hosts[1].say(&attach)?;
    for node in 0..3 {
        wait_until("its name stands for its address", || {
            Ok(dig(daemons, node, 0, "web")?.is_none_or(|said| said == [vip.to_string()]))
        })?;
        let from = endpoint(daemons, node, 0).netns();
        wait_until_spread(from, SocketAddr::new(vip, HTTP), &tasks(daemons, 3)?)?;
    }
    daemons.hosts[1].say(&["detach", "web"]).map(drop)
}

/// Two services of one name, from two sides of a partition: it leads to the older, and the other's id to the other.
pub(in crate::cluster) fn made_twice() -> Result<()> {
    with_daemons("balancingtwice", 2, |daemons| {
        prepare(daemons, 2, 2)?;
        // So both have addresses to give.
        for node in 0..2 {
            plug(daemons, node, 0, NETWORKS[0])?;
        }
        daemons.part(&[0], &[1])?;
        let create = |host: usize| -> Result<String> {
            let create = ["service", "create", "-d", "--name", "web", "--network", "bilberry,alias=www"];
            Ok(daemons.hosts[host].say(&create)?.trim().to_owned())
        };
        let ids = [create(0)?, create(1)?];
        daemons.unite(&[1])?;
        daemons.wait_until_all_see_all()?;
        let vips = ids.each_ref().map(|id| -> Result<IpAddr> {
            wait_until("both are known", || {
                let known =
                    |host: &Host| Ok::<_, anyhow::Error>(host.say(&["service", "ls", "-q"])?.lines().count());
                Ok(known(&daemons.hosts[0])? == 2 && known(&daemons.hosts[1])? == 2)
            })?;
            vips(daemons, id)?.first().copied().context("an address")
        });
        let [older, younger] = vips;
        let (older, younger) = (older?, younger?);
        ensure!(older != younger, "{older} twice");
        for (node, name, vip) in (0..2)
            .flat_map(|node| [(node, "web", older), (node, "www", older), (node, ids[1].as_str(), younger)])
        {
            wait_until(name, || {
                Ok(dig(daemons, node, 0, name)?.is_none_or(|said| said == [vip.to_string()]))
            })?;
        }
        // Clients of either are answered, if only that nobody is there.
        let from = endpoint(daemons, 0, 0).netns();
        for vip in [older, younger] {
            let nobody = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(vip, OWN), PATIENCE))?;
            ensure!(nobody.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused), "{vip}");
        }
        Ok(())
    })
}
