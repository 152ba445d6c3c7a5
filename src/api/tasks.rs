//! Tasks: programs of this node, each in namespaces of its own.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{HostAddress, Name, PublishedPort, PublishedView, text};
use crate::switch::wire::MacAddr;

/// Words of a command, and variables of its environment.
pub const WORDS_MAX: usize = 1024;
/// Networks of a task.
pub const TASK_NETWORKS_MAX: usize = 16;

/// What [`super::Call::CreateTask`] is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskCreate {
    /// Its name, one of a kind on this node; a random one if not given.
    #[serde(default)]
    pub name: Option<Name>,
    /// What is to run.
    pub program: TaskProgram,
    /// Its networks, at most [`TASK_NETWORKS_MAX`]; the first is `eth0`.
    #[serde(default)]
    pub networks: Vec<TaskNetwork>,
    /// Ports of this host at which it is to be reached from outside, at most [`super::PUBLISHED_MAX`]: by way of its
    /// first network that leads out, or else its first.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
    /// Whether it is removed once it has ended.
    #[serde(default)]
    pub remove: bool,
    /// The service that it answers for, by name or id, in those of its networks that the service is in: at least one.
    #[serde(default)]
    pub service: Option<Name>,
}

/// What runs in a task, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskProgram {
    /// The program and its arguments: 1 to [`WORDS_MAX`].
    pub command: Vec<String>,
    /// The directory that it starts in; `/` if not given.
    #[serde(default)]
    pub workdir: Option<PathBuf>,
    /// Variables of its environment as `KEY=VALUE`, at most [`WORDS_MAX`], besides `PATH`, `HOME`, `HOSTNAME`, and `TERM`
    /// with a terminal.
    #[serde(default)]
    pub env: Vec<String>,
    /// Its user as `USER[:GROUP]`, by name or number, with a group if `/etc/passwd` says none; the daemon's own if not
    /// given, who appears as root where the daemon is not root.
    #[serde(default)]
    pub user: Option<String>,
    /// The host name that it sees; the beginning of its id if not given.
    #[serde(default)]
    pub hostname: Option<Name>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its input can be written to; otherwise it is empty.
    #[serde(default)]
    pub stdin: bool,
}

/// A network that a task is to be in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskNetwork {
    /// By name or id.
    pub network: Name,
    /// The addresses that it is to have there, at most one of each IP version; free ones where none is given.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// The MAC address of its interface; what follows from its IPv4 address if not given.
    #[serde(default, with = "text::optional")]
    pub mac: Option<MacAddr>,
    /// Other names of it there, besides the beginning of its id.
    #[serde(default)]
    pub aliases: Vec<Name>,
}

/// What a task is to a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskService {
    /// The id that the task has, or is to have.
    pub id: String,
    /// The service's id.
    pub service: String,
    /// The service's name.
    pub name: Name,
    /// Which of the service's slots it is, from 0; none in a global service.
    pub slot: Option<u16>,
    /// The generation of the service that it runs.
    pub generation: u64,
}

/// A task's place in a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskEndpoint {
    /// The network's id.
    pub network: String,
    /// The network's name.
    pub network_name: String,
    /// The endpoint's id; none before it has been attached.
    pub endpoint: Option<String>,
    /// Its interface.
    pub interface: String,
    /// Its addresses.
    pub addresses: Vec<HostAddress>,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// It is ready to be started.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended, or could not be started.
    Exited,
    /// What looked after it was killed, and the program with it.
    Dead,
}

impl TaskState {
    /// All, in this order.
    pub const ALL: [Self; 4] = [Self::Created, Self::Running, Self::Exited, Self::Dead];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }

    /// Whether it has namespaces and a control socket.
    #[must_use]
    pub fn is_kept(self) -> bool {
        matches!(self, Self::Created | Self::Running)
    }
}

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its id: 25 digits of base 36.
    pub id: String,
    /// Its name.
    pub name: Name,
    /// What runs in it.
    pub program: TaskProgram,
    /// Its places in networks, in the order of interfaces.
    pub endpoints: Vec<TaskEndpoint>,
    /// Where it is reached from outside, while it is in networks.
    #[serde(default)]
    pub published: Vec<PublishedView>,
    /// Whether it is removed once it has ended.
    pub remove: bool,
    /// The service that it is a task of, if it is one.
    #[serde(default)]
    pub service: Option<TaskService>,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
    /// What it does.
    pub state: TaskState,
    /// The same when its program was started, if it was.
    pub started_ms: Option<u64>,
    /// The same when it ended, if it has.
    pub ended_ms: Option<u64>,
    /// The program's exit code if it has ended: 128 and the number of the signal that killed it; 125 if it could not be
    /// started for now, 126 or 127 if it can't be.
    pub exit_code: Option<u8>,
    /// Why it could not be started.
    pub error: Option<String>,
    /// The process that holds its namespaces, while it has them.
    pub pid: Option<u32>,
    /// Where its control socket and its log are: for the daemon's user only.
    pub directory: PathBuf,
}

/// What [`super::Call::StopTask`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// The signal that asks it to end; SIGTERM if not given.
    #[serde(default)]
    pub signal: Option<u8>,
    /// Seconds until it is killed.
    pub patience_s: u32,
}

/// What [`super::Call::KillTask`] is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// The signal's number.
    pub signal: u8,
}
