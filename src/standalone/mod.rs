//! One switch with peers given by hand: what `vswitchd switch` does.
//!
//! Opens what the [`Config`] names, runs workers until a signal, and prints counters. Everything that it made goes
//! with it: TAPs that it created vanish when closed; ones that it took over stay, with the MTU and address given to them.

mod config;
mod gateway;
mod report;
mod service;

pub use config::{
    Config, ConfigError, NetworkSpec, PeerSpec, TapSpec, assign, check_local, check_peers, workers,
};
pub use gateway::{GatewayError, GatewaySpec, HostSpec, VniSpec, WayOut, check_gateways, check_way_out};
pub use service::{ServiceSpec, ServiceSpecError, check_services};

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::gateway::nat::{Counters, Policy};
use crate::switch::balance::ServiceError;
use crate::switch::io::FrameIo;
use crate::switch::io::tap::{MTU_MAX, MTU_MIN, Offloads, Tap, TapConfig, TapError};
use crate::switch::io::udp::{BindError, RECEIVE_BUFFER_BYTES, Udp, UdpConfig};
use crate::switch::probe::ProbeConfig;
use crate::switch::switch::Switch;
use crate::switch::tables::{PortId, PortSpec, TableError};
use crate::switch::tunnel::Protection;
use crate::switch::wire::{Vni, vxlan};
use crate::switch::worker::{Event, WorkerConfig, WorkerError, Workers};
use report::{Line, Printer};

/// MTU of the TAPs where no peer's path is known: Ethernet's 1500 less VXLAN over IPv6, the larger overhead.
const MTU_DEFAULT: u32 = 1_430;

/// Why a switch did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The underlay's socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The tables refused a port or a peer.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The tables refused a service.
    #[error("service {0}: {1}")]
    Service(ServiceSpec, ServiceError),
    /// The MTU asked for doesn't fit the path to a peer.
    #[error(
        "MTU {asked} is too large: the path to {peer} carries {path} bytes, which leaves {fits} after VXLAN; \
         use --mtu {fits} or less, or raise the underlay's MTU to {needs}"
    )]
    MtuTooLarge {
        /// What was asked for.
        asked: u32,
        /// The peer with the narrowest path.
        peer: IpAddr,
        /// Its path's MTU.
        path: u32,
        /// The largest that fits.
        fits: u32,
        /// The underlay MTU that would be needed.
        needs: u32,
    },
    /// The path to a peer carries nothing useful.
    #[error("the path to {0} carries only {1} bytes, too few for VXLAN")]
    PathTooNarrow(IpAddr, u32),
    /// The worker ended by itself.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Its last port has closed, and nothing gives it another.
    #[error("the last port is gone: there is nothing left to switch")]
    NoPortLeft,
    /// Signals or threads could not be had.
    #[error("can't start: {0}")]
    System(#[from] io::Error),
}

struct Peer {
    address: SocketAddr,
    spec: PeerSpec,
    path_mtu: Option<u32>,
}

/// Runs a switch until SIGINT or SIGTERM, or until all of its TAPs are gone.
///
/// # Errors
/// Before the first frame: what can't be had of the system. Later: only the worker's own end, and that of the last port.
pub fn run(config: Config, json: bool) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // First of all, so that a signal at any later moment takes the way out that cleans up.
        let signals = Signals::new()?;
        let (running, events) = start(config, Printer::new(json))?;
        running.serve(signals, events).await
    })
}

struct Running {
    switch: Switch,
    workers: Workers,
    printer: Printer,
    /// Ports that are gateways': without another one there is nothing to switch.
    gateways: HashSet<PortId>,
    /// Networks that have one, with its counters.
    ways_out: Vec<(Vni, Arc<Counters>)>,
}

fn start(config: Config, printer: Printer) -> Result<(Running, mpsc::UnboundedReceiver<Event>), RunError> {
    let port = config.local.port();
    let workers = config.workers.get();
    let underlay = UdpConfig { port, ..UdpConfig::new(config.local.ip(), random()) };
    let underlays = Udp::bind_all(&underlay, workers)?;
    let receive_buffer = underlays[0].receive_buffer()?;
    let short_buffer = (receive_buffer < RECEIVE_BUFFER_BYTES)
        .then_some(Line::ShortBuffer { granted: receive_buffer, wanted: RECEIVE_BUFFER_BYTES });
    let peers = config.peers.iter().map(|spec| find_path(&underlays[0], &config, spec));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    let mtu = choose_mtu(config.mtu, config.local.ip(), &peers)?;

    let switch = Switch::for_workers(config.local, config.limits, workers);
    // A port closes once, the underlay fails at most once a second, and a path changes at its probes' pace: the queue
    // stays short.
    let (tell, events) = mpsc::unbounded_channel();
    let mut ports = Vec::new();
    for network in &config.networks {
        for spec in &network.taps {
            let tap = Tap::open(&tap_config(&config, spec, mtu))?;
            printer.print(&Line::Port {
                name: &spec.to_string(),
                vni: network.vni.id(),
                mtu: tap.mtu(),
                mac: tap.mac().to_string(),
                created: tap.created(),
                offloads: tap.offloads().to_string(),
                queues: tap.queues(),
            });
            let port = switch.add_port(PortSpec {
                name: spec.to_string(),
                vni: network.vni,
                mtu: usize::try_from(tap.mtu()).unwrap_or(usize::MAX),
                capabilities: tap.capabilities(),
                storm: config.storm,
            })?;
            ports.push((port, Box::new(tap) as Box<dyn FrameIo>));
        }
    }
    let policy = Policy::world(config.denied.iter().copied(), vec![port, vxlan::PORT]);
    let (mut gateways, mut ways_out) = (HashSet::new(), Vec::new());
    for spec in &config.gateways {
        let opened = spec.open(&switch, mtu, &policy)?;
        printer.print(&Line::Gateway { vni: spec.vni().id(), addresses: &spec.addresses() });
        gateways.insert(opened.port);
        ports.push((opened.port, opened.device));
        ways_out.extend(opened.counters.map(|counters| (spec.vni(), counters)));
    }
    for peer in &peers {
        let all = || config.networks.iter().map(|network| network.vni).collect();
        let vnis = if peer.spec.vnis.is_empty() { all() } else { peer.spec.vnis.clone() };
        for &vni in &vnis {
            switch.add_peer(vni, peer.address)?;
        }
        let vnis = vnis.iter().map(|vni| vni.id()).collect();
        printer.print(&Line::Peer { address: peer.address, vnis, path_mtu: peer.path_mtu });
    }
    for service in &config.services {
        service.set(&switch).map_err(|error| RunError::Service(service.clone(), error))?;
        let (vni, address) = (service.vni().id(), service.address());
        printer.print(&Line::Service { vni, address, tasks: service.tasks() });
    }
    let events_to = move |event| {
        // Nobody listens only when the switch is being stopped.
        let _ = tell.send(event);
    };
    if config.probe {
        switch.set_probing(Some(ProbeConfig::new(random())));
    }
    let underlays = underlays.into_iter().map(|underlay| Box::new(underlay) as _).collect();
    let workers = Workers::spawn(switch.clone(), underlays, ports, WorkerConfig::default(), events_to)?;
    let workers_count = config.workers.get();
    if let Some(short) = &short_buffer {
        printer.print(short);
    }
    printer.print(&Line::Ready { local: config.local, workers: workers_count, receive_buffer });
    Ok((Running { switch, workers, printer, gateways, ways_out }, events))
}

/// A seed from the system's randomness, by way of the standard library's hash keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn tap_config(config: &Config, spec: &TapSpec, mtu: u32) -> TapConfig {
    TapConfig {
        netns: spec.netns.clone(),
        mac: spec.mac,
        mtu: Some(mtu),
        offloads: if config.offload { Offloads::ALL } else { Offloads::NONE },
        super_frame_max: Protection::Plain.super_frame_max(mtu),
        queues: config.workers.get(),
        ..TapConfig::new(&spec.name)
    }
}

/// A peer's path MTU as the system knows it now; none without a route, which may come later.
fn find_path(underlay: &Udp, config: &Config, spec: &PeerSpec) -> io::Result<Peer> {
    let address = SocketAddr::new(spec.address, config.local.port());
    let unreachable = [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable];
    let path_mtu = if spec.address.is_ipv4() == config.local.is_ipv4() {
        match underlay.path_mtu(spec.address) {
            Ok(mtu) => Some(mtu),
            Err(error) if unreachable.contains(&error.kind()) => None,
            Err(error) => return Err(error),
        }
    } else {
        // The tables refuse it by name.
        None
    };
    Ok(Peer { address, spec: spec.clone(), path_mtu })
}

fn choose_mtu(asked: Option<u32>, local: IpAddr, peers: &[Peer]) -> Result<u32, RunError> {
    let overhead = vxlan::overhead(local);
    let paths = peers.iter().filter_map(|peer| Some((peer.path_mtu?, peer.spec.address)));
    let Some((path, peer)) = paths.min() else {
        return Ok(asked.unwrap_or(MTU_DEFAULT));
    };
    let fits = path.saturating_sub(overhead).min(MTU_MAX);
    match asked {
        _ if fits < MTU_MIN => Err(RunError::PathTooNarrow(peer, path)),
        Some(asked) if asked > fits => {
            Err(RunError::MtuTooLarge { asked, peer, path, fits, needs: asked + overhead })
        }
        Some(asked) => Ok(asked),
        None => Ok(fits),
    }
}

impl Running {
    async fn serve(
        self,
        mut signals: Signals,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) -> Result<(), RunError> {
        let (mut underlay_failed, mut singly) = (false, false);
        let outcome = loop {
            tokio::select! {
                _ = signals.interrupt.recv() => break Ok(()),
                _ = signals.terminate.recv() => break Ok(()),
                _ = signals.counters.recv() => print_counters(&self.printer, &self.switch, &self.ways_out),
                event = events.recv() => match event {
                    Some(Event::PortClosed { port, error }) => {
                        self.printer.print(&Line::PortClosed { port: &port, reason: error.to_string() });
                        if self.switch.tables().topology.ports.keys().all(|port| self.gateways.contains(port)) {
                            break Err(RunError::NoPortLeft);
                        }
                    }
                    Some(Event::Path(event)) => self.printer.print(&Line::Path(event)),
                    // Once: a socket that fails may do so at every datagram.
                    Some(Event::UnderlayFailed(error)) if !underlay_failed => {
                        underlay_failed = true;
                        self.printer.print(&Line::UnderlayFailed { reason: error.to_string() });
                    }
                    Some(Event::UnderlayFailed(_)) => {}
                    Some(Event::SegmentationRefused) if !singly => {
                        singly = true;
                        self.printer.print(&Line::SegmentationRefused);
                    }
                    Some(Event::SegmentationRefused) => {}
                    // The workers have dropped their ends: they are no more, and `stop` says why.
                    None => break Ok(()),
                },
            }
        };
        let Self { switch, workers, printer, ways_out, .. } = self;
        let ended = workers.stop();
        print_counters(&printer, &switch, &ways_out);
        ended?;
        outcome
    }
}

fn print_counters(printer: &Printer, switch: &Switch, ways_out: &[(Vni, Arc<Counters>)]) {
    printer.print(&Line::Counters(&switch.report()));
    for (vni, counters) in ways_out {
        printer.print(&Line::WayOut { vni: vni.id(), counters });
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    counters: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            counters: signal(SignalKind::user_defined1())?,
        })
    }
}
