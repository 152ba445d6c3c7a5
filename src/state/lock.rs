//! A lock that lives as long as its holder, however that ends: flock(2) on a file with the holder's process id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Bytes of a process id and a line's end.
const PID_MAX: u64 = 16;

/// A held lock. Its file goes with it.
#[derive(Debug)]
pub struct FileLock {
    path: PathBuf,
    file: File,
}

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("process {} holds {}", .pid.map_or_else(|| "?".into(), |pid| pid.to_string()), .path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// Who, if the file says so.
        pid: Option<u32>,
    },
    /// The file can't be had.
    #[error("can't lock {}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl FileLock {
    /// Takes it, or fails at once.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn acquire(path: impl Into<PathBuf>) -> Result<Self, LockError> {
        let path = path.into();
        match try_acquire(&path) {
            Ok(Some(file)) => Ok(Self { path, file }),
            Ok(None) => {
                let pid = holder(&path);
                Err(LockError::Held { path, pid })
            }
            Err(source) => Err(LockError::Io { path, source }),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // While it is held, so that whoever opened it meanwhile sees that it is no more. Left behind it does no harm.
        let _ = fs::remove_file(&self.path);
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn try_acquire(path: &Path) -> io::Result<Option<File>> {
    loop {
        let no_follow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(no_follow);
        let mut file = options.open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // Between opening and locking the last holder may have removed it: then nobody else would find this one.
        let ours = file.metadata()?;
        match fs::symlink_metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        file.set_len(0)?;
        writeln!(file, "{}", std::process::id())?;
        return Ok(Some(file));
    }
}

fn holder(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path).ok()?.take(PID_MAX).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}
