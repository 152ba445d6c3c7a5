use super::super::names::{Lookup, NamesError};
use super::super::page::{Fetched, Page, PageError};
use super::super::plan::{EndpointPlan, Shape};
use super::super::service::{Seen, Visit, Visitor};
use super::super::throughput::{Flow, FlowError};
use super::super::way_out::Errand;
use std::net::IpAddr;

use super::*;
use crate::switch::wire::flow::IpVersion;

fn plan(nodes: u16, ipv6: bool) -> Plan {
    Plan::new(Shape { nodes, ipv6, ..Shape::default() }).unwrap()
}

fn perfect(plan: &Plan) -> Findings {
    let members: Vec<_> = plan.endpoints().map(|(_, endpoint)| endpoint.network).collect();
    let all = (0..members.len()).flat_map(|from| (0..members.len()).map(move |to| (from, to)));
    let pairs = all.filter(|(from, to)| from != to).map(|(from, to)| {
        let expected = members[from] == members[to];
        let rtt = expected.then_some(Duration::from_micros(234));
        Pair { from, to, expected, v4: rtt, v6: rtt }
    });
    let flow = Flow { bytes: 125_000_000, took: Duration::from_secs(1) };
    let stream = Some(Stream { from: 0, to: 2, outcome: Ok(flow) });
    let sealed_stream = Some(Stream { from: 1, to: 3, outcome: Ok(flow) });
    let membership = Some(Membership { sights: Vec::new(), faults: Vec::new() });
    let (page, sealed_page) = (Some(fetched((0, 2))), Some(fetched((1, 3))));
    let (names, way_out) = (Some(resolved(plan)), Some(led_out(plan)));
    let service = Some(visited(plan));
    Findings {
        pairs: pairs.collect(),
        names,
        page,
        sealed_page,
        way_out,
        service,
        stream,
        sealed_stream,
        membership,
    }
}

fn resolved(plan: &Plan) -> Names {
    let endpoints: Vec<_> = plan.endpoints().map(|(_, endpoint)| endpoint).collect();
    let lookup = |from: usize, to: usize| {
        let (asker, asked) = (endpoints[from], endpoints[to]);
        let expected = (asker.network == asked.network).then_some(asked.v4.into());
        let outcome = Ok((expected.into_iter().collect(), Duration::from_micros(400)));
        Lookup { from, to, version: IpVersion::V4, expected, outcome }
    };
    let all = (0..endpoints.len()).flat_map(|from| (0..endpoints.len()).map(move |to| (from, to)));
    Names { lookups: all.filter(|(from, to)| from != to).map(|(from, to)| lookup(from, to)).collect() }
}

fn body(body: &[u8]) -> Fetched {
    Fetched { address: [10, 1, 2, 1].into(), body: body.into(), took: Duration::from_millis(9) }
}

fn fetched((from, to): (usize, usize)) -> Page {
    Page { from, to, outcome: Ok(body(&[b'x'; 1 << 20])) }
}

fn led_out(plan: &Plan) -> WayOut {
    let errand = |(from, (node, _)): (usize, (usize, &EndpointPlan))| {
        let expected = plan.nodes[node].address;
        Errand { from, expected, outcome: Ok(body(format!("{expected}\n").as_bytes())) }
    };
    let errands = plan.endpoints().enumerate().map(errand).collect();
    WayOut { outside: plan.outside.address, errands }
}

/// Everybody finds the first endpoint of its network.
fn visited(plan: &Plan) -> Service {
    let endpoints: Vec<_> = plan.endpoints().map(|(_, endpoint)| endpoint).collect();
    let seen = |task: &EndpointPlan, visitor: IpAddr| {
        Ok(Seen { task: task.name.clone(), visitor, took: Duration::from_millis(3) })
    };
    let inside = |(from, own): (usize, &&EndpointPlan)| {
        let task = endpoints.iter().find(|task| task.network == own.network).unwrap();
        Visit { from: Visitor::Endpoint(from), outcome: seen(task, own.v4.into()) }
    };
    let outside =
        |node| Visit { from: Visitor::Outside(node), outcome: seen(endpoints[0], plan.outside.address) };
    let inside = endpoints.iter().enumerate().map(inside);
    Service::new(inside.chain((0..plan.nodes.len()).map(outside)).collect(), plan)
}

fn names(findings: &mut Findings) -> &mut [Lookup] {
    &mut findings.names.as_mut().unwrap().lookups
}

#[test]
fn the_picture_shows_everything_and_keeps_its_shape() {
    for (nodes, ipv6) in [(1, false), (3, false), (3, true), (7, false), (64, true)] {
        let plan = plan(nodes, ipv6);
        let picture = picture(&plan);
        for node in plan.hosts() {
            assert!(picture.contains(&node.address.to_string()), "{picture}");
            assert!(node.endpoints.iter().all(|e| picture.contains(&e.name)), "{picture}");
        }
        let widths =
            |c| picture.lines().filter(|l| l.contains(c)).map(|l| l.chars().count()).collect::<Vec<_>>();
        assert_eq!(widths('┌'), widths('└'), "{picture}");
        assert_eq!(widths('┌'), widths('╧'), "{picture}");
        assert!(picture.lines().all(|line| line.chars().count() <= WIDTH + 2), "{picture}");
    }
}

#[test]
fn a_perfect_lab_is_ok() {
    let plan = plan(3, false);
    let text = findings(&plan, &perfect(&plan));
    assert!(text.contains("0.23"), "{text}");
    assert!(text.contains("TCP n1a to n2a: 1000 Mbit/s (119 MiB, every byte checked)"), "{text}");
    assert!(text.contains("TCP n1b to n2b: 1000 Mbit/s (119 MiB, every byte checked, encrypted)"), "{text}");
    for line in [
        "Names: 12 of 12 resolve, median 0.40 ms; none of 18 of other networks does\n",
        "Page: n1a fetches http://n2a/: 1024 KiB in 9.0 ms, every byte checked\n",
        "Page: n1b fetches http://n2b/: 1024 KiB in 9.0 ms, every byte checked, encrypted\n",
        "Way out: 6 of 6 fetch http://outside.test/, which sees their nodes' addresses, median 9.0 ms\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(
        text.ends_with("OK: all 12 pairs within a network answer, none of the 18 across networks does\n")
    );
    let document = document("lab", &plan, &perfect(&plan));
    assert_eq!(document["ok"], true);
    assert_eq!(document["pairs"].as_array().unwrap().len(), 30);
    assert_eq!(document["pairs"][1]["rtt_ipv4_us"], 234.0);
    assert_eq!(document["names"]["median_us"], 400.0);
    assert_eq!(document["page_encrypted"]["bytes"], 1 << 20);
    assert_eq!(document["way_out"]["endpoints"][2]["seen"], "198.18.0.2");
}

#[test]
fn silence_leaks_and_corruption_each_fail_it_and_are_named() {
    let plan = plan(2, false);
    type Edit = fn(&mut Findings);
    let edits: [(Edit, &str, &str); 13] = [
        (|f| f.pairs[1].v4 = None, "LOST", "n1a gets no answer from n2a over IPv4"),
        (|f| f.pairs[1].v6 = None, "LOST6", "n1a gets no answer from n2a over IPv6"),
        (|f| f.pairs[0].v6 = Some(Duration::ZERO), "LEAK", "n1a reaches n1b over IPv6, which is in another"),
        (
            |f| {
                let error = FlowError::Corrupt { offset: 7, expected: 1, found: 2 };
                f.stream.as_mut().unwrap().outcome = Err(error);
            },
            "a TCP stream failed",
            "byte 7 arrived as 0x02, not 0x01",
        ),
        (
            |f| {
                let error = FlowError::Short { sent: 9, arrived: 8 };
                f.sealed_stream.as_mut().unwrap().outcome = Err(error);
            },
            "a TCP stream failed",
            "n1b to n2b: TCP: 8 of 9 bytes arrived",
        ),
        (
            // Of n1b, which is in another network.
            |f| names(f)[0].outcome = Ok((vec![[10, 2, 1, 2].into()], Duration::ZERO)),
            "1 of 8 of other networks are not as they must be",
            "n1a resolves n1b (A), which is in another network",
        ),
        (
            |f| names(f)[1].outcome = Ok((vec![[10, 1, 9, 9].into()], Duration::ZERO)),
            "and names are not",
            "n1a resolves n2a (A) to 10.1.9.9, not 10.1.2.1",
        ),
        (
            |f| names(f)[1].outcome = Ok((Vec::new(), Duration::ZERO)),
            "Names: 3 of 4 resolve",
            "n1a resolves n2a (A) to nothing, not 10.1.2.1",
        ),
        (
            |f| {
                let (name, source) = ("n2a".into(), std::io::ErrorKind::TimedOut.into());
                names(f)[1].outcome = Err(NamesError::Ask { name, source });
            },
            "and names are not",
            "n1a can't ask for n2a (A): asking the gateway for n2a: timed out",
        ),
        (
            |f| f.sealed_page.as_mut().unwrap().outcome = Err(PageError::Other(7)),
            "and a page did not come",
            "n1b can't fetch http://n2b/: the page of 7 bytes is another one",
        ),
        (
            |f| f.way_out.as_mut().unwrap().errands[2].outcome = Ok(body(b"10.1.2.1\n")),
            "and a way out does not lead there",
            "n2a is seen outside as 10.1.2.1, not 198.18.0.2",
        ),
        (
            |f| f.way_out.as_mut().unwrap().errands[0].outcome = Ok(body(b"hello\n")),
            "Way out: 3 of 4 fetch",
            "n1a got a page of 6 bytes from elsewhere",
        ),
        (
            |f| f.membership.as_mut().unwrap().faults.push("node1 sees node2 as down".into()),
            "the nodes are not one cluster",
            "node1 sees node2 as down",
        ),
    ];
    for (edit, table, fault) in edits {
        let mut found = perfect(&plan);
        edit(&mut found);
        let text = findings(&plan, &found);
        assert!(text.contains(table) && text.contains(fault) && text.contains("FAILED"), "{text}");
        assert_eq!(document("lab", &plan, &found)["ok"], false);
    }
}

#[test]
fn a_large_lab_is_summed_up() {
    let plan = plan(9, false);
    let text = findings(&plan, &perfect(&plan));
    assert!(text.contains("net2     9 endpoints    72 pairs    0.23   0.23   0.23"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 100), "{text}");
}

#[test]
fn a_wire_is_described_with_its_faults() {
    let mut plan = Plan::new(Shape { underlay: UnderlayKind::Wire, ..Shape::default() }).unwrap();
    assert!(picture(&plan).contains("no faults, seed 0"));
    plan.wire.faults.loss = 0.01;
    plan.wire.faults.delay = Duration::from_millis(20);
    plan.wire.seed = 7;
    assert!(picture(&plan).contains("a simulated wire (loss 0.01, delay 20ms, seed 7)"));
}

#[test]
fn a_service_answers_everybody_with_a_page_of_its_own_network() {
    let plan = plan(3, false);
    let right = perfect(&plan);
    let said = findings(&plan, &right);
    let first =
        "Service: 6 of 6 visits to http://web/ led to 2 tasks, which see their visitors, median 3.0 ms";
    assert!(said.contains(first), "{said}");
    assert!(said.contains("Ports: 80 of 3 of 3 nodes leads to a task from outside"), "{said}");
    let wrong = |visit: usize, change: fn(&mut Seen)| {
        let mut service = visited(&plan);
        change(service.visits[visit].outcome.as_mut().unwrap());
        let found = Findings { service: Some(Service::new(service.visits, &plan)), ..perfect(&plan) };
        assert!(!found.is_right() && document("lab", &plan, &found)["service"]["ok"] == false);
        assert!(findings(&plan, &found).contains(", and a service does not answer everybody"));
        faults(&plan, &found).join("\n")
    };
    assert_eq!(
        wrong(2, |seen| seen.task = "n1b".into()),
        "n2a gets a page of n1b, which is in another network"
    );
    assert_eq!(wrong(2, |seen| seen.task = "x".into()), "n2a gets a page of x, which is no task of web");
    let seen_as = wrong(2, |seen| seen.visitor = [10, 1, 0, 1].into());
    assert_eq!(seen_as, "n2a is seen by n1a as 10.1.0.1, not 10.1.2.1");
    let behind = wrong(8, |seen| seen.visitor = [10, 1, 0, 1].into());
    assert_eq!(behind, "outside, by node3 is seen by n1a as 10.1.0.1, not 198.18.255.254");
}
