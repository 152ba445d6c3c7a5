//! How a connection begins: which of its sides is there, and which is asked for.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::{ANSWER_PATIENCE, BUFFER_LEN, Connection, Ended, Heard};
use crate::gateway::frame::Back;
use crate::gateway::nat::connections::Key;
use crate::gateway::nat::link::Link;
use crate::gateway::nat::outer::Outer;
use crate::gateway::streams::add_way_back;

/// What one from outside begins with.
#[derive(Debug)]
pub(in crate::gateway::nat) struct Terms {
    /// What inside is sent before anything else.
    pub(in crate::gateway::nat) ahead: Vec<u8>,
    /// How long inside may take to answer.
    pub(in crate::gateway::nat) patience: Duration,
    /// Whether somebody wants the outer side back if inside does not take it.
    pub(in crate::gateway::nat) returned: bool,
    /// Bytes that may wait, each way: at most [`BUFFER_LEN`].
    pub(in crate::gateway::nat) buffer_len: usize,
}

impl Connection {
    /// One whose outer side is connected to `outside`, and whose inner one awaits the SYN that asked for it.
    /// `back` is from outside's address.
    pub(in crate::gateway::nat) fn outward(
        outer: TcpStream,
        outside: SocketAddr,
        back: Back,
        mtu: usize,
        (seed, now): (u64, Instant),
    ) -> Option<Self> {
        let (interface, mut socket) = inner(outside.ip(), back, (mtu, BUFFER_LEN), seed)?;
        socket.listen((outside.ip(), outside.port())).ok()?;
        Some(Self::new(Outer::Socket(outer), interface, socket, back, now))
    }

    /// One whose outer side is a client's, whom inside sees as `key.outside`, and whose inner one asks inside for it.
    /// The outer side is given back where that can't be.
    pub(in crate::gateway::nat) fn inward(
        (outer, terms): (Outer, Terms),
        key: &Key,
        back: Back,
        mtu: usize,
        (seed, now): (u64, Instant),
    ) -> Result<Self, Outer> {
        let client = key.outside.ip();
        let Some((mut interface, mut socket)) = inner(client, back, (mtu, terms.buffer_len), seed) else {
            return Err(outer);
        };
        let (to, from) = ((key.inside.ip(), key.inside.port()), (client, key.outside.port()));
        if socket.connect(interface.context(), to, from).is_err() {
            return Err(outer);
        }
        let Terms { ahead, patience, returned, .. } = terms;
        let new = Self::new(outer, interface, socket, back, now);
        Ok(Self { answered: false, ahead, patience, returned, ..new })
    }

    fn new(outer: Outer, interface: Interface, socket: Socket<'static>, back: Back, now: Instant) -> Self {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Self {
            outer,
            ahead: Vec::new(),
            patience: ANSWER_PATIENCE,
            returned: false,
            readable: true,
            writable: true,
            broken: false,
            interface,
            sockets,
            socket,
            back,
            answered: true,
            asked_again: false,
            ends: Ended::default(),
            heard: Heard { any: now, inside: now },
            start: now,
        }
    }
}

/// A socket that is at an outside address, on an interface of its own.
fn inner(
    own: IpAddr,
    back: Back,
    (mtu, buffer_len): (usize, usize),
    seed: u64,
) -> Option<(Interface, Socket<'static>)> {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut link = Link { received: None, sent: &mut Vec::new(), back, mtu };
    let mut interface = Interface::new(config, &mut link, time::Instant::ZERO);
    let mut full = false;
    let cidr = IpCidr::new(own.into(), if own.is_ipv4() { 32 } else { 128 });
    interface.update_ip_addrs(|addresses| full = addresses.push(cidr).is_err());
    add_way_back(&mut interface, back.ends);
    let buffer = || SocketBuffer::new(vec![0; buffer_len]);
    let mut socket = Socket::new(buffer(), buffer());
    // Outside has decided already what goes in one segment.
    socket.set_nagle_enabled(false);
    (!full).then_some((interface, socket))
}
