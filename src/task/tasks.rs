//! The daemon's side: tasks are made, found again, listed, stopped and removed, and get their places in networks.

mod make;
mod networks;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::connection::{self, ConnectionError, connect};
use super::frame::{Frame, Reply, Request, Status};
use super::kept::{KILLED, Kept, STATE, TASK};
use super::now_ms;
use crate::api::{Call, Code, KillRequest, Name, PublishedView, Refusal, StopRequest, TaskState, TaskView};
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

/// This node's tasks.
#[derive(Debug)]
pub struct Tasks {
    /// Where their directories are; made with the first.
    folder: PathBuf,
    node: Arc<Node>,
    table: Mutex<BTreeMap<String, Arc<Task>>>,
    /// Held by whoever makes one, so that names stay apart.
    making: tokio::sync::Mutex<()>,
}

/// One of them.
#[derive(Debug)]
struct Task {
    kept: Kept,
    directory: PathBuf,
    /// As its keeper has said, or as is kept.
    status: watch::Sender<Status>,
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
            created_ms: kept.created_ms,
            state: status.state,
            started_ms: status.started_ms,
            ended_ms: status.ended_ms,
            exit_code: status.exit_code,
            error: status.error,
            pid: status.state.is_kept().then_some(status.pid),
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
        let mut status = self.status.subscribe();
        let ended = status.wait_for(|status| !status.state.is_kept());
        match timeout(END_PATIENCE, ended).await {
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
        let tasks = Arc::new(Self { folder, node, table: Mutex::default(), making: Default::default() });
        let ids = if tasks.folder.exists() { StateDir::part(&tasks.folder)?.names("")? } else { Vec::new() };
        for id in ids {
            match tasks.find_again(&id).await {
                Ok(task) => tasks.watch(task),
                Err(error) => warn!("task {id} is left as it is: {error}"),
            }
        }
        Ok(tasks)
    }

    async fn find_again(&self, id: &str) -> Result<Arc<Task>, StateError> {
        let directory = self.folder.join(id);
        let files = StateDir::part(&directory)?;
        let kept: Kept = files.load(TASK)?.ok_or_else(|| files.corrupt(TASK, "it is missing".into()))?;
        let asked = connection::ask_status(&directory, Request::Status);
        let status = match timeout(ASK_PATIENCE, asked).await {
            Ok(Ok(status)) => {
                info!("task {} is {}", kept.name, status.state.name());
                status
            }
            _ => left(&files)?,
        };
        let task = Arc::new(Task { kept, directory, status: watch::Sender::new(status) });
        self.table().insert(id.into(), Arc::clone(&task));
        Ok(task)
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
            Call::CreateTask(request) => self.create(request).await.map(|task| shown(&task)),
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

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Task>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, wanted: &Name) -> Result<Arc<Task>, Refusal> {
        let tasks: Vec<Arc<Task>> = self.table().values().cloned().collect();
        find("task", wanted, &tasks, |task| (task.kept.id.clone(), task.kept.name.as_str())).cloned()
    }

    async fn start(&self, task: &Task) -> Result<TaskView, Refusal> {
        match task.ask(Request::Start).await? {
            Reply::Status(status) => {
                // Whoever watches may hear of it later.
                task.status.send_replace(status);
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

    /// Follows what a task's keeper says, until the task has ended; then clears up.
    fn watch(self: &Arc<Self>, task: Arc<Task>) {
        let tasks = Arc::downgrade(self);
        tokio::spawn(async move {
            if task.is_kept() {
                listen(&task).await;
                let status = StateDir::part(&task.directory).and_then(|files| left(&files));
                match status {
                    Ok(status) => clear(&tasks, &task, status).await,
                    // The whole directory has been removed.
                    Err(error) => warn!("task {}: {error}", task.kept.name),
                }
            }
            if task.kept.remove
                && let Some(tasks) = tasks.upgrade()
                && let Err(error) = tasks.forget(&task)
            {
                warn!("task {} can't be removed: {error}", task.kept.name);
            }
        });
    }
}

/// What a task that has ended leaves in networks is taken away before its end is told.
async fn clear(tasks: &Weak<Tasks>, task: &Task, status: Status) {
    match (status.state, status.exit_code) {
        (TaskState::Dead, _) => warn!("task {} is dead: its keeper was killed", task.kept.name),
        (_, Some(code)) => info!("task {} has ended with exit code {code}", task.kept.name),
        (_, None) => info!("task {} has ended", task.kept.name),
    }
    if let Some(tasks) = tasks.upgrade() {
        tasks.leave_networks(&task.kept).await;
    }
    task.status.send_replace(status);
}

/// Notes what the keeper says until it says no more.
async fn listen(task: &Task) {
    let Ok((mut receiver, mut sender)) = connect(&task.directory).await else { return };
    if sender.send(&Frame::Request(Request::Watch)).await.is_err() {
        return;
    }
    // The end is told to others when what follows from it is done.
    while let Ok(Reply::Status(status)) = receiver.reply().await {
        if status.state.is_kept() {
            task.status.send_replace(status);
        }
    }
}

/// How a task is that has no keeper any more.
fn left(files: &StateDir) -> Result<Status, StateError> {
    let kept: Option<Status> = files.load(STATE)?;
    let status = match kept {
        Some(status) if !status.state.is_kept() => return Ok(status),
        Some(status) => status,
        None => Status {
            state: TaskState::Dead,
            pid: 0,
            started_ms: None,
            ended_ms: None,
            exit_code: None,
            error: None,
        },
    };
    let exit_code = status.started_ms.map(|_| KILLED);
    let dead = Status { state: TaskState::Dead, ended_ms: Some(now_ms()), exit_code, ..status };
    files.store(STATE, &dead)?;
    Ok(dead)
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
