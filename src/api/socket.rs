//! The socket's file: made private from its first moment, taken over from the dead only.
//!
//! A file that a killed daemon left can't be told from a live one's by looking, so whoever listens holds a lock
//! beside it (`PATH.lock`): with the lock, a file that nobody answers at is a dead one's.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use crate::config::Group;
use crate::state::{FileLock, LockError};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon listens there.
    #[error(
        "another daemon listens at {}{}: give this one another --socket",
        .path.display(), .pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
    )]
    Used {
        /// The socket.
        path: PathBuf,
        /// The other one.
        pid: Option<u32>,
    },
    /// Something else is in its place.
    #[error("{} is there and no socket: remove it, or choose another --socket", .0.display())]
    Occupied(PathBuf),
    /// The group may not be given to it.
    #[error("can't give {} to group {group}: {source}; be in that group, or run as root", .path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file system refuses.
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

/// A listening socket. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of the file, so that only our own is removed.
    file: (u64, u64),
    _lock: FileLock,
}

impl Socket {
    /// Listens at `path` for this user and root, and for `group` if there is one; not blocking.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, group: Option<&Group>) -> Result<Self, SocketError> {
        let failed = |what| move |source: io::Error| SocketError::Io { what, path: path.into(), source };
        make_parent(path, group.is_some())?;
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = FileLock::acquire(lock_path).map_err(|error| match error {
            LockError::Held { pid, .. } => SocketError::Used { path: path.into(), pid },
            LockError::Io { path, source } => SocketError::Io { what: "lock", path, source },
        })?;
        clear(path)?;
        let listener = listen_at(path).map_err(failed("listen at"))?;
        let metadata = fs::symlink_metadata(path).map_err(failed("look at"))?;
        let socket =
            Self { path: path.into(), listener, file: (metadata.dev(), metadata.ino()), _lock: lock };
        if let Some(group) = group {
            chown(path, None, Some(group.gid)).map_err(|source| SocketError::Group {
                path: path.into(),
                group: group.name.clone(),
                source,
            })?;
            fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(failed("open to its group"))?;
        }
        Ok(socket)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle to accept from.
    ///
    /// # Errors
    /// If descriptors are used up.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            // Left behind, it is cleared by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The directory, for the group to pass through if there is one.
fn make_parent(path: &Path, shared: bool) -> Result<(), SocketError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let mode = if shared { 0o755 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(parent).map_err(|source| SocketError::Io {
        what: "make",
        path: parent.into(),
        source,
    })
}

/// Removes what a dead daemon has left. The caller holds the lock.
fn clear(path: &Path) -> Result<(), SocketError> {
    let failed = |what| move |source: io::Error| SocketError::Io { what, path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(SocketError::Occupied(path.into())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // Somebody who takes no part in our locking.
        Ok(_) => Err(SocketError::Used { path: path.into(), pid: None }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove"))
        }
        Err(error) => Err(failed("try")(error)),
    }
}

/// Listens at a path where nothing is yet, for this user alone, without blocking.
pub(crate) fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // Linux gives the file the socket's own mode (net/unix/af_unix.c), so it is never open to others, not even for
    // the moment between making it and changing it; and the umask, which is the whole process's, stays.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vswitchd-socket-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("deep/api.sock")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_private_and_goes() {
        let scratch = Scratch::new("private");
        let socket = Socket::bind(&scratch.path(), None).unwrap();
        assert_eq!(mode(socket.path()), 0o600);
        assert_eq!(mode(&scratch.0.join("deep")), 0o700);
        UnixStream::connect(socket.path()).unwrap();
        drop(socket);
        assert_eq!(fs::read_dir(scratch.0.join("deep")).unwrap().count(), 0);
    }

    #[test]
    fn a_group_can_be_let_in() {
        let scratch = Scratch::new("group");
        let gid = rustix::process::getegid().as_raw();
        let socket = Socket::bind(&scratch.path(), Some(&Group { name: "ours".into(), gid })).unwrap();
        assert_eq!(mode(socket.path()), 0o660);
        assert_eq!(fs::metadata(socket.path()).unwrap().gid(), gid);
    }

    #[test]
    fn the_living_are_left_alone() {
        let scratch = Scratch::new("living");
        let first = Socket::bind(&scratch.path(), None).unwrap();
        let error = Socket::bind(&scratch.path(), None).unwrap_err();
        assert!(matches!(error, SocketError::Used { pid: Some(_), .. }), "{error}");
        UnixStream::connect(first.path()).unwrap();
        drop(first);
        let stranger = UnixListener::bind(scratch.path()).unwrap();
        let error = Socket::bind(&scratch.path(), None).unwrap_err();
        assert!(matches!(error, SocketError::Used { pid: None, .. }), "{error}");
        drop(stranger);
    }

    #[test]
    fn the_dead_are_replaced() {
        let scratch = Scratch::new("dead");
        drop(Socket::bind(&scratch.path(), None).unwrap());
        // The standard library leaves its file.
        drop(UnixListener::bind(scratch.path()).unwrap());
        let socket = Socket::bind(&scratch.path(), None).unwrap();
        UnixStream::connect(socket.path()).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let scratch = Scratch::new("other");
        fs::create_dir(scratch.0.join("deep")).unwrap();
        fs::write(scratch.path(), "mine").unwrap();
        let error = Socket::bind(&scratch.path(), None).unwrap_err();
        assert!(matches!(error, SocketError::Occupied(_)), "{error}");
        assert_eq!(fs::read(scratch.path()).unwrap(), b"mine");
    }
}
