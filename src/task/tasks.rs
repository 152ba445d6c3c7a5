//! The daemon's side: tasks are made, found again, listed, stopped and removed, and get their places in networks.

mod make;
mod networks;
mod watch;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::sync::watch::Sender;
use tokio::time::timeout;
use tracing::{info, warn};

use super::connection::{self, ConnectionError};
use super::frame::{Reply, Request, Status};
use super::kept::Kept;
use crate::api::{
    Call, Code, KillRequest, Name, PublishedView, Refusal, StopRequest, TaskCreate, TaskService, TaskState,
    TaskView,
};
use crate::node::{Node, find};
use crate::state::{StateDir, StateError};

/// Tasks of a node, ended ones among them.
pub const TASKS_MAX: usize = 1024;
/// The directory of tasks in the state directory.
const FOLDER: &str = "tasks";
/// How long a keeper may take to answer a question.
const ASK_PATIENCE: Duration = Duration::from_secs(5);
/// How long a task may take to end by force.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// Where all there is of a task is, by its id.
pub(crate) fn directory(state: &StateDir, id: &str) -> PathBuf {
    state.path().join(FOLDER).join(id)
}

/// This node's tasks.
#[derive(Debug)]
pub struct Tasks {
    /// Where their directories are; made with the first.
    folder: PathBuf,
    node: Arc<Node>,
    table: Mutex<BTreeMap<String, Arc<Task>>>,
    /// Held by whoever makes one, so that names stay apart.
    making: tokio::sync::Mutex<()>,
    /// One of them is another, or in another state.
    changed: Arc<Notify>,
}

/// One of them.
#[derive(Debug)]
struct Task {
    kept: Kept,
    directory: PathBuf,
    /// As its keeper has said, or as is kept.
    status: Sender<Status>,
}

impl Task {
    /// As it is, with what is known of its endpoints' ports.
    fn view(&self, ports: &BTreeMap<String, Vec<PublishedView>>) -> TaskView {
        let (kept, status) = (self.kept.clone(), self.status.borrow().clone());
        TaskView {
            id: kept.id,
            name: kept.name,
            program: kept.program,
            published: kept
                .endpoints
                .iter()
                .filter_map(|place| ports.get(place.endpoint.as_ref()?))
                .flatten()
                .cloned()
                .collect(),
            endpoints: kept.endpoints,
            remove: kept.remove,
            service: kept.service,
            created_ms: kept.created_ms,
            state: status.state,
            started_ms: status.started_ms,
            ended_ms: status.ended_ms,
            exit_code: status.exit_code,
            error: status.error,
            // Of one that was never heard nothing is known.
            pid: Some(status.pid).filter(|&pid| status.state.is_kept() && pid != 0),
            directory: self.directory.clone(),
        }
    }

    fn is_kept(&self) -> bool {
        self.status.borrow().state.is_kept()
    }

    /// Asks its keeper.
    async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        match timeout(ASK_PATIENCE, connection::ask(&self.directory, request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(ConnectionError::Ended)) => Err(conflict(format!("task {} has ended", self.kept.name))),
            Ok(Err(ConnectionError::Refused(reason))) => {
                Err(conflict(format!("task {}: {reason}", self.kept.name)))
            }
            Ok(Err(error)) => Err(internal(format!("task {}: {error}", self.kept.name))),
            Err(_) => Err(internal(format!("task {}: its keeper does not answer", self.kept.name))),
        }
    }

    /// Waits until its end is known here, if it has ended: whoever has seen that goes on to the next command.
    async fn catch_up(&self) -> Result<(), Refusal> {
        if !self.is_kept() {
            return Ok(());
        }
        match timeout(ASK_PATIENCE, connection::ask_status(&self.directory, Request::Status)).await {
            Ok(Ok(status)) if status.state.is_kept() => Ok(()),
            Ok(Ok(_) | Err(ConnectionError::Ended)) => self.ended().await,
            // What is asked of it next says what is wrong.
            _ => Ok(()),
        }
    }

    /// Waits until it has ended.
    async fn ended(&self) -> Result<(), Refusal> {
        self.ended_within(END_PATIENCE).await
    }

    async fn ended_within(&self, patience: Duration) -> Result<(), Refusal> {
        let mut status = self.status.subscribe();
        let ended = status.wait_for(|status| !status.state.is_kept());
        match timeout(patience, ended).await {
            Ok(_) => Ok(()),
            Err(_) => Err(internal(format!("task {} does not end", self.kept.name))),
        }
    }
}

impl Tasks {
    /// Finds the tasks of before again, in the state directory of a node.
    ///
    /// # Errors
    /// If the directory of tasks can't be had. What is wrong with a single task is logged.
    pub async fn open(node: Arc<Node>) -> Result<Arc<Self>, StateError> {
        let folder = node.state().path().join(FOLDER);
        let tasks = Arc::new(Self {
            folder,
            node,
            table: Mutex::default(),
            making: Default::default(),
            changed: Arc::default(),
        });
        let ids = if tasks.folder.exists() { StateDir::part(&tasks.folder)?.names("")? } else { Vec::new() };
        for id in ids {
            match tasks.find_again(&id).await {
                Ok(task) => tasks.watch(task),
                Err(error) => warn!("task {id} is left as it is: {error}"),
            }
        }
        Ok(tasks)
    }

    /// Answers what is asked about tasks.
    ///
    /// # Errors
    /// As each call has them.
    pub async fn answer(self: &Arc<Self>, call: Call) -> Result<Value, Refusal> {
        let shown = |task: &Task| serde_json::json!(task.view(&self.node.published()));
        match call {
            Call::Tasks => {
                let tasks: Vec<Arc<Task>> = self.table().values().cloned().collect();
                let ports = self.node.published();
                let mut views: Vec<TaskView> = tasks.iter().map(|task| task.view(&ports)).collect();
                // The newest first, as Docker has it.
                views.sort_by_key(|view| std::cmp::Reverse(view.created_ms));
                Ok(serde_json::json!(views))
            }
            Call::CreateTask(request) => self.create(request, None).await.map(|task| shown(&task)),
            Call::Task(name) => self.find(&name).map(|task| shown(&task)),
            Call::StartTask(name) => {
                self.start(&*self.find(&name)?).await.map(|view| serde_json::json!(view))
            }
            Call::StopTask(name, request) => {
                self.stop(&*self.find(&name)?, request).await.map(|()| Value::Null)
            }
            Call::KillTask(name, request) => {
                self.kill(&*self.find(&name)?, request).await.map(|()| Value::Null)
            }
            Call::RemoveTask { task, force } => {
                let task = self.find(&task)?;
                self.remove(&task, force).await.map(|()| Value::Null)
            }
            other => self.change_networks(other).await,
        }
    }

    /// Is told when a task may be in another state. One may wait for it.
    pub(crate) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// The tasks that services have here, ended ones among them.
    pub(crate) fn of_services(&self) -> Vec<(TaskService, TaskView)> {
        let tasks: Vec<Arc<Task>> = self.table().values().cloned().collect();
        let ports = self.node.published();
        let of_service = |task: &Arc<Task>| Some((task.kept.service.clone()?, task.view(&ports)));
        tasks.iter().filter_map(of_service).collect()
    }

    /// Makes a task of a service, and starts its program.
    ///
    /// # Errors
    /// As for any task; there is none then.
    pub(crate) async fn run_for_service(
        self: &Arc<Self>,
        request: TaskCreate,
        service: TaskService,
    ) -> Result<TaskView, Refusal> {
        let task = self.create(request, Some(service)).await?;
        let started = self.start(&task).await;
        if started.is_err() {
            self.remove(&task, true).await?;
        }
        started
    }

    /// Ends a task, by force if it takes longer than `patience`, and removes it.
    ///
    /// # Errors
    /// If it does not end.
    pub(crate) async fn end_gently(&self, id: &str, patience: Duration) -> Result<(), Refusal> {
        let task = self.table().get(id).cloned();
        let Some(task) = task else { return Ok(()) };
        if task.status.borrow().state == TaskState::Running {
            let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            let stop = Request::Stop { number: number_of(Signal::TERM), patience_ms };
            let ended = match task.ask(stop).await {
                Ok(_) => task.ended_within(END_PATIENCE + patience).await,
                Err(refusal) => Err(refusal),
            };
            if let Err(refusal) = ended {
                warn!("task {} is ended by force: {refusal}", task.kept.name);
            }
        }
        self.remove(&task, true).await
    }

    /// Removes a task if it has ended.
    pub(crate) fn forget_ended(&self, id: &str) {
        let task = self.table().get(id).cloned().filter(|task| !task.is_kept());
        if let Some(task) = task
            && let Err(error) = self.forget(&task)
        {
            warn!("task {} can't be removed: {error}", task.kept.name);
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Task>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, wanted: &Name) -> Result<Arc<Task>, Refusal> {
        let tasks: Vec<Arc<Task>> = self.table().values().cloned().collect();
        find("task", wanted, &tasks, |task| (task.kept.id.clone(), task.kept.name.as_str())).cloned()
    }

    async fn start(&self, task: &Task) -> Result<TaskView, Refusal> {
        match task.ask(Request::Start).await? {
            Reply::Status(status) if status.state.is_kept() => {
                // Whoever watches may hear of it later, or have heard of its end already.
                task.status.send_if_modified(|known| {
                    let goes_on = known.state.is_kept();
                    if goes_on {
                        *known = status;
                    }
                    goes_on
                });
                Ok(task.view(&self.node.published()))
            }
            // Its program can't be run. Nobody removes it before what it leaves is cleared up.
            Reply::Status(_) => {
                task.ended().await?;
                Ok(task.view(&self.node.published()))
            }
            _ => Err(internal("a keeper's answer to another question")),
        }
    }

    async fn stop(&self, task: &Task, request: StopRequest) -> Result<(), Refusal> {
        // As in Docker, what does not run is stopped already.
        if task.status.borrow().state != TaskState::Running {
            return Ok(());
        }
        let number = request.signal.unwrap_or_else(|| number_of(Signal::TERM));
        let patience_ms = u64::from(request.patience_s) * 1_000;
        task.ask(Request::Stop { number, patience_ms }).await.map(drop)
    }

    async fn kill(&self, task: &Task, request: KillRequest) -> Result<(), Refusal> {
        if task.status.borrow().state != TaskState::Running {
            return Err(conflict(format!("task {} is not running", task.kept.name)));
        }
        task.ask(Request::Signal { number: request.signal }).await.map(drop)
    }

    async fn remove(&self, task: &Arc<Task>, force: bool) -> Result<(), Refusal> {
        task.catch_up().await?;
        let state = task.status.borrow().state;
        if state == TaskState::Running && !force {
            return Err(conflict(format!(
                "task {} is running: `vswitchd stop {}` first, or remove it with --force",
                task.kept.name, task.kept.name
            )));
        }
        if state.is_kept() {
            self.end(task).await?;
        }
        self.forget(task).map_err(internal)
    }

    /// Ends a task by force.
    async fn end(&self, task: &Task) -> Result<(), Refusal> {
        let number = number_of(Signal::KILL);
        match task.ask(Request::Stop { number, patience_ms: 0 }).await {
            Ok(_) => {}
            // It has just ended by itself.
            Err(refusal) if refusal.code == Code::Conflict => {}
            Err(refusal) => return Err(refusal),
        }
        task.ended().await
    }

    /// Removes all there is of a task that has ended.
    fn forget(&self, task: &Task) -> io::Result<()> {
        let mut table = self.table();
        if table.remove(&task.kept.id).is_none() {
            return Ok(());
        }
        drop(table);
        info!("task {} is removed", task.kept.name);
        std::fs::remove_dir_all(&task.directory)
    }
}

fn number_of(signal: Signal) -> u8 {
    u8::try_from(signal.as_raw()).expect("signals have small numbers")
}

fn conflict(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::Conflict, message)
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    let refusal = Refusal::new(Code::Internal, error.to_string());
    warn!("{refusal}");
    refusal
}
