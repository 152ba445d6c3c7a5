//! The gateways of the networks that are carried: one each, for as long as this node has endpoints there.
//!
//! Which there are to be, and where, is in the [`Plan`]; here they are held, apart from the switch whose ports they have,
//! so that one that takes its place finds them with all that they are busy with.
//!
//! They resolve the names of services, and of every node's endpoints, as gossip tells them: with a node that is not heard any more its names
//! go. Addresses are told by DHCP only those of this node, since no other can ask.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::config::OverlayConfig;
use super::device::{ChannelDevice, Device};
use super::plan::{Carried, Plan};
use super::plane::Failure;
use super::publish::publications;
use super::view::{Backend, BackendState, NetworkId, NetworkView, ServiceView, View};
use super::work::Endpoint;
use crate::gateway::nat::{Outside, Policy};
use crate::gateway::{
    Addresses, Counts, Entrance, Gateway, Lease, Own, Publication, Resident, Resolvers, Tables, port_spec,
};
use crate::names::{Host, Service, Zone, ZoneFull};
use crate::switch::io::FrameIo;
use crate::switch::tables::PortSpec;
use crate::switch::wire::{MacAddr, Vni, vxlan};

/// Where a network's gateway is: at those of its subnets. `None` if the record has none that a host can have.
pub(super) fn addresses(network: &NetworkView) -> Option<Addresses> {
    let own = network.subnets.iter().map(|net| Own { address: net.gateway, subnet: Some(net.subnet) });
    Addresses::of(own.collect())
}

/// A gateway of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayView {
    /// Its network's name.
    pub network: String,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// What it has done since it was started.
    pub counts: Counts,
}

/// An endpoint of this node that answers for a service, and the way to it.
#[derive(Clone, Debug)]
pub struct Reached {
    /// Its part in the service.
    pub backend: Backend,
    /// The way.
    pub entrance: Entrance,
}

/// Those that there are, by their ids; for whoever carries connections to them.
pub type Entrances = Arc<ArcSwap<BTreeMap<Arc<str>, Reached>>>;

#[derive(Debug)]
pub(super) struct Gateways {
    held: BTreeMap<NetworkId, Held>,
    resolvers: Resolvers,
    /// Where packets for the world outside may go, from every network.
    policy: Arc<ArcSwap<Policy>>,
    /// Sockets for all of them.
    sockets: Arc<Semaphore>,
    entrances: Entrances,
}

#[derive(Debug)]
struct Held {
    gateway: Gateway,
    device: ChannelDevice,
    facts: Facts,
    /// What it was told last.
    published: Vec<Publication>,
    /// Ids of the network's endpoints of this node.
    residents: BTreeSet<Arc<str>>,
}

/// What a gateway answers from, in an order of its own so that it can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    internal: bool,
    mtu: u16,
    services: Vec<Service>,
    hosts: Vec<Host>,
    leases: Vec<(MacAddr, Lease)>,
}

/// Characters of an id that stand for the endpoint, as in Docker.
const SHORT_ID_LEN: usize = 12;

/// Where an endpoint is found: by name, alias, and the beginning of its id.
fn host(id: &str, name: &str, aliases: &[String], addresses: Vec<IpAddr>) -> Host {
    let short = id.get(..SHORT_ID_LEN).unwrap_or(id).to_owned();
    let aliases = aliases.iter().cloned().chain([short]).collect();
    Host { name: name.into(), aliases, addresses, ports: Vec::new() }
}

/// What the names of a network's services stand for, given the parts of endpoints there, with their addresses.
fn services<'a>(
    all: &[ServiceView],
    network: &NetworkId,
    backends: impl Iterator<Item = (&'a Option<Backend>, Vec<IpAddr>)>,
) -> Vec<Service> {
    let mut tasks = HashMap::<&str, Vec<IpAddr>>::new();
    for (backend, addresses) in backends {
        if let Some(Backend { service, state: BackendState::Live }) = backend {
            tasks.entry(service).or_default().extend(addresses);
        }
    }
    let here = all.iter().filter(|service| service.network == *network);
    let named = here.map(|service| Service {
        name: service.name.clone(),
        aliases: service.aliases.clone(),
        addresses: service.vips.clone(),
        tasks: tasks.remove(service.id.as_str()).unwrap_or_default(),
    });
    named.collect()
}

impl Facts {
    /// Of all endpoints of a network, those of this node first; these may also ask for their addresses.
    fn of(network: &NetworkView, view: &View, own: &BTreeMap<String, Endpoint>) -> Self {
        let own = own.values().filter(|endpoint| endpoint.kept.spec.network == network.id);
        let lease = |endpoint: &Endpoint| {
            let spec = &endpoint.kept.spec;
            let v4 = spec.addresses.iter().find_map(|own| match own.address() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            let mtu = u16::try_from(endpoint.device.mtu()).unwrap_or(u16::MAX);
            Some((spec.mac?, Lease { address: v4?, name: spec.name.clone(), mtu }))
        };
        let here = own.clone().map(|endpoint| {
            let spec = &endpoint.kept.spec;
            let addresses = spec.addresses.iter().map(|own| own.address()).collect();
            host(&spec.id, &spec.name, &spec.aliases, addresses)
        });
        let there = view.nodes.iter().flat_map(|node| &node.endpoints);
        let there = there.filter(|endpoint| endpoint.network == network.id);
        let addresses =
            |endpoint: &Endpoint| endpoint.kept.spec.addresses.iter().map(|own| own.address()).collect();
        let backends = own.clone().map(|endpoint| (&endpoint.kept.spec.backend, addresses(endpoint)));
        let others = there.clone().map(|endpoint| (&endpoint.backend, endpoint.addresses.clone()));
        let services = services(&view.services, &network.id, backends.chain(others));
        let there = there.map(|endpoint| {
            host(&endpoint.id, &endpoint.name, &endpoint.aliases, endpoint.addresses.clone())
        });
        Self {
            name: network.name.clone(),
            internal: network.internal,
            mtu: 0,
            services,
            hosts: here.chain(there).collect(),
            leases: own.filter_map(lease).collect(),
        }
    }

    /// The same as tables, and which host has no room in them.
    fn tables(&self) -> (Tables, Option<ZoneFull>) {
        let mut zone = Zone::new(&self.name, self.internal);
        let mut full = None;
        for service in &self.services {
            if let Err(error) = zone.add_service(service) {
                full = Some(error);
            }
        }
        for host in &self.hosts {
            if let Err(error) = zone.add(host) {
                full = Some(error);
            }
        }
        (Tables { zone, mtu: self.mtu, leases: self.leases.iter().cloned().collect() }, full)
    }
}

impl Gateways {
    /// None yet. The servers of `config` are asked for names of the world outside; without any, this host's own resolvers. Call this
    /// within a tokio runtime, which then has the questions.
    pub(super) fn new(config: &OverlayConfig) -> Self {
        let runtime = Handle::current();
        let resolvers = match &config.dns[..] {
            [] => Resolvers::host(runtime),
            servers => Resolvers::these(runtime, servers.to_vec()),
        };
        let policy = Arc::new(ArcSwap::from_pointee(Policy::world([], vec![vxlan::PORT])));
        let (sockets, entrances) = (Arc::clone(&config.sockets), Arc::clone(&config.entrances));
        Self { held: BTreeMap::new(), resolvers, policy, sockets, entrances }
    }

    /// Keeps what leads out from the subnets of every network, and from where nodes have their data sockets. Call this
    /// before [`Self::start`].
    pub(super) fn keep_apart(&self, view: &View, local: SocketAddr) {
        let subnets = view.networks.iter().flat_map(|network| &network.subnets).map(|net| net.subnet);
        let mut ports: Vec<_> = view.nodes.iter().map(|node| node.data.port()).collect();
        ports.extend([local.port(), vxlan::PORT]);
        ports.sort_unstable();
        ports.dedup();
        let policy = Policy::world(subnets, ports);
        if **self.policy.load() != policy {
            self.policy.store(Arc::new(policy));
        }
    }

    /// Starts those that are missing, each with its network's MTU, and tells the others what is new. Those that have
    /// ended count as missing. None ends: see [`Self::end`].
    pub(super) fn start(
        &mut self,
        want: &Plan,
        view: &View,
        own: &BTreeMap<String, Endpoint>,
        mtu: impl Fn(&Carried) -> u32,
    ) -> Vec<Failure> {
        let mut failures = Vec::new();
        for carried in want.networks.values() {
            let network = view.networks.iter().find(|network| network.id == carried.id);
            let (Some(at), Some(network)) = (&carried.gateway, network) else { continue };
            let facts = Facts::of(network, view, own);
            let done = match self.held.get_mut(&carried.id) {
                Some(held) if held.gateway.addresses() == at => held.learn(facts),
                _ => match self.open(at, facts, mtu(carried)) {
                    Ok((held, full)) => {
                        self.held.insert(carried.id.clone(), held);
                        full
                    }
                    Err(error) => {
                        let what = format!("start the gateway of network {}", network.name);
                        failures.push(Failure { what, reason: error.to_string() });
                        None
                    }
                },
            };
            if let Some(full) = done {
                let what = format!("resolve all names of network {}", network.name);
                failures.push(Failure { what, reason: full.to_string() });
            }
        }
        failures
    }

    fn open(&self, at: &Addresses, facts: Facts, mtu: u32) -> io::Result<(Held, Option<ZoneFull>)> {
        let facts = Facts { mtu: u16::try_from(mtu).unwrap_or(u16::MAX), ..facts };
        let (tables, full) = facts.tables();
        let (policy, sockets) = (Arc::clone(&self.policy), Arc::clone(&self.sockets));
        let outside = Outside { policy, sockets, mtu, internal: facts.internal };
        let (gateway, port) = Gateway::open(at.clone(), tables, self.resolvers.clone(), Some(&outside))?;
        let device = ChannelDevice { port, mtu };
        Ok((Held { gateway, device, facts, published: Vec::new(), residents: BTreeSet::new() }, full))
    }

    /// Tells each which endpoints its network has here and what they publish, and others which of them answer for services.
    pub(super) fn publish(&mut self, own: &BTreeMap<String, Endpoint>) {
        let mut reached = BTreeMap::new();
        for (id, held) in &mut self.held {
            let here = own.values().filter(|endpoint| endpoint.kept.spec.network == *id);
            let published: Vec<Publication> = here.clone().flat_map(publications).collect();
            let residents = here.clone().map(|endpoint| Arc::from(endpoint.kept.spec.id.as_str())).collect();
            if held.published != published || held.residents != residents {
                held.gateway.publish(&published, residents.clone());
                (held.published, held.residents) = (published, residents);
            }
            let of = |endpoint: &Endpoint| {
                let backend = endpoint.kept.spec.backend.clone()?;
                let resident = resident(endpoint)?;
                let id = Arc::clone(&resident.id);
                Some((id, Reached { backend, entrance: held.gateway.entrance(resident)? }))
            };
            reached.extend(here.filter_map(of));
        }
        // The gateways have been told before.
        self.entrances.store(Arc::new(reached));
    }

    /// What allows sockets to be held for endpoints.
    pub(super) fn sockets(&self) -> &Arc<Semaphore> {
        &self.sockets
    }

    /// Ends those that are wanted no more, which have no port any more.
    pub(super) fn end(&mut self, want: &Plan) {
        let wanted = |id: &NetworkId| {
            want.networks.values().any(|carried| carried.id == *id && carried.gateway.is_some())
        };
        self.held.retain(|id, _| wanted(id));
    }

    /// Ends one that has lost its port; it is missing then.
    pub(super) fn lose(&mut self, id: &NetworkId) {
        self.held.remove(id);
    }

    /// Those that run, in the order of networks' names.
    pub(super) fn show(&self) -> Vec<GatewayView> {
        let view = |held: &Held| GatewayView {
            network: held.facts.name.clone(),
            addresses: held.gateway.addresses().all().iter().map(|own| own.address).collect(),
            counts: held.gateway.counts(),
        };
        let mut views: Vec<_> = self.held.values().map(view).collect();
        views.sort_by(|one, other| one.network.cmp(&other.network));
        views
    }

    /// What a gateway's port is made with, and a handle of it.
    pub(super) fn port(&self, id: &NetworkId, vni: Vni) -> Option<(PortSpec, io::Result<Box<dyn FrameIo>>)> {
        let device = &self.held.get(id)?.device;
        Some((port_spec(vni, device.mtu, &device.port), device.handle()))
    }
}

fn resident(endpoint: &Endpoint) -> Option<Resident> {
    let spec = &endpoint.kept.spec;
    Some(Resident {
        id: spec.id.as_str().into(),
        mac: spec.mac?,
        addresses: spec.addresses.iter().map(|own| own.address()).collect(),
        ways_out: endpoint.ways_out.clone(),
    })
}

impl Held {
    fn learn(&mut self, facts: Facts) -> Option<ZoneFull> {
        // Its MTU is that of its port, which stays.
        let facts = Facts { mtu: self.facts.mtu, ..facts };
        if facts == self.facts {
            return None;
        }
        let (tables, full) = facts.tables();
        self.gateway.set_tables(tables);
        self.facts = facts;
        full
    }
}
