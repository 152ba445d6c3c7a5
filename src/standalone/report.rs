//! What a standalone switch prints: lines for people, or JSON for programs, one document a line.

use std::io::{self, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::switch::counters::TrafficCount;
use crate::switch::switch::{PortReport, Report};

/// Something to tell.
pub(super) enum Line<'a> {
    Port { name: &'a str, vni: u32, mtu: u32, mac: String, created: bool, offloads: String, queues: usize },
    Peer { address: SocketAddr, vnis: Vec<u32>, path_mtu: Option<u32> },
    Ready { local: SocketAddr, workers: usize, receive_buffer: usize },
    ShortBuffer { granted: usize, wanted: usize },
    PortClosed { port: &'a PortReport, reason: String },
    UnderlayFailed { reason: String },
    SegmentationRefused,
    Counters(&'a Report),
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
            Self::Counters(report) => counters_json(report),
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
            Self::Counters(report) => counters_text(report),
        }
    }
}

fn traffic_json(traffic: &TrafficCount) -> Value {
    json!({
        "rx_frames": traffic.received_frames, "rx_bytes": traffic.received_bytes,
        "tx_frames": traffic.sent_frames, "tx_bytes": traffic.sent_bytes, "dropped": traffic.dropped,
    })
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
    let drops: serde_json::Map<_, _> =
        report.drops.iter().map(|(reason, count)| (reason.label().to_owned(), json!(count))).collect();
    let learning = report.learning;
    json!({
        "event": "counters",
        "ports": ports.collect::<Vec<_>>(),
        "peers": report.peers.iter().map(|(peer, count)| row("peer", json!(peer.ip()), count)).collect::<Vec<_>>(),
        "vnis": report.networks.iter().map(|(vni, count)| row("vni", json!(vni.id()), count)).collect::<Vec<_>>(),
        "drops": drops,
        "table": {
            "entries": report.fdb_entries, "learnt": learning.learnt, "moved": learning.moved, "held": learning.held,
            "full": learning.full, "aged": learning.aged,
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
    let learning = report.learning;
    text.push_str(&format!(
        "table: {} addresses; {} learnt, {} moved, {} held, {} aged, {} refused (full)\n",
        report.fdb_entries, learning.learnt, learning.moved, learning.held, learning.aged, learning.full
    ));
    let drops: Vec<_> =
        report.drops.iter().map(|(reason, count)| format!("{} {count}", reason.label())).collect();
    text.push_str(&format!("drops: {}\n", if drops.is_empty() { "none".into() } else { drops.join(", ") }));
    text
}
