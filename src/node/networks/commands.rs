//! What a node is asked about networks: gathers the facts, lets the modules beside this one decide, and acts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ring::rand::{SecureRandom, SystemRandom};
use tracing::{info, warn};

use super::super::cluster::{Cluster, now_ms};
use super::super::life::internal;
use super::super::records::{EndpointRecord, NetworkRecord, Presence, gossip_id, node_id};
use super::super::services::network_is_free;
use super::conflict::mark;
use super::create::{Around, settle};
use super::lookup::{find_network, find_one, may_remove};
use crate::api::{
    HostAddress, IpPrefix, Ipv4Prefix, Name, NetworkCreate, NetworkCreated, NetworkDetail, NetworkEndpoint,
    NetworkFilter, NetworkMember, NetworkOptions, NetworkPeer, NetworkView, Pruned, Refusal,
};
use crate::crypto::identity::NodeId;
use crate::namespace::netlink::{Netlink, NetlinkError};
use crate::overlay::EndpointView;
use crate::switch::wire::MacAddr;

/// What the routing mesh's network is called from the beginning.
const INGRESS: &str = "ingress";

impl Cluster {
    /// All networks, by name and then by id.
    pub(in crate::node) fn network_views(&self) -> Vec<NetworkView> {
        let present = self.present();
        let view = |(id, record): (String, NetworkRecord)| NetworkView {
            nodes: present.get(&id).map_or(0, BTreeSet::len),
            id,
            name: record.name,
            vni: record.vni,
            subnets: record.subnets,
            options: record.options,
            created_ms: record.created_ms,
            conflicts: Vec::new(),
        };
        let mut networks: Vec<_> = self.networks().into_iter().map(view).collect();
        networks.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        mark(&mut networks);
        networks
    }

    /// The nodes that say that they have endpoints in a network, by its id.
    fn present(&self) -> BTreeMap<String, BTreeSet<NodeId>> {
        let mut present = BTreeMap::<String, BTreeSet<NodeId>>::new();
        for (owner, network, _) in self.gossip.list::<Presence>() {
            present.entry(network).or_default().extend(owner.map(node_id));
        }
        present
    }

    /// One of them, with who is in it.
    pub(in crate::node) fn network_detail(&self, wanted: &Name) -> Result<NetworkDetail, Refusal> {
        let networks = self.network_views();
        Ok(self.detail(find_network(&networks, wanted)?.clone()))
    }

    fn detail(&self, network: NetworkView) -> NetworkDetail {
        let nodes = self.nodes();
        let peer = |id: NodeId| {
            let record = nodes.iter().find(|(node, _)| *node == id).map(|(_, record)| record);
            NetworkPeer {
                id: id.to_string(),
                name: record.map_or_else(|| id.to_string(), |record| record.name.clone()),
                address: record.map(|record| record.data.ip()),
            }
        };
        let present = self.present().remove(&network.id).unwrap_or_default();
        let mut peers: Vec<_> = present.into_iter().map(peer).collect();
        peers.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let endpoints = self.overlay().map(|overlay| overlay.endpoints()).unwrap_or_default();
        let here = endpoints.into_iter().filter(|endpoint| endpoint.spec.network.0 == network.id);
        let endpoint = |view: EndpointView| NetworkEndpoint {
            id: view.spec.id,
            name: view.spec.name,
            aliases: view.spec.aliases,
            mac: view.spec.mac.unwrap_or(MacAddr([0; 6])),
            addresses: view.spec.addresses,
            device: view.spec.device,
            mtu: view.mtu,
            carried: view.carried,
            published: view.published,
        };
        let members = self.network_members(&network);
        let record = self.networks().into_iter().find(|(id, _)| *id == network.id);
        let addresses = record.map(|network| self.subnet_uses(&network)).unwrap_or_default();
        NetworkDetail { endpoints: here.map(endpoint).collect(), members, addresses, peers, network }
    }

    /// The endpoints of all nodes in a network.
    fn network_members(&self, network: &NetworkView) -> Vec<NetworkMember> {
        let length = |address: &IpAddr| {
            let subnet = network.subnets.iter().find(|subnet| subnet.subnet.contains(*address));
            HostAddress::new(*address, subnet.map_or(0, |subnet| subnet.subnet.length()))
        };
        let records = self.endpoint_records().into_iter().filter(|(.., record)| record.network == network.id);
        let member = |(node, id, record): (NodeId, String, EndpointRecord)| NetworkMember {
            id,
            name: record.name,
            aliases: record.aliases,
            node: self.node_name(node),
            mac: MacAddr(record.mac),
            addresses: record.addresses.iter().filter_map(length).collect(),
        };
        let mut members: Vec<_> = records.map(member).collect();
        members.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        members
    }

    pub(in crate::node) async fn create_network(
        &self,
        request: &NetworkCreate,
    ) -> Result<NetworkCreated, Refusal> {
        self.manages()?;
        let _alone = self.creating.lock().await;
        let settings = self.settings();
        let pools = settings.pools.iter().filter_map(|&(address, length)| Ipv4Prefix::new(address, length));
        let mut random = [0; 5];
        SystemRandom::new().fill(&mut random).map_err(|_| internal("the system has no randomness"))?;
        let nodes = self.nodes().into_iter().map(|(_, record)| (record.name, record.data.ip()));
        let around = Around {
            networks: &self.network_views(),
            pools: &pools.map(IpPrefix::from).collect::<Vec<_>>(),
            mask_length: settings.pool_mask,
            routes: &host_routes(),
            nodes: &nodes.collect::<Vec<_>>(),
            local: self.data_address().ip(),
            random,
        };
        let settled = settle(request, &around)?;
        let id = NodeId::random(&SystemRandom::new()).map_err(internal)?.to_string();
        let network = NetworkRecord {
            name: request.name.to_string(),
            vni: settled.vni.id(),
            subnets: settled.subnets,
            options: request.options.clone(),
            created_ms: now_ms(),
            maker: gossip_id(self.id),
        };
        let made = (id, network);
        // Nobody else has any of its addresses, even if this node dies as soon as others know of it.
        let founding = self.addresses.found(&made).map_err(internal)?;
        let (id, network) = made;
        self.set_network(&id, &network).await.map_err(internal)?;
        drop(founding);
        self.say_shares();
        Ok(NetworkCreated { id })
    }

    /// Makes the routing mesh's network, which is there from the beginning, as in Docker. A cluster whose pools have no
    /// block for it begins without: then it can be made by hand.
    pub(in crate::node) async fn make_ingress(&self) {
        let request = NetworkCreate {
            name: INGRESS.parse().expect("this is a name"),
            subnets: Vec::new(),
            ipv6: false,
            vni: None,
            options: NetworkOptions { ingress: true, ..NetworkOptions::default() },
        };
        if let Err(refusal) = self.create_network(&request).await {
            warn!("the cluster begins without a network for the routing mesh: {refusal}");
        }
    }

    pub(in crate::node) async fn remove_network(&self, wanted: &Name) -> Result<(), Refusal> {
        self.manages()?;
        let _alone = self.creating.lock().await;
        let network = self.detail(find_one(&self.network_views(), wanted)?.clone());
        network_is_free(&network.network, &self.service_views())?;
        may_remove(&network, &self.id.to_string())?;
        self.delete_network(&network.network.id).await.map_err(internal)
    }

    /// Removes the networks that nobody uses, but for the routing mesh's.
    pub(in crate::node) async fn prune_networks(&self, filter: &NetworkFilter) -> Result<Pruned, Refusal> {
        self.manages()?;
        let _alone = self.creating.lock().await;
        let services = self.service_views();
        let mut removed = Vec::new();
        for network in self.network_views() {
            if network.options.ingress
                || network_is_free(&network, &services).is_err()
                || !filter.admits(&network)
            {
                continue;
            }
            let network = self.detail(network);
            if may_remove(&network, &self.id.to_string()).is_ok() {
                self.delete_network(&network.network.id).await.map_err(internal)?;
                removed.push(network.network.name);
            }
        }
        info!("{} networks without endpoints are removed", removed.len());
        Ok(Pruned { removed })
    }
}

/// Where this host sends packets elsewhere than by default. A host that doesn't say so has no clash that could be seen.
pub(in crate::node) fn host_routes() -> Vec<(IpPrefix, String)> {
    let routes = || -> Result<_, NetlinkError> { Netlink::open_here()?.routes() };
    let routes = routes().unwrap_or_else(|error| {
        warn!("a new network's addresses are not compared with this host's routes: {error}");
        Vec::new()
    });
    let prefix = |(address, length, link)| Some((IpPrefix::new(address, length)?, link));
    routes.into_iter().filter_map(prefix).collect()
}
