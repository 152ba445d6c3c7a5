//! Datagrams to published ports: a flow for each client, and for each address of this host that it asks.
//!
//! Answers leave from the address that was asked, since a client drops those of others. Where one client asks two
//! addresses from one port, the endpoint sees two ports, so that its answers can be told apart.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::UdpSlice;

use super::Arrival;
use crate::gateway::door::Door;
use crate::gateway::frame::Back;
use crate::gateway::nat::connections::Key;
use crate::gateway::nat::counters::{Count, Kind};
use crate::gateway::nat::host::Token;
use crate::gateway::nat::inside::Outward;
use crate::gateway::nat::table::{Full, Limits, Table};
use crate::gateway::nat::turn::Turn;
use crate::switch::io::asked::Asked;

/// Clients of a network's published ports, and of one endpoint's.
pub(in crate::gateway::nat) const UDP_LIMITS: Limits = Limits { network: 4_096, inside: 1_024 };
/// Ports that one client's address may have at one published port, so that it leaves room to others.
pub(in crate::gateway::nat) const CLIENT_MAX: usize = 128;
/// How long a flow may be quiet that has had an answer (RFC 4787 REQ-5).
pub(in crate::gateway::nat) const ANSWERED_IDLE: Duration = Duration::from_secs(300);
/// The same of one that had none, as of those whose sender's address was forged.
pub(in crate::gateway::nat) const ASKED_IDLE: Duration = Duration::from_secs(60);

/// Flows of clients.
#[derive(Debug)]
pub(super) struct Datagrams {
    flows: Table<Key, Flow>,
    clients: HashMap<Client, Key>,
    /// Flows of each client's address at each owner.
    counts: HashMap<(Token, IpAddr), usize>,
}

/// Whence a datagram is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller<'a> {
    pub(super) door: &'a Arc<Door>,
    pub(super) asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Client {
    owner: Token,
    address: SocketAddr,
    asked: Asked,
}

#[derive(Debug)]
struct Flow {
    client: Client,
    door: Arc<Door>,
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
        caller: Caller<'_>,
        turn: &mut Turn<'_>,
    ) {
        let client = Client { owner: arrival.owner, address: arrival.client, asked: caller.asked };
        let known = self.clients.get(&client).copied();
        let Some(key) = known.or_else(|| self.open(client, arrival, caller.door, turn)) else {
            return turn.inside.counters.add(Count::InwardRefused);
        };
        let Some(flow) = self.flows.get_mut(&key) else { return };
        let (back, due) = (flow.back, turn.now + flow.idle());
        self.flows.wake(&key, due);
        turn.inside.datagram(back, key.outside, key.inside.port(), payload);
    }

    fn open(
        &mut self,
        client: Client,
        arrival: &Arrival<'_>,
        door: &Arc<Door>,
        turn: &mut Turn<'_>,
    ) -> Option<Key> {
        let owned = (client.owner, client.address.ip());
        if self.counts.get(&owned).is_some_and(|&count| count >= CLIENT_MAX) {
            return None;
        }
        let (key, back) = arrival.ends(turn.policy, turn.rng, |key| self.flows.has(key))?;
        let flow = Flow { client, door: Arc::clone(door), back, answered: false };
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
        let Client { address, asked, .. } = flow.client;
        let sent = flow.door.send(datagram.payload(), address, asked);
        let due = turn.now + flow.idle();
        self.flows.wake(key, due);
        // Full queues, and addresses that the host has no more: as with any datagram, nobody is told.
        if !matches!(sent, Some(Ok(()))) {
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

    /// Forgets those of an owner.
    pub(super) fn end(&mut self, owner: Token, turn: &mut Turn<'_>) {
        let own = self.clients.iter().filter(|(client, _)| client.owner == owner);
        for key in own.map(|(_, &key)| key).collect::<Vec<_>>() {
            self.forget(&key, turn);
        }
    }

    fn forget(&mut self, key: &Key, turn: &mut Turn<'_>) {
        let Some(Flow { client, .. }) = self.flows.remove(key) else { return };
        self.clients.remove(&client);
        let owned = (client.owner, client.address.ip());
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
