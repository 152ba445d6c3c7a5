//! Runners of several nodes in virtual time: nodes die and come back with or without their tasks, links are cut and mended, programs
//! end and take their time to listen, services are changed. What each node knows of the others is late.
//!
//! Everything that decides is what runs outside of tests; what is simulated is gossip, daemons and tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::slots::{Moment, Order, Slots, World as Outside};
use crate::api::{TaskProgram, TaskService, TaskState, TaskView};
use crate::crypto::identity::NodeId;
use crate::node::records::{ServiceRecord, TaskPhase, TaskRecord};
use crate::node::{Facts, ServiceNode};
use crate::service::placement::assign;
use crate::service::update::next_generation;
use crate::service::{Mode, ServiceSpec, SpecParts, UpdateOrder, UpdatePolicy};

const SERVICE: &str = "s";
/// Virtual time that passes between two looks.
const TICK: Duration = Duration::from_millis(100);
/// Ticks after which news have come to everybody who can hear: less than [`super::slot::HAND_OVER`].
const LATE_MAX: u64 = 8;
/// Ticks that a task drains.
const DRAIN: u64 = 5;
/// Ticks that a program may take to listen.
const READY_MAX: u64 = 15;
/// Ticks until a node that hears nobody starts tasks.
const SETTLE: u64 = 50;
/// Ticks without anything under way after which nothing will be: longer than what waits to be heard, or for others.
const CALM: u64 = SETTLE + 2 * LATE_MAX;
/// Ticks in which everything comes to rest, with room for a whole update one by one and for restarts.
const QUIET: u64 = 1_500;

/// A program in its namespaces, which outlives the daemon.
struct Task {
    of: TaskService,
    view: TaskView,
    /// The tick from which it listens.
    ready: u64,
}

/// What a daemon is about to do: makes a task, or has ended it.
enum Under {
    Start(TaskService),
    End(String),
}

/// What a node knows of another.
#[derive(Clone, Default, PartialEq)]
struct News {
    tasks: BTreeMap<String, TaskRecord>,
}

#[derive(Default)]
struct Machine {
    /// When its daemon was started; none: it does not run.
    up: Option<u64>,
    /// Who is on one side hears each other.
    side: u8,
    tasks: Vec<Task>,
    slots: Slots,
    under_way: Vec<(u64, Under)>,
    /// What it tells.
    said: News,
    heard: BTreeMap<usize, (News, u64)>,
    service: Option<ServiceRecord>,
    /// When its runner looks again if nothing happens; at once if something has.
    wake: Option<u64>,
}

struct World {
    machines: Vec<Machine>,
    now: u64,
    begin: Instant,
    rng: fastrand::Rng,
    ids: u64,
}

/// What a runner asks of its machine.
struct Machinery<'m> {
    ids: &'m mut u64,
    now: u64,
    ready: BTreeMap<String, u64>,
}

impl Outside for Machinery<'_> {
    fn new_id(&mut self) -> Option<String> {
        *self.ids += 1;
        Some(format!("t{}", self.ids))
    }

    fn waits_for(&mut self, task: &TaskView, _service: &ServiceRecord) -> Option<String> {
        self.ready.get(&task.id).filter(|&&ready| ready > self.now).map(|_| "not yet".into())
    }
}

fn node(index: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(index + 1).unwrap(); 16])
}

fn service(slots: u16, order: UpdateOrder, generation: u64, updated_ms: u64) -> ServiceRecord {
    let mut parts = SpecParts::new("web".parse().unwrap());
    parts.mode = Mode::Replicated(slots);
    parts.command = vec!["httpd".into()];
    parts.restart.delay_ms = 100;
    parts.update = UpdatePolicy { parallelism: 1, delay_ms: 0, order };
    let spec = ServiceSpec::new(parts).unwrap();
    ServiceRecord { spec, generation, created_ms: 0, updated_ms, vips: Vec::new(), ports: Vec::new() }
}

fn slots_of(service: &ServiceRecord) -> u16 {
    match service.spec.mode {
        Mode::Replicated(slots) => slots,
        Mode::Global => 0,
    }
}

fn view(of: &TaskService, now: u64) -> TaskView {
    let program = TaskProgram {
        command: vec!["httpd".into()],
        workdir: None,
        env: Vec::new(),
        user: None,
        hostname: None,
        tty: false,
        stdin: false,
    };
    TaskView {
        id: of.id.clone(),
        name: of.name.clone(),
        program,
        endpoints: Vec::new(),
        published: Vec::new(),
        remove: false,
        service: Some(of.clone()),
        created_ms: now,
        state: TaskState::Running,
        started_ms: Some(now * 100),
        ended_ms: None,
        exit_code: None,
        error: None,
        pid: Some(1),
        directory: PathBuf::new(),
    }
}

impl World {
    fn new(count: usize, slots: u16, order: UpdateOrder, seed: u64) -> Self {
        let machine = || Machine {
            up: Some(0),
            wake: Some(0),
            service: Some(service(slots, order, 1, 1)),
            ..Machine::default()
        };
        Self {
            machines: (0..count).map(|_| machine()).collect(),
            now: 0,
            begin: Instant::now(),
            rng: fastrand::Rng::with_seed(seed),
            ids: 0,
        }
    }

    /// The nodes that can hear this one, itself among them.
    fn side(&self, index: usize) -> Vec<usize> {
        let side = self.machines[index].side;
        let hears = |other: &usize| self.machines[*other].up.is_some() && self.machines[*other].side == side;
        (0..self.machines.len()).filter(hears).collect()
    }

    fn up(&self) -> Vec<usize> {
        (0..self.machines.len()).filter(|&index| self.machines[index].up.is_some()).collect()
    }

    /// A daemon goes, and its tasks with it or not.
    fn crash(&mut self, index: usize) {
        let with_tasks = self.rng.bool();
        let machine = &mut self.machines[index];
        if with_tasks {
            machine.tasks.clear();
        }
        machine.up = None;
        machine.slots = Slots::default();
        machine.under_way.clear();
        machine.heard.clear();
        machine.said = News::default();
    }

    /// A daemon starts, unless it runs.
    fn begin_life(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.up.is_none() {
            (machine.up, machine.wake) = (Some(self.now), Some(self.now));
        }
    }

    fn event(&mut self) {
        let index = self.rng.usize(0..self.machines.len());
        match self.rng.u8(0..8) {
            0 => self.crash(index),
            1 | 2 => self.begin_life(index),
            3 => self.machines[index].side = self.rng.u8(0..3),
            4 => self.machines.iter_mut().for_each(|machine| machine.side = 0),
            5 => self.end_a_program(index),
            6 => {
                let slots = self.rng.u16(0..10);
                self.scale(index, slots);
            }
            _ => self.update(index),
        }
    }

    fn end_a_program(&mut self, index: usize) {
        let now = self.now;
        let chosen = self.rng.choice(&mut self.machines[index].tasks);
        if let Some(task) = chosen.filter(|task| task.view.state == TaskState::Running) {
            task.view.state = TaskState::Exited;
            (task.view.ended_ms, task.view.exit_code) = (Some(now * 100), Some(1));
            self.machines[index].wake = Some(now);
        }
    }

    /// A manager writes the service as it knows it with a change: of two that don't know of each other the later one wins as a
    /// whole.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut ServiceRecord)) {
        let (now, at) = (self.now, self.moment());
        let machine = &mut self.machines[index];
        if let Some(service) = machine.service.as_mut().filter(|_| machine.up.is_some()) {
            change(service);
            // No two write at the same time.
            service.updated_ms = at.ms * 10 + u64::try_from(index).unwrap();
            machine.wake = Some(now);
        }
    }

    fn scale(&mut self, index: usize, slots: u16) {
        self.change(index, |service| {
            let parts = SpecParts { mode: Mode::Replicated(slots), ..service.spec.clone().into_parts() };
            service.spec = ServiceSpec::new(parts).unwrap();
        });
    }

    fn update(&mut self, index: usize) {
        let now = UNIX_EPOCH + Duration::from_millis(self.moment().ms);
        self.change(index, |service| service.generation = next_generation(service.generation, now));
    }

    /// A node hears what others say: each of them at least every [`LATE_MAX`] ticks.
    fn hear(&mut self, index: usize) {
        let side = self.side(index);
        for other in side.iter().copied().filter(|&other| other != index) {
            let late = self.machines[index].heard.get(&other).map_or(self.now, |(_, at)| self.now - at);
            // Who has not been heard of before may be unknown for as long.
            let known = self.machines[index].heard.contains_key(&other) || self.now.is_multiple_of(LATE_MAX);
            if late >= LATE_MAX || (known && self.rng.u8(0..3) == 0) || (!known && self.rng.u8(0..4) == 0) {
                let (said, service) =
                    (self.machines[other].said.clone(), self.machines[other].service.clone());
                let own = &mut self.machines[index];
                let before = own.heard.insert(other, (said.clone(), self.now));
                if before.is_none_or(|(before, _)| before != said) {
                    own.wake = Some(self.now);
                }
                if let (Some(theirs), Some(ours)) = (service, &mut own.service)
                    && theirs.updated_ms > ours.updated_ms
                {
                    *ours = theirs;
                    own.wake = Some(self.now);
                }
            }
        }
        let alive: BTreeSet<usize> = side.into_iter().collect();
        // The dead are missed as late as others are heard.
        let (now, own) = (self.now, &mut self.machines[index]);
        let known = own.heard.len();
        own.heard.retain(|other, (_, at)| alive.contains(other) || now - *at < LATE_MAX);
        if own.heard.len() < known {
            own.wake = Some(now);
        }
    }

    fn facts(&self, index: usize) -> Facts {
        let machine = &self.machines[index];
        let live = |index: usize| ServiceNode::worker(node(index), index);
        let mut tasks = Vec::new();
        for (other, news) in
            machine.heard.iter().map(|(&other, (news, _))| (other, news)).chain([(index, &machine.said)])
        {
            tasks.extend(news.tasks.iter().map(|(id, record)| (node(other), id.clone(), record.clone())));
        }
        let since = machine.up.map_or(0, |up| self.now - up);
        Facts {
            own: node(index),
            settled: !machine.heard.is_empty() || since >= SETTLE,
            nodes: machine.heard.keys().copied().chain([index]).map(live).collect(),
            services: machine.service.iter().map(|service| (SERVICE.to_owned(), service.clone())).collect(),
            tasks,
        }
    }

    fn moment(&self) -> Moment {
        let passed = TICK * u32::try_from(self.now).unwrap();
        Moment { now: self.begin + passed, ms: self.now * 100 }
    }

    /// What is under way comes to its end.
    fn finish(&mut self, index: usize) {
        let (now, at) = (self.now, self.moment());
        let ready = now + self.rng.u64(0..READY_MAX);
        let machine = &mut self.machines[index];
        let (over, rest) =
            std::mem::take(&mut machine.under_way).into_iter().partition(|(when, _)| *when <= now);
        machine.under_way = rest;
        let over: Vec<(u64, Under)> = over;
        for (_, under) in over {
            machine.wake = Some(now);
            match under {
                Under::Start(of) => {
                    machine.tasks.push(Task { view: view(&of, now), ready, of: of.clone() });
                    machine.slots.started(&of.id, Ok(()), at);
                }
                Under::End(id) => {
                    machine.tasks.retain(|task| task.of.id != id);
                    machine.slots.ended(&id, at);
                }
            }
        }
    }

    fn act(&mut self, index: usize) {
        self.finish(index);
        if self.machines[index].wake.is_none_or(|wake| wake > self.now) {
            return;
        }
        let (facts, at) = (self.facts(index), self.moment());
        let machine = &mut self.machines[index];
        let tasks: Vec<_> = machine.tasks.iter().map(|task| (task.of.clone(), task.view.clone())).collect();
        let ready = machine.tasks.iter().map(|task| (task.of.id.clone(), task.ready)).collect();
        let mut outside = Machinery { ids: &mut self.ids, now: self.now, ready };
        let (orders, wake) = machine.slots.look(&facts, &tasks, &mut outside, at);
        let ticks = wake.map(|wake| wake.as_millis().div_ceil(TICK.as_millis()));
        let ticks = ticks.map(|ticks| u64::try_from(ticks).unwrap());
        let unsettled = (!facts.settled).then_some(1);
        machine.wake = ticks.into_iter().chain(unsettled).min().map(|ticks| self.now + ticks);
        let said = News { tasks: machine.slots.records() };
        if machine.said != said {
            // What a node tells it hears, too.
            machine.wake = Some(self.now + 1);
            machine.said = said;
        }
        for order in orders {
            let takes = self.rng.u64(1..4);
            match order {
                Order::Start { of, before, .. } => {
                    machine.tasks.retain(|task| task.of.id != before || task.view.state.is_kept());
                    machine.under_way.push((self.now + takes, Under::Start(of)));
                }
                Order::End { id, drained, .. } => {
                    let drain = if drained { DRAIN } else { 0 };
                    machine.under_way.push((self.now + drain + takes, Under::End(id)));
                }
                Order::Forget(id) => {
                    machine.tasks.retain(|task| task.of.id != id || task.view.state.is_kept());
                }
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let mut order = self.up();
        self.rng.shuffle(&mut order);
        for index in order {
            self.hear(index);
            self.act(index);
        }
    }

    /// The slots that take connections on a node's side, by the nodes' own words and in truth.
    fn served(&self, index: usize) -> BTreeSet<u16> {
        let mut served = BTreeSet::new();
        for machine in self.side(index).into_iter().map(|other| &self.machines[other]) {
            let running = machine.said.tasks.iter().filter(|(_, task)| task.state == TaskPhase::Running);
            for (id, record) in running {
                let task = machine.tasks.iter().find(|task| task.of.id == *id).expect("it is there");
                assert!(
                    task.view.state == TaskState::Running && task.ready <= self.now,
                    "{id} takes connections"
                );
                served.extend(record.slot);
            }
        }
        served
    }

    /// Whether nothing is under way, and no slot waits for another task.
    fn rests(&self) -> bool {
        let rests = |machine: &Machine| {
            let mut phases = machine.said.tasks.values().map(|task| task.state);
            machine.under_way.is_empty() && phases.all(|phase| phase == TaskPhase::Running)
        };
        self.up().into_iter().all(|index| rests(&self.machines[index]))
    }

    /// Nothing happens any more, until nothing has been under way for longer than anything waits; `look` sees each moment.
    fn calm(&mut self, look: impl Fn(&Self)) {
        let (mut since, begin) = (self.now, self.now);
        while self.now - since < CALM {
            self.tick();
            look(self);
            if !self.rests() {
                since = self.now;
            }
            assert!(self.now - begin < QUIET, "it does not come to rest");
        }
    }

    /// Nothing happens any more: then everything comes to be as it is to be.
    fn settle(&mut self) {
        self.calm(|_| {});
        for index in self.up() {
            let side = self.side(index);
            let mut nodes: Vec<NodeId> = side.iter().map(|&other| node(other)).collect();
            nodes.sort_unstable();
            let service = self.machines[index].service.clone().unwrap();
            let wanted: BTreeMap<Option<u16>, (NodeId, u64)> = assign(SERVICE, slots_of(&service), &nodes)
                .into_iter()
                .enumerate()
                .map(|(slot, owner)| (u16::try_from(slot).ok(), (owner, service.generation)))
                .collect();
            let mut found = BTreeMap::new();
            for &other in &side {
                for task in &self.machines[other].tasks {
                    let what = (node(other), task.of.generation);
                    assert_eq!(found.insert(task.of.slot, what), None, "slot {:?} runs twice", task.of.slot);
                }
            }
            assert_eq!(found, wanted, "on the side of {index}");
            assert_eq!(self.served(index).len(), wanted.len());
        }
    }

    /// Whether no more than so many slots of what was served on a side cease to be, until all is quiet.
    fn stays_served(&mut self, missing_max: usize) {
        let before: Vec<(usize, BTreeSet<u16>)> =
            self.up().into_iter().map(|index| (index, self.served(index))).collect();
        self.calm(|world| {
            for (index, before) in &before {
                let served = world.served(*index);
                let missing: Vec<_> = before.difference(&served).collect();
                assert!(missing.len() <= missing_max, "slots {missing:?} of {index}'s side at {}", world.now);
            }
        });
    }
}

#[test]
fn every_slot_has_one_task_on_each_side_once_it_is_quiet() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let order = if rng.bool() { UpdateOrder::StartFirst } else { UpdateOrder::StopFirst };
        let mut world = World::new(rng.usize(1..7), rng.u16(0..10), order, seed);
        for _ in 0..3 {
            for _ in 0..rng.u64(0..100) {
                if rng.u8(0..8) == 0 {
                    world.event();
                }
                world.tick();
            }
            world.settle();
        }
    }
}

#[test]
fn nothing_is_missed_while_slots_change_hands() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(2..7);
        let mut world = World::new(count, rng.u16(1..10), UpdateOrder::StartFirst, seed);
        // Some come later, with or without tasks of an earlier life; or there is a cut, of which each side may have its change.
        let late = rng.usize(1..count);
        for index in late..count {
            if rng.bool() {
                world.machines[index].side = 1;
            } else {
                world.machines[index].up = None;
            }
        }
        for index in [0, count - 1] {
            (0..rng.u64(0..20)).for_each(|_| world.tick());
            if rng.bool() {
                world.update(index);
            }
        }
        world.settle();
        for index in 0..count {
            world.machines[index].side = 0;
            world.begin_life(index);
        }
        world.stays_served(0);
        world.settle();
        let first = world.up()[0];
        world.update(first);
        world.stays_served(0);
        world.settle();
    }
}

#[test]
fn one_task_at_a_time_is_missed_while_they_are_replaced() {
    for seed in 0..150 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut world = World::new(rng.usize(1..6), rng.u16(1..8), UpdateOrder::StopFirst, seed);
        world.settle();
        let any = rng.usize(0..world.machines.len());
        world.update(any);
        world.stays_served(1);
        world.settle();
    }
}
