//! Runs: a super-frame's segments back to back in one buffer, each behind the same prefix.
//!
//! With a VXLAN header as the prefix a run is what one `UDP_SEGMENT` send takes; without one it is a series of frames
//! for a port that takes no super-frames.

use std::ops::Range;

use crate::drops::DropReason;
use crate::outbox::{RUN_BYTES_MAX, RUN_DATAGRAMS_MAX};
use crate::packet::{DATA_MAX, HEADROOM, PacketBuf, Pool};
use crate::segment::Segmenter;

const _: () = assert!(RUN_BYTES_MAX <= DATA_MAX);

/// A run in a buffer that has just been made.
pub(crate) struct Run {
    /// Which of the buffers made.
    pub(crate) made: usize,
    /// The run in it.
    pub(crate) range: Range<usize>,
    /// Bytes from one segment's prefix to the next one's.
    pub(crate) stride: usize,
}

/// Cuts a super-frame into runs, in buffers appended to `made`, and gives each to `each`.
///
/// # Errors
/// [`DropReason::NoBuffer`] if the pool ran dry: the rest of the frame is lost. [`DropReason::TooBig`] if not even
/// one segment fits a run.
pub(crate) fn cut(
    segments: &Segmenter<'_>,
    prefix: &[u8],
    pool: &mut Pool,
    made: &mut Vec<PacketBuf>,
    mut each: impl FnMut(Run),
) -> Result<(), DropReason> {
    let stride = prefix.len() + segments.segment_len(0);
    let per_run = (RUN_BYTES_MAX / stride).min(RUN_DATAGRAMS_MAX);
    if per_run == 0 {
        return Err(DropReason::TooBig);
    }
    let mut next = 0;
    while next < segments.len() {
        let mut buf = pool.take().ok_or(DropReason::NoBuffer)?;
        let room = buf.room();
        let last = segments.len().min(next + per_run);
        let mut filled = 0;
        for index in next..last {
            room[filled..filled + prefix.len()].copy_from_slice(prefix);
            filled += prefix.len();
            filled += segments.write(index, &mut room[filled..]);
        }
        buf.set_len(filled);
        each(Run { made: made.len(), range: HEADROOM..HEADROOM + filled, stride });
        made.push(buf);
        next = last;
    }
    Ok(())
}
