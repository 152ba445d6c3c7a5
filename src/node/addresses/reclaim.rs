//! What removed networks had is forgotten; what removed nodes held is found by asking everybody, and used again.
//!
//! The member with the lowest id asks ([`crate::ipam`] says why that is safe if several do). It goes on asking
//! until all have answered: somebody who is out of reach delays that, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::super::cluster::Cluster;
use super::super::links::LinkError;
use super::super::records::{Removed, gossip_id, node_id};
use super::message::{AddressAnswer, AddressAsk, AddressRequest, SUBNETS_AT_ONCE};
use super::pools::{Network, Place, PoolError};
use crate::api::Subnet;
use crate::crypto::ca::{CERTIFICATE_LIFE, CLOCK_LEEWAY};
use crate::crypto::identity::NodeId;
use crate::gossip;
use crate::ipam::{Answer, Question};

/// How long until those that have not answered are asked again.
const RETRY: Duration = Duration::from_secs(2);
/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// By how much the clocks of two managers may differ: a network that was made longer than this after a removal
/// never had addresses at the removed node.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3_600);

/// Looks after pools, until the cluster ends.
pub(in crate::node) async fn keep(cluster: Arc<Cluster>) {
    loop {
        let networks = cluster.networks();
        let ids = networks.iter().map(|(id, _)| id.clone()).collect();
        if let Err(error) = cluster.addresses.sweep(&ids) {
            warn!("can't forget the addresses of networks that are gone: {error}");
        }
        if let Err(error) = cluster.addresses.load_all(&networks) {
            warn!("addresses that this node holds: {error}");
        }
        let open = cluster.reclaim(&networks).await;
        cluster.say_shares();
        tokio::select! {
            () = cluster.addresses_changed.notified() => {}
            () = tokio::time::sleep(RETRY), if open => {}
        }
    }
}

/// What there is to be asked about one subnet.
struct Open<'n> {
    place: Place,
    subnet: &'n Subnet,
    questions: Vec<(gossip::NodeId, Question)>,
}

impl Cluster {
    /// The nodes that were removed.
    pub(super) fn removed_nodes(&self) -> BTreeSet<gossip::NodeId> {
        let removed = self.gossip.list::<Removed>().into_iter();
        removed.filter_map(|(_, key, _)| Some(gossip_id(key.parse::<NodeId>().ok()?))).collect()
    }

    /// Asks as long as somebody answers; gives whether there is somebody left to be asked.
    async fn reclaim(self: &Arc<Self>, networks: &[Network]) -> bool {
        loop {
            let open = match self.open_questions(networks) {
                Ok(open) => open,
                Err(error) => {
                    warn!("can't look for addresses of removed nodes: {error}");
                    return true;
                }
            };
            if open.is_empty() {
                return false;
            }
            if !self.ask_all(&open).await {
                return true;
            }
        }
    }

    /// Begins to look for what has not been looked for, and gives all that is to be asked.
    fn open_questions<'n>(&self, networks: &'n [Network]) -> Result<Vec<Open<'n>>, PoolError> {
        let removed = self.removed_nodes();
        let Some(latest) = self.latest_removal() else { return Ok(Vec::new()) };
        let members: BTreeSet<gossip::NodeId> = self
            .members()
            .into_iter()
            .map(|(node, _)| gossip_id(node))
            .filter(|node| !removed.contains(node))
            .collect();
        // Others don't ask, and need no pool to hear that they don't.
        if members.first() != Some(&gossip_id(self.id)) {
            return Ok(Vec::new());
        }
        let differ = u64::try_from(CLOCKS_DIFFER.as_millis()).unwrap_or(u64::MAX);
        let concerned =
            networks.iter().filter(|(_, record)| record.created_ms <= latest.saturating_add(differ));
        let mut open = Vec::new();
        for (place, subnet) in concerned.flat_map(Place::all) {
            let chance = chance();
            let questions = self.addresses.change(&place, subnet, |pool| {
                pool.follow_removals(&removed);
                if pool.begin_survey(&members, chance) {
                    debug!("asking who holds what of {}", subnet.subnet);
                }
                pool.questions()
            })?;
            if !questions.is_empty() {
                open.push(Open { place, subnet, questions });
            }
        }
        Ok(open)
    }

    /// When the last node was removed, in milliseconds since 1970.
    fn latest_removal(&self) -> Option<u64> {
        let lasts = u64::try_from((CERTIFICATE_LIFE + CLOCK_LEEWAY).as_millis()).unwrap_or(u64::MAX);
        let removed = self.gossip.list::<Removed>().into_iter();
        removed.map(|(_, _, removed)| removed.until_ms.saturating_sub(lasts)).max()
    }

    /// Asks those that are there; gives whether one of them has answered.
    async fn ask_all(self: &Arc<Self>, open: &[Open<'_>]) -> bool {
        let alive: BTreeSet<NodeId> =
            self.peers().into_iter().filter(|(_, peer)| peer.alive).map(|(node, _)| node).collect();
        type Said = (NodeId, Vec<usize>, Result<Vec<AddressAnswer>, LinkError>);
        let mut rounds = JoinSet::<Said>::new();
        let mut answered = false;
        for (node, asked) in by_node(open).into_iter().filter(|(node, _)| alive.contains(node)) {
            for some in asked.chunks(SUBNETS_AT_ONCE) {
                if rounds.len() >= ASKED_AT_ONCE
                    && let Some(Ok((node, asked, answers))) = rounds.join_next().await
                {
                    answered |= self.take_answers(open, node, &asked, answers);
                }
                let (asked, cluster) = (some.to_vec(), Arc::clone(self));
                let requests = requests(open, node, &asked);
                rounds.spawn(async move {
                    let answers = cluster.ask_addresses(node, requests).await;
                    (node, asked, answers)
                });
            }
        }
        while let Some(done) = rounds.join_next().await {
            if let Ok((node, asked, answers)) = done {
                answered |= self.take_answers(open, node, &asked, answers);
            }
        }
        answered
    }

    fn take_answers(
        &self,
        open: &[Open<'_>],
        node: NodeId,
        asked: &[usize],
        answers: Result<Vec<AddressAnswer>, LinkError>,
    ) -> bool {
        let answers = answers.inspect_err(|error| debug!("{node} does not say what it holds: {error}"));
        let mut answered = false;
        for (&index, answer) in asked.iter().zip(answers.unwrap_or_default()) {
            let (AddressAnswer::Holds(answer), Some(of)) = (answer, open.get(index)) else { continue };
            answered |= matches!(answer, Answer::Holds(_));
            let taken = self.addresses.change(&of.place, of.subnet, |pool| {
                let before = pool.share().owned;
                pool.handle_answer(gossip_id(node), &answer)
                    .then(|| pool.share().owned.saturating_sub(before))
            });
            match taken {
                Ok(Some(found)) => info!("{found} addresses of {} were removed nodes'", of.subnet.subnet),
                Ok(None) => {}
                Err(error) => warn!("can't keep addresses of removed nodes: {error}"),
            }
        }
        answered
    }
}

/// Whom to ask about which of `open`.
fn by_node(open: &[Open<'_>]) -> BTreeMap<NodeId, Vec<usize>> {
    let mut nodes = BTreeMap::<NodeId, Vec<usize>>::new();
    for (index, of) in open.iter().enumerate() {
        for (node, _) in &of.questions {
            nodes.entry(node_id(*node)).or_default().push(index);
        }
    }
    nodes
}

fn requests(open: &[Open<'_>], node: NodeId, asked: &[usize]) -> Vec<AddressRequest> {
    let request = |&index: &usize| {
        let of = &open[index];
        let (_, question) = of.questions.iter().find(|(to, _)| *to == gossip_id(node))?;
        let Place { network, subnet } = of.place.clone();
        Some(AddressRequest { network, subnet, ask: AddressAsk::Question(question.clone()) })
    };
    asked.iter().filter_map(request).collect()
}

/// A number that no survey before had, by way of the standard library's hash keys, which are the system's
/// randomness.
fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}
