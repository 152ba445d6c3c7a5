//! Packet buffers with room before and behind, from bounded pools.
//!
//! A buffer is read into at [`HEADROOM`]; headers are then prepended and an authentication tag appended in place.
//! A pool makes its buffers when first needed, never more than its limit, and takes them back for the next batch.

use std::ops::Range;

use vswitchd_crypto::envelope;

use crate::wire::vxlan;

/// Bytes kept free before what is read: outer VXLAN header, an envelope for sealing, alignment.
pub const HEADROOM: usize = 64;
/// Bytes kept free behind what is read: an AEAD tag.
pub const TAGROOM: usize = 16;
/// The largest thing read at once: a 64 KiB IP super-frame behind Ethernet, two tags, and a virtio-net header.
pub const DATA_MAX: usize = 65_535 + 14 + 8 + 16;
/// Bytes of a buffer.
pub const BUFFER_LEN: usize = HEADROOM + DATA_MAX + TAGROOM;

const _: () = assert!(HEADROOM >= envelope::HEADER_LEN + vxlan::HEADER_LEN);
const _: () = assert!(TAGROOM >= envelope::TAG_LEN);

/// A buffer; `data()` is what has been read into it.
pub struct PacketBuf {
    bytes: Box<[u8]>,
    end: usize,
}

impl PacketBuf {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER_LEN].into_boxed_slice(), end: HEADROOM }
    }

    /// The whole room for reading, [`DATA_MAX`] bytes; follow with [`Self::set_len`].
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADROOM..HEADROOM + DATA_MAX]
    }

    /// States how many bytes of [`Self::room`] are data.
    ///
    /// # Panics
    /// If `len` is over [`DATA_MAX`].
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= DATA_MAX, "data longer than the buffer");
        self.end = HEADROOM + len;
    }

    /// Copies `data` in.
    ///
    /// # Panics
    /// If `data` is longer than [`DATA_MAX`].
    pub fn fill(&mut self, data: &[u8]) {
        self.room()[..data.len()].copy_from_slice(data);
        self.set_len(data.len());
    }

    /// Where the data lies: a range for [`Self::slice`].
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        HEADROOM..self.end
    }

    /// The data.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes[HEADROOM..self.end]
    }

    /// Any range of the buffer, headroom and tagroom included.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// As [`Self::slice`], to be changed.
    ///
    /// # Panics
    /// If the range is not within the buffer.
    pub fn slice_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
}

impl std::fmt::Debug for PacketBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PacketBuf({} bytes)", self.end - HEADROOM)
    }
}

/// A bounded store of buffers, one for each worker.
#[derive(Debug)]
pub struct Pool {
    free: Vec<PacketBuf>,
    made: usize,
    limit: usize,
}

impl Pool {
    /// A pool that makes at most `limit` buffers of [`BUFFER_LEN`] bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { free: Vec::with_capacity(limit), made: 0, limit }
    }

    /// An empty buffer; `None` while all are in use.
    pub fn take(&mut self) -> Option<PacketBuf> {
        if let Some(buf) = self.free.pop() {
            return Some(buf);
        }
        if self.made == self.limit {
            return None;
        }
        self.made += 1;
        Some(PacketBuf::new())
    }

    /// Gives a buffer back.
    pub fn put(&mut self, mut buf: PacketBuf) {
        buf.end = HEADROOM;
        self.free.push(buf);
    }
}
