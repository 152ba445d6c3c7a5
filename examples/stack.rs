//! Two programs on one network, each with TCP/IP of its own, on two switches with VXLAN between them: no
//! privileges, no devices, and names that the network's gateway resolves.
//!
//! ```text
//! client ── switch 192.0.2.1 ══ VXLAN, network 42 ══ switch 192.0.2.2 ── web
//!              └─ gateway 10.0.9.1
//! ```
//!
//! Here both switches are in one process. Run with `cargo run --example stack`.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use vswitchd::gateway::run::port_spec;
use vswitchd::gateway::{Addresses, Gateway, Resolvers};
use vswitchd::names::{Host, Zone};
use vswitchd::stack::{Stack, StackConfig, TcpListener};
use vswitchd::switch::fdb::{Limits, Place};
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::channel::channel;
use vswitchd::switch::io::mem::{Faults, Network};
use vswitchd::switch::storm::StormLimit;
use vswitchd::switch::switch::Switch;
use vswitchd::switch::tables::{PortId, PortSpec};
use vswitchd::switch::wire::Vni;
use vswitchd::switch::worker::{WorkerConfig, Workers};

/// 1500 bytes of the underlay less VXLAN over IPv4.
const MTU: u32 = 1_450;
const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 9, 1));

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// A port, and the device that workers read and write there.
type Port = (PortId, Box<dyn FrameIo>);

/// Puts a program into a switch's network, as the endpoint with this number.
fn join(switch: &Switch, vni: Vni, number: u8) -> Result<(Stack, Port)> {
    let (port, end) = channel(1_024)?;
    let id = switch.add_port(PortSpec {
        name: format!("program-{number}"),
        vni,
        mtu: usize::try_from(MTU)?,
        capabilities: port.capabilities(),
        storm: StormLimit::default(),
    })?;
    let config = StackConfig {
        mac: format!("02:42:0a:00:09:{number:02x}").parse()?,
        addresses: vec![format!("10.0.9.{number}/24").parse()?],
        gateways: vec![GATEWAY],
        resolver: Some(GATEWAY),
        mtu: MTU,
    };
    let seed = fastrand::u64(..);
    Ok((Stack::start(end, &config, seed)?, (id, Box::new(port))))
}

/// Gives a network a gateway that knows one name.
fn add_gateway(switch: &Switch, vni: Vni, name: &str, address: IpAddr) -> Result<Port> {
    let at = Addresses::new(&[GATEWAY]).ok_or("a host's address")?;
    let mut zone = Zone::new("front", true);
    zone.add(&Host { name: name.into(), addresses: vec![address], ..Host::default() })?;
    let (_, device) = Gateway::open(at.clone(), zone, Resolvers::these(Handle::current(), Vec::new()), None)?;
    let id = switch.add_port(port_spec(vni, MTU, &device))?;
    switch.announce(vni, at.mac(), &at.announced(), Place::Port(id))?;
    Ok((id, Box::new(device)))
}

/// Answers one client.
async fn serve(mut listener: TcpListener) -> std::io::Result<()> {
    let mut stream = listener.accept().await?;
    let mut question = [0; 100];
    let len = stream.read(&mut question).await?;
    println!("web heard from {}: {}", stream.peer_addr(), String::from_utf8_lossy(&question[..len]));
    stream.write_all(b"only me").await?;
    stream.shutdown().await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let vni = Vni::new(42).ok_or("a VNI has 24 bits")?;
    let underlay = Network::new(Faults::default(), 1);
    let addresses: [SocketAddr; 2] = ["192.0.2.1:4789".parse()?, "192.0.2.2:4789".parse()?];
    let [here, there] = addresses.map(|local| Switch::new(local, Limits::default()));
    here.add_peer(vni, addresses[1])?;
    there.add_peer(vni, addresses[0])?;

    let (client, client_port) = join(&here, vni, 3)?;
    let gateway_port = add_gateway(&here, vni, "web", [10, 0, 9, 2].into())?;
    let (web, web_port) = join(&there, vni, 2)?;
    let start = |switch, local, devices| {
        let events = |event| eprintln!("{event:?}");
        let underlays = vec![Box::new(underlay.attach(local)?) as _];
        Workers::spawn(switch, underlays, devices, WorkerConfig::default(), events)
    };
    let workers = [
        start(here, addresses[0], vec![client_port, gateway_port])?,
        start(there, addresses[1], vec![web_port])?,
    ];

    let served = tokio::spawn(serve(web.listen(80)?));
    let mut stream = client.connect("web:80").await?;
    stream.write_all(b"who is there?").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    println!("client heard from {}: {answer}", stream.peer_addr());
    served.await??;

    for workers in workers {
        workers.stop()?;
    }
    Ok(())
}
