//! Datagrams to published ports: a flow for each client, and for each address of this host that it asks.
//!
//! Answers leave from the address that was asked, since a client drops those of others. Where one client asks two
//! addresses from one port, the endpoint sees two ports, so that its answers can be told apart.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::UdpSlice;

use super::{Arrival, Owner};
use crate::gateway::door::Door;
use crate::gateway::frame::Back;
use crate::gateway::nat::connections::Key;
use crate::gateway::nat::counters::{Count, Kind};
use crate::gateway::nat::inside::Outward;
use crate::gateway::nat::table::{Full, Limits, Table};
use crate::gateway::nat::turn::Turn;
use crate::gateway::origin;
use crate::switch::io::asked::Asked;

/// Clients of a network's published ports, and of one endpoint's.
pub(in crate::gateway::nat) const UDP_LIMITS: Limits = Limits { network: 4_096, inside: 1_024 };
/// Flows that one client ([`origin::of`]) may have at one published port, so that it leaves room to others.
pub(in crate::gateway::nat) const CLIENT_MAX: usize = 128;
/// How long a flow may be quiet that has had an answer (RFC 4787 REQ-5).
pub(crate) const ANSWERED_IDLE: Duration = Duration::from_secs(300);
/// The same of one that had none, as of those whose sender's address was forged.
pub(crate) const ASKED_IDLE: Duration = Duration::from_secs(60);

/// Flows of clients.
#[derive(Debug)]
pub(super) struct Datagrams {
    flows: Table<Key, Flow>,
    clients: HashMap<Client, Key>,
    /// Flows of each client ([`origin::of`]) at each owner.
    counts: HashMap<(Owner, IpAddr), usize>,
}

/// How a client is answered.
#[derive(Clone, Debug)]
pub(super) enum Return {
    /// By a door, from the address of this host that it has asked.
    Door(Arc<Door>, Asked),
    /// By who has handed its datagrams over.
    Far(Tag, Arc<dyn Reply>),
}

/// Answers clients whose datagrams it has handed over to a gateway.
pub trait Reply: fmt::Debug + Send + Sync {
    /// Sends that to the client of a flow. It does not block; whether it could.
    fn reply(&self, flow: u64, payload: &[u8]) -> bool;
}

/// What tells flows apart that others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Who has it.
    pub from: [u8; 16],
    /// Its number there.
    pub flow: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Client {
    owner: Owner,
    address: SocketAddr,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum By {
    Asked(Asked),
    Tag(Tag),
}

impl Return {
    fn by(&self) -> By {
        match self {
            Self::Door(_, asked) => By::Asked(*asked),
            Self::Far(tag, _) => By::Tag(*tag),
        }
    }

    fn send(&self, client: SocketAddr, payload: &[u8]) -> bool {
        match self {
            Self::Door(door, asked) => matches!(door.send(payload, client, *asked), Some(Ok(()))),
            Self::Far(tag, reply) => reply.reply(tag.flow, payload),
        }
    }
}

#[derive(Debug)]
struct Flow {
    client: Client,
    way_back: Return,
    /// From the address that the endpoint sees.
    back: Back,
    answered: bool,
}

impl Flow {
    fn idle(&self) -> Duration {
        if self.answered { ANSWERED_IDLE } else { ASKED_IDLE }
    }
}

impl Datagrams {
    pub(super) fn new(limits: Limits) -> Self {
        Self { flows: Table::new(limits), clients: HashMap::new(), counts: HashMap::new() }
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.flows.has(key)
    }

    /// Carries a client's datagram to the endpoint.
    pub(super) fn carry_in(
        &mut self,
        payload: &[u8],
        arrival: &Arrival<'_>,
        way_back: Return,
        turn: &mut Turn<'_>,
    ) {
        let client = Client { owner: arrival.owner.clone(), address: arrival.client, by: way_back.by() };
        let known = self.clients.get(&client).copied();
        let key = match known {
            Some(key) => key,
            None => match self.open(client, arrival, way_back.clone(), turn) {
                Some(key) => key,
                None => return turn.inside.counters.add(Count::InwardRefused),
            },
        };
        let Some(flow) = self.flows.get_mut(&key) else { return };
        // Another link may lead to the client now.
        flow.way_back = way_back;
        let (back, due) = (flow.back, turn.now + flow.idle());
        self.flows.wake(&key, due);
        turn.inside.datagram(back, key.outside, key.inside.port(), payload);
    }

    fn open(
        &mut self,
        client: Client,
        arrival: &Arrival<'_>,
        way_back: Return,
        turn: &mut Turn<'_>,
    ) -> Option<Key> {
        let owned = (client.owner.clone(), origin::of(client.address.ip()));
        if self.counts.get(&owned).is_some_and(|&count| count >= CLIENT_MAX) {
            return None;
        }
        let (key, back) = arrival.ends(turn.policy, turn.rng, |key| self.flows.has(key))?;
        let flow = Flow { client: client.clone(), way_back, back, answered: false };
        match self.flows.insert(key, flow, turn.now + ASKED_IDLE) {
            Ok(_none) => {}
            Err(Full) => return None,
        }
        *self.counts.entry(owned).or_default() += 1;
        self.clients.insert(client, key);
        turn.inside.counters.opened(Kind::UdpIn);
        turn.inside.counters.add(Count::Inward);
        Some(key)
    }

    /// Carries an answer of the endpoint to the client whose flow it is.
    pub(super) fn handle(&mut self, key: &Key, outward: &Outward<'_>, turn: &mut Turn<'_>) {
        let Ok(datagram) = UdpSlice::from_slice(outward.transport) else {
            return turn.inside.counters.add(Count::Malformed);
        };
        let Some(flow) = self.flows.get_mut(key) else { return };
        flow.answered = true;
        let sent = flow.way_back.send(flow.client.address, datagram.payload());
        let due = turn.now + flow.idle();
        self.flows.wake(key, due);
        // Full queues, and addresses that the host has no more: as with any datagram, nobody is told.
        if !sent {
            turn.inside.counters.add(Count::Lost);
        }
    }

    /// Forgets flows that have been quiet for too long.
    pub(super) fn expire(&mut self, turn: &mut Turn<'_>) {
        while let Some(key) = self.flows.due(turn.now) {
            self.forget(&key, turn);
            turn.inside.counters.add(Count::Expired);
        }
    }

    /// Forgets those of owners that are gone.
    pub(super) fn end(&mut self, is_gone: &dyn Fn(&Owner) -> bool, turn: &mut Turn<'_>) {
        let own = self.clients.iter().filter(|(client, _)| is_gone(&client.owner));
        for key in own.map(|(_, &key)| key).collect::<Vec<_>>() {
            self.forget(&key, turn);
        }
    }

    fn forget(&mut self, key: &Key, turn: &mut Turn<'_>) {
        let Some(Flow { client, .. }) = self.flows.remove(key) else { return };
        self.clients.remove(&client);
        let owned = (client.owner, origin::of(client.address.ip()));
        if let Some(count) = self.counts.get_mut(&owned) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&owned);
            }
        }
        turn.inside.counters.closed(Kind::UdpIn);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.flows.next()
    }
}
