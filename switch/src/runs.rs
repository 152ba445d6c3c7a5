//! Runs: a super-frame's segments back to back in one buffer, each wrapped the same way.
//!
//! As VXLAN packets, clear or sealed, a run is what one `UDP_SEGMENT` send takes; unwrapped it is a series of
//! frames for a port that takes no super-frames. Sealing is in place, right behind the copy, while the segment
//! is in the cache.

use std::ops::Range;

use crate::drops::DropReason;
use crate::outbox::{Heads, Outbox, RUN_BYTES_MAX, run_datagrams};
use crate::packet::{DATA_MAX, HEADROOM, PacketBuf, Pool};
use crate::segment::Segmenter;
use crate::tunnel::Wrap;
use crate::wire::{Vni, vxlan};

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
/// [`DropReason::NoBuffer`] if the pool ran dry, [`DropReason::KeyUsedUp`]: the rest of the frame is lost.
/// [`DropReason::TooBig`] if not even one segment fits a run.
pub(crate) fn cut(
    segments: &Segmenter<'_>,
    wrap: Wrap<'_>,
    pool: &mut Pool,
    made: &mut Vec<PacketBuf>,
    mut each: impl FnMut(Run),
) -> Result<(), DropReason> {
    let stride = wrap.overhead() + segments.segment_len(0);
    let per_run = run_datagrams(stride);
    if per_run == 0 {
        return Err(DropReason::TooBig);
    }
    let mut next = 0;
    while next < segments.len() {
        let last = segments.len().min(next + per_run);
        let mut wrapper = wrap.wrapper(last - next)?;
        let mut buf = pool.take().ok_or(DropReason::NoBuffer)?;
        let (room, mut filled) = (buf.room(), 0);
        for index in next..last {
            let len = wrap.overhead() + segments.segment_len(index);
            let datagram = &mut room[filled..filled + len];
            segments.write(index, &mut datagram[wrap.before()..]);
            wrapper.close(datagram);
            filled += len;
        }
        buf.set_len(filled);
        each(Run { made: made.len(), range: HEADROOM..HEADROOM + filled, stride });
        made.push(buf);
        next = last;
    }
    Ok(())
}

/// A run of which only the headers have been written.
pub(crate) struct Scattered {
    /// Its headers.
    pub(crate) heads: Heads,
    /// The payload in the super-frame.
    pub(crate) payload: Range<usize>,
    /// Bytes of each datagram but the last.
    pub(crate) stride: usize,
}

/// As [`cut`] for a network in clear, into runs whose headers are written to buffers of `heads`, and whose payload stays
/// where it is. It takes no [`Wrap`], so that nothing sealed can come here.
pub(crate) fn scatter(
    segments: &Segmenter<'_>,
    vni: Vni,
    pool: &mut Pool,
    heads: &mut Vec<PacketBuf>,
    mut each_run: impl FnMut(Scattered),
) -> Result<(), DropReason> {
    let stride = vxlan::HEADER_LEN + segments.segment_len(0);
    let each = vxlan::HEADER_LEN + segments.header_len();
    let per_run = run_datagrams(stride);
    if per_run == 0 {
        return Err(DropReason::TooBig);
    }
    for next in (0..segments.len()).step_by(per_run) {
        let run = next..segments.len().min(next + per_run);
        let room = Outbox::room_for_heads(heads, pool, run.len() * each);
        let (packet, range, room) = room.ok_or(DropReason::NoBuffer)?;
        for (index, head) in run.clone().zip(room.chunks_exact_mut(each)) {
            let (outer, inner) = head.split_at_mut(vxlan::HEADER_LEN);
            outer.copy_from_slice(&vxlan::emit(vni));
            segments.write_headers(index, inner);
        }
        let heads = Heads { packet, range, each };
        each_run(Scattered { heads, payload: segments.payload(run), stride });
    }
    Ok(())
}
