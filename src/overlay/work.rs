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
use super::mtu::{FOLLOW, LeastPaths, network_mtu};
use super::path::{PathView, Watch};
use super::plan::{Carried, Plan, Refused, plan};
use super::plane::{self, Closed, Failure, News, Plane, PlaneError, Whose};
use super::publish::{self, Published};
use super::reconcile::steps;
use super::run::EndpointView;
use super::sessions::{SessionPeer, Sessions};
use super::view::{NetworkId, View};
use crate::crypto::identity::NodeId;
use crate::state::{StateDir, StateError};
use crate::switch::balance::TASKS_MAX;
use crate::switch::tunnel::Protection;
use crate::switch::worker::Event;

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
    /// What could not be done of what is wanted, at the last attempt.
    pub(super) failed: BTreeSet<Failure>,
    pub(super) watch: Watch,
    pub(super) gateways: Gateways,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) kept: Kept,
    pub(super) device: Box<dyn Device>,
    /// Bytes of the largest packet that it takes now.
    pub(super) mtu: u32,
    /// What that was last to be.
    pub(super) mtu_wanted: u32,
    /// Of its gateways, those that it has its way out by.
    pub(super) ways_out: Vec<IpAddr>,
    pub(super) published: Vec<Published>,
}

/// What an endpoint has of this host.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) device: Box<dyn Device>,
    pub(super) ways_out: Vec<IpAddr>,
    pub(super) published: Vec<Published>,
}

impl Endpoint {
    pub(super) fn new(kept: Kept, opened: Opened) -> Self {
        let Opened { device, ways_out, published } = opened;
        let mtu = device.mtu();
        Self { kept, device, mtu, mtu_wanted: mtu, ways_out, published }
    }
}

/// Follows what the workers tell, and looks at the paths. Holds nothing: what is dropped is gone at once.
pub(super) async fn watch(shared: Weak<Shared>, mut heard: UnboundedReceiver<(u64, News)>) {
    let mut look = interval(LOOK);
    let mut follow = interval(FOLLOW);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    follow.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let work: Box<dyn FnOnce(&Shared) + Send> = tokio::select! {
            Some((generation, news)) = heard.recv() => Box::new(move |shared| shared.handle(generation, news)),
            _ = look.tick() => Box::new(Shared::look),
            _ = follow.tick() => Box::new(Shared::follow_paths),
        };
        let Some(shared) = shared.upgrade() else { return };
        work(&shared);
    }
}

impl Shared {
    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        // Whatever was left half done where it could panic is done by the next refresh.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, event: OverlayEvent) {
        // A daemon that doesn't want to know has dropped the other end.
        let _ = self.tell.send(event);
    }

    /// Makes the switch have what it should have.
    pub(super) fn refresh(&self, inner: &mut Inner) {
        let Inner { view, endpoints, plane: Some(plane), local, refused, failed, gateways, .. } = inner
        else {
            return;
        };
        let own = endpoints.iter().map(|(id, endpoint)| (id.clone(), endpoint.kept.spec.local()));
        // Our own record may be among them, or that of a node that was here before us.
        view.nodes.retain(|node| node.node != self.config.own && node.data != *local);
        let is_other = |at: &SocketAddr| at.ip() != local.ip() && at.is_ipv4() == local.is_ipv4();
        view.networks.iter_mut().for_each(|network| network.foreign.retain(is_other));
        let want = plan(view, &own.collect());
        let mtu = |carried: &Carried| {
            network_mtu(view, *local, &carried.id, carried.protection, &LeastPaths::find(view, *local))
        };
        gateways.keep_apart(view, *local);
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
        failures.extend(crowded(&want));
        // What is refused is tried again each time, and told once.
        let told = std::mem::replace(failed, failures.into_iter().collect());
        for Failure { what, reason } in failed.difference(&told).cloned() {
            self.tell(OverlayEvent::SwitchRefused { what, reason });
        }
        gateways.end(&want);
        gateways.publish(endpoints);
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

    pub(super) fn reopen(&self, inner: &Inner, kept: &Kept) -> Result<Opened, AttachError> {
        inner.check(&kept.spec)?;
        kept.check()?;
        let device = self.open(inner, &kept.spec, kept.protection())?;
        kept.check_made(device.made())?;
        let ways_out = interface::settle(&mut kept.spec.clone(), device.made())?;
        let published = self.reopen_ports(inner, &kept.spec);
        Ok(Opened { device, ways_out, published })
    }

    pub(super) fn attach(
        &self,
        inner: &mut Inner,
        mut spec: EndpointSpec,
    ) -> Result<EndpointView, AttachError> {
        inner.check(&spec)?;
        let protection = inner.protection(&spec.network)?;
        let published = publish::open(&mut spec, inner.gateways.sockets())?;
        let device = self.open(inner, &spec, protection)?;
        let ways_out = interface::settle(&mut spec, device.made())?;
        self.add(inner, spec, protection, Opened { device, ways_out, published })
    }

    /// Removes the TAP of an endpoint that is not there any more, and was its namespace's way out by `ways_out`.
    pub(super) fn remove_interface(&self, inner: &mut Inner, gone: &EndpointSpec, ways_out: &[IpAddr]) {
        let own = || inner.endpoints.values().filter(|endpoint| endpoint.device.is_own_interface());
        let beside = interface::those_beside(gone, own().map(|endpoint| &endpoint.kept.spec));
        let removed = beside.and_then(|beside| {
            let ids: Vec<String> = beside.iter().map(|other| other.id.clone()).collect();
            interface::remove(gone, beside).map(|()| ids)
        });
        match removed {
            Ok(beside) => inner.hand_on(ways_out, &beside),
            Err(error) => {
                let what = format!("remove the interface of endpoint {}", gone.name);
                self.tell(OverlayEvent::SwitchRefused { what, reason: error.to_string() });
            }
        }
    }

    pub(super) fn add(
        &self,
        inner: &mut Inner,
        spec: EndpointSpec,
        protection: Protection,
        opened: Opened,
    ) -> Result<EndpointView, AttachError> {
        let id = spec.id.clone();
        let kept = Kept::new(spec, protection, opened.device.made())?;
        inner.endpoints.insert(id.clone(), Endpoint::new(kept, opened));
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
        self.retry_ports(&mut inner);
        let paths = inner.paths();
        inner.watch.look(&self.config.name, &paths).into_iter().for_each(|event| self.tell(event));
    }
}

/// Services that are balanced among a part of their tasks only.
fn crowded(want: &Plan) -> impl Iterator<Item = Failure> {
    let services = want.networks.values().flat_map(|carried| carried.services.values());
    services.filter(|service| service.crowded).map(|service| Failure {
        what: format!("have all tasks of service {} answer", service.name),
        reason: format!("they are more than {TASKS_MAX}"),
    })
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
        let is_host = |other: &&Kept| other.spec.exposed && other.spec.network == spec.network;
        if let Some(other) = self.kept().find(is_host).filter(|_| spec.exposed) {
            return Err(AttachError::Exposed(other.spec.device.interface().into()));
        }
        if self.endpoints.len() >= ENDPOINTS_MAX {
            return Err(AttachError::TooMany);
        }
        self.check_ports(spec)
    }

    /// All that is in the file of endpoints.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Kept> {
        self.endpoints.values().map(|endpoint| &endpoint.kept).chain(&self.later)
    }

    pub(super) fn protection(&self, id: &NetworkId) -> Result<Protection, AttachError> {
        let found = self.view.networks.iter().find(|network| network.id == *id);
        found.map(|network| network.protection).ok_or_else(|| AttachError::NoNetwork(id.clone()))
    }

    pub(super) fn show(&self, endpoint: &Endpoint) -> EndpointView {
        let spec = endpoint.kept.spec.clone();
        let carried = self.plane.as_ref().is_some_and(|plane| plane.is_plugged(&spec.id));
        let published = endpoint.published.iter().map(Published::view).collect();
        EndpointView { spec, mtu: endpoint.mtu, carried, published }
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
