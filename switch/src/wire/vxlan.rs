//! VXLAN, RFC 7348 §5.
//!
//! ```text
//!  0       1         4     7          8
//! | flags | reserved | VNI | reserved | inner frame …
//! ```

use std::fmt;
use std::net::IpAddr;

use super::{Cause, Layer, WireError};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The port that IANA gave to VXLAN.
pub const PORT: u16 = 4789;

mod field {
    use std::ops::Range;

    pub(super) const FLAGS: usize = 0;
    pub(super) const RESERVED: Range<usize> = 1..4;
    pub(super) const VNI: Range<usize> = 4..7;
    pub(super) const RESERVED_LAST: usize = 7;
}

/// The I flag: the VNI is valid.
pub(crate) const FLAG_VNI: u8 = 0x08;

/// Bytes that a frame's IP packet grows by on its way: outer IP and UDP, VXLAN, and the inner Ethernet header.
#[must_use]
pub fn overhead(underlay: IpAddr) -> u32 {
    match underlay {
        IpAddr::V4(_) => 20 + 8 + 8 + 14,
        IpAddr::V6(_) => 40 + 8 + 8 + 14,
    }
}

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
/// RFC 7348 has receivers ignore the other bits, but extensions (GPE, group policy, remote checksum offload)
/// give them meanings that change what follows. Linux's vxlan device without extensions therefore drops such
/// packets; so do we.
///
/// # Errors
/// As Linux's vxlan device does: the I flag must be set, every other flag ([`Cause::Flags`]) and reserved bit
/// ([`Cause::Reserved`]) clear. [`Cause::Truncated`] below [`HEADER_LEN`] bytes.
pub fn parse(datagram: &[u8]) -> Result<Vni, WireError> {
    let refuse = |cause| WireError { layer: Layer::Vxlan, cause };
    let header = datagram.first_chunk::<HEADER_LEN>().ok_or_else(|| refuse(Cause::Truncated))?;
    if header[field::FLAGS] != FLAG_VNI {
        return Err(refuse(Cause::Flags));
    }
    if header[field::RESERVED] != [0; 3] || header[field::RESERVED_LAST] != 0 {
        return Err(refuse(Cause::Reserved));
    }
    let mut id = [0; 4];
    id[1..].copy_from_slice(&header[field::VNI]);
    Ok(Vni(u32::from_be_bytes(id)))
}

/// The header for a network.
#[must_use]
pub fn emit(vni: Vni) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[field::FLAGS] = FLAG_VNI;
    header[field::VNI].copy_from_slice(&vni.0.to_be_bytes()[1..]);
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cause(datagram: &[u8]) -> Cause {
        let error = parse(datagram).unwrap_err();
        assert_eq!(error.layer, Layer::Vxlan);
        error.cause
    }

    #[test]
    fn the_header_is_that_of_the_rfc() {
        assert_eq!(emit(Vni::new(0x12_3456).unwrap()), [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn identifiers_have_24_bits() {
        assert_eq!(Vni::new(Vni::MAX).map(Vni::id), Some(0xff_ffff));
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }

    #[test]
    fn every_truncation_is_refused() {
        let header = emit(Vni::new(7).unwrap());
        for len in 0..HEADER_LEN {
            assert_eq!(cause(&header[..len]), Cause::Truncated, "{len} bytes");
        }
    }

    #[test]
    fn every_other_bit_is_refused() {
        let good = emit(Vni::new(42).unwrap());
        for bit in 0..64 {
            let mut header = good;
            header[bit / 8] ^= 0x80 >> (bit % 8);
            match bit / 8 {
                0 => assert_eq!(cause(&header), Cause::Flags, "bit {bit}"),
                1..=3 | 7 => assert_eq!(cause(&header), Cause::Reserved, "bit {bit}"),
                _ => assert_ne!(parse(&header).unwrap().id(), 42, "bit {bit}"),
            }
        }
    }

    proptest! {
        #[test]
        fn round_trip(id in 0..=Vni::MAX, inner in proptest::collection::vec(any::<u8>(), 0..64)) {
            let vni = Vni::new(id).unwrap();
            let mut datagram = emit(vni).to_vec();
            datagram.extend(inner);
            prop_assert_eq!(parse(&datagram), Ok(vni));
        }

        #[test]
        fn what_is_accepted_is_emitted_again(header in any::<[u8; HEADER_LEN]>(), clean in any::<bool>()) {
            let mut header = header;
            if clean {
                header = [FLAG_VNI, 0, 0, 0, header[4], header[5], header[6], 0];
            }
            match parse(&header) {
                Ok(vni) => prop_assert_eq!(emit(vni), header),
                Err(_) => prop_assert!(!clean),
            }
        }
    }
}
