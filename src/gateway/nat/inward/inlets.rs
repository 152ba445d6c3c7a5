//! Published ports of this host: what comes there is an arrival.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::datagrams::{Datagrams, Return};
use super::{Arrival, Inlet, Newcomer, Owner, Way, turn_away};
use crate::gateway::door::Door;
use crate::gateway::doors::Doors;
use crate::gateway::nat::connections::Connections;
use crate::gateway::nat::counters::Count;
use crate::gateway::nat::host::Token;
use crate::gateway::nat::turn::Turn;

/// Doors, and how to reach those whom they lead to.
#[derive(Debug, Default)]
pub(super) struct Inlets {
    doors: Doors<Vec<Way>>,
    buffer: Vec<u8>,
}

impl Inlets {
    /// Has these and no others; gives those that are gone.
    pub(super) fn set(&mut self, inlets: Vec<Inlet>, turn: &mut Turn<'_>) -> Vec<Token> {
        let doors = inlets.into_iter().map(|Inlet { door, ways }| (ways, door)).collect();
        let counters = &turn.inside.counters;
        self.doors.set(doors, turn.host, turn.now, |_, _| counters.add(Count::Full))
    }

    /// Takes what has come to a door. Whether it is one.
    pub(super) fn ready(
        &mut self,
        token: Token,
        (tcp, udp): (&mut Connections, &mut Datagrams),
        turn: &mut Turn<'_>,
    ) -> bool {
        let Self { doors, buffer } = self;
        let owner = Owner::Door(token);
        doors.take(token, turn.now, |ways, door| {
            if door.is_tcp() {
                accept(ways, door, &owner, tcp, turn)
            } else {
                receive(ways, door, &owner, udp, buffer, turn)
            }
        })
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.doors.next()
    }

    /// Takes what was left before.
    pub(super) fn retry(&mut self, (tcp, udp): (&mut Connections, &mut Datagrams), turn: &mut Turn<'_>) {
        for token in self.doors.due(turn.now) {
            self.ready(token, (tcp, udp), turn);
        }
        let counters = &turn.inside.counters;
        self.doors.retry(turn.host, turn.now, |_, _| counters.add(Count::Full));
    }
}

fn accept(
    ways: &[Way],
    door: &Door,
    owner: &Owner,
    tcp: &mut Connections,
    turn: &mut Turn<'_>,
) -> Option<io::Result<()>> {
    Some(door.accept()?.map(|(outer, client)| {
        let arrival = Arrival { client, ways, owner };
        if let Err((outer, waiter)) = tcp.carry_in(Newcomer::at_door(outer), &arrival, turn) {
            turn_away(outer, waiter);
            turn.inside.counters.add(Count::InwardRefused);
        }
    }))
}

fn receive(
    ways: &[Way],
    door: &Arc<Door>,
    owner: &Owner,
    udp: &mut Datagrams,
    buffer: &mut Vec<u8>,
    turn: &mut Turn<'_>,
) -> Option<io::Result<()>> {
    buffer.resize(usize::from(u16::MAX), 0);
    Some(door.receive(buffer)?.map(|arrived| {
        let arrival = Arrival { client: arrived.from, ways, owner };
        let way_back = Return::Door(Arc::clone(door), arrived.asked);
        udp.carry_in(&buffer[..arrived.len], &arrival, way_back, turn);
    }))
}
