//! All that this node has of slots, and what is to be done next about each: no clock, task or process is asked here.
//!
//! [`Slots::look`] gives orders. What comes of them is told by `started` and `ended`; what becomes of tasks by themselves is
//! seen at the next look.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::goals::{Goal, Heard, SlotKey, goals, note};
use super::slot::{End, Slot, Step};
use super::start::Refused;
use crate::api::{PublishedView, TaskService, TaskState, TaskView};
use crate::node::Facts;
use crate::node::records::{ServiceRecord, TaskRecord};
use crate::service::port::overlap;
use crate::service::{Port, PortMode};

/// A time by the two clocks that there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// By the one that only goes forward.
    pub(super) now: Instant,
    /// By the one that people know, in milliseconds since 1970.
    pub(super) ms: u64,
}

/// What only the world outside can tell.
pub(super) trait World {
    /// An id that nothing has; none if there is no randomness.
    fn new_id(&mut self) -> Option<String>;

    /// Why a running task takes no connections yet; none if it does.
    fn waits_for(&mut self, task: &TaskView, service: &ServiceRecord) -> Option<String>;
}

/// What is to be done. One thing is under way about a task at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// A task is made and started: [`Slots::started`] hears what came of it.
    Start {
        /// What the task is to its service, and its id.
        of: TaskService,
        /// The service.
        service: Box<ServiceRecord>,
        /// The task before it, which may be forgotten if it has ended.
        before: String,
    },
    /// A task is ended: [`Slots::ended`] hears when it is.
    End {
        /// Its id.
        id: String,
        /// Whether others are to hear of it first.
        drained: bool,
        /// How long it may take to end by itself.
        grace: Duration,
    },
    /// What is left of an ended task is removed.
    Forget(String),
}

/// This node's slots.
#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: BTreeMap<SlotKey, Slot>,
    /// Tasks that others replace, until those run: at most one of each slot.
    leaving: BTreeMap<SlotKey, Slot>,
    heard: Heard,
    /// Whether the tasks of before this daemon are known.
    adopted: bool,
}

impl Slots {
    /// What is to be done now about all slots, and after which time to look again, whatever happens. `tasks` are those that
    /// services have here.
    pub(super) fn look(
        &mut self,
        facts: &Facts,
        tasks: &[(TaskService, TaskView)],
        world: &mut impl World,
        at: Moment,
    ) -> (Vec<Order>, Option<Duration>) {
        let mut orders = Vec::new();
        if !std::mem::replace(&mut self.adopted, true) {
            self.adopt(tasks, &mut orders, at);
        }
        self.follow(facts, tasks, world, at);
        // Another one is there in its place.
        let ended = self.leaving.extract_if(.., |_, slot| !slot.has);
        orders.extend(ended.map(|(_, slot)| Order::Forget(slot.id)));
        note(facts, &mut self.heard, at.now);
        let here: BTreeSet<SlotKey> = self.slots.keys().chain(self.leaving.keys()).cloned().collect();
        let polls = self.slots.values().chain(self.leaving.values()).filter_map(|slot| slot.look_at(at.now));
        let mut wake = polls.min();
        for (key, goal) in goals(facts, &here, &self.heard, at.now) {
            let leaving = self.leaving.contains_key(&key);
            let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot::new(at.now, at.ms));
            slot.note_goal(&goal, at.now);
            let successor = slot.runs();
            match slot.step(&goal, facts.settled, leaving, at.now) {
                Step::Nothing => {}
                Step::Wait(time) => wake = Some(wake.map_or(time, |wake| wake.min(time))),
                // It is looked again when that has ended.
                Step::Start if is_held(&goal, slot, tasks) => {}
                Step::Start => orders.extend(start(&key, slot, &goal, world, at)),
                Step::Replace => {
                    let before = std::mem::replace(slot, Slot::new(at.now, at.ms));
                    orders.extend(start(&key, slot, &goal, world, at));
                    self.leaving.insert(key.clone(), before);
                }
                Step::End { drained } => orders.push(end(slot, drained, at)),
                Step::Forget => orders.extend(self.slots.remove(&key).map(|slot| Order::Forget(slot.id))),
            }
            let Some(slot) = self.leaving.get_mut(&key) else { continue };
            slot.note_goal(&goal, at.now);
            match slot.step_leaving(&goal, facts.settled, successor && leaving, at.now) {
                Step::End { drained } => orders.push(end(slot, drained, at)),
                Step::Wait(time) => wake = Some(wake.map_or(time, |wake| wake.min(time))),
                _ => {}
            }
        }
        (orders, wake)
    }

    /// The tasks of before this daemon are gone on with; what was being made when it ended is not.
    fn adopt(&mut self, tasks: &[(TaskService, TaskView)], orders: &mut Vec<Order>, at: Moment) {
        for (of, view) in tasks {
            let mut slot = Slot::new(at.now, view.created_ms);
            slot.adopt(view.id.clone(), of.generation, view.created_ms);
            if view.state == TaskState::Created {
                orders.push(end(&mut slot, false, at));
            }
            let key = (of.service.clone(), of.slot);
            match self.slots.remove(&key) {
                // One was to replace the other.
                Some(other) if other.since_ms > slot.since_ms => {
                    self.leaving.insert(key.clone(), slot);
                    slot = other;
                }
                Some(other) => drop(self.leaving.insert(key.clone(), other)),
                None => {}
            }
            self.slots.insert(key, slot);
        }
    }

    /// What has become of tasks by themselves.
    fn follow(
        &mut self,
        facts: &Facts,
        tasks: &[(TaskService, TaskView)],
        world: &mut impl World,
        at: Moment,
    ) {
        let all = self.slots.iter_mut().chain(&mut self.leaving);
        for ((service, _), slot) in all.filter(|(_, slot)| slot.has && !slot.busy) {
            let view = tasks.iter().find(|(_, view)| view.id == slot.id).map(|(_, view)| view);
            let service = facts.services.iter().find(|(id, _)| id == service).map(|(_, record)| record);
            match view {
                Some(view) if view.state == TaskState::Running => {
                    slot.note_places(endpoints(view));
                    if slot.is_due(at.now) {
                        let waits = service.and_then(|service| world.waits_for(view, service));
                        slot.note_running(waits.as_deref(), at);
                    }
                }
                view => {
                    if let Some(end) = end_of(view) {
                        slot.note_end(&end, service, at.now, at.ms);
                    }
                }
            }
        }
    }

    /// What came of an order to start a task.
    pub(super) fn started(&mut self, id: &str, outcome: Result<(), Refused>, at: Moment) {
        let Some(slot) = self.slots.values_mut().find(|slot| slot.id == id) else { return };
        match outcome {
            Ok(()) => slot.busy = false,
            Err(Refused::Rejected(reason)) => slot.note_rejected(&reason, at.ms),
            Err(Refused::NotYet(reason)) => slot.note_not_yet(&reason, at),
        }
    }

    /// A task is no more that was to be ended.
    pub(super) fn ended(&mut self, id: &str, at: Moment) {
        match self.slots.values_mut().find(|slot| slot.id == id) {
            Some(slot) => slot.note_ended(at.now, at.ms),
            None => self.leaving.retain(|_, slot| slot.id != id),
        }
    }

    /// What is told to all, by tasks' ids.
    pub(super) fn records(&self) -> BTreeMap<String, TaskRecord> {
        let all = self.slots.iter().chain(&self.leaving);
        all.filter_map(|((service, index), slot)| slot.record(service, *index)).collect()
    }
}

/// Whether another task that is still here has a port of this host that a slot's next task is to have: no record tells of the
/// ports of a service that is gone.
fn is_held(goal: &Goal, slot: &Slot, tasks: &[(TaskService, TaskView)]) -> bool {
    let ports = goal.service.iter().flat_map(|service| &service.ports);
    let wanted: Vec<&Port> = ports.filter(|port| port.mode == PortMode::Host).collect();
    let is_wanted = |there: &PublishedView| {
        wanted.iter().any(|port| {
            let same = (port.protocol, port.published.map_or(0, NonZeroU16::get))
                == (there.protocol, there.published);
            same && there.at.iter().any(|at| overlap(port.address, Some(at.ip())))
        })
    };
    let others = tasks.iter().filter(|(_, view)| view.state.is_kept() && view.id != slot.id);
    others.flat_map(|(_, view)| &view.published).any(is_wanted)
}

fn start(key: &SlotKey, slot: &mut Slot, goal: &Goal, world: &mut impl World, at: Moment) -> Option<Order> {
    let service = goal.service.as_deref()?;
    let id = world.new_id()?;
    let before = slot.id.clone();
    slot.note_start(id.clone(), service.generation, at.ms);
    let of = TaskService {
        id,
        service: key.0.clone(),
        name: service.spec.name.clone(),
        slot: key.1,
        generation: service.generation,
    };
    Some(Order::Start { of, service: Box::new(service.clone()), before })
}

fn end(slot: &mut Slot, drained: bool, at: Moment) -> Order {
    slot.note_ending(at.ms);
    Order::End { id: slot.id.clone(), drained, grace: slot.grace }
}

/// How a task has ended, if it has; one that is not there has been removed by somebody.
fn end_of(view: Option<&TaskView>) -> Option<End> {
    let Some(view) = view else {
        return Some(End { well: false, reason: "removed".into(), ran: Duration::ZERO });
    };
    if view.state.is_kept() {
        return None;
    }
    let ran = view.ended_ms.zip(view.started_ms).map(|(ended, started)| ended.saturating_sub(started));
    let reason = match (&view.error, view.exit_code) {
        (Some(error), _) => error.clone(),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => view.state.name().into(),
    };
    let ran = Duration::from_millis(ran.unwrap_or_default());
    Some(End { well: view.state == TaskState::Exited && view.exit_code == Some(0), reason, ran })
}

fn endpoints(view: &TaskView) -> Vec<String> {
    view.endpoints.iter().filter_map(|place| place.endpoint.clone()).collect()
}
