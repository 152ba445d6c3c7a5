//! A datagram's way in from the underlay.
//!
//! 1. [`ingress`] takes a run apart into datagrams.
//! 2. [`arrive`] knows the peer: by the outer source address, or by the key that opens a sealed datagram, in
//!    place.
//! 3. [`decap`] checks the VXLAN header, that the peer belongs to that network, and that this is how its frames
//!    come. What has no such header may be a probe, which [`carry::receive`] takes.
//! 4. [`judge`]: inner source check and learning, look-up among local ports only (split horizon).
//! 5. [`hand_over`] recognises what the sender left undone and gives the frame to one port, joined with its
//!    neighbours where the port takes that ([`crate::coalesce`]); [`flood`] to all. When the batch is through, what
//!    services' tasks say comes from the services ([`crate::deliver::restore_answers`]).
//!
//! The functions stand in that order.

use std::ops::Range;

use vswitchd_crypto::envelope;

use crate::coalesce;
use crate::datapath::Context;
use crate::deliver::{Stowed, deliver, finish_checksum, may_answer, needs_checksum};
use crate::drops::DropReason;
use crate::fdb::{Forward, Place, Source};
use crate::io::Received;
use crate::offload;
use crate::probe::carry;
use crate::tables::{Network, News};
use crate::tunnel::{Arrival, Refusal};
use crate::vtep::{Vtep, VtepId};
use crate::wire::ethernet::Header;
use crate::wire::probe::is_probe;
use crate::wire::{Cause, MacAddr, Vni, vxlan};

/// Takes a run of datagrams from one sender.
pub(crate) fn ingress(cx: &mut Context<'_>, received: Received) {
    let Received { buf, from, segment } = received;
    let clear = Arrival::clear(&cx.tables.topology, from);
    let (packet, run, segment) = (cx.out.packets.len(), buf.range(), segment.max(1));
    cx.out.packets.push(buf);
    let mut way = None;
    // An empty datagram is one, too.
    let last = run.start.max(run.end.saturating_sub(1));
    for start in (run.start..=last).step_by(segment) {
        let datagram = start..run.end.min(start + segment);
        let (arrival, range) = match arrive(cx, clear, packet, datagram) {
            Ok(arrived) => arrived,
            Err(refusal) => {
                drop_from_peer(cx, refusal.claimed, None, refusal.reason);
                continue;
            }
        };
        let (id, peer) = arrival.peer();
        let (vni, network) = match decap(cx, &arrival, packet, range.clone()) {
            Ok(decapped) => decapped,
            Err(reason) => {
                if let Err(reason) = other(cx, &arrival, packet, range, reason) {
                    drop_from_peer(cx, Some(peer), None, reason);
                }
                continue;
            }
        };
        let inner = range.start + vxlan::HEADER_LEN..range.end;
        peer.traffic.by(cx.worker).received(1, inner.len());
        network.traffic.by(cx.worker).received(1, inner.len());
        let outcome = Stowed::find(cx, packet, inner).and_then(|mut frame| {
            let forward = judge(cx, vni, id, &frame.header, &mut way)?;
            let first = cx.out.deliveries.len();
            let handed = hand_over(cx, network, &mut frame, forward);
            if !network.services.is_empty() {
                may_answer(cx, vni, first, &frame);
            }
            handed
        });
        if let Err(reason) = outcome {
            drop_from_peer(cx, Some(peer), Some(network), reason);
        }
    }
}

/// `clear` is what a datagram from there is if it is not sealed. Gives where the VXLAN packet is.
fn arrive<'t>(
    cx: &mut Context<'t>,
    clear: Result<Arrival<'t>, Refusal<'t>>,
    packet: usize,
    datagram: Range<usize>,
) -> Result<(Arrival<'t>, Range<usize>), Refusal<'t>> {
    let bytes = cx.out.packets[packet].slice_mut(datagram.clone());
    if !envelope::is_sealed(bytes) {
        return Ok((clear?, datagram));
    }
    let (arrival, within) = Arrival::open(&cx.tables.topology, bytes)?;
    Ok((arrival, datagram.start + within.start..datagram.start + within.end))
}

fn decap<'t>(
    cx: &Context<'_>,
    arrival: &Arrival<'t>,
    packet: usize,
    range: Range<usize>,
) -> Result<(Vni, &'t Network), DropReason> {
    let vni = vxlan::parse(cx.out.packets[packet].slice(range)).map_err(|error| match error.cause {
        Cause::Truncated => DropReason::VxlanTruncated,
        _ => DropReason::VxlanFlags,
    })?;
    Ok((vni, arrival.enter(vni)?))
}

/// What is no VXLAN packet, for that reason: a probe, or nothing. Only what has failed already comes here, so that
/// frames are not asked once more what they are.
fn other(
    cx: &mut Context<'_>,
    arrival: &Arrival<'_>,
    packet: usize,
    range: Range<usize>,
    reason: DropReason,
) -> Result<(), DropReason> {
    if is_probe(cx.out.packets[packet].slice(range.clone())) {
        carry::receive(cx, arrival, packet, range)
    } else {
        Err(reason)
    }
}

fn judge(
    cx: &mut Context<'_>,
    vni: Vni,
    id: VtepId,
    header: &Header,
    way: &mut Option<Way>,
) -> Result<Forward, DropReason> {
    let (source, destination) = (header.source, header.destination);
    if let Some(way) =
        way.filter(|way| (way.vni, way.from, way.source, way.destination) == (vni, id, source, destination))
    {
        return Ok(way.forward);
    }
    let place = Place::Vtep(id);
    match cx.tables.fdb.source(vni, source, place, cx.now) {
        Source::Known => {}
        Source::News => cx.hear(News { vni, mac: source, place }),
        Source::Refused(reason) => return Err(reason),
    }
    match cx.tables.fdb.lookup(vni, destination) {
        Forward::Remote(_) => Err(DropReason::SplitHorizon),
        Forward::Service => Err(DropReason::NotForPeers),
        Forward::Drop(reason) => Err(reason),
        forward => {
            *way = Some(Way { vni, from: id, source, destination, forward });
            Ok(forward)
        }
    }
}

/// What became of the frame before, for its like: a run is of one flow, mostly.
#[derive(Clone, Copy)]
struct Way {
    vni: Vni,
    from: VtepId,
    source: MacAddr,
    destination: MacAddr,
    forward: Forward,
}

fn hand_over(
    cx: &mut Context<'_>,
    network: &Network,
    frame: &mut Stowed,
    forward: Forward,
) -> Result<(), DropReason> {
    let Forward::Local(id) = forward else { return flood(cx, network, frame) };
    let port = cx.tables.topology.ports.get(&id).ok_or(DropReason::PortGone)?;
    if port.here_only {
        return Err(DropReason::NotForPeers);
    }
    recognise(cx, frame, port.spec.mtu);
    if needs_checksum(port, frame.offload) {
        finish_checksum(cx, frame)?;
    }
    if coalesce::is_for(port.spec.capabilities, frame.transport.as_ref()) {
        network.traffic.by(cx.worker).sent(1, frame.range.len());
        cx.coalescer.deliver(cx.out, id, frame);
        return Ok(());
    }
    deliver(cx, network, id, port, frame)
}

/// Never joined: that changes a frame's header, which the receivers share.
fn flood(cx: &mut Context<'_>, network: &Network, frame: &mut Stowed) -> Result<(), DropReason> {
    let topology = &cx.tables.topology;
    let ports = || {
        let ports = network.ports.iter().filter_map(|&id| Some((id, topology.ports.get(&id)?)));
        ports.filter(|(_, port)| !port.here_only)
    };
    let mtu = ports().map(|(_, port)| port.spec.mtu).min().ok_or(DropReason::PortGone)?;
    recognise(cx, frame, mtu);
    if ports().any(|(_, port)| needs_checksum(port, frame.offload)) {
        finish_checksum(cx, frame)?;
    }
    let mut outcome = Ok(());
    for (id, port) in ports() {
        // One that can't have it must not keep it from the others.
        if let Err(reason) = deliver(cx, network, id, port, frame) {
            outcome = Err(reason);
        }
    }
    outcome
}

/// Finds out what a kernel's vxlan device over veth left undone: no header of the outer packet says it.
fn recognise(cx: &mut Context<'_>, frame: &mut Stowed, mtu: usize) {
    let bytes = cx.out.packets[frame.packet].slice_mut(frame.range.clone());
    frame.offload = offload::recognise(bytes, frame.transport.as_ref(), mtu);
    if let Some(transport) = &frame.transport {
        frame.offload = offload::prepare_gso(bytes, transport, frame.offload);
    }
}

fn drop_from_peer(cx: &Context<'_>, peer: Option<&Vtep>, network: Option<&Network>, reason: DropReason) {
    cx.switch.drops().add(reason, 1);
    if let Some(peer) = peer {
        peer.traffic.by(cx.worker).dropped(1);
    }
    if let Some(network) = network {
        network.traffic.by(cx.worker).dropped(1);
    }
}
