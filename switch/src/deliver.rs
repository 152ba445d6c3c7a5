//! The last step of both paths: a frame for a port, with what the port's device can't do done for it.

use std::ops::Range;

use crate::balance::path::{self, Headers};
use crate::datapath::Context;
use crate::drops::DropReason;
use crate::outbox::{Delivery, Outbox};
use crate::segment::Segmenter;
use crate::tables::{Network, Port, PortId};
use crate::tunnel::Wrap;
use crate::wire::Vni;
use crate::wire::ethernet::Header;
use crate::wire::flow::Transport;
use crate::wire::virtio::{Checksum, Gso, GsoKind, Offload};
use crate::{offload, runs};

/// A frame in the outbox's buffers, on its way to one or more receivers.
#[derive(Clone, Debug)]
pub(crate) struct Stowed {
    /// Index in [`Outbox::packets`].
    pub(crate) packet: usize,
    /// The frame in that buffer.
    pub(crate) range: Range<usize>,
    /// Its state.
    pub(crate) offload: Offload,
    /// Its header.
    pub(crate) header: Header,
    /// Its transport header's place, if it has one.
    pub(crate) transport: Option<Transport>,
    /// Deliveries of its segments, once it has been cut for a port.
    pub(crate) cut: Option<Range<usize>>,
}

impl Stowed {
    /// Takes the headers of a frame apart that is in the outbox's buffers.
    ///
    /// # Errors
    /// [`DropReason::FrameTruncated`].
    pub(crate) fn find(cx: &Context<'_>, packet: usize, range: Range<usize>) -> Result<Self, DropReason> {
        let bytes = cx.out.packets[packet].slice(range.clone());
        let header = Header::parse(bytes).map_err(|_| DropReason::FrameTruncated)?;
        let transport = Transport::find(bytes, &header);
        Ok(Self { packet, range, offload: Offload::default(), header, transport, cut: None })
    }

    /// Its headers, to be rewritten.
    pub(crate) fn headers<'a>(&'a mut self, out: &'a mut Outbox) -> Headers<'a> {
        Headers {
            bytes: out.packets[self.packet].slice_mut(self.range.clone()),
            header: &mut self.header,
            transport: self.transport.as_ref(),
            checksum: self.offload.checksum,
        }
    }
}

/// Has what a service's task says to a client of this host come from the service. To be done when it is known what the
/// frame's sender has left unfinished, and before that is finished.
pub(crate) fn restore(cx: &mut Context<'_>, vni: Vni, network: &Network, frame: &mut Stowed) {
    if network.services.is_empty() {
        return;
    }
    if let Some(flows) = &cx.tables.topology.flows {
        path::to_client(flows, vni, &mut frame.headers(cx.out), cx.now);
    }
}

/// A delivery that may be what a task says to a client: [`restore_answers`] finds out.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Index in the outbox.
    delivery: usize,
    vni: Vni,
    /// Of the frame, or of the first segment if others have been joined to it.
    transport: Option<Transport>,
}

/// Has the deliveries of a frame, from the first on, looked at by [`restore_answers`].
pub(crate) fn may_answer(cx: &mut Context<'_>, vni: Vni, first: usize, frame: &Stowed) {
    let deliveries = first..cx.out.deliveries.len();
    let answers = deliveries.map(|delivery| Answer { delivery, vni, transport: frame.transport });
    cx.answers.extend(answers);
}

/// Does what [`restore`] does to a batch of deliveries, at its end: so that what has been joined is rewritten once.
pub(crate) fn restore_answers(cx: &mut Context<'_>) {
    let Some(flows) = &cx.tables.topology.flows else { return cx.answers.clear() };
    for answer in cx.answers.drain(..) {
        let Outbox { packets, deliveries, .. } = &mut *cx.out;
        let delivery = &deliveries[answer.delivery];
        let bytes = packets[delivery.packet].slice_mut(delivery.range.clone());
        let Ok(mut header) = Header::parse(bytes) else { continue };
        // Of a joined frame only its beginning is here, less than its length says.
        let transport =
            if delivery.more.is_empty() { Transport::find(bytes, &header) } else { answer.transport };
        let (transport, checksum) = (transport.as_ref(), delivery.offload.checksum);
        path::to_client(
            flows,
            answer.vni,
            &mut Headers { bytes, header: &mut header, transport, checksum },
            cx.now,
        );
    }
}

/// Whether the frame's checksum must be finished before the port gets it. Super-frames get theirs when cut.
pub(crate) fn needs_checksum(port: &Port, offload: Offload) -> bool {
    offload.gso.is_none() && !port.spec.capabilities.checksum
}

/// Finishes the checksum of a frame that is not a super-frame, for all of its receivers.
///
/// To be done before the first of them is given the frame, because they share its bytes.
pub(crate) fn finish_checksum(cx: &mut Context<'_>, frame: &mut Stowed) -> Result<(), DropReason> {
    if let Checksum::Partial { start, offset } = frame.offload.checksum {
        let bytes = cx.out.packets[frame.packet].slice_mut(frame.range.clone());
        offload::finish_checksum(bytes, start, offset).map_err(|_| DropReason::OffloadInvalid)?;
        frame.offload.checksum = Checksum::Verified;
    }
    Ok(())
}

/// Gives the frame to a port: whole if its device takes it so, else cut.
///
/// # Errors
/// A super-frame that can't be cut, or no buffers to cut it into.
pub(crate) fn deliver(
    cx: &mut Context<'_>,
    network: &Network,
    id: PortId,
    port: &Port,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if !cx.out.has_room() {
        return Err(DropReason::BatchFull);
    }
    match frame.offload.gso {
        Some(gso) if !takes(port, gso) => deliver_cut(cx, network, id, frame),
        _ => {
            let (packet, range) = (frame.packet, frame.range.clone());
            network.traffic.by(cx.worker).sent(1, range.len());
            cx.out.deliveries.push(Delivery { port: id, packet, range, more: 0..0, offload: frame.offload });
            Ok(())
        }
    }
}

fn takes(port: &Port, gso: Gso) -> bool {
    match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => port.spec.capabilities.tso,
        GsoKind::Udp => port.spec.capabilities.uso,
    }
}

/// The first port's segments serve the others too.
fn deliver_cut(
    cx: &mut Context<'_>,
    network: &Network,
    id: PortId,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    let first = cx.out.deliveries.len();
    let outcome = match frame.cut.clone() {
        Some(cut) => {
            for index in cut {
                let copy = Delivery { port: id, ..cx.out.deliveries[index].clone() };
                cx.out.deliveries.push(copy);
            }
            Ok(())
        }
        None => cut(cx, id, frame),
    };
    let made = first..cx.out.deliveries.len();
    let bytes = cx.out.deliveries[made.clone()].iter().map(|delivery| delivery.range.len()).sum();
    network.traffic.by(cx.worker).sent(made.len(), bytes);
    frame.cut.get_or_insert(made);
    outcome
}

fn cut(cx: &mut Context<'_>, id: PortId, frame: &Stowed) -> Result<(), DropReason> {
    let Outbox { packets, deliveries, .. } = &mut *cx.out;
    let bytes = packets[frame.packet].slice(frame.range.clone());
    let segments = Segmenter::new(bytes, frame.offload, &frame.header)?;
    let offload = Offload { checksum: Checksum::Verified, gso: None };
    let outcome = runs::cut(&segments, Wrap::Bare, cx.pool, cx.made, |run| {
        let packet = packets.len() + run.made;
        for start in run.range.clone().step_by(run.stride) {
            let range = start..run.range.end.min(start + run.stride);
            deliveries.push(Delivery { port: id, packet, range, more: 0..0, offload });
        }
    });
    packets.append(cx.made);
    outcome
}
