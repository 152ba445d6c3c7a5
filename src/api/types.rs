//! What goes over the socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The answer to [`super::Call::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was started.
    pub up_s: u64,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// The socket that it listens at.
    pub socket: PathBuf,
}
