//! What the data path to a node is, seen together with the control path, and when that is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::event::OverlayEvent;
use crate::crypto::identity::NodeId;
use crate::switch::probe::{PathReport, PathState};

/// How long probes have to go unanswered, once that has been noticed, before a path is called blocked. A node that has
/// died looks the same until gossip finds out, and so does one whose keys are just being agreed on.
pub const BLOCKED_AFTER: Duration = Duration::from_secs(4);

/// The data path to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPath {
    /// No network is shared with it, so there is none.
    NotShared,
    /// Not known yet, or about to change.
    Unknown,
    /// Probes are answered.
    Ok,
    /// The node is alive, but probes are not answered.
    Blocked,
    /// The node is not alive.
    Down,
}

impl DataPath {
    /// From whether gossip says that the node is alive, and what its probes have come to and since when, if there are
    /// any.
    #[must_use]
    pub fn judge(alive: bool, path: Option<(PathState, Duration)>) -> Self {
        match path {
            _ if !alive => Self::Down,
            None => Self::NotShared,
            Some((PathState::Up, _)) => Self::Ok,
            // Other nodes are vswitchd, which answers.
            Some((PathState::Down | PathState::Silent, since)) if since >= BLOCKED_AFTER => Self::Blocked,
            Some(_) => Self::Unknown,
        }
    }

    /// The word for it in output.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotShared => "not-shared",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Blocked => "blocked",
            Self::Down => "down",
        }
    }
}

/// The data path to a live node with which a network is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its data socket is.
    pub address: SocketAddr,
    /// Whether it carries data.
    pub data: DataPath,
    /// How long its probes have been as they are.
    pub since: Duration,
    /// The round-trip time, smoothed.
    pub rtt: Option<Duration>,
    /// How far round-trip times are from it on average.
    pub rtt_variation: Option<Duration>,
    /// Probes unanswered, of [`Self::asked`].
    pub lost: usize,
    /// Probes of the last minute or so whose fate is known.
    pub asked: usize,
    /// The largest IP packet that gets there, in bytes, once it is known.
    pub mtu: Option<u16>,
}

impl PathView {
    pub(super) fn new(node: NodeId, name: &str, report: &PathReport, now: Instant) -> Self {
        let since = now.saturating_duration_since(report.since);
        Self {
            node,
            name: name.to_owned(),
            address: report.address,
            data: DataPath::judge(true, Some((report.state, since))),
            since,
            rtt: report.rtt,
            rtt_variation: report.rtt_variation,
            lost: report.lost,
            asked: report.asked,
            mtu: report.mtu,
        }
    }
}

/// What has been told of each path.
#[derive(Debug, Default)]
pub(super) struct Watch(BTreeMap<NodeId, Told>);

#[derive(Clone, Copy, Debug, Default)]
struct Told {
    data: Option<DataPath>,
    mtu: Option<u16>,
}

impl Watch {
    /// What the path to a node carries, as last known; still so while it is in doubt.
    pub(super) fn mtu(&self, node: NodeId) -> Option<u16> {
        self.0.get(&node).and_then(|told| told.mtu)
    }

    /// What there is to tell of the paths that there are now; of others all is forgotten. `own` is this node's name.
    pub(super) fn look(&mut self, own: &str, paths: &[PathView]) -> Vec<OverlayEvent> {
        self.0.retain(|node, _| paths.iter().any(|path| path.node == *node));
        let mut events = Vec::new();
        for path in paths {
            let told = self.0.entry(path.node).or_default();
            let (node, name) = (path.node, path.name.clone());
            if matches!(path.data, DataPath::Ok | DataPath::Blocked) && told.data != Some(path.data) {
                told.data = Some(path.data);
                events.push(match path.data {
                    DataPath::Ok => OverlayEvent::PathOk { node, name: name.clone(), rtt: path.rtt },
                    _ => {
                        let (from, port) = (own.to_owned(), path.address.port());
                        OverlayEvent::PathBlocked { node, name: name.clone(), from, port }
                    }
                });
            }
            if let Some(mtu) = path.mtu.filter(|&mtu| told.mtu != Some(mtu)) {
                told.mtu = Some(mtu);
                events.push(OverlayEvent::PathMtu { node, name, mtu });
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(data: DataPath, mtu: Option<u16>) -> PathView {
        PathView {
            node: NodeId::from_bytes([2; 16]),
            name: "two".into(),
            address: SocketAddr::from(([192, 0, 2, 2], 4_790)),
            data,
            since: Duration::ZERO,
            rtt: Some(Duration::from_micros(250)),
            rtt_variation: None,
            lost: 0,
            asked: 1,
            mtu,
        }
    }

    #[test]
    fn control_and_data_are_told_apart() {
        let long = BLOCKED_AFTER;
        let short = long - Duration::from_millis(1);
        for (alive, path, want) in [
            (true, None, DataPath::NotShared),
            (true, Some((PathState::Unknown, long)), DataPath::Unknown),
            (true, Some((PathState::Up, Duration::ZERO)), DataPath::Ok),
            (true, Some((PathState::Down, short)), DataPath::Unknown),
            (true, Some((PathState::Down, long)), DataPath::Blocked),
            (true, Some((PathState::Silent, long)), DataPath::Blocked),
            (false, None, DataPath::Down),
            (false, Some((PathState::Up, long)), DataPath::Down),
        ] {
            assert_eq!(DataPath::judge(alive, path), want, "alive: {alive}, {path:?}");
        }
    }

    #[test]
    fn a_change_is_told_once_and_a_doubt_never() {
        let mut watch = Watch::default();
        let mut look = |paths: &[PathView]| -> Vec<String> {
            watch.look("one", paths).iter().map(ToString::to_string).collect()
        };
        assert!(look(&[path(DataPath::Unknown, None)]).is_empty());
        assert_eq!(look(&[path(DataPath::Ok, None)]), ["data path to two: ok, round trip 0.250 ms"]);
        assert_eq!(
            look(&[path(DataPath::Ok, Some(1_500))]),
            ["data path to two carries packets of 1500 bytes"]
        );
        assert!(look(&[path(DataPath::Unknown, Some(1_500))]).is_empty());
        assert!(look(&[path(DataPath::Ok, Some(1_500))]).is_empty());
        let blocked = "two: control OK, data path blocked (UDP 4790 from one to two)";
        assert_eq!(look(&[path(DataPath::Blocked, None)]), [blocked]);
        assert!(look(&[path(DataPath::Unknown, None)]).is_empty());
        assert_eq!(look(&[path(DataPath::Ok, Some(1_500))]).len(), 1);
        assert!(look(&[]).is_empty());
        assert_eq!(look(&[path(DataPath::Ok, Some(1_500))]).len(), 2, "it was forgotten");
    }
}
