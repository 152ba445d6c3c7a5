//! Cutting super-frames into segments, in memory.
//!
//! A super-frame is one TCP segment or UDP datagram too long for a wire, with a size to cut its payload to. Each
//! segment gets a copy of all headers (tags, IP options and extension headers included) with lengths, IP
//! identification, TCP sequence number and flags changed, and complete checksums.
//!
//! A guest wrote both the frame and its virtio-net header, so neither is trusted: [`Segmenter::new`] takes
//! offsets and lengths from the packet itself and refuses where the two contradict. Nothing is allocated.

use std::ops::Range;

use etherparse::{IpNumber, TcpHeaderSlice};

use crate::drops::DropReason;
use crate::offload;
use crate::wire::checksum::Sum;
use crate::wire::ethernet;
use crate::wire::flow::field::{ipv4, ipv6, tcp, udp};
use crate::wire::flow::{IpVersion, Transport};
use crate::wire::virtio::{Checksum, Gso, GsoKind, Offload};

/// Segments that one super-frame may come to. 64 KiB at 64 bytes each: no honest sender cuts smaller, and a guest
/// that asks for single bytes must not turn one write into 65,535 packets.
pub const SEGMENTS_MAX: usize = 1024;

/// FIN and PSH concern the end of the payload: the last segment's alone.
const TCP_LAST_ONLY: u8 = 0x01 | 0x08;
/// CWR is told once (RFC 3168 §6.1.2): the first segment's alone.
const TCP_FIRST_ONLY: u8 = 0x80;

/// A super-frame, checked, with all that its segments share summed up.
#[derive(Clone, Debug)]
pub struct Segmenter<'a> {
    headers: &'a [u8],
    payload: &'a [u8],
    size: usize,
    ip: Ip,
    transport: Protocol,
    /// Of the pseudo-header and transport header, without what differs between segments.
    constant: Sum,
}

/// What differs between the IP headers of segments.
#[derive(Clone, Copy, Debug)]
enum Ip {
    V4 { start: usize, id: u16, constant: Sum },
    V6 { start: usize },
}

/// What differs between the transport headers of segments.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    Tcp { start: usize, sequence: u32, flags: u8 },
    Udp { start: usize },
}

impl<'a> Segmenter<'a> {
    /// Checks a super-frame; `header` is what [`ethernet::Header::parse`] gave for it.
    ///
    /// The checksum must be [`Checksum::Partial`], or [`Checksum::Verified`] by [`offload::recognise`]:
    /// segments get new checksums, which must not make damaged bytes look whole.
    ///
    /// # Errors
    /// [`DropReason::OffloadInvalid`] for anything but an unfragmented TCP or UDP packet of the stated kind
    /// that fills the frame, has payload, and comes to at most [`SEGMENTS_MAX`] segments; also if its lengths
    /// or the place of the partial checksum contradict its headers. [`Gso::header_len`] is not looked at.
    pub fn new(frame: &'a [u8], offload: Offload, header: &ethernet::Header) -> Result<Self, DropReason> {
        let invalid = DropReason::OffloadInvalid;
        let gso = offload.gso.ok_or(invalid)?;
        let found = Transport::find(frame, header).ok_or(invalid)?;
        if found.end != frame.len()
            || !kind_agrees(gso, &found)
            || !checksum_agrees(offload.checksum, frame, &found)
        {
            return Err(invalid);
        }
        let transport = Protocol::new(frame, &found).ok_or(invalid)?;
        let (headers, payload) = frame.split_at(transport.payload(frame));
        let size = usize::from(gso.size);
        if payload.is_empty() || size == 0 || payload.len().div_ceil(size) > SEGMENTS_MAX {
            return Err(invalid);
        }
        let constant = transport.constant(headers).plus(found.pseudo_header(frame, 0));
        Ok(Self { headers, payload, size, ip: Ip::new(headers, &found), transport, constant })
    }

    /// Segments that the frame comes to, from 1 to [`SEGMENTS_MAX`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always a segment")]
    pub fn len(&self) -> usize {
        self.payload.len().div_ceil(self.size)
    }

    /// Bytes of the headers that each segment starts with, up to the transport's last option.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.headers.len()
    }

    /// Bytes of a segment's whole frame. All but the last are equal, the last is not longer.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`].
    #[must_use]
    pub fn segment_len(&self, index: usize) -> usize {
        self.headers.len() + self.part(index).len()
    }

    /// Writes a segment's whole frame to the start of `out` and gives its length.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`], or `out` is shorter than [`Self::segment_len`].
    pub fn write(&self, index: usize, out: &mut [u8]) -> usize {
        let (len, part) = (self.segment_len(index), self.part(index));
        let (headers, payload) = out[..len].split_at_mut(self.headers.len());
        payload.copy_from_slice(part);
        self.write_headers(index, headers);
        len
    }

    /// Writes a segment's headers only, with the checksum of its whole.
    ///
    /// # Panics
    /// If `index` is not below [`Self::len`], or `out` is not of [`Self::header_len`].
    pub fn write_headers(&self, index: usize, out: &mut [u8]) {
        let (len, part) = (self.segment_len(index), self.part(index));
        out.copy_from_slice(self.headers);
        self.ip.patch(out, index, len);
        let last = index + 1 == self.len();
        self.transport.patch(out, index * self.size, len, last);
        self.transport.set_checksum(out, self.constant.bytes(part), len);
    }

    /// Where the payloads of some segments are in the frame: one behind the other.
    #[must_use]
    pub fn payload(&self, segments: Range<usize>) -> Range<usize> {
        let place = |index: usize| self.headers.len() + self.payload.len().min(index * self.size);
        place(segments.start)..place(segments.end)
    }

    fn part(&self, index: usize) -> &'a [u8] {
        let rest = &self.payload[index * self.size..];
        assert!(!rest.is_empty(), "no segment {index} of {}", self.len());
        &rest[..self.size.min(rest.len())]
    }
}

impl Ip {
    fn new(headers: &[u8], found: &Transport) -> Self {
        let start = found.ip_start;
        match found.ip {
            IpVersion::V4 => {
                let ip = &headers[start..found.start];
                let id = word(ip, ipv4::ID.start);
                let constant = Sum::default()
                    .bytes(&ip[..ipv4::TOTAL_LEN.start])
                    .bytes(&ip[ipv4::ID.end..ipv4::CHECKSUM.start])
                    .bytes(&ip[ipv4::CHECKSUM.end..]);
                Self::V4 { start, id, constant }
            }
            IpVersion::V6 => Self::V6 { start },
        }
    }

    /// Writes what differs into a segment's headers; `len` is of its whole frame.
    fn patch(self, headers: &mut [u8], index: usize, len: usize) {
        match self {
            Self::V4 { start, id, constant } => {
                let total = length(len - start);
                let id = id.wrapping_add(length(index));
                let ip = &mut headers[start..];
                ip[ipv4::TOTAL_LEN].copy_from_slice(&total.to_be_bytes());
                ip[ipv4::ID].copy_from_slice(&id.to_be_bytes());
                ip[ipv4::CHECKSUM].copy_from_slice(&constant.word(total).word(id).finish());
            }
            Self::V6 { start } => {
                let behind = length(len - start - ipv6::HEADER_LEN);
                headers[start..][ipv6::PAYLOAD_LEN].copy_from_slice(&behind.to_be_bytes());
            }
        }
    }
}

impl Protocol {
    /// `None` if the header is truncated or its length contradicts the packet's.
    fn new(frame: &[u8], found: &Transport) -> Option<Self> {
        offload::checksum_offset(frame, found)?;
        let start = found.start;
        if IpNumber(found.protocol) == IpNumber::UDP {
            return Some(Self::Udp { start });
        }
        let header = TcpHeaderSlice::from_slice(&frame[start..found.end]).ok()?;
        let (sequence, flags) = (header.sequence_number(), header.slice()[tcp::FLAGS]);
        Some(Self::Tcp { start, sequence, flags })
    }

    /// Where the payload starts.
    fn payload(self, frame: &[u8]) -> usize {
        match self {
            Self::Tcp { start, .. } => start + usize::from(frame[start + tcp::DATA_OFFSET] >> 4) * 4,
            Self::Udp { start } => start + udp::HEADER_LEN,
        }
    }

    /// The sum of what is the same in each segment's header.
    fn constant(self, headers: &[u8]) -> Sum {
        match self {
            Self::Tcp { start, .. } => {
                let header = &headers[start..];
                Sum::default()
                    .bytes(&header[..tcp::SEQUENCE.start])
                    .bytes(&header[tcp::SEQUENCE.end..tcp::DATA_OFFSET])
                    .bytes(&header[tcp::FLAGS + 1..tcp::CHECKSUM.start])
                    .bytes(&header[tcp::CHECKSUM.end..])
            }
            Self::Udp { start } => Sum::default().bytes(&headers[start..][..udp::LENGTH.start]),
        }
    }

    /// Writes what differs, but the checksum, into the headers of the segment that starts at `offset` in the
    /// payload.
    fn patch(self, headers: &mut [u8], offset: usize, len: usize, last: bool) {
        match self {
            Self::Tcp { start, sequence, flags } => {
                let sequence = sequence.wrapping_add(u32::from(length(offset)));
                let not_last = if last { 0 } else { TCP_LAST_ONLY };
                let not_first = if offset == 0 { 0 } else { TCP_FIRST_ONLY };
                let header = &mut headers[start..];
                header[tcp::SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
                header[tcp::FLAGS] = flags & !not_last & !not_first;
            }
            Self::Udp { start } => {
                headers[start..][udp::LENGTH].copy_from_slice(&length(len - start).to_be_bytes());
            }
        }
    }

    /// Adds what [`Self::patch`] wrote to the sum of all the rest, and writes the checksum.
    fn set_checksum(self, headers: &mut [u8], rest: Sum, len: usize) {
        match self {
            Self::Tcp { start, .. } => {
                let header = &mut headers[start..];
                let sum = rest
                    .word(length(len - start))
                    .bytes(&header[tcp::SEQUENCE])
                    .bytes(&header[tcp::DATA_OFFSET..=tcp::FLAGS]);
                header[tcp::CHECKSUM].copy_from_slice(&sum.finish());
            }
            Self::Udp { start } => {
                // Twice: in the pseudo-header and in the header.
                let length = length(len - start);
                let checksum = match rest.word(length).word(length).finish() {
                    [0, 0] => [0xff, 0xff],
                    checksum => checksum,
                };
                headers[start..][udp::CHECKSUM].copy_from_slice(&checksum);
            }
        }
    }
}

fn kind_agrees(gso: Gso, found: &Transport) -> bool {
    matches!(
        (gso.kind, found.ip, IpNumber(found.protocol)),
        (GsoKind::Tcp4, IpVersion::V4, IpNumber::TCP)
            | (GsoKind::Tcp6, IpVersion::V6, IpNumber::TCP)
            | (GsoKind::Udp, _, IpNumber::UDP)
    )
}

fn checksum_agrees(checksum: Checksum, frame: &[u8], found: &Transport) -> bool {
    match checksum {
        Checksum::Complete => false,
        Checksum::Verified => true,
        Checksum::Partial { start, offset } => {
            usize::from(start) == found.start
                && offload::checksum_offset(frame, found) == Some(usize::from(offset))
        }
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A length or offset within an IP packet.
fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a segment is no longer than the packet it was cut from")
}

#[cfg(test)]
mod tests;
