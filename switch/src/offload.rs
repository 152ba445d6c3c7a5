//! Checksums and super-frames as they come: finished where a receiver can't, recognised where a sender didn't say.
//!
//! A TAP says in its virtio-net header what is left to do to a frame. A kernel's vxlan device over veth hands
//! us the same unfinished frames and says nothing: [`recognise`] reads it from the frame. Cutting is
//! [`crate::segment`]'s.

use etherparse::TcpHeaderSlice;

use crate::wire::checksum::Sum;
use crate::wire::flow::field::{tcp, udp};
use crate::wire::flow::{IpVersion, TCP, Transport, UDP};
use crate::wire::virtio::{Checksum, Gso, GsoKind, Offload};
use crate::wire::{Cause, Layer, WireError};

/// Completes a partial checksum in place: sums from `start` to the end of the frame, the field included, and
/// stores the result at `start + offset`.
///
/// A UDP checksum that comes out as 0 is stored as `0xffff`, since 0 means that there is none (RFC 768). UDP is
/// known by its offset of 6: no other transport with an Internet checksum has it there.
///
/// # Errors
/// [`Cause::Bounds`] if the field is not within the frame, which is then left as it was.
pub fn finish_checksum(frame: &mut [u8], start: u16, offset: u16) -> Result<(), WireError> {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > frame.len() {
        return Err(WireError { layer: Layer::Virtio, cause: Cause::Bounds });
    }
    let mut checksum = Sum::default().bytes(&frame[start..]).finish();
    if checksum == [0, 0] && usize::from(offset) == udp::CHECKSUM.start {
        checksum = [0xff, 0xff];
    }
    frame[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

/// Reads from a frame what its sender left unsaid.
///
/// - A TCP or UDP checksum field that holds exactly the pseudo-header's sum, while the checksum as a whole does
///   not verify, is [`Checksum::Partial`]. About one complete checksum in 65,536 equals that sum by chance: it
///   verifies, and is left alone.
/// - A TCP packet longer than `mtu` (bytes of IP packet) is a super-frame too, with the GSO size that fills `mtu`.
///   Where its checksum is complete, it is verified here, and the answer is [`Checksum::Verified`] with [`Gso`]:
///   [`crate::segment`] may then compute new ones without hiding damage, and [`prepare_gso`] makes it fit for a
///   device. Where it is wrong, the answer is no super-frame, just a frame too long.
/// - Everything else is [`Offload::default`], an oversize UDP datagram included: its boundaries are not known.
///
/// Costs a pseudo-header's sum for a frame that fits and whose field doesn't match; reads the payload only
/// otherwise. A frame with bytes other than zero behind its IP packet is no partial one: they would be summed
/// along. Behind a super-frame there is nothing.
#[must_use]
pub fn recognise(frame: &[u8], transport: Option<&Transport>, mtu: usize) -> Offload {
    let Some(transport) = transport else {
        return Offload::default();
    };
    let Some(offset) = checksum_offset(frame, transport) else {
        return Offload::default();
    };
    let pseudo = transport.pseudo_header(frame, transport.len());
    let at = transport.start + offset;
    let matches = frame[at..at + 2] == pseudo.fold();
    let oversize = transport.protocol == TCP && transport.end - transport.ip_start > mtu;
    if !matches && !oversize {
        return Offload::default();
    }
    let verifies = pseudo.bytes(&frame[transport.start..transport.end]).verifies();
    let padded = frame[transport.end..].iter().any(|&byte| byte != 0);
    let checksum = match partial(transport, offset) {
        Some(partial) if matches && !verifies && !padded => partial,
        _ if verifies && oversize => Checksum::Verified,
        _ => return Offload::default(),
    };
    let alone = transport.end == frame.len();
    let gso = (oversize && alone).then(|| fit(frame, transport, mtu)).flatten();
    // A verified checksum is worth telling only with the super-frame for which it was verified.
    if gso.is_none() && checksum == Checksum::Verified {
        return Offload::default();
    }
    Offload { checksum, gso }
}

/// Makes a super-frame fit for a device: its checksum field gets the pseudo-header's sum, as GSO asks, if its
/// checksum is complete so far. Gives the offload to hand over with it; every other frame and offload is left
/// as it is.
///
/// `transport` is what [`Transport::find`] found in this frame.
#[must_use]
pub fn prepare_gso(frame: &mut [u8], transport: &Transport, offload: Offload) -> Offload {
    if offload.gso.is_none() || matches!(offload.checksum, Checksum::Partial { .. }) {
        return offload;
    }
    let Some(offset) = checksum_offset(frame, transport) else {
        return offload;
    };
    let Some(checksum) = partial(transport, offset) else {
        return offload;
    };
    let at = transport.start + offset;
    let pseudo = transport.pseudo_header(frame, transport.len());
    frame[at..at + 2].copy_from_slice(&pseudo.fold());
    Offload { checksum, ..offload }
}

/// Where the checksum stands in a transport header that the packet holds whole; `None` for other protocols, for a
/// truncated header, and for a UDP length that isn't the packet's (RFC 768 lets it be shorter; nobody sends that).
pub(crate) fn checksum_offset(frame: &[u8], transport: &Transport) -> Option<usize> {
    let segment = frame.get(transport.start..transport.end)?;
    match transport.protocol {
        TCP if segment.len() >= tcp::HEADER_MIN => Some(tcp::CHECKSUM.start),
        UDP if segment.len() >= udp::HEADER_LEN => {
            (segment[udp::LENGTH] == transport.len().to_be_bytes()).then_some(udp::CHECKSUM.start)
        }
        _ => None,
    }
}

fn partial(transport: &Transport, offset: usize) -> Option<Checksum> {
    let start = u16::try_from(transport.start).ok()?;
    let offset = u16::try_from(offset).ok()?;
    Some(Checksum::Partial { start, offset })
}

/// How to cut a TCP packet so that each segment fills `mtu`; `None` if the headers alone do, or contradict
/// themselves.
fn fit(frame: &[u8], transport: &Transport, mtu: usize) -> Option<Gso> {
    let header = TcpHeaderSlice::from_slice(&frame[transport.start..transport.end]).ok()?;
    let payload = transport.start + header.slice().len();
    let size = mtu.checked_sub(payload - transport.ip_start)?;
    if size == 0 {
        return None;
    }
    Some(Gso {
        kind: match transport.ip {
            IpVersion::V4 => GsoKind::Tcp4,
            IpVersion::V6 => GsoKind::Tcp6,
        },
        // Below the packet's length, as `mtu` is.
        size: u16::try_from(size).ok()?,
        header_len: u16::try_from(payload).ok()?,
        ecn: header.cwr(),
    })
}

#[cfg(test)]
mod tests;
