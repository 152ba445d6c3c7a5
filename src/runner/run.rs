//! Does what is to be done about slots, and tells all what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;

use super::ready::waits_for;
use super::slots::{Moment, Order, Slots, World};
use super::start::{Refused, start};
use crate::api::{Protocol, TaskView};
use crate::config::TaskPolicy;
use crate::crypto::identity::NodeId;
use crate::node::records::ServiceRecord;
use crate::node::{Facts, Membership, Node};
use crate::task::Tasks;

/// From when others hear that a task drains until it is ended: new connections go elsewhere by then.
const DRAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether this node knows what others know, of which nothing tells.
const SETTLE_CHECK: Duration = Duration::from_millis(250);
/// Until an order is tried again that there was no randomness for.
const RETRY: Duration = Duration::from_secs(1);
/// The same of a task that could not be ended: its keeper did not answer, or the system could not kill it.
const END_RETRY: Duration = Duration::from_secs(10);

/// What came of something that was under way, by the task's id.
#[derive(Debug)]
enum Done {
    /// A task was made and started; or not.
    Started(String, Result<(), Refused>),
    /// A task is no more.
    Ended(String),
}

/// Runs this node's tasks of services, as long as it is polled.
pub(crate) async fn run(node: Arc<Node>, tasks: Arc<Tasks>, policy: TaskPolicy) {
    let (services_changed, tasks_changed) = (node.services_changed(), tasks.changed());
    let mut runner =
        Runner { node, tasks, policy: Arc::new(policy), slots: Slots::default(), under_way: JoinSet::new() };
    loop {
        let wake = runner.look();
        tokio::select! {
            () = services_changed.notified() => {}
            () = tasks_changed.notified() => {}
            Some(done) = runner.under_way.join_next() => match done {
                Ok(done) => runner.note(done),
                Err(error) => warn!("a task of a service: {error}"),
            },
            () = sleep(wake.unwrap_or_default()), if wake.is_some() => {}
        }
    }
}

struct Runner {
    node: Arc<Node>,
    tasks: Arc<Tasks>,
    policy: Arc<TaskPolicy>,
    slots: Slots,
    /// At most one for each task.
    under_way: JoinSet<Done>,
}

impl Runner {
    /// Begins all that is to be done now; gives after which time to look again, whatever happens.
    fn look(&mut self) -> Option<Duration> {
        let facts = match self.node.service_facts() {
            Membership::Member(facts) => facts,
            // It will say when that changes.
            Membership::Starting => return None,
            Membership::None => nothing(),
        };
        let mut here = Here::default();
        let (orders, wake) = self.slots.look(&facts, &self.tasks.of_services(), &mut here, moment());
        // Whoever is to end is no task to others any more before it ends.
        self.node.say_tasks(&self.slots.records());
        orders.into_iter().for_each(|order| self.follow(order));
        let settle = (!facts.settled).then_some(SETTLE_CHECK);
        let retry = here.failed.then_some(RETRY);
        [wake, settle, retry].into_iter().flatten().min()
    }

    fn follow(&mut self, order: Order) {
        let (node, tasks) = (Arc::clone(&self.node), Arc::clone(&self.tasks));
        match order {
            Order::Start { of, service, before } => {
                let policy = Arc::clone(&self.policy);
                self.under_way.spawn(async move {
                    tasks.forget_ended(&before);
                    let id = of.id.clone();
                    Done::Started(id, start((&node, &tasks), &policy, &service, of).await)
                });
            }
            Order::End { id, drained, grace } => {
                self.under_way.spawn(async move {
                    if drained {
                        sleep(DRAIN).await;
                    }
                    // As long as it is there its slot has no other one: two would both answer.
                    while let Err(refusal) = tasks.end_gently(&id, grace).await {
                        warn!("task {id} can't be ended, and that is tried again: {refusal}");
                        sleep(END_RETRY).await;
                    }
                    Done::Ended(id)
                });
            }
            Order::Forget(id) => tasks.forget_ended(&id),
        }
    }

    fn note(&mut self, done: Done) {
        match done {
            Done::Started(id, outcome) => self.slots.started(&id, outcome, moment()),
            Done::Ended(id) => self.slots.ended(&id, moment()),
        }
    }
}

/// This machine.
#[derive(Debug, Default)]
struct Here {
    /// Whether it had no randomness.
    failed: bool,
}

impl World for Here {
    fn new_id(&mut self) -> Option<String> {
        match NodeId::random(&SystemRandom::new()) {
            Ok(id) => Some(id.to_string()),
            Err(error) => {
                warn!("the system has no randomness: {error}");
                self.failed = true;
                None
            }
        }
    }

    fn waits_for(&mut self, task: &TaskView, service: &ServiceRecord) -> Option<String> {
        let streams = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let ports: Vec<u16> = streams.map(|port| port.target.get()).collect();
        // One that has none has just ended.
        task.pid.and_then(|pid| waits_for(pid, &ports))
    }
}

/// Who is in no cluster has a part in no service.
fn nothing() -> Facts {
    let own = NodeId::from_bytes([0; 16]);
    Facts { own, settled: true, nodes: Vec::new(), services: Vec::new(), tasks: Vec::new() }
}

fn moment() -> Moment {
    let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    Moment { now: Instant::now(), ms: u64::try_from(ms).unwrap_or(u64::MAX) }
}
