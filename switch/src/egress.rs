//! A frame's way out of a port.
//!
//! 1. [`egress`] takes the frame's header apart and asks [`judge`] what is to be done with it.
//! 2. [`judge`]: source check and learning, self-encapsulation, neighbour questions, look-up.
//! 3. [`answer`] replies to a neighbour question on the spot.
//! 4. [`local`] hands the frame to another port as it is.
//! 5. [`balance`] gives what is for a service to one of its tasks, and goes on as for that.
//! 6. [`flood`] does 4 and 7 for everybody in the network (head-end replication), within the port's
//!    storm limit.
//! 7. [`remote`] takes the way to one peer, [`replicate`] to many: [`Tunnel`] says how. Of what is too big for one
//!    peer's path the sender is told ([`tell_too_big`]).
//! 8. [`encap`] puts the frame behind a VXLAN header and seals it where the network is sealed, [`encap_cut`]
//!    does so with its segments, [`encap_copy`] with a copy for each of many peers.
//!
//! The functions stand in that order.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::PoisonError;

use crate::balance::path;
use crate::datapath::Context;
use crate::deliver::{Stowed, deliver, finish_checksum, needs_checksum, restore};
use crate::drops::DropReason;
use crate::fdb::{Forward, Place, Source};
use crate::io::Frame;
use crate::neighbour::{self, Question};
use crate::outbox::{Delivery, Outbox, Transmit};
use crate::packet::{DATA_MAX, HEADROOM, PacketBuf};
use crate::path_mtu;
use crate::runs;
use crate::segment::Segmenter;
use crate::tables::{Network, News, Port, PortId};
use crate::tunnel::{Tunnel, Wrap};
use crate::vtep::VtepId;
use crate::wire::ethernet::Header;
use crate::wire::flow::{self, Transport, UDP};
use crate::wire::virtio::Offload;
use crate::wire::{MacAddr, Vni};

/// What is to be done with a frame.
enum Verdict {
    Answer(Question, MacAddr),
    Local(PortId),
    Remote(VtepId),
    Balance,
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
        Ok(Verdict::Local(to)) => local(cx, port.spec.vni, network, to, &mut stowed),
        Ok(Verdict::Remote(peer)) => remote(cx, id, port, network, peer, &mut stowed),
        Ok(Verdict::Balance) => balance(cx, id, port, network, &mut stowed),
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
        Forward::Service => Ok(Verdict::Balance),
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
        let to = transport.destination(frame);
        let peers = &cx.tables.topology.peers;
        transport.destination_port(frame).is_some_and(|port| {
            let to = SocketAddr::new(to, port);
            peers.exact(to).is_some() || (port == local.port() && peers.find(to).is_none())
        })
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
    give_back(cx, network, id, buf);
    Ok(())
}

/// Gives the port a frame of ours.
fn give_back(cx: &mut Context<'_>, network: &Network, id: PortId, buf: PacketBuf) {
    let (packet, range) = (cx.out.packets.len(), buf.range());
    network.traffic.by(cx.worker).sent(1, range.len());
    cx.out.packets.push(buf);
    cx.out.deliveries.push(Delivery { port: id, packet, range, more: 0..0, offload: Offload::default() });
}

fn local(
    cx: &mut Context<'_>,
    vni: Vni,
    network: &Network,
    to: PortId,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    let port = cx.tables.topology.ports.get(&to).ok_or(DropReason::PortGone)?;
    restore(cx, vni, network, frame);
    if needs_checksum(port, frame.offload) {
        finish_checksum(cx, frame)?;
    }
    deliver(cx, network, to, port, frame)
}

/// Gives a service's frame to one of its tasks; tells the sender if there is none.
fn balance(
    cx: &mut Context<'_>,
    id: PortId,
    port: &Port,
    network: &Network,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    let (vni, mac) = (port.spec.vni, frame.header.destination);
    let topology = &cx.tables.topology;
    let bytes = cx.out.packets[frame.packet].slice(frame.range.clone());
    if let Some(question) = neighbour::poll(bytes, &frame.header)
        && topology.neighbours.get(&(vni, question.target)) == Some(&mac)
    {
        return answer(cx, network, id, &question, mac);
    }
    let (Some(service), Some(flows)) = (network.services.get(&mac), &topology.flows) else {
        return Err(DropReason::NotBalanced);
    };
    if let Err(reason) = path::to_task(flows, service, vni, &mut frame.headers(cx.out), cx.now) {
        let mut buf = cx.pool.take().ok_or(reason)?;
        match path::refuse(reason, service, &frame.headers(cx.out), cx.now, buf.room()) {
            Some(len) => {
                buf.set_len(len);
                give_back(cx, network, id, buf);
            }
            None => cx.pool.put(buf),
        }
        return Err(reason);
    }
    match cx.tables.fdb.lookup(vni, frame.header.destination) {
        // The sender's own port, too, if it is the task.
        Forward::Local(to) => local(cx, vni, network, to, frame),
        Forward::Remote(peer) => remote(cx, id, port, network, peer, frame),
        Forward::Flood => flood(cx, id, port, network, frame),
        Forward::Drop(reason) => Err(reason),
        Forward::Service => Err(DropReason::NotBalanced),
    }
}

fn flood(
    cx: &mut Context<'_>,
    id: PortId,
    port: &Port,
    network: &Network,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    let crosses = !port.here_only && !network.peers.is_empty();
    if !crosses && network.ports.len() < 2 {
        return Err(DropReason::NoMembers);
    }
    let frames = match frame.offload.gso {
        Some(gso) => frame.range.len().div_ceil(usize::from(gso.size).max(1)),
        None => 1,
    };
    if !cx.may_flood(port, frames) {
        return Err(DropReason::StormLimit);
    }
    restore(cx, port.spec.vni, network, frame);
    let topology = &cx.tables.topology;
    let others = || {
        let others = network.ports.iter().filter(|&&other| other != id);
        others.filter_map(|&other| Some((other, topology.ports.get(&other)?)))
    };
    if others().any(|(_, other)| needs_checksum(other, frame.offload)) {
        finish_checksum(cx, frame)?;
    }
    // The tunnels first: encapsulation may finish the checksum in the bytes that the ports share.
    let mut outcome = if crosses { replicate(cx, network, port.spec.vni, frame) } else { Ok(()) };
    for (other, entry) in others() {
        // One that can't have it must not keep it from the others.
        if let Err(reason) = deliver(cx, network, other, entry, frame) {
            outcome = Err(reason);
        }
    }
    outcome
}

/// Sends the frame to one peer, sealed in its own buffer where the network is.
fn remote(
    cx: &mut Context<'_>,
    id: PortId,
    port: &Port,
    network: &Network,
    peer: VtepId,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if !cx.out.has_room() {
        return Err(DropReason::BatchFull);
    }
    let first = cx.out.transmits.len();
    let tunnel = Tunnel::find(&cx.tables.topology, network, port.spec.vni, peer)?;
    if let Some(transport) = &frame.transport {
        let bytes = cx.out.packets[frame.packet].slice_mut(frame.range.clone());
        let packet_max = tunnel.frame_max().saturating_sub(frame.header.payload);
        path_mtu::clamp_mss(bytes, transport, frame.offload.checksum, packet_max);
    }
    let outcome = encap(cx, &tunnel, frame);
    count_sent(cx, network, first);
    if outcome == Err(DropReason::TooBig) {
        tell_too_big(cx, (port.spec.vni, network), id, peer, tunnel.frame_max(), frame);
    }
    outcome
}

/// Tells the sender what fits, if it can be told and not too many were of late.
fn tell_too_big(
    cx: &mut Context<'_>,
    (vni, network): (Vni, &Network),
    id: PortId,
    peer: VtepId,
    frame_max: usize,
    frame: &Stowed,
) {
    let Some(vtep) = cx.tables.topology.peers.peer(peer) else { return };
    let Some(mut buf) = cx.pool.take() else { return };
    let bytes = cx.out.packets[frame.packet].slice(frame.range.clone());
    let len = path_mtu::too_big(bytes, &frame.header, frame_max, buf.room());
    // Nothing panics while it holds the lock.
    let may = |cx: &Context<'_>| vtep.too_big.lock().unwrap_or_else(PoisonError::into_inner).allow(1, cx.now);
    match len.filter(|_| may(cx)) {
        Some(len) => {
            buf.set_len(len);
            let (packet, range) = (cx.out.packets.len(), buf.range());
            give_back(cx, network, id, buf);
            // Of what a service was sent it comes from the service.
            if let Ok(mut message) = Stowed::find(cx, packet, range) {
                restore(cx, vni, network, &mut message);
            }
        }
        None => cx.pool.put(buf),
    }
}

/// Sends the frame to every peer: in clear the same bytes to all, else a copy sealed for each.
fn replicate(
    cx: &mut Context<'_>,
    network: &Network,
    vni: Vni,
    frame: &mut Stowed,
) -> Result<(), DropReason> {
    if !cx.out.has_room() {
        return Err(DropReason::BatchFull);
    }
    let topology = &cx.tables.topology;
    let first = cx.out.transmits.len();
    let mut shared: Option<Range<usize>> = None;
    let (mut copies, mut outcome) = (Copies::default(), Ok(()));
    for &peer in &network.peers {
        let sent = Tunnel::find(topology, network, vni, peer).and_then(|tunnel| {
            if !tunnel.shares_datagrams() {
                return encap_copy(cx, &tunnel, frame, &mut copies);
            }
            if let Some(runs) = shared.clone() {
                for index in runs {
                    let again = tunnel.transmit_again(&cx.out.transmits[index])?;
                    cx.out.transmits.push(again);
                }
                return Ok(());
            }
            let begin = cx.out.transmits.len();
            let sent = encap(cx, &tunnel, frame);
            // What one peer's path does not take, another's may.
            shared = (sent != Err(DropReason::TooBig)).then_some(begin..cx.out.transmits.len());
            sent
        });
        // One that can't have it must not keep it from the others.
        if let Err(reason) = sent {
            outcome = Err(reason);
        }
    }
    count_sent(cx, network, first);
    outcome
}

fn count_sent(cx: &Context<'_>, network: &Network, first: usize) {
    let (frames, bytes) = cx.out.transmits[first..].iter().fold((0, 0), |(frames, bytes), transmit| {
        (frames + transmit.datagrams(), bytes + transmit.inner_bytes())
    });
    network.traffic.by(cx.worker).sent(frames, bytes);
}

/// Wraps the frame in its own buffer, or cuts it into others, for the tunnel's peer.
fn encap(cx: &mut Context<'_>, tunnel: &Tunnel<'_>, frame: &mut Stowed) -> Result<(), DropReason> {
    if frame.offload.gso.is_some() {
        return encap_cut(cx, tunnel, frame);
    }
    if frame.range.len() > tunnel.frame_max() {
        return Err(DropReason::TooBig);
    }
    finish_checksum(cx, frame)?;
    let entropy = entropy(cx, frame);
    let Outbox { packets, transmits, .. } = &mut *cx.out;
    debug_assert_eq!(frame.range.start, HEADROOM, "a port's frame starts behind the headroom");
    let wrap = tunnel.wrap();
    let range = HEADROOM - wrap.before()..frame.range.end + wrap.behind();
    wrap.wrapper(1)?.close(packets[frame.packet].slice_mut(range.clone()));
    transmits.push(tunnel.transmit(entropy, frame.packet, range.clone(), range.len()));
    Ok(())
}

fn encap_cut(cx: &mut Context<'_>, tunnel: &Tunnel<'_>, frame: &Stowed) -> Result<(), DropReason> {
    let entropy = entropy(cx, frame);
    let Outbox { packets, heads, transmits, .. } = &mut *cx.out;
    let bytes = packets[frame.packet].slice(frame.range.clone());
    let segments = Segmenter::new(bytes, frame.offload, &frame.header)?;
    if segments.segment_len(0) > tunnel.frame_max() {
        return Err(DropReason::TooBig);
    }
    if let Wrap::Clear(vni) = tunnel.wrap() {
        return runs::scatter(&segments, vni, cx.pool, heads, |run| {
            let payload = frame.range.start + run.payload.start..frame.range.start + run.payload.end;
            let transmit = tunnel.transmit(entropy, frame.packet, payload, run.stride);
            transmits.push(Transmit { heads: Some(run.heads), ..transmit });
        });
    }
    let outcome = runs::cut(&segments, tunnel.wrap(), cx.pool, cx.made, |run| {
        transmits.push(tunnel.transmit(entropy, packets.len() + run.made, run.range, run.stride));
    });
    packets.append(cx.made);
    outcome
}

/// As [`encap`], but leaves the frame as it is for the other receivers.
fn encap_copy(
    cx: &mut Context<'_>,
    tunnel: &Tunnel<'_>,
    frame: &mut Stowed,
    copies: &mut Copies,
) -> Result<(), DropReason> {
    if frame.offload.gso.is_some() {
        return encap_cut(cx, tunnel, frame);
    }
    if frame.range.len() > tunnel.frame_max() {
        return Err(DropReason::TooBig);
    }
    finish_checksum(cx, frame)?;
    let entropy = entropy(cx, frame);
    let wrap = tunnel.wrap();
    let len = frame.range.len() + wrap.overhead();
    let mut wrapper = wrap.wrapper(1)?;
    let (packet, range) = copies.room(cx, len)?;
    let Outbox { packets, transmits, .. } = &mut *cx.out;
    let [original, copy] =
        packets.get_disjoint_mut([frame.packet, packet]).expect("a copy is in another buffer");
    let datagram = copy.slice_mut(range.clone());
    datagram[wrap.before()..len - wrap.behind()].copy_from_slice(original.slice(frame.range.clone()));
    wrapper.close(datagram);
    transmits.push(tunnel.transmit(entropy, packet, range, len));
    Ok(())
}

/// Room for a frame's copies, in as few buffers as hold them.
#[derive(Default)]
struct Copies {
    /// The buffer being filled, and where it is free.
    open: Option<(usize, Range<usize>)>,
}

impl Copies {
    /// Room for `len` bytes, at most [`RUN_BYTES_MAX`].
    fn room(&mut self, cx: &mut Context<'_>, len: usize) -> Result<(usize, Range<usize>), DropReason> {
        let (packet, free) = match self.open.take() {
            Some((packet, free)) if free.len() >= len => (packet, free),
            _ => {
                cx.out.packets.push(cx.pool.take().ok_or(DropReason::NoBuffer)?);
                (cx.out.packets.len() - 1, HEADROOM..HEADROOM + DATA_MAX)
            }
        };
        let range = free.start..free.start + len;
        self.open = Some((packet, range.end..free.end));
        Ok((packet, range))
    }
}

fn entropy(cx: &Context<'_>, frame: &Stowed) -> u32 {
    let bytes = cx.out.packets[frame.packet].slice(frame.range.clone());
    flow::entropy(bytes, &frame.header, frame.transport.as_ref())
}
