//! The host itself in a network: an endpoint like others, with a TAP in the daemon's own namespace.

use std::sync::Arc;

use rustix::process::getuid;

use super::cluster::Cluster;
use super::life::{conflict, internal};
use super::networks::{find_network, host_routes, may_attach};
use crate::api::{AttachRequest, Attached, Code, EndpointDevice, ExposeRequest, Name, NetworkView, Refusal};
use crate::overlay::{AttachError, EndpointSpec, EndpointView, Overlay};
use crate::switch::io::tap::TapError;

impl Cluster {
    /// Gives this host a place in a network.
    ///
    /// # Errors
    /// If there is no such network, the host is in it, has other hosts at its addresses, or may not be given a TAP.
    pub(super) async fn expose(
        self: &Arc<Self>,
        network: &Name,
        request: ExposeRequest,
    ) -> Result<Attached, Refusal> {
        let network = find_network(&self.network_views(), network)?.clone();
        may_attach(&network)?;
        let interface = request.interface.unwrap_or_else(|| format!("vsw{}", network.vni));
        let name = match request.name {
            Some(name) => name,
            None => self
                .node_name(self.id)
                .parse()
                .map_err(|_| conflict("this node's name is no endpoint's: give another one by `--name`"))?,
        };
        self.check_routes(&network, &interface)?;
        let request = AttachRequest {
            network: network.id.parse().map_err(internal)?,
            name,
            device: EndpointDevice::tap(interface, None),
            ip: request.ip,
            mac: None,
            aliases: Vec::new(),
            published: Vec::new(),
            service: None,
        };
        self.attach_to(&network, request, place).await
    }

    /// Takes this host out of a network.
    ///
    /// # Errors
    /// If there is no such network, or the host is not in it.
    pub(super) fn unexpose(&self, network: &Name) -> Result<(), Refusal> {
        let network = find_network(&self.network_views(), network)?.clone();
        let absent = || {
            let message = format!("network {} is not exposed to this host", network.name);
            Refusal::new(Code::NotFound, message)
        };
        let overlay = self.overlay().ok_or_else(absent)?;
        let all = overlay.kept();
        let own = find_exposed(&all, &network).ok_or_else(absent)?;
        if self.take_out(&overlay, own)? { Ok(()) } else { Err(absent()) }
    }

    /// Whether the network's addresses are not those of other hosts here: a host has one way to each.
    fn check_routes(&self, network: &NetworkView, interface: &str) -> Result<(), Refusal> {
        // That it is there already is another refusal.
        let is_there = |overlay: &Arc<Overlay>| find_exposed(&overlay.kept(), network).is_some();
        let routes = if self.overlay().as_ref().is_some_and(is_there) { Vec::new() } else { host_routes() };
        for subnet in network.subnets.iter().map(|subnet| subnet.subnet) {
            let clash = routes.iter().find(|(route, link)| subnet.covers(*route) && link != interface);
            if let Some((route, link)) = clash {
                return Err(conflict(format!(
                    "this host has other hosts at addresses of network {}: its route {route} on {link} is in {subnet}",
                    network.name
                )));
            }
        }
        Ok(())
    }
}

fn find_exposed<'s>(all: &'s [EndpointSpec], network: &NetworkView) -> Option<&'s EndpointSpec> {
    all.iter().find(|spec| spec.exposed && spec.network.0 == network.id)
}

/// The host keeps the way out that it has.
fn place(overlay: &Overlay, spec: EndpointSpec) -> Result<EndpointView, AttachError> {
    let interface = spec.device.interface().to_owned();
    let spec = EndpointSpec { exposed: true, gateways: Vec::new(), ..spec };
    overlay.attach(spec).map_err(|error| match error {
        AttachError::Tap(TapError::NotPermitted(_)) => {
            AttachError::HostNotPermitted { interface, user: getuid().as_raw() }
        }
        other => other,
    })
}
