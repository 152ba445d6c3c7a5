//! The state directory: what a daemon must find again after a crash, a `kill -9` or a reboot.
//!
//! ```text
//! DIR/            0700, the daemon's user's
//!   lock          held (flock(2)) by the daemon that uses the directory, with its process id
//!   format        "vswitchd state 1"
//!   NAME          0600; replaced as a whole, see [`StateDir::write`]
//!   .NAME.new     what a crash in the middle of that leaves; removed at the next start
//! ```
//!
//! It holds private keys, so a directory or file that others could read or have made is refused, not repaired: who
//! could read a key has it. What the files mean is their writers' business.

mod directory;
mod lock;

pub use directory::{FILE_MAX, StateDir, StateError};
pub use lock::{FileLock, LockError};
