//! The file that a socket is reached at: for its owner alone from the first moment, taken over from the dead only.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Why there is no socket for a guest. What was made is gone again.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// Not a path for a socket.
    #[error("{}: no path for a socket: want 1 to 107 bytes", .0.display())]
    Path(PathBuf),
    /// The directory is not there, or may not be opened.
    #[error("{}: its directory can't be opened: {source}", .path.display())]
    Directory {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody listens there.
    #[error("{}: another program listens there: stop that, or choose another path", .0.display())]
    Used(PathBuf),
    /// Somebody is making a socket in that directory.
    #[error("{}: another program makes a socket in this directory just now: try again", .0.display())]
    Locked(PathBuf),
    /// Something else is in its place.
    #[error("{}: is there and no socket: remove it, or choose another path", .0.display())]
    Occupied(PathBuf),
    /// Anything else.
    #[error("{}: {action}: {source}", .path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// Makes an error of a system call.
pub(super) fn failed<E: Into<io::Error>>(path: &Path, action: &'static str) -> impl FnOnce(E) -> QemuError {
    move |source| QemuError::Io { path: path.into(), action, source: source.into() }
}

/// A path as the kernel takes it.
pub(super) fn address(path: &Path) -> Result<SocketAddrUnix, QemuError> {
    // Without a byte it would be a name that the kernel chooses.
    let named = Some(path).filter(|path| !path.as_os_str().is_empty());
    let address = named.and_then(|path| SocketAddrUnix::new(path).ok());
    address.ok_or_else(|| QemuError::Path(path.into()))
}

/// A socket of ours; not blocking.
pub(super) fn new_socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// A bound socket's file; it goes with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that only our own is removed.
    file: (u64, u64),
}

impl SocketFile {
    /// Binds a new socket there; a stream's listens.
    pub(super) fn bind(path: &Path, kind: SocketType) -> Result<(Self, OwnedFd), QemuError> {
        let at = address(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let opened = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| QemuError::Directory { path: path.into(), source: errno.into() })?;
        // Of two that find one dead socket, the later must not remove what the earlier has put in its place. The
        // lock goes with the descriptor.
        match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(QemuError::Locked(path.into())),
            outcome => outcome.map_err(failed(path, "locking its directory"))?,
        }
        clear(path, &at, kind)?;
        let socket = new_socket(kind).map_err(failed(path, "making a socket"))?;
        // Linux gives the file the socket's own mode (net/unix/af_unix.c), so it is never open to others.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed(path, "making it private"))?;
        bind(&socket, &at).map_err(|errno| match errno {
            Errno::ADDRINUSE => QemuError::Used(path.into()),
            errno => failed(path, "making the socket")(errno),
        })?;
        let metadata = fs::symlink_metadata(path).map_err(failed(path, "looking at it"))?;
        let file = Self { path: path.into(), file: (metadata.dev(), metadata.ino()) };
        if kind == SocketType::STREAM {
            // One waits while another is let in.
            listen(&socket, 1).map_err(failed(path, "listening"))?;
        }
        Ok((file, socket))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file) {
            // Left behind, it is cleared by the next one there.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes what a dead program has left.
fn clear(path: &Path, at: &SocketAddrUnix, kind: SocketType) -> Result<(), QemuError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, "looking at it")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(QemuError::Occupied(path.into())),
        Ok(_) => {}
    }
    let probe = new_socket(kind).map_err(failed(path, "making a socket"))?;
    match connect(probe.as_fd(), at) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed(path, "removing a dead one")),
        // Listening, also if it has too many waiting or is of another kind.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(QemuError::Used(path.into())),
        Err(errno) => Err(failed(path, "trying whether anybody listens")(errno)),
    }
}
