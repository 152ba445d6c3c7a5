//! `vswitchd status`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::printable::{self, printable};
use super::remote::{Daemon, Remote};
use super::{Format, failed, peers, print};
use crate::api::client::AskError;
use crate::api::{Call, ClusterStatus, GatewayStatus, GossipStatus, PeerView, Status};

/// Show how this host's node is
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vswitchd status
  vswitchd status --peers
  vswitchd status -H ~/two/api.sock --format json

--peers shows for every other node whether it is heard and for how long, whether it knows the same as this one, and \
how gossip and data get there. `control OK, data path blocked` means that something between the two hosts, such as a \
firewall, drops what is named.

Exit status: 0 the daemon answered, 1 it did not, 2 wrong usage or configuration.")]
pub(super) struct Args {
    #[command(flatten)]
    remote: Remote,

    /// Show the other nodes, too
    #[arg(long)]
    peers: bool,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Everything that is shown.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    peers: Option<Vec<PeerView>>,
}

impl Args {
    pub(super) fn run(self) -> ExitCode {
        let daemon = match self.remote.find() {
            Ok(daemon) => daemon,
            Err(code) => return code,
        };
        let shown = match ask(&daemon, self.peers) {
            Ok(shown) => shown,
            Err(error) => return failed(&error),
        };
        print(&match self.format {
            Format::Text => text(&shown),
            Format::Json => printable::json(&shown),
        })
    }
}

fn ask(daemon: &Daemon, peers: bool) -> Result<Shown, AskError> {
    let status: Status = daemon.ask(&Call::Status)?;
    // Outside of a cluster there are none to ask for.
    let peers = peers && status.cluster.is_some();
    let peers = peers.then(|| daemon.ask(&Call::Peers)).transpose()?;
    Ok(Shown { status, peers })
}

fn text(shown: &Shown) -> String {
    let status = &shown.status;
    let daemon = format!(
        "daemon: vswitchd {}, process {}, up {}\nstate: {}\nsocket: {}\n",
        status.version,
        status.pid,
        span(Duration::from_secs(status.up_s)),
        printable(&status.state_dir.to_string_lossy()),
        printable(&status.socket.to_string_lossy()),
    );
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let cluster = match &status.cluster {
        Some(cluster) => cluster_text(cluster, now),
        None => "cluster: none: `vswitchd init` makes one, `vswitchd join` enters one\n".into(),
    };
    let peers = shown.peers.as_deref().map(|peers| format!("\n{}", peers::text(peers)));
    format!("{daemon}{cluster}{}", peers.unwrap_or_default())
}

/// `now` in seconds since 1970.
fn cluster_text(cluster: &ClusterStatus, now: u64) -> String {
    let certificate = match cluster.certificate_until {
        Some(until) => format!("valid for {}", span(Duration::from_secs(until.saturating_sub(now)))),
        None => "not valid now: it has expired, or this host's clock is wrong".into(),
    };
    let managers: Vec<_> = cluster.managers.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "cluster: {}\nnode: {} ({}), {}, at {}\nmanagers: {}\ncertificate: {certificate}\n",
        printable(&cluster.id),
        printable(&cluster.node),
        printable(&cluster.name),
        printable(&cluster.role),
        cluster.address,
        managers.join(", "),
    );
    if cluster.removed {
        text += "REMOVED from the cluster by a manager: `vswitchd leave`, and join again to come back\n";
    }
    if cluster.refused_connections > 0 {
        text += &format!("connections refused or broken: {}\n", cluster.refused_connections);
    }
    if let Some(gossip) = &cluster.gossip {
        text += &gossip_text(gossip);
    }
    if let Some(keys) = cluster.keys {
        text +=
            &format!("shared keys: epoch {}, for {}\n", keys.epoch, span(Duration::from_secs(keys.age_s)));
    }
    if let Some(data) = &cluster.data {
        let drops: Vec<_> =
            data.drops.iter().map(|(reason, count)| format!("{} {count}", printable(reason))).collect();
        let drops = if drops.is_empty() { String::new() } else { format!(", dropped: {}", drops.join(", ")) };
        let endpoints = match data.endpoints {
            1 => "1 endpoint".into(),
            several => format!("{several} endpoints"),
        };
        text += &format!("data: at {}, {endpoints}{drops}\n", data.address);
        text.extend(data.gateways.iter().map(gateway_text));
    }
    text
}

/// What should not be is named only if it was.
fn gossip_text(gossip: &GossipStatus) -> String {
    let faults = [
        ("unsent", gossip.unsent),
        ("unopened", gossip.unopened),
        ("rejected", gossip.rejected),
        ("unsaved", gossip.unsaved),
        ("restarts", gossip.restarts),
    ];
    let faults =
        faults.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!(", {name} {count}"));
    format!(
        "peers: {} alive of {} known\ngossip: at {}, sent {}, received {}{}\n",
        gossip.alive,
        gossip.known,
        gossip.address,
        gossip.sent,
        gossip.received,
        faults.collect::<String>(),
    )
}

/// What never was is left out.
fn gateway_text(gateway: &GatewayStatus) -> String {
    let counts = [
        ("answered", gateway.answered),
        ("from memory", gateway.cached),
        ("forwarded", gateway.forwarded),
        ("unanswered", gateway.unanswered),
        ("refused", gateway.refused),
        ("by DHCP", gateway.leased),
        ("lost", gateway.dropped),
        ("carried in", gateway.carried_in),
        ("turned away", gateway.refused_in),
    ];
    let counts = counts.iter().filter(|(_, count)| *count > 0);
    let counts: String = counts.map(|(name, count)| format!(", {name} {count}")).collect();
    let addresses: Vec<_> = gateway.addresses.iter().map(ToString::to_string).collect();
    format!("gateway of {}: at {}{counts}\n", printable(&gateway.network), addresses.join(" and "))
}

/// A time span in its two largest units.
pub(super) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3_600 => format!("{} min {} s", s / 60, s % 60),
        3_600..86_400 => format!("{} h {} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{DataStatus, KeysStatus};

    #[test]
    fn spans_have_two_units() {
        let text = |s| span(Duration::from_secs(s));
        assert_eq!([text(0), text(59), text(60)], ["0 s", "59 s", "1 min 0 s"]);
        assert_eq!([text(3_599), text(86_399)], ["59 min 59 s", "23 h 59 min"]);
        assert_eq!(text(90 * 86_400 + 3_600), "90 d 1 h");
    }

    fn cluster() -> ClusterStatus {
        ClusterStatus {
            id: "c".into(),
            node: "n".into(),
            name: "one".into(),
            role: "manager".into(),
            address: "192.0.2.1".parse().unwrap(),
            managers: vec!["192.0.2.1:2377".parse().unwrap()],
            certificate_until: Some(1_000 + 86_400),
            removed: false,
            refused_connections: 0,
            gossip: None,
            keys: None,
            data: None,
        }
    }

    #[test]
    fn removal_is_said() {
        let removed = ClusterStatus { removed: true, ..cluster() };
        assert!(cluster_text(&removed, 0).contains("REMOVED"));
        let knocked = ClusterStatus { refused_connections: 2, ..cluster() };
        assert!(cluster_text(&knocked, 0).contains("connections refused or broken: 2\n"));
    }

    #[test]
    fn what_does_not_run_is_not_shown() {
        let shown = "cluster: c\nnode: n (one), manager, at 192.0.2.1\nmanagers: 192.0.2.1:2377\n\
                     certificate: valid for 1 d 0 h\n";
        assert_eq!(cluster_text(&cluster(), 1_000), shown);
    }

    #[test]
    fn what_runs_is_shown_with_its_faults() {
        let gossip = GossipStatus {
            address: "192.0.2.1:7946".parse().unwrap(),
            alive: 2,
            known: 3,
            sent: 10,
            unsent: 0,
            received: 20,
            unopened: 4,
            rejected: 0,
            unsaved: 0,
            restarts: 0,
        };
        let drops = [("no-session".to_owned(), 7), ("replayed".to_owned(), 1)].into();
        let gateway = GatewayStatus {
            network: "front".into(),
            addresses: vec![[10, 0, 9, 1].into(), "fd00::1".parse().unwrap()],
            answered: 7,
            cached: 0,
            forwarded: 3,
            unanswered: 0,
            refused: 0,
            leased: 2,
            dropped: 0,
            carried_in: 5,
            refused_in: 1,
        };
        let gateways = vec![gateway];
        let running = ClusterStatus {
            name: "\u{1b}c".into(),
            gossip: Some(gossip),
            keys: Some(KeysStatus { epoch: 5, age_s: 7_260 }),
            data: Some(DataStatus {
                address: "192.0.2.1:4789".parse().unwrap(),
                endpoints: 1,
                drops,
                gateways,
            }),
            ..cluster()
        };
        let text = cluster_text(&running, 0);
        assert!(text.ends_with(
            "\npeers: 2 alive of 3 known\ngossip: at 192.0.2.1:7946, sent 10, received 20, unopened 4\n\
             shared keys: epoch 5, for 2 h 1 min\ndata: at 192.0.2.1:4789, 1 endpoint, dropped: no-session 7, replayed 1\n\
             gateway of front: at 10.0.9.1 and fd00::1, answered 7, forwarded 3, by DHCP 2, carried in 5, turned away 1\n"
        ), "{text}");
        assert!(text.contains("(\\u{1b}c)"), "{text}");
    }
}
