//! What is kept of a task for as long as it is there.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::api::{Name, TaskEndpoint, TaskProgram, TaskService};

/// The file of what a task is ([`Kept`]).
pub const TASK: &str = "task.json";
/// The file of how it is ([`super::frame::Status`]).
pub const STATE: &str = "state.json";
/// What the keeper complains of.
pub const COMPLAINTS: &str = "keeper.log";
/// Characters of a task's id that stand for it as a name, as in Docker.
pub const ID_SHORT: usize = 12;
/// Exit code of a program that could not be started for now, as in Docker.
pub const NOT_STARTED: u8 = 125;
/// Exit code of a program that is there but can't be run, as shells have it.
pub const NOT_EXECUTABLE: u8 = 126;
/// Exit code of one that is not there.
pub const NOT_FOUND: u8 = 127;
/// The exit code of what was killed (SIGKILL).
pub const KILLED: u8 = 128 + 9;
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Files that a task sees in place of the host's.
pub const COVERS: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("hostname", "/etc/hostname"), ("resolv.conf", "/etc/resolv.conf")];

/// A task as it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Name,
    /// The host name that it sees.
    pub hostname: Name,
    /// What runs in it.
    pub program: TaskProgram,
    /// As whom.
    pub user: User,
    /// Its places in networks, in the order of interfaces.
    pub endpoints: Vec<TaskEndpoint>,
    /// Whether it is removed once it has ended.
    pub remove: bool,
    /// The service that it is a task of, if it is one.
    #[serde(default)]
    pub service: Option<TaskService>,
    /// Milliseconds since 1970 when it was made.
    pub created_ms: u64,
}

/// The user of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User and group to change to; none: stay.
    pub ids: Option<(u32, u32)>,
    /// The home directory.
    pub home: PathBuf,
}

impl Kept {
    /// The environment of programs in it, with a terminal or without; what was asked for wins.
    #[must_use]
    pub fn environment(&self, tty: bool) -> Vec<(String, String)> {
        let mut variables = vec![
            ("PATH".into(), PATH.into()),
            ("HOME".into(), self.user.home.display().to_string()),
            ("HOSTNAME".into(), self.hostname.to_string()),
        ];
        if tty {
            variables.push(("TERM".into(), "xterm".into()));
        }
        let given = self.program.env.iter().filter_map(|variable| variable.split_once('='));
        variables.extend(given.map(|(key, value)| (key.into(), value.into())));
        variables
    }
}
