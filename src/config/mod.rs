//! What the daemon is told: defaults, a TOML file, the environment and flags, in this order, become one valid
//! [`Config`] in one pass.
//!
//! Every value given is checked, also one that a later source overrides, and every error names the source, the key
//! and the reason in one line. The environment comes in as [`Surroundings`], so nothing here reads a global.

mod file;
mod key;
mod resolve;
mod surroundings;
#[cfg(test)]
mod tests;

pub use key::{Group, Key, LogLevel};
pub use resolve::{Config, ConfigError, Flags, Reason, Setting, TaskPolicy, resolve};
pub use surroundings::Surroundings;

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// A line, from 1, of a file.
    File {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// An environment variable.
    Variable(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}
