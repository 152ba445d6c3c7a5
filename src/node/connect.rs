//! More networks for a namespace that has an endpoint: another TAP in it for each, with an endpoint of the same name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cluster::Cluster;
use super::endpoints::attached;
use super::life::{Node, conflict};
use super::networks::{find_network, may_attach};
use super::requests::find_all;
use crate::api::{
    AttachRequest, Attached, Code, ConnectRequest, DisconnectRequest, EndpointDevice, Name, NetworkView,
    PublishedView, Refusal,
};
use crate::overlay::{EndpointSpec, EndpointView, Overlay, place_of};
use crate::switch::io::netns::NetnsRef;

impl Node {
    /// Where this node's endpoints are reached from outside, by their ids.
    #[must_use]
    pub fn published(&self) -> BTreeMap<String, Vec<PublishedView>> {
        let overlay = self.cluster_now().ok().and_then(|cluster| cluster.overlay());
        let endpoints = overlay.map(|overlay| overlay.endpoints()).unwrap_or_default();
        endpoints.into_iter().map(|view| (view.spec.id, view.published)).collect()
    }

    /// The endpoints in the namespace of a process, in the order of their interfaces.
    #[must_use]
    pub fn attached_in(&self, pid: u32) -> Vec<Attached> {
        let Ok((cluster, place)) =
            self.cluster_now().map(|cluster| (cluster, place_of(NetnsRef::Pid(pid)).ok()))
        else {
            return Vec::new();
        };
        let networks = cluster.network_views();
        let endpoints = cluster.overlay().map(|overlay| overlay.endpoints()).unwrap_or_default();
        let is_there = |view: &EndpointView| place.is_some() && view.spec.place().ok() == Some(place);
        let shown = endpoints.into_iter().filter(is_there).filter_map(|view| {
            let network = networks.iter().find(|network| network.id == view.spec.network.0)?;
            Some(attached(network, view))
        });
        let mut shown: Vec<Attached> = shown.collect();
        shown.sort_by(|one, other| one.interface.cmp(&other.interface));
        shown
    }
}

impl Cluster {
    /// Gives the namespace of an endpoint a place in another network.
    ///
    /// # Errors
    /// If there is no such network or endpoint here, it has no namespace of its own, or that is in the network.
    pub(super) async fn connect(
        self: &Arc<Self>,
        network: &Name,
        request: ConnectRequest,
    ) -> Result<Attached, Refusal> {
        let network = find_network(&self.network_views(), network)?.clone();
        may_attach(&network)?;
        let all: Vec<EndpointSpec> = match self.overlay() {
            Some(overlay) => overlay.endpoints().into_iter().map(|view| view.spec).collect(),
            None => Vec::new(),
        };
        let found = find_all(&request.endpoint, &all, |spec| (spec.id.clone(), &spec.name));
        let beside = self.one_place(&request.endpoint, &found)?;
        let netns = beside.device.netns().ok_or_else(|| no_namespace(beside))?;
        let at = beside.place().map_err(conflict)?;
        let is_there = |spec: &&EndpointSpec| spec.network.0 == network.id && spec.place().ok() == Some(at);
        if let Some(there) = all.iter().find(is_there) {
            return Err(conflict(format!(
                "{} is in network {} already, by {}",
                there.name,
                network.name,
                there.device.interface()
            )));
        }
        let request = AttachRequest {
            network: network.id.parse().map_err(conflict)?,
            name: beside.name.parse().map_err(conflict)?,
            device: EndpointDevice::tap(beside.device.interface(), Some(netns.into())),
            ip: request.ip,
            mac: None,
            aliases: request.aliases,
            published: Vec::new(),
            service: None,
        };
        self.attach_to(&network, request, Overlay::attach_beside).await
    }

    /// Takes an endpoint, or the one beside it that is in that network, out of the network.
    ///
    /// # Errors
    /// If there is no such network or endpoint here, or it is not in that network, unless that is well.
    pub(super) fn disconnect(&self, network: &Name, request: &DisconnectRequest) -> Result<(), Refusal> {
        let network = find_network(&self.network_views(), network)?.clone();
        let outcome = self.leave_network(&network, &request.endpoint);
        match outcome {
            Err(refusal) if request.force && refusal.code == Code::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn leave_network(&self, network: &NetworkView, wanted: &Name) -> Result<(), Refusal> {
        let overlay = self.overlay().ok_or_else(|| self.missing(wanted))?;
        let all = overlay.kept();
        let found = find_all(wanted, &all, |spec| (spec.id.clone(), &spec.name));
        let own = found.iter().copied().find(|spec| spec.network.0 == network.id);
        let there = match own {
            Some(own) => Some(own),
            None => {
                let at = self.one_place(wanted, &found)?.place().ok().flatten();
                let is_beside =
                    |spec: &&EndpointSpec| spec.network.0 == network.id && spec.place().ok().flatten() == at;
                at.and_then(|_| all.iter().find(is_beside))
            }
        };
        let absent = || Refusal::new(Code::NotFound, format!("{wanted} is not in network {}", network.name));
        if self.take_out(&overlay, there.ok_or_else(absent)?)? { Ok(()) } else { Err(absent()) }
    }

    /// One of those that were found, if all are in one place: that of a name is in several networks, if it is
    /// connected.
    fn one_place<'s>(&self, wanted: &Name, found: &[&'s EndpointSpec]) -> Result<&'s EndpointSpec, Refusal> {
        let [first, others @ ..] = found else { return Err(self.missing(wanted)) };
        let place = |spec: &EndpointSpec| spec.place().ok().flatten();
        if !others.is_empty()
            && others.iter().any(|other| place(first).is_none() || place(other) != place(first))
        {
            let ids: Vec<_> = found.iter().map(|spec| spec.id.as_str()).collect();
            return Err(conflict(format!(
                "several endpoints are called {wanted}: give an id ({})",
                ids.join(", ")
            )));
        }
        Ok(first)
    }

    /// Why an endpoint is not found: it may be another node's.
    fn missing(&self, wanted: &Name) -> Refusal {
        let elsewhere = self.endpoint_records().into_iter().find(|(node, id, record)| {
            *node != self.id && (record.name == wanted.as_str() || id == wanted.as_str())
        });
        let place = elsewhere
            .map(|(node, ..)| format!(": it is on node {}, ask there", self.node_name(node)))
            .unwrap_or_default();
        Refusal::new(Code::NotFound, format!("this node has no endpoint {wanted}{place}"))
    }
}

/// Why there can be no TAP beside an endpoint's.
fn no_namespace(spec: &EndpointSpec) -> Refusal {
    let (name, device) = (&spec.name, &spec.device);
    conflict(match device {
        EndpointDevice::Tap { .. } => format!(
            "{name} has no namespace of its own ({device} is the host's): `vswitchd expose` gives the host more \
             networks"
        ),
        _ => format!(
            "{name} has no namespace, being a virtual machine: `vswitchd attach` another socket for it"
        ),
    })
}
