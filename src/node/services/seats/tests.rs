use super::super::facts::ServiceNode;
use super::*;
use crate::service::{Constraint, ServiceSpec, SpecParts};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

fn service(id: &str, created_ms: u64, mode: Mode, port: &str) -> (String, ServiceRecord) {
    let ports = if port.is_empty() { Vec::new() } else { Port::parse(port, PortMode::Host).unwrap() };
    let parts = SpecParts {
        mode,
        command: vec!["httpd".into()],
        ports: ports.clone(),
        ..SpecParts::new(id.parse().unwrap())
    };
    let spec = ServiceSpec::new(parts).unwrap();
    (id.into(), ServiceRecord { spec, generation: 1, created_ms, updated_ms: 0, vips: Vec::new(), ports })
}

fn facts(nodes: u8, services: Vec<(String, ServiceRecord)>) -> Facts {
    let nodes = (0..nodes).map(|number| ServiceNode::worker(node(number), number)).collect();
    Facts { own: node(0), settled: true, nodes, services, tasks: Vec::new() }
}

fn task(on: u8, service: &str, slot: Option<u16>, state: TaskPhase) -> Task {
    let (reason, endpoints) = (String::new(), Vec::new());
    let record = TaskRecord {
        service: service.into(),
        slot,
        generation: 1,
        state,
        reason,
        last: false,
        since_ms: 0,
        endpoints,
    };
    (node(on), format!("{service}.{slot:?}.{on}"), record)
}

fn pinned((id, mut record): (String, ServiceRecord), to: u8) -> (String, ServiceRecord) {
    let mut parts = record.spec.into_parts();
    parts.constraints = vec![format!("node.hostname==node-{to}").parse::<Constraint>().unwrap()];
    record.spec = ServiceSpec::new(parts).unwrap();
    (id, record)
}

#[test]
fn a_node_whose_port_another_service_has_is_out() {
    let one = Mode::Replicated(1);
    let mut all = facts(3, vec![pinned(service("hp", 1, one, "82:80"), 0)]);
    all.services.extend(["oa", "ob", "oc"].map(|id| service(id, 2, one, "82:80")));
    let owners = |all: &Facts| {
        seats(all).into_iter().map(|(id, seats)| (id.to_owned(), seats.owners[0])).collect::<BTreeMap<_, _>>()
    };
    let alone: Vec<_> = owners(&all).into_values().collect();
    assert_eq!(alone[0], Some(node(0)));
    assert_eq!(alone[1..].iter().flatten().collect::<BTreeSet<_>>(), BTreeSet::from([&node(1), &node(2)]));
    assert_eq!(alone[3], None, "the youngest waits");
    // Whoever is there stays, even if an older one comes.
    all.tasks = vec![task(1, "oc", Some(0), TaskPhase::Running)];
    let with = owners(&all);
    assert_eq!((with["oc"], with["oa"], with["ob"]), (Some(node(1)), Some(node(2)), None));
    let held = &seats(&all)["ob"].held[&node(1)];
    assert_eq!((held.holder.as_str(), held.port.to_string()), ("oc", "82:80/tcp".into()));
    // Once its task has failed it has no more right to the node than its age gives it.
    all.tasks[0].2.state = TaskPhase::Failed;
    assert_eq!(owners(&all)["oc"], None);
    all.services.push(service("else", 3, one, "83:80"));
    all.services.push(service("udp", 3, one, "82:80/udp"));
    assert!(owners(&all)["else"].is_some() && owners(&all)["udp"].is_some(), "that is another port");
}

#[test]
fn one_address_of_a_host_is_not_another() {
    let one = Mode::Replicated(1);
    let here = service("one", 1, one, "198.18.0.1:82:80");
    let owner = |port: &str| {
        let all = facts(1, vec![here.clone(), service("other", 2, one, port)]);
        seats(&all)["other"].owners[0]
    };
    assert_eq!(owner("198.18.0.2:82:80"), Some(node(0)));
    assert_eq!([owner("198.18.0.1:82:80"), owner("82:80"), owner("0.0.0.0:82:80")], [None; 3]);
}

#[test]
fn slots_with_ports_of_their_host_are_apart_and_stay_when_there_are_more_or_less() {
    let owners = |all: &Facts| seats(all)["h2"].owners.clone();
    let mut all = facts(3, vec![service("h2", 1, Mode::Replicated(2), "84:80")]);
    let two = owners(&all);
    for (slot, owner) in two.iter().enumerate() {
        let on = (0..3).find(|&on| Some(node(on)) == *owner).unwrap();
        all.tasks.push(task(on, "h2", u16::try_from(slot).ok(), TaskPhase::Running));
    }
    all.services[0] = service("h2", 1, Mode::Replicated(5), "84:80");
    let five = owners(&all);
    assert_eq!(five[..2], two[..], "nothing moves");
    assert_eq!(five.iter().flatten().collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(five[3..], [None, None], "there is no node for more");
    all.tasks.remove(0);
    assert_eq!(owners(&all)[1], two[1], "a task stays when another goes");
    // A task that is drained for the next generation keeps its node, one that goes for another does not.
    all.tasks[0].2.state = TaskPhase::Draining;
    assert_eq!(owners(&all)[1], two[1]);
    let elsewhere = (0..3).find(|&on| !two.contains(&Some(node(on)))).unwrap();
    all.tasks.push(task(elsewhere, "h2", Some(1), TaskPhase::Running));
    assert_eq!(owners(&all)[1], Some(node(elsewhere)));
    // What has done its work leaves room for the next slot.
    let (id, mut record) = service("h2", 1, Mode::Replicated(2), "84:80");
    let mut parts = record.spec.into_parts();
    parts.restart.condition = crate::service::RestartCondition::OnFailure;
    record.spec = ServiceSpec::new(parts).unwrap();
    let mut once = facts(1, vec![(id, record)]);
    once.tasks.push(task(0, "h2", Some(0), TaskPhase::Complete));
    assert_eq!(owners(&once), [Some(node(0)), Some(node(0))]);
}

#[test]
fn a_global_service_is_where_it_can_be() {
    let mut all = facts(3, vec![service("all", 2, Mode::Global, "82:80")]);
    all.services.push(service("one", 3, Mode::Replicated(1), "82:80"));
    assert_eq!(seats(&all)["one"].owners, [None], "the older one is to have all");
    all.tasks.push(task(1, "one", Some(0), TaskPhase::Running));
    let seats = seats(&all);
    assert_eq!((&seats["all"].nodes, seats["all"].held.len()), (&vec![node(0), node(2)], 1));
    assert_eq!(seats["one"].owners, [Some(node(1))]);
}

/// Nodes act one by one on what all have said so far, in any order, and tasks crash: each runs what is its own, and ends what runs
/// at another's.
#[test]
fn services_that_want_one_port_come_to_rest() {
    for seed in 0..300 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = rng.u8(1..6);
        let services = ["a", "b", "c"].map(|id| {
            let mode = if rng.u8(0..4) == 0 { Mode::Global } else { Mode::Replicated(rng.u16(1..5)) };
            service(id, rng.u64(0..3), mode, "82:80")
        });
        let mut all = facts(nodes, services.into());
        for _ in 0..rng.u8(0..40) {
            if rng.u8(0..6) == 0 {
                let chosen = rng.usize(0..all.tasks.len().max(1));
                all.tasks.drain(chosen..(chosen + 1).min(all.tasks.len()));
            }
            act(&mut all, rng.u8(0..nodes));
        }
        let mut order: Vec<u8> = (0..nodes).collect();
        let mut changes = 0;
        loop {
            rng.shuffle(&mut order);
            let before = all.tasks.clone();
            order.iter().for_each(|&on| act(&mut all, on));
            if all.tasks == before {
                break;
            }
            changes += 1;
            assert!(changes < 20, "seed {seed} does not come to rest");
        }
        let used: BTreeSet<NodeId> = all.tasks.iter().map(|(node, ..)| *node).collect();
        assert_eq!(used.len(), all.tasks.len(), "seed {seed}: one task on each node");
        let wanted: usize = all
            .services
            .iter()
            .map(|(_, record)| match record.spec.mode {
                Mode::Global => usize::from(nodes),
                Mode::Replicated(slots) => slots.into(),
            })
            .sum();
        assert_eq!(used.len(), wanted.min(nodes.into()), "seed {seed}: no node is free while a slot waits");
    }
}

/// What a node does at a time: it ends what runs at its owner's, and starts one task of its own, if its port is free here.
fn act(all: &mut Facts, on: u8) {
    let mut goals: BTreeMap<(String, Option<u16>), Option<NodeId>> = BTreeMap::new();
    for (id, seats) in seats(all) {
        let slots = seats.owners.iter().zip(0..).map(|(owner, slot)| ((id.to_owned(), Some(slot)), *owner));
        goals.extend(slots);
        let own = seats.nodes.contains(&node(on)).then(|| node(on));
        goals.extend(seats.owners.is_empty().then(|| ((id.to_owned(), None), own)));
    }
    let known = all.tasks.clone();
    all.tasks.retain(|(by, _, task)| {
        let owner = goals[&(task.service.clone(), task.slot)];
        let runs = |owner| {
            known
                .iter()
                .any(|(by, _, other)| (*by, &other.service, other.slot) == (owner, &task.service, task.slot))
        };
        *by != node(on) || owner == Some(node(on)) || owner.is_some_and(|owner| !runs(owner))
    });
    let is_here = all.tasks.iter().any(|(by, ..)| *by == node(on));
    if let Some(((id, slot), _)) = goals.into_iter().find(|(_, owner)| *owner == Some(node(on)) && !is_here) {
        all.tasks.push(task(on, &id, slot, TaskPhase::Running));
    }
}
