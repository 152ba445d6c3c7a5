//! Four sources become one configuration.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::file::{self, FILE_MAX};
use super::key::{
    Group, Key, LogLevel, parse_commands, parse_group, parse_path, parse_resolvers, parse_socket, parse_truth,
};
use super::{Origin, Surroundings};
use crate::names::UPSTREAMS_MAX;

/// The variable that names the file.
const CONFIG_VARIABLE: &str = "VSWITCHD_CONFIG";

/// What the daemon runs with: valid, complete, and each value with its source.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that was read, if one was.
    pub file: Option<PathBuf>,
    /// The directory of identity and records; absolute.
    pub state_dir: PathBuf,
    /// The socket of the local API; absolute, and short enough for one.
    pub socket: PathBuf,
    /// The group that may use the socket too.
    pub socket_group: Option<Group>,
    /// How much is logged.
    pub log_level: LogLevel,
    /// Resolvers that are asked for names that no network has, at most [`UPSTREAMS_MAX`]; none: the host's own.
    pub dns: Vec<SocketAddr>,
    /// What this node does for services.
    pub tasks: TaskPolicy,
    origins: [Origin; Key::ALL.len()],
}

/// What the operator of a node lets services do there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskPolicy {
    /// Whether tasks run at all.
    pub allowed: bool,
    /// The user of their programs (`USER[:GROUP]`); the daemon's own if not given.
    pub user: Option<String>,
    /// The programs that they may be, by absolute paths, as services name them; none: all.
    pub commands: Option<Vec<String>>,
}

/// What the command line gave, as text.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`: must be there if named.
    pub config: Option<PathBuf>,
    /// The keys given as flags.
    pub values: Vec<(Key, String)>,
}

/// One value, to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key.
    pub key: Key,
    /// Its value; none where it is not set and has no default.
    pub value: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Why there is no configuration: in one line the source, the key, and the reason.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {}{reason}", key.map_or_else(String::new, |key| format!("{key}: ")))]
pub struct ConfigError {
    /// Where the value comes from.
    pub origin: Origin,
    /// Which it is, if one is to blame.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a value, or with the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// A path that depends on where the daemon is started.
    #[error("{0:?} is no absolute path")]
    Relative(String),
    /// No default without a home directory.
    #[error("there is no default without $HOME: set it, or VSWITCHD_STATE_DIR")]
    NoHome,
    /// Too long for a socket.
    #[error("a socket's path has at most {max} bytes, and this one {len}")]
    LongSocket {
        /// Its bytes.
        len: usize,
        /// Most bytes.
        max: usize,
    },
    /// Not a level.
    #[error("{0:?} is no level: want error, warn, info, debug or trace")]
    Level(String),
    /// Not a resolver.
    #[error("{0:?} is no resolver: want an address, or ADDRESS:PORT")]
    Resolver(String),
    /// Too many resolvers.
    #[error("more than {UPSTREAMS_MAX} resolvers")]
    ManyResolvers,
    /// Neither yes nor no.
    #[error("{0:?}: want true or false")]
    Truth(String),
    /// Not a group of this system.
    #[error("this system has no group {0:?}")]
    NoGroup(String),
    /// Groups can't be looked up.
    #[error("can't read {path}: {reason}", path = .0.display(), reason = .1)]
    GroupFile(PathBuf, String),
    /// Not a key.
    #[error("unknown key {name:?}: there are {}", Key::ALL.map(Key::name).join(", "), name = .0)]
    UnknownKey(String),
    /// Another type of value.
    #[error("want a string in quotes, not {kind}", kind = article(.0))]
    NoString(&'static str),
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// The file can't be read.
    #[error("can't be read: {0}")]
    Unreadable(String),
    /// The file is no configuration.
    #[error("larger than {FILE_MAX} bytes")]
    FileTooLong,
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// Brings the sources together: defaults, the file, the environment, `flags`; the later wins.
///
/// # Errors
/// The first value that is wrong, whether or not a later source overrides it.
pub fn resolve(surroundings: &Surroundings, flags: &Flags) -> Result<Config, ConfigError> {
    let (file, given) = from_file(surroundings, flags)?;
    let mut draft = Draft::default();
    for (key, text, origin) in given {
        draft.set(key, &text, origin, surroundings)?;
    }
    for key in Key::ALL {
        if let Some(text) = surroundings.variable(key.variable()) {
            draft.set(key, text, Origin::Variable(key.variable()), surroundings)?;
        }
    }
    for (key, text) in &flags.values {
        draft.set(*key, text, Origin::Flag(key.name()), surroundings)?;
    }
    draft.complete(surroundings, file)
}

type Given = Vec<(Key, String, Origin)>;

/// The file that is named, or the one that is there.
fn from_file(surroundings: &Surroundings, flags: &Flags) -> Result<(Option<PathBuf>, Given), ConfigError> {
    let by_flag =
        flags.config.as_ref().map(|path| (surroundings.directory.join(path), Origin::Flag("config")));
    let named = by_flag.or_else(|| {
        let path = surroundings.directory.join(surroundings.variable(CONFIG_VARIABLE)?);
        Some((path, Origin::Variable(CONFIG_VARIABLE)))
    });
    let (path, origin) = match named {
        Some((path, origin)) => (path, Some(origin)),
        None => match surroundings.config_file() {
            Some(path) => (path, None),
            None => return Ok((None, Vec::new())),
        },
    };
    let unreadable = |reason| {
        let origin = origin.clone().unwrap_or(Origin::Default);
        ConfigError { origin, key: None, reason: Reason::Unreadable(format!("{}: {reason}", path.display())) }
    };
    match read(&path) {
        Ok(Some(text)) => {
            let values = file::parse(&path, &text)?;
            Ok((Some(path), values))
        }
        Ok(None) => {
            let origin = Origin::File { path, line: 1 };
            Err(ConfigError { origin, key: None, reason: Reason::FileTooLong })
        }
        Err(error) if origin.is_none() && error.kind() == io::ErrorKind::NotFound => Ok((None, Vec::new())),
        Err(error) => Err(unreadable(error)),
    }
}

/// A file's text; none if it is too long.
fn read(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_string(&mut text)?;
    Ok((text.len() as u64 <= FILE_MAX).then_some(text))
}

/// What has been given so far.
#[derive(Default)]
struct Draft {
    state_dir: Option<(PathBuf, Origin)>,
    socket: Option<(PathBuf, Origin)>,
    socket_group: Option<(Group, Origin)>,
    log_level: Option<(LogLevel, Origin)>,
    dns: Option<(Vec<SocketAddr>, Origin)>,
    allow_tasks: Option<(bool, Origin)>,
    task_user: Option<(String, Origin)>,
    task_commands: Option<(Vec<String>, Origin)>,
}

impl Draft {
    fn set(
        &mut self,
        key: Key,
        text: &str,
        origin: Origin,
        surroundings: &Surroundings,
    ) -> Result<(), ConfigError> {
        let base = (!matches!(origin, Origin::File { .. })).then_some(surroundings);
        let refused = |reason| ConfigError { origin: origin.clone(), key: Some(key.name()), reason };
        match key {
            Key::StateDir => self.state_dir = Some((parse_path(text, base).map_err(refused)?, origin)),
            Key::Socket => self.socket = Some((parse_socket(text, base).map_err(refused)?, origin)),
            Key::SocketGroup => {
                self.socket_group = Some((parse_group(text, surroundings).map_err(refused)?, origin));
            }
            Key::LogLevel => self.log_level = Some((text.parse().map_err(refused)?, origin)),
            Key::Dns => self.dns = Some((parse_resolvers(text).map_err(refused)?, origin)),
            Key::AllowTasks => self.allow_tasks = Some((parse_truth(text).map_err(refused)?, origin)),
            Key::TaskUser if text.is_empty() => return Err(refused(Reason::Empty)),
            Key::TaskUser => self.task_user = Some((text.into(), origin)),
            Key::TaskCommands => self.task_commands = Some((parse_commands(text).map_err(refused)?, origin)),
        }
        Ok(())
    }

    fn complete(self, surroundings: &Surroundings, file: Option<PathBuf>) -> Result<Config, ConfigError> {
        let refused =
            |key: Key, reason| ConfigError { origin: Origin::Default, key: Some(key.name()), reason };
        let (state_dir, state_dir_origin) = match self.state_dir {
            Some(given) => given,
            None => {
                let default = surroundings.state_dir();
                (default.ok_or_else(|| refused(Key::StateDir, Reason::NoHome))?, Origin::Default)
            }
        };
        let (socket, socket_origin) = match self.socket {
            Some(given) => given,
            None => {
                let default = surroundings.socket(&state_dir);
                let text = default.to_string_lossy();
                (parse_socket(&text, None).map_err(|reason| refused(Key::Socket, reason))?, Origin::Default)
            }
        };
        let (socket_group, group_origin) = self.socket_group.unzip();
        let (log_level, level_origin) = self.log_level.unzip();
        let log_level = log_level.unwrap_or_default();
        let (dns, dns_origin) = self.dns.unzip();
        let dns = dns.unwrap_or_default();
        let (allowed, allow_origin) = self.allow_tasks.unzip();
        let (user, user_origin) = self.task_user.unzip();
        let (commands, commands_origin) = self.task_commands.unzip();
        let tasks = TaskPolicy { allowed: allowed.unwrap_or_default(), user, commands };
        let rest = [group_origin, level_origin, dns_origin, allow_origin, user_origin, commands_origin];
        let [group, level, resolvers, allow, user, commands] =
            rest.map(|origin| origin.unwrap_or(Origin::Default));
        let origins = [state_dir_origin, socket_origin, group, level, resolvers, allow, user, commands];
        Ok(Config { file, state_dir, socket, socket_group, log_level, dns, tasks, origins })
    }
}

impl Config {
    /// Every value with its source, in the order of [`Key::ALL`].
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        let values = [
            Some(self.state_dir.display().to_string()),
            Some(self.socket.display().to_string()),
            self.socket_group.as_ref().map(|group| group.name.clone()),
            Some(self.log_level.name().into()),
            (!self.dns.is_empty())
                .then(|| self.dns.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            Some(self.tasks.allowed.to_string()),
            self.tasks.user.clone(),
            self.tasks.commands.as_ref().map(|commands| commands.join(",")),
        ];
        let rows = Key::ALL.into_iter().zip(values).zip(self.origins.clone());
        rows.map(|((key, value), origin)| Setting { key, value, origin }).collect()
    }
}
