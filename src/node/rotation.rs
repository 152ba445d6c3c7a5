//! Keeps the key ring in order: rotates it in its time, hands it on, and catches up with others.
//!
//! A manager that has made a ring sends it to every live node at once. Whoever missed that asks: when it hears datagrams
//! under keys that are newer than its own, when it hears nobody at all, and while a manager that it knows is not heard,
//! since two islands that rotated apart understand each other no more. Managers compare their rings besides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::cluster::Cluster;
use super::keys::KeysError;
use super::links::{Answer, LinkError, Request, SecretBytes};
use super::records::Removed;
use crate::crypto::identity::{NodeId, Role};
use crate::crypto::keyring::KeyRing;

/// How often it is looked whether anything is due.
const CHECK: Duration = Duration::from_secs(1);
/// How much longer each further manager waits with a rotation, so that one of them makes it.
const TURN: Duration = Duration::from_secs(600);
/// How often a manager that is not heard is asked.
const ASK_SILENT: Duration = Duration::from_secs(5);
/// How often managers compare.
const COMPARE: Duration = Duration::from_secs(60);
/// Nodes that a ring is handed to at a time.
const HANDED_AT_ONCE: usize = 16;

/// Why another's ring was not had.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("what it sent is no key ring")]
    Nonsense,
    #[error(transparent)]
    Keys(#[from] KeysError),
}

/// Until the cluster ends.
pub(super) async fn keep(cluster: Arc<Cluster>) {
    let mut asked = Asked { silent: Instant::now(), compared: Instant::now(), turn: 0 };
    let mut outdated = false;
    loop {
        if let Err(error) = look_after(&cluster) {
            warn!("can't change the key ring: {error}");
        }
        catch_up(&cluster, &mut asked, outdated).await;
        let next = Instant::now() + CHECK;
        outdated = tokio::select! {
            () = cluster.keys.outdated() => {
                // Anybody can make up a number: not more often than this.
                sleep_until(next).await;
                true
            }
            () = cluster.ring_changed.notified() => false,
            () = sleep_until(next) => false,
        };
    }
}

/// Forgets old keys, and rotates if it is this manager's turn.
fn look_after(cluster: &Arc<Cluster>) -> Result<(), KeysError> {
    let now = SystemTime::now();
    cluster.keys.age(now)?;
    if *cluster.role.borrow() != Role::Manager {
        return Ok(());
    }
    let before =
        cluster.other_managers().iter().filter(|&&(node, _, alive)| alive && node < cluster.id).count();
    let patience = TURN * u32::try_from(before).unwrap_or(u32::MAX);
    let removed: Vec<u32> =
        cluster.gossip.list::<Removed>().into_iter().map(|(_, _, removed)| removed.expels).collect();
    if before == 0 && must_expel_again(cluster.keys.ring().expels(), &removed) {
        cluster.keys.expel(now)?;
        info!(
            "nodes were removed on two sides of a partition: shared keys of epoch {}",
            cluster.keys.ring().epoch()
        );
        hand_on(cluster);
    }
    if cluster.keys.ring().rotation_due(now - patience) {
        cluster.keys.rotate(now)?;
        info!("rotated the shared keys: epoch {}", cluster.keys.ring().epoch());
        hand_on(cluster);
    }
    Ok(())
}

/// Whether the ring may be known to somebody who was removed on the other side of a partition: two expulsions have one
/// number, and none has followed.
fn must_expel_again(expels: u32, removed: &[u32]) -> bool {
    let mut numbers = removed.to_vec();
    numbers.sort_unstable();
    numbers.windows(2).any(|pair| pair[0] == pair[1]) && numbers.last().is_some_and(|&last| expels <= last)
}

/// When whom was asked.
struct Asked {
    silent: Instant,
    compared: Instant,
    turn: usize,
}

/// Asks other managers for their rings, where there is reason to.
async fn catch_up(cluster: &Arc<Cluster>, asked: &mut Asked, outdated: bool) {
    let managers = cluster.other_managers();
    let now = Instant::now();
    if outdated {
        for &(node, place, _) in &managers {
            if ask_and_tell(cluster, node, place).await {
                break;
            }
        }
    }
    let alone = !cluster.peers().iter().any(|(_, peer)| peer.alive);
    let wanted = managers.iter().filter(|&&(_, _, alive)| alone || !alive).collect::<Vec<_>>();
    if !wanted.is_empty() && now >= asked.silent + ASK_SILENT {
        asked.silent = now;
        asked.turn = asked.turn.wrapping_add(1);
        let &&(node, place, _) = &wanted[asked.turn % wanted.len()];
        ask_and_tell(cluster, node, place).await;
    }
    let live = managers.iter().filter(|&&(_, _, alive)| alive).collect::<Vec<_>>();
    let is_manager = *cluster.role.borrow() == Role::Manager;
    if is_manager && !live.is_empty() && now >= asked.compared + COMPARE {
        asked.compared = now;
        asked.turn = asked.turn.wrapping_add(1);
        let &&(node, place, _) = &live[asked.turn % live.len()];
        ask_and_tell(cluster, node, place).await;
    }
}

/// Gives whether it answered.
async fn ask_and_tell(cluster: &Arc<Cluster>, node: NodeId, place: SocketAddr) -> bool {
    match ask(cluster, node, place).await {
        Ok(()) => true,
        Err(AskError::Link(error)) if error.is_removed() => {
            cluster.note_removed();
            false
        }
        Err(error) => {
            debug!("no key ring of {node} at {place}: {error}");
            false
        }
    }
}

async fn ask(cluster: &Arc<Cluster>, node: NodeId, place: SocketAddr) -> Result<(), AskError> {
    let (peer, answer) = cluster.links.ask(Some(node), place, &Request::Ring).await?;
    let Answer::Ring(bytes) = answer else { return Err(LinkError::Nonsense.into()) };
    let ring = KeyRing::decode(&bytes.0).map_err(|_| AskError::Nonsense)?;
    if cluster.keys.merge(ring, peer.role)? {
        info!("took the shared keys of {node}: epoch {}", cluster.keys.ring().epoch());
        cluster.data_changed.notify_one();
        if *cluster.role.borrow() == Role::Manager {
            // Those on this side of what was a partition.
            hand_on(cluster);
        }
        // Whoever could not be understood may be now.
        cluster.gossip.add_seed(place);
    }
    Ok(())
}

/// Sends the ring to every live node, without waiting for them.
pub(super) fn hand_on(cluster: &Arc<Cluster>) {
    cluster.data_changed.notify_one();
    let cluster = Arc::clone(cluster);
    tokio::spawn(async move {
        let ring = cluster.keys.ring().encode();
        let mut sending = JoinSet::new();
        for (node, peer) in cluster.peers().into_iter().filter(|(_, peer)| peer.alive) {
            if sending.len() >= HANDED_AT_ONCE {
                sending.join_next().await;
            }
            let (links, ring) = (cluster.links.clone(), SecretBytes(ring.clone()));
            sending.spawn(async move {
                // It asks when it hears the new keys.
                if let Err(error) = links.ask(Some(node), peer.addr, &Request::TakeRing(ring)).await {
                    debug!("can't hand the key ring to {node} at {}: {error}", peer.addr);
                }
            });
        }
        while sending.join_next().await.is_some() {}
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_on_two_sides_are_followed_by_an_expulsion() {
        assert!(!must_expel_again(0, &[]));
        assert!(!must_expel_again(2, &[1, 2]), "one after the other");
        assert!(must_expel_again(1, &[1, 1]), "at once");
        assert!(must_expel_again(2, &[1, 2, 1]), "one on one side, two on the other");
        assert!(!must_expel_again(3, &[1, 2, 1]), "and one has followed");
    }
}
