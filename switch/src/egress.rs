//! A frame's way out of a port.
//!
//! 1. [`egress`] takes the frame's header apart and asks [`judge`] what is to be done with it.
//! 2. [`judge`]: source check and learning, self-encapsulation, neighbour questions, look-up.
//! 3. [`answer`] replies to a neighbour question on the spot.
//! 4. [`local`] hands the frame to another port as it is.
//! 5. [`flood`] does that and the next for everybody in the network (head-end replication), within the port's
//!    storm limit.
//! 6. [`encap`] puts it behind a VXLAN header, cut to size, for one peer or many.
//!
//! The functions stand in that order.

use std::net::SocketAddr;

use crate::datapath::Context;
use crate::deliver::{Stowed, deliver, finish_checksum, needs_checksum};
use crate::drops::DropReason;
use crate::fdb::{Forward, Place, Source};
use crate::io::Frame;
use crate::neighbour::{self, Question};
use crate::outbox::{Delivery, Outbox, RUN_BYTES_MAX, Transmit};
use crate::packet::HEADROOM;
use crate::runs;
use crate::segment::Segmenter;
use crate::tables::{Network, News, Port, PortId};
use crate::vtep::VtepId;
use crate::wire::ethernet::Header;
use crate::wire::flow::{self, Transport, UDP};
use crate::wire::virtio::Offload;
use crate::wire::{MacAddr, Vni, vxlan};

/// What is to be done with a frame.
enum Verdict {
    Answer(Question, MacAddr),
    Local(PortId),
    Remote(VtepId),
    Flood,
}

/// Takes one frame from a port.
pub(crate) fn egress(cx: &mut Context<'_>, id: PortId, port: &Port, frame: Frame) {
    let topology = &cx.tables.topology;
    let Some(network) = topology.networks.get(&port.spec.vni) else {
        cx.drop_from_port(port, DropReason::UnknownVni);
        return cx.pool.put(frame.buf);
    };
    port.traffic.by(cx.worker).received(1, frame.buf.data().len());
    network.traffic.by(cx.worker).received(1, frame.buf.data().len());
    let Ok(header) = Header::parse(frame.buf.data()) else {
        cx.drop_from_port(port, DropReason::FrameTruncated);
        return cx.pool.put(frame.buf);
    };
    let transport = Transport::find(frame.buf.data(), &header);
    let verdict = judge(cx, id, port, frame.buf.data(), &header, transport.as_ref());

    let (packet, range) = (cx.out.packets.len(), frame.buf.range());
    let mut stowed = Stowed { packet, range, offload: frame.offload, header, transport, cut: None };
    cx.out.packets.push(frame.buf);
    let outcome = match verdict {
        Ok(Verdict::Answer(question, mac)) => answer(cx, network, id, &question, mac),
        Ok(Verdict::Local(to)) => local(cx, network, to, &mut stowed),
        Ok(Verdict::Remote(peer)) => encap(cx, network, port.spec.vni, &[peer], &mut stowed),
        Ok(Verdict::Flood) => flood(cx, id, port, network, &mut stowed),
        Err(reason) => Err(reason),
    };
    if let Err(reason) = outcome {
        cx.drop_from_port(port, reason);
    }
}

fn judge(
    cx: &mut Context<'_>,
    id: PortId,
    port: &Port,
    frame: &[u8],
    header: &Header,
    transport: Option<&Transport>,
) -> Result<Verdict, DropReason> {
    let (vni, place) = (port.spec.vni, Place::Port(id));
    match cx.tables.fdb.source(vni, header.source, place, cx.now) {
        Source::Known => {}
        Source::News => cx.hear(News { vni, mac: header.source, place }),
        Source::Refused(reason) => return Err(reason),
    }
    if transport.is_some_and(|transport| is_own_outer(cx, frame, transport)) {
        return Err(DropReason::SelfEncapsulation);
    }
    match cx.tables.fdb.lookup(vni, header.destination) {
        Forward::Local(to) if to == id => Err(DropReason::SamePort),
        Forward::Local(to) => Ok(Verdict::Local(to)),
        Forward::Remote(peer) => Ok(Verdict::Remote(peer)),
        Forward::Drop(reason) => Err(reason),
        Forward::Flood => Ok(match known_neighbour(cx, id, vni, frame, header) {
            Some((question, mac)) => Verdict::Answer(question, mac),
            None => Verdict::Flood,
        }),
    }
}

/// Whether the frame is one of this switch's own datagrams, come back through a route into the overlay.
fn is_own_outer(cx: &Context<'_>, frame: &[u8], transport: &Transport) -> bool {
    let local = cx.tables.topology.local;
    transport.protocol == UDP && transport.source(frame) == local.ip() && {
        let (to, port) = (transport.destination(frame), transport.destination_port(frame));
        let peers = &cx.tables.topology.peers;
        let peer = peers.find(to).and_then(|id| peers.peer(id));
        port == Some(peer.map_or_else(|| local.port(), |peer| peer.address.port()))
    }
}

/// A question for the address of an announced endpoint that is not itself at the asking port.
fn known_neighbour(
    cx: &Context<'_>,
    id: PortId,
    vni: Vni,
    frame: &[u8],
    header: &Header,
) -> Option<(Question, MacAddr)> {
    if cx.tables.topology.neighbours.is_empty() {
        return None;
    }
    let question = neighbour::question(frame, header)?;
    let mac = *cx.tables.topology.neighbours.get(&(vni, question.target))?;
    // An endpoint that probes for a duplicate of its own address must not be told that there is one.
    let foreign = question.asker != mac && cx.tables.fdb.lookup(vni, mac) != Forward::Local(id);
    foreign.then_some((question, mac))
}

fn answer(
    cx: &mut Context<'_>,
    network: &Network,
    id: PortId,
    question: &Question,
    mac: MacAddr,
) -> Result<(), DropReason> {
    let mut buf = cx.pool.take().ok_or(DropReason::NoBuffer)?;
    let len = question.answer(mac, buf.room());
    buf.set_len(len);
    network.traffic.by(cx.worker).sent(1, len);
    let (packet, range) = (cx.out.packets.len(), buf.range());
    cx.out.packets.push(buf);
    cx.out.deliveries.push(Delivery { port: id, packet, range, more: 0..0, offload: Offload::default() });
    Ok(())
}

fn local(cx: &mut Context<'_>, network: &Network, to: PortId, frame: &mut Stowed) -> Result<(), DropReason> {
    let port = cx.tables.topology.ports.get(&to).ok_or(DropReason::PortGone)?;
    if needs_checksum(port, frame.offload) {
        finish_checksum(cx, frame)?;
    }
    deliver(cx, network, to, port, frame)
}

fn flood(
    cx: &mut Context<'_>,
    id: PortId,
    port: &Port,
    network: &Network,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if network.peers.is_empty() && network.ports.len() < 2 {
        return Err(DropReason::NoMembers);
    }
    let frames = match frame.offload.gso {
        Some(gso) => frame.range.len().div_ceil(usize::from(gso.size).max(1)),
        None => 1,
    };
    if !cx.may_flood(port, frames) {
        return Err(DropReason::StormLimit);
    }
    let topology = &cx.tables.topology;
    let others = || {
        let others = network.ports.iter().filter(|&&other| other != id);
        others.filter_map(|&other| Some((other, topology.ports.get(&other)?)))
    };
    if others().any(|(_, other)| needs_checksum(other, frame.offload)) {
        finish_checksum(cx, frame)?;
    }
    // The tunnels first: encapsulation may finish the checksum in the bytes that the ports share.
    let mut outcome = if network.peers.is_empty() {
        Ok(())
    } else {
        encap(cx, network, port.spec.vni, &network.peers, frame)
    };
    for (other, entry) in others() {
        // One that can't have it must not keep it from the others.
        if let Err(reason) = deliver(cx, network, other, entry, frame) {
            outcome = Err(reason);
        }
    }
    outcome
}

/// Puts the frame behind a VXLAN header, once whatever the number of peers, and names it for each of them.
fn encap(
    cx: &mut Context<'_>,
    network: &Network,
    vni: Vni,
    peers: &[VtepId],
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if !cx.out.has_room() {
        return Err(DropReason::BatchFull);
    }
    let topology = &cx.tables.topology;
    let mut peers = peers.iter().filter_map(|&id| Some((id, topology.peers.peer(id)?.address)));
    let (peer, to) = peers.next().ok_or(DropReason::UnknownPeer)?;
    let first = cx.out.transmits.len();
    let outcome = encap_for(cx, vni, peer, to, frame);
    let runs = first..cx.out.transmits.len();
    for (peer, to) in peers {
        for index in runs.clone() {
            let copy = Transmit { peer, to, ..cx.out.transmits[index].clone() };
            cx.out.transmits.push(copy);
        }
    }
    let (frames, bytes) = cx.out.transmits[first..].iter().fold((0, 0), |(frames, bytes), transmit| {
        (frames + transmit.datagrams(), bytes + transmit.inner_bytes())
    });
    network.traffic.by(cx.worker).sent(frames, bytes);
    outcome
}

fn encap_for(
    cx: &mut Context<'_>,
    vni: Vni,
    peer: VtepId,
    to: SocketAddr,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if frame.offload.gso.is_none() {
        finish_checksum(cx, frame)?;
    }
    let Outbox { packets, transmits, .. } = &mut *cx.out;
    let bytes = packets[frame.packet].slice(frame.range.clone());
    let entropy = flow::entropy(bytes, &frame.header, frame.transport.as_ref());
    if frame.offload.gso.is_some() {
        let segments = Segmenter::new(bytes, frame.offload, &frame.header)?;
        let outcome = runs::cut(&segments, &vxlan::emit(vni), cx.pool, cx.made, |run| {
            let packet = packets.len() + run.made;
            transmits.push(Transmit { peer, to, entropy, packet, range: run.range, segment: run.stride });
        });
        packets.append(cx.made);
        return outcome;
    }
    debug_assert_eq!(frame.range.start, HEADROOM, "a port's frame starts behind the headroom");
    let range = HEADROOM - vxlan::HEADER_LEN..frame.range.end;
    if range.len() > RUN_BYTES_MAX {
        return Err(DropReason::TooBig);
    }
    packets[frame.packet].slice_mut(range.start..HEADROOM).copy_from_slice(&vxlan::emit(vni));
    transmits.push(Transmit { peer, to, entropy, packet: frame.packet, segment: range.len(), range });
    Ok(())
}
