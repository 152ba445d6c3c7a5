//! This node's endpoints: attached with a name that nobody has, said to all, and detached.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ring::rand::SystemRandom;
use tracing::{debug, info, warn};

use super::cluster::Cluster;
use super::life::{bad_request, conflict, internal};
use super::networks::{find_network, may_attach};
use super::records::{EndpointRecord, TaskPhase, TaskRecord, node_id};
use super::requests::find;
use super::services::find_service;
use crate::api::{
    ALIASES_MAX, AttachRequest, Attached, Code, HostAddress, IpPrefix, Name, NetworkView, PUBLISHED_MAX,
    Refusal,
};
use crate::crypto::identity::NodeId;
use crate::overlay::{AttachError, Backend, BackendState, EndpointSpec, EndpointView, NetworkId, Overlay};
use crate::switch::wire::MacAddr;

impl Cluster {
    /// Gives a TAP or a virtual machine a place in a network.
    ///
    /// # Errors
    /// If the network is not there or for something else, or the name or the MAC address is another endpoint's.
    pub(super) async fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<Attached, Refusal> {
        let network = find_network(&self.network_views(), &request.network)?.clone();
        may_attach(&network)?;
        self.attach_to(&network, request, Overlay::attach).await
    }

    /// Gives a task of a service a place in a network, be it the routing mesh's.
    ///
    /// # Errors
    /// As for others.
    pub(super) async fn attach_task(self: &Arc<Self>, request: AttachRequest) -> Result<Attached, Refusal> {
        let network = find_network(&self.network_views(), &request.network)?.clone();
        self.attach_to(&network, request, Overlay::attach).await
    }

    /// The same in that network, `how` being what becomes of the endpoint once it has addresses.
    pub(super) async fn attach_to(
        self: &Arc<Self>,
        network: &NetworkView,
        request: AttachRequest,
        how: impl FnOnce(&Overlay, EndpointSpec) -> Result<EndpointView, AttachError>,
    ) -> Result<Attached, Refusal> {
        check(&request)?;
        self.check_free(network, &request)?;
        let backend =
            request.service.as_ref().map(|service| self.backend_of(service, network)).transpose()?;
        let overlay = self.start_overlay().await.map_err(conflict)?;
        let id = NodeId::random(&SystemRandom::new()).map_err(internal)?.to_string();
        let coming = self.addresses.begin_attach(&id);
        let made = self.attach_with_addresses(&overlay, network, &id, (request, backend), how).await;
        drop(coming);
        if made.is_err() {
            self.release_addresses();
        }
        let made = made?;
        info!(
            "endpoint {} of network {}: {}, MTU {}",
            made.spec.name, network.name, made.spec.device, made.mtu
        );
        self.say_presence(&overlay);
        self.say_endpoints(&overlay);
        Ok(attached(network, made))
    }

    async fn attach_with_addresses(
        &self,
        overlay: &Overlay,
        network: &NetworkView,
        id: &str,
        (request, backend): (AttachRequest, Option<Backend>),
        how: impl FnOnce(&Overlay, EndpointSpec) -> Result<EndpointView, AttachError>,
    ) -> Result<EndpointView, Refusal> {
        let gone = || conflict(format!("network {} has just been removed", network.name));
        let record = self.networks().into_iter().find(|(id, _)| *id == network.id).ok_or_else(gone)?;
        let addresses = self.acquire(&record, id, &request.ip).await?;
        let spec = EndpointSpec {
            aliases: request.aliases.iter().map(ToString::to_string).collect(),
            gateways: gateways(network, &addresses),
            beside: beside(network, &addresses),
            addresses,
            mac: request.mac,
            published: request.published,
            backend,
            ..EndpointSpec::new(id, request.name.to_string(), NetworkId(network.id.clone()), request.device)
        };
        how(overlay, spec).map_err(|error| match error {
            AttachError::State(error) => internal(error),
            other => conflict(other),
        })
    }

    /// Takes back the addresses of endpoints that are not there any more, once it is known which are.
    pub(super) fn release_addresses(&self) {
        if !self.restored.load(Ordering::Acquire) {
            return;
        }
        let there = || {
            let kept = self.overlay().map(|overlay| overlay.kept()).unwrap_or_default();
            kept.into_iter().map(|spec| spec.id).collect()
        };
        match self.addresses.retain(there) {
            Ok(released) if released.is_empty() => {}
            Ok(released) => {
                let addresses: Vec<_> = released.iter().map(|(_, address)| address.to_string()).collect();
                debug!("released {}", addresses.join(", "));
                self.say_shares();
            }
            Err(error) => warn!("can't take back the addresses of endpoints that are gone: {error}"),
        }
    }

    /// Takes an endpoint out of its network.
    ///
    /// # Errors
    /// If there is none, or several have that name.
    pub(super) fn detach(&self, wanted: &Name) -> Result<(), Refusal> {
        let missing = || Refusal::new(Code::NotFound, format!("this node has no endpoint {wanted}"));
        let overlay = self.overlay().ok_or_else(missing)?;
        let all = overlay.kept();
        let found = find("endpoint", wanted, &all, |spec| (spec.id.clone(), &spec.name));
        let spec = found.map_err(|refusal| match refusal.code {
            Code::NotFound => missing(),
            _ => refusal,
        })?;
        if self.take_out(&overlay, spec)? { Ok(()) } else { Err(missing()) }
    }

    /// Takes that endpoint out of its network; gives whether it was still there.
    pub(super) fn take_out(&self, overlay: &Overlay, spec: &EndpointSpec) -> Result<bool, Refusal> {
        if !overlay.detach(&spec.id).map_err(internal)? {
            return Ok(false);
        }
        info!("endpoint {} is detached", spec.name);
        self.say_presence(overlay);
        self.say_endpoints(overlay);
        self.release_addresses();
        Ok(true)
    }

    /// Every endpoint of the cluster, as far as its node is heard: its node, its id, and what it is.
    pub(super) fn endpoint_records(&self) -> Vec<(NodeId, String, EndpointRecord)> {
        let records = self.gossip.list::<EndpointRecord>().into_iter();
        records.filter_map(|(owner, id, record)| Some((node_id(owner?), id, record))).collect()
    }

    /// What people call a node.
    pub(super) fn node_name(&self, node: NodeId) -> String {
        let named = self.nodes().into_iter().find(|&(known, _)| known == node);
        named.map_or_else(|| node.to_string(), |(_, record)| record.name)
    }

    /// Whether no other endpoint of the network has the name or MAC address that is asked for. Two that are
    /// attached at one moment on two nodes both get it.
    fn check_free(&self, network: &NetworkView, request: &AttachRequest) -> Result<(), Refusal> {
        for (node, _, record) in self.endpoint_records() {
            if record.network != network.id {
                continue;
            }
            let place = || format!("on node {}", self.node_name(node));
            if record.name == request.name.as_str() {
                let (name, network) = (&record.name, &network.name);
                return Err(conflict(format!(
                    "network {network} has an endpoint {name} {} already: choose another name",
                    place()
                )));
            }
            if let Some(mac) = request.mac.filter(|mac| mac.0 == record.mac) {
                return Err(conflict(format!("{mac} is that of endpoint {} {}", record.name, place())));
            }
        }
        Ok(())
    }

    /// What an endpoint of a network is to a service, from now on.
    fn backend_of(&self, service: &Name, network: &NetworkView) -> Result<Backend, Refusal> {
        let services = self.service_views();
        let service = find_service(&services, service)?;
        if service.networks.iter().all(|place| place.network != network.id) {
            let (service, network) = (&service.spec.name, &network.name);
            return Err(conflict(format!(
                "service {service} is not in network {network}: `vswitchd service update --network-add {network} {service}`"
            )));
        }
        Ok(Backend { service: service.id.clone(), state: BackendState::Live })
    }

    /// Has the endpoints of this node's tasks answer for their services as long as the tasks run.
    pub(super) fn note_backends(&self, tasks: &BTreeMap<String, TaskRecord>) {
        let Some(overlay) = self.overlay() else { return };
        let backends = tasks.values().flat_map(|task| {
            let state = match task.state {
                TaskPhase::Running => Some(BackendState::Live),
                TaskPhase::Draining => Some(BackendState::Draining),
                _ => None,
            };
            let backend = state.map(|state| Backend { service: task.service.clone(), state });
            task.endpoints.iter().map(move |endpoint| (endpoint.clone(), backend.clone()))
        });
        match overlay.set_backends(&backends.collect()) {
            Ok(false) => return,
            Ok(true) => {}
            // So it is all the same, until the daemon ends.
            Err(error) => warn!("can't keep which endpoints answer for services: {error}"),
        }
        self.say_endpoints(&overlay);
    }

    /// Tells the others which endpoints we have.
    pub(super) fn say_endpoints(&self, overlay: &Overlay) {
        let record = |view: EndpointView| {
            let spec = view.spec;
            let record = EndpointRecord {
                network: spec.network.0,
                name: spec.name,
                addresses: spec.addresses.iter().map(|own| own.address()).collect(),
                mac: spec.mac.unwrap_or(MacAddr([0; 6])).0,
                aliases: spec.aliases,
                backend: spec.backend,
            };
            (spec.id, record)
        };
        let wanted: BTreeMap<String, EndpointRecord> = overlay.endpoints().into_iter().map(record).collect();
        self.say(&wanted, "which endpoints this node has");
    }
}

/// Whether a request makes sense in itself.
fn check(request: &AttachRequest) -> Result<(), Refusal> {
    let v4 = request.ip.iter().filter(|address| address.is_ipv4()).count();
    if v4 > 1 || request.ip.len() - v4 > 1 {
        return Err(bad_request("an endpoint has at most one address of each IP version"));
    }
    if request.aliases.len() > ALIASES_MAX {
        return Err(bad_request(format!("an endpoint has at most {ALIASES_MAX} aliases")));
    }
    if request.published.len() > PUBLISHED_MAX || request.published.iter().any(|port| port.target == 0) {
        return Err(bad_request(format!(
            "an endpoint has at most {PUBLISHED_MAX} published ports, each to a port of its own from 1 to 65535"
        )));
    }
    if let Some(path) = request.device.sockets().find(|path| !Path::new(path).is_absolute()) {
        return Err(bad_request(format!("{path:?} is no absolute path of a socket")));
    }
    match request.mac {
        Some(mac) if mac.is_multicast() || mac.is_zero() => Err(bad_request(format!(
            "{mac} is no device's MAC address: the first byte is even, and not all are zero"
        ))),
        _ => Ok(()),
    }
}

pub(super) fn attached(network: &NetworkView, made: EndpointView) -> Attached {
    let spec = made.spec;
    // Of the subnet that it has an address of.
    let subnet = network
        .subnets
        .iter()
        .find(|subnet| spec.addresses.iter().any(|own| subnet.subnet.contains(own.address())));
    Attached {
        id: spec.id,
        network: network.id.clone(),
        interface: spec.device.interface().into(),
        mac: spec.mac.unwrap_or(MacAddr([0; 6])),
        addresses: spec.addresses,
        gateways: spec.gateways,
        resolver: subnet.map(|subnet| subnet.gateway),
        mtu: made.mtu,
        published: made.published,
    }
}

/// The way out from these addresses: the gateways of their subnets, unless there is no world outside.
fn gateways(network: &NetworkView, addresses: &[HostAddress]) -> Vec<IpAddr> {
    let of = |own: &HostAddress| {
        let subnet = network.subnets.iter().find(|subnet| subnet.subnet.contains(own.address()))?;
        Some(subnet.gateway)
    };
    if network.options.internal { Vec::new() } else { addresses.iter().filter_map(of).collect() }
}

/// The network's subnets that none of these addresses is in.
fn beside(network: &NetworkView, addresses: &[HostAddress]) -> Vec<IpPrefix> {
    let is_other = |subnet: &IpPrefix| addresses.iter().all(|own| !subnet.contains(own.address()));
    let has_version =
        |subnet: &IpPrefix| addresses.iter().any(|own| own.address().is_ipv4() == subnet.is_ipv4());
    let subnets = network.subnets.iter().map(|subnet| subnet.subnet);
    subnets.filter(|subnet| is_other(subnet) && has_version(subnet)).collect()
}
