//! The MTU of a network's interfaces: what the underlay carries, less what our headers take.
//!
//! It is settled when an interface is made, and follows the paths afterwards: a link in the middle that carries less than
//! those of the hosts is found by probes only. Senders are told by the switch of each packet that is too big (ICMP, MSS);
//! a lower MTU spares them that. What falls and what rises is followed alike: the search behind it tries larger sizes seldom
//! enough (RFC 8899 §5.1.1, `PMTU_RAISE_TIMER`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::event::OverlayEvent;
use super::interface;
use super::view::{NetworkId, View};
use super::work::{Inner, Shared};
use crate::switch::io::tap::{MTU_MAX, MTU_MIN};
use crate::switch::io::udp::path_mtu;
use crate::switch::tunnel::Protection;

/// The underlay's MTU where neither a path is known to carry less nor a network says otherwise: Ethernet's. What carries
/// more is not made use of unasked, since a node on an ordinary link may come at any time.
const UNDERLAY_MTU: u32 = 1_500;
/// How often interfaces are compared with the paths.
pub(super) const FOLLOW: Duration = Duration::from_secs(5);
/// No interface follows a path below what IPv4 hosts have to take (RFC 1122 §3.3.2),
const LEAST_V4: u32 = 576;
/// or with less than which there is no IPv6 (RFC 8200 §5).
const LEAST_V6: u32 = 1_280;

impl Shared {
    /// Gives interfaces that we made the MTU that the paths to their peers carry.
    pub(super) fn follow_paths(&self) {
        let mut inner = self.inner();
        if inner.plane.is_none() {
            // There will be another one; until then nothing is known of peers.
            return;
        }
        let least = LeastPaths::find(&inner.view, inner.local);
        let own = inner.endpoints.iter().filter(|(_, endpoint)| endpoint.device.is_own_interface());
        let wanted = own.map(|(id, endpoint)| {
            let kept = &endpoint.kept;
            (id.clone(), inner.mtu_with(&kept.spec.network, kept.protection(), &least))
        });
        let wanted: Vec<(String, u32)> = wanted.collect();
        for (id, mtu) in wanted {
            let Some(endpoint) = inner.endpoints.get_mut(&id).filter(|endpoint| endpoint.mtu_wanted != mtu)
            else {
                continue;
            };
            // Also if it fails: that is said once.
            endpoint.mtu_wanted = mtu;
            let spec = &endpoint.kept.spec;
            let event = match endpoint.kept.check().and_then(|()| interface::set_mtu(spec, mtu)) {
                Ok(()) => {
                    let was = std::mem::replace(&mut endpoint.mtu, mtu);
                    let (endpoint, network) = (spec.name.clone(), spec.network.clone());
                    OverlayEvent::EndpointMtu { endpoint, network, was, mtu }
                }
                Err(error) => {
                    let what = format!("set the MTU of endpoint {} to {mtu}", spec.name);
                    OverlayEvent::SwitchRefused { what, reason: error.to_string() }
                }
            };
            self.tell(event);
        }
    }
}

impl Inner {
    /// What an interface is to have now.
    pub(super) fn mtu(&self, id: &NetworkId, protection: Protection) -> u32 {
        self.mtu_with(id, protection, &LeastPaths::find(&self.view, self.local))
    }

    fn mtu_with(&self, id: &NetworkId, protection: Protection, least: &LeastPaths) -> u32 {
        let most = network_mtu(&self.view, self.local, id, protection, least);
        let carried = self
            .plane
            .as_ref()
            .and_then(|plane| plane.have().networks.values().find(|carried| carried.id == *id));
        let peers = carried.into_iter().flat_map(|carried| &carried.peers);
        let path = peers.filter_map(|&peer| self.watch.mtu(peer)).min();
        let network = self.view.networks.iter().find(|network| network.id == *id);
        let has_v6 =
            network.is_some_and(|network| network.subnets.iter().any(|subnet| !subnet.subnet.is_ipv4()));
        follow(most, path.map(|path| protection.mtu(self.local.ip(), path.into())), has_v6)
    }
}

/// What interfaces have where paths carry so much, and no more than `most` is wanted.
fn follow(most: u32, carried: Option<u32>, has_v6: bool) -> u32 {
    let least = if has_v6 { LEAST_V6 } else { LEAST_V4 };
    carried.map_or(most, |carried| carried.max(least).min(most))
}

/// What the kernel knows of the paths to others: what the narrowest carries. One that can't be reached now says nothing.
pub(super) struct LeastPaths {
    /// To all nodes, whatever networks they are in: they come and go.
    nodes: Option<u32>,
    /// To a network's foreign end points, which answer no probes: this is all that is known of them.
    foreign: BTreeMap<NetworkId, u32>,
}

impl LeastPaths {
    pub(super) fn find(view: &View, local: SocketAddr) -> Self {
        let least =
            |to: BTreeSet<IpAddr>| to.into_iter().filter_map(|to| path_mtu(local.ip(), to).ok()).min();
        let foreign = view.networks.iter().filter_map(|network| {
            let to = network.foreign.iter().map(SocketAddr::ip).collect();
            Some((network.id.clone(), least(to)?))
        });
        let foreign = foreign.collect();
        Self { nodes: least(view.nodes.iter().map(|node| node.data.ip()).collect()), foreign }
    }

    fn of(&self, network: &NetworkId) -> Option<u32> {
        self.nodes.into_iter().chain(self.foreign.get(network).copied()).min()
    }
}

/// What a network's packets may have at most, by what it says of the underlay, and by the narrowest path to another.
pub(super) fn network_mtu(
    view: &View,
    local: SocketAddr,
    id: &NetworkId,
    protection: Protection,
    least: &LeastPaths,
) -> u32 {
    let network = view.networks.iter().find(|network| network.id == *id);
    let most = network.and_then(|network| network.underlay_mtu).map_or(UNDERLAY_MTU, u32::from);
    let path = least.of(id).unwrap_or(most).min(most);
    protection.mtu(local.ip(), path).clamp(MTU_MIN, MTU_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_follow_the_paths_between_their_bounds() {
        for (most, carried, has_v6, want) in [
            (1_450, None, true, 1_450),
            (1_450, Some(1_350), true, 1_350),
            (1_450, Some(8_950), true, 1_450),
            (1_450, Some(1_200), true, 1_280),
            (1_450, Some(1_200), false, 1_200),
            (1_450, Some(500), false, 576),
            // What the user asked for counts, whatever it is.
            (1_150, Some(1_000), true, 1_150),
            (500, Some(400), false, 500),
        ] {
            assert_eq!(follow(most, carried, has_v6), want, "{most}, {carried:?}, {has_v6}");
        }
    }
}
