//! What was built and found out, as a picture, a table and a verdict for people, or as JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::check::{Findings, Pair, Stream};
use super::membership::Membership;
use super::names::Names;
use super::plan::{NETWORK_PREFIX, NodePlan, Plan, UNDERLAY_PREFIX, UnderlayKind};
use super::service::Service;
use super::way_out::WayOut;

/// Characters of a line of the picture.
const WIDTH: usize = 96;
/// Endpoints up to which the table fits a screen; more are summed up.
const TABLE_MAX: usize = 16;
/// Wrong pairs that are written out; the table shows all of them.
const FAULTS_SHOWN: usize = 10;

/// Draws the nodes as boxes in rows, each row on its stretch of the underlay.
#[must_use]
pub fn picture(plan: &Plan) -> String {
    let boxes: Vec<Vec<String>> = plan.nodes.iter().map(|node| node_box(plan, node)).collect();
    let inner = boxes.iter().flatten().map(|line| line.chars().count()).max().unwrap_or(0);
    let per_row = (WIDTH / (inner + 6)).max(1);
    let mut text = String::new();
    for row in boxes.chunks(per_row) {
        draw_row(&mut text, row, inner);
    }
    let prefix = if plan.is_ipv6() {
        format!("2001:db8::/{}", UNDERLAY_PREFIX.1)
    } else {
        format!("198.18.0.0/{}", UNDERLAY_PREFIX.0)
    };
    let (kind, mtu) = (underlay(plan), plan.underlay_mtu);
    let _infallible = writeln!(
        text,
        "  underlay: {kind}, {prefix}, MTU {mtu}; {}: {}",
        plan.outside.name, plan.outside.address
    );
    for (index, network) in plan.networks.iter().enumerate() {
        let number = index + 1;
        let _infallible = writeln!(
            text,
            "  {}: VNI {}, 10.{number}.0.0/{}, fd00:{number:x}::/{}, MTU {}{}",
            network.name,
            network.vni,
            NETWORK_PREFIX.0,
            NETWORK_PREFIX.1,
            plan.mtu(index),
            if network.encrypted { ", encrypted" } else { "" }
        );
    }
    text
}

fn node_box(plan: &Plan, node: &NodePlan) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", node.name, node.address)];
    for endpoint in &node.endpoints {
        let network = &plan.networks[endpoint.network].name;
        lines.push(format!("  {:<4} {:<10} {network}", endpoint.name, endpoint.v4));
    }
    lines
}

fn draw_row(text: &mut String, row: &[Vec<String>], inner: usize) {
    let height = row.iter().map(Vec::len).max().unwrap_or(0);
    let mut draw = |cell: &dyn Fn(&[String]) -> String| {
        let cells: Vec<String> = row.iter().map(|lines| cell(lines)).collect();
        text.push_str(format!("  {}", cells.join("  ")).trim_end());
        text.push('\n');
    };
    draw(&|_| format!("┌{}┐", "─".repeat(inner + 2)));
    for line in 0..height {
        draw(&|lines| format!("│ {:<inner$} │", lines.get(line).map_or("", String::as_str)));
    }
    let left = (inner + 2) / 2;
    let right = inner + 1 - left;
    draw(&|_| format!("└{}┬{}┘", "─".repeat(left), "─".repeat(right)));
    let cells: Vec<String> =
        row.iter().map(|_| format!("═{}╧{}═", "═".repeat(left), "═".repeat(right))).collect();
    let _infallible = writeln!(text, "  {}", cells.join("══"));
}

fn underlay(plan: &Plan) -> String {
    if plan.underlay == UnderlayKind::Veth {
        return "a bridge with veth pairs".into();
    }
    let faults = plan.wire.faults;
    let shares = [("loss", faults.loss), ("duplicate", faults.duplicate), ("reorder", faults.reorder)];
    let times = [("delay", faults.delay), ("jitter", faults.jitter)];
    let shares =
        shares.iter().filter(|(_, share)| *share > 0.0).map(|(name, share)| format!("{name} {share}"));
    let times =
        times.iter().filter(|(_, time)| !time.is_zero()).map(|(name, time)| format!("{name} {time:?}"));
    let mut all: Vec<String> = shares.chain(times).collect();
    if all.is_empty() {
        all.push("no faults".into());
    }
    format!("a simulated wire ({}, seed {})", all.join(", "), plan.wire.seed)
}

/// The table of round trips over IPv4 (or a summary of it), the stream and the verdict.
#[must_use]
pub fn findings(plan: &Plan, findings: &Findings) -> String {
    let mut text =
        if plan.endpoints().count() > TABLE_MAX { summary(plan, findings) } else { table(plan, findings) };
    text.push('\n');
    let names = findings.names.iter().map(Names::line);
    let pages = findings.pages().map(|page| page.line(plan));
    let ways = findings.way_out.iter().map(WayOut::line).chain(findings.service.iter().map(Service::line));
    for line in names.chain(pages).chain(ways) {
        let _infallible = writeln!(text, "{line}");
    }
    for stream in findings.streams() {
        let _infallible = writeln!(text, "{}", stream_line(plan, stream));
    }
    if let Some(membership) = &findings.membership {
        let _infallible = writeln!(text, "{}", membership.line());
    }
    text.push('\n');
    for fault in faults(plan, findings).iter().take(FAULTS_SHOWN) {
        let _infallible = writeln!(text, "  {fault}");
    }
    text.push_str(&verdict(findings));
    text.push('\n');
    text
}

fn summary(plan: &Plan, findings: &Findings) -> String {
    let mut text = "Round trips in ms (least, median, most), IPv4\n".to_owned();
    let network_of: Vec<usize> = plan.endpoints().map(|(_, endpoint)| endpoint.network).collect();
    for (index, network) in plan.networks.iter().enumerate() {
        let within = findings.pairs.iter().filter(|pair| pair.expected && network_of[pair.from] == index);
        let mut times: Vec<Duration> = within.filter_map(|pair| pair.v4).collect();
        times.sort_unstable();
        let [Some(least), Some(median), Some(most)] =
            [times.first(), times.get(times.len() / 2), times.last()]
                .map(|time| time.map(|&time| milliseconds(time)))
        else {
            continue;
        };
        let members = network_of.iter().filter(|&&of| of == index).count();
        let _infallible = writeln!(
            text,
            "  {:<6} {members:>3} endpoints {:>5} pairs  {least:>6} {median:>6} {most:>6}",
            network.name,
            times.len()
        );
    }
    text
}

fn table(plan: &Plan, findings: &Findings) -> String {
    let names: Vec<&str> = plan.endpoints().map(|(_, endpoint)| endpoint.name.as_str()).collect();
    let mut text =
        "Round trips in ms, asker by row (·: silent, as it must be; IPv6 was asked too)\n".to_owned();
    text.push_str("       ");
    for name in &names {
        let _infallible = write!(text, "{name:>7}");
    }
    text.push('\n');
    for (from, name) in names.iter().enumerate() {
        let _infallible = write!(text, "  {name:<5}");
        for to in 0..names.len() {
            let pair = findings.pairs.iter().find(|pair| pair.from == from && pair.to == to);
            let _infallible = write!(text, "{:>7}", pair.map_or_else(|| "-".into(), cell));
        }
        text.push('\n');
    }
    text
}

fn cell(pair: &Pair) -> String {
    match (pair.is_right(), pair.expected, pair.v4) {
        (true, true, Some(rtt)) => milliseconds(rtt),
        (true, ..) => "·".into(),
        (false, true, None) => "LOST".into(),
        (false, true, Some(_)) => "LOST6".into(),
        (false, false, _) => "LEAK".into(),
    }
}

/// Three significant digits.
fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    let digits = if ms < 10.0 { 2 } else { usize::from(ms < 100.0) };
    format!("{ms:.digits$}")
}

fn stream_line(plan: &Plan, stream: &Stream) -> String {
    let (from, to) = (plan.endpoint_name(stream.from), plan.endpoint_name(stream.to));
    match &stream.outcome {
        Ok(flow) => {
            let megabits = flow.bytes as f64 * 8.0 / flow.took.as_secs_f64().max(1e-9) / 1e6;
            let encrypted = if plan.is_encrypted(stream.from) { ", encrypted" } else { "" };
            let mib = flow.bytes >> 20;
            format!("TCP {from} to {to}: {megabits:.0} Mbit/s ({mib} MiB, every byte checked{encrypted})")
        }
        Err(error) => format!("TCP {from} to {to}: {error}"),
    }
}

/// Everything that is not as it must be, a line each.
#[must_use]
pub fn faults(plan: &Plan, findings: &Findings) -> Vec<String> {
    let pairs = findings.pairs.iter().flat_map(|pair| {
        let (from, to) = (plan.endpoint_name(pair.from), plan.endpoint_name(pair.to));
        [("IPv4", pair.v4), ("IPv6", pair.v6)].into_iter().filter_map(move |(family, answer)| {
            match (pair.expected, answer.is_some()) {
                (true, false) => Some(format!("{from} gets no answer from {to} over {family}")),
                (false, true) => {
                    Some(format!("{from} reaches {to} over {family}, which is in another network"))
                }
                _ => None,
            }
        })
    });
    let stream = findings.streams().filter_map(|stream| {
        let error = stream.outcome.as_ref().err()?;
        Some(format!("{} to {}: {error}", plan.endpoint_name(stream.from), plan.endpoint_name(stream.to)))
    });
    let cluster = findings.membership.iter().flat_map(|membership| membership.faults.iter().cloned());
    let names = findings.names.iter().flat_map(|names| names.faults(plan));
    let pages = findings.pages().filter_map(|page| page.fault(plan));
    let way_out = findings.way_out.iter().flat_map(|way_out| way_out.faults(plan));
    let service = findings.service.iter().flat_map(|service| service.faults(plan));
    pairs.chain(names).chain(pages).chain(way_out).chain(service).chain(stream).chain(cluster).collect()
}

fn verdict(findings: &Findings) -> String {
    let within = findings.pairs.iter().filter(|pair| pair.expected).count();
    let across = findings.pairs.len() - within;
    let wrong = findings.pairs.iter().filter(|pair| !pair.is_right()).count();
    if findings.pairs.is_empty() && findings.is_right() {
        return "OK: there are no pairs of endpoints".into();
    }
    if findings.is_right() {
        return format!(
            "OK: all {within} pairs within a network answer, none of the {across} across networks does"
        );
    }
    let besides = [
        (findings.names.as_ref().is_some_and(|names| !names.is_right()), ", and names are not"),
        (findings.pages().any(|page| page.outcome.is_err()), ", and a page did not come"),
        (
            findings.way_out.as_ref().is_some_and(|way_out| !way_out.is_right()),
            ", and a way out does not lead there",
        ),
        (
            findings.service.as_ref().is_some_and(|service| !service.is_right()),
            ", and a service does not answer everybody",
        ),
        (findings.streams().any(|stream| stream.outcome.is_err()), ", and a TCP stream failed"),
        (
            findings.membership.as_ref().is_some_and(|membership| !membership.faults.is_empty()),
            ", and the nodes are not one cluster",
        ),
    ];
    let besides: String = besides.into_iter().filter_map(|(wrong, said)| wrong.then_some(said)).collect();
    format!("FAILED: {wrong} of {} pairs are not as they must be{besides}", findings.pairs.len())
}

/// One document with the plan, every pair, the stream and the verdict. Times are in microseconds.
#[must_use]
pub fn document(name: &str, plan: &Plan, findings: &Findings) -> Value {
    let micros = |time: Option<Duration>| time.map(|time| time.as_nanos() as f64 / 1e3);
    let pair = |pair: &Pair| {
        json!({
            "from": plan.endpoint_name(pair.from), "to": plan.endpoint_name(pair.to), "expected": pair.expected,
            "rtt_ipv4_us": micros(pair.v4), "rtt_ipv6_us": micros(pair.v6), "ok": pair.is_right(),
        })
    };
    let stream = |stream: &Stream| {
        let ends = (plan.endpoint_name(stream.from), plan.endpoint_name(stream.to));
        match &stream.outcome {
            Ok(flow) => json!({
                "from": ends.0, "to": ends.1, "bytes": flow.bytes, "seconds": flow.took.as_secs_f64(),
                "bits_per_second": flow.bytes as f64 * 8.0 / flow.took.as_secs_f64().max(1e-9), "ok": true,
            }),
            Err(error) => json!({ "from": ends.0, "to": ends.1, "error": error.to_string(), "ok": false }),
        }
    };
    json!({
        "lab": name,
        "plan": plan,
        "pairs": findings.pairs.iter().map(pair).collect::<Vec<_>>(),
        "names": findings.names.as_ref().map(Names::document),
        "page": findings.page.as_ref().map(|page| page.document(plan)),
        "page_encrypted": findings.sealed_page.as_ref().map(|page| page.document(plan)),
        "way_out": findings.way_out.as_ref().map(|way_out| way_out.document(plan)),
        "service": findings.service.as_ref().map(|service| service.document(plan)),
        "tcp": findings.stream.as_ref().map(stream),
        "tcp_encrypted": findings.sealed_stream.as_ref().map(stream),
        "cluster": findings.membership.as_ref().map(Membership::document),
        "faults": faults(plan, findings),
        "ok": findings.is_right(),
    })
}

#[cfg(test)]
mod tests;
