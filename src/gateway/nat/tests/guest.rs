//! Inside's side: a way out with its host's sockets, and a guest's TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::gateway::addresses::Addresses;
use crate::gateway::door::Door;
use crate::gateway::entrance::{Entrance, Resident};
use crate::gateway::frame::{Back, Ends};
use crate::gateway::nat::carry::FlowLimits;
use crate::gateway::nat::{Count, Inlet, Kind, Listing, Nat, Outside, Policy, Token, Way};
use crate::gateway::packets::Packets;
use crate::gateway::station::Carried;
use crate::gateway::streams::add_way_back;
use crate::switch::offload::finish_checksum;
use crate::switch::wire::flow::Transport;
use crate::switch::wire::virtio::Checksum;
use crate::switch::wire::{MacAddr, ethernet};

/// Long enough for anything that happens at all, on the slowest machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
pub(super) const CLIENT: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);
pub(super) const OWN: MacAddr = MacAddr([2, 0x42, 10, 0, 9, 1]);
pub(super) const MTU: usize = 1_450;
/// The gateway's addresses.
pub(super) const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 9, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))];

/// The guest's address of the same family.
pub(super) fn inside(other: IpAddr) -> IpAddr {
    match other {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 9, 7).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7).into(),
    }
}

pub(super) struct World {
    nat: Nat,
    /// Held for its token alone: nothing comes there.
    _port: OwnedFd,
    port: Token,
    start: Instant,
    /// How far time is ahead.
    ahead: Duration,
}

impl World {
    /// One whose guests may go everywhere.
    pub(super) fn open() -> Self {
        Self::limited(FlowLimits::default())
    }

    pub(super) fn limited(limits: FlowLimits) -> Self {
        Self::new(Policy::only_without(Vec::new()), limits)
    }

    pub(super) fn new(policy: Policy, limits: FlowLimits) -> Self {
        let mtu = u32::try_from(MTU).unwrap();
        let mut nat = Nat::limited(&Outside::new(policy, mtu), 1, limits).unwrap();
        let port = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let token = nat.watch(&port).unwrap();
        Self { nat, _port: port, port: token, start: Instant::now(), ahead: Duration::ZERO }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// Gives the way out a frame of the guest's, with its checksum right or not: the station has looked at it.
    pub(super) fn handle(&mut self, frame: &[u8]) {
        assert!(self.try_handle(frame), "no packet");
    }

    /// The same; whether there was a packet in it.
    pub(super) fn try_handle(&mut self, frame: &[u8]) -> bool {
        let header = ethernet::Header::parse(frame).unwrap();
        let Some(found) = Transport::find(frame, &header) else { return false };
        let ends = match found.source(frame) {
            IpAddr::V4(source) => Ends::V4(Ipv4Addr::new(10, 0, 9, 1), source),
            IpAddr::V6(source) => Ends::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), source),
        };
        let back = Back { own_mac: OWN, mac: CLIENT, ends };
        self.nat.handle(frame, Carried { found, back }, self.now());
        true
    }

    /// Has these doors lead to a port of the guest's, which has its way out here or not.
    pub(super) fn publish(&mut self, doors: &[Arc<Door>], port: u16, leads_out: bool) {
        self.publish_at(&GATEWAY, doors, port, leads_out);
    }

    /// The same, of a guest that has no IPv6.
    pub(super) fn publish_v4(&mut self, doors: &[Arc<Door>], port: u16) {
        self.publish_at(&GATEWAY[..1], doors, port, true);
    }

    fn publish_at(&mut self, gateways: &[IpAddr], doors: &[Arc<Door>], port: u16, leads_out: bool) {
        let way = |ends: Ends, to: IpAddr| {
            let back = Back { own_mac: OWN, mac: CLIENT, ends };
            Way { back, to: SocketAddr::new(to, port), leads_out }
        };
        let ways: Vec<Way> =
            gateways.iter().map(|&own| way(Ends::of(own, inside(own)).unwrap(), inside(own))).collect();
        let inlet = |door: &Arc<Door>| Inlet { door: Arc::clone(door), ways: ways.clone() };
        let inlets = doors.iter().map(inlet).collect();
        self.list(Listing { inlets, endpoints: Default::default() });
    }

    /// Has endpoints of these ids, each of them the guest, for whoever has connections and datagrams for them.
    pub(super) fn entrances<const N: usize>(&mut self, ids: [&str; N]) -> [Entrance; N] {
        let ids = ids.map(Arc::<str>::from);
        self.list(Listing { inlets: Vec::new(), endpoints: ids.iter().cloned().collect() });
        let (at, ways_out) = (Addresses::new(&GATEWAY).unwrap(), GATEWAY.to_vec());
        let resident =
            Resident { id: "".into(), mac: CLIENT, addresses: GATEWAY.map(inside).into(), ways_out };
        ids.map(|id| Entrance::new(Resident { id, ..resident.clone() }, at.clone(), self.nat.board()))
    }

    /// Until the list has been taken.
    fn list(&mut self, listing: Listing) {
        self.nat.board().write(listing);
        self.until(|world| world.nat.board().is_taken());
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        self.ahead += time;
        self.nat.tick(self.now());
    }

    /// What goes inside, as it arrives there, with checksums finished.
    pub(super) fn frames(&mut self) -> Vec<Vec<u8>> {
        let finished = |(mut frame, offload): (Vec<u8>, crate::switch::wire::virtio::Offload)| {
            if let Checksum::Partial { start, offset } = offload.checksum {
                finish_checksum(&mut frame, start, offset).unwrap();
            }
            frame
        };
        self.nat.frames().map(finished).collect()
    }

    pub(super) fn next_frame(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        self.until(|world| {
            frames = world.frames();
            !frames.is_empty()
        });
        assert_eq!(frames.len(), 1);
        frames.remove(0)
    }

    /// Works until that is so.
    pub(super) fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "it never comes");
            self.work();
        }
    }

    fn work(&mut self) {
        let (_, ready) = self.nat.wait(self.port, Some(Duration::from_millis(1))).unwrap();
        let now = self.now();
        ready.into_iter().for_each(|ready| self.nat.ready(ready, now));
        self.nat.tick(now);
    }

    /// Lets a guest work until that is so.
    pub(super) fn run(&mut self, guest: &mut Guest, mut done: impl FnMut(&mut Guest) -> bool) {
        self.run_until(guest, |_, guest| done(guest));
    }

    /// Lets a guest work, once at least, until that is so.
    pub(super) fn run_until(&mut self, guest: &mut Guest, mut done: impl FnMut(&Self, &mut Guest) -> bool) {
        let start = self.start;
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "it never comes: {}", guest.seen());
            guest.work(self.now().saturating_duration_since(start));
            for packet in guest.packets.sent.drain(..) {
                let frame = Back { own_mac: CLIENT, mac: OWN, ends: guest.ends }.frame(&packet);
                self.handle(&frame);
            }
            self.work();
            let arrived = self.frames().into_iter().map(|frame| frame[ethernet::HEADER_LEN..].to_vec());
            guest.packets.received.extend(arrived);
            if done(self, guest) {
                return;
            }
        }
    }

    pub(super) fn count(&self, what: Count) -> u64 {
        self.nat.counters().count(what)
    }

    pub(super) fn open_flows(&self, kind: Kind) -> u64 {
        self.nat.counters().open(kind)
    }
}

/// A guest with one connection.
pub(super) struct Guest {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
    packets: Packets,
    ends: Ends,
    unsent: Vec<u8>,
    ends_sending: bool,
    pub(super) received: Vec<u8>,
}

impl Guest {
    /// One that asks for a connection from a port of its own.
    pub(super) fn connect(to: SocketAddr, from: u16) -> Self {
        let own = inside(to.ip());
        let ends = match (own, to.ip()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => Ends::V4(own, other),
            (IpAddr::V6(own), IpAddr::V6(other)) => Ends::V6(own, other),
            _ => unreachable!("both are of one family"),
        };
        let mut packets = Packets::default();
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut packets, time::Instant::ZERO);
        let cidr = IpCidr::new(own.into(), if own.is_ipv4() { 32 } else { 128 });
        interface.update_ip_addrs(|addresses| addresses.push(cidr).unwrap());
        add_way_back(&mut interface, ends);
        let buffer = || SocketBuffer::new(vec![0; 200_000]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_ack_delay(None);
        socket.connect(interface.context(), (to.ip(), to.port()), (own, from)).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        let (unsent, received) = (Vec::new(), Vec::new());
        Self { interface, sockets, socket, packets, ends, unsent, ends_sending: false, received }
    }

    pub(super) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend(bytes.iter().rev());
    }

    /// Ends sending, behind all that is to be sent.
    pub(super) fn finish(&mut self) {
        self.ends_sending = true;
    }

    /// One that waits for a connection at a port.
    pub(super) fn listen(own: IpAddr, port: u16) -> Self {
        let mut guest = Self::connect(SocketAddr::new(own, 1), 1);
        guest.socket().abort();
        let (buffer, other) = (SocketBuffer::new(vec![0; 200_000]), SocketBuffer::new(vec![0; 200_000]));
        let mut socket = Socket::new(buffer, other);
        socket.set_ack_delay(None);
        socket.listen(port).unwrap();
        guest.sockets = SocketSet::new(Vec::new());
        guest.socket = guest.sockets.add(socket);
        guest
    }

    /// Whom it is connected to.
    pub(super) fn peer(&mut self) -> SocketAddr {
        let peer = self.socket().remote_endpoint().unwrap();
        SocketAddr::new(peer.addr.into(), peer.port)
    }

    /// Bytes that have not been taken by its socket.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// What its side of the connection looks like.
    fn seen(&mut self) -> String {
        let (received, unsent) = (self.received.len(), self.unsent.len());
        let socket = self.socket();
        let (state, queues) = (socket.state(), (socket.recv_queue(), socket.send_queue()));
        format!("{state:?}, {received} bytes received, {unsent} unsent, {queues:?} on the way")
    }

    fn work(&mut self, since: Duration) {
        let at = time::Instant::from_micros(i64::try_from(since.as_micros()).unwrap());
        self.interface.poll(at, &mut self.packets, &mut self.sockets);
        let socket = self.sockets.get_mut::<Socket<'_>>(self.socket);
        while socket.can_recv() {
            self.received.extend(socket.recv(|bytes| (bytes.len(), bytes.to_vec())).unwrap());
        }
        while socket.can_send() && !self.unsent.is_empty() {
            let unsent = &mut self.unsent;
            let taken = socket.send(|room| {
                let len = room.len().min(unsent.len());
                room[..len].iter_mut().for_each(|byte| *byte = unsent.pop().unwrap());
                (len, len)
            });
            assert!(taken.unwrap() > 0);
        }
        if self.ends_sending && self.unsent.is_empty() && socket.state() != State::SynSent {
            socket.close();
        }
        self.interface.poll(at, &mut self.packets, &mut self.sockets);
    }
}
