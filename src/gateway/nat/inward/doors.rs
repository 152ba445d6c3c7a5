//! Published ports of this host: what comes there is an arrival.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::datagrams::{Caller, Datagrams};
use super::{Arrival, Inlet, turn_away};
use crate::gateway::nat::connections::Connections;
use crate::gateway::nat::counters::Count;
use crate::gateway::nat::host::{Interest, Token};
use crate::gateway::nat::turn::Turn;

/// Connections and datagrams that are taken from a door at a time: the others have their turn too.
const BATCH: usize = 64;
/// How long nobody is let in after the system had no descriptor or memory left for it.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Doors {
    open: HashMap<Token, Inlet>,
    /// Those that have more, or could not be taken from, and when they are to be.
    later: HashMap<Token, Instant>,
    /// Those that could not be watched, and when that is tried again.
    unwatched: Vec<Inlet>,
    watch_again: Option<Instant>,
    buffer: Vec<u8>,
}

/// Whether there is more to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Not now; the door is told of when there is.
    Nothing,
    /// Perhaps.
    More,
    /// The system has no room for it.
    NoRoom,
}

impl Doors {
    /// Has these and no others; gives those that are gone.
    pub(super) fn hang(&mut self, inlets: Vec<Inlet>, turn: &mut Turn<'_>) -> Vec<Token> {
        let is_wanted = |open: &Inlet| inlets.iter().any(|inlet| Arc::ptr_eq(&inlet.door, &open.door));
        let gone = self.open.extract_if(|_, open| !is_wanted(open)).map(|(token, _)| token).collect();
        self.later.retain(|token, _| self.open.contains_key(token));
        self.unwatched.clear();
        for inlet in inlets {
            let hung = self.open.values_mut().find(|open| Arc::ptr_eq(&open.door, &inlet.door));
            match hung {
                Some(open) => open.ways = inlet.ways,
                None => self.watch(inlet, turn),
            }
        }
        gone
    }

    fn watch(&mut self, inlet: Inlet, turn: &mut Turn<'_>) {
        // Told of once: what is left then is asked for again, and where there is no room it is not asked in vain.
        let watched = inlet.door.with(|socket| turn.host.watch(socket, Interest::Arrivals));
        match watched {
            Some(Ok(token)) => drop(self.open.insert(token, inlet)),
            Some(Err(_)) => {
                turn.inside.counters.add(Count::Full);
                self.unwatched.push(inlet);
                self.watch_again = Some(turn.now + PAUSE);
            }
            // It has been closed meanwhile.
            None => {}
        }
    }

    /// Takes what has come to a door. Whether it is one.
    pub(super) fn ready(
        &mut self,
        token: Token,
        (tcp, udp): (&mut Connections, &mut Datagrams),
        turn: &mut Turn<'_>,
    ) -> bool {
        let Some(inlet) = self.open.get(&token) else { return false };
        let left = if inlet.door.is_tcp() {
            accept(token, inlet, tcp, turn)
        } else {
            receive(token, inlet, udp, &mut self.buffer, turn)
        };
        match left {
            Left::Nothing => self.later.remove(&token),
            Left::More => self.later.insert(token, turn.now),
            Left::NoRoom => self.later.insert(token, turn.now + PAUSE),
        };
        true
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.later.values().chain(&self.watch_again).min().copied()
    }

    /// Takes what was left before.
    pub(super) fn retry(&mut self, (tcp, udp): (&mut Connections, &mut Datagrams), turn: &mut Turn<'_>) {
        let due: Vec<Token> =
            self.later.iter().filter(|&(_, &at)| at <= turn.now).map(|(&token, _)| token).collect();
        for token in due {
            self.ready(token, (tcp, udp), turn);
        }
        if self.watch_again.take_if(|at| *at <= turn.now).is_some() {
            for inlet in std::mem::take(&mut self.unwatched) {
                self.watch(inlet, turn);
            }
        }
    }
}

fn accept(owner: Token, inlet: &Inlet, tcp: &mut Connections, turn: &mut Turn<'_>) -> Left {
    for _ in 0..BATCH {
        match inlet.door.accept() {
            None => return Left::Nothing,
            Some(Ok((outer, client))) => {
                let arrival = Arrival { client, ways: &inlet.ways, owner };
                if let Err(outer) = tcp.carry_in(outer, &arrival, turn) {
                    turn_away(&outer);
                    turn.inside.counters.add(Count::InwardRefused);
                }
            }
            Some(Err(error)) => match error.kind() {
                ErrorKind::WouldBlock => return Left::Nothing,
                _ if is_no_room(&error) => return Left::NoRoom,
                // That connection has ended already (accept(2)), or it was a signal.
                _ => {}
            },
        }
    }
    Left::More
}

fn receive(
    owner: Token,
    inlet: &Inlet,
    udp: &mut Datagrams,
    buffer: &mut Vec<u8>,
    turn: &mut Turn<'_>,
) -> Left {
    buffer.resize(usize::from(u16::MAX), 0);
    for _ in 0..BATCH {
        match inlet.door.receive(buffer) {
            None => return Left::Nothing,
            Some(Ok(arrived)) => {
                let arrival = Arrival { client: arrived.from, ways: &inlet.ways, owner };
                let caller = Caller { door: &inlet.door, asked: arrived.asked };
                udp.carry_in(&buffer[..arrived.len], &arrival, caller, turn);
            }
            Some(Err(error)) => match error.kind() {
                ErrorKind::WouldBlock => return Left::Nothing,
                _ if is_no_room(&error) => return Left::NoRoom,
                // An error of an answer that was sent before; the next call is about what comes.
                _ => {}
            },
        }
    }
    Left::More
}

fn is_no_room(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let none = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    none.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
