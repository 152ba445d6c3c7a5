//! The directory and its files.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::lock::{FileLock, LockError};

/// Bytes of one file: far more than the records of the largest cluster.
pub const FILE_MAX: usize = 64 << 20;

const LOCK: &str = "lock";
const FORMAT: &str = "format";
/// Before the number in [`FORMAT`].
const FORMAT_WORD: &str = "vswitchd state ";
/// The format that is written. A larger number is a newer daemon's, and refused.
const FORMAT_NUMBER: u32 = 1;
const NEW_SUFFIX: &str = ".new";
/// What nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// Why state can't be used. No file has changed, but as the variants say.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another daemon uses it.
    #[error(
        "another daemon uses {}{}: give this one another --state-dir",
        .path.display(), .pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    Used {
        /// The directory.
        path: PathBuf,
        /// The other one.
        pid: Option<u32>,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to user {owner}, not to {us}: run as that user, or choose another --state-dir", .path.display())]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        us: u32,
    },
    /// Others could read or change it.
    #[error(
        "{} is open to others (mode {mode:04o}) and may hold private keys: `chmod go= {}` if they are still private",
        .path.display(), .path.display()
    )]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not the kind of file that it should be.
    #[error("{} is no {expected}", .path.display())]
    Kind {
        /// The file or directory.
        path: PathBuf,
        /// What it should be.
        expected: &'static str,
    },
    /// A directory in use for something else.
    #[error("{} is not empty and no state of vswitchd: choose another --state-dir", .0.display())]
    Foreign(PathBuf),
    /// Written by a later version.
    #[error("{} has format {found}, and this vswitchd knows up to {FORMAT_NUMBER}: use a newer one", .path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// A file that was not written so.
    #[error("{} is damaged ({reason}): restore it from a backup, or remove {} to start anew", .path.display(), .directory.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// The directory.
        directory: PathBuf,
    },
    /// More than [`FILE_MAX`] bytes.
    #[error("{} would be or is larger than {FILE_MAX} bytes", .0.display())]
    TooLong(PathBuf),
    /// The file system refuses. When writing, the old content or the new is there, never a part.
    #[error("can't {what} {}: {source}", .path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// An open state directory, locked for as long as this lives; or a part of one, see [`StateDir::part`].
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    directory: OwnedFd,
    _lock: Option<FileLock>,
}

impl StateDir {
    /// Opens it, or makes it (0700, and its parents as the umask has them), and locks it.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let directory = open(path)?;
        let lock = FileLock::acquire(path.join(LOCK)).map_err(|error| match error {
            LockError::Held { pid, .. } => StateError::Used { path: path.into(), pid },
            LockError::Io { path, source } => StateError::Io { what: "lock", path, source },
        })?;
        let state = Self { path: path.into(), directory, _lock: Some(lock) };
        let others = state.tidy()?;
        state.check_format(others)?;
        Ok(state)
    }

    /// Opens a directory within one, or makes it (0700): with neither lock nor format of its own. Who uses it is settled by
    /// the lock of the whole, or by whoever hands its path on.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn part(path: &Path) -> Result<Self, StateError> {
        Ok(Self { path: path.into(), directory: open(path)?, _lock: None })
    }

    /// A file to add to, made if it is not there.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn append(&self, name: &str) -> Result<File, StateError> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR);
        file.map(File::from).map_err(|errno| self.failed("open", name, errno.into()))
    }

    /// A file to read from.
    ///
    /// # Errors
    /// If it is not there, or the file system refuses.
    pub fn open_file(&self, name: &str) -> Result<File, StateError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::empty());
        file.map(File::from).map_err(|errno| self.failed("open", name, errno.into()))
    }

    /// Gives a file another name, in place of the one that has it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        let renamed = renameat(&self.directory, from, &self.directory, to);
        renamed.map_err(|errno| self.failed("rename", from, errno.into()))
    }

    /// The error of something that the file system refuses.
    pub(crate) fn failed(&self, what: &'static str, name: &str, source: io::Error) -> StateError {
        StateError::Io { what, path: self.path.join(name), source }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file's bytes; none if it is not there. They are wiped when dropped.
    ///
    /// # Errors
    /// If others could have read or written it, it is too long, or can't be read.
    pub fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(StateError::Kind { path, expected: "plain file" }),
            Err(errno) => return Err(StateError::Io { what: "open", path, source: errno.into() }),
        };
        let stat = fstat(&file).map_err(|errno| StateError::Io {
            what: "look at",
            path: path.clone(),
            source: errno.into(),
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StateError::Kind { path, expected: "plain file" });
        }
        check(&path, &stat)?;
        let Some(len) = usize::try_from(stat.st_size).ok().filter(|&len| len <= FILE_MAX) else {
            return Err(StateError::TooLong(path));
        };
        // Room for all of it at once: a buffer that grows leaves copies of secrets behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(len + 1));
        match file.take(len as u64).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            Err(source) => Err(StateError::Io { what: "read", path, source }),
        }
    }

    /// Replaces a file, or makes it: after a crash at any moment the old content or the new is there, and once this
    /// returns it is the new.
    ///
    /// # Errors
    /// If it is too long, or the file system refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        if bytes.len() > FILE_MAX {
            return Err(StateError::TooLong(path));
        }
        self.replace(name, bytes).map_err(|source| StateError::Io { what: "write", path, source })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!(".{name}{NEW_SUFFIX}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, &new, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(&self.directory, &new, &self.directory, name)?;
        // The new name is only as lasting as the directory.
        fsync(&self.directory)?;
        Ok(())
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let failed = |errno: Errno| StateError::Io {
            what: "remove",
            path: self.path.join(name),
            source: errno.into(),
        };
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => fsync(&self.directory).map_err(failed),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Reads a JSON document; none if it is not there.
    ///
    /// # Errors
    /// As [`Self::read`], and if it is not such a document.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let document = serde_json::from_slice(&bytes);
        document.map(Some).map_err(|error| self.corrupt(name, error.to_string()))
    }

    /// Writes a JSON document as [`Self::write`] does.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn store(&self, name: &str, document: &impl Serialize) -> Result<(), StateError> {
        let path = || self.path.join(name);
        let bytes = serde_json::to_vec(document).map(Zeroizing::new).map_err(|error| StateError::Io {
            what: "write",
            path: path(),
            source: error.into(),
        })?;
        self.write(name, &bytes)
    }

    /// The names of what is in it that begin so, in order, hidden files left out.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>, StateError> {
        let failed = |errno: Errno| self.failed("list", "", errno.into());
        let ours = |name: &&str| name.starts_with(prefix) && !name.starts_with('.');
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().to_str().ok().filter(ours).map(String::from));
        }
        names.sort();
        Ok(names)
    }

    /// The error that a file's reader gives when it makes no sense of it.
    #[must_use]
    pub fn corrupt(&self, name: &str, reason: String) -> StateError {
        StateError::Corrupt { path: self.path.join(name), reason, directory: self.path.clone() }
    }

    /// Removes what a crash has left; tells whether there are files of ours or of others.
    fn tidy(&self) -> Result<bool, StateError> {
        let failed =
            |errno: Errno| StateError::Io { what: "list", path: self.path.clone(), source: errno.into() };
        let mut others = false;
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | ".." | LOCK) => {}
                Ok(name) if name.starts_with('.') && name.ends_with(NEW_SUFFIX) => self.remove(name)?,
                _ => others = true,
            }
        }
        Ok(others)
    }

    fn check_format(&self, others: bool) -> Result<(), StateError> {
        let Some(bytes) = self.read(FORMAT)? else {
            if others {
                return Err(StateError::Foreign(self.path.clone()));
            }
            return self.write(FORMAT, format!("{FORMAT_WORD}{FORMAT_NUMBER}\n").as_bytes());
        };
        let number = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.strip_prefix(FORMAT_WORD)?.strip_suffix('\n')?.parse::<u32>().ok());
        match number {
            Some(FORMAT_NUMBER) => Ok(()),
            Some(found) if found > FORMAT_NUMBER => Err(StateError::Newer { path: self.path.clone(), found }),
            _ => Err(self.corrupt(FORMAT, "not the name of a format".into())),
        }
    }
}

/// Opens a directory, which is made if it is not there, and checks that it is ours alone.
fn open(path: &Path) -> Result<OwnedFd, StateError> {
    let failed = |what| move |source: io::Error| StateError::Io { what, path: path.into(), source };
    make(path).map_err(failed("make"))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(CWD, path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Err(StateError::Kind { path: path.into(), expected: "directory" });
        }
        Err(errno) => return Err(failed("open")(errno.into())),
    };
    check(path, &fstat(&directory).map_err(|errno| failed("look at")(errno.into()))?)?;
    Ok(directory)
}

fn make(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

/// Ours, and nobody else's.
fn check(path: &Path, stat: &Stat) -> Result<(), StateError> {
    let us = geteuid().as_raw();
    if stat.st_uid != us {
        return Err(StateError::Owner { path: path.into(), owner: stat.st_uid, us });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & OTHERS != 0 { Err(StateError::Mode { path: path.into(), mode }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A path that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vswitchd-state-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn dir(&self) -> PathBuf {
            self.0.join("over/there")
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.dir().join(name)).unwrap().permissions().mode() & 0o7777
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn what_is_written_is_found_again_and_private() {
        let scratch = Scratch::new("again");
        let state = StateDir::open(&scratch.dir()).unwrap();
        state.write("node", b"one").unwrap();
        state.write("node", b"two").unwrap();
        state.store("records", &vec![1, 2]).unwrap();
        drop(state);
        let state = StateDir::open(&scratch.dir()).unwrap();
        assert_eq!(**state.read("node").unwrap().unwrap(), *b"two");
        assert_eq!(state.load::<Vec<u32>>("records").unwrap(), Some(vec![1, 2]));
        assert_eq!(state.load::<Vec<u32>>("nothing").unwrap(), None);
        assert_eq!((scratch.mode(""), scratch.mode("node"), scratch.mode("lock")), (0o700, 0o600, 0o600));
        state.remove("node").unwrap();
        state.remove("node").unwrap();
        assert!(state.read("node").unwrap().is_none());
    }

    #[test]
    fn two_never_share_it() {
        let scratch = Scratch::new("share");
        let first = StateDir::open(&scratch.dir()).unwrap();
        let second = StateDir::open(&scratch.dir()).unwrap_err();
        let us = std::process::id();
        assert!(matches!(second, StateError::Used { pid: Some(pid), .. } if pid == us), "{second}");
        drop(first);
        StateDir::open(&scratch.dir()).unwrap();
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let scratch = Scratch::new("modes");
        let state = StateDir::open(&scratch.dir()).unwrap();
        state.write("node", b"key").unwrap();
        fs::set_permissions(scratch.dir().join("node"), Permissions::from_mode(0o640)).unwrap();
        let error = state.read("node").unwrap_err();
        assert!(matches!(error, StateError::Mode { mode: 0o640, .. }), "{error}");
        drop(state);
        fs::set_permissions(scratch.dir(), Permissions::from_mode(0o755)).unwrap();
        let error = StateDir::open(&scratch.dir()).unwrap_err();
        assert!(matches!(error, StateError::Mode { mode: 0o755, .. }), "{error}");
        assert!(error.to_string().contains("chmod go="), "{error}");
    }

    #[test]
    fn other_kinds_of_files_are_refused() {
        let scratch = Scratch::new("kinds");
        let file = scratch.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(StateDir::open(&file).unwrap_err(), StateError::Kind { .. }));
        let link = scratch.0.join("link");
        fs::create_dir(scratch.0.join("target")).unwrap();
        symlink("target", &link).unwrap();
        assert!(matches!(StateDir::open(&link).unwrap_err(), StateError::Kind { .. }));
        let state = StateDir::open(&scratch.dir()).unwrap();
        symlink("/etc/hostname", scratch.dir().join("node")).unwrap();
        assert!(matches!(state.read("node").unwrap_err(), StateError::Kind { .. }));
        fs::create_dir(scratch.dir().join("folder")).unwrap();
        assert!(matches!(state.read("folder").unwrap_err(), StateError::Kind { .. }));
    }

    #[test]
    fn a_directory_with_something_else_is_left_alone() {
        let scratch = Scratch::new("foreign");
        fs::create_dir_all(scratch.dir()).unwrap();
        fs::set_permissions(scratch.dir(), Permissions::from_mode(0o700)).unwrap();
        fs::write(scratch.dir().join("thesis"), "").unwrap();
        assert!(matches!(StateDir::open(&scratch.dir()).unwrap_err(), StateError::Foreign(_)));
        assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 1);
    }

    #[test]
    fn formats_and_documents_are_checked() {
        let scratch = Scratch::new("formats");
        let state = StateDir::open(&scratch.dir()).unwrap();
        state.write("records", b"{\"half").unwrap();
        let error = state.load::<Vec<u32>>("records").unwrap_err();
        assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
        state.write(FORMAT, b"vswitchd state 2\n").unwrap();
        drop(state);
        let newer = StateDir::open(&scratch.dir()).unwrap_err();
        assert!(matches!(newer, StateError::Newer { found: 2, .. }), "{newer}");
        for bytes in ["", "vswitchd state 1", "vswitchd state x\n", "vswitchd state 0\n"] {
            fs::write(scratch.dir().join(FORMAT), bytes).unwrap();
            let error = StateDir::open(&scratch.dir()).unwrap_err();
            assert!(matches!(error, StateError::Corrupt { .. }), "{bytes:?}: {error}");
        }
    }

    #[test]
    fn what_a_crash_leaves_is_cleared() {
        let scratch = Scratch::new("crash");
        drop(StateDir::open(&scratch.dir()).unwrap());
        fs::write(scratch.dir().join(".node.new"), "ha").unwrap();
        fs::write(scratch.dir().join(LOCK), "4711\n").unwrap();
        let state = StateDir::open(&scratch.dir()).unwrap();
        assert!(!scratch.dir().join(".node.new").exists());
        assert!(state.read("node").unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let scratch = Scratch::new("long");
        let state = StateDir::open(&scratch.dir()).unwrap();
        state.write("records", b"").unwrap();
        let file = File::options().write(true).open(scratch.dir().join("records")).unwrap();
        file.set_len(FILE_MAX as u64 + 1).unwrap();
        assert!(matches!(state.read("records").unwrap_err(), StateError::TooLong(_)));
    }
}
