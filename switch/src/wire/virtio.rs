//! The virtio-net header (virtio 1.2 §5.1.6) that a TAP with `IFF_VNET_HDR` puts before each frame, host byte order.
//!
//! ```text
//!  0       1          2        4          6            8             10
//! | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset |
//! ```

use super::WireError;

/// Bytes of the header that we ask TAP devices for (no `num_buffers`).
pub const HEADER_LEN: usize = 10;

/// What is left to do to a frame, or known of it: the header's meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// State of the transport checksum.
    pub checksum: Checksum,
    /// Set on a super-frame, to be cut before it meets a wire.
    pub gso: Option<Gso>,
}

/// State of a frame's transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// It stands in the frame, right or wrong.
    #[default]
    Complete,
    /// It stands in the frame and somebody has verified it (`VIRTIO_NET_HDR_F_DATA_VALID`).
    Verified,
    /// The field holds the pseudo-header's sum only (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
    Partial {
        /// Where summing starts, from the frame's first byte.
        start: u16,
        /// Where the result goes, from `start`.
        offset: u16,
    },
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What is cut.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last, never 0.
    pub size: u16,
    /// Bytes of all headers, a hint that is not to be trusted; 0 if unknown.
    pub header_len: u16,
    /// The first segment carries CWR, the others must not (RFC 3168 §6.1.2).
    pub ecn: bool,
}

/// The transport of a super-frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either (USO).
    Udp,
}

impl Offload {
    /// Reads a header and checks that its offsets lie within a frame of `frame_len` bytes.
    ///
    /// # Errors
    /// Truncated header, unknown GSO type, a GSO size of 0, offsets outside of the frame.
    pub fn parse(header: &[u8], frame_len: usize) -> Result<Self, WireError> {
        unimplemented!("{header:?} {frame_len}")
    }

    /// The header for a frame in this state.
    #[must_use]
    pub fn emit(self) -> [u8; HEADER_LEN] {
        unimplemented!()
    }
}
