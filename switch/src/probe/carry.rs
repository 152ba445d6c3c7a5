//! Probes from and to datagrams.

use std::ops::Range;
use std::sync::PoisonError;

use crate::datapath::Context;
use crate::drops::DropReason;
use crate::outbox::{Outbox, Payload};
use crate::packet::PacketBuf;
use crate::tunnel::{Arrival, ProbeTunnel};
use crate::wire::probe::{HEADER_LEN, Operation, Probe};

/// Puts a request into a buffer and names it for its peer.
///
/// # Errors
/// [`DropReason::KeyUsedUp`]: as for data. The buffer is in `out` all the same.
pub(crate) fn request(
    tunnel: &ProbeTunnel<'_>,
    probe: Probe,
    mut buf: PacketBuf,
    out: &mut Outbox,
) -> Result<(), DropReason> {
    let (before, length) = (tunnel.before(), usize::from(probe.length));
    buf.set_len(before + length + tunnel.behind());
    let (packet, range) = (out.packets.len(), buf.range());
    let datagram = buf.slice_mut(range.clone());
    // The padding too: it must not show what the buffer has held before.
    datagram.fill(0);
    datagram[before..before + HEADER_LEN].copy_from_slice(&probe.emit());
    let closed = tunnel.close(datagram);
    out.packets.push(buf);
    closed?;
    let payload = Payload::Request(probe.sequence);
    out.transmits.push(tunnel.transmit(payload, probe.sequence, packet, range));
    Ok(())
}

/// Takes a probe that stands in one of the outbox's buffers. A request is answered where it stands, so with no more
/// bytes than it had.
///
/// # Errors
/// It is none, it came in clear from a peer with a session, or it is one too many.
pub(crate) fn receive(
    cx: &mut Context<'_>,
    arrival: &Arrival<'_>,
    packet: usize,
    range: Range<usize>,
) -> Result<(), DropReason> {
    let tunnel = arrival.probes()?;
    let (peer, vtep) = arrival.peer();
    let bytes = cx.out.packets[packet].slice(range.clone());
    let probe = Probe::parse(bytes).map_err(|_| DropReason::ProbeInvalid)?;
    if probe.operation == Operation::Reply {
        let asked = cx.switch.handle_probe_reply(peer, &probe, cx.now);
        return if asked { Ok(()) } else { Err(DropReason::ProbeUnasked) };
    }
    // Nothing panics while it holds the lock.
    if !vtep.replies.lock().unwrap_or_else(PoisonError::into_inner).allow(1, cx.now) {
        return Err(DropReason::ProbeLimit);
    }
    if !cx.out.has_room() {
        return Err(DropReason::BatchFull);
    }
    // It came with as much around it.
    let whole = range.start - tunnel.before()..range.start + HEADER_LEN + tunnel.behind();
    let datagram = cx.out.packets[packet].slice_mut(whole.clone());
    datagram[tunnel.before()..][..HEADER_LEN].copy_from_slice(&probe.reply().emit());
    tunnel.close(datagram)?;
    cx.out.transmits.push(tunnel.transmit(Payload::Reply, probe.sequence, packet, whole));
    Ok(())
}
