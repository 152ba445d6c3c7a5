//! What each node tells all of its part of a network's addresses.
//!
//! A record of a node that is dead is not there, so what it said last is remembered: a refusal is to say how
//! many free addresses are out of reach.

use std::collections::{BTreeMap, BTreeSet};

use super::super::cluster::Cluster;
use super::super::records::{SharesRecord, gossip_id, node_id};
use super::pools::{Network, Place, PoolError};
use crate::api::{NodeUse, Subnet, SubnetUse};
use crate::crypto::identity::NodeId;
use crate::gossip;
use crate::ipam::{Other, Share};

/// What nodes said last of each network, by its id.
pub(in crate::node) type SharesHeard = BTreeMap<(NodeId, String), Vec<Share>>;

impl Cluster {
    /// Tells the others what this node holds, as far as they have not heard of it.
    pub(in crate::node) fn say_shares(&self) {
        let record = |(network, shares)| (network, SharesRecord { shares });
        let wanted = self.addresses.shares().into_iter().map(record).collect();
        self.say(&wanted, "how many addresses this node holds");
    }

    /// Remembers what others say.
    pub(in crate::node) fn note_shares(&self) {
        let members: BTreeSet<NodeId> = self.members().into_iter().map(|(node, _)| node).collect();
        let networks: BTreeSet<String> = self.networks().into_iter().map(|(id, _)| id).collect();
        let said = self.gossip.list::<SharesRecord>().into_iter();
        let said =
            said.filter_map(|(owner, network, record)| Some(((node_id(owner?), network), record.shares)));
        let mut heard = self.shares_heard();
        heard.extend(said);
        heard.retain(|(node, network), _| members.contains(node) && networks.contains(network));
    }

    /// How the addresses of a network are used, as far as is known here.
    pub(in crate::node) fn subnet_uses(&self, network: &Network) -> Vec<SubnetUse> {
        self.note_shares();
        let own = self.addresses.shares().remove(&network.0).unwrap_or_default();
        let heard = self.shares_heard().clone();
        let others = heard.into_iter().filter(|((node, id), _)| *id == network.0 && *node != self.id);
        let said = others.map(|((node, _), shares)| (node, shares)).chain([(self.id, own)]);
        let said: Vec<(NodeId, Vec<Share>)> = said.collect();
        let of = |(place, subnet): (Place, &Subnet)| {
            let node = |(node, shares): &(NodeId, Vec<Share>)| {
                let share = shares.get(usize::from(place.subnet)).filter(|share| share.owned > 0)?;
                let name = self.node_name(*node);
                let [owned, free, used] = [share.owned, share.free, share.used].map(count);
                Some(NodeUse { node: name, own: *node == self.id, owned, free, used })
            };
            let mut nodes: Vec<_> = said.iter().filter_map(node).collect();
            nodes.sort_by(|one, other| one.node.cmp(&other.node));
            let capacity = self.addresses.space(&place, subnet).map_or(0, |space| count(space.capacity()));
            SubnetUse { subnet: subnet.subnet, capacity, nodes }
        };
        Place::all(network).map(of).collect()
    }

    /// The other members, as far as is known from what they said last.
    pub(super) fn others(
        &self,
        network: &Network,
        place: &Place,
        subnet: &Subnet,
    ) -> Result<BTreeMap<gossip::NodeId, Other>, PoolError> {
        let own = self.addresses.change(place, subnet, |pool| pool.share())?;
        let capacity = self.addresses.space(place, subnet)?.capacity();
        let alive: BTreeSet<NodeId> =
            self.peers().into_iter().filter(|(_, peer)| peer.alive).map(|(node, _)| node).collect();
        self.note_shares();
        let heard = self.shares_heard();
        let members = self.members().into_iter().map(|(node, _)| node).filter(|&node| node != self.id);
        let said = members.map(|node| {
            let shares = heard.get(&(node, place.network.clone()));
            let share = shares.and_then(|shares| shares.get(usize::from(place.subnet)).copied());
            (node, share, alive.contains(&node))
        });
        Ok(complete(capacity, own, Some(node_id(network.1.maker)), said.collect()))
    }
}

fn count(addresses: u128) -> u64 {
    u64::try_from(addresses).unwrap_or(u64::MAX)
}

/// What is missing in all that was said is with somebody who has not been heard: the network's maker, or who is
/// dead.
fn complete(
    capacity: u128,
    own: Share,
    maker: Option<NodeId>,
    said: Vec<(NodeId, Option<Share>, bool)>,
) -> BTreeMap<gossip::NodeId, Other> {
    let known = said.iter().filter_map(|(_, share, _)| Some(share.as_ref()?.owned));
    let known = known.fold(own.owned, u128::saturating_add);
    let rest = capacity.saturating_sub(known);
    let unheard = |&&(node, share, alive): &&(NodeId, Option<Share>, bool)| {
        share.is_none() && (!alive || Some(node) == maker)
    };
    let holder = said.iter().filter(unheard).max_by_key(|(node, ..)| Some(*node) == maker);
    let holder = holder.map(|(node, ..)| *node);
    let other = |(node, share, alive): (NodeId, Option<Share>, bool)| {
        let unheard = if Some(node) == holder { rest } else { 0 };
        let unheard = Share { owned: unheard, free: unheard, used: 0 };
        let share = share.unwrap_or(unheard);
        (gossip_id(node), Other { share, alive })
    };
    said.into_iter().map(other).collect()
}
