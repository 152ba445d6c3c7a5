//! Ports of this host at which its endpoints are published: opened with an endpoint, or not attached at all; free again
//! when it is gone.
//!
//! After a restart of the daemon they come back with their endpoints. What somebody else has taken meanwhile is told, and
//! tried again with each look at the paths, so that an endpoint is not lost for it.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Semaphore;

use super::endpoint::{AttachError, EndpointSpec};
use super::event::OverlayEvent;
use super::work::{Endpoint, Inner, Shared};
use crate::api::{PublishedPort, PublishedView};
use crate::gateway::Publication;
use crate::gateway::door::{Door, DoorError};

/// A published port, whose doors are closed when it is dropped.
#[derive(Debug)]
pub(super) struct Published {
    port: PublishedPort,
    /// Or why there are none.
    doors: Result<Vec<Arc<Door>>, String>,
}

impl Published {
    /// Opens a port's doors; if it may be any, it is settled which it is.
    fn open(port: PublishedPort, sockets: &Arc<Semaphore>) -> Result<Self, DoorError> {
        let doors = Door::open(&port, sockets)?;
        let published = doors.first().map_or(port.published, |door| door.at().port());
        Ok(Self { port: PublishedPort { published, ..port }, doors: Ok(doors) })
    }

    fn doors(&self) -> &[Arc<Door>] {
        self.doors.as_deref().unwrap_or_default()
    }

    pub(super) fn view(&self) -> PublishedView {
        let PublishedPort { published, target, protocol, .. } = self.port;
        let at = self.doors().iter().map(|door| door.at()).collect();
        PublishedView { target, protocol, published, at, error: self.doors.as_ref().err().cloned() }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.doors().iter().for_each(|door| door.close());
    }
}

/// Opens all that an endpoint publishes, or none.
pub(super) fn open(spec: &mut EndpointSpec, sockets: &Arc<Semaphore>) -> Result<Vec<Published>, AttachError> {
    let open = |port: &mut PublishedPort| {
        let published = Published::open(*port, sockets)?;
        *port = published.port;
        Ok(published)
    };
    spec.published.iter_mut().map(open).collect()
}

/// What gateways are told of an endpoint's.
pub(super) fn publications(endpoint: &Endpoint) -> impl Iterator<Item = Publication> {
    let spec = &endpoint.kept.spec;
    let of = move |published: &Published| {
        let addresses: Vec<_> = spec.addresses.iter().map(|own| own.address()).collect();
        let (mac, port) = (spec.mac?, published.port.target);
        let publication = |door: &Arc<Door>| Publication {
            door: Arc::clone(door),
            mac,
            addresses: addresses.clone(),
            port,
            ways_out: endpoint.ways_out.clone(),
        };
        Some(published.doors().iter().map(publication).collect::<Vec<_>>())
    };
    endpoint.published.iter().filter_map(of).flatten()
}

impl Shared {
    /// Opens again what an endpoint of an earlier life publishes, as far as that can be.
    pub(super) fn reopen_ports(&self, inner: &Inner, spec: &EndpointSpec) -> Vec<Published> {
        let reopen = |&port: &PublishedPort| match Published::open(port, inner.gateways.sockets()) {
            Ok(published) => published,
            Err(error) => {
                let reason = error.to_string();
                let (endpoint, network) = (spec.name.clone(), spec.network.clone());
                self.tell(OverlayEvent::NotPublished { endpoint, network, port, reason: reason.clone() });
                Published { port, doors: Err(reason) }
            }
        };
        spec.published.iter().map(reopen).collect()
    }

    /// Tries again what could not be opened.
    pub(super) fn retry_ports(&self, inner: &mut Inner) {
        let Inner { endpoints, gateways, .. } = inner;
        let mut any = false;
        for endpoint in endpoints.values_mut() {
            let spec = &endpoint.kept.spec;
            for published in endpoint.published.iter_mut().filter(|published| published.doors.is_err()) {
                match Published::open(published.port, gateways.sockets()) {
                    Ok(opened) => {
                        let (endpoint, network) = (spec.name.clone(), spec.network.clone());
                        self.tell(OverlayEvent::Published { endpoint, network, port: opened.port });
                        *published = opened;
                        any = true;
                    }
                    // It has been told; what it is now is shown.
                    Err(error) => published.doors = Err(error.to_string()),
                }
            }
        }
        if any {
            gateways.publish(endpoints);
        }
    }
}

impl Inner {
    /// A namespace has lost those ways out: for each IP version the first of some others in it that has a gateway is it
    /// now, as [`super::interface::remove`] has set the routes.
    pub(super) fn hand_on(&mut self, lost: &[IpAddr], others: &[String]) {
        for lost in lost {
            let way_out = |endpoint: &Endpoint| {
                let same = |gateway: &&IpAddr| gateway.is_ipv4() == lost.is_ipv4();
                endpoint.kept.spec.gateways.iter().find(same).copied()
            };
            let next = others.iter().find(|id| self.endpoints.get(*id).and_then(way_out).is_some());
            if let Some(endpoint) = next.and_then(|id| self.endpoints.get_mut(id)) {
                endpoint.ways_out.extend(way_out(endpoint));
            }
        }
        self.gateways.publish(&self.endpoints);
    }

    /// Whether no other endpoint of this node, or this one itself, has a port that is to be published.
    pub(super) fn check_ports(&self, spec: &EndpointSpec) -> Result<(), AttachError> {
        for (index, port) in spec.published.iter().enumerate() {
            if spec.published[..index].iter().any(|other| other.clashes(port)) {
                return Err(AttachError::PublishedTwice(*port));
            }
            let has = |other: &&EndpointSpec| other.published.iter().any(|other| other.clashes(port));
            let Some(other) = self.kept().map(|kept| &kept.spec).find(has) else { continue };
            let network = self.view.networks.iter().find(|network| network.id == other.network);
            let network = network.map_or_else(|| other.network.to_string(), |network| network.name.clone());
            return Err(AttachError::Published { port: *port, endpoint: other.name.clone(), network });
        }
        Ok(())
    }
}
