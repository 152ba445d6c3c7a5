//! What the data plane of a node is made of, and how it follows what it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{MissedTickBehavior, interval};

use super::config::OverlayConfig;
use super::device::{Device, open_device};
use super::endpoint::{self, AttachError, ENDPOINTS_MAX, EndpointSpec, Kept};
use super::event::OverlayEvent;
use super::gateways::Gateways;
use super::interface;
use super::path::{PathView, Watch};
use super::plan::{Carried, Refused, plan};
use super::plane::{self, Closed, News, Plane, PlaneError, Whose};
use super::reconcile::steps;
use super::run::EndpointView;
use super::sessions::{SessionPeer, Sessions};
use super::view::{NetworkId, View};
use crate::crypto::identity::NodeId;
use crate::state::{StateDir, StateError};
use crate::switch::io::tap::{MTU_MAX, MTU_MIN};
use crate::switch::io::udp::path_mtu;
use crate::switch::tunnel::Protection;
use crate::switch::worker::Event;

/// The underlay's MTU where neither a path is known to carry less nor a network says otherwise: Ethernet's. What carries
/// more is not made use of unasked, since a node on an ordinary link may come at any time.
const UNDERLAY_MTU: u32 = 1_500;
/// How often paths are looked at for what there is to tell.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: OverlayConfig,
    pub(super) sessions: Sessions,
    pub(super) state: Arc<StateDir>,
    pub(super) tell: UnboundedSender<OverlayEvent>,
    pub(super) inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) view: View,
    /// Those that are there, by id.
    pub(super) endpoints: BTreeMap<String, Endpoint>,
    /// Those of an earlier life that could not be attached again, and may be at the next start.
    pub(super) later: Vec<Kept>,
    /// None after its workers have ended by themselves, until there are others.
    pub(super) plane: Option<Plane>,
    /// Where it is, or is to be.
    pub(super) local: SocketAddr,
    pub(super) generations: u64,
    pub(super) news: UnboundedSender<(u64, News)>,
    pub(super) refused: BTreeMap<NetworkId, Refused>,
    pub(super) watch: Watch,
    pub(super) gateways: Gateways,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) kept: Kept,
    pub(super) device: Box<dyn Device>,
}

/// Follows what the workers tell, and looks at the paths. Holds nothing: what is dropped is gone at once.
pub(super) async fn watch(shared: Weak<Shared>, mut heard: UnboundedReceiver<(u64, News)>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let news = tokio::select! {
            Some(news) = heard.recv() => Some(news),
            _ = look.tick() => None,
        };
        let Some(shared) = shared.upgrade() else { return };
        match news {
            Some((generation, news)) => shared.handle(generation, news),
            None => shared.look(),
        }
    }
}

impl Shared {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whatever was left half done where it could panic is done by the next refresh.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: OverlayEvent) {
        // A daemon that doesn't want to know has dropped the other end.
        let _ = self.tell.send(event);
    }

    /// Makes the switch have what it should have.
    pub(super) fn refresh(&self, inner: &mut Inner) {
        let Inner { view, endpoints, plane: Some(plane), local, refused, gateways, .. } = inner else {
            return;
        };
        let own = endpoints.iter().map(|(id, endpoint)| (id.clone(), endpoint.kept.spec.local()));
        // Our own record may be among them, or that of a node that was here before us.
        view.nodes.retain(|node| node.node != self.config.own && node.data != *local);
        let want = plan(view, &own.collect());
        let mtu = |carried: &Carried| network_mtu(view, *local, &carried.id, carried.protection);
        let mut failures = gateways.start(&want, view, endpoints, mtu);
        let steps = steps(plane.have(), &want);
        let vni = |id: &str| want.networks.iter().find(|(_, carried)| carried.ports.contains(id));
        let device = |whose: Whose<'_>| match whose {
            Whose::Endpoint(id) => {
                let ((&vni, _), endpoint) = (vni(id)?, endpoints.get(id)?);
                Some(plane::port(&endpoint.kept.spec.name, vni, &*endpoint.device))
            }
            Whose::Gateway(vni) => gateways.port(&want.networks.get(&vni)?.id, vni),
        };
        failures.extend(plane.apply(&steps, &want, device));
        for failure in failures {
            self.tell(OverlayEvent::SwitchRefused { what: failure.what, reason: failure.reason });
        }
        gateways.end(&want);
        let lives: BTreeMap<NodeId, u64> = view.nodes.iter().map(|node| (node.node, node.life)).collect();
        let peer =
            |&node: &NodeId| Some(SessionPeer { node, at: plane.vtep(node)?, life: *lives.get(&node)? });
        self.sessions.set_peers(&want.sessions.iter().filter_map(peer).collect::<Vec<_>>());
        for (id, why) in &want.refused {
            if refused.insert(id.clone(), why.clone()).as_ref() != Some(why) {
                self.tell(OverlayEvent::NetworkRefused(why.clone()));
            }
        }
        let again = refused.extract_if(.., |id, _| !want.refused.contains_key(id));
        for (id, _) in again.filter(|(id, _)| want.networks.values().any(|carried| carried.id == *id)) {
            self.tell(OverlayEvent::NetworkCarried(id));
        }
    }

    pub(super) fn open(
        &self,
        inner: &Inner,
        spec: &EndpointSpec,
        protection: Protection,
    ) -> Result<Box<dyn Device>, AttachError> {
        let mtu = inner.mtu(&spec.network, protection);
        let queues = self.config.workers.get();
        open_device(spec, protection, mtu, queues, self.config.offloads)
    }

    pub(super) fn reopen(&self, inner: &Inner, kept: &Kept) -> Result<Box<dyn Device>, AttachError> {
        inner.check(&kept.spec)?;
        kept.check()?;
        let device = self.open(inner, &kept.spec, kept.protection())?;
        kept.check_made(device.made())?;
        interface::settle(&mut kept.spec.clone(), device.made())?;
        Ok(device)
    }

    pub(super) fn add(
        &self,
        inner: &mut Inner,
        spec: EndpointSpec,
        protection: Protection,
        device: Box<dyn Device>,
    ) -> Result<EndpointView, AttachError> {
        let id = spec.id.clone();
        let kept = Kept::new(spec, protection, device.made())?;
        inner.endpoints.insert(id.clone(), Endpoint { kept, device });
        if let Err(error) = self.keep(inner) {
            inner.endpoints.remove(&id);
            return Err(error.into());
        }
        self.refresh(inner);
        Ok(inner.show(&inner.endpoints[&id]))
    }

    pub(super) fn keep(&self, inner: &Inner) -> Result<(), StateError> {
        endpoint::store(&self.state, inner.kept())
    }

    /// Puts another plane in the place of the one there is, if there is one.
    pub(super) fn replace(&self, inner: &mut Inner, local: SocketAddr) -> Result<SocketAddr, PlaneError> {
        let generation = inner.generations + 1;
        let plane = Plane::open(&self.config, local, generation, inner.news.clone())?;
        // Before the new workers get handles: of each device, one is to be in use.
        if let Some(ended) = inner.plane.take().and_then(Plane::stop) {
            self.tell(OverlayEvent::WorkersEnded(ended));
        }
        inner.generations = generation;
        inner.local = plane.local;
        self.sessions.move_to(plane.switch.clone());
        inner.plane = Some(plane);
        self.refresh(inner);
        self.tell(OverlayEvent::Moved(inner.local));
        Ok(inner.local)
    }

    fn handle(&self, generation: u64, news: News) {
        let mut inner = self.inner();
        if inner.plane.as_ref().is_none_or(|plane| plane.generation != generation) {
            return;
        }
        match news {
            News::Event(Event::PortClosed { port, error }) => {
                match inner.plane.as_mut().and_then(|plane| plane.closed(port.id)) {
                    Some(Closed::Endpoint(id)) => {
                        if let Some(endpoint) = inner.endpoints.remove(&id) {
                            self.gone(&mut inner, &endpoint.kept.spec, error.to_string());
                        }
                    }
                    Some(Closed::Gateway(_, network)) => {
                        inner.gateways.lose(&network);
                        self.refresh(&mut inner);
                        self.tell(OverlayEvent::GatewayEnded(network));
                    }
                    None => {}
                }
            }
            // Paths are looked at each second, together with what gossip says.
            News::Event(Event::Path(_)) => {}
            News::Event(Event::UnderlayFailed(error)) => {
                self.tell(OverlayEvent::UnderlayFailed(error.to_string()));
            }
            News::Event(Event::SegmentationRefused) => self.tell(OverlayEvent::SegmentationRefused),
            News::Ended => {
                let why = inner.plane.take().and_then(Plane::stop);
                let why = why.unwrap_or_else(|| "the workers stopped".into());
                self.tell(OverlayEvent::WorkersEnded(why));
            }
        }
    }

    fn gone(&self, inner: &mut Inner, spec: &EndpointSpec, reason: String) {
        let (endpoint, network) = (spec.name.clone(), spec.network.clone());
        self.refresh(inner);
        if let Err(error) = self.keep(inner) {
            let what = format!("forget endpoint {endpoint}");
            self.tell(OverlayEvent::SwitchRefused { what, reason: error.to_string() });
        }
        self.tell(OverlayEvent::EndpointGone { endpoint, network, reason });
    }

    fn look(&self) {
        let mut inner = self.inner();
        if inner.plane.is_none() {
            let local = inner.local;
            if let Err(error) = self.replace(&mut inner, local) {
                let what = "start the data plane anew".into();
                self.tell(OverlayEvent::SwitchRefused { what, reason: error.to_string() });
            }
        }
        let paths = inner.paths();
        inner.watch.look(&self.config.name, &paths).into_iter().for_each(|event| self.tell(event));
    }
}

impl Inner {
    pub(super) fn check(&self, spec: &EndpointSpec) -> Result<(), AttachError> {
        spec.check()?;
        let is_same = |other: &Kept| {
            other.spec.id == spec.id || (&other.spec.network, &other.spec.name) == (&spec.network, &spec.name)
        };
        if self.kept().any(is_same) {
            return Err(AttachError::Taken(spec.name.clone()));
        }
        if self.endpoints.len() >= ENDPOINTS_MAX {
            return Err(AttachError::TooMany);
        }
        Ok(())
    }

    /// All that is in the file of endpoints.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.endpoints.values().map(|endpoint| &endpoint.kept).chain(&self.later)
    }

    pub(super) fn protection(&self, id: &NetworkId) -> Result<Protection, AttachError> {
        let found = self.view.networks.iter().find(|network| network.id == *id);
        found.map(|network| network.protection).ok_or_else(|| AttachError::NoNetwork(id.clone()))
    }

    fn mtu(&self, id: &NetworkId, protection: Protection) -> u32 {
        network_mtu(&self.view, self.local, id, protection)
    }

    pub(super) fn show(&self, endpoint: &Endpoint) -> EndpointView {
        let spec = endpoint.kept.spec.clone();
        let carried = self.plane.as_ref().is_some_and(|plane| plane.is_plugged(&spec.id));
        EndpointView { spec, mtu: endpoint.device.mtu(), carried }
    }

    pub(super) fn paths(&self) -> Vec<PathView> {
        let Some(plane) = &self.plane else { return Vec::new() };
        let report = plane.switch.report();
        let now = Instant::now();
        let nodes = self.view.nodes.iter().filter_map(|node| Some((node, plane.vtep(node.node)?)));
        let mut paths: Vec<_> = nodes
            .filter_map(|(node, at)| {
                let path = report.paths.iter().find(|path| path.peer == at)?;
                Some(PathView::new(node.node, &node.name, path, now))
            })
            .collect();
        paths.sort_unstable_by_key(|path| path.node);
        paths
    }
}

/// What a new endpoint's packets may have, by what its network says of the underlay, and what the kernel knows of the
/// paths to all nodes.
fn network_mtu(view: &View, local: SocketAddr, id: &NetworkId, protection: Protection) -> u32 {
    let network = view.networks.iter().find(|network| network.id == *id);
    let most = network.and_then(|network| network.underlay_mtu).map_or(UNDERLAY_MTU, u32::from);
    let own = local.ip();
    let nodes: BTreeSet<IpAddr> = view.nodes.iter().map(|node| node.data.ip()).collect();
    // One that can't be reached now says nothing.
    let paths = nodes.into_iter().filter_map(|node| path_mtu(own, node).ok());
    let path = paths.min().unwrap_or(most).min(most);
    protection.mtu(own, path).clamp(MTU_MIN, MTU_MAX)
}
