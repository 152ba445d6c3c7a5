//! Services in the tables: set and removed by the control plane.

use std::sync::Arc;

use super::{Master, NEIGHBOURS_MAX, TableError, Topology};
use crate::balance::{FLOWS_MAX, Flows, SERVICES_MAX, Service, ServiceError, ServiceSpec};
use crate::fdb::Place;
use crate::wire::{MacAddr, Vni};

impl Master {
    /// Sets a service of a network, known by its MAC address: a new one, or instead of what it was. New tasks get new flows
    /// from now on; the flows of those that are gone are reset.
    ///
    /// It goes with its network, when that loses its last member.
    ///
    /// # Errors
    /// What contradicts itself or what there is, or a full table.
    pub fn set_service(&mut self, vni: Vni, spec: ServiceSpec) -> Result<(), ServiceError> {
        let topology = &self.published.topology;
        let network = topology.networks.get(&vni).ok_or(ServiceError::NoSuchNetwork(vni))?;
        let (mac, before) = (spec.mac, network.services.get(&spec.mac));
        if before.is_none() && network.services.len() >= SERVICES_MAX {
            return Err(ServiceError::TooManyServices);
        }
        if before.is_none() && self.fdb.is_announced(vni, mac) {
            return Err(ServiceError::MacInUse(mac));
        }
        let service = Arc::new(Service::new(spec, self.next_epoch, before.map(AsRef::as_ref))?);
        let addresses = &service.spec().addresses;
        let taken = |address: &&_| topology.neighbours.get(&(vni, **address)).is_some_and(|&of| of != mac);
        if let Some(&address) = addresses.iter().find(taken) {
            return Err(ServiceError::AddressInUse(address));
        }
        if topology.neighbours.len() + addresses.len() > NEIGHBOURS_MAX {
            return Err(TableError::TooManyNeighbours.into());
        }
        self.fdb.announce(vni, mac, Place::Service).map_err(TableError::Fdb)?;
        // Epoch 0 is no service's.
        self.next_epoch = self.next_epoch.wrapping_add(1).max(1);
        self.due = true;
        self.lost_tasks |= before.is_some();
        let topology = Arc::make_mut(&mut self.published.topology);
        self.announced.set(&mut topology.neighbours, vni, mac, addresses);
        topology.flows.get_or_insert_with(|| Arc::new(Flows::new(FLOWS_MAX)));
        let network = topology.networks.get_mut(&vni).expect("it was there above");
        network.services.insert(mac, service);
        Ok(())
    }

    /// Removes a service; its flows are reset. Gives whether there was one.
    pub fn remove_service(&mut self, vni: Vni, mac: MacAddr) -> bool {
        let networks = &self.published.topology.networks;
        if !networks.get(&vni).is_some_and(|network| network.services.contains_key(&mac)) {
            return false;
        }
        let topology = Arc::make_mut(&mut self.published.topology);
        let network = topology.networks.get_mut(&vni).expect("it was there above");
        network.services.remove(&mac);
        self.announced.clear(&mut topology.neighbours, vni, mac);
        self.fdb.withdraw(vni, mac);
        (self.due, self.lost_tasks) = (true, true);
        true
    }

    /// Whether tasks or services have gone since this was last asked.
    pub(crate) fn take_lost_tasks(&mut self) -> bool {
        std::mem::take(&mut self.lost_tasks)
    }

    /// The services of a network that goes.
    pub(super) fn forget_services(&mut self, vni: Vni) {
        let networks = &self.published.topology.networks;
        let services = networks.get(&vni).into_iter().flat_map(|network| network.services.keys());
        for mac in services.copied().collect::<Vec<_>>() {
            self.remove_service(vni, mac);
        }
    }
}

impl Topology {
    /// Whether a service has this MAC address in a network.
    pub(super) fn is_service(&self, vni: Vni, mac: MacAddr) -> bool {
        self.networks.get(&vni).is_some_and(|network| network.services.contains_key(&mac))
    }
}
