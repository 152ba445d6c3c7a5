//! The gateways of the networks that are carried: one each, for as long as this node has endpoints there.
//!
//! Which there are to be, and where, is in the [`Plan`]; here they are held, apart from the switch whose ports they have,
//! so that one that takes its place finds them with all that they are busy with.
//!
//! They resolve the names of every node's endpoints, as gossip tells them: with a node that is not heard any more its names
//! go. Addresses are told by DHCP only those of this node, since no other can ask.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::device::{ChannelDevice, Device};
use super::plan::{Carried, Plan};
use super::plane::Failure;
use super::publish::publications;
use super::view::{NetworkId, NetworkView, NodeView, View};
use super::work::Endpoint;
use crate::gateway::nat::{Outside, Policy, descriptors};
use crate::gateway::{Addresses, Counts, Gateway, Lease, Own, Publication, Resolvers, Tables, port_spec};
use crate::names::{Host, Zone, ZoneFull};
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

#[derive(Debug)]
pub(super) struct Gateways {
    held: BTreeMap<NetworkId, Held>,
    resolvers: Resolvers,
    /// Where packets for the world outside may go, from every network.
    policy: Arc<ArcSwap<Policy>>,
    /// Sockets for all of them.
    sockets: Arc<Semaphore>,
}

#[derive(Debug)]
struct Held {
    gateway: Gateway,
    device: ChannelDevice,
    facts: Facts,
    /// What it was told last.
    published: Vec<Publication>,
}

/// What a gateway answers from, in an order of its own so that it can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    internal: bool,
    mtu: u16,
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

impl Facts {
    /// Of all endpoints of a network, those of this node first; these may also ask for their addresses.
    fn of(network: &NetworkView, nodes: &[NodeView], own: &BTreeMap<String, Endpoint>) -> Self {
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
        let there = nodes.iter().flat_map(|node| &node.endpoints);
        let there = there.filter(|endpoint| endpoint.network == network.id).map(|endpoint| {
            host(&endpoint.id, &endpoint.name, &endpoint.aliases, endpoint.addresses.clone())
        });
        Self {
            name: network.name.clone(),
            internal: network.internal,
            mtu: 0,
            hosts: here.chain(there).collect(),
            leases: own.filter_map(lease).collect(),
        }
    }

    /// The same as tables, and which host has no room in them.
    fn tables(&self) -> (Tables, Option<ZoneFull>) {
        let mut zone = Zone::new(&self.name, self.internal);
        let mut full = None;
        for host in &self.hosts {
            if let Err(error) = zone.add(host) {
                full = Some(error);
            }
        }
        (Tables { zone, mtu: self.mtu, leases: self.leases.iter().cloned().collect() }, full)
    }
}

impl Gateways {
    /// None yet. `servers` are asked for names of the world outside; without any, this host's own resolvers. Call this
    /// within a tokio runtime, which then has the questions.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let runtime = Handle::current();
        let resolvers = match servers {
            [] => Resolvers::host(runtime),
            servers => Resolvers::these(runtime, servers.to_vec()),
        };
        let policy = Arc::new(ArcSwap::from_pointee(Policy::world([], vec![vxlan::PORT])));
        Self { held: BTreeMap::new(), resolvers, policy, sockets: descriptors() }
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
            let facts = Facts::of(network, &view.nodes, own);
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
        Ok((Held { gateway, device, facts, published: Vec::new() }, full))
    }

    /// Tells each what the endpoints of its network publish.
    pub(super) fn publish(&mut self, own: &BTreeMap<String, Endpoint>) {
        for (id, held) in &mut self.held {
            let here = own.values().filter(|endpoint| endpoint.kept.spec.network == *id);
            let published: Vec<Publication> = here.flat_map(publications).collect();
            if held.published != published {
                held.gateway.publish(&published);
                held.published = published;
            }
        }
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
