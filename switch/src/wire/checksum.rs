//! The Internet checksum, RFC 1071, and the pseudo-headers of TCP, UDP and ICMPv6.
//!
//! Words are added as the machine reads them: the one's complement sum does not depend on byte order (RFC 1071
//! §2 B), so only [`Sum::fold`] says what the bytes are. The sum keeps its carries in 64 bits and folds once,
//! at the end.

/// Bytes summed in one turn of the wide loop: eight 32-bit words, one for each lane.
const STRIDE: usize = 32;

/// A running one's complement sum, not folded.
///
/// Room for 16 GiB of bytes: far more than any packet, so that no addition has to look for a carry.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes that start at an even offset of what is summed. An odd last byte is padded with zero.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Independent lanes of zero-extended words are what compilers turn into vector additions.
        let mut lanes = [0u64; STRIDE / 4];
        let (strides, rest) = bytes.as_chunks::<STRIDE>();
        for stride in strides {
            let (words, _) = stride.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks::<4>();
        let tail = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum::<u64>();
        Self(self.0 + lanes.iter().sum::<u64>() + tail + tail_word(rest))
    }

    /// Adds a 16-bit field.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(value.to_be_bytes())))
    }

    /// Adds a 32-bit field.
    #[must_use]
    pub fn double(self, value: u32) -> Self {
        Self(self.0 + u64::from(u32::from_ne_bytes(value.to_be_bytes())))
    }

    /// Adds what another sum holds, of bytes that started at an even offset.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0 + u64::from(other.folded()))
    }

    /// Adds the pseudo-header of IPv4 (RFC 9293 §3.1, RFC 768) for `len` bytes of transport header and payload.
    #[must_use]
    pub fn pseudo_v4(self, source: [u8; 4], destination: [u8; 4], protocol: u8, len: u16) -> Self {
        self.bytes(&source).bytes(&destination).word(u16::from(protocol)).word(len)
    }

    /// Adds the pseudo-header of IPv6 (RFC 8200 §8.1) for `len` bytes of upper-layer packet.
    #[must_use]
    pub fn pseudo_v6(self, source: [u8; 16], destination: [u8; 16], protocol: u8, len: u32) -> Self {
        self.bytes(&source).bytes(&destination).double(u32::from(protocol)).double(len)
    }

    /// The sum in 16 bits, as it stands in a field that is still to be finished (not inverted, network order).
    ///
    /// Zero only if all that was added is zero: else a sum of zero comes out as `0xffff`.
    #[must_use]
    pub fn fold(self) -> [u8; 2] {
        self.folded().to_ne_bytes()
    }

    /// The checksum: the inverted sum, network order.
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        (!self.folded()).to_ne_bytes()
    }

    /// Whether what was added, its checksum field included, is as its sender summed it.
    #[must_use]
    pub fn verifies(self) -> bool {
        self.folded() == u16::MAX
    }

    fn folded(self) -> u16 {
        let halves = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let quarters = (halves & 0xffff) + ((halves >> 16) & 0xffff) + (halves >> 32);
        let carried = (quarters & 0xffff) + (quarters >> 16);
        let [low, high, ..] = ((carried & 0xffff) + (carried >> 16)).to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

/// Up to three last bytes, padded with zero.
fn tail_word(rest: &[u8]) -> u64 {
    let mut word = [0; 4];
    word[..rest.len()].copy_from_slice(rest);
    u64::from(u32::from_ne_bytes(word))
}

#[cfg(test)]
mod tests {
    use etherparse::checksum::u32_16bit_word;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §1 as it is written: 16-bit words in network order, carries added back at once.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.fold(), [0xdd, 0xf2]);
        assert_eq!(sum.finish(), [0x22, 0x0d]);
    }

    #[test]
    fn every_length_of_all_ones_carries_right() {
        let ones = [0xff; 300];
        for len in 0..ones.len() {
            assert_eq!(
                Sum::default().bytes(&ones[..len]).fold(),
                naive(&ones[..len]).to_be_bytes(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn folding_carries_to_the_last() {
        for value in [0xffff, 0x1_0000, 0x1_ffff, 0xffff_ffff, 0x1_0000_0000, 0xffff_fffe_ffff, u64::MAX] {
            let want = if value % 0xffff == 0 { 0xffff } else { value % 0xffff };
            assert_eq!(u64::from(Sum(value).folded()), want, "{value:#x}");
        }
        assert_eq!(Sum(0).folded(), 0);
    }

    #[test]
    fn fields_are_the_same_as_their_bytes() {
        let by_field = Sum::default().word(0x1234).double(0x5678_9abc);
        assert_eq!(by_field.fold(), Sum::default().bytes(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]).fold());
    }

    #[test]
    fn pseudo_headers_are_those_of_the_rfcs() {
        let v4 = Sum::default().pseudo_v4([10, 0, 0, 1], [10, 0, 0, 2], 6, 0x1234);
        assert_eq!(v4.fold(), Sum::default().bytes(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0x12, 0x34]).fold());
        let mut bytes = [0; 40];
        (bytes[0], bytes[16], bytes[33], bytes[34], bytes[39]) = (0xfd, 0xfe, 1, 0x23, 58);
        let (source, destination) = (bytes[..16].try_into().unwrap(), bytes[16..32].try_into().unwrap());
        let v6 = Sum::default().pseudo_v6(source, destination, 58, 0x1_2300);
        assert_eq!(v6.fold(), Sum::default().bytes(&bytes).fold());
    }

    proptest! {
        #[test]
        fn agrees_with_the_naive_sum_and_with_etherparse(bytes in vec(any::<u8>(), 0..3000)) {
            let sum = Sum::default().bytes(&bytes);
            prop_assert_eq!(sum.fold(), naive(&bytes).to_be_bytes());
            let oracle = u32_16bit_word::add_slice(0, &bytes);
            prop_assert_eq!(u16::from_ne_bytes(sum.finish()), u32_16bit_word::ones_complement(oracle));
        }

        #[test]
        fn parts_add_up(bytes in vec(any::<u8>(), 0..400), cut in 0usize..200) {
            let (head, tail) = bytes.split_at((cut * 2).min(bytes.len() & !1));
            let whole = Sum::default().bytes(&bytes);
            prop_assert_eq!(Sum::default().bytes(head).bytes(tail).fold(), whole.fold());
            prop_assert_eq!(Sum::default().bytes(head).plus(Sum::default().bytes(tail)).fold(), whole.fold());
        }

        #[test]
        fn a_finished_sum_verifies_and_a_flipped_bit_does_not(
            mut bytes in vec(any::<u8>(), 2..200), at in any::<prop::sample::Index>(), bit in 0u32..8,
        ) {
            bytes[0] = 0;
            bytes[1] = 0;
            let checksum = Sum::default().bytes(&bytes).finish();
            bytes[..2].copy_from_slice(&checksum);
            prop_assert!(Sum::default().bytes(&bytes).verifies());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!Sum::default().bytes(&bytes).verifies());
        }
    }
}
