//! Tasks: programs in namespaces of their own that outlive the daemon which started them.
//!
//! ```text
//! daemon ── tasks: makes, lists, stops, removes them, and gives them their places in networks
//!   └─ keeper, one for each task: holds its namespaces, terminal or pipes, log and control socket
//!        ├─ host ── process 1 of the task
//!        └─ program
//! client ── run, attach, logs, wait: talks to the keeper itself, so the daemon may come and go
//! ```
//!
//! A task's directory, `tasks/ID` of the state directory, has all there is of it:
//!
//! ```text
//! task.json                  what it is ([`kept::Kept`])
//! state.json                 how it is ([`frame::Status`]), by its keeper, when it starts and when it ends
//! control                    the keeper's socket ([`frame`])
//! log, log.1                 what its program has written ([`log`])
//! keeper.log                 what its keeper has to complain of
//! hosts, hostname, resolv.conf   seen in the task in place of those in /etc
//! ```
//!
//! A daemon that starts finds the keepers by their sockets. A keeper that was killed has taken its program along, by the
//! kernel's hand; the daemon then says so.

pub mod connection;
pub mod frame;
mod keeper;
pub mod kept;
pub mod log;
pub(crate) mod name;
mod stream;
mod tasks;
mod user;

pub use keeper::{KeepError, keep};
pub(crate) use tasks::directory;
pub use tasks::{TASKS_MAX, Tasks};
pub use user::{UserError, find_user};

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::rc::Rc;

    use crate::state::StateDir;

    /// A directory that goes with the test.
    pub(super) struct Scratch(PathBuf);

    impl Scratch {
        pub(super) fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("vswitchd-task-{name}-{}", std::process::id())))
        }

        pub(super) fn path(&self) -> &Path {
            &self.0
        }

        pub(super) fn files(&self) -> Rc<StateDir> {
            Rc::new(StateDir::part(&self.0).unwrap())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }
}
