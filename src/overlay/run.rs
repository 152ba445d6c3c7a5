//! The data plane of a node, as its daemon sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use super::config::OverlayConfig;
use super::device::Device;
use super::endpoint::{self, AttachError, EndpointSpec};
use super::event::OverlayEvent;
use super::gateways::{GatewayView, Gateways};
use super::interface;
use super::path::{PathView, Watch};
use super::plan::Plan;
use super::plane::{self, Plane, PlaneError};
use super::publish;
use super::sessions::{Agree, Sessions};
use super::view::{Backend, NetworkId, View};
use super::work::{Endpoint, Inner, Opened, Shared, watch};
use crate::api::PublishedView;
use crate::state::{StateDir, StateError};
use crate::switch::switch::Report;
use crate::switch::wire::Vni;

/// A node's data plane. Dropping it ends it: workers stop, and TAPs that were made go.
#[derive(Debug)]
pub struct Overlay {
    shared: Arc<Shared>,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointView {
    /// What it was attached as.
    pub spec: EndpointSpec,
    /// Bytes of the largest IP packet that it takes.
    pub mtu: u32,
    /// Whether the network's frames reach it: not if the network is refused, or the switch is full.
    pub carried: bool,
    /// Where it is reached from outside.
    pub published: Vec<PublishedView>,
}

impl Overlay {
    /// Binds the data socket and starts workers, without networks yet. Events come through what is given, too.
    ///
    /// Endpoints are kept in `state`; those of an earlier life come back with [`Self::restore`]. Call this within a
    /// tokio runtime.
    ///
    /// # Errors
    /// If the socket, threads or descriptors can't be had.
    pub fn start(
        config: OverlayConfig,
        agree: Arc<dyn Agree>,
        state: Arc<StateDir>,
    ) -> Result<(Self, UnboundedReceiver<OverlayEvent>), PlaneError> {
        // A port closes once, a socket fails at most once a second, and paths change at the pace of probes: neither queue
        // gets long.
        let (news, heard) = unbounded_channel();
        let (tell, events) = unbounded_channel();
        let plane = Plane::open(&config, config.local, 0, news.clone())?;
        let sessions = Sessions::new(config.own, plane.switch.clone(), agree, plane::random());
        let inner = Inner {
            view: View::default(),
            endpoints: BTreeMap::new(),
            later: Vec::new(),
            local: plane.local,
            plane: Some(plane),
            generations: 0,
            news,
            refused: BTreeMap::new(),
            failed: BTreeSet::new(),
            watch: Watch::default(),
            gateways: Gateways::new(&config),
        };
        let shared = Arc::new(Shared { config, sessions, state, tell, inner: Mutex::new(inner) });
        let mut tasks = JoinSet::new();
        let (driven, watched) = (shared.sessions.clone(), Arc::downgrade(&shared));
        tasks.spawn(async move { driven.run().await });
        tasks.spawn(watch(watched, heard));
        Ok((Self { shared, _tasks: tasks }, events))
    }

    /// Where the data socket is.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.shared.inner().local
    }

    /// Keys with other nodes; whoever has connections to them hands their questions to it.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// Gossip says something new: networks, peers and keys follow.
    pub fn update(&self, view: View) {
        let mut inner = self.shared.inner();
        inner.view = view;
        self.shared.refresh(&mut inner);
    }

    /// The networks that this node has endpoints in, for others to be told; each with the VNI that it takes it to have.
    #[must_use]
    pub fn presence(&self) -> BTreeSet<(NetworkId, Vni)> {
        let inner = self.shared.inner();
        let used: BTreeSet<_> =
            inner.endpoints.values().map(|endpoint| &endpoint.kept.spec.network).collect();
        let networks = inner.view.networks.iter().filter(|network| used.contains(&network.id));
        networks.map(|network| (network.id.clone(), network.vni)).collect()
    }

    /// Gives a TAP or a virtual machine a place in a network, and keeps that. One that is made gets its MAC address and
    /// addresses and is up then.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, spec: EndpointSpec) -> Result<EndpointView, AttachError> {
        self.shared.attach(&mut self.shared.inner(), spec)
    }

    /// As [`Self::attach`], with a TAP that is made beside those in its namespace: whatever its name was, it gets the first
    /// of eth0, eth1, … that no interface there has.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach_beside(&self, mut spec: EndpointSpec) -> Result<EndpointView, AttachError> {
        let mut inner = self.shared.inner();
        interface::name(&mut spec)?;
        self.shared.attach(&mut inner, spec)
    }

    /// As [`Self::attach`], with a device of another kind, such as a program in this process. It does not outlive the
    /// daemon.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach_device(
        &self,
        mut spec: EndpointSpec,
        device: Box<dyn Device>,
    ) -> Result<EndpointView, AttachError> {
        let mut inner = self.shared.inner();
        inner.check(&spec)?;
        spec.mac = Some(spec.mac.unwrap_or_else(|| spec.usual_mac(plane::random())));
        let protection = inner.protection(&spec.network)?;
        let published = publish::open(&mut spec, inner.gateways.sockets())?;
        let ways_out = spec.gateways.clone();
        self.shared.add(&mut inner, spec, protection, Opened { device, ways_out, published })
    }

    /// Takes an endpoint out of its network, by its id; gives whether there was one. A TAP that was made for it goes, and
    /// if it was the way out of its namespace, another one's network is that.
    ///
    /// # Errors
    /// If that can't be kept: it is detached until the next start.
    pub fn detach(&self, id: &str) -> Result<bool, StateError> {
        let mut inner = self.shared.inner();
        let endpoint = inner.endpoints.remove(id);
        let later = inner.later.extract_if(.., |kept| kept.spec.id == id).count();
        if endpoint.is_none() && later == 0 {
            return Ok(false);
        }
        self.shared.refresh(&mut inner);
        if let Some(Endpoint { kept, device, ways_out, .. }) = endpoint {
            let is_own = device.is_own_interface();
            drop(device);
            if is_own {
                self.shared.remove_interface(&mut inner, &kept.spec, &ways_out);
            }
        }
        self.shared.keep(&inner).map(|()| true)
    }

    /// Changes the parts that endpoints have in services; gives whether one has another now. Endpoints that are not there are
    /// passed over.
    ///
    /// # Errors
    /// If that can't be kept: it holds until the next start.
    pub fn set_backends(&self, backends: &BTreeMap<String, Option<Backend>>) -> Result<bool, StateError> {
        let mut inner = self.shared.inner();
        let mut changed = false;
        for (id, backend) in backends {
            let endpoint =
                inner.endpoints.get_mut(id).filter(|endpoint| endpoint.kept.spec.backend != *backend);
            let Some(endpoint) = endpoint else { continue };
            endpoint.kept.spec.backend.clone_from(backend);
            changed = true;
        }
        if changed {
            self.shared.refresh(&mut inner);
            self.shared.keep(&inner)?;
        }
        Ok(changed)
    }

    /// This node's endpoints, in the order of names.
    #[must_use]
    pub fn endpoints(&self) -> Vec<EndpointView> {
        let inner = self.shared.inner();
        let mut views: Vec<_> = inner.endpoints.values().map(|endpoint| inner.show(endpoint)).collect();
        views.sort_by(|one, other| (&one.spec.name, &one.spec.id).cmp(&(&other.spec.name, &other.spec.id)));
        views
    }

    /// The endpoints that are there, or may be again at the next start.
    #[must_use]
    pub fn kept(&self) -> Vec<EndpointSpec> {
        self.shared.inner().kept().map(|kept| kept.spec.clone()).collect()
    }

    /// Attaches the endpoints of this node's earlier life again. Gives those that could not be, each with the reason;
    /// those whose TAP or namespace is gone are forgotten, others are tried again at the next start.
    ///
    /// # Errors
    /// If the file of endpoints can't be read, or those left not be kept.
    pub fn restore(&self) -> Result<Vec<(EndpointSpec, AttachError)>, StateError> {
        let mut inner = self.shared.inner();
        let mut failed = Vec::new();
        for kept in endpoint::load(&self.shared.state)? {
            match self.shared.reopen(&inner, &kept) {
                Ok(opened) => {
                    inner.endpoints.insert(kept.spec.id.clone(), Endpoint::new(kept, opened));
                }
                Err(error) => {
                    let spec = kept.spec.clone();
                    if !error.is_gone() {
                        inner.later.push(kept);
                    }
                    failed.push((spec, error));
                }
            }
        }
        self.shared.keep(&inner)?;
        self.shared.refresh(&mut inner);
        Ok(failed)
    }

    /// Moves the data socket to another address or port: a new switch takes over endpoints, peers and keys. What is on
    /// its way to the old one is lost, and so may be what a peer gets just while it learns of the new one.
    ///
    /// # Errors
    /// If the new one can't be had; the old one stays.
    pub fn move_to(&self, local: SocketAddr) -> Result<SocketAddr, PlaneError> {
        let mut inner = self.shared.inner();
        if inner.local == local && inner.plane.is_some() {
            return Ok(local);
        }
        self.shared.replace(&mut inner, local)
    }

    /// Renews the keys with every node now.
    pub fn rotate_now(&self) {
        self.shared.sessions.rotate_now();
    }

    /// The data paths to the nodes with which a network is shared, in the order of nodes.
    #[must_use]
    pub fn paths(&self) -> Vec<PathView> {
        self.shared.inner().paths()
    }

    /// The gateways of the networks that this node has endpoints in.
    #[must_use]
    pub fn gateways(&self) -> Vec<GatewayView> {
        self.shared.inner().gateways.show()
    }

    /// Every counter of the switch; none while its workers are being started anew.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        self.shared.inner().plane.as_ref().map(|plane| plane.switch.report())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let mut inner = self.shared.inner();
        // Now, and not when the runtime lets go of the tasks: ports and TAPs are free again when this returns. How the
        // workers end matters to nobody any more.
        drop(inner.plane.take());
        inner.endpoints.clear();
        inner.gateways.end(&Plan::default());
    }
}
