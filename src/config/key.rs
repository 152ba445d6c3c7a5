//! The keys of the configuration, and the texts that their values are parsed from.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use super::Surroundings;
use super::resolve::Reason;
use crate::names::UPSTREAMS_MAX;

/// Bytes of a UNIX socket's path: `sun_path` has 108, of which one ends it (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;

/// A key: `state-dir` in the file, `VSWITCHD_STATE_DIR` in the environment, `--state-dir` as a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The directory of identity and records.
    StateDir,
    /// The socket of the local API.
    Socket,
    /// The group that may use the socket too.
    SocketGroup,
    /// How much is logged.
    LogLevel,
    /// Resolvers that are asked for names that no network has.
    Dns,
    /// Whether this node runs tasks of services.
    AllowTasks,
    /// The user of their programs.
    TaskUser,
    /// The programs that they may be.
    TaskCommands,
}

impl Key {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 8] = [
        Self::StateDir,
        Self::Socket,
        Self::SocketGroup,
        Self::LogLevel,
        Self::Dns,
        Self::AllowTasks,
        Self::TaskUser,
        Self::TaskCommands,
    ];

    /// Its name in the file, and as a flag behind `--`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::StateDir => "state-dir",
            Self::Socket => "socket",
            Self::SocketGroup => "socket-group",
            Self::LogLevel => "log-level",
            Self::Dns => "dns",
            Self::AllowTasks => "allow-tasks",
            Self::TaskUser => "task-user",
            Self::TaskCommands => "task-commands",
        }
    }

    /// Its name in the environment.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::StateDir => "VSWITCHD_STATE_DIR",
            Self::Socket => "VSWITCHD_SOCKET",
            Self::SocketGroup => "VSWITCHD_SOCKET_GROUP",
            Self::LogLevel => "VSWITCHD_LOG_LEVEL",
            Self::Dns => "VSWITCHD_DNS",
            Self::AllowTasks => "VSWITCHD_ALLOW_TASKS",
            Self::TaskUser => "VSWITCHD_TASK_USER",
            Self::TaskCommands => "VSWITCHD_TASK_COMMANDS",
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much is logged: each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What stops something from working.
    Error,
    /// What will, or what somebody should look at.
    Warn,
    /// What an operator wants to know afterwards.
    #[default]
    Info,
    /// Each request.
    Debug,
    /// Each step.
    Trace,
}

impl LogLevel {
    const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Reason> {
        let level = Self::ALL.into_iter().find(|level| level.name() == text);
        level.ok_or_else(|| Reason::Level(text.into()))
    }
}

/// A group of users, as the system's group file knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name or number that was given.
    pub name: String,
    /// Its number.
    pub gid: u32,
}

/// Resolvers: addresses, each with a port if that is not DNS's, with commas in between.
pub(super) fn parse_resolvers(text: &str) -> Result<Vec<SocketAddr>, Reason> {
    let parse = |text: &str| {
        let text = text.trim();
        let whole = text.parse::<SocketAddr>().ok();
        let found = whole.or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS_PORT)));
        found.ok_or_else(|| Reason::Resolver(text.into()))
    };
    let servers = text.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    match servers.len() {
        1..=UPSTREAMS_MAX => Ok(servers),
        _ => Err(Reason::ManyResolvers),
    }
}

/// Yes or no.
pub(super) fn parse_truth(text: &str) -> Result<bool, Reason> {
    text.parse().map_err(|_| Reason::Truth(text.into()))
}

/// Programs, as services name them, with commas in between. Where another name leads, a service says: by its `PATH`, or by
/// the directory that it starts in.
pub(super) fn parse_commands(text: &str) -> Result<Vec<String>, Reason> {
    let command = |text: &str| match text.trim() {
        "" => Err(Reason::Empty),
        path if path.starts_with('/') => Ok(path.into()),
        name => Err(Reason::Relative(name.into())),
    };
    text.split(',').map(command).collect()
}

/// A path that is absolute, or made so where it was given on a terminal.
pub(super) fn parse_path(text: &str, base: Option<&Surroundings>) -> Result<PathBuf, Reason> {
    let path = PathBuf::from(text);
    match base {
        _ if text.is_empty() => Err(Reason::Empty),
        _ if path.is_absolute() => Ok(path),
        Some(surroundings) => Ok(surroundings.directory.join(path)),
        // A file says the same to everybody who reads it, wherever they are.
        None => Err(Reason::Relative(text.into())),
    }
}

/// A socket's path; Docker's spelling `unix://PATH` is one too.
pub(super) fn parse_socket(text: &str, base: Option<&Surroundings>) -> Result<PathBuf, Reason> {
    let path = parse_path(text.strip_prefix("unix://").unwrap_or(text), base)?;
    let len = path.as_os_str().len();
    if len > SOCKET_PATH_MAX { Err(Reason::LongSocket { len, max: SOCKET_PATH_MAX }) } else { Ok(path) }
}

/// A group by name or number.
pub(super) fn parse_group(text: &str, surroundings: &Surroundings) -> Result<Group, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    let gid = match text.parse() {
        Ok(gid) => gid,
        Err(_) => surroundings.gid_of(text)?.ok_or_else(|| Reason::NoGroup(text.into()))?,
    };
    Ok(Group { name: text.into(), gid })
}
