//! What a standalone switch prints: lines for people, or JSON for programs, one document a line.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::nat::{Count, Counters, Kind};
use crate::switch::counters::TrafficCount;
use crate::switch::probe::{PathChange, PathEvent, PathReport, PathState};
use crate::switch::switch::{PortReport, Report};

/// Something to tell.
pub(super) enum Line<'a> {
    Port { name: &'a str, vni: u32, mtu: u32, mac: String, created: bool, offloads: String, queues: usize },
    Gateway { vni: u32, addresses: &'a [IpAddr] },
    Service { vni: u32, address: IpAddr, tasks: usize },
    Peer { address: SocketAddr, vnis: Vec<u32>, path_mtu: Option<u32> },
    Ready { local: SocketAddr, workers: usize, receive_buffer: usize },
    ShortBuffer { granted: usize, wanted: usize },
    PortClosed { port: &'a PortReport, reason: String },
    UnderlayFailed { reason: String },
    SegmentationRefused,
    Path(PathEvent),
    Counters(&'a Report),
    WayOut { vni: u32, counters: &'a Counters },
}

/// Where lines go, and how.
pub(super) struct Printer {
    json: bool,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Writes to standard output. A reader that has gone away doesn't stop a switch.
    pub(super) fn print(&self, line: &Line<'_>) {
        let text = if self.json { format!("{}\n", line.to_json()) } else { line.to_text() };
        let mut out = io::stdout().lock();
        let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl Line<'_> {
    fn to_json(&self) -> Value {
        match self {
            Self::Port { name, vni, mtu, mac, created, offloads, queues } => json!({
                "event": "port", "port": name, "vni": vni, "mtu": mtu, "mac": mac, "created": created,
                "offloads": offloads, "queues": queues,
            }),
            Self::Gateway { vni, addresses } => {
                json!({ "event": "gateway", "vni": vni, "addresses": addresses })
            }
            Self::Service { vni, address, tasks } => {
                json!({ "event": "service", "vni": vni, "address": address, "tasks": tasks })
            }
            Self::Peer { address, vnis, path_mtu } => json!({
                "event": "peer", "peer": address.ip(), "udp_port": address.port(), "vnis": vnis, "path_mtu": path_mtu,
            }),
            Self::Ready { local, workers, receive_buffer } => json!({
                "event": "ready", "workers": workers, "local": local.ip(), "udp_port": local.port(), "receive_buffer_bytes": receive_buffer,
            }),
            Self::ShortBuffer { granted, wanted } => json!({
                "event": "short-buffer", "granted_bytes": granted, "wanted_bytes": wanted,
            }),
            Self::PortClosed { port, reason } => json!({
                "event": "port-closed", "port": port.name, "vni": port.vni.id(), "reason": reason,
                "counters": traffic_json(&port.traffic),
            }),
            Self::UnderlayFailed { reason } => json!({ "event": "underlay-failed", "reason": reason }),
            Self::SegmentationRefused => json!({ "event": "segmentation-refused" }),
            Self::Path(event) => path_event_json(event),
            Self::Counters(report) => counters_json(report),
            Self::WayOut { vni, counters } => way_out_json(*vni, counters),
        }
    }

    fn to_text(&self) -> String {
        match self {
            Self::Port { name, vni, mtu, mac, created, offloads, queues } => {
                let how = if *created { "created" } else { "taken over" };
                let queues = if *queues == 1 { String::new() } else { format!(", {queues} queues") };
                format!(
                    "port {name}: network {vni}, mtu {mtu}, mac {mac}, offloads {offloads}{queues}, {how}\n"
                )
            }
            Self::Gateway { vni, addresses } => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                format!("gateway {}: network {vni}\n", addresses.join(" and "))
            }
            Self::Service { vni, address, tasks } => {
                format!("service {address}: network {vni}, {tasks} tasks\n")
            }
            Self::Peer { address, vnis, path_mtu } => {
                let vnis: Vec<_> = vnis.iter().map(u32::to_string).collect();
                let path = path_mtu.map_or_else(|| "no route yet".into(), |mtu| format!("path mtu {mtu}"));
                format!("peer {address}: network {}, {path}\n", vnis.join(","))
            }
            Self::Ready { local, .. } => {
                format!("forwarding on {local}; Ctrl-C stops, SIGUSR1 prints counters\n")
            }
            Self::ShortBuffer { granted, wanted } => format!(
                "the system caps the receive buffer at {granted} bytes, so bursts may be lost: as root, \
                 `sysctl -w net.core.rmem_max={wanted}`\n"
            ),
            Self::PortClosed { port, reason } => format!("port {} closed: {reason}\n", port.name),
            Self::UnderlayFailed { reason } => format!("receiving failed: {reason}\n"),
            Self::SegmentationRefused => {
                "the underlay's device or kernel does not cut UDP runs: datagrams are sent one by one, which is slower\n"
                    .into()
            }
            Self::Path(event) => path_event_text(event),
            Self::Counters(report) => counters_text(report),
            Self::WayOut { vni, counters } => way_out_text(*vni, counters),
        }
    }
}

fn traffic_json(traffic: &TrafficCount) -> Value {
    json!({
        "rx_frames": traffic.received_frames, "rx_bytes": traffic.received_bytes,
        "tx_frames": traffic.sent_frames, "tx_bytes": traffic.sent_bytes, "dropped": traffic.dropped,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn path_event_json(event: &PathEvent) -> Value {
    let peer = event.address.ip();
    match event.change {
        PathChange::Up { rtt } => {
            json!({ "event": "path", "peer": peer, "state": "up", "rtt_ms": milliseconds(rtt) })
        }
        PathChange::Down => json!({ "event": "path", "peer": peer, "state": "down" }),
        PathChange::Silent => json!({ "event": "path", "peer": peer, "state": "silent" }),
        PathChange::Mtu(mtu) => json!({ "event": "path-mtu", "peer": peer, "path_mtu": mtu }),
    }
}

fn path_event_text(event: &PathEvent) -> String {
    let (peer, port) = (event.address.ip(), event.address.port());
    match event.change {
        PathChange::Up { rtt } => format!("path to {peer}: up, round trip {:.3} ms\n", milliseconds(rtt)),
        PathChange::Down => {
            format!(
                "path to {peer}: down: probes are no longer answered; it is gone, or UDP {port} is blocked\n"
            )
        }
        PathChange::Silent => format!(
            "path to {peer}: does not answer probes: it is no vswitchd (which is no failure), not there yet, or \
             UDP {port} is blocked\n"
        ),
        PathChange::Mtu(mtu) => format!("path to {peer}: carries packets of {mtu} bytes\n"),
    }
}

fn path_json(path: &PathReport) -> Value {
    json!({
        "state": path.state.label(), "since_s": path.since.elapsed().as_secs_f64(),
        "rtt_ms": path.rtt.map(milliseconds), "rtt_variation_ms": path.rtt_variation.map(milliseconds),
        "lost": path.lost, "asked": path.asked, "path_mtu": path.mtu,
    })
}

fn path_text(path: &PathReport) -> String {
    let state = match path.state {
        PathState::Unknown => "not known yet",
        PathState::Silent => "does not answer probes",
        PathState::Up => "up",
        PathState::Down => "down",
    };
    let mut text = format!("path to {}: {state} for {} s", path.address.ip(), path.since.elapsed().as_secs());
    if let (Some(rtt), Some(variation)) = (path.rtt, path.rtt_variation) {
        let (rtt, variation) = (milliseconds(rtt), milliseconds(variation));
        text.push_str(&format!(", round trip {rtt:.3} ms ± {variation:.3}"));
    }
    text.push_str(&format!(", {} of {} probes lost", path.lost, path.asked));
    if let Some(mtu) = path.mtu {
        text.push_str(&format!(", path mtu {mtu}"));
    }
    text.push('\n');
    text
}

fn way_out_json(vni: u32, counters: &Counters) -> Value {
    let open = Kind::OUTWARD.map(|kind| (kind.label().to_owned(), json!(counters.open(kind))));
    let counted = Count::ALL.iter().map(|&what| (what.label().to_owned(), json!(counters.count(what))));
    json!({
        "event": "nat", "vni": vni, "open": serde_json::Map::from_iter(open),
        "counts": serde_json::Map::from_iter(counted),
    })
}

fn way_out_text(vni: u32, counters: &Counters) -> String {
    let open = Kind::OUTWARD.map(|kind| format!("{} {}", counters.open(kind), kind.label()));
    let counted = Count::ALL.iter().map(|&what| (what.label(), counters.count(what)));
    let counted: Vec<_> =
        counted.filter(|&(_, count)| count > 0).map(|(label, count)| format!("{label} {count}")).collect();
    let counted = if counted.is_empty() { "nothing so far".into() } else { counted.join(", ") };
    format!("way out of network {vni}: {} open; {counted}\n", open.join(", "))
}

fn counters_json(report: &Report) -> Value {
    let row = |key: &str, name: Value, traffic: &TrafficCount| {
        let mut row = traffic_json(traffic);
        row[key] = name;
        row
    };
    let ports = report.ports.iter().map(|port| {
        let mut row = row("port", json!(port.name), &port.traffic);
        row["vni"] = json!(port.vni.id());
        row
    });
    let peers = report.peers.iter().map(|(peer, count)| {
        let mut row = row("peer", json!(peer.ip()), count);
        if let Some(path) = report.paths.iter().find(|path| path.address == *peer) {
            row["path"] = path_json(path);
        }
        row
    });
    let drops: serde_json::Map<_, _> =
        report.drops.iter().map(|(reason, count)| (reason.label().to_owned(), json!(count))).collect();
    let learning = report.learning;
    json!({
        "event": "counters",
        "ports": ports.collect::<Vec<_>>(),
        "peers": peers.collect::<Vec<_>>(),
        "vnis": report.networks.iter().map(|(vni, count)| row("vni", json!(vni.id()), count)).collect::<Vec<_>>(),
        "drops": drops,
        "table": {
            "entries": report.fdb_entries, "learnt": learning.learnt, "moved": learning.moved, "held": learning.held,
            "full": learning.full, "aged": learning.aged,
        },
        "flows": {
            "now": report.flows.flows, "opened": report.flows.opened, "evicted": report.flows.evicted,
            "refused": report.flows.refused, "reset": report.flows.reset, "expired": report.flows.expired,
        },
    })
}

fn counters_text(report: &Report) -> String {
    let head = ["", "rx frames", "rx bytes", "tx frames", "tx bytes", "dropped"].map(String::from);
    let row = |name: String, t: &TrafficCount| {
        let numbers = [t.received_frames, t.received_bytes, t.sent_frames, t.sent_bytes, t.dropped];
        let mut cells = numbers.iter().map(u64::to_string);
        std::array::from_fn(|n| if n == 0 { name.clone() } else { cells.next().unwrap_or_default() })
    };
    let mut rows: Vec<[String; 6]> = vec![head];
    rows.extend(report.ports.iter().map(|port| row(format!("port {}", port.name), &port.traffic)));
    rows.extend(report.peers.iter().map(|(peer, count)| row(format!("peer {}", peer.ip()), count)));
    rows.extend(report.networks.iter().map(|(vni, count)| row(format!("network {vni}"), count)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> =
            row[1..].iter().zip(&widths[1..]).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        text.push_str(&format!("{:<width$}  {}\n", row[0], cells.join("  "), width = widths[0]));
    }
    report.paths.iter().for_each(|path| text.push_str(&path_text(path)));
    let learning = report.learning;
    text.push_str(&format!(
        "table: {} addresses; {} learnt, {} moved, {} held, {} aged, {} refused (full)\n",
        report.fdb_entries, learning.learnt, learning.moved, learning.held, learning.aged, learning.full
    ));
    let flows = report.flows;
    if flows.opened + flows.refused > 0 {
        text.push_str(&format!(
            "flows of services: {}; {} opened, {} expired, {} reset, {} evicted, {} refused (full)\n",
            flows.flows, flows.opened, flows.expired, flows.reset, flows.evicted, flows.refused
        ));
    }
    let drops: Vec<_> =
        report.drops.iter().map(|(reason, count)| format!("{} {count}", reason.label())).collect();
    text.push_str(&format!("drops: {}\n", if drops.is_empty() { "none".into() } else { drops.join(", ") }));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::vtep::VtepId;

    fn peer() -> (VtepId, SocketAddr) {
        (VtepId(3), SocketAddr::from(([192, 0, 2, 2], 4789)))
    }

    #[test]
    fn changes_of_a_path_are_a_line_or_a_document() {
        let (peer, address) = peer();
        let rtt = Duration::from_micros(250);
        for (change, words, want) in [
            (
                PathChange::Up { rtt },
                "up, round trip 0.250 ms",
                json!({ "event": "path", "state": "up", "rtt_ms": 0.25 }),
            ),
            (PathChange::Down, "UDP 4789 is blocked", json!({ "event": "path", "state": "down" })),
            (PathChange::Silent, "does not answer probes", json!({ "event": "path", "state": "silent" })),
            (PathChange::Mtu(1_400), "1400 bytes", json!({ "event": "path-mtu", "path_mtu": 1_400 })),
        ] {
            let line = Line::Path(PathEvent { peer, address, change });
            let text = line.to_text();
            assert!(text.starts_with("path to 192.0.2.2: ") && text.contains(words), "{text}");
            assert_eq!(text.lines().count(), 1);
            let mut want = want;
            want["peer"] = json!("192.0.2.2");
            assert_eq!(line.to_json(), want);
        }
    }

    #[test]
    fn a_way_out_says_what_it_has_done() {
        let line = Line::WayOut { vni: 42, counters: &Counters::default() };
        assert_eq!(line.to_text(), "way out of network 42: 0 tcp, 0 udp, 0 echo open; nothing so far\n");
        let json = line.to_json();
        assert_eq!(
            (&json["vni"], &json["open"]["udp"], &json["counts"]["denied"]),
            (&json!(42), &json!(0), &json!(0))
        );
    }

    #[test]
    fn counters_have_a_path_for_each_peer_that_is_probed() {
        let (peer, address) = peer();
        let path = PathReport {
            peer,
            address,
            state: PathState::Up,
            since: std::time::Instant::now(),
            rtt: Some(Duration::from_millis(2)),
            rtt_variation: Some(Duration::from_millis(1)),
            lost: 3,
            asked: 64,
            mtu: Some(1_500),
        };
        let other = SocketAddr::from(([192, 0, 2, 3], 4789));
        let peers = vec![(other, TrafficCount::default()), (address, TrafficCount::default())];
        let report = Report { peers, paths: vec![path], ..Report::default() };
        let json = Line::Counters(&report).to_json();
        assert_eq!(json["peers"][0].get("path"), None);
        let shown = &json["peers"][1]["path"];
        assert_eq!(
            (&shown["state"], &shown["rtt_ms"], &shown["path_mtu"]),
            (&json!("up"), &json!(2.0), &json!(1_500))
        );
        assert_eq!((&shown["lost"], &shown["asked"]), (&json!(3), &json!(64)));
        let text = Line::Counters(&report).to_text();
        let want =
            "path to 192.0.2.2: up for 0 s, round trip 2.000 ms ± 1.000, 3 of 64 probes lost, path mtu 1500";
        assert!(text.contains(want), "{text}");
    }
}
