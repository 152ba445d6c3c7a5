//! A daemon's data plane with real TAPs: they come, move, vanish, and outlive the daemon or not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use vswitchd::api::EndpointDevice;
use vswitchd::crypto::envelope::SessionId;
use vswitchd::crypto::identity::NodeId;
use vswitchd::lab::{Lab, Plan};
use vswitchd::namespace::netlink::Netlink;
use vswitchd::namespace::netns::NetNs;
use vswitchd::overlay::sessions::{Agree, AgreeError, Agreeing, Agreement};
use vswitchd::overlay::{EndpointSpec, NetworkId, NetworkView, Overlay, OverlayConfig, OverlayEvent, View};
use vswitchd::state::StateDir;
use vswitchd::switch::io::tap::{Tap, TapConfig};
use vswitchd::switch::tunnel::Protection;
use vswitchd::switch::wire::Vni;

use crate::Test;
use crate::fixture::{PATIENCE, shape};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        ("overlay::taps_stay_through_a_change_of_port_and_vanish_with_an_event", comes_and_goes),
        ("overlay::endpoints_come_back_but_not_where_nothing_is_left", restored),
    ]
}

/// Nobody to have keys with.
struct Nobody;

impl Agree for Nobody {
    fn ask(&self, _: NodeId, _: SessionId) -> Agreeing<Agreement> {
        Box::pin(std::future::ready(Err(AgreeError::Connection("nobody is there".into()))))
    }
}

/// A directory for one test's state, which goes with it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

fn folder(name: &str) -> Folder {
    let own = format!("vswitchd-test-{name}-{}-{}", std::process::id(), fastrand::u32(..));
    Folder(std::env::temp_dir().join(own))
}

type Events = UnboundedReceiver<OverlayEvent>;

/// The data plane of a node that knows a plain network `p` and a sealed one, `s`.
fn start(address: Ipv4Addr, state: &Path) -> Result<(Overlay, Events)> {
    let local = SocketAddr::new(IpAddr::V4(address), 4_789);
    let config = OverlayConfig::new(NodeId::from_bytes([1; 16]), "one", local);
    let (overlay, events) = Overlay::start(config, Arc::new(Nobody), Arc::new(StateDir::open(state)?))?;
    let network = |id: &str, vni, protection| -> Result<NetworkView> {
        let vni = Vni::new(vni).context("24 bits")?;
        Ok(NetworkView {
            subnets: Vec::new(),
            internal: false,
            foreign: Default::default(),
            id: NetworkId(id.into()),
            name: id.into(),
            vni,
            protection,
            underlay_mtu: None,
            created_ms: 1,
        })
    };
    let networks = vec![network("p", 1, Protection::Plain)?, network("s", 2, Protection::Sealed)?];
    overlay.update(View { nodes: Vec::new(), networks, services: Vec::new() });
    Ok((overlay, events))
}

fn spec(name: &str, network: &str, netns: Option<String>) -> EndpointSpec {
    let network = NetworkId(network.into());
    EndpointSpec::new(name, name, network, EndpointDevice::tap(format!("tap-{name}"), netns))
}

fn names(overlay: &Overlay) -> Vec<String> {
    overlay.endpoints().into_iter().map(|endpoint| endpoint.spec.name).collect()
}

async fn event(events: &mut Events, wanted: impl Fn(&OverlayEvent) -> bool) -> Result<OverlayEvent> {
    let next = async {
        loop {
            match events.recv().await {
                Some(event) if wanted(&event) => return Ok(event),
                Some(_) => {}
                None => bail!("the overlay is gone"),
            }
        }
    };
    timeout(PATIENCE, next).await?
}

/// Runs a test on a thread of a bare host, with a runtime as the daemon has it.
fn on_host(test: impl AsyncFnOnce(&NetNs, Ipv4Addr) -> Result<()> + Send) -> Result<()> {
    let lab = Lab::build(Plan::new(shape(1, 0, 1, false))?)?;
    let host = lab.nodes()[0].netns();
    let address = Ipv4Addr::new(198, 18, 0, 1);
    host.run(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test(host, address))
    })?
}

fn comes_and_goes() -> Result<()> {
    on_host(async |host, address| {
        let folder = folder("taps");
        let (overlay, mut events) = start(address, &folder.0)?;
        let [plain, sealed] = [overlay.attach(spec("a", "p", None))?, overlay.attach(spec("b", "s", None))?];
        ensure!((plain.mtu, sealed.mtu) == (1_450, 1_420), "{plain:?} {sealed:?}");
        ensure!(plain.carried && sealed.carried);
        let again = EndpointSpec { id: "c".into(), name: "c".into(), ..plain.spec.clone() };
        let refused = overlay.attach(again).err().context("one TAP, two endpoints")?;
        ensure!(refused.to_string().contains("tap-a"), "{refused}");

        // Another port: the TAPs are the same, with what they have been given.
        let mut netlink = Netlink::open(host)?;
        netlink.add_address("tap-a", IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9)), 24)?;
        overlay.move_to(SocketAddr::new(IpAddr::V4(address), 4_790))?;
        ensure!(overlay.endpoints().iter().all(|endpoint| endpoint.carried));
        let kept = netlink.addresses()?.into_iter().any(|(name, _)| name == "tap-a");
        ensure!(kept, "the TAP has lost its address");
        let old = std::net::UdpSocket::bind((address, 4_789))?;
        drop(old);

        netlink.delete("tap-a")?;
        let gone = event(&mut events, |event| matches!(event, OverlayEvent::EndpointGone { .. })).await?;
        ensure!(gone.to_string().starts_with("endpoint a of network p is gone"), "{gone}");
        ensure!(names(&overlay) == ["b"]);
        ensure!(overlay.detach("b")? && netlink.link("tap-b").is_err(), "a TAP that was made goes");
        ensure!(overlay.presence().is_empty());
        Ok(())
    })
}

fn restored() -> Result<()> {
    on_host(async |host, address| {
        let folder = folder("restored");
        let (overlay, _events) = start(address, &folder.0)?;
        let there = Tap::open(&TapConfig::new("tap-lent"))?;
        let mut holder = NetNs::create()?.command("sleep").arg("1000").spawn()?;
        overlay.attach(spec("made", "s", None))?;
        overlay.attach(spec("elsewhere", "p", Some(holder.id().to_string())))?;
        let socket = folder.0.join("vm.sock");
        let device = EndpointDevice::QemuStream { qemu_stream: socket.display().to_string() };
        overlay.attach(EndpointSpec { device, ..spec("vm", "s", None) })?;
        ensure!(UnixStream::connect(&socket).is_ok(), "a machine may come");
        let mut kept = spec("lent", "p", None);
        kept.device = EndpointDevice::tap("tap-lent", None);
        ensure!(overlay.attach(kept).is_err(), "somebody uses it");
        drop((there, overlay));
        ensure!(Netlink::open(host)?.link("tap-made").is_err() && !socket.exists());

        let (overlay, _events) = start(address, &folder.0)?;
        let failed = overlay.restore()?;
        ensure!(failed.is_empty() && names(&overlay) == ["elsewhere", "made", "vm"], "{failed:?}");
        ensure!(overlay.endpoints().iter().all(|endpoint| endpoint.carried));
        ensure!(Netlink::open(host)?.link("tap-made").is_ok() && UnixStream::connect(&socket).is_ok());
        drop(overlay);
        holder.kill()?;
        holder.wait()?;

        for left in [1, 0] {
            let (overlay, _events) = start(address, &folder.0)?;
            let failed = overlay.restore()?;
            ensure!(failed.len() == left && names(&overlay) == ["made", "vm"], "{failed:?}");
            ensure!(failed.iter().all(|(spec, error)| spec.name == "elsewhere" && error.is_gone()));
        }
        Ok(())
    })
}
