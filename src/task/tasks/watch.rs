//! How a task's state is known: from its keeper as long as there is one, and then from what that has left.

use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{ASK_PATIENCE, Task, Tasks};
use crate::api::TaskState;
use crate::state::{StateDir, StateError};
use crate::task::connection::{self, ConnectionError, connect};
use crate::task::frame::{Frame, Reply, Request, Status};
use crate::task::kept::{KILLED, Kept, STATE, TASK};
use crate::task::now_ms;

/// Until a keeper is asked again that could not be: descriptors are used up, perhaps.
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

impl Tasks {
    /// The task of a directory, from before this daemon.
    pub(super) async fn find_again(&self, id: &str) -> Result<Arc<Task>, StateError> {
        let directory = self.folder.join(id);
        let files = StateDir::part(&directory)?;
        let kept: Kept = files.load(TASK)?.ok_or_else(|| files.corrupt(TASK, "it is missing".into()))?;
        let status = ask_or_read(&kept, &directory, &files).await?;
        let task = Arc::new(Task { kept, directory, status: watch::Sender::new(status) });
        self.table().insert(id.into(), Arc::clone(&task));
        Ok(task)
    }

    /// Follows what a task's keeper says, until the task has ended; then clears up.
    pub(super) fn watch(self: &Arc<Self>, task: Arc<Task>) {
        let (tasks, changed) = (Arc::downgrade(self), Arc::clone(&self.changed));
        tokio::spawn(async move {
            if task.is_kept() {
                match listen(&task, &changed).await {
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
            changed.notify_one();
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

/// How a task of before is. A keeper that does not answer may be there with its program: only one that is gone has ended.
async fn ask_or_read(kept: &Kept, directory: &Path, files: &StateDir) -> Result<Status, StateError> {
    let name = &kept.name;
    let reason = match timeout(ASK_PATIENCE, connection::ask_status(directory, Request::Status)).await {
        Ok(Ok(status)) => {
            info!("task {name} is {}", status.state.name());
            return Ok(status);
        }
        Ok(Err(ConnectionError::Ended)) => return left(files),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its keeper does not answer".into(),
    };
    warn!("task {name} is taken for what it was, and asked again: {reason}");
    Ok(files.load(STATE)?.unwrap_or_else(|| unsaid(TaskState::Created)))
}

/// Notes what the keeper says until the task has ended; gives how.
async fn listen(task: &Task, changed: &Notify) -> Result<Status, StateError> {
    let mut is_told = false;
    loop {
        match hear(task, changed).await {
            Ok(end) => return Ok(end),
            Err(ConnectionError::Ended) => return left(&StateDir::part(&task.directory)?),
            // Descriptors are used up, perhaps. The program runs for all that.
            Err(error) if !std::mem::replace(&mut is_told, true) => {
                warn!("task {} is asked again and again how it is: {error}", task.kept.name);
            }
            Err(_) => {}
        }
        sleep(LISTEN_PAUSE).await;
    }
}

/// The same over one connection.
async fn hear(task: &Task, changed: &Notify) -> Result<Status, ConnectionError> {
    let (mut receiver, mut sender) = connect(&task.directory).await?;
    sender.send(&Frame::Request(Request::Watch)).await?;
    loop {
        match receiver.reply().await? {
            Reply::Status(status) if status.state.is_kept() => {
                task.status.send_replace(status);
                changed.notify_one();
            }
            // It is told to others when what follows from it is done.
            Reply::Status(end) => return Ok(end),
            Reply::Done | Reply::Refused { .. } => return Err(ConnectionError::Unexpected),
        }
    }
}

/// How a task is that has no keeper any more.
fn left(files: &StateDir) -> Result<Status, StateError> {
    let status = match files.load::<Status>(STATE)? {
        Some(status) if !status.state.is_kept() => return Ok(status),
        Some(status) => status,
        None => unsaid(TaskState::Dead),
    };
    let exit_code = status.started_ms.map(|_| KILLED);
    let dead = Status { state: TaskState::Dead, ended_ms: Some(now_ms()), exit_code, ..status };
    files.store(STATE, &dead)?;
    Ok(dead)
}

/// That state, and nothing else that is known.
fn unsaid(state: TaskState) -> Status {
    Status { state, pid: 0, started_ms: None, ended_ms: None, exit_code: None, error: None }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener as Silent};

    use tokio::net::UnixListener;

    use super::*;
    use crate::api::TaskProgram;
    use crate::task::connection::{CONTROL, split};
    use crate::task::kept::User;
    use crate::task::tests::Scratch;

    fn kept() -> Kept {
        let (workdir, user, hostname) = (None, None, None);
        let (tty, stdin) = (false, false);
        Kept {
            id: "0a".into(),
            name: "amber".parse().unwrap(),
            hostname: "amber".parse().unwrap(),
            program: TaskProgram {
                command: vec!["x".into()],
                workdir,
                env: vec![],
                user,
                hostname,
                tty,
                stdin,
            },
            user: User { ids: None, home: "/".into() },
            endpoints: Vec::new(),
            remove: false,
            service: None,
            created_ms: 1,
        }
    }

    fn running(pid: u32) -> Status {
        Status { pid, started_ms: Some(3), ..unsaid(TaskState::Running) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_keeper_that_does_not_answer_is_not_taken_for_dead() {
        let scratch = Scratch::new("silent");
        let files = scratch.files();
        let control = scratch.path().join(CONTROL);
        let kept = kept();
        let known = || ask_or_read(&kept, scratch.path(), &files);
        let silent = Silent::bind(&control).unwrap();
        assert_eq!(known().await.unwrap(), unsaid(TaskState::Created));
        files.store(STATE, &running(7)).unwrap();
        assert_eq!(known().await.unwrap(), running(7));
        assert_eq!(files.load::<Status>(STATE).unwrap(), Some(running(7)), "and it is left so");
        drop(silent);
        let dead = known().await.unwrap();
        assert_eq!((dead.state, dead.exit_code, dead.started_ms), (TaskState::Dead, Some(KILLED), Some(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_keeper_that_can_not_be_asked_for_a_while_is_heard_then() {
        let scratch = Scratch::new("unheard");
        let files = scratch.files();
        files.store(STATE, &running(7)).unwrap();
        let control = scratch.path().join(CONTROL);
        let task = Arc::new(Task {
            kept: kept(),
            directory: scratch.path().into(),
            status: watch::Sender::new(running(7)),
        });
        // There is no stream to it: EPROTOTYPE, as it could be EMFILE.
        let other = UnixDatagram::bind(&control).unwrap();
        let listening = tokio::spawn({
            let task = Arc::clone(&task);
            async move { listen(&task, &Notify::new()).await }
        });
        sleep(10 * LISTEN_PAUSE).await;
        assert!(!listening.is_finished() && task.is_kept());
        drop(other);
        std::fs::remove_file(&control).unwrap();
        let keeper = UnixListener::bind(&control).unwrap();
        let (mut receiver, mut sender) = split(keeper.accept().await.unwrap().0);
        assert_eq!(receiver.next().await.unwrap(), Some(Frame::Request(Request::Watch)));
        sender.send(&Frame::Reply(Reply::Status(running(8)))).await.unwrap();
        let mut status = task.status.subscribe();
        status.wait_for(|status| status.pid == 8).await.unwrap();
        drop((keeper, receiver, sender));
        let end = listening.await.unwrap().unwrap();
        assert_eq!((end.state, end.pid), (TaskState::Dead, 7), "as it is kept");
        assert!(task.is_kept(), "others hear of it when it is cleared up");
    }
}
