//! Other nodes as gossip and the data plane see them.

use std::net::SocketAddr;
use std::time::Duration;

use super::Member;
use crate::api::{DataPath, DataState, Digest, Liveness, PeerView, Quality};
use crate::crypto::identity::NodeId;
use crate::switch::probe::PathState;

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
    pub data: Option<DataFacts>,
}

/// What probes of data say of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DataFacts {
    /// Whether it answers.
    pub state: PathState,
    /// How fast, and how often not.
    pub quality: Quality,
    /// The largest IP packet that gets there, in bytes, once it has been found.
    pub mtu: Option<u16>,
}

/// Whether data gets to a peer. Members answer probes, so one that is heard and silent is behind something that drops
/// them: then the data path is blocked, and not the node down.
#[must_use]
pub(crate) fn data_state(liveness: Liveness, probed: Option<PathState>) -> DataState {
    match (probed, liveness) {
        (None, _) => DataState::NotShared,
        (Some(PathState::Up), _) => DataState::Ok,
        (Some(PathState::Unknown), _) => DataState::Unknown,
        (Some(PathState::Silent | PathState::Down), Liveness::Alive) => DataState::Blocked,
        (Some(PathState::Silent | PathState::Down), Liveness::Dead | Liveness::Left) => DataState::Down,
    }
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
                state: data_state(peer.liveness, peer.data.map(|data| data.state)),
                from: data,
                to: member.and_then(|member| member.said.as_ref()).map(|said| said.data),
                quality: peer.data.map(|data| data.quality).unwrap_or_default(),
                mtu: peer.data.and_then(|data| data.mtu),
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

    #[test]
    fn silence_means_blocked_only_where_gossip_is_heard() {
        use {Liveness::*, PathState as Probed};
        let state = |liveness, probed| data_state(liveness, Some(probed));
        assert_eq!([Alive, Dead, Left].map(|liveness| data_state(liveness, None)), [DataState::NotShared; 3]);
        assert_eq!(state(Dead, Probed::Up), DataState::Ok);
        assert_eq!(state(Alive, Probed::Unknown), DataState::Unknown);
        assert_eq!(
            [Probed::Silent, Probed::Down].map(|probed| state(Alive, probed)),
            [DataState::Blocked; 2]
        );
        assert_eq!([Dead, Left].map(|liveness| state(liveness, Probed::Down)), [DataState::Down; 2]);
    }

    #[test]
    fn peers_have_the_names_of_members_and_both_ends_of_their_path() {
        let data = |number| SocketAddr::from(([198, 51, 100, number], 4789));
        let said = Said { version: "0.1.0".into(), door: None, data: data(2) };
        let id = NodeId::from_bytes([2; 16]);
        let member = Member { id, name: "two".into(), role: Role::Worker, joined_ms: 0, said: Some(said) };
        let quality = Quality { rtt_us: None, lost: 4, asked: 4 };
        let silent = DataFacts { state: PathState::Silent, quality, mtu: None };
        let two = PeerFacts { data: Some(silent), ..peer(2, Liveness::Alive) };
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
        assert_eq!(views[1].data.state, DataState::NotShared);
    }
}
