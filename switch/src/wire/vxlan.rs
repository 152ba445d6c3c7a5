//! VXLAN, RFC 7348 §5.
//!
//! ```text
//!  0       1         4     7          8
//! | flags | reserved | VNI | reserved | inner frame …
//! ```

use std::fmt;

use super::WireError;

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The port that IANA gave to VXLAN.
pub const PORT: u16 = 4789;

/// A VXLAN network identifier, 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier.
    pub const MAX: u32 = (1 << 24) - 1;

    /// `None` if `id` needs more than 24 bits.
    #[must_use]
    pub fn new(id: u32) -> Option<Self> {
        (id <= Self::MAX).then_some(Self(id))
    }

    /// The identifier as a number.
    #[must_use]
    pub fn id(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Reads a datagram's header; the inner frame starts at [`HEADER_LEN`].
///
/// # Errors
/// As Linux's vxlan device does: the I flag must be set, every other flag and reserved bit clear.
pub fn parse(datagram: &[u8]) -> Result<Vni, WireError> {
    unimplemented!("{datagram:?}")
}

/// The header for a network.
#[must_use]
pub fn emit(vni: Vni) -> [u8; HEADER_LEN] {
    unimplemented!("{vni}")
}
