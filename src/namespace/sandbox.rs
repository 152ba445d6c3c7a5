//! Puts this process into namespaces of its own: network and mounts, and a user namespace where it has no root.
//!
//! The caller appears as root inside, and is nobody but itself outside. Everything made inside goes when the
//! process does. For a family of processes that is to end together, see [`super::init`].

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{DumpableBehavior, getegid, geteuid, set_dumpable_behavior};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe};

use super::netlink::{Netlink, NetlinkError};
use super::netns::NetNs;
use super::obstacle::{Facts, Obstacle, Step, explain};

/// Why there is no sandbox. The process may be half-way in one and is best ended.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Something of this machine forbids it.
    #[error(transparent)]
    Forbidden(#[from] Obstacle),
    /// A thread other than the caller runs in this process; a user namespace can't be entered then.
    #[error("a sandbox must be entered before any thread is started ({threads} are running)")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// The loopback could not be brought up for a reason other than permission.
    #[error("can't set the sandbox's loopback up: {0}")]
    Loopback(#[source] NetlinkError),
}

/// What kind of sandbox was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// Root's: no user namespace was needed.
    Root,
    /// An ordinary user's: a user namespace, in which this user appears as root.
    User,
}

/// Whether this process may make namespaces without a user namespace.
#[must_use]
pub fn is_privileged() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::SYS_CHROOT;
    // Root of an unprivileged container has the user id but not the capabilities, so the id says nothing.
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Moves this process into new network and mount namespaces (and a user namespace if it needs one), its
/// loopback up, its mounts invisible outside. For test programs; call it first in `main`.
///
/// # Errors
/// What forbids it, with the remedy.
pub fn enter() -> Result<Privilege, SandboxError> {
    enter_with(UnshareFlags::empty())
}

/// The same with namespaces of other kinds, too.
fn enter_with(others: UnshareFlags) -> Result<Privilege, SandboxError> {
    let threads = thread_count();
    if threads > 1 {
        return Err(SandboxError::Threads { threads });
    }
    let privilege = if is_privileged() { Privilege::Root } else { Privilege::User };
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS | others;
    if privilege == Privilege::User {
        flags |= UnshareFlags::NEWUSER;
    }
    // Read before: inside, ids and limits are others.
    let facts = Facts::read();
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let forbidden = |step, errno| SandboxError::from(explain(step, errno, &facts));
    unshare(flags).map_err(|errno| forbidden(Step::Unshare, errno))?;
    if privilege == Privilege::User {
        map_to_root(uid, gid).map_err(|error| forbidden(Step::MapIds, errno_of(&error)))?;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| forbidden(Step::Mount, errno))?;
    loopback_up().map_err(|error| match error.errno() {
        Some(errno @ (Errno::PERM | Errno::ACCESS)) => forbidden(Step::Loopback, errno),
        _ => SandboxError::Loopback(error),
    })?;
    Ok(privilege)
}

/// Moves this process's children, the first of which must come next, into a new PID namespace. This process can
/// start no thread from then on (unshare(2), `CLONE_NEWPID`).
pub(super) fn enter_with_children() -> Result<Privilege, SandboxError> {
    enter_with_children_and(UnshareFlags::empty())
}

/// The same with namespaces of other kinds, too.
pub(super) fn enter_with_children_and(others: UnshareFlags) -> Result<Privilege, SandboxError> {
    let privilege = enter_with(others)?;
    let facts = Facts::read();
    unshare(UnshareFlags::NEWPID).map_err(|errno| explain(Step::Unshare, errno, &facts))?;
    Ok(privilege)
}

/// Threads of this process; 1 where `/proc` does not say.
pub(super) fn thread_count() -> usize {
    fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Moves the calling thread into new namespaces (unshare(2)). Refuses to unshare descriptors.
#[expect(unsafe_code, reason = "unshare is unsafe for the sake of a flag that is not used here")]
pub(super) fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    assert!(!flags.contains(UnshareFlags::FILES), "descriptor tables stay shared");
    // SAFETY: only CLONE_FILES makes unshare unsafe, and it is not among the flags.
    unsafe { unshare_unsafe(flags) }
}

/// Maps one user and group to root's ids (user_namespaces(7), "User and group ID mappings"); setgroups must be
/// given up first.
fn map_to_root(uid: u32, gid: u32) -> io::Result<()> {
    // A program with file capabilities is not dumpable, and its /proc files belong to root: no writing to them.
    set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

fn loopback_up() -> Result<(), NetlinkError> {
    Netlink::open(&NetNs::current()?)?.set_up("lo")
}
