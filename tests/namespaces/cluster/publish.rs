//! Ports of a host that lead to its tasks: clients elsewhere on the underlay, and on the host itself.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vswitchd::lab::underlay::UPLINK;
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;

use super::daemons::{Daemons, wait_until, with_daemons};
use super::host::{Host, refused};
use crate::fixture::{PATIENCE, Pattern, bound, tool};

/// The hosts' addresses besides those of the lab.
const HOSTS_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)];
/// The first one's second address.
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 18, 200, 1);
/// The gateway of the network that leads out, and of the one that does not.
const GATEWAY: &str = "10.9.0.1";
const ENCLOSED: &str = "10.8.0.1";
/// Bytes of a stream.
const BULK: usize = 32 << 20;

/// Two members, IPv6 between them, and a network of each kind, for tasks of the first.
fn prepare(daemons: &mut Daemons) -> Result<()> {
    // Before the hosts have several addresses to choose from.
    daemons.form(2, 1)?;
    for (host, address) in daemons.hosts.iter().zip(HOSTS_V6) {
        Netlink::open(&host.netns)?.add_address(UPLINK, address.into(), 64)?;
    }
    let mut links = Netlink::open(&daemons.hosts[0].netns)?;
    links.add_address(UPLINK, OTHER.into(), 32)?;
    links.set_up("lo")?;
    Netlink::open(&daemons.hosts[1].netns)?.add_route((OTHER.into(), 32), None, UPLINK)?;
    let open = ["--subnet", "10.9.0.0/24", "--subnet", "fd00:9::/64", "sorrel"];
    let closed = ["--internal", "--subnet", "10.8.0.0/24", "tansy"];
    for network in [&open[..], &closed] {
        daemons.hosts[0].say(&[&["network", "create", "--attachable"], network].concat())?;
    }
    wait_until("the networks are known", || Ok(daemons.hosts[0].networks()? == ["sorrel", "tansy"]))?;
    Ok(())
}

fn run(host: &Host, name: &str, network: &str, published: &[&str]) -> Result<Value> {
    let published: Vec<&str> = published.iter().flat_map(|port| ["-p", port]).collect();
    let task = ["run", "-d", "--name", name, "--network", network];
    host.say(&[&task, &published[..], &["--", "sleep", "1d"]].concat())?;
    shown(host, name)
}

/// How `ps -a` shows a task.
fn shown(host: &Host, name: &str) -> Result<Value> {
    let all = host.json(&["ps", "-a", "--filter", &format!("name={name}")])?;
    all.into_iter().next().with_context(|| format!("{name} is listed"))
}

/// The namespace of a task, where this test listens in its program's place.
pub(super) fn inside(task: &Value) -> Result<NetNs> {
    let netns = File::open(format!("/proc/{}/ns/net", task["pid"]))?;
    Ok(NetNs::from(OwnedFd::from(netns)))
}

pub(super) fn listen(netns: &NetNs) -> Result<TcpListener> {
    bound(netns, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)))
}

pub(super) fn connect(from: &NetNs, to: SocketAddr) -> Result<TcpStream> {
    let stream =
        from.run(|| TcpStream::connect_timeout(&to, PATIENCE))?.with_context(|| format!("to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A client's connection, and the same at the task: whom that sees. All but the first half is the kernel's.
fn connection(
    from: &NetNs,
    to: SocketAddr,
    listener: &TcpListener,
) -> Result<(TcpStream, TcpStream, SocketAddr)> {
    let client = connect(from, to)?;
    let (task, seen) = listener.accept()?;
    task.set_read_timeout(Some(PATIENCE))?;
    Ok((client, task, SocketAddr::new(seen.ip().to_canonical(), seen.port())))
}

/// Sends a stream and checks it at the other end.
pub(super) fn stream(mut from: TcpStream, mut to: TcpStream) -> Result<()> {
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            pattern.write(&mut from, BULK)?;
            Ok(from.shutdown(Shutdown::Write)?)
        });
        let received = pattern.check(&mut to).context("receiving");
        sender.join().expect("the sender returns its errors").context("sending")?;
        ensure!(received? == BULK, "not all has come");
        Ok(())
    })
}

pub(super) fn streams() -> Result<()> {
    with_daemons("publish", 2, |daemons| {
        prepare(daemons)?;
        let [host, outside] = [&daemons.hosts[0], &daemons.hosts[1]];
        let task = run(host, "web", "sorrel", &["8080:80", "127.0.0.1:8081:80"])?;
        let table = host.say(&["ps"])?;
        ensure!(table.contains("0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 127.0.0.1:8081->80/tcp"), "{table}");
        let inside = inside(&task)?;
        no_listener(host, outside)?;
        let listener = listen(&inside)?;
        for address in [host.address, HOSTS_V6[0].into(), OTHER.into()] {
            let to = SocketAddr::new(address, 8080);
            let (client, served, seen) = connection(&outside.netns, to, &listener)?;
            ensure!(seen == client.local_addr()?, "{to}: {seen} is {client:?}");
            stream(client, served).with_context(|| format!("in, to {to}"))?;
            let (client, served, _) = connection(&outside.netns, to, &listener)?;
            stream(served, client).with_context(|| format!("out, from {to}"))?;
        }
        ends(host, outside, &listener)?;
        page(host, outside, listener)?;
        let gateway = host.status()?["data"]["gateways"][0].clone();
        ensure!(gateway["refused_in"] == 1 && gateway["carried_in"].as_u64() > Some(8), "{gateway}");
        ensure!(host.say(&["status"])?.contains("turned away 1"));
        as_the_gateway(host, outside, &inside)
    })
}

fn no_listener(host: &Host, outside: &Host) -> Result<()> {
    let to = SocketAddr::new(host.address, 8080);
    // The reset may come before the client has seen that it is connected.
    let outcome = outside.netns.run(|| {
        let mut client = TcpStream::connect_timeout(&to, PATIENCE)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.read(&mut [0; 1])
    })?;
    let error = outcome.err().context("somebody has answered")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

/// Each end of sending and each reset is passed on.
fn ends(host: &Host, outside: &Host, listener: &TcpListener) -> Result<()> {
    let to = SocketAddr::new(host.address, 8080);
    let (mut client, mut task, _) = connection(&outside.netns, to, listener)?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    let (mut question, mut answer) = (String::new(), String::new());
    task.read_to_string(&mut question)?;
    task.write_all(b"answer")?;
    drop(task);
    client.read_to_string(&mut answer)?;
    ensure!((question.as_str(), answer.as_str()) == ("question", "answer"), "{question:?} {answer:?}");
    for by_client in [true, false] {
        let (client, task, _) = connection(&outside.netns, to, listener)?;
        let (gone, mut left) = if by_client { (client, task) } else { (task, client) };
        rustix::net::sockopt::set_socket_linger(&gone, Some(std::time::Duration::ZERO))?;
        drop(gone);
        let error = left.read(&mut [0; 1]).err().context("an end in order")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    }
    Ok(())
}

/// A real client.
fn page(host: &Host, outside: &Host, listener: TcpListener) -> Result<()> {
    let served = thread::spawn(move || -> Result<()> {
        let (mut stream, from) = listener.accept()?;
        ensure!(stream.read(&mut [0; 1_024])? > 0);
        let page = from.ip().to_canonical().to_string();
        Ok(write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len())?)
    });
    let line = format!("curl -sS --max-time 20 http://{}:8080/", host.address);
    match tool(&outside.netns, &line)? {
        Some(output) => {
            let page = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(page == outside.address.to_string(), "{page}: {output:?}");
        }
        // It waits for somebody.
        None => connect(&outside.netns, SocketAddr::new(host.address, 8080))?.write_all(b"GET")?,
    }
    served.join().expect("it returns its errors")
}

/// Clients that the task would not answer by its gateway have the gateway's address.
fn as_the_gateway(host: &Host, outside: &Host, open: &NetNs) -> Result<()> {
    let listener = listen(open)?;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 8081));
    let (mut client, mut task, seen) = connection(&host.netns, local, &listener)?;
    ensure!(seen.ip() == GATEWAY.parse::<IpAddr>()?, "{seen}");
    task.write_all(b"answer")?;
    client.read_exact(&mut [0; 6])?;
    let closed = run(host, "enclosed", "tansy", &["80"])?;
    let port = u16::try_from(closed["published"][0]["published"].as_u64().context("a port")?)?;
    let listener = listen(&inside(&closed)?)?;
    let (mut client, mut task, seen) =
        connection(&outside.netns, SocketAddr::new(host.address, port), &listener)?;
    ensure!(seen.ip() == ENCLOSED.parse::<IpAddr>()?, "{seen}");
    task.write_all(b"answer")?;
    client.read_exact(&mut [0; 6])?;
    Ok(())
}

/// What the clients look like follows the way out of the task's namespace.
pub(super) fn moved() -> Result<()> {
    with_daemons("publishmoved", 2, |daemons| {
        prepare(daemons)?;
        let [host, outside] = [&daemons.hosts[0], &daemons.hosts[1]];
        host.say(&["network", "create", "--attachable", "--subnet", "10.7.0.0/24", "yarrow"])?;
        let task = run(host, "web", "sorrel", &["8080:80"])?;
        let namespace = task["pid"].to_string();
        let second = ["attach", "--network", "yarrow", "--name", "other", "--tap", "eth1", "-p", "8081:80"];
        host.say(&[&second[..], &["--netns", &namespace]].concat())?;
        let listener = listen(&inside(&task)?)?;
        let seen = |port: u16| -> Result<(IpAddr, IpAddr)> {
            let to = SocketAddr::new(host.address, port);
            let (client, _task, seen) = connection(&outside.netns, to, &listener)?;
            Ok((seen.ip(), client.local_addr()?.ip()))
        };
        let (first, client) = seen(8080)?;
        ensure!(first == client, "it answers by its first network: {first}");
        ensure!(seen(8081)?.0 == IpAddr::from([10, 7, 0, 1]), "and not by its second");
        host.say(&["network", "disconnect", "sorrel", "web"])?;
        let closed = outside.netns.run(|| TcpStream::connect((host.address, 8080)))?;
        ensure!(closed.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
        ensure!(seen(8081)?.0 == client, "by what is left");
        host.say(&["detach", "other"]).map(drop)
    })
}

/// Answers come from the address that was asked, whichever of the host's it is.
pub(super) fn datagrams() -> Result<()> {
    with_daemons("publishudp", 2, |daemons| {
        prepare(daemons)?;
        let [host, outside] = [&daemons.hosts[0], &daemons.hosts[1]];
        let task = run(host, "echo", "sorrel", &["5353:53/udp"])?;
        let server = inside(&task)?.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)))??;
        server.set_read_timeout(Some(PATIENCE))?;
        let v4 = outside.netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
        let v6 = outside.netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)))??;
        let mut buffer = [0; 2_048];
        let mut seen = Vec::new();
        for address in [host.address, OTHER.into(), HOSTS_V6[0].into()] {
            let client = if address.is_ipv4() { &v4 } else { &v6 };
            client.set_read_timeout(Some(PATIENCE))?;
            let to = SocketAddr::new(address, 5353);
            for size in [1, 1_200] {
                client.send_to(&vec![7; size], to)?;
                let (len, from) = server.recv_from(&mut buffer)?;
                ensure!(len == size, "{len} bytes of {size}");
                server.send_to(&buffer[..len], from)?;
                let (len, by) = client.recv_from(&mut buffer)?;
                ensure!((len, by) == (size, to), "{len} bytes of {size}, {to} asked and {by} has answered");
                seen.push(SocketAddr::new(from.ip().to_canonical(), from.port()));
            }
        }
        let own = [outside.address, outside.address, HOSTS_V6[1].into()];
        ensure!(seen.iter().step_by(2).map(SocketAddr::ip).eq(own), "{seen:?}");
        ensure!(seen[0].port() == v4.local_addr()?.port() && seen[0] == seen[1], "{seen:?}");
        ensure!(seen[2] != seen[0] && seen[2] == seen[3], "two addresses that were asked: {seen:?}");
        Ok(())
    })
}

/// What can't be is said at once and leaves nothing.
pub(super) fn not_to_be_had() -> Result<()> {
    with_daemons("publishnot", 2, |daemons| {
        prepare(daemons)?;
        let host = &daemons.hosts[0];
        run(host, "web", "sorrel", &["8080:80"])?;
        let _other = host.netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 9090)))??;
        for (port, parts) in [
            ("8080:81", ["8080/tcp", "endpoint web of network sorrel"]),
            ("127.0.0.1:8080:81", ["127.0.0.1:8080/tcp", "endpoint web of network sorrel"]),
            ("9090:80", ["9090/tcp", "another program"]),
            ("192.0.2.1:8082:80", ["192.0.2.1", "no address of this host"]),
        ] {
            let task = ["run", "-d", "--network", "sorrel", "-p", port, "--", "sleep", "1d"];
            let output = host.ask(&task, "")?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(125), "{port}: {output:?}");
            ensure!(parts.iter().all(|part| said.contains(part)), "{port}: {said}");
        }
        let twice = ["-p", "8083:80", "-p", "8083:81"];
        let task = [&["run", "-d", "--network", "sorrel"], &twice[..], &["--", "sleep", "1d"]].concat();
        let said = host.ask(&task, "")?;
        ensure!(String::from_utf8_lossy(&said.stderr).contains("published twice"), "{said:?}");
        let wrong = host.ask(&["run", "-d", "--network", "sorrel", "-p", "x:80", "--", "true"], "")?;
        ensure!(wrong.status.code() == Some(2), "{wrong:?}");
        ensure!(host.say(&["ps", "-aq"])?.lines().count() == 1, "nothing is left of them");
        let udp = ["attach", "--network", "sorrel", "--name", "vm", "--tap", "vm0", "-p", "8080:80/udp"];
        ensure!(host.say(&udp)?.contains("reached at 0.0.0.0:8080->80/udp, [::]:8080->80/udp"));
        let again = ["attach", "--network", "sorrel", "--name", "wm", "--tap", "wm0", "-p", "8080:80/udp"];
        refused(&host.ask(&again, "")?, &["8080/udp", "endpoint vm of network sorrel"])
    })
}

/// Ports outlive the daemon with their tasks, even if somebody else has them for a while; and no longer.
pub(super) fn kept() -> Result<()> {
    with_daemons("publishkept", 2, |daemons| {
        prepare(daemons)?;
        let task = run(&daemons.hosts[0], "web", "sorrel", &["8080:80"])?;
        let listener = listen(&inside(&task)?)?;
        let to = SocketAddr::new(daemons.hosts[0].address, 8080);
        reached(daemons, to, &listener)?;
        daemons.kill(0)?;
        daemons.start(0)?;
        wait_until("it listens", || Ok(daemons.hosts[0].say(&["ps"])?.contains("0.0.0.0:8080->80/tcp")))?;
        reached(daemons, to, &listener)?;
        daemons.kill(0)?;
        let other = daemons.hosts[0].netns.run(|| TcpListener::bind(("0.0.0.0", 8080)))??;
        daemons.start(0)?;
        let host = &daemons.hosts[0];
        host.process()?.hear("is not reached at port 8080/tcp")?;
        ensure!(host.say(&["ps"])?.contains("8080->80/tcp (not listening)"));
        drop(other);
        host.process()?.hear("is reached at port 8080/tcp again")?;
        reached(daemons, to, &listener)?;
        let [host, outside] = [&daemons.hosts[0], &daemons.hosts[1]];
        let (mut client, _task, _) = connection(&outside.netns, to, &listener)?;
        host.say(&["stop", "-t", "0", "web"])?;
        let error = client.read(&mut [0; 1]).err().context("an end in order")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
        wait_until("it has ended", || Ok(shown(host, "web")?["state"] == "exited"))?;
        ensure!(shown(host, "web")?["published"] == Value::Array(Vec::new()));
        host.netns.run(|| TcpListener::bind(("0.0.0.0", 8080)))?.context("the port is free")?;
        Ok(())
    })
}

fn reached(daemons: &Daemons, to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let (mut client, mut task, seen) = connection(&daemons.hosts[1].netns, to, listener)?;
    ensure!(seen == client.local_addr()?);
    client.write_all(b"question")?;
    task.read_exact(&mut [0; 8])?;
    Ok(())
}
