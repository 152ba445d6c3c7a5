//! What of this machine forbids a sandbox or a TAP, and the one-line remedy.
//!
//! The kernel says only EPERM; which rule said so is found by reading its switches ([`Facts`]) afterwards. The
//! decision is pure: [`explain`] takes the step, the error and the facts.
//!
//! Sources: user_namespaces(7), namespaces(7), Ubuntu 24.04 release notes (AppArmor restriction of unprivileged
//! user namespaces), Linux `Documentation/networking/tuntap.rst`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use rustix::io::Errno;

/// The device through which TAPs are made.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// What forbids a sandbox or a TAP. Every message names the rule and then the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// There is no [`TUN_DEVICE`].
    #[error(
        "/dev/net/tun is missing: `sudo modprobe tun` (in a container: start it with `--device /dev/net/tun`)"
    )]
    TunMissing,
    /// [`TUN_DEVICE`] is there, but no driver behind it.
    #[error("/dev/net/tun has no driver behind it: `sudo modprobe tun`")]
    TunNoDriver,
    /// The mode of [`TUN_DEVICE`] keeps this user out.
    #[error("/dev/net/tun (mode {mode:04o}) is not open to this user: `sudo chmod 0666 /dev/net/tun`")]
    TunMode {
        /// Permission bits.
        mode: u32,
    },
    /// A control group's device rules keep this process from [`TUN_DEVICE`].
    #[error("/dev/net/tun is denied by a device rule: start the container with `--device /dev/net/tun`")]
    TunDeviceRule,
    /// Any other failure of opening [`TUN_DEVICE`].
    #[error("/dev/net/tun can't be opened: {0}")]
    Tun(io::Error),
    /// A limit of namespaces is zero or used up.
    #[error("{knob} is {limit}, so no more namespaces can be made: `sudo sysctl -w {knob}=16384`")]
    NamespaceLimit {
        /// The sysctl.
        knob: &'static str,
        /// Its value.
        limit: u64,
    },
    /// Namespaces are used up, and no limit that can be read says so.
    #[error(
        "the kernel has no room for more namespaces (nested more than 32 deep, or a limit of an outer one)"
    )]
    NamespacesExhausted,
    /// Debian's switch is off.
    #[error(
        "kernel.unprivileged_userns_clone is 0: `sudo sysctl -w kernel.unprivileged_userns_clone=1`, or run as root"
    )]
    UsernsClone,
    /// AppArmor takes the capabilities of unprivileged user namespaces away.
    #[error(
        "AppArmor restricts unprivileged user namespaces: \
         `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run as root"
    )]
    AppArmor,
    /// Root without capabilities, as in some containers, may not even map itself (user_namespaces(7),
    /// `CAP_SETFCAP`).
    #[error(
        "root lacks the capabilities for namespaces here: run as an ordinary user, or start the container with \
         `--cap-add SYS_ADMIN --cap-add NET_ADMIN`"
    )]
    PowerlessRoot,
    /// A seccomp filter, as containers have, refuses the call.
    #[error(
        "a seccomp filter (a container's?) refuses {step}: start the container with \
         `--security-opt seccomp=unconfined`, or run on the host"
    )]
    Seccomp {
        /// What was being done.
        step: Step,
    },
    /// The kernel was built without a kind of namespace.
    #[error(
        "this kernel lacks user, network or PID namespaces (CONFIG_USER_NS, CONFIG_NET_NS, CONFIG_PID_NS)"
    )]
    Kernel,
    /// Nothing that is known here.
    #[error("{step} failed: {source}; run as root, or ask what restricts namespaces on this machine")]
    Other {
        /// What was being done.
        step: Step,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The steps into a sandbox that something may forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `unshare`.
    Unshare,
    /// Writing `setgroups`, `uid_map`, `gid_map`.
    MapIds,
    /// Making mounts private.
    Mount,
    /// Bringing the loopback up: the first request that needs a capability in the new namespace.
    Loopback,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unshare => "making namespaces",
            Self::MapIds => "mapping this user into a user namespace",
            Self::Mount => "making mounts private",
            Self::Loopback => "bringing the loopback up",
        })
    }
}

/// Limits of namespaces that one user may have, as sysctl and as file.
const LIMITS: [(&str, &str); 5] = [
    ("user.max_user_namespaces", "/proc/sys/user/max_user_namespaces"),
    ("user.max_net_namespaces", "/proc/sys/user/max_net_namespaces"),
    ("user.max_mnt_namespaces", "/proc/sys/user/max_mnt_namespaces"),
    ("user.max_pid_namespaces", "/proc/sys/user/max_pid_namespaces"),
    ("user.max_uts_namespaces", "/proc/sys/user/max_uts_namespaces"),
];

/// The switches of this machine that bear on namespaces; `None` where it has no such switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The lowest of the limits `user.max_*_namespaces`.
    pub lowest_limit: Option<(&'static str, u64)>,
    /// `kernel.unprivileged_userns_clone` (Debian's kernels).
    pub userns_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu's kernels).
    pub apparmor_restricts: Option<u64>,
    /// Whether this process is root's.
    pub is_root: bool,
    /// Whether a seccomp filter is on this process.
    pub seccomp: bool,
}

impl Facts {
    /// Reads them from `/proc`; best effort, what can't be read is as if it were not there.
    #[must_use]
    pub fn read() -> Self {
        let limits = LIMITS.iter().filter_map(|&(knob, path)| Some((knob, number(path)?)));
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        Self {
            lowest_limit: limits.min_by_key(|&(_, limit)| limit),
            userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            is_root: rustix::process::geteuid().is_root(),
            seccomp: seccomp.is_some_and(|mode| mode.trim() == "2"),
        }
    }
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Names what forbade `step` with `errno`.
#[must_use]
pub fn explain(step: Step, errno: Errno, facts: &Facts) -> Obstacle {
    match errno {
        Errno::NOSPC | Errno::USERS => match facts.lowest_limit {
            Some((knob, limit)) => Obstacle::NamespaceLimit { knob, limit },
            None => Obstacle::NamespacesExhausted,
        },
        Errno::NOSYS if facts.seccomp => Obstacle::Seccomp { step },
        Errno::INVAL | Errno::NOSYS if step == Step::Unshare => Obstacle::Kernel,
        Errno::PERM | Errno::ACCESS => {
            if step == Step::Unshare && facts.userns_clone == Some(0) {
                Obstacle::UsernsClone
            } else if facts.apparmor_restricts.is_some_and(|value| value != 0) {
                Obstacle::AppArmor
            } else if step == Step::MapIds && facts.is_root {
                Obstacle::PowerlessRoot
            } else if facts.seccomp {
                Obstacle::Seccomp { step }
            } else {
                Obstacle::Other { step, source: errno.into() }
            }
        }
        _ => Obstacle::Other { step, source: errno.into() },
    }
}

/// Tells whether this user can make TAPs, by opening [`TUN_DEVICE`]; a user namespace does not change the
/// answer, for capabilities in it don't reach the host's file.
///
/// # Errors
/// What forbids it.
pub fn check_tun() -> Result<(), Obstacle> {
    let Err(error) = fs::OpenOptions::new().read(true).write(true).open(TUN_DEVICE) else {
        return Ok(());
    };
    Err(match Errno::from_io_error(&error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Obstacle::TunMissing,
        Some(Errno::NODEV | Errno::NXIO) => Obstacle::TunNoDriver,
        Some(Errno::ACCESS) => {
            let mode = fs::metadata(TUN_DEVICE).map_or(0, |meta| meta.permissions().mode() & 0o7777);
            Obstacle::TunMode { mode }
        }
        Some(Errno::PERM) => Obstacle::TunDeviceRule,
        _ => Obstacle::Tun(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(step: Step, errno: Errno, facts: &Facts) -> String {
        explain(step, errno, facts).to_string()
    }

    #[test]
    fn a_limit_is_named_with_its_value() {
        let facts = Facts { lowest_limit: Some(("user.max_user_namespaces", 0)), ..Facts::default() };
        let text = said(Step::Unshare, Errno::NOSPC, &facts);
        assert!(text.contains("user.max_user_namespaces is 0"), "{text}");
        assert!(text.contains("sudo sysctl -w user.max_user_namespaces="), "{text}");
    }

    #[test]
    fn debians_switch_is_told_from_apparmors() {
        let debian = Facts { userns_clone: Some(0), ..Facts::default() };
        assert!(matches!(explain(Step::Unshare, Errno::PERM, &debian), Obstacle::UsernsClone));
        let ubuntu = Facts { userns_clone: Some(1), apparmor_restricts: Some(1), ..Facts::default() };
        for step in [Step::Unshare, Step::MapIds, Step::Mount, Step::Loopback] {
            assert!(matches!(explain(step, Errno::PERM, &ubuntu), Obstacle::AppArmor), "{step}");
            assert!(matches!(explain(step, Errno::ACCESS, &ubuntu), Obstacle::AppArmor), "{step}");
        }
    }

    #[test]
    fn a_container_is_blamed_only_where_nothing_else_explains_it() {
        let facts = Facts { seccomp: true, ..Facts::default() };
        assert!(matches!(explain(Step::Unshare, Errno::PERM, &facts), Obstacle::Seccomp { .. }));
        let off = Facts { seccomp: true, userns_clone: Some(0), ..Facts::default() };
        assert!(matches!(explain(Step::Unshare, Errno::PERM, &off), Obstacle::UsernsClone));
        assert!(matches!(explain(Step::Unshare, Errno::PERM, &Facts::default()), Obstacle::Other { .. }));
    }

    #[test]
    fn every_obstacle_is_one_line() {
        let all = [
            Obstacle::TunMissing,
            Obstacle::TunNoDriver,
            Obstacle::TunMode { mode: 0o600 },
            Obstacle::TunDeviceRule,
            Obstacle::NamespaceLimit { knob: "user.max_user_namespaces", limit: 0 },
            Obstacle::NamespacesExhausted,
            Obstacle::UsernsClone,
            Obstacle::AppArmor,
            Obstacle::PowerlessRoot,
            Obstacle::Seccomp { step: Step::Unshare },
            Obstacle::Kernel,
        ];
        for obstacle in all {
            assert_eq!(obstacle.to_string().lines().count(), 1, "{obstacle:?}");
        }
    }
}
