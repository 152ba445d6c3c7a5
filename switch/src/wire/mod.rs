//! Wire formats: bytes to typed values and back.
//!
//! Every format has `parse`, which checks everything that later accessors rely on, and `emit`, which writes the
//! same bytes. Nothing here panics on bytes from a network. Offsets stand in each file's `field` module only.

pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod fragment;
pub mod probe;
pub mod stream;
pub mod virtio;
pub mod vxlan;

pub use ethernet::{EtherType, MacAddr};
pub use vxlan::Vni;

/// Why bytes are not the format that they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{layer}: {cause}")]
pub struct WireError {
    /// The format that refused.
    pub layer: Layer,
    /// What it refused.
    pub cause: Cause,
}

/// The format in which a [`WireError`] arose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// IEEE 802.3 header and 802.1Q/802.1ad tags.
    Ethernet,
    /// RFC 7348 header.
    Vxlan,
    /// virtio-net header of a TAP device.
    Virtio,
    /// Probe of the path to a peer.
    Probe,
}

/// What was wrong, in any layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Fewer bytes than the header needs.
    Truncated,
    /// A flag that must be set is clear, or one that must be clear is set.
    Flags,
    /// A field that must be zero is not.
    Reserved,
    /// An offset or length points outside of the packet.
    Bounds,
    /// A value that names no known kind.
    Unknown,
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ethernet => "Ethernet",
            Self::Vxlan => "VXLAN",
            Self::Virtio => "virtio-net header",
            Self::Probe => "probe",
        })
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "truncated",
            Self::Flags => "wrong flags",
            Self::Reserved => "reserved bits set",
            Self::Bounds => "offset outside of the packet",
            Self::Unknown => "unknown kind",
        })
    }
}
