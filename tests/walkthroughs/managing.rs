//! What a network can be told to be: docs/tutorials/managing-networks.md.

use anyhow::{Result, ensure};

use crate::site::{Site, bare, can_run, cell, names, soon};

/// What the interface of a program in a network says.
fn link_in(site: &Site, network: &str) -> Result<String> {
    site.ok(1, &format!("vswitchd run --rm --network {network} -- ip address show eth0"))
}

#[test]
fn subnets_gateways_ranges_labels_and_options() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("managing", 2, 2, "")?;
    site.ok(1, "vswitchd network create --subnet 10.0.9.0/24 --gateway 10.0.9.99 my-network")?;
    let config = soon(|| site.inspect(2, "my-network"))?["IPAM"]["Config"].clone();
    ensure!(config == serde_json::json!([{ "Subnet": "10.0.9.0/24", "Gateway": "10.0.9.99" }]), "{config}");
    refused(&site)?;
    several_subnets(&site)?;
    labels(&site)?;
    options(&site)?;
    site.end()
}

/// What can't be is said at once, and what is in the way is named.
fn refused(site: &Site) -> Result<()> {
    for (flags, code, said) in [
        ("--subnet 10.0.9.128/25 other", 1, "overlaps 10.0.9.0/24 of network my-network ("),
        ("--subnet 198.18.0.0/24 other", 1, "overlaps this host's route 198.18.0.0/15 on eth0"),
        ("my-network", 1, "there is a network my-network already ("),
        ("--subnet 10.0.8.1/24 other", 2, "do you mean 10.0.8.0/24?"),
        ("--subnet 10.0.8.0/24 --gateway 10.0.7.1 other", 2, "--gateway 10.0.7.1 is in none of the subnets"),
        ("--subnet 10.0.8.0/24 --ip-range 10.0.7.0/25 other", 2, "--ip-range 10.0.7.0/25 is in none of"),
        ("--opt mtu=100 other", 1, "mtu 100 leaves 50 bytes inside: IPv4 needs 576"),
        ("--vni 4097 other", 1, "VNI 4097 is that of network my-network ("),
        ("--ingress other", 1, "is the routing mesh's network already"),
    ] {
        ensure!(site.fails(1, &format!("vswitchd network create {flags}"), code, &[said])?.is_empty());
    }
    ensure!(names(&site.ok(1, "vswitchd network ls")?)? == ["ingress", "my-network"], "nothing was made");
    let run = "vswitchd run --rm --network my-network -- true";
    site.fails(
        1,
        run,
        125,
        &["network my-network is not for single programs: it was made without --attachable"],
    )?;
    Ok(())
}

/// Each flag is of the subnet that it is in; who is in one reaches who is in another, on other hosts too.
fn several_subnets(site: &Site) -> Result<()> {
    let subnets =
        "--subnet 192.168.0.0/16 --subnet 192.170.0.0/16 --gateway 192.168.0.100 --gateway 192.170.0.100";
    let range = "--ip-range 192.168.1.0/24 --aux-address printer=192.168.1.0";
    let v6 = "--subnet fd00:9::/64 --subnet fd00:a::/64";
    site.ok(1, &format!("vswitchd network create {subnets} {range} {v6} --attachable wide"))?;
    site.ok(1, "vswitchd run -d --name one --network wide -- sleep 1d")?;
    soon(|| site.ok(2, "vswitchd run -d --name two --network wide,ip=192.170.0.7,ip=fd00:a::7 -- sleep 1d"))?;
    let first = site.address(1, "wide", "one")?;
    ensure!(first == "192.168.1.1/16", "the first of the range that is not kept: {first}");
    ensure!(site.address(2, "wide", "two")? == "192.170.0.7/16");
    for (host, from, to) in [(1, "one", "two"), (2, "two", "one")] {
        for version in [4, 6] {
            let ping = format!("vswitchd exec {from} ping -{version} -c 1 {to}");
            let pinged = soon(|| site.ok(host, &ping))?;
            ensure!(pinged.contains(&format!("64 bytes from {to}.wide (")), "{pinged}");
        }
    }
    let routes = site.ok(2, "vswitchd exec two ip route")?;
    ensure!(routes.contains("default via 192.170.0.100 dev eth0"), "{routes}");
    for (ip, said) in [
        ("192.168.0.100", "192.168.0.100 is reserved: gateway"),
        ("192.168.1.0", "192.168.1.0 is reserved: printer"),
        ("192.170.0.7", "192.170.0.7 is in use by endpoint two on node node2"),
        (
            "192.171.0.7",
            "192.171.0.7 is in no subnet of network wide (192.168.0.0/16, 192.170.0.0/16, fd00:9::/64, fd00:a::/64)",
        ),
    ] {
        site.fails(1, &format!("vswitchd run --rm --network wide,ip={ip} -- true"), 125, &[said])?;
    }
    Ok(())
}

fn labels(site: &Site) -> Result<()> {
    site.ok(1, "vswitchd network create --label stage=test --label temporary labelled")?;
    let shown = soon(|| site.inspect(2, "labelled"))?;
    ensure!(shown["Labels"] == serde_json::json!({ "stage": "test", "temporary": "" }), "{shown}");
    for filter in ["label=stage=test", "label=temporary", "name=label", "label=stage --filter driver=overlay"]
    {
        let found = site.ok(2, &format!("vswitchd network ls --filter {filter}"))?;
        ensure!(names(&found)? == ["labelled"], "{filter}: {found}");
    }
    ensure!(names(&site.ok(2, "vswitchd network ls --filter label=stage=live")?)?.is_empty());
    let id = shown["Id"].as_str().unwrap_or_default().to_owned();
    ensure!(site.ok(1, "vswitchd network ls --quiet --filter name=labelled")? == format!("{}\n", &id[..12]));
    let format = "vswitchd network ls --filter label=stage --format '{{.Name}}: {{.Subnets}}'";
    ensure!(site.ok(1, format)?.starts_with("labelled: 10.0."));
    Ok(())
}

fn options(site: &Site) -> Result<()> {
    for (option, network, mtu) in [
        ("mtu=1200", "narrow", 1150),
        ("com.docker.network.driver.mtu=1200", "docker-narrow", 1150),
        ("encrypted", "sealed", 1420),
    ] {
        site.ok(1, &format!("vswitchd network create --attachable --opt {option} {network}"))?;
        let link = link_in(site, network)?;
        ensure!(link.contains(&format!(" mtu {mtu} ")), "{network}: {link}");
    }
    let shown = soon(|| site.inspect(2, "docker-narrow"))?;
    ensure!(shown["Options"]["com.docker.network.driver.mtu"] == "1200", "{shown}");
    let shown = soon(|| site.inspect(2, "sealed"))?;
    ensure!(shown["Options"]["encrypted"] == "" && shown["Encrypted"] == true, "{shown}");
    soon(|| site.ok(2, "vswitchd run -d --name two-sealed --network sealed -- sleep 1d"))?;
    // The two hosts have nothing in common but the keys that they agree on now.
    let ping = "vswitchd run --rm --network sealed -- ping -c 1 -w 10 two-sealed";
    ensure!(soon(|| site.ok(1, ping))?.contains("1 received"));
    Ok(())
}

/// Who reaches whom, and what is outside: a host that runs a web server, and is not in the cluster.
#[test]
fn networks_are_apart_and_an_internal_one_has_no_way_out() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("apart", 3, 2, "")?;
    site.ok(1, "vswitchd network create --attachable front")?;
    site.ok(1, "vswitchd network create --attachable --internal back")?;
    for network in ["front", "back"] {
        site.ok(1, &format!("vswitchd run -d --name {network}1 --network {network} -- sleep 1d"))?;
        let second = format!("vswitchd run -d --name {network}2 --network {network} -- sleep 1d");
        soon(|| site.ok(2, &second))?;
        let ping = format!("vswitchd exec {network}1 ping -c 1 {network}2");
        let pinged = soon(|| site.ok(1, &ping))?;
        ensure!(pinged.contains(&format!("from {network}2.{network} (")), "{pinged}");
    }
    let page = "mkdir /run/www && echo outside > /run/www/index.html";
    site.ok(3, &format!("{page} && busybox httpd -p 80 -h /run/www"))?;
    ways_out(&site)?;
    no_way_between(&site)?;
    site.end()
}

fn ways_out(site: &Site) -> Result<()> {
    for (host, name) in [(1, "front1"), (2, "front2")] {
        let ask = |line: &str| site.ok(host, &format!("vswitchd exec {name} {line}"));
        ensure!(ask("ping -c 1 198.18.0.3")?.contains("64 bytes from 198.18.0.3: icmp_seq=1"));
        ensure!(ask("busybox wget -q -O - http://198.18.0.3/")? == "outside\n");
    }
    let at_once = |line: &str, code, said: &str| {
        site.fails(1, &format!("timeout 5 vswitchd exec back1 {line}"), code, &[said])
    };
    at_once("ping -c 1 198.18.0.3", 2, "ping: connect: Network is unreachable")?;
    at_once("ping -c 1 example.com", 2, "ping: example.com: Name or service not known")?;
    at_once("busybox wget -O - http://198.18.0.3/", 1, "Network is unreachable")?;
    ensure!(!site.ok(1, "vswitchd exec back1 ip route")?.contains("default"));
    Ok(())
}

fn no_way_between(site: &Site) -> Result<()> {
    let back2 = site.address(2, "back", "back2")?;
    // The gateway says so, instead of nobody.
    let refused = site.fails(1, &format!("vswitchd exec front1 ping -c 1 -W 5 {}", bare(&back2)), 1, &[])?;
    ensure!(refused.contains("Packet filtered"), "{refused}");
    let unknown = site.fails(1, "vswitchd exec front1 ping -c 1 back2", 2, &["ping: back2: "])?;
    ensure!(unknown.is_empty());
    let front1 = site.address(1, "front", "front1")?;
    for host in [1, 2, 3] {
        let pinged = site.run(host, &format!("ping -c 1 -W 1 {}", bare(&front1)))?;
        ensure!(!pinged.status.success(), "no host reaches in: {pinged:?}");
    }
    Ok(())
}

/// Pools are given when the cluster is made, taken in order, and their blocks are used again.
#[test]
fn pools_and_data_paths() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let pools = "--default-addr-pool 10.20.0.0/25 --default-addr-pool 10.30.0.0/16 --default-addr-pool-mask-length 26";
    let site = Site::new("pools", 2, 2, &format!("{pools} --data-path-port 4790"))?;
    let subnet = |name: &str| soon(|| cell(&site.ok(2, "vswitchd network ls")?, name, "SUBNETS"));
    ensure!(subnet("ingress")? == "10.20.0.0/26");
    for (name, expected) in [("a", "10.20.0.64/26"), ("b", "10.30.0.0/26"), ("c", "10.30.0.64/26")] {
        site.ok(1, &format!("vswitchd network create --attachable {name}"))?;
        ensure!(subnet(name)? == expected, "{name}");
    }
    ensure!(site.ok(1, "vswitchd network rm a")? == "a\n");
    site.ok(1, "vswitchd network create --attachable d")?;
    ensure!(subnet("d")? == "10.20.0.64/26", "a freed block is used again");
    site.ok(1, "vswitchd network create --subnet 10.40.0.0/16 large")?;
    ensure!(site.inspect(1, "large")?["Addresses"][0]["Capacity"] == 65_533);

    site.ok(1, "vswitchd run -d --name one --network d -- sleep 1d")?;
    soon(|| site.ok(2, "vswitchd run -d --name two --network d -- sleep 1d"))?;
    let pinged = soon(|| site.ok(1, "vswitchd exec one ping -c 1 two"))?;
    ensure!(pinged.contains("from two.d (10.20.0."), "{pinged}");
    for host in [1, 2] {
        let data = format!("data: at 198.18.0.{host}:4790, 1 endpoint");
        let status = site.ok(host, "vswitchd status")?;
        ensure!(status.contains(&data), "{data}: {status}");
    }
    let settings = site.ok(1, "vswitchd cluster inspect")?;
    for part in ["10.20.0.0/25", "10.30.0.0/16", "26", "4790"] {
        ensure!(settings.contains(part), "{part}: {settings}");
    }
    site.end()
}

/// A TAP that root has made for somebody, and left down.
#[test]
fn a_device_that_was_there_comes_up() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("device", 1, 1, "")?;
    site.ok(1, "vswitchd network create net")?;
    site.ok(1, "ip tuntap add dev tap0 mode tap && ip link set tap0 address 02:00:00:00:00:09")?;
    let attached = site.ok(1, "vswitchd attach --network net --name vm --tap tap0")?;
    ensure!(
        attached.starts_with("tap0 is vm in network net now: 10.0.1.2/24, 02:00:00:00:00:09, "),
        "{attached}"
    );
    let link = site.ok(1, "ip link show tap0")?;
    ensure!(link.contains(",UP") && link.contains("02:00:00:00:00:09"), "{link}");
    ensure!(site.ok(1, "vswitchd detach vm")? == "vm\n");
    ensure!(site.ok(1, "ip link show tap0")?.contains("tap0"), "it stays");
    site.end()
}

/// Data may have another way than all else.
#[test]
fn data_has_an_address_of_its_own() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::bare("data", 2)?;
    for host in [1, 2] {
        site.ok(host, &format!("ip address add 198.19.0.{host}/32 dev eth0"))?;
    }
    site.fails(1, "vswitchd init", 1, &["198.18.0.1", "198.19.0.1", "--advertise-addr"])?;
    let join = site.init("--advertise-addr 198.18.0.1 --data-path-addr 198.19.0.1")?;
    site.ok(2, &format!("{join} --advertise-addr 198.18.0.2 --data-path-addr 198.19.0.2"))?;
    site.ok(1, "vswitchd network create --attachable --opt encrypted net")?;
    site.ok(1, "vswitchd run -d --name one --network net -- sleep 1d")?;
    let ping = "vswitchd run --rm --network net -- ping -c 1 -w 10 one";
    ensure!(soon(|| site.ok(2, ping))?.contains("1 received"));
    let status = site.ok(1, "vswitchd status")?;
    ensure!(
        status.contains("gossip: at 198.18.0.1:7946") && status.contains("data: at 198.19.0.1:4789"),
        "{status}"
    );
    ensure!(site.inspect(2, "net")?["Peers"][0]["IP"] == "198.19.0.1");
    site.end()
}

/// The routing mesh's network can be made anew; other networks don't notice.
#[test]
fn ingress_is_removed_and_made_again() -> Result<()> {
    if !can_run()? {
        return Ok(());
    }
    let site = Site::new("ingress", 2, 2, "")?;
    site.ok(1, "vswitchd network create --attachable other")?;
    site.ok(1, "vswitchd run -d --name one --network other -- sleep 1d")?;
    soon(|| site.ok(2, "vswitchd run -d --name two --network other -- ping one"))?;
    let question =
        "ingress is the routing mesh's network: without it no service can publish a port. Go on? [y/N] ";
    ensure!(site.fails(1, "echo n | vswitchd network rm ingress", 0, &[question])?.is_empty());
    ensure!(names(&site.ok(1, "vswitchd network ls")?)? == ["ingress", "other"], "N is no");
    let mut asked = site.sit_down(1, "vswitchd network rm ingress")?;
    asked.see(question)?;
    asked.ask("y", "ingress\r\n")?;
    ensure!(asked.end()? == Some(0));
    ensure!(names(&site.ok(1, "vswitchd network ls")?)? == ["other"]);

    let own = "--subnet 10.11.0.0/16 --gateway 10.11.0.2 --opt com.docker.network.driver.mtu=1200";
    site.ok(1, &format!("vswitchd network create --ingress {own} my-ingress"))?;
    let shown = soon(|| site.inspect(2, "my-ingress"))?;
    ensure!(shown["Ingress"] == true && shown["MTU"] == 1200, "{shown}");
    let config = &shown["IPAM"]["Config"][0];
    ensure!(
        (&config["Subnet"], &config["Gateway"]) == (&"10.11.0.0/16".into(), &"10.11.0.2".into()),
        "{config}"
    );
    let second = "vswitchd network create --ingress second";
    site.fails(1, second, 1, &["my-ingress (", ") is the routing mesh's network already"])?;
    site.fails(
        1,
        "vswitchd run --rm --network my-ingress -- true",
        125,
        &["is the routing mesh's: attach to another"],
    )?;
    ensure!(site.fails(1, "yes | vswitchd network rm my-ingress", 0, &["[y/N]"])? == "my-ingress\n");

    let running = site.ok(2, "vswitchd ps")?;
    ensure!(cell(&running, "two", "STATUS")?.starts_with("Up "), "{running}");
    ensure!(site.ok(2, "vswitchd kill --signal INT two")? == "two\n");
    ensure!(site.ok(2, "vswitchd wait two")? == "0\n");
    let log = site.ok(2, "vswitchd logs two")?;
    ensure!(log.contains(" 0% packet loss"), "nothing was lost meanwhile: {log}");
    site.end()
}
