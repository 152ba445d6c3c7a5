//! A report on one screen, or as a JSON document.

use std::io;

use serde_json::Value;

use crate::bench::Report;
use crate::bench::aead::AeadFigures;
use crate::bench::limits::limits;
use crate::bench::machine::Machine;
use crate::bench::memory::MemoryFigures;
use crate::bench::stream::StreamFigures;
use crate::bench::tap::TapFigures;
use crate::bench::udp::UdpFigures;

/// To the beginning of a terminal's line, and clears it (ECMA-48 §8.3.41, EL).
pub(super) const CLEAR: &str = "\r\x1b[K";
/// Columns of a paragraph.
const WIDTH: usize = 96;

/// The report, and what limits the machine as lines of text.
///
/// # Errors
/// If a figure is no number that JSON has; none is.
pub(super) fn json(report: &Report) -> io::Result<String> {
    let mut document = serde_json::to_value(report)?;
    document["limits"] = Value::from(limits(report));
    Ok(format!("{document}\n"))
}

/// The report on one screen.
pub(super) fn text(report: &Report) -> String {
    let mut screen = Screen::default();
    screen.machine(&report.machine);
    screen.settings(report);
    screen.per_core(report);
    screen.together(report);
    screen.missing(report);
    screen.limits(report);
    screen.0
}

#[derive(Default)]
struct Screen(String);

impl Screen {
    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    /// A row: a name, three columns of figures, a remark.
    fn row(&mut self, name: &str, cells: [String; 3], remark: &str) {
        let [per_second, ns, bulk] = cells;
        self.line(&format!("  {name:<36}{per_second:>8}{ns:>9}{bulk:>9}   {remark}"));
    }

    fn machine(&mut self, machine: &Machine) {
        let Machine { cpu, cores, cores_usable, kernel, .. } = machine;
        self.line(&format!("machine  {cpu}, {cores_usable} of {cores} cores usable, Linux {kernel}"));
    }

    fn settings(&mut self, report: &Report) {
        if let Some(TapFigures { offloads, bulk_frame_bytes, .. }) = report.tap.measured() {
            self.line(&format!("TAP      offloads {offloads}; {bulk_frame_bytes:.0} bytes a bulk frame"));
        }
        if let Some(udp) = report.udp.measured() {
            let runs = if udp.segmentation { "runs sent whole" } else { "runs not taken by the kernel" };
            self.line(&format!(
                "UDP      {}; {runs}, received {:.0} to a message; receive buffer {} of {} KiB",
                udp.path,
                udp.datagrams_per_message,
                udp.receive_buffer_bytes / 1024,
                udp.receive_buffer_asked_bytes / 1024
            ));
        }
    }

    fn per_core(&mut self, report: &Report) {
        self.line(&format!("\n{:<38}{:>17}{:>9}", "", "small frames", "bulk"));
        self.line(&format!("{:<38}{:>8}{:>9}{:>9}", "one core", "M/s", "ns each", "Gbit/s"));
        let cells = |ns: f64, gbit_s: f64| [mega(1e9 / ns), format!("{ns:.0}"), format!("{gbit_s:.1}")];
        if let Some(tap) = report.tap.measured() {
            self.row("TAP, read", cells(tap.read_small_ns, tap.read_bulk_gbit_s), "");
            self.row("TAP, write", cells(tap.write_small_ns, tap.write_bulk_gbit_s), "");
        }
        if let Some(memory) = report.memory.measured() {
            let MemoryFigures { out_small_ns, in_small_ns, out_bulk_gbit_s, in_bulk_gbit_s } = *memory;
            self.row("switch, out", cells(out_small_ns, out_bulk_gbit_s), "in memory");
            self.row("switch, in", cells(in_small_ns, in_bulk_gbit_s), "in memory");
        }
        if let Some(udp) = report.udp.measured() {
            self.row("UDP, send", cells(udp.batches.send_ns, udp.runs.send_gbit_s), "sendmmsg, UDP_SEGMENT");
            self.row(
                "UDP, receive",
                cells(udp.batches.receive_ns, udp.runs.receive_gbit_s),
                "recvmmsg, UDP_GRO",
            );
        }
        if let Some(aead) = report.aead.measured() {
            self.aead(aead);
        }
    }

    fn aead(&mut self, aead: &AeadFigures) {
        for (name, gb_s) in [("AES-256-GCM, seal", aead.seal_gb_s), ("AES-256-GCM, open", aead.open_gb_s)] {
            self.row(name, bulk(gb_s * 8.0), &format!("{gb_s:.2} GB/s, {} bytes each", aead.datagram_bytes));
        }
    }

    fn together(&mut self, report: &Report) {
        self.line("together, by the clock");
        if let Some(udp) = report.udp.measured() {
            let UdpFigures { singles, batches, equal, runs, .. } = udp;
            let small = |per_s: f64| [mega(per_s), String::new(), String::new()];
            self.row("UDP, a datagram a call", small(singles.arrived_per_s), &lost(singles.lost));
            self.row("UDP, batches (sendmmsg)", small(batches.arrived_per_s), &lost(batches.lost));
            self.row("UDP, batches of one size, joined", small(equal.arrived_per_s), &lost(equal.lost));
            self.row("UDP, runs (UDP_SEGMENT)", bulk(runs.arrived_gbit_s), &lost(runs.lost));
        }
        if let Some(tap) = report.tap.measured() {
            self.row("two TAPs joined, 1 TCP stream", bulk(tap.stream_gbit_s), "");
        }
        if let Some(stream) = report.stream.measured() {
            self.row("two switches, 1 TCP stream", bulk(stream.gbit_s), &cpu(stream));
        }
    }

    /// Parts that are missing for one reason are named together.
    fn missing(&mut self, report: &Report) {
        let parts = [
            ("TAP", report.tap.missing()),
            ("UDP", report.udp.missing()),
            ("switch in memory", report.memory.missing()),
            ("AES-256-GCM", report.aead.missing()),
            ("two switches", report.stream.missing()),
        ];
        let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, reason) in parts.iter().filter_map(|(name, reason)| Some((*name, (*reason)?))) {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, names)) => names.push(name),
                None => reasons.push((reason, vec![name])),
            }
        }
        for (reason, names) in reasons {
            self.line(&format!("not measured: {}: {reason}", names.join(", ")));
        }
    }

    fn limits(&mut self, report: &Report) {
        let limits = limits(report);
        if limits.is_empty() {
            return;
        }
        self.line("\nwhat limits it");
        for limit in limits {
            for (index, line) in wrapped(&limit, WIDTH - 4).iter().enumerate() {
                let mark = if index == 0 { '-' } else { ' ' };
                self.line(&format!("{mark} {line}"));
            }
        }
    }
}

/// Millions, with three digits that count.
fn mega(per_second: f64) -> String {
    format!("{:.2}", per_second / 1e6)
}

fn bulk(gbit_s: f64) -> [String; 3] {
    [String::new(), String::new(), format!("{gbit_s:.1}")]
}

fn lost(share: f64) -> String {
    // Half a thousandth is what one decimal would round to nothing.
    if share < 0.0005 { String::new() } else { format!("{:.1} % lost", share * 100.0) }
}

fn cpu(stream: &StreamFigures) -> String {
    stream.cpu_s_per_gb.map_or_else(String::new, |seconds| format!("switches: {seconds:.2} CPU s/GB"))
}

/// Words in lines of at most `width` characters, but for words that are longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::Part;

    #[test]
    fn words_are_wrapped_and_none_is_lost() {
        assert_eq!(wrapped("a bb ccc dddd", 5), ["a bb", "ccc", "dddd"]);
        assert_eq!(wrapped("toolongword x", 4), ["toolongword", "x"]);
    }

    #[test]
    fn parts_missing_for_one_reason_share_a_line() {
        let refused = |reason: &str| reason.to_owned();
        let report = Report {
            machine: crate::bench::machine::read(),
            tap: Part::Missing { missing: refused("no namespaces: do this") },
            udp: Part::Missing { missing: refused("no sockets") },
            memory: Part::Missing { missing: refused("nothing came through") },
            aead: Part::Missing { missing: refused("nothing came through") },
            stream: Part::Missing { missing: refused("no namespaces: do this") },
        };
        let text = text(&report);
        assert!(text.contains("not measured: TAP, two switches: no namespaces: do this\n"), "{text}");
        assert!(text.lines().all(|line| line.len() == line.trim_end().len()), "{text}");
        let document: Value = serde_json::from_str(&json(&report).unwrap()).unwrap();
        assert_eq!(document["tap"], json!({ "missing": "no namespaces: do this" }));
    }
}
