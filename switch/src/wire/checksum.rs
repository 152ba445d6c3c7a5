//! The Internet checksum, RFC 1071.

/// A running one's complement sum, not folded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of what is summed.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let _ = bytes;
        unimplemented!()
    }

    /// The sum in 16 bits, as it stands in a field that is still to be finished (not inverted, network order).
    #[must_use]
    pub fn fold(self) -> [u8; 2] {
        unimplemented!()
    }

    /// The checksum: the inverted sum, network order.
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        unimplemented!()
    }
}
