//! Other nodes as gossip and the data plane see them.

use std::net::SocketAddr;
use std::time::Duration;

use super::Member;
use crate::api::{DataPath, DataState, Digest, Liveness, PeerView, Quality};
use crate::crypto::identity::NodeId;
use crate::overlay::{DataPath as Probed, PathView};

/// Another node as gossip sees it, and what probes of data say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerFacts {
    /// Who.
    pub id: NodeId,
    /// Whether it is heard.
    pub liveness: Liveness,
    /// For how long.
    pub since: Duration,
    /// Where its gossip goes.
    pub address: SocketAddr,
    /// How long ago something was heard from it, if ever.
    pub heard: Option<Duration>,
    /// Whether it knows the same.
    pub digest: Digest,
    /// Gossip's probes of it.
    pub control: Quality,
    /// Data's probes of it; none if no network is shared.
    pub data: Option<PathView>,
}

/// Whether data gets to a peer: `path` is none if no network is shared with it, or it is dead.
fn data_state(liveness: Liveness, path: Option<&PathView>) -> DataState {
    match (liveness, path.map(|path| path.data)) {
        (Liveness::Dead | Liveness::Left, _) | (_, Some(Probed::Down)) => DataState::Down,
        (_, None | Some(Probed::NotShared)) => DataState::NotShared,
        (_, Some(Probed::Unknown)) => DataState::Unknown,
        (_, Some(Probed::Ok)) => DataState::Ok,
        (_, Some(Probed::Blocked)) => DataState::Blocked,
    }
}

fn quality(path: &PathView) -> Quality {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let rtt_us = path.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
    Quality { rtt_us, lost: count(path.lost), asked: count(path.asked) }
}

/// All peers, by name and then by id; those that are no members, if gossip still knows such, last. `data` is where this
/// node's data goes out, if anywhere.
#[must_use]
pub(crate) fn list_peers(members: &[Member], peers: &[PeerFacts], data: Option<SocketAddr>) -> Vec<PeerView> {
    let view = |peer: &PeerFacts| {
        let member = members.iter().find(|member| member.id == peer.id);
        PeerView {
            id: peer.id.to_string(),
            name: member.map(|member| member.name.clone()),
            liveness: peer.liveness,
            since_s: peer.since.as_secs(),
            address: peer.address,
            heard_ms: peer.heard.map(|heard| u64::try_from(heard.as_millis()).unwrap_or(u64::MAX)),
            digest: peer.digest.clone(),
            control: peer.control,
            data: DataPath {
                state: data_state(peer.liveness, peer.data.as_ref()),
                from: data,
                to: member.and_then(|member| member.said.as_ref()).map(|said| said.data),
                quality: peer.data.as_ref().map(quality).unwrap_or_default(),
                mtu: peer.data.as_ref().and_then(|data| data.mtu),
            },
        }
    };
    let mut views: Vec<_> = peers.iter().map(view).collect();
    let key = |view: &PeerView| (view.name.is_none(), view.name.clone(), view.id.clone());
    views.sort_by_cached_key(key);
    views
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Said;
    use super::*;
    use crate::crypto::identity::Role;

    pub(in super::super) fn peer(number: u8, liveness: Liveness) -> PeerFacts {
        PeerFacts {
            id: NodeId::from_bytes([number; 16]),
            liveness,
            since: Duration::from_secs(90),
            address: ([192, 0, 2, number], 7946).into(),
            heard: Some(Duration::from_millis(1_500)),
            digest: Digest::NotCompared,
            control: Quality { rtt_us: Some(800), lost: 0, asked: 10 },
            data: None,
        }
    }

    fn path(number: u8, data: Probed) -> PathView {
        PathView {
            node: NodeId::from_bytes([number; 16]),
            name: "two".into(),
            address: ([198, 51, 100, number], 4789).into(),
            data,
            since: Duration::from_secs(5),
            rtt: None,
            rtt_variation: None,
            lost: 4,
            asked: 4,
            mtu: None,
        }
    }

    #[test]
    fn the_dead_are_down_and_strangers_share_nothing() {
        assert_eq!(data_state(Liveness::Alive, None), DataState::NotShared);
        assert_eq!(
            [Liveness::Dead, Liveness::Left].map(|liveness| data_state(liveness, None)),
            [DataState::Down; 2]
        );
        assert_eq!(data_state(Liveness::Alive, Some(&path(2, Probed::Ok))), DataState::Ok);
    }

    #[test]
    fn peers_have_the_names_of_members_and_both_ends_of_their_path() {
        let data = |number| SocketAddr::from(([198, 51, 100, number], 4789));
        let said = Said { version: "0.1.0".into(), door: None, data: data(2), tasks: false };
        let id = NodeId::from_bytes([2; 16]);
        let member = Member {
            id,
            name: "two".into(),
            role: Role::Worker,
            joined_ms: 0,
            labels: Default::default(),
            said: Some(said),
        };
        let quality = Quality { rtt_us: None, lost: 4, asked: 4 };
        let two = PeerFacts { data: Some(path(2, Probed::Blocked)), ..peer(2, Liveness::Alive) };
        let views = list_peers(&[member], &[peer(1, Liveness::Dead), two], Some(data(1)));
        assert_eq!(views.iter().map(|view| view.name.as_deref()).collect::<Vec<_>>(), [Some("two"), None]);
        let path = DataPath {
            state: DataState::Blocked,
            from: Some(data(1)),
            to: Some(data(2)),
            quality,
            mtu: None,
        };
        assert_eq!(views[0].data, path);
        assert_eq!((views[0].since_s, views[0].heard_ms), (90, Some(1_500)));
        assert_eq!(views[1].data.state, DataState::Down);
    }
}
