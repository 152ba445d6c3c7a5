//! The virtio-net header (virtio 1.2 §5.1.6) that a TAP with `IFF_VNET_HDR` puts before each frame.
//!
//! Fields have the host's byte order.
//!
//! ```text
//!  0       1          2        4          6            8             10
//! | flags | gso_type | hdr_len | gso_size | csum_start | csum_offset |
//! ```

use super::{Cause, Layer, WireError};

/// Bytes of the header that we ask TAP devices for (no `num_buffers`).
pub const HEADER_LEN: usize = 10;

mod field {
    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const HDR_LEN: usize = 2;
    pub(super) const GSO_SIZE: usize = 4;
    pub(super) const CSUM_START: usize = 6;
    pub(super) const CSUM_OFFSET: usize = 8;
}

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const FLAG_NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`
const FLAG_DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`
const GSO_NONE: u8 = 0;
/// `VIRTIO_NET_HDR_GSO_TCPV4`
const GSO_TCPV4: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_TCPV6`
const GSO_TCPV6: u8 = 4;
/// `VIRTIO_NET_HDR_GSO_UDP_L4`. The older `VIRTIO_NET_HDR_GSO_UDP` (3) makes IP fragments; we never ask for it.
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, a bit beside the TCP types.
const GSO_ECN: u8 = 0x80;

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
    /// Unknown flags are ignored (virtio 1.2 §5.1.6.2.2), an unknown GSO type can't be. Bytes behind
    /// [`HEADER_LEN`] are not looked at. That the frame's own headers agree is for [`crate::segment`] to check.
    ///
    /// # Errors
    /// Truncated header, unknown GSO type, a GSO size of 0, offsets outside of the frame; a super-frame whose
    /// checksum is not partial ([`Cause::Flags`]), since each segment needs its own.
    pub fn parse(header: &[u8], frame_len: usize) -> Result<Self, WireError> {
        let header = header.first_chunk::<HEADER_LEN>().ok_or_else(|| refuse(Cause::Truncated))?;
        let checksum = if header[field::FLAGS] & FLAG_NEEDS_CSUM != 0 {
            let start = word(header, field::CSUM_START);
            let offset = word(header, field::CSUM_OFFSET);
            if usize::from(start) + usize::from(offset) + 2 > frame_len {
                return Err(refuse(Cause::Bounds));
            }
            Checksum::Partial { start, offset }
        } else if header[field::FLAGS] & FLAG_DATA_VALID != 0 {
            Checksum::Verified
        } else {
            Checksum::Complete
        };
        let gso = parse_gso(header)?;
        if gso.is_some() && !matches!(checksum, Checksum::Partial { .. }) {
            return Err(refuse(Cause::Flags));
        }
        Ok(Self { checksum, gso })
    }

    /// The header for a frame in this state.
    ///
    /// A receiver takes GSO only with a partial checksum: see [`crate::offload::prepare_gso`] for the other case.
    #[must_use]
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        match self.checksum {
            Checksum::Complete => {}
            Checksum::Verified => header[field::FLAGS] = FLAG_DATA_VALID,
            Checksum::Partial { start, offset } => {
                header[field::FLAGS] = FLAG_NEEDS_CSUM;
                set_word(&mut header, field::CSUM_START, start);
                set_word(&mut header, field::CSUM_OFFSET, offset);
            }
        }
        if let Some(gso) = self.gso {
            let ecn = if gso.ecn { GSO_ECN } else { 0 };
            header[field::GSO_TYPE] = match gso.kind {
                GsoKind::Tcp4 => GSO_TCPV4 | ecn,
                GsoKind::Tcp6 => GSO_TCPV6 | ecn,
                GsoKind::Udp => GSO_UDP_L4,
            };
            set_word(&mut header, field::HDR_LEN, gso.header_len);
            set_word(&mut header, field::GSO_SIZE, gso.size);
        }
        header
    }
}

fn parse_gso(header: &[u8; HEADER_LEN]) -> Result<Option<Gso>, WireError> {
    let gso_type = header[field::GSO_TYPE];
    let ecn = gso_type & GSO_ECN != 0;
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE if !ecn => return Ok(None),
        GSO_TCPV4 => GsoKind::Tcp4,
        GSO_TCPV6 => GsoKind::Tcp6,
        GSO_UDP_L4 if !ecn => GsoKind::Udp,
        _ => return Err(refuse(Cause::Unknown)),
    };
    let size = word(header, field::GSO_SIZE);
    if size == 0 {
        return Err(refuse(Cause::Bounds));
    }
    Ok(Some(Gso { kind, size, header_len: word(header, field::HDR_LEN), ecn }))
}

fn refuse(cause: Cause) -> WireError {
    WireError { layer: Layer::Virtio, cause }
}

fn word(header: &[u8; HEADER_LEN], at: usize) -> u16 {
    u16::from_ne_bytes([header[at], header[at + 1]])
}

fn set_word(header: &mut [u8; HEADER_LEN], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME_LEN: usize = 1514;

    fn tcp4() -> Offload {
        Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            gso: Some(Gso { kind: GsoKind::Tcp4, size: 1448, header_len: 66, ecn: false }),
        }
    }

    fn cause(header: &[u8]) -> Cause {
        let error = Offload::parse(header, FRAME_LEN).unwrap_err();
        assert_eq!(error.layer, Layer::Virtio);
        error.cause
    }

    #[test]
    fn the_header_is_that_of_the_specification() {
        let header = tcp4().emit();
        assert_eq!(header[..2], [1, 1]);
        assert_eq!(header[2..4], 66u16.to_ne_bytes());
        assert_eq!(header[4..6], 1448u16.to_ne_bytes());
        assert_eq!(header[6..8], 34u16.to_ne_bytes());
        assert_eq!(header[8..], 16u16.to_ne_bytes());
        assert_eq!(Offload::default().emit(), [0; HEADER_LEN]);
    }

    #[test]
    fn every_truncation_is_refused() {
        let header = tcp4().emit();
        for len in 0..HEADER_LEN {
            assert_eq!(cause(&header[..len]), Cause::Truncated, "{len} bytes");
        }
    }

    #[test]
    fn the_checksum_lies_within_the_frame() {
        let at = |start, offset| Offload { checksum: Checksum::Partial { start, offset }, gso: None };
        assert_eq!(Offload::parse(&at(1512, 0).emit(), FRAME_LEN), Ok(at(1512, 0)));
        assert_eq!(Offload::parse(&at(0, 1512).emit(), FRAME_LEN), Ok(at(0, 1512)));
        assert_eq!(cause(&at(1512, 1).emit()), Cause::Bounds);
        assert_eq!(cause(&at(1513, 0).emit()), Cause::Bounds);
        assert_eq!(cause(&at(u16::MAX, u16::MAX).emit()), Cause::Bounds);
    }

    #[test]
    fn only_kinds_that_we_ask_for_are_known() {
        for gso_type in 0..=u8::MAX {
            let mut header = tcp4().emit();
            header[field::GSO_TYPE] = gso_type;
            match gso_type {
                0 | 1 | 4 | 5 | 0x81 | 0x84 => {
                    assert!(Offload::parse(&header, FRAME_LEN).is_ok(), "type {gso_type}")
                }
                _ => assert_eq!(cause(&header), Cause::Unknown, "type {gso_type}"),
            }
        }
    }

    #[test]
    fn a_super_frame_has_a_size_and_a_partial_checksum() {
        let mut header = tcp4().emit();
        header[field::GSO_SIZE..field::GSO_SIZE + 2].fill(0);
        assert_eq!(cause(&header), Cause::Bounds);
        for flags in [0, FLAG_DATA_VALID] {
            let mut header = tcp4().emit();
            header[field::FLAGS] = flags;
            assert_eq!(cause(&header), Cause::Flags);
        }
    }

    #[test]
    fn unknown_flags_are_ignored() {
        let mut header = tcp4().emit();
        header[field::FLAGS] |= 0xfc;
        assert_eq!(Offload::parse(&header, FRAME_LEN), Ok(tcp4()));
    }

    fn offloads() -> impl Strategy<Value = Offload> {
        let partial = (0u16..1000, 0u16..500).prop_map(|(start, offset)| Checksum::Partial { start, offset });
        let kind = prop_oneof![Just(GsoKind::Tcp4), Just(GsoKind::Tcp6), Just(GsoKind::Udp)];
        let gso =
            (kind, 1..=u16::MAX, any::<u16>(), any::<bool>()).prop_map(|(kind, size, header_len, ecn)| Gso {
                kind,
                size,
                header_len,
                ecn: ecn && kind != GsoKind::Udp,
            });
        prop_oneof![
            Just(Offload::default()),
            Just(Offload { checksum: Checksum::Verified, gso: None }),
            (partial, proptest::option::of(gso)).prop_map(|(checksum, gso)| Offload { checksum, gso }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(offload in offloads()) {
            prop_assert_eq!(Offload::parse(&offload.emit(), FRAME_LEN), Ok(offload));
        }

        #[test]
        fn what_is_accepted_is_emitted_to_the_same_meaning(
            header in any::<[u8; HEADER_LEN]>(), len in 0usize..70_000,
        ) {
            if let Ok(offload) = Offload::parse(&header, len) {
                prop_assert_eq!(Offload::parse(&offload.emit(), len), Ok(offload));
            }
        }
    }
}
