//! One TAP, one peer, one encrypted network under a static key: what the sealed path costs, before sessions exist.
//!
//! ```text
//! program ── tap ── sealed --local A --peer B ══ sealed datagrams ══ sealed --local B --peer A ── tap ── program
//! ```
//!
//! **For measuring only.** A key from a file is the same after a restart, and its counters start from 0 again:
//! every nonce is then used a second time, which gives away the sum of the two plaintexts and lets anybody forge
//! (SP 800-38D, appendix A). Replays from before the restart are accepted, too. Nothing of this is so with keys
//! that are agreed on anew.
//!
//! Both sides get the same 32 random bytes; each direction's key is derived from them and its sender's address.
//! Run with `cargo run --release --example sealed -- --help`; it needs what `vswitchd switch` needs, and ends by
//! a signal.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use clap::Parser;
use vswitchd::crypto::envelope::SessionId;
use vswitchd::crypto::key::{KEY_LEN, Key};
use vswitchd::crypto::open::Opener;
use vswitchd::crypto::seal::Sealer;
use vswitchd::standalone::workers;
use vswitchd::switch::fdb::Limits;
use vswitchd::switch::io::FrameIo;
use vswitchd::switch::io::tap::{Tap, TapConfig};
use vswitchd::switch::io::udp::{Udp, UdpConfig};
use vswitchd::switch::storm::StormLimit;
use vswitchd::switch::switch::Switch;
use vswitchd::switch::tables::PortSpec;
use vswitchd::switch::tunnel::Protection;
use vswitchd::switch::wire::{Vni, vxlan};
use vswitchd::switch::worker::{Event, WorkerConfig, Workers};

/// A switch with one TAP and one peer on an encrypted network, with a static key: for measuring only.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Our address on the underlay.
    #[arg(long)]
    local: IpAddr,
    /// The peer's address.
    #[arg(long)]
    peer: IpAddr,
    /// The network's identifier.
    #[arg(long)]
    vni: u32,
    /// The TAP, made if it is not there.
    #[arg(long)]
    tap: String,
    /// A file of 32 random bytes, the same at both sides.
    #[arg(long)]
    key_file: PathBuf,
}

/// The keys of both ends of what `sender` sends.
fn direction(secret: &[u8; KEY_LEN], sender: IpAddr) -> Key {
    Key::derive(
        secret,
        &[b"vswitchd static key for measuring, of what comes from ", sender.to_string().as_bytes()],
    )
}

fn read_secret(path: &Path) -> Result<[u8; KEY_LEN], Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let len = bytes.len();
    bytes.try_into().map_err(|_| format!("{}: a key has {KEY_LEN} bytes, not {len}", path.display()).into())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let secret = read_secret(&arguments.key_file)?;
    let vni = Vni::new(arguments.vni).ok_or("a VNI has 24 bits")?;
    let seed = RandomState::new().build_hasher().finish();
    let queues = workers(None).get();
    let underlays = Udp::bind_all(&UdpConfig::new(arguments.local, seed), queues)?;
    let (local, path) = (underlays[0].local_addr(), underlays[0].path_mtu(arguments.peer)?);
    let mtu = Protection::Sealed.mtu(arguments.local, path);
    let super_frame_max = Protection::Sealed.super_frame_max(mtu);
    let tap =
        Tap::open(&TapConfig { mtu: Some(mtu), super_frame_max, queues, ..TapConfig::new(arguments.tap) })?;

    let switch = Switch::for_workers(local, Limits::default(), queues);
    switch.seal_network(vni)?;
    let port = switch.add_port(PortSpec {
        name: tap.name().to_owned(),
        vni,
        mtu: usize::try_from(tap.mtu())?,
        capabilities: tap.capabilities(),
        storm: StormLimit::default(),
    })?;
    let peer = switch.add_peer(vni, SocketAddr::new(arguments.peer, vxlan::PORT))?;
    // Numbers are chosen by receivers, and each of the two has one sender only.
    let session = SessionId::new(1).ok_or("24 bits")?;
    let sealer = Sealer::new(&direction(&secret, arguments.local), session);
    switch.set_sealer(peer, Some(Arc::new(sealer)))?;
    let opener = Opener::new(&direction(&secret, arguments.peer), session);
    switch.add_opener(peer, Arc::new(opener))?;

    let (tell, events) = channel();
    let devices = vec![(port, Box::new(tap) as Box<dyn FrameIo>)];
    let on_event = move |event| {
        // Nobody listens only when the program is ending.
        let _ = tell.send(event);
    };
    let underlays = underlays.into_iter().map(|underlay| Box::new(underlay) as _).collect();
    let workers = Workers::spawn(switch, underlays, devices, WorkerConfig::default(), on_event)?;
    println!("ready, MTU {mtu}");
    for event in events {
        match event {
            Event::Path(_) => {}
            Event::PortClosed { error, .. } => return Err(error.into()),
            other => eprintln!("{other:?}"),
        }
    }
    Ok(workers.stop()?)
}
