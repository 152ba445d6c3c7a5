//! The thread that takes what comes to ports of the mesh.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};
use tracing::{debug, warn};

use super::datagrams::{self, Datagrams};
use super::ingress::Arrival;
use super::plan::At;
use super::run::Shared;
use super::shares::Origin;
use crate::gateway::door::Door;
use crate::gateway::doors::Doors;
use crate::gateway::nat::outer::reset_on_close;
use crate::gateway::nat::{Host, Interest, Token};

/// The thread's other side. It ends with this.
#[derive(Debug)]
pub(super) struct Listening {
    board: Arc<Board>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Board {
    told: Mutex<Told>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Told {
    doors: Option<Vec<(At, Arc<Door>)>>,
    ends: bool,
}

impl Listening {
    /// Starts it, without ports; `arrived` gets connections.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub(super) fn start(
        shared: Arc<Shared>,
        datagrams: Datagrams,
        arrived: impl Fn(Arrival) + Send + 'static,
    ) -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let board = Arc::new(Board { told: Mutex::default(), bell });
        let mut host = Host::new(Arc::clone(&shared.sockets))?;
        let bell = host.watch(&board.bell, Interest::Reading)?;
        let read = Arc::clone(&board);
        let work = move || {
            let mut work = Work::new((host, bell), read, shared, datagrams, arrived);
            if let Err(error) = work.run() {
                warn!("can't take what comes to ports of services, and begin anew: {error}");
            }
        };
        let thread = Builder::new().name("mesh-ports".into()).spawn(work)?;
        Ok(Self { board, thread: Some(thread) })
    }

    /// Has these ports, and no others. Those that are closed give nothing from the moment they are.
    pub(super) fn set(&self, doors: Vec<(At, Arc<Door>)>) {
        self.tell(|told| told.doors = Some(doors));
    }

    /// Whether it has ended by itself: nobody takes what comes.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    #[cfg(test)]
    pub(super) fn end(&self) {
        self.tell(|told| told.ends = true);
    }

    fn tell(&self, what: impl FnOnce(&mut Told)) {
        what(&mut self.board.told.lock().unwrap_or_else(PoisonError::into_inner));
        // It fails only where it has been rung 2^64 times and nobody came.
        let _rung = write(&self.board.bell, &1_u64.to_ne_bytes());
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.tell(|told| told.ends = true);
        // One that has panicked has said so.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}

struct Work<F> {
    host: Host,
    bell: Token,
    board: Arc<Board>,
    doors: Doors<At>,
    taking: Taking<F>,
}

/// Where that goes which is taken.
struct Taking<F> {
    shared: Arc<Shared>,
    datagrams: Datagrams,
    buffer: Vec<u8>,
    arrived: F,
}

impl<F: Fn(Arrival)> Work<F> {
    fn new(
        (host, bell): (Host, Token),
        board: Arc<Board>,
        shared: Arc<Shared>,
        datagrams: Datagrams,
        arrived: F,
    ) -> Self {
        let buffer = vec![0; usize::from(u16::MAX)];
        Self {
            host,
            bell,
            board,
            doors: Doors::default(),
            taking: Taking { shared, datagrams, buffer, arrived },
        }
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.doors.next().into_iter().chain(self.taking.datagrams.next()).min();
            let patience = due.map(|due| due.saturating_duration_since(Instant::now()));
            let ready = self.host.wait(patience)?;
            if ready.iter().any(|ready| ready.token == self.bell) && !self.hear() {
                return Ok(());
            }
            let now = Instant::now();
            for token in self.doors.due(now).into_iter().chain(ready.iter().map(|ready| ready.token)) {
                self.take(token, now);
            }
            self.taking.datagrams.expire(now);
            self.doors.retry(&mut self.host, now, |door, error| {
                debug!("still can't wait for what comes to {}: {error}", door.at());
            });
        }
    }

    /// Does what it is told; whether it goes on.
    fn hear(&mut self) -> bool {
        // It is silent already if it was heard before.
        let _silent = read(&self.board.bell, &mut [0; 8]);
        let told = std::mem::take(&mut *self.board.told.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(doors) = told.doors else { return !told.ends };
        // It hears of all of them whenever anything has changed, and takes nothing meanwhile.
        let gone = self.doors.set(doors, &mut self.host, Instant::now(), |door, error| {
            warn!("can't wait for what comes to {} for services, and try on: {error}", door.at());
        });
        gone.into_iter().for_each(|token| self.taking.datagrams.close(token));
        !told.ends
    }

    fn take(&mut self, token: Token, now: Instant) {
        let Self { host, doors, taking, .. } = self;
        doors.take(token, now, |&at, door| {
            if door.is_tcp() { taking.accept(at, door, host) } else { taking.receive(at, token, door, now) }
        });
    }
}

impl<F: Fn(Arrival)> Taking<F> {
    /// Takes a connection. `None`: the port is closed.
    fn accept(&self, at: At, door: &Door, host: &Host) -> Option<io::Result<()>> {
        Some(door.accept()?.map(|(stream, client)| {
            let share = self.shared.clients.take(Origin::of(client.ip()));
            match (share, host.permit()) {
                (Some(share), Ok(permit)) => {
                    (self.arrived)(Arrival { stream, client, at, permit, share });
                }
                (share, _) => {
                    let who = if share.is_some() { "this daemon has" } else { "it, or all clients have" };
                    debug!("no room for a connection of {client}: {who} as many as there may be");
                    reset_on_close(&stream);
                }
            }
        }))
    }

    /// The same of a datagram.
    fn receive(&mut self, at: At, token: Token, door: &Arc<Door>, now: Instant) -> Option<io::Result<()>> {
        Some(door.receive(&mut self.buffer)?.map(|arrived| {
            let payload = &self.buffer[..arrived.len];
            self.datagrams.handle(&datagrams::Arrival { at, token, door, arrived, payload }, now);
        }))
    }
}

impl<F> Drop for Work<F> {
    /// Whatever has ended it: who follows has flows of its own.
    fn drop(&mut self) {
        self.doors.tokens().for_each(|token| self.taking.datagrams.close(token));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::{Ipv4Addr, TcpStream};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::mesh::run::tests::shared;
    use crate::mesh::threads::Threads;
    use crate::service::Protocol;

    /// Sockets that there may be: five connections of clients are taken, and one of each client's.
    const SOCKETS: usize = 15;

    fn work() -> (Work<impl Fn(Arrival)>, Receiver<Arrival>) {
        let shared = shared(SOCKETS);
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let board = Arc::new(Board { told: Mutex::default(), bell });
        let mut host = Host::new(Arc::clone(&shared.sockets)).unwrap();
        let bell = host.watch(&board.bell, Interest::Reading).unwrap();
        let datagrams = Datagrams::new(Arc::clone(&shared), Arc::new(Threads::start().unwrap()));
        let (arrived, arrivals) = channel();
        let arrived = move |arrival| arrived.send(arrival).unwrap();
        (Work::new((host, bell), board, shared, datagrams, arrived), arrivals)
    }

    fn door(sockets: &Arc<tokio::sync::Semaphore>) -> (At, Arc<Door>) {
        let at = At { address: Some(Ipv4Addr::LOCALHOST.into()), published: 0, protocol: Protocol::Tcp };
        (at, Door::open(&at.door(80), sockets).unwrap().remove(0))
    }

    #[test]
    fn a_client_that_has_its_share_is_reset_until_it_gives_one_back() {
        let (mut work, arrivals) = work();
        let (at, door) = door(&work.taking.shared.sockets);
        let local = door.at();
        work.board.told.lock().unwrap().doors = Some(vec![(at, door)]);
        assert!(work.hear());
        let token = work.doors.tokens().next().unwrap();
        let mut connect = || {
            let client = TcpStream::connect(local).unwrap();
            work.take(token, Instant::now());
            client
        };
        let _first = connect();
        let first = arrivals.try_recv().unwrap();
        let mut second = connect();
        assert!(arrivals.try_recv().is_err());
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        drop(first);
        let _third = connect();
        assert!(arrivals.try_recv().is_ok());
    }
}
