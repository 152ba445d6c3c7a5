//! The networks of the cluster.

use std::collections::HashSet;

use super::{conflict, find};
use crate::api::{Code, Name, NetworkCreate, NetworkView, Refusal};
use crate::switch::wire::Vni;

/// Where VNIs are taken from if nobody names one: as in Docker, so that people's own are below.
pub(crate) const VNI_FIRST: u32 = 4096;

/// The network that `wanted` names: an id, a name, or the beginning of an id.
///
/// # Errors
/// If it names none, or several.
pub(crate) fn find_network<'a>(
    networks: &'a [NetworkView],
    wanted: &Name,
) -> Result<&'a NetworkView, Refusal> {
    find("network", wanted, networks, |network| (network.id.clone(), &network.name))
}

/// Whether a network may be made beside these, and the VNI that it gets.
///
/// # Errors
/// If there is one of that name or VNI, or the VNI is none.
pub(crate) fn may_create(networks: &[NetworkView], request: &NetworkCreate) -> Result<Vni, Refusal> {
    if let Some(other) = networks.iter().find(|network| network.name == request.name.as_str()) {
        return Err(conflict(format!("there is a network {} already ({})", request.name, other.id)));
    }
    let Some(id) = request.vni else { return choose_vni(networks) };
    let vni = Vni::new(id);
    let vni =
        vni.ok_or_else(|| Refusal::new(Code::BadRequest, format!("VNI {id}: want 0 to {}", Vni::MAX)))?;
    match networks.iter().find(|network| network.vni == id) {
        None => Ok(vni),
        Some(other) => Err(conflict(format!("VNI {id} is that of network {}: choose another", other.name))),
    }
}

/// The first VNI from [`VNI_FIRST`] on that no network has.
///
/// # Errors
/// If all are taken.
pub(crate) fn choose_vni(networks: &[NetworkView]) -> Result<Vni, Refusal> {
    let taken: HashSet<u32> = networks.iter().map(|network| network.vni).collect();
    let free = (VNI_FIRST..=Vni::MAX).find(|id| !taken.contains(id)).and_then(Vni::new);
    free.ok_or_else(|| conflict(format!("all VNIs from {VNI_FIRST} on are taken")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str, vni: u32) -> NetworkView {
        NetworkView { id: format!("id{name}"), name: name.into(), vni, encrypted: false, created_ms: 0 }
    }

    fn create(name: &str, vni: Option<u32>) -> NetworkCreate {
        NetworkCreate { name: name.parse().unwrap(), encrypted: false, vni }
    }

    #[test]
    fn the_first_free_vni_is_chosen() {
        let chosen = |taken: &[u32]| {
            let networks: Vec<_> = taken.iter().map(|&vni| network(&vni.to_string(), vni)).collect();
            may_create(&networks, &create("new", None)).unwrap().id()
        };
        assert_eq!([chosen(&[]), chosen(&[42]), chosen(&[4097])], [4096; 3]);
        assert_eq!([chosen(&[4096]), chosen(&[4098, 4096]), chosen(&[4097, 4096])], [4097, 4097, 4098]);
    }

    #[test]
    fn names_and_vnis_are_taken_once() {
        let networks = [network("front", 4096)];
        let refused = |name, vni| may_create(&networks, &create(name, vni)).unwrap_err();
        assert_eq!(refused("front", None).message, "there is a network front already (idfront)");
        assert_eq!(refused("back", Some(4096)).code, Code::Conflict);
        assert_eq!(refused("back", Some(1 << 24)).code, Code::BadRequest);
        assert_eq!(may_create(&networks, &create("back", Some(42))).unwrap().id(), 42);
    }

    #[test]
    fn networks_are_found_by_name_and_id() {
        let networks = [network("front", 4096), network("back", 4097)];
        let found =
            |wanted: &str| find_network(&networks, &wanted.parse().unwrap()).map(|network| network.vni);
        assert_eq!([found("front"), found("idb")], [Ok(4096), Ok(4097)]);
        assert_eq!(found("side").unwrap_err().code, Code::NotFound);
        assert_eq!(found("id").unwrap_err().code, Code::Conflict);
    }
}
