//! The gateways of the networks that are carried: one each, for as long as this node has endpoints there.
//!
//! Which there are to be, and where, is in the [`Plan`]; here they are held, apart from the switch whose ports they have,
//! so that one that takes its place finds them with all that they are busy with.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

use super::device::{ChannelDevice, Device};
use super::plan::{Carried, Plan};
use super::view::{NetworkId, NetworkView, View};
use crate::gateway::nat::{Outside, Policy};
use crate::gateway::{Addresses, Gateway, Own, Resolvers, port_spec};
use crate::names::Zone;
use crate::switch::io::FrameIo;
use crate::switch::tables::PortSpec;
use crate::switch::wire::{Vni, vxlan};

/// Where a network's gateway is: at those of its subnets. `None` if the record has none that a host can have.
pub(super) fn addresses(network: &NetworkView) -> Option<Addresses> {
    let own = network.subnets.iter().map(|net| Own { address: net.gateway, subnet: Some(net.subnet) });
    Addresses::of(own.collect())
}

#[derive(Debug)]
pub(super) struct Gateways {
    held: BTreeMap<NetworkId, Held>,
    resolvers: Resolvers,
    /// Where packets for the world outside may go, from every network.
    policy: Arc<ArcSwap<Policy>>,
}

#[derive(Debug)]
struct Held {
    gateway: Gateway,
    device: ChannelDevice,
    facts: Facts,
}

/// What a gateway answers from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    internal: bool,
}

impl Facts {
    fn of(network: &NetworkView) -> Self {
        Self { name: network.name.clone(), internal: network.internal }
    }

    fn zone(&self) -> Zone {
        Zone::new(&self.name, self.internal)
    }
}

/// One that could not be started.
pub(super) type NotStarted = (NetworkId, io::Error);

impl Gateways {
    /// None yet. `servers` are asked for names of the world outside; without any, this host's own resolvers. Call this
    /// within a tokio runtime, which then has the questions.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let runtime = Handle::current();
        let resolvers = match servers {
            [] => Resolvers::host(runtime),
            servers => Resolvers::these(runtime, servers.to_vec()),
        };
        Self { held: BTreeMap::new(), resolvers, policy: Arc::default() }
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
        networks: &[NetworkView],
        mtu: impl Fn(&Carried) -> u32,
    ) -> Vec<NotStarted> {
        let mut failed = Vec::new();
        for carried in want.networks.values() {
            let network = networks.iter().find(|network| network.id == carried.id);
            let (Some(at), Some(network)) = (&carried.gateway, network) else { continue };
            let facts = Facts::of(network);
            match self.held.get_mut(&carried.id) {
                Some(held) if held.gateway.addresses() == at => held.learn(facts),
                _ => match self.open(at, facts, mtu(carried)) {
                    Ok(held) => drop(self.held.insert(carried.id.clone(), held)),
                    Err(error) => failed.push((carried.id.clone(), error)),
                },
            }
        }
        failed
    }

    fn open(&self, at: &Addresses, facts: Facts, mtu: u32) -> io::Result<Held> {
        let outside = Outside { policy: Arc::clone(&self.policy), mtu };
        let outside = Some(&outside).filter(|_| !facts.internal);
        let (gateway, port) = Gateway::open(at.clone(), facts.zone(), self.resolvers.clone(), outside)?;
        Ok(Held { gateway, device: ChannelDevice { port, mtu }, facts })
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

    /// What a gateway's port is made with, and a handle of it.
    pub(super) fn port(&self, id: &NetworkId, vni: Vni) -> Option<(PortSpec, io::Result<Box<dyn FrameIo>>)> {
        let device = &self.held.get(id)?.device;
        Some((port_spec(vni, device.mtu, &device.port), device.handle()))
    }
}

impl Held {
    fn learn(&mut self, facts: Facts) {
        if facts != self.facts {
            self.gateway.set_zone(facts.zone());
            self.facts = facts;
        }
    }
}
