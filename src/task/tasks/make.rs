//! How a task is made: a directory, a keeper, and places in networks; all of it or nothing.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SystemRandom;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use super::networks::write_shared;
use super::{TASKS_MAX, Task, Tasks, conflict, internal};
use crate::api::{
    Code, Name, PublishedPort, Refusal, ServiceView, TASK_NETWORKS_MAX, TaskCreate, TaskNetwork, TaskProgram,
    TaskService, TaskState,
};
use crate::crypto::identity::NodeId;
use crate::namespace::init::THIS_PROGRAM;
use crate::namespace::sandbox::is_privileged;
use crate::service::spec::check_words;
use crate::state::{StateDir, StateError};
use crate::task::frame::Status;
use crate::task::keeper::Announcement;
use crate::task::kept::{COMPLAINTS, COVERS, ID_SHORT, Kept, TASK};
use crate::task::{find_user, name, now_ms};

/// How long a keeper may take to make namespaces.
const KEEPER_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of what it announces.
const ANNOUNCEMENT_MAX: u64 = 16 * 1024;

/// What a task is to have besides.
#[derive(Debug)]
pub(super) struct Wanted {
    /// In the order of its places.
    pub(super) networks: Vec<TaskNetwork>,
    pub(super) published: Vec<PublishedPort>,
    /// The service that it answers for, if it is made for one by hand.
    pub(super) backend: Option<ServiceView>,
    /// The place by way of which it is reached from outside.
    pub(super) through: usize,
}

impl Tasks {
    /// Makes a task, ready to be started.
    pub(super) async fn create(
        self: &Arc<Self>,
        request: TaskCreate,
        service: Option<TaskService>,
    ) -> Result<Arc<Task>, Refusal> {
        check(&request)?;
        let _making = self.making.lock().await;
        let (mut kept, wanted) = self.settle(request, service).await?;
        StateDir::part(&self.folder).map_err(internal)?;
        let directory = self.folder.join(&kept.id);
        let made = self.build(&directory, &mut kept, wanted).await;
        let status = match made {
            Ok(status) => status,
            Err(refusal) => {
                self.leave_networks(&kept).await;
                if let Err(error) = fs::remove_dir_all(&directory) {
                    warn!("what is left of task {}: {error}", kept.name);
                }
                return Err(refusal);
            }
        };
        info!("task {} is made: {}", kept.name, kept.id);
        let task = Arc::new(Task { kept, directory, status: watch::Sender::new(status) });
        self.table().insert(task.kept.id.clone(), Arc::clone(&task));
        self.watch(Arc::clone(&task));
        Ok(task)
    }

    /// What the task will be, with all that was not given.
    async fn settle(
        &self,
        mut request: TaskCreate,
        service: Option<TaskService>,
    ) -> Result<(Kept, Wanted), Refusal> {
        let id = match &service {
            Some(service) => {
                request.name = Some(named(&name_of(service))?);
                service.id.clone()
            }
            None => NodeId::random(&SystemRandom::new()).map_err(internal)?.to_string(),
        };
        let names: Vec<String> = self.table().values().map(|task| task.kept.name.to_string()).collect();
        if names.len() >= TASKS_MAX {
            return Err(conflict(format!(
                "a node has at most {TASKS_MAX} tasks: `vswitchd rm` some that have ended"
            )));
        }
        let is_taken = |name: &str| names.iter().any(|taken| taken == name);
        let name = match request.name {
            Some(name) if is_taken(name.as_str()) => {
                return Err(conflict(format!(
                    "this node has a task {name} already: `vswitchd rm {name}` first, or choose another --name"
                )));
            }
            Some(name) => name,
            None => named(&name::free(&mut fastrand::Rng::new(), is_taken))?,
        };
        let hostname = match request.program.hostname.clone() {
            Some(hostname) => hostname,
            None => named(&id[..ID_SHORT])?,
        };
        let user = find_user(request.program.user.as_deref(), is_privileged());
        let user = user.map_err(|error| bad_request(error.to_string()))?;
        let TaskCreate { program, networks, published, remove, service: backend, .. } = request;
        let (endpoints, way_out) = self.places(&networks, service.is_some()).await?;
        let backend = match backend {
            Some(backend) => Some(self.service_of(backend, &endpoints).await?),
            None => None,
        };
        let wanted = Wanted { networks, published, backend, through: way_out.unwrap_or_default() };
        let created_ms = now_ms();
        Ok((Kept { id, name, hostname, program, user, endpoints, remove, service, created_ms }, wanted))
    }

    /// Makes the directory, starts the keeper, and gives the task its places. If that fails, its keeper has been ended.
    async fn build(&self, directory: &Path, kept: &mut Kept, wanted: Wanted) -> Result<Status, Refusal> {
        let complaints = prepare(directory, kept).map_err(internal)?;
        let (keeper, pid) = start_keeper(directory, complaints).await?;
        let placed = self.join_networks(directory, kept, wanted, pid).await;
        if placed.is_err() {
            // Its room goes with it.
            let _gone = keeper.id().and_then(process).map(|pid| kill_process(pid, Signal::KILL));
        }
        reap(keeper);
        placed?;
        let (state, started_ms, ended_ms) = (TaskState::Created, None, None);
        Ok(Status { state, pid, started_ms, ended_ms, exit_code: None, error: None })
    }
}

/// What can be told of a request without looking around.
fn check(request: &TaskCreate) -> Result<(), Refusal> {
    let TaskProgram { command, env, workdir, hostname, .. } = &request.program;
    if command.is_empty() {
        return Err(bad_request("there is no command to run"));
    }
    check_words(command, env, workdir.as_deref()).map_err(|error| bad_request(error.to_string()))?;
    if hostname.as_ref().is_some_and(|hostname| hostname.as_str().contains('_')) {
        return Err(bad_request("--hostname: letters, digits, '-' and '.' only"));
    }
    if request.networks.len() > TASK_NETWORKS_MAX {
        return Err(bad_request(format!("a task is in at most {TASK_NETWORKS_MAX} networks")));
    }
    if request.networks.is_empty() && !request.published.is_empty() {
        return Err(bad_request("a task without networks has no ports to publish: name one by --network"));
    }
    Ok(())
}

/// Writes what the keeper needs; gives where it is to complain.
fn prepare(directory: &Path, kept: &Kept) -> Result<OwnedFd, StateError> {
    let files = StateDir::part(directory)?;
    for (name, _) in COVERS {
        // The others are written when the task has its places; the keeper wants all of them to be there.
        let text = if name == "hostname" { format!("{}\n", kept.hostname) } else { String::new() };
        write_shared(&files, name, &text)?;
    }
    files.store(TASK, kept)?;
    files.append(COMPLAINTS).map(OwnedFd::from)
}

/// Starts a keeper, which outlives this process; gives also the process that holds the task's namespaces.
async fn start_keeper(directory: &Path, complaints: OwnedFd) -> Result<(Child, u32), Refusal> {
    let mut command = Command::new(THIS_PROGRAM);
    command.arg0("vswitchd").arg("keep").arg(directory).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(complaints));
    let mut keeper = command.spawn().map_err(|error| internal(format!("can't start a keeper: {error}")))?;
    let stdout = keeper.stdout.take().expect("standard output is piped");
    let announced = match timeout(KEEPER_PATIENCE, announced(stdout)).await {
        Ok(announced) => announced,
        Err(_) => Err(format!("its keeper is not ready after {} s", KEEPER_PATIENCE.as_secs())),
    };
    match announced {
        Ok(pid) => Ok((keeper, pid)),
        Err(reason) => {
            // It may have ended by itself.
            let _ended = keeper.start_kill();
            reap(keeper);
            Err(conflict(format!("can't make the task: {reason}")))
        }
    }
}

async fn announced(stdout: ChildStdout) -> Result<u32, String> {
    let mut line = String::new();
    let read = BufReader::new(stdout.take(ANNOUNCEMENT_MAX)).read_line(&mut line).await;
    let announcement = read.map_err(|error| error.to_string()).and_then(|_| {
        serde_json::from_str(&line).map_err(|_| "its keeper has ended without a word".into())
    })?;
    match announcement {
        Announcement::Ready(pid) => Ok(pid),
        Announcement::Failed(reason) => Err(reason),
    }
}

/// Its end is learnt from its socket; but as long as this daemon is its parent, somebody has to collect it.
fn reap(mut keeper: Child) {
    tokio::spawn(async move {
        if let Err(error) = keeper.wait().await {
            warn!("a task's keeper can't be waited for: {error}");
        }
    });
}

fn process(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// What a task of a service is called: `web.3.0123456789ab`, slots counted from 1 as in Docker.
fn name_of(service: &TaskService) -> String {
    let id: String = service.id.chars().take(ID_SHORT).collect();
    match service.slot {
        Some(slot) => format!("{}.{}.{id}", service.name, u32::from(slot) + 1),
        None => format!("{}.{id}", service.name),
    }
}

fn named(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(internal)
}

pub(super) fn bad_request(message: impl AsRef<str>) -> Refusal {
    Refusal::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::api::{Publish, WORDS_MAX};

    fn request(command: &[&str], env: &[&str], workdir: Option<&str>) -> TaskCreate {
        let program = TaskProgram {
            command: command.iter().map(ToString::to_string).collect(),
            workdir: workdir.map(PathBuf::from),
            env: env.iter().map(ToString::to_string).collect(),
            user: None,
            hostname: None,
            tty: false,
            stdin: false,
        };
        let (networks, published) = (Vec::new(), Vec::new());
        TaskCreate { name: None, program, networks, published, remove: false, service: None }
    }

    #[test]
    fn the_longest_name_of_a_service_leaves_room_for_its_tasks() {
        let service = TaskService {
            id: "0123456789abcdefghijklmno".into(),
            service: "s".into(),
            name: "x".repeat(crate::service::spec::SERVICE_NAME_MAX).parse().unwrap(),
            slot: Some(crate::service::spec::REPLICAS_MAX - 1),
            generation: 1,
        };
        let name = name_of(&service);
        assert!(name.ends_with("xx.1000.0123456789ab") && named(&name).is_ok(), "{name}");
        assert!(named(&name_of(&TaskService { slot: None, ..service })).is_ok());
    }

    #[test]
    fn requests_that_can_not_be_meant_are_refused() {
        assert_eq!(check(&request(&["sh"], &["A=", "B=c=d"], Some("/"))), Ok(()));
        let published = "8080:80".parse::<Publish>().unwrap().0;
        let nowhere = check(&TaskCreate { published, ..request(&["sh"], &[], None) }).unwrap_err();
        assert!(nowhere.message.contains("--network"), "{nowhere}");
        for (request, part) in [
            (request(&[], &[], None), "no command"),
            (request(&[""], &[], None), "first word is empty"),
            (request(&["a\0b"], &[], None), "NUL byte"),
            (request(&["sh"], &["A"], None), "KEY=VALUE"),
            (request(&["sh"], &["=b"], None), "KEY=VALUE"),
            (request(&["sh"], &[], Some("here")), "absolute"),
            (request(&["sh"], &[], Some("/a\0b")), "NUL byte"),
            (request(&["x"; WORDS_MAX + 1], &[], None), "at most 1024"),
        ] {
            let refusal = check(&request).unwrap_err();
            assert!(refusal.code == Code::BadRequest && refusal.message.contains(part), "{refusal}");
        }
    }
}
