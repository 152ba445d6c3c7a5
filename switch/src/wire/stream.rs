//! Frames in a stream of bytes, as QEMU's network devices on sockets write them.
//!
//! ```text
//!  0           4            4 + n
//! +-----------+------------+-----------+-----
//! | length n  | frame      | length    | …
//! +-----------+------------+-----------+-----
//! ```
//!
//! The length is big-endian and counts the frame alone, from the destination MAC on. Nothing marks where a frame
//! begins: whoever has lost the place never finds it again, so a length that can't be is the stream's end.
//! Source: QEMU docs, `-netdev stream`; net/stream.c and net/net.c (`net_fill_rstate`).

/// Bytes before each frame.
pub const PREFIX_LEN: usize = 4;
/// Bytes of the longest frame: the largest IP packet, the Ethernet header and two tags.
pub const FRAME_MAX: usize = 65_535 + 14 + 8;
/// Bytes held at most: one frame that is there in part, and room to read as much again at once.
const HELD_MAX: usize = 2 * (PREFIX_LEN + FRAME_MAX);

/// A length over [`FRAME_MAX`]: the other end speaks something else, or has lost the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a frame of {0} bytes was announced, more than the {FRAME_MAX} there can be: this is no stream of frames"
)]
pub struct TooLong(pub u32);

/// What stands before a frame of so many bytes.
///
/// # Panics
/// If a frame can't have that many: more than [`u32::MAX`].
#[must_use]
pub fn emit(len: usize) -> [u8; PREFIX_LEN] {
    u32::try_from(len).expect("a frame's length fits").to_be_bytes()
}

/// Cuts a stream into frames: read into [`Self::room`], state how much with [`Self::filled`], and take every
/// frame.
#[derive(Debug)]
pub struct Deframer {
    bytes: Box<[u8]>,
    /// What has come and not been taken.
    held: std::ops::Range<usize>,
}

impl Default for Deframer {
    fn default() -> Self {
        Self { bytes: vec![0; HELD_MAX].into(), held: 0..0 }
    }
}

impl Deframer {
    /// Where the next bytes go. At least as long as a frame, once [`Self::next_frame`] has given all.
    pub fn room(&mut self) -> &mut [u8] {
        if self.held.is_empty() || self.bytes.len() - self.held.end < PREFIX_LEN + FRAME_MAX {
            self.bytes.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
        }
        &mut self.bytes[self.held.end..]
    }

    /// States how many bytes have come.
    ///
    /// # Panics
    /// If there was not that much room.
    pub fn filled(&mut self, len: usize) {
        assert!(len <= self.bytes.len() - self.held.end, "more than there was room for");
        self.held.end += len;
    }

    /// The next frame, if all of it has come; it may be empty.
    ///
    /// # Errors
    /// [`TooLong`], now and ever after.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let Some(len) = self.whole()? else { return Ok(None) };
        let start = self.held.start + PREFIX_LEN;
        self.held.start = start + len;
        Ok(Some(&self.bytes[start..start + len]))
    }

    /// Whether [`Self::next_frame`] has something to say.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        !matches!(self.whole(), Ok(None))
    }

    /// Begins anew, with another stream.
    pub fn clear(&mut self) {
        self.held = 0..0;
    }

    /// Length of the next frame, if all of it is there.
    fn whole(&self) -> Result<Option<usize>, TooLong> {
        let Some((prefix, rest)) = self.bytes[self.held.clone()].split_first_chunk() else { return Ok(None) };
        let announced = u32::from_be_bytes(*prefix);
        let len =
            usize::try_from(announced).ok().filter(|&len| len <= FRAME_MAX).ok_or(TooLong(announced))?;
        Ok((len <= rest.len()).then_some(len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(frames: &[&[u8]]) -> Vec<u8> {
        frames.iter().flat_map(|frame| [&emit(frame.len())[..], frame].concat()).collect()
    }

    /// Feeds bytes in pieces of at most `step`, and gives the frames.
    fn cut(bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, TooLong> {
        let (mut deframer, mut frames, mut rest) = (Deframer::default(), Vec::new(), bytes);
        while !rest.is_empty() {
            let room = deframer.room();
            assert!(room.len() >= FRAME_MAX);
            let len = step.min(rest.len()).min(room.len());
            room[..len].copy_from_slice(&rest[..len]);
            deframer.filled(len);
            rest = &rest[len..];
            while let Some(frame) = deframer.next_frame()? {
                frames.push(frame.to_vec());
            }
            assert!(!deframer.has_frame());
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_however_the_stream_is_cut() {
        let long = vec![7; FRAME_MAX];
        let frames: [&[u8]; 6] = [b"one", b"", &long, b"x", &long, &[0; 60]];
        for step in [1, 3, 4, 5, 1_000, FRAME_MAX, usize::MAX] {
            assert_eq!(cut(&stream(&frames), step).unwrap(), frames, "{step}");
        }
    }

    #[test]
    fn what_is_left_in_the_end_is_no_frame() {
        let whole = stream(&[b"a frame", b"another"]);
        for len in 0..whole.len() {
            assert_eq!(cut(&whole[..len], 5).unwrap().len(), usize::from(len >= 11), "{len}");
        }
    }

    #[test]
    fn a_length_that_cant_be_ends_the_stream() {
        let mut bytes = stream(&[b"good"]);
        bytes.extend(emit(FRAME_MAX + 1));
        bytes.extend([0; 70_000]);
        assert_eq!(cut(&bytes, 9), Err(TooLong(65_558)));
        let mut deframer = Deframer::default();
        deframer.room()[..4].fill(0xff);
        deframer.filled(4);
        for _ in 0..2 {
            assert!(deframer.has_frame());
            assert_eq!(deframer.next_frame(), Err(TooLong(u32::MAX)));
        }
        deframer.clear();
        assert!(!deframer.has_frame());
    }
}
