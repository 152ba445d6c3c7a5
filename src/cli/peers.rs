//! The other nodes, for `vswitchd status --peers`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::ID_SHORT;
use super::printable::{printable, shorten};
use super::status::span;
use super::table::Table;
use crate::api::{DataState, Digest, NAME_MAX, PeerView, Quality};

/// Differing keys that are named below the table, of each peer.
const KEYS_SHOWN: usize = 8;
/// What stands where there is nothing to say.
const NONE: &str = "-";

/// A table, and below it what is wrong.
pub(super) fn text(peers: &[PeerView]) -> String {
    if peers.is_empty() {
        return "no other nodes are known\n".into();
    }
    let notes: String = peers.iter().flat_map(notes).map(|note| format!("{note}\n")).collect();
    format!("{}{notes}", table(peers))
}

fn table(peers: &[PeerView]) -> Table<13> {
    let mut table = Table::new([
        "NAME",
        "ID",
        "IS",
        "SINCE",
        "ADDRESS",
        "HEARD",
        "DIGEST",
        "CONTROL RTT",
        "LOSS",
        "DATA",
        "RTT",
        "LOSS",
        "PATH MTU",
    ]);
    for peer in peers {
        table.row([
            name(peer),
            peer.id.chars().take(ID_SHORT).collect(),
            peer.liveness.label().into(),
            span(Duration::from_secs(peer.since_s)),
            peer.address.to_string(),
            peer.heard_ms
                .map_or_else(|| "never".into(), |ms| format!("{}.{} s ago", ms / 1_000, ms % 1_000 / 100)),
            digest(&peer.digest),
            rtt(peer.control),
            loss(peer.control),
            peer.data.state.label().into(),
            rtt(peer.data.quality),
            loss(peer.data.quality),
            peer.data.mtu.map_or_else(|| NONE.into(), |mtu| mtu.to_string()),
        ]);
    }
    table
}

fn name(peer: &PeerView) -> String {
    peer.name.as_deref().map_or_else(|| NONE.into(), |name| shorten(&printable(name), NAME_MAX))
}

fn digest(digest: &Digest) -> String {
    match digest {
        Digest::NotCompared => "not compared".into(),
        Digest::Equal { .. } => "equal".into(),
        Digest::Differing { keys, .. } if keys.len() == 1 => "1 key differs".into(),
        Digest::Differing { keys, .. } => format!("{} keys differ", keys.len()),
    }
}

fn rtt(quality: Quality) -> String {
    let us = quality.rtt_us.map(|us| {
        if us < 10_000 {
            format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10)
        } else {
            format!("{} ms", us / 1_000)
        }
    });
    us.unwrap_or_else(|| NONE.into())
}

fn loss(quality: Quality) -> String {
    let percent = quality.lost.saturating_mul(100).checked_div(quality.asked);
    percent.map_or_else(|| NONE.into(), |percent| format!("{percent} %"))
}

/// What is to be said of a peer besides its row.
fn notes(peer: &PeerView) -> Vec<String> {
    let who = peer.name.as_deref().unwrap_or(&peer.id);
    let who = shorten(&printable(who), NAME_MAX);
    let mut notes = Vec::new();
    if peer.data.state == DataState::Blocked {
        notes.push(format!("{who}: {}", blocked(peer)));
    }
    if let Digest::Differing { keys, .. } = &peer.digest {
        let shown: Vec<_> =
            keys.iter().take(KEYS_SHOWN).map(|key| shorten(&printable(key), NAME_MAX)).collect();
        let more = keys.len().saturating_sub(KEYS_SHOWN);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        notes.push(format!("{who}: different here and there: {}{more}", shown.join(", ")));
    }
    notes
}

/// The line that tells a firewall's fault from a node's.
fn blocked(peer: &PeerView) -> String {
    let end = |end: Option<SocketAddr>| {
        end.map_or_else(|| "?".into(), |end: SocketAddr| IpAddr::to_string(&end.ip()))
    };
    let port = peer.data.to.map_or_else(|| "of data".into(), |to| to.port().to_string());
    format!(
        "control OK, data path blocked (UDP {port} from {} to {})",
        end(peer.data.from),
        end(peer.data.to)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DataPath, Liveness};

    fn peer() -> PeerView {
        PeerView {
            id: "0123456789abcdefghijklmno".into(),
            name: Some("two".into()),
            liveness: Liveness::Alive,
            since_s: 61,
            address: "192.0.2.2:7946".parse().unwrap(),
            heard_ms: Some(1_250),
            digest: Digest::Equal { compared_s: 3 },
            control: Quality { rtt_us: Some(843), lost: 1, asked: 10 },
            data: DataPath {
                state: DataState::Ok,
                from: Some("198.51.100.1:4789".parse().unwrap()),
                to: Some("198.51.100.2:4790".parse().unwrap()),
                quality: Quality { rtt_us: Some(12_345), lost: 0, asked: 64 },
                mtu: Some(1500),
            },
        }
    }

    #[test]
    fn a_peer_is_a_row() {
        assert_eq!(
            text(&[peer()]),
            "NAME  ID            IS     SINCE      ADDRESS         HEARD      DIGEST  CONTROL RTT  LOSS  DATA  RTT    LOSS  PATH MTU\n\
             two   0123456789ab  alive  1 min 1 s  192.0.2.2:7946  1.2 s ago  equal   0.84 ms      10 %  ok    12 ms  0 %   1500\n"
        );
        assert_eq!(text(&[]), "no other nodes are known\n");
    }

    #[test]
    fn what_is_unknown_has_a_dash() {
        let quality = Quality::default();
        let data = DataPath { state: DataState::NotShared, from: None, to: None, quality, mtu: None };
        let unknown = PeerView {
            name: None,
            heard_ms: None,
            digest: Digest::NotCompared,
            control: quality,
            data,
            ..peer()
        };
        let shown = text(&[unknown]);
        let cells: Vec<_> = shown
            .lines()
            .nth(1)
            .unwrap()
            .split("  ")
            .filter(|cell| !cell.is_empty())
            .map(str::trim)
            .collect();
        assert_eq!(cells[..2], ["-", "0123456789ab"]);
        assert_eq!(cells[5..], ["never", "not compared", "-", "-", "not shared", "-", "-", "-"]);
    }

    #[test]
    fn a_blocked_path_is_named() {
        let mut blocked = peer();
        blocked.data.state = DataState::Blocked;
        let shown = text(&[blocked.clone()]);
        let line = "two: control OK, data path blocked (UDP 4790 from 198.51.100.1 to 198.51.100.2)";
        assert_eq!(shown.lines().last(), Some(line));
        blocked.data.to = None;
        assert!(text(&[blocked]).ends_with("blocked (UDP of data from 198.51.100.1 to ?)\n"));
        assert_eq!(text(&[peer()]).lines().count(), 2);
    }

    #[test]
    fn differing_keys_are_named_and_harmless() {
        let keys = (0..10).map(|key| format!("member/\u{1b}{key}")).collect();
        let hostile = PeerView {
            name: Some("\u{202e}two".into()),
            digest: Digest::Differing { since_s: 1, keys },
            ..peer()
        };
        let shown = text(&[hostile]);
        assert!(shown.contains("  10 keys differ  ") && !shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
        let line = shown.lines().last().unwrap();
        assert!(line.starts_with("\\u{202e}two: different here and there: member/\\u{1b}0, "), "{line}");
        assert!(line.ends_with("member/\\u{1b}7 and 2 more"), "{line}");
    }

    #[test]
    fn loss_and_times_have_no_more_digits_than_they_mean() {
        let quality = |rtt_us, lost, asked| Quality { rtt_us, lost, asked };
        assert_eq!([rtt(quality(Some(9_999), 0, 0)), rtt(quality(Some(10_000), 0, 0))], ["9.99 ms", "10 ms"]);
        assert_eq!([loss(quality(None, 0, 0)), loss(quality(None, 3, 64))], ["-", "4 %"]);
        assert_eq!(loss(quality(None, u64::MAX, u64::MAX)), "1 %", "a hostile count overflows nothing");
    }
}
