//! Virtual addresses of services: one of each IP version in each network of a service.
//!
//! The node that makes or changes a service leases them as it would for an endpoint, under the service's id, and writes
//! them into the service's record. From then on no node leases them to anybody, since all have the record; so the lease
//! can go, and they outlive the node. They are free again when the record is gone.

use std::net::IpAddr;

use super::super::addresses::Virtual;
use super::super::cluster::Cluster;
use super::super::life::conflict;
use super::super::records::{ServiceRecord, Vip};
use crate::api::Refusal;
use crate::service::{EndpointMode, ServiceSpec};

impl Cluster {
    /// Has the virtual addresses of all services leased to nobody.
    pub(in crate::node) fn note_services(&self) {
        self.addresses.keep(virtual_addresses(&self.services()));
        self.say_shares();
    }

    /// The virtual addresses that a service is to have: those of `before` in networks that it stays in, and new ones in
    /// others. The new ones are leased under its id as long as it is coming ([`super::super::addresses::Pools::begin_attach`]).
    pub(super) async fn settle_vips(
        &self,
        id: &str,
        spec: &ServiceSpec,
        before: &[Vip],
    ) -> Result<Vec<Vip>, Refusal> {
        if spec.endpoint_mode == EndpointMode::Dnsrr {
            return Ok(Vec::new());
        }
        let networks = self.networks();
        let mut vips = Vec::new();
        for wanted in &spec.networks {
            let wanted = wanted.network.as_str();
            if let Some(vip) = before.iter().find(|vip| vip.network == wanted) {
                vips.push(vip.clone());
                continue;
            }
            let network = networks.iter().find(|(network, _)| network == wanted);
            let network =
                network.ok_or_else(|| conflict(format!("network {wanted} has just been removed")))?;
            let addresses = self.acquire(network, id, &[]).await?;
            let addresses: Vec<IpAddr> = addresses.into_iter().map(|own| own.address()).collect();
            vips.push(Vip { network: wanted.into(), addresses });
        }
        Ok(vips)
    }
}

fn virtual_addresses(services: &[(String, ServiceRecord)]) -> Virtual {
    let mut all = Virtual::new();
    for (_, service) in services {
        for vip in &service.vips {
            let of = all.entry(vip.network.clone()).or_default();
            let what = format!("service {}", service.spec.name);
            of.extend(vip.addresses.iter().map(|&address| (address, what.clone())));
        }
    }
    all
}
