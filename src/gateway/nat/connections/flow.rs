//! One TCP connection: first it is opened outside, if it comes from inside, and then carried.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpStream};

use etherparse::TcpSlice;

use super::Key;
use crate::gateway::frame::Back;
use crate::gateway::nat::connection::{Connection, Life, TRANSITORY_IDLE};
use crate::gateway::nat::counters::Count;
use crate::gateway::nat::host::{Host, Permit, Ready, Token};
use crate::gateway::nat::inside::{Outward, Refusal};
use crate::gateway::nat::inward::{Answered, Owner, Waiter};
use crate::gateway::nat::turn::Turn;

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) _permit: Permit,
    pub(super) token: Token,
    /// What it came in by, if it came from outside.
    pub(super) owner: Option<Owner>,
    /// Who is to hear whether inside takes it.
    pub(super) waiter: Option<Waiter>,
    /// From the gateway's address to inside's.
    pub(super) back: Back,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Outside has not answered yet.
    Opening {
        outer: TcpStream,
        /// The packet that asked for it.
        syn: Vec<u8>,
    },
    Open(Box<Connection>),
    /// Neither any more.
    Over,
}

impl Flow {
    /// Takes a segment from inside.
    pub(super) fn take(
        &mut self,
        outward: &Outward<'_>,
        segment: &TcpSlice<'_>,
        turn: &mut Turn<'_>,
    ) -> Life {
        let life = self.take_in(outward, segment, turn);
        if self.waiter.is_some() && !self.is_unanswered() {
            let waiter = self.waiter.take();
            // Who has gone meanwhile has closed the connection, too.
            let _heard = waiter.map(|waiter| waiter.send(Answered::Taken));
        }
        life
    }

    fn take_in(&mut self, outward: &Outward<'_>, segment: &TcpSlice<'_>, turn: &mut Turn<'_>) -> Life {
        self.back = outward.back;
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            Stage::Over => Life::Over,
            Stage::Opening { .. } if segment.rst() => Life::Over,
            Stage::Opening { .. } => Life::Until(now + TRANSITORY_IDLE),
            Stage::Open(connection) => {
                if let Some(back) = self.back.of(outward.destination) {
                    connection.set_back(back);
                }
                connection.take(outward.packet, mtu, &mut turn.inside.frames, now)
            }
        }
    }

    /// Goes on, since its socket is ready.
    pub(super) fn ready(&mut self, key: Key, ready: Ready, turn: &mut Turn<'_>) -> Life {
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            Stage::Open(connection) => connection.wake(Some(ready), mtu, &mut turn.inside.frames, now),
            Stage::Opening { outer, syn } => match connected(outer) {
                Ok(false) => Life::Until(now + TRANSITORY_IDLE),
                Ok(true) => self.established(key, turn),
                Err(error) => {
                    refuse(&error, self.back, (key.outside.ip(), syn), turn);
                    Life::Over
                }
            },
            Stage::Over => Life::Over,
        }
    }

    /// Gives its outer side to who waits, if the endpoint has not taken it.
    pub(super) fn give_back(self, host: &Host) {
        let (Some(waiter), Stage::Open(connection)) = (self.waiter, self.stage) else { return };
        let outer = connection.into_outer();
        // It may come back, for another endpoint of this network.
        host.unwatch(&outer);
        if let Err(Answered::Refused(outer)) = waiter.send(Answered::Refused(outer)) {
            outer.reset_on_close();
        }
    }

    /// Whether it came from outside, and the endpoint has not taken it.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(&self.stage, Stage::Open(connection) if !connection.is_answered())
    }

    /// Resets it on both sides.
    pub(super) fn reset(&mut self, turn: &mut Turn<'_>) {
        if let Stage::Open(connection) = &mut self.stage {
            connection.reset(turn.inside.mtu(), &mut turn.inside.frames, turn.now);
        }
    }

    /// Has its outer side be reset when this is dropped.
    pub(super) fn reset_on_drop(&self) {
        match &self.stage {
            Stage::Open(connection) => connection.reset_on_drop(),
            // It is closed before it is open.
            Stage::Opening { .. } | Stage::Over => {}
        }
    }

    /// Outside has answered: inside is answered.
    fn established(&mut self, key: Key, turn: &mut Turn<'_>) -> Life {
        let Stage::Opening { outer, syn } = std::mem::replace(&mut self.stage, Stage::Over) else {
            return Life::Over;
        };
        let (mtu, chance) = (turn.inside.mtu(), (turn.rng.u64(..), turn.now));
        let back = self.back.of(key.outside.ip());
        let made = back.and_then(|back| Connection::outward(outer, key.outside, back, mtu, chance));
        let Some(mut connection) = made else { return Life::Over };
        let life = connection.take(&syn, mtu, &mut turn.inside.frames, turn.now);
        self.stage = Stage::Open(Box::new(connection));
        life
    }

    /// Does what time asks for; ends it if it has been quiet for too long.
    pub(super) fn wake(&mut self, turn: &mut Turn<'_>) -> Life {
        let (mtu, now) = (turn.inside.mtu(), turn.now);
        match &mut self.stage {
            Stage::Open(connection) if connection.expiry() > now => {
                connection.wake(None, mtu, &mut turn.inside.frames, now)
            }
            Stage::Open(connection) => {
                turn.inside.counters.add(Count::Expired);
                connection.reset(mtu, &mut turn.inside.frames, now);
                Life::Over
            }
            Stage::Over => Life::Over,
            Stage::Opening { syn, .. } => {
                turn.inside.counters.add(Count::Expired);
                turn.inside.refuse(self.back, syn, Refusal::Host, Count::Unreachable, now);
                Life::Over
            }
        }
    }
}

/// Whether the outer connection is made, or why it is not.
fn connected(outer: &TcpStream) -> io::Result<bool> {
    if let Some(error) = outer.take_error()? {
        return Err(error);
    }
    match outer.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells inside why there is no connection to an address; `syn` is the packet that asked for it.
pub(super) fn refuse(error: &io::Error, back: Back, (outside, syn): (IpAddr, &[u8]), turn: &mut Turn<'_>) {
    let (why, count) = match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => (Refusal::Network, Count::Unreachable),
        ErrorKind::HostUnreachable | ErrorKind::TimedOut => (Refusal::Host, Count::Unreachable),
        ErrorKind::PermissionDenied => (Refusal::Prohibited, Count::Denied),
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => {
            return turn.inside.reset_kept(back, outside, syn, Count::Unreachable, turn.now);
        }
        // No descriptors, memory or ports.
        _ => return turn.inside.reset_kept(back, outside, syn, Count::Full, turn.now),
    };
    turn.inside.refuse(back, syn, why, count, turn.now);
}
