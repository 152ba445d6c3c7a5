//! Announced endpoints; and which addresses each has, kept by the writer beside what is published.
//!
//! What is published is for questions: an address leads to its endpoint. Changes go the other way, and hundreds of
//! endpoints may come or go at once, so none of them looks through the addresses of all. Both tables have the same
//! pairs at any time, so the limit of the one bounds the other.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Master, NEIGHBOURS_MAX, TableError};
use crate::fdb::Place;
use crate::wire::{MacAddr, Vni};

pub(super) type Neighbours = HashMap<(Vni, IpAddr), MacAddr, foldhash::fast::RandomState>;

#[derive(Debug, Default)]
pub(super) struct Announced(HashMap<(Vni, MacAddr), Vec<IpAddr>, foldhash::fast::RandomState>);

impl Announced {
    /// Gives an endpoint these addresses instead of those it has. One that is another's changes hands.
    pub(super) fn set(&mut self, neighbours: &mut Neighbours, vni: Vni, mac: MacAddr, addresses: &[IpAddr]) {
        self.clear(neighbours, vni, mac);
        let mut own = Vec::with_capacity(addresses.len());
        for &address in addresses {
            match neighbours.insert((vni, address), mac) {
                Some(before) if before == mac => continue,
                Some(before) => self.lose(vni, before, address),
                None => {}
            }
            own.push(address);
        }
        if !own.is_empty() {
            self.0.insert((vni, mac), own);
        }
    }

    /// Takes an endpoint's addresses away.
    pub(super) fn clear(&mut self, neighbours: &mut Neighbours, vni: Vni, mac: MacAddr) {
        for address in self.0.remove(&(vni, mac)).into_iter().flatten() {
            neighbours.remove(&(vni, address));
        }
    }

    fn lose(&mut self, vni: Vni, mac: MacAddr, address: IpAddr) {
        let Some(addresses) = self.0.get_mut(&(vni, mac)) else { return };
        addresses.retain(|&own| own != address);
        if addresses.is_empty() {
            self.0.remove(&(vni, mac));
        }
    }
}

impl Master {
    /// Enters an endpoint that the control plane knows, with the addresses that questions are answered for.
    ///
    /// # Errors
    /// A table is full, there is no such port or peer, or the addresses are a service's.
    pub fn announce(
        &mut self,
        vni: Vni,
        mac: MacAddr,
        addresses: &[IpAddr],
        at: Place,
    ) -> Result<(), TableError> {
        if !self.is_member(vni, at) {
            return Err(TableError::NoSuchPlace);
        }
        let topology = &self.published.topology;
        if topology.neighbours.len() + addresses.len() > NEIGHBOURS_MAX {
            return Err(TableError::TooManyNeighbours);
        }
        let holders = addresses.iter().filter_map(|&address| topology.neighbours.get(&(vni, address)));
        if let Some(&of) = holders.chain([&mac]).find(|&&of| topology.is_service(vni, of)) {
            return Err(TableError::OfService(of));
        }
        self.fdb.announce(vni, mac, at)?;
        self.due = true;
        let topology = Arc::make_mut(&mut self.published.topology);
        self.announced.set(&mut topology.neighbours, vni, mac, addresses);
        Ok(())
    }

    /// Takes back an announcement. Gives whether there was one.
    pub fn withdraw(&mut self, vni: Vni, mac: MacAddr) -> bool {
        let was = !self.published.topology.is_service(vni, mac) && self.fdb.withdraw(vni, mac);
        if was {
            self.due = true;
            let topology = Arc::make_mut(&mut self.published.topology);
            self.announced.clear(&mut topology.neighbours, vni, mac);
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map that is searched.
        #[test]
        fn both_directions_say_the_same(
            steps in proptest::collection::vec(
                (1..3_u32, 0..4_u8, proptest::collection::vec(0..6_u8, 0..4)), 0..40),
        ) {
            let (mut announced, mut neighbours) = (Announced::default(), Neighbours::default());
            let mut model = BTreeMap::new();
            for (network, station, addresses) in steps {
                let (vni, mac) = (Vni::new(network).unwrap(), MacAddr([2, 0, 0, 0, 0, station]));
                let addresses: Vec<_> = addresses.into_iter().map(|last| IpAddr::from([10, 0, 0, last])).collect();
                announced.set(&mut neighbours, vni, mac, &addresses);
                model.retain(|&(in_vni, _), held| (in_vni, *held) != (vni, mac));
                model.extend(addresses.iter().map(|&address| ((vni, address), mac)));
                prop_assert_eq!(&neighbours.iter().map(|(&key, &mac)| (key, mac)).collect::<BTreeMap<_, _>>(), &model);
                let pairs = announced.0.iter().flat_map(|(&(vni, mac), own)| {
                    own.iter().map(move |&address| ((vni, address), mac))
                });
                let pairs: Vec<_> = pairs.collect();
                prop_assert_eq!(pairs.len(), model.len());
                prop_assert_eq!(&pairs.into_iter().collect::<BTreeMap<_, _>>(), &model);
                prop_assert!(announced.0.values().all(|own| !own.is_empty()));
            }
        }
    }
}
