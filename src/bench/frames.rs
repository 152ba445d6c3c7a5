//! The two frames that the switch in memory is given: a small one, and the longest super-frame.

use crate::switch::wire::MacAddr;
use crate::switch::wire::checksum::Sum;
use crate::switch::wire::ethernet::{EtherType, HEADER_LEN};
use crate::switch::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Bytes of payload of a small frame, as of a question to a DNS server.
pub(super) const SMALL_PAYLOAD: usize = 64;
/// TCP payload of a full segment, without options, on an overlay over 1500 bytes.
const SEGMENT: u16 = 1450 - 40;
/// Full segments of 64 KiB.
const SEGMENTS: u16 = 45;
/// Addresses of RFC 5737, for documentation.
const ADDRESSES: ([u8; 4], [u8; 4]) = ([198, 51, 100, 1], [198, 51, 100, 2]);
/// Where the transport header begins.
const TRANSPORT: u16 = 34;

/// A UDP frame, its checksum left out as RFC 768 allows.
pub(super) fn small(from: MacAddr, to: MacAddr) -> Vec<u8> {
    let len = u16::try_from(8 + SMALL_PAYLOAD).expect("72");
    let ports = [40_000_u16, 5_300, len, 0];
    let mut frame = ipv4(from, to, 17, len);
    frame.extend(ports.into_iter().flat_map(u16::to_be_bytes));
    frame.resize(frame.len() + SMALL_PAYLOAD, 0x5a);
    frame
}

/// A TCP super-frame as a TAP gives it: uncut, its checksum unfinished.
pub(super) fn super_frame(from: MacAddr, to: MacAddr) -> (Vec<u8>, Offload) {
    let payload = SEGMENT * SEGMENTS;
    let len = 20 + payload;
    let pseudo = Sum::default().pseudo_v4(ADDRESSES.0, ADDRESSES.1, 6, len);
    let mut frame = ipv4(from, to, 6, len);
    frame.extend([40_000_u16, 5_201].into_iter().flat_map(u16::to_be_bytes));
    frame.extend([1_u32, 1].into_iter().flat_map(u32::to_be_bytes));
    // Five words of header, ACK, a window.
    frame.extend([0x50, 0x10, 0x02, 0x00]);
    frame.extend(pseudo.fold());
    frame.extend([0, 0]);
    frame.resize(frame.len() + usize::from(payload), 0x5a);
    let gso = Gso { kind: GsoKind::Tcp4, size: SEGMENT, header_len: TRANSPORT + 20, ecn: false };
    (frame, Offload { checksum: Checksum::Partial { start: TRANSPORT, offset: 16 }, gso: Some(gso) })
}

/// Ethernet and IPv4 headers before `len` bytes of `protocol`.
fn ipv4(from: MacAddr, to: MacAddr, protocol: u8, len: u16) -> Vec<u8> {
    let [high, low] = (20 + len).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend([ADDRESSES.0, ADDRESSES.1].concat());
    let sum = Sum::default().bytes(&header).finish();
    header[10..12].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(HEADER_LEN + header.len() + usize::from(len));
    frame.extend([to.0, from.0].concat());
    frame.extend(EtherType::IPV4.0.to_be_bytes());
    frame.extend(header);
    frame
}
