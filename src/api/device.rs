//! What an endpoint's frames go in and out by.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An endpoint's device. As JSON, fields of what it is part of: `tap` with `netns`, or `qemu_stream`, or
/// `qemu_dgram` with `qemu_remote`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EndpointDevice {
    /// A TAP, which is made if it is not there.
    Tap {
        /// Its name.
        tap: String,
        /// The namespace that it is in: a name, an absolute path or a process id. None: the daemon's own.
        #[serde(default)]
        netns: Option<String>,
    },
    /// A virtual machine that connects to a socket: QEMU's `-netdev stream`.
    QemuStream {
        /// The socket's file, by an absolute path.
        qemu_stream: String,
    },
    /// A virtual machine that exchanges datagrams with a socket: QEMU's `-netdev dgram`.
    QemuDgram {
        /// The file of our socket, by an absolute path.
        qemu_dgram: String,
        /// That of the machine's; where its last frame came from if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        qemu_remote: Option<String>,
    },
}

impl EndpointDevice {
    /// A TAP.
    pub fn tap(name: impl Into<String>, netns: Option<String>) -> Self {
        Self::Tap { tap: name.into(), netns }
    }

    /// The namespace that it is in, if that is another than the daemon's.
    #[must_use]
    pub fn netns(&self) -> Option<&str> {
        match self {
            Self::Tap { netns, .. } => netns.as_deref(),
            Self::QemuStream { .. } | Self::QemuDgram { .. } => None,
        }
    }

    /// A TAP's name in its namespace, a machine's socket.
    #[must_use]
    pub fn interface(&self) -> &str {
        match self {
            Self::Tap { tap, .. } => tap,
            Self::QemuStream { qemu_stream: path } | Self::QemuDgram { qemu_dgram: path, .. } => path,
        }
    }

    /// The paths of sockets that it is reached at.
    pub fn sockets(&self) -> impl Iterator<Item = &str> {
        let (own, other) = match self {
            Self::Tap { .. } => (None, None),
            Self::QemuStream { qemu_stream } => (Some(qemu_stream), None),
            Self::QemuDgram { qemu_dgram, qemu_remote } => (Some(qemu_dgram), qemu_remote.as_ref()),
        };
        own.into_iter().chain(other).map(String::as_str)
    }
}

impl fmt::Display for EndpointDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap { tap, .. } => write!(f, "TAP {tap}"),
            Self::QemuStream { qemu_stream: path } => write!(f, "stream socket {path}"),
            Self::QemuDgram { qemu_dgram: path, .. } => write!(f, "datagram socket {path}"),
        }
    }
}
