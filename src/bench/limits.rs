//! What limits this machine's switches: drawn from the figures alone.
//!
//! A worker does the stages of a frame's life one after the other, so what a core carries is the reciprocal of the
//! stages' costs added up, and each stage's share of the sum says what it would be worth to make it faster.

use super::Report;
use super::aead::AeadFigures;
use super::machine::Machine;
use super::stream::StreamFigures;
use super::tap::TapFigures;
use super::udp::{Datagrams, UdpFigures};

/// A stream that comes to this share of what the stages allow is as good as expected.
const AS_EXPECTED: f64 = 0.8;
/// Share of the cores that are idle at most when it is for want of cores that a stream is slow.
const HARDLY_IDLE: f64 = 0.15;
/// Share of the cores from which other programs' use is worth a word.
const MUCH_USED: f64 = 0.1;
/// Mean bytes of a stream's frames from which most of them are super-frames: more than two of an underlay's packets.
const SUPER_FRAME: f64 = 4000.0;
/// Share of datagrams lost on the way from which that is worth a word.
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

    /// `UDP 52%, TAP 30%, switch 18%`
    fn shares(&self) -> String {
        let mut stages = self.0.clone();
        stages.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let total = self.cost();
        let share = |(name, cost): &Stage| format!("{name} {:.0}%", cost / total * 100.0);
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
    /// Of different sizes.
    small: Core,
    /// Of one size.
    equal: Core,
    bulk: Core,
}

impl Costs {
    fn of(report: &Report) -> Option<Self> {
        let (tap, udp, memory) = (report.tap.measured()?, report.udp.measured()?, report.memory.measured()?);
        let core = |[read, out, send, receive, r#in, write]: [f64; 6]| Core {
            sending: Chain(vec![("TAP", read), ("switch", out), ("UDP", send)]),
            receiving: Chain(vec![("UDP", receive), ("switch", r#in), ("TAP", write)]),
        };
        let small = |udp: Datagrams| {
            let (sending, receiving) = (tap.read_small_ns, tap.write_small_ns);
            core([sending, memory.out_small_ns, udp.send_ns, udp.receive_ns, memory.in_small_ns, receiving])
        };
        Some(Self {
            small: small(udp.batches),
            equal: small(udp.equal),
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

fn per_core(costs: &Costs) -> [String; 3] {
    let Costs { small, equal, bulk } = costs;
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
        format!(
            "Small frames of one size, which go out joined: a core sends {:.2} M/s and receives {:.2}.",
            1e3 / equal.sending.cost(),
            1e3 / equal.receiving.cost(),
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
        "One stream: {:.1} Gbit/s, {:.0}% of what the {slower} core allows",
        stream.gbit_s,
        share * 100.0
    );
    if share >= AS_EXPECTED {
        line.push_str(": that core is the limit.");
        return line;
    }
    line.push_str(&cause(machine, stream));
    line
}

/// Why a stream stays behind what its slowest core allows: want of cores, or waiting.
fn cause(machine: &Machine, stream: &StreamFigures) -> String {
    let StreamFigures { cores_switches, cores_ends, cores_idle, cores_others, .. } = *stream;
    let (Some(switches), Some(ends), Some(idle), Some(others)) =
        (cores_switches, cores_ends, cores_idle, cores_others)
    else {
        return ".".into();
    };
    let used = format!("the switches used {switches:.1}, both ends of TCP {ends:.1}");
    let others_used = if others >= MUCH_USED * machine.cores as f64 {
        format!(", other programs {others:.1}, so that figures by the clock are too low")
    } else {
        String::new()
    };
    let usable = machine.cores_usable as f64;
    // Cores that this process may not use are idle for reasons of their own.
    let idle = if machine.cores_usable < machine.cores { usable - switches - ends } else { idle };
    if idle > HARDLY_IDLE * usable {
        format!(": it waits, for {idle:.1} of {usable} cores were idle ({used}{others_used}).")
    } else {
        format!(": {usable} cores are too few ({used}{others_used}).")
    }
}

fn of_tap(tap: &TapFigures) -> Option<String> {
    if tap.bulk_frame_bytes < SUPER_FRAME {
        let bytes = tap.bulk_frame_bytes;
        return Some(format!(
            "TAPs give no super-frames: frames of a stream have {bytes:.0} bytes, a call each."
        ));
    }
    (!tap.uso).then(|| {
        "TAPs pass no UDP super-frames (Linux 6.2 and later do): each datagram of bulk UDP takes a call."
            .into()
    })
}

fn of_udp(udp: &UdpFigures) -> Vec<String> {
    let mut lines = Vec::new();
    if !udp.segmentation {
        lines.push(
            "The kernel refuses runs of datagrams (UDP_SEGMENT) on this path: each is sent by itself.".into(),
        );
    } else if udp.datagrams_per_message < 2.0 {
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
    lines.extend(of_loss(udp));
    lines
}

/// Compares what sending and receiving cost: a receiver that is slow, and one that was late.
fn of_loss(udp: &UdpFigures) -> Option<String> {
    let UdpFigures { singles, batches, equal, runs, .. } = udp;
    let losses = [
        ("single small datagrams", singles.lost, singles.receive_ns / singles.send_ns),
        ("small datagrams in batches", batches.lost, batches.receive_ns / batches.send_ns),
        ("small datagrams joined", equal.lost, equal.receive_ns / equal.send_ns),
        ("datagrams in runs", runs.lost, runs.send_gbit_s / runs.receive_gbit_s),
    ];
    let (what, lost, receive_to_send) = losses.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let why = if receive_to_send >= 1.0 {
        "receiving them costs more than sending".into()
    } else {
        let held_ms = udp.receive_buffer_bytes as f64 * 8.0 / runs.send_gbit_s / 1e6;
        format!("the receiver was not scheduled in time, and its buffer holds {held_ms:.1} ms of bulk")
    };
    (lost >= MUCH_LOST).then(|| format!("{:.0}% of the {what} were lost: {why}.", lost * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Part;
    use crate::bench::memory::MemoryFigures;
    use crate::bench::udp::Runs;

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
                datagrams_per_message: 44.0,
                receive_buffer_bytes: 8 << 20,
                receive_buffer_asked_bytes: 8 << 20,
                singles: small,
                batches: small,
                equal: Datagrams { send_ns: 50.0, receive_ns: 25.0, ..small },
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
                cores_switches: Some(1.8),
                cores_ends: Some(1.5),
                cores_idle: Some(4.6),
                cores_others: Some(0.1),
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
        assert_eq!(lines[3], "Bulk, sealed with AES-256-GCM: a core sends 5.0 Gbit/s and receives 5.0.");
        assert_eq!(
            lines[..3],
            [
                "Bulk: a core sends 10.0 Gbit/s (TAP 33%, switch 33%, UDP 33%) and receives 6.0 (TAP 60%, UDP \
                 20%, switch 20%).",
                "Small frames: a core sends 2.00 M/s (UDP 60%, TAP 20%, switch 20%) and receives 3.33 (UDP 33%, \
                 switch 33%, TAP 33%).",
                "Small frames of one size, which go out joined: a core sends 4.00 M/s and receives 4.44.",
            ]
        );
    }

    #[test]
    fn a_streams_share_is_explained_by_the_core_the_cores_or_the_waiting() {
        let mut report = even();
        let said = |report: &Report| limits(report).remove(4);
        assert!(said(&report).ends_with("90% of what the receiving core allows: that core is the limit."));
        measured(&mut report.stream).gbit_s = 5.0;
        assert!(said(&report).contains("50% of what"), "{}", said(&report));
        assert!(said(&report).ends_with(
            ": it waits, for 4.6 of 8 cores were idle (the switches used 1.8, both ends of TCP 1.5)."
        ));
        let stream = measured(&mut report.stream);
        (stream.cores_idle, stream.cores_others) = (Some(0.5), Some(4.0));
        assert!(said(&report).contains("8 cores are too few"), "{}", said(&report));
        assert!(said(&report).contains("other programs 4.0"), "{}", said(&report));
        report.machine.cores_usable = 4;
        assert!(said(&report).contains("0.7 of 4 cores were idle"), "{}", said(&report));
        measured(&mut report.stream).cores_idle = None;
        assert!(said(&report).ends_with("allows."), "{}", said(&report));
    }

    #[test]
    fn settings_that_cost_are_named_and_others_are_not() {
        assert_eq!(limits(&even()).len(), 5);
        let mut report = even();
        report.machine.debug_build = true;
        measured(&mut report.tap).uso = false;
        assert!(limits(&report).join("\n").contains("UDP super-frames"));
        measured(&mut report.tap).bulk_frame_bytes = 1464.0;
        let udp = measured(&mut report.udp);
        (udp.segmentation, udp.receive_buffer_bytes, udp.runs.lost) = (false, 1 << 20, 0.5);
        udp.runs.receive_gbit_s = 20.0;
        let said = limits(&report).join("\n");
        for part in [
            "--release",
            "no super-frames: frames of a stream have 1464",
            "UDP_SEGMENT",
            "rmem_max=8388608",
            "50% of the datagrams in runs",
            "costs more",
        ] {
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
