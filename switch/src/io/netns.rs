//! Network namespaces: naming one, opening it, and doing something in it.
//!
//! A namespace belongs to a thread. [`within`] therefore works on a thread of its own, so that the caller never
//! changes its namespace and can't fail to come back. Sources: namespaces(7), setns(2), ip-netns(8).

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns add` leaves its names, newest convention first.
const NAME_FOLDERS: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// How a network namespace is named.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetnsRef {
    /// A name given by `ip netns add`: a file in /run/netns, or else in /var/run/netns.
    Name(String),
    /// A namespace file, such as /proc/1234/ns/net or a bind mount of one.
    Path(PathBuf),
    /// That of a running process.
    Pid(u32),
}

/// A text that names no namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetnsRefError {
    /// Nothing was given.
    #[error("no network namespace given: want a name, a path, or the id of a process")]
    Empty,
    /// Digits, but no process has so large an id.
    #[error("{0} is no process id")]
    Pid(String),
}

impl FromStr for NetnsRef {
    type Err = NetnsRefError;

    /// Digits are a process id, a text with a slash is a path, anything else a name.
    fn from_str(text: &str) -> Result<Self, NetnsRefError> {
        if text.is_empty() {
            Err(NetnsRefError::Empty)
        } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
            text.parse().map(Self::Pid).map_err(|_| NetnsRefError::Pid(text.to_owned()))
        } else if text.contains('/') {
            Ok(Self::Path(text.into()))
        } else {
            Ok(Self::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Path(path) => path.display().fmt(f),
            Self::Pid(pid) => pid.fmt(f),
        }
    }
}

/// Why a namespace could not be opened or entered. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such name, file or process.
    #[error("network namespace {0}: there is none{hint}", hint = hint(.0))]
    Missing(NetnsRef),
    /// The file is something else, perhaps a namespace of another kind.
    #[error("{0} is not a network namespace")]
    NotANamespace(NetnsRef),
    /// The file may not be opened.
    #[error("network namespace {0}: not permitted to open it: be root, or the user whose namespace it is")]
    OpenNotPermitted(NetnsRef),
    /// Opening failed in another way.
    #[error("network namespace {netns}: {source}")]
    Open {
        /// What was to be opened.
        netns: NetnsRef,
        /// What the system says.
        source: io::Error,
    },
    /// The namespace is open but may not be entered: that takes `CAP_SYS_ADMIN` in the user namespace that owns it.
    #[error(
        "not permitted to enter the network namespace: be root, or be in the user namespace that owns it"
    )]
    EnterNotPermitted,
    /// Entering, or starting the thread for it, failed in another way.
    #[error("entering the network namespace: {0}")]
    Enter(#[source] io::Error),
}

impl NetnsError {
    /// Whether more rights would help.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::OpenNotPermitted(_) | Self::EnterNotPermitted)
    }
}

fn hint(netns: &NetnsRef) -> String {
    match netns {
        NetnsRef::Name(name) => format!(" in /run/netns (`ip netns add {name}` makes it)"),
        NetnsRef::Path(_) => String::new(),
        NetnsRef::Pid(_) => ", as no such process runs".to_owned(),
    }
}

impl NetnsRef {
    /// Opens the namespace; it lives at least as long as the file.
    ///
    /// # Errors
    /// See [`NetnsError`]; never one of the variants of entering.
    pub fn open(&self) -> Result<OwnedFd, NetnsError> {
        let fd = self.open_file().map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::SRCH => NetnsError::Missing(self.clone()),
            Errno::ACCESS | Errno::PERM => NetnsError::OpenNotPermitted(self.clone()),
            other => NetnsError::Open { netns: self.clone(), source: other.into() },
        })?;
        // SAFETY: the request takes no argument (ioctl_ns(2)); a file that is no namespace answers ENOTTY.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind == libc::CLONE_NEWNET { Ok(fd) } else { Err(NetnsError::NotANamespace(self.clone())) }
    }

    fn open_file(&self) -> rustix::io::Result<OwnedFd> {
        match self {
            Self::Name(name) => {
                let [first, second] = NAME_FOLDERS.map(|folder| Path::new(folder).join(name));
                open_path(&first).or_else(
                    |errno| {
                        if errno == Errno::NOENT { open_path(&second) } else { Err(errno) }
                    },
                )
            }
            Self::Path(path) => open_path(path),
            Self::Pid(pid) => open_path(Path::new(&format!("/proc/{pid}/ns/net"))),
        }
    }
}

/// Non-blocking, so that a FIFO which somebody names by mistake gives an error instead of a wait.
fn open_path(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
}

/// The user namespace that a network namespace belongs to (`NS_GET_USERNS`, ioctl_ns(2)).
///
/// # Errors
/// If it is neither this process's own nor made within it.
pub fn owner(netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument; a file that is no namespace answers ENOTTY.
    let answer = unsafe { libc::ioctl(netns.as_raw_fd(), libc::NS_GET_USERNS) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just opened it for us (with close-on-exec), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

/// Runs `work` in a network namespace, on a thread of its own, and waits for it.
///
/// Sockets and devices made by `work` belong to that namespace for ever, wherever they are used.
///
/// # Errors
/// If the namespace can't be entered; `work` has not run then.
///
/// # Panics
/// If `work` does.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let enter_and_work = || match move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)) {
        Ok(()) => Ok(work()),
        Err(Errno::PERM) => Err(NetnsError::EnterNotPermitted),
        Err(errno) => Err(NetnsError::Enter(errno.into())),
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, enter_and_work)
            .map_err(NetnsError::Enter)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_apart() {
        assert_eq!("1234".parse(), Ok(NetnsRef::Pid(1234)));
        assert_eq!("/run/netns/a".parse(), Ok(NetnsRef::Path("/run/netns/a".into())));
        assert_eq!("red".parse(), Ok(NetnsRef::Name("red".to_owned())));
        assert_eq!("4x".parse(), Ok(NetnsRef::Name("4x".to_owned())));
        assert_eq!("".parse::<NetnsRef>(), Err(NetnsRefError::Empty));
        assert_eq!("4294967296".parse::<NetnsRef>(), Err(NetnsRefError::Pid("4294967296".to_owned())));
        for text in ["1234", "/run/netns/a", "red"] {
            assert_eq!(text.parse::<NetnsRef>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn own_namespace_opens_by_pid_and_by_path() {
        assert!(NetnsRef::Pid(std::process::id()).open().is_ok());
        assert!(NetnsRef::Path("/proc/self/ns/net".into()).open().is_ok());
    }

    #[test]
    fn what_is_no_network_namespace_is_refused_by_name() {
        let missing = NetnsRef::Name("vswitchd-no-such-namespace".to_owned()).open().unwrap_err();
        assert!(matches!(missing, NetnsError::Missing(_)), "{missing}");
        for path in ["/proc/self/ns/mnt", "/dev/null", "/proc/self/ns"] {
            let error = NetnsRef::Path(path.into()).open().unwrap_err();
            assert!(matches!(error, NetnsError::NotANamespace(_)), "{path}: {error}");
        }
    }

    #[test]
    fn work_runs_in_the_namespace_or_says_that_it_may_not() {
        let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let fd = NetnsRef::Pid(std::process::id()).open().unwrap();
        match within(std::os::fd::AsFd::as_fd(&fd), || {
            std::fs::read_link("/proc/thread-self/ns/net").unwrap()
        }) {
            Ok(there) => assert_eq!(there, here),
            Err(error) => assert!(error.is_permission(), "{error}"),
        }
    }
}
