//! One switch with its workers, at one address and port; what is replaced as a whole when that changes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc::UnboundedSender;

use super::config::OverlayConfig;
use super::device::Device;
use super::plan::{At, Plan};
use super::reconcile::{Have, Step};
use super::view::NetworkId;
use crate::crypto::identity::NodeId;
use crate::gateway::Addresses;
use crate::switch::fdb::Place;
use crate::switch::io::FrameIo;
use crate::switch::io::udp::{BindError, SOURCES_DEFAULT, Udp, UdpConfig};
use crate::switch::probe::ProbeConfig;
use crate::switch::storm::StormLimit;
use crate::switch::switch::Switch;
use crate::switch::tables::{Master, PortId, PortSpec, TableError};
use crate::switch::vtep::VtepId;
use crate::switch::wire::Vni;
use crate::switch::worker::{Event, WorkerConfig, Workers};

/// Why there is no data plane at an address. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// Its socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads or descriptors.
    #[error("can't start the workers: {0}")]
    Start(#[from] io::Error),
}

/// What the workers have to tell.
#[derive(Debug)]
pub(super) enum News {
    /// As the switch says it.
    Event(Event),
    /// They have ended.
    Ended,
}

/// Tells that the workers have ended: dropped with the last of their threads.
struct Ending {
    generation: u64,
    tell: UnboundedSender<(u64, News)>,
}

impl Ending {
    fn tell(&self, news: News) {
        // Nobody listens only when the overlay is going itself.
        let _ = self.tell.send((self.generation, news));
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.tell(News::Ended);
    }
}

#[derive(Debug)]
pub(super) struct Plane {
    /// Tells its events from those of the planes before.
    pub(super) generation: u64,
    pub(super) local: SocketAddr,
    pub(super) switch: Switch,
    workers: Workers,
    have: Have,
    vteps: BTreeMap<NodeId, VtepId>,
    foreign: BTreeMap<SocketAddr, VtepId>,
    ports: BTreeMap<String, PortId>,
    gateways: BTreeMap<Vni, PortId>,
    storm: StormLimit,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose<'p> {
    Endpoint(&'p str),
    Gateway(Vni),
}

/// A port that the workers have closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    Endpoint(String),
    /// The gateway of that network.
    Gateway(Vni, NetworkId),
}

/// What a port is made with, and a handle of its device.
pub(super) type Port = (PortSpec, io::Result<Box<dyn FrameIo>>);

/// A step that the switch has refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Failure {
    pub(super) what: String,
    pub(super) reason: String,
}

/// A seed from the system's randomness, by way of the standard library's hash keys.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Plane {
    pub(super) fn open(
        config: &OverlayConfig,
        local: SocketAddr,
        generation: u64,
        tell: UnboundedSender<(u64, News)>,
    ) -> Result<Self, PlaneError> {
        let exact = config.shares_address || local.ip().is_loopback();
        let source_ports = if exact { 0 } else { SOURCES_DEFAULT };
        let udp = UdpConfig { port: local.port(), source_ports, ..UdpConfig::new(local.ip(), random()) };
        let underlays = Udp::bind_all(&udp, config.workers.get())?;
        let local = underlays[0].local_addr();
        let switch = Switch::for_workers(local, config.limits, config.workers.get());
        switch.set_probing(Some(ProbeConfig { interval: config.probe_interval, seed: random() }));
        let ending = Ending { generation, tell };
        let events = move |event| ending.tell(News::Event(event));
        let underlays = underlays.into_iter().map(|underlay| Box::new(underlay) as _).collect();
        let workers = Workers::spawn(switch.clone(), underlays, Vec::new(), WorkerConfig::default(), events)?;
        let (have, vteps, storm) = (Have::default(), BTreeMap::new(), config.storm);
        let (foreign, ports, gateways) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self { generation, local, switch, workers, have, vteps, foreign, ports, gateways, storm })
    }

    /// The place of a node in the switch.
    pub(super) fn vtep(&self, node: NodeId) -> Option<VtepId> {
        self.vteps.get(&node).copied()
    }

    /// What it has.
    pub(super) fn have(&self) -> &Have {
        &self.have
    }

    /// Whether an endpoint has a port.
    pub(super) fn is_plugged(&self, endpoint: &str) -> bool {
        self.ports.contains_key(endpoint)
    }

    /// Whose port it was that the workers have closed; they have none now.
    pub(super) fn closed(&mut self, port: PortId) -> Option<Closed> {
        if let Some((name, _)) = self.ports.extract_if(.., |_, &mut id| id == port).next() {
            self.have.note(&Step::Unplug(name.clone()), &Plan::default());
            return Some(Closed::Endpoint(name));
        }
        let (vni, _) = self.gateways.extract_if(.., |_, &mut id| id == port).next()?;
        let id = self.have.networks.get(&vni)?.id.clone();
        self.have.note(&Step::CloseGateway(vni), &Plan::default());
        Some(Closed::Gateway(vni, id))
    }

    /// Does steps, published together. A network that can't be made what it should be gets no members.
    pub(super) fn apply(
        &mut self,
        steps: &[Step],
        want: &Plan,
        device: impl Fn(Whose<'_>) -> Option<Port>,
    ) -> Vec<Failure> {
        let (mut failures, mut barred, mut plugged) = (Vec::new(), Vec::new(), Vec::new());
        let mut unplugged = Vec::new();
        let switch = self.switch.clone();
        switch.apply(|master| {
            for step in steps {
                if vni(step).is_some_and(|vni| barred.contains(&vni)) {
                    continue;
                }
                let done = match step {
                    Step::Plug(name, vni) => {
                        let whose = Whose::Endpoint(name);
                        self.plug(master, whose, *vni, device(whose)).map(|new| plugged.push(new))
                    }
                    Step::OpenGateway(vni, at) => {
                        let device = device(Whose::Gateway(*vni));
                        self.open_gateway(master, *vni, at, device).map(|new| plugged.push(new))
                    }
                    Step::CloseGateway(vni) => {
                        unplugged.extend(
                            self.gateways.remove(vni).inspect(|&port| drop(master.remove_port(port))),
                        );
                        Ok(())
                    }
                    Step::SetService(vni, service) => {
                        let set = master.set_service(*vni, service.spec.clone());
                        set.map_err(|error| error.to_string())
                    }
                    Step::Unplug(name) => {
                        unplugged
                            .extend(self.ports.remove(name).inspect(|&port| drop(master.remove_port(port))));
                        Ok(())
                    }
                    step => self.step(master, step).map_err(|error| error.to_string()),
                };
                match done {
                    Ok(()) => {
                        self.have.note(step, want);
                        // The switch forgets a peer without networks, too.
                        self.vteps.retain(|node, _| self.have.nodes.contains_key(node));
                        if let Step::RemoveForeign(_, at) = step
                            && self.have.networks.values().all(|of| !of.foreign.contains(at))
                        {
                            self.foreign.remove(at);
                        }
                    }
                    Err(reason) => {
                        if let Step::Seal(vni) | Step::Forget(vni) = step {
                            barred.push(*vni);
                        }
                        failures.push(Failure { what: describe(step), reason });
                    }
                }
            }
        });
        unplugged.into_iter().for_each(|port| self.workers.detach(port));
        for (port, handle) in plugged {
            if let Err(error) = self.workers.attach(port, handle) {
                self.switch.remove_port(port);
                let what = match self.closed(port) {
                    Some(Closed::Endpoint(name)) => format!("plug {name}"),
                    Some(Closed::Gateway(vni, _)) => format!("open the gateway of network {vni}"),
                    None => continue,
                };
                failures.push(Failure { what, reason: error.to_string() });
            }
        }
        failures
    }

    fn plug(
        &mut self,
        master: &mut Master,
        whose: Whose<'_>,
        vni: Vni,
        device: Option<Port>,
    ) -> Result<(PortId, Box<dyn FrameIo>), String> {
        let (spec, handle) = device.ok_or("it has no device")?;
        let handle = handle.map_err(|error| error.to_string())?;
        let spec = PortSpec { vni, storm: self.storm, ..spec };
        let port = master.add_port(spec).map_err(|error| error.to_string())?;
        match whose {
            Whose::Endpoint(name) => self.ports.insert(name.to_owned(), port),
            Whose::Gateway(vni) => self.gateways.insert(vni, port),
        };
        Ok((port, handle))
    }

    /// Gives a gateway its port, and makes known that it is there. If that can't be it has no port, rather than one that
    /// its frames get to by flooding.
    fn open_gateway(
        &mut self,
        master: &mut Master,
        vni: Vni,
        at: &Addresses,
        device: Option<Port>,
    ) -> Result<(PortId, Box<dyn FrameIo>), String> {
        let (port, handle) = self.plug(master, Whose::Gateway(vni), vni, device)?;
        // Every node has one, so what it says to all is for this node's endpoints.
        master.keep_here(port);
        match master.announce(vni, at.mac(), &at.announced(), Place::Port(port)) {
            Ok(()) => Ok((port, handle)),
            Err(error) => {
                self.gateways.remove(&vni);
                master.remove_port(port);
                Err(error.to_string())
            }
        }
    }

    fn step(&mut self, master: &mut Master, step: &Step) -> Result<(), TableError> {
        match step {
            Step::Seal(vni) => master.seal_network(*vni),
            Step::Forget(vni) => master.forget_network(*vni),
            Step::AddPeer(vni, node, address) => {
                self.vteps.insert(*node, master.add_peer(*vni, *address)?);
                Ok(())
            }
            Step::RemovePeer(vni, node, _) => {
                if let Some(&id) = self.vteps.get(node) {
                    master.remove_peer(*vni, id);
                }
                Ok(())
            }
            Step::AddForeign(vni, at) => {
                self.foreign.insert(*at, master.add_peer(*vni, *at)?);
                Ok(())
            }
            Step::RemoveForeign(vni, at) => {
                if let Some(&id) = self.foreign.get(at) {
                    master.remove_peer(*vni, id);
                }
                Ok(())
            }
            Step::Announce(vni, mac, own) => {
                let at = match &own.at {
                    At::Here(endpoint) => self.ports.get(endpoint).map(|&port| Place::Port(port)),
                    At::There(node) => self.vteps.get(node).map(|&vtep| Place::Vtep(vtep)),
                };
                master.announce(*vni, *mac, &own.addresses, at.ok_or(TableError::NoSuchPlace)?)
            }
            Step::Withdraw(vni, mac) => {
                master.withdraw(*vni, *mac);
                Ok(())
            }
            Step::RemoveService(vni, mac) => {
                master.remove_service(*vni, *mac);
                Ok(())
            }
            Step::Plug(..)
            | Step::Unplug(_)
            | Step::OpenGateway(..)
            | Step::CloseGateway(_)
            | Step::SetService(..) => Ok(()),
        }
    }

    /// Ends the workers and closes their handles, having sent what was read. Gives why, if they had ended before.
    pub(super) fn stop(self) -> Option<String> {
        self.workers.stop().err().map(|error| error.to_string())
    }
}

fn vni(step: &Step) -> Option<Vni> {
    match step {
        Step::Seal(vni) | Step::Forget(vni) | Step::Plug(_, vni) => Some(*vni),
        Step::AddPeer(vni, ..) | Step::RemovePeer(vni, ..) => Some(*vni),
        Step::AddForeign(vni, _) | Step::RemoveForeign(vni, _) => Some(*vni),
        Step::Announce(vni, ..) | Step::Withdraw(vni, _) => Some(*vni),
        Step::OpenGateway(vni, _) | Step::CloseGateway(vni) => Some(*vni),
        Step::SetService(vni, _) | Step::RemoveService(vni, _) => Some(*vni),
        Step::Unplug(_) => None,
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Seal(vni) => format!("seal network {vni}"),
        Step::Forget(vni) => format!("forget network {vni}"),
        Step::Plug(name, vni) => format!("plug endpoint {name} into network {vni}"),
        Step::Unplug(name) => format!("unplug endpoint {name}"),
        Step::OpenGateway(vni, _) => format!("open the gateway of network {vni}"),
        Step::CloseGateway(vni) => format!("close the gateway of network {vni}"),
        Step::AddPeer(vni, node, address) => format!("add node {node} at {address} to network {vni}"),
        Step::RemovePeer(vni, node, _) => format!("take node {node} out of network {vni}"),
        Step::AddForeign(vni, at) => format!("add foreign end point {at} to network {vni}"),
        Step::RemoveForeign(vni, at) => format!("take foreign end point {at} out of network {vni}"),
        Step::Announce(vni, mac, _) => format!("announce {mac} in network {vni}"),
        Step::Withdraw(vni, mac) => format!("withdraw {mac} from network {vni}"),
        Step::SetService(vni, service) => format!("balance service {} in network {vni}", service.name),
        Step::RemoveService(vni, mac) => format!("remove the service at {mac} from network {vni}"),
    }
}

/// What a device's port is made with, network and limits aside, and a handle of it.
pub(super) fn port(name: &str, vni: Vni, device: &dyn Device) -> Port {
    let spec = PortSpec {
        name: name.to_owned(),
        vni,
        mtu: usize::try_from(device.mtu()).unwrap_or(usize::MAX),
        capabilities: device.capabilities(),
        storm: StormLimit::default(),
    };
    (spec, device.handle())
}
