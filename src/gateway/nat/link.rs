//! One TCP connection's own link to the inside, as smoltcp's device: a packet in, frames out.
//!
//! Frames go out as a port takes them that cuts super-frames and finishes checksums: what the kernel on the other
//! side of a TAP, or the switch on its behalf, does in passing.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum as Phy, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::gateway::frame::{Back, Ends};
use crate::switch::wire::checksum::Sum;
use crate::switch::wire::ethernet;
use crate::switch::wire::flow::TCP;
use crate::switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Bytes of the longest packet that is to be cut: below what a run of datagrams holds, should the network carry it
/// to another host after all.
const SUPER_PACKET_MAX: NonZeroUsize = NonZeroUsize::new(60_000).expect("it is not zero");
/// From the TCP header's first byte on: where its checksum is, and its length (RFC 9293 §3.1).
const CHECKSUM_AT: u16 = 16;
const DATA_OFFSET_AT: usize = 12;

/// What one look at a connection has.
pub(super) struct Link<'a> {
    /// A packet from inside.
    pub(super) received: Option<&'a [u8]>,
    pub(super) sent: &'a mut Vec<(Vec<u8>, Offload)>,
    /// From outside's address, to inside's.
    pub(super) back: Back,
    /// Bytes of the largest packet that the network carries.
    pub(super) mtu: usize,
}

pub(super) struct Received<'a>(&'a [u8]);

pub(super) struct Sending<'a> {
    sent: &'a mut Vec<(Vec<u8>, Offload)>,
    back: Back,
    meta: PacketMeta,
}

impl Device for Link<'_> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sending<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Received<'_>, Sending<'_>)> {
        let received = Received(self.received.take()?);
        Some((received, Sending { sent: self.sent, back: self.back, meta: PacketMeta::default() }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending { sent: self.sent, back: self.back, meta: PacketMeta::default() })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // What comes has been looked at.
        capabilities.checksum.ipv4 = Phy::Tx;
        capabilities.checksum.tcp = Phy::None;
        capabilities.segmentation.tcpv4 = Some(SUPER_PACKET_MAX);
        // Not of IPv6: smoltcp 0.14 takes such for one that would have to be fragmented, and drops it.
        capabilities
    }
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = self.back.header().to_vec();
        frame.resize(ethernet::HEADER_LEN + len, 0);
        let result = write(&mut frame[ethernet::HEADER_LEN..]);
        let size = self.meta.segmentation_offload_size.map(|size| size.get());
        let offload = unfinished(&mut frame, self.back.ends, size);
        self.sent.push((frame, offload));
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

/// Puts the pseudo-header's sum in, and says the rest. smoltcp writes neither options nor extension headers.
fn unfinished(frame: &mut [u8], ends: Ends, size: Option<u16>) -> Offload {
    let (start, protocol_at, kind) = match ends {
        Ends::V4(..) => (ethernet::HEADER_LEN + 20, ethernet::HEADER_LEN + 9, GsoKind::Tcp4),
        Ends::V6(..) => (ethernet::HEADER_LEN + 40, ethernet::HEADER_LEN + 6, GsoKind::Tcp6),
    };
    let at = start + usize::from(CHECKSUM_AT);
    let len = u16::try_from(frame.len().saturating_sub(start));
    let (true, Ok(len), Ok(begin)) = (frame.get(protocol_at) == Some(&TCP), len, u16::try_from(start)) else {
        return Offload::default();
    };
    if frame.len() < at + 2 {
        return Offload::default();
    }
    let sum = match ends {
        Ends::V4(own, other) => Sum::default().pseudo_v4(own.octets(), other.octets(), TCP, len),
        Ends::V6(own, other) => Sum::default().pseudo_v6(own.octets(), other.octets(), TCP, len.into()),
    };
    frame[at..at + 2].copy_from_slice(&sum.fold());
    let header = u16::from(frame[start + DATA_OFFSET_AT] >> 4) * 4;
    let gso = size.map(|size| Gso { kind, size, header_len: begin + header, ecn: false });
    Offload { checksum: Checksum::Partial { start: begin, offset: CHECKSUM_AT }, gso }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::offload::finish_checksum;
    use crate::switch::wire::MacAddr;

    #[test]
    fn finished_the_checksum_is_right() {
        for ends in [
            Ends::V4([192, 0, 2, 1].into(), [10, 0, 9, 7].into()),
            Ends::V6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 7].into()),
        ] {
            let back = Back { own_mac: MacAddr([2; 6]), mac: MacAddr([3; 6]), ends };
            let mut whole = Vec::new();
            let builder = back.packet().tcp(80, 4_000, 7, 1_000).ack(9);
            builder.write(&mut whole, &[5; 3_001]).unwrap();
            let mut frame = whole.clone();
            let at = frame.len() - 3_001 - 4;
            frame[at..at + 2].fill(0);
            let offload = unfinished(&mut frame, ends, Some(1_400));
            let Checksum::Partial { start, offset } = offload.checksum else {
                panic!("nothing is left to do")
            };
            assert_eq!(offload.gso.map(|gso| (gso.size, usize::from(gso.header_len))), Some((1_400, at + 4)));
            finish_checksum(&mut frame, start, offset).unwrap();
            assert_eq!(frame, whole);
        }
    }
}
