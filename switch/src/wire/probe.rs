//! Probes of the path to a peer: an echo request and its reply.
//!
//! ```text
//!   0       1       2               4                               8              16
//!  +-------+-------+---------------+-------------------------------+- - - - - - - -+- - - - -
//!  | kind  |  op   |    length     |           sequence            |     stamp     | padding …
//!  +-------+-------+---------------+-------------------------------+- - - - - - - -+- - - - -
//!   0x82    1, 2    of the request, big endian                       64 bits
//! ```
//!
//! - **Kind** shares its place with the flags of a VXLAN header (RFC 7348 §5): the I flag, 0x08, is clear and the
//!   reserved 0x80 is set, so no VXLAN receiver takes a probe for a frame, nor we a frame for a probe. The same
//!   bytes stand inside of a sealed datagram towards a peer that has a session.
//! - **Op** is 1 for a request, 2 for a reply.
//! - **Length** counts the request's bytes, from its kind to the end of its padding. A request that is not as long
//!   as it says is none; its reply gives the number back, so it tells that so many bytes have arrived.
//! - **Sequence** and **stamp** are the asker's own and come back as they were.
//! - **Padding**, zeros, makes a request as long as the packets that it is to prove the path for. A reply has none:
//!   so it is never longer than what it answers.

use super::vxlan::FLAG_VNI;
use super::{Cause, Layer, WireError};

/// Bytes of a reply, and of the shortest request.
pub const HEADER_LEN: usize = 16;

/// The first byte of a probe.
pub const KIND: u8 = 0x82;

const _: () = assert!(KIND & FLAG_VNI == 0);

mod field {
    use std::ops::Range;

    pub(super) const KIND: usize = 0;
    pub(super) const OPERATION: usize = 1;
    pub(super) const LENGTH: Range<usize> = 2..4;
    pub(super) const SEQUENCE: Range<usize> = 4..8;
    pub(super) const STAMP: Range<usize> = 8..16;
}

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Which way a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// To be answered.
    Request,
    /// The answer.
    Reply,
}

/// A probe's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which way it goes.
    pub operation: Operation,
    /// Bytes of the request, at least [`HEADER_LEN`].
    pub length: u16,
    /// Tells the asker's requests apart.
    pub sequence: u32,
    /// Whatever the asker wants to have back.
    pub stamp: u64,
}

/// Whether a datagram, or what was sealed in one, may be a probe. Empty ones are not.
#[must_use]
pub fn is_probe(datagram: &[u8]) -> bool {
    datagram.first() == Some(&KIND)
}

impl Probe {
    /// Reads a probe: the whole datagram, or the whole of what was sealed in it.
    ///
    /// # Errors
    /// [`Cause::Truncated`] below [`HEADER_LEN`] bytes, [`Cause::Unknown`] for another kind or operation,
    /// [`Cause::Bounds`] for a request that is not as long as it says, or a reply with padding.
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let refuse = |cause| WireError { layer: Layer::Probe, cause };
        let header = datagram.first_chunk::<HEADER_LEN>().ok_or_else(|| refuse(Cause::Truncated))?;
        if header[field::KIND] != KIND {
            return Err(refuse(Cause::Unknown));
        }
        let (mut length, mut sequence, mut stamp) = ([0; 2], [0; 4], [0; 8]);
        length.copy_from_slice(&header[field::LENGTH]);
        sequence.copy_from_slice(&header[field::SEQUENCE]);
        stamp.copy_from_slice(&header[field::STAMP]);
        let length = u16::from_be_bytes(length);
        let claimed = usize::from(length);
        let (operation, fits) = match header[field::OPERATION] {
            REQUEST => (Operation::Request, claimed == datagram.len()),
            REPLY => (Operation::Reply, claimed >= HEADER_LEN && datagram.len() == HEADER_LEN),
            _ => return Err(refuse(Cause::Unknown)),
        };
        if !fits {
            return Err(refuse(Cause::Bounds));
        }
        Ok(Self {
            operation,
            length,
            sequence: u32::from_be_bytes(sequence),
            stamp: u64::from_be_bytes(stamp),
        })
    }

    /// The header's bytes; a request's padding follows.
    #[must_use]
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[field::KIND] = KIND;
        header[field::OPERATION] = match self.operation {
            Operation::Request => REQUEST,
            Operation::Reply => REPLY,
        };
        header[field::LENGTH].copy_from_slice(&self.length.to_be_bytes());
        header[field::SEQUENCE].copy_from_slice(&self.sequence.to_be_bytes());
        header[field::STAMP].copy_from_slice(&self.stamp.to_be_bytes());
        header
    }

    /// The reply to a request.
    #[must_use]
    pub fn reply(self) -> Self {
        Self { operation: Operation::Reply, ..self }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Vni, vxlan};

    fn request(length: u16) -> Probe {
        Probe { operation: Operation::Request, length, sequence: 0x0102_0304, stamp: 0x1112_1314_1516_1718 }
    }

    fn cause(datagram: &[u8]) -> Cause {
        let error = Probe::parse(datagram).unwrap_err();
        assert_eq!(error.layer, Layer::Probe);
        error.cause
    }

    #[test]
    fn the_bytes_are_those_of_the_diagram() {
        let bytes = [0x82, 1, 5, 0, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18];
        assert_eq!(request(0x500).emit(), bytes);
        assert_eq!(request(0x500).reply().emit()[..4], [0x82, 2, 5, 0]);
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let mut whole = request(40).emit().to_vec();
        whole.resize(40, 0);
        assert_eq!(Probe::parse(&whole), Ok(request(40)));
        for len in 0..HEADER_LEN {
            assert_eq!(cause(&whole[..len]), Cause::Truncated, "{len} bytes");
        }
        for len in HEADER_LEN..40 {
            assert_eq!(cause(&whole[..len]), Cause::Bounds, "{len} bytes");
        }
        whole.push(0);
        assert_eq!(cause(&whole), Cause::Bounds);
        let reply = request(40).reply().emit();
        assert_eq!(Probe::parse(&reply), Ok(request(40).reply()));
        assert_eq!(cause(&[&reply[..], &[0]].concat()), Cause::Bounds, "a reply is not padded");
        assert_eq!(cause(&request(15).reply().emit()), Cause::Bounds, "no request is so short");
    }

    #[test]
    fn no_vxlan_header_is_a_probe_and_no_probe_one_of_those() {
        let frame = vxlan::emit(Vni::new(7).unwrap());
        assert!(!is_probe(&frame) && !is_probe(&[]));
        assert_eq!(cause(&[&frame[..], &[0; 60]].concat()), Cause::Unknown);
        let error = vxlan::parse(&request(16).emit()).unwrap_err();
        assert_eq!(error.cause, Cause::Flags, "the I flag is clear");
    }

    proptest! {
        #[test]
        fn round_trip(padding in 0..2_000_u16, sequence: u32, stamp: u64) {
            let length = 16 + padding;
            let request = Probe { operation: Operation::Request, length, sequence, stamp };
            let mut datagram = request.emit().to_vec();
            datagram.resize(length.into(), 0);
            prop_assert!(is_probe(&datagram));
            prop_assert_eq!(Probe::parse(&datagram), Ok(request));
            prop_assert_eq!(Probe::parse(&request.reply().emit()), Ok(request.reply()));
        }

        #[test]
        fn what_is_accepted_is_emitted_again(datagram in proptest::collection::vec(any::<u8>(), 0..40), ours: bool) {
            let mut datagram = datagram;
            if ours && datagram.len() >= 4 {
                (datagram[0], datagram[1]) = (KIND, 1 + datagram[1] % 2);
                let length = u16::try_from(datagram.len()).unwrap();
                datagram[2..4].copy_from_slice(&length.to_be_bytes());
            }
            if let Ok(probe) = Probe::parse(&datagram) {
                prop_assert_eq!(&probe.emit()[..], &datagram[..HEADER_LEN]);
            }
        }
    }
}
