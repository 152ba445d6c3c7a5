//! Names for network namespaces, where `ip netns` looks for them (ip-netns(8)): files under `/run/netns`.
//!
//! They are bind mounts in a `/run` of the sandbox's own mount namespace, so nothing is written to the host and
//! all vanish with the sandbox. For people's convenience only: nothing in vswitchd relies on them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use super::netns::NetNs;

/// Where the names are.
pub const NAMES_DIR: &str = "/run/netns";
/// A directory of the sandbox's own, for sockets and the like of programs run in it.
pub const PRIVATE_DIR: &str = "/run/vswitchd-lab";

/// The sandbox's directory of names.
#[derive(Debug)]
pub struct Names(());

impl Names {
    /// Covers `/run` by a private one in which everything that was there is still found, with an empty
    /// [`NAMES_DIR`].
    ///
    /// Call it in a sandbox only: it changes the mounts of this process's mount namespace.
    ///
    /// # Errors
    /// As the kernel refuses a mount; `/run` may then be covered in part.
    pub fn prepare() -> io::Result<Self> {
        let run = Path::new("/run");
        let before = openat(CWD, run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let through = PathBuf::from(format!("/proc/self/fd/{}", before.as_raw_fd()));
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("tmpfs", run, "tmpfs", flags, c"mode=755,size=16m")?;
        for entry in fs::read_dir(&through)? {
            let entry = entry?;
            keep(&through.join(entry.file_name()), &run.join(entry.file_name()), entry.file_type()?)?;
        }
        // The host's names, if any, are of namespaces that can't be entered from here.
        fs::create_dir_all(NAMES_DIR)?;
        mount("tmpfs", NAMES_DIR, "tmpfs", flags, c"mode=755,size=1m")?;
        fs::create_dir_all(PRIVATE_DIR)?;
        Ok(Self(()))
    }

    /// Gives `netns` a name.
    ///
    /// # Errors
    /// If the name is taken or no file name, or the mount is refused.
    pub fn publish(&self, name: &str, netns: &NetNs) -> io::Result<()> {
        let path = Path::new(NAMES_DIR).join(name);
        File::create_new(&path)?;
        mount_bind(format!("/proc/self/fd/{}", netns.as_fd().as_raw_fd()), &path)?;
        Ok(())
    }
}

/// Makes `old` appear at `new`; what this user can't reach stays out.
fn keep(old: &Path, new: &Path, kind: fs::FileType) -> io::Result<()> {
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(fs::read_link(old)?, new);
    }
    if kind.is_dir() {
        fs::create_dir(new)?;
    } else {
        File::create_new(new)?;
    }
    match mount_bind_recursive(old, new) {
        Ok(()) => Ok(()),
        // Or what has gone meanwhile.
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM | rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
