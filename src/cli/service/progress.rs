//! How far a service has come to be what was asked for, from what `service ps` shows.

use std::collections::BTreeMap;

use crate::api::{ServiceTaskView, ServiceView};
use crate::service::{Mode, RestartCondition};

/// Tasks that a sentence names at most.
const NAMED_MAX: usize = 4;

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Tasks that are as they are to be.
    pub(super) done: usize,
    /// Tasks that there are to be.
    pub(super) wanted: usize,
    /// What is there and isn't as it is to be, each with the reason.
    pub(super) rest: Vec<String>,
    /// Whether it is not to be expected that this gets better by itself.
    pub(super) hopeless: bool,
}

impl Progress {
    /// Whether all is as it is to be.
    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty() && self.done >= self.wanted
    }

    /// What it waits for, in words.
    pub(super) fn why(&self) -> String {
        let mut named = self.rest.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more) = self.rest.len().checked_sub(NAMED_MAX).filter(|&more| more > 0) {
            named = format!("{named}; and {more} more");
        }
        named
    }
}

/// How far a service has come with these tasks: in each slot runs one of the newest generation, or has done its work, and
/// nothing else is there.
pub(super) fn progress(service: &ServiceView, tasks: &[ServiceTaskView]) -> Progress {
    if service.spec.command.is_empty() {
        return Progress::default();
    }
    let mut progress = Progress { wanted: service.wanted, ..Progress::default() };
    let mut places = BTreeMap::<Place<'_>, Vec<&ServiceTaskView>>::new();
    for task in tasks {
        places.entry(place(task)).or_default().push(task);
    }
    for of_place in places.values() {
        let is_slot = is_slot(service, of_place);
        let done = is_slot && of_place.iter().any(|task| is_done(service, task));
        progress.done += usize::from(done);
        let rest = of_place.iter().filter(|task| match done {
            true => is_left(task) && !is_done(service, task),
            false => is_left(task) || (is_slot && has_failed(service, task)),
        });
        let rest: Vec<&&ServiceTaskView> = rest.collect();
        progress.hopeless |= !done && rest.iter().any(|task| is_hopeless(service, task));
        progress.rest.extend(rest.into_iter().map(|task| line(task)));
    }
    progress
}

/// A slot, or for a global service a node.
type Place<'t> = (Option<u16>, Option<&'t str>);

fn place(task: &ServiceTaskView) -> Place<'_> {
    match task.slot {
        Some(slot) => (Some(slot), None),
        None => (None, task.node.as_deref()),
    }
}

fn is_slot(service: &ServiceView, tasks: &[&ServiceTaskView]) -> bool {
    match (service.spec.mode, tasks.first().and_then(|task| task.slot)) {
        (Mode::Replicated(count), Some(slot)) => slot < count,
        _ => true,
    }
}

/// Whether it runs or has run as it is to.
fn is_done(service: &ServiceView, task: &ServiceTaskView) -> bool {
    let ends = service.spec.restart.condition != RestartCondition::Any;
    let state = task.state.as_str();
    task.generation == service.generation && (state == "running" || (state == "complete" && ends))
}

/// Whether there is a task, or is to be.
fn is_left(task: &ServiceTaskView) -> bool {
    ["pending", "waiting", "starting", "running", "draining"].contains(&task.state.as_str())
}

/// Whether it is the newest generation's, and has ended.
fn has_failed(service: &ServiceView, task: &ServiceTaskView) -> bool {
    task.generation == service.generation && ["complete", "failed", "rejected"].contains(&task.state.as_str())
}

/// Whether nothing comes of it any more: no node may run it, or the policy says that there is no other one.
fn is_hopeless(service: &ServiceView, task: &ServiceTaskView) -> bool {
    match task.state.as_str() {
        "pending" => task.node.is_none(),
        // Of a slot, another node may run it.
        "rejected" => service.spec.mode == Mode::Global,
        "failed" | "complete" => task.last,
        _ => false,
    }
}

fn line(task: &ServiceTaskView) -> String {
    let node = task.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let reason = if task.reason.is_empty() { String::new() } else { format!(": {}", task.reason) };
    format!("{}{node} is {}{reason}", task.name, task.state)
}

#[cfg(test)]
mod tests {
    use super::super::tests::service;
    use super::*;
    use crate::service::{ServiceSpec, SpecParts};

    /// A service of generation 2, with so many tasks that there are to be.
    fn of(mode: Mode, condition: RestartCondition, wanted: usize) -> ServiceView {
        let mut service = service("web");
        let parts = service.spec.clone().into_parts();
        let restart = crate::service::RestartPolicy { condition, ..parts.restart };
        service.spec = ServiceSpec::new(SpecParts { mode, restart, ..parts }).unwrap();
        ServiceView { wanted, ..service }
    }

    fn task(slot: Option<u16>, generation: u64, state: &str) -> ServiceTaskView {
        ServiceTaskView {
            id: "t".into(),
            name: ServiceTaskView::name_of("web", slot),
            service: "web".into(),
            slot,
            node: Some("one".into()),
            generation,
            wanted: true,
            state: state.into(),
            reason: String::new(),
            last: false,
            since_ms: None,
        }
    }

    fn two(tasks: &[(u16, u64, &str)]) -> Progress {
        let tasks: Vec<_> =
            tasks.iter().map(|&(slot, generation, state)| task(Some(slot), generation, state)).collect();
        progress(&of(Mode::Replicated(2), RestartCondition::Any, 2), &tasks)
    }

    #[test]
    fn all_slots_run_the_newest_and_nothing_else_is_there() {
        assert!(two(&[(0, 2, "running"), (1, 2, "running")]).is_over());
        assert!(two(&[(0, 2, "running"), (0, 1, "failed"), (1, 2, "running")]).is_over());
        for (tasks, done, why) in [
            (&[(0, 2, "running")][..], 1, ""),
            (&[(0, 2, "running"), (1, 2, "starting")], 1, "web.2 on one is starting"),
            (&[(0, 2, "running"), (1, 1, "running")], 1, "web.2 on one is running"),
            (&[(0, 2, "running"), (1, 3, "running")], 1, "web.2 on one is running"),
            (&[(0, 2, "running"), (1, 2, "running"), (1, 1, "draining")], 2, "web.2 on one is draining"),
            (&[(0, 2, "running"), (1, 2, "running"), (2, 2, "running")], 2, "web.3 on one is running"),
            (&[(0, 2, "running"), (1, 2, "failed")], 1, "web.2 on one is failed"),
            (&[(0, 2, "running"), (1, 2, "complete")], 1, "web.2 on one is complete"),
        ] {
            let found = two(tasks);
            assert_eq!((found.done, found.why().as_str(), found.hopeless), (done, why, false), "{tasks:?}");
        }
    }

    #[test]
    fn what_can_not_get_better_by_itself_is_known() {
        let hopeless = |mode, condition, tasks: &[ServiceTaskView]| {
            let found = progress(&of(mode, condition, 1), tasks);
            assert!(!found.is_over(), "{found:?}");
            found.hopeless
        };
        use RestartCondition::{Any, None as Never, OnFailure};
        let ended = |state, last| [ServiceTaskView { last, ..task(Some(0), 2, state) }];
        let one = Mode::Replicated(1);
        let nobody = ServiceTaskView { node: None, ..task(Some(0), 2, "pending") };
        assert!(hopeless(one, Any, std::slice::from_ref(&nobody)));
        assert!(!hopeless(one, Any, &[task(Some(0), 2, "pending")]));
        assert!(!hopeless(one, Any, &[task(Some(0), 2, "rejected")]), "others may");
        assert!(hopeless(one, Any, &[task(Some(0), 2, "rejected"), nobody]));
        assert!(hopeless(Mode::Global, Any, &[task(None, 2, "rejected")]));
        assert_eq!(
            [Never, OnFailure, Any].map(|when| hopeless(one, when, &ended("failed", true))),
            [true; 3],
            "of a policy that has none follow, or has none follow any more"
        );
        assert!(!hopeless(one, OnFailure, &ended("failed", false)), "another one follows");
        assert!(hopeless(one, Any, &ended("complete", true)), "it is to run on");
        assert!(!hopeless(one, Any, &ended("complete", false)));
    }

    #[test]
    fn work_that_is_done_is_done() {
        let complete = [task(Some(0), 2, "complete")];
        assert!(progress(&of(Mode::Replicated(1), RestartCondition::OnFailure, 1), &complete).is_over());
        assert!(progress(&of(Mode::Replicated(0), RestartCondition::Any, 0), &[]).is_over());
        let nodes = ["one", "two"]
            .map(|node| ServiceTaskView { node: Some(node.into()), ..task(None, 2, "running") });
        let global = of(Mode::Global, RestartCondition::Any, 2);
        assert!(progress(&global, &nodes).is_over() && !progress(&global, &nodes[..1]).is_over());
        let mut others = service("web");
        others.spec = ServiceSpec::new(SpecParts::new("web".parse().unwrap())).unwrap();
        assert!(progress(&others, &[]).is_over(), "its tasks are made by others");
    }

    #[test]
    fn many_reasons_are_cut() {
        let tasks: Vec<_> = (0..6).map(|slot| task(Some(slot), 2, "starting")).collect();
        let found = progress(&of(Mode::Replicated(6), RestartCondition::Any, 6), &tasks);
        assert!(found.why().ends_with("web.4 on one is starting; and 2 more"), "{}", found.why());
    }
}
