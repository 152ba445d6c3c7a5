//! What a configuration depends on besides itself.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use rustix::process::geteuid;

use super::resolve::Reason;

/// The file of groups (group(5)). Groups that only a directory service knows have to be given as numbers.
const GROUP_FILE: &str = "/etc/group";
/// The variables that are looked at.
const VARIABLES: [&str; 9] = [
    "HOME",
    "VSWITCHD_CONFIG",
    "VSWITCHD_LOG_LEVEL",
    "VSWITCHD_SOCKET",
    "VSWITCHD_SOCKET_GROUP",
    "VSWITCHD_STATE_DIR",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// The environment of a process, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Whether defaults are root's.
    pub root: bool,
    /// What relative paths on the command line are relative to.
    pub directory: PathBuf,
    /// Environment variables; an empty one counts as none.
    pub variables: HashMap<&'static str, String>,
    /// Where groups are looked up.
    pub group_file: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    ///
    /// # Errors
    /// If the working directory is gone, or a variable that is looked at is not UTF-8.
    pub fn of_process() -> io::Result<Self> {
        let mut variables = HashMap::new();
        for name in VARIABLES {
            match env::var(name) {
                Ok(value) if !value.is_empty() => drop(variables.insert(name, value)),
                Ok(_) | Err(env::VarError::NotPresent) => {}
                Err(error @ env::VarError::NotUnicode(_)) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: {error}")));
                }
            }
        }
        let directory = env::current_dir()?;
        Ok(Self { root: geteuid().is_root(), directory, variables, group_file: GROUP_FILE.into() })
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The directory of a kind (XDG base directory specification): a variable that names an absolute path, or one
    /// beside the home directory.
    fn base(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let given = self.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        given.or_else(|| Some(Path::new(self.variable("HOME")?).join(in_home)))
    }

    /// Where state is by default; none without a home.
    pub(super) fn state_dir(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/var/lib/vswitchd".into());
        }
        Some(self.base("XDG_STATE_HOME", ".local/state")?.join("vswitchd"))
    }

    /// Where the socket is by default: in the state directory where there is no directory of the session.
    pub(super) fn socket(&self, state_dir: &Path) -> PathBuf {
        if self.root {
            return "/run/vswitchd/vswitchd.sock".into();
        }
        let runtime = self.variable("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        let directory = runtime.map_or_else(|| state_dir.to_owned(), |runtime| runtime.join("vswitchd"));
        directory.join("vswitchd.sock")
    }

    /// The file that is read if none is named, and if it is there.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        if self.root {
            return Some("/etc/vswitchd/vswitchd.toml".into());
        }
        Some(self.base("XDG_CONFIG_HOME", ".config")?.join("vswitchd/vswitchd.toml"))
    }

    /// The number of a group; none if there is no such group.
    pub(super) fn gid_of(&self, name: &str) -> Result<Option<u32>, Reason> {
        let text = fs::read(&self.group_file)
            .map_err(|error| Reason::GroupFile(self.group_file.clone(), error.to_string()))?;
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
        }))
    }
}
