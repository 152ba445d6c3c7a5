//! The way out: an endpoint's own kernel and real clients, through a switch's gateway, to servers in the underlay.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::net::sockopt;
use serde_json::Value;
use vswitchd::lab::underlay::UPLINK;
use vswitchd::lab::{ENDPOINT_LINK, Endpoint, Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::switch::io::error_queue;

use crate::Test;
use crate::fixture::{
    PATIENCE, Pattern, counters, event, iperf3, program, set, shape, start, tcp, tool, udp,
};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("nat::streams_and_datagrams_both_ways", both_ways),
        ("nat::real_clients_reach_the_world", real_clients),
        ("nat::what_fails_outside_fails_inside_as_it_does_there", failures),
        ("nat::half_close_and_reset_are_passed_on", ends),
        ("nat::five_hundred_connections_at_once", many),
        ("nat::neither_this_host_nor_what_is_denied_is_reached", denied),
    ]
}

const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 255, 254);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0xffff, 1);
/// Of the underlay's second host, which knows nothing of the network.
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Where nobody is, and where nothing leads.
const NOBODY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 99);
const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Bytes of a stream; there are four, so a gigabyte in all.
const BULK: usize = 256 << 20;

/// A node with an endpoint whose default route is the gateway, and a host outside.
struct World {
    lab: Lab,
}

impl World {
    fn new(arguments: &[&str]) -> Result<Self> {
        let mut lab = Lab::build(Plan::new(shape(2, 1, 1, false))?)?;
        for (node, last) in [(0, 1), (1, 2)] {
            let netns = lab.nodes()[node].netns();
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            Netlink::open(netns)?.add_address(UPLINK, address.into(), 64)?;
            set(netns, "ipv4/ping_group_range", "0 0")?;
        }
        let vni = lab.plan().networks[0].vni;
        let gateway = format!("--gateway={vni}:{GATEWAY_V4},{GATEWAY_V6}");
        let nat = format!("--nat={vni}");
        start(&mut lab, 0..1, &[&[gateway.as_str(), &nat], arguments].concat())?;
        let mut netlink = Netlink::open(lab.nodes()[0].endpoints()[0].netns())?;
        netlink.add_route((Ipv4Addr::UNSPECIFIED.into(), 0), Some(GATEWAY_V4.into()), ENDPOINT_LINK)?;
        let v6 = netlink.add_route((Ipv6Addr::UNSPECIFIED.into(), 0), Some(GATEWAY_V6.into()), ENDPOINT_LINK);
        match v6 {
            // The endpoint has heard the gateway's advertisement before.
            Err(error) if error.errno() == Some(Errno::EXIST) => {}
            outcome => outcome?,
        }
        Ok(Self { lab })
    }

    fn endpoint(&self) -> &Endpoint {
        &self.lab.nodes()[0].endpoints()[0]
    }

    fn inside(&self) -> &NetNs {
        self.endpoint().netns()
    }

    fn outside(&self) -> &NetNs {
        self.lab.nodes()[1].netns()
    }

    /// The outside host's addresses.
    fn addresses(&self) -> [IpAddr; 2] {
        [self.lab.nodes()[1].plan().address, OUTSIDE_V6.into()]
    }

    fn listen(&self, address: IpAddr) -> Result<TcpListener> {
        Ok(self.outside().run(|| TcpListener::bind((address, 0)))??)
    }

    fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.inside().run(|| TcpStream::connect_timeout(&to, PATIENCE))??;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn connection(&self, address: IpAddr) -> Result<(TcpStream, TcpStream)> {
        let listener = self.listen(address)?;
        let inside = self.connect(listener.local_addr()?)?;
        let (outside, _) = listener.accept()?;
        outside.set_read_timeout(Some(PATIENCE))?;
        Ok((inside, outside))
    }

    /// What the way out has counted.
    fn counted(&self) -> Result<Value> {
        let program = program(&self.lab, 0)?;
        counters(program)?;
        event(program, "nat")
    }
}

/// Sends a stream to whoever is connected, and checks it there.
fn stream(mut from: TcpStream, mut to: TcpStream, bytes: usize) -> Result<()> {
    let pattern = Pattern::new();
    thread::scope(|scope| {
        let sender = scope.spawn(|| -> Result<()> {
            pattern.write(&mut from, bytes)?;
            Ok(from.shutdown(Shutdown::Write)?)
        });
        let received = pattern.check(&mut to).context("receiving");
        sender.join().expect("the sender returns its errors").context("sending")?;
        ensure!(received? == bytes, "not all has come");
        Ok(())
    })
}

fn both_ways() -> Result<()> {
    let world = World::new(&[])?;
    for address in world.addresses() {
        tcp(world.inside(), world.outside(), address, BULK).with_context(|| format!("to {address}"))?;
        let (inside, outside) = world.connection(address)?;
        stream(outside, inside, BULK).with_context(|| format!("from {address}"))?;
        // Inside sends whole datagrams, and gets fragments where they are long.
        udp_answers(&world, address, 1..=1_380)?;
        udp_answers(&world, address, 1_500..=9_000)?;
    }
    let drops = &counters(program(&world.lab, 0)?)?["drops"];
    ensure!(drops.as_object().is_some_and(serde_json::Map::is_empty), "drops on a clean network: {drops}");
    let counted = world.counted()?;
    ensure!(counted["counts"]["tcp-flows"] == 4, "{counted}");
    Ok(())
}

/// Short questions from inside that have answers of every size.
fn udp_answers(world: &World, address: IpAddr, sizes: std::ops::RangeInclusive<usize>) -> Result<()> {
    let own = world.endpoint().plan();
    let own: IpAddr = if address.is_ipv4() { own.v4.into() } else { own.v6.into() };
    let (client, server) = (udp(world.inside(), own, 0)?, udp(world.outside(), address, 0)?);
    let (target, mut buf) = (server.local_addr()?, vec![0; 65_536]);
    for size in sizes.step_by(61) {
        client.send_to(&size.to_be_bytes(), target)?;
        let (len, from) = server.recv_from(&mut buf).context("the question")?;
        ensure!(buf[..len] == size.to_be_bytes(), "{:?}", &buf[..len]);
        let answer: Vec<u8> = (0..251).cycle().skip(size % 100).take(size).collect();
        server.send_to(&answer, from)?;
        let (len, from) = client.recv_from(&mut buf).with_context(|| format!("an answer of {size} bytes"))?;
        ensure!(from == target && buf[..len] == answer, "{len} bytes of {size} from {from}");
    }
    Ok(())
}

fn real_clients() -> Result<()> {
    let world = World::new(&[])?;
    for address in world.addresses() {
        let line = format!("ping -c 3 -i 0.2 -W 5 -s 1300 {address}");
        if let Some(output) = tool(world.inside(), &line)? {
            let said = String::from_utf8_lossy(&output.stdout);
            ensure!(said.contains("3 received, 0% packet loss"), "{line}: {said}");
        }
        let listener = world.listen(address)?;
        let url = format!("http://{}/", listener.local_addr()?);
        let served = thread::spawn(move || -> Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut head = [0; 1_024];
            let len = stream.read(&mut head)?;
            ensure!(head[..len].starts_with(b"GET / HTTP/1.1"), "{:?}", &head[..len]);
            let page = [b'x'; 100_000];
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len())?;
            Ok(stream.write_all(&page)?)
        });
        let fetched = tool(world.inside(), &format!("curl -sS --max-time 20 {url}"))?;
        let Some(output) = fetched else {
            // It waits for somebody.
            world
                .connect(url.trim_matches(|c| "htp:/".contains(c)).parse()?)?
                .write_all(b"GET / HTTP/1.1\r\n\r\n")?;
            served.join().expect("it returns its errors")?;
            continue;
        };
        served.join().expect("it returns its errors").context("serving")?;
        ensure!(
            output.stdout == [b'x'; 100_000],
            "{} bytes: {}",
            output.stdout.len(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    iperf3s(&world)
}

fn iperf3s(world: &World) -> Result<()> {
    let run = |line: &str| tool(world.inside(), line);
    let Some(bytes) = iperf3(world.outside(), world.addresses()[0], "-P 4", run)? else { return Ok(()) };
    // What is under way when the sender has counted all of its own does not count.
    ensure!(bytes > 32 << 20, "{bytes} bytes");
    Ok(())
}

fn failures() -> Result<()> {
    let world = World::new(&[])?;
    let failed = |to: SocketAddr| match world.inside().run(|| TcpStream::connect_timeout(&to, PATIENCE)) {
        Ok(Err(error)) => Ok(error),
        Ok(Ok(_)) => Err(anyhow::anyhow!("{to} answers")),
        Err(error) => Err(error.into()),
    };
    for address in world.addresses() {
        let closed = world.listen(address)?.local_addr()?;
        ensure!(failed(closed)?.kind() == ErrorKind::ConnectionRefused, "{closed}");
        // An ICMP error reaches a socket that is connected.
        let closed = udp(world.outside(), address, 0)?.local_addr()?;
        let socket = connected(&world, closed)?;
        socket.send(b"anybody?")?;
        let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{closed}: {error}");
    }
    let error = failed((NOWHERE, 80).into())?;
    ensure!(error.kind() == ErrorKind::NetworkUnreachable, "{NOWHERE}: {error}");
    let socket = connected(&world, (NOWHERE, 80).into())?;
    socket.send(b"anybody?")?;
    let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
    ensure!(error.kind() == ErrorKind::NetworkUnreachable, "{NOWHERE}: {error}");
    // ARP finds nobody: the host says so after a second or three.
    let error = failed((NOBODY, 80).into())?;
    ensure!(error.kind() == ErrorKind::HostUnreachable, "{NOBODY}: {error}");
    // Too few hops, and who says so.
    let socket = connected(&world, (world.addresses()[0], 33_434).into())?;
    sockopt::set_ip_ttl(&socket, 1)?;
    socket.send(b"traceroute")?;
    let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
    ensure!(error.kind() == ErrorKind::HostUnreachable, "hops: {error}");
    let counts = &world.counted()?["counts"];
    ensure!(counts["hop-limit"] == 1 && counts["undelivered"] == 2, "{counts}");
    Ok(())
}

fn connected(world: &World, to: SocketAddr) -> Result<UdpSocket> {
    let own = world.endpoint().plan();
    let own: IpAddr = if to.is_ipv4() { own.v4.into() } else { own.v6.into() };
    let socket = udp(world.inside(), own, 0)?;
    socket.connect(to)?;
    // Otherwise it is told of few errors (udp(7)).
    error_queue::keep(socket.as_fd(), to.is_ipv6())?;
    Ok(socket)
}

fn ends() -> Result<()> {
    let world = World::new(&[])?;
    for address in world.addresses() {
        let (mut inside, mut outside) = world.connection(address)?;
        inside.write_all(b"question")?;
        inside.shutdown(Shutdown::Write)?;
        let mut question = String::new();
        outside.read_to_string(&mut question)?;
        outside.write_all(b"answer")?;
        drop(outside);
        let mut answer = String::new();
        inside.read_to_string(&mut answer)?;
        ensure!((question.as_str(), answer.as_str()) == ("question", "answer"), "{question:?} {answer:?}");

        let (mut inside, outside) = world.connection(address)?;
        sockopt::set_socket_linger(&outside, Some(Duration::ZERO))?;
        drop(outside);
        let error = inside.read(&mut [0; 16]).err().context("an end in order")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");

        let (inside, mut outside) = world.connection(address)?;
        sockopt::set_socket_linger(&inside, Some(Duration::ZERO))?;
        drop(inside);
        let error = outside.read(&mut [0; 16]).err().context("an end in order")?;
        ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    }
    let open = &world.counted()?["open"]["tcp"];
    ensure!(open == 0, "{open} are still there");
    Ok(())
}

fn many() -> Result<()> {
    const CONNECTIONS: usize = 500;
    const BYTES: usize = 20_000;
    let world = World::new(&[])?;
    let listener = world.listen(world.addresses()[0])?;
    let to = listener.local_addr()?;
    let served = thread::spawn(move || -> Result<()> {
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            streams.push(listener.accept()?.0);
        }
        // All are there before any is served.
        for mut stream in streams {
            let mut all = vec![0; BYTES];
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.read_exact(&mut all)?;
            stream.write_all(&all)?;
        }
        Ok(())
    });
    let mut streams = Vec::new();
    for n in 0..CONNECTIONS {
        let mut stream = world.connect(to).with_context(|| format!("connection {n}"))?;
        stream.write_all(&vec![u8::try_from(n % 256)?; BYTES])?;
        streams.push(stream);
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).with_context(|| format!("connection {n}"))?;
        ensure!(all == vec![u8::try_from(n % 256)?; BYTES], "connection {n}: {} bytes", all.len());
    }
    served.join().expect("it returns its errors")?;
    drop(streams);
    let counted = world.counted()?;
    ensure!(counted["counts"]["tcp-flows"] == CONNECTIONS, "{counted}");
    Ok(())
}

fn denied() -> Result<()> {
    let world = World::new(&["--nat-deny=198.18.0.2/32"])?;
    let [outside_v4, outside_v6] = world.addresses();
    let node = world.lab.nodes()[0].netns();
    Netlink::open(node)?.set_up("lo")?;
    let listener = node.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))??;
    let port = listener.local_addr()?.port();
    // The host's own address is one as any other, and its loopback is not.
    let inside = world.connect((world.lab.nodes()[0].plan().address, port).into())?;
    drop((inside, listener.accept()?));
    for to in ["169.254.169.254:80", "[fe80::1234]:80"] {
        let to: SocketAddr = to.parse()?;
        let refused = world.inside().run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        ensure!(refused.is_err(), "{to}");
    }
    let listener = world.listen(outside_v4)?;
    let to = listener.local_addr()?;
    let refused = world.inside().run(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    // The kernel says it thus of "administratively prohibited".
    ensure!(refused.as_ref().is_err_and(|error| error.kind() == ErrorKind::HostUnreachable), "{refused:?}");
    world.connection(outside_v6)?;
    // No datagram for a switch is sent in the node's name.
    let switch = udp(world.outside(), outside_v6, 4_789)?;
    let socket = connected(&world, switch.local_addr()?)?;
    socket.send(&[8, 0, 0, 0, 0, 0, 42, 0])?;
    let error = socket.recv(&mut [0; 16]).err().context("an answer")?;
    ensure!(error.kind() == ErrorKind::PermissionDenied, "{error}");
    Ok(())
}
