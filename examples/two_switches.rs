//! Two switches in one process, on an in-memory underlay: no privileges, no devices.
//!
//! ```text
//! left ── switch 192.0.2.1 ══ VXLAN, network 42 ══ switch 192.0.2.2 ── right
//! ```
//!
//! Run with `cargo run --example two_switches`.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use vswitchd::switch::fdb::Limits;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::channel::{ChannelEnd, channel};
use vswitchd::switch::io::mem::{Faults, Network};
use vswitchd::switch::storm::StormLimit;
use vswitchd::switch::switch::Switch;
use vswitchd::switch::tables::PortSpec;
use vswitchd::switch::wire::{MacAddr, Vni};
use vswitchd::switch::worker::{WorkerConfig, Workers};

/// One switch with one port, for one peer; the end of the port is where a program sends and receives frames.
fn switch(
    underlay: &Network,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<(Workers, ChannelEnd), Box<dyn Error>> {
    let vni = Vni::new(42).ok_or("a VNI has 24 bits")?;
    let (port, end) = channel(64)?;
    let switch = Switch::new(local, Limits::default());
    let id = switch.add_port(PortSpec {
        name: "program".into(),
        vni,
        mtu: 1_450,
        capabilities: port.capabilities(),
        storm: StormLimit::default(),
    })?;
    switch.add_peer(vni, peer)?;
    let events = |event| eprintln!("{event:?}");
    let (underlay, devices) =
        (vec![Box::new(underlay.attach(local)?) as _], vec![(id, Box::new(port) as Box<dyn FrameIo>)]);
    let worker = Workers::spawn(switch, underlay, devices, WorkerConfig::default(), events)?;
    Ok((worker, end))
}

fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
    // 0x88b5 is IEEE's EtherType for experiments.
    [&to.0[..], &from.0[..], &[0x88, 0xb5], text.as_bytes()].concat()
}

fn main() -> Result<(), Box<dyn Error>> {
    let underlay = Network::new(Faults::default(), 1);
    let (here, there) = ("192.0.2.1:4789".parse()?, "192.0.2.2:4789".parse()?);
    let (left_worker, left) = switch(&underlay, here, there)?;
    let (right_worker, right) = switch(&underlay, there, here)?;

    let (left_mac, right_mac) = ("02:00:00:00:00:01".parse()?, "02:00:00:00:00:02".parse()?);
    left.send(&frame(MacAddr::BROADCAST, left_mac, "who is there?"))?;
    let question = right.receive_timeout(Duration::from_secs(5))?;
    println!("right received: {}", String::from_utf8_lossy(&question[14..]));

    right.send(&frame(left_mac, right_mac, "only me"))?;
    let answer = left.receive_timeout(Duration::from_secs(5))?;
    println!("left received:  {}", String::from_utf8_lossy(&answer[14..]));

    left_worker.stop()?;
    right_worker.stop()?;
    Ok(())
}
