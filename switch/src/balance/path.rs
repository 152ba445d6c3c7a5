//! The two directions of a balanced flow, and its end.

use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use foldhash::quality::FixedState;

use super::flows::{FLOWS_MAX, Flow, Flows, Found, Key, Newcomer, Side, Unopened, WAYS};
use super::packet::{ACK, FIN, Kind, Packet, RST};
use super::refuse;
use super::rewrite::Rewrite;
use super::service::Service;
use super::standing::{Marks, Standing};
use crate::drops::DropReason;
use crate::fdb::Forward;
use crate::outbox::{Delivery, Outbox};
use crate::packet::Pool;
use crate::tables::{PortId, Tables};
use crate::wire::Vni;
use crate::wire::ethernet::Header;
use crate::wire::flow::Transport;
use crate::wire::virtio::{Checksum, Offload};

/// Buckets looked at each second when nothing has changed: all of them in sixteen.
pub(crate) const SWEEP_BUCKETS: usize = FLOWS_MAX / WAYS / 16;

/// How long flows may be silent of clients that are at no port any more: longer than a quiet one's address is known.
const CLIENT_GONE: Duration = Duration::from_secs(3_600);

/// A frame whose headers have been found, to be rewritten.
pub(crate) struct Headers<'a> {
    pub(crate) bytes: &'a mut [u8],
    pub(crate) header: &'a mut Header,
    pub(crate) transport: Option<&'a Transport>,
    pub(crate) checksum: Checksum,
}

impl Headers<'_> {
    fn packet(&self) -> Option<Packet> {
        Packet::parse(self.bytes, self.header, self.transport)
    }

    fn rewrite(&mut self, packet: &Packet, rewrite: Rewrite) {
        rewrite.apply(self.bytes, self.header, packet, self.checksum);
    }
}

/// Writes what the sender of a packet is told that no task gets, for that reason, to the start of `out`; gives its length.
/// `None` if it is told nothing.
///
/// # Panics
/// If `out` has no room for an Ethernet header and 1,280 bytes.
pub(crate) fn refuse(
    reason: DropReason,
    service: &Service,
    frame: &Headers<'_>,
    now: Instant,
    out: &mut [u8],
) -> Option<usize> {
    if !matches!(reason, DropReason::NoTask | DropReason::TaskGone) {
        return None;
    }
    let packet = frame.packet()?;
    let len = refuse::packet(frame.bytes, frame.header, &packet, out)?;
    (!refuse::is_message(&packet) || service.may_tell(now)).then_some(len)
}

/// Which of its two roles a client has that is the task, too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Task,
}

/// Gives a client's packet to a task.
///
/// # Errors
/// Nobody gets it; the frame is as it was.
pub(crate) fn to_task(
    flows: &Flows,
    service: &Service,
    vni: Vni,
    frame: &mut Headers<'_>,
    now: Instant,
) -> Result<(), DropReason> {
    let Some(packet) = frame.packet() else { return Err(DropReason::NotBalanced) };
    if !service.spec().addresses.contains(&packet.destination) {
        return Err(DropReason::NotBalanced);
    }
    let client = Client { flows, service, vni, header: *frame.header, packet: &packet, now };
    let (found, role) = client.flow()?;
    flows.touch(&found, now);
    note(&found, &packet, role);
    if let Some(fragments) = packet.fragments {
        follow(flows, fragments.client_key(vni), &found.flow, now)?;
    }
    frame.rewrite(&packet, Rewrite::to_task(&found.flow));
    Ok(())
}

/// Gives what a task says in a balanced flow the virtual address; leaves everything else as it is.
pub(crate) fn to_client(flows: &Flows, vni: Vni, frame: &mut Headers<'_>, now: Instant) {
    let Some(packet) = frame.packet() else { return };
    if matches!(packet.kind, Kind::EchoRequest) {
        return;
    }
    let task = packet.tuple.source;
    let Some(found) = flows.find(&packet.tuple.answer_key(vni), Side::Task(task)) else { return };
    if found.flow.is_hairpin() {
        return;
    }
    flows.touch(&found, now);
    note(&found, &packet, Role::Task);
    if let Some(fragments) = packet.fragments {
        // Without room its other fragments go unchanged, and the client does not put them together.
        let _ = follow(flows, fragments.answer_key(vni), &found.flow, now);
    }
    frame.rewrite(&packet, Rewrite::to_client(&found.flow, packet.source));
}

/// A packet from a client, with what decides where it goes.
struct Client<'a, 't> {
    flows: &'t Flows,
    service: &'a Service,
    vni: Vni,
    header: Header,
    packet: &'a Packet,
    now: Instant,
}

impl<'t> Client<'_, 't> {
    fn flow(&self) -> Result<(Found<'t>, Role), DropReason> {
        let vip = Side::Client(self.packet.destination);
        if let Some(found) = self.flows.find(&self.packet.tuple.client_key(self.vni), vip)
            && !self.may_begin_anew(&found)
        {
            return self.served(found, Role::Client);
        }
        if self.service.has_task(self.header.source, self.packet.source) {
            let found = self.flows.find(&self.packet.tuple.own_key(self.vni), vip);
            if let Some(found) = found.filter(|found| found.flow.is_hairpin()) {
                return self.served(found, Role::Task);
            }
        }
        self.open().map(|found| (found, Role::Client))
    }

    /// Whether a SYN is that of another connection, with the ports of one that is over or can't go on.
    fn may_begin_anew(&self, found: &Found<'_>) -> bool {
        let over = || Standing::of(found.flow.key.protocol, found.marks()).is_over();
        self.packet.is_syn() && (over() || !self.is_served(found))
    }

    fn is_served(&self, found: &Found<'_>) -> bool {
        found.is_served(self.service.epoch, |flow| self.service.has_task(flow.task_mac, flow.task))
    }

    fn served(&self, found: Found<'t>, role: Role) -> Result<(Found<'t>, Role), DropReason> {
        // Of fragments the first is asked.
        if self.packet.kind == Kind::Later || self.is_served(&found) {
            return Ok((found, role));
        }
        Err(DropReason::TaskGone)
    }

    fn open(&self) -> Result<Found<'t>, DropReason> {
        let packet = self.packet;
        match packet.kind {
            Kind::Later => return Err(DropReason::FragmentUnknown),
            Kind::EchoReply | Kind::Error(_) => return Err(DropReason::NotBalanced),
            Kind::Tcp(segment) if segment.flags & RST != 0 => {
                return Err(DropReason::NotBalanced);
            }
            Kind::Tcp(_) | Kind::Udp | Kind::EchoRequest => {}
        }
        let (key, vip) = (packet.tuple.client_key(self.vni), packet.destination);
        // Always the same for a flow, also in another process: see `choice`.
        let hash = FixedState::default().hash_one((
            key.protocol,
            key.client,
            key.client_port,
            vip,
            key.service_port,
        ));
        let candidates = self.service.candidates(hash, vip);
        let stale = |found: &Found<'_>| self.may_begin_anew(found);
        let (vip_mac, client_mac) = (self.header.destination, self.header.source);
        let newcomer = Newcomer { key, vip, vip_mac, client_mac, epoch: self.service.epoch, now: self.now };
        let opened = self.flows.open(&newcomer, candidates, stale);
        opened.map_err(|unopened| match unopened {
            Unopened::NoTask => DropReason::NoTask,
            Unopened::Full => DropReason::FlowsFull,
        })
    }
}

/// Has a packet's other fragments follow its first: they are a flow of their own, to the same task.
fn follow(flows: &Flows, key: Key, flow: &Flow, now: Instant) -> Result<(), DropReason> {
    let &Flow { vip, vip_mac, client_mac, .. } = flow;
    // A service that knows its task keeps it, whatever its version.
    let newcomer = Newcomer { key, vip, vip_mac, client_mac, epoch: 0, now };
    let task = std::iter::once((flow.task_mac, flow.task));
    flows.open(&newcomer, task, |_| true).map(drop).map_err(|_| DropReason::FlowsFull)
}

/// Takes note of what a packet shows of its flow.
fn note(found: &Found<'_>, packet: &Packet, role: Role) {
    let answered = found.marks().contains(Marks::ANSWERED);
    let segment = match packet.kind {
        Kind::Tcp(segment) => segment,
        Kind::Udp | Kind::EchoReply if role == Role::Task => return found.mark(Marks::ANSWERED),
        _ => return,
    };
    let flag = |flag: u8| segment.flags & flag != 0;
    let ended = match role {
        Role::Client => Marks::CLIENT_ENDED,
        Role::Task => Marks::TASK_ENDED,
    };
    let seen = ended.when(flag(FIN)).and(Marks::RESET.when(flag(RST)));
    match role {
        Role::Task => found.mark(seen.and(Marks::ANSWERED)),
        Role::Client if flag(ACK) => {
            found.note_number(segment.acknowledgment);
            found.mark(seen.and(Marks::ACKNOWLEDGED).and(Marks::CONFIRMED.when(answered)));
        }
        Role::Client => {
            found.note_number(segment.sequence.wrapping_add(segment.len));
            found.mark(seen);
        }
    }
}

/// A look at flows, for the first worker.
pub(crate) struct Sweep<'a> {
    pub(crate) tables: &'a Tables,
    /// Whose shard of the counters to add to.
    pub(crate) worker: usize,
    pub(crate) pool: &'a mut Pool,
    pub(crate) out: &'a mut Outbox,
    pub(crate) now: Instant,
}

impl Sweep<'_> {
    /// Looks at buckets, from `first` on: forgets flows that have been silent for too long, and those that have lost their
    /// task, whose clients are told. Gives where to go on.
    pub(crate) fn run(&mut self, first: usize, buckets: usize) -> usize {
        let Some(flows) = self.tables.topology.flows.clone() else { return first };
        let count = flows.buckets();
        for bucket in first..first + buckets.min(count) {
            flows.sweep(bucket % count, |found| self.keeps(&flows, found));
        }
        (first + buckets) % count
    }

    fn keeps(&mut self, flows: &Flows, found: &Found<'_>) -> bool {
        let flow = &found.flow;
        let network = self.tables.topology.networks.get(&flow.key.vni);
        let service = network.and_then(|network| network.services.get(&flow.vip_mac));
        let served = service.filter(|service| {
            service.spec().addresses.contains(&flow.vip)
                && found.is_served(service.epoch, |flow| service.has_task(flow.task_mac, flow.task))
        });
        let client = self.tables.fdb.lookup(flow.key.vni, flow.client_mac);
        if let Some(service) = served {
            let here = matches!(client, Forward::Local(_));
            let keeps = !flows.is_expired(found, &service.spec().idle, self.now)
                && (here || flows.idle(found, self.now) < CLIENT_GONE);
            if !keeps {
                flows.count_expired();
            }
            return keeps;
        }
        if Standing::of(flow.key.protocol, found.marks()).is_over() {
            flows.count_expired();
            return false;
        }
        let told = match client {
            Forward::Local(port) => self.tell(flows, found, port),
            _ => true,
        };
        if told {
            flows.count_reset();
        }
        !told
    }

    /// Tells the client of a flow that nobody answers any more. `false` if that has to wait for a buffer.
    fn tell(&mut self, flows: &Flows, found: &Found<'_>, port: PortId) -> bool {
        let vni = found.flow.key.vni;
        let mut message = [0; refuse::FLOW_MAX];
        let Some(len) = refuse::flow(found, &mut message) else { return true };
        let Some((packet, range, room)) = Outbox::room_for_heads(&mut self.out.packets, self.pool, len)
        else {
            // Then all are looked at again: buffers come back with the end of the turn.
            flows.ask_for_sweep();
            return false;
        };
        room.copy_from_slice(&message[..len]);
        if let Some(network) = self.tables.topology.networks.get(&vni) {
            network.traffic.by(self.worker).sent(1, len);
        }
        let offload = Offload::default();
        self.out.deliveries.push(Delivery { port, packet, range, more: 0..0, offload });
        true
    }
}
