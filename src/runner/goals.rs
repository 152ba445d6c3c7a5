//! Which slots of which services are this node's to run, from what is known here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::crypto::identity::NodeId;
use crate::node::records::{ServiceRecord, TaskPhase, TaskRecord};
use crate::node::{Facts, Seats, is_final, seats};
use crate::service::Mode;
use crate::service::placement::Owner;
use crate::service::rollout::{Progress, Verdict};

/// A slot: of which service by its id, and which; none in a global one.
pub(super) type SlotKey = (String, Option<u16>);

/// What is to become of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Goal {
    /// Who is to run it.
    pub(super) owner: Owner,
    /// The service; none if it is gone.
    pub(super) service: Option<Arc<ServiceRecord>>,
    /// Whether a task of another generation may be replaced.
    pub(super) replace: Verdict,
}

/// Since when which tasks are known to run or to have done their work, by their ids.
pub(super) type Heard = BTreeMap<String, Instant>;

/// Notes what runs, or has done its work, from now on.
pub(super) fn note(facts: &Facts, heard: &mut Heard, now: Instant) {
    let has_run = |(.., task): &&Task| matches!(task.state, TaskPhase::Running | TaskPhase::Complete);
    let known: BTreeSet<&String> = facts.tasks.iter().filter(has_run).map(|(_, id, _)| id).collect();
    heard.retain(|id, _| known.contains(id));
    for id in known {
        heard.entry(id.clone()).or_insert(now);
    }
}

/// The goal of every slot that there is or that is in `here`, in the eyes of this node.
///
/// If all nodes that may run a service have rejected its newest generation, whoever has a task of an older one goes on with it:
/// as long as another node could come and run it, it is the task of [`Owner::Other`].
///
/// It is asked for at every change, and any member may say that it has very many tasks: so all of them are looked at once, and
/// then only those of a slot.
pub(super) fn goals(
    facts: &Facts,
    here: &BTreeSet<SlotKey>,
    heard: &Heard,
    now: Instant,
) -> BTreeMap<SlotKey, Goal> {
    let left = |key: &SlotKey| {
        let service =
            facts.services.iter().find(|(id, _)| *id == key.0).map(|(_, record)| Arc::new(record.clone()));
        Goal { owner: Owner::Nobody, service, replace: Verdict::Now }
    };
    let mut goals: BTreeMap<SlotKey, Goal> = here.iter().map(|key| (key.clone(), left(key))).collect();
    let mut tasks = HashMap::<&str, Vec<&Task>>::new();
    for task in &facts.tasks {
        tasks.entry(&task.2.service).or_default().push(task);
    }
    let seats = seats(facts);
    for (id, record) in &facts.services {
        let Some(seats) = seats.get(id.as_str()) else { continue };
        let tasks = tasks.get(id.as_str()).map(Vec::as_slice).unwrap_or_default();
        let one = One { facts, id, record: Arc::new(record.clone()), seats, tasks, heard, now };
        match record.spec.mode {
            Mode::Global => goals.extend([((id.clone(), None), one.global())]),
            Mode::Replicated(slots) => goals.extend(one.replicated(slots)),
        }
    }
    goals
}

type Task = (NodeId, String, TaskRecord);

/// A service that has tasks.
struct One<'a> {
    facts: &'a Facts,
    id: &'a String,
    record: Arc<ServiceRecord>,
    seats: &'a Seats,
    tasks: &'a [&'a Task],
    heard: &'a Heard,
    now: Instant,
}

impl One<'_> {
    fn global(&self) -> Goal {
        let Seats { nodes, rejecting, .. } = self.seats;
        let place = nodes.iter().position(|node| *node == self.facts.own);
        let owner = match place {
            Some(_) => Owner::Own,
            None if rejecting.contains(&self.facts.own) => Owner::Other { runs: false },
            None => Owner::Nobody,
        };
        let done = self.tasks_by(|task| self.has_come(task), |node, _| Some(*node));
        let all: Vec<Option<Progress>> = nodes.iter().map(|node| self.progress(done.get(node))).collect();
        self.goal(owner, place.unwrap_or(0), &all)
    }

    fn replicated(&self, slots: u16) -> Vec<(SlotKey, Goal)> {
        let Seats { nodes, rejecting, owners, .. } = self.seats;
        let nobody = if nodes.is_empty() && !rejecting.is_empty() {
            Owner::Other { runs: false }
        } else {
            Owner::Nobody
        };
        let done = self.tasks_by(|task| self.has_come(task), |_, task| task.slot);
        let all: Vec<Option<Progress>> = (0..slots).map(|slot| self.progress(done.get(&slot))).collect();
        let running = self.tasks_by(|task| task.state == TaskPhase::Running, |_, task| task.slot);
        let over = self.tasks_by(|task| is_final(task, &self.record), |_, task| task.slot);
        let goal = |slot: u16| {
            let is_at = |of: &HashMap<u16, Vec<&Task>>, is_it: &dyn Fn(NodeId) -> bool| {
                of.get(&slot).is_some_and(|tasks| tasks.iter().any(|(node, ..)| is_it(*node)))
            };
            let runs = |owner: NodeId| is_at(&running, &|node| node == owner);
            let owner = match owners.get(usize::from(slot)).copied().flatten() {
                // Its work is done, wherever it would be done now.
                Some(_) if is_at(&over, &|node| node != self.facts.own) => Owner::Other { runs: false },
                Some(owner) if owner == self.facts.own => Owner::Own,
                Some(owner) => Owner::Other { runs: runs(owner) },
                None => nobody,
            };
            ((self.id.clone(), Some(slot)), self.goal(owner, slot.into(), &all))
        };
        (0..slots).map(goal).collect()
    }

    fn goal(&self, owner: Owner, place: usize, all: &[Option<Progress>]) -> Goal {
        let rollout = self.record.spec.update.rollout();
        let replace = rollout.may_replace(place, all);
        Goal { owner, service: Some(Arc::clone(&self.record)), replace }
    }

    /// Whether it runs, or has done its work.
    fn has_come(&self, task: &TaskRecord) -> bool {
        task.state == TaskPhase::Running
            || (task.state == TaskPhase::Complete && is_final(task, &self.record))
    }

    /// Some tasks by something; without those that have none of it.
    fn tasks_by<K: Eq + Hash>(
        &self,
        which: impl Fn(&TaskRecord) -> bool,
        by: impl Fn(&NodeId, &TaskRecord) -> Option<K>,
    ) -> HashMap<K, Vec<&Task>> {
        let mut found = HashMap::<K, Vec<&Task>>::new();
        for task in self.tasks.iter().filter(|(.., task)| which(task)) {
            let Some(key) = by(&task.0, &task.2) else { continue };
            found.entry(key).or_default().push(task);
        }
        found
    }

    /// Of a slot's tasks that of the service's generation, if there is one.
    fn progress(&self, tasks: Option<&Vec<&Task>>) -> Option<Progress> {
        let is_new = |(.., task): &&&Task| task.generation == self.record.generation;
        let (_, id, task) = tasks?.iter().max_by_key(is_new)?;
        let known_for =
            self.heard.get(id).map_or(Duration::ZERO, |&since| self.now.saturating_duration_since(since));
        Some(Progress { new: task.generation == self.record.generation, known_for })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::node::ServiceNode;
    use crate::service::placement::assign;
    use crate::service::spec::tests::full;
    use crate::service::{RestartCondition, RestartPolicy, ServiceSpec, SpecParts, UpdatePolicy};

    pub(in crate::runner) fn service(mode: Mode, generation: u64) -> ServiceRecord {
        let update = UpdatePolicy { parallelism: 1, delay_ms: 10_000, ..UpdatePolicy::default() };
        let parts = SpecParts { mode, update, constraints: Vec::new(), ..full() };
        ServiceRecord {
            spec: ServiceSpec::new(parts).unwrap(),
            generation,
            created_ms: 0,
            updated_ms: 0,
            vips: Vec::new(),
            ports: Vec::new(),
        }
    }

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn facts(nodes: u8, service: ServiceRecord) -> Facts {
        let live = |number: u8| ServiceNode::worker(node(number), number);
        Facts {
            own: node(0),
            settled: true,
            nodes: (0..nodes).map(live).collect(),
            services: vec![("s".into(), service)],
            tasks: Vec::new(),
        }
    }

    fn task(slot: Option<u16>, generation: u64, state: TaskPhase) -> TaskRecord {
        TaskRecord {
            service: "s".into(),
            slot,
            generation,
            state,
            reason: String::new(),
            last: false,
            since_ms: 0,
            endpoints: Vec::new(),
        }
    }

    /// By slot: whether it is this node's, and whether it may be replaced.
    fn goals_of(facts: &Facts, heard: &Heard, now: Instant) -> Vec<(Owner, Verdict)> {
        goals(facts, &BTreeSet::new(), heard, now)
            .into_values()
            .map(|goal| (goal.owner, goal.replace))
            .collect()
    }

    #[test]
    fn each_slot_has_one_owner_and_others_hear_whether_it_runs() {
        let now = Instant::now();
        let mut facts = facts(3, service(Mode::Replicated(6), 1));
        let own = |facts: &Facts| {
            let goals = goals_of(facts, &Heard::new(), now);
            goals.iter().map(|(owner, _)| *owner).collect::<Vec<_>>()
        };
        let before = own(&facts);
        assert_eq!(before.iter().filter(|owner| **owner == Owner::Own).count(), 2);
        let owners = assign("s", 6, &[node(0), node(1), node(2)]);
        let (slot, owner) = owners.iter().enumerate().find(|(_, owner)| **owner != node(0)).unwrap();
        let of_owner = task(u16::try_from(slot).ok(), 1, TaskPhase::Running);
        facts.tasks.push((*owner, "t".into(), of_owner));
        assert_eq!(before[slot], Owner::Other { runs: false });
        assert_eq!(own(&facts)[slot], Owner::Other { runs: true });
        facts.nodes.iter_mut().for_each(|node| node.tasks = false);
        assert!(own(&facts).iter().all(|owner| *owner == Owner::Nobody));
    }

    #[test]
    fn a_node_that_has_rejected_a_generation_gets_none_of_it() {
        let now = Instant::now();
        let mut facts = facts(2, service(Mode::Replicated(4), 2));
        facts.tasks.push((node(0), "t".into(), task(Some(0), 2, TaskPhase::Rejected)));
        let goals = goals_of(&facts, &Heard::new(), now);
        assert!(goals.iter().all(|(owner, _)| *owner == Owner::Other { runs: false }), "{goals:?}");
        facts.tasks.push((node(1), "u".into(), task(Some(1), 2, TaskPhase::Rejected)));
        let goals = goals_of(&facts, &Heard::new(), now);
        assert!(
            goals.iter().all(|(owner, _)| *owner == Owner::Other { runs: false }),
            "older ones go on: {goals:?}"
        );
        facts.tasks.truncate(1);
        facts.tasks[0].2.generation = 1;
        let goals = goals_of(&facts, &Heard::new(), now);
        assert_eq!(goals.iter().filter(|(owner, _)| *owner == Owner::Own).count(), 2, "another generation");
    }

    #[test]
    fn work_that_is_done_is_not_done_again() {
        let now = Instant::now();
        let mut once = service(Mode::Replicated(6), 2);
        let parts = once.spec.clone().into_parts();
        let restart = RestartPolicy { condition: RestartCondition::OnFailure, ..parts.restart };
        once.spec = ServiceSpec::new(SpecParts { restart, ..parts }).unwrap();
        let mut facts = facts(2, once);
        let own = |facts: &Facts| {
            let goals = goals_of(facts, &Heard::new(), now).into_iter();
            goals.filter(|(owner, _)| *owner == Owner::Own).count()
        };
        for (generation, state, left) in [
            (2, TaskPhase::Complete, 0),
            (1, TaskPhase::Complete, 3),
            (2, TaskPhase::Failed, 3),
            (2, TaskPhase::Starting, 3),
        ] {
            let task = |slot| (node(1), format!("t{slot}"), task(Some(slot), generation, state));
            facts.tasks = (0..6).map(task).collect();
            assert_eq!(own(&facts), left, "{state:?} of {generation}");
        }
        // Whose own it was goes on as the policy has it.
        facts.tasks = vec![(node(0), "t".into(), task(Some(0), 2, TaskPhase::Complete))];
        assert_eq!(own(&facts), 3);
        let mut heard = Heard::new();
        note(&facts, &mut heard, now);
        let verdicts = goals_of(&facts, &heard, now + Duration::from_secs(10));
        assert_eq!(verdicts[1].1, Verdict::Now, "the next slot's turn has come");
    }

    #[test]
    fn slots_take_their_turn_in_what_was_heard() {
        let now = Instant::now();
        let mut facts = facts(3, service(Mode::Replicated(3), 2));
        for (slot, generation) in [(0, 2), (1, 1), (2, 1)] {
            let id = format!("t{slot}");
            facts.tasks.push((node(1), id, task(Some(slot), generation, TaskPhase::Running)));
        }
        let mut heard = Heard::new();
        note(&facts, &mut heard, now);
        let verdicts = |heard: &Heard, now| {
            goals_of(&facts, heard, now).into_iter().map(|(_, verdict)| verdict).collect::<Vec<_>>()
        };
        let ten = Duration::from_secs(10);
        assert_eq!(verdicts(&heard, now), [Verdict::Now, Verdict::In(ten), Verdict::Behind(1)]);
        assert_eq!(verdicts(&heard, now + ten), [Verdict::Now, Verdict::Now, Verdict::Behind(1)]);
        note(&facts, &mut heard, now + ten);
        assert_eq!(verdicts(&heard, now + ten)[1], Verdict::Now, "it was known before");
    }

    #[test]
    fn global_services_have_a_task_here_and_nodes_take_turns() {
        let now = Instant::now();
        let mut facts = facts(3, service(Mode::Global, 2));
        assert_eq!(goals_of(&facts, &Heard::new(), now), [(Owner::Own, Verdict::Now)]);
        facts.own = node(1);
        assert_eq!(goals_of(&facts, &Heard::new(), now), [(Owner::Own, Verdict::Behind(0))]);
        facts.nodes[1].tasks = false;
        assert_eq!(goals_of(&facts, &Heard::new(), now)[0].0, Owner::Nobody);
    }

    #[test]
    fn what_is_left_of_services_that_are_gone_is_nobodys() {
        let mut facts = facts(1, service(Mode::Replicated(1), 1));
        let here = [("s".to_owned(), Some(7)), ("gone".to_owned(), None)].into();
        let goals = goals(&facts, &here, &Heard::new(), Instant::now());
        let of = |key: (&str, Option<u16>)| &goals[&(key.0.to_owned(), key.1)];
        assert_eq!((of(("s", Some(0))).owner, of(("s", Some(7))).owner), (Owner::Own, Owner::Nobody));
        assert!(of(("s", Some(7))).service.is_some() && of(("gone", None)).service.is_none());
        let parts = SpecParts::new("web".parse().unwrap());
        facts.services[0].1.spec = ServiceSpec::new(parts).unwrap();
        let none = super::goals(&facts, &BTreeSet::new(), &Heard::new(), Instant::now());
        assert!(none.is_empty(), "others make the tasks of a service without a command");
    }
}
