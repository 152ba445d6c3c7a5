//! Why a TAP can't be had, each in one line that says what to do.

use std::io;

use crate::io::netns::NetnsError;

/// Why [`super::Tap::open`] failed. A device that it made is gone again; one that was there is as it was, but for
/// settings made before the one that failed.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name for an interface.
    #[error(
        "{0:?} can't name an interface: want 1 to 15 bytes without '/', ':', '%' and spaces, not '.' or '..'"
    )]
    Name(String),
    /// Out of what a TAP can do.
    #[error("{name}: an MTU of {mtu} is out of range: a TAP takes {} to {}", super::MTU_MIN, super::MTU_MAX)]
    Mtu {
        /// The device.
        name: String,
        /// What was asked for.
        mtu: u32,
    },
    /// Out of what a TAP can have.
    #[error("{name}: {queues} queues are out of range: a TAP has 1 to {max}", max = super::QUEUES_MAX)]
    Queues {
        /// The device.
        name: String,
        /// What was asked for.
        queues: usize,
    },
    /// A group address, or zero.
    #[error("{name}: {mac} can't be an interface's address: it must be neither zero nor a group address")]
    Mac {
        /// The device.
        name: String,
        /// What was asked for.
        mac: crate::wire::MacAddr,
    },
    /// Its namespace can't be opened or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel has no TUN/TAP, or the file system has no node for it.
    #[error("/dev/net/tun is missing: `modprobe tun` as root, or give the container this device")]
    NoDriver,
    /// /dev/net/tun may not be opened.
    #[error(
        "/dev/net/tun: permission denied: as root `chmod 0666 /dev/net/tun` or join its group, or run this as root"
    )]
    DriverNotPermitted,
    /// The device may not be made, or is another user's.
    #[error(
        "{0}: not permitted to make or take over this TAP: run as root, or `setcap cap_net_admin+ep` on the program, \
         or have root do `ip tuntap add dev {0} mode tap user $USER`, or try `vswitchd lab`"
    )]
    NotPermitted(String),
    /// Somebody holds its only queue, or all of its queues: perhaps we, under another spelling of its namespace.
    #[error(
        "{0}: another program is using this TAP, or it is given twice: stop that, or choose another name"
    )]
    Busy(String),
    /// The name belongs to another kind of interface.
    #[error("{0}: this interface exists but is no TAP: choose another name")]
    NotATap(String),
    /// A setting that differs from what was asked for may not be changed.
    #[error("{name}: not permitted to change its {setting}: run as root, or have root do `{command}`")]
    SettingNotPermitted {
        /// The device.
        name: String,
        /// "MTU", …
        setting: &'static str,
        /// What root would type.
        command: String,
    },
    /// Anything else.
    #[error("{name}: {action}: {source}")]
    Io {
        /// The device.
        name: String,
        /// What was being done.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// How opening /dev/net/tun fails.
pub(super) fn opening(name: &str, errno: rustix::io::Errno) -> TapError {
    match errno {
        // ENODEV and ENXIO: the node is there, its module is not.
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => TapError::NoDriver,
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => TapError::DriverNotPermitted,
        other => TapError::Io { name: name.to_owned(), action: "opening /dev/net/tun", source: other.into() },
    }
}

/// How attaching to a device fails.
pub(super) fn attaching(name: &str, existed: bool, error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted(name.to_owned()),
        // E2BIG: a device of many queues, all of them taken.
        Some(libc::EBUSY | libc::E2BIG) => TapError::Busy(name.to_owned()),
        Some(libc::EINVAL) if existed => TapError::NotATap(name.to_owned()),
        _ => TapError::Io { name: name.to_owned(), action: "TUNSETIFF", source: error },
    }
}

/// How moving a new device to its namespace fails.
pub(super) fn moving(name: &str, error: io::Error) -> TapError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted(name.to_owned()),
        Some(libc::EEXIST) => TapError::NotATap(name.to_owned()),
        _ => TapError::Io { name: name.to_owned(), action: "moving it to its namespace", source: error },
    }
}

/// How a setting fails.
pub(super) fn setting(
    name: &str,
    setting: &'static str,
    to: impl std::fmt::Display,
    error: io::Error,
) -> TapError {
    let name = name.to_owned();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            TapError::SettingNotPermitted { command: format!("ip link set {name} {to}"), name, setting }
        }
        _ => TapError::Io { name, action: setting, source: error },
    }
}
