use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::gateway::{Addresses, Gateway, Resolvers};
use crate::names::{Host, Zone};
use crate::switch::fdb::{Limits, Place};
use crate::switch::io::FrameIo;
use crate::switch::io::channel::channel;
use crate::switch::io::mem::{Faults, Network};
use crate::switch::storm::StormLimit;
use crate::switch::switch::Switch;
use crate::switch::tables::PortSpec;
use crate::switch::wire::Vni;
use crate::switch::worker::{WorkerConfig, Workers};

const PATIENCE: Duration = Duration::from_secs(60);
const MTU: u32 = 1_450;

/// A switch with a gateway that knows `web`, at 10.0.9.2 and fd00:9::2, and `elsewhere`, where nobody is.
struct Bed {
    workers: Option<Workers>,
    stacks: Vec<Stack>,
}

fn config(number: u8, families: [bool; 2]) -> StackConfig {
    let both = [format!("10.0.9.{number}/24"), format!("fd00:9::{number}/64")];
    let own = both.iter().zip(families).filter(|(_, has)| *has);
    StackConfig {
        mac: MacAddr([2, 0, 0, 0, 9, number]),
        addresses: own.map(|(text, _)| text.parse().unwrap()).collect(),
        gateways: Vec::new(),
        resolver: Some(if families[0] { [10, 0, 9, 1].into() } else { "fd00:9::1".parse().unwrap() }),
        mtu: MTU,
    }
}

impl Bed {
    fn new(stacks: &[[bool; 2]]) -> Self {
        let (vni, local) = (Vni::new(7).unwrap(), "192.0.2.1:4789".parse().unwrap());
        let switch = Switch::new(local, Limits::default());
        let mut devices = Vec::new();
        let mut ends = Vec::new();
        for (families, number) in stacks.iter().zip(2..) {
            let (port, end) = channel(1_024).unwrap();
            let capabilities = port.capabilities();
            let (name, mtu, storm) = (number.to_string(), MTU as usize, StormLimit::default());
            let spec = PortSpec { name, vni, mtu, capabilities, storm };
            devices.push((switch.add_port(spec).unwrap(), Box::new(port) as Box<dyn FrameIo>));
            ends.push((end, config(number, *families)));
        }
        let addresses: [IpAddr; 2] = [[10, 0, 9, 1].into(), "fd00:9::1".parse().unwrap()];
        let at = Addresses::new(&addresses).unwrap();
        let mut zone = Zone::new("net", true);
        let host = |name: &str, addresses: &[&str]| Host {
            name: name.into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ..Host::default()
        };
        zone.add(&host("web", &["10.0.9.2", "fd00:9::2"])).unwrap();
        zone.add(&host("elsewhere", &["10.0.9.99"])).unwrap();
        let resolvers = Resolvers::these(Handle::current(), Vec::new());
        let (_, device) = Gateway::open(at.clone(), zone, resolvers, None).unwrap();
        let gateway = switch.add_port(crate::gateway::run::port_spec(vni, MTU, &device)).unwrap();
        switch.announce(vni, at.mac(), &at.announced(), Place::Port(gateway)).unwrap();
        devices.push((gateway, Box::new(device)));
        let underlay = Box::new(Network::new(Faults::default(), 1).attach(local).unwrap());
        let workers = Workers::spawn(switch, vec![underlay], devices, WorkerConfig::default(), drop).unwrap();
        let start = |(end, config)| Stack::start(end, &config, 1).unwrap();
        Self { workers: Some(workers), stacks: ends.into_iter().map(start).collect() }
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(0x9e37) >> 7).to_le_bytes()[0]).collect()
}

/// Sends everything back that comes, and then closes its half, too.
async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buf = vec![0; 10_000];
    loop {
        let len = stream.read(&mut buf).await?;
        if len == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buf[..len]).await?;
    }
}

#[tokio::test]
async fn streams_by_name_carry_everything_both_ways() {
    for families in [[true, false], [false, true], [true, true]] {
        let bed = Bed::new(&[families, families]);
        let mut listener = bed.stacks[0].listen(80).unwrap();
        let server = tokio::spawn(async move { echo(listener.accept().await?).await });
        let stream = soon(bed.stacks[1].connect("web:80")).await.unwrap();
        assert_eq!(stream.peer_addr().is_ipv4(), families[0], "IPv4 is tried first");
        let (mut read, mut write) = tokio::io::split(stream);
        let sent = pattern(1 << 20);
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            write.write_all(&sent).await?;
            write.shutdown().await
        });
        let mut got = Vec::new();
        soon(read.read_to_end(&mut got)).await.unwrap();
        assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
        soon(writer).await.unwrap().unwrap();
        soon(server).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_was_written_arrives_after_its_writer_has_gone() {
    let mut bed = Bed::new(&[[true, false], [true, false]]);
    let mut listener = bed.stacks[0].listen(80).unwrap();
    let client = bed.stacks.pop().unwrap();
    let mut stream = soon(client.connect("10.0.9.2:80")).await.unwrap();
    stream.write_all(&pattern(100_000)).await.unwrap();
    drop((stream, client));
    let mut got = Vec::new();
    let mut accepted = soon(listener.accept()).await.unwrap();
    soon(accepted.read_to_end(&mut got)).await.unwrap();
    assert!(got == pattern(100_000), "{} bytes", got.len());
}

#[tokio::test]
async fn many_connect_at_once() {
    let bed = Bed::new(&[[true, true], [true, true]]);
    let mut listener = bed.stacks[0].listen(80).unwrap();
    let server = tokio::spawn(async move {
        let mut echoes = JoinSet::new();
        for _ in 0..40 {
            echoes.spawn(echo(listener.accept().await.unwrap()));
        }
        echoes.join_all().await
    });
    let mut clients = JoinSet::new();
    for number in 0..40_u8 {
        let stack = bed.stacks[1].clone();
        clients.spawn(async move {
            // More than wait to be accepted are sent away, and try again.
            let mut stream = loop {
                match stack.connect("web:80").await {
                    Ok(stream) => break stream,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}"),
                }
            };
            stream.write_all(&[number; 3_000]).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, [number; 3_000]);
        });
    }
    soon(clients.join_all()).await;
    assert!(soon(server).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let bed = Bed::new(&[[true, false], [true, false]]);
    let connect = |to: &'static str| async { soon(bed.stacks[1].connect(to)).await.unwrap_err().kind() };
    assert_eq!(connect("web:81").await, io::ErrorKind::ConnectionRefused);
    assert_eq!(connect("nobody:80").await, io::ErrorKind::NotFound);
    assert_eq!(connect("[fd00:9::2]:80").await, io::ErrorKind::NetworkUnreachable);
    for wrong in ["web", "web:", "web:x", ""] {
        assert_eq!(connect(wrong).await, io::ErrorKind::InvalidInput, "{wrong}");
    }
    let listening = bed.stacks[0].listen(80).unwrap();
    assert!(matches!(bed.stacks[0].listen(80), Err(StackError::Port(80))));
    assert!(matches!(bed.stacks[0].listen(0), Err(StackError::Port(0))));
    drop(listening);
    soon(async {
        // Once the thread has done away with the other one.
        while bed.stacks[0].listen(80).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Nobody answers for that address: it is given up, and leaves nothing.
    let given_up = timeout(Duration::from_millis(50), bed.stacks[1].connect("elsewhere:80")).await;
    assert!(given_up.is_err());
}

#[tokio::test]
async fn datagrams_go_both_ways() {
    let bed = Bed::new(&[[true, true], [true, true]]);
    let server = bed.stacks[0].bind(53).unwrap();
    assert!(matches!(bed.stacks[0].bind(53), Err(StackError::Port(53))));
    let client = bed.stacks[1].bind(0).unwrap();
    let mut buf = [0; 2_000];
    for (to, len) in [("10.0.9.2:53", 1_422), ("[fd00:9::2]:53", 1_402), ("10.0.9.2:53", 0)] {
        let to: SocketAddr = to.parse().unwrap();
        client.send_to(&pattern(len), to).await.unwrap();
        let (got, from) = soon(server.recv_from(&mut buf)).await.unwrap();
        assert_eq!((&buf[..got], from.port()), (&pattern(len)[..], client.port()));
        server.send_to(b"answer", from).await.unwrap();
        let (got, from) = soon(client.recv_from(&mut buf)).await.unwrap();
        assert_eq!((&buf[..got], from), (&b"answer"[..], to));
        let longer = client.send_to(&pattern(1_423), to).await.unwrap_err();
        assert_eq!(longer.raw_os_error(), Some(libc::EMSGSIZE));
    }
}

#[tokio::test]
async fn those_who_wait_hear_that_the_port_is_closed() {
    let mut bed = Bed::new(&[[true, false], [true, false]]);
    let mut listener = bed.stacks[0].listen(80).unwrap();
    let mut stream = soon(bed.stacks[1].connect("web:80")).await.unwrap();
    let mut accepted = soon(listener.accept()).await.unwrap();
    let socket = bed.stacks[0].bind(9).unwrap();
    let ends = tokio::spawn(async move {
        let mut buf = [0; 10];
        let kind = |outcome: io::Result<()>| outcome.unwrap_err().kind();
        [
            kind(listener.accept().await.map(drop)),
            kind(stream.read(&mut buf).await.map(drop)),
            kind(accepted.read_exact(&mut buf).await.map(drop)),
            kind(socket.recv_from(&mut buf).await.map(drop)),
        ]
    });
    let asked = tokio::spawn({
        let stack = bed.stacks[1].clone();
        async move { stack.connect("elsewhere:80").await.map(drop).unwrap_err().kind() }
    });
    tokio::task::yield_now().await;
    bed.workers.take().unwrap().stop().unwrap();
    let [listening, one, other, datagrams] = soon(ends).await.unwrap();
    assert_eq!([listening, datagrams], [io::ErrorKind::NotConnected; 2]);
    assert_eq!([one, other], [io::ErrorKind::ConnectionReset; 2]);
    assert!(matches!(
        soon(asked).await.unwrap(),
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    ));
    assert!(matches!(bed.stacks[0].listen(81), Err(StackError::Closed)));
}

#[tokio::test]
async fn sockets_are_bounded_and_come_back() {
    let bed = Bed::new(&[[true, false]]);
    let mut open = Vec::new();
    let refused = loop {
        match bed.stacks[0].bind(0) {
            Ok(socket) => open.push(socket),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, StackError::TooMany) && open.len() == SOCKETS_MAX, "{refused}: {}", open.len());
    open.pop();
    assert!(bed.stacks[0].bind(0).is_ok());
}

#[test]
fn what_no_stack_can_have_is_refused() {
    let refused = |config: StackConfig| Stack::start(channel(1).unwrap().1, &config, 1).unwrap_err();
    let good = config(2, [true, true]);
    assert!(matches!(refused(StackConfig { mtu: 1_279, ..good.clone() }), StackError::Mtu(1_279)));
    assert!(matches!(refused(StackConfig { mtu: u32::MAX, ..good.clone() }), StackError::Mtu(_)));
    assert!(matches!(refused(StackConfig { mac: MacAddr::BROADCAST, ..good.clone() }), StackError::Mac(_)));
    assert!(matches!(refused(StackConfig { addresses: Vec::new(), ..good.clone() }), StackError::Addresses));
    let three = vec![good.addresses[0]; 3];
    assert!(matches!(refused(StackConfig { addresses: three, ..good }), StackError::Addresses));
}
