//! What limits this machine's switches: drawn from the figures alone.
//!
//! A worker does the stages of a frame's life one after the other, so what a core carries is the reciprocal of the
//! stages' costs added up, and each stage's share of the sum says what it would be worth to make it faster.

use super::Report;
use super::aead::AeadFigures;
use super::machine::Machine;
use super::stream::StreamFigures;
use super::tap::TapFigures;
use super::udp::UdpFigures;

/// A stream that comes to this share of what the stages allow is as good as expected.
const AS_EXPECTED: f64 = 0.8;
/// Cores below which two switches and both ends of a stream are in each other's way.
const CORES_FOR_A_STREAM: usize = 4;
/// Cores that two switches keep busy at least when they, and not waiting, are what a stream takes long for.
const BUSY: f64 = 1.5;
/// Share of small datagrams lost on the way from which that is worth a word.
const MUCH_LOST: f64 = 0.05;

/// A stage, and what a unit of work costs in it, in any unit of time.
type Stage = (&'static str, f64);

/// Stages passed one after the other.
#[derive(Clone, Debug, PartialEq)]
struct Chain(Vec<Stage>);

impl Chain {
    fn cost(&self) -> f64 {
        self.0.iter().map(|(_, cost)| cost).sum()
    }

    /// `UDP 52 %, TAP 30 %, switch 18 %`
    fn shares(&self) -> String {
        let mut stages = self.0.clone();
        stages.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let total = self.cost();
        let share = |(name, cost): &Stage| format!("{name} {:.0} %", cost / total * 100.0);
        stages.iter().map(share).collect::<Vec<_>>().join(", ")
    }
}

/// What a core does with one kind of traffic.
struct Core {
    sending: Chain,
    receiving: Chain,
}

/// Costs of a small frame in nanoseconds and of bulk in nanoseconds for a bit.
struct Costs {
    small: Core,
    bulk: Core,
}

impl Costs {
    fn of(report: &Report) -> Option<Self> {
        let (tap, udp, memory) = (report.tap.measured()?, report.udp.measured()?, report.memory.measured()?);
        let core = |[read, out, send, receive, r#in, write]: [f64; 6]| Core {
            sending: Chain(vec![("TAP", read), ("switch", out), ("UDP", send)]),
            receiving: Chain(vec![("UDP", receive), ("switch", r#in), ("TAP", write)]),
        };
        Some(Self {
            small: core([
                tap.read_small_ns,
                memory.out_small_ns,
                udp.batches.send_ns,
                udp.batches.receive_ns,
                memory.in_small_ns,
                tap.write_small_ns,
            ]),
            bulk: core([
                1.0 / tap.read_bulk_gbit_s,
                1.0 / memory.out_bulk_gbit_s,
                1.0 / udp.runs.send_gbit_s,
                1.0 / udp.runs.receive_gbit_s,
                1.0 / memory.in_bulk_gbit_s,
                1.0 / tap.write_bulk_gbit_s,
            ]),
        })
    }
}

/// One sentence a line, in order of weight; none if the figures show no limit.
#[must_use]
pub fn limits(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    let machine = &report.machine;
    if machine.debug_build {
        lines.push(
            "This program was built without optimisation: build it with --release to measure it.".into(),
        );
    }
    if let Some(costs) = Costs::of(report) {
        lines.extend(per_core(&costs));
        lines.extend(report.aead.measured().map(|aead| sealed(aead, &costs.bulk)));
        if let Some(stream) = report.stream.measured() {
            lines.push(of_stream(machine, stream, &costs.bulk));
        }
    }
    if let Some(tap) = report.tap.measured() {
        lines.extend(of_tap(tap));
    }
    if let Some(udp) = report.udp.measured() {
        lines.extend(of_udp(udp));
    }
    lines
}

fn per_core(costs: &Costs) -> [String; 2] {
    let Costs { small, bulk } = costs;
    [
        format!(
            "Bulk: a core sends {:.1} Gbit/s ({}) and receives {:.1} ({}).",
            1.0 / bulk.sending.cost(),
            bulk.sending.shares(),
            1.0 / bulk.receiving.cost(),
            bulk.receiving.shares(),
        ),
        format!(
            "Small frames: a core sends {:.2} M/s ({}) and receives {:.2} ({}).",
            1e3 / small.sending.cost(),
            small.sending.shares(),
            1e3 / small.receiving.cost(),
            small.receiving.shares(),
        ),
    ]
}

/// What sealing adds to the stages of bulk.
fn sealed(aead: &AeadFigures, bulk: &Core) -> String {
    let gbit_s = |chain: &Chain, gb_s: f64| 1.0 / (chain.cost() + 1.0 / (gb_s * 8.0));
    format!(
        "Bulk, sealed with AES-256-GCM: a core sends {:.1} Gbit/s and receives {:.1}.",
        gbit_s(&bulk.sending, aead.seal_gb_s),
        gbit_s(&bulk.receiving, aead.open_gb_s),
    )
}

/// Compares the stream with what the slower of the two switches could do with a core of its own.
fn of_stream(machine: &Machine, stream: &StreamFigures, bulk: &Core) -> String {
    let (slower, cost) = if bulk.sending.cost() > bulk.receiving.cost() {
        ("sending", bulk.sending.cost())
    } else {
        ("receiving", bulk.receiving.cost())
    };
    let share = stream.gbit_s * cost;
    let mut line = format!(
        "One stream: {:.1} Gbit/s, {:.0} % of what the {slower} core allows",
        stream.gbit_s,
        share * 100.0
    );
    if share >= AS_EXPECTED {
        line.push_str(": that core is the limit.");
        return line;
    }
    let busy = stream.cores_busy.map_or_else(String::new, |busy| format!(" (the switches used {busy:.1})"));
    if machine.cores_usable < CORES_FOR_A_STREAM {
        let cores = machine.cores_usable;
        line.push_str(&format!(
            ": two switches and both ends of TCP share {}{busy}.",
            counted(cores, "core")
        ));
    } else if stream.cores_busy.is_some_and(|busy| busy < BUSY) {
        line.push_str(&format!(": it is waiting, not work, that takes the time{busy}."));
    } else {
        line.push_str(&format!(
            ": the link between the namespaces and both ends of TCP take the rest{busy}."
        ));
    }
    line
}

fn counted(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

fn of_tap(tap: &TapFigures) -> Option<String> {
    if tap.offloads == "none" {
        return Some("TAPs give no super-frames here, so each frame is read and written by itself.".into());
    }
    (!tap.uso).then(|| {
        "TAPs pass no UDP super-frames (Linux 6.2 and later do): bulk UDP costs as small frames.".into()
    })
}

fn of_udp(udp: &UdpFigures) -> Vec<String> {
    let mut lines = Vec::new();
    if !udp.segmentation {
        lines.push(
            "The kernel refuses runs of datagrams (UDP_SEGMENT) on this path: each is sent by itself.".into(),
        );
    } else if udp.joined < 2.0 {
        lines.push(
            "Runs of datagrams are not joined again on arrival (UDP_GRO): each is received by itself.".into(),
        );
    }
    if udp.receive_buffer_bytes < udp.receive_buffer_asked_bytes {
        lines.push(format!(
            "The receive buffer is {} KiB of {} asked: `sudo sysctl -w net.core.rmem_max={}`.",
            udp.receive_buffer_bytes / 1024,
            udp.receive_buffer_asked_bytes / 1024,
            udp.receive_buffer_asked_bytes,
        ));
    }
    let lost = udp.singles.lost.max(udp.batches.lost).max(udp.runs.lost);
    if lost >= MUCH_LOST {
        lines.push(format!(
            "Up to {:.0} % of the datagrams were lost: receiving is slower than sending.",
            lost * 100.0
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Part;
    use crate::bench::memory::MemoryFigures;
    use crate::bench::udp::{Datagrams, Runs};

    /// Everything costs the same: 100 ns for a small frame, 30 Gbit/s for bulk; no stage or setting is in the way.
    fn even() -> Report {
        let small = Datagrams { send_ns: 100.0, receive_ns: 100.0, arrived_per_s: 1e6, lost: 0.0 };
        let runs = Runs { send_gbit_s: 30.0, receive_gbit_s: 30.0, arrived_gbit_s: 20.0, lost: 0.0 };
        Report {
            machine: Machine {
                cpu: "a processor".into(),
                cores: 8,
                cores_usable: 8,
                kernel: "6.18".into(),
                debug_build: false,
            },
            tap: Part::Measured(TapFigures {
                offloads: "checksum+tso+ecn+uso".into(),
                uso: true,
                read_small_ns: 100.0,
                write_small_ns: 100.0,
                read_bulk_gbit_s: 30.0,
                write_bulk_gbit_s: 30.0,
                bulk_frame_bytes: 6e4,
                stream_gbit_s: 15.0,
            }),
            udp: Part::Measured(UdpFigures {
                path: "veth",
                segmentation: true,
                joined: 44.0,
                receive_buffer_bytes: 8 << 20,
                receive_buffer_asked_bytes: 8 << 20,
                singles: small,
                batches: small,
                runs,
            }),
            memory: Part::Measured(MemoryFigures {
                out_small_ns: 100.0,
                in_small_ns: 100.0,
                out_bulk_gbit_s: 30.0,
                in_bulk_gbit_s: 30.0,
            }),
            aead: Part::Measured(AeadFigures { datagram_bytes: 1420, seal_gb_s: 1.25, open_gb_s: 3.75 }),
            stream: Part::Measured(StreamFigures {
                gbit_s: 9.0,
                cpu_s_per_gb: Some(1.6),
                cores_busy: Some(1.8),
            }),
        }
    }

    fn measured<T>(part: &mut Part<T>) -> &mut T {
        match part {
            Part::Measured(figures) => figures,
            Part::Missing { missing } => panic!("{missing}"),
        }
    }

    #[test]
    fn costs_add_up_and_the_dearest_stage_comes_first() {
        let mut report = even();
        measured(&mut report.udp).batches.send_ns = 300.0;
        measured(&mut report.tap).write_bulk_gbit_s = 10.0;
        let lines = limits(&report);
        // 1/10 + 1/10 and 1/6 + 1/30.
        assert_eq!(lines[2], "Bulk, sealed with AES-256-GCM: a core sends 5.0 Gbit/s and receives 5.0.");
        assert_eq!(
            lines[..2],
            [
                "Bulk: a core sends 10.0 Gbit/s (TAP 33 %, switch 33 %, UDP 33 %) and receives 6.0 (TAP 60 %, UDP \
                 20 %, switch 20 %).",
                "Small frames: a core sends 2.00 M/s (UDP 60 %, TAP 20 %, switch 20 %) and receives 3.33 (UDP 33 %, \
                 switch 33 %, TAP 33 %).",
            ]
        );
    }

    #[test]
    fn a_streams_share_is_explained_by_the_core_the_cores_or_the_waiting() {
        let mut report = even();
        let said = |report: &Report| limits(report).remove(3);
        assert!(said(&report).ends_with("90 % of what the receiving core allows: that core is the limit."));
        let stream = measured(&mut report.stream);
        (stream.gbit_s, stream.cores_busy) = (5.0, Some(0.9));
        assert!(said(&report).contains("50 %") && said(&report).contains("waiting"), "{}", said(&report));
        measured(&mut report.stream).cores_busy = Some(1.9);
        assert!(said(&report).contains("both ends of TCP take the rest (the switches used 1.9)"));
        report.machine.cores_usable = 1;
        assert!(said(&report).contains("share 1 core (the"), "{}", said(&report));
    }

    #[test]
    fn settings_that_cost_are_named_and_others_are_not() {
        assert_eq!(limits(&even()).len(), 4);
        let mut report = even();
        report.machine.debug_build = true;
        measured(&mut report.tap).uso = false;
        let udp = measured(&mut report.udp);
        (udp.segmentation, udp.receive_buffer_bytes, udp.runs.lost) = (false, 1 << 20, 0.5);
        let said = limits(&report).join("\n");
        for part in ["--release", "UDP super-frames", "UDP_SEGMENT", "rmem_max=8388608", "Up to 50 %"] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let missing = || "refused".to_owned();
        let mut report = even();
        report.tap = Part::Missing { missing: missing() };
        report.stream = Part::Missing { missing: missing() };
        assert_eq!(limits(&report), Vec::<String>::new());
        report.udp = Part::Missing { missing: missing() };
        report.memory = Part::Missing { missing: missing() };
        report.aead = Part::Missing { missing: missing() };
        assert!(report.is_empty() && limits(&report).is_empty());
    }
}
